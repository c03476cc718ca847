//! What is promised to clients, row by row.

use bm_bootstrap::Clock;
use bm_contracts::{GameEvent, Timestamp, Topic, headers, partition};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{DEADLINE, Running, Through, good, good_with, statuses};

#[tokio::test]
async fn an_accepted_event_is_in_the_log_as_it_should_be() {
    let gateway = Running::start().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body = format!(
        r#"{{"eventType":"enemy_killed","userId":"ü-1","gameId":"g","timestamp":{},
            "studioId":"other","studioTier":"free","ingestedAt":1,"partitionKey":"x",
            "metadata":{{ "damage" : 12.50 }},"sessionId":"s-1"}}"#,
        Clock::system().now().as_millis()
    );
    let request = gateway
        .request("POST", "/v1/events")
        .header("x-api-key", "key")
        .header("x-correlation-id", "c-1")
        .header("traceparent", trace)
        .header("idempotency-key", "e-1");
    let answer = gateway.ask(request.body(body)).await;
    answer.assert_status("accepted");
    assert_eq!(answer.json["eventId"], "e-1");
    assert_eq!(answer.headers["x-correlation-id"], "c-1");

    let records = gateway.records().await;
    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!(record.key_text(), "g:ü-1");
    let partitions = Topic::GameEvents.spec().partitions;
    let expected = partition::partition_for("g:ü-1".as_bytes(), partitions);
    assert_eq!(record.partition, expected);
    for (name, value) in [
        (headers::STUDIO_ID, "acme"),
        (headers::GAME_ID, "g"),
        (headers::EVENT_TYPE, "enemy_killed"),
        (headers::CORRELATION_ID, "c-1"),
        (headers::TRACEPARENT, trace),
    ] {
        assert_eq!(record.header(name), Some(value), "{name}");
    }
    // The client hears the broker's append time.
    let appended = Timestamp::clamped(record.timestamp.unwrap());
    assert_eq!(answer.json["timestamp"], appended.to_string());
    let text = record.value_text();
    assert!(
        text.contains(r#""metadata":{ "damage" : 12.50 },"sessionId":"s-1"}"#),
        "{text}"
    );
    let event = GameEvent::from_json(text.as_bytes()).unwrap();
    assert_eq!(
        (event.studio_id.as_str(), event.studio_tier.as_str()),
        ("acme", "enterprise")
    );
    assert_eq!(event.ingested_at, None);
    assert_eq!(record.json()["partitionKey"], "g:ü-1");
    gateway.stop().await;
}

#[tokio::test]
async fn the_error_table_holds_over_http() {
    let gateway = Running::start().await;
    gateway
        .post("/v1/else", "{}")
        .await
        .assert_error(404, "not_found");
    let answer = gateway.ask(gateway.request("GET", "/api/events")).await;
    answer.assert_error(405, "method_not_allowed");
    assert!(answer.headers["allow"].to_str().unwrap().contains("POST"));

    for (key, code) in [
        (None, "missing_api_key"),
        (Some("nobody's"), "invalid_api_key"),
        (Some("unpaid"), "subscription_inactive"),
    ] {
        let mut request = gateway
            .request("POST", "/v1/events")
            .body(good().to_string());
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        gateway.ask(request).await.assert_error(401, code);
    }

    let text = gateway
        .request("POST", "/v1/events")
        .header("x-api-key", "key");
    let text = text.header("content-type", "text/plain").body("hello");
    gateway
        .ask(text)
        .await
        .assert_error(415, "unsupported_media_type");
    gateway
        .post("/v1/events", "{")
        .await
        .assert_error(400, "malformed_json");
    for (field, value, status, code) in [
        ("userId", json!(null), 400, "missing_field"),
        ("userId", json!("a:b"), 400, "invalid_field"),
        ("eventType", json!("jump"), 400, "invalid_event_type"),
        ("gameId", json!("nowhere"), 404, "unknown_game"),
        ("gameId", json!("o"), 404, "unknown_game"),
        ("timestamp", json!(0), 422, "timestamp_out_of_range"),
        (
            "timestamp",
            json!("2200-01-01T00:00:00Z"),
            422,
            "timestamp_out_of_range",
        ),
    ] {
        let answer = gateway.event(&good_with(field, value)).await;
        answer.assert_error(status, code);
        assert!(answer.headers.contains_key("ratelimit"), "{answer:?}");
        assert!(
            answer.headers.contains_key("ratelimit-policy"),
            "{answer:?}"
        );
    }
    assert_eq!(gateway.records().await, []);

    let event = good_with("eventId", "e-1");
    let first = gateway.event(&event).await;
    first.assert_status("accepted");
    let mut other = event.clone();
    other["metadata"] = json!({"x": 1});
    let answer = gateway.event(&other).await;
    answer.assert_error(422, "event_id_reused");
    assert_eq!(answer.json["eventId"], "e-1");
    // The answer is remembered after the ack, a moment later; until then the id is under way.
    let again = bm_testkit::eventually(crate::support::DEADLINE, "the duplicate", || async {
        let answer = gateway.event(&event).await;
        if answer.status == 409 {
            answer.assert_error(409, "in_flight");
            return None;
        }
        Some(answer)
    })
    .await;
    again.assert_status("duplicate");
    assert_eq!(again.json["timestamp"], first.json["timestamp"]);
    assert_eq!(gateway.logged_ids().await, ["e-1"]);
    gateway.stop().await;
}

