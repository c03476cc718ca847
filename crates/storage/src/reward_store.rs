//! The reward processor's storage: the ledger, one row per grant.

use std::collections::BTreeMap;
use std::sync::Arc;

use bm_contracts::messages::GrantStatus;
use bm_domain::reward::{GrantId, GrantRow, LedgerEntry};
use bm_engine::Domain;
use bm_engine::domain::ConfigDemand;
use bm_engine::lane::LaneMove;

use crate::arrays::{LaneMoves, SqlTime, sql_time};
use crate::error::{CommitError, Failure, StoreError};
use crate::lane_store::LaneStore;
use crate::pool::Storage;
use crate::router_store::place;
use crate::session::run;

/// The reward ledger.
#[derive(Debug, Clone)]
pub struct RewardStore {
    storage: Storage,
}

impl RewardStore {
    /// Of that database.
    pub fn new(storage: Storage) -> Self {
        Self { storage }
    }
}

pub(crate) fn grant_status(text: &str) -> Option<GrantStatus> {
    [
        GrantStatus::Pending,
        GrantStatus::Delivered,
        GrantStatus::Acknowledged,
        GrantStatus::Failed,
    ]
    .into_iter()
    .find(|status| status.as_str() == text)
}

impl<D> LaneStore<D> for RewardStore
where
    D: Domain<Key = GrantId, State = LedgerEntry, Row = GrantRow, Rules = ()>,
{
    async fn rules(
        &self,
        _held: Option<Arc<()>>,
        _demand: ConfigDemand,
    ) -> Result<Arc<()>, StoreError> {
        Ok(Arc::new(()))
    }

    async fn load(&self, keys: &[GrantId]) -> Result<Vec<(GrantId, LedgerEntry)>, StoreError> {
        const NAME: &str = "grants_known";
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<&str> = keys.iter().map(GrantId::as_str).collect();
        let rows = run!(self.storage, NAME, |connection| sqlx::query!(
            r#"
            SELECT k.place AS "place!", g.status
            FROM unnest($1::text[]) WITH ORDINALITY AS k (grant_id, place)
            CROSS JOIN LATERAL (
                SELECT status FROM reward_grants AS r WHERE r.grant_id = k.grant_id LIMIT 1
            ) AS g
            "#,
            &ids as _,
        )
        .fetch_all(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        rows.into_iter()
            .map(|row| {
                let status = grant_status(&row.status).ok_or_else(|| StoreError::Corrupt {
                    statement: NAME,
                    why: format!("unknown status {}", row.status),
                })?;
                Ok((
                    place(keys, row.place, NAME)?.clone(),
                    LedgerEntry { status },
                ))
            })
            .collect()
    }

    async fn commit(
        &self,
        lanes: &[LaneMove],
        _states: &BTreeMap<GrantId, LedgerEntry>,
        rows: &[GrantRow],
    ) -> Result<(), CommitError> {
        let lanes = LaneMoves::new(lanes)?;
        let grants = GrantColumns::new(rows);
        run!(self.storage, "grants_commit", |connection| sqlx::query!(
            r#"
            WITH fence AS MATERIALIZED (
                SELECT lanes_advance($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS moved
            ), added AS (
                INSERT INTO reward_grants (
                    grant_id, studio_id, game_id, user_id, source, reward, status, earned_at,
                    correlation_id
                )
                SELECT u.grant_id, u.studio_id, u.game_id, u.user_id, u.source, u.reward::jsonb,
                       u.status, u.earned_at, u.correlation_id
                FROM fence CROSS JOIN unnest(
                    $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
                    $17::text[], $18::timestamptz[], $19::text[]
                ) AS u (
                    grant_id, studio_id, game_id, user_id, source, reward, status, earned_at,
                    correlation_id
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
            &grants.grant_id as _,
            &grants.studio_id as _,
            &grants.game_id as _,
            &grants.user_id as _,
            &grants.source as _,
            &grants.reward as _,
            &grants.status as _,
            &grants.earned_at as _,
            &grants.correlation_id as _,
        )
        .fetch_one(connection))
        .map(|_| ())
        .map_err(Failure::into_commit_error)
    }
}

#[derive(Default)]
struct GrantColumns<'a> {
    grant_id: Vec<&'a str>,
    studio_id: Vec<&'a str>,
    game_id: Vec<&'a str>,
    user_id: Vec<&'a str>,
    source: Vec<&'a str>,
    reward: Vec<&'a str>,
    status: Vec<&'a str>,
    earned_at: Vec<SqlTime>,
    correlation_id: Vec<Option<&'a str>>,
}

impl<'a> GrantColumns<'a> {
    fn new(rows: &'a [GrantRow]) -> Self {
        let mut columns = Self::default();
        for row in rows {
            columns.grant_id.push(row.grant_id.as_str());
            columns.studio_id.push(row.studio_id.as_str());
            columns.game_id.push(row.game_id.as_str());
            columns.user_id.push(row.user_id.as_str());
            columns.source.push(&row.source);
            columns.reward.push(row.reward.get());
            columns.status.push(row.status.as_str());
            columns.earned_at.push(sql_time(row.earned_at));
            columns.correlation_id.push(row.correlation_id.as_deref());
        }
        columns
    }
}
