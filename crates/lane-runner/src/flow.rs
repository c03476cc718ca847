//! What was read and is not committed yet: how much a process holds of it, and how much each lane.
//!
//! Reading stops while the lanes together hold enough; what the client has fetched meanwhile waits in its
//! own bounded queue. Only a lane that holds up the others is paused by itself, since the client throws away
//! what it has fetched of a paused partition, and fetches it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// So many bytes in all lanes that are not paused are enough.
const ENOUGH: usize = 16 << 20;
/// When there is no room, a lane with more than this many bytes read and not committed is paused.
const PAUSE_ABOVE: usize = 8 << 20;
/// Until it has less than this.
const RESUME_BELOW: usize = 2 << 20;

/// What all lanes of a process hold, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Intake(AtomicUsize);

impl Intake {
    /// Whether more may be read, when `paused` are the lanes that are not read anyway.
    pub(crate) fn has_room<'a>(&self, paused: impl Iterator<Item = &'a Flow>) -> bool {
        let held = self.0.load(Ordering::SeqCst);
        held < ENOUGH || held.saturating_sub(paused.map(Flow::bytes).sum()) < ENOUGH
    }
}

/// How much of one partition is read and not committed; shared by who reads and who commits.
#[derive(Debug)]
pub(crate) struct Flow {
    bytes: AtomicUsize,
    paused: AtomicBool,
    intake: Arc<Intake>,
}

impl Flow {
    /// Of a reading that begins.
    pub(crate) fn new(intake: Arc<Intake>) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            intake,
        }
    }

    /// Of another reading of the same lane.
    pub(crate) fn anew(&self) -> Self {
        Self::new(Arc::clone(&self.intake))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.intake.0.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Takes bytes off; true when reading was paused and should go on.
    #[must_use = "a lane that is not told to go on stands still"]
    pub(crate) fn remove(&self, bytes: usize) -> bool {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.intake.0.fetch_sub(bytes, Ordering::SeqCst);
        self.may_resume()
    }

    pub(crate) fn must_pause(&self) -> bool {
        !self.is_paused() && self.bytes() > PAUSE_ABOVE
    }

    pub(crate) fn may_resume(&self) -> bool {
        self.is_paused() && self.bytes() < RESUME_BELOW
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }
}

impl Drop for Flow {
    /// What is left of the reading is forgotten.
    fn drop(&mut self) {
        self.intake.0.fetch_sub(self.bytes(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lanes_together_hold_enough_and_those_that_are_paused_do_not_count() {
        let intake = Arc::new(Intake::default());
        let lanes: Vec<Flow> = (0..3).map(|_| Flow::new(Arc::clone(&intake))).collect();
        let paused = || lanes.iter().filter(|flow| flow.is_paused());
        for flow in &lanes {
            flow.add(ENOUGH / 3);
            assert!(intake.has_room(paused()));
        }
        lanes[0].add(ENOUGH / 2);
        assert!(!intake.has_room(paused()));
        lanes[0].set_paused(true);
        assert!(intake.has_room(paused()), "the others are read on");
        lanes[0].set_paused(false);
        assert!(
            !lanes[0].remove(ENOUGH / 2 + ENOUGH / 3),
            "it is not paused"
        );
        assert!(intake.has_room(paused()));
    }

    #[test]
    fn what_a_reading_that_is_over_held_is_held_no_more() {
        let intake = Arc::new(Intake::default());
        let flow = Flow::new(Arc::clone(&intake));
        flow.add(ENOUGH);
        assert!(!intake.has_room(std::iter::empty()));
        let next = flow.anew();
        drop(flow);
        assert!(intake.has_room(std::iter::empty()));
        assert_eq!(next.bytes(), 0);
    }

    #[test]
    fn a_lane_goes_on_when_it_has_little_left() {
        let flow = Flow::new(Arc::default());
        flow.add(PAUSE_ABOVE + 1);
        assert!(flow.must_pause());
        flow.set_paused(true);
        assert!(!flow.remove(PAUSE_ABOVE - RESUME_BELOW));
        assert!(flow.remove(2));
    }
}
