//! Lanes in memory: what is made of what they are told, and of what they decide.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bm_engine::lane::{Decision, LastRecord, Publication, TakeAttempt};
use bm_engine::position::{ReadFrom, WrongLog};
use bm_engine::{Domain, Outbox, Record};
use bm_storage::LaneStore;
use futures::FutureExt;
use tokio::sync::mpsc;

use crate::Shared;
use crate::coordinator::Command;
use crate::flow::Flow;
use crate::slot::{Check, ReadToken, Reading, STALLED_AFTER, Slot};
use crate::take::{self, TakeError, Taken};

/// What a lane is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// The group gave us the partition.
    Assigned { partition: i32 },
    /// The group took it away.
    Revoked { partition: i32 },
    /// Records after this are of the reading with this token.
    ReadBegan { partition: i32, token: ReadToken },
    /// The partition cannot be read on from where it should be.
    ReadFailed { partition: i32, error: String },
    /// The next record read.
    Record(Record),
    /// A take ended.
    Took {
        partition: i32,
        attempt: TakeAttempt,
        result: Result<Taken, TakeError>,
    },
    /// A publication is acked.
    Acked {
        partition: i32,
        publication: Publication,
    },
    /// All lanes are to end after the batches under way.
    Finish,
}

impl Message {
    /// Of which lane it is; `None` where it is of all.
    pub(crate) fn partition(&self) -> Option<i32> {
        match self {
            Self::Assigned { partition }
            | Self::Revoked { partition }
            | Self::ReadBegan { partition, .. }
            | Self::ReadFailed { partition, .. }
            | Self::Took { partition, .. }
            | Self::Acked { partition, .. } => Some(*partition),
            Self::Record(record) => Some(record.partition),
            Self::Finish => None,
        }
    }
}

/// Some lanes of the process. Each is in one such set at a time: the dispatcher's, or a batch's.
pub(crate) struct Lanes<D: Domain, S> {
    pub(crate) shared: Arc<Shared<D, S>>,
    pub(crate) slots: BTreeMap<i32, Slot<D::Key, D::State>>,
    /// What comes of what is begun for a lane goes to the dispatcher.
    sender: mpsc::UnboundedSender<Message>,
    commands: mpsc::UnboundedSender<Command>,
}

impl<D: Domain, S: LaneStore<D>> Lanes<D, S> {
    /// None yet.
    pub(crate) fn new(
        shared: Arc<Shared<D, S>>,
        sender: mpsc::UnboundedSender<Message>,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        Self {
            shared,
            slots: BTreeMap::new(),
            sender,
            commands,
        }
    }

    /// Takes these lanes out, for a batch.
    pub(crate) fn lend(&mut self, partitions: impl IntoIterator<Item = i32>) -> Self {
        let lent = partitions.into_iter().filter_map(|partition| {
            let slot = self.slots.remove(&partition)?;
            Some((partition, slot))
        });
        let slots = lent.collect();
        Self {
            shared: Arc::clone(&self.shared),
            slots,
            sender: self.sender.clone(),
            commands: self.commands.clone(),
        }
    }

    /// Does what a message says of its lane, which must be here.
    pub(crate) fn handle(&mut self, message: Message) {
        match message {
            Message::Assigned { partition } => {
                let decision = self.slot(partition).lane.assigned();
                self.carry_out(partition, decision, None);
            }
            Message::Revoked { partition } => {
                let slot = self.slot(partition);
                slot.given_up();
                let decision = slot.lane.revoked();
                self.carry_out(partition, decision, None);
            }
            Message::ReadBegan { partition, token } => {
                let slot = self.slot(partition);
                if let Reading::Asked {
                    token: asked,
                    check,
                } = slot.reading
                    && asked == token
                {
                    slot.reading = check.map_or(Reading::Running, Reading::Checking);
                }
            }
            Message::ReadFailed { partition, error } => {
                tracing::error!(
                    processor = D::PROCESSOR,
                    partition,
                    error,
                    "cannot read on; the lane begins again from its row"
                );
                self.retake(partition);
            }
            Message::Record(record) => self.read(record),
            Message::Took {
                partition,
                attempt,
                result,
            } => self.took(partition, attempt, result),
            Message::Acked {
                partition,
                publication,
            } => {
                let slot = self.slot(partition);
                slot.lane.acked(publication);
                if slot.lane.may_commit().is_some() {
                    slot.publishing = None;
                }
            }
            // Of no lane.
            Message::Finish => {}
        }
    }

    pub(crate) fn slot(&mut self, partition: i32) -> &mut Slot<D::Key, D::State> {
        let intake = &self.shared.intake;
        self.slots
            .entry(partition)
            .or_insert_with(|| Slot::new(D::CACHE_BYTES_PER_LANE, Flow::new(Arc::clone(intake))))
    }

    pub(crate) fn retake(&mut self, partition: i32) {
        let slot = self.slot(partition);
        slot.set_back();
        let decision = slot.lane.retake();
        self.carry_out(partition, decision, None);
    }

