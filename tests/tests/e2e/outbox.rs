//! What was committed is told in the end, though its owner was killed before the broker had it.

use std::time::{Duration, Instant};

use bm_tests::traffic::Events;
use bm_tests::{Fleet, Form, Quest, Service, Step, lanes};
use serde_json::{Value, json};

use crate::held_commits::{self, Gate};

/// How long a lane is watched that must stand still.
const WATCHED: Duration = Duration::from_secs(1);

/// Quests of one player, each completed by another event, so that each batch has a reward to tell.
fn quests() -> impl Iterator<Item = Quest> {
    (1..=3).map(|target| {
        Quest::new(
            &format!("kill-{target}"),
            "enemy_killed",
            Step::Count,
            target,
        )
        .reward(json!({"type": "coins", "amount": target}))
    })
}

/// Where the one lane that has records stands.
async fn stands(fleet: &Fleet) -> i64 {
    lanes::applied(&fleet.pool, Service::QuestProcessor).await
}

/// Two parts of the protocol, each over real processes. The outbox at take: the first batch is
/// committed while the broker is away, its owner is killed, and only whoever takes the lane next can
/// tell of it. The wait for acks: the batches that stand ready behind it must not be committed
/// before, for they would overwrite what it has to tell.
///
/// And the gateway's side of the same outage: a batch is answered `retry`, and counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_and_not_published_is_published_by_whoever_takes_the_lane() {
    let (mut fleet, proxy) = Fleet::behind_proxy().await;
    held_commits::install(&fleet, true).await;
    fleet.save_all(quests()).await;
    fleet.start_with(Service::Gateway, &[("BM_APPEND_TIMEOUT_MS", "1000")]);
    fleet
        .start([Service::EventRouter, Service::RewardProcessor])
        .await;
    let variables = held_commits::variables(&fleet);
    let mut variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    variables.push(("BM_BATCH_RECORDS", "1"));
    let old = fleet.start_with(Service::QuestProcessor, &variables);
    fleet.wait_ready().await;

    // Three events come to the lane; the commit of the first is held up.
    let gate = Gate::closed(&fleet).await;
    let mut sender = fleet.sender();
    let mut events = Events::new(fleet.game(), "e", 1);
    for _ in 0..3 {
        sender
            .send(&events.of("ada", "enemy_killed", &json!({})))
            .await;
    }
    fleet.wait_applied(Service::EventRouter, 0, 3).await;
    gate.holds_one().await;
    // As many as were forwarded are on the topic before the broker goes.
    bm_testkit::eventually(
        Duration::from_secs(20),
        "three events forwarded",
        || async {
            let forwarded = fleet.topics.read_all("quest.events").await;
            (forwarded.len() == 3).then_some(())
        },
    )
    .await;

    // The broker is away, the commit goes through, and nothing can be told of it.
    proxy.cut();
    gate.open().await;
    fleet.wait_applied(Service::QuestProcessor, 0, 1).await;
    let watched = Instant::now();
    while watched.elapsed() < WATCHED {
        assert_eq!(
            stands(&fleet).await,
            1,
            "the lane went on before the broker had what it has to tell"
        );
    }
    let batch: Vec<Value> = (0..5)
        .map(|player| events.of(&format!("player-{player}"), "enemy_killed", &json!({})))
        .collect();
    let sending = {
        let (mut sender, batch) = (sender.clone(), batch.clone());
        tokio::spawn(async move { sender.send_batch(&batch, Form::Ndjson).await })
    };
    let tally = sender.tally();
    bm_testkit::eventually(Duration::from_secs(20), "a batch to be retried", || async {
        (tally.retried() >= 5).then_some(())
    })
    .await;
    fleet.process(Service::QuestProcessor, old).kill();
    for topic in ["reward.events", "ui.updates"] {
        assert_eq!(fleet.topics.read_all(topic).await, [], "{topic}");
    }

    // It is back, and so is an owner, in a group of its own that has nobody to wait for.
    proxy.pass();
    let group = bm_testkit::unique("next");
    fleet.start_with(Service::QuestProcessor, &[("CONSUMER_GROUP", &group)]);
    sending.await.unwrap();
    fleet.verify(0).await;
}
