//! What a worker does about a batch that the database does not take: smaller, later, or without whom it is about.

use std::collections::BTreeSet;
use std::time::Duration;

use bm_engine::fold::Prepared;
use bm_engine::{Domain, Poison};
use bm_storage::{LaneStore, StoreError};
use tokio::time::Instant;

use crate::batches::Outcome;
use crate::slot::STALLED_AFTER;
use crate::worker::Worker;

/// The longest a lane waits before it tries again what the database refused.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

fn pause(failures: u32) -> Duration {
    Duration::from_millis(100 << failures.min(9)).min(LONGEST_PAUSE)
}

impl<D: Domain, S: LaneStore<D>> Worker<D, S> {
    /// The database calls a value bad: halve the batch until the record is found, then give it up.
    pub(crate) fn bad_data(
        &mut self,
        prepared: &mut Prepared<D>,
        sqlstate: &str,
        message: &str,
    ) -> Outcome<D> {
        if prepared.len() > 1 {
            self.try_smaller(prepared);
            tracing::warn!(
                processor = D::PROCESSOR,
                sqlstate,
                error = message,
                records = prepared.len(),
                "the database refused a value; looking for its record"
            );
            return Outcome::Over;
        }
        if prepared.first_is_dead() {
            self.refused_for_good(
                prepared,
                &format!("{message} (SQLSTATE {sqlstate}, of a dead letter)"),
            );
            return Outcome::Over;
        }
        tracing::error!(
            processor = D::PROCESSOR,
            sqlstate,
            error = message,
            "the database refuses this record's values; it becomes a dead letter"
        );
        prepared.condemn_first(Poison::new(
            format!("refused_by_database_{sqlstate}"),
            message,
        ));
        Outcome::Refused(BTreeSet::new())
    }

    /// What trying again will not change: find the lane it comes from, and pause it alone.
    pub(crate) fn refused_for_good(&mut self, prepared: &Prepared<D>, error: &str) {
        let partitions = prepared.partitions();
        if let [partition] = partitions[..] {
            if let Some(slot) = self.slots.get_mut(&partition) {
                slot.refusals += 1;
                let wait = pause(slot.refusals + 3);
                slot.not_before = Some(Instant::now() + wait);
                tracing::error!(
                    processor = D::PROCESSOR,
                    partition,
                    error,
                    ?wait,
                    tries = slot.refusals,
                    "LANE STALLED: its batch cannot be committed; nothing is skipped"
                );
            }
        } else {
            tracing::error!(
                processor = D::PROCESSOR,
                ?partitions,
                error,
                "a batch cannot be committed; going on with one lane at a time to find which"
            );
            self.one_lane_batches = 2 * partitions.len();
            self.begin_again_with(prepared);
        }
    }

    pub(crate) fn give_up(&mut self, prepared: Prepared<D>, what: &str, error: &StoreError) {
        if error.is_transient() {
            self.try_smaller(&prepared);
            self.wait_for_the_database(&format!("{what}: {error}"));
        } else {
            self.refused_for_good(&prepared, &format!("{what}: {error}"));
        }
        self.put_back(prepared);
    }

    /// The next batch is half as large, and of the same lanes: this one may have been too much for the
    /// time there is, or one of its records is refused. Each batch that goes through doubles what the
    /// next may hold.
    pub(crate) fn try_smaller(&mut self, prepared: &Prepared<D>) {
        self.most_records = (prepared.len() / 2).max(1);
        // A record that fails alone must not keep the other lanes from their turns.
        if prepared.len() > 1 {
            self.begin_again_with(prepared);
        }
    }

    /// The next batch begins with the lane that this one began with: while others had their turns, their
    /// success would make it as large as before.
    fn begin_again_with(&mut self, prepared: &Prepared<D>) {
        if let Some(first) = prepared.partitions().first() {
            self.turns.again(*first);
        }
    }

    pub(crate) fn wait_for_the_database(&mut self, error: &str) {
        self.failures += 1;
        let wait = pause(self.failures);
        self.pause_until = Some(Instant::now() + wait);
        if self.failures < STALLED_AFTER {
            tracing::warn!(
                processor = D::PROCESSOR,
                error,
                ?wait,
                tries = self.failures,
                "the database cannot do it now; trying again"
            );
        } else {
            tracing::error!(
                processor = D::PROCESSOR,
                error,
                ?wait,
                tries = self.failures,
                "LANES STALLED: the database has not done it for a while; nothing is skipped, trying again"
            );
        }
    }
}
