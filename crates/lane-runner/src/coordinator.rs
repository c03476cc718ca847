//! One loop that owns reading and group membership, and hands everything to the lanes' dispatcher.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bm_kafka::{Fetched, Fetcher, KafkaError, Membership, MembershipEvent, OutboxPublisher};
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::RunnerError;
use crate::flow::{Flow, Intake};
use crate::lanes::Message;
use crate::metrics::LaneGauges;
use crate::slot::ReadToken;
use crate::status::RunnerStatus;

/// What lanes ask of the coordinator.
#[derive(Debug)]
pub(crate) enum Command {
    /// Read the partition from `offset` on; records after [`Message::ReadBegan`] are of this reading.
    Read {
        partition: i32,
        offset: i64,
        token: ReadToken,
        flow: Arc<Flow>,
    },
    /// Stop reading it.
    Stop { partition: i32 },
    /// Its backlog is small again.
    Resume { partition: i32 },
    /// Its cursor moved; told to the group once a second, for lag tools.
    Moved { partition: i32, next_offset: i64 },
}

pub(crate) struct Coordinator {
    fetcher: Arc<Fetcher>,
    membership: Membership,
    events: mpsc::UnboundedReceiver<MembershipEvent>,
    commands: mpsc::UnboundedReceiver<Command>,
    dispatcher: mpsc::UnboundedSender<Message>,
    flows: BTreeMap<i32, Arc<Flow>>,
    intake: Arc<Intake>,
    /// Cursors not yet told to the group.
    moved: BTreeMap<i32, i64>,
    /// Lanes that held records at the last look and had not moved since the one before.
    unmoved: BTreeSet<i32>,
    status: Arc<RunnerStatus>,
    processor: &'static str,
    /// Of the topic read, when the processor started.
    partition_count: i32,
    gauges: LaneGauges,
}

/// So many records are passed on before anything else is looked at.
const READ_AT_ONCE: usize = 64;

/// How often the topic's partitions are counted: nothing else tells a lane that runs of a change.
const RECOUNT: Duration = Duration::from_secs(10);

/// Resolves when the topic has another number of partitions than `known`, with that number, or when
/// the broker refuses to tell for a reason that will not pass.
async fn recount(fetcher: Arc<Fetcher>, known: i32) -> Result<i32, KafkaError> {
    loop {
        tokio::time::sleep(RECOUNT).await;
        match fetcher.partition_count().await {
            Ok(found) if found != known => return Ok(found),
            Err(error) if error.is_lasting() => return Err(error),
            // Where the broker cannot be asked now, it takes no records either.
            Ok(_) | Err(_) => {}
        }
    }
}

