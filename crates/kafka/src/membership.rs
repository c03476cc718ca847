//! Membership in a consumer group: which partitions of a topic this process may work on. Reads nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bm_contracts::Topic;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError as ClientError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use crate::config::KafkaConfig;
use crate::error::KafkaError;
use crate::observer::Observer;
use crate::refusal;
use crate::share::Share;

/// How often the client is polled at least, and how soon it hears that it is to leave.
const POLL: Duration = Duration::from_millis(100);
/// Leaving a group talks to its coordinator; a dead one must not hold up a shutdown for longer.
const LEAVE: Duration = Duration::from_secs(10);

/// What the group decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipEvent {
    /// These partitions, besides those it had, are this member's. Told once with none when it joins a group that
    /// has none for it.
    Assigned(Vec<i32>),
    /// These are its no longer: given away, lost because the group took it for dead, or given up because nothing
    /// was heard of the group for twice the session timeout.
    Revoked(Vec<i32>),
    /// Something failed that the client tries again by itself (coordinator not there). Told once until something
    /// else fails.
    Error(String),
    /// Something failed that will not pass until somebody acts (no such topic, no right to the group), with what is
    /// to be done. The client tries again by itself. Told once until something else fails.
    Refused(String),
    /// This member cannot go on: what the group counts as its own may have no owner until it leaves.
    Fatal(String),
}

/// A member of a group, until it leaves or is dropped.
pub struct Membership {
    topic: String,
    /// `None` once it leaves.
    consumer: Option<Arc<BaseConsumer<MemberContext>>>,
    stop: Arc<AtomicBool>,
    stopped: Option<oneshot::Receiver<()>>,
}

impl Membership {
    /// Joins `group` for the partitions of `topic`; what it gets comes as events, in order.
    ///
    /// The events end when the member has left, or when its thread did: by a panic, if nobody made it leave.
    ///
    /// The group moves partitions one by one (cooperative-sticky): a rebalance takes away only what moves.
    pub fn join(
        config: &KafkaConfig,
        group: &str,
        topic: Topic,
    ) -> Result<(Self, mpsc::UnboundedReceiver<MembershipEvent>), KafkaError> {
        let (events, receiver) = mpsc::unbounded_channel();
        let session = config.session_timeout.as_millis();
        let consumer: BaseConsumer<MemberContext> = config
            .client()
            .set("group.id", group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", session.to_string())
            .set(
                "heartbeat.interval.ms",
                (session / 5).clamp(100, 1_000).to_string(),
            )
            // How long the group waits for a member in a rebalance; ours answer at once.
            .set(
                "max.poll.interval.ms",
                (session * 3).max(30_000).to_string(),
            )
            // Tells whether the group is still heard of.
            .set("statistics.interval.ms", "1000")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "latest")
            // It never reads: what slips through before the pause is little, and thrown away.
            .set("queued.min.messages", "1")
            .set("queued.max.messages.kbytes", "1")
            .set("fetch.message.max.bytes", "1024")
            .create_with_context(MemberContext {
                observer: Observer::new(format!("group {group}")),
                events: events.downgrade(),
                share: Mutex::new(Share::new(Instant::now(), config.session_timeout * 2)),
            })
            .map_err(|error| KafkaError::client(&error))?;
        let topic = config.names.full(topic);
        consumer
            .subscribe(&[&topic])
            .map_err(|error| KafkaError::refused("joining the group", &error))?;

        let consumer = Arc::new(consumer);
        let stop = Arc::new(AtomicBool::new(false));
        let polled = Arc::clone(&consumer);
        let poll = move || polled.poll(POLL).map(|polled| polled.map(drop));
        let stopped = spawn_poller(poll, Arc::clone(&stop), events)
            .map_err(|error| KafkaError::Client(error.to_string()))?;
        Ok((
            Self {
                topic,
                consumer: Some(consumer),
                stop,
                stopped: Some(stopped),
            },
            receiver,
        ))
    }

