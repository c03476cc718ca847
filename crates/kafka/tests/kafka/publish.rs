//! Outboxes reach the log whole and in order, whatever happens to broker and producer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bm_contracts::headers::{SEQ, SOURCE, Seq};
use bm_contracts::topics::MAX_MESSAGE_BYTES;
use bm_contracts::{Topic, TopicNames};
use bm_engine::OutboxMessage;
use bm_kafka::{KafkaConfig, OutboxPublisher};
use bm_testkit::{Server, TestRecord, TestTopics, TopicPlan, eventually};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use crate::{DEADLINE, config, metric, metrics, soon};

/// Message `index` of the outbox that lane `lane` emits at `offset`.
fn message(lane: usize, offset: i64, index: i32, partition: i32, value: Vec<u8>) -> OutboxMessage {
    OutboxMessage {
        topic: Topic::UiUpdates,
        partition,
        key: format!("g:{lane}"),
        headers: vec![
            (SOURCE.into(), format!("test/quest.events/{lane}")),
            (SEQ.into(), format!("0.{offset}.{index}")),
        ],
        value,
    }
}

fn seq(record: &TestRecord) -> Seq {
    record.header(SEQ).unwrap().parse().unwrap()
}

/// What a reader with a watermark per partition and source takes of `records`.
fn taken(records: &[TestRecord]) -> HashMap<(i32, String), Vec<Seq>> {
    let mut taken: HashMap<(i32, String), Vec<Seq>> = HashMap::new();
    for record in records {
        let seqs = taken
            .entry((record.partition, record.header(SOURCE).unwrap().to_owned()))
            .or_default();
        if seqs.last().is_none_or(|last| seq(record) > *last) {
            seqs.push(seq(record));
        }
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn outboxes_complete_in_order_across_a_killed_broker() {
    const LANES: usize = 4;
    const OUTBOXES: i64 = 150;
    const MESSAGES: i32 = 6;
    let mut server = Server::kafka().await;
    let topics = TestTopics::create_on(
        &server.address(),
        [TopicPlan::of(Topic::UiUpdates).partitions(2)],
    )
    .await;
    let config = KafkaConfig {
        names: topics.names(),
        ..KafkaConfig::plaintext(server.address())
    };
    let publisher = OutboxPublisher::start(&config, "publish-test").unwrap();

    let progress = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let (publisher, progress) = (publisher.clone(), Arc::clone(&progress));
            tokio::spawn(async move {
                for offset in 0..OUTBOXES {
                    let outbox = (0..MESSAGES)
                        .map(|index| message(lane, offset, index, index % 2, b"{}".to_vec()))
                        .collect();
                    publisher.publish(Arc::new(outbox)).await;
                    progress.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            })
        })
        .collect();
    eventually(DEADLINE, "some traffic", || async {
        (progress.load(std::sync::atomic::Ordering::Relaxed) > LANES * 20).then_some(())
    })
    .await;
    server.kill();
    let killed_at = progress.load(std::sync::atomic::Ordering::Relaxed);
    server.start_again().await;
    for lane in lanes {
        soon("a lane's outboxes", lane).await.unwrap();
    }
    assert!(
        killed_at < LANES * OUTBOXES as usize,
        "the broker was killed in mid-traffic"
    );

    let records = topics.read_all("ui.updates").await;
    let taken = taken(&records);
    assert_eq!(taken.len(), LANES * 2);
    for ((partition, source), seqs) in taken {
        let expected: Vec<Seq> = (0..OUTBOXES)
            .flat_map(|offset| (0..MESSAGES).map(move |index| (offset, index)))
            .filter(|(_, index)| index % 2 == partition)
            .map(|(offset, index)| Seq {
                generation: 0,
                offset,
                index,
            })
            .collect();
        assert_eq!(seqs, expected, "partition {partition}, {source}");
    }
    println!(
        "{} records for {} messages",
        records.len(),
        LANES * OUTBOXES as usize * MESSAGES as usize
    );
}

/// Bytes no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

async fn set_max_bytes(topics: &TestTopics, bytes: usize) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", topics.brokers())
        .create()
        .unwrap();
    let (name, bytes) = (topics.full("ui.updates"), bytes.to_string());
    let change = AlterConfig::new(ResourceSpecifier::Topic(&name)).set("max.message.bytes", &bytes);
    for result in admin
        .alter_configs([&change], &AdminOptions::new())
        .await
        .unwrap()
    {
        result.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_never_overtaken_and_its_outbox_begins_again_with_each_producer() {
    let _installed = metrics();
    let plan = TopicPlan::new("ui.updates", 2).config("max.message.bytes", "2000");
    let topics = TestTopics::create([plan]).await;
    let publisher = OutboxPublisher::start(&config(&topics), "refused-test").unwrap();
    // Partition 1 takes its messages, partition 0 refuses one in the middle.
    let outbox = [(1, 100), (0, 100), (0, 5_000), (0, 100), (1, 100)]
        .into_iter()
        .enumerate()
        .map(|(index, (partition, length))| message(0, 7, index as i32, partition, noise(length)))
        .collect();
    let done = publisher.publish(Arc::new(outbox));
    // Another lane's, behind it.
    let next = publisher.publish(Arc::new(vec![message(1, 1, 0, 0, noise(10))]));
    eventually(DEADLINE, "several producers", || async {
        let records = topics.read_all("ui.updates").await;
        let begun = records
            .iter()
            .filter(|record| seq(record).offset == 7 && seq(record).index == 0);
        (begun.count() >= 3).then_some(())
    })
    .await;
    // Both wait, and whoever asks hears why and what to do.
    assert_eq!(publisher.unacked(), 2);
    assert!(publisher.oldest_unacked().unwrap() > Duration::ZERO);
    let fault = publisher.fault().unwrap();
    let named =
        [topics.full("ui.updates").as_str(), "max.message.bytes"].map(|part| fault.contains(part));
    assert_eq!(named, [true, true], "{fault}");
    let waiting = || metric(r#"bm_kafka_outboxes_waiting{client="refused-test"}"#);
    let oldest = || metric(r#"bm_kafka_outbox_oldest_seconds{client="refused-test"}"#);
    let measured = async |wanted: fn(f64, f64) -> bool| {
        eventually(DEADLINE, "the gauges", || async {
            wanted(waiting()?, oldest()?).then_some(())
        })
        .await;
    };
    measured(|waiting, oldest| waiting > 1.5 && oldest > 0.0).await;
    set_max_bytes(&topics, MAX_MESSAGE_BYTES).await;
    soon("the outbox", done).await;
    soon("the outbox behind it", next).await;
    assert_eq!(
        (publisher.oldest_unacked(), publisher.fault()),
        (None, None)
    );
    measured(|waiting, oldest| waiting == 0.0 && oldest == 0.0).await;

    let records = topics.read_all("ui.updates").await;
    for (partition, indices) in [(0, [1, 2, 3].as_slice()), (1, [0, 4].as_slice())] {
        let mut at = 0;
        for record in records
            .iter()
            .filter(|r| r.partition == partition && seq(r).offset == 7)
        {
            let index = seq(record).index;
            at = if index == indices[0] { 0 } else { at };
            assert_eq!(
                index, indices[at],
                "partition {partition} was given it out of order"
            );
            at += 1;
        }
        assert_eq!(at, indices.len(), "partition {partition} has it to its end");
    }
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_outbox_completes_and_the_largest_message_fits() {
    let topics = TestTopics::create([TopicPlan::of(Topic::UiUpdates).partitions(2)]).await;
    let publisher = OutboxPublisher::start(&config(&topics), "large-test").unwrap();
    soon("an empty outbox", publisher.publish(Arc::default())).await;

    let mut largest = message(0, 0, 0, 0, Vec::new());
    largest.value = noise(MAX_MESSAGE_BYTES - largest.size());
    assert_eq!(largest.size(), MAX_MESSAGE_BYTES);
    soon(
        "the largest message",
        publisher.publish(Arc::new(vec![largest.clone(), largest])),
    )
    .await;

    let started = Instant::now();
    let many = (0..20_000)
        .map(|index| message(0, 1, index, index % 2, vec![b'x'; 300]))
        .collect();
    soon("20,000 messages", publisher.publish(Arc::new(many))).await;
    println!("20,000 messages in {:?}", started.elapsed());
    assert_eq!(topics.read_all("ui.updates").await.len(), 20_002);
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_does_not_hold_up_the_rest() {
    let topics = TestTopics::create([TopicPlan::of(Topic::UiUpdates)]).await;
    let elsewhere = KafkaConfig {
        names: TopicNames::with_prefix("no-such-cell."),
        ..config(&topics)
    };
    // Nothing answers for a topic that is not there; a dropped publisher must still end.
    let publisher = OutboxPublisher::start(&elsewhere, "dropped-test").unwrap();
    let publication = publisher.publish(Arc::new(vec![message(0, 0, 0, 0, b"{}".to_vec())]));
    drop(publication);
    drop(publisher);

    let publisher = OutboxPublisher::start(&config(&topics), "dropped-test").unwrap();
    drop(publisher.publish(Arc::new(vec![message(0, 0, 0, 0, b"{}".to_vec())])));
    soon(
        "the next outbox",
        publisher.publish(Arc::new(vec![message(0, 1, 0, 0, b"{}".to_vec())])),
    )
    .await;
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_for_a_topic_that_was_deleted_is_told_with_what_to_do() {
    let mut topics = TestTopics::create([TopicPlan::of(Topic::UiUpdates).partitions(1)]).await;
    let publisher = OutboxPublisher::start(&config(&topics), "deleted-test").unwrap();
    let outbox = |offset| Arc::new(vec![message(0, offset, 0, 0, b"{}".to_vec())]);
    soon("an outbox", publisher.publish(outbox(0))).await;
    assert_eq!((publisher.unacked(), publisher.fault()), (0, None));
    topics.delete("ui.updates").await;
    let waits = publisher.publish(outbox(1));
    eventually(DEADLINE, "the reason", || async {
        let fault = publisher.fault()?;
        fault.contains("brightmatter topics").then_some(())
    })
    .await;
    drop(waits);
    assert_eq!(
        (publisher.oldest_unacked(), publisher.fault()),
        (None, None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_broker_answers_the_oldest_outbox_ages_and_the_reason_is_told() {
    let nowhere = KafkaConfig::plaintext(format!("127.0.0.1:{}", bm_testkit::free_port()));
    let publisher = OutboxPublisher::start(&nowhere, "nowhere-test").unwrap();
    let first = publisher.publish(Arc::new(vec![message(0, 0, 0, 0, b"{}".to_vec())]));
    let second = publisher.publish(Arc::new(vec![message(0, 1, 0, 0, b"{}".to_vec())]));
    eventually(DEADLINE, "the reason", || async {
        publisher
            .fault()?
            .contains("Connection refused")
            .then_some(())
    })
    .await;
    let age = publisher.oldest_unacked().unwrap();
    eventually(DEADLINE, "a greater age", || async {
        (publisher.oldest_unacked()? > age).then_some(())
    })
    .await;
    drop(first);
    assert_eq!(publisher.unacked(), 1);
    drop(second);
}