impl Coordinator {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts that the runner has made, each used once"
    )]
    pub(crate) fn new(
        fetcher: Arc<Fetcher>,
        membership: Membership,
        events: mpsc::UnboundedReceiver<MembershipEvent>,
        commands: mpsc::UnboundedReceiver<Command>,
        dispatcher: mpsc::UnboundedSender<Message>,
        status: Arc<RunnerStatus>,
        processor: &'static str,
        partition_count: i32,
        intake: Arc<Intake>,
    ) -> Self {
        Self {
            fetcher,
            membership,
            events,
            commands,
            dispatcher,
            flows: BTreeMap::new(),
            intake,
            moved: BTreeMap::new(),
            unmoved: BTreeSet::new(),
            status,
            processor,
            partition_count,
            gauges: LaneGauges::new(processor),
        }
    }

    pub(crate) async fn run(
        mut self,
        shutdown: &CancellationToken,
        tasks: &mut JoinSet<()>,
        publisher: &OutboxPublisher,
    ) -> Result<(), RunnerError> {
        let mut hints = tokio::time::interval(Duration::from_secs(1));
        hints.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reader = Arc::clone(&self.fetcher);
        let recounted = recount(Arc::clone(&reader), self.partition_count);
        tokio::pin!(recounted);
        let failed = loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break None,
                Some(ended) = tasks.join_next() => {
                    break Some(ended.err().map_or_else(|| "the dispatcher returned".to_owned(), |e| e.to_string()));
                }
                event = self.events.recv() => match event {
                    Some(event) => if let Some(fatal) = self.membership_changed(event) {
                        break Some(format!("group membership failed for good: {fatal}"));
                    },
                    None => break Some("group membership ended".to_owned()),
                },
                () = publisher.stopped() => break Some("the lanes' publisher ended".to_owned()),
                Some(command) = self.commands.recv() => self.obey(command),
                _ = hints.tick() => {
                    self.pause_idle();
                    self.send_hints();
                    self.gauges.show(&self.status);
                }
                found = &mut recounted => {
                    let known = self.recounted(found);
                    recounted.set(recount(Arc::clone(&reader), known));
                }
                fetched = reader.recv(), if self.has_room() => {
                    if let Some(fatal) = self.fetched_with_more(fetched, &reader) {
                        break Some(format!("reading failed for good: {fatal}"));
                    }
                    // A long backlog is always there to be read: the lanes need a turn, too.
                    tokio::task::yield_now().await;
                }
            }
        };
        self.send_hints();
        let _ = self.dispatcher.send(Message::Finish);
        while let Some(ended) = tasks.join_next().await {
            if let Err(e) = ended {
                tracing::error!(processor = self.processor, error = %e, "the dispatcher ended unexpectedly");
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
        self.send_hints();
        self.gauges.show(&self.status);
        self.membership.leave().await;
        match failed {
            Some(reason) => Err(RunnerError::CannotGoOn(reason)),
            None => Ok(()),
        }
    }

    fn tell(&self, message: Message) {
        // A dispatcher that is gone is noticed by join_next.
        let _ = self.dispatcher.send(message);
    }

    /// Passes on what the group decided; gives the reason why it cannot be a member any more.
    fn membership_changed(&mut self, event: MembershipEvent) -> Option<String> {
        match event {
            MembershipEvent::Assigned(partitions) => {
                self.status.joined();
                tracing::info!(
                    processor = self.processor,
                    ?partitions,
                    "partitions assigned"
                );
                for partition in partitions {
                    self.tell(Message::Assigned { partition });
                }
            }
            MembershipEvent::Revoked(partitions) => {
                tracing::info!(
                    processor = self.processor,
                    ?partitions,
                    running = self.status.running(),
                    "partitions revoked"
                );
                for partition in partitions {
                    self.moved.remove(&partition);
                    self.tell(Message::Revoked { partition });
                }
            }
            MembershipEvent::Error(error) => {
                tracing::warn!(
                    processor = self.processor,
                    error,
                    "group membership has a problem"
                );
            }
            MembershipEvent::Refused(error) => {
                tracing::error!(
                    processor = self.processor,
                    error,
                    "group membership has a problem that will not pass until someone acts"
                );
                self.status.refused();
            }
            MembershipEvent::Fatal(error) => return Some(error),
        }
        None
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Read {
                partition,
                offset,
                token,
                flow,
            } => {
                self.flows.insert(partition, flow);
                match self.fetcher.assign(partition, offset) {
                    Ok(()) => self.tell(Message::ReadBegan { partition, token }),
                    Err(e) => self.tell(Message::ReadFailed {
                        partition,
                        error: e.to_string(),
                    }),
                }
            }
            Command::Stop { partition } => {
                self.flows.remove(&partition);
                if let Err(e) = self.fetcher.unassign(partition) {
                    tracing::warn!(processor = self.processor, partition, error = %e, "could not stop reading");
                }
            }
            Command::Resume { partition } => {
                if let Some(flow) = self.flows.get(&partition)
                    && flow.may_resume()
                {
                    flow.set_paused(false);
                    if let Err(e) = self.fetcher.resume(partition) {
                        self.tell(Message::ReadFailed {
                            partition,
                            error: e.to_string(),
                        });
                    }
                }
            }
            Command::Moved {
                partition,
                next_offset,
            } => {
                self.moved.insert(partition, next_offset);
            }
        }
    }

    /// Keys go to other partitions than their state: every lane looks at its row again, and halts.
    /// Gives the number of partitions now.
    fn recounted(&self, found: Result<i32, KafkaError>) -> i32 {
        match found {
            Ok(found) => {
                self.fail_all(&format!(
                    "the topic has {found} partitions now, it had {} when the processor started",
                    self.partition_count
                ));
                found
            }
            Err(error) => {
                self.fail_all(&error.to_string());
                self.partition_count
            }
        }
    }

    /// No lane can be read on: each begins again from its row, and counts as stalled while it cannot.
    fn fail_all(&self, error: &str) {
        for &partition in self.flows.keys() {
            self.tell(Message::ReadFailed {
                partition,
                error: error.to_owned(),
            });
        }
    }

    /// Passes on what was read, and some of what is there already; gives the reason why nothing can be
    /// read any more.
    fn fetched_with_more(&mut self, first: Fetched, reader: &Fetcher) -> Option<String> {
        let mut next = Some(first);
        for _ in 1..READ_AT_ONCE {
            let fetched = next?;
            if let Some(fatal) = self.fetched(fetched) {
                return Some(fatal);
            }
            if !self.has_room() {
                return None;
            }
            next = reader.recv().now_or_never();
        }
        next.and_then(|last| self.fetched(last))
    }

    /// Passes on what was read; gives the reason why nothing can be read any more.
    fn fetched(&mut self, fetched: Fetched) -> Option<String> {
        match fetched {
            Fetched::Record(record) => {
                let partition = record.partition;
                let flow = self.flows.get(&partition)?;
                flow.add(record.footprint());
                if flow.must_pause() && !self.has_room() {
                    self.pause(partition);
                }
                self.tell(Message::Record(record));
            }
            Fetched::OutOfRange { partition, error } | Fetched::Failed { partition, error } => {
                self.tell(Message::ReadFailed { partition, error });
            }
            Fetched::Refused { error } => {
                tracing::error!(
                    processor = self.processor,
                    error,
                    "reading has a problem that will not pass until someone acts"
                );
                self.fail_all(&error);
            }
            Fetched::Transient { error } => {
                tracing::warn!(
                    processor = self.processor,
                    error,
                    "reading has a problem; the client goes on by itself"
                );
            }
            Fetched::Fatal { error } => return Some(error),
        }
        None
    }

    /// Whether the lanes hold so little that more may be read.
    fn has_room(&self) -> bool {
        let paused = self.flows.values().filter(|flow| flow.is_paused());
        self.intake.has_room(paused.map(Arc::as_ref))
    }

    /// When there is no room, pauses the lanes that have not moved for a second and more: what they hold
    /// would keep the others from being read.
    fn pause_idle(&mut self) {
        let unmoved: BTreeSet<i32> = (self.flows.iter())
            .filter(|(partition, flow)| {
                flow.bytes() > 0 && !flow.is_paused() && !self.moved.contains_key(partition)
            })
            .map(|(partition, _)| *partition)
            .collect();
        let before = std::mem::replace(&mut self.unmoved, unmoved);
        if self.has_room() {
            return;
        }
        let idle: Vec<i32> = before.intersection(&self.unmoved).copied().collect();
        for partition in idle {
            self.pause(partition);
        }
    }

    fn pause(&mut self, partition: i32) {
        let Some(flow) = self.flows.get(&partition) else {
            return;
        };
        let held = flow.bytes();
        // Who has nothing to commit would never ask to go on.
        if held == 0 {
            return;
        }
        flow.set_paused(true);
        if let Err(e) = self.fetcher.pause(partition) {
            // Its records would go on coming, and count nowhere.
            let error = e.to_string();
            self.tell(Message::ReadFailed { partition, error });
            return;
        }
        // It may have come on between the look and the mark, and asks no more.
        if flow.bytes() < held {
            self.obey(Command::Resume { partition });
        }
    }

    fn send_hints(&mut self) {
        if !self.moved.is_empty() {
            let offsets: Vec<_> = std::mem::take(&mut self.moved).into_iter().collect();
            self.membership.commit_hint(&offsets);
        }
    }
}
