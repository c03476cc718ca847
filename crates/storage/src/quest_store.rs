//! The quest processor's storage: players' progress, and the rules it follows.

use std::collections::BTreeMap;
use std::sync::Arc;

use bm_contracts::StudioId;
use bm_domain::Amount;
use bm_domain::quest::{NoRow, QuestKey, QuestRules, QuestState};
use bm_engine::Domain;
use bm_engine::domain::ConfigDemand;
use bm_engine::lane::LaneMove;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use uuid::Uuid;

use crate::arrays::{LaneMoves, SqlTime, from_sql, sql_time};
use crate::error::{CommitError, Failure, StoreError};
use crate::lane_store::LaneStore;
use crate::pool::Storage;
use crate::router_store::place;
use crate::rules::RulesReader;
use crate::session::run;

/// `quest_progress`, and the quests' rules.
#[derive(Debug, Clone)]
pub struct QuestStore {
    storage: Storage,
    rules: RulesReader<QuestRules>,
}

impl QuestStore {
    /// Of that database.
    pub fn new(storage: Storage) -> Self {
        Self {
            rules: RulesReader::new(storage.clone()),
            storage,
        }
    }
}

/// Column `progress`. Numbers keep their digits: JSONB holds exact decimals.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredProgress {
    pub(crate) current: Number,
    pub(crate) target: Number,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) items: Vec<String>,
}

impl<D> LaneStore<D> for QuestStore
where
    D: Domain<Key = QuestKey, State = QuestState, Rules = QuestRules, Row = NoRow>,
{
    async fn rules(
        &self,
        held: Option<Arc<QuestRules>>,
        demand: ConfigDemand,
    ) -> Result<Arc<QuestRules>, StoreError> {
        self.rules.at_least(held, demand).await
    }

    async fn load(&self, keys: &[QuestKey]) -> Result<Vec<(QuestKey, QuestState)>, StoreError> {
        const NAME: &str = "progress_load";
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let quests: Vec<Uuid> = keys.iter().map(|key| key.quest).collect();
        let users: Vec<&str> = keys.iter().map(|key| key.user.as_str()).collect();
        // See the router's: one index look-up per key, whatever the planner thinks of the sizes.
        let rows = run!(self.storage, NAME, |connection| sqlx::query!(
            r#"
            SELECT k.place AS "place!", p.studio_id, p.progress::text AS "progress!",
                   p.completed_at AS "completed_at: SqlTime", p.version,
                   p.last_updated AS "last_updated: SqlTime"
            FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS k (quest_id, user_id, place)
            CROSS JOIN LATERAL (
                SELECT * FROM quest_progress AS r
                WHERE r.quest_id = k.quest_id AND r.user_id = k.user_id AND r.period = ''
                LIMIT 1
            ) AS p
            "#,
            &quests,
            &users as _,
        )
        .fetch_all(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        rows.into_iter()
            .map(|row| {
                let key = place(keys, row.place, NAME)?;
                let corrupt = |why: String| StoreError::Corrupt {
                    statement: NAME,
                    why: format!("progress of {} in quest {}: {why}", key.user, key.quest),
                };
                let progress: StoredProgress =
                    serde_json::from_str(&row.progress).map_err(|e| corrupt(e.to_string()))?;
                let amount = |number: &Number| {
                    number
                        .as_str()
                        .parse::<Amount>()
                        .map_err(|e| corrupt(e.to_string()))
                };
                let state = QuestState {
                    studio_id: StudioId::new(row.studio_id)
                        .map_err(|e| corrupt(format!("studio_id {e}")))?,
                    current: amount(&progress.current)?,
                    target: amount(&progress.target)?,
                    items: progress.items.into_iter().collect(),
                    completed_at: row.completed_at.map(from_sql),
                    version: row.version,
                    last_updated: from_sql(row.last_updated),
                };
                Ok((key.clone(), state))
            })
            .collect()
    }

    async fn commit(
        &self,
        lanes: &[LaneMove],
        states: &BTreeMap<QuestKey, QuestState>,
        _rows: &[NoRow],
    ) -> Result<(), CommitError> {
        let lanes = LaneMoves::new(lanes)?;
        let progress = ProgressColumns::new(states)?;
        // Rewards are claimed by being completed: every quest's rewards are granted at once.
        run!(self.storage, "progress_commit", |connection| sqlx::query!(
            r#"
            WITH fence AS MATERIALIZED (
                SELECT lanes_advance($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS moved
            ), written AS (
                INSERT INTO quest_progress AS p (
                    quest_id, user_id, studio_id, progress, completed, completed_at,
                    rewards_claimed, version, last_updated
                )
                SELECT u.quest_id, u.user_id, u.studio_id, u.progress::jsonb,
                       u.completed_at IS NOT NULL, u.completed_at, u.completed_at IS NOT NULL,
                       u.version, u.last_updated
                FROM fence CROSS JOIN unnest(
                    $11::uuid[], $12::text[], $13::text[], $14::text[], $15::timestamptz[],
                    $16::bigint[], $17::timestamptz[]
                ) AS u (quest_id, user_id, studio_id, progress, completed_at, version, last_updated)
                ON CONFLICT (quest_id, user_id, period) DO UPDATE
                SET progress = excluded.progress, completed = excluded.completed,
                    completed_at = excluded.completed_at,
                    rewards_claimed = excluded.rewards_claimed,
                    version = excluded.version, last_updated = excluded.last_updated
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
            &progress.quest_id,
            &progress.user_id as _,
            &progress.studio_id as _,
            &progress.progress as _,
            &progress.completed_at as _,
            &progress.version,
            &progress.last_updated as _,
        )
        .fetch_one(connection))
        .map(|_| ())
        .map_err(Failure::into_commit_error)
    }
}

/// In the order of the keys, as the rows are then locked.
#[derive(Default)]
struct ProgressColumns<'a> {
    quest_id: Vec<Uuid>,
    user_id: Vec<&'a str>,
    studio_id: Vec<&'a str>,
    progress: Vec<String>,
    completed_at: Vec<Option<SqlTime>>,
    version: Vec<i64>,
    last_updated: Vec<SqlTime>,
}

impl<'a> ProgressColumns<'a> {
    fn new(states: &'a BTreeMap<QuestKey, QuestState>) -> Result<Self, CommitError> {
        let mut columns = Self::default();
        for (key, state) in states {
            let progress = serde_json::to_string(&StoredProgress {
                current: state.current.to_number(),
                target: state.target.to_number(),
                items: state.items.iter().map(str::to_owned).collect(),
            })
            .map_err(|e| CommitError::Undone {
                transient: false,
                sqlstate: String::new(),
                message: format!("progress cannot be written: {e}"),
            })?;
            columns.quest_id.push(key.quest);
            columns.user_id.push(key.user.as_str());
            columns.studio_id.push(state.studio_id.as_str());
            columns.progress.push(progress);
            columns.completed_at.push(state.completed_at.map(sql_time));
            columns.version.push(state.version);
            columns.last_updated.push(sql_time(state.last_updated));
        }
        Ok(columns)
    }
}
