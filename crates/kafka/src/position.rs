//! Which record each assigned partition must give next, so that nothing of an earlier assignment passes.
//!
//! The client library does not say to which assignment a record belongs. But a log does not change: what counts
//! is that each partition gives its records from the assigned offset on, in order, each once. A left-over of an
//! earlier assignment therefore shows itself by its offset: below the next one it is dropped, above it there is
//! a gap, and a gap is believed only when a fresh assignment at the missing offset shows it again.

use std::collections::HashMap;

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the next one.
    Deliver,
    /// It is the next one there is: the log holds nothing from `missing` up to it.
    DeliverBehindGap { missing: i64 },
    /// It belongs to an assignment that is over.
    Drop,
    /// Something is missing before it: assign the partition again at `next`.
    Reassign { next: i64, paused: bool },
}

#[derive(Debug, Clone, Copy)]
struct Position {
    next: i64,
    /// The record seen behind a gap, if one was.
    behind_gap: Option<i64>,
    paused: bool,
    /// Known to lie outside the log: the client has stopped to read it.
    outside: bool,
    assignment: u64,
}

/// Positions of all assigned partitions.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    partitions: HashMap<i32, Position>,
    assignments: u64,
}

impl Positions {
    /// `partition` starts at `offset`. Returns whether it was assigned before.
    pub(crate) fn assign(&mut self, partition: i32, offset: i64) -> bool {
        self.assignments += 1;
        let position = Position {
            next: offset,
            behind_gap: None,
            paused: false,
            outside: false,
            assignment: self.assignments,
        };
        self.partitions.insert(partition, position).is_some()
    }

    /// `partition` is read no more. Returns whether it was assigned, and if so whether it was paused.
    pub(crate) fn unassign(&mut self, partition: i32) -> Option<bool> {
        self.partitions
            .remove(&partition)
            .map(|position| position.paused)
    }

    /// Notes that `partition` is paused. Returns whether that is a change.
    pub(crate) fn pause(&mut self, partition: i32) -> bool {
        self.partitions
            .get_mut(&partition)
            .is_some_and(|position| !std::mem::replace(&mut position.paused, true))
    }

    /// Notes that `partition` is paused no more. Returns its next offset if it was.
    pub(crate) fn resume(&mut self, partition: i32) -> Option<i64> {
        let position = self.partitions.get_mut(&partition)?;
        std::mem::replace(&mut position.paused, false).then_some(position.next)
    }

    /// Judges a record, and counts it as given when it is to be delivered.
    pub(crate) fn judge(&mut self, partition: i32, offset: i64) -> Verdict {
        let Some(position) = self.partitions.get_mut(&partition) else {
            return Verdict::Drop;
        };
        if offset < position.next {
            return Verdict::Drop;
        }
        if offset > position.next && position.behind_gap != Some(offset) {
            position.behind_gap = Some(offset);
            return Verdict::Reassign {
                next: position.next,
                paused: position.paused,
            };
        }
        let missing = std::mem::replace(&mut position.next, offset + 1);
        position.behind_gap = None;
        if missing < offset {
            Verdict::DeliverBehindGap { missing }
        } else {
            Verdict::Deliver
        }
    }

    /// Every partition not known to lie outside the log, with the number of its assignment.
    pub(crate) fn assignments(&self) -> Vec<(i32, u64)> {
        self.partitions
            .iter()
            .filter(|(_, position)| !position.outside)
            .map(|(&partition, position)| (partition, position.assignment))
            .collect()
    }

    /// The number of `partition`'s assignment, where it has one.
    pub(crate) fn assignment(&self, partition: i32) -> Option<u64> {
        self.partitions
            .get(&partition)
            .map(|position| position.assignment)
    }

    /// Next offset of `partition` and whether it is paused, where it is still in that assignment.
    pub(crate) fn current(&self, partition: i32, assignment: u64) -> Option<(i64, bool)> {
        self.partitions
            .get(&partition)
            .filter(|position| position.assignment == assignment)
            .map(|position| (position.next, position.paused))
    }

    /// Notes that `partition` lies outside the log. Returns whether that was not known.
    pub(crate) fn mark_outside(&mut self, partition: i32) -> bool {
        self.partitions
            .get_mut(&partition)
            .is_some_and(|position| !std::mem::replace(&mut position.outside, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_was_paused_goes_on_behind_its_last_record() {
        let mut positions = Positions::default();
        positions.assign(0, 10);
        assert_eq!(positions.judge(0, 10), Verdict::Deliver);
        assert_eq!(positions.resume(0), None, "it was not paused");
        assert!(positions.pause(0));
        assert!(!positions.pause(0));
        assert_eq!(positions.resume(0), Some(11));
        assert_eq!(positions.resume(0), None);
    }

    #[test]
    fn records_pass_from_the_assigned_offset_on_each_once() {
        let mut positions = Positions::default();
        positions.assign(0, 10);
        assert_eq!(positions.judge(0, 9), Verdict::Drop);
        assert_eq!(positions.judge(0, 10), Verdict::Deliver);
        assert_eq!(positions.judge(0, 10), Verdict::Drop);
        assert_eq!(positions.judge(0, 11), Verdict::Deliver);
        assert_eq!(positions.judge(1, 11), Verdict::Drop);
    }

    #[test]
    fn a_left_over_ahead_of_the_new_offset_does_not_pass() {
        let mut positions = Positions::default();
        positions.assign(0, 10);
        assert_eq!(positions.judge(0, 10), Verdict::Deliver);
        positions.unassign(0);
        positions.assign(0, 5);
        let again = Verdict::Reassign {
            next: 5,
            paused: false,
        };
        assert_eq!(positions.judge(0, 11), again);
        assert_eq!(positions.judge(0, 12), again);
        assert_eq!(positions.judge(0, 5), Verdict::Deliver);
    }

    #[test]
    fn a_gap_seen_twice_is_a_gap_of_the_log() {
        let mut positions = Positions::default();
        positions.assign(0, 5);
        assert_eq!(
            positions.judge(0, 7),
            Verdict::Reassign {
                next: 5,
                paused: false
            }
        );
        assert_eq!(
            positions.judge(0, 7),
            Verdict::DeliverBehindGap { missing: 5 }
        );
        assert_eq!(positions.judge(0, 8), Verdict::Deliver);
        // The next gap is doubted afresh.
        assert_eq!(
            positions.judge(0, 10),
            Verdict::Reassign {
                next: 9,
                paused: false
            }
        );
    }

    #[test]
    fn a_new_assignment_is_not_the_old_one() {
        let mut positions = Positions::default();
        positions.assign(3, 5);
        let [(3, assignment)] = positions.assignments()[..] else {
            panic!("one partition is assigned");
        };
        assert_eq!(positions.current(3, assignment), Some((5, false)));
        assert!(positions.mark_outside(3) && !positions.mark_outside(3));
        assert_eq!(positions.assignments(), []);
        positions.unassign(3);
        assert_eq!(positions.current(3, assignment), None);
        positions.assign(3, 5);
        assert_eq!(positions.assignments().len(), 1);
        assert_eq!(positions.current(3, assignment), None);
    }
}
