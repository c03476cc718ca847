//! `make bench`: how fast it is beside the least that could do the same work on this machine.
//!
//! Figures are ratios of medians of interleaved runs, so that a noisy machine is noisy for both
//! sides. The raw side has the same build profile, broker, database and durability.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and tells on standard output"
)]

mod bare;
mod cost;
mod counts;
mod figures;
mod growth;
mod http;
mod ingest;
mod latency;
mod pipeline;
mod stage;

use std::path::PathBuf;

use clap::Parser;
use figures::Figures;

/// Measures, prints a table and writes target/bench.json.
#[derive(Debug, Parser)]
struct Options {
    /// Only these: ingest, batches, counts, pipeline, latency, growth.
    only: Vec<String>,
    /// Interleaved runs of each side.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of a run.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds of each run at 1,000 events a second.
    #[arg(long, default_value_t = 60.0)]
    steady: f64,
    /// Leave the Node services out: they need npm.
    #[arg(long)]
    without_node: bool,
    /// A setting for the services, NAME=VALUE, which counts do not use; may be given several times.
    #[arg(long = "set", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Where the figures are written, as JSON.
    #[arg(long, default_value = "target/bench.json")]
    out: PathBuf,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let named = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = named.ok_or("it is not NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let mut figures = Figures::default();
    if options.without_node {
        let why = "it was told to do without, or npm is not installed";
        figures.leave_out("what is compared with Node", why);
    }
    for (name, value) in &options.settings {
        let why = format!("the services ran with {name}={value}");
        figures.leave_out("what they do by themselves", &why);
    }
    if options.wants("ingest") {
        ingest::single(&options, &mut figures).await;
    }
    if options.wants("batches") {
        ingest::batches(&options, &mut figures).await;
    }
    if options.wants("counts") {
        counts::run(&mut figures);
    }
    if options.wants("pipeline") {
        pipeline::run(&options, &mut figures).await;
    }
    if options.wants("latency") {
        latency::run(&options, &mut figures).await;
    }
    if options.wants("growth") {
        growth::run(&options, &mut figures).await;
    }
    println!("\n{figures}");
    match figures.missed() {
        0 => println!("no goal was missed"),
        missed => println!("{missed} goals were missed"),
    }
    figures
        .write(&options.out)
        .expect("the figures can be written");
}
