//! Router and quest processor working a backlog off, beside bare loops on the same database.

use std::time::{Duration, Instant};

use bm_testkit::Process;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use crate::Options;
use crate::figures::{Figures, Goal, median};
use crate::http::{Shot, hammer};
use crate::ingest::event;
use crate::stage::Stage;

/// Events of a backlog; worked off in some seconds.
const BACKLOG: i64 = 120_000;
/// Rows of a statement of the bare loops.
const ROWS: i32 = 1_000;
/// Players the events are of.
const PLAYERS: usize = 20_000;
/// What the quest is about.
const KIND: &str = "counted";

/// Backlogs first, one after the other; each beside its bare loop.
pub(crate) async fn run(options: &Options, figures: &mut Figures) {
    let (mut router_rates, mut router_ratios) = (Vec::new(), Vec::new());
    let (mut quest_rates, mut quest_ratios) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds.min(3) {
        let stage = Stage::new().await;
        stage.quests(KIND, 1, 1_000_000_000_000).await;
        let backlog = fill(&stage).await;
        let bare = loops(&stage, RAW_EVENTS, options.seconds).await;
        let rate = work_off(&stage, "event-router", backlog).await;
        router_rates.push(rate);
        router_ratios.push(rate / bare);
        // All of it was wanted, so all of it was passed on.
        let bare = loops(&stage, RAW_PROGRESS, options.seconds).await;
        let rate = work_off(&stage, "quest-processor", backlog).await;
        quest_rates.push(rate);
        quest_ratios.push(rate / bare);
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
}

/// Appends a backlog by way of a gateway; gives how many events it has.
async fn fill(stage: &Stage) -> i64 {
    const BATCH: usize = 500;
    let gateway = stage.start("gateway").await;
    let address = Stage::address(&gateway);
    let requests: Vec<Shot> = (0..PLAYERS / BATCH)
        .map(|first| {
            let events: Vec<String> = (0..BATCH)
                .map(|n| event(stage.game.as_str(), first * BATCH + n, KIND, false))
                .collect();
            let body = format!("[{}]", events.join(","));
            Shot::post("/v1/events/batch", &[("x-api-key", &stage.key)], &body)
        })
        .collect();
    let topic = bm_contracts::Topic::GameEvents;
    loop {
        let rate = hammer(address, 8, 1.0, &requests);
        assert_eq!(rate.refused, None, "the gateway refused batches");
        let records = stage.records(topic).await;
        if records >= BACKLOG {
            return records;
        }
    }
}

/// Starts a processor and measures it from its first batch to its last.
async fn work_off(stage: &Stage, service: &str, backlog: i64) -> f64 {
    let started: Process = stage.start(service).await;
    let (first, begun) = loop {
        let done = stage.cursors(service).await;
        if done > 0 {
            break (done, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let deadline = begun + Duration::from_mins(5);
    while stage.cursors(service).await < backlog {
        assert!(Instant::now() < deadline, "{service} does not get through");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = (backlog - first) as f64 / begun.elapsed().as_secs_f64();
    drop(started);
    rate
}

/// A table and a statement that writes [`ROWS`] rows of it; `$1` is the number of the statement.
struct Bare {
    table: &'static str,
    statement: &'static str,
}

/// Rows of the shape of events_raw.
const RAW_EVENTS: Bare = Bare {
    table: "CREATE TABLE IF NOT EXISTS bare_events (LIKE events_raw INCLUDING ALL)",
    statement: "
        INSERT INTO bare_events (event_key, occurred_at, body_hash, event_id, studio_id, game_id,
            user_id, event_type, event_name, studio_tier, event_data, ingested_at, log_partition,
            log_offset, config_seq, correlation_id)
        SELECT substring(sha256(($1::text || ':' || n)::bytea) FOR 16), now(),
               substring(sha256(n::text::bytea) FOR 16), gen_random_uuid()::text, 'studio', 'game',
               'player-' || n * 17 % 20000, 'custom', 'counted', 'enterprise',
               '{\"map\":\"forest\",\"weapon\":\"bow\",\"damage\":12.5,\"streak\":3,\"position\":{\"x\":10,\"y\":-4}}',
               now(), n % 10, $1::bigint * 1000 + n, 1, gen_random_uuid()::text
        FROM generate_series(1, 1000) AS n",
};

/// Rows of the shape of quest_progress, and a cursor.
const RAW_PROGRESS: Bare = Bare {
    table: "
        CREATE TABLE IF NOT EXISTS bare_progress (quest_id uuid, user_id varchar(255),
            progress jsonb, version bigint, last_updated timestamptz, PRIMARY KEY (quest_id, user_id));
        CREATE TABLE IF NOT EXISTS bare_cursor (lane bigint PRIMARY KEY, next_offset bigint)",
    statement: "
        WITH cursor AS (
            INSERT INTO bare_cursor VALUES ($1 % 2, $1)
            ON CONFLICT (lane) DO UPDATE SET next_offset = excluded.next_offset
        )
        INSERT INTO bare_progress
        SELECT '00000000-0000-0000-0000-000000000001', 'player-' || ($1 % 2) * 10000 + ($1 / 2 * 1000 + n) % 10000,
               '{\"current\": 7, \"target\": 1000000000000}', $1, now()
        FROM unnest((SELECT array_agg(n) FROM generate_series(1, 1000) AS n)) AS n
        ON CONFLICT (quest_id, user_id) DO UPDATE
        SET progress = excluded.progress, version = excluded.version, last_updated = excluded.last_updated",
};

/// Rows a second that two connections write, as many as the processor's workers have.
async fn loops(stage: &Stage, bare: Bare, seconds: f64) -> f64 {
    let url = stage.database.url();
    let mut connection = PgConnection::connect(&url)
        .await
        .expect("the database answers");
    sqlx::raw_sql(bare.table)
        .execute(&mut connection)
        .await
        .expect("the bare table can be made");
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let begun = Instant::now();
    let mut loops = JoinSet::new();
    for lane in 0..2_i64 {
        let url = url.clone();
        loops.spawn(async move {
            let mut connection = PgConnection::connect(&url)
                .await
                .expect("the database answers");
            let mut number = lane;
            let mut rows = 0;
            while Instant::now() < end {
                sqlx::query(bare.statement)
                    .bind(number)
                    .execute(&mut connection)
                    .await
                    .expect("the bare rows can be written");
                number += 2;
                rows += i64::from(ROWS);
            }
            rows
        });
    }
    let rows: i64 = loops.join_all().await.into_iter().sum();
    rows as f64 / begun.elapsed().as_secs_f64()
}
