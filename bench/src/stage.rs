//! Servers, a database, topics and a studio for the length of a figure, and the processes on them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bm_contracts::{GameId, Topic};
use bm_kafka::KafkaConfig;
use bm_storage::{Storage, StorageConfig};
use bm_testkit::process::{ProcessPlan, binary};
use bm_testkit::{Process, Server, TestDatabase, TestTopics, free_port, unique};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;

use crate::Options;

/// A release build that finds its servers starts in less.
const READY: Duration = Duration::from_mins(1);

/// Everything a pipeline needs, of its own.
pub(crate) struct Stage {
    /// Its topics.
    pub(crate) topics: TestTopics,
    /// Its database.
    pub(crate) database: TestDatabase,
    /// For looking into it.
    pub(crate) pool: PgPool,
    /// The same, as tools look into it.
    pub(crate) storage: Storage,
    redis: Server,
    /// The studio's client key.
    pub(crate) key: String,
    studio: String,
    /// The studio's game.
    pub(crate) game: GameId,
    folder: TempDir,
    /// For the services, besides what they need.
    settings: Vec<(String, String)>,
}

impl Stage {
    /// With a studio whose limits are beyond what one machine can send, and a game.
    pub(crate) async fn new(options: &Options) -> Self {
        // A large future, which those who wait for it need not hold in themselves.
        Box::pin(Self::set_up(options.settings.clone())).await
    }

    async fn set_up(settings: Vec<(String, String)>) -> Self {
        let topics = TestTopics::registry().await;
        let database = TestDatabase::with_schema().await;
        let pool = database.pool(4).await;
        let config = StorageConfig::for_url("bench", &database.url(), 2);
        let storage = Storage::connect_lazily(&config.expect("a bench's database URL is one"));
        let (studio, key) = (unique("studio"), unique("key"));
        let game = unique("game");
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let studios = json!({"studios": [{
            "id": studio, "name": "Bench", "tier": "enterprise", "subscriptionStatus": "active",
            "apiKey": key,
            "rateLimit": {
                "requestsPerMinute": 100_000_000, "burst": 10_000_000,
                "eventsPerMinute": 1_000_000_000, "eventsBurst": 100_000_000,
                "playerEventsPerMinute": 100_000_000,
            },
        }]});
        std::fs::write(folder.path().join("studios.json"), studios.to_string())
            .expect("the studios file can be written");
        let stage = Self {
            topics,
            database,
            pool,
            storage,
            redis: Server::redis().await,
            key,
            studio: studio.clone(),
            game: GameId::new(game.as_str()).expect("a made-up game id is one"),
            folder,
            settings,
        };
        stage
            .apply(&json!({"games": [{"gameId": game, "studioId": studio, "name": "Bench"}]}))
            .await;
        stage
    }

    /// Saves definitions.
    pub(crate) async fn apply(&self, definitions: &Value) {
        let file = bm_domain::definition::parse_file(definitions.to_string().as_bytes())
            .unwrap_or_else(|faults| panic!("{definitions} is at fault: {faults:?}"));
        Box::pin(self.storage.apply(&file))
            .await
            .expect("definitions can be saved");
    }

    /// Saves `count` quests that count events of `kind`, and never end.
    pub(crate) async fn quests(&self, kind: &str, count: usize, target: u64) {
        let quests: Vec<Value> = (0..count)
            .map(|n| {
                json!({
                    "gameId": self.game, "questId": format!("{kind}-{n}"), "name": "A quest",
                    "conditions": {"eventType": "custom", "eventName": kind, "progressType": "count",
                                   "target": target},
                    "rewards": [],
                })
            })
            .collect();
        for some in quests.chunks(200) {
            self.apply(&json!({"quests": some})).await;
        }
    }

    /// Starts a service's own binary and waits until it is ready.
    pub(crate) async fn start(&self, service: &str) -> Process {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let listen = if service == "gateway" {
            "BM_LISTEN_ADDR"
        } else {
            "BM_OPS_ADDR"
        };
        let plan = ProcessPlan::new(service, port)
            .env("REDPANDA_BROKERS", self.topics.brokers())
            .env("BM_TOPIC_PREFIX", self.topics.prefix())
            .env("RDS_CONNECTION_STRING", self.database.url())
            .env("REDIS_URL", self.redis.url())
            .env("BM_STUDIOS_FILE", self.folder.path().join("studios.json"))
            .env("BM_LOG", "warn")
            .env(listen, address)
            .envs(self.settings.iter().cloned());
        let mut process = plan.spawn();
        process.wait_ready(READY).await;
        process
    }

