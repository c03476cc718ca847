//! Owns the process's lanes: passes on what they are told, and lends those that have records to batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use bm_engine::{Domain, LaneInput};
use bm_storage::LaneStore;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::Shared;
use crate::batches::Batch;
use crate::coordinator::Command;
use crate::lanes::{Lanes, Message};
use crate::pace::Pace;

pub(crate) struct Dispatcher<D: Domain, S> {
    /// Those in no batch.
    lanes: Lanes<D, S>,
    /// What those in a batch were told meanwhile.
    deferred: BTreeMap<i32, Vec<Message>>,
    batches: JoinSet<Batch<D, S>>,
    pace: Pace,
    rules: Option<Arc<D::Rules>>,
    inbox: mpsc::UnboundedReceiver<Message>,
    finishing: bool,
}

impl<D: Domain, S: LaneStore<D>> Dispatcher<D, S> {
    /// Without lanes; `sender` is the other end of `inbox`.
    pub(crate) fn new(
        shared: Arc<Shared<D, S>>,
        sender: mpsc::UnboundedSender<Message>,
        inbox: mpsc::UnboundedReceiver<Message>,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        Self {
            pace: Pace::new(&shared.config, D::PROCESSOR),
            lanes: Lanes::new(shared, sender, commands),
            deferred: BTreeMap::new(),
            batches: JoinSet::new(),
            rules: None,
            inbox,
            finishing: false,
        }
    }

    /// Until told to finish.
    pub(crate) async fn run(mut self) {
        loop {
            while let Ok(message) = self.inbox.try_recv() {
                self.pass_on(message);
            }
            while let Some(batch) = self.batches.try_join_next() {
                self.take_back(batch);
            }
            // Before any wait: what was handled last may be what makes the process ready.
            self.report();
            if self.finishing && self.batches.is_empty() {
                self.finish().await;
                return;
            }
            let now = Instant::now();
            let due = self.batch_due(now);
            if due.is_some_and(|at| at <= now) {
                self.begin_batch(now);
                continue;
            }
            let wake = due.or_else(|| {
                let tries = self.lanes.slots.values().filter_map(|slot| slot.not_before);
                tries.filter(|at| *at > now).min()
            });
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.pass_on(message),
                    None => return,
                },
                Some(batch) = self.batches.join_next() => self.take_back(batch),
                () = tokio::time::sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
    }

    fn pass_on(&mut self, message: Message) {
        let Some(partition) = message.partition() else {
            self.finishing = true;
            return;
        };
        match self.deferred.get_mut(&partition) {
            Some(told) => told.push(message),
            None => self.lanes.handle(message),
        }
    }

    /// When the next batch is to begin; `None` while there is nothing for one, or no more may run.
    fn batch_due(&self, now: Instant) -> Option<Instant> {
        if self.finishing || !self.pace.may_begin() {
            return None;
        }
        let (mut records, mut bytes) = (0, 0);
        for slot in self.lanes.slots.values().filter(|slot| slot.has_work(now)) {
            records += slot.buffer.len();
            bytes += slot.buffer.bytes();
        }
        self.pace.batch_due(records, bytes, now)
    }

    fn begin_batch(&mut self, now: Instant) {
        let ready = (self.lanes.slots.iter_mut())
            .filter(|(_, slot)| slot.has_work(now))
            .map(|(partition, slot)| (*partition, &mut slot.buffer));
        let (mut taken, known) = self.pace.begin(ready.collect(), now);
        taken.retain(|(_, records)| !records.is_empty());
        let mut lanes = self
            .lanes
            .lend(taken.iter().map(|(partition, _)| *partition));
        let mut inputs = Vec::with_capacity(taken.len());
        for (partition, records) in taken {
            self.deferred.insert(partition, Vec::new());
            let slot = lanes.slot(partition);
            inputs.push(LaneInput {
                partition,
                generation: slot.generation,
                watermarks: slot.watermarks.clone(),
                records,
            });
        }
        let batch = Batch::new(lanes, self.rules.clone(), known);
        self.batches.spawn(batch.run(inputs));
    }

    /// Takes the lanes of a batch back; what they were told meanwhile comes now.
    fn take_back(&mut self, batch: Result<Batch<D, S>, JoinError>) {
        let batch = match batch {
            Ok(batch) => batch,
            // The lanes are lost with it: so is the process.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        self.pace.ended(batch.feedback, batch.known);
        // They may be older than those of another batch: whoever needs newer ones asks the store.
        self.rules = batch.rules;
        for (partition, slot) in batch.lanes.slots {
            let deferred = self.deferred.remove(&partition);
            debug_assert!(deferred.is_some(), "lane {partition} was not lent");
            self.lanes.slots.insert(partition, slot);
            for message in deferred.into_iter().flatten() {
                self.lanes.handle(message);
            }
        }
    }

    /// Waits, within bounds, until what was committed is acked: the next owner has less to repeat.
    async fn finish(&mut self) {
        let deadline = Instant::now() + self.lanes.shared.config.drain;
        while (self.lanes.slots.values()).any(|slot| slot.publishing.is_some()) {
            match tokio::time::timeout_at(deadline, self.inbox.recv()).await {
                Ok(Some(message @ Message::Acked { .. })) => self.lanes.handle(message),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        for slot in self.lanes.slots.values_mut() {
            let _ = slot.lane.revoked();
            slot.forget();
        }
        self.report();
    }

    /// Keeps the counts of lanes by state up to date.
    fn report(&mut self) {
        let waits = self.pace.is_stalled();
        for slot in self.lanes.slots.values_mut() {
            let mut flags = slot.current_flags();
            flags.stalled |= waits && flags.assigned && !slot.buffer.is_empty();
            if flags != slot.flags {
                self.lanes.shared.status.change(slot.flags, flags);
                slot.flags = flags;
            }
        }
    }
}