    /// Tells the broker how far (next offset to be read) partitions are, for tools that show lag.
    ///
    /// Only a hint: it is not waited for, and what fails is logged and forgotten.
    pub fn commit_hint(&self, next_offsets: &[(i32, i64)]) {
        let Some(consumer) = self.consumer.as_ref().filter(|_| !next_offsets.is_empty()) else {
            return;
        };
        let mut list = TopicPartitionList::with_capacity(next_offsets.len());
        let committed = next_offsets
            .iter()
            .try_for_each(|&(partition, next)| {
                list.add_partition_offset(&self.topic, partition, Offset::Offset(next))
            })
            .and_then(|()| consumer.commit(&list, CommitMode::Async));
        if let Err(error) = committed {
            tracing::debug!(topic = %self.topic, error = %error, "offset hint not taken");
        }
    }

    /// Leaves the group, so that the others need not wait for the session to time out. At most 10 s.
    pub async fn leave(mut self) {
        self.begin_to_leave();
        if let Some(stopped) = self.stopped.take()
            && tokio::time::timeout(LEAVE, stopped).await.is_err()
        {
            tracing::warn!(topic = %self.topic, "the group's coordinator does not answer; leaving without it");
        }
    }

    fn begin_to_leave(&mut self) {
        self.consumer = None;
        self.stop.store(true, Ordering::Release);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.begin_to_leave();
    }
}

/// Polls the client on a thread of its own until it is to stop. The receiver resolves when the client is closed.
fn spawn_poller(
    mut poll: impl FnMut() -> Option<KafkaResult<()>> + Send + 'static,
    stop: Arc<AtomicBool>,
    events: mpsc::UnboundedSender<MembershipEvent>,
) -> std::io::Result<oneshot::Receiver<()>> {
    let (done, stopped) = oneshot::channel();
    let run = move || {
        let mut last = None;
        while !stop.load(Ordering::Acquire) {
            // A message slipped through before the pause.
            let Some(Err(error)) = poll() else { continue };
            let told = trouble(&error);
            if told.is_some() && told != last {
                last.clone_from(&told);
                // Nobody listens any more: then `stop` is about to be set.
                let _unheard = told.map(|event| events.send(event));
            }
        }
        // The handle gave its share away before it set `stop`; this one closes the client, which leaves the group
        // and tells what it gave up. The events end after that.
        drop(poll);
        drop(events);
        let _unheard = done.send(());
    };
    std::thread::Builder::new()
        .name("kafka-membership".to_owned())
        .spawn(run)?;
    Ok(stopped)
}

/// What the owner must know of `error`.
fn trouble(error: &ClientError) -> Option<MembershipEvent> {
    match error {
        ClientError::PartitionEOF(_) => None,
        ClientError::MessageConsumptionFatal(_) => Some(MembershipEvent::Fatal(error.to_string())),
        _ => Some(match refusal::explain(error) {
            (error, true) => MembershipEvent::Refused(error),
            (error, false) => MembershipEvent::Error(error),
        }),
    }
}

struct MemberContext {
    observer: Observer,
    /// The polling thread's: events end with it, however it ends.
    events: mpsc::WeakUnboundedSender<MembershipEvent>,
    share: Mutex<Share>,
}

impl MemberContext {
    fn send(&self, event: MembershipEvent) {
        // A receiver that is gone has no partitions to give up.
        let _unheard = self.events.upgrade().map(|events| events.send(event));
    }

    /// The client has done, or refused to do, what the group decided; refused, nobody would work on `partitions`.
    fn carried_out(&self, done: KafkaResult<()>, what: &str, partitions: &[i32]) {
        if let Err(error) = done {
            self.send(MembershipEvent::Fatal(format!(
                "the client did not {what} partitions {partitions:?}: {error}"
            )));
        }
    }

    /// Changes what is held and tells the difference, in one step, so that events come in order.
    fn change(&self, change: impl FnOnce(&mut Share)) {
        let mut share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut share);
        for event in share.announce() {
            self.send(event);
        }
    }
}

/// The part of the client's statistics that tells how it stands with the group.
#[derive(Deserialize)]
struct Statistics {
    cgrp: Option<GroupStatistics>,
}

#[derive(Deserialize)]
struct GroupStatistics {
    state: String,
    join_state: String,
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.observer.log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.observer.error(error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(Statistics { cgrp: Some(group) }) = serde_json::from_slice(statistics) else {
            return;
        };
        let settled = group.state == "up" && group.join_state == "steady";
        self.change(|share| share.heard(settled, Instant::now()));
    }
}

