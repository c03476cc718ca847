//! Topics on the shared broker.

use bm_contracts::topics::Topic;
use bm_testkit::{TestTopics, TopicPlan};

#[tokio::test]
async fn what_is_produced_can_be_read_by_partition_and_offset() {
    let topics = TestTopics::create([TopicPlan::new("things", 3)]).await;
    topics
        .produce("things", 2, Some(b"a"), Some(b"{\"n\":1}"), &[("h", b"x")])
        .await;
    topics.produce("things", 0, None, Some(b"b"), &[]).await;
    assert_eq!(topics.produce("things", 2, Some(b"a"), None, &[]).await, 1);

    let records = topics.read_all("things").await;
    let places: Vec<_> = records.iter().map(|r| (r.partition, r.offset)).collect();
    assert_eq!(places, [(0, 0), (2, 0), (2, 1)]);
    assert_eq!(records[0].key, None);
    assert_eq!(records[1].key_text(), "a");
    assert_eq!(records[1].json(), serde_json::json!({"n": 1}));
    assert_eq!(records[1].header("h"), Some("x"));
    assert!(records[1].timestamp.is_some());
    assert_eq!(records[2].value, None);
    topics.close().await;
}

#[tokio::test]
async fn a_topic_can_grow_lose_records_and_be_made_anew() {
    let mut topics = TestTopics::create([TopicPlan::new("log", 1)]).await;
    for value in [b"0", b"1", b"2"] {
        topics.produce("log", 0, None, Some(value), &[]).await;
    }
    topics.delete_records("log", 0, 2).await;
    topics.grow("log", 2).await;
    topics.produce("log", 1, None, Some(b"other"), &[]).await;
    let values: Vec<_> = topics.read_all("log").await;
    let values: Vec<_> = values.iter().map(|r| (r.offset, r.value_text())).collect();
    assert_eq!(values, [(2, "2"), (0, "other")]);
    assert_eq!(topics.ends("log").await, [(0, 3), (1, 1)].into());

    topics.delete("log").await;
    topics.add([TopicPlan::new("log", 1)]).await;
    assert!(topics.read_all("log").await.is_empty());
}

#[tokio::test]
async fn a_topic_of_the_registry_stamps_the_append_time() {
    let topics = TestTopics::create([TopicPlan::of(Topic::GameEvents).partitions(1)]).await;
    assert_eq!(
        topics.names().full(Topic::GameEvents),
        topics.full("game.events")
    );
    topics
        .produce("game.events", 0, None, Some(b"x"), &[])
        .await;
    assert_eq!(topics.read_all("game.events").await.len(), 1);
}
