//! Definitions: saved all or nothing, counted in the order they are committed, published once.

use std::sync::Arc;

use bm_contracts::messages::ConfigMessage;
use bm_contracts::{GameId, StudioId, Topic};
use bm_domain::definition::parse_file;
use bm_domain::quest::{QuestDomain, QuestRules};
use bm_domain::routing::RouterDomain;
use bm_engine::ConfigDemand;
use bm_storage::definitions::{ApplyError, ApplyFault};
use bm_storage::{LaneStore, StoreError};
use serde_json::json;

use crate::support::{Fixture, NOW, definitions};

#[tokio::test]
async fn what_is_applied_is_saved_versioned_and_waits_to_be_published() {
    let fixture = Fixture::new().await;
    let storage = &fixture.storage;
    let applied = storage
        .apply(&definitions("game", &["a", "b"], 5))
        .await
        .unwrap();
    assert_eq!((applied.config_seq, applied.unchanged), (2, 0));
    let ids: Vec<_> = applied
        .messages
        .iter()
        .map(|m| (m.id.as_str(), m.version, m.config_seq))
        .collect();
    assert_eq!(ids, [("a", 1, 1), ("b", 1, 2)]);

    let (seq, versions) = storage.quest_changes_since(0).await.unwrap();
    assert_eq!((seq, versions.len()), (2, 2));
    let rules = QuestRules::build(seq, versions).unwrap();
    assert_eq!(rules.seq(), 2);

    let pending = storage.pending_config_messages().await.unwrap();
    assert_eq!(pending.len(), 2);
    assert_eq!(pending[0].topic, Topic::ConfigQuests);
    assert_eq!(pending[0].key, "game:a");
    let message: ConfigMessage = serde_json::from_slice(&pending[0].value).unwrap();
    assert_eq!((message.version, message.config_seq), (1, 1));
    assert_eq!(
        message.definition.get(),
        applied.messages[0].definition.get()
    );
    // They are ours for a while, and gone when published.
    assert!(storage.pending_config_messages().await.unwrap().is_empty());
    let ids: Vec<_> = pending.iter().map(|m| m.id).collect();
    storage.config_messages_published(&ids).await.unwrap();
    assert_eq!(fixture.count("config_outbox").await, 0);
    assert_eq!(
        storage
            .studio_of(&GameId::new("game").unwrap())
            .await
            .unwrap(),
        Some(StudioId::new("studio").unwrap())
    );
}

#[tokio::test]
async fn only_what_changed_gets_a_new_version() {
    let fixture = Fixture::new().await;
    let storage = &fixture.storage;
    let first = definitions("game", &["a", "b"], 5);
    storage.apply(&first).await.unwrap();
    let again = storage.apply(&first).await.unwrap();
    assert_eq!((again.config_seq, again.unchanged), (2, 2));
    assert!(again.messages.is_empty());
    assert_eq!(storage.current_config_seq().await.unwrap(), 2);

    let mut second = definitions("game", &["a", "b"], 5);
    second.quests[1] = definitions("game", &["b"], 6).quests.remove(0);
    let changed = storage.apply(&second).await.unwrap();
    assert_eq!((changed.config_seq, changed.unchanged), (3, 1));
    let message = &changed.messages[0];
    assert_eq!((message.id.as_str(), message.version), ("b", 2));
    let (_, versions) = storage.quest_changes_since(2).await.unwrap();
    assert_eq!(versions.len(), 1);
    assert_eq!((versions[0].version, versions[0].config_seq), (2, 3));
    assert_eq!(fixture.count("quest_versions").await, 3);
}

#[tokio::test]
async fn a_file_with_a_fault_changes_nothing_and_every_fault_is_named() {
    let fixture = Fixture::new().await;
    fixture
        .storage
        .apply(&definitions("theirs", &[], 1))
        .await
        .unwrap();
    let quest = |game: &str| {
        json!({
            "gameId": game, "questId": "q", "name": "n",
            "conditions": {"eventType": "match_end", "progressType": "count", "target": 1},
            "rewards": [],
        })
    };
    let file = json!({
        "games": [
            {"gameId": "mine", "studioId": "me", "name": "Mine"},
            {"gameId": "theirs", "studioId": "me", "name": "Not mine"},
        ],
        "quests": [quest("mine"), quest("nowhere")],
    });
    let file = parse_file(file.to_string().as_bytes()).unwrap();
    let Err(ApplyError::Faults(faults)) = fixture.storage.apply(&file).await else {
        panic!("it was not refused");
    };
    assert!(matches!(
        faults.as_slice(),
        [
            ApplyFault::ForeignGame { index: 1, .. },
            ApplyFault::UnknownGame { index: 1, .. }
        ]
    ));
    assert_eq!(fixture.count("games").await, 1);
    assert_eq!(fixture.count("quests").await, 0);
    assert_eq!(fixture.storage.current_config_seq().await.unwrap(), 0);
    let name: String = sqlx::query_scalar("SELECT name FROM games")
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
    assert_eq!(name, "A game");
}

