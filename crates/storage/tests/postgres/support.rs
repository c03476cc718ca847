//! What the tests share: a database of each test's own, and rows to put into it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bm_contracts::messages::GrantStatus;
use bm_contracts::{
    EventId, EventType, GameEvent, GameId, QuestId, StudioId, Timestamp, Topic, UserId, hash,
};
use bm_domain::Amount;
use bm_domain::definition::{DefinitionFile, parse_file};
use bm_domain::quest::{QuestDomain, QuestKey, QuestState};
use bm_domain::reward::{GrantId, GrantRow, RewardDomain};
use bm_domain::routing::{EventKey, EventRow, RouterDomain};
use bm_engine::lane::{LaneMove, LaneRow, LastRecord};
use bm_engine::{Domain, Watermarks};
use bm_storage::{
    CommitError, LaneStore, LaneTable, QuestStore, RewardStore, RouterStore, Storage, StorageConfig,
};
use bm_testkit::TestDatabase;
use serde_json::json;
use serde_json::value::RawValue;
use sqlx::PgPool;

/// 2026-03-04T05:06:07.890Z
pub(crate) const NOW: Timestamp = Timestamp::clamped(1_772_600_767_890);

/// A database of a test's own, and the storage under test on it.
pub(crate) struct Fixture {
    // Fields drop in order: the pools let go before the database is dropped.
    pub(crate) storage: Storage,
    pub(crate) lanes: LaneTable,
    /// To look at, and to interfere.
    pub(crate) pool: PgPool,
    pub(crate) database: TestDatabase,
}

impl Fixture {
    /// With the schema, and the event days around [`NOW`].
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::with_schema().await;
        let fixture = Self::on(database, |url| {
            StorageConfig::for_url("storage-test", url, 12).unwrap()
        })
        .await;
        fixture.storage.ensure_event_days(NOW).await.unwrap();
        fixture
    }

    /// With settings made from the database's URL.
    pub(crate) async fn on(
        database: TestDatabase,
        config: impl FnOnce(&str) -> StorageConfig,
    ) -> Self {
        let storage = Storage::connect_lazily(&config(&database.url()));
        Self {
            lanes: LaneTable::new(storage.clone()),
            pool: database.pool(4).await,
            storage,
            database,
        }
    }

    /// Makes the lanes of a domain, all at offset 0.
    pub(crate) async fn make_lanes<D: Domain>(&self, partitions: usize) {
        self.lanes
            .create(D::PROCESSOR, D::INPUT, &vec![0; partitions])
            .await
            .unwrap();
    }

    pub(crate) async fn take<D: Domain>(&self, partition: i32) -> LaneRow {
        self.lanes
            .take(D::PROCESSOR, D::INPUT, partition)
            .await
            .unwrap()
            .expect("the lane has a row")
    }

    pub(crate) fn router(&self) -> RouterStore {
        RouterStore::new(self.storage.clone())
    }

    pub(crate) fn quests(&self) -> QuestStore {
        QuestStore::new(self.storage.clone())
    }

    pub(crate) fn rewards(&self) -> RewardStore {
        RewardStore::new(self.storage.clone())
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// A game with one quest; gives the quest's key for a player.
    pub(crate) async fn quest_key(&self, user: &str) -> QuestKey {
        self.storage
            .apply(&definitions("game", &["quest"], 5))
            .await
            .unwrap();
        let row = self
            .storage
            .quest(
                &GameId::new("game").unwrap(),
                &QuestId::new("quest").unwrap(),
            )
            .await
            .unwrap()
            .expect("the quest was saved");
        QuestKey {
            quest: row.id,
            user: UserId::new(user).unwrap(),
        }
    }
}

/// A file of one game with these quests.
pub(crate) fn definitions(game: &str, quests: &[&str], target: i64) -> DefinitionFile {
    let quests: Vec<_> = quests
        .iter()
        .map(|quest| {
            json!({
                "gameId": game, "questId": quest, "name": "A quest",
                "conditions": {"eventType": "match_end", "progressType": "count", "target": target},
                "rewards": [{"type": "coins", "amount": 1.50}],
                "startDate": "2026-01-01T00:00:00Z",
            })
        })
        .collect();
    let file = json!({
        "games": [{"gameId": game, "studioId": "studio", "name": "A game"}],
        "quests": quests,
    });
    parse_file(file.to_string().as_bytes()).unwrap()
}

