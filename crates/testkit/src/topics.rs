//! Topics of a test's own on a broker, and what is written in them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bm_contracts::topics::{MAX_MESSAGE_BYTES, Retention, Topic, TopicNames};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::TestEnv;
use crate::wait::{eventually, random_suffix};

const DEADLINE: Duration = Duration::from_secs(30);

/// A topic to create.
#[derive(Debug, Clone)]
pub struct TopicPlan {
    name: String,
    partitions: i32,
    config: Vec<(String, String)>,
}

impl TopicPlan {
    /// A topic of that name (before the prefix) and number of partitions.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self {
            name: name.into(),
            partitions,
            config: Vec::new(),
        }
    }

    /// A topic of the registry as the registry has it.
    pub fn of(topic: Topic) -> Self {
        let spec = topic.spec();
        let plan = Self::new(spec.name, spec.partitions)
            .config("max.message.bytes", MAX_MESSAGE_BYTES.to_string())
            .config("compression.type", spec.compression);
        let plan = match spec.retention {
            Retention::Days(days) => {
                plan.config("retention.ms", (i64::from(days) * 86_400_000).to_string())
            }
            Retention::Compacted => plan.config("cleanup.policy", "compact"),
        };
        if spec.append_time {
            plan.config("message.timestamp.type", "LogAppendTime")
        } else {
            plan
        }
    }

    /// With another number of partitions.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = partitions;
        self
    }

    /// With a setting of the broker's, such as `retention.ms`.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.push((name.into(), value.into()));
        self
    }
}

/// One record as it stands in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestRecord {
    /// Its partition.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// Milliseconds since 1970: the broker's append time or the producer's, as the topic has it.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl TestRecord {
    /// The key as text.
    pub fn key_text(&self) -> &str {
        text(self.key.as_deref())
    }

    /// The value as text.
    pub fn value_text(&self) -> &str {
        text(self.value.as_deref())
    }

    /// The value as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.value_text())
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.value_text()))
    }

    /// The last header of that name as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().rfind(|(header, _)| header == name);
        found.map(|(_, value)| text(Some(value)))
    }
}

fn text(bytes: Option<&[u8]>) -> &str {
    std::str::from_utf8(bytes.unwrap_or_default()).expect("the test's record holds text")
}

/// Topics under a prefix of their own, deleted with this value.
pub struct TestTopics {
    client: ClientConfig,
    brokers: String,
    prefix: String,
    created: BTreeSet<String>,
    admin: AdminClient<DefaultClientContext>,
    producer: FutureProducer,
}

impl std::fmt::Debug for TestTopics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestTopics")
            .field("prefix", &self.prefix)
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

impl TestTopics {
    /// Creates topics on the shared broker.
    pub async fn create(plans: impl IntoIterator<Item = TopicPlan>) -> Self {
        Self::create_on(&TestEnv::get().brokers, plans).await
    }

    /// Creates every topic of the registry on the shared broker.
    pub async fn registry() -> Self {
        Self::create(Topic::ALL.map(TopicPlan::of)).await
    }

    /// Creates topics on the plaintext broker at `brokers` (`host:port`).
    pub async fn create_on(brokers: &str, plans: impl IntoIterator<Item = TopicPlan>) -> Self {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", brokers);
        Self::create_with(client, plans).await
    }

