//! Events into the log: our gateway beside a bare endpoint, and beside a service in Node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bm_bench::event;
use bm_contracts::Topic;
use bm_engine::Record;
use bm_kafka::LogReader;
use bm_testkit::process::workspace;
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;

use crate::Options;
use crate::figures::{Figures, Goal, median};
use crate::http::{Shot, hammer};
use crate::stage::Stage;

/// Requests that differ in their player, so that all partitions have work.
const PLAYERS: usize = 1_000;

fn shots(stage: &Stage, named: bool) -> Vec<Shot> {
    (0..PLAYERS)
        .map(|player| {
            let body = event(stage.game.as_str(), player, "bench", named);
            Shot::post("/v1/events", &[("x-api-key", &stage.key)], &body)
        })
        .collect()
}

/// Single events at 64 and 256 connections.
pub(crate) async fn single(options: &Options, figures: &mut Figures) {
    let stage = Stage::new(options).await;
    let gateway = stage.start("gateway").await;
    let ours = Stage::address(&gateway);
    let topic = stage.topic(Topic::GameEvents);
    let brokers = stage.topics.brokers().to_owned();
    let listen = |port: u16| vec![format!("127.0.0.1:{port}"), brokers.clone(), topic.clone()];
    let (_raw, raw) = Stage::start_other("raw-ingest", listen).await;
    let node = if options.without_node {
        None
    } else {
        let script = workspace()
            .join("bench/node/ingest.js")
            .display()
            .to_string();
        let arguments = |port: u16| {
            vec![
                script.clone(),
                port.to_string(),
                brokers.clone(),
                topic.clone(),
                stage.database.url(),
            ]
        };
        Some(
            Stage::start_other("/usr/bin/env", |port| {
                let mut all = vec!["node".to_owned()];
                all.extend(arguments(port));
                all
            })
            .await,
        )
    };
    let (plain, named) = (shots(&stage, false), shots(&stage, true));
    let run = |address: SocketAddr, connections: usize, shots: &[Shot]| {
        let rate = hammer(address, connections, options.seconds, shots);
        assert_eq!(rate.refused, None, "a side refused events");
        rate.per_second
    };
    for connections in [64, 256] {
        let mut raws = Vec::new();
        let (mut plain_ratios, mut named_ratios) = (Vec::new(), Vec::new());
        let (mut plain_rates, mut node_ratios) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            let base = run(raw, connections, &plain);
            let unnamed = run(ours, connections, &plain);
            let with_ids = run(ours, connections, &named);
            raws.push(base);
            plain_rates.push(unnamed);
            plain_ratios.push(unnamed / base);
            named_ratios.push(with_ids / base);
            if let Some((_, node)) = node.as_ref().filter(|_| connections == 256) {
                node_ratios.push(unnamed / run(*node, connections, &plain));
            }
        }
        let name = |what: &str| format!("ingest {connections} connections, {what}");
        figures.add(name("bare endpoint"), median(&raws), "events/s", Goal::None);
        figures.add(name("ours"), median(&plain_rates), "events/s", Goal::None);
        figures.add(
            name("ours / bare"),
            median(&plain_ratios),
            "",
            Goal::Min(0.7),
        );
        figures.add(
            name("ours with eventId / bare"),
            median(&named_ratios),
            "",
            Goal::Min(0.5),
        );
        if !node_ratios.is_empty() {
            figures.add(
                name("ours / Node"),
                median(&node_ratios),
                "",
                Goal::Min(15.0),
            );
        }
    }
}

/// Batches of 100 beside a loop that hands the same records to librdkafka: those that the gateway
/// makes of these events, with their keys and headers.
pub(crate) async fn batches(options: &Options, figures: &mut Figures) {
    const BATCH: usize = 100;
    let stage = Stage::new(options).await;
    let gateway = stage.start("gateway").await;
    let ours = Stage::address(&gateway);
    let requests: Vec<Shot> = (0..PLAYERS / 10)
        .map(|first| {
            let events: Vec<String> = (0..BATCH)
                .map(|n| {
                    let player = (first * 7 + n) % PLAYERS;
                    event(stage.game.as_str(), player, "bench", false)
                })
                .collect();
            let body = format!("[{}]", events.join(","));
            Shot::post("/v1/events/batch", &[("x-api-key", &stage.key)], &body)
        })
        .collect();
    let run = |seconds: f64| {
        let rate = hammer(ours, 16, seconds, &requests);
        assert_eq!(rate.refused, None, "the gateway refused batches");
        rate.per_second * BATCH as f64
    };
    run(0.1);
    let records = Arc::new(made_by_the_gateway(&stage).await);
    let (mut rates, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let base = produce(&stage, &records, options.seconds).await;
        let events = run(options.seconds);
        rates.push(events);
        ratios.push(events / base);
    }
    figures.add(
        "batches of 100, ours",
        median(&rates),
        "events/s",
        Goal::None,
    );
    figures.add(
        "batches of 100, ours / produce loop",
        median(&ratios),
        "",
        Goal::Min(0.5),
    );
}

/// Some records that the gateway has appended.
async fn made_by_the_gateway(stage: &Stage) -> Vec<Record> {
    let mut reader = LogReader::snapshot(&stage.kafka(), Topic::GameEvents)
        .await
        .expect("the topic can be read");
    let mut records = Vec::with_capacity(PLAYERS);
    while records.len() < PLAYERS {
        let record = reader.next().await.expect("the topic can be read");
        records.push(record.expect("the gateway has appended many"));
    }
    records
}

struct Counted;

impl ClientContext for Counted {}

impl ProducerContext for Counted {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        assert!(result.is_ok(), "the raw side's message was not acked");
    }
}

/// Messages a second that a loop appends, acked.
async fn produce(stage: &Stage, records: &Arc<Vec<Record>>, seconds: f64) -> f64 {
    let topic = stage.topic(Topic::GameEvents);
    // As the gateway's producer is set, in all that costs time.
    let producer: ThreadedProducer<Counted> = ClientConfig::new()
        .set("bootstrap.servers", stage.topics.brokers())
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "0")
        .set("compression.type", "snappy")
        .set("queue.buffering.max.messages", "100000")
        .create_with_context(Counted)
        .expect("a producer can be made");
    let records = Arc::clone(records);
    tokio::task::spawn_blocking(move || {
        let warm = BaseRecord::<str, str>::to(&topic).key("k").payload("{}");
        producer
            .send(warm)
            .map_err(|(error, _)| error)
            .expect("the broker takes messages");
        producer
            .flush(Duration::from_secs(10))
            .expect("the broker acks");
        let begun = Instant::now();
        let mut sent = 0_u64;
        while begun.elapsed().as_secs_f64() < seconds {
            for record in records.iter() {
                let headers = OwnedHeaders::new_with_capacity(record.headers.len());
                let headers = record
                    .headers
                    .iter()
                    .fold(headers, |headers, (key, value)| {
                        let value = Some(value.as_ref());
                        headers.insert(Header { key, value })
                    });
                let mut message = BaseRecord::<[u8], [u8]>::to(&topic)
                    .key(&record.key)
                    .payload(&record.value)
                    .headers(headers);
                while let Err((error, back)) = producer.send(message) {
                    assert_eq!(
                        error.rdkafka_error_code(),
                        Some(RDKafkaErrorCode::QueueFull)
                    );
                    std::thread::sleep(Duration::from_millis(1));
                    message = back;
                }
                sent += 1;
            }
        }
        producer
            .flush(Duration::from_mins(1))
            .expect("the broker acks");
        sent as f64 / begun.elapsed().as_secs_f64()
    })
    .await
    .expect("the loop does not panic")
}
