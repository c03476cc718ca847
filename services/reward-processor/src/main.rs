//! The `reward-processor` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    bm_bootstrap::run("reward-processor", bm_reward_processor::run)
}
