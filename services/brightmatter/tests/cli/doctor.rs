//! `doctor`: what it finds.

use std::time::{Duration, Instant};

use bm_testkit::free_port;

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
    assert!(ran.out.contains("FAILED  redis"), "{}", ran.out);
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
