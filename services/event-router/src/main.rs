//! The `event-router` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    bm_bootstrap::run("event-router", bm_event_router::run)
}
