//! `brightmatter topics`: the bus as the registry of topics wants it.

use std::process::ExitCode;

use bm_bootstrap::Context;
use bm_kafka::{KafkaConfig, TopicAdmin, TopicReport};

use crate::error::CliError;
use crate::output;

/// The exit code when nothing failed and not all is as wanted; that of `create-topics`, too.
const DIFFERENT: u8 = 2;

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
    created(&report)?;
    Ok(if report.has_differences() {
        ExitCode::from(DIFFERENT)
    } else {
        ExitCode::SUCCESS
    })
}

/// A topic that could not be created is an error. One that differs may be meant to (more
/// partitions), so that is for whoever asked to judge.
pub(crate) fn created(report: &TopicReport) -> Result<(), CliError> {
    if report.has_failures() {
        return Err(CliError::Topics);
    }
    Ok(())
}

/// What differs, a line each.
pub(crate) fn differences(report: &TopicReport) -> Vec<String> {
    let text = report.to_string();
    let lines = text.lines().filter(|line| line.starts_with("differs "));
    lines.map(str::to_owned).collect()
}

/// The broker's settings.
pub(crate) fn config(ctx: &Context) -> Result<KafkaConfig, CliError> {
    Ok(KafkaConfig::from_vars(|name| ctx.vars.get(name))?)
}
