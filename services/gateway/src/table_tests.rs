//! The gateway's contract row by row, over fakes.

use bm_contracts::{GameEvent, headers, partition};
use bm_kafka::AppendError;
use http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::gateway::{MAX_AGE_MS, MAX_AHEAD_MS};
use crate::testing::{Answer, Harness, NOW, good, good_with};

const KEY: (&str, &str) = ("x-api-key", "key");

#[track_caller]
fn assert_error(answer: &Answer, status: u16, code: &str, sentence: &str) {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    assert_eq!(answer.json["code"], code, "{answer:?}");
    assert_eq!(answer.json["error"], sentence, "{answer:?}");
    let correlation = answer.headers["x-correlation-id"].to_str().unwrap();
    assert_eq!(answer.json["correlationId"], correlation);
}

#[tokio::test]
async fn an_accepted_event_is_in_the_log_and_told_with_its_append_time() {
    let harness = Harness::new();
    let answer = harness.event(&good()).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.json["status"], "accepted");
    assert_eq!(answer.json["timestamp"], "2026-01-02T03:04:05.001Z");
    let id = answer.json["eventId"].as_str().unwrap();
    // evt_ and a UUID of version 7 that begins with the time.
    assert!(id.starts_with("evt_019b7ca9-8c88-7"), "{id}");
    let records = harness.log.records();
    assert_eq!(records.len(), 1);
    let event = GameEvent::from_json(&records[0].value).unwrap();
    assert_eq!(event.event_id.as_str(), id);
    assert_eq!(event.studio_id.as_str(), "acme");
    assert_eq!(event.studio_tier, "pro");
    assert_eq!(
        records[0].key,
        partition::player_key(&event.game_id, &event.user_id)
    );
}

#[tokio::test]
async fn the_record_is_tied_to_its_request() {
    let harness = Harness::new();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = [KEY, ("x-correlation-id", "c-1"), ("traceparent", trace)];
    let answer = harness
        .post("/api/events", &request, good().to_string())
        .await;
    assert_eq!(answer.headers["x-correlation-id"], "c-1");
    let record = harness.log.records().remove(0);
    let expected = [
        (headers::STUDIO_ID, "acme"),
        (headers::GAME_ID, "g"),
        (headers::EVENT_TYPE, "enemy_killed"),
        (headers::CORRELATION_ID, "c-1"),
        (headers::TRACEPARENT, trace),
    ];
    let told = record.headers.each_ref();
    assert_eq!(told.map(|(name, value)| (*name, value.as_str())), expected);
}

