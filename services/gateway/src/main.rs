//! The `gateway` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    bm_bootstrap::run("gateway", bm_gateway::run)
}
