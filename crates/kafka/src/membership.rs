//! Membership in a consumer group: which partitions of a topic this process may work on. Reads nothing.

use std::collections::BTreeSet;
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
    /// Something failed that the client tries again by itself (no such topic, coordinator not there). Told once
    /// until something else fails.
    Error(String),
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
                events: events.clone(),
                share: Mutex::new(Share::new(Instant::now(), config.session_timeout * 2)),
            })
            .map_err(|error| KafkaError::client(&error))?;
        let topic = config.names.full(topic);
        consumer
            .subscribe(&[&topic])
            .map_err(|error| KafkaError::refused("joining the group", &error))?;

        let consumer = Arc::new(consumer);
        let stop = Arc::new(AtomicBool::new(false));
        let (done, stopped) = oneshot::channel();
        let polled = Arc::clone(&consumer);
        let should_stop = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("kafka-membership".to_owned())
            .spawn(move || {
                let mut last_error = String::new();
                while !should_stop.load(Ordering::Acquire) {
                    match polled.poll(POLL) {
                        // A message slipped through before the pause; PartitionEOF is no error.
                        None | Some(Ok(_) | Err(ClientError::PartitionEOF(_))) => {}
                        Some(Err(error)) => {
                            let error = error.to_string();
                            if error != last_error {
                                last_error.clone_from(&error);
                                // Nobody listens any more: then `stop` is about to be set.
                                let _unheard = events.send(MembershipEvent::Error(error));
                            }
                        }
                    }
                }
                // The handle gave its share away before it set `stop`; this one closes the client, which
                // leaves the group.
                drop(polled);
                let _unheard = done.send(());
            })
            .map_err(|error| KafkaError::client(&error))?;
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

struct MemberContext {
    observer: Observer,
    events: mpsc::UnboundedSender<MembershipEvent>,
    share: Mutex<Share>,
}

impl MemberContext {
    fn send(&self, event: MembershipEvent) {
        // A receiver that is gone has no partitions to give up.
        let _unheard = self.events.send(event);
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
            match paused {
                Ok(()) => self.change(|share| share.assigned(partitions, Instant::now())),
                Err(error) => self.send(MembershipEvent::Error(error.to_string())),
            }
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
            if let Err(error) = given {
                self.send(MembershipEvent::Error(error.to_string()));
            }
            self.change(|share| share.revoked(&partitions));
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(error = %error, "offset hint not taken");
        }
    }
}

/// Which partitions are this member's, and which of them its owner was told of.
///
/// The client gives its partitions up by itself when its heartbeats go unanswered, but not while it waits for the
/// group in a rebalance: cut off just then, it would hold on to them for as long as the network is gone, and
/// quarrel over their lanes with whoever has them since.
#[derive(Debug)]
struct Share {
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
    fn new(now: Instant, patience: Duration) -> Self {
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

    fn assigned(&mut self, partitions: Vec<i32>, now: Instant) {
        self.held.extend(partitions);
        self.joined = true;
        self.heard(true, now);
    }

    fn revoked(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.held.remove(partition);
        }
    }

    fn heard(&mut self, settled: bool, now: Instant) {
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
    fn announce(&mut self) -> Vec<MembershipEvent> {
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
        share.assigned(vec![0, 1], start);
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
        share.assigned(Vec::new(), start);
        assert_eq!(share.announce(), [MembershipEvent::Assigned(Vec::new())]);
        share.assigned(Vec::new(), start);
        assert_eq!(share.announce(), []);
        share.assigned(vec![2], start);
        assert_eq!(share.announce(), [MembershipEvent::Assigned(vec![2])]);
    }

    #[test]
    fn a_first_assignment_is_told_at_once_however_long_it_took() {
        let start = Instant::now();
        let mut share = Share::new(start, Duration::from_secs(6));
        share.heard(false, start + Duration::from_mins(1));
        share.assigned(vec![4], start + Duration::from_secs(61));
        assert_eq!(share.announce(), [MembershipEvent::Assigned(vec![4])]);
        share.revoked(&[4]);
        assert_eq!(share.announce(), [MembershipEvent::Revoked(vec![4])]);
    }
}