#[tokio::test]
async fn routes_and_methods_come_before_keys() {
    let harness = Harness::new();
    let answer = harness.post("/v1/nothing", &[], "").await;
    assert_error(&answer, 404, "not_found", "Not found");
    for method in ["GET", "PUT", "DELETE"] {
        let request = Request::builder().method(method).uri("/v1/events");
        let answer = harness.ask(request.body("".into()).unwrap()).await;
        assert_error(&answer, 405, "method_not_allowed", "Method not allowed");
        let allow = answer.headers["allow"].to_str().unwrap();
        assert!(
            allow.contains("POST") && allow.contains("OPTIONS"),
            "{allow}"
        );
    }
    let head = Request::head("/v1/events/batch").body("".into()).unwrap();
    assert_eq!(
        harness.ask(head).await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    let options = Request::options("/v1/events").body("".into()).unwrap();
    let answer = harness.ask(options).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert_eq!(answer.headers["allow"], "POST, OPTIONS");
}

#[tokio::test]
async fn keys_are_missing_unknown_or_unpaid_before_anything_else_is_looked_at() {
    let harness = Harness::new();
    let text = ("content-type", "text/plain");
    for path in ["/v1/events", "/v1/events/batch", "/api/events/batch"] {
        let answer = harness.post(path, &[text], "x".repeat(70_000)).await;
        assert_error(&answer, 401, "missing_api_key", "Missing API key");
        assert!(!answer.headers.contains_key("ratelimit"));
        let answer = harness.post(path, &[text, ("x-api-key", "")], "").await;
        assert_error(&answer, 401, "missing_api_key", "Missing API key");
        let answer = harness.post(path, &[text, ("x-api-key", "no")], "").await;
        assert_error(&answer, 401, "invalid_api_key", "Invalid API key");
        let answer = harness
            .post(path, &[text, ("x-api-key", "unpaid")], "")
            .await;
        assert_error(
            &answer,
            401,
            "subscription_inactive",
            "Subscription inactive",
        );
    }
    // Trialing is active, and the server's key may ingest too.
    let secret = [("x-api-key", "secret")];
    let answer = harness
        .post("/v1/events", &secret, good().to_string())
        .await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn type_size_body_and_limit_come_in_this_order() {
    let harness = Harness::new();
    let too_long = "x".repeat(65_537);
    let text = [KEY, ("content-type", "text/plain")];
    let answer = harness.post("/v1/events", &text, too_long.clone()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (415, "unsupported_media_type")
    );
    let brotli = [KEY, ("content-encoding", "br")];
    let answer = harness
        .post("/v1/events", &brotli, good().to_string())
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (415, "unsupported_media_type")
    );
    let answer = harness.post("/v1/events", &[KEY], too_long).await;
    assert_error(&answer, 413, "too_large", "Body must be at most 64 KiB");
    // `slow` may send two requests a minute; those that cannot be read are not charged.
    let slow = [("x-api-key", "slow")];
    for _ in 0..4 {
        let answer = harness.post("/v1/events", &slow, "{").await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (400, "malformed_json")
        );
        assert!(
            answer.headers["ratelimit"]
                .to_str()
                .unwrap()
                .contains("r=2;"),
            "{answer:?}"
        );
    }
    for _ in 0..2 {
        let answer = harness.post("/v1/events", &slow, "{}").await;
        assert_error(
            &answer,
            400,
            "missing_field",
            "Missing required field: eventType",
        );
    }
    let answer = harness.post("/v1/events", &slow, "{}").await;
    assert_error(&answer, 429, "rate_limited", "Rate limit exceeded");
    let wait: u64 = answer.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let policy = answer.headers["ratelimit-policy"].to_str().unwrap();
    assert_eq!(policy, r#""requests";q=2;w=60, "events";q=3;w=60"#);
}

#[tokio::test]
async fn an_event_that_is_wrong_is_400_before_its_game_is_looked_for() {
    let harness = Harness::new();
    let answer = harness.event(&good_with("eventType", "jump")).await;
    assert_error(
        &answer,
        400,
        "invalid_event_type",
        "Invalid event type: jump",
    );
    assert_eq!(answer.json.get("eventId"), None);
    let answer = harness.event(&good_with("userId", "a:b")).await;
    assert_error(
        &answer,
        400,
        "invalid_field",
        "Invalid field userId: must not contain ':'",
    );
    let header = [KEY, ("idempotency-key", "a")];
    let body = good_with("eventId", "b").to_string();
    let answer = harness.post("/v1/events", &header, body).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (400, "invalid_field")
    );
    assert_eq!(harness.games.asked(), 0);
    assert_eq!(harness.log.records(), []);
}

#[tokio::test]
async fn an_unknown_game_and_another_studios_look_alike_and_come_before_the_time() {
    let harness = Harness::new();
    for game in ["nowhere", "other"] {
        let mut event = good_with("gameId", game);
        event["timestamp"] = json!(0);
        event["eventId"] = json!("e");
        let answer = harness.event(&event).await;
        assert_error(&answer, 404, "unknown_game", "Unknown game");
        assert_eq!(answer.json["eventId"], "e");
    }
    let answer = harness.event(&good_with("gameId", "nowhere")).await;
    let made = answer.json["eventId"].as_str().unwrap();
    assert!(made.starts_with("evt_"), "{made}");
}

#[tokio::test]
async fn an_events_time_lies_between_7_days_ago_and_5_minutes_ahead() {
    let harness = Harness::new();
    for (millis, status) in [
        (-MAX_AGE_MS, 200),
        (-MAX_AGE_MS - 1, 422),
        (MAX_AHEAD_MS, 200),
        (MAX_AHEAD_MS + 1, 422),
    ] {
        let time = NOW.saturating_add_millis(millis);
        for form in [json!(time.to_string()), json!(time.as_millis())] {
            let answer = harness.event(&good_with("timestamp", form)).await;
            assert_eq!(answer.status.as_u16(), status, "{millis}: {answer:?}");
            if status == 422 {
                assert_eq!(answer.code(), "timestamp_out_of_range");
            }
        }
    }
}

