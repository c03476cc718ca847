//! What the mirror does not know is asked for, once and rarely.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bm_studio_auth::{AuthError, KeyHash};
use bm_testkit::TestEnv;
use serde_json::json;

use crate::frames::FrameProxy;
use crate::support::{Studios, start, studio};

#[tokio::test]
async fn a_key_is_known_as_soon_as_it_is_written_in_whichever_field() {
    for field in ["apiKey", "secretKey", "apiKeyHash", "secretKeyHash"] {
        let studios = Studios::new().await;
        let proxy = FrameProxy::to(TestEnv::get().firestore.clone()).await;
        let subject = start(&studios.config_at(&proxy.address), None).await;
        let subject = subject.mirrored().await;
        // The mirror would be quicker than the question, as a rule.
        proxy.make_listeners_dumb();
        let stored = if field.ends_with("Hash") {
            KeyHash::of("the-key").to_hex()
        } else {
            "the-key".to_owned()
        };
        let document = json!({ "tier": "pro", "subscriptionStatus": "active", field: stored });
        studios.put("a", document).await;
        let found = subject.ask("the-key").await;
        let found = found.map(|found| found.studio.id.to_string());
        assert_eq!(found, Ok("a".to_owned()), "{field}");
        assert_eq!(subject.directory.questions().asked, 1, "{field}");
    }
}

#[tokio::test]
async fn a_plain_key_left_beside_its_hash_is_not_found_by_asking_either() {
    let studios = Studios::new().await;
    let subject = start(&studios.config(), None).await.mirrored().await;
    let document = json!({
        "tier": "pro", "subscriptionStatus": "active",
        "apiKey": "old", "apiKeyHash": KeyHash::of("new").to_hex(),
    });
    studios.put("moved", document).await;
    assert_eq!(subject.ask("old").await, Err(AuthError::Unknown));
    assert_eq!(subject.directory.questions().asked, 1);
    assert!(subject.ask("new").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_unknown_keys_reach_firestore_twenty_times_a_second() {
    let studios = Studios::new().await;
    studios.put("a", studio("a-key")).await;
    let proxy = FrameProxy::to(TestEnv::get().firestore.clone()).await;
    let subject = start(&studios.config_at(&proxy.address), None)
        .await
        .mirrored()
        .await;
    let subject = Arc::new(subject);

    let before = proxy.requests();
    let started = Instant::now();
    let clients = (0..50).map(|client| {
        let subject = Arc::clone(&subject);
        tokio::spawn(async move {
            // Spread over some seconds, so that the limit is met more than once.
            let mut pace = tokio::time::interval(Duration::from_millis(15));
            for i in 0..200 {
                pace.tick().await;
                let key = format!("wrong-{client}-{i}");
                // Twice: the second time it is remembered, or refused without asking.
                for _ in 0..2 {
                    assert_eq!(subject.ask(&key).await, Err(AuthError::Unknown));
                }
                assert!(subject.ask("a-key").await.is_ok());
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let seconds = started.elapsed().as_secs();
    let on_the_wire = proxy.requests() - before;
    let counts = subject.directory.questions();
    // A question that the emulator answers late is followed by a second without any.
    assert!(
        seconds >= 2 && counts.asked >= 20,
        "{counts:?} in {seconds} s"
    );
    assert!(
        counts.asked <= 20 * (seconds + 1),
        "{counts:?} in {seconds} s"
    );
    assert!(counts.suppressed > 0, "{counts:?}");
    // Nothing besides: the probes of the mirror are part of its stream, unless that begins again.
    assert!(
        (counts.asked..=counts.asked + 3).contains(&on_the_wire),
        "{on_the_wire} requests, {counts:?} in {seconds} s"
    );
}
