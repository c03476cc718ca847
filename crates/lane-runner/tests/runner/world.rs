//! A runner with all it needs, and what it has done.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bm_contracts::messages::{DeadLetter, RewardEvent};
use bm_contracts::partition::{partition_for, player_key};
use bm_contracts::{GameId, StudioId, Timestamp, Topic, UserId, hash};
use bm_domain::reward::RewardDomain;
use bm_kafka::KafkaConfig;
use bm_lane_runner::{Runner, RunnerConfig, RunnerError, RunnerStatus};
use bm_storage::{LaneTable, RewardStore, Storage, StorageConfig};
use bm_testkit::{TestDatabase, TestTopics, eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::faulty::Faulty;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const PARTITIONS: i32 = 5;

/// A database, topics, and one runner of the reward domain over a [`Faulty`] store.
pub(crate) struct World {
    pub(crate) topics: TestTopics,
    pub(crate) database: TestDatabase,
    pub(crate) storage: Storage,
    pub(crate) store: Faulty,
    pub(crate) status: Arc<RunnerStatus>,
    pub(crate) stop: CancellationToken,
    pub(crate) runner: Option<JoinHandle<Result<(), RunnerError>>>,
    pub(crate) sent: BTreeSet<String>,
    /// Most records of a batch.
    pub(crate) batch: usize,
    /// Most batches at a time.
    pub(crate) workers: usize,
    /// How long a statement may take.
    pub(crate) statement_timeout: Duration,
}

impl World {
    pub(crate) async fn new() -> Self {
        let topics = TestTopics::registry().await;
        let database = TestDatabase::with_schema().await;
        let storage = Storage::connect_lazily(
            &StorageConfig::for_url("runner-test", &database.url(), 8).unwrap(),
        );
        let store = Faulty::around(RewardStore::new(storage.clone()));
        Self {
            topics,
            database,
            storage,
            store,
            status: Arc::default(),
            stop: CancellationToken::new(),
            runner: None,
            sent: BTreeSet::new(),
            batch: 1_000,
            workers: 2,
            statement_timeout: Duration::from_secs(15),
        }
    }

    pub(crate) fn start(&mut self) {
        self.status = Arc::default();
        self.stop = CancellationToken::new();
        self.runner = Some(self.run(&self.store, &self.status, &self.stop));
    }

    /// A runner over this world, until `stop`.
    pub(crate) fn run(
        &self,
        store: &Faulty,
        status: &Arc<RunnerStatus>,
        stop: &CancellationToken,
    ) -> JoinHandle<Result<(), RunnerError>> {
        let get = |name: &str| match name {
            "REDPANDA_BROKERS" => Some(self.topics.brokers().to_owned()),
            "BM_TOPIC_PREFIX" => Some(self.topics.prefix().to_owned()),
            "BM_WORKERS" => Some(self.workers.to_string()),
            "BM_BATCH_RECORDS" => Some(self.batch.to_string()),
            "CONSUMER_GROUP" => Some(format!("{}rewards", self.topics.prefix())),
            _ => None,
        };
        let mut config = RunnerConfig::from_vars("reward-processor", get).unwrap();
        config.statement_timeout = self.statement_timeout;
        let runner = Runner {
            domain: Arc::new(RewardDomain),
            store: Arc::new(store.clone()),
            lanes: LaneTable::new(self.storage.clone()),
            kafka: KafkaConfig::from_vars(get).unwrap(),
            config,
            now: Arc::new(|| Timestamp::clamped(0)),
            status: Arc::clone(status),
        };
        tokio::spawn(runner.run(stop.clone()))
    }

    /// How the runner ends, which nobody told to.
    pub(crate) async fn ended(&mut self) -> Result<(), RunnerError> {
        let runner = self.runner.take().expect("one was started");
        ended(runner).await
    }

    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(runner) = self.runner.take() {
            ended(runner).await.unwrap();
        }
    }

    /// Appends a grant for player `user`, and expects it in the ledger.
    pub(crate) async fn grant(&mut self, user: &str, index: usize) -> i32 {
        self.grant_of(user, index, r#"{"type":"coins"}"#).await
    }

    /// The same for a reward of any size.
    pub(crate) async fn grant_of(&mut self, user: &str, index: usize, reward: &str) -> i32 {
        let (grant_id, key, value) = granted(user, index, reward);
        let partition = partition_for(key.as_bytes(), PARTITIONS);
        self.sent.insert(grant_id);
        self.produce(partition, &key, &value).await;
        partition
    }

    pub(crate) async fn produce(&self, partition: i32, key: &str, value: &[u8]) {
        self.topics
            .produce(
                Topic::RewardEvents.name(),
                partition,
                Some(key.as_bytes()),
                Some(value),
                &[],
            )
            .await;
    }

    pub(crate) async fn ledger(&self) -> i64 {
        self.storage.count_grants().await.unwrap()
    }

    pub(crate) async fn await_ledger(&self, rows: i64) {
        eventually(DEADLINE, "the rows of the ledger", || async {
            (self.ledger().await == rows).then_some(())
        })
        .await;
    }

    /// The distinct grants announced on `reward.status`.
    pub(crate) async fn announced(&self) -> BTreeSet<String> {
        let records = self.topics.read_all(Topic::RewardStatus.name()).await;
        records
            .iter()
            .map(|record| record.json()["grantId"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) async fn await_announced(&self, count: usize) {
        eventually(DEADLINE, "the announcements", || async {
            (self.announced().await.len() == count).then_some(())
        })
        .await;
    }

    pub(crate) async fn dead_letters(&self) -> Vec<DeadLetter> {
        let records = self.topics.read_all(Topic::DeadLetter.name()).await;
        records
            .iter()
            .map(|record| serde_json::from_value(record.json()).unwrap())
            .collect()
    }
}

/// How a runner ends that should within the time there is.
pub(crate) async fn ended(runner: JoinHandle<Result<(), RunnerError>>) -> Result<(), RunnerError> {
    tokio::time::timeout(DEADLINE, runner)
        .await
        .expect("the runner ends")
        .expect("the runner does not panic")
}

/// A player whose grants go to this lane.
pub(crate) fn of_lane(lane: i32) -> String {
    let is_of_lane = |n: &u32| {
        let (_, key, _) = grant(&format!("p{n}"), 0);
        partition_for(key.as_bytes(), PARTITIONS) == lane
    };
    format!("p{}", (0..1_000).find(is_of_lane).unwrap())
}

/// A grant for player `user`: its id, its partition key, and the message.
pub(crate) fn grant(user: &str, index: usize) -> (String, String, Vec<u8>) {
    granted(user, index, r#"{"type":"coins"}"#)
}

pub(crate) fn granted(user: &str, index: usize, reward: &str) -> (String, String, Vec<u8>) {
    let (studio, game, user) = (
        StudioId::new("s").unwrap(),
        GameId::new("g").unwrap(),
        UserId::new(user).unwrap(),
    );
    let event = RewardEvent {
        grant_id: hash::grant_id(&studio, &game, "quest_q", "", &user, index),
        source: "quest_q".to_owned(),
        reward: serde_json::value::RawValue::from_string(reward.to_owned()).unwrap(),
        timestamp: Timestamp::clamped(1_000),
        studio_id: studio,
        game_id: game,
        user_id: user,
    };
    let key = player_key(&event.game_id, &event.user_id);
    let value = serde_json::to_vec(&event).unwrap();
    (event.grant_id, key, value)
}
