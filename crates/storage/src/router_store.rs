//! The router's storage: which events are in `events_raw`, and adding those that are not.

use std::collections::BTreeMap;
use std::sync::Arc;

use bm_domain::routing::{EventKey, EventRow, RouteRules, SeenEvent};
use bm_engine::Domain;
use bm_engine::domain::ConfigDemand;
use bm_engine::lane::LaneMove;
use serde_json::value::RawValue;

use crate::arrays::{LaneMoves, SqlTime, sql_time};
use crate::error::{CommitError, Failure, StoreError};
use crate::lane_store::LaneStore;
use crate::pool::Storage;
use crate::rules::RulesReader;
use crate::session::run;

/// `events_raw`, and the rules that say where events go.
#[derive(Debug, Clone)]
pub struct RouterStore {
    storage: Storage,
    rules: RulesReader<RouteRules>,
}

impl RouterStore {
    /// Of that database.
    pub fn new(storage: Storage) -> Self {
        Self {
            rules: RulesReader::new(storage.clone()),
            storage,
        }
    }
}

impl<D> LaneStore<D> for RouterStore
where
    D: Domain<Key = EventKey, State = SeenEvent, Row = EventRow, Rules = RouteRules>,
{
    async fn rules(
        &self,
        held: Option<Arc<RouteRules>>,
        demand: ConfigDemand,
    ) -> Result<Arc<RouteRules>, StoreError> {
        self.rules.at_least(held, demand).await
    }

    async fn load(&self, keys: &[EventKey]) -> Result<Vec<(EventKey, SeenEvent)>, StoreError> {
        const NAME: &str = "events_seen";
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let event_keys: Vec<&[u8]> = keys.iter().map(|key| key.event_key.as_slice()).collect();
        let times: Vec<SqlTime> = keys.iter().map(|key| sql_time(key.occurred_at)).collect();
        // In a file, so that a test can look at its plan.
        let rows = run!(self.storage, NAME, |connection| sqlx::query_file!(
            "queries/events_seen.sql",
            &event_keys as _,
            &times as _,
        )
        .fetch_all(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        rows.into_iter()
            .map(|row| {
                let key = place(keys, row.place, NAME)?;
                let body_hash = row.body_hash.try_into().map_err(|_| StoreError::Corrupt {
                    statement: NAME,
                    why: "a body hash is not of 16 bytes".to_owned(),
                })?;
                Ok((*key, SeenEvent { body_hash }))
            })
            .collect()
    }

    async fn commit(
        &self,
        lanes: &[LaneMove],
        _states: &BTreeMap<EventKey, SeenEvent>,
        rows: &[EventRow],
    ) -> Result<(), CommitError> {
        let lanes = LaneMoves::new(lanes)?;
        let events = EventColumns::new(rows);
        // Inserted plainly: a key that is there already was not there when it was loaded, so the
        // fence did not hold, and nobody must go on.
        run!(self.storage, "events_commit", |connection| sqlx::query!(
            r#"
            WITH fence AS MATERIALIZED (
                SELECT lanes_advance($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS moved
            ), added AS (
                INSERT INTO events_raw (
                    event_key, occurred_at, body_hash, event_id, studio_id, game_id, user_id,
                    event_type, event_name, studio_tier, event_data, extra, ingested_at,
                    log_partition, log_offset, config_seq, correlation_id
                )
                SELECT u.event_key, u.occurred_at, u.body_hash, u.event_id, u.studio_id, u.game_id,
                       u.user_id, u.event_type, u.event_name, u.studio_tier, u.event_data::jsonb,
                       u.extra::jsonb, u.ingested_at, u.log_partition, u.log_offset, u.config_seq,
                       u.correlation_id
                FROM fence CROSS JOIN unnest(
                    $11::bytea[], $12::timestamptz[], $13::bytea[], $14::text[], $15::text[],
                    $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[],
                    $22::text[], $23::timestamptz[], $24::int[], $25::bigint[], $26::bigint[],
                    $27::text[]
                ) AS u (
                    event_key, occurred_at, body_hash, event_id, studio_id, game_id, user_id,
                    event_type, event_name, studio_tier, event_data, extra, ingested_at,
                    log_partition, log_offset, config_seq, correlation_id
                )
            )
            SELECT moved AS "moved!" FROM fence
            "#,
            D::PROCESSOR,
            D::INPUT.name(),
            &lanes.partitions,
            &lanes.epochs,
            &lanes.expected,
            &lanes.next,
            &lanes.watermarks as _,
            &lanes.outboxes as _,
            &lanes.last_at as _,
            &lanes.last_hash,
            &events.event_key as _,
            &events.occurred_at as _,
            &events.body_hash as _,
            &events.event_id as _,
            &events.studio_id as _,
            &events.game_id as _,
            &events.user_id as _,
            &events.event_type as _,
            &events.event_name as _,
            &events.studio_tier as _,
            &events.event_data as _,
            &events.extra as _,
            &events.ingested_at as _,
            &events.log_partition,
            &events.log_offset,
            &events.config_seq,
            &events.correlation_id as _,
        )
        .fetch_one(connection))
        .map(|_| ())
        .map_err(Failure::into_commit_error)
    }
}

/// The key a row of an answer belongs to: `place` is WITH ORDINALITY's, from 1.
pub(crate) fn place<'a, K>(
    keys: &'a [K],
    place: i64,
    statement: &'static str,
) -> Result<&'a K, StoreError> {
    usize::try_from(place - 1)
        .ok()
        .and_then(|index| keys.get(index))
        .ok_or_else(|| StoreError::Corrupt {
            statement,
            why: format!("an answer for key {place} of {}", keys.len()),
        })
}

#[derive(Default)]
struct EventColumns<'a> {
    event_key: Vec<&'a [u8]>,
    occurred_at: Vec<SqlTime>,
    body_hash: Vec<&'a [u8]>,
    event_id: Vec<&'a str>,
    studio_id: Vec<&'a str>,
    game_id: Vec<&'a str>,
    user_id: Vec<&'a str>,
    event_type: Vec<&'a str>,
    event_name: Vec<Option<&'a str>>,
    studio_tier: Vec<&'a str>,
    event_data: Vec<Option<&'a str>>,
    extra: Vec<Option<String>>,
    ingested_at: Vec<SqlTime>,
    log_partition: Vec<i32>,
    log_offset: Vec<i64>,
    config_seq: Vec<i64>,
    correlation_id: Vec<Option<&'a str>>,
}

impl<'a> EventColumns<'a> {
    fn new(rows: &'a [EventRow]) -> Self {
        let mut columns = Self::default();
        for row in rows {
            let event = &row.event;
            columns.event_key.push(&row.event_key);
            columns.occurred_at.push(sql_time(event.timestamp));
            columns.body_hash.push(&row.body_hash);
            columns.event_id.push(event.event_id.as_str());
            columns.studio_id.push(event.studio_id.as_str());
            columns.game_id.push(event.game_id.as_str());
            columns.user_id.push(event.user_id.as_str());
            columns.event_type.push(event.event_type.as_str());
            columns.event_name.push(event.event_name.as_deref());
            columns.studio_tier.push(&event.studio_tier);
            columns
                .event_data
                .push(event.metadata.as_deref().map(RawValue::get));
            columns.extra.push(row.extra_json());
            columns.ingested_at.push(sql_time(row.ingested_at));
            columns.log_partition.push(row.log_partition);
            columns.log_offset.push(row.log_offset);
            columns.config_seq.push(row.config_seq);
            columns.correlation_id.push(row.correlation_id.as_deref());
        }
        columns
    }
}
