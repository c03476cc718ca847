//! What every answer says whatever it answers, and what is said when something of ours is at fault.

use crate::table_tests::{KEY, assert_error};
use crate::testing::{Answer, Harness, MEMORY, good, good_with};
use axum::body::Body;
use bm_contracts::GameEvent;
use bm_kafka::AppendError;
use http::StatusCode;
use serde_json::json;

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

#[tokio::test]
async fn a_key_that_cannot_be_checked_is_503() {
    let harness = Harness::without_studios().await;
    for path in ["/v1/events", "/v1/events/batch"] {
        let answer = harness.post(path, &[KEY], good().to_string()).await;
        assert_error(&answer, 503, "unavailable", "Service unavailable");
        assert_eq!(answer.headers["retry-after"], "2");
    }
    let answer = harness.post("/v1/events", &[], "").await;
    assert_error(&answer, 401, "missing_api_key", "Missing API key");
}

#[tokio::test(start_paused = true)]
async fn limits_are_told_whatever_went_wrong_after_the_key() {
    let harness = Harness::new();
    let told = |answer: &Answer, status: u16| {
        assert_eq!(answer.status.as_u16(), status, "{answer:?}");
        for name in ["ratelimit", "ratelimit-policy"] {
            assert!(answer.headers.contains_key(name), "{answer:?}");
        }
    };
    let never = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let answer = harness
        .post("/v1/events", &[KEY], Body::from_stream(never))
        .await;
    told(&answer, 408);
    let answer = harness.post("/v1/events", &[KEY], "x".repeat(65_537)).await;
    told(&answer, 413);
    let text = [KEY, ("content-type", "text/plain")];
    told(&harness.post("/v1/events", &text, "x").await, 415);
    harness.log.fail_with(Some(AppendError::QueueFull));
    told(&harness.event(&good()).await, 503);
    harness.log.fail_with(None);
    let event = good_with("eventId", "e1");
    let go_on = harness.log.hold_back();
    let mut first = std::pin::pin!(harness.event(&event));
    while harness.ids.pending() == 0 {
        tokio::select! {
            answer = &mut first => panic!("answered before the ack: {answer:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    told(&harness.event(&event).await, 409);
    go_on.notify_one();
    told(&first.await, 200);
}

#[tokio::test]
async fn browsers_may_read_errors_too() {
    let harness = Harness::new();
    for (path, body, status) in [
        ("/v1/events", "{", 400),
        ("/v1/nothing", "{}", 404),
        ("/v1/events/batch", "[]", 400),
    ] {
        let request = [KEY, ("origin", "https://game.example")];
        let answer = harness.post(path, &request, body).await;
        assert_eq!(answer.status.as_u16(), status, "{answer:?}");
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        let exposed = answer.headers["access-control-expose-headers"]
            .to_str()
            .unwrap();
        for name in [
            "x-correlation-id",
            "retry-after",
            "ratelimit",
            "ratelimit-policy",
        ] {
            assert!(exposed.split(", ").any(|one| one == name), "{exposed}");
        }
    }
    let origin = [("origin", "https://game.example")];
    let answer = harness.post("/v1/events", &origin, "{}").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn a_fault_of_ours_after_handing_over_names_the_event() {
    let harness = Harness::new();
    harness.log.panic_after_taking();
    let answer = harness.event(&good()).await;
    assert_error(&answer, 500, "internal", "Internal error");
    let event = GameEvent::from_json(&harness.log.records()[0].value).unwrap();
    assert_eq!(answer.json["eventId"], event.event_id.as_str());
}

#[tokio::test]
async fn requests_that_find_no_memory_are_503_and_what_was_taken_is_given_back() {
    let harness = Harness::new();
    let mut others = harness.memory.hold();
    // Enough for the text of an event, but not for the event.
    others.grow(MEMORY - 1_024).unwrap();
    for (path, body) in [
        ("/v1/events", good().to_string()),
        ("/v1/events/batch", json!([good()]).to_string()),
        ("/v1/events/batch", "x".repeat(2_000)),
    ] {
        let answer = harness.post(path, &[KEY], body).await;
        assert_error(&answer, 503, "unavailable", "Service unavailable");
        assert_eq!(answer.headers["retry-after"], "2");
        assert!(answer.headers.contains_key("ratelimit"));
    }
    drop(others);
    assert_eq!(harness.event(&good()).await.status, StatusCode::OK);
    let answer = harness.batch(&json!([good(), 1])).await;
    assert_eq!(answer.json["accepted"], 1, "{answer:?}");
    // What holds it may go on for a moment after the answer.
    harness.work.close();
    harness.work.wait().await;
    assert_eq!(harness.memory.left(), MEMORY);
}
