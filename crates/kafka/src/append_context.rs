//! What the event producer's own thread does: answers each message's outcome and keeps note of the broker's health.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bm_contracts::Timestamp;
use metrics::Histogram;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tokio::sync::mpsc;

use crate::acks::Pending;
use crate::event_producer::{AppendError, Appended};
use crate::observer::Observer;

/// An acknowledgement as young as this proves that the broker takes writes.
const FRESH: Duration = Duration::from_secs(5);

/// What acknowledgements say of the broker.
#[derive(Default)]
pub(crate) struct Health {
    last_ack: Mutex<Option<Instant>>,
    /// Whether a message failed after the last acknowledgement.
    failing: AtomicBool,
}

impl Health {
    pub(crate) fn acked(&self, now: Instant) {
        *self.last_ack.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        self.failing.store(false, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        let last = *self.last_ack.lock().unwrap_or_else(PoisonError::into_inner);
        !self.failing.load(Ordering::Relaxed)
            && last.is_some_and(|last| now.saturating_duration_since(last) < FRESH)
    }
}

pub(crate) struct AppendContext {
    generation: u64,
    observer: Observer,
    health: Arc<Health>,
    failures: mpsc::UnboundedSender<u64>,
    seconds: Histogram,
}

impl AppendContext {
    pub(crate) fn new(
        generation: u64,
        observer: &Observer,
        health: &Arc<Health>,
        failures: &mpsc::UnboundedSender<u64>,
    ) -> Self {
        Self {
            generation,
            observer: observer.clone(),
            health: Arc::clone(health),
            failures: failures.clone(),
            seconds: metrics::histogram!("bm_kafka_append_seconds"),
        }
    }
}

impl ClientContext for AppendContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.observer.log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.observer.stats_raw(statistics);
    }

    fn error(&self, error: ClientError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            // The task that listens ends with the producer's owner only.
            let _unheard = self.failures.send(self.generation);
        }
        self.observer.error(error, reason);
    }
}

impl ProducerContext for AppendContext {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<Pending>) {
        let now = Instant::now();
        let outcome = match result {
            Ok(message) => {
                self.health.acked(now);
                self.seconds
                    .record(now.saturating_duration_since(pending.since).as_secs_f64());
                Ok(Appended {
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp: Timestamp::clamped(message.timestamp().to_millis().unwrap_or(0)),
                })
            }
            Err((error, _)) => {
                self.health.failed();
                Err(refused(error))
            }
        };
        pending.settle(outcome);
    }
}

/// As the producer's caller is to be told.
pub(crate) fn refused(error: &ClientError) -> AppendError {
    let (refused, reason) = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => (AppendError::QueueFull, "queue_full"),
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => (AppendError::TooLarge, "too_large"),
        Some(RDKafkaErrorCode::MessageTimedOut | RDKafkaErrorCode::OperationTimedOut) => {
            (AppendError::TimedOut, "timed_out")
        }
        _ => (AppendError::Unavailable(error.to_string()), "unavailable"),
    };
    metrics::counter!("bm_kafka_append_errors_total", "reason" => reason).increment(1);
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_ends_what_an_acknowledgement_proved() {
        let now = Instant::now();
        let health = Health::default();
        assert!(!health.is_fresh(now));
        health.acked(now);
        assert!(health.is_fresh(now));
        assert!(!health.is_fresh(now + FRESH));
        health.failed();
        assert!(!health.is_fresh(now));
        health.acked(now);
        assert!(health.is_fresh(now));
    }
}