impl ConsumerContext for MemberContext {
    /// Accepts what the group decided and passes it on. Runs on the polling thread and never waits for anybody:
    /// whoever works on a revoked partition is held off by its lane's epoch, not by us.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions: Vec<i32> = list
            .elements()
            .iter()
            .map(TopicPartitionListElem::partition)
            .collect();
        let cooperative = matches!(
            consumer.rebalance_protocol(),
            RebalanceProtocol::Cooperative
        );
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let accepted = if cooperative {
                consumer.incremental_assign(list)
            } else {
                consumer.assign(list)
            };
            // At once, before the first fetch goes out: its start offset must be asked for first.
            let paused = accepted.and_then(|()| match partitions[..] {
                [] => Ok(()),
                _ => consumer.pause(list),
            });
            if paused.is_ok() {
                self.change(|share| share.assigned(&partitions, Instant::now()));
            }
            self.carried_out(paused, "take", &partitions);
        } else {
            if consumer.assignment_lost() {
                tracing::warn!(
                    ?partitions,
                    "the group took this member for dead; its partitions are lost"
                );
            }
            let given = if cooperative {
                consumer.incremental_unassign(list)
            } else {
                consumer.unassign()
            };
            self.change(|share| share.revoked(&partitions));
            self.carried_out(given, "give away", &partitions);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(error = %error, "offset hint not taken");
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode;

    use super::*;

    fn context() -> (
        MemberContext,
        mpsc::UnboundedSender<MembershipEvent>,
        mpsc::UnboundedReceiver<MembershipEvent>,
    ) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let context = MemberContext {
            observer: Observer::new("test"),
            events: sender.downgrade(),
            share: Mutex::new(Share::new(Instant::now(), Duration::from_secs(6))),
        };
        (context, sender, receiver)
    }

    #[tokio::test]
    async fn the_events_of_a_member_whose_thread_panics_end() {
        let (context, sender, mut events) = context();
        let poll = || panic!("as a bug would");
        let stopped = spawn_poller(poll, Arc::default(), sender).unwrap();
        let next = tokio::time::timeout(Duration::from_mins(1), events.recv());
        assert_eq!(next.await.unwrap(), None);
        assert!(stopped.await.is_err());
        // The client, and the context with it, is still there.
        context.send(MembershipEvent::Assigned(Vec::new()));
    }

    #[tokio::test]
    async fn a_failure_for_good_is_told_apart_and_each_is_told_once() {
        let mut errors = [
            ClientError::MessageConsumption(RDKafkaErrorCode::CoordinatorNotAvailable),
            ClientError::MessageConsumption(RDKafkaErrorCode::CoordinatorNotAvailable),
            ClientError::MessageConsumption(RDKafkaErrorCode::GroupAuthorizationFailed),
            ClientError::PartitionEOF(0),
            ClientError::MessageConsumptionFatal(RDKafkaErrorCode::FencedInstanceId),
        ]
        .into_iter();
        let (_context, sender, mut events) = context();
        let stop = Arc::new(AtomicBool::new(false));
        let should_stop = Arc::clone(&stop);
        let poll = move || {
            let error = errors.next();
            stop.store(error.is_none(), Ordering::Release);
            error.map(Err)
        };
        spawn_poller(poll, should_stop, sender)
            .unwrap()
            .await
            .unwrap();
        let mut told = Vec::new();
        while let Ok(event) = events.try_recv() {
            told.push(event);
        }
        let [
            MembershipEvent::Error(_),
            MembershipEvent::Refused(refused),
            MembershipEvent::Fatal(_),
        ] = &told[..]
        else {
            panic!("{told:?}");
        };
        assert!(refused.contains("consumer group (ACL)"), "{refused}");
    }

    #[test]
    fn an_assignment_the_client_does_not_take_is_fatal() {
        let (context, _sender, mut events) = context();
        context.carried_out(Ok(()), "take", &[1]);
        let refused = ClientError::Subscription("no".to_owned());
        context.carried_out(Err(refused), "take", &[1]);
        let Ok(MembershipEvent::Fatal(error)) = events.try_recv() else {
            panic!("it is told");
        };
        assert!(error.contains("take partitions [1]"), "{error}");
    }
}
