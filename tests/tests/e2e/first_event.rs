//! One event, all the way; and a second time, which changes nothing.

use bm_testkit::unique;
use bm_tests::traffic::{self, Events};
use bm_tests::{Fleet, Quest, Service, Step, Traffic, lanes};
use serde_json::json;
use sqlx::PgPool;

async fn count(pool: &PgPool, table: &'static str) -> i64 {
    let statement = match table {
        "events_raw" => "SELECT count(*) FROM events_raw",
        "quest_progress" => "SELECT count(*) FROM quest_progress",
        _ => "SELECT count(*) FROM reward_grants",
    };
    sqlx::query_scalar(statement).fetch_one(pool).await.unwrap()
}

/// Two events to a quest's end, each sent twice.
async fn one_quest_from_end_to_end(fleet: &mut Fleet) {
    fleet.start(Service::ALL).await;
    let coins = json!({"type": "coins", "amount": 10});
    let quest = Quest::new("two-kills", "enemy_killed", Step::Count, 2).reward(coins.clone());
    fleet.save(quest).await;
    let mut sender = fleet.sender();
    let mut events = Events::new(fleet.game(), &unique("e"), 1);

    let first = events.of("ada", "enemy_killed", &json!({"map": "forest"}));
    assert_eq!(sender.send(&first).await["status"], "accepted");
    fleet.await_all(0).await;
    assert_eq!(count(&fleet.pool, "quest_progress").await, 1);
    assert_eq!(count(&fleet.pool, "reward_grants").await, 0);

    let second = events.of("ada", "enemy_killed", &json!({"map": "sea"}));
    let accepted = sender.send(&second).await;
    fleet.await_all(0).await;
    let (grant_id, reward): (String, String) =
        sqlx::query_as("SELECT grant_id, reward::text FROM reward_grants")
            .fetch_one(&fleet.pool)
            .await
            .unwrap();
    assert!(
        grant_id.starts_with("grt_") && grant_id.len() == 36,
        "{grant_id}"
    );
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&reward).unwrap(),
        coins
    );

    // Again, with the answer of the first time.
    let again = sender.send(&second).await;
    assert_eq!(again["status"], "duplicate");
    assert_eq!(again["eventId"], second["eventId"]);
    assert_eq!(again["timestamp"], accepted["timestamp"]);
    // Nothing of it comes in behind this one.
    let other = events.of("ada", "level_complete", &json!({}));
    assert_eq!(sender.send(&other).await["status"], "accepted");
    fleet.verify(0).await;
    assert_eq!(lanes::applied(&fleet.pool, Service::EventRouter).await, 3);
    assert_eq!(
        lanes::applied(&fleet.pool, Service::QuestProcessor).await,
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_event_becomes_progress_a_reward_and_a_message_and_its_retry_changes_nothing() {
    let mut fleet = Fleet::new().await;
    one_quest_from_end_to_end(&mut fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pipeline_runs_on_a_broker_that_wants_scram_over_tls() {
    let mut fleet = Fleet::secure().await;
    one_quest_from_end_to_end(&mut fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_sent_again_after_redis_has_forgotten_it_counts_once() {
    let mut fleet = Fleet::new().await;
    fleet.save_all(traffic::quests()).await;
    fleet.start(Service::ALL).await;
    fleet.start([Service::Gateway]).await;
    let mut sender = fleet.sender();
    let mut events = Events::new(fleet.game(), &unique("e"), 7);
    let sent: Vec<_> = std::iter::repeat_with(|| events.any()).take(60).collect();
    for event in &sent {
        assert_eq!(sender.send(event).await["status"], "accepted");
    }
    fleet.await_all(0).await;

    let mut others = Traffic::start(&sender, fleet.game(), 8, 2);
    others.more(20).await;
    fleet.flush_redis().await;
    for event in &sent {
        // The gateways know nothing of it any more.
        assert_eq!(sender.send(event).await["status"], "accepted");
    }
    others.more(20).await;
    others.stop().await;
    fleet.verify(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_taken_and_count_once_while_redis_is_away() {
    let mut fleet = Fleet::new().await;
    fleet.save_all(traffic::quests()).await;
    fleet.start(Service::ALL).await;
    let sender = fleet.sender();
    let mut others = Traffic::start(&sender, fleet.game(), 9, 3);
    others.more(30).await;
    fleet.redis.kill();
    others.more(60).await;
    fleet.redis.start_again().await;
    others.more(60).await;
    others.stop().await;
    fleet.verify(0).await;
}
