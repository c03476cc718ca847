//! Single appends: where and when, and never a wait without end.

use std::time::{Duration, Instant};

use bm_contracts::Topic;
use bm_contracts::partition::partition_for;
use bm_contracts::topics::MAX_MESSAGE_BYTES;
use bm_kafka::{AppendConfig, AppendError, EventProducer, KafkaConfig};
use bm_testkit::{Server, TestTopics, TopicPlan, eventually};

use crate::{DEADLINE, config, soon};

#[tokio::test(flavor = "multi_thread")]
async fn an_append_tells_where_and_when_the_broker_put_the_message() {
    let topics = TestTopics::create([TopicPlan::of(Topic::GameEvents)]).await;
    let producer =
        EventProducer::new(&config(&topics), &AppendConfig::default(), "append-test").unwrap();
    producer.warm_up(DEADLINE).await.unwrap();
    assert_eq!(producer.ready().await, Ok(()));
    let started = Instant::now();
    let keys: Vec<String> = (0..200).map(|n| format!("game:player-{n}")).collect();
    let futures: Vec<_> = keys
        .iter()
        .map(|key| {
            producer
                .append(
                    Topic::GameEvents,
                    None,
                    key,
                    &[("gameId", "game")],
                    key.as_bytes(),
                )
                .unwrap()
        })
        .collect();
    let mut appended = Vec::new();
    for future in futures {
        appended.push(soon("an append", future).await.unwrap());
    }
    println!("200 appends in {:?}", started.elapsed());
    let records = topics.read_all("game.events").await;
    assert_eq!(records.len(), 200);
    for (key, appended) in keys.iter().zip(appended) {
        let record = records
            .iter()
            .find(|record| record.key_text() == key)
            .unwrap();
        assert_eq!(
            appended.partition,
            partition_for(key.as_bytes(), 10),
            "{key}"
        );
        assert_eq!(
            (record.partition, record.offset),
            (appended.partition, appended.offset)
        );
        assert_eq!(record.timestamp, Some(appended.timestamp.as_millis()));
        assert_eq!(record.header("gameId"), Some("game"));
    }
    let explicit = producer
        .append(Topic::GameEvents, Some(9), "game:player-0", &[], b"{}")
        .unwrap();
    assert_eq!(soon("an append", explicit).await.unwrap().partition, 9);
    let huge = vec![b'x'; MAX_MESSAGE_BYTES + 1];
    let refused = producer
        .append(Topic::GameEvents, None, "k", &[], &huge)
        .err();
    assert_eq!(refused, Some(AppendError::TooLarge));
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_in_the_log_is_the_first_appended() {
    let topics = TestTopics::create([TopicPlan::of(Topic::GameEvents).partitions(1)]).await;
    let producer =
        EventProducer::new(&config(&topics), &AppendConfig::default(), "warm-test").unwrap();
    producer.warm_up(DEADLINE).await.unwrap();
    let started = Instant::now();
    let first = producer
        .append(Topic::GameEvents, None, "k", &[], b"first")
        .unwrap();
    assert_eq!(soon("the first append", first).await.unwrap().offset, 0);
    println!("first append after warm-up in {:?}", started.elapsed());
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_broker_is_a_timeout_and_a_full_queue_is_told_at_once() {
    let (server, proxy) = Server::kafka_behind_proxy().await;
    let topics = TestTopics::create_on(&server.address(), [TopicPlan::of(Topic::GameEvents)]).await;
    let config = KafkaConfig {
        names: topics.names(),
        ..KafkaConfig::plaintext(proxy.address())
    };
    let append = AppendConfig {
        timeout: Duration::from_secs(2),
        queue_messages: 50,
        ..AppendConfig::default()
    };
    let producer = EventProducer::new(&config, &append, "silent-test").unwrap();
    producer.warm_up(DEADLINE).await.unwrap();
    let early = producer
        .append(Topic::GameEvents, None, "k", &[], b"{}")
        .unwrap();
    soon("the append before", early).await.unwrap();
    // A message has its outcome a moment before its place in the queue is free again.
    producer.flush(DEADLINE).await.unwrap();
    assert_eq!(producer.ready().await, Ok(()));

    proxy.silent();
    let started = Instant::now();
    let mut waiting = Vec::new();
    let full = loop {
        match producer.append(Topic::GameEvents, None, "k", &[], b"{}") {
            Ok(future) => waiting.push(future),
            Err(error) => break error,
        }
    };
    assert_eq!(full, AppendError::QueueFull);
    assert_eq!(waiting.len(), 50);
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    for future in waiting {
        assert_eq!(soon("a timeout", future).await, Err(AppendError::TimedOut));
    }
    let taken = started.elapsed();
    assert!(taken < Duration::from_secs(5), "{taken:?}");
    println!("timed out after {taken:?}");
    let not_ready = producer.ready().await;
    assert!(not_ready.is_err());
    println!("not ready: {not_ready:?}");

    proxy.pass();
    eventually(DEADLINE, "readiness", || async {
        producer.ready().await.ok()
    })
    .await;
    eventually(DEADLINE, "an append", || async {
        let append = producer
            .append(Topic::GameEvents, None, "k", &[], b"{}")
            .ok()?;
        append.await.ok()
    })
    .await;
    producer.flush(DEADLINE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_broker_is_never_ready() {
    let config = KafkaConfig::plaintext(format!("127.0.0.1:{}", bm_testkit::free_port()));
    let append = AppendConfig {
        timeout: Duration::from_secs(1),
        ..AppendConfig::default()
    };
    let producer = EventProducer::new(&config, &append, "nowhere-test").unwrap();
    let error = producer.warm_up(Duration::from_secs(1)).await.unwrap_err();
    assert!(error.to_string().contains("Connection refused"), "{error}");
    let reason = producer.ready().await.unwrap_err();
    assert!(reason.contains("Connection refused"), "{reason}");
    let append = producer
        .append(Topic::GameEvents, None, "k", &[], b"{}")
        .unwrap();
    assert_eq!(
        soon("the timeout", append).await,
        Err(AppendError::TimedOut)
    );
}
