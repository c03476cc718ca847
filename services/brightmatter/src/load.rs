//! `brightmatter load`: sends events at a steady rate and says how they were answered, and how soon.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bm_bootstrap::Context;
use bm_contracts::{GameId, Topic};
use bm_kafka::log_reader::From;
use bm_kafka::{KafkaError, LogReader};
use bm_load::client::Client;
use bm_load::run::all_seen;
use bm_load::{Load, Mix, Plan, Progress, Report, Tracker};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::error::CliError;
use crate::{output, topics};

/// What is sent where no mix is given: it fits the demo quest.
const DEMO_MIX: &[u8] =
    br#"{"events": [{"eventType": "enemy_killed", "metadata": {"map": "forest"}}]}"#;

/// How long effects that have not been seen are waited for while none is.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(200);

/// Send events at a steady rate, whatever becomes of those before, and report latencies counted from
/// the moment each request was meant to be sent.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Address of the gateway.
    #[arg(long, env = "BM_GATEWAY_URL")]
    url: String,
    /// A studio's key.
    #[arg(long, env = "BM_DEMO_CLIENT_KEY", hide_env_values = true)]
    key: String,
    /// Games of that studio; may be given more than once.
    #[arg(long = "game", env = "BM_DEMO_GAME", value_parser = crate::cli::game_id, required = true)]
    games: Vec<GameId>,
    /// Events a second.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Seconds.
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Players per game.
    #[arg(long, default_value_t = 1_000)]
    players: u32,
    /// Events per request.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Share of requests that repeat an earlier one, as clients do that heard no answer.
    #[arg(long, default_value_t = 0.0)]
    retries: f64,
    /// Send events without an eventId.
    #[arg(long, conflicts_with = "retries")]
    unnamed: bool,
    /// JSON file of the kinds of events:
    /// {"events": [{"weight", "eventType", "eventName", "metadata": {"damage": {"$int": [1, 6]}}}]};
    /// {"$decimal": [lowest, highest, digits]} and {"$choice": [values]} are drawn anew for each event too.
    #[arg(long)]
    mix: Option<PathBuf>,
    /// Requests that may wait for their answer at once.
    #[arg(long, default_value_t = 1_024)]
    in_flight: usize,
    /// Of everything drawn; runs of one seed send the same, but for times and ids.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Measure until the effect stands on ui.updates, too. Needs the broker (REDPANDA_BROKERS), and
    /// a mix that a quest wants which players do not finish.
    #[arg(long)]
    follow: bool,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the load and prints what it came to. Exit code 2 when an event got no certain answer.
pub(crate) async fn run(ctx: &Context, args: LoadArgs) -> Result<ExitCode, CliError> {
    let mix = match &args.mix {
        None => Mix::parse(DEMO_MIX),
        Some(path) => {
            let bytes = std::fs::read(path).map_err(|source| CliError::File {
                action: "read",
                path: path.clone(),
                source,
            })?;
            Mix::parse(&bytes)
        }
    }
    .map_err(|error| CliError::Load(error.to_string()))?;
    if !(args.duration.is_finite() && args.duration > 0.0 && args.duration <= 86_400.0) {
        return Err(CliError::Load(
            "the duration is a positive number of seconds, one day at most".to_owned(),
        ));
    }
    let load = Load {
        plan: Plan {
            rate: args.rate,
            duration: Duration::from_secs_f64(args.duration),
            batch: args.batch,
            players: args.players,
            games: args.games.clone(),
            retries: args.retries,
            named: !args.unnamed,
            mix,
            seed: args.seed,
            run: format!("load-{:012x}", rand::random::<u64>() >> 16),
        },
        client: Client::new(&args.url, &args.key)
            .map_err(|error| CliError::Load(error.to_string()))?,
        in_flight: args.in_flight,
        now: {
            let clock = ctx.clock.clone();
            Arc::new(move || clock.now())
        },
        tracker: args.follow.then(Arc::default),
    };
    load.plan
        .check()
        .map_err(|error| CliError::Load(error.to_string()))?;
    let report = match load.tracker.clone() {
        None => send(ctx, load).await?,
        Some(tracker) => follow(ctx, load, &tracker).await?,
    };
    if args.json {
        output::line(serde_json::to_string(&report).unwrap_or_default())?;
    } else {
        output::line(&report)?;
    }
    let uncertain = report
        .answers
        .keys()
        .any(|answer| answer.starts_with("no answer"));
    Ok(ExitCode::from(if uncertain { 2 } else { 0 }))
}

async fn send(ctx: &Context, load: Load) -> Result<Report, CliError> {
    let progress = Arc::new(Progress::default());
    let bar = bar(load.plan.requests());
    let running = load.run(Arc::clone(&progress), ctx.shutdown.tripped());
    tokio::pin!(running);
    let mut tick = tokio::time::interval(TICK);
    let report = loop {
        tokio::select! {
            report = &mut running => break report,
            _ = tick.tick() => {
                bar.set_position(progress.sent.load(Ordering::Relaxed));
                let in_the_log = progress.in_the_log.load(Ordering::Relaxed);
                bar.set_message(format!("{in_the_log} events in the log"));
            }
        }
    };
    bar.finish_and_clear();
    report.map_err(|error| CliError::Load(error.to_string()))
}

fn bar(requests: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{elapsed} {wide_bar} {pos}/{len} requests, {msg}");
    ProgressBar::new(requests).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Runs the load while `ui.updates` is read.
async fn follow(ctx: &Context, load: Load, tracker: &Arc<Tracker>) -> Result<Report, CliError> {
    let config = topics::config(ctx)?;
    let mut reader = LogReader::from(&config, &[Topic::UiUpdates], From::End).await?;
    let reading = {
        let tracker = Arc::clone(tracker);
        async move {
            loop {
                let (_, record) = reader.next().await?;
                let now = Instant::now();
                if let (Ok(player), Some(correlation)) =
                    (std::str::from_utf8(&record.key), record.correlation_id())
                {
                    tracker.seen(player, correlation, now);
                }
            }
        }
    };
    let sending = async {
        let report = send(ctx, load).await;
        if report.is_ok() {
            all_seen(tracker, PATIENCE).await;
        }
        report
    };
    let mut report = tokio::select! {
        report = sending => report?,
        failed = reading => {
            let failed: Result<std::convert::Infallible, KafkaError> = failed;
            let Err(error) = failed;
            return Err(error.into());
        }
    };
    report.follow_ms = Some(tracker.latency().figures());
    report.not_seen = Some(tracker.waiting());
    Ok(report)
}
