//! Two processes of one group: lanes pass from one to the other while records flow, by the group's
//! decision, by SIGTERM, and from an owner that does not know yet that it is one no more.

use std::time::Duration;

use bm_testkit::eventually;
use bm_tests::traffic::{self, Events};
use bm_tests::{Fleet, Quest, Service, Step, Traffic};
use serde_json::json;

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

/// The fence as it is, and one that lets everybody through; both wait for advisory lock 1 first
/// when their session says so, as a commit would that is held up on its way.
fn slow_fence(fenced: bool) -> String {
    let begin = "BEGIN IF current_setting('bm.slow', true) = 'on' THEN PERFORM pg_advisory_xact_lock_shared(1); END IF;";
    let body = if fenced {
        "RETURN lanes_advance_at_once(p_processor, p_topic, p_partitions, p_epochs, p_expected, p_next, p_watermarks, p_outboxes, p_last_at, p_last_hash);"
    } else {
        "UPDATE lanes AS l SET next_offset = m.next_offset, watermarks = m.watermarks, outbox = m.outbox,
             last_record_at = m.last_at, last_record_hash = m.last_hash
         FROM unnest(p_partitions, p_next, p_watermarks, p_outboxes, p_last_at, p_last_hash)
             AS m (partition, next_offset, watermarks, outbox, last_at, last_hash)
         WHERE l.processor = p_processor AND l.topic = p_topic AND l.partition = m.partition;
         RETURN cardinality(p_partitions);"
    };
    format!(
        "CREATE FUNCTION lanes_advance(
             p_processor text, p_topic text, p_partitions integer[], p_epochs bigint[],
             p_expected bigint[], p_next bigint[], p_watermarks bytea[], p_outboxes bytea[],
             p_last_at timestamptz[], p_last_hash bigint[]
         ) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$ {begin} {body} END $$"
    )
}

/// A commit of an owner that stands still arrives when the next owner has gone on for a while.
/// Gives what the oracle says then.
async fn a_commit_comes_late(fleet: &mut Fleet, fenced: bool) -> Vec<String> {
    for statement in [
        "ALTER FUNCTION lanes_advance RENAME TO lanes_advance_at_once".to_owned(),
        slow_fence(fenced),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&fleet.pool)
            .await
            .unwrap();
    }
    let never = 1_000_000;
    let quest = Quest::new("kills", "enemy_killed", Step::Count, never);
    fleet.save(quest).await;
    fleet
        .start([Service::EventRouter, Service::RewardProcessor])
        .await;
    let slow = format!("{}?options=-c%20bm.slow%3Don", fleet.database.url());
    let variables = [
        ("RDS_CONNECTION_STRING", slow.as_str()),
        ("BM_DB_TIMEOUT", "60s"),
    ];
    let old = fleet.start_with(Service::QuestProcessor, &variables);
    fleet.wait_ready().await;

    let mut sender = fleet.log_sender();
    let mut events = Events::new(fleet.game(), "e", 1);
    let mut kill = async |rounds: usize| {
        for _ in 0..rounds {
            for player in 0..20 {
                let player = format!("player-{player}");
                sender
                    .send(&events.of(&player, "enemy_killed", &json!({})))
                    .await;
            }
        }
    };
    kill(1).await;
    fleet.await_all(0).await;

    // The old owner's next commit is under way, and is held up there.
    let mut gate = fleet.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(1)")
        .execute(&mut *gate)
        .await
        .unwrap();
    kill(1).await;
    let pool = fleet.pool.clone();
    eventually(Duration::from_secs(20), "a commit under way", || async {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE wait_event_type = 'Lock' AND wait_event = 'advisory' AND datname = current_database()",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    fleet.process(Service::QuestProcessor, old).pause();

    let new = fleet.start_with(Service::QuestProcessor, &[]);
    fleet.wait_lanes_of(Service::QuestProcessor, new, 5).await;
    kill(3).await;
    fleet.await_all(0).await;

    sqlx::query("SELECT pg_advisory_unlock(1)")
        .execute(&mut *gate)
        .await
        .unwrap();
    drop(gate);
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
    let faults = a_commit_comes_late(&mut fleet, true).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    fleet.process(Service::QuestProcessor, 0).resume();
    fleet
        .wait_lanes(Service::QuestProcessor, &[None, None])
        .await;
    fleet.verify(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_fence_the_oracle_finds_what_a_late_commit_has_undone() {
    let mut fleet = Fleet::new().await;
    let faults = a_commit_comes_late(&mut fleet, false).await;
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
