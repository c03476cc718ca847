//! The contract for single events row by row, over fakes.

use bm_contracts::{GameEvent, headers, partition};
use bm_kafka::AppendError;
use http::{Request, StatusCode};
use serde_json::json;

use crate::games::AWAY_FOR;
use crate::gateway::{MAX_AGE_MS, MAX_AHEAD_MS};
use crate::testing::{Answer, Harness, MEMORY, NOW, good, good_with};

pub(crate) const KEY: (&str, &str) = ("x-api-key", "key");

#[track_caller]
pub(crate) fn assert_error(answer: &Answer, status: u16, code: &str, sentence: &str) {
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
    assert_eq!(record.headers(), expected);
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
    for (body, code) in [
        ("{", "malformed_json"),
        (r#"{"metadata":{"a":1,"a":1}}"#, "malformed_json"),
        (r#"{"x":9223372036854775808}"#, "invalid_field"),
        ("[]", "malformed_json"),
    ] {
        let answer = harness.post("/v1/events", &slow, body).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, code));
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
    let named = r#"{"eventId":"mine"}"#;
    let answer = harness.post("/v1/events", &slow, named).await;
    assert_error(&answer, 429, "rate_limited", "Rate limit exceeded");
    assert_eq!(answer.json["eventId"], "mine");
    let by_header = [slow[0], ("idempotency-key", "\"yours\"")];
    let answer = harness.post("/v1/events", &by_header, "{}").await;
    assert_error(&answer, 429, "rate_limited", "Rate limit exceeded");
    assert_eq!(answer.json["eventId"], "yours");
    let bad_header = [slow[0], ("idempotency-key", "a:b")];
    let answer = harness.post("/v1/events", &bad_header, "{}").await;
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (400, "invalid_field")
    );
    let answer = harness.post("/v1/events", &slow, "{}").await;
    assert_eq!(answer.json.get("eventId"), None);
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
    // Once it has a name, the error says it.
    let mut named = good_with("eventType", "jump");
    named["eventId"] = json!("mine");
    let answer = harness.event(&named).await;
    assert_eq!(
        (answer.code(), answer.json["eventId"].as_str()),
        ("invalid_event_type", Some("mine"))
    );
    let header = [KEY, ("idempotency-key", "yours")];
    let body = good_with("userId", "a:b").to_string();
    let answer = harness.post("/v1/events", &header, body).await;
    assert_eq!(
        (answer.code(), answer.json["eventId"].as_str()),
        ("invalid_field", Some("yours"))
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
async fn an_event_is_settled_even_when_its_client_has_gone() {
    let harness = Harness::new();
    let event = good_with("eventId", "e1");
    let go_on = harness.log.hold_back();
    {
        let mut asking = std::pin::pin!(harness.event(&event));
        while harness.log.records().is_empty() {
            tokio::select! {
                answer = &mut asking => panic!("answered before the ack: {answer:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(harness.ids.pending(), 1);
        assert!(harness.memory.left() < MEMORY - 1_024);
        let answer = harness.event(&event).await;
        assert_error(
            &answer,
            409,
            "in_flight",
            "An event with this eventId is being processed",
        );
        assert!(answer.headers.contains_key("retry-after"));
        // Here the client goes away.
    }
    assert!(
        harness.memory.left() < MEMORY - 1_024,
        "its memory is given back too early"
    );
    go_on.notify_one();
    harness.work.close();
    harness.work.wait().await;
    assert_eq!(harness.memory.left(), MEMORY);
    assert_eq!(harness.ids.pending(), 0);
    let answer = harness.event(&event).await;
    assert_eq!(answer.json["status"], "duplicate");
    assert_eq!(harness.log.records().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_game_that_cannot_be_looked_up_is_503() {
    let harness = Harness::new();
    harness.games.go_away(true);
    let answer = harness.event(&good()).await;
    assert_error(&answer, 503, "unavailable", "Service unavailable");
    assert!(answer.headers.contains_key("retry-after"));
    harness.games.go_away(false);
    tokio::time::advance(AWAY_FOR).await;
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
