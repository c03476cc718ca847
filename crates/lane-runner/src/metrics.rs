//! The runner's metrics, their handles made once.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::status::RunnerStatus;

/// Handles labelled with the processor.
pub(crate) struct RunnerMetrics {
    pub(crate) records: Counter,
    pub(crate) skipped: Counter,
    pub(crate) dead: Counter,
    pub(crate) batches: Counter,
    pub(crate) batch_records: Histogram,
    pub(crate) commit_seconds: Histogram,
    pub(crate) takes: Counter,
    pub(crate) fence_refusals: Counter,
    pub(crate) replies_lost: Counter,
    pub(crate) commit_errors: Counter,
}

impl RunnerMetrics {
    pub(crate) fn new(processor: &'static str) -> Self {
        Self {
            records: counter!("bm_lane_records_total", "processor" => processor),
            skipped: counter!("bm_lane_records_skipped_total", "processor" => processor),
            dead: counter!("bm_lane_dead_letters_total", "processor" => processor),
            batches: counter!("bm_lane_batches_total", "processor" => processor),
            batch_records: histogram!("bm_lane_batch_records", "processor" => processor),
            commit_seconds: histogram!("bm_lane_commit_seconds", "processor" => processor),
            takes: counter!("bm_lane_takes_total", "processor" => processor),
            fence_refusals: counter!("bm_lane_fence_refusals_total", "processor" => processor),
            replies_lost: counter!("bm_lane_replies_lost_total", "processor" => processor),
            commit_errors: counter!("bm_lane_commit_errors_total", "processor" => processor),
        }
    }
}

/// How many lanes are in which state.
pub(crate) struct LaneGauges([Gauge; 4]);

impl LaneGauges {
    pub(crate) fn new(processor: &'static str) -> Self {
        Self(
            ["assigned", "running", "stalled", "halted"]
                .map(|state| gauge!("bm_lanes", "processor" => processor, "state" => state)),
        )
    }

    /// Shows how many lanes are in which state. For one task to call: two would show each other's past.
    pub(crate) fn show(&self, status: &RunnerStatus) {
        let counts = [
            status.assigned(),
            status.running(),
            status.stalled(),
            status.halted(),
        ];
        for (gauge, count) in self.0.iter().zip(counts) {
            gauge.set(count as f64);
        }
    }
}
