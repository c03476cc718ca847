//! Servers of a test's own, started, broken and started again.

use std::time::Duration;

use bm_testkit::{Server, TestDatabase, TestTopics, TopicPlan, eventually, http};
use rdkafka::consumer::{BaseConsumer, Consumer};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_killed_postgres_comes_back_with_what_was_committed() {
    let mut server = Server::postgres().await;
    let database = TestDatabase::on(&server.url()).await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    sqlx::query("CREATE TABLE t AS SELECT 1 AS x")
        .execute(&mut connection)
        .await
        .unwrap();

    server.kill();
    let asked = sqlx::query("SELECT x FROM t")
        .execute(&mut connection)
        .await;
    assert!(asked.is_err());
    server.start_again().await;
    let x: i32 = sqlx::query_scalar("SELECT x FROM t")
        .fetch_one(&database.pool(1).await)
        .await
        .unwrap();
    assert_eq!(x, 1);
}

#[tokio::test]
async fn a_postgres_shut_down_at_once_recovers_what_was_committed() {
    let mut server = Server::postgres().await;
    let database = TestDatabase::on(&server.url()).await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    sqlx::query("CREATE TABLE t AS SELECT 1 AS x")
        .execute(&mut connection)
        .await
        .unwrap();

    server.stop_at_once().await;
    assert!(!server.runs());
    server.start_again().await;
    assert!(server.runs());
    assert!(server.log().contains("automatic recovery"));
    let x: i32 = sqlx::query_scalar("SELECT x FROM t")
        .fetch_one(&database.pool(1).await)
        .await
        .unwrap();
    assert_eq!(x, 1);
}

#[tokio::test]
async fn a_paused_postgres_answers_when_it_is_resumed() {
    let mut server = Server::postgres().await;
    let pool = TestDatabase::on(&server.url()).await.pool(1).await;
    server.pause();
    let asking = sqlx::query("SELECT 1").execute(&pool);
    tokio::pin!(asking);
    assert!(
        timeout(Duration::from_millis(300), &mut asking)
            .await
            .is_err()
    );
    server.resume();
    // Its database may be gone by now; what counts is that there is an answer.
    let _answer = timeout(SOON, asking).await.unwrap();
}

#[tokio::test]
async fn a_stopped_redis_and_firestore_start_again_on_their_ports() {
    let (mut redis, mut firestore) = tokio::join!(Server::redis(), Server::firestore());
    let addresses = (redis.address(), firestore.address());
    redis.stop().await;
    firestore.stop().await;
    assert_eq!(http::get(&addresses.1, "/").await, None);
    tokio::join!(redis.start_again(), firestore.start_again());
    assert_eq!((redis.address(), firestore.address()), addresses);
}

#[tokio::test]
async fn a_killed_kafka_keeps_its_records() {
    let mut server = Server::kafka().await;
    let topics = TestTopics::create_on(&server.address(), [TopicPlan::new("log", 1)]).await;
    topics.produce("log", 0, None, Some(b"kept"), &[]).await;
    server.kill();
    server.start_again().await;
    let records = topics.read_all("log").await;
    assert_eq!(records[0].value_text(), "kept");
}

#[tokio::test]
async fn a_client_of_the_proxy_never_finds_the_way_past_it() {
    let (_server, proxy) = Server::kafka_behind_proxy().await;
    let topics = TestTopics::create_on(&proxy.address(), [TopicPlan::new("log", 1)]).await;
    topics.produce("log", 0, None, Some(b"one"), &[]).await;
    proxy.cut();
    let producing = topics.produce("log", 0, None, Some(b"two"), &[]);
    tokio::pin!(producing);
    assert!(
        timeout(Duration::from_millis(500), &mut producing)
            .await
            .is_err()
    );
    proxy.pass();
    assert_eq!(timeout(SOON, producing).await.unwrap(), 1);
}

#[tokio::test]
async fn a_secured_kafka_takes_both_mechanisms_and_no_wrong_password() {
    let server = Server::kafka_secure().await;
    let client = server.kafka_client();
    let topics = TestTopics::create_with(client.clone(), [TopicPlan::new("log", 1)]).await;
    topics.produce("log", 0, None, Some(b"secret"), &[]).await;
    assert_eq!(topics.read_all("log").await.len(), 1);

    for (mechanism, password, works) in [
        ("SCRAM-SHA-512", server.kafka_login().1, true),
        ("SCRAM-SHA-256", "wrong", false),
    ] {
        let consumer: BaseConsumer = client
            .clone()
            .set("sasl.mechanism", mechanism)
            .set("sasl.password", password)
            .create()
            .unwrap();
        let consumer = std::sync::Arc::new(consumer);
        if works {
            eventually(SOON, "metadata", || {
                let consumer = std::sync::Arc::clone(&consumer);
                async move {
                    tokio::task::spawn_blocking(move || {
                        consumer
                            .fetch_metadata(None, Duration::from_secs(5))
                            .ok()
                            .map(drop)
                    })
                    .await
                    .unwrap()
                }
            })
            .await;
        } else {
            let refused = tokio::task::spawn_blocking(move || {
                consumer
                    .fetch_metadata(None, Duration::from_secs(2))
                    .is_err()
            });
            assert!(refused.await.unwrap());
        }
    }
}
