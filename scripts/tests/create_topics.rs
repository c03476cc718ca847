//! The real `create-topics` against real brokers.

#![expect(
    clippy::unwrap_used,
    reason = "a test says by a panic that something is not as it should be"
)]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bm_contracts::Topic;
use bm_testkit::{Server, TestTopics, TopicPlan};

/// Runs it with these variables and no others, where there is no `.env`.
async fn run(variables: &[(&str, &str)]) -> (Output, Duration) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_create-topics"));
    let place = tempfile::tempdir().unwrap();
    command
        .env_clear()
        .current_dir(place.path())
        .envs(variables.iter().copied());
    let started = Instant::now();
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    (output, started.elapsed())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn run_twice_it_changes_nothing_and_a_differing_topic_is_exit_code_two() {
    let mut topics = TestTopics::create([]).await;
    let brokers = topics.brokers().to_owned();
    let prefix = topics.prefix().to_owned();
    let variables = [
        ("REDPANDA_BROKERS", brokers.as_str()),
        ("BM_TOPIC_PREFIX", prefix.as_str()),
    ];

    let (first, _) = run(&variables).await;
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    assert_eq!(text(&first.stdout).matches("created    ").count(), 13);
    let (second, _) = run(&variables).await;
    assert_eq!(second.status.code(), Some(0), "{second:?}");
    let printed = text(&second.stdout);
    assert_eq!(printed.matches("as wanted  ").count(), 13, "{printed}");
    for topic in Topic::ALL {
        let listed = format!("  {}", topics.full(topic.name()));
        assert!(
            printed
                .split("\ntopics at ")
                .nth(1)
                .unwrap()
                .contains(&listed),
            "{printed}"
        );
    }

    topics.delete("dead.letter").await;
    topics
        .add([TopicPlan::of(Topic::DeadLetter).partitions(1)])
        .await;
    let (third, _) = run(&variables).await;
    assert_eq!(third.status.code(), Some(2), "{third:?}");
    let line = format!(
        "differs    {}: partitions is 1, wanted 3\n",
        topics.full("dead.letter")
    );
    assert!(text(&third.stdout).contains(&line), "{third:?}");
    for topic in Topic::ALL {
        topics.delete(topic.name()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_scram_and_tls_it_works_and_a_wrong_password_fails_clearly_in_time() {
    let server = Server::kafka_secure().await;
    let (user, password, ca) = server.kafka_login();
    let address = server.address();
    let login = |password| {
        [
            ("REDPANDA_BROKERS", address.as_str()),
            ("REDPANDA_USERNAME", user),
            ("REDPANDA_PASSWORD", password),
            ("REDPANDA_CA_FILE", ca.to_str().unwrap()),
        ]
    };
    for _ in 0..3 {
        let (wrong, took) = run(&login("not-the-password")).await;
        assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
        assert!(took < Duration::from_secs(10), "{took:?}");
        let said = text(&wrong.stderr);
        assert!(said.contains("the broker refused the login"), "{said}");
        assert!(!said.contains("not-the-password"), "{said}");
    }
    let (right, _) = run(&login(password)).await;
    assert_eq!(right.status.code(), Some(0), "{right:?}");
    assert_eq!(text(&right.stdout).matches("created    ").count(), 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_lacks_is_named() {
    let (unset, _) = run(&[]).await;
    assert_eq!(unset.status.code(), Some(1));
    assert!(
        text(&unset.stderr).contains("REDPANDA_BROKERS"),
        "{unset:?}"
    );
    let nobody = format!("127.0.0.1:{}", bm_testkit::free_port());
    let (unreachable, took) = run(&[("REDPANDA_BROKERS", &nobody)]).await;
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(
        text(&unreachable.stderr).contains(&nobody),
        "{unreachable:?}"
    );
}
