//! Group membership without reading.

use std::collections::BTreeSet;
use std::time::Duration;

use bm_contracts::Topic;
use bm_kafka::{KafkaConfig, Membership, MembershipEvent};
use bm_testkit::{Server, TestTopics, TopicPlan, eventually, unique};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{DEADLINE, config, soon};

/// Takes events until `wanted` is held.
async fn until(
    events: &mut UnboundedReceiver<MembershipEvent>,
    held: &mut BTreeSet<i32>,
    wanted: impl Fn(&BTreeSet<i32>) -> bool,
) {
    let holding = async {
        while !wanted(held) {
            match events.recv().await.expect("the member lives") {
                MembershipEvent::Assigned(partitions) => {
                    for partition in partitions {
                        assert!(
                            held.insert(partition),
                            "partition {partition} was held already"
                        );
                    }
                }
                MembershipEvent::Revoked(partitions) => {
                    for partition in partitions {
                        assert!(
                            held.remove(&partition),
                            "partition {partition} was not held"
                        );
                    }
                }
                MembershipEvent::Error(error) => println!("passing: {error}"),
                other => panic!("{other:?}"),
            }
        }
    };
    soon("a rebalance", holding).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_for_whom_nothing_is_left_hears_that_it_has_joined() {
    let topics = TestTopics::create([TopicPlan::of(Topic::QuestEvents).partitions(1)]).await;
    let config = config(&topics);
    let group = unique("group");
    let (one, mut events) = Membership::join(&config, &group, Topic::QuestEvents).unwrap();
    until(&mut events, &mut BTreeSet::new(), |held| held.len() == 1).await;
    let (spare, mut events) = Membership::join(&config, &group, Topic::QuestEvents).unwrap();
    let joined = soon("an assignment", events.recv()).await;
    assert_eq!(joined, Some(MembershipEvent::Assigned(Vec::new())));
    spare.leave().await;
    one.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_share_the_partitions_and_hand_them_over_when_one_leaves() {
    let topics = TestTopics::create([TopicPlan::of(Topic::QuestEvents)]).await;
    for partition in 0..5 {
        // Something to read, which a member must not.
        topics
            .produce("quest.events", partition, None, Some(b"x"), &[])
            .await;
    }
    let config = config(&topics);
    let group = unique("group");
    let (one, mut one_events) = Membership::join(&config, &group, Topic::QuestEvents).unwrap();
    let mut first = BTreeSet::new();
    until(&mut one_events, &mut first, |held| held.len() == 5).await;

    let (two, mut two_events) = Membership::join(&config, &group, Topic::QuestEvents).unwrap();
    let mut second = BTreeSet::new();
    until(&mut two_events, &mut second, |held| held.len() == 2).await;
    until(&mut one_events, &mut first, |held| held.len() == 3).await;
    assert!(first.is_disjoint(&second));

    // The session lasts 10 s: without a word of farewell it would take as long.
    let left = std::time::Instant::now();
    one.leave().await;
    until(&mut two_events, &mut second, |held| held.len() == 5).await;
    println!("handed over in {:?}", left.elapsed());
    until(&mut one_events, &mut first, BTreeSet::is_empty).await;

    two.commit_hint(&[(0, 1), (3, 7)]);
    let committed = committed(&config, &group, &topics.full("quest.events"));
    eventually(DEADLINE, "the offset hints", || {
        let committed = committed();
        async move { (committed == [Offset::Offset(1), Offset::Offset(7)]).then_some(()) }
    })
    .await;
    drop(two);
    topics.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_falls_silent_loses_its_partitions_and_knows_it() {
    let (server, proxy) = Server::kafka_behind_proxy().await;
    let topics =
        TestTopics::create_on(&server.address(), [TopicPlan::of(Topic::RewardStatus)]).await;
    let direct = KafkaConfig {
        session_timeout: Duration::from_secs(3),
        ..config(&topics)
    };
    let cut_off = KafkaConfig {
        brokers: proxy.address(),
        ..direct.clone()
    };
    let group = unique("group");
    let (_lost, mut lost_events) = Membership::join(&cut_off, &group, Topic::RewardStatus).unwrap();
    let mut lost = BTreeSet::new();
    until(&mut lost_events, &mut lost, |held| held.len() == 3).await;
    let (_other, mut other_events) =
        Membership::join(&direct, &group, Topic::RewardStatus).unwrap();
    let mut held = BTreeSet::new();
    until(&mut other_events, &mut held, |held| !held.is_empty()).await;
    until(&mut lost_events, &mut lost, |held| held.len() < 3).await;

    proxy.silent();
    until(&mut other_events, &mut held, |held| held.len() == 3).await;
    until(&mut lost_events, &mut lost, BTreeSet::is_empty).await;
    proxy.pass();
    // Back again, it gets its share.
    until(&mut lost_events, &mut lost, |held| !held.is_empty()).await;
}

/// Reads what `group` has committed for partitions 0 and 3.
fn committed(config: &KafkaConfig, group: &str, topic: &str) -> impl Fn() -> Vec<Offset> + use<> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &config.brokers)
        .set("group.id", group)
        .create()
        .unwrap();
    let topic = topic.to_owned();
    move || {
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic, 0);
        list.add_partition(&topic, 3);
        let found = consumer.committed_offsets(list, DEADLINE).unwrap();
        found
            .elements()
            .iter()
            .map(TopicPartitionListElem::offset)
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_told_with_what_to_do() {
    let topics = TestTopics::create([]).await;
    let group = unique("group");
    let (member, mut events) =
        Membership::join(&config(&topics), &group, Topic::QuestEvents).unwrap();
    let told = async {
        loop {
            match events.recv().await.unwrap() {
                MembershipEvent::Refused(error) => return error,
                MembershipEvent::Error(_) | MembershipEvent::Assigned(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let error = soon("the refusal", told).await;
    assert!(error.contains("brightmatter topics"), "{error}");
    member.leave().await;
    // Left, its events end.
    let ended = async { while events.recv().await.is_some() {} };
    soon("the end of events", ended).await;
}
