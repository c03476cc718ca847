//! Who keeps row versions is found, whatever keeps them.

use bm_storage::snapshots::{HolderKind, SnapshotHolder};
use bm_storage::{Storage, StorageConfig};
use bm_testkit::{Server, TestDatabase};
use sqlx::PgPool;

use crate::support::Fixture;

async fn sessions(fixture: &Fixture) -> Vec<SnapshotHolder> {
    let mut holders = fixture.storage.snapshot_holders().await.unwrap();
    // Tests of other databases share the server and its slots.
    holders.retain(|holder| holder.kind == HolderKind::Session);
    holders
}

async fn execute(pool: &PgPool, statements: &[&'static str]) {
    let mut session = pool.acquire().await.unwrap();
    for statement in statements {
        sqlx::raw_sql(*statement)
            .execute(&mut *session)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn an_open_transaction_that_reads_or_has_written_is_found() {
    let fixture = Fixture::new().await;
    assert_eq!(sessions(&fixture).await, []);
    let mut reader = fixture.pool.begin().await.unwrap();
    for statement in [
        "SET application_name = 'a report'",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SELECT count(*) FROM lanes",
    ] {
        sqlx::query(statement).execute(&mut *reader).await.unwrap();
    }
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *reader)
        .await
        .unwrap();
    let [holder] = &sessions(&fixture).await[..] else {
        panic!("one holder");
    };
    assert_eq!(holder.name, pid.to_string());
    assert_eq!(holder.application, "a report");
    assert_eq!(holder.state, "idle in transaction");
    assert!(holder.age.is_some_and(|age| !age.is_zero()));
    assert!(!holder.is_harmful());
    reader.rollback().await.unwrap();

    // It has no snapshot between its statements, and keeps what its own id keeps.
    let mut writer = fixture.pool.begin().await.unwrap();
    sqlx::query("INSERT INTO studios_last_known (saved_at, snapshot) VALUES (now(), '{}')")
        .execute(&mut *writer)
        .await
        .unwrap();
    for _ in 0..3 {
        execute(&fixture.pool, &["SELECT txid_current()"]).await;
    }
    let [holder] = &sessions(&fixture).await[..] else {
        panic!("one holder");
    };
    assert!(holder.transactions >= 3, "{holder}");
    writer.rollback().await.unwrap();
    assert_eq!(sessions(&fixture).await, []);
}

#[tokio::test]
async fn prepared_transactions_and_replication_slots_are_found() {
    let mut server = Server::postgres().await;
    // A database of its own name: dropped with the server.
    let database = TestDatabase::with_schema_on(&server.url()).await;
    let pool = database.pool(2).await;
    execute(
        &pool,
        &[
            "ALTER SYSTEM SET max_prepared_transactions = 2",
            "ALTER SYSTEM SET wal_level = logical",
        ],
    )
    .await;
    pool.close().await;
    server.stop().await;
    server.start_again().await;

    let pool = database.pool(2).await;
    execute(
        &pool,
        &[
            "BEGIN",
            "INSERT INTO studios_last_known (saved_at, snapshot) VALUES (now(), '{}')",
            "PREPARE TRANSACTION 'left behind'",
        ],
    )
    .await;
    let storage =
        Storage::connect_lazily(&StorageConfig::for_url("test", &database.url(), 2).unwrap());
    let holders = storage.snapshot_holders().await.unwrap();
    let [holder] = &holders[..] else {
        panic!("one holder: {holders:?}");
    };
    assert_eq!(holder.kind, HolderKind::Prepared);
    assert_eq!(holder.name, "left behind");
    assert!(holder.age.is_some_and(|age| !age.is_zero()));
    assert!(holder.advice().contains("ROLLBACK PREPARED 'left behind'"));
    execute(
        &pool,
        &[
            "ROLLBACK PREPARED 'left behind'",
            "SELECT pg_create_logical_replication_slot('forgotten', 'test_decoding')",
            "SELECT txid_current()",
        ],
    )
    .await;
    let holders = storage.snapshot_holders().await.unwrap();
    let [holder] = &holders[..] else {
        panic!("one holder: {holders:?}");
    };
    assert_eq!(holder.kind, HolderKind::SlotCatalog);
    assert_eq!(
        (holder.name.as_str(), holder.state.as_str(), holder.age),
        ("forgotten", "not being read", None)
    );
    assert!(holder.transactions >= 1, "{holder}");
    assert!(holder.to_string().contains("test_decoding"), "{holder}");
    storage.close().await;
}

#[tokio::test]
async fn another_roles_session_is_found_though_its_state_is_not_shown() {
    let server = Server::postgres().await;
    let database = TestDatabase::with_schema_on(&server.url()).await;
    let pool = database.pool(2).await;
    execute(&pool, &["CREATE ROLE watcher LOGIN"]).await;
    let url = database.url().replace("//brightmatter@", "//watcher@");
    let config = StorageConfig::for_url("watcher", &url, 2).unwrap();
    let storage = Storage::connect_lazily(&config);
    let mut reader = pool.begin().await.unwrap();
    for statement in [
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SELECT count(*) FROM lanes",
    ] {
        sqlx::query(statement).execute(&mut *reader).await.unwrap();
    }
    let holders = storage.snapshot_holders().await.unwrap();
    let [holder] = &holders[..] else {
        panic!("one holder: {holders:?}");
    };
    assert_eq!(holder.kind, HolderKind::Session);
    assert_eq!(holder.state, "state not shown");
    reader.rollback().await.unwrap();
    assert_eq!(storage.snapshot_holders().await.unwrap(), []);
}
