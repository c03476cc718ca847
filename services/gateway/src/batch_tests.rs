//! The contract for batches, over fakes.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bm_contracts::GameEvent;
use bm_kafka::AppendError;
use bm_testkit::Logged;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use serde_json::{Value, json};

use crate::games::{AWAY_FOR, KNOWN_FOR, PATIENCE, UNKNOWN_FOR};
use crate::table_tests::{KEY, assert_error};
use crate::testing::{Answer, Harness, MEMORY, good, good_with};

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
    let mut broken = event("f");
    broken["eventId"] = json!("broken");
    broken["eventType"] = json!("jump");
    let batch = json!([
        event("a"),
        event("b"),
        event("a"),
        named,
        event("e"),
        7,
        broken
    ]);
    let answer = harness
        .post("/v1/events/batch", &slow, batch.to_string())
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(
        statuses(&answer),
        [
            "accepted", "accepted", "retry", "retry", "retry", "rejected", "rejected"
        ]
    );
    let results = &answer.json["results"];
    assert_eq!(results[2]["code"], "player_rate_limited");
    assert!(results[2]["eventId"].is_string());
    for item in &results.as_array().unwrap()[3..5] {
        assert_eq!(item["code"], "rate_limited");
    }
    assert_eq!(results[3]["eventId"], "mine");
    assert!(results[4]["eventId"].as_str().unwrap().starts_with("evt_"));
    // What can never be accepted is not to be sent again, limit or not.
    assert_eq!(results[5]["code"], "malformed_json");
    assert!(results[5].get("eventId").is_none());
    assert_eq!(results[6]["code"], "invalid_event_type");
    assert_eq!(results[6]["eventId"], "broken");
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

#[tokio::test]
async fn lines_over_the_limit_are_to_be_retried_and_broken_ones_are_not() {
    let harness = Harness::new();
    let event = |user: &str| {
        let mut event = good_with("gameId", "s");
        event["userId"] = json!(user);
        event.to_string()
    };
    let lines = [
        event("a"),
        event("b"),
        "{".to_owned(),
        event("c"),
        "}".to_owned(),
    ];
    let ndjson = [
        ("x-api-key", "slow"),
        ("content-type", "application/x-ndjson"),
    ];
    let answer = harness
        .post("/v1/events/batch", &ndjson, lines.join("\n"))
        .await;
    assert_eq!(
        statuses(&answer),
        ["accepted", "accepted", "rejected", "retry", "rejected"]
    );
    assert_eq!(answer.json["results"][3]["code"], "rate_limited");
    assert_eq!(answer.json["results"][4]["code"], "malformed_json");
    assert!(answer.headers.contains_key("retry-after"));
    let many = format!("{}\n", event("a")).repeat(501);
    let answer = harness.post("/v1/events/batch", &ndjson, many).await;
    assert_error(
        &answer,
        413,
        "too_large",
        "Batch must hold at most 500 events",
    );
}

/// Counts what histograms of one name record.
#[derive(Default)]
struct Recorded(Arc<AtomicUsize>);

impl metrics::HistogramFn for Recorded {
    fn record(&self, _value: f64) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl metrics::Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match key.name() {
            "bm_gateway_append_seconds" => Histogram::from_arc(Arc::new(Self(Arc::clone(&self.0)))),
            _ => Histogram::noop(),
        }
    }
}

#[tokio::test]
async fn only_appends_that_the_log_answered_or_did_not_say_how_long_it_takes() {
    let recorded = Recorded::default();
    let _guard = metrics::set_default_local_recorder(&recorded);
    let harness = Harness::new();
    for (error, expected) in [
        (None, 1),
        (Some(AppendError::QueueFull), 1),
        (Some(AppendError::TooLarge), 1),
        (Some(AppendError::TimedOut), 2),
    ] {
        harness.log.fail_with(error);
        harness.batch(&json!([good(), good()])).await;
        assert_eq!(recorded.0.load(Ordering::SeqCst), expected);
    }
}

#[tokio::test]
async fn lines_may_be_packed() {
    let harness = Harness::new();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    // More than is unpacked on the spot.
    let pad = "x".repeat(40_000);
    for n in 0..3 {
        let mut event = good_with("eventId", format!("e{n}"));
        event["pad"] = json!(pad);
        writeln!(packed, "{event}").unwrap();
    }
    let headers = [
        KEY,
        ("content-type", "application/x-ndjson"),
        ("content-encoding", "gzip"),
    ];
    let packed = packed.finish().unwrap();
    let answer = harness.post("/v1/events/batch", &headers, packed).await;
    assert_eq!(statuses(&answer), ["accepted"; 3]);
    harness.work.close();
    harness.work.wait().await;
    assert_eq!(harness.memory.left(), MEMORY);
}

#[tokio::test]
async fn a_batch_is_not_named_by_a_header() {
    let harness = Harness::new();
    let headers = [KEY, ("idempotency-key", "e1")];
    let answer = harness
        .post("/v1/events/batch", &headers, json!([good()]).to_string())
        .await;
    assert_error(
        &answer,
        400,
        "invalid_field",
        "Idempotency-Key is for single events; give each event of a batch its eventId",
    );
    assert_eq!(harness.log.records(), []);
}

#[tokio::test(start_paused = true)]
async fn a_batch_asks_about_its_games_once_and_waits_once() {
    let harness = Harness::new();
    // Where nothing can be read, nothing is asked.
    let answer = harness.batch(&json!([1, {}])).await;
    assert_eq!(answer.json["rejected"], 2);
    assert_eq!(harness.games.asked(), 0);
    let events: Vec<Value> = (0..500)
        .map(|n| good_with("gameId", format!("g{n}")))
        .collect();
    let batch = json!(events);
    let answer = harness.batch(&batch).await;
    assert_eq!(answer.json["rejected"], 500);
    assert_eq!(harness.games.asked(), 1);
    tokio::time::advance(UNKNOWN_FOR).await;
    harness.games.be_silent(true);
    let begun = tokio::time::Instant::now();
    let answer = harness.batch(&batch).await;
    assert_eq!(answer.json["retry"], 500);
    assert_eq!(answer.headers["retry-after"], "2");
    assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_cannot_be_taken_is_one_line_in_the_log() {
    let logged = Logged::here();
    let harness = Harness::new();
    harness.games.go_away(true);
    for correlation in ["c-1", "c-2"] {
        let headers = [KEY, ("x-correlation-id", correlation)];
        let batch = json!(vec![good(); 50]).to_string();
        let answer = harness.post("/v1/events/batch", &headers, batch).await;
        assert_eq!(answer.json["retry"], 50);
        tokio::time::advance(AWAY_FOR).await;
    }
    assert_eq!(harness.games.asked(), 2);
    let log = logged.text();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    // The outage itself is told once.
    assert_eq!(lines.len(), 3, "{log}");
    for (line, told) in lines.iter().zip(["games are away", "c-1", "c-2"]) {
        assert!(line.contains(told) && line.contains("not there"), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_known_games_go_on_while_the_games_are_away() {
    let harness = Harness::new();
    harness.event(&good()).await;
    harness.games.go_away(true);
    tokio::time::advance(KNOWN_FOR).await;
    let answer = harness
        .batch(&json!([good(), good_with("gameId", "new"), good()]))
        .await;
    assert_eq!(statuses(&answer), ["accepted", "retry", "accepted"]);
}