#[tokio::test]
async fn limits_of_players_and_studios_hold() {
    let gateway = Running::start().await;
    let send = |user: &str| {
        let mut event = good_with("gameId", "s");
        event["userId"] = json!(user);
        let request = gateway
            .request("POST", "/v1/events")
            .header("x-api-key", "small");
        gateway.ask(request.body(event.to_string()))
    };
    send("a").await.assert_status("accepted");
    send("a").await.assert_status("accepted");
    let answer = send("a").await;
    answer.assert_error(429, "player_rate_limited");
    assert!(answer.headers.contains_key("retry-after"));
    // That one was read and therefore charged.
    let answer = send("b").await;
    answer.assert_error(429, "rate_limited");
    let wait: u64 = answer.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(
        answer.headers["ratelimit-policy"]
            .to_str()
            .unwrap()
            .contains(r#""events";q=3;w=60"#)
    );
    gateway.stop().await;
}

#[tokio::test]
async fn batches_come_in_three_forms_and_are_answered_item_by_item() {
    let gateway = Running::start().await;
    let (a, b) = (good_with("eventId", "a"), good_with("eventId", "b"));
    let array = json!([a, b, a, good_with("gameId", "o")]).to_string();
    let answer = gateway.post("/v1/events/batch", array).await;
    assert_eq!(
        statuses(&answer),
        ["accepted", "accepted", "duplicate", "rejected"]
    );
    assert_eq!(answer.json["results"][3]["code"], "unknown_game");
    let object = json!({"events": [good_with("eventId", "c")], "sdk": "1.0"}).to_string();
    let answer = gateway.post("/api/events/batch", object).await;
    assert_eq!(statuses(&answer), ["accepted"]);
    let lines = format!("{}\nbroken\n", good_with("eventId", "d"));
    let request = gateway
        .request("POST", "/v1/events/batch")
        .header("x-api-key", "key")
        .header("content-type", "application/x-ndjson");
    let answer = gateway.ask(request.body(lines)).await;
    assert_eq!(statuses(&answer), ["accepted", "rejected"]);
    assert_eq!(gateway.logged_ids().await, ["a", "b", "c", "d"]);
    gateway
        .post("/v1/events/batch", "[]")
        .await
        .assert_error(400, "invalid_field");
    let many = json!(vec![1; 501]).to_string();
    gateway
        .post("/v1/events/batch", many)
        .await
        .assert_error(413, "too_large");
    gateway.stop().await;
}

#[tokio::test]
async fn browsers_and_operators_get_what_they_ask_for() {
    let gateway = Running::start().await;
    let preflight = gateway
        .request("OPTIONS", "/v1/events")
        .header("origin", "https://game.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "x-api-key,content-type");
    let answer = gateway.ask(preflight).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    let allowed = answer.headers["access-control-allow-headers"]
        .to_str()
        .unwrap();
    assert!(
        allowed.contains("x-api-key") && allowed.contains("idempotency-key"),
        "{allowed}"
    );
    let answer = gateway.event(&good()).await;
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    let exposed = answer.headers["access-control-expose-headers"]
        .to_str()
        .unwrap();
    assert!(
        exposed.contains("retry-after") && exposed.contains("ratelimit"),
        "{exposed}"
    );

    let answer = gateway.ask(gateway.request("GET", "/healthz")).await;
    assert_eq!((answer.status, &answer.json["status"]), (200, &json!("ok")));
    let answer = gateway.ask(gateway.request("GET", "/readyz")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for check in ["broker", "postgres", "redis", "studios"] {
        assert_eq!(answer.json["checks"][check]["ok"], true, "{answer:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn every_outcome_is_counted_once() {
    let gateway = Running::start().await;
    let route = "/api/events";
    let small = |user: &str| {
        let mut event = good_with("gameId", "s");
        event["userId"] = json!(user);
        ("small", "application/json", event.to_string())
    };
    let ours = |body: String| ("key", "application/json", body);
    let asked = [
        (200, "", ours(good().to_string())),
        (401, "invalid_api_key", ("nobody's", "", good().to_string())),
        (
            415,
            "unsupported_media_type",
            ("key", "text/plain", good().to_string()),
        ),
        (413, "too_large", ours("x".repeat(65_537))),
        (400, "malformed_json", ours("{".to_owned())),
        (400, "missing_field", ours("{}".to_owned())),
        (
            404,
            "unknown_game",
            ours(good_with("gameId", "o").to_string()),
        ),
        (
            422,
            "timestamp_out_of_range",
            ours(good_with("timestamp", 0).to_string()),
        ),
        (200, "", small("a")),
        (200, "", small("a")),
        (429, "player_rate_limited", small("a")),
        (429, "rate_limited", small("b")),
    ];
    // Other tests of this process are counted too, but none of them posts to this route.
    let of_route = |status: u16, code: &str| {
        format!(
            r#"bm_http_requests_total{{service="gateway",route="{route}",status="{status}",code="{code}"}}"#
        )
    };
    let timed = format!(r#"bm_http_request_seconds_count{{service="gateway",route="{route}"}}"#);
    let before = gateway.metrics().await;
    for (status, code, (key, kind, body)) in &asked {
        let request = gateway.request("POST", route).header("x-api-key", *key);
        let request = request.header("content-type", *kind).body(body.clone());
        let answer = gateway.ask(request).await;
        assert_eq!(answer.status, *status, "{answer:?}");
        assert_eq!(
            answer.json["code"].as_str().unwrap_or(""),
            *code,
            "{answer:?}"
        );
    }
    let after = gateway.metrics().await;
    let grown = |name: &str| after.value(name) - before.value(name);
    for (status, code, _) in &asked {
        let expected = asked
            .iter()
            .filter(|one| (one.0, one.1) == (*status, *code));
        let name = of_route(*status, code);
        assert_eq!(grown(&name), expected.count(), "{name}");
        let name = match *code {
            // No event was read.
            "invalid_api_key" => continue,
            "" => r#"bm_gateway_events_total{status="accepted",code=""}"#.to_owned(),
            code => {
                let status = if *status == 429 { "retry" } else { "rejected" };
                format!(r#"bm_gateway_events_total{{status="{status}",code="{code}"}}"#)
            }
        };
        assert!(grown(&name) >= 1, "{name}");
    }
    assert_eq!(grown(&timed), asked.len());
    assert!(grown("bm_gateway_append_seconds_count") >= 3);
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_in_mid_body_has_not_sent_malformed_json() {
    let gateway = Running::start().await;
    // Only this test does so on this route.
    let of_route = |status: &str, code: &str| {
        let route = "/api/events/batch";
        format!(
            r#"bm_http_requests_total{{service="gateway",route="{route}",status="{status}",code="{code}"}}"#
        )
    };
    let (gone, malformed) = (
        of_route("none", "client_gone"),
        of_route("400", "malformed_json"),
    );
    let before = gateway.metrics().await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = "POST /api/events/batch HTTP/1.1\r\nhost: x\r\nx-api-key: key\r\ncontent-length: 100\r\n\r\n[{";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let after = bm_testkit::eventually(DEADLINE, "a count of it", || async {
        let metrics = gateway.metrics().await;
        (metrics.value(&gone) > before.value(&gone)).then_some(metrics)
    })
    .await;
    assert_eq!(after.value(&malformed), before.value(&malformed));
    // Breaking the rules of chunks is another matter.
    let chunks = b"POST /api/events/batch HTTP/1.1\r\nhost: x\r\nx-api-key: key\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    let answer = gateway.raw(chunks).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    gateway.stop().await;
}

#[tokio::test]
async fn operators_can_have_an_address_of_their_own() {
    let operators = format!("127.0.0.1:{}", bm_testkit::free_port());
    let gateway = Running::start_with(Through {
        vars: &[("BM_OPS_ADDR", &operators)],
        ..Through::default()
    })
    .await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = gateway.ask(gateway.request("GET", path)).await;
        answer.assert_error(404, "not_found");
        let answer = bm_testkit::http::get(&operators, path).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    gateway.event(&good()).await.assert_status("accepted");
    gateway.stop().await;
    assert!(TcpStream::connect(&operators).await.is_err());
}
