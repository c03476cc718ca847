//! The `quest-processor` binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: bm_bootstrap::Allocator = bm_bootstrap::Allocator;

fn main() -> ExitCode {
    bm_bootstrap::run("quest-processor", bm_quest_processor::run)
}