/// Moves a lane from where it was taken by one record.
pub(crate) fn step(partition: i32, row: &LaneRow) -> LaneMove {
    LaneMove {
        partition,
        epoch: row.epoch,
        expected_offset: row.next_offset,
        next_offset: row.next_offset + 1,
        watermarks: Watermarks::default().encode(),
        outbox: Vec::new(),
        last_record: LastRecord {
            timestamp: NOW,
            hash: 42,
        },
    }
}

pub(crate) fn event_row(event_id: &str, metadata: &str) -> EventRow {
    let event = GameEvent {
        event_type: EventType::Custom,
        event_name: Some("boss".to_owned()),
        user_id: UserId::new("player é").unwrap(),
        game_id: GameId::new("game").unwrap(),
        timestamp: NOW,
        event_id: EventId::new(event_id).unwrap(),
        studio_id: StudioId::new("studio").unwrap(),
        studio_tier: "pro".to_owned(),
        ingested_at: Some(NOW.saturating_add_millis(7)),
        metadata: Some(RawValue::from_string(metadata.to_owned()).unwrap()),
        extra: vec![(
            "build".to_owned(),
            RawValue::from_string("12.50".to_owned()).unwrap(),
        )],
    };
    EventRow {
        event_key: hash::event_key(
            &event.studio_id,
            &event.game_id,
            &event.user_id,
            &event.event_id,
        ),
        body_hash: hash::body_hash(&event),
        event: Arc::new(event),
        ingested_at: NOW.saturating_add_millis(7),
        log_partition: 3,
        log_offset: 99,
        config_seq: 4,
        correlation_id: Some("corr".to_owned()),
    }
}

pub(crate) fn event_key(row: &EventRow) -> EventKey {
    EventKey {
        occurred_at: row.event.timestamp,
        event_key: row.event_key,
    }
}

pub(crate) fn grant_row(n: u8) -> GrantRow {
    GrantRow {
        grant_id: GrantId::new(format!("grt_{n:032x}")).unwrap(),
        studio_id: StudioId::new("studio").unwrap(),
        game_id: GameId::new("game").unwrap(),
        user_id: UserId::new("player").unwrap(),
        source: "quest_quest".to_owned(),
        reward: RawValue::from_string(r#"{"type": "coins", "amount": 0.10}"#.to_owned()).unwrap(),
        status: GrantStatus::Pending,
        earned_at: NOW,
        correlation_id: None,
    }
}

pub(crate) fn quest_state(current: &str, items: &[&str]) -> QuestState {
    QuestState {
        studio_id: StudioId::new("studio").unwrap(),
        current: current.parse::<Amount>().unwrap(),
        target: Amount::from(5),
        items: items.iter().map(|item| (*item).to_owned()).collect(),
        completed_at: None,
        version: 1,
        last_updated: NOW,
    }
}

pub(crate) async fn commit_events(
    store: &RouterStore,
    lanes: &[LaneMove],
    rows: &[EventRow],
) -> Result<(), CommitError> {
    LaneStore::<RouterDomain>::commit(store, lanes, &BTreeMap::new(), rows).await
}

pub(crate) async fn commit_grants(
    store: &RewardStore,
    lanes: &[LaneMove],
    rows: &[GrantRow],
) -> Result<(), CommitError> {
    LaneStore::<RewardDomain>::commit(store, lanes, &BTreeMap::new(), rows).await
}

pub(crate) async fn commit_progress(
    store: &QuestStore,
    lanes: &[LaneMove],
    states: &BTreeMap<QuestKey, QuestState>,
) -> Result<(), CommitError> {
    LaneStore::<QuestDomain>::commit(store, lanes, states, &[]).await
}

/// The router's processor and topic, which tests of lanes alone use.
pub(crate) const ROUTER: (&str, Topic) = (RouterDomain::PROCESSOR, RouterDomain::INPUT);

impl Fixture {
    /// Until a session of this database waits for a lock.
    pub(crate) async fn until_somebody_waits_for_a_lock(&self) {
        bm_testkit::eventually(
            std::time::Duration::from_secs(10),
            "a session that waits for a lock",
            || async {
                let waits: bool = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT FROM pg_stat_activity \
                     WHERE datname = current_database() AND wait_event_type = 'Lock')",
                )
                .fetch_one(&self.pool)
                .await
                .unwrap();
                waits.then_some(())
            },
        )
        .await;
    }
}

impl Fixture {
    /// Ends the sessions of an application, as a failover does.
    pub(crate) async fn end_sessions_of(&self, application: &str) {
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = $1",
        )
        .bind(application)
        .execute(&self.pool)
        .await
        .unwrap();
    }
}
