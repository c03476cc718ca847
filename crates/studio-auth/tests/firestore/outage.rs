//! Firestore away: while running, at the start, too long; and back again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bm_studio_auth::{AuthError, LastKnown};
use bm_testkit::{TcpProxy, TestEnv, eventually, free_port};

use crate::frames::FrameProxy;
use crate::support::{LATER, MemoryStore, SOON, Studios, Subject, start, studio};

async fn notices(subject: &Subject, words: &str) {
    eventually(
        LATER,
        &format!("the outage is noticed ({words})"),
        || async {
            let detail = subject.directory.health().detail;
            detail.contains(words).then_some(())
        },
    )
    .await;
}

#[tokio::test]
async fn an_outage_keeps_serving_and_its_end_brings_what_was_missed() {
    let studios = Studios::new().await;
    studios.put("stays", studio("stays-key")).await;
    studios.put("leaves", studio("leaves-key")).await;
    let proxy = TcpProxy::to(TestEnv::get().firestore.clone()).await;
    let subject = start(&studios.config_at(&proxy.address()), None).await;
    let subject = subject.mirrored().await;

    proxy.cut();
    notices(&subject, "Firestore:").await;
    studios.put("comes", studio("comes-key")).await;
    studios.delete("leaves").await;
    let asked = Instant::now();
    for _ in 0..100 {
        assert!(subject.ask("stays-key").await.is_ok());
        assert!(subject.ask("leaves-key").await.is_ok(), "nobody can know");
        assert_eq!(subject.ask("comes-key").await, Err(AuthError::Unknown));
        assert_eq!(subject.ask("nobody's").await, Err(AuthError::Unknown));
    }
    assert!(asked.elapsed() < SOON, "nothing waits for Firestore");
    let health = subject.directory.health();
    assert!(health.ready && !health.connected, "{health:?}");

    proxy.pass();
    subject.becomes(LATER, "comes-key", Ok(())).await;
    subject
        .becomes(LATER, "leaves-key", Err(AuthError::Unknown))
        .await;
    assert!(subject.ask("stays-key").await.is_ok());
    subject.mirrored().await;
}

#[tokio::test]
async fn a_silent_connection_is_noticed_and_replaced() {
    let studios = Studios::new().await;
    studios.put("a", studio("a-key")).await;
    let proxy = TcpProxy::to(TestEnv::get().firestore.clone()).await;
    let subject = start(&studios.config_at(&proxy.address()), None).await;
    let subject = subject.mirrored().await;
    proxy.silent();
    studios.delete("a").await;
    notices(&subject, "in time").await;
    assert!(subject.ask("a-key").await.is_ok());
    proxy.pass();
    subject
        .becomes(LATER, "a-key", Err(AuthError::Unknown))
        .await;
}

#[tokio::test]
async fn a_stream_that_says_nothing_more_is_noticed_though_its_connection_lives() {
    let studios = Studios::new().await;
    studios.put("a", studio("a-key")).await;
    let proxy = FrameProxy::to(TestEnv::get().firestore.clone()).await;
    let subject = start(&studios.config_at(&proxy.address), None).await;
    let subject = subject.mirrored().await;
    // The stream confirms the mirror by itself, though nothing changes.
    for _ in 0..3 {
        let confirmed = subject.directory.health().last_fresh;
        subject.clock.advance(Duration::from_secs(1));
        eventually(SOON, "the stream is heard of", || async {
            let health = subject.directory.health();
            assert!(health.connected, "{health:?}");
            (health.last_fresh > confirmed).then_some(())
        })
        .await;
    }
    assert_eq!(proxy.requests(), 1, "all of it is one stream");
    proxy.make_listeners_dumb();
    studios.delete("a").await;
    let dumb = subject.directory.health().last_fresh;
    subject.clock.advance(Duration::from_secs(1));
    eventually(LATER, "the loss is noticed", || async {
        (!subject.directory.health().connected).then_some(())
    })
    .await;
    assert_eq!(subject.directory.health().last_fresh, dumb);
    let health = subject.directory.health();
    assert!(health.ready, "what was known still counts: {health:?}");
    subject
        .becomes(LATER, "a-key", Err(AuthError::Unknown))
        .await;
    subject.mirrored().await;
}

#[tokio::test]
async fn a_start_during_an_outage_uses_what_was_last_known_for_a_day() {
    let studios = Studios::new().await;
    studios.put("a", studio("a-key")).await;
    let store = Arc::new(MemoryStore::default());
    let keeper: Arc<dyn LastKnown> = Arc::clone(&store) as _;
    let before = start(&studios.config(), Some(Arc::clone(&keeper))).await;
    let before = before.mirrored().await;
    eventually(LATER, "it is kept", || async {
        (store.ids() == ["a"]).then_some(())
    })
    .await;
    drop(before);
    studios.delete("a").await;
    studios.put("b", studio("b-key")).await;

    let port = free_port();
    let started = Instant::now();
    let config = studios.config_at(&format!("127.0.0.1:{port}"));
    let subject = start(&config, Some(keeper)).await;
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "a start waits for nobody"
    );
    subject.directory.loaded().await;
    assert!(subject.ask("a-key").await.is_ok());
    assert_eq!(subject.ask("b-key").await, Err(AuthError::Unknown));
    let health = subject.directory.health();
    assert!(
        health.ready && health.detail.contains("last-known"),
        "{health:?}"
    );

    subject.clock.advance(Duration::from_hours(25));
    for key in ["a-key", "b-key"] {
        assert_eq!(subject.ask(key).await, Err(AuthError::Unavailable));
    }
    assert!(!subject.directory.health().ready);

    let _proxy = TcpProxy::on_port(port, TestEnv::get().firestore.clone()).await;
    subject.becomes(LATER, "b-key", Ok(())).await;
    subject
        .becomes(LATER, "a-key", Err(AuthError::Unknown))
        .await;
    let subject = subject.mirrored().await;
    assert!(subject.directory.health().connected);
    eventually(LATER, "the new set is kept", || async {
        (store.ids() == ["b"]).then_some(())
    })
    .await;
    drop(subject);
}

#[tokio::test]
async fn with_nothing_ever_loaded_no_key_is_called_wrong() {
    let studios = Studios::new().await;
    let config = studios.config_at(&format!("127.0.0.1:{}", free_port()));
    let empty: Arc<dyn LastKnown> = Arc::new(MemoryStore::default());
    let subject = start(&config, Some(empty)).await;
    assert_eq!(subject.ask("a-key").await, Err(AuthError::Unavailable));
    notices(&subject, "Firestore:").await;
    assert_eq!(subject.ask("a-key").await, Err(AuthError::Unavailable));
    assert!(!subject.directory.health().ready);
}