    /// Creates topics with the settings of `client`, which name the broker and how to log in.
    pub async fn create_with(
        client: ClientConfig,
        plans: impl IntoIterator<Item = TopicPlan>,
    ) -> Self {
        let admin = client.create().expect("a Kafka admin client can be made");
        let producer = client
            .clone()
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string())
            .create()
            .expect("a Kafka producer can be made");
        let mut topics = Self {
            brokers: client
                .get("bootstrap.servers")
                .unwrap_or_default()
                .to_owned(),
            client,
            prefix: format!("t{}.", random_suffix()),
            created: BTreeSet::new(),
            admin,
            producer,
        };
        topics.add(plans).await;
        topics
    }

    /// Creates more topics; one that was deleted may be created again.
    pub async fn add(&mut self, plans: impl IntoIterator<Item = TopicPlan>) {
        let mut plans: Vec<TopicPlan> = plans.into_iter().collect();
        for plan in &mut plans {
            plan.name = self.full(&plan.name);
        }
        if plans.is_empty() {
            return;
        }
        let new: Vec<NewTopic<'_>> = plans
            .iter()
            .map(|plan| {
                let mut topic =
                    NewTopic::new(&plan.name, plan.partitions, TopicReplication::Fixed(1));
                for (name, value) in &plan.config {
                    topic = topic.set(name, value);
                }
                topic
            })
            .collect();
        let results = self.admin.create_topics(&new, &options()).await;
        for result in results.expect("the broker creates topics") {
            let name = result.unwrap_or_else(|(name, error)| panic!("topic {name}: {error}"));
            self.created.insert(name);
        }
        for plan in &plans {
            self.await_partitions(&plan.name, plan.partitions).await;
        }
    }

    /// Deletes one topic, and waits until the broker knows it no more.
    pub async fn delete(&mut self, name: &str) {
        let full = self.full(name);
        let results = self.admin.delete_topics(&[&full], &options()).await;
        for result in results.expect("the broker deletes topics") {
            result.unwrap_or_else(|(name, error)| panic!("topic {name}: {error}"));
        }
        self.created.remove(&full);
        eventually(DEADLINE, "the end of a topic", || async {
            (self.partition_count(&full).await == Some(0)).then_some(())
        })
        .await;
    }

    /// Gives a topic more partitions.
    pub async fn grow(&self, name: &str, partitions: i32) {
        let full = self.full(name);
        let count = usize::try_from(partitions).expect("a count of partitions is positive");
        let results = self
            .admin
            .create_partitions(&[NewPartitions::new(&full, count)], &options())
            .await;
        for result in results.expect("the broker creates partitions") {
            result.unwrap_or_else(|(name, error)| panic!("topic {name}: {error}"));
        }
        self.await_partitions(&full, partitions).await;
    }

    /// Deletes the records of a partition that stand before `offset`.
    pub async fn delete_records(&self, name: &str, partition: i32, offset: i64) {
        let mut before = TopicPartitionList::new();
        before
            .add_partition_offset(&self.full(name), partition, Offset::Offset(offset))
            .expect("an offset can be named");
        let deleted = self.admin.delete_records(&before, &options()).await;
        for element in deleted.expect("the broker deletes records").elements() {
            element.error().expect("the broker deletes records");
        }
    }

    /// Where the broker is: `host:port`.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// What stands before the names, with its dot: the value for `BM_TOPIC_PREFIX`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The registry's names under this prefix.
    pub fn names(&self) -> TopicNames {
        TopicNames::with_prefix(self.prefix.clone())
    }

    /// The broker's name of the topic `name`.
    pub fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Appends one record to a partition with acks=all; gives its offset.
    pub async fn produce(
        &self,
        name: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> i64 {
        let full = self.full(name);
        let mut owned = OwnedHeaders::new_with_capacity(headers.len());
        for (key, value) in headers {
            owned = owned.insert(Header {
                key,
                value: Some(*value),
            });
        }
        let mut record: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(&full).partition(partition).headers(owned);
        record.key = key;
        record.payload = value;
        let delivery = self.producer.send(record, DEADLINE).await;
        delivery
            .unwrap_or_else(|(error, _)| panic!("cannot append to {full}: {error}"))
            .offset
    }

    /// Everything that stands in a topic, by partition and offset.
    ///
    /// Reads each partition up to the end it had when the reader came there, compacted or not.
    pub async fn read_all(&self, name: &str) -> Vec<TestRecord> {
        let mut config = self.client.clone();
        config
            .set("group.id", "bm-testkit")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "10")
            .set("auto.offset.reset", "error");
        let full = self.full(name);
        tokio::task::spawn_blocking(move || read_to_the_end(&config, &full))
            .await
            .expect("the reader of a topic runs to its end")
    }

    /// Where each partition of a topic ends: the offset of its next record.
    pub async fn ends(&self, name: &str) -> BTreeMap<i32, i64> {
        let producer = self.producer.clone();
        let full = self.full(name);
        tokio::task::spawn_blocking(move || {
            let client = producer.client();
            let metadata = client
                .fetch_metadata(Some(&full), DEADLINE)
                .unwrap_or_else(|error| panic!("cannot read the metadata of {full}: {error}"));
            let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
            partitions
                .map(|partition| {
                    let ends = client.fetch_watermarks(&full, partition.id(), DEADLINE);
                    let (_, end) = ends
                        .unwrap_or_else(|error| panic!("cannot ask where {full} ends: {error}"));
                    (partition.id(), end)
                })
                .collect()
        })
        .await
        .expect("asking where a topic ends comes to an end")
    }

    /// Deletes all topics now rather than when dropped.
    pub async fn close(mut self) {
        let created = std::mem::take(&mut self.created);
        delete_all(&self.admin, &created)
            .await
            .unwrap_or_else(|error| panic!("cannot delete the test's topics: {error}"));
    }

    async fn await_partitions(&self, full: &str, partitions: i32) {
        let partitions = usize::try_from(partitions).expect("a count of partitions is positive");
        eventually(DEADLINE, "a new topic's leaders", || async {
            (self.partition_count(full).await == Some(partitions)).then_some(())
        })
        .await;
    }

    /// How many partitions with a leader a topic has; `None` when the broker does not answer.
    ///
    /// The producer asks, so that what it remembers of the topic is renewed.
    async fn partition_count(&self, full: &str) -> Option<usize> {
        let producer = self.producer.clone();
        let full = full.to_owned();
        tokio::task::spawn_blocking(move || {
            let metadata = producer
                .client()
                .fetch_metadata(Some(&full), Duration::from_secs(2))
                .ok()?;
            let topic = metadata.topics().first()?;
            let led = topic.partitions().iter().filter(|one| one.leader() >= 0);
            Some(led.count())
        })
        .await
        .ok()
        .flatten()
    }
}

