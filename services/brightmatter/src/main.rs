//! The command line tool: one machine's BrightMatter in one process, and operations.

use std::process::ExitCode;

use bm_bootstrap::{Options, run_with};
use bm_brightmatter::Cli;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: bm_bootstrap::Allocator = bm_bootstrap::Allocator;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let options = Options {
        service: "brightmatter",
        log: cli.log(),
    };
    run_with(options, async |ctx| cli.run(ctx).await)
}
