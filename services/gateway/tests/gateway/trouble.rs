//! What the gateway needs goes away, and comes back.

use std::time::{Duration, Instant};

use bm_contracts::Topic;
use bm_testkit::{Server, TcpProxy, TestEnv, eventually};
use futures::FutureExt;
use futures::future::{BoxFuture, select_all};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Answer, DEADLINE, Running, Through, good, good_with, statuses};

/// `host:port` of a URL.
fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split('/').next().unwrap().to_owned()
}

/// No other test of this process fills a queue.
const QUEUE_FULL: &str = r#"bm_kafka_append_errors_total{reason="queue_full"}"#;

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
    let before = gateway.metrics().await;
    let events: Vec<_> = (0..10)
        .map(|n| good_with("eventId", format!("full-{n}")))
        .collect();
    let answer = gateway
        .post("/v1/events/batch", json!(events).to_string())
        .await;
    assert_eq!(statuses(&answer), ["retry"; 10]);
    let after = gateway.metrics().await;
    let refused = after.value(QUEUE_FULL) - before.value(QUEUE_FULL);
    assert!((7..=10).contains(&refused), "{refused}");
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

/// Sends an event twice at once; one of them is under way then, and the other is answered.
async fn while_one_is_under_way<'a>(
    gateway: &'a Running,
    event: &'a Value,
) -> (Answer, BoxFuture<'a, Answer>) {
    let both = [gateway.event(event).boxed(), gateway.event(event).boxed()];
    let (answer, _, mut other) = select_all(both).await;
    (answer, other.remove(0))
}

#[tokio::test]
async fn an_event_under_way_is_409_for_others_and_outlives_its_client_and_the_gateway() {
    let (broker, proxy) = Server::kafka_behind_proxy().await;
    let gateway = Running::start_with(Through {
        brokers: Some(&proxy.address()),
        topics_at: Some(&broker.address()),
        alone: true,
        ..Through::default()
    })
    .await;
    gateway.event(&good()).await.assert_status("accepted");
    proxy.silent();
    let event = good_with("eventId", "slow");
    let (answer, under_way) = while_one_is_under_way(&gateway, &event).await;
    answer.assert_error(409, "in_flight");
    assert_eq!(answer.json["eventId"], "slow");
    assert_eq!(answer.headers["retry-after"], "1");
    proxy.pass();
    under_way.await.assert_status("accepted");

    // The client goes before the broker has it, and then the gateway is told to stop.
    proxy.cut();
    let event = good_with("eventId", "left");
    let (answer, under_way) = while_one_is_under_way(&gateway, &event).await;
    answer.assert_error(409, "in_flight");
    drop(under_way);
    let address = gateway.address;
    let stopping = tokio::spawn(gateway.stop());
    eventually(DEADLINE, "a gateway that takes nothing new", || async {
        TcpStream::connect(address).await.err()
    })
    .await;
    proxy.pass();
    let topics = stopping.await.unwrap();
    let records = topics.read_all(Topic::GameEvents.name()).await;
    let there = |id: &str| {
        records
            .iter()
            .filter(|record| record.json()["eventId"] == id)
            .count()
    };
    assert_eq!((there("slow"), there("left")), (1, 1));
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
        ..Through::default()
    })
    .await;
    gateway.event(&good()).await.assert_status("accepted");
    proxy.cut();
    gateway.event(&good()).await.assert_status("accepted");
    // A batch waits for an answer once, not for each of its events.
    let begun = Instant::now();
    let batch = json!(vec![good_with("gameId", "o"); 500]).to_string();
    let batch = gateway.request("POST", "/v1/events/batch").body(batch);
    let answer = gateway.ask(batch.header("x-api-key", "other-key")).await;
    assert_eq!(statuses(&answer), ["retry"; 500]);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    // For a second it is known which games there are.
    let unseen = good_with("gameId", "unseen");
    let answer = eventually(DEADLINE, "a game that nobody knows", || async {
        let answer = gateway.event(&unseen).await;
        (answer.status != 404).then_some(answer)
    })
    .await;
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
    let answer = eventually(DEADLINE, "an answer from the database", || async {
        let answer = gateway.event(&unseen).await;
        (answer.status != 503).then_some(answer)
    })
    .await;
    answer.assert_error(404, "unknown_game");
    gateway.stop().await;
}
