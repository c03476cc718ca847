//! Reads partitions of one topic from exact offsets, as told; knows nothing of groups.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bm_contracts::Topic;
use bm_engine::Record;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;

use crate::background::{blocking, drop_in_background};
use crate::config::KafkaConfig;
use crate::convert;
use crate::error::KafkaError;
use crate::metrics::{GAPS, describe_fetcher};
use crate::observer::Observer;
use crate::position::{Positions, Verdict};
use crate::refusal;

/// How long a broker may take to answer a question about a partition.
const ASK: Duration = Duration::from_secs(5);

/// What reading gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The next record of an assigned partition.
    Record(Record),
    /// The partition's next offset lies outside the log. It gives nothing more until it is assigned anew.
    OutOfRange {
        /// Which partition.
        partition: i32,
        /// Where it was to be read, and what the log holds.
        error: String,
    },
    /// The client could not go on with the partition. It gives nothing more until it is assigned anew.
    Failed {
        /// Which partition.
        partition: i32,
        /// Why.
        error: String,
    },
    /// The topic is not to be read, wholly or in part, until somebody acts: it is gone, or a right to it is missing.
    ///
    /// The client does not say which partition it is, and tries again by itself; it may say so only once.
    Refused {
        /// Why, and what is to be done.
        error: String,
    },
    /// Something failed that the client tries again by itself.
    Transient {
        /// What.
        error: String,
    },
    /// The client cannot be used any more.
    Fatal {
        /// Why.
        error: String,
    },
}

impl Fetched {
    fn failed(partition: i32, error: &KafkaError) -> Self {
        Self::Failed {
            partition,
            error: error.to_string(),
        }
    }
}

/// Reads assigned partitions of one topic.
///
/// A record that [`Fetcher::recv`] gives after a call of [`Fetcher::assign`] or [`Fetcher::unassign`] returned
/// never belongs to an assignment before it. Calls other than `recv` take effect at once; they ask a thread of
/// the client, not the broker.
pub struct Fetcher {
    shared: Arc<Shared>,
}

struct Shared {
    consumer: Mutex<Option<Arc<StreamConsumer<Observer>>>>,
    topic: String,
    positions: Mutex<Positions>,
    findings: Mutex<VecDeque<Finding>>,
    found: Notify,
}

/// What was found besides receiving.
struct Finding {
    partition: i32,
    /// The partition's assignment when it was found (`None`: it had lost it); of another it says nothing.
    assignment: Option<u64>,
    what: Fetched,
}

impl Fetcher {
    /// A reader of `topic` without partitions. `client_name` names it in the broker's and in our logs.
    pub fn new(config: &KafkaConfig, client_name: &str, topic: Topic) -> Result<Self, KafkaError> {
        describe_fetcher();
        let consumer = config
            .client()
            .set("client.id", client_name)
            // Demanded by the library; no group is joined and nothing is committed under it.
            .set("group.id", client_name)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            // A fetch returns as soon as there is one byte. A partition that joins must wait for the fetch that
            // is under way, so it is short.
            .set("fetch.min.bytes", "1")
            .set("fetch.wait.max.ms", "50")
            .set("fetch.error.backoff.ms", "100")
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.max.bytes", "16777216")
            // Packed bytes: some hundred records, and at least one batch of whatever size. A partition's share of
            // an answer is read in one piece: larger ones would fill the lanes' intake with records of few
            // partitions.
            .set("fetch.message.max.bytes", "131072")
            .set("queued.min.messages", "10000")
            .set("queued.max.messages.kbytes", "16384")
            .create_with_context(Observer::new(client_name))
            .map_err(|error| KafkaError::client(&error))?;
        Ok(Self {
            shared: Arc::new(Shared {
                consumer: Mutex::new(Some(Arc::new(consumer))),
                topic: config.names.full(topic),
                positions: Mutex::default(),
                findings: Mutex::default(),
                found: Notify::new(),
            }),
        })
    }

    /// Reads `partition` from `offset` on, from now; what it was assigned to before is over.
    pub fn assign(&self, partition: i32, offset: i64) -> Result<(), KafkaError> {
        let consumer = self.shared.consumer()?;
        // Held to the end, like wherever the client is told something: its view and ours change as one.
        let mut positions = lock(&self.shared.positions);
        if let Some(paused) = positions.unassign(partition) {
            self.shared.stop(&consumer, partition, paused)?;
        }
        self.shared
            .start(&consumer, partition, offset)
            .inspect_err(|_| self.shared.clear(&consumer, partition))?;
        positions.assign(partition, offset);
        Ok(())
    }

