//! One batch: load, fold, commit, and what each way it may end means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bm_engine::fold::{Prepared, prepare};
use bm_engine::lane::LaneMove;
use bm_engine::{Domain, FoldContext, Folded, LaneInput, OutboxError, Record};
use bm_storage::{CommitError, LaneStore, StoreError};
use tokio::time::Instant;

use crate::coordinator::Command;
use crate::lanes::Lanes;
use crate::memory::{Loaded, View, remember};
use crate::pace::{Feedback, Known};
use crate::slot::STALLED_AFTER;

/// A batch that cannot be handed to the database.
enum BeginError {
    /// A lane of it may not commit.
    NotReady(i32),
    /// A lane's messages cannot be written down.
    Outbox(OutboxError),
}

/// How a commit ended.
pub(crate) enum Outcome<D: Domain> {
    Done(Box<Folded<D>>),
    /// Some lanes are not ours; the batch goes on without them.
    Refused(BTreeSet<i32>),
    /// Everything is handled; the batch is over.
    Over,
}

/// A batch, under way or over, and the lanes it is of.
pub(crate) struct Batch<D: Domain, S> {
    pub(crate) lanes: Lanes<D, S>,
    /// For the batches after it.
    pub(crate) feedback: Feedback,
    /// Those it was folded with, or began with.
    pub(crate) rules: Option<Arc<D::Rules>>,
    /// What was known when it began.
    pub(crate) known: Known,
}

impl<D: Domain, S: LaneStore<D>> Batch<D, S> {
    /// Of these lanes, by rules as new as `rules` or newer.
    pub(crate) fn new(lanes: Lanes<D, S>, rules: Option<Arc<D::Rules>>, known: Known) -> Self {
        Self {
            lanes,
            feedback: Feedback::default(),
            rules,
            known,
        }
    }

    /// Runs to the end. Records that could not be committed are back in the lanes' buffers.
    pub(crate) async fn run(mut self, inputs: Vec<LaneInput>) -> Self {
        self.fold_and_commit(inputs).await;
        self
    }

    async fn fold_and_commit(&mut self, inputs: Vec<LaneInput>) {
        let partitions = self.input_partitions();
        let mut prepared = prepare(self.lanes.shared.domain.as_ref(), inputs, partitions);
        if prepared.is_empty() {
            return;
        }
        if prepared.has_misplaced() && self.was_repartitioned(partitions).await {
            return self.take_all_again(&prepared);
        }
        let rules = match self.rules_for(&prepared).await {
            Ok(rules) => rules,
            Err(error) => return self.give_up(prepared, "reading the rules", &error),
        };
        let keys = prepared.keys(self.lanes.shared.domain.as_ref(), &rules);
        let mut loaded = match self.load(&keys).await {
            Ok(loaded) => loaded,
            Err(error) => return self.give_up(prepared, "loading state", &error),
        };
        loop {
            let view = View {
                keys: &keys,
                loaded: std::mem::take(&mut loaded),
                caches: self
                    .lanes
                    .slots
                    .iter()
                    .filter_map(|(p, slot)| Some((*p, slot.cache.as_ref()?)))
                    .collect(),
            };
            let context = FoldContext {
                partition_counts: &self.lanes.shared.partition_counts,
                now: (self.lanes.shared.now)(),
                bytes_out: self.lanes.shared.config.limits.bytes_out,
            };
            let folded = prepared.fold(self.lanes.shared.domain.as_ref(), &rules, &view, &context);
            loaded = view.loaded;
            match self.commit(&mut prepared, folded).await {
                Outcome::Done(folded) => return self.committed(prepared, &keys, loaded, *folded),
                Outcome::Refused(partitions) => {
                    prepared.remove(&partitions);
                    if prepared.is_empty() {
                        return;
                    }
                }
                Outcome::Over => {
                    self.put_back(prepared);
                    return;
                }
            }
        }
    }

    /// How many partitions the topic read had when the processor started.
    fn input_partitions(&self) -> i32 {
        let counts = &self.lanes.shared.partition_counts;
        counts.get(&D::INPUT).copied().unwrap_or(1)
    }

    /// Whether the topic has another number of partitions than it had. Asked only when a record is
    /// not where its key should be: then it is the topic that changed, or the record is foreign.
    async fn was_repartitioned(&self, known: i32) -> bool {
        match self.lanes.shared.fetcher.partition_count().await {
            Ok(found) => found != known,
            Err(error) => {
                tracing::warn!(processor = D::PROCESSOR, error = %error, "a record is not in the partition of its key, and the broker does not say how many there are; asking again");
                true
            }
        }
    }

