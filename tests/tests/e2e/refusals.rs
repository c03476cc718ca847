//! A lane whose log is not its own any more stands still and says so; it never jumps.

use std::sync::Arc;
use std::time::Duration;

use bm_contracts::Topic;
use bm_testkit::{TestTopics, TopicPlan, eventually};
use bm_tests::traffic;
use bm_tests::{Fleet, Service, Traffic, lanes};

/// Starts a processor that must refuse to run some of its lanes, with a sentence that holds
/// `reason`; nothing is applied, its rows stay.
async fn refuses(fleet: &mut Fleet, service: Service, reason: &str) {
    let before = lanes::rows(&fleet.pool, service).await;
    fleet.process(service, 0).start_again();
    eventually(Duration::from_secs(30), "a refusal", || {
        let log = fleet.process(service, 0).log();
        let told = log
            .lines()
            .any(|line| line.contains("LANE HALTED") && line.contains(reason));
        async move { told.then_some(()) }
    })
    .await;
    let answer = fleet.process(service, 0).get("/readyz").await.unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(
        answer.body.contains("halted") && !answer.body.contains(" 0 halted"),
        "{answer:?}"
    );
    assert!(fleet.process(service, 0).runs());
    for (partition, row) in lanes::rows(&fleet.pool, service).await {
        assert_eq!(
            row.next_offset, before[&partition].next_offset,
            "{partition}"
        );
    }
}

fn topics(fleet: &mut Fleet) -> &mut TestTopics {
    Arc::get_mut(&mut fleet.topics).expect("all clients are gone")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_whose_log_is_another_one_halts_and_never_jumps() {
    let mut fleet = Fleet::new().await;
    fleet.save_all(traffic::quests()).await;
    fleet.start(Service::PROCESSORS).await;
    let sender = fleet.log_sender();
    let mut others = Traffic::start(&sender, fleet.game(), 51, 4);
    others.more(150).await;
    others.stop().await;
    drop(sender);
    fleet.await_all(0).await;
    for service in Service::PROCESSORS {
        fleet.process(service, 0).terminate();
        let status = fleet
            .process(service, 0)
            .wait(Duration::from_secs(20))
            .await;
        assert!(status.success(), "{status}");
    }

    // Deleted and made anew, with as many records as were applied, but others.
    topics(&mut fleet).delete("quest.events").await;
    topics(&mut fleet)
        .add([TopicPlan::of(Topic::QuestEvents)])
        .await;
    for (partition, row) in lanes::rows(&fleet.pool, Service::QuestProcessor).await {
        assert!(row.next_offset > 0, "nothing was applied of {partition}");
        for _ in 0..=row.next_offset {
            fleet
                .topics
                .produce("quest.events", partition, Some(b"k"), Some(b"{}"), &[])
                .await;
        }
    }
    refuses(
        &mut fleet,
        Service::QuestProcessor,
        "is not the one that was applied",
    )
    .await;

    // More partitions: players would change lanes, and their progress would not.
    fleet.topics.grow("reward.events", 6).await;
    refuses(&mut fleet, Service::RewardProcessor, "6 partitions").await;

    // Records are gone before they were applied.
    for (partition, row) in lanes::rows(&fleet.pool, Service::EventRouter).await {
        for _ in 0..2 {
            fleet
                .topics
                .produce("game.events", partition, Some(b"k"), Some(b"{}"), &[])
                .await;
        }
        fleet
            .topics
            .delete_records("game.events", partition, row.next_offset + 1)
            .await;
    }
    refuses(&mut fleet, Service::EventRouter, "outside the log").await;
    fleet.end().await;

    // A topic that is not there: nothing is waited for that somebody has to make.
    topics(&mut fleet).delete("ui.updates").await;
    for service in Service::PROCESSORS {
        fleet.start_with(service, &[]);
        let process = fleet.process(service, 0);
        let status = process.wait(Duration::from_secs(30)).await;
        assert!(!status.success(), "{} ended with {status}", service.name());
        let said = "topic ui.updates does not exist; run create-topics";
        assert!(process.log().contains(said), "{}", process.log());
    }
}