    /// Reads `partition` no more. Does nothing when it is not assigned.
    pub fn unassign(&self, partition: i32) -> Result<(), KafkaError> {
        let consumer = self.shared.consumer()?;
        let mut positions = lock(&self.shared.positions);
        let Some(paused) = positions.unassign(partition) else {
            return Ok(());
        };
        self.shared.stop(&consumer, partition, paused)
    }

    /// Reads `partition` no further for now; it keeps its place. Does nothing when it is not assigned.
    pub fn pause(&self, partition: i32) -> Result<(), KafkaError> {
        let consumer = self.shared.consumer()?;
        let mut positions = lock(&self.shared.positions);
        if positions.pause(partition) {
            consumer
                .pause(&self.shared.list(partition))
                .map_err(|error| KafkaError::refused("pausing a partition", &error))?;
        }
        Ok(())
    }

    /// Goes on with `partition` where it was paused.
    pub fn resume(&self, partition: i32) -> Result<(), KafkaError> {
        let consumer = self.shared.consumer()?;
        let mut positions = lock(&self.shared.positions);
        let Some(next) = positions.resume(partition) else {
            return Ok(());
        };
        // A client all of whose partitions were paused sleeps for up to a second, and its own resumption does
        // not wake it.
        self.shared
            .reassign(&mut positions, &consumer, partition, next, false)
    }

    /// The next record or trouble of any assigned partition. Loses nothing when dropped before it is ready.
    pub async fn recv(&self) -> Fetched {
        let consumer = match self.shared.consumer() {
            Ok(consumer) => consumer,
            Err(error) => {
                return Fetched::Fatal {
                    error: error.to_string(),
                };
            }
        };
        loop {
            if let Some(found) = self.shared.next_finding() {
                return found;
            }
            let received = tokio::select! {
                () = self.shared.found.notified() => continue,
                received = consumer.recv() => received,
            };
            match received {
                Ok(message) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let mut positions = lock(&self.shared.positions);
                    match positions.judge(partition, offset) {
                        Verdict::Deliver => return Fetched::Record(convert::record(&message)),
                        Verdict::DeliverBehindGap { missing } => {
                            self.shared.tell_gap(partition, missing, offset);
                            return Fetched::Record(convert::record(&message));
                        }
                        Verdict::Drop => {}
                        Verdict::Reassign { next, paused } => {
                            tracing::debug!(
                                partition,
                                offset,
                                next,
                                "a gap, or a left-over record"
                            );
                            let again = self.shared.reassign(
                                &mut positions,
                                &consumer,
                                partition,
                                next,
                                paused,
                            );
                            if let Err(error) = again {
                                return Fetched::failed(partition, &error);
                            }
                        }
                    }
                }
                Err(ClientError::PartitionEOF(_)) => {}
                Err(ClientError::MessageConsumptionFatal(code)) => {
                    return Fetched::Fatal {
                        error: code.to_string(),
                    };
                }
                Err(error)
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) =>
                {
                    // The error does not name its partition.
                    Shared::find_out_of_range(&self.shared);
                }
                Err(error) => {
                    let (error, lasting) = refusal::explain(&error);
                    return if lasting {
                        Fetched::Refused { error }
                    } else {
                        Fetched::Transient { error }
                    };
                }
            }
        }
    }

    /// First offset the partition holds, and the one its next record will get.
    pub async fn watermarks(&self, partition: i32) -> Result<(i64, i64), KafkaError> {
        let consumer = self.shared.consumer()?;
        self.shared.watermarks(consumer, partition).await
    }

    /// How many partitions the topic has now.
    pub async fn partition_count(&self) -> Result<i32, KafkaError> {
        let consumer = self.shared.consumer()?;
        let topic = self.shared.topic.clone();
        let metadata = blocking(move || consumer.fetch_metadata(Some(&topic), ASK))
            .await?
            .map_err(|error| KafkaError::refused("reading topic metadata", &error))?;
        let found = metadata
            .topics()
            .iter()
            .find(|found| found.name() == self.shared.topic)
            .filter(|found| found.error().is_none() && !found.partitions().is_empty());
        match found {
            Some(found) => Ok(found.partitions().len() as i32),
            None => Err(KafkaError::UnknownTopic(self.shared.topic.clone())),
        }
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        if let Some(consumer) = lock(&self.shared.consumer).take() {
            drop(drop_in_background(consumer));
        }
    }
}

impl Shared {
    fn consumer(&self) -> Result<Arc<StreamConsumer<Observer>>, KafkaError> {
        lock(&self.consumer).clone().ok_or(KafkaError::Stopped)
    }

