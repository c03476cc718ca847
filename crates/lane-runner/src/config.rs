//! Settings of a runner.

use std::time::Duration;

use bm_engine::BatchLimits;

/// Sizes and names of one processor's runner.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Kafka consumer group: membership only, positions are in the lanes' rows.
    pub group: String,
    /// Most batches at a time.
    pub workers: usize,
    /// From the beginning of a batch to that of the next, unless that is full before.
    pub batch_interval: Duration,
    /// Bounds of a batch.
    pub limits: BatchLimits,
    /// How long a statement may take before its outcome counts as unknown.
    pub statement_timeout: Duration,
    /// How long acks are waited for at shutdown, when the batches under way are over.
    pub drain: Duration,
}

/// A variable does not hold what it should.
#[derive(Debug, thiserror::Error)]
#[error("{variable} must be {wanted}, it is {found:?}")]
pub struct RunnerConfigError {
    variable: &'static str,
    wanted: &'static str,
    found: String,
}

impl RunnerConfig {
    /// Reads `CONSUMER_GROUP` (default `<processor>-group`), `BM_WORKERS` (default: cores),
    /// `BM_BATCH_RECORDS` (default 1000) and `BM_BATCH_INTERVAL_MS` (default 10).
    pub fn from_vars(
        processor: &str,
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, RunnerConfigError> {
        let number = |variable: &'static str,
                      wanted: &'static str,
                      default: usize,
                      range: std::ops::RangeInclusive<usize>| {
            get(variable).map_or(Ok(default), |found| {
                found
                    .parse()
                    .ok()
                    .filter(|n| range.contains(n))
                    .ok_or_else(|| RunnerConfigError {
                        variable,
                        wanted,
                        found: found.clone(),
                    })
            })
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            group: get("CONSUMER_GROUP").unwrap_or_else(|| format!("{processor}-group")),
            workers: number("BM_WORKERS", "a number from 1 to 64", cores.min(64), 1..=64)?,
            batch_interval: Duration::from_millis(number(
                "BM_BATCH_INTERVAL_MS",
                "a number of milliseconds from 0 to 1000",
                10,
                0..=1_000,
            )? as u64),
            limits: BatchLimits {
                records: number(
                    "BM_BATCH_RECORDS",
                    "a number from 1 to 10000",
                    1_000,
                    1..=10_000,
                )?,
                ..BatchLimits::default()
            },
            statement_timeout: Duration::from_secs(15),
            drain: Duration::from_secs(10),
        })
    }
}
