//! A definition counts for every event that was accepted after its save was answered.

use std::time::Duration;

use bm_testkit::{TestClock, eventually};
use bm_tests::traffic::{self, Events};
use bm_tests::{Fleet, Quest, Service, Step, Traffic, oracle};
use serde_json::json;

const ROUNDS: i64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_slips_by_a_definition_that_was_saved_before_it() {
    let mut fleet = Fleet::new().await;
    fleet.save_all(traffic::quests()).await;
    fleet.start(Service::ALL).await;
    let mut sender = fleet.sender();
    let mut others = Traffic::start(&sender, fleet.game(), 31, 4);
    // Begins and ends while events flow: by the time at which each is ingested it counts or not.
    let now = TestClock::starting_now().now_millis();
    // Long enough for a busy machine to have an event in each of the three times.
    let (start, end) = (now + 5_000, now + 10_000);
    let never = 1_000_000;
    let hour = Quest::new("hour", "enemy_killed", Step::Count, never).between(start, end);
    let hour_saved = fleet.save(hour).await;
    let mut events = Events::new(fleet.game(), "after-save", 1);
    for round in 0..ROUNDS {
        // A quest nobody has heard of, and another version of one that everybody knows: it wants
        // what no version before it wanted, and what they wanted, for it may count already when
        // an event of the round before comes to the router.
        let fresh = Quest::new(&format!("fresh-{round}"), "quest_action", Step::Count, 1)
            .filter("round", round)
            .reward(json!({"type": "coins", "amount": round}));
        let moved =
            Quest::new("moving", "quest_action", Step::Count, ROUNDS).at_most("round", round);
        fleet.save(fresh).await;
        fleet.save(moved).await;
        let event = events.of("ada", "quest_action", &json!({"round": round}));
        sender.send(&event).await;
    }
    let over = eventually(Duration::from_secs(30), "the end of the hour", || async {
        (TestClock::starting_now().now_millis() > end).then_some(())
    });
    others.during(over).await;
    others.more(20).await;
    others.stop().await;
    fleet.await_all(0).await;

    // Said by the tables, not by the oracle alone: each counted.
    let finished: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM quest_progress AS p JOIN quests AS q ON q.id = p.quest_id
         WHERE p.user_id = 'ada' AND p.completed",
    )
    .fetch_one(&fleet.pool)
    .await
    .unwrap();
    assert_eq!(finished, ROUNDS + 1);
    let mut around = [0; 3];
    for event in oracle::kept(&fleet.pool).await {
        if event.event_type == "enemy_killed" && event.config_seq >= hour_saved {
            let place =
                usize::from(event.ingested_at >= start) + usize::from(event.ingested_at >= end);
            around[place] += 1;
        }
    }
    assert!(
        around.iter().all(|events| *events > 0),
        "events before, in and after the hour: {around:?}"
    );
    let counted: i64 = sqlx::query_scalar(
        "SELECT sum((p.progress->>'current')::bigint)::bigint
         FROM quest_progress AS p JOIN quests AS q ON q.id = p.quest_id WHERE q.quest_id = 'hour'",
    )
    .fetch_one(&fleet.pool)
    .await
    .unwrap();
    assert_eq!(counted, around[1]);
    fleet.verify(0).await;
}
