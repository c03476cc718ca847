//! Two processes of one group: lanes pass from one to the other while records flow, by the group's
//! decision, by SIGTERM, and from an owner that does not know yet that it is one no more.

use std::time::Duration;

use bm_testkit::eventually;
use bm_tests::traffic::{self, Events};
use bm_tests::{Fleet, Quest, Sender, Service, Step, Traffic};
use serde_json::json;

use crate::held_commits::{self, Gate};

/// Of both kinds of processors that face traffic.
const PAIRS: [Service; 2] = [Service::EventRouter, Service::QuestProcessor];

fn all_lanes(service: Service) -> usize {
    if service == Service::EventRouter {
        10
    } else {
        5
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_that_change_hands_under_traffic_lose_and_double_nothing() {
    let mut fleet = Fleet::new().await;
    fleet.save_all(traffic::quests()).await;
    fleet.start(Service::PROCESSORS).await;
    let sender = fleet.log_sender();
    let mut others = Traffic::start(&sender, fleet.game(), 21, 4);
    others.more(30).await;

    // A second of each comes and gets its share.
    for service in PAIRS {
        fleet.start_with(service, &[]);
    }
    for service in PAIRS {
        fleet.wait_lanes(service, &[None, None]).await;
    }
    others.more(50).await;

    // The first is asked to go, and comes back.
    for service in PAIRS {
        fleet.process(service, 0).terminate();
    }
    for service in PAIRS {
        let status = fleet
            .process(service, 0)
            .wait(Duration::from_secs(20))
            .await;
        assert!(status.success(), "{status}");
        fleet
            .wait_lanes(service, &[Some(0), Some(all_lanes(service))])
            .await;
    }
    others.more(50).await;
    for service in PAIRS {
        fleet.process(service, 0).start_again();
    }
    for service in PAIRS {
        fleet.wait_lanes(service, &[None, None]).await;
    }

    // The second stands still until the group has given it up, and goes on where it stood.
    for service in PAIRS {
        fleet.process(service, 1).pause();
    }
    for service in PAIRS {
        fleet.wait_lanes_of(service, 0, all_lanes(service)).await;
    }
    others.more(50).await;
    for service in PAIRS {
        fleet.process(service, 1).resume();
    }
    for service in PAIRS {
        fleet.wait_lanes(service, &[None, None]).await;
    }
    others.more(50).await;
    others.stop().await;
    fleet.verify(0).await;
}

/// Twenty of them, so that every lane of a feature has some.
struct Players {
    sender: Sender,
    events: Events,
}

impl Players {
    fn of(fleet: &Fleet) -> Self {
        Self {
            sender: fleet.log_sender(),
            events: Events::new(fleet.game(), "e", 1),
        }
    }

    /// Each kills so many.
    async fn kill(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for player in 0..20 {
                let player = format!("player-{player}");
                let event = self.events.of(&player, "enemy_killed", &json!({}));
                self.sender.send(&event).await;
            }
        }
    }
}

/// A commit of an owner that stands still arrives when the next owner has gone on for a while.
/// Gives what the oracle says then.
async fn a_commit_comes_late(
    fleet: &mut Fleet,
    players: &mut Players,
    fenced: bool,
) -> Vec<String> {
    held_commits::install(fleet, fenced).await;
    let never = 1_000_000;
    let quest = Quest::new("kills", "enemy_killed", Step::Count, never);
    fleet.save(quest).await;
    fleet
        .start([Service::EventRouter, Service::RewardProcessor])
        .await;
    let variables = held_commits::variables(fleet);
    let variables = variables
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let old = fleet.start_with(Service::QuestProcessor, &variables);
    fleet.wait_ready().await;

    players.kill(1).await;
    fleet.await_all(0).await;

    // The old owner's next commit is under way, and is held up there.
    let gate = Gate::closed(fleet).await;
    players.kill(1).await;
    gate.holds_one().await;
    fleet.process(Service::QuestProcessor, old).pause();

    let new = fleet.start_with(Service::QuestProcessor, &[]);
    fleet.wait_lanes_of(Service::QuestProcessor, new, 5).await;
    players.kill(3).await;
    fleet.await_all(0).await;

    gate.open().await;
    let pool = fleet.pool.clone();
    eventually(Duration::from_secs(20), "the end of that commit", || async {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE state = 'active' AND datname = current_database() AND application_name = 'quest-processor'",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (waiting == 0).then_some(())
    })
    .await;
    fleet.compare(0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_arrives_after_its_lane_was_taken_changes_nothing() {
    let mut fleet = Fleet::new().await;
    let mut players = Players::of(&fleet);
    let faults = a_commit_comes_late(&mut fleet, &mut players, true).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));

    // The old owner reads that it was refused, and has the lanes again when the next one is gone:
    // what it remembers of the players, from before it stood still, is wrong by now.
    fleet.process(Service::QuestProcessor, 0).resume();
    let refusals = r#"bm_lane_fence_refusals_total{processor="quest-processor"}"#;
    fleet
        .wait_metric(Service::QuestProcessor, 0, refusals, 1.0)
        .await;
    fleet
        .wait_lanes(Service::QuestProcessor, &[None, None])
        .await;
    let next = fleet.process(Service::QuestProcessor, 1);
    next.terminate();
    assert!(next.wait(Duration::from_secs(20)).await.success());
    fleet.wait_lanes_of(Service::QuestProcessor, 0, 5).await;
    players.kill(1).await;
    fleet.verify(0).await;
}

/// The forgetting of memory after a refusal, alone: the lanes are never revoked, but another writer
/// takes them, as a rebuild does, and changes what their owner remembers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_is_refused_forgets_what_it_knew() {
    let mut fleet = Fleet::new().await;
    let never = 1_000_000;
    fleet
        .save(Quest::new("kills", "enemy_killed", Step::Count, never))
        .await;
    fleet.start(Service::PROCESSORS).await;
    let mut players = Players::of(&fleet);
    players.kill(2).await;
    fleet.await_all(0).await;

    let mut rebuild = fleet.pool.begin().await.unwrap();
    for statement in [
        "UPDATE lanes SET epoch = epoch + 1 WHERE processor = 'quest-processor'",
        "UPDATE quest_progress SET progress = jsonb_set(progress, '{current}', '100'), version = version + 1",
    ] {
        sqlx::query(statement).execute(&mut *rebuild).await.unwrap();
    }
    rebuild.commit().await.unwrap();
    players.kill(1).await;
    fleet.wait_applied(Service::QuestProcessor, 0, 60).await;
    let progress: Vec<(String, i64)> =
        sqlx::query_as("SELECT progress->>'current', version FROM quest_progress ORDER BY 1, 2")
            .fetch_all(&fleet.pool)
            .await
            .unwrap();
    assert_eq!(progress, vec![("101".to_owned(), 4); 20]);
    // One batch or several, but refused at least once, and never given up.
    let refusals = r#"bm_lane_fence_refusals_total{processor="quest-processor"}"#;
    fleet
        .wait_metric(Service::QuestProcessor, 0, refusals, 1.0)
        .await;
    assert_eq!(
        fleet.running_lanes(Service::QuestProcessor, 0).await,
        Some(5)
    );
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_fence_the_oracle_finds_what_a_late_commit_has_undone() {
    let mut fleet = Fleet::new().await;
    let mut players = Players::of(&fleet);
    let faults = a_commit_comes_late(&mut fleet, &mut players, false).await;
    assert!(
        faults.iter().any(|fault| fault.starts_with("progress of")),
        "the oracle saw nothing: {faults:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_watermarks_the_oracle_finds_what_a_republished_outbox_has_doubled() {
    let mut fleet = Fleet::new().await;
    // Whoever takes a lane knows nothing of what it has applied.
    let forget = "
        CREATE FUNCTION forget_watermarks() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.watermarks := ''; RETURN NEW; END $$;
        CREATE TRIGGER forget_watermarks BEFORE UPDATE ON lanes FOR EACH ROW
            WHEN (NEW.epoch <> OLD.epoch) EXECUTE FUNCTION forget_watermarks();";
    sqlx::raw_sql(forget).execute(&fleet.pool).await.unwrap();
    let never = 1_000_000;
    fleet
        .save(Quest::new("kills", "enemy_killed", Step::Count, never))
        .await;
    fleet.start(Service::PROCESSORS).await;
    let mut sender = fleet.log_sender();
    let mut events = Events::new(fleet.game(), "e", 1);
    for player in 0..20 {
        let event = events.of(&format!("player-{player}"), "enemy_killed", &json!({}));
        sender.send(&event).await;
    }
    fleet.await_all(0).await;

    // All are asked to go and come back; routers publish the messages of their last batches again.
    for service in [Service::QuestProcessor, Service::EventRouter] {
        fleet.process(service, 0).terminate();
        let status = fleet
            .process(service, 0)
            .wait(Duration::from_secs(20))
            .await;
        assert!(status.success(), "{status}");
        fleet.process(service, 0).start_again();
    }
    fleet.wait_ready().await;
    let seen = eventually(Duration::from_secs(20), "a doubled event", || async {
        let faults = fleet.compare(0).await;
        (!faults.is_empty()).then_some(faults)
    })
    .await;
    assert!(
        seen.iter().any(|fault| fault.starts_with("progress of")),
        "{seen:?}"
    );
}
