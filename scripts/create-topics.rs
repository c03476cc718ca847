//! Creates the topics that are missing, reports those that differ, changes nothing that exists, and lists what exists.

use std::process::ExitCode;
use std::time::Duration;

use bm_bootstrap::error_chain;
use bm_bootstrap::vars::Vars;
use bm_kafka::{KafkaConfig, TopicAdmin, TopicReport};
use clap::Parser;

/// Creates the topics of BrightMatter that are missing on the brokers at REDPANDA_BROKERS.
///
/// A topic that exists is compared and never changed. Settings come from the environment and from `.env`:
/// REDPANDA_BROKERS, REDPANDA_USERNAME, REDPANDA_PASSWORD, REDPANDA_SASL_MECHANISM, REDPANDA_CA_FILE,
/// BM_TOPIC_PREFIX, BM_REPLICATION_FACTOR.
///
/// Exit code: 0 all topics are there as wanted; 1 something failed; 2 all are there, and some differ
/// (`brightmatter topics` has the same).
#[derive(Parser)]
struct Arguments {
    /// Replication factor of new topics [default: BM_REPLICATION_FACTOR, else 1 on one broker and 3 on more]
    #[arg(long, value_parser = clap::value_parser!(i16).range(1..=9))]
    replication: Option<i16>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match create(Arguments::parse().replication).await {
        Ok(report) if report.has_failures() => ExitCode::from(1),
        Ok(report) if report.has_differences() => ExitCode::from(2),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("create-topics: {}", error_chain(error.as_ref()));
            ExitCode::from(1)
        }
    }
}

async fn create(replication: Option<i16>) -> Result<TopicReport, Box<dyn std::error::Error>> {
    let vars = Vars::load()?;
    let admin = TopicAdmin::connect(&KafkaConfig::from_vars(|name| vars.get(name))?)?;
    let report = match admin.ping(Duration::from_secs(9)).await {
        Ok(()) => admin.reconcile(replication).await,
        Err(error) => Err(error),
    };
    admin.close().await;
    let report = report?;
    print!("{report}");
    Ok(report)
}
