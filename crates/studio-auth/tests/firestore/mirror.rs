//! The mirror follows the collection.

use std::sync::Arc;
use std::time::Duration;

use bm_studio_auth::{AuthError, KeyHash, KeyKind, LastKnown, Tier};
use bm_testkit::eventually;
use serde_json::json;

use crate::support::{LATER, MemoryStore, SOON, Studios, start, studio, with};

#[tokio::test]
async fn every_form_of_key_in_the_collection_is_known_without_asking() {
    let studios = Studios::new().await;
    let hash = |key: &str| KeyHash::of(key).to_hex();
    studios.put("plain", studio("plain-client")).await;
    let hashed = json!({
        "name": "Hashed", "tier": "enterprise", "subscriptionStatus": "trialing",
        "apiKeyHash": hash("hashed-client"), "secretKeyHash": hash("hashed-server"),
        "features": ["quests"], "rateLimit": { "requestsPerMinute": 60 },
    });
    studios.put("hashed", hashed).await;
    let subject = start(&studios.config(), None).await.mirrored().await;
    let end = subject.clock.now_millis() + 60_000;
    let rotating = with(
        studio("old-key"),
        "keys",
        json!([
            { "hash": hash("new-key"), "kind": "server", "name": "new", "expiresAt": { "$time": end } },
            { "hash": hash("gone-key"), "kind": "client", "expiresAt": "2020-01-01T00:00:00Z" },
        ]),
    );
    studios.put("rotating", rotating).await;
    studios
        .put("broken", json!({ "tier": "gold", "apiKey": "broken-key" }))
        .await;
    subject.becomes(SOON, "new-key", Ok(())).await;

    let asked = subject.directory.questions().asked;
    for (key, id, kind) in [
        ("plain-client", "plain", KeyKind::Client),
        ("hashed-client", "hashed", KeyKind::Client),
        ("hashed-server", "hashed", KeyKind::Server),
        ("old-key", "rotating", KeyKind::Client),
        ("new-key", "rotating", KeyKind::Server),
    ] {
        let found = subject.ask(key).await.unwrap();
        assert_eq!((found.studio.id.as_str(), found.kind), (id, kind), "{key}");
    }
    assert_eq!(subject.ask("gone-key").await, Err(AuthError::Unknown));
    let found = subject.ask("hashed-client").await.unwrap().studio;
    assert_eq!(
        (found.tier, found.features.as_slice()),
        (Tier::Enterprise, &["quests".to_owned()][..])
    );
    assert_eq!(found.rate_limit.unwrap().requests_per_minute, Some(60));
    assert_eq!(
        subject.directory.questions().asked,
        asked,
        "all of it from memory"
    );

    assert_eq!(subject.ask("broken-key").await, Err(AuthError::Unknown));
    subject.clock.advance(Duration::from_mins(1));
    assert_eq!(
        subject.ask("new-key").await,
        Err(AuthError::Unknown),
        "expired"
    );
}

#[tokio::test]
async fn a_revocation_a_deletion_and_a_lapse_act_within_five_seconds() {
    let studios = Studios::new().await;
    for id in ["rotates", "leaves", "lapses", "stays"] {
        studios.put(id, studio(&format!("{id}-1"))).await;
    }
    let subject = start(&studios.config(), None).await.mirrored().await;
    for id in ["rotates", "leaves", "lapses", "stays"] {
        assert!(subject.ask(&format!("{id}-1")).await.is_ok());
    }

    studios.put("rotates", studio("rotates-2")).await;
    subject
        .becomes(SOON, "rotates-1", Err(AuthError::Unknown))
        .await;
    assert!(subject.ask("rotates-2").await.is_ok());

    studios.delete("leaves").await;
    subject
        .becomes(SOON, "leaves-1", Err(AuthError::Unknown))
        .await;

    let lapsed = with(studio("lapses-1"), "subscriptionStatus", json!("past_due"));
    studios.put("lapses", lapsed).await;
    subject
        .becomes(SOON, "lapses-1", Err(AuthError::Inactive))
        .await;

    assert!(subject.ask("stays-1").await.is_ok());
    assert_eq!(subject.directory.health().studios, 3);
}

#[tokio::test]
async fn a_key_that_two_studios_list_is_refused_until_one_lets_go() {
    let studios = Studios::new().await;
    studios.put("a", studio("shared")).await;
    let subject = start(&studios.config(), None).await.mirrored().await;
    assert!(subject.ask("shared").await.is_ok());
    studios.put("b", studio("shared")).await;
    subject
        .becomes(SOON, "shared", Err(AuthError::Unknown))
        .await;
    studios.delete("a").await;
    subject.becomes(SOON, "shared", Ok(())).await;
    assert_eq!(subject.ask("shared").await.unwrap().studio.id.as_str(), "b");
}

#[tokio::test]
async fn what_is_mirrored_is_kept_without_keys() {
    let studios = Studios::new().await;
    studios.put("a", studio("the-plain-key")).await;
    let store = Arc::new(MemoryStore::default());
    let keeper: Arc<dyn LastKnown> = Arc::clone(&store) as _;
    let subject = start(&studios.config(), Some(keeper))
        .await
        .mirrored()
        .await;
    let is = |ids: &'static [&str]| {
        let store = Arc::clone(&store);
        move || {
            let store = Arc::clone(&store);
            async move { (store.ids() == ids).then_some(()) }
        }
    };
    eventually(LATER, "the first set is kept", is(&["a"])).await;
    studios.put("b", studio("another-plain-key")).await;
    eventually(LATER, "the change is kept", is(&["a", "b"])).await;
    studios.delete("a").await;
    eventually(LATER, "the deletion is kept", is(&["b"])).await;
    let kept = format!("{:?}", store.kept());
    assert!(!kept.contains("plain-key"));
    assert!(kept.contains(&KeyHash::of("another-plain-key").to_hex()));
    assert!(subject.ask("another-plain-key").await.is_ok());
}
