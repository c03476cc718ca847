//! The whole router on a real broker and database: days that are missing, and orderly ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use bm_bootstrap::{Clock, Context, Vars, metrics};
use bm_contracts::partition::{partition_for, player_key};
use bm_contracts::{GameId, Topic, UserId};
use bm_event_router::RouterError;
use bm_storage::{Storage, StorageConfig};
use bm_testkit::{TcpProxy, TestDatabase, TestEnv, TestTopics, eventually};
use serde_json::json;
use sqlx::PgPool;
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_mins(1);
/// What an orderly end may take; an orchestrator gives 30 s.
const END: Duration = Duration::from_secs(20);
const DAY: i64 = 86_400_000;
/// Taken by whoever makes day partitions.
const MAKING_DAYS: &str = "hashtextextended('events_raw_ensure_partitions', 0)";

/// Topics, a database behind a proxy, and the router on them.
struct World {
    topics: TestTopics,
    proxy: TcpProxy,
    pool: PgPool,
    storage: Storage,
    ctx: Context,
    router: Option<JoinHandle<Result<(), RouterError>>>,
    // Dropped after the pools.
    _database: TestDatabase,
}

impl World {
    async fn new(more: &[(&str, &str)]) -> Self {
        let topics = TestTopics::registry().await;
        let database = TestDatabase::with_schema().await;
        let url = &TestEnv::get().postgres;
        let server = url
            .split('@')
            .next_back()
            .unwrap()
            .split('/')
            .next()
            .unwrap();
        let proxy = TcpProxy::to(server).await;
        let vars = [
            ("REDPANDA_BROKERS", topics.brokers()),
            ("BM_TOPIC_PREFIX", topics.prefix()),
            ("CONSUMER_GROUP", &format!("{}router", topics.prefix())),
            (
                "RDS_CONNECTION_STRING",
                &database.url_through(&proxy.address()),
            ),
            // One batch at a time.
            ("BM_WORKERS", "1"),
            ("BM_OPS_ADDR", "127.0.0.1:0"),
        ];
        let vars = Vars::from_map(vars.iter().chain(more).copied());
        let clock = Clock::system();
        let recorded = metrics::install("event-router", &clock).unwrap();
        let config = StorageConfig::for_url("test", &database.url(), 2).unwrap();
        Self {
            pool: database.pool(4).await,
            storage: Storage::connect_lazily(&config),
            ctx: Context::new("event-router", vars, clock, recorded),
            topics,
            proxy,
            router: None,
            _database: database,
        }
    }

    fn start(&mut self) {
        self.router = Some(tokio::spawn(bm_event_router::run(self.ctx.clone())));
    }

    async fn until_ready(&self) {
        eventually(DEADLINE, "a router that is ready", || async {
            self.ctx.health.report().await.ready.then_some(())
        })
        .await;
    }

    /// As SIGTERM does; gives what the router ended with.
    async fn stop(&mut self) -> Result<(), RouterError> {
        self.ctx.shutdown.trip();
        let router = self.router.take().expect("it was started");
        tokio::time::timeout(END, router)
            .await
            .expect("the router ends when told to")
            .unwrap()
    }

    /// What the router says of its lanes.
    async fn lanes(&self) -> String {
        let report = self.ctx.health.report().await;
        report.checks["lanes"].detail.clone().unwrap_or_default()
    }

    /// Appends an event of `user` that happened `days` ago; gives its partition.
    async fn event(&self, user: &str, days: i64) -> i32 {
        let (game, user) = (GameId::new("game").unwrap(), UserId::new(user).unwrap());
        let event = json!({
            "eventType": "match_end", "userId": user, "gameId": game,
            "eventId": bm_testkit::unique("evt"), "studioId": "studio", "studioTier": "pro",
            "timestamp": self.ctx.clock.now().as_millis() - days * DAY, "metadata": {"score": 1},
        });
        let key = player_key(&game, &user);
        let partition = partition_for(key.as_bytes(), Topic::GameEvents.spec().partitions);
        let value = event.to_string();
        self.topics
            .produce(
                Topic::GameEvents.name(),
                partition,
                Some(key.as_bytes()),
                Some(value.as_bytes()),
                &[],
            )
            .await;
        partition
    }

    async fn kept(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM events_raw")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    async fn until_kept(&self, events: i64) {
        eventually(DEADLINE, "the events that are kept", || async {
            (self.kept().await == events).then_some(())
        })
        .await;
    }

