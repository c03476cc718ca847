//! Why something asked of the bus did not happen.

use std::time::Duration;

use rdkafka::error::KafkaError as ClientError;

use crate::refusal;

/// Why something asked of the bus did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaError {
    /// The broker knows no such user, or the password or the SASL mechanism is wrong.
    #[error(
        "the broker refused the login (REDPANDA_USERNAME, REDPANDA_PASSWORD, REDPANDA_SASL_MECHANISM): {0}"
    )]
    Authentication(String),
    /// The TLS handshake failed: wrong authority, wrong host name, or a broker that does not speak TLS.
    #[error("no TLS connection to the broker (REDPANDA_CA_FILE): {0}")]
    Tls(String),
    /// No broker answered.
    #[error("no broker answers at {brokers}: {reason}")]
    Unreachable {
        /// The addresses tried.
        brokers: String,
        /// What the client saw last.
        reason: String,
    },
    /// The client library refused its settings.
    #[error("the Kafka client cannot be made: {0}")]
    Client(String),
    /// No answer in time.
    #[error("{what} took longer than {} ms", after.as_millis())]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The topic is not there (full name, with prefix).
    #[error("topic {0} does not exist")]
    UnknownTopic(String),
    /// The broker or the client library said no.
    #[error("{what} failed: {reason}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The answer, with what is to be done about it where that is known.
        reason: String,
        /// Whether it stays so until somebody acts.
        lasting: bool,
    },
    /// The runtime is shutting down.
    #[error("the Kafka client has stopped")]
    Stopped,
}

impl KafkaError {
    /// Whether it will not pass by itself: somebody must mend a login, a certificate, a right or a topic.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Authentication(_) | Self::Tls(_) | Self::Client(_) | Self::UnknownTopic(_) => {
                true
            }
            Self::Refused { lasting, .. } => *lasting,
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Stopped => false,
        }
    }

    pub(crate) fn refused(what: &'static str, error: &ClientError) -> Self {
        let (reason, lasting) = refusal::explain(error);
        Self::Refused {
            what,
            reason,
            lasting,
        }
    }

    pub(crate) fn client(reason: &impl ToString) -> Self {
        Self::Client(reason.to_string())
    }
}
