//! What a studio's document may say, and what is said about one that may not.

use super::*;

fn base() -> Value {
    json!({ "name": "Forest Games", "tier": "pro", "subscriptionStatus": "active" })
}

fn with(extra: &Value) -> Value {
    let mut document = base();
    for (name, value) in extra.as_object().unwrap() {
        document[name] = value.clone();
    }
    document
}

fn read(value: &Value) -> StudioDocument {
    StudioDocument::from_json("forest", value).unwrap()
}

#[test]
fn every_form_of_key_is_read() {
    let document = read(&with(&json!({
        "apiKeyHash": KeyHash::of("c").to_hex(),
        "secretKeyHash": KeyHash::of("d").to_hex().to_uppercase(),
        "keys": [
            { "hash": KeyHash::of("e").to_hex(), "kind": "server", "name": "ci", "expiresAt": "2026-01-01T00:00:00Z" },
            { "hash": KeyHash::of("f").to_hex(), "kind": "client", "expiresAt": 1_767_225_600_000_i64 },
        ],
    })));
    assert_eq!(document.faults, Vec::<String>::new());
    let found = |key: &str| {
        let hash = KeyHash::of(key);
        document.keys.iter().find(|k| k.hash == hash).unwrap()
    };
    for (key, kind) in [
        ("c", KeyKind::Client),
        ("d", KeyKind::Server),
        ("e", KeyKind::Server),
        ("f", KeyKind::Client),
    ] {
        assert_eq!(found(key).kind, kind, "{key}");
    }
    assert_eq!(found("e").expires_at, found("f").expires_at);
    assert_eq!(found("e").name.as_deref(), Some("ci"));
    assert_eq!(found("c").expires_at, None);

    let document = read(&with(&json!({ "apiKey": "a", "secretKey": "b" })));
    let kinds: Vec<_> = document.keys.iter().map(|k| (k.hash, k.kind)).collect();
    let (a, b) = (KeyHash::of("a"), KeyHash::of("b"));
    assert_eq!(kinds, [(a, KeyKind::Client), (b, KeyKind::Server)]);
}

#[test]
fn a_plain_key_left_beside_its_hash_is_none() {
    let document = read(&with(&json!({
        "apiKey": "old", "apiKeyHash": KeyHash::of("rotated").to_hex(), "secretKey": "server",
    })));
    let hashes: Vec<_> = document.keys.iter().map(|key| key.hash).collect();
    assert_eq!(hashes, [KeyHash::of("rotated"), KeyHash::of("server")]);
    assert_eq!(document.faults, Vec::<String>::new());
}

#[test]
fn what_decides_who_may_enter_must_be_right() {
    assert_eq!(
        StudioDocument::from_json("forest", &json!([])),
        Err(DocumentError::NotAnObject)
    );
    assert!(matches!(
        StudioDocument::from_json("a:b", &base()),
        Err(DocumentError::Id(_))
    ));
    for (field, bad) in [
        ("tier", json!("gold")),
        ("tier", json!(null)),
        ("tier", json!(3)),
        ("subscriptionStatus", json!(null)),
        ("subscriptionStatus", json!(true)),
    ] {
        let refused = StudioDocument::from_json("forest", &with(&json!({ field: bad })));
        assert!(
            matches!(refused, Err(DocumentError::Field { field: named, .. }) if named == field)
        );
    }
}

#[test]
fn a_slip_in_one_key_leaves_the_others_and_is_never_quoted() {
    let document = read(&with(&json!({
        "apiKey": "good",
        "secretKey": 17,
        "apiKeyHash": "hunter2",
        "keys": [
            "hunter2",
            { "hash": "hunter2", "kind": "client" },
            { "hash": KeyHash::of("x").to_hex(), "kind": "root" },
            { "hash": KeyHash::of("y").to_hex(), "kind": "client", "expiresAt": "soon" },
            { "hash": KeyHash::of("z").to_hex(), "kind": "client", "expiresAt": true },
        ],
    })));
    assert_eq!(document.keys.len(), 1);
    assert_eq!(document.keys[0].hash, KeyHash::of("good"));
    assert_eq!(document.faults.len(), 7);
    assert!(
        document
            .faults
            .iter()
            .all(|fault| !fault.contains("hunter2"))
    );
    assert!(
        document
            .faults
            .contains(&"keys[4].expiresAt must be a time".to_owned())
    );
}

#[test]
fn limits_and_features_are_read_in_either_form() {
    let document = read(&with(&json!({
        "rateLimit": { "requestsPerMinute": 60.0, "burst": 0, "playerEventsPerMinute": 5 },
        "features": { "quests": true, "boards": false },
    })));
    assert_eq!(
        document.studio.rate_limit,
        Some(RateLimit {
            requests_per_minute: Some(60),
            player_events_per_minute: Some(5),
            ..RateLimit::default()
        })
    );
    assert_eq!(document.faults.len(), 1, "a burst of 0 is none");
    assert_eq!(document.studio.features, ["quests"]);

    let document = read(&with(&json!({ "rateLimit": 70, "features": ["b", "a"] })));
    let limit = document.studio.rate_limit.unwrap();
    assert_eq!(limit.requests_per_minute, Some(70));
    assert_eq!(document.studio.features, ["a", "b"]);

    let document = read(&with(&json!({ "rateLimit": "lots", "features": 3 })));
    assert_eq!(document.studio.rate_limit, None);
    assert_eq!(document.faults.len(), 2);
}

#[test]
fn active_and_trialing_are_active() {
    for (status, active) in [
        ("active", true),
        ("trialing", true),
        ("canceled", false),
        ("ACTIVE", false),
    ] {
        let document = read(&with(&json!({ "subscriptionStatus": status })));
        assert_eq!(document.studio.subscription.is_active(), active, "{status}");
    }
}

#[test]
fn the_stored_form_reads_back_and_holds_no_key() {
    let document = read(&with(&json!({
        "apiKey": "plain-client-key", "secretKey": "plain-server-key",
        "keys": [{ "hash": KeyHash::of("e").to_hex(), "kind": "server", "name": "ci", "expiresAt": 5 }],
        "rateLimit": { "burst": 3 }, "features": ["x"],
    })));
    let stored = document.to_json();
    assert_eq!(read(&stored), document);
    assert!(!stored.to_string().contains("plain"));
}
