//! Topics are created once, compared ever after, and never changed.

use bm_contracts::Topic;
use bm_kafka::{KafkaError, TopicAdmin, TopicState};
use bm_testkit::{TestTopics, TopicPlan};

use crate::{DEADLINE, config};

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_once_and_a_differing_one_is_reported_and_left_alone() {
    let mut topics =
        TestTopics::create([TopicPlan::new("ui.updates", 3).config("retention.ms", "1000")]).await;
    let config = config(&topics);
    let admin = TopicAdmin::connect(&config).unwrap();
    let other = TopicAdmin::connect(&config).unwrap();
    admin.ping(DEADLINE).await.unwrap();

    let before = admin.inspect(None).await.unwrap();
    let missing = |report: &bm_kafka::TopicReport| {
        let missing = report
            .topics
            .iter()
            .filter(|(_, state)| *state == TopicState::Missing);
        missing.count()
    };
    assert_eq!(missing(&before), 12);

    // Two at once: each topic is created by one of them.
    let (one, two) = tokio::join!(admin.reconcile(None), other.reconcile(Some(1)));
    let (one, two) = (one.unwrap(), two.unwrap());
    for ((name, first), (_, second)) in one.topics.iter().zip(&two.topics) {
        let created = [first, second]
            .iter()
            .filter(|state| ***state == TopicState::Created)
            .count();
        assert_eq!(
            created,
            usize::from(!name.ends_with("ui.updates")),
            "{name}: {first:?}, {second:?}"
        );
    }

    for report in [
        admin.reconcile(None).await.unwrap(),
        other.inspect(None).await.unwrap(),
    ] {
        assert!(!report.has_failures());
        assert_eq!(report.replication, 1);
        assert_eq!(report.existing.len(), 13);
        for (name, state) in &report.topics {
            let TopicState::Differs(differences) = state else {
                assert_eq!(*state, TopicState::AsWanted, "{name}");
                continue;
            };
            let lines: Vec<String> = differences
                .iter()
                .map(|d| format!("{} {} {}", d.setting, d.actual, d.wanted))
                .collect();
            assert_eq!(
                lines,
                [
                    "partitions 3 10",
                    "max.message.bytes 1048588 1048576",
                    "retention.ms 1000 86400000"
                ]
            );
            assert_eq!(*name, topics.full("ui.updates"));
        }
        let text = report.to_string();
        assert!(
            text.contains("message.timestamp.type=LogAppendTime"),
            "{text}"
        );
        assert!(text.contains(&format!(
            "differs    {}: partitions is 3, wanted 10",
            topics.full("ui.updates")
        )));
    }

    let counts = admin
        .partition_counts(&[Topic::GameEvents, Topic::UiUpdates])
        .await
        .unwrap();
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [(Topic::GameEvents, 10), (Topic::UiUpdates, 3)]
    );

    admin.close().await;
    for topic in Topic::ALL {
        topics.delete(topic.name()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_factor_the_cluster_cannot_have_is_a_failure_of_each_topic() {
    let topics = TestTopics::create([]).await;
    let admin = TopicAdmin::connect(&config(&topics)).unwrap();
    let report = admin.reconcile(Some(3)).await.unwrap();
    assert!(report.has_failures());
    assert!(report.existing.is_empty());
    for (name, state) in &report.topics {
        let TopicState::Failed(reason) = state else {
            panic!("{name}: {state:?}");
        };
        assert!(reason.contains("BM_REPLICATION_FACTOR"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_named() {
    let address = format!("127.0.0.1:{}", bm_testkit::free_port());
    let admin = TopicAdmin::connect(&bm_kafka::KafkaConfig::plaintext(&address)).unwrap();
    let error = admin
        .ping(std::time::Duration::from_secs(2))
        .await
        .unwrap_err();
    let KafkaError::Unreachable { brokers, reason } = &error else {
        panic!("{error}");
    };
    assert_eq!(*brokers, address);
    assert!(reason.contains("Connection refused"), "{reason}");
}
