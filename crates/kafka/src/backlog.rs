//! Outboxes somebody waits for: how many, how old the oldest is, and what keeps them. No I/O and no clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Names a waiting outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiter(u64);

/// The outboxes given to a publisher, not yet acknowledged and not given up.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    next: u64,
    /// Since when, in the order they came in.
    waiting: BTreeMap<Waiter, Instant>,
    fault: Option<String>,
}

/// A backlog that publisher, publications and task share.
pub(crate) type SharedBacklog = Arc<Mutex<Backlog>>;

/// Every change of a backlog is one step: a panic elsewhere does not make it wrong.
pub(crate) fn lock(backlog: &Mutex<Backlog>) -> MutexGuard<'_, Backlog> {
    backlog.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backlog {
    /// One more waits since `now`.
    pub(crate) fn add(&mut self, now: Instant) -> Waiter {
        let waiter = Waiter(self.next);
        self.next += 1;
        self.waiting.insert(waiter, now);
        waiter
    }

    /// It is acknowledged, or nobody waits for it any more.
    pub(crate) fn remove(&mut self, waiter: Waiter) {
        self.waiting.remove(&waiter);
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How long the oldest has waited at `now`.
    pub(crate) fn oldest(&self, now: Instant) -> Option<Duration> {
        let since = self.waiting.values().next()?;
        Some(now.saturating_duration_since(*since))
    }

    /// Their producer failed.
    pub(crate) fn failed(&mut self, reason: String) {
        self.fault = Some(reason);
    }

    /// One outbox was wholly acknowledged: what was wrong is not any more.
    pub(crate) fn acknowledged(&mut self) {
        self.fault = None;
    }

    /// Why the last producer failed, if none of the outboxes was acknowledged since.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_the_first_that_still_waits() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut backlog = Backlog::default();
        assert_eq!(backlog.oldest(start), None);
        let a = backlog.add(start);
        let b = backlog.add(after(3));
        assert_eq!(backlog.len(), 2);
        assert_eq!(backlog.oldest(after(5)), Some(Duration::from_secs(5)));
        backlog.remove(a);
        assert_eq!(backlog.oldest(after(5)), Some(Duration::from_secs(2)));
        backlog.remove(b);
        backlog.remove(b);
        assert_eq!((backlog.len(), backlog.oldest(after(5))), (0, None));
    }

    #[test]
    fn a_fault_lasts_until_an_outbox_is_acknowledged() {
        let mut backlog = Backlog::default();
        backlog.failed("no".to_owned());
        assert_eq!(backlog.fault(), Some("no"));
        backlog.acknowledged();
        assert_eq!(backlog.fault(), None);
    }
}
