//! What a client says of itself: its logs go to `tracing`, its last complaint and its state are kept.

use std::sync::Arc;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tokio::sync::watch;

use crate::error::KafkaError;
use crate::refusal;

/// What kind of complaint it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    Authentication,
    Tls,
    /// The client cannot be used any more.
    Fatal,
    /// Connections, resolving, anything that may pass.
    Other,
}

/// A client's complaint that concerns no single request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) reason: String,
}

impl Fault {
    fn of(code: RDKafkaErrorCode, reason: &str) -> Self {
        let kind = match code {
            RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism => FaultKind::Authentication,
            RDKafkaErrorCode::SSL => FaultKind::Tls,
            RDKafkaErrorCode::Fatal => FaultKind::Fatal,
            _ => FaultKind::Other,
        };
        Self {
            kind,
            reason: reason.to_owned(),
        }
    }

    /// As the error of whoever could not do without a broker.
    pub(crate) fn into_error(self, brokers: &str) -> KafkaError {
        match self.kind {
            FaultKind::Authentication => KafkaError::Authentication(self.reason),
            FaultKind::Tls => KafkaError::Tls(self.reason),
            // The other side hung up in the handshake: it may be restarting, or does not speak TLS.
            FaultKind::Other
                if self.reason.contains("SSL handshake failed")
                    || self.reason.contains("in state SSL_HANDSHAKE") =>
            {
                KafkaError::Tls(self.reason)
            }
            FaultKind::Fatal | FaultKind::Other => KafkaError::Unreachable {
                brokers: brokers.to_owned(),
                reason: self.reason,
            },
        }
    }
}

/// Watches one client, or one after the other of the same purpose. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Observer {
    shared: Arc<Shared>,
}

struct Shared {
    client: String,
    fault: watch::Sender<Option<Fault>>,
    producer_id: watch::Sender<bool>,
}

impl Observer {
    /// `client` names it in logs.
    pub(crate) fn new(client: impl Into<String>) -> Self {
        Self {
            shared: Arc::new(Shared {
                client: client.into(),
                fault: watch::Sender::new(None),
                producer_id: watch::Sender::new(false),
            }),
        }
    }

    /// The last complaint, and those to come.
    pub(crate) fn faults(&self) -> watch::Receiver<Option<Fault>> {
        self.shared.fault.subscribe()
    }

    /// Whether the idempotent producer has its id, as of the last statistics.
    pub(crate) fn producer_id(&self) -> watch::Receiver<bool> {
        self.shared.producer_id.subscribe()
    }

    /// What was complained of has passed.
    pub(crate) fn forget_fault(&self) {
        self.shared
            .fault
            .send_if_modified(|fault| fault.take().is_some());
    }

    /// A fresh client has neither complaints nor a producer id.
    pub(crate) fn forget(&self) {
        self.shared.fault.send_replace(None);
        self.shared.producer_id.send_replace(false);
    }
}

/// Whether it is the warning that every start of the lanes' producer would give, for a property it wants.
fn is_expected(facility: &str, message: &str) -> bool {
    facility == "CONFWARN"
        && message.contains("Configuration property enable.gapless.guarantee is experimental")
}

/// How librdkafka prints the state in its statistics (`rd_kafka_stats_emit_all`).
const PRODUCER_ID_ASSIGNED: &[u8] = b"\"idemp_state\": \"Assigned\"";

impl ClientContext for Observer {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.shared.client.as_str();
        if is_expected(facility, message) {
            return;
        }
        match level {
            // FAIL and ERROR repeat what `error` is told.
            _ if matches!(facility, "FAIL" | "ERROR") => {
                tracing::debug!(target: "librdkafka", { kafka.client = client, kafka.facility = facility }, "{message}");
            }
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: "librdkafka", { kafka.client = client, kafka.facility = facility }, "{message}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(target: "librdkafka", { kafka.client = client, kafka.facility = facility }, "{message}");
            }
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        // The library has no call that says whether the producer id is there; its statistics do.
        let assigned = statistics
            .windows(PRODUCER_ID_ASSIGNED.len())
            .any(|window| window == PRODUCER_ID_ASSIGNED);
        self.shared.producer_id.send_if_modified(|known| {
            let changed = *known != assigned;
            *known = assigned;
            changed
        });
    }

    fn error(&self, error: ClientError, reason: &str) {
        let client = self.shared.client.as_str();
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        if code == RDKafkaErrorCode::PartitionEOF {
            return;
        }
        if let Some(advice) = refusal::advice(code) {
            tracing::error!(kafka.client = client, kafka.code = ?code, "{reason}; {advice}");
        } else {
            tracing::warn!(kafka.client = client, kafka.code = ?code, "{reason}");
        }
        // "1/1 brokers are down" follows every failed connection and explains nothing.
        if code != RDKafkaErrorCode::AllBrokersDown {
            self.shared
                .fault
                .send_replace(Some(Fault::of(code, reason)));
        }
    }
}

impl ConsumerContext for Observer {}

impl ProducerContext for Observer {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_tell_when_the_producer_id_is_there() {
        let observer = Observer::new("test");
        let known = observer.producer_id();
        observer.stats_raw(br#"{ "eos": { "idemp_state": "WaitTransport", "idemp_stateage": 3 }"#);
        assert!(!*known.borrow());
        observer.stats_raw(br#"{ "eos": { "idemp_state": "Assigned", "idemp_stateage": 3 }"#);
        assert!(*known.borrow());
        observer.forget();
        assert!(!*known.borrow());
    }

    #[test]
    fn a_broker_that_hangs_up_in_the_handshake_is_a_tls_error() {
        for reason in [
            "a:1/bootstrap: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
            "a:1/bootstrap: Disconnected: SSL connection closed by peer (after 0ms in state SSL_HANDSHAKE)",
        ] {
            let fault = Fault::of(RDKafkaErrorCode::BrokerTransportFailure, reason);
            assert!(matches!(fault.into_error("a:1"), KafkaError::Tls(_)));
        }
    }

    #[test]
    fn no_other_warning_of_the_configuration_is_dropped() {
        let warning = |what| format!("[thrd:app]: Configuration property {what}: text");
        let gapless = warning("enable.gapless.guarantee is experimental");
        assert!(is_expected("CONFWARN", &gapless));
        assert!(!is_expected("FAIL", &gapless));
        let ignored = warning("acks is a producer property and will be ignored");
        assert!(!is_expected("CONFWARN", &ignored));
    }

    #[test]
    fn a_wrong_password_outlives_the_complaint_that_all_brokers_are_down() {
        let observer = Observer::new("test");
        observer.error(
            ClientError::Global(RDKafkaErrorCode::Authentication),
            "no such user",
        );
        observer.error(
            ClientError::Global(RDKafkaErrorCode::AllBrokersDown),
            "1/1 brokers are down",
        );
        let fault = observer.faults().borrow().clone().unwrap();
        assert_eq!(
            fault.into_error("a:1"),
            KafkaError::Authentication("no such user".to_owned())
        );
    }
}
