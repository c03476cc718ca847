//! What a failed commit is called decides what becomes of the lane: each kind, made to happen.

use std::sync::Arc;
use std::time::Duration;

use bm_contracts::Timestamp;
use bm_domain::routing::RouterDomain;
use bm_storage::{CommitError, StorageConfig, StoreError};
use bm_testkit::{TcpProxy, TestDatabase, TestEnv};

use crate::support::{Fixture, NOW, commit_events, event_row, step};

#[tokio::test]
async fn a_missing_day_is_undone_and_no_fault_of_the_event() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RouterDomain>(1).await;
    let row = fixture.take::<RouterDomain>(0).await;
    let mut event = event_row("e", "{}");
    Arc::make_mut(&mut event.event).timestamp = Timestamp::clamped(0);
    let result = commit_events(
        &fixture.router(),
        &[step(0, &row)],
        std::slice::from_ref(&event),
    )
    .await;
    assert!(
        matches!(&result, Err(CommitError::Undone { transient: false, sqlstate, .. }) if sqlstate == "23514"),
        "{result:?}"
    );

    // Once the day is there, the same commit goes.
    fixture
        .storage
        .ensure_event_days(Timestamp::clamped(0))
        .await
        .unwrap();
    commit_events(&fixture.router(), &[step(0, &row)], &[event])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_value_the_database_cannot_store_is_bad_data() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RouterDomain>(1).await;
    let row = fixture.take::<RouterDomain>(0).await;
    let mut long_name = event_row("e", "{}");
    Arc::make_mut(&mut long_name.event).event_name = Some("x".repeat(51));
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    for (event, expected) in [
        (event_row("e", r#"{"a": "\u0000"}"#), "22P05"),
        (event_row("e", r#"{"a": "\ud800"}"#), "22P02"),
        (event_row("e", r#"{"a": 1e999999}"#), "22003"),
        (event_row("e", &format!("{{\"a\": {deep}}}")), "54001"),
        (long_name, "22001"),
    ] {
        let rows = [event_row("fine", "{}"), event];
        let result = commit_events(&fixture.router(), &[step(0, &row)], &rows).await;
        assert!(
            matches!(&result, Err(CommitError::Data { sqlstate, .. }) if sqlstate == expected),
            "{expected}: {result:?}"
        );
    }
    assert_eq!(fixture.count("events_raw").await, 0);
    assert_eq!(fixture.take::<RouterDomain>(0).await.next_offset, 0);
}

#[tokio::test]
async fn an_event_that_is_there_already_stops_its_lane() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RouterDomain>(1).await;
    let row = fixture.take::<RouterDomain>(0).await;
    let store = fixture.router();
    let lane = step(0, &row);
    let rows = [event_row("e", "{}")];
    commit_events(&store, std::slice::from_ref(&lane), &rows)
        .await
        .unwrap();
    let mut next = lane;
    (next.expected_offset, next.next_offset) = (1, 2);
    let result = commit_events(&store, &[next], &rows).await;
    assert!(
        matches!(&result, Err(CommitError::Undone { transient: false, sqlstate, .. }) if sqlstate == "23505"),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_commit_the_server_cancelled_is_undone() {
    let database = TestDatabase::with_schema().await;
    let fixture = Fixture::on(database, |url| {
        let mut config = StorageConfig::for_url("storage-test", url, 2).unwrap();
        config.timeout = Duration::from_millis(300);
        config
    })
    .await;
    fixture.make_lanes::<RouterDomain>(1).await;
    let row = fixture.take::<RouterDomain>(0).await;
    let mut holder = fixture.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM lanes FOR UPDATE")
        .execute(&mut *holder)
        .await
        .unwrap();
    let result = commit_events(&fixture.router(), &[step(0, &row)], &[]).await;
    assert!(
        matches!(&result, Err(CommitError::Undone { transient: true, sqlstate, .. }) if sqlstate == "57014"),
        "{result:?}"
    );
    holder.rollback().await.unwrap();
    commit_events(&fixture.router(), &[step(0, &row)], &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_session_ended_by_the_server_loses_the_reply() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RouterDomain>(1).await;
    let row = fixture.take::<RouterDomain>(0).await;
    let mut holder = fixture.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM lanes FOR UPDATE")
        .execute(&mut *holder)
        .await
        .unwrap();
    let store = fixture.router();
    let lane = step(0, &row);
    let commit = tokio::spawn({
        let (store, lane) = (store.clone(), lane.clone());
        async move { commit_events(&store, &[lane], &[]).await }
    });
    fixture.until_somebody_waits_for_a_lock().await;
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    .execute(&fixture.pool)
    .await
    .unwrap();
    let result = commit.await.unwrap();
    assert!(
        matches!(result, Err(CommitError::ReplyLost(_))),
        "{result:?}"
    );
    holder.rollback().await.unwrap();
    // The next one has a connection that works.
    commit_events(&store, &[lane], &[]).await.unwrap();
}

#[tokio::test]
async fn a_commit_whose_reply_is_lost_may_have_happened() {
    let database = TestDatabase::with_schema().await;
    let server = server_address();
    let proxy = TcpProxy::to(server).await;
    let url = database.url_through(&proxy.address());
    let fixture = Fixture::on(database, |_| {
        StorageConfig::for_url("storage-test", &url, 1).unwrap()
    })
    .await;
    fixture.storage.ensure_event_days(NOW).await.unwrap();
    fixture.make_lanes::<RouterDomain>(1).await;
    let row = fixture.take::<RouterDomain>(0).await;
    let store = fixture.router();
    // The statement is prepared by a commit that is refused, so that what is lost is the commit's reply.
    let mut stale = step(0, &row);
    stale.epoch = 0;
    assert!(matches!(
        commit_events(&store, &[stale], &[]).await,
        Err(CommitError::Refused { .. })
    ));

    // The pool has asked whether that connection still works.
    fixture.storage.ping().await.unwrap();
    proxy.close_before_reply();
    let result = commit_events(&store, &[step(0, &row)], &[event_row("e", "{}")]).await;
    assert!(
        matches!(result, Err(CommitError::ReplyLost(_))),
        "{result:?}"
    );
    proxy.pass();
    let taken = fixture.take::<RouterDomain>(0).await;
    // Whatever happened, row and events agree.
    assert_eq!(taken.next_offset, fixture.count("events_raw").await);
}

#[tokio::test]
async fn a_silent_database_is_given_up_and_its_connection_is_not_used_again() {
    let database = TestDatabase::with_schema().await;
    let proxy = TcpProxy::to(server_address()).await;
    let url = database.url_through(&proxy.address());
    let fixture = Fixture::on(database, |_| {
        let mut config = StorageConfig::for_url("storage-test", &url, 1).unwrap();
        config.timeout = Duration::from_secs(1);
        config
    })
    .await;
    fixture.make_lanes::<RouterDomain>(1).await;
    let row = fixture.take::<RouterDomain>(0).await;
    let mut holder = fixture.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM lanes FOR UPDATE")
        .execute(&mut *holder)
        .await
        .unwrap();
    let commit = tokio::spawn({
        let (store, lane) = (fixture.router(), step(0, &row));
        async move { commit_events(&store, &[lane], &[]).await }
    });
    fixture.until_somebody_waits_for_a_lock().await;
    proxy.silent();
    let result = commit.await.unwrap();
    assert!(
        matches!(result, Err(CommitError::ReplyLost(_))),
        "{result:?}"
    );
    // No connection can be made: nothing is sent.
    let result = commit_events(&fixture.router(), &[step(0, &row)], &[]).await;
    assert!(
        matches!(
            result,
            Err(CommitError::Undone {
                transient: true,
                ..
            })
        ),
        "{result:?}"
    );
    let ping = fixture.storage.ping().await;
    assert!(
        matches!(ping, Err(StoreError::Unavailable { .. })),
        "{ping:?}"
    );
    proxy.pass();
    holder.rollback().await.unwrap();
    fixture.storage.ping().await.unwrap();
    commit_events(&fixture.router(), &[step(0, &row)], &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_connection_that_falls_silent_on_its_way_back_does_not_keep_its_place() {
    let database = TestDatabase::with_schema().await;
    let proxy = TcpProxy::to(server_address()).await;
    let url = database.url_through(&proxy.address());
    let fixture = Fixture::on(database, |_| {
        StorageConfig::for_url("storage-test", &url, 1).unwrap()
    })
    .await;
    fixture.storage.ping().await.unwrap();
    proxy.silent();
    // The pool has one place; whoever held it never hears from the server again.
    fixture.storage.ping().await.unwrap_err();
    proxy.pass();
    bm_testkit::eventually(Duration::from_secs(10), "a free place", || async {
        fixture.storage.ping().await.ok()
    })
    .await;
}

#[tokio::test]
async fn after_a_read_only_refusal_the_connection_is_replaced() {
    let fixture = Fixture::on(TestDatabase::with_schema().await, |url| {
        StorageConfig::for_url("storage-test", url, 1).unwrap()
    })
    .await;
    fixture.make_lanes::<RouterDomain>(1).await;
    let row = fixture.take::<RouterDomain>(0).await;
    let name = fixture.database.name();
    let set = |value: &str| {
        let statement =
            format!("ALTER DATABASE {name} SET default_transaction_read_only = {value}");
        sqlx::query(sqlx::AssertSqlSafe(statement))
    };
    // Sessions keep the setting they began with: the one that is read-only stays so.
    set("on").execute(&fixture.pool).await.unwrap();
    fixture.end_sessions_of("storage-test").await;
    let read_only =
        bm_testkit::eventually(Duration::from_secs(10), "a read-only session", || async {
            match commit_events(&fixture.router(), &[step(0, &row)], &[]).await {
                // The session that was ended.
                Err(CommitError::ReplyLost(_)) => None,
                other => Some(other),
            }
        })
        .await;
    assert!(
        matches!(&read_only, Err(CommitError::Undone { transient: true, sqlstate, .. }) if sqlstate == "25006"),
        "{read_only:?}"
    );
    // As when the address leads to the new primary.
    set("off").execute(&fixture.pool).await.unwrap();
    commit_events(&fixture.router(), &[step(0, &row)], &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_database_that_is_not_there_is_unavailable() {
    let url = format!(
        "postgres://nobody@127.0.0.1:{}/none",
        bm_testkit::free_port()
    );
    let mut config = StorageConfig::for_url("storage-test", &url, 1).unwrap();
    config.timeout = Duration::from_millis(200);
    let storage = bm_storage::Storage::connect_lazily(&config);
    let error = storage.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.is_transient());
}

/// `host:port` of the test server.
pub(crate) fn server_address() -> String {
    let url = &TestEnv::get().postgres;
    let rest = url.split("://").nth(1).unwrap_or(url);
    let host = rest.split('/').next().unwrap_or(rest);
    host.rsplit('@').next().unwrap_or(host).to_owned()
}