impl Drop for TestTopics {
    fn drop(&mut self) {
        let created = std::mem::take(&mut self.created);
        let client = self.client.clone();
        if !created.is_empty() {
            crate::wait::block_on_thread(async move {
                // A broker that is gone took its topics with it.
                if let Ok(admin) = client.create() {
                    let _kept_at_worst = delete_all(&admin, &created).await;
                }
            });
        }
    }
}

async fn delete_all(
    admin: &AdminClient<DefaultClientContext>,
    names: &BTreeSet<String>,
) -> Result<(), KafkaError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if !names.is_empty() {
        admin.delete_topics(&names, &options()).await?;
    }
    Ok(())
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(Duration::from_secs(9)))
        .operation_timeout(Some(Duration::from_secs(9)))
}

fn read_to_the_end(config: &ClientConfig, topic: &str) -> Vec<TestRecord> {
    let consumer: BaseConsumer = config.create().expect("a Kafka consumer can be made");
    let metadata = consumer
        .fetch_metadata(Some(topic), DEADLINE)
        .unwrap_or_else(|error| panic!("cannot read the metadata of {topic}: {error}"));
    let mut unread = BTreeSet::new();
    let mut assignment = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(MetadataTopic::partitions) {
        assignment
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .expect("an offset can be named");
        unread.insert(partition.id());
    }
    assert!(!unread.is_empty(), "there is no topic {topic}");
    consumer
        .assign(&assignment)
        .expect("partitions can be assigned");

    let started = Instant::now();
    let mut records = Vec::new();
    while !unread.is_empty() {
        assert!(
            started.elapsed() < DEADLINE,
            "could not read {topic} to its end within {DEADLINE:?}"
        );
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) if unread.contains(&message.partition()) => {
                records.push(record(&message));
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            // Others heal by themselves, or the deadline tells.
            Some(Err(error)) => tracing::debug!(%error, topic, "reading a test's topic"),
            Some(Ok(_)) | None => {}
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

fn record(message: &impl Message) -> TestRecord {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| {
                let value = header.value.unwrap_or_default();
                (header.key.to_owned(), value.to_vec())
            })
            .collect()
    });
    TestRecord {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}
