//! What the gateway needs goes away, and comes back.

use std::time::{Duration, Instant};

use bm_contracts::Topic;
use bm_testkit::{Server, TcpProxy, TestEnv, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{DEADLINE, Running, Through, good, good_with, statuses};

/// `host:port` of a URL.
fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split('/').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_silent_broker_and_a_full_queue_are_503_and_the_drain_loses_nothing() {
    let (broker, proxy) = Server::kafka_behind_proxy().await;
    let gateway = Running::start_with(Through {
        brokers: Some(&proxy.address()),
        topics_at: Some(&broker.address()),
        vars: &[
            ("BM_APPEND_TIMEOUT_MS", "1500"),
            ("BM_PRODUCER_QUEUE_MESSAGES", "3"),
        ],
        ..Through::default()
    })
    .await;
    gateway
        .event(&good_with("eventId", "before"))
        .await
        .assert_status("accepted");

    proxy.silent();
    let begun = Instant::now();
    let lost = good_with("eventId", "lost");
    let answer = gateway.event(&lost).await;
    answer.assert_error(503, "unavailable");
    assert_eq!(answer.headers["retry-after"], "2");
    assert_eq!(answer.json["eventId"], "lost");
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    // More than the queue holds: some do not even wait.
    let events: Vec<_> = (0..10)
        .map(|n| good_with("eventId", format!("full-{n}")))
        .collect();
    let answer = gateway
        .post("/v1/events/batch", json!(events).to_string())
        .await;
    assert_eq!(statuses(&answer), ["retry"; 10]);
    assert!(answer.headers.contains_key("retry-after"));
    eventually(DEADLINE, "a gateway that is not ready", || async {
        let answer = gateway.ask(gateway.request("GET", "/readyz")).await;
        (answer.status == 503 && answer.json["checks"]["broker"]["ok"] == false).then_some(())
    })
    .await;

    proxy.pass();
    eventually(DEADLINE, "the lost event", || async {
        let answer = gateway.event(&lost).await;
        (answer.status == 200).then_some(())
    })
    .await;

    // Under way when the gateway is told to stop: its head was read, its body comes after.
    let body = good_with("eventId", "last").to_string();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: key\r\nexpect: 100-continue\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let (ctx, address) = (gateway.ctx.clone(), gateway.address);
    let stopping = tokio::spawn(gateway.stop());
    eventually(DEADLINE, "a gateway that takes nothing new", || async {
        let refused = TcpStream::connect(address).await.is_err();
        (ctx.health.is_draining() && refused).then_some(())
    })
    .await;
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#""status":"accepted""#), "{answer}");
    let topics = stopping.await.unwrap();
    let records = topics.read_all(Topic::GameEvents.name()).await;
    for id in ["before", "lost", "last"] {
        let there = records.iter().any(|record| record.json()["eventId"] == id);
        assert!(there, "{id} is not in the log");
    }
}

#[tokio::test]
async fn without_redis_events_are_accepted_and_the_gateway_is_ready() {
    let proxy = TcpProxy::to(host_of(&TestEnv::get().redis)).await;
    let gateway = Running::start_with(Through {
        redis: Some(&proxy),
        ..Through::default()
    })
    .await;
    let event = good_with("eventId", "e");
    gateway.event(&event).await.assert_status("accepted");
    proxy.cut();
    for _ in 0..3 {
        gateway.event(&event).await.assert_status("accepted");
    }
    let answer = eventually(DEADLINE, "a report of Redis", || async {
        let answer = gateway.ask(gateway.request("GET", "/readyz")).await;
        (answer.json["checks"]["redis"]["ok"] == false).then_some(answer)
    })
    .await;
    assert_eq!((answer.status, &answer.json["ready"]), (200, &json!(true)));
    proxy.pass();
    eventually(DEADLINE, "the memory of event ids", || async {
        let answer = gateway.event(&event).await;
        (answer.json["status"] == "duplicate").then_some(())
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn without_postgres_known_games_go_on_and_unknown_ones_are_503() {
    let proxy = TcpProxy::to(host_of(&TestEnv::get().postgres)).await;
    let gateway = Running::start_with(Through {
        postgres: Some(&proxy),
        vars: &[("BM_DB_TIMEOUT", "500ms")],
        ..Through::default()
    })
    .await;
    gateway.event(&good()).await.assert_status("accepted");
    proxy.cut();
    gateway.event(&good()).await.assert_status("accepted");
    let answer = gateway.event(&good_with("gameId", "unseen")).await;
    answer.assert_error(503, "unavailable");
    assert!(answer.headers.contains_key("retry-after"));
    let batch = json!([good(), good_with("gameId", "unseen")]).to_string();
    let answer = gateway.post("/v1/events/batch", batch).await;
    assert_eq!(statuses(&answer), ["accepted", "retry"]);
    let answer = eventually(DEADLINE, "a gateway that is not ready", || async {
        let answer = gateway.ask(gateway.request("GET", "/readyz")).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(answer.json["checks"]["postgres"]["ok"], false);
    proxy.pass();
    eventually(DEADLINE, "a ready gateway", || async {
        let answer = gateway.ask(gateway.request("GET", "/readyz")).await;
        (answer.status == 200).then_some(())
    })
    .await;
    let answer = gateway.event(&good_with("gameId", "unseen")).await;
    answer.assert_error(404, "unknown_game");
    gateway.stop().await;
}
