//! `doctor`: what it finds.

use std::time::{Duration, Instant};

use bm_contracts::Topic;
use bm_testkit::{TestDatabase, TestEnv, TopicPlan, free_port, unique};

use crate::bench::{Bench, Ran};

#[tokio::test]
async fn doctor_finds_nothing_wrong_where_nothing_is() {
    let bench = Bench::new().await;
    let ran = bench.run(&["init", "acme"]).await;
    assert!(ran.ok, "{ran:?}");
    let ran = bench.run(&["doctor"]).await;
    assert!(ran.ok, "{ran:?}");
    for name in ["broker", "topics", "postgres", "schema", "redis", "studios"] {
        assert!(
            ran.out.contains(&format!("ok      {name}")),
            "{name}: {}",
            ran.out
        );
    }
}

#[tokio::test]
async fn doctor_names_what_is_wrong_within_ten_seconds_and_looks_at_the_rest() {
    let bench = Bench::new().await;
    let nobody = format!("127.0.0.1:{}", free_port());
    let mut command = bench.command(&["doctor"]);
    command
        .env("REDPANDA_BROKERS", &nobody)
        .env("REDIS_URL", format!("redis://:hunter2@{nobody}"));
    let begun = Instant::now();
    let ran = Ran::of(&mut command).await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert!(!ran.ok, "{ran:?}");
    assert!(ran.out.contains("FAILED  broker"), "{}", ran.out);
    assert!(
        ran.out.contains("REDPANDA_BROKERS names another"),
        "{}",
        ran.out
    );
    let redis = ran
        .out
        .lines()
        .find(|line| line.starts_with("away    redis"));
    assert!(
        redis.is_some_and(|line| line.ends_with("(reported, not required)")),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("ok      postgres"), "{}", ran.out);
    assert!(ran.out.contains("FAILED  studios"), "{}", ran.out);
    assert!(!ran.out.contains("hunter2"), "{}", ran.out);

    let mut command = bench.command(&["doctor"]);
    command
        .env(
            "RDS_CONNECTION_STRING",
            format!("postgres://u:hunter2@{nobody}/d"),
        )
        .env("BM_TOPIC_PREFIX", "nobody-made.");
    let ran = Ran::of(&mut command).await;
    assert!(!ran.ok, "{ran:?}");
    assert!(ran.out.contains("FAILED  postgres"), "{}", ran.out);
    assert!(ran.out.contains("run `brightmatter topics`"), "{}", ran.out);
    assert!(!ran.out.contains("hunter2"), "{}", ran.out);
}

#[tokio::test]
async fn redis_alone_away_is_no_failure_and_a_topic_that_differs_is_odd() {
    let mut bench = Bench::new().await;
    assert!(bench.run(&["init", "acme"]).await.ok);
    let dead_letters = Topic::DeadLetter;
    bench.topics.delete(dead_letters.name()).await;
    let plan = TopicPlan::of(dead_letters).partitions(1);
    bench.topics.add([plan]).await;
    let mut command = bench.command(&["doctor"]);
    command.env("REDIS_URL", format!("redis://127.0.0.1:{}", free_port()));
    let ran = Ran::of(&mut command).await;
    assert!(ran.ok, "{ran:?}");
    assert!(ran.out.contains("away    redis"), "{}", ran.out);
    let name = bench.topics.full(dead_letters.name());
    let odd = format!("odd     topics     {name}: partitions is 1, wanted 3");
    assert!(ran.out.contains(&odd), "{odd} in {}", ran.out);
}

#[tokio::test]
async fn an_old_schema_is_told_with_the_command_that_renews_it() {
    let mut bench = Bench::new().await;
    bench.database = TestDatabase::new().await;
    let ran = bench.run(&["doctor"]).await;
    assert!(!ran.ok, "{ran:?}");
    assert!(ran.out.contains("ok      postgres"), "{}", ran.out);
    assert!(
        ran.out
            .contains("FAILED  schema     the database schema is at version 0"),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("-> run `brightmatter migrate`"),
        "{}",
        ran.out
    );
}

#[tokio::test]
async fn firestore_is_asked_where_studios_are_there() {
    let bench = Bench::new().await;
    let project = unique("doctor");
    for (emulator, verdict) in [
        (TestEnv::get().firestore.clone(), "ok      firestore"),
        (format!("127.0.0.1:{}", free_port()), "away    firestore"),
    ] {
        let mut command = bench.command(&["doctor"]);
        command
            .env_remove("BM_STUDIOS_FILE")
            .env("FIRESTORE_PROJECT_ID", &project)
            .env("FIRESTORE_EMULATOR_HOST", emulator);
        let ran = Ran::of(&mut command).await;
        // Gateways go on with what they last knew.
        assert!(ran.ok, "{ran:?}");
        let line = format!("{verdict}  Firestore project {project}");
        assert!(ran.out.contains(&line), "{line} in {}", ran.out);
    }
}
