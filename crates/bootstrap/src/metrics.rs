//! Prometheus metrics: one recorder for the process, and what the process itself costs.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::clock::Clock;

/// From half a millisecond to half a minute.
const SECONDS: [f64; 15] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// From 256 bytes to 16 MiB.
const BYTES: [f64; 9] = [
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];
/// Of things that are counted: records of a batch, items of a request.
const COUNTS: [f64; 11] = [
    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 5_000.0,
];

/// How often what lies in histograms is brought into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why metrics cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Something else records already.
    #[error("a metrics recorder was installed by something else")]
    Taken,
    /// The buckets above are not increasing.
    #[error("the histogram buckets are unusable")]
    Buckets(#[from] metrics_exporter_prometheus::BuildError),
}

/// Reads what the process has recorded; clones are cheap.
#[derive(Clone)]
pub struct MetricsHandle(PrometheusHandle);

impl MetricsHandle {
    /// Everything recorded, in Prometheus's text format.
    pub fn render(&self) -> String {
        record_process();
        self.0.render()
    }

    /// Keeps histograms small until the runtime ends. Must be called within a tokio runtime.
    pub fn spawn_upkeep(&self) {
        let handle = self.0.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                handle.run_upkeep();
            }
        });
    }
}

impl std::fmt::Debug for MetricsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetricsHandle")
    }
}

/// Installs the recorder, once for the process; later calls return the same.
pub fn install(service: &'static str, clock: &Clock) -> Result<MetricsHandle, MetricsError> {
    static INSTALLED: Mutex<Option<MetricsHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = installed.as_ref() {
        return Ok(handle.clone());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES)?
        .set_buckets(&COUNTS)?
        .build_recorder();
    let handle = MetricsHandle(recorder.handle());
    metrics::set_global_recorder(recorder).map_err(|_not_installed| MetricsError::Taken)?;
    describe();
    metrics::gauge!("bm_build_info", "version" => crate::VERSION, "service" => service).set(1.0);
    metrics::gauge!("process_start_time_seconds").set(clock.now().as_millis() as f64 / 1e3);
    *installed = Some(handle.clone());
    Ok(handle)
}

fn describe() {
    metrics::describe_gauge!("bm_build_info", "Always 1; its labels say what runs.");
    metrics::describe_gauge!("process_start_time_seconds", "When the process began.");
    metrics::describe_gauge!("process_resident_memory_bytes", "Memory in use.");
    metrics::describe_gauge!("process_open_fds", "Open files and sockets.");
    metrics::describe_gauge!("process_threads", "Threads.");
    metrics::describe_gauge!("bm_http_connections", "HTTP connections that are open.");
    metrics::describe_counter!(
        "bm_http_slow_heads_total",
        "Connections closed with 408 because a request's head did not end in time."
    );
    metrics::describe_counter!(
        "bm_task_restarts_total",
        "Background tasks begun again after a panic, by task."
    );
}

fn record_process() {
    // Linux tells; elsewhere these metrics are missing.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kib) = status_number(&status, "VmRSS:") {
        metrics::gauge!("process_resident_memory_bytes").set((kib * 1_024) as f64);
    }
    if let Some(threads) = status_number(&status, "Threads:") {
        metrics::gauge!("process_threads").set(threads as f64);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(files.count() as f64);
    }
}

fn status_number(status: &str, name: &str) -> Option<u64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorder_is_installed_once_and_tells_about_the_process() {
        let clock = Clock::fixed(bm_contracts::Timestamp::clamped(1_500));
        let first = install("test", &clock).unwrap();
        let second = install("other", &clock).unwrap();
        metrics::counter!("bm_test_total").increment(2);
        metrics::histogram!("bm_test_seconds").record(0.003);
        for text in [first.render(), second.render()] {
            assert!(text.contains("bm_test_total 2"), "{text}");
            assert!(
                text.contains("bm_test_seconds_bucket{le=\"0.005\"} 1"),
                "{text}"
            );
            assert!(text.contains("process_start_time_seconds 1.5"), "{text}");
            assert!(text.contains("process_resident_memory_bytes"), "{text}");
            assert!(text.contains("service=\"test\""), "{text}");
        }
    }

    #[test]
    fn numbers_are_found_in_proc_status() {
        let status = "Name:\tx\nVmRSS:\t    1234 kB\nThreads:\t7\n";
        assert_eq!(status_number(status, "VmRSS:"), Some(1_234));
        assert_eq!(status_number(status, "Threads:"), Some(7));
        assert_eq!(status_number(status, "VmSwap:"), None);
    }
}
