//! What an event costs where there is ten times as much of something: players, quests, history.
//!
//! Cost is processor time: of the service and of PostgreSQL's backends that work for it. Beside the
//! time that passes it is the steadier figure, since it leaves out what waits for the disk, for the
//! broker and for whoever else works on the machine. The two sides take turns, round by round.

use std::time::Duration;

use bm_bench::event;
use bm_testkit::Process;
use rand::Rng;

use crate::Options;
use crate::cost::{cpu_seconds, database_seconds};
use crate::figures::{Figures, Goal, median};
use crate::http::{Shot, send_all};
use crate::stage::Stage;

const SERVICES: [&str; 2] = ["event-router", "quest-processor"];
/// Of a round.
const EVENTS: usize = 30_000;
/// Of a request.
const BATCH: usize = 500;
/// What the quests that match are about.
const KIND: &str = "counted";
const TARGET: u64 = 1_000_000_000_000;
/// Most that a round takes.
const PATIENCE: Duration = Duration::from_mins(2);

/// How much of everything there is.
#[derive(Debug, Clone, Copy)]
struct Size {
    players: usize,
    matching: usize,
    quests: usize,
    rows: i64,
}

const USUAL: Size = Size {
    players: 20_000,
    matching: 1,
    quests: 1,
    rows: 0,
};

/// Three pairs, one after the other.
pub(crate) async fn run(options: &Options, figures: &mut Figures) {
    let players = Size {
        players: 200_000,
        ..USUAL
    };
    compare("players", USUAL, players, options, figures).await;
    let quests = |quests| Size {
        matching: 3,
        quests,
        ..USUAL
    };
    compare("quests", quests(100), quests(1_000), options, figures).await;
    let rows = |rows| Size { rows, ..USUAL };
    let (some, many) = (rows(100_000), rows(1_000_000));
    compare("events_raw rows", some, many, options, figures).await;
}

async fn compare(what: &str, base: Size, grown: Size, options: &Options, figures: &mut Figures) {
    let (base, grown) = (
        Pipeline::of(base, options).await,
        Pipeline::of(grown, options).await,
    );
    let mut costs = Vec::new();
    // One more than counts: after a checkpoint every page is logged as a whole once.
    for _ in 0..=options.rounds {
        costs.push((base.round().await, grown.round().await));
    }
    costs.remove(0);
    for (at, service) in SERVICES.iter().enumerate() {
        let name = |which: &str| format!("{service}, 10 x {what}: {which}");
        let micros: Vec<f64> = costs.iter().map(|(base, _)| base[at] * 1e6).collect();
        let ratios: Vec<f64> = costs
            .iter()
            .map(|(base, grown)| grown[at] / base[at])
            .collect();
        figures.add(
            name("cost per event before"),
            median(&micros),
            "µs",
            Goal::None,
        );
        figures.add(
            name("cost per event / before"),
            median(&ratios),
            "",
            Goal::Max(1.2),
        );
    }
}

/// A pipeline of its own, in the state in which it goes on.
struct Pipeline {
    stage: Stage,
    gateway: Process,
    services: Vec<Process>,
    players: usize,
}

impl Pipeline {
    async fn of(size: Size, options: &Options) -> Self {
        let stage = Stage::new(options).await;
        stage.quests(KIND, size.matching, TARGET).await;
        stage
            .quests("another", size.quests - size.matching, TARGET)
            .await;
        if size.rows > 0 {
            stage.archive(size.rows).await;
        }
        let gateway = stage.start("gateway").await;
        let mut services = Vec::new();
        for service in SERVICES {
            services.push(stage.start(service).await);
        }
        let this = Self {
            stage,
            gateway,
            services,
            players: size.players,
        };
        // Everybody has played before, and memories hold what they can.
        this.send(0..size.players).await;
        this.stage.settle().await;
        this
    }

    /// Seconds of processor time per event, of each service and its database.
    async fn round(&self) -> [f64; 2] {
        let before = self.used().await;
        let players = (0..EVENTS).map(|_| rand::rng().random_range(0..self.players));
        self.send(players).await;
        let after = self.used().await;
        [0, 1].map(|at| (after[at] - before[at]) / EVENTS as f64)
    }

    /// Sends an event of each of these players, and waits until all had their effect.
    async fn send(&self, players: impl Iterator<Item = usize>) {
        let game = self.stage.game.as_str();
        let events: Vec<String> = players
            .map(|player| event(game, player, KIND, false))
            .collect();
        let requests = events.chunks(BATCH).map(|some| {
            let body = format!("[{}]", some.join(","));
            Shot::post("/v1/events/batch", &[("x-api-key", &self.stage.key)], &body)
        });
        send_all(Stage::address(&self.gateway), 4, requests.collect()).await;
        self.stage.caught_up(PATIENCE).await;
    }

    async fn used(&self) -> [f64; 2] {
        let mut used = [0.0; 2];
        for (at, service) in SERVICES.iter().enumerate() {
            let database = database_seconds(&self.stage, service).await;
            used[at] = database + cpu_seconds(self.services[at].id());
        }
        used
    }
}