    /// Whether one of the router's sessions runs a statement that begins so.
    async fn runs(&self, statement: &str) -> bool {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
             AND application_name = 'event-router' AND state = 'active' AND query LIKE $1 || '%')",
        )
        .bind(statement)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_day_pauses_its_lane_loses_nothing_and_goes_on_by_itself() {
    let mut world = World::new(&[]).await;
    world.start();
    world.until_ready().await;
    world.event("first", 0).await;
    world.until_kept(1).await;

    // Sixteen days from now all days before today are old.
    let later = world.ctx.clock.now().saturating_add_millis(16 * DAY);
    world.storage.drop_old_event_days(later, 16).await.unwrap();
    let stuck = world.event("stuck", 1).await;
    let (mut behind, mut others) = (0, 0);
    for n in 0..60 {
        if world.event(&format!("p{n}"), 0).await == stuck {
            behind += 1;
        } else {
            others += 1;
        }
    }
    assert!(behind > 0 && others > 0);
    world.until_kept(1 + others).await;
    eventually(DEADLINE, "the lane that is paused", || async {
        world.lanes().await.contains(" 1 stalled").then_some(())
    })
    .await;
    assert_eq!(world.kept().await, 1 + others);
    let dead = world.topics.read_all(Topic::DeadLetter.name()).await;
    assert_eq!(dead, []);

    let now = world.ctx.clock.now();
    assert!(world.storage.ensure_event_days(now).await.unwrap() > 0);
    world.until_kept(1 + others + behind + 1).await;
    eventually(DEADLINE, "no lane that is paused", || async {
        world.lanes().await.contains(" 0 stalled").then_some(())
    })
    .await;
    let dead = world.topics.read_all(Topic::DeadLetter.name()).await;
    assert_eq!(dead, []);
    world.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_told_to_stop_before_it_could_make_its_days_ends_well() {
    let mut world = World::new(&[("BM_DB_TIMEOUT", "200ms")]).await;
    let mut holder = world.pool.acquire().await.unwrap();
    let lock = format!("SELECT pg_advisory_lock({MAKING_DAYS})");
    sqlx::query(sqlx::AssertSqlSafe(lock))
        .execute(&mut *holder)
        .await
        .unwrap();
    world.start();
    eventually(DEADLINE, "a router that makes its days", || async {
        world
            .runs("SELECT events_raw_ensure_partitions")
            .await
            .then_some(())
    })
    .await;
    world.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_told_to_stop_while_the_database_is_away_ends_well() {
    let mut world = World::new(&[("BM_DB_TIMEOUT", "500ms")]).await;
    world.start();
    world.until_ready().await;
    world.proxy.silent();
    world.event("p", 0).await;
    eventually(DEADLINE, "a router that misses its database", || async {
        (!world.ctx.health.report().await.ready).then_some(())
    })
    .await;
    world.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_keeps_the_days_it_is_told_to_and_holds_up_no_end() {
    let mut world = World::new(&[("BM_EVENTS_KEEP_DAYS", "20")]).await;
    let ensure = async |back: i32| {
        let statement = "SELECT events_raw_ensure_partitions((current_date - $1)::date, (current_date - $1)::date)";
        sqlx::query(statement)
            .bind(back)
            .execute(&world.pool)
            .await
            .unwrap();
    };
    for back in [25, 22, 18] {
        ensure(back).await;
    }
    let days = async |pool: &PgPool| -> i64 {
        let count =
            "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'events_raw_p%'";
        sqlx::query_scalar(count).fetch_one(pool).await.unwrap()
    };
    // Whoever reads all days keeps the first from being dropped.
    let mut reader = world.pool.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM events_raw")
        .execute(&mut *reader)
        .await
        .unwrap();
    world.start();
    world.until_ready().await;
    eventually(DEADLINE, "upkeep that waits", || async {
        world
            .runs("ALTER TABLE events_raw DETACH")
            .await
            .then_some(())
    })
    .await;
    // Those of 16 days back to 3 ahead, and the three above.
    assert_eq!(days(&world.pool).await, 23);
    eventually(DEADLINE, "the snapshots' metric", || async {
        let text = world.ctx.metrics.render();
        let told = text.contains("# HELP bm_db_oldest_snapshot_seconds")
            && text.contains("bm_db_oldest_snapshot_transactions{holder=\"slot\"}");
        told.then_some(())
    })
    .await;
    world.stop().await.unwrap();

    // The next router finishes what this one began.
    reader.rollback().await.unwrap();
    world.ctx = Context::new(
        "event-router",
        world.ctx.vars.clone(),
        Clock::system(),
        world.ctx.metrics.clone(),
    );
    eventually(DEADLINE, "the end of the statement left behind", || async {
        (!world.runs("ALTER TABLE").await).then_some(())
    })
    .await;
    world.start();
    eventually(DEADLINE, "the old days gone", || async {
        (days(&world.pool).await == 21).then_some(())
    })
    .await;
    world.stop().await.unwrap();
}
