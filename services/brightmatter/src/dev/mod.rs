//! `brightmatter dev`: every service in this process, on one machine, with something to try.

mod demo;
mod env_file;
mod services;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bm_bootstrap::ops::{self, OpsServer};
use bm_bootstrap::{Context, Vars};
use bm_kafka::TopicAdmin;

use crate::error::CliError;
use crate::{hints, migrate, output, starter, topics};
use services::Services;

/// Where the gateway listens unless `BM_LISTEN_ADDR` says otherwise: other machines need not see it.
const LISTEN: &str = "127.0.0.1:8080";
/// Where metrics and readiness of all services are unless `BM_OPS_ADDR` says otherwise: on a free port.
const OPS: &str = "127.0.0.1:0";

/// How long the services may take to be ready.
const READY: Duration = Duration::from_mins(1);

/// Runs until a signal comes or a service fails.
pub(crate) async fn run(mut ctx: Context) -> Result<ExitCode, CliError> {
    ctx.vars = defaults(&ctx.vars);
    say("bringing the database up to date");
    let storage = migrate::migrated(&ctx).await?;
    say("creating topics that are missing");
    let report = TopicAdmin::connect(&topics::config(&ctx)?)?
        .reconcile(None)
        .await?;
    topics::created(&report)?;
    for difference in topics::differences(&report) {
        say(&format!("  {difference} (not touched)"));
    }
    say("loading the demo studio and game");
    let studios = PathBuf::from(ctx.vars.get("BM_STUDIOS_FILE").unwrap_or_default());
    let demo = demo::load(&ctx, &storage, &studios).await?;
    storage.close().await;

    say("starting the services");
    let mut services = Services::start(&ctx, other_log(&ctx.vars));
    services.report_to(&ctx.health);
    let ops = ops::start(&ctx).await?;
    let outcome = match up(&ctx, &mut services, &demo, &ops).await {
        Ok(()) => services.until_one_ends(&ctx.shutdown).await,
        Err(error) => Err(error),
    };
    // Whatever ended it, the others are to finish what they are at.
    ctx.shutdown.trip();
    say("stopping the services");
    let stopped = services.stopped().await;
    outcome.and(stopped)?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for the services, writes down where they are, and says how to begin. Returns early when
/// asked to stop.
async fn up(
    ctx: &Context,
    services: &mut Services,
    demo: &demo::Demo,
    ops: &OpsServer,
) -> Result<(), CliError> {
    if !services.ready(&ctx.shutdown, READY).await? {
        return Ok(());
    }
    // As bound: the port may have been 0.
    let gateway = match services.gateway() {
        Some(address) => ctx.vars.with([("BM_LISTEN_ADDR", address.to_string())]),
        None => ctx.vars.clone(),
    };
    let gateway = starter::gateway_url(&gateway);
    let ops = format!("http://{}", ops.address());
    let mut entries = vec![
        ("BM_GATEWAY_URL".to_owned(), gateway.clone()),
        ("BM_OPS_URL".to_owned(), ops.clone()),
    ];
    entries.extend(demo.variables());
    let env_file = ctx.vars.get("BM_DEV_ENV_FILE").or_else(|| {
        let folder = ctx.vars.get("BM_DEV_DIR")?;
        Some(format!("{folder}/env"))
    });
    if let Some(file) = &env_file {
        env_file::write(Path::new(file), &entries)?;
    }
    output::line(greeting(&gateway, &ops, demo, env_file.as_deref()))
}

fn greeting(gateway: &str, ops: &str, demo: &demo::Demo, env_file: Option<&str>) -> String {
    let game = demo::GAME;
    let me = hints::me();
    // A shell of its own needs the addresses first.
    let shell = env_file.map_or_else(String::new, |file| {
        format!("  . {}\n", hints::near(Path::new(file)))
    });
    format!(
        "\nready\n\nSend an event (three complete the quest):\n\n{}\n\nSee what becomes of it, in another \
         shell:\n\n{shell}  {me} watch              events, progress, rewards, dead letters as they \
         happen\n  {me} watch --game {game} --player player-1\n  psql \"$RDS_CONNECTION_STRING\" -c 'SELECT \
         * FROM quest_progress'\n  {ops}/metrics and {ops}/readyz\n\nAnd then:\n\n  {me} init NAME          \
         a studio and a game of your own\n  {me} doctor             when something does not work",
        starter::curl(gateway, demo.client_key(), game),
    )
}

/// What it means that lanes halt, and what to do.
fn other_log(vars: &Vars) -> String {
    let folder = vars.get("BM_DEV_DIR").unwrap_or_else(|| ".dev".to_owned());
    let folder = hints::near(Path::new(&folder));
    format!(
        "the database remembers another log than the broker has: the broker (REDPANDA_BROKERS, \
         BM_TOPIC_PREFIX) or the database (RDS_CONNECTION_STRING) is another one than before, or \
         topics were made anew or got more partitions. Nothing was skipped, and nothing goes on.\n  \
         -> to start anew with nothing, delete {folder}; of servers of your own, name an empty \
         database or delete what is in it\n  \
         -> to keep what there is, name the broker and the database that belong together"
    )
}

/// What differs on one machine: a Firestore of production is no place for a demo studio, and a
/// consumer group would be one for all processors.
fn defaults(vars: &Vars) -> Vars {
    let folder = vars.get("BM_DEV_DIR").unwrap_or_else(|| ".dev".to_owned());
    let or = |name: &str, default: String| vars.get(name).unwrap_or(default);
    vars.with([
        ("BM_LISTEN_ADDR", or("BM_LISTEN_ADDR", LISTEN.to_owned())),
        ("BM_OPS_ADDR", or("BM_OPS_ADDR", OPS.to_owned())),
        (
            "BM_STUDIOS_FILE",
            or("BM_STUDIOS_FILE", format!("{folder}/studios.json")),
        ),
        ("CONSUMER_GROUP", String::new()),
        ("FIRESTORE_PROJECT_ID", String::new()),
    ])
}

/// Says what goes on; standard output is for what one may want to copy.
fn say(what: &str) {
    eprintln!("  {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_developers_machine_needs_no_firestore_and_no_group() {
        let vars = defaults(&Vars::from_map([
            ("CONSUMER_GROUP", "mine"),
            ("FIRESTORE_PROJECT_ID", "prod"),
            ("BM_LISTEN_ADDR", "127.0.0.1:9"),
            ("BM_DEV_DIR", "/x"),
        ]));
        assert_eq!(vars.get("CONSUMER_GROUP"), None);
        assert_eq!(vars.get("FIRESTORE_PROJECT_ID"), None);
        assert_eq!(vars.get("BM_LISTEN_ADDR").unwrap(), "127.0.0.1:9");
        assert_eq!(vars.get("BM_STUDIOS_FILE").unwrap(), "/x/studios.json");
    }
}
