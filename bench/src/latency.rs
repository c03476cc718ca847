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
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::cost;
use crate::figures::{Figures, Goal};
use crate::stage::Stage;

const RATE: f64 = 1_000.0;
const SERVICES: [&str; 4] = [
    "gateway",
    "event-router",
    "quest-processor",
    "reward-processor",
];
/// Rows of events_raw before the scan; more than the database keeps in its own memory by default.
const ARCHIVED: i64 = 500_000;
/// Offsets that a scan reads at a time.
const WINDOW: i64 = 5_000;
/// A scan that leaves the database to others rests so many times as long as a window took.
const REST: u32 = 3;
/// Connections and caches are warm after it, and what a broker just started does at first (its
/// virtual machine compiles) is over.
const WARM_UP: Duration = Duration::from_secs(20);
/// Lanes that lag are waited for so long.
const PATIENCE: Duration = Duration::from_mins(1);

/// The steady run, and the same with a scan beside it, one without rest and one that rests.
pub(crate) async fn run(options: &Options, figures: &mut Figures) {
    let stage = Stage::new(options).await;
    stage.quests("steady", 1, 1_000_000_000_000).await;
    let mut processes = Vec::new();
    for service in SERVICES {
        processes.push((service, stage.start(service).await));
    }
    let length = Duration::from_secs_f64(options.steady);
    steady(&stage, processes[0].1.address(), WARM_UP).await;
    measure(&stage, &processes, length, "steady 1,000/s", figures).await;
    stage.archive(ARCHIVED).await;
    for (what, rest) in [("a scan", 0), ("a scan that rests", REST)] {
        let scan = Scan::begin(&stage, rest).await;
        steady(&stage, processes[0].1.address(), WARM_UP).await;
        let name = format!("steady 1,000/s beside {what}");
        measure(&stage, &processes, length, &name, figures).await;
        let rate = scan.end().await;
        figures.add(format!("{name}, rows scanned"), rate, "rows/s", Goal::None);
    }
}

async fn measure(
    stage: &Stage,
    processes: &[(&'static str, Process)],
    length: Duration,
    name: &str,
    figures: &mut Figures,
) {
    let busy = (ours(processes), databases(stage).await);
    let before = stage.counted().await;
    let (report, behind) = steady(stage, processes[0].1.address(), length).await;
    let uncounted = before + report.events as i64 - stage.counted().await;
    let uncounted = uncounted.abs();
    let took = length.as_secs_f64();
    let busy = (ours(processes) - busy.0, databases(stage).await - busy.1);
    assert_eq!(report.in_the_log(), report.events, "{report}");
    let follow = report.follow_ms.expect("the run was followed");
    let mut add = |what: &str, value: f64, unit, goal| {
        figures.add(format!("{name}, {what}"), value, unit, goal);
    };
    add(
        "POST to answer p99",
        report.latency_ms.p99,
        "ms",
        Goal::None,
    );
    add("POST to ui.updates p50", follow.p50, "ms", Goal::None);
    add("POST to ui.updates p99", follow.p99, "ms", Goal::Max(60.0));
    add(
        "events not counted once",
        uncounted as f64,
        "",
        Goal::Max(0.0),
    );
    add("lag zero after", behind.as_secs_f64(), "s", Goal::Max(1.0));
    add("the services' cores", busy.0 / took, "", Goal::None);
    add("PostgreSQL's cores for them", busy.1 / took, "", Goal::None);
    for (service, process) in processes {
        let resident = cost::resident_mib(process);
        add(
            &format!("resident {service}"),
            resident,
            "MiB",
            Goal::Max(100.0),
        );
    }
}

fn ours(processes: &[(&str, Process)]) -> f64 {
    let used = processes
        .iter()
        .map(|(_, process)| cost::cpu_seconds(process.id()));
    used.sum()
}

async fn databases(stage: &Stage) -> f64 {
    let mut used = 0.0;
    for service in SERVICES {
        used += cost::database_seconds(stage, service).await;
    }
    used
}

/// Reads all of events_raw again and again, as a replay does: each partition of the log in windows
/// of offsets.
struct Scan {
    stop: CancellationToken,
    rows: JoinHandle<(usize, Duration)>,
}

impl Scan {
    /// `rest`: so many times as long as a window took, before the next.
    async fn begin(stage: &Stage, rest: u32) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let storage = stage.storage.clone();
        let partitions = Topic::GameEvents.spec().partitions;
        // About where each partition ends; what comes in during the run lies behind.
        let last = stage.cursors("event-router").await / i64::from(partitions);
        let scanning = async move {
            let (mut rows, begun) = (0, Instant::now());
            loop {
                for partition in 0..partitions {
                    let mut from = -ARCHIVED / i64::from(partitions);
                    while from < last {
                        if stopped.is_cancelled() {
                            return (rows, begun.elapsed());
                        }
                        let window_begun = Instant::now();
                        let window = storage.archived_events(partition, from, from + WINDOW);
                        rows += window.await.expect("events_raw can be read").len();
                        from += WINDOW;
                        tokio::time::sleep(window_begun.elapsed() * rest).await;
                    }
                }
            }
        };
        Self {
            stop,
            rows: tokio::spawn(scanning),
        }
    }

    /// Rows a second.
    async fn end(self) -> f64 {
        self.stop.cancel();
        let (rows, took) = self.rows.await.expect("the scan does not panic");
        rows as f64 / took.as_secs_f64()
    }
}

/// Sends at the rate for so long; how long after the last answer the lanes of router and quest
/// processor were at the ends of their topics, by their cursors.
async fn steady(stage: &Stage, gateway: String, duration: Duration) -> (Report, Duration) {
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
        client: Client::new(&format!("http://{gateway}"), &stage.key)
            .expect("a client can be made"),
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
    stage.caught_up(PATIENCE).await;
    let behind = ended.elapsed();
    // Of a player's events in one batch only the last is shown. Where two have overtaken each other
    // on their way it is not the one sent last, which is then waited for in vain.
    all_seen(&tracker, Duration::from_secs(1)).await;
    reading.abort();
    report.follow_ms = Some(tracker.latency().figures());
    report.not_seen = Some(tracker.waiting());
    (report, behind)
}
