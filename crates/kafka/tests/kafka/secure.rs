//! SCRAM over TLS: it works, and each way it may not work is told apart.

use std::path::Path;
use std::time::{Duration, Instant};

use bm_contracts::Topic;
use bm_kafka::{
    AppendConfig, EventProducer, Fetched, Fetcher, KafkaConfig, KafkaError, Mechanism, Security,
    TopicAdmin, TopicState,
};
use bm_testkit::{Server, TcpProxy, eventually, free_port};

use crate::{DEADLINE, soon};

fn login(
    server: &Server,
    mechanism: Mechanism,
    password: &str,
    ca_file: Option<&Path>,
) -> KafkaConfig {
    let (username, _, _) = server.kafka_login();
    KafkaConfig {
        security: Security::SaslTls {
            username: username.to_owned(),
            password: password.to_owned(),
            mechanism,
            ca_file: ca_file.map(Path::to_owned),
        },
        ..KafkaConfig::plaintext(server.address())
    }
}

async fn failed_ping(config: &KafkaConfig) -> KafkaError {
    let started = Instant::now();
    let admin = TopicAdmin::connect(config).unwrap();
    let error = admin.ping(Duration::from_secs(9)).await.unwrap_err();
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    admin.close().await;
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_over_tls_works_and_a_wrong_password_is_a_clear_error_in_time() {
    let server = Server::kafka_secure().await;
    let (_, password, ca) = server.kafka_login();

    for mechanism in [Mechanism::ScramSha256, Mechanism::ScramSha512] {
        let wrong = login(&server, mechanism, "wrong", Some(&ca));
        let started = Instant::now();
        let error = failed_ping(&wrong).await;
        assert!(matches!(error, KafkaError::Authentication(_)), "{error}");
        assert!(error.to_string().contains("REDPANDA_PASSWORD"), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
        println!("{mechanism:?}: {error} after {:?}", started.elapsed());
    }
    let untrusted = failed_ping(&login(&server, Mechanism::ScramSha256, password, None)).await;
    assert!(matches!(untrusted, KafkaError::Tls(_)), "{untrusted}");
    let plaintext = failed_ping(&KafkaConfig::plaintext(server.address())).await;
    assert!(
        matches!(plaintext, KafkaError::Unreachable { .. }),
        "{plaintext}"
    );
    assert!(
        plaintext.to_string().contains("REDPANDA_USERNAME"),
        "{plaintext}"
    );
    println!("{untrusted}\n{plaintext}");

    let config = login(&server, Mechanism::ScramSha512, password, Some(&ca));
    let admin = TopicAdmin::connect(&config).unwrap();
    let report = admin.reconcile(None).await.unwrap();
    assert!(
        report
            .topics
            .iter()
            .all(|(_, state)| *state == TopicState::Created),
        "{report}"
    );

    let config = login(&server, Mechanism::ScramSha256, password, Some(&ca));
    let producer = EventProducer::new(&config, &AppendConfig::default(), "secure-test").unwrap();
    producer.warm_up(DEADLINE).await.unwrap();
    let appended = producer
        .append(Topic::GameEvents, None, "g:u", &[], b"{}")
        .unwrap();
    let appended = soon("the append", appended).await.unwrap();
    let fetcher = Fetcher::new(&config, "secure-test", Topic::GameEvents).unwrap();
    fetcher.assign(appended.partition, 0).unwrap();
    let Fetched::Record(record) = soon("the record", fetcher.recv()).await else {
        panic!("no record");
    };
    assert_eq!((record.offset, &record.key[..]), (0, &b"g:u"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_a_plaintext_broker_is_a_tls_error() {
    let config = KafkaConfig {
        security: Security::SaslTls {
            username: "u".to_owned(),
            password: "p".to_owned(),
            mechanism: Mechanism::ScramSha256,
            ca_file: None,
        },
        ..KafkaConfig::plaintext(&bm_testkit::TestEnv::get().brokers)
    };
    let error = failed_ping(&config).await;
    assert!(matches!(error, KafkaError::Tls(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_failed_once_does_not_outlive_its_cause() {
    let (stranger, mut server) = tokio::join!(Server::kafka_secure(), Server::kafka_secure());
    let (_, password, ca) = server.kafka_login();
    let port = free_port();
    let before = TcpProxy::on_port(port, stranger.address()).await;
    let config = KafkaConfig {
        brokers: before.address(),
        ..login(&server, Mechanism::ScramSha256, password, Some(&ca))
    };
    let admin = TopicAdmin::connect(&config).unwrap();
    let error = admin.ping(Duration::from_secs(9)).await.unwrap_err();
    assert!(matches!(error, KafkaError::Tls(_)), "{error}");

    drop(before);
    let _after = TcpProxy::on_port(port, server.address()).await;
    eventually(DEADLINE, "an answer", || async {
        admin.ping(Duration::from_secs(9)).await.ok()
    })
    .await;
    // An answer ends the complaint, too: it does not explain what fails later.
    server.pause();
    let error = admin.ping(Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(error, KafkaError::Unreachable { .. }), "{error}");
    admin.close().await;
}
