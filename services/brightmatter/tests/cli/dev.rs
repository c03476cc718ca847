//! `dev`: everything in one process, from the first start to Ctrl-C.

use std::process::Stdio;
use std::time::Duration;

use bm_contracts::{GameId, UserId};
use bm_testkit::eventually;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::bench::{Bench, SOON};

/// Starting takes longer than anything else here; a debug build on a busy machine more so.
const START: Duration = Duration::from_secs(90);

/// Starts it, waits until it is ready, and gives the `curl` it prints.
async fn start(bench: &Bench) -> (Child, String) {
    let mut child = bench
        .command(&["dev"])
        .env("BM_LISTEN_ADDR", "127.0.0.1:0")
        .env("BM_DEV_DIR", bench.path(".dev"))
        .env("BM_REDIS_PREFIX", bench.topics.prefix())
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
async fn the_printed_command_becomes_progress_and_a_second_start_keeps_it() {
    let bench = Bench::new().await;
    let game = GameId::new("demo-game").unwrap();
    let player = UserId::new("player-1").unwrap();
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
        interrupt(child).await;
    }
    storage.close().await;
}
