//! The `event-router` binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: bm_bootstrap::Allocator = bm_bootstrap::Allocator;

fn main() -> ExitCode {
    bm_bootstrap::run("event-router", bm_event_router::run)
}