    fn list(&self, partition: i32) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.topic, partition);
        list
    }

    fn start(
        &self,
        consumer: &StreamConsumer<Observer>,
        partition: i32,
        offset: i64,
    ) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))
            .and_then(|()| consumer.incremental_assign(&list))
            .map_err(|error| KafkaError::refused("assigning a partition", &error))
    }

    fn stop(
        &self,
        consumer: &StreamConsumer<Observer>,
        partition: i32,
        paused: bool,
    ) -> Result<(), KafkaError> {
        let list = self.list(partition);
        if paused {
            // The library would keep the pause for the next assignment.
            consumer
                .resume(&list)
                .map_err(|error| KafkaError::refused("resuming a partition", &error))?;
        }
        consumer
            .incremental_unassign(&list)
            .map_err(|error| KafkaError::refused("unassigning a partition", &error))
    }

    /// Takes the partition out of the client's assignment, if it is there, so that it can be assigned again.
    fn clear(&self, consumer: &StreamConsumer<Observer>, partition: i32) {
        if let Err(error) = self.stop(consumer, partition, false) {
            tracing::debug!(partition, error = %error, "was not assigned");
        }
    }

    /// Reads the partition again from `next` on, or lets it wait there; where that fails, it is not
    /// assigned any more.
    fn reassign(
        &self,
        positions: &mut Positions,
        consumer: &StreamConsumer<Observer>,
        partition: i32,
        next: i64,
        paused: bool,
    ) -> Result<(), KafkaError> {
        let pause = || {
            consumer
                .pause(&self.list(partition))
                .map_err(|error| KafkaError::refused("pausing a partition", &error))
        };
        self.stop(consumer, partition, !paused)
            .and_then(|()| self.start(consumer, partition, next))
            .and_then(|()| if paused { pause() } else { Ok(()) })
            .inspect_err(|_| {
                positions.unassign(partition);
                self.clear(consumer, partition);
            })
    }

    /// Input topics should have no gaps, but transactions and compaction make some that lose nothing.
    fn tell_gap(&self, partition: i32, missing: i64, found: i64) {
        tracing::warn!(
            topic = %self.topic,
            partition,
            "offsets {missing} to {} are not in the log; is the topic compacted, or written in transactions? reading goes on with {found}",
            found - 1
        );
        metrics::counter!(GAPS, "topic" => self.topic.clone()).increment(1);
    }

    async fn watermarks(
        &self,
        consumer: Arc<StreamConsumer<Observer>>,
        partition: i32,
    ) -> Result<(i64, i64), KafkaError> {
        let topic = self.topic.clone();
        blocking(move || consumer.fetch_watermarks(&topic, partition, ASK))
            .await?
            .map_err(|error| match error.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::UnknownPartition | RDKafkaErrorCode::UnknownTopicOrPartition,
                ) => KafkaError::UnknownTopic(format!("{} partition {partition}", self.topic)),
                _ => KafkaError::refused("reading watermarks", &error),
            })
    }

    fn next_finding(&self) -> Option<Fetched> {
        let positions = lock(&self.positions);
        let mut findings = lock(&self.findings);
        while let Some(finding) = findings.pop_front() {
            if positions.assignment(finding.partition) == finding.assignment {
                return Some(finding.what);
            }
        }
        None
    }

    fn found(&self, partition: i32, assignment: Option<u64>, what: Fetched) {
        lock(&self.findings).push_back(Finding {
            partition,
            assignment,
            what,
        });
        self.found.notify_one();
    }

    /// Compares every partition's next offset with the log and notes those that lie outside; the others are
    /// assigned again where they stand, because one of them may be the one that was stopped.
    fn find_out_of_range(this: &Arc<Self>) {
        let shared = Arc::clone(this);
        tokio::spawn(async move {
            let Ok(consumer) = shared.consumer() else {
                return;
            };
            let assignments = lock(&shared.positions).assignments();
            for (partition, assignment) in assignments {
                let log = shared.watermarks(Arc::clone(&consumer), partition).await;
                let mut positions = lock(&shared.positions);
                let Some((next, paused)) = positions.current(partition, assignment) else {
                    continue;
                };
                let outside = match log {
                    Ok((low, high)) if (low..=high).contains(&next) => None,
                    Ok((low, high)) => Some(format!(
                        "offset {next} was to be read, the log holds {low} up to {high}"
                    )),
                    Err(KafkaError::UnknownTopic(name)) => Some(format!("{name} does not exist")),
                    // Cannot be asked now: reading it will fail again, and then it is asked again.
                    Err(_) => None,
                };
                if let Some(error) = outside {
                    // Each partition's error comes here, and each time all are looked at.
                    if positions.mark_outside(partition) {
                        let what = Fetched::OutOfRange { partition, error };
                        shared.found(partition, Some(assignment), what);
                    }
                } else if let Err(error) =
                    shared.reassign(&mut positions, &consumer, partition, next, paused)
                {
                    shared.found(partition, None, Fetched::failed(partition, &error));
                }
            }
        });
    }
}

/// A panic elsewhere does not make the positions wrong: each change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "fetcher_tests.rs"]
mod tests;
