//! The lane protocol: what a lane may do next, decided without doing it.
//!
//! The runner asks these functions before it acts, and the model (`tests/engine/model.rs`) explores them
//! under kills, revocations, lost replies and failing producers. A [`Lane`] never talks to anyone:
//! it is told what happened and says what is to be done.

use bm_contracts::{Timestamp, hash};

use crate::outbox::Outbox;
use crate::record::Record;
use crate::watermark::Watermarks;

/// A lane's row as *take* returned it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneRow {
    /// The fence: whoever took the lane last holds the highest.
    pub epoch: i64,
    /// Which log `next_offset` belongs to; changes only when an operator moves the lane.
    pub generation: i64,
    /// Offset of the next record to apply (the cursor).
    pub next_offset: i64,
    /// What has been applied of each source.
    pub watermarks: Watermarks,
    /// The messages of the last batch; appended again at take.
    pub outbox: Outbox,
    /// Partition count of the topic when the rows were made.
    pub partition_count: i32,
    /// Append time and hash of the record before the cursor; none before the first batch.
    pub last_record: Option<LastRecord>,
}

/// By what a lane knows the record before its cursor again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LastRecord {
    /// The record's time.
    pub timestamp: Timestamp,
    /// See [`bm_contracts::hash::record_hash`].
    pub hash: i64,
}

impl LastRecord {
    /// By what `record` is known again.
    pub fn of(record: &Record) -> Self {
        Self {
            timestamp: record.timestamp,
            hash: hash::record_hash(&record.key, &record.value),
        }
    }
}

/// What the commit statement asks of one lane's row: it moves only if epoch and cursor are as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneMove {
    /// The lane's partition.
    pub partition: i32,
    /// The epoch that take gave.
    pub epoch: i64,
    /// The cursor before the batch.
    pub expected_offset: i64,
    /// The cursor after it.
    pub next_offset: i64,
    /// [`Watermarks::encode`] after it.
    pub watermarks: Vec<u8>,
    /// [`Outbox::encode`] of its messages.
    pub outbox: Vec<u8>,
    /// The batch's last record.
    pub last_record: LastRecord,
}

/// Right of a lane's owner to move it: what take returned, and how far it has moved since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The epoch that take gave.
    pub epoch: i64,
    /// The cursor as committed.
    pub cursor: i64,
}

/// Where a lane stands. Everything a phase holds is true only in that phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    /// Not ours.
    Released,
    /// The take statement is under way, or waits for its backoff.
    Taking,
    /// Messages committed under this fence are not all acked: its next commit would overwrite them.
    Publishing(Fence),
    /// May be part of the next batch.
    Ready(Fence),
    /// Part of a commit that is under way.
    Committing { fence: Fence, next_offset: i64 },
    /// Refuses to run until it is assigned anew.
    Halted,
}

/// Identifies one attempt to take the lane; the reply to an older one is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TakeAttempt(u64);

/// Identifies one publication of an outbox; the acks of an older one mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publication(u64);

/// What is to be done after a lane was told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "a decision does nothing until it is carried out"]
pub enum Decision {
    /// Nothing.
    Nothing,
    /// Throw away all memory of the lane (buffer, states, watermarks), stop reading it, and run the
    /// take statement; after a backoff unless it is the first attempt.
    ForgetAndTake {
        /// To be handed back with the reply.
        attempt: TakeAttempt,
        /// Whether to wait first.
        backoff: bool,
    },
    /// Throw away all memory of the lane and stop reading it.
    Forget,
    /// Append the outbox (of the row, or of the batch just committed) and report when all is acked.
    Publish {
        /// To be handed back with the report.
        publication: Publication,
    },
}

/// One lane of this process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lane {
    phase: Phase,
    attempts: u64,
    publications: u64,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            phase: Phase::Released,
            attempts: 0,
            publications: 0,
        }
    }
}

impl Lane {
    /// The group gave us the partition.
    pub fn assigned(&mut self) -> Decision {
        match self.phase {
            // Told twice: what runs goes on.
            Phase::Taking | Phase::Publishing(_) | Phase::Ready(_) | Phase::Committing { .. } => {
                Decision::Nothing
            }
            Phase::Released | Phase::Halted => self.take(false),
        }
    }

    /// The group took the partition away.
    pub fn revoked(&mut self) -> Decision {
        self.phase = Phase::Released;
        Decision::Forget
    }

    /// The lane must not go on (recreated topic, other partition count, cursor outside the log).
    pub fn halt(&mut self) -> Decision {
        self.phase = Phase::Halted;
        Decision::Forget
    }

    /// Memory and row may differ (a reader lost its place, say): begin again from the row.
    pub fn retake(&mut self) -> Decision {
        match self.phase {
            Phase::Released | Phase::Halted => Decision::Nothing,
            Phase::Taking | Phase::Publishing(_) | Phase::Ready(_) | Phase::Committing { .. } => {
                self.take(true)
            }
        }
    }

    fn take(&mut self, backoff: bool) -> Decision {
        self.attempts += 1;
        self.phase = Phase::Taking;
        Decision::ForgetAndTake {
            attempt: TakeAttempt(self.attempts),
            backoff,
        }
    }

    /// Take returned the lane's row.
    ///
    /// Its outbox is published even when it is empty in our eyes: acks of nothing come at once.
    pub fn taken(&mut self, attempt: TakeAttempt, epoch: i64, next_offset: i64) -> Decision {
        if self.phase == Phase::Taking && attempt.0 == self.attempts {
            self.publish(Fence {
                epoch,
                cursor: next_offset,
            })
        } else {
            Decision::Nothing
        }
    }

