//! One event, all the way; and a second time, which changes nothing.

use bm_testkit::{TestRecord, unique};
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
    the_oracle_sees_what_is_wrong(&fleet).await;
}

/// What everything else relies on: each of these, wrong in one place alone, is found. The processes
/// have ended, all is as it must be, and is put back after each.
async fn the_oracle_sees_what_is_wrong(fleet: &Fleet) {
    wrong_events_are_seen(fleet).await;
    wrong_grants_are_seen(fleet).await;
    wrong_messages_are_seen(fleet).await;
    let faults = fleet.compare_with(0, false).await;
    assert!(faults.is_empty(), "not put back: {}", faults.join("\n"));
}

async fn wrong_events_are_seen(fleet: &Fleet) {
    // The last event concerns no quest: only the log tells that its row is wrong.
    let last = "WHERE event_type = 'level_complete'";
    let in_log = "ingested_at = ingested_at + interval '1 ms', log_offset = log_offset + 1,
                  studio_id = 'other', extra = '{\"more\": 1}'";
    let back = "DELETE FROM events_raw; INSERT INTO events_raw SELECT * FROM before";
    execute(
        &fleet.pool,
        "CREATE TABLE before AS SELECT * FROM events_raw",
    )
    .await;
    for (change, faults) in [
        (
            in_log,
            &[
                "was appended at",
                "stands first in the log",
                "belongs to",
                "was sent",
            ][..],
        ),
        ("config_seq = config_seq + 1", &["newer than the last save"]),
        ("config_seq = config_seq - 1", &["older than the save"]),
    ] {
        execute(
            &fleet.pool,
            &format!("UPDATE events_raw SET {change} {last}"),
        )
        .await;
        finds(fleet, faults).await;
        execute(&fleet.pool, back).await;
    }
    // Stamps of one partition that go down, though each is one that was given.
    execute(
        &fleet.pool,
        "UPDATE config_counter SET value = 9;
         UPDATE events_raw SET config_seq = 9 WHERE (event_id, user_id) =
             (SELECT event_id, user_id FROM events_raw WHERE user_id = 'ada' ORDER BY log_offset LIMIT 1)",
    )
    .await;
    finds(fleet, &["which stands before it"]).await;
    execute(&fleet.pool, back).await;
}

async fn wrong_grants_are_seen(fleet: &Fleet) {
    for (change, fault) in [
        (
            "grant_id = 'grt_' || md5(grant_id)",
            "the ledger does not hold",
        ),
        (
            "earned_at = earned_at + interval '1 ms'",
            "the ledger's grant",
        ),
        ("studio_id = 'other'", "the ledger's grant"),
        ("user_id = 'bob'", "the ledger's grant"),
        (
            "reward = reward || '{\"amount\": 11}'",
            "the ledger's grant",
        ),
    ] {
        execute(
            &fleet.pool,
            "CREATE TABLE ledger AS SELECT * FROM reward_grants",
        )
        .await;
        execute(&fleet.pool, &format!("UPDATE reward_grants SET {change}")).await;
        finds(fleet, &[fault]).await;
        execute(
            &fleet.pool,
            "DELETE FROM reward_grants; INSERT INTO reward_grants SELECT * FROM ledger; DROP TABLE ledger",
        )
        .await;
    }
}

/// Messages of which one field is wrong, in the place of the true ones.
async fn wrong_messages_are_seen(fleet: &Fleet) {
    for wrong in [
        [
            ("reward.events", "reward"),
            ("reward.status", "status"),
            ("quest.events", "ingestedAt"),
            ("ui.updates", "gameId"),
        ],
        [
            ("reward.events", "grantId"),
            ("reward.status", "userId"),
            ("quest.events", "metadata"),
            ("ui.updates", "progress"),
        ],
    ] {
        let mut replaced = Vec::new();
        for (topic, field) in wrong {
            // All there is is of one player, and in one partition.
            let right = fleet.topics.read_all(topic).await;
            let mut wrong = right.clone();
            let last = wrong.last_mut().unwrap();
            let mut message = last.json();
            message[field] = json!("wrong");
            last.value = Some(message.to_string().into_bytes());
            replace(fleet, topic, &wrong).await;
            replaced.push((topic, right));
        }
        let faults = [
            "reward.events",
            "reward.status",
            "was forwarded",
            "ui.updates",
        ];
        finds(fleet, &faults).await;
        for (topic, right) in replaced {
            replace(fleet, topic, &right).await;
        }
    }
}

/// Puts other records in the place of those of a topic, which are all in one partition.
async fn replace(fleet: &Fleet, topic: &str, records: &[TestRecord]) {
    let partition = records[0].partition;
    let mut first = None;
    for record in records {
        assert_eq!(record.partition, partition, "{topic}");
        let headers: Vec<(&str, &[u8])> = record
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
            .collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let offset = fleet
            .topics
            .produce(topic, partition, key, value, &headers)
            .await;
        first.get_or_insert(offset);
    }
    fleet
        .topics
        .delete_records(topic, partition, first.unwrap())
        .await;
}

async fn execute(pool: &PgPool, statements: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()))
        .execute(pool)
        .await
        .unwrap();
}

async fn finds(fleet: &Fleet, wanted: &[&str]) {
    let faults = fleet.compare_with(0, false).await;
    for wanted in wanted {
        assert!(
            faults.iter().any(|found| found.contains(wanted)),
            "the oracle does not say {wanted}: {faults:?}"
        );
    }
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
