//! Counters of what is decided for every request and event, with every handle made once.

use std::fmt;

use metrics::Counter;

use crate::idempotency::Begin;

/// Decisions of the limiter.
pub(crate) struct LimiterStats {
    /// By result, then by mode.
    requests: [[Counter; 2]; 3],
    events_admitted: Counter,
    events_refused: Counter,
}

/// How much of a request was admitted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Admitted {
    Nothing,
    /// Some of its events.
    Part,
    All,
}

impl LimiterStats {
    pub(crate) fn new() -> Self {
        let of = |result: &'static str| {
            ["shared", "alone"].map(|mode| {
                metrics::counter!(
                    "bm_admission_requests_total", "result" => result, "mode" => mode
                )
            })
        };
        let events = |result: &'static str| metrics::counter!("bm_admission_events_total", "result" => result);
        Self {
            requests: ["refused", "partial", "admitted"].map(of),
            events_admitted: events("admitted"),
            events_refused: events("refused"),
        }
    }

    /// A request was decided on, `alone` or with the shared counters.
    pub(crate) fn decided(&self, admitted: Admitted, alone: bool, came_in: u32, refused: u32) {
        self.requests[admitted as usize][usize::from(alone)].increment(1);
        self.events_admitted.increment(came_in.into());
        self.events_refused.increment(refused.into());
    }
}

impl fmt::Debug for LimiterStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LimiterStats")
    }
}

/// Answers of the memory of event ids.
pub(crate) struct BeginStats {
    fresh: Counter,
    unknown: Counter,
    in_flight: Counter,
    done: Counter,
    other_body: Counter,
    same_batch: Counter,
}

impl BeginStats {
    pub(crate) fn new() -> Self {
        let of = |result: &'static str| metrics::counter!("bm_admission_idempotency_total", "result" => result);
        Self {
            fresh: of("fresh"),
            unknown: of("unknown"),
            in_flight: of("in_flight"),
            done: of("done"),
            other_body: of("other_body"),
            same_batch: of("same_batch"),
        }
    }

    pub(crate) fn answered(&self, answer: &Begin) {
        let counter = match answer {
            Begin::Fresh(_) => &self.fresh,
            Begin::Unknown(_) => &self.unknown,
            Begin::InFlight => &self.in_flight,
            Begin::Done { .. } => &self.done,
            Begin::OtherBody => &self.other_body,
            Begin::SameBatch { .. } => &self.same_batch,
        };
        counter.increment(1);
    }
}

impl fmt::Debug for BeginStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeginStats")
    }
}