#[tokio::test]
async fn an_event_sent_twice_is_a_duplicate_with_the_first_time() {
    let harness = Harness::new();
    let event = good_with("eventId", "e1");
    let first = harness.event(&event).await;
    assert_eq!(first.json["status"], "accepted");
    let second = harness.event(&event).await;
    assert_eq!(second.status, StatusCode::OK);
    assert_eq!(second.json["status"], "duplicate");
    assert_eq!(second.json["timestamp"], first.json["timestamp"]);
    // Over all routes, and named by header as well as by body.
    let header = [KEY, ("idempotency-key", "e1")];
    let third = harness
        .post("/api/events", &header, good().to_string())
        .await;
    assert_eq!(third.json["status"], "duplicate");
    assert_eq!(harness.log.records().len(), 1);
    let answer = harness
        .event(&json!({
            "eventType": "enemy_killed", "userId": "u", "gameId": "g",
            "timestamp": NOW.to_string(), "eventId": "e1", "metadata": {"other": true},
        }))
        .await;
    assert_error(
        &answer,
        422,
        "event_id_reused",
        "This eventId was used for another event",
    );
    assert_eq!(answer.json["eventId"], "e1");
    // Another player's e1 is another event.
    let mut other = event.clone();
    other["userId"] = json!("v");
    assert_eq!(harness.event(&other).await.json["status"], "accepted");
}

#[tokio::test]
async fn a_broker_that_cannot_take_it_is_503_and_the_event_can_be_sent_again() {
    let harness = Harness::new();
    let event = good_with("eventId", "e1");
    for error in [
        AppendError::QueueFull,
        AppendError::TimedOut,
        AppendError::Unavailable("gone".to_owned()),
    ] {
        harness.log.fail_with(Some(error));
        let answer = harness.event(&event).await;
        assert_error(&answer, 503, "unavailable", "Service unavailable");
        assert_eq!(answer.headers["retry-after"], "2");
        assert_eq!(answer.json["eventId"], "e1");
        assert_eq!(harness.ids.pending(), 0);
    }
    harness.log.fail_with(None);
    assert_eq!(harness.event(&event).await.json["status"], "accepted");
}

