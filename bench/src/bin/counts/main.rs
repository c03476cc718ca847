//! What an event costs in allocations and instructions on the hot paths: counts that do not depend
//! on the machine. `counts WORK [--rounds N]` does one kind of work and prints its allocations as
//! JSON; run by callgrind, collecting within [`measured`] alone, it gives the instructions.
//!
//! Not in it: HTTP on the wire, Redis, librdkafka, the database.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and tells on standard output"
)]

mod folds;
mod gateway;

use alloc_tracker::{Allocator, Session};
use clap::{Parser, ValueEnum};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: Allocator<std::alloc::System> = Allocator::system();

/// Rounds before anything counts: what is made once is there, and buffers have their size.
const WARM_UP: u64 = 20;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// A request with one event, without an id.
    GatewaySingle,
    /// A request with one event that has an id.
    GatewayNamed,
    /// A request with 100 events.
    GatewayBatch,
    /// A batch of 1,000 records of game.events.
    RouterFold,
    /// A batch of 1,000 records of quest.events.
    QuestFold,
}

#[derive(Debug, Parser)]
struct Options {
    work: Kind,
    /// How often it is done.
    #[arg(long, default_value_t = 100)]
    rounds: u64,
}

/// Something that is done over and over.
trait Work {
    /// What a round needs that is not its own work.
    type Input;

    /// Events of a round.
    fn events(&self) -> u64;

    /// Made before a round, and not counted.
    fn input(&mut self) -> Self::Input;

    /// A round.
    fn run(&mut self, input: Self::Input);
}

fn main() {
    let options = Options::parse();
    let rounds = options.rounds;
    match options.work {
        Kind::GatewaySingle => count(gateway::Requests::of(1, false), rounds),
        Kind::GatewayNamed => count(gateway::Requests::of(1, true), rounds),
        Kind::GatewayBatch => count(gateway::Requests::of(100, false), rounds),
        Kind::RouterFold => count(folds::router(), rounds),
        Kind::QuestFold => count(folds::quests(), rounds),
    }
}

fn count<W: Work>(mut work: W, rounds: u64) {
    for _ in 0..WARM_UP {
        let input = work.input();
        work.run(input);
    }
    let session = Session::new().no_stdout().no_file();
    let operation = session.operation("work");
    for _ in 0..rounds {
        let input = work.input();
        let span = operation.measure_thread().iterations(work.events());
        measured(|| work.run(input));
        drop(span.no_peak());
    }
    let report = session.to_report();
    let (_, counted) = report.operations().next().expect("one was measured");
    let per_event = |total: u64| total as f64 / counted.total_iterations() as f64;
    let figures = json!({
        "events": counted.total_iterations(),
        "allocations": per_event(counted.total_allocations_count()),
        "bytes": per_event(counted.total_bytes_allocated()),
    });
    println!("{figures}");
}

/// What callgrind is told to collect (`--toggle-collect`); a function of its own for that.
#[inline(never)]
fn measured(work: impl FnOnce()) {
    work();
}
