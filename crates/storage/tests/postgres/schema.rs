//! The schema, and the upkeep of the event days.

use bm_storage::maintenance::DroppedDays;
use bm_storage::migrate::migrate;
use bm_storage::{StorageConfig, StoreError};
use bm_testkit::TestDatabase;

use crate::support::{Fixture, NOW};

const DAY: i64 = 24 * 60 * 60 * 1_000;

fn config(url: &str) -> StorageConfig {
    StorageConfig::for_url("storage-test", url, 2).unwrap()
}

#[tokio::test]
async fn ten_may_migrate_at_once() {
    let fixture = Fixture::on(TestDatabase::new().await, config).await;
    let old = fixture.storage.check_schema().await;
    assert!(
        matches!(old, Err(StoreError::OldSchema { found: 0, .. })),
        "{old:?}"
    );
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let config = config(&fixture.database.url());
            tokio::spawn(async move { migrate(&config).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    fixture.storage.check_schema().await.unwrap();
}

#[tokio::test]
async fn an_older_schema_is_refused_and_a_newer_one_accepted() {
    let fixture = Fixture::new().await;
    fixture.storage.check_schema().await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of a later release', true, '', 0)",
    )
    .execute(&fixture.pool)
    .await
    .unwrap();
    fixture.storage.check_schema().await.unwrap();
    migrate(&config(&fixture.database.url())).await.unwrap();

    sqlx::query("DELETE FROM _sqlx_migrations WHERE version > 1")
        .execute(&fixture.pool)
        .await
        .unwrap();
    let refused = fixture.storage.check_schema().await.unwrap_err();
    assert!(refused.to_string().contains("brightmatter migrate"));
    assert!(!refused.is_transient());
}

#[tokio::test]
async fn days_with_events_get_the_key_that_is_led_by_time() {
    let fixture = Fixture::on(TestDatabase::new().await, |url| {
        StorageConfig::for_url("storage-test", url, 8).unwrap()
    })
    .await;
    let before = sqlx::migrate!("../../migrations");
    let before = before.iter().filter(|m| m.version < 8).cloned().collect();
    let before = sqlx::migrate::Migrator::with_migrations(before);
    before.run(&fixture.pool).await.unwrap();
    fixture.storage.ensure_event_days(NOW).await.unwrap();
    sqlx::query(
        "INSERT INTO events_raw (event_key, occurred_at, body_hash, event_id, studio_id, game_id, \
         user_id, event_type, studio_tier, ingested_at, log_partition, log_offset, config_seq) \
         SELECT decode(repeat(lpad(to_hex(n), 2, '0'), 16), 'hex'), $1 + n * interval '1 hour', \
         decode(repeat('00', 16), 'hex'), n, 's', 'g', 'u', 'custom', 'free', $1, 0, n, 0 \
         FROM generate_series(1, 50) AS n",
    )
    .bind(jiff_sqlx::Timestamp::from(NOW.to_jiff()))
    .execute(&fixture.pool)
    .await
    .unwrap();
    detach_and_give_up(&fixture, "events_raw_p20260216").await;

    migrate(&config(&fixture.database.url())).await.unwrap();
    let later = NOW.saturating_add_millis(DAY);
    fixture.storage.ensure_event_days(later).await.unwrap();
    let dropped = fixture.storage.drop_old_event_days(later, 16).await;
    let day = "2026-02-16".parse().unwrap();
    assert_eq!(dropped.unwrap(), DroppedDays::Dropped(vec![day]));
    assert_eq!(fixture.count("events_raw").await, 50);
    let keys: Vec<(String, i64)> = sqlx::query_as(
        "SELECT pg_get_constraintdef(oid), count(*) FROM pg_constraint \
         WHERE contype = 'p' AND starts_with(conrelid::regclass::text, 'events_raw') GROUP BY 1",
    )
    .fetch_all(&fixture.pool)
    .await
    .unwrap();
    let days = day_tables(&fixture).await.len() as i64;
    assert_eq!(
        keys,
        [("PRIMARY KEY (occurred_at, event_key)".to_owned(), days + 1)]
    );
}

#[tokio::test]
async fn event_days_are_made_once_by_any_number() {
    let fixture = Fixture::on(TestDatabase::with_schema().await, |url| {
        StorageConfig::for_url("storage-test", url, 8).unwrap()
    })
    .await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let storage = fixture.storage.clone();
            tokio::spawn(async move { storage.ensure_event_days(NOW).await })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += task.await.unwrap().unwrap();
    }
    assert_eq!(made, 20);
    let next_day = NOW.saturating_add_millis(DAY);
    assert_eq!(
        fixture.storage.ensure_event_days(next_day).await.unwrap(),
        1
    );
}

#[tokio::test]
async fn old_days_are_dropped_and_what_a_killed_upkeep_left_is_finished() {
    let fixture = Fixture::new().await;
    // An earlier upkeep was killed after it had detached a day,
    sqlx::query("ALTER TABLE events_raw DETACH PARTITION events_raw_p20260216")
        .execute(&fixture.pool)
        .await
        .unwrap();
    // and another while it waited for a reader before the next could go.
    detach_and_give_up(&fixture, "events_raw_p20260217").await;
    let before: Vec<String> = day_tables(&fixture).await;
    assert_eq!(before.len(), 20);

    // Nothing is old yet, however few days one asks to keep.
    let dropped = fixture.storage.drop_old_event_days(NOW, 0).await.unwrap();
    assert_eq!(dropped, DroppedDays::Dropped(Vec::new()));

    let later = NOW.saturating_add_millis(2 * DAY);
    let dropped = fixture
        .storage
        .drop_old_event_days(later, 16)
        .await
        .unwrap();
    let days: Vec<_> = ["2026-02-16", "2026-02-17"]
        .iter()
        .map(|day| day.parse().unwrap())
        .collect();
    assert_eq!(dropped, DroppedDays::Dropped(days));
    assert_eq!(day_tables(&fixture).await, before[2..]);
}

#[tokio::test]
async fn two_upkeeps_do_not_get_into_each_others_way() {
    let fixture = Fixture::new().await;
    let mut other = fixture.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(7092454113876993392)")
        .execute(&mut *other)
        .await
        .unwrap();
    let later = NOW.saturating_add_millis(9 * DAY);
    assert_eq!(
        fixture
            .storage
            .drop_old_event_days(later, 16)
            .await
            .unwrap(),
        DroppedDays::Busy
    );
}

/// Begins to detach a day, and is cancelled while an old reader holds it up.
async fn detach_and_give_up(fixture: &Fixture, table: &str) {
    let mut reader = fixture.pool.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM events_raw")
        .execute(&mut *reader)
        .await
        .unwrap();
    let mut upkeep = fixture.pool.acquire().await.unwrap();
    sqlx::query("SET statement_timeout = '300ms'")
        .execute(&mut *upkeep)
        .await
        .unwrap();
    let statement = format!("ALTER TABLE events_raw DETACH PARTITION {table} CONCURRENTLY");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut *upkeep)
        .await
        .unwrap_err();
    reader.rollback().await.unwrap();
    let pending: bool = sqlx::query_scalar(
        "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = $1::text::regclass",
    )
    .bind(table)
    .fetch_one(&fixture.pool)
    .await
    .unwrap();
    assert!(pending);
}

async fn day_tables(fixture: &Fixture) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname LIKE 'events_raw_p%' ORDER BY 1",
    )
    .fetch_all(&fixture.pool)
    .await
    .unwrap()
}
