//! Reading from exact offsets.

use std::time::Duration;

use bm_contracts::Topic;
use bm_contracts::topics::MAX_MESSAGE_BYTES;
use bm_engine::Record;
use bm_kafka::{AppendConfig, EventProducer, Fetched, Fetcher, KafkaError};
use bm_testkit::{TestTopics, TopicPlan, unique};
use rand::distr::{Alphanumeric, SampleString};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::{config, metric, metrics, soon};

async fn record(fetcher: &Fetcher) -> Record {
    loop {
        match soon("a record", fetcher.recv()).await {
            Fetched::Record(record) => return record,
            Fetched::Transient { error } => println!("passing: {error}"),
            other => panic!("{other:?}"),
        }
    }
}

/// Appends `count` records, their offset as value, to each of `partitions`.
async fn fill(topics: &TestTopics, topic: Topic, partitions: i32, count: usize) {
    let producer = EventProducer::new(&config(topics), &AppendConfig::default(), "fill").unwrap();
    producer.warm_up(crate::DEADLINE).await.unwrap();
    for partition in 0..partitions {
        let futures: Vec<_> = (0..count)
            .map(|n| {
                let value = format!("{n}{}", " ".repeat(100));
                producer
                    .append(topic, Some(partition), "k", &[("n", "1")], value.as_bytes())
                    .unwrap()
            })
            .collect();
        for (n, future) in futures.into_iter().enumerate() {
            assert_eq!(soon("an append", future).await.unwrap().offset, n as i64);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_record_of_an_earlier_assignment_passes_under_load() {
    const COUNT: i64 = 20_000;
    let topics = TestTopics::create([TopicPlan::of(Topic::QuestEvents).partitions(3)]).await;
    fill(&topics, Topic::QuestEvents, 3, COUNT as usize).await;
    let fetcher = Fetcher::new(&config(&topics), "stale-test", Topic::QuestEvents).unwrap();
    // Traffic besides, which is never to be disturbed.
    fetcher.assign(2, 0).unwrap();
    let mut besides = 0;
    let mut next = [None::<i64>; 2];
    for round in 0..150i64 {
        let partition = (round % 2) as usize;
        // Up and down, near and far, so that left-overs lie before and behind.
        let offset = (round * 7_919) % COUNT;
        fetcher.assign(partition as i32, offset).unwrap();
        next[partition] = Some(offset);
        if round % 5 == 0 {
            fetcher.pause(partition as i32).unwrap();
            fetcher.resume(partition as i32).unwrap();
        }
        if round % 7 == 0 {
            fetcher.unassign(1 - partition as i32).unwrap();
            next[1 - partition] = None;
        }
        let mut seen = 0;
        while seen < (round % 40) && next[partition].is_some_and(|next| next < COUNT) {
            let record = record(&fetcher).await;
            if record.partition == 2 {
                assert_eq!(record.offset, besides);
                besides += 1;
                if besides == COUNT {
                    fetcher.assign(2, 0).unwrap();
                    besides = 0;
                }
                continue;
            }
            let expected = next[record.partition as usize]
                .as_mut()
                .expect("an unassigned partition gives nothing");
            assert_eq!(
                record.offset, *expected,
                "round {round}, partition {}",
                record.partition
            );
            assert_eq!(
                record.value.split(|b| *b == b' ').next().unwrap(),
                expected.to_string().as_bytes()
            );
            *expected += 1;
            seen += i64::from(record.partition as usize == partition);
        }
    }
    topics.close().await;
}

/// Text of so many bytes that packing makes little of.
fn dense(bytes: usize) -> String {
    Alphanumeric.sample_string(&mut rand::rng(), bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_with_a_backlog_take_turns() {
    const COUNT: usize = 6_000;
    let topics = TestTopics::create([TopicPlan::of(Topic::QuestEvents).partitions(2)]).await;
    let producer = EventProducer::new(&config(&topics), &AppendConfig::default(), "turns").unwrap();
    producer.warm_up(crate::DEADLINE).await.unwrap();
    // In small batches, which a broker gives as a whole.
    for _ in 0..COUNT / 100 {
        let appended = (0..100).flat_map(|_| [0, 1]).map(|partition| {
            let value = dense(300);
            let value = value.as_bytes();
            producer
                .append(Topic::QuestEvents, Some(partition), "k", &[], value)
                .unwrap()
        });
        for append in appended.collect::<Vec<_>>() {
            soon("an append", append).await.unwrap();
        }
    }
    let fetcher = Fetcher::new(&config(&topics), "turns-test", Topic::QuestEvents).unwrap();
    fetcher.assign(0, 0).unwrap();
    fetcher.assign(1, 0).unwrap();
    // How many of one partition came, one after the other; until one has no more.
    let (mut left, mut rows, mut last) = ([COUNT; 2], Vec::new(), None);
    while left.iter().all(|left| *left > 0) {
        let partition = record(&fetcher).await.partition;
        left[partition as usize] -= 1;
        match rows.last_mut() {
            Some(row) if last == Some(partition) => *row += 1,
            _ => rows.push(1),
        }
        last = Some(partition);
    }
    // The first may have come before the other partition was assigned, and the last is cut off.
    let between = &rows[1..rows.len() - 1];
    assert!(between.len() >= 5, "{rows:?}");
    // A share is of some 400 such records.
    assert!(between.iter().all(|row| *row < 2_000), "{rows:?}");
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_larger_than_its_partitions_share_is_read() {
    let topics = TestTopics::create([TopicPlan::of(Topic::QuestEvents).partitions(2)]).await;
    let producer = EventProducer::new(&config(&topics), &AppendConfig::default(), "large").unwrap();
    producer.warm_up(crate::DEADLINE).await.unwrap();
    let sizes = [10, MAX_MESSAGE_BYTES - 1_000, 10, MAX_MESSAGE_BYTES - 1_000];
    for size in sizes {
        for partition in [0, 1] {
            let value = dense(size);
            let value = value.as_bytes();
            let append = producer
                .append(Topic::QuestEvents, Some(partition), "k", &[], value)
                .unwrap();
            soon("an append", append).await.unwrap();
        }
    }
    let fetcher = Fetcher::new(&config(&topics), "large-test", Topic::QuestEvents).unwrap();
    fetcher.assign(0, 0).unwrap();
    fetcher.assign(1, 0).unwrap();
    let mut next = [0; 2];
    for _ in 0..2 * sizes.len() {
        let record = record(&fetcher).await;
        let next = &mut next[record.partition as usize];
        assert_eq!(
            (record.offset, record.value.len()),
            (*next, sizes[*next as usize])
        );
        *next += 1;
    }
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_partition_keeps_its_place() {
    let topics = TestTopics::create([TopicPlan::of(Topic::QuestEvents).partitions(2)]).await;
    fill(&topics, Topic::QuestEvents, 2, 100).await;
    let fetcher = Fetcher::new(&config(&topics), "pause-test", Topic::QuestEvents).unwrap();
    fetcher.assign(0, 0).unwrap();
    for offset in 0..10 {
        assert_eq!(record(&fetcher).await.offset, offset);
    }
    fetcher.pause(0).unwrap();
    fetcher.assign(1, 0).unwrap();
    for offset in 0..100 {
        let record = record(&fetcher).await;
        assert_eq!((record.partition, record.offset), (1, offset));
    }
    fetcher.resume(0).unwrap();
    for offset in 10..100 {
        let record = record(&fetcher).await;
        assert_eq!((record.partition, record.offset), (0, offset));
    }
    // A pause ends with its assignment.
    fetcher.pause(0).unwrap();
    fetcher.assign(0, 98).unwrap();
    assert_eq!(record(&fetcher).await.offset, 98);
    assert_eq!(record(&fetcher).await.offset, 99);
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_outside_the_log_is_told_with_its_partition_and_the_others_go_on() {
    let topics = TestTopics::create([TopicPlan::of(Topic::QuestEvents).partitions(3)]).await;
    fill(&topics, Topic::QuestEvents, 3, 20).await;
    topics.delete_records("quest.events", 1, 10).await;
    let fetcher = Fetcher::new(&config(&topics), "range-test", Topic::QuestEvents).unwrap();
    assert_eq!(fetcher.watermarks(0).await.unwrap(), (0, 20));
    assert_eq!(fetcher.watermarks(1).await.unwrap(), (10, 20));
    assert_eq!(fetcher.partition_count().await.unwrap(), 3);
    fetcher.assign(0, 30).unwrap();
    fetcher.assign(1, 5).unwrap();
    fetcher.assign(2, 0).unwrap();
    let (mut outside, mut read) = (Vec::new(), 0);
    while outside.len() < 2 || read < 20 {
        match soon("records and errors", fetcher.recv()).await {
            Fetched::Record(record) => {
                assert_eq!((record.partition, record.offset), (2, read));
                read += 1;
            }
            Fetched::OutOfRange { partition, error } => outside.push((partition, error)),
            other => panic!("{other:?}"),
        }
    }
    outside.sort();
    assert_eq!(
        outside[0],
        (
            0,
            "offset 30 was to be read, the log holds 0 up to 20".to_owned()
        )
    );
    assert_eq!(
        outside[1],
        (
            1,
            "offset 5 was to be read, the log holds 10 up to 20".to_owned()
        )
    );
    // Put right, they go on.
    fetcher.assign(1, 10).unwrap();
    let record = record(&fetcher).await;
    assert_eq!((record.partition, record.offset), (1, 10));
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_named() {
    let topics = TestTopics::create([]).await;
    let fetcher = Fetcher::new(&config(&topics), "missing-test", Topic::QuestEvents).unwrap();
    let error = fetcher.partition_count().await.unwrap_err();
    assert_eq!(error, KafkaError::UnknownTopic(topics.full("quest.events")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_arrives_while_the_others_are_idle() {
    let topics = TestTopics::create([TopicPlan::of(Topic::GameEvents)]).await;
    let fetcher = Fetcher::new(&config(&topics), "idle-test", Topic::GameEvents).unwrap();
    for partition in 0..10 {
        fetcher.assign(partition, 0).unwrap();
    }
    let idle = tokio::time::timeout(Duration::from_millis(500), fetcher.recv()).await;
    assert!(idle.is_err(), "{idle:?}");
    let producer =
        EventProducer::new(&config(&topics), &AppendConfig::default(), "idle-test").unwrap();
    producer.warm_up(crate::DEADLINE).await.unwrap();
    let mut slowest = Duration::ZERO;
    for n in 0..50 {
        let appended = producer
            .append(Topic::GameEvents, None, &format!("g:{n}"), &[], b"{}")
            .unwrap();
        let appended = soon("the append", appended).await.unwrap();
        let acked = std::time::Instant::now();
        let record = record(&fetcher).await;
        slowest = slowest.max(acked.elapsed());
        assert_eq!(
            (record.partition, record.offset),
            (appended.partition, appended.offset)
        );
        assert_eq!(record.timestamp, appended.timestamp);
    }
    println!("slowest from acknowledgement to reader: {slowest:?}");
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_is_told_with_what_to_do() {
    let mut topics = TestTopics::create([TopicPlan::of(Topic::QuestEvents).partitions(1)]).await;
    fill(&topics, Topic::QuestEvents, 1, 1).await;
    let fetcher = Fetcher::new(&config(&topics), "deleted-test", Topic::QuestEvents).unwrap();
    fetcher.assign(0, 0).unwrap();
    assert_eq!(record(&fetcher).await.offset, 0);
    topics.delete("quest.events").await;
    let told = async {
        loop {
            match fetcher.recv().await {
                Fetched::Refused { error } => return error,
                Fetched::Transient { error } => println!("passing: {error}"),
                other => panic!("{other:?}"),
            }
        }
    };
    let error = soon("the refusal", told).await;
    assert!(error.contains("brightmatter topics"), "{error}");
    let error = soon("the watermarks", fetcher.watermarks(0))
        .await
        .unwrap_err();
    assert!(error.is_lasting(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_of_the_log_is_passed_and_counted() {
    let _installed = metrics();
    let topics = TestTopics::create([TopicPlan::of(Topic::QuestEvents).partitions(1)]).await;
    let topic = topics.full("quest.events");
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", topics.brokers())
        .set("transactional.id", unique("gap"))
        .create()
        .unwrap();
    producer.init_transactions(crate::DEADLINE).unwrap();
    for _ in 0..2 {
        producer.begin_transaction().unwrap();
        let record = BaseRecord::<(), _>::to(&topic).payload("x");
        producer.send(record).unwrap();
        // Its marker takes an offset that no reader gets.
        producer.commit_transaction(crate::DEADLINE).unwrap();
    }
    let fetcher = Fetcher::new(&config(&topics), "gap-test", Topic::QuestEvents).unwrap();
    fetcher.assign(0, 0).unwrap();
    assert_eq!(record(&fetcher).await.offset, 0);
    assert_eq!(record(&fetcher).await.offset, 2);
    let gaps = format!(r#"bm_kafka_gaps_total{{topic="{topic}"}}"#);
    assert_eq!(metric(&gaps), Some(1.0));
    topics.close().await;
}
