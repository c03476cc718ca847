//! What the outside may know of a runner: readiness, and lanes by state.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bm_kafka::OutboxPublisher;

/// An outbox that waits longer than this for its acks holds its lane up: it is not ready.
const LATE_ACK: Duration = Duration::from_secs(15);

/// Counts of the process's lanes of one processor.
#[derive(Default)]
pub struct RunnerStatus {
    joined: AtomicBool,
    /// The group does not let the process in, and will not until someone acts.
    refused: AtomicBool,
    assigned: AtomicUsize,
    running: AtomicUsize,
    halted: AtomicUsize,
    stalled: AtomicUsize,
    publisher: OnceLock<OutboxPublisher>,
}

/// Which count a change of a lane's state moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one of the counts, and they combine freely"
)]
pub(crate) struct LaneFlags {
    pub(crate) assigned: bool,
    pub(crate) running: bool,
    pub(crate) halted: bool,
    pub(crate) stalled: bool,
}

impl RunnerStatus {
    /// Lanes the group gave to this process.
    pub fn assigned(&self) -> usize {
        self.assigned.load(Ordering::Relaxed)
    }

    /// Lanes taken and applying records.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Lanes that refuse to run until someone acts.
    pub fn halted(&self) -> usize {
        self.halted.load(Ordering::Relaxed)
    }

    /// Lanes that come to nothing: their batch cannot be committed, they cannot be taken, they are lost
    /// to others again and again, or the database has been away for a while.
    pub fn stalled(&self) -> usize {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Whether the process has joined its group and runs every lane it was given; more processes
    /// than partitions leave some without any, which is no fault.
    pub fn is_ready(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
            && !self.refused.load(Ordering::Relaxed)
            && self.running() == self.assigned()
            && self.late_acks().is_none()
    }

    /// Since when an outbox waits for its acks, where that is too long, and what the client says.
    pub fn late_acks(&self) -> Option<String> {
        let publisher = self.publisher.get()?;
        let age = publisher.oldest_unacked().filter(|age| *age > LATE_ACK)?;
        let fault = publisher
            .fault()
            .unwrap_or_else(|| "the broker does not answer".to_owned());
        Some(format!(
            "an outbox waits for its acks since {} s: {fault}",
            age.as_secs()
        ))
    }

    pub(crate) fn publishes_with(&self, publisher: OutboxPublisher) {
        // A status is one runner's; a second one would be told nothing.
        let _first = self.publisher.set(publisher);
    }

    pub(crate) fn joined(&self) {
        self.joined.store(true, Ordering::Relaxed);
        self.refused.store(false, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn change(&self, before: LaneFlags, after: LaneFlags) {
        let step = |count: &AtomicUsize, before: bool, after: bool| match (before, after) {
            (false, true) => {
                count.fetch_add(1, Ordering::Relaxed);
            }
            (true, false) => {
                count.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        };
        step(&self.assigned, before.assigned, after.assigned);
        step(&self.running, before.running, after.running);
        step(&self.halted, before.halted, after.halted);
        step(&self.stalled, before.stalled, after.stalled);
    }
}