    /// Take failed, or its reply was lost.
    pub fn take_failed(&mut self, attempt: TakeAttempt) -> Decision {
        if self.phase == Phase::Taking && attempt.0 == self.attempts {
            self.take(true)
        } else {
            Decision::Nothing
        }
    }

    fn publish(&mut self, fence: Fence) -> Decision {
        self.publications += 1;
        self.phase = Phase::Publishing(fence);
        Decision::Publish {
            publication: Publication(self.publications),
        }
    }

    /// Every message of a publication is acked.
    pub fn acked(&mut self, publication: Publication) {
        if let Phase::Publishing(fence) = self.phase
            && publication.0 == self.publications
        {
            self.phase = Phase::Ready(fence);
        }
    }

    /// The fence under which the lane may be part of a batch now; `None` when it may not.
    pub fn may_commit(&self) -> Option<Fence> {
        match self.phase {
            Phase::Ready(fence) => Some(fence),
            Phase::Released
            | Phase::Taking
            | Phase::Publishing(_)
            | Phase::Committing { .. }
            | Phase::Halted => None,
        }
    }

    /// Puts the lane into a commit that moves it to `next_offset`; `None` when it may not.
    pub fn begin_commit(&mut self, next_offset: i64) -> Option<Fence> {
        let fence = self.may_commit()?;
        self.phase = Phase::Committing { fence, next_offset };
        Some(fence)
    }

    /// The commit did not happen and nothing of it can happen later: the lane is as before.
    pub fn commit_undone(&mut self) {
        if let Phase::Committing { fence, .. } = self.phase {
            self.phase = Phase::Ready(fence);
        }
    }

    /// The commit is done; its outbox is to be published from memory.
    pub fn committed(&mut self) -> Decision {
        match self.phase {
            Phase::Committing { fence, next_offset } => self.publish(Fence {
                cursor: next_offset,
                ..fence
            }),
            // Revoked meanwhile: the new owner publishes what the row holds.
            Phase::Released
            | Phase::Taking
            | Phase::Publishing(_)
            | Phase::Ready(_)
            | Phase::Halted => Decision::Nothing,
        }
    }

    /// The database refused this lane's move: somebody else took it.
    pub fn refused(&mut self) -> Decision {
        self.commit_failed()
    }

    /// The reply to the commit was lost: it may have happened, and may still happen.
    ///
    /// Take raises the epoch, which refuses it if it comes later; only the returned row is believed.
    pub fn reply_lost(&mut self) -> Decision {
        self.commit_failed()
    }

    fn commit_failed(&mut self) -> Decision {
        match self.phase {
            Phase::Committing { .. } => self.take(true),
            Phase::Released
            | Phase::Taking
            | Phase::Publishing(_)
            | Phase::Ready(_)
            | Phase::Halted => Decision::Nothing,
        }
    }

    /// Whether the lane is ours, or on its way to be.
    pub fn is_assigned(&self) -> bool {
        !matches!(self.phase, Phase::Released | Phase::Halted)
    }

    /// Whether the lane refuses to run.
    pub fn is_halted(&self) -> bool {
        self.phase == Phase::Halted
    }

    /// Whether this attempt's reply is still waited for.
    pub fn awaits(&self, attempt: TakeAttempt) -> bool {
        self.phase == Phase::Taking && attempt.0 == self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(epoch: i64, cursor: i64) -> Lane {
        let mut lane = Lane::default();
        let Decision::ForgetAndTake { attempt, .. } = lane.assigned() else {
            panic!("take expected")
        };
        let Decision::Publish { publication } = lane.taken(attempt, epoch, cursor) else {
            panic!("publish expected")
        };
        lane.acked(publication);
        lane
    }

    #[test]
    fn a_lane_commits_only_when_its_last_outbox_is_acked() {
        let mut lane = ready(1, 0);
        assert!(lane.begin_commit(5).is_some());
        assert!(lane.may_commit().is_none());
        let Decision::Publish { publication } = lane.committed() else {
            panic!("publish expected")
        };
        assert!(lane.may_commit().is_none());
        lane.acked(publication);
        assert_eq!(
            lane.may_commit(),
            Some(Fence {
                epoch: 1,
                cursor: 5
            })
        );
    }

    #[test]
    fn a_late_ack_of_an_older_publication_means_nothing() {
        let mut lane = Lane::default();
        let Decision::ForgetAndTake { attempt, .. } = lane.assigned() else {
            panic!("take expected")
        };
        let Decision::Publish { publication: old } = lane.taken(attempt, 1, 0) else {
            panic!("publish expected")
        };
        let Decision::ForgetAndTake { attempt, .. } = lane.retake() else {
            panic!("take expected")
        };
        let _ = lane.taken(attempt, 2, 0);
        lane.acked(old);
        assert_eq!(lane.may_commit(), None);
    }

    #[test]
    fn the_reply_to_an_older_take_is_not_believed() {
        let mut lane = Lane::default();
        let Decision::ForgetAndTake { attempt: old, .. } = lane.assigned() else {
            panic!("take expected")
        };
        let _ = lane.revoked();
        let Decision::ForgetAndTake { attempt, .. } = lane.assigned() else {
            panic!("take expected")
        };
        assert_eq!(lane.taken(old, 7, 3), Decision::Nothing);
        assert!(lane.awaits(attempt));
    }

    #[test]
    fn a_commit_that_ends_after_revocation_does_not_publish() {
        let mut lane = ready(1, 0);
        let _ = lane.begin_commit(5);
        let _ = lane.revoked();
        assert_eq!(lane.committed(), Decision::Nothing);
        assert!(!lane.is_assigned());
    }
}
