//! Reads whole topics, for tools: from the beginning, from the end, or the last few of each partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bm_contracts::{Topic, TopicNames};
use bm_engine::Record;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::admin::TopicAdmin;
use crate::background::{blocking, drop_in_background};
use crate::config::KafkaConfig;
use crate::convert;
use crate::error::KafkaError;
use crate::observer::Observer;

/// How long a broker may take to answer a question about a partition; and a partition to get a leader,
/// which one of a topic just made, or of a broker just gone, is without for a moment.
const ASK: Duration = Duration::from_secs(10);
/// Between two questions to a partition that has no leader yet.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the first record there is.
    Beginning,
    /// With the first record that comes after the reader is made.
    End,
    /// So many records before the end of each partition.
    OffsetsAgo(u32),
}

impl From {
    /// Where that is in a partition that holds `low..high`. An offset, not "the end": the client finds
    /// out where an end is only when it first fetches, and would pass over what came until then.
    fn offset(self, (low, high): (i64, i64)) -> Offset {
        let ago = match self {
            Self::Beginning => high - low,
            Self::End => 0,
            Self::OffsetsAgo(records) => i64::from(records),
        };
        Offset::Offset((high - ago).max(low))
    }
}

/// Reads all partitions of some topics, with no end.
pub struct LogReader {
    reader: Reader,
    names: TopicNames,
}

/// Reads one topic from its beginning up to the end it had when the reader was made.
pub struct Snapshot {
    reader: Reader,
    /// Partitions not yet read to their end, with that end.
    open: BTreeMap<i32, i64>,
}

impl LogReader {
    /// Begins to read all partitions that `topics` have now. A topic that does not exist is an error.
    pub async fn from(
        config: &KafkaConfig,
        topics: &[Topic],
        from: From,
    ) -> Result<Self, KafkaError> {
        let counts = TopicAdmin::connect(config)?
            .partition_counts(topics)
            .await?;
        let mut reader = Reader::new(config)?;
        let mut list = TopicPartitionList::new();
        for &topic in topics {
            let name = config.names.full(topic);
            let Some(&count) = counts.get(&topic) else {
                return Err(KafkaError::UnknownTopic(name));
            };
            for partition in 0..count {
                let offset = from.offset(reader.watermarks(&name, partition).await?);
                list.add_partition_offset(&name, partition, offset)
                    .map_err(|error| KafkaError::refused("assigning a partition", &error))?;
            }
        }
        reader.assign(&list)?;
        Ok(Self {
            reader,
            names: config.names.clone(),
        })
    }

    /// Reads `topic` up to the end it has now.
    pub async fn snapshot(config: &KafkaConfig, topic: Topic) -> Result<Snapshot, KafkaError> {
        let name = config.names.full(topic);
        let counts = TopicAdmin::connect(config)?
            .partition_counts(&[topic])
            .await?;
        let Some(&count) = counts.get(&topic) else {
            return Err(KafkaError::UnknownTopic(name));
        };
        let mut reader = Reader::new(config)?;
        let mut open = BTreeMap::new();
        for partition in 0..count {
            let (low, high) = reader.watermarks(&name, partition).await?;
            if low < high {
                open.insert(partition, high);
            }
        }
        let mut list = TopicPartitionList::new();
        for &partition in open.keys() {
            list.add_partition_offset(&name, partition, Offset::Beginning)
                .map_err(|error| KafkaError::refused("assigning a partition", &error))?;
        }
        reader.assign(&list)?;
        Ok(Snapshot { reader, open })
    }

    /// The next record of any of the topics. Loses nothing when dropped before it is ready.
    ///
    /// Connections that break are made anew by the client; an error means that reading cannot go on.
    pub async fn next(&mut self) -> Result<(Topic, Record), KafkaError> {
        loop {
            if let Read::Record(name, record) = self.reader.next().await?
                && let Some(topic) = self.names.parse(&name)
            {
                return Ok((topic, record));
            }
        }
    }
}

impl Snapshot {
    /// The next record; `None` when all that was there has been read. Records come in order within a partition.
    pub async fn next(&mut self) -> Result<Option<Record>, KafkaError> {
        while !self.open.is_empty() {
            match self.reader.next().await? {
                Read::Record(_, record) => {
                    let Some(&end) = self.open.get(&record.partition) else {
                        continue;
                    };
                    if record.offset + 1 >= end {
                        self.open.remove(&record.partition);
                    }
                    if record.offset < end {
                        return Ok(Some(record));
                    }
                }
                // The last offsets of a compacted partition may be gone: its end is an end then too.
                Read::End(partition) => {
                    self.open.remove(&partition);
                }
            }
        }
        Ok(None)
    }
}

enum Read {
    Record(String, Record),
    End(i32),
}

struct Reader {
    consumer: Option<Arc<StreamConsumer<Observer>>>,
}

impl Reader {
    /// Reads nothing before it is assigned something.
    fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let consumer: StreamConsumer<Observer> = config
            .client()
            // Demanded by the library; no group is joined and nothing is committed under it.
            .set("group.id", "brightmatter-log-reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "50")
            .set("queued.max.messages.kbytes", "16384")
            .create_with_context(Observer::new("log reader"))
            .map_err(|error| KafkaError::client(&error))?;
        Ok(Self {
            consumer: Some(Arc::new(consumer)),
        })
    }

    fn consumer(&self) -> Result<Arc<StreamConsumer<Observer>>, KafkaError> {
        self.consumer.clone().ok_or(KafkaError::Stopped)
    }

    fn assign(&mut self, list: &TopicPartitionList) -> Result<(), KafkaError> {
        self.consumer()?
            .assign(list)
            .map_err(|error| KafkaError::refused("assigning partitions", &error))
    }

    /// First offset the partition holds, and the one its next record will get.
    async fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), KafkaError> {
        let deadline = Instant::now() + ASK;
        loop {
            let (consumer, topic) = (self.consumer()?, topic.to_owned());
            let answer =
                blocking(move || consumer.fetch_watermarks(&topic, partition, ASK)).await?;
            match answer {
                Err(error) if passes(&error) && Instant::now() < deadline => {
                    tracing::debug!(error = %error, partition, "a partition cannot be asked yet; asking again");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                answer => {
                    return answer
                        .map_err(|error| KafkaError::refused("reading watermarks", &error));
                }
            }
        }
    }

    async fn next(&mut self) -> Result<Read, KafkaError> {
        let consumer = self.consumer()?;
        loop {
            match consumer.recv().await {
                Ok(message) => {
                    return Ok(Read::Record(
                        message.topic().to_owned(),
                        convert::record(&message),
                    ));
                }
                Err(ClientError::PartitionEOF(partition)) => return Ok(Read::End(partition)),
                Err(error) if passes(&error) => tracing::debug!(error = %error, "reading goes on"),
                Err(error) => return Err(KafkaError::refused("reading the log", &error)),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            drop(drop_in_background(consumer));
        }
    }
}

/// What the client tries again by itself.
fn passes(error: &ClientError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::Resolve
        )
    )
}
