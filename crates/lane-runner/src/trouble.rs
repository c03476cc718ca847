//! What a batch does when the database does not take it: smaller, later, or without whom it is about.

use std::collections::BTreeSet;

use bm_engine::fold::Prepared;
use bm_engine::{Domain, Poison};
use bm_storage::{LaneStore, StoreError};
use tokio::time::Instant;

use crate::batches::{Batch, Outcome};
use crate::pace::{ALONE, pause};

impl<D: Domain, S: LaneStore<D>> Batch<D, S> {
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
            if let Some(slot) = self.lanes.slots.get_mut(&partition) {
                slot.refusals += 1;
                let wait = pause(ALONE + slot.refusals);
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
            self.feedback.one_lane_batches = Some(2 * partitions.len());
            self.begin_again_with(prepared);
        }
    }

    pub(crate) fn give_up(&mut self, prepared: Prepared<D>, what: &str, error: &StoreError) {
        if error.is_transient() {
            self.try_smaller(&prepared);
            self.wait_for_the_database(format!("{what}: {error}"));
        } else {
            self.refused_for_good(&prepared, &format!("{what}: {error}"));
        }
        self.put_back(prepared);
    }

    /// The next batch is half as large, and begins with the same lane: this one may have been too much for
    /// the time there is, or one of its records is refused. Each batch that goes through doubles what the
    /// next may hold.
    pub(crate) fn try_smaller(&mut self, prepared: &Prepared<D>) {
        if prepared.len() > 1 {
            self.feedback.most_records = Some(prepared.len() / 2);
            self.begin_again_with(prepared);
            return;
        }
        // A record that fails alone must not keep the other lanes from their turns. One that is taken again
        // has a wait of its own.
        for partition in prepared.partitions() {
            let slot = self.lanes.slots.get_mut(&partition);
            if let Some(slot) = slot.filter(|slot| slot.lane.may_commit().is_some()) {
                slot.not_before = Some(Instant::now() + pause(ALONE));
            }
        }
    }

    /// The next batch begins with the lane that this one began with: while others had their turns, their
    /// success would make it as large as before.
    fn begin_again_with(&mut self, prepared: &Prepared<D>) {
        if let Some(first) = prepared.partitions().first() {
            self.feedback.begins_with = Some(*first);
        }
    }

    pub(crate) fn wait_for_the_database(&mut self, error: String) {
        self.feedback.waits_for = Some(error);
    }
}
