//! What tools and tests read: a player's progress and grants, the archive in log order, the lanes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bm_contracts::messages::GrantStatus;
use bm_contracts::{
    EventId, EventType, GameEvent, GameId, IdError, QuestId, StudioId, Timestamp, UserId,
};
use bm_domain::Amount;
use bm_domain::routing::EventRow;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::arrays::{SqlTime, from_sql, sql_time};
use crate::error::StoreError;
use crate::pool::Storage;
use crate::quest_store::StoredProgress;
use crate::reward_store::grant_status;
use crate::session::run;

/// One player's progress in one quest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlayerProgress {
    /// Which quest.
    pub quest_id: QuestId,
    /// Reached so far.
    pub current: Amount,
    /// To be reached.
    pub target: Amount,
    /// What a `unique` quest has counted.
    pub items: Vec<String>,
    /// When the quest was completed; `None` while it is not.
    pub completed_at: Option<Timestamp>,
    /// Number of changes.
    pub version: i64,
    /// Ingestion time of the event that last changed it.
    pub last_updated: Timestamp,
}

/// A row of the reward ledger.
#[derive(Debug, Clone)]
pub struct LedgerRow {
    /// `grt_` + 32 hex.
    pub grant_id: String,
    /// What granted it.
    pub source: String,
    /// As the studio defined it, or as JSONB gave it back.
    pub reward: Box<RawValue>,
    /// Where it stands.
    pub status: GrantStatus,
    /// Time of the event that earned it.
    pub earned_at: Timestamp,
}

/// A lane, as whoever is on call wants to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSummary {
    /// Unprefixed topic name.
    pub topic: String,
    /// Which partition.
    pub partition: i32,
    /// How often it was taken.
    pub epoch: i64,
    /// Its cursor.
    pub next_offset: i64,
    /// Bytes of its outbox, as stored.
    pub outbox_bytes: i32,
    /// When it was last taken or moved.
    pub updated_at: Timestamp,
}

fn corrupt(statement: &'static str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt {
        statement,
        why: why.to_string(),
    }
}

