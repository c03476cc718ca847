//! The `reward-processor` binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: bm_bootstrap::Allocator = bm_bootstrap::Allocator;

fn main() -> ExitCode {
    bm_bootstrap::run("reward-processor", bm_reward_processor::run)
}