#[tokio::test]
async fn a_game_that_cannot_be_looked_up_is_503() {
    let harness = Harness::new();
    harness.games.go_away(true);
    let answer = harness.event(&good()).await;
    assert_error(&answer, 503, "unavailable", "Service unavailable");
    assert!(answer.headers.contains_key("retry-after"));
    harness.games.go_away(false);
    assert_eq!(harness.event(&good()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn one_player_has_a_limit_of_its_own() {
    let harness = Harness::new();
    let slow = [("x-api-key", "slow")];
    let event = good_with("gameId", "s").to_string();
    let answer = harness.post("/v1/events", &slow, event.clone()).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let answer = harness.post("/v1/events", &slow, event).await;
    assert_error(
        &answer,
        429,
        "player_rate_limited",
        "Player rate limit exceeded",
    );
    assert!(answer.headers.contains_key("retry-after"));
    assert!(answer.json["eventId"].is_string());
}

#[tokio::test]
async fn limits_are_told_on_every_authenticated_answer() {
    let harness = Harness::new();
    for (body, status) in [(good().to_string(), 200), ("{".to_owned(), 400)] {
        let answer = harness.post("/v1/events", &[KEY], body).await;
        assert_eq!(answer.status.as_u16(), status);
        assert!(answer.headers.contains_key("ratelimit"));
        let policy = answer.headers["ratelimit-policy"].to_str().unwrap();
        assert_eq!(policy, r#""requests";q=5000;w=60, "events";q=50000;w=60"#);
    }
}

fn statuses(answer: &Answer) -> Vec<&str> {
    let results = answer.json["results"].as_array().unwrap();
    results
        .iter()
        .map(|item| item["status"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_batch_is_answered_item_by_item() {
    let harness = Harness::new();
    let e1 = good_with("eventId", "e1");
    harness.event(&e1).await;
    let mut reused = e1.clone();
    reused["metadata"] = json!({"x": 1});
    let batch = json!([
        good(),
        e1,
        reused,
        good_with("gameId", "other"),
        good_with("userId", ""),
        5
    ]);
    let answer = harness.batch(&batch).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(
        statuses(&answer),
        [
            "accepted",
            "duplicate",
            "rejected",
            "rejected",
            "rejected",
            "rejected"
        ]
    );
    let results = answer.json["results"].as_array().unwrap();
    let codes: Vec<_> = results.iter().map(|item| item["code"].as_str()).collect();
    assert_eq!(
        codes[2..],
        [
            Some("event_id_reused"),
            Some("unknown_game"),
            Some("invalid_field"),
            Some("malformed_json")
        ]
    );
    for (place, item) in results.iter().enumerate() {
        assert_eq!(item["index"], place);
    }
    assert_eq!(answer.json["accepted"], 1);
    assert_eq!(answer.json["duplicate"], 1);
    assert_eq!(answer.json["rejected"], 4);
    assert_eq!(answer.json["retry"], 0);
    assert!(!answer.headers.contains_key("retry-after"));
    assert_eq!(harness.log.records().len(), 2);
}

#[tokio::test]
async fn an_event_twice_in_one_batch_shares_the_fate_of_the_first() {
    let harness = Harness::new();
    let event = good_with("eventId", "e1");
    let mut other = event.clone();
    other["metadata"] = json!({"x": 1});
    let batch = json!([event, good(), event, other]);
    harness.log.fail_with(Some(AppendError::QueueFull));
    let answer = harness.batch(&batch).await;
    assert_eq!(statuses(&answer), ["retry", "retry", "retry", "rejected"]);
    assert_eq!(answer.headers["retry-after"], "2");
    harness.log.fail_with(None);
    let answer = harness.batch(&batch).await;
    assert_eq!(
        statuses(&answer),
        ["accepted", "accepted", "duplicate", "rejected"]
    );
    assert_eq!(answer.json["results"][3]["code"], "event_id_reused");
    assert_eq!(harness.log.records().len(), 2);
}

#[tokio::test]
async fn events_of_a_batch_keep_their_order_in_the_log() {
    let harness = Harness::new();
    let events: Vec<Value> = (0..500)
        .map(|n| good_with("eventId", format!("e{n}")))
        .collect();
    let answer = harness.batch(&json!({"events": events})).await;
    assert_eq!(answer.json["accepted"], 500, "{:?}", answer.headers);
    let order = harness.log.records().into_iter().map(|record| {
        let event = GameEvent::from_json(&record.value).unwrap();
        event.event_id.to_string()
    });
    assert!(order.eq((0..500).map(|n| format!("e{n}"))));
}

#[tokio::test]
async fn a_batch_over_the_limit_comes_in_from_the_front_and_the_rest_is_to_be_retried() {
    let harness = Harness::new();
    let slow = [("x-api-key", "slow")];
    let event = |user: &str| {
        let mut event = good_with("gameId", "s");
        event["userId"] = json!(user);
        event
    };
    let mut named = event("d");
    named["eventId"] = json!("mine");
    let batch = json!([event("a"), event("b"), event("a"), named, event("e"), 7]);
    let answer = harness
        .post("/v1/events/batch", &slow, batch.to_string())
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(
        statuses(&answer),
        ["accepted", "accepted", "retry", "retry", "retry", "retry"]
    );
    let results = &answer.json["results"];
    assert_eq!(results[2]["code"], "player_rate_limited");
    assert!(results[2]["eventId"].is_string());
    for item in &results.as_array().unwrap()[3..] {
        assert_eq!(item["code"], "rate_limited");
    }
    assert_eq!(results[3]["eventId"], "mine");
    assert!(results[4]["eventId"].as_str().unwrap().starts_with("evt_"));
    assert!(results[5].get("eventId").is_none());
    assert!(answer.headers.contains_key("retry-after"));
    // Nothing left: the whole request is refused.
    let batch = json!([event("x")]).to_string();
    let answer = harness.post("/v1/events/batch", &slow, batch).await;
    assert_error(&answer, 429, "rate_limited", "Rate limit exceeded");
}

#[tokio::test]
async fn lines_are_a_batch_too_and_a_broken_one_is_rejected_alone() {
    let harness = Harness::new();
    let lines = format!("{}\n{{broken\n\n{}\r\n", good(), good());
    let ndjson = [KEY, ("content-type", "application/x-ndjson")];
    let mut body = lines.into_bytes();
    body.extend_from_slice(b"\"\xff\"\n");
    let answer = harness.post("/v1/events/batch", &ndjson, body).await;
    assert_eq!(
        statuses(&answer),
        ["accepted", "rejected", "accepted", "rejected"]
    );
    assert_eq!(answer.json["results"][1]["code"], "malformed_json");
    let answer = harness
        .post("/v1/events", &ndjson, good().to_string())
        .await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_batch_has_1_to_500_events_of_64_kib_each() {
    let harness = Harness::new();
    let answer = harness.batch(&json!([])).await;
    assert_error(
        &answer,
        400,
        "invalid_field",
        "Batch must hold at least one event",
    );
    let answer = harness.batch(&json!(vec![1; 501])).await;
    assert_error(
        &answer,
        413,
        "too_large",
        "Batch must hold at most 500 events",
    );
    let answer = harness.batch(&json!({"event": []})).await;
    assert_error(
        &answer,
        400,
        "missing_field",
        "Missing required field: events",
    );
    let large = good_with("x", "y".repeat(65_536));
    let answer = harness.batch(&json!([large, good()])).await;
    assert_eq!(statuses(&answer), ["rejected", "accepted"]);
    assert_eq!(answer.json["results"][0]["code"], "too_large");
    let answer = harness
        .post("/v1/events/batch", &[KEY], "x".repeat(1_048_577))
        .await;
    assert_error(&answer, 413, "too_large", "Body must be at most 1024 KiB");
}
