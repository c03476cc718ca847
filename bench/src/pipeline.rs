//! Router and quest processor working a backlog off, beside bare loops on the same database and a
//! straightforward processor in Node.

use std::time::{Duration, Instant};

use bm_bench::event;
use bm_contracts::Topic;
use bm_testkit::process::{ProcessPlan, workspace};
use bm_testkit::{Process, eventually};

use crate::Options;
use crate::bare::{self, Bare};
use crate::figures::{Figures, Goal, median};
use crate::http::{Shot, send_all};
use crate::stage::Stage;

/// Events of a backlog; worked off in some seconds.
const BACKLOG: i64 = 300_000;
/// Players the events are of.
const PLAYERS: usize = 20_000;
/// What the quest is about.
const KIND: &str = "counted";
/// Most that anything here takes.
const PATIENCE: Duration = Duration::from_mins(5);

/// Backlogs first, one after the other; each beside its bare loop.
pub(crate) async fn run(options: &Options, figures: &mut Figures) {
    let (mut router_rates, mut router_ratios) = (Vec::new(), Vec::new());
    let (mut quest_rates, mut quest_ratios) = (Vec::new(), Vec::new());
    let mut node_ratios = Vec::new();
    for _ in 0..options.rounds {
        let stage = Stage::new(options).await;
        stage.quests(KIND, 1, 1_000_000_000_000).await;
        fill(&stage).await;
        let bare = bare::rate(&stage, Bare::Events, options.seconds).await;
        let router = work_off(&stage, "event-router").await;
        router_rates.push(router);
        router_ratios.push(router / bare);
        let bare = bare::rate(&stage, Bare::Progress, options.seconds).await;
        let quest = work_off(&stage, "quest-processor").await;
        quest_rates.push(quest);
        quest_ratios.push(quest / bare);
        if !options.without_node {
            node_ratios.push(router.min(quest) / node(&stage, options.seconds).await);
        }
    }
    figures.add("router", median(&router_rates), "events/s", Goal::None);
    figures.add(
        "router / insert loop",
        median(&router_ratios),
        "",
        Goal::Min(0.5),
    );
    figures.add(
        "quest processor",
        median(&quest_rates),
        "events/s",
        Goal::None,
    );
    figures.add(
        "quest processor / upsert loop",
        median(&quest_ratios),
        "",
        Goal::Min(0.5),
    );
    if !node_ratios.is_empty() {
        figures.add(
            "slower of router and quest processor / Node",
            median(&node_ratios),
            "",
            Goal::Min(50.0),
        );
    }
}

/// Appends a backlog by way of a gateway.
async fn fill(stage: &Stage) {
    const BATCH: usize = 500;
    let gateway = stage.start("gateway").await;
    let requests: Vec<Shot> = (0..BACKLOG as usize / BATCH)
        .map(|number| {
            let first = number * BATCH;
            let events: Vec<String> = (first..first + BATCH)
                .map(|n| event(stage.game.as_str(), n % PLAYERS, KIND, false))
                .collect();
            let body = format!("[{}]", events.join(","));
            Shot::post("/v1/events/batch", &[("x-api-key", &stage.key)], &body)
        })
        .collect();
    send_all(Stage::address(&gateway), 8, requests).await;
    let records = stage.records(Topic::GameEvents).await;
    assert_eq!(records, BACKLOG, "all are in the log, each once");
}

/// Starts a processor and measures it from its first batch to its last.
async fn work_off(stage: &Stage, service: &str) -> f64 {
    stage.settle().await;
    let started: Process = stage.start(service).await;
    let first = stage.reach(service, 1, PATIENCE).await;
    let begun = Instant::now();
    stage.reach(service, BACKLOG, PATIENCE).await;
    let rate = (BACKLOG - first) as f64 / begun.elapsed().as_secs_f64();
    if service == "event-router" {
        // All of it was wanted, so all of it is passed on; not before the last batch is committed.
        eventually(PATIENCE, "the last message", || async {
            (stage.records(Topic::QuestEvents).await >= BACKLOG).then_some(())
        })
        .await;
    }
    drop(started);
    rate
}

/// Events a second that the service in Node gets through, once it is under way.
async fn node(stage: &Stage, seconds: f64) -> f64 {
    let script = workspace().join("bench/node/processor.js");
    stage.settle().await;
    let process = ProcessPlan::program("/usr/bin/env", 0)
        .arg("node")
        .arg(script)
        .arg(stage.topics.brokers())
        .arg(stage.topic(Topic::GameEvents))
        .arg(stage.database.url())
        .spawn();
    let done = || -> Option<u64> {
        let log = process.log();
        let last = log
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("done "));
        last?.parse().ok()
    };
    let first = eventually(PATIENCE, "the first events in Node", || async { done() }).await;
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let last = done().expect("it said so before");
    let rate = (last - first) as f64 / begun.elapsed().as_secs_f64();
    assert!(rate > 0.0, "Node stopped:\n{}", process.log());
    rate
}
