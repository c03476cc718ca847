//! `watch`, `dead-letters` and `topics`: what they show of the log.

use std::process::Stdio;
use std::time::{Duration, Instant};

use bm_contracts::Topic;
use bm_testkit::TopicPlan;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::bench::{Bench, Ran, SOON, game, quest};

#[tokio::test]
async fn watch_says_why_an_event_is_ignored_as_soon_as_a_rule_says_so() {
    let bench = Bench::new().await;
    bench.write(
        "quests.json",
        &json!({"games": [game("g", "acme")], "quests": []}),
    );
    assert!(bench.run(&["apply", "quests.json"]).await.ok);
    let mut child = bench
        .command(&["watch", "--game", "g"])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let event = |map: &str| {
        json!({
            "eventType": "enemy_killed", "userId": "p", "gameId": "g", "eventId": "e",
            "timestamp": "2026-01-02T03:04:05Z", "studioId": "acme", "studioTier": "pro",
            "partitionKey": "g:p", "metadata": {"map": map},
        })
        .to_string()
    };
    // It shows what comes once it reads the end of the log: send until it does.
    let begun = Instant::now();
    let first = loop {
        assert!(begun.elapsed() < SOON, "watch shows nothing");
        let value = event("desert");
        bench
            .topics
            .produce(
                Topic::GameEvents.name(),
                0,
                Some(b"g:p"),
                Some(value.as_bytes()),
                &[],
            )
            .await;
        let line = tokio::time::timeout(Duration::from_millis(500), lines.next_line()).await;
        if let Ok(line) = line {
            break line.unwrap().unwrap();
        }
    };
    assert!(
        first.ends_with("g p event enemy_killed ignored: the game has no active quest"),
        "{first}"
    );

    bench.write("quests.json", &json!({"quests": [quest("g", "hunter", 3)]}));
    assert!(bench.run(&["apply", "quests.json"]).await.ok);
    for (map, expected) in [
        (
            "desert",
            "ignored: filter map is forest, event says desert (hunter)",
        ),
        ("forest", "wanted by hunter"),
    ] {
        let value = event(map);
        bench
            .topics
            .produce(
                Topic::GameEvents.name(),
                0,
                Some(b"g:p"),
                Some(value.as_bytes()),
                &[],
            )
            .await;
        let line = tokio::time::timeout(SOON, async {
            loop {
                let line = lines.next_line().await.unwrap().unwrap();
                // What was sent before the rule was saved may still come.
                if !line.contains("no active quest") {
                    return line;
                }
            }
        });
        let line = line.await.expect("a line");
        assert!(line.ends_with(expected), "{line}");
    }
}

#[tokio::test]
async fn dead_letters_are_listed_by_game() {
    let bench = Bench::new().await;
    let letter = |offset: i64| {
        json!({
            "topic": "game.events", "partition": 0, "offset": offset, "service": "event-router",
            "code": "undecodable", "error": "userId is missing", "correlationId": null,
            "headers": [], "valueBase64": "e30=", "failedAt": "2026-01-02T03:04:05.700Z",
        })
        .to_string()
    };
    let topic = Topic::DeadLetter.name();
    let ran = bench.run(&["dead-letters", "list"]).await;
    assert!(ran.ok && ran.out == "no dead letters\n", "{ran:?}");
    // The second lane was killed before it knew that its letters were there: they are sent again.
    for (offset, key) in [
        (1, "g:p"),
        (2, "other:p"),
        (3, "g:q"),
        (1, "g:p"),
        (2, "other:p"),
        (3, "g:q"),
    ] {
        let value = letter(offset);
        let seq = format!("0.{offset}.0");
        let headers: [(&str, &[u8]); 2] = [
            ("bm-source", b"event-router/game.events/0"),
            ("bm-seq", seq.as_bytes()),
        ];
        bench
            .topics
            .produce(
                topic,
                0,
                Some(key.as_bytes()),
                Some(value.as_bytes()),
                &headers,
            )
            .await;
    }
    let ran = bench.run(&["dead-letters", "list", "--game", "g"]).await;
    assert!(ran.ok, "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].contains("g:p game.events/0@1 event-router: undecodable"),
        "{lines:?}"
    );
    let ran = bench
        .run(&["dead-letters", "list", "--limit", "1", "--json"])
        .await;
    let listed: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(listed["letter"]["offset"], 3);
    assert_eq!(listed["key"], "g:q");
}

#[tokio::test]
async fn topics_are_created_once_and_a_broken_env_file_is_named() {
    let mut bench = Bench::new().await;
    let ran = bench.run(&["topics", "--check"]).await;
    assert!(ran.ok && ran.out.contains("as wanted"), "{ran:?}");
    let mut command = bench.command(&["topics", "--check"]);
    command.env("BM_TOPIC_PREFIX", "nobody-made.");
    let ran = Ran::of(&mut command).await;
    assert!(
        ran.code == Some(2) && ran.out.contains("missing"),
        "{ran:?}"
    );

    // As with create-topics: the report is whole, and the exit code says that nothing failed.
    bench.topics.delete(Topic::DeadLetter.name()).await;
    let plan = TopicPlan::of(Topic::DeadLetter).partitions(1);
    bench.topics.add([plan]).await;
    for arguments in [&["topics"][..], &["topics", "--check"]] {
        let ran = bench.run(arguments).await;
        let name = bench.topics.full(Topic::DeadLetter.name());
        let line = format!("differs    {name}: partitions is 1, wanted 3\n");
        assert!(ran.code == Some(2) && ran.out.contains(&line), "{ran:?}");
    }

    std::fs::write(bench.path(".env"), "BM_LOG=info\nREDIS_URL=redis://a b\n").unwrap();
    let ran = bench.run(&["topics", "--check"]).await;
    assert!(!ran.ok && ran.err.contains(".env, line 2"), "{ran:?}");
}
