//! The whole pipeline at 1,000 events a second: how long from POST to ui.updates, and at what cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bm_contracts::Topic;
use bm_kafka::LogReader;
use bm_kafka::log_reader::From;
use bm_load::client::Client;
use bm_load::run::all_seen;
use bm_load::{Load, Mix, Plan, Report, Tracker};
use bm_testkit::Process;

use crate::Options;
use crate::figures::{Figures, Goal};
use crate::stage::Stage;

const RATE: f64 = 1_000.0;
const SERVICES: [&str; 4] = [
    "gateway",
    "event-router",
    "quest-processor",
    "reward-processor",
];
/// Effects that have not come are waited for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The steady run.
pub(crate) async fn run(options: &Options, figures: &mut Figures) {
    let stage = Stage::new().await;
    stage.quests("steady", 1, 1_000_000_000_000).await;
    let mut processes = Vec::new();
    for service in SERVICES {
        processes.push((service, stage.start(service).await));
    }
    let gateway = format!("http://{}", processes[0].1.address());
    let warm = Duration::from_secs(3);
    steady(&stage, &gateway, warm).await;
    let busy = cpu_seconds(&processes);
    let begun = Instant::now();
    let length = Duration::from_secs_f64(options.steady);
    let (report, behind) = steady(&stage, &gateway, length).await;
    let took = begun.elapsed().as_secs_f64();
    let busy = cpu_seconds(&processes) - busy;
    assert_eq!(report.in_the_log(), report.events, "{report}");
    let follow = report.follow_ms.expect("the run was followed");
    figures.add(
        "steady 1,000/s, POST to answer p99",
        report.latency_ms.p99,
        "ms",
        Goal::None,
    );
    figures.add(
        "steady 1,000/s, POST to ui.updates p50",
        follow.p50,
        "ms",
        Goal::None,
    );
    figures.add(
        "steady 1,000/s, POST to ui.updates p99",
        follow.p99,
        "ms",
        Goal::Max(60.0),
    );
    figures.add(
        "steady 1,000/s, events without effect",
        report.not_seen.unwrap_or(0) as f64,
        "",
        Goal::Max(0.0),
    );
    figures.add(
        "steady 1,000/s, last effect after the end",
        behind.as_secs_f64(),
        "s",
        Goal::Max(1.0),
    );
    figures.add(
        "steady 1,000/s, cores that the services take",
        busy / took,
        "",
        Goal::None,
    );
    for (service, process) in &processes {
        figures.add(
            format!("resident, {service}"),
            resident_mib(process),
            "MiB",
            Goal::Max(100.0),
        );
    }
}

/// Sends at the rate for so long; how long after the last answer the last effect came.
async fn steady(stage: &Stage, gateway: &str, duration: Duration) -> (Report, Duration) {
    let mix = br#"{"events": [{"eventType": "custom", "eventName": "steady", "metadata": {
        "map": {"$choice": ["forest", "desert"]}, "damage": {"$decimal": [0, 100, 2]}, "streak": {"$int": [0, 9]}}}]}"#;
    let tracker = Arc::new(Tracker::default());
    let mut reader = LogReader::from(&stage.kafka(), &[Topic::UiUpdates], From::End)
        .await
        .expect("ui.updates can be read");
    let watching = Arc::clone(&tracker);
    let reading = tokio::spawn(async move {
        loop {
            let (_, record) = reader.next().await.expect("ui.updates can be read");
            let now = tokio::time::Instant::now();
            if let (Ok(player), Some(correlation)) =
                (std::str::from_utf8(&record.key), record.correlation_id())
            {
                watching.seen(player, correlation, now);
            }
        }
    });
    let load = Load {
        plan: Plan {
            rate: RATE,
            duration,
            batch: 1,
            players: 10_000,
            games: vec![stage.game.clone()],
            retries: 0.0,
            named: true,
            mix: Mix::parse(mix).expect("the mix is one"),
            seed: 1,
            run: bm_testkit::unique("steady"),
        },
        client: Client::new(gateway, &stage.key).expect("a client can be made"),
        in_flight: 1_024,
        now: {
            let clock = bm_bootstrap::Clock::system();
            Arc::new(move || clock.now())
        },
        tracker: Some(Arc::clone(&tracker)),
    };
    let mut report = load
        .run(Arc::default(), std::future::pending())
        .await
        .expect("the load can be run");
    let ended = Instant::now();
    all_seen(&tracker, PATIENCE).await;
    let behind = ended.elapsed();
    reading.abort();
    report.follow_ms = Some(tracker.latency().figures());
    report.not_seen = Some(tracker.waiting());
    (report, behind)
}

fn stat(process: &Process, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/{file}", process.id())).expect("the process runs")
}

/// Seconds of processor time that they have used.
fn cpu_seconds(processes: &[(&str, Process)]) -> f64 {
    /// Of Linux, everywhere that matters here.
    const TICKS: f64 = 100.0;
    let used = processes.iter().map(|(_, process)| {
        let stat = stat(process, "stat");
        // Behind the name, which may hold spaces: state is field 3, user and system time 14 and 15.
        let (_, fields) = stat.rsplit_once(')').expect("a process has a name");
        let fields: Vec<f64> = fields
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0.0))
            .collect();
        (fields[11] + fields[12]) / TICKS
    });
    used.sum()
}

fn resident_mib(process: &Process) -> f64 {
    let status = stat(process, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .expect("a process has a resident size");
    kib / 1_024.0
}