    /// Each looks at its row again, and halts if the topic is not what the row says.
    fn take_all_again(&mut self, prepared: &Prepared<D>) {
        for partition in prepared.partitions() {
            self.lanes.retake(partition);
        }
    }

    async fn rules_for(&mut self, prepared: &Prepared<D>) -> Result<Arc<D::Rules>, StoreError> {
        let demand = prepared.demand(self.lanes.shared.domain.as_ref());
        let rules = self
            .lanes
            .shared
            .store
            .rules(self.rules.clone(), demand)
            .await?;
        self.rules = Some(Arc::clone(&rules));
        Ok(rules)
    }

    async fn load(
        &self,
        keys: &BTreeMap<D::Key, i32>,
    ) -> Result<Loaded<D::Key, D::State>, StoreError> {
        let missing: Vec<D::Key> = keys
            .iter()
            .filter(|(key, partition)| {
                let cache = self
                    .lanes
                    .slots
                    .get(partition)
                    .and_then(|slot| slot.cache.as_ref());
                cache.is_none_or(|cache| !cache.contains(key))
            })
            .map(|(key, _)| key.clone())
            .collect();
        if missing.is_empty() {
            return Ok(Loaded::new());
        }
        let stored = self.lanes.shared.store.load(&missing).await?;
        let mut loaded: Loaded<_, _> = missing.into_iter().map(|key| (key, None)).collect();
        loaded.extend(stored.into_iter().map(|(key, state)| (key, Some(state))));
        Ok(loaded)
    }

    async fn commit(&mut self, prepared: &mut Prepared<D>, folded: Folded<D>) -> Outcome<D> {
        let moves = match self.begin(&folded) {
            Ok(moves) => moves,
            Err(BeginError::NotReady(partition)) => {
                self.undo(&folded);
                tracing::error!(
                    processor = D::PROCESSOR,
                    partition,
                    "a bug: a lane is in a batch that it may not commit; it begins again from its row"
                );
                self.lanes.retake(partition);
                return Outcome::Refused(BTreeSet::from([partition]));
            }
            Err(BeginError::Outbox(error)) => {
                self.undo(&folded);
                self.refused_for_good(prepared, &format!("its outbox cannot be encoded: {error}"));
                return Outcome::Over;
            }
        };
        let started = Instant::now();
        let statement = self
            .lanes
            .shared
            .store
            .commit(&moves, &folded.states, &folded.rows);
        let result =
            match tokio::time::timeout(self.lanes.shared.config.statement_timeout, statement).await
            {
                Ok(result) => result,
                Err(_) => Err(CommitError::ReplyLost(
                    "the database does not answer".to_owned(),
                )),
            };
        self.lanes
            .shared
            .metrics
            .commit_seconds
            .record(started.elapsed().as_secs_f64());
        match result {
            Ok(()) => Outcome::Done(Box::new(folded)),
            Err(CommitError::Refused { partitions }) => {
                self.lanes.shared.metrics.fence_refusals.increment(1);
                Outcome::Refused(self.refused(&folded, &partitions))
            }
            Err(CommitError::ReplyLost(error)) => {
                self.lanes.shared.metrics.replies_lost.increment(1);
                tracing::warn!(processor = D::PROCESSOR, error, lanes = ?prepared.partitions(), "the reply to a commit was lost; the lanes begin again from their rows");
                for output in &folded.lanes {
                    let slot = self.lanes.slot(output.partition);
                    slot.set_back();
                    let decision = slot.lane.reply_lost();
                    self.lanes.carry_out(output.partition, decision, None);
                }
                self.try_smaller(prepared);
                // Lanes whose records the fold did not come to have lost nothing.
                prepared.remove(&folded.lanes.iter().map(|output| output.partition).collect());
                Outcome::Over
            }
            Err(CommitError::Data { sqlstate, message }) => {
                self.undo(&folded);
                self.bad_data(prepared, &sqlstate, &message)
            }
            Err(CommitError::Undone {
                transient,
                sqlstate,
                message,
            }) => {
                self.undo(&folded);
                self.lanes.shared.metrics.commit_errors.increment(1);
                if transient {
                    self.try_smaller(prepared);
                    self.wait_for_the_database(format!(
                        "committing: {message} (SQLSTATE {sqlstate})"
                    ));
                } else {
                    self.refused_for_good(prepared, &format!("{message} (SQLSTATE {sqlstate})"));
                }
                Outcome::Over
            }
        }
    }