    /// Starts another program that listens on the port it is given, and waits until it does.
    pub(crate) async fn start_other(
        program: &str,
        arguments: impl Fn(u16) -> Vec<String>,
    ) -> (Process, SocketAddr) {
        let port = free_port();
        let path = if program.contains('/') {
            program.into()
        } else {
            binary(program)
        };
        let plan = arguments(port)
            .into_iter()
            .fold(ProcessPlan::program(path, port), ProcessPlan::arg);
        let process = plan.spawn();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        bm_testkit::eventually(READY, "a server that listens", || async {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
        (process, address)
    }

    /// Where a process listens.
    pub(crate) fn address(process: &Process) -> SocketAddr {
        process
            .address()
            .parse()
            .expect("a process's address is one")
    }

    /// The broker and its topics.
    pub(crate) fn kafka(&self) -> KafkaConfig {
        KafkaConfig {
            names: self.topics.names(),
            ..KafkaConfig::plaintext(self.topics.brokers())
        }
    }

    /// Full name of a topic.
    pub(crate) fn topic(&self, topic: Topic) -> String {
        self.topics.full(topic.name())
    }

    /// Brings what was written to disk, so that whoever is measured next begins without that burden,
    /// and the statistics up to date.
    pub(crate) async fn settle(&self) {
        for statement in ["CHECKPOINT", "VACUUM ANALYZE events_raw, quest_progress"] {
            sqlx::query(statement)
                .execute(&self.pool)
                .await
                .expect("the database can be tended");
        }
    }

    /// Adds rows to events_raw, of today and of this game, as if they had come before everything
    /// else: in each partition of the log from offset `-rows / 10` on.
    pub(crate) async fn archive(&self, rows: i64) {
        sqlx::query("SELECT events_raw_ensure_partitions(current_date - 16, current_date + 1)")
            .execute(&self.pool)
            .await
            .expect("days can be made");
        sqlx::query(
            "INSERT INTO events_raw (event_key, occurred_at, body_hash, event_id, studio_id,
                 game_id, user_id, event_type, event_name, studio_tier, event_data, ingested_at,
                 log_partition, log_offset, config_seq, correlation_id)
             SELECT substring(sha256(n::text::bytea) FOR 16), now() - n * interval '1 ms',
                    substring(sha256(n::text::bytea) FROM 17), 'evt_' || gen_random_uuid(), $2, $3,
                    'player-' || n * 17 % 20000, 'custom', 'archived', 'enterprise', $4::jsonb, now(),
                    n % 10, n / 10 - $1 / 10, 1, gen_random_uuid()
             FROM generate_series(0, $1 - 1) AS n",
        )
        .bind(rows)
        .bind(&self.studio)
        .bind(self.game.as_str())
        .bind(r#"{"map":"forest","weapon":"bow","damage":12.5,"streak":3,"position":{"x":10,"y":-4}}"#)
        .execute(&self.pool)
        .await
        .expect("rows can be added");
        self.settle().await;
    }

    /// Waits until router and quest processor have applied all events that are in the log. All of
    /// them must be about a quest, so that the router passes each on.
    pub(crate) async fn caught_up(&self, deadline: Duration) {
        let events = self.records(Topic::GameEvents).await;
        for service in ["event-router", "quest-processor"] {
            self.reach(service, events, deadline).await;
        }
    }

    /// Waits until the lanes of a processor are at least so far, and says how far they are.
    pub(crate) async fn reach(&self, processor: &str, events: i64, limit: Duration) -> i64 {
        let begun = Instant::now();
        loop {
            let done = self.cursors(processor).await;
            if done >= events {
                return done;
            }
            assert!(
                begun.elapsed() < limit,
                "{processor} is at {done} of {events} after {limit:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How often events have counted for quests, by all players' progress together.
    pub(crate) async fn counted(&self) -> i64 {
        sqlx::query_scalar(
            "SELECT coalesce(sum((progress->>'current')::bigint), 0)::bigint FROM quest_progress",
        )
        .fetch_one(&self.pool)
        .await
        .expect("progress can be read")
    }

    /// How far the lanes of a processor are, all cursors together.
    pub(crate) async fn cursors(&self, processor: &str) -> i64 {
        sqlx::query_scalar(
            "SELECT coalesce(sum(next_offset), 0)::bigint FROM lanes WHERE processor = $1",
        )
        .bind(processor)
        .fetch_one(&self.pool)
        .await
        .expect("lanes can be read")
    }

    /// How many records a topic holds.
    pub(crate) async fn records(&self, topic: Topic) -> i64 {
        let fetcher =
            bm_kafka::Fetcher::new(&self.kafka(), "bench", topic).expect("a reader can be made");
        let partitions = fetcher.partition_count().await.expect("the broker answers");
        let mut records = 0;
        for partition in 0..partitions {
            let (low, high) = fetcher
                .watermarks(partition)
                .await
                .expect("the broker answers");
            records += high - low;
        }
        records
    }
}
