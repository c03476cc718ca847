//! Definitions: saved all or nothing, counted in the order they are committed, published once.

use std::collections::BTreeMap;
use std::sync::Arc;

use bm_contracts::messages::ConfigMessage;
use bm_contracts::{EventType, GameEvent, GameId, StudioId, Topic, UserId};
use bm_domain::definition::{NamedGames, parse_file};
use bm_domain::quest::{EventFacts, QuestDomain, QuestRules, QuestStatus};
use bm_domain::routing::RouterDomain;
use bm_engine::ConfigDemand;
use bm_storage::definitions::{ApplyError, ApplyFault};
use bm_storage::{LaneStore, StoreError};
use serde_json::json;

use crate::support::{
    Fixture, NOW, commit_events, commit_progress, definitions, event_row, quest_state, step,
};

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
async fn an_archived_quest_counts_no_event_after_the_save_and_keeps_its_rows() {
    let fixture = Fixture::new().await;
    let storage = &fixture.storage;
    let key = fixture.quest_key("player").await;
    fixture.make_lanes::<QuestDomain>(1).await;
    let row = fixture.take::<QuestDomain>(0).await;
    let progress = BTreeMap::from([(key, quest_state("2", &[]))]);
    commit_progress(&fixture.quests(), &[step(0, &row)], &progress)
        .await
        .unwrap();

    let mut archived = definitions("game", &["quest"], 5);
    archived.quests[0].status = QuestStatus::Archived;
    let saved = storage.apply(&archived).await.unwrap();
    let message = &saved.messages[0];
    assert_eq!((message.version, message.status.as_str()), (2, "archived"));
    let again = storage.apply(&archived).await.unwrap();
    assert_eq!((again.unchanged, again.messages.len()), (1, 0));
    let row: (String, i32) = sqlx::query_as("SELECT status, version FROM quests")
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
    assert_eq!(row, ("archived".to_owned(), 2));
    let statuses: Vec<String> =
        sqlx::query_scalar("SELECT status FROM quest_versions ORDER BY version")
            .fetch_all(&fixture.pool)
            .await
            .unwrap();
    assert_eq!(statuses, ["active", "archived"]);

    // The router asks for the newest rules after its batch is closed, and stamps with them.
    let rules = LaneStore::<RouterDomain>::rules(&fixture.router(), None, ConfigDemand::Latest)
        .await
        .unwrap();
    let mut event = GameEvent::clone(&event_row("e", "{}").event);
    event.event_type = EventType::MatchEnd;
    let facts = EventFacts::new(event.clone(), NOW);
    assert_eq!(rules.seq, saved.config_seq);
    assert!(!rules.quests.wants(&facts, saved.config_seq));
    assert!(rules.quests.wants(&facts, saved.config_seq - 1));

    let user = UserId::new("player").unwrap();
    let kept = storage
        .player_progress(&event.game_id, &user)
        .await
        .unwrap();
    assert_eq!(kept[0].current.to_string(), "2");

    let active = storage
        .apply(&definitions("game", &["quest"], 5))
        .await
        .unwrap();
    assert_eq!(active.messages[0].status, "active");
    let (seq, versions) = storage.quest_changes_since(0).await.unwrap();
    let rules = QuestRules::build(seq, versions).unwrap();
    let wanted = [1, 2, 3].map(|stamp| rules.wants(&facts, stamp));
    assert_eq!(wanted, [true, false, true]);
    assert_eq!(fixture.count("quest_progress").await, 1);
}

#[tokio::test]
async fn what_became_of_a_game_is_told() {
    let fixture = Fixture::new().await;
    let apply = |name: &str| {
        let mut file = definitions("game", &[], 1);
        name.clone_into(&mut file.games[0].name);
        let storage = fixture.storage.clone();
        async move { storage.apply(&file).await.unwrap() }
    };
    let game = [GameId::new("game").unwrap()];
    let first = apply("One").await;
    assert_eq!(
        (&first.games_added[..], first.games_renamed.len()),
        (&game[..], 0)
    );
    let same = apply("One").await;
    assert_eq!((same.games_added.len(), same.games_renamed.len()), (0, 0));
    let renamed = apply("Two").await;
    assert_eq!(
        (renamed.games_added.len(), &renamed.games_renamed[..]),
        (0, &game[..])
    );
}

#[tokio::test]
async fn the_games_of_a_file_that_cannot_be_saved_are_looked_up_all_the_same() {
    let fixture = Fixture::new().await;
    let storage = &fixture.storage;
    storage.apply(&definitions("theirs", &[], 1)).await.unwrap();
    let game = |id: &str| GameId::new(id).unwrap();
    let me = StudioId::new("me").unwrap();
    let named = NamedGames {
        games: vec![(0, game("theirs"), me.clone()), (2, game("new"), me)],
        quests: vec![(0, game("theirs")), (1, game("new")), (3, game("nowhere"))],
    };
    let faults = storage.faults_of_games(&named).await.unwrap();
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "$.games[0].gameId: theirs belongs to another studio",
            "$.quests[3].gameId: nowhere is not a known game"
        ]
    );
    assert_eq!(fixture.count("games").await, 1);
}

#[tokio::test]
async fn what_a_player_has_completed_and_where_an_event_counts_can_be_asked() {
    let fixture = Fixture::new().await;
    let storage = &fixture.storage;
    let key = fixture.quest_key("player").await;
    let user = UserId::new("player").unwrap();
    let quest = [key.quest];
    fixture.make_lanes::<QuestDomain>(1).await;
    for completed_at in [None, Some(NOW)] {
        let row = fixture.take::<QuestDomain>(0).await;
        let mut state = quest_state("5", &[]);
        state.completed_at = completed_at;
        let states = BTreeMap::from([(key.clone(), state)]);
        commit_progress(&fixture.quests(), &[step(0, &row)], &states)
            .await
            .unwrap();
        let completed = storage.quests_completed(&user, &quest).await.unwrap();
        assert_eq!(completed.get(&key.quest).copied(), completed_at);
    }

    let row = event_row("e", "{}");
    let place = || storage.event_place(&row.event_key, row.event.timestamp);
    assert_eq!(place().await.unwrap(), None);
    fixture.make_lanes::<RouterDomain>(1).await;
    let lane = fixture.take::<RouterDomain>(0).await;
    commit_events(
        &fixture.router(),
        &[step(0, &lane)],
        std::slice::from_ref(&row),
    )
    .await
    .unwrap();
    assert_eq!(place().await.unwrap(), Some((3, 99)));
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
