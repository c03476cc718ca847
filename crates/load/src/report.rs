//! What a run came to: for people, and as JSON.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::Outcomes;

/// Longest latency told apart, µs; longer ones count as this.
const LONGEST: u64 = 600_000_000;

/// Latencies, from the moment something was meant to happen.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        #[expect(
            clippy::expect_used,
            reason = "1 µs to 10 min at 3 digits is a range that the histogram takes"
        )]
        Self(Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds of the histogram"))
    }
}

impl Latency {
    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST);
        self.0.saturating_record(micros.clamp(1, LONGEST));
    }

    /// The figures of it.
    pub fn figures(&self) -> Figures {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1_000.0;
        Figures {
            count: self.0.len(),
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: self.0.max() as f64 / 1_000.0,
        }
    }
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// Of how many.
    pub count: u64,
    /// Half of them are not above it.
    pub p50: f64,
    /// Of 95 in 100.
    pub p95: f64,
    /// Of 99 in 100.
    pub p99: f64,
    /// Of 999 in 1,000.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.1}  p95 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1} ms",
            self.p50, self.p95, self.p99, self.p999, self.max
        )
    }
}

/// What a run came to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Requests sent.
    pub requests: u64,
    /// Events in them, repeats included.
    pub events: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Events a second that were answered `accepted` or `duplicate`.
    pub events_per_second: f64,
    /// Events by what became of them.
    pub answers: Outcomes,
    /// From when a request was meant to be sent to its whole answer, ms.
    pub latency_ms: Figures,
    /// From when an event's request was meant to be sent to its effect on `ui.updates`, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow_ms: Option<Figures>,
    /// Events accepted whose effect was not seen in the time there was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_seen: Option<u64>,
}

impl Report {
    /// Events that are durably in the log.
    pub fn in_the_log(&self) -> u64 {
        let count = |outcome| self.answers.get(outcome).copied().unwrap_or(0);
        count("accepted") + count("duplicate")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} events in {} requests, {:.1} s: {:.0} a second",
            self.events, self.requests, self.seconds, self.events_per_second
        )?;
        for (outcome, count) in &self.answers {
            writeln!(f, "  {outcome:<28} {count}")?;
        }
        write!(f, "POST to answer:     {}", self.latency_ms)?;
        if let Some(follow) = self.follow_ms {
            write!(f, "\nPOST to ui.updates: {follow}")?;
        }
        match self.not_seen {
            None | Some(0) => Ok(()),
            Some(events) => write!(
                f,
                "\n{events} events had no effect on ui.updates in time: no quest wants them, or it is behind"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_in_milliseconds_and_keep_three_digits() {
        let mut latency = Latency::default();
        for millis in 1..=1_000 {
            latency.record(Duration::from_millis(millis));
        }
        let figures = latency.figures();
        assert_eq!(figures.count, 1_000);
        for (found, expected) in [
            (figures.p50, 500.0),
            (figures.p99, 990.0),
            (figures.max, 1_000.0),
        ] {
            assert!((found - expected).abs() < expected / 500.0, "{figures}");
        }
        latency.record(Duration::from_secs(100_000));
        assert!(latency.figures().max <= 601_000.0);
    }
}
