//! Which partitions a member of a group holds, and what its owner must be told. No I/O and no clock.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::membership::MembershipEvent;

/// Which partitions are this member's, and which of them its owner was told of.
///
/// The client gives its partitions up by itself when its heartbeats go unanswered, but not while it waits for the
/// group in a rebalance: cut off just then, it would hold on to them for as long as the network is gone, and
/// quarrel over their lanes with whoever has them since.
#[derive(Debug)]
pub(crate) struct Share {
    held: BTreeSet<i32>,
    announced: BTreeSet<i32>,
    /// Whether the owner was told of any assignment, and whether there was one.
    told: bool,
    joined: bool,
    /// When the group was last known to be at rest with this member in it.
    settled: Instant,
    patience: Duration,
    given_up: bool,
}

impl Share {
    pub(crate) fn new(now: Instant, patience: Duration) -> Self {
        Self {
            held: BTreeSet::new(),
            announced: BTreeSet::new(),
            told: false,
            joined: false,
            settled: now,
            patience,
            given_up: false,
        }
    }

    pub(crate) fn assigned(&mut self, partitions: &[i32], now: Instant) {
        self.held.extend(partitions);
        self.joined = true;
        self.heard(true, now);
    }

    pub(crate) fn revoked(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.held.remove(partition);
        }
    }

    pub(crate) fn heard(&mut self, settled: bool, now: Instant) {
        if settled {
            self.settled = now;
            self.given_up = false;
        } else if !self.given_up && now.saturating_duration_since(self.settled) > self.patience {
            self.given_up = true;
            if !self.held.is_empty() {
                tracing::warn!(partitions = ?self.held, "nothing is heard of the group; its partitions are given up");
            }
        }
    }

    /// What the owner must be told now.
    pub(crate) fn announce(&mut self) -> Vec<MembershipEvent> {
        let due = if self.given_up {
            BTreeSet::new()
        } else {
            self.held.clone()
        };
        let gone: Vec<i32> = self.announced.difference(&due).copied().collect();
        let new: Vec<i32> = due.difference(&self.announced).copied().collect();
        self.announced = due;
        let mut events = Vec::new();
        if !gone.is_empty() {
            events.push(MembershipEvent::Revoked(gone));
        }
        if !new.is_empty() || (self.joined && !self.told) {
            self.told = true;
            events.push(MembershipEvent::Assigned(new));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_hears_nothing_gives_up_its_partitions_until_it_hears_again() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut share = Share::new(start, Duration::from_secs(6));
        share.assigned(&[0, 1], start);
        assert_eq!(share.announce(), [MembershipEvent::Assigned(vec![0, 1])]);
        share.heard(false, after(5));
        assert_eq!(share.announce(), []);
        share.heard(false, after(7));
        assert_eq!(share.announce(), [MembershipEvent::Revoked(vec![0, 1])]);
        // What the client loses or keeps meanwhile is told when the group is heard of again.
        share.revoked(&[1]);
        share.heard(false, after(8));
        assert_eq!(share.announce(), []);
        share.heard(true, after(9));
        assert_eq!(share.announce(), [MembershipEvent::Assigned(vec![0])]);
    }

    #[test]
    fn a_member_without_partitions_is_told_once_that_it_has_joined() {
        let start = Instant::now();
        let mut share = Share::new(start, Duration::from_secs(6));
        assert_eq!(share.announce(), []);
        share.assigned(&[], start);
        assert_eq!(share.announce(), [MembershipEvent::Assigned(Vec::new())]);
        share.assigned(&[], start);
        assert_eq!(share.announce(), []);
        share.assigned(&[2], start);
        assert_eq!(share.announce(), [MembershipEvent::Assigned(vec![2])]);
    }

    #[test]
    fn a_first_assignment_is_told_at_once_however_long_it_took() {
        let start = Instant::now();
        let mut share = Share::new(start, Duration::from_secs(6));
        share.heard(false, start + Duration::from_mins(1));
        share.assigned(&[4], start + Duration::from_secs(61));
        assert_eq!(share.announce(), [MembershipEvent::Assigned(vec![4])]);
        share.revoked(&[4]);
        assert_eq!(share.announce(), [MembershipEvent::Revoked(vec![4])]);
    }
}