impl Storage {
    /// A player's progress in all quests of a game, by questId.
    pub async fn player_progress(
        &self,
        game: &GameId,
        user: &UserId,
    ) -> Result<Vec<PlayerProgress>, StoreError> {
        const NAME: &str = "player_progress";
        let rows = run!(self, NAME, |connection| sqlx::query!(
            r#"
            SELECT q.quest_id, p.progress::text AS "progress!",
                   p.completed_at AS "completed_at: SqlTime", p.version,
                   p.last_updated AS "last_updated: SqlTime"
            FROM quests AS q JOIN quest_progress AS p ON p.quest_id = q.id
            WHERE q.game_id = $1 AND p.user_id = $2
            ORDER BY q.quest_id, p.period
            "#,
            game.as_str(),
            user.as_str(),
        )
        .fetch_all(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        rows.into_iter()
            .map(|row| {
                let progress: StoredProgress =
                    serde_json::from_str(&row.progress).map_err(|e| corrupt(NAME, e))?;
                let amount = |n: &serde_json::Number| {
                    n.as_str().parse::<Amount>().map_err(|e| corrupt(NAME, e))
                };
                Ok(PlayerProgress {
                    quest_id: QuestId::new(row.quest_id).map_err(|e| corrupt(NAME, e))?,
                    current: amount(&progress.current)?,
                    target: amount(&progress.target)?,
                    items: progress.items,
                    completed_at: row.completed_at.map(from_sql),
                    version: row.version,
                    last_updated: from_sql(row.last_updated),
                })
            })
            .collect()
    }

    /// Which of these quests the player has completed, and when: the time of the event that did it.
    pub async fn quests_completed(
        &self,
        user: &UserId,
        quests: &[Uuid],
    ) -> Result<BTreeMap<Uuid, Timestamp>, StoreError> {
        const NAME: &str = "quests_completed";
        let rows = run!(self, NAME, |connection| sqlx::query!(
            r#"
            SELECT quest_id, completed_at AS "completed_at!: SqlTime"
            FROM quest_progress
            WHERE quest_id = ANY ($2::uuid[]) AND user_id = $1 AND completed_at IS NOT NULL
            "#,
            user.as_str(),
            quests,
        )
        .fetch_all(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        Ok(rows
            .into_iter()
            .map(|row| (row.quest_id, from_sql(row.completed_at)))
            .collect())
    }

    /// Where in `game.events` the event stands that counts under this key (partition, offset);
    /// `None` when the router has not come to one yet.
    pub async fn event_place(
        &self,
        event_key: &[u8; 16],
        occurred_at: Timestamp,
    ) -> Result<Option<(i32, i64)>, StoreError> {
        const NAME: &str = "event_place";
        let row = run!(self, NAME, |connection| sqlx::query!(
            "SELECT log_partition, log_offset FROM events_raw WHERE event_key = $1 AND occurred_at = $2",
            event_key.as_slice(),
            sql_time(occurred_at) as SqlTime,
        )
        .fetch_optional(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        Ok(row.map(|row| (row.log_partition, row.log_offset)))
    }

    /// A player's grants in a game, oldest first.
    pub async fn player_grants(
        &self,
        studio: &StudioId,
        game: &GameId,
        user: &UserId,
    ) -> Result<Vec<LedgerRow>, StoreError> {
        const NAME: &str = "player_grants";
        let rows = run!(self, NAME, |connection| sqlx::query!(
            r#"
            SELECT grant_id, source, reward::text AS "reward!", status,
                   earned_at AS "earned_at: SqlTime"
            FROM reward_grants
            WHERE studio_id = $1 AND game_id = $2 AND user_id = $3
            ORDER BY earned_at, grant_id
            "#,
            studio.as_str(),
            game.as_str(),
            user.as_str(),
        )
        .fetch_all(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        rows.into_iter()
            .map(|row| {
                Ok(LedgerRow {
                    grant_id: row.grant_id,
                    source: row.source,
                    reward: RawValue::from_string(row.reward).map_err(|e| corrupt(NAME, e))?,
                    status: grant_status(&row.status)
                        .ok_or_else(|| corrupt(NAME, format!("unknown status {}", row.status)))?,
                    earned_at: from_sql(row.earned_at),
                })
            })
            .collect()
    }

    /// The archived events of one partition of `game.events` with `from <= log_offset < to`, in log
    /// order. Read in windows of some thousand offsets, up to the router's cursor: offsets without
    /// an event (duplicates, dead letters, dropped days) give no row.
    pub async fn archived_events(
        &self,
        log_partition: i32,
        from: i64,
        to: i64,
    ) -> Result<Vec<EventRow>, StoreError> {
        const NAME: &str = "archived_events";
        let rows = run!(self, NAME, |connection| sqlx::query_as!(
            ArchivedEvent,
            r#"
            SELECT event_key, body_hash, event_id, studio_id, game_id, user_id, event_type,
                   event_name, studio_tier, occurred_at AS "occurred_at: SqlTime",
                   event_data::text, extra::text, ingested_at AS "ingested_at: SqlTime",
                   log_partition, log_offset, config_seq, correlation_id
            FROM events_raw
            WHERE log_partition = $1 AND log_offset >= $2 AND log_offset < $3
            ORDER BY log_offset
            "#,
            log_partition,
            from,
            to,
        )
        .fetch_all(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        rows.into_iter()
            .map(|row| {
                let offset = row.log_offset;
                row.into_event_row()
                    .map_err(|why| corrupt(NAME, format!("event {log_partition}/{offset}: {why}")))
            })
            .collect()
    }

    /// How many grants are in the ledger. Reads all of them: for tests and small databases.
    pub async fn count_grants(&self) -> Result<i64, StoreError> {
        const NAME: &str = "count_grants";
        run!(self, NAME, |connection| sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM reward_grants"#
        )
        .fetch_one(connection))
        .map_err(|failure| failure.into_store_error(NAME))
    }

    /// All lanes of a processor, by topic and partition.
    pub async fn lanes_of(&self, processor: &str) -> Result<Vec<LaneSummary>, StoreError> {
        const NAME: &str = "lanes_of";
        let rows = run!(self, NAME, |connection| sqlx::query!(
            r#"
            SELECT topic, partition, epoch, next_offset, octet_length(outbox) AS "outbox_bytes!",
                   updated_at AS "updated_at: SqlTime"
            FROM lanes WHERE processor = $1
            ORDER BY topic, partition
            "#,
            processor
        )
        .fetch_all(connection))
        .map_err(|failure| failure.into_store_error(NAME))?;
        Ok(rows
            .into_iter()
            .map(|row| LaneSummary {
                topic: row.topic,
                partition: row.partition,
                epoch: row.epoch,
                next_offset: row.next_offset,
                outbox_bytes: row.outbox_bytes,
                updated_at: from_sql(row.updated_at),
            })
            .collect())
    }
}

struct ArchivedEvent {
    event_key: Vec<u8>,
    body_hash: Vec<u8>,
    event_id: String,
    studio_id: String,
    game_id: String,
    user_id: String,
    event_type: String,
    event_name: Option<String>,
    studio_tier: String,
    occurred_at: SqlTime,
    event_data: Option<String>,
    extra: Option<String>,
    ingested_at: SqlTime,
    log_partition: i32,
    log_offset: i64,
    config_seq: i64,
    correlation_id: Option<String>,
}

impl ArchivedEvent {
    fn into_event_row(self) -> Result<EventRow, String> {
        let id = |e: IdError| format!("an id {e}");
        let json = |e: serde_json::Error| e.to_string();
        let ingested_at = from_sql(self.ingested_at);
        // In the order JSONB keeps them, which is not the client's.
        let extra: Vec<(String, Box<RawValue>)> = match self.extra {
            None => Vec::new(),
            Some(text) => serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(&text)
                .map_err(json)?
                .into_iter()
                .collect(),
        };
        Ok(EventRow {
            event: Arc::new(GameEvent {
                event_type: EventType::parse(&self.event_type)
                    .ok_or_else(|| format!("unknown event type {}", self.event_type))?,
                event_name: self.event_name,
                user_id: UserId::new(self.user_id).map_err(id)?,
                game_id: GameId::new(self.game_id).map_err(id)?,
                timestamp: from_sql(self.occurred_at),
                event_id: EventId::new(self.event_id).map_err(id)?,
                studio_id: StudioId::new(self.studio_id).map_err(id)?,
                studio_tier: self.studio_tier,
                ingested_at: Some(ingested_at),
                metadata: self
                    .event_data
                    .map(RawValue::from_string)
                    .transpose()
                    .map_err(json)?,
                extra,
            }),
            event_key: self
                .event_key
                .try_into()
                .map_err(|_| "event_key is not of 16 bytes".to_owned())?,
            body_hash: self
                .body_hash
                .try_into()
                .map_err(|_| "body_hash is not of 16 bytes".to_owned())?,
            ingested_at,
            log_partition: self.log_partition,
            log_offset: self.log_offset,
            config_seq: self.config_seq,
            correlation_id: self.correlation_id,
        })
    }
}
