//! `apply`, `init` and `migrate`: what they save, and what they do not.

use std::process::Stdio;

use bm_contracts::{GameId, QuestId, Topic};
use bm_domain::definition::parse_file;
use bm_testkit::{TestDatabase, free_port};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

use crate::bench::{Bench, Ran, SOON, game, quest};

#[tokio::test]
async fn a_file_with_faults_is_refused_whole_with_every_fault_and_its_place() {
    let bench = Bench::new().await;
    let mut bad = quest("g", "bad", 3);
    bad["conditions"]["eventType"] = json!("enemy_kissed");
    bad["conditions"]["when"] = json!("event.metadata.level >=");
    bad["communityGate"] = json!({});
    bench.write(
        "bad.json",
        &json!({
            "games": [game("g", "acme"), game("theirs", "acme")],
            "quests": [quest("g", "good", 3), bad, quest("nowhere", "q", 3)],
        }),
    );
    bench.write("theirs.json", &json!({"games": [game("theirs", "other")]}));
    assert!(bench.run(&["apply", "theirs.json"]).await.ok);
    let ran = bench.run(&["apply", "bad.json"]).await;
    assert!(!ran.ok, "{ran:?}");
    for expected in [
        "bad.json: nothing was saved",
        "$.quests[1].conditions.eventType",
        "$.quests[1].conditions.when (line 1, column ",
        "$.quests[1].communityGate",
        // What only the database knows, with the rest.
        "$.games[1].gameId: theirs belongs to another studio",
        "$.quests[2].gameId: nowhere is not a known game",
    ] {
        assert!(ran.err.contains(expected), "{expected} in {}", ran.err);
    }
    assert_eq!(ran.out, "");
    assert!(!ran.err.contains("gameId: g "), "{}", ran.err);
    // And without the database the rest is told all the same.
    let mut command = bench.command(&["apply", "bad.json"]);
    command.env(
        "RDS_CONNECTION_STRING",
        format!("postgres://u@127.0.0.1:{}/d", free_port()),
    );
    let ran = Ran::of(&mut command).await;
    assert!(
        !ran.ok && ran.err.contains("$.quests[1].communityGate"),
        "{ran:?}"
    );
    assert!(
        ran.err.contains("its games could not be looked up"),
        "{ran:?}"
    );

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
    let told = "game   g of studio acme: created\n";
    assert!(ran.out.contains(told), "{}", ran.out);
    let ran = bench.run(&["apply", "quests.json"]).await;
    assert!(
        ran.out.contains("quest  g/second: unchanged\n"),
        "{}",
        ran.out
    );
    let told = "game   g of studio acme: unchanged\n";
    assert!(ran.out.contains(told), "{}", ran.out);
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

    let message = |key: &str, version, seq| (key.to_owned(), version, seq);
    assert_eq!(
        published(&bench).await,
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
async fn apply_ends_when_what_it_saved_is_published_though_another_publisher_is_at_work() {
    let bench = Bench::new().await;
    let theirs = json!({"games": [game("g", "acme")], "quests": [quest("g", "theirs", 3)]});
    let theirs = parse_file(theirs.to_string().as_bytes()).unwrap();
    let storage = bench.storage();
    storage.apply(&theirs).await.unwrap();
    let claimed = storage.pending_config_messages().await.unwrap();
    assert_eq!(claimed.len(), 1);

    bench.write("mine.json", &json!({"quests": [quest("g", "mine", 3)]}));
    let mut child = bench
        .command(&["apply", "mine.json"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = tokio::time::timeout(SOON, said.next_line()).await.unwrap();
    let line = line.unwrap().expect("it says what it waits for");
    assert!(line.contains("waiting for another publisher"), "{line}");
    assert!(published(&bench).await.is_empty());

    let ids: Vec<i64> = claimed.iter().map(|message| message.id).collect();
    storage.config_messages_published(&ids).await.unwrap();
    let ended = tokio::time::timeout(SOON, child.wait()).await.unwrap();
    assert!(ended.unwrap().success());
    assert_eq!(published(&bench).await, [("g:mine".to_owned(), 1, 2)]);
    storage.close().await;
}

#[tokio::test]
async fn a_quest_is_archived_and_activated_again() {
    let bench = Bench::new().await;
    for (status, told) in [
        ("active", "created"),
        ("archived", "new version 2 (archived: no event counts)"),
        ("archived", "unchanged (archived: no event counts)"),
        ("active", "new version 3"),
    ] {
        let mut quest = quest("g", "q", 3);
        quest["status"] = json!(status);
        let file = json!({"games": [game("g", "acme")], "quests": [quest]});
        bench.write("quests.json", &file);
        let ran = bench.run(&["apply", "quests.json"]).await;
        assert!(ran.ok, "{ran:?}");
        let told = format!("quest  g/q: {told}\n");
        assert!(ran.out.contains(&told), "{told} in {}", ran.out);
    }
    let messages = bench.topics.read_all(Topic::ConfigQuests.name()).await;
    let statuses: Vec<Value> = messages
        .iter()
        .map(|record| record.json()["status"].clone())
        .collect();
    assert_eq!(statuses, ["active", "archived", "active"]);
}

#[tokio::test]
async fn an_address_that_is_not_set_is_told_with_the_file_that_has_it() {
    let bench = Bench::new().await;
    bench.write("quests.json", &json!({"games": [game("g", "acme")]}));
    for (name, arguments) in [
        ("REDPANDA_BROKERS", &["apply", "quests.json"][..]),
        ("REDPANDA_BROKERS", &["watch"]),
        ("RDS_CONNECTION_STRING", &["migrate"]),
        ("BM_STUDIOS_FILE", &["init", "acme"]),
        ("REDPANDA_BROKERS", &["doctor"]),
    ] {
        for (file, hint) in [
            (false, "`make dev` starts servers"),
            (true, "type `. .dev/env` first"),
        ] {
            if file {
                std::fs::create_dir_all(bench.path(".dev")).unwrap();
                std::fs::write(bench.path(".dev/env"), "").unwrap();
            }
            let mut command = bench.command(arguments);
            command.env_remove(name);
            let ran = Ran::of(&mut command).await;
            let said = format!("{}{}", ran.out, ran.err);
            assert!(
                !ran.ok && said.contains(&format!("{name} is not set")),
                "{ran:?}"
            );
            assert!(said.contains(hint), "{hint} in {said}");
        }
        std::fs::remove_dir_all(bench.path(".dev")).unwrap();
    }
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

    // What `init` made is of use though nobody has published it.
    let mut command = bench.command(&["init", "acme"]);
    command.env("REDPANDA_BROKERS", format!("127.0.0.1:{}", free_port()));
    let ran = Ran::of(&mut command).await;
    assert!(!ran.ok, "{ran:?}");
    assert!(ran.out.contains("curl -sS http"), "{}", ran.out);
    assert!(
        ran.err.contains("the definitions are saved and count"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn ten_migrations_at_once_leave_one_schema() {
    let mut bench = Bench::new().await;
    bench.database = TestDatabase::new().await;
    bench.write("quests.json", &json!({"games": [game("g", "acme")]}));
    let ran = bench.run(&["apply", "quests.json"]).await;
    assert!(
        !ran.ok
            && ran.err.contains("schema is at version 0")
            && ran.err.contains("brightmatter migrate"),
        "{ran:?}"
    );
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
    let ran = bench.run(&["apply", "quests.json"]).await;
    assert!(ran.ok, "{ran:?}");
}

/// Key, version and config sequence of what stands in `config.quests`, sorted.
async fn published(bench: &Bench) -> Vec<(String, i64, i64)> {
    let records = bench.topics.read_all(Topic::ConfigQuests.name()).await;
    let mut published: Vec<_> = records
        .iter()
        .map(|record| {
            let message = record.json();
            let number = |name: &str| message[name].as_i64().unwrap();
            let key = record.key_text().to_owned();
            (key, number("version"), number("configSeq"))
        })
        .collect();
    published.sort();
    published
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
    // What it says to run next is there.
    for command in ["apply space-race-quests.json", "watch --game space-race"] {
        let command = format!("{} {command}", env!("CARGO_BIN_EXE_brightmatter"));
        assert!(first.out.contains(&command), "{command} in {}", first.out);
    }

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
