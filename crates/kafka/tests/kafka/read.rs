//! Reading whole topics.

use bm_contracts::Topic;
use bm_kafka::log_reader::From;
use bm_kafka::{KafkaError, LogReader};
use bm_testkit::{TestTopics, TopicPlan};

use crate::{config, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_ends_with_what_was_there() {
    let topics = TestTopics::create([
        TopicPlan::of(Topic::ConfigQuests),
        TopicPlan::of(Topic::DeadLetter),
    ])
    .await;
    let config = config(&topics);
    let mut empty = soon(
        "a snapshot",
        LogReader::snapshot(&config, Topic::DeadLetter),
    )
    .await
    .unwrap();
    assert_eq!(soon("its end", empty.next()).await.unwrap(), None);

    for n in 0..30 {
        let value = format!("{n}");
        topics
            .produce(
                "config.quests",
                n % 2,
                Some(b"k"),
                Some(value.as_bytes()),
                &[],
            )
            .await;
    }
    let mut snapshot = soon(
        "a snapshot",
        LogReader::snapshot(&config, Topic::ConfigQuests),
    )
    .await
    .unwrap();
    topics
        .produce("config.quests", 2, Some(b"k"), Some(b"too late"), &[])
        .await;
    topics
        .produce("config.quests", 0, Some(b"k"), Some(b"too late"), &[])
        .await;
    let mut values = Vec::new();
    while let Some(record) = soon("a record", snapshot.next()).await.unwrap() {
        values.push(
            String::from_utf8(record.value.to_vec())
                .unwrap()
                .parse::<i32>()
                .unwrap(),
        );
    }
    values.sort_unstable();
    assert_eq!(values, (0..30).collect::<Vec<_>>());
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_from_the_end_misses_nothing_that_comes_after_it_is_made() {
    const PARTITIONS: i32 = 10;
    let plan = TopicPlan::of(Topic::UiUpdates).partitions(PARTITIONS);
    let topics = TestTopics::create([plan]).await;
    let put = async |partition, value: &'static [u8]| {
        topics
            .produce("ui.updates", partition, None, Some(value), &[])
            .await
    };
    for partition in 0..PARTITIONS {
        put(partition, b"before").await;
    }
    let config = config(&topics);
    let reader = LogReader::from(&config, &[Topic::UiUpdates], From::End);
    let mut reader = soon("a reader", reader).await.unwrap();
    for partition in 0..PARTITIONS {
        put(partition, b"after").await;
    }
    let mut read = Vec::new();
    for _ in 0..PARTITIONS {
        let (_, record) = soon("a record", reader.next()).await.unwrap();
        assert_eq!(record.value, &b"after"[..]);
        read.push(record.partition);
    }
    read.sort_unstable();
    assert_eq!(read, (0..PARTITIONS).collect::<Vec<_>>());
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_begins_where_it_is_told() {
    let topics = TestTopics::create([
        TopicPlan::of(Topic::UiUpdates).partitions(1),
        TopicPlan::of(Topic::RewardStatus).partitions(1),
    ])
    .await;
    for n in 0..10 {
        topics
            .produce("ui.updates", 0, None, Some(format!("{n}").as_bytes()), &[])
            .await;
    }
    let config = config(&topics);
    let both = [Topic::UiUpdates, Topic::RewardStatus];
    let open = async |from| {
        soon("a reader", LogReader::from(&config, &both, from))
            .await
            .unwrap()
    };
    let mut all = open(From::Beginning).await;
    let mut last = open(From::OffsetsAgo(3)).await;
    for offset in 0..10 {
        assert_eq!(soon("a record", all.next()).await.unwrap().1.offset, offset);
    }
    for offset in 7..10 {
        let (topic, record) = soon("a record", last.next()).await.unwrap();
        assert_eq!((topic, record.offset), (Topic::UiUpdates, offset));
    }
    topics
        .produce("reward.status", 0, None, Some(b"{}"), &[])
        .await;
    for reader in [&mut all, &mut last] {
        let (topic, record) = soon("a record", reader.next()).await.unwrap();
        assert_eq!((topic, record.offset), (Topic::RewardStatus, 0));
    }
    let missing = LogReader::from(&config, &[Topic::DeadLetter], From::End)
        .await
        .err();
    assert_eq!(
        missing,
        Some(KafkaError::UnknownTopic(topics.full("dead.letter")))
    );
    topics.close().await;
}
