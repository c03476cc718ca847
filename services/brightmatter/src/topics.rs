//! `brightmatter topics`: the bus as the registry of topics wants it.

use std::process::ExitCode;

use bm_bootstrap::Context;
use bm_kafka::{KafkaConfig, TopicAdmin, TopicReport};

use crate::error::CliError;
use crate::output;

/// Creates what is missing (unless `check`) and prints what is there.
pub(crate) async fn run(
    ctx: &Context,
    replication: Option<i16>,
    check: bool,
) -> Result<ExitCode, CliError> {
    let admin = TopicAdmin::connect(&config(ctx)?)?;
    let report = if check {
        admin.inspect(replication).await?
    } else {
        admin.reconcile(replication).await?
    };
    output::line(report.to_string().trim_end())?;
    verdict(&report, check)?;
    Ok(ExitCode::SUCCESS)
}

/// A topic that differs may be meant to (more partitions); it is an error only to whoever asked to
/// check.
pub(crate) fn verdict(report: &TopicReport, check: bool) -> Result<(), CliError> {
    if report.has_failures() {
        return Err(CliError::Topics("some topics could not be created"));
    }
    if check && report.has_differences() {
        return Err(CliError::Topics("some topics are missing or differ"));
    }
    Ok(())
}

/// The broker's settings.
pub(crate) fn config(ctx: &Context) -> Result<KafkaConfig, CliError> {
    Ok(KafkaConfig::from_vars(|name| ctx.vars.get(name))?)
}
