//! Definitions from a file: what the tool applies counts, as the studio wrote it.

use bm_testkit::TestRecord;
use bm_tests::traffic::Events;
use bm_tests::{Fleet, Quest, Service, Step};
use serde_json::{Value, json};

/// The messages on `config.quests`, oldest first.
async fn published(fleet: &Fleet) -> Vec<TestRecord> {
    let mut messages = fleet.topics.read_all("config.quests").await;
    messages.sort_by_key(|message| message.json()["configSeq"].as_i64());
    messages
}

/// What stands on `ui.updates` of a player's quest: current, completed, version.
async fn shown(fleet: &Fleet, player: &str) -> Vec<(String, bool, i64)> {
    let updates = fleet.topics.read_all("ui.updates").await;
    updates
        .iter()
        .map(TestRecord::json)
        .filter(|update| update["userId"] == player && update["questId"] == "boss-hunter")
        .map(|update| {
            (
                update["progress"]["current"].to_string(),
                update["completed"].as_bool().unwrap(),
                update["version"].as_i64().unwrap(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_applied_while_all_runs_counts_for_the_next_event() {
    let mut fleet = Fleet::without_game().await;
    fleet.start(Service::ALL).await;
    let quest = |target| {
        Quest::new(
            "boss-hunter",
            "custom",
            Step::Accumulate("damage".to_owned()),
            target,
        )
        .named("boss_defeated")
        .reward(json!({"type": "coins", "amount": 10}))
        .reward(json!({"type": "item", "itemId": "crown", "tags": ["gold", 1.50]}))
    };
    let file = |target| {
        json!({
            "games": [fleet.game_definition()],
            "quests": [quest(target).definition(fleet.game())],
        })
    };
    let (ended_well, said) = fleet.apply_file(&file(5)).await;
    assert!(ended_well, "{said}");
    assert!(
        said.contains(&format!("quest  {}/boss-hunter: created", fleet.game())),
        "{said}"
    );

    let messages = published(&fleet).await;
    let [message] = &messages[..] else {
        panic!("one message on config.quests: {messages:?}");
    };
    assert_eq!(message.key_text(), format!("{}:boss-hunter", fleet.game()));
    let told = message.json();
    for (field, value) in [
        ("studioId", json!(fleet.studio())),
        ("gameId", json!(fleet.game())),
        ("id", json!("boss-hunter")),
        ("version", json!(1)),
        ("status", json!("active")),
    ] {
        assert_eq!(told[field], value, "{field} of {told}");
    }
    let written = quest(5).definition(fleet.game());
    for field in ["questId", "conditions", "rewards"] {
        assert_eq!(told["definition"][field], written[field], "{field}");
    }
    fleet
        .book
        .saved(told["configSeq"].as_i64().unwrap(), quest(5));

    let mut sender = fleet.sender();
    let mut events = Events::new(fleet.game(), "e", 1);
    let mut defeat = async |damage: &str| {
        let damage: Value = serde_json::from_str(damage).unwrap();
        let event = events.custom("ada", "boss_defeated", &json!({"damage": damage}));
        assert_eq!(sender.send(&event).await["status"], "accepted");
    };
    defeat("0.1").await;
    defeat("0.2").await;
    fleet.await_all(0).await;
    let last = shown(&fleet, "ada").await.pop();
    assert_eq!(last, Some(("0.3".to_owned(), false, 2)));

    // Applied again it is the same definition, and nothing is told.
    let (ended_well, said) = fleet.apply_file(&file(5)).await;
    assert!(ended_well && said.contains(": unchanged"), "{said}");
    assert_eq!(published(&fleet).await.len(), 1);

    // A new version counts for the next event, with the progress that there is.
    let (ended_well, said) = fleet.apply_file(&file(2)).await;
    assert!(ended_well && said.contains(": new version 2"), "{said}");
    let told = published(&fleet).await.pop().unwrap().json();
    assert_eq!(told["version"], 2, "{told}");
    fleet
        .book
        .saved(told["configSeq"].as_i64().unwrap(), quest(2));
    defeat("1.75").await;
    fleet.await_all(0).await;
    let last = shown(&fleet, "ada").await.pop();
    assert_eq!(last, Some(("2.05".to_owned(), true, 3)));
    let grants: Vec<(String, String)> =
        sqlx::query_as("SELECT source, reward::text FROM reward_grants ORDER BY reward->>'type'")
            .fetch_all(&fleet.pool)
            .await
            .unwrap();
    let grants: Vec<(String, Value)> = grants
        .into_iter()
        .map(|(source, reward)| (source, serde_json::from_str(&reward).unwrap()))
        .collect();
    let source = "quest_boss-hunter".to_owned();
    let [coins, crown] = quest(2).rewards().to_vec().try_into().unwrap();
    assert_eq!(grants, [(source.clone(), coins), (source, crown)]);
    fleet.verify(0).await;
}
