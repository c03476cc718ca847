//! The pool's connections: the state each is brought into, what they cost, and how they end.

use std::time::{Duration, Instant};

use bm_storage::{Storage, StorageConfig};
use bm_testkit::{TcpProxy, TestDatabase, eventually};
use sqlx::{Connection, PgPool};

use crate::failures::server_address;
use crate::support::{Fixture, ROUTER};

const DEADLINE: Duration = Duration::from_secs(20);
/// A lock with which a test holds up whoever makes lanes.
const GATE: i64 = 1;

/// Lets the function of making lanes tell the settings of the session it is called in.
async fn tell_settings(pool: &PgPool) {
    sqlx::raw_sql(
        "CREATE TABLE told (pid int, synchronous_commit text, idle_timeout text, statement_timeout text, zone text);
         CREATE OR REPLACE FUNCTION lanes_create(p_processor text, p_topic text, p_earliest bigint[]) RETURNS integer
         LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_advisory_xact_lock_shared(1);
             INSERT INTO told SELECT pg_backend_pid(), current_setting('synchronous_commit'),
                 current_setting('idle_in_transaction_session_timeout'),
                 current_setting('statement_timeout'), current_setting('TimeZone');
             RETURN 0;
         END $$;",
    )
    .execute(pool)
    .await
    .unwrap();
}

/// What `connections` sessions of the pool tell, all of them held at once.
async fn told(fixture: &Fixture, connections: usize) -> Vec<[String; 4]> {
    tell_settings(&fixture.pool).await;
    let mut gate = fixture.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(GATE)
        .execute(&mut *gate)
        .await
        .unwrap();
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let lanes = fixture.lanes.clone();
            tokio::spawn(async move { lanes.create(ROUTER.0, ROUTER.1, &[0]).await })
        })
        .collect();
    eventually(DEADLINE, "all of the pool's connections", || async {
        (waiting(&fixture.pool).await == connections as i64).then_some(())
    })
    .await;
    sqlx::query("SELECT pg_advisory_unlock($1)")
        .bind(GATE)
        .execute(&mut *gate)
        .await
        .unwrap();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let rows: Vec<(String, String, String, String)> = sqlx::query_as(
        "SELECT synchronous_commit, idle_timeout, statement_timeout, zone FROM told ORDER BY pid",
    )
    .fetch_all(&fixture.pool)
    .await
    .unwrap();
    rows.into_iter().map(|(a, b, c, d)| [a, b, c, d]).collect()
}

async fn waiting(pool: &PgPool) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name = 'storage-test' AND wait_event_type = 'Lock'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn every_connection_commits_to_disk_and_is_bounded() {
    for (server, kept, timeout, shown) in [
        ("off", "on", Duration::from_secs(5), "5s"),
        ("local", "on", Duration::from_millis(1_500), "1500ms"),
        ("remote_apply", "remote_apply", Duration::from_secs(7), "7s"),
    ] {
        let database = TestDatabase::with_schema().await;
        let admin = database.pool(1).await;
        let statement = format!(
            "ALTER DATABASE {0} SET synchronous_commit = {server}; \
             ALTER DATABASE {0} SET statement_timeout = 0; \
             ALTER DATABASE {0} SET idle_in_transaction_session_timeout = 0; \
             ALTER DATABASE {0} SET TimeZone = 'Asia/Tokyo'",
            database.name()
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&admin)
            .await
            .unwrap();
        let fixture = Fixture::on(database, |url| {
            let mut config = StorageConfig::for_url("storage-test", url, 3).unwrap();
            config.timeout = timeout;
            config
        })
        .await;
        let expected = [kept, "5s", shown, "UTC"].map(str::to_owned);
        assert_eq!(told(&fixture, 3).await, vec![expected; 3]);
    }
}

#[tokio::test]
async fn a_connection_that_dropped_old_days_has_its_usual_limit_again() {
    let fixture = Fixture::on(TestDatabase::with_schema().await, |url| {
        StorageConfig::for_url("storage-test", url, 1).unwrap()
    })
    .await;
    fixture
        .storage
        .drop_old_event_days(crate::support::NOW, 16)
        .await
        .unwrap();
    let [[.., limit, _]] = &told(&fixture, 1).await[..] else {
        panic!("one session");
    };
    assert_eq!(limit, "5s");
}

#[tokio::test]
async fn a_statement_costs_one_round_trip() {
    const STATEMENTS: u32 = 20;
    let database = TestDatabase::with_schema().await;
    let proxy = TcpProxy::to(server_address()).await;
    let url = database.url_through(&proxy.address());
    let storage =
        Storage::connect_lazily(&StorageConfig::for_url("storage-test", &url, 1).unwrap());
    let mut held = sqlx::PgConnection::connect(&url).await.unwrap();
    // Statements are prepared with the first.
    storage.current_config_seq().await.unwrap();
    held.ping().await.unwrap();
    proxy.delay(Duration::from_millis(20));
    let (mut ours, mut round_trips) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..STATEMENTS {
        let begun = Instant::now();
        held.ping().await.unwrap();
        let between = Instant::now();
        storage.current_config_seq().await.unwrap();
        round_trips += between - begun;
        ours += between.elapsed();
    }
    // Asking besides whether the connection works would make it two.
    assert!(ours * 2 < round_trips * 3, "{ours:?}, {round_trips:?}");
    storage.close().await;
}

#[tokio::test]
async fn more_callers_than_connections_all_get_their_turn() {
    let fixture = Fixture::on(TestDatabase::with_schema().await, |url| {
        StorageConfig::for_url("storage-test", url, 2).unwrap()
    })
    .await;
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let storage = fixture.storage.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    storage.current_config_seq().await.unwrap();
                    // Its connection is closed while others wait for one.
                    let asked = tokio::time::timeout(Duration::from_micros(n), storage.ping());
                    let _cut_short = asked.await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let sessions: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name = 'storage-test' AND state = 'idle'",
    )
    .fetch_one(&fixture.pool)
    .await
    .unwrap();
    assert!(sessions <= 2, "{sessions}");
}

#[tokio::test]
async fn closing_does_not_wait_for_a_statement_that_takes_long() {
    let fixture = Fixture::new().await;
    // Both in hand and in the pool there is something to close.
    fixture.storage.ping().await.unwrap();
    tell_settings(&fixture.pool).await;
    let mut gate = fixture.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(GATE)
        .execute(&mut *gate)
        .await
        .unwrap();
    let lanes = fixture.lanes.clone();
    let held = tokio::spawn(async move { lanes.create(ROUTER.0, ROUTER.1, &[0]).await });
    eventually(DEADLINE, "the statement that waits", || async {
        (waiting(&fixture.pool).await == 1).then_some(())
    })
    .await;
    let begun = Instant::now();
    fixture.storage.close().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(4_500), "{took:?}");
    assert!(!held.is_finished());
    let refused = fixture.storage.ping().await.unwrap_err();
    assert!(refused.is_transient(), "{refused}");
    held.abort();
}

#[tokio::test]
async fn closing_ends_every_session() {
    let fixture = Fixture::new().await;
    fixture.storage.ping().await.unwrap();
    fixture.storage.close().await;
    eventually(DEADLINE, "no session of the pool", || async {
        let sessions: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND application_name = 'storage-test'",
        )
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
        (sessions == 0).then_some(())
    })
    .await;
}
