//! Metrics of events, with every handle made once.

use std::sync::OnceLock;
use std::time::Duration;

use bm_web::Code;
use metrics::{Counter, Histogram};

use crate::answer::{InLog, Status};

/// What became of events, and how long the log took.
#[derive(Debug)]
pub struct EventStats {
    accepted: Counter,
    duplicate: Counter,
    refused: Vec<OnceLock<Counter>>,
    append: Histogram,
    batch: Histogram,
}

impl EventStats {
    /// Registers the metrics.
    pub fn new() -> Self {
        metrics::describe_counter!(
            "bm_gateway_events_total",
            "Events by what became of them, and of those not accepted why."
        );
        metrics::describe_histogram!(
            "bm_gateway_append_seconds",
            metrics::Unit::Seconds,
            "From handing the events of a request to the producer to the last one's outcome."
        );
        metrics::describe_histogram!("bm_gateway_batch_events", "Events in a batch.");
        Self {
            accepted: counter("accepted", ""),
            duplicate: counter("duplicate", ""),
            refused: Code::ALL.iter().map(|_| OnceLock::new()).collect(),
            append: metrics::histogram!("bm_gateway_append_seconds"),
            batch: metrics::histogram!("bm_gateway_batch_events"),
        }
    }

    /// An event is in the log.
    pub fn in_log(&self, in_log: InLog) {
        let counter = if in_log.duplicate {
            &self.duplicate
        } else {
            &self.accepted
        };
        counter.increment(1);
    }

    /// Events were not taken.
    pub fn refused(&self, code: Code, events: usize) {
        self.refused[code as usize]
            .get_or_init(|| {
                let status = match Status::of(code) {
                    Status::Retry => "retry",
                    _ => "rejected",
                };
                counter(status, code.as_str())
            })
            .increment(events as u64);
    }

    /// The log took so long for the events of a request.
    pub fn appended(&self, took: Duration) {
        self.append.record(took.as_secs_f64());
    }

    /// A batch of so many events was read.
    pub fn batch(&self, events: usize) {
        self.batch.record(events as f64);
    }
}

impl Default for EventStats {
    fn default() -> Self {
        Self::new()
    }
}

fn counter(status: &'static str, code: &'static str) -> Counter {
    metrics::counter!("bm_gateway_events_total", "status" => status, "code" => code)
}
