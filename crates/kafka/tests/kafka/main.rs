//! Against real brokers: the shared one, one with SCRAM and TLS, and ones to kill and to silence.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says by a panic that something is not as it should be"
)]

mod append;
mod fetch;
mod group;
mod publish;
mod read;
mod secure;
mod topics;

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use bm_kafka::KafkaConfig;
use bm_testkit::TestTopics;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Everything here is over in some seconds; a machine with much else to do may take longer.
const DEADLINE: Duration = Duration::from_mins(1);

/// The settings for the topics of a test.
fn config(topics: &TestTopics) -> KafkaConfig {
    KafkaConfig {
        names: topics.names(),
        ..KafkaConfig::plaintext(topics.brokers())
    }
}

/// What `future` gives, unless it takes too long.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(DEADLINE, future).await;
    outcome.unwrap_or_else(|_| panic!("still waiting for {what} after {DEADLINE:?}"))
}

/// The metrics of the test binary; to be asked first before what is to be measured begins.
fn metrics() -> String {
    static RECORDER: LazyLock<PrometheusHandle> =
        LazyLock::new(|| PrometheusBuilder::new().install_recorder().unwrap());
    RECORDER.render()
}

/// The value of the metric whose name and labels are `series`; `None` where there is none.
fn metric(series: &str) -> Option<f64> {
    metrics()
        .lines()
        .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}
