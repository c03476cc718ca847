//! The `quest-processor` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    bm_bootstrap::run("quest-processor", bm_quest_processor::run)
}
