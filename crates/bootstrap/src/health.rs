//! Whether the process can do its work: named checks, and a latch for when it is going away.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex as StdMutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a report is shown again: whoever asks often does not ask the database often.
const REUSED_FOR: Duration = Duration::from_millis(500);

/// What a check's failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Not ready without it.
    Required,
    /// Only told.
    Reported,
}

/// What a check found. The detail is public: it never names a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Whether all is well.
    pub ok: bool,
    /// What is wrong, or what is worth telling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Outcome {
    /// All is well.
    pub const fn ok() -> Self {
        Self {
            ok: true,
            detail: None,
        }
    }

    /// All is well, and this is worth telling.
    pub fn ok_with(detail: impl Into<String>) -> Self {
        Self {
            ok: true,
            detail: Some(detail.into()),
        }
    }

    /// This is wrong.
    pub fn failed(detail: impl Into<String>) -> Self {
        Self {
            ok: false,
            detail: Some(detail.into()),
        }
    }
}

impl<E: fmt::Display> From<Result<(), E>> for Outcome {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::ok(),
            Err(e) => Self::failed(e.to_string()),
        }
    }
}

/// All checks' outcomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the process shall be given work.
    pub ready: bool,
    /// By the check's name.
    pub checks: BTreeMap<&'static str, Outcome>,
}

type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

struct Named {
    name: &'static str,
    need: Need,
    timeout: Duration,
    check: Check,
}

/// The checks of a service; clones share them.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Default)]
struct Inner {
    checks: StdMutex<Vec<Arc<Named>>>,
    draining: AtomicBool,
    last: Mutex<Option<(Instant, Report)>>,
}

impl Health {
    /// Without checks: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, which fails when it takes longer than `timeout`; one of the same name is
    /// replaced. It is asked at most twice a second, together with all others.
    pub fn register<F, Fut, T>(&self, name: &'static str, need: Need, timeout: Duration, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = T> + Send + 'static,
        T: Into<Outcome> + 'static,
    {
        let check: Check = Arc::new(move || {
            let asked = check();
            Box::pin(async move { asked.await.into() })
        });
        let mut checks = self.checks();
        checks.retain(|other| other.name != name);
        checks.push(Arc::new(Named {
            name,
            need,
            timeout,
            check,
        }));
    }

    /// From now on not ready, for good: the process is going away.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the process is going away.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::SeqCst)
    }

    /// Asks every check, all at once; within half a second the same answer is given again.
    ///
    /// A process that is going away says so without asking: what it waits for may be what is broken.
    pub async fn report(&self) -> Report {
        if self.is_draining() {
            let draining = Outcome::failed("shutting down");
            return Report {
                ready: false,
                checks: BTreeMap::from([("draining", draining)]),
            };
        }
        let mut last = self.0.last.lock().await;
        let fresh = last
            .as_ref()
            .filter(|(at, report)| {
                at.elapsed() < REUSED_FOR && report.checks.len() == self.checks().len()
            })
            .map(|(_, report)| report.clone());
        let mut report = if let Some(report) = fresh {
            report
        } else {
            let report = self.ask().await;
            *last = Some((Instant::now(), report.clone()));
            report
        };
        // It may have begun meanwhile.
        report.ready &= !self.is_draining();
        report
    }

    async fn ask(&self) -> Report {
        let named: Vec<Arc<Named>> = self.checks().clone();
        let asked: Vec<_> = named
            .into_iter()
            .map(|named| {
                let (name, need) = (named.name, named.need);
                let task = tokio::spawn(async move {
                    let outcome = tokio::time::timeout(named.timeout, (named.check)()).await;
                    outcome.unwrap_or_else(|_elapsed| {
                        Outcome::failed(format!("no answer within {:?}", named.timeout))
                    })
                });
                (task, name, need)
            })
            .collect();
        let mut report = Report {
            ready: true,
            checks: BTreeMap::new(),
        };
        for (task, name, need) in asked {
            let outcome = task
                .await
                .unwrap_or_else(|_panicked| Outcome::failed("the check itself failed"));
            if need == Need::Required && !outcome.ok {
                report.ready = false;
            }
            report.checks.insert(name, outcome);
        }
        report
    }

    fn checks(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Named>>> {
        self.0.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.checks().iter().map(|named| named.name).collect();
        f.debug_struct("Health").field("checks", &names).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn only_required_checks_decide() {
        let health = Health::new();
        health.register("postgres", Need::Required, SOON, || async {
            Ok::<(), String>(())
        });
        health.register("redis", Need::Reported, SOON, || async {
            Err::<(), _>("connection refused")
        });
        let report = health.report().await;
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({"ready": true, "checks": {
                "postgres": {"ok": true},
                "redis": {"ok": false, "detail": "connection refused"},
            }})
        );
        health.register("broker", Need::Required, SOON, || async {
            Outcome::failed("no brokers")
        });
        assert!(!health.report().await.ready);
    }

    #[tokio::test]
    async fn a_check_that_hangs_or_panics_fails() {
        let health = Health::new();
        health.register(
            "hangs",
            Need::Required,
            SOON,
            std::future::pending::<Outcome>,
        );
        let report = health.report().await;
        assert!(!report.ready);
        assert_eq!(
            report.checks["hangs"].detail.as_deref(),
            Some("no answer within 20ms")
        );
        let health = Health::new();
        health.register("panics", Need::Required, SOON, || async {
            assert!(std::env::var_os("PATH").is_none(), "a check that panics");
            Outcome::ok()
        });
        assert!(!health.report().await.ready);
    }

    #[tokio::test]
    async fn asking_often_does_not_check_often() {
        let asked = Arc::new(AtomicU32::new(0));
        let health = Health::new();
        let counter = Arc::clone(&asked);
        health.register("counted", Need::Required, SOON, move || {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Outcome::ok() }
        });
        for _ in 0..5 {
            assert!(health.report().await.ready);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let begun = Instant::now();
        while asked.load(Ordering::SeqCst) == 1 {
            assert!(begun.elapsed() < REUSED_FOR * 10, "never asked again");
            tokio::time::sleep(REUSED_FOR / 10).await;
            health.report().await;
        }
    }

    #[tokio::test]
    async fn a_draining_process_is_not_ready_at_once() {
        let health = Health::new();
        assert!(health.report().await.ready);
        health.register(
            "hangs",
            Need::Required,
            Duration::from_hours(1),
            std::future::pending::<Outcome>,
        );
        let asked = health.clone();
        let hanging = tokio::spawn(async move { asked.report().await });
        tokio::task::yield_now().await;
        health.drain();
        let report = tokio::time::timeout(Duration::from_secs(5), health.report());
        let report = report.await.expect("no waiting for checks");
        assert!(!report.ready && !report.checks["draining"].ok);
        hanging.abort();
    }
}