#[tokio::test]
async fn whoever_reads_a_count_finds_every_save_up_to_it() {
    const SAVERS: i64 = 6;
    const SAVES: i64 = 8;
    let fixture = Fixture::new().await;
    let savers: Vec<_> = (0..SAVERS)
        .map(|saver| {
            let storage = fixture.storage.clone();
            tokio::spawn(async move {
                for target in 1..=SAVES {
                    let (own, shared) = (format!("q{saver}"), "shared");
                    // The shared quest may be in the same words already; the own one never is.
                    let quests = [own.as_str(), shared];
                    storage
                        .apply(&definitions("game", &quests, target))
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    // Reads as a processor does, from where it is, until all is saved.
    let mut seen = Vec::new();
    while !savers.iter().all(tokio::task::JoinHandle::is_finished) {
        read_on(&fixture, &mut seen).await;
    }
    for saver in savers {
        saver.await.unwrap();
    }
    read_on(&fixture, &mut seen).await;
    assert!(seen.len() as i64 >= SAVERS * SAVES);
}

/// Reads what was saved since the last of `seen`; the counts must follow each other without a gap.
async fn read_on(fixture: &Fixture, seen: &mut Vec<i64>) {
    let (counter, versions) = fixture
        .storage
        .quest_changes_since(seen.len() as i64)
        .await
        .unwrap();
    seen.extend(versions.iter().map(|v| v.config_seq));
    assert_eq!(*seen, (1..=counter).collect::<Vec<_>>());
}

#[tokio::test]
async fn rules_are_kept_while_they_are_new_enough_and_shared_when_they_are_not() {
    let fixture = Fixture::new().await;
    fixture
        .storage
        .apply(&definitions("game", &["a"], 5))
        .await
        .unwrap();
    let store = fixture.quests();
    let ask = |held: Option<Arc<QuestRules>>, demand| {
        let store = store.clone();
        async move { LaneStore::<QuestDomain>::rules(&store, held, demand).await }
    };
    let first = ask(None, ConfigDemand::Any).await.unwrap();
    assert_eq!(first.seq(), 1);
    let same = ask(Some(Arc::clone(&first)), ConfigDemand::AtLeast(1))
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&first, &same));
    let behind = ask(Some(Arc::clone(&first)), ConfigDemand::AtLeast(2)).await;
    assert!(matches!(
        behind,
        Err(StoreError::RulesBehind {
            demanded: 2,
            held: 1
        })
    ));

    fixture
        .storage
        .apply(&definitions("game", &["a"], 6))
        .await
        .unwrap();
    let newer = ask(Some(first), ConfigDemand::AtLeast(2)).await.unwrap();
    assert_eq!(newer.seq(), 2);
    let shared = ask(None, ConfigDemand::AtLeast(1)).await.unwrap();
    assert!(Arc::ptr_eq(&newer, &shared));
}

#[tokio::test]
async fn the_router_always_has_what_was_saved_before_it_asked() {
    let fixture = Fixture::new().await;
    let store = fixture.router();
    let mut held = None;
    for target in 1..=5 {
        fixture
            .storage
            .apply(&definitions("game", &["a"], target))
            .await
            .unwrap();
        let rules = LaneStore::<RouterDomain>::rules(&store, held, ConfigDemand::Latest)
            .await
            .unwrap();
        assert_eq!(rules.seq, target);
        held = Some(rules);
    }
}

#[tokio::test]
async fn an_older_copy_of_the_studios_never_replaces_a_newer_one() {
    let fixture = Fixture::new().await;
    let storage = &fixture.storage;
    assert!(storage.load_last_known_studios().await.unwrap().is_none());
    let newer = json!({"studios": [{"id": "s", "limit": 1.50}]});
    storage.save_last_known_studios(&newer, NOW).await.unwrap();
    storage
        .save_last_known_studios(&json!({}), NOW.saturating_add_millis(-1))
        .await
        .unwrap();
    assert_eq!(
        storage.load_last_known_studios().await.unwrap(),
        Some((NOW, newer))
    );
}

#[tokio::test]
async fn definitions_come_back_from_jsonb_as_they_were_saved() {
    let fixture = Fixture::new().await;
    let number = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let numbers = [
        "1e300",
        "-1.50e-12",
        "0.00",
        "-0",
        "1E+2",
        "12.50",
        "1e-16000",
    ]
    .map(number);
    let quest = |id: &str, conditions: serde_json::Value, rewards: serde_json::Value| {
        let mut all = json!({"eventType": "match_end", "progressType": "count", "target": 1});
        for (name, value) in conditions.as_object().unwrap() {
            all[name] = value.clone();
        }
        json!({"gameId": "game", "questId": id, "name": "n \"é\"\n", "conditions": all, "rewards": rewards,
               "startDate": "0001-01-01T00:00:00Z", "endDate": "9999-12-31T23:59:59Z"})
    };
    let reward =
        |numbers: Vec<serde_json::Value>| json!([{"type": "x", "zz": numbers, "a": {"é": null}}]);
    let file = json!({
        "games": [{"gameId": "game", "studioId": "studio", "name": "A game"}],
        "quests": [
            // As large as a reward may be: 53 numbers of 301 digits.
            quest("large", json!({}), reward(vec![number("1e300"); 53])),
            quest("numbers", json!({"filters": {"a": numbers[0], "b": numbers[1], "c": numbers[2], "d": numbers[3]}}), reward(numbers[..6].to_vec())),
            quest("fine", json!({}), reward(vec![numbers[6].clone()])),
            quest("paths", json!({
                "filters": {"metadata.metadata.map": "a", "map": "b", "metadata.metadata.metadata.x": true},
                "progressType": "accumulate", "valueField": "metadata.metadata.x", "target": number("1.50e1"),
                "when": "event.metadata.x > 1",
            }), json!([])),
        ],
    });
    let file = parse_file(file.to_string().as_bytes()).unwrap();
    fixture.storage.apply(&file).await.unwrap();
    // What is saved again in the same words is the same.
    let again = fixture.storage.apply(&file).await.unwrap();
    assert_eq!((again.unchanged, again.messages.len()), (4, 0));

    let (seq, versions) = fixture.storage.quest_changes_since(0).await.unwrap();
    for (saved, version) in file.quests.iter().zip(&versions) {
        let text = version.definition.get();
        let read = bm_domain::definition::QuestDefinition::from_stored(text).unwrap();
        assert_eq!(read.conditions, saved.conditions);
        assert_eq!(
            (read.start_date, read.end_date),
            (saved.start_date, saved.end_date)
        );
        assert_eq!((&read.name, &read.game_id), (&saved.name, &saved.game_id));
        // JSONB knows best whether the rewards are the same.
        let same: bool = sqlx::query_scalar("SELECT $1::text::jsonb = $2::text::jsonb")
            .bind(read.to_stored())
            .bind(saved.to_stored())
            .fetch_one(&fixture.pool)
            .await
            .unwrap();
        assert!(same, "{}", version.quest_id);
    }
    let rules = QuestRules::build(seq, versions).unwrap();
    assert_eq!(rules.broken_since(0).count(), 0);
}

#[tokio::test]
async fn a_version_nobody_can_use_does_not_keep_rules_from_being_loaded() {
    let fixture = Fixture::new().await;
    let file = definitions("game", &["a", "b"], 5);
    fixture.storage.apply(&file).await.unwrap();
    sqlx::query(
        "UPDATE quest_versions SET definition = definition || '{\"objectives\": []}' WHERE config_seq = 1",
    )
    .execute(&fixture.pool)
    .await
    .unwrap();
    let store = fixture.quests();
    let rules = LaneStore::<QuestDomain>::rules(&store, None, ConfigDemand::AtLeast(2))
        .await
        .unwrap();
    let broken: Vec<_> = rules
        .broken_since(0)
        .map(|v| v.quest_id().as_str())
        .collect();
    assert_eq!((rules.seq(), broken), (2, vec!["a"]));
    let route = fixture.router();
    let route = LaneStore::<RouterDomain>::rules(&route, None, ConfigDemand::Latest)
        .await
        .unwrap();
    assert_eq!((route.seq, route.quests.broken_since(0).count()), (2, 1));
}
