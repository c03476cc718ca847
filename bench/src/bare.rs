//! The raw side of the pipeline's figures: loops that write the same rows and do nothing else, as
//! many at a time and in the same way as the processors do.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::stage::Stage;

/// Rows of a statement.
const ROWS: usize = 1_000;
/// Connections, as many as a processor has batches at a time on two cores.
const LOOPS: usize = 2;
/// Players that rows are of.
const PLAYERS: usize = 20_000;

/// What is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bare {
    /// Rows of the shape of events_raw, with its indexes.
    Events,
    /// A cursor, and rows of the shape of quest_progress.
    Progress,
}

/// Rows a second.
pub(crate) async fn rate(stage: &Stage, bare: Bare, seconds: f64) -> f64 {
    let url = stage.database.url();
    let mut connection = PgConnection::connect(&url)
        .await
        .expect("the database answers");
    sqlx::raw_sql(
        "CREATE TABLE bare_events (LIKE events_raw INCLUDING ALL);
         CREATE TABLE bare_progress (LIKE quest_progress INCLUDING ALL);
         CREATE TABLE bare_cursor (lane bigint PRIMARY KEY, next_offset bigint)",
    )
    .execute(&mut connection)
    .await
    .expect("the bare tables can be made");
    stage.settle().await;
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(seconds);
    let mut loops = JoinSet::new();
    for lane in 0..LOOPS {
        let url = url.clone();
        loops.spawn(async move {
            let mut connection = PgConnection::connect(&url)
                .await
                .expect("the database answers");
            let mut statements = 0;
            while Instant::now() < end {
                match bare {
                    Bare::Events => events(&mut connection, lane, statements).await,
                    Bare::Progress => progress(&mut connection, lane, statements).await,
                }
                statements += 1;
            }
            statements * ROWS
        });
    }
    let rows: usize = loops.join_all().await.into_iter().sum();
    let rate = rows as f64 / begun.elapsed().as_secs_f64();
    sqlx::raw_sql("DROP TABLE bare_events, bare_progress, bare_cursor")
        .execute(&mut connection)
        .await
        .expect("the bare tables can be dropped");
    rate
}

/// The same value for each row.
fn all<T: Clone>(value: T) -> Vec<T> {
    vec![value; ROWS]
}

async fn events(connection: &mut PgConnection, lane: usize, statement: usize) {
    let first = statement * ROWS;
    // Keys are hashes, and lie anywhere among those of their time.
    let keys: Vec<[u8; 16]> = (0..ROWS).map(|_| rand::random()).collect();
    let keys: Vec<&[u8]> = keys.iter().map(<[u8; 16]>::as_slice).collect();
    let ids: Vec<String> = (0..ROWS)
        .map(|_| format!("evt_{}", Uuid::from_u128(rand::random())))
        .collect();
    let users: Vec<String> = (first..first + ROWS)
        .map(|n| format!("player-{}", n * 17 % PLAYERS))
        .collect();
    let offsets: Vec<i64> = (first..first + ROWS).map(|n| n as i64).collect();
    let data =
        r#"{"map":"forest","weapon":"bow","damage":12.5,"streak":3,"position":{"x":10,"y":-4}}"#;
    sqlx::query(
        "INSERT INTO bare_events (event_key, occurred_at, body_hash, event_id, studio_id, game_id,
             user_id, event_type, event_name, studio_tier, event_data, extra, ingested_at,
             log_partition, log_offset, config_seq, correlation_id)
         SELECT u.event_key, now(), u.event_key, u.event_id, u.studio_id, u.game_id,
                u.user_id, u.event_type, u.event_name, u.studio_tier, u.event_data::jsonb, NULL,
                now(), u.log_partition, u.log_offset, u.config_seq, u.correlation_id
         FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
                     $7::text[], $8::text[], $9::text[], $10::int[], $11::bigint[],
                     $12::bigint[], $13::text[])
              AS u (event_key, event_id, studio_id, game_id, user_id, event_type, event_name,
                    studio_tier, event_data, log_partition, log_offset, config_seq, correlation_id)",
    )
    .bind(keys)
    .bind(&ids)
    .bind(all("studio-of-the-bench"))
    .bind(all("game-of-the-bench"))
    .bind(users)
    .bind(all("custom"))
    .bind(all("counted"))
    .bind(all("enterprise"))
    .bind(all(data))
    .bind(all(lane as i32))
    .bind(offsets)
    .bind(all(1_i64))
    .bind(&ids)
    .execute(connection)
    .await
    .expect("the bare rows can be written");
}

async fn progress(connection: &mut PgConnection, lane: usize, statement: usize) {
    let mine = PLAYERS / LOOPS;
    let mut users: Vec<String> = (0..ROWS)
        .map(|n| (lane * mine) + (statement * ROWS + n) % mine)
        .map(|player| format!("player-{player}"))
        .collect();
    users.sort_unstable();
    sqlx::query(
        "WITH cursor AS (
             INSERT INTO bare_cursor VALUES ($1, $2)
             ON CONFLICT (lane) DO UPDATE SET next_offset = excluded.next_offset
         )
         INSERT INTO bare_progress (quest_id, user_id, studio_id, progress, version, last_updated)
         SELECT u.quest_id, u.user_id, u.studio_id, u.progress::jsonb, u.version, now()
         FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::bigint[])
              AS u (quest_id, user_id, studio_id, progress, version)
         ON CONFLICT (quest_id, user_id, period) DO UPDATE
         SET progress = excluded.progress, version = excluded.version,
             last_updated = excluded.last_updated",
    )
    .bind(lane as i64)
    .bind((statement * ROWS) as i64)
    .bind(all(Uuid::from_u128(7)))
    .bind(users)
    .bind(all("studio-of-the-bench"))
    .bind(all(r#"{"current":7,"target":1000000000000}"#))
    .bind(all(statement as i64))
    .execute(connection)
    .await
    .expect("the bare rows can be written");
}