    fn read(&mut self, record: Record) {
        let partition = record.partition;
        let size = record.footprint();
        let slot = self.slot(partition);
        match slot.reading {
            Reading::Running => slot.buffer.push(record),
            Reading::Checking(Check { offset, expected }) => {
                let resume = slot.flow.remove(size);
                if record.offset == offset && expected == LastRecord::of(&record) {
                    slot.reading = Reading::Running;
                } else {
                    let error = WrongLog::OtherRecord { cursor: offset + 1 };
                    self.halt(partition, &error.to_string());
                }
                if resume {
                    self.command(Command::Resume { partition });
                }
            }
            // Of an older reading.
            Reading::None | Reading::Asked { .. } => {}
        }
    }

    fn took(&mut self, partition: i32, attempt: TakeAttempt, result: Result<Taken, TakeError>) {
        let slot = self.slot(partition);
        if !slot.lane.awaits(attempt) {
            return;
        }
        slot.taking = None;
        match result {
            Ok(taken) => {
                slot.failed_takes = 0;
                slot.generation = taken.row.generation;
                slot.watermarks = taken.row.watermarks;
                let decision = slot
                    .lane
                    .taken(attempt, taken.row.epoch, taken.row.next_offset);
                tracing::info!(
                    processor = D::PROCESSOR,
                    partition,
                    epoch = taken.row.epoch,
                    cursor = taken.row.next_offset,
                    republished = taken.row.outbox.messages.len(),
                    "lane taken"
                );
                match taken.from {
                    Ok(from) => {
                        self.start_reading(partition, from);
                        self.carry_out(partition, decision, Some(taken.row.outbox));
                    }
                    Err(wrong) => {
                        // What was committed is owed to the readers all the same.
                        let published = self
                            .shared
                            .publisher
                            .publish(Arc::new(taken.row.outbox.messages));
                        tokio::spawn(published);
                        self.halt(partition, &wrong.to_string());
                    }
                }
            }
            Err(error) if error.halts() => self.halt(partition, &error.to_string()),
            Err(error) => {
                slot.failed_takes += 1;
                if error.is_transient() && slot.failed_takes < STALLED_AFTER {
                    tracing::warn!(processor = D::PROCESSOR, partition, error = %error, tries = slot.failed_takes, "could not take the lane; trying again");
                } else {
                    tracing::error!(processor = D::PROCESSOR, partition, error = %error, tries = slot.failed_takes, "LANE STALLED: could not take the lane, and may not until someone acts; trying again");
                }
                let decision = slot.lane.take_failed(attempt);
                self.carry_out(partition, decision, None);
            }
        }
    }

    fn halt(&mut self, partition: i32, error: &str) {
        tracing::error!(
            processor = D::PROCESSOR,
            partition,
            error,
            "LANE HALTED: it applies nothing until this is resolved and the process is started again"
        );
        let slot = self.slot(partition);
        // What was committed is owed to the readers all the same: it goes on being published.
        slot.publishing = None;
        let decision = slot.lane.halt();
        self.carry_out(partition, decision, None);
    }

    fn start_reading(&mut self, partition: i32, from: ReadFrom) {
        let slot = self.slot(partition);
        let (offset, check) = match from {
            ReadFrom::Cursor(offset) => (offset, None),
            ReadFrom::Before { offset, expected } => (offset, Some(Check { offset, expected })),
        };
        slot.last_token = slot.last_token.next();
        let token = slot.last_token;
        slot.reading = Reading::Asked { token, check };
        let flow = Arc::clone(&slot.flow);
        self.command(Command::Read {
            partition,
            offset,
            token,
            flow,
        });
    }

    pub(crate) fn command(&self, command: Command) {
        // A coordinator that is gone is about to end the dispatcher too.
        let _ = self.commands.send(command);
    }

    /// Does what the lane decided. `outbox` is what a publication publishes.
    pub(crate) fn carry_out(&mut self, partition: i32, decision: Decision, outbox: Option<Outbox>) {
        match decision {
            Decision::Nothing => {}
            Decision::Forget => {
                self.slot(partition).forget();
                self.command(Command::Stop { partition });
            }
            Decision::ForgetAndTake { attempt, backoff } => {
                let slot = self.slot(partition);
                slot.forget();
                let wait = backoff.then(|| take::backoff(slot.in_vain()));
                self.command(Command::Stop { partition });
                let shared = Arc::clone(&self.shared);
                let sender = self.sender.clone();
                let task = tokio::spawn(async move {
                    if let Some(wait) = wait {
                        tokio::time::sleep(wait).await;
                    }
                    let taking = AssertUnwindSafe(take::take(&shared, partition)).catch_unwind();
                    // A panic must not leave the lane waiting for ever.
                    let result = taking.await.unwrap_or(Err(TakeError::Panicked));
                    let _ = sender.send(Message::Took {
                        partition,
                        attempt,
                        result,
                    });
                });
                self.slot(partition).taking = Some(task.abort_handle());
            }
            Decision::Publish { publication } => {
                let messages = outbox.unwrap_or_default().messages;
                let slot = self.slot(partition);
                if messages.is_empty() {
                    slot.lane.acked(publication);
                    return;
                }
                let published = self.shared.publisher.publish(Arc::new(messages));
                let sender = self.sender.clone();
                let task = tokio::spawn(async move {
                    published.await;
                    let _ = sender.send(Message::Acked {
                        partition,
                        publication,
                    });
                });
                self.slot(partition).publishing = Some(task.abort_handle());
            }
        }
    }
}