    fn begin(&mut self, folded: &Folded<D>) -> Result<Vec<LaneMove>, BeginError> {
        let mut moves = Vec::with_capacity(folded.lanes.len());
        for output in &folded.lanes {
            // Lanes only come into a batch when they may commit, and nobody else moves them
            // meanwhile. One that did not move would have its states written without a fence.
            let lane = self
                .lanes
                .slots
                .get_mut(&output.partition)
                .map(|slot| &mut slot.lane);
            let fence = lane
                .and_then(|lane| lane.begin_commit(output.next_offset))
                .ok_or(BeginError::NotReady(output.partition))?;
            moves.push(output.to_move(fence).map_err(BeginError::Outbox)?);
        }
        Ok(moves)
    }

    fn undo(&mut self, folded: &Folded<D>) {
        for output in &folded.lanes {
            if let Some(slot) = self.lanes.slots.get_mut(&output.partition) {
                slot.lane.commit_undone();
            }
        }
    }

    /// Forgets and takes again the lanes that were refused; gives them back.
    fn refused(&mut self, folded: &Folded<D>, partitions: &[i32]) -> BTreeSet<i32> {
        let ours: BTreeSet<i32> = folded.lanes.iter().map(|output| output.partition).collect();
        let mut refused: BTreeSet<i32> = partitions
            .iter()
            .copied()
            .filter(|p| ours.contains(p))
            .collect();
        if refused.is_empty() {
            refused.clone_from(&ours);
        }
        tracing::warn!(
            processor = D::PROCESSOR,
            ?refused,
            "another owner has taken lanes of this batch; it goes on without them"
        );
        for partition in ours {
            let Some(slot) = self.lanes.slots.get_mut(&partition) else {
                continue;
            };
            if refused.contains(&partition) {
                let setbacks = slot.set_back();
                let decision = slot.lane.refused();
                if setbacks >= STALLED_AFTER {
                    tracing::error!(
                        processor = D::PROCESSOR,
                        partition,
                        setbacks,
                        "LANE STALLED: another owner keeps taking this lane; do two fleets run with different CONSUMER_GROUPs?"
                    );
                }
                self.lanes.carry_out(partition, decision, None);
            } else {
                slot.lane.commit_undone();
            }
        }
        refused
    }

    pub(crate) fn put_back(&mut self, prepared: Prepared<D>) {
        for (partition, records) in prepared.into_records() {
            self.put_back_lane(partition, records.into_iter());
        }
    }

    fn put_back_lane(&mut self, partition: i32, records: impl DoubleEndedIterator<Item = Record>) {
        if let Some(slot) = self.lanes.slots.get_mut(&partition)
            && slot.lane.may_commit().is_some()
        {
            slot.buffer.put_back(records);
        }
    }

    fn committed(
        &mut self,
        prepared: Prepared<D>,
        keys: &BTreeMap<D::Key, i32>,
        loaded: Loaded<D::Key, D::State>,
        folded: Folded<D>,
    ) {
        self.feedback.committed = true;
        let kept: BTreeSet<i32> = prepared.partitions().into_iter().collect();
        let domain = Arc::clone(&self.lanes.shared.domain);
        let heap_bytes = |key: &D::Key, state: Option<&D::State>| domain.heap_bytes(key, state);
        remember(
            &mut self.lanes.slots,
            &kept,
            keys,
            loaded,
            folded.states,
            heap_bytes,
        );
        let mut outputs: BTreeMap<i32, _> = folded
            .lanes
            .into_iter()
            .map(|output| (output.partition, output))
            .collect();
        let mut records_done = 0;
        for (partition, records) in prepared.into_records() {
            let Some(output) = outputs.remove(&partition) else {
                self.put_back_lane(partition, records.into_iter());
                continue;
            };
            let Some(slot) = self.lanes.slots.get_mut(&partition) else {
                continue;
            };
            slot.watermarks = output.watermarks;
            slot.refusals = 0;
            slot.not_before = None;
            slot.setbacks = 0;
            let decision = slot.lane.committed();
            let bytes = records[..output.consumed]
                .iter()
                .map(Record::footprint)
                .sum();
            let resume = slot.flow.remove(bytes);
            slot.buffer.put_back(
                records
                    .into_iter()
                    .skip(output.consumed)
                    .collect::<Vec<_>>()
                    .into_iter(),
            );
            if resume {
                self.lanes.command(Command::Resume { partition });
            }
            self.lanes.command(Command::Moved {
                partition,
                next_offset: output.next_offset,
            });
            let metrics = &self.lanes.shared.metrics;
            metrics.records.increment(output.consumed as u64);
            metrics.skipped.increment(output.skipped as u64);
            metrics.dead.increment(output.dead as u64);
            records_done += output.consumed;
            self.lanes
                .carry_out(partition, decision, Some(output.outbox));
        }
        self.lanes.shared.metrics.batches.increment(1);
        self.lanes
            .shared
            .metrics
            .batch_records
            .record(records_done as f64);
    }
}
