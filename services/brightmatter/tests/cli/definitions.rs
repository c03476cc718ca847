//! `apply`, `init` and `migrate`: what they save, and what they do not.

use bm_contracts::{GameId, QuestId, Topic};
use bm_testkit::{TestDatabase, free_port};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::bench::{Bench, Ran, game, quest};

#[tokio::test]
async fn a_file_with_faults_is_refused_whole_with_every_fault_and_its_place() {
    let bench = Bench::new().await;
    let mut bad = quest("g", "bad", 3);
    bad["conditions"]["eventType"] = json!("enemy_kissed");
    bad["conditions"]["when"] = json!("event.metadata.level >=");
    bad["communityGate"] = json!({});
    bench.write(
        "bad.json",
        &json!({"games": [game("g", "acme")], "quests": [quest("g", "good", 3), bad]}),
    );
    let ran = bench.run(&["apply", "bad.json"]).await;
    assert!(!ran.ok, "{ran:?}");
    for expected in [
        "bad.json: nothing was saved",
        "$.quests[1].conditions.eventType",
        "$.quests[1].conditions.when (line 1, column ",
        "$.quests[1].communityGate",
    ] {
        assert!(ran.err.contains(expected), "{expected} in {}", ran.err);
    }
    assert_eq!(ran.out, "");

    // What only the database knows is wrong holds back everything too.
    let file = json!({
        "games": [game("g", "acme")],
        "quests": [quest("g", "good", 3), quest("nowhere", "q", 3), quest("neither", "q", 3)],
    });
    bench.write("unknown.json", &file);
    let ran = bench.run(&["apply", "unknown.json"]).await;
    assert!(!ran.ok, "{ran:?}");
    assert!(
        ran.err
            .contains("$.quests[1].gameId: nowhere is not a known game"),
        "{}",
        ran.err
    );
    assert!(
        ran.err
            .contains("$.quests[2].gameId: neither is not a known game"),
        "{}",
        ran.err
    );
    assert_eq!(bench.saved("g").await, (0, false));

    std::fs::write(bench.path("torn.json"), "{\"games\": [\n  {").unwrap();
    let ran = bench.run(&["apply", "torn.json"]).await;
    assert!(!ran.ok && ran.err.contains("line 2"), "{ran:?}");
    let ran = bench.run(&["apply", "missing.json"]).await;
    assert!(
        !ran.ok && ran.err.contains("cannot read missing.json: No such file"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn what_is_applied_is_told_and_published_once() {
    let bench = Bench::new().await;
    let file = |target| {
        json!({
            "games": [game("g", "acme")],
            "quests": [quest("g", "first", 3), quest("g", "second", target)],
        })
    };
    bench.write("quests.json", &file(3));
    let ran = bench.run(&["apply", "quests.json"]).await;
    assert!(ran.ok, "{ran:?}");
    assert!(ran.out.contains("quest  g/first: created\n"), "{}", ran.out);
    let ran = bench.run(&["apply", "quests.json"]).await;
    assert!(
        ran.out.contains("quest  g/second: unchanged\n"),
        "{}",
        ran.out
    );
    bench.write("quests.json", &file(4));
    let ran = bench.run(&["apply", "quests.json"]).await;
    assert!(
        ran.out.contains("quest  g/first: unchanged\n"),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("quest  g/second: new version 2\n"),
        "{}",
        ran.out
    );

    let mut published: Vec<(String, i64, i64)> = bench
        .topics
        .read_all(Topic::ConfigQuests.name())
        .await
        .iter()
        .map(|record| {
            let message = record.json();
            let number = |name: &str| message[name].as_i64().unwrap();
            (
                record.key_text().to_owned(),
                number("version"),
                number("configSeq"),
            )
        })
        .collect();
    published.sort();
    let message = |key: &str, version, seq| (key.to_owned(), version, seq);
    assert_eq!(
        published,
        [
            message("g:first", 1, 1),
            message("g:second", 1, 2),
            message("g:second", 2, 3)
        ]
    );

    // Another studio cannot take the game over.
    bench.write("theirs.json", &json!({"games": [game("g", "other")]}));
    let ran = bench.run(&["apply", "theirs.json"]).await;
    assert!(
        !ran.ok && ran.err.contains("belongs to another studio"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn definitions_saved_while_the_broker_is_away_are_told_to_be_unpublished() {
    let bench = Bench::new().await;
    bench.write(
        "quests.json",
        &json!({"games": [game("g", "acme")], "quests": [quest("g", "q", 3)]}),
    );
    let mut command = bench.command(&["apply", "quests.json"]);
    command.env("REDPANDA_BROKERS", format!("127.0.0.1:{}", free_port()));
    let ran = Ran::of(&mut command).await;
    assert!(!ran.ok, "{ran:?}");
    assert!(ran.out.contains("quest  g/q: created"), "{}", ran.out);
    assert!(
        ran.err.contains("the definitions are saved and count"),
        "{}",
        ran.err
    );
    assert_eq!(bench.saved("g").await, (1, true));
}

#[tokio::test]
async fn ten_migrations_at_once_leave_one_schema() {
    let mut bench = Bench::new().await;
    bench.database = TestDatabase::new().await;
    let ran = bench.run(&["apply", "none.json"]).await;
    assert!(!ran.ok);
    let mut running = JoinSet::new();
    for _ in 0..10 {
        let mut command = bench.command(&["migrate"]);
        running.spawn(async move { Ran::of(&mut command).await });
    }
    for ran in running.join_all().await {
        assert!(ran.ok, "{ran:?}");
        assert!(ran.out.contains("is up to date"), "{ran:?}");
    }
    let storage = bench.storage();
    storage.check_schema().await.unwrap();
    storage.close().await;
}

#[tokio::test]
async fn init_again_keeps_keys_and_the_file() {
    let bench = Bench::new().await;
    let first = bench.run(&["init", "space-race"]).await;
    assert!(first.ok, "{first:?}");
    let studios = std::fs::read_to_string(bench.path("studios.json")).unwrap();
    let studio: Value = serde_json::from_str(&studios).unwrap();
    let key = studio["studios"][0]["apiKey"].as_str().unwrap();
    assert!(
        first.out.contains(&format!("-H 'x-api-key: {key}'")),
        "{}",
        first.out
    );

    let mine = json!({"games": [game("space-race", "space-race")], "quests": []});
    bench.write("space-race-quests.json", &mine);
    let second = bench.run(&["init", "space-race"]).await;
    assert!(second.ok, "{second:?}");
    assert!(second.out.contains("its keys are kept"), "{}", second.out);
    assert_eq!(
        std::fs::read_to_string(bench.path("studios.json")).unwrap(),
        studios
    );
    let file = std::fs::read_to_string(bench.path("space-race-quests.json")).unwrap();
    assert_eq!(file, mine.to_string());

    let storage = bench.storage();
    let game = GameId::new("space-race").unwrap();
    let studio = storage.studio_of(&game).await.unwrap().unwrap();
    assert_eq!(studio.as_str(), "space-race");
    let quest = QuestId::new("forest-hunter").unwrap();
    assert_eq!(
        storage.quest(&game, &quest).await.unwrap().unwrap().version,
        1
    );
    storage.close().await;

    let ran = bench.run(&["init", "../x"]).await;
    assert!(!ran.ok && ran.err.contains("a name is 1 to 40"), "{ran:?}");
}
