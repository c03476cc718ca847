//! `dev`: everything in one process, from the first start to Ctrl-C.

use std::process::Stdio;
use std::time::{Duration, Instant};

use bm_contracts::{GameId, QuestId, Topic, UserId};
use bm_testkit::{TestTopics, TopicPlan, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::bench::{Bench, Ran, SOON, quest};

/// Starting takes longer than anything else here; a debug build on a busy machine more so.
const START: Duration = Duration::from_secs(90);

fn command(bench: &Bench) -> Command {
    let mut command = bench.command(&["dev"]);
    command
        .env("BM_LISTEN_ADDR", "127.0.0.1:0")
        .env("BM_DEV_DIR", bench.path(".dev"))
        .env("BM_REDIS_PREFIX", bench.topics.prefix());
    command
}

/// Starts it, waits until it is ready, and gives the `curl` it prints.
async fn start(bench: &Bench) -> (Child, String) {
    let mut child = command(bench)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reading = async {
        let mut ready = false;
        while let Some(line) = lines.next_line().await.unwrap() {
            ready |= line == "ready";
            if line.starts_with("curl ") {
                assert!(ready, "said how to begin before it was ready");
                let rest = lines.next_line().await.unwrap().unwrap();
                return format!("{line}\n{rest}");
            }
        }
        panic!("dev ended before it was ready");
    };
    let curl = tokio::time::timeout(START, reading).await;
    let curl = curl.expect("dev is ready in time");
    // What it prints later must not stop it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, curl)
}

async fn interrupt(mut child: Child) {
    let pid = child.id().unwrap().to_string();
    let sent = Command::new("bash")
        .args(["-c", "kill -INT $0", &pid])
        .status()
        .await;
    assert!(sent.unwrap().success());
    let ended = tokio::time::timeout(SOON * 2, child.wait()).await;
    let status = ended.expect("dev ends when interrupted").unwrap();
    assert!(status.success(), "{status}");
}

async fn shell(script: &str) -> String {
    let ran = Command::new("bash")
        .args(["-c", script])
        .output()
        .await
        .unwrap();
    String::from_utf8(ran.stdout).unwrap()
}

#[tokio::test]
async fn the_printed_command_becomes_progress_and_a_second_start_keeps_it_and_what_was_edited() {
    let bench = Bench::new().await;
    let game = GameId::new("demo-game").unwrap();
    let player = UserId::new("player-1").unwrap();
    let hunter = QuestId::new("forest-hunter").unwrap();
    let storage = bench.storage();
    for round in 1..=2 {
        let (child, curl) = start(&bench).await;
        let answer: Value = serde_json::from_str(&shell(&curl).await).unwrap();
        assert_eq!(answer["status"], "accepted", "{answer}");
        eventually(SOON, "progress in Postgres", || async {
            let progress = storage.player_progress(&game, &player).await.unwrap();
            let current = progress.first()?.current.to_string();
            (current == round.to_string()).then_some(())
        })
        .await;
        let env = bench.path(".dev/env");
        let ops = shell(&format!(". {}; printf %s \"$BM_OPS_URL\"", env.display())).await;
        let ready: Value =
            serde_json::from_str(&shell(&format!("curl -sS {ops}/readyz")).await).unwrap();
        assert_eq!(ready["ready"], true, "{ready}");
        let demo = storage.quest(&game, &hunter).await.unwrap().unwrap();
        assert_eq!(demo.version, round, "the demo quest as it was edited");
        if round == 1 {
            bench.write(
                "mine.json",
                &json!({"quests": [quest("demo-game", "forest-hunter", 9)]}),
            );
            let ran = bench.run(&["apply", "mine.json"]).await;
            assert!(ran.ok, "{ran:?}");
        }
        interrupt(child).await;
    }
    storage.close().await;
}

#[tokio::test]
async fn what_init_prints_works_against_a_running_gateway() {
    let bench = Bench::new().await;
    let (child, _) = start(&bench).await;
    let env = bench.path(".dev/env");
    let url = shell(&format!(
        ". {}; printf %s \"$BM_GATEWAY_URL\"",
        env.display()
    ))
    .await;
    let mut command = bench.command(&["init", "acme"]);
    let ran = Ran::of(command.env("BM_GATEWAY_URL", url)).await;
    assert!(ran.ok, "{ran:?}");
    let printed: Vec<&str> = ran
        .out
        .lines()
        .skip_while(|line| !line.starts_with("curl "))
        .take(2)
        .collect();
    let curl = printed.join("\n");
    // The gateway reads the studios file again when it changes.
    eventually(SOON, "the new studio's event to be accepted", || async {
        let answer: Value = serde_json::from_str(&shell(&curl).await).unwrap();
        (answer["status"] == "accepted").then_some(())
    })
    .await;
    let storage = bench.storage();
    let (game, player) = (
        GameId::new("acme").unwrap(),
        UserId::new("player-1").unwrap(),
    );
    eventually(SOON, "progress in Postgres", || async {
        let progress = storage.player_progress(&game, &player).await.unwrap();
        (progress.first()?.current.to_string() == "1").then_some(())
    })
    .await;
    storage.close().await;
    interrupt(child).await;
}

#[tokio::test]
async fn watch_knows_what_a_player_has_completed_and_which_events_are_repeats() {
    let bench = Bench::new().await;
    let (child, curl) = start(&bench).await;
    let mut watch = bench
        .command(&["watch", "--game", "demo-game"])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // It shows what comes once it reads the end of the log: send until it does, and until what it
    // shows is what stands in Postgres.
    let begun = Instant::now();
    let mut shown = Vec::new();
    while !shown.iter().any(|line: &String| {
        line.ends_with("event enemy_killed ignored: completed already (forest-hunter)")
    }) {
        assert!(begun.elapsed() < SOON, "{shown:?}");
        shell(&curl).await;
        while let Ok(line) =
            tokio::time::timeout(Duration::from_millis(300), lines.next_line()).await
        {
            shown.push(line.unwrap().expect("watch goes on"));
        }
    }
    let events = bench.topics.read_all(Topic::GameEvents.name()).await;
    let first = &events[0];
    let again = bench
        .topics
        .produce(
            Topic::GameEvents.name(),
            first.partition,
            Some(first.key_text().as_bytes()),
            Some(first.value_text().as_bytes()),
            &[],
        )
        .await;
    assert!(again > first.offset);
    let repeat = format!(
        "ignored: a repeat of game.events/{}@{}, which has its eventId and counts once",
        first.partition, first.offset
    );
    let found = tokio::time::timeout(SOON, async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.ends_with(&repeat) {
                return;
            }
        }
        panic!("watch ended");
    });
    found.await.expect("the repeat is told");
    drop(watch);
    interrupt(child).await;
}

