//! What a gateway holds of one studio, and who waits for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ledger::Ledger;
use super::pair::Pair;

#[derive(Debug)]
pub(super) struct Studio {
    pub(super) key: String,
    pub(super) ledger: Mutex<Ledger>,
    /// Held by the one request that asks Redis for this studio.
    pub(super) flight: Arc<tokio::sync::Mutex<()>>,
    /// What requests are waiting for, so that one lease can serve them all.
    pub(super) waiting: Mutex<Pair<u32>>,
}

/// Counts an ask among the waiting for as long as it lives.
pub(super) struct Waiting {
    pub(super) studio: Arc<Studio>,
    pub(super) ask: Pair<u32>,
}

impl Waiting {
    pub(super) fn begin(studio: &Arc<Studio>, ask: Pair<u32>) -> Self {
        *lock(&studio.waiting) += ask;
        Self {
            studio: Arc::clone(studio),
            ask,
        }
    }

    /// What the others wait for.
    pub(super) fn others(&self) -> Pair<u32> {
        lock(&self.studio.waiting).less(self.ask)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        *lock(&self.studio.waiting) -= self.ask;
    }
}

/// Locks. Nothing panics while it holds one of these locks, so poison means nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