#[tokio::test]
async fn a_database_that_remembers_another_log_is_told_in_plain_words_and_at_once() {
    let mut bench = Bench::new().await;
    let (child, curl) = start(&bench).await;
    let answer: Value = serde_json::from_str(&shell(&curl).await).unwrap();
    assert_eq!(answer["status"], "accepted", "{answer}");
    let storage = bench.storage();
    let (game, player) = (
        GameId::new("demo-game").unwrap(),
        UserId::new("player-1").unwrap(),
    );
    eventually(SOON, "progress in Postgres", || async {
        let progress = storage.player_progress(&game, &player).await.unwrap();
        (!progress.is_empty()).then_some(())
    })
    .await;
    storage.close().await;
    interrupt(child).await;

    // Other topics, the same database: what deleting the broker's data leads to.
    bench.topics = TestTopics::registry().await;
    // One of them not as it should be, which is told and stops nobody.
    let dead_letters = Topic::DeadLetter;
    bench.topics.delete(dead_letters.name()).await;
    let plan = TopicPlan::of(dead_letters).partitions(1);
    bench.topics.add([plan]).await;
    let begun = Instant::now();
    let ran = Ran::of(&mut command(&bench)).await;
    assert!(!ran.ok, "{ran:?}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let name = bench.topics.full(dead_letters.name());
    let differs = format!("differs    {name}: partitions is 1, wanted 3 (not touched)");
    assert!(ran.err.contains(&differs), "{}", ran.err);
    assert!(
        ran.err
            .contains("the database remembers another log than the broker has"),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("to start anew with nothing, delete .dev"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn a_load_says_how_its_events_were_answered_and_when_they_had_their_effect() {
    let bench = Bench::new().await;
    let (child, _) = start(&bench).await;
    let env = bench.path(".dev/env");
    let told = shell(&format!(
        ". {}; printf '%s %s' \"$BM_GATEWAY_URL\" \"$BM_DEMO_CLIENT_KEY\"",
        env.display()
    ))
    .await;
    let (url, key) = told.split_once(' ').unwrap();
    let load = [
        "load",
        "--url",
        url,
        "--key",
        key,
        "--game",
        "demo-game",
        "--json",
        "--follow",
        "--rate",
        "50",
        "--duration",
        "2",
        "--players",
        "100000",
    ];
    let ran = bench.run(&load).await;
    assert!(ran.ok, "{ran:?}");
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["answers"], json!({"accepted": 100}), "{report}");
    assert_eq!(report["latencyMs"]["count"], 100, "{report}");

    // Nobody has three kills of so few, so each event is progress.
    assert_eq!(report["followMs"]["count"], 100, "{report}");
    assert_eq!(report["notSeen"], 0, "{report}");

    let mut stranger = load;
    stranger[4] = "nobodys-key";
    let ran = bench.run(&stranger).await;
    assert!(ran.out.contains("401 invalid_api_key"), "{ran:?}");
    interrupt(child).await;
}
