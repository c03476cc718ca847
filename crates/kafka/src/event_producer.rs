//! Appends single messages, answers where and when the broker put them, and never waits for room.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bm_contracts::topics::MAX_MESSAGE_BYTES;
use bm_contracts::{Timestamp, Topic, TopicNames};
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use tokio::sync::mpsc;
use tokio::time::Sleep;

use crate::acks::Acks;
use crate::append_context::{AppendContext, Health, refused};
use crate::background::{blocking, drop_in_background};
use crate::config::{ConfigError, KafkaConfig, number};
use crate::error::KafkaError;
use crate::observer::Observer;

/// How long a broker may take to answer whether it is there.
const ASK: Duration = Duration::from_secs(2);
/// An answer of the broker's stands for so long.
const ANSWER_STANDS: Duration = Duration::from_secs(1);
/// The client looks for timed out messages once a second: the report comes that much later than the timeout.
const REPORT_GRACE: Duration = Duration::from_millis(1_500);

/// Bounds of an [`EventProducer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendConfig {
    /// A message that is not acknowledged after so long is given up.
    pub timeout: Duration,
    /// Messages that may wait for the broker; beyond, appending is refused.
    pub queue_messages: u32,
    /// Kilobytes that may wait for the broker.
    pub queue_kbytes: u32,
}

impl Default for AppendConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            queue_messages: 100_000,
            queue_kbytes: 65_536,
        }
    }
}

impl AppendConfig {
    /// Reads `BM_APPEND_TIMEOUT_MS`, `BM_PRODUCER_QUEUE_MESSAGES` and `BM_PRODUCER_QUEUE_KBYTES`.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |variable: &str| get(variable).filter(|value| !value.is_empty());
        let timeout = number(
            get("BM_APPEND_TIMEOUT_MS"),
            "BM_APPEND_TIMEOUT_MS",
            "a number of milliseconds from 100 to 10000",
            100..=10_000,
        )?;
        let messages = number(
            get("BM_PRODUCER_QUEUE_MESSAGES"),
            "BM_PRODUCER_QUEUE_MESSAGES",
            "a number from 1 to 10000000",
            1..=10_000_000,
        )?;
        let kbytes = number(
            get("BM_PRODUCER_QUEUE_KBYTES"),
            "BM_PRODUCER_QUEUE_KBYTES",
            "a number of kilobytes from 1024 to 2000000",
            1_024..=2_000_000,
        )?;
        let default = Self::default();
        Ok(Self {
            timeout: timeout.map_or(default.timeout, Duration::from_millis),
            queue_messages: messages.map_or(default.queue_messages, |n| n as u32),
            queue_kbytes: kbytes.map_or(default.queue_kbytes, |n| n as u32),
        })
    }
}

/// Where and when a message landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its partition.
    pub partition: i32,
    /// Its offset; -1 where the broker only knew that it had the message already.
    pub offset: i64,
    /// The broker's append time where the topic keeps that, else the time it was handed to the producer.
    pub timestamp: Timestamp,
}

/// Why a message is not known to be in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too much waits for the broker already. The message was not taken.
    #[error("too many messages wait for the broker")]
    QueueFull,
    /// No topic takes a message of that size. The message was not taken.
    #[error("the message is larger than a topic takes")]
    TooLarge,
    /// No acknowledgement in time. The message may be in the log or still come there.
    #[error("the broker did not acknowledge in time")]
    TimedOut,
    /// The broker or the producer failed. The message may be in the log or still come there.
    #[error("the broker cannot take messages: {0}")]
    Unavailable(String),
}

/// Appends messages to topics: idempotent, acknowledged by all replicas in sync. Cheap to clone.
#[derive(Clone)]
pub struct EventProducer {
    inner: Arc<Inner>,
}

/// Messages on their way together: handed over one by one, in their order, and waited for as one.
#[must_use = "only the outcomes tell whether the messages are in the log"]
pub struct Appending<'a> {
    inner: &'a Inner,
    producer: Option<Arc<ThreadedProducer<AppendContext>>>,
    acks: Arc<Acks>,
}

/// The outcomes of some appends, in their order; certain to resolve soon after the configured timeout.
#[must_use = "only the outcomes tell whether the messages are in the log"]
pub struct Outcomes {
    acks: Arc<Acks>,
    deadline: Pin<Box<Sleep>>,
}

/// The outcome of one append.
#[must_use = "only the outcome tells whether the message is in the log"]
pub struct AppendFuture(Outcomes);

struct Inner {
    settings: ClientConfig,
    names: TopicNames,
    /// Full name of the topic that nearly all messages go to.
    game_events: String,
    timeout: Duration,
    observer: Observer,
    health: Arc<Health>,
    /// Replaced as a whole when it fails for good.
    producer: RwLock<Option<Arc<ThreadedProducer<AppendContext>>>>,
    failures: mpsc::UnboundedSender<u64>,
    /// When the broker was asked last, and what it said.
    answer: tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>,
}

impl EventProducer {
    /// Makes the producer on the current runtime. `client_name` names it in the broker's and in our logs.
    pub fn new(
        config: &KafkaConfig,
        append: &AppendConfig,
        client_name: &str,
    ) -> Result<Self, KafkaError> {
        let observer = Observer::new(client_name);
        let (failures, failed) = mpsc::unbounded_channel();
        let settings = settings(config, append, client_name);
        let health = Arc::new(Health::default());
        let context = AppendContext::new(0, &observer, &health, &failures);
        let producer = settings
            .create_with_context(context)
            .map_err(|error| KafkaError::client(&error))?;
        let inner = Arc::new(Inner {
            settings,
            names: config.names.clone(),
            game_events: config.names.full(Topic::GameEvents),
            timeout: append.timeout,
            observer,
            health,
            producer: RwLock::new(Some(Arc::new(producer))),
            failures,
            answer: tokio::sync::Mutex::new(None),
        });
        tokio::spawn(replace_failed(Arc::downgrade(&inner), failed));
        Ok(Self { inner })
    }

    /// Begins to hand over about `count` messages.
    pub fn append_many(&self, count: usize) -> Appending<'_> {
        Appending {
            inner: &self.inner,
            producer: self.inner.producer(),
            acks: Arc::new(Acks::of(count)),
        }
    }

    /// Hands over one message, as [`Appending::push`] does.
    pub fn append(
        &self,
        topic: Topic,
        partition: Option<i32>,
        key: &str,
        headers: &[(&str, &str)],
        value: &[u8],
    ) -> Result<AppendFuture, AppendError> {
        let mut appending = self.append_many(1);
        appending.push(topic, partition, key, headers, value)?;
        Ok(AppendFuture(appending.outcomes()))
    }

    /// Whether messages can be appended now, and if not, why not. Cheap: asks the broker at most once a second,
    /// and not at all while acknowledgements come in.
    pub async fn ready(&self) -> Result<(), String> {
        let inner = &self.inner;
        if !*inner.observer.producer_id().borrow() {
            let fault = inner.observer.faults().borrow().clone();
            return Err(fault.map_or_else(
                || "the broker has not given a producer id yet".to_owned(),
                |fault| fault.reason,
            ));
        }
        if inner.health.is_fresh(Instant::now()) {
            return Ok(());
        }
        let mut answer = inner.answer.lock().await;
        if let Some((when, said)) = &*answer
            && when.elapsed() < ANSWER_STANDS
        {
            return said.clone();
        }
        let said = inner.ask().await;
        *answer = Some((Instant::now(), said.clone()));
        said
    }

    /// Waits until the broker has given the producer its id, so that the first append need not wait for it.
    pub async fn warm_up(&self, timeout: Duration) -> Result<(), KafkaError> {
        let mut known = self.inner.observer.producer_id();
        match tokio::time::timeout(timeout, known.wait_for(|assigned| *assigned)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(KafkaError::Stopped),
            Err(_) => {
                let brokers = self
                    .inner
                    .settings
                    .get("bootstrap.servers")
                    .unwrap_or_default();
                let fault = self.inner.observer.faults().borrow().clone();
                Err(fault.map_or(
                    KafkaError::TimedOut {
                        what: "getting a producer id",
                        after: timeout,
                    },
                    |fault| fault.into_error(brokers),
                ))
            }
        }
    }

    /// Waits until everything handed over has its outcome. To be called when nothing more is appended.
    pub async fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        let producer = self.inner.producer().ok_or(KafkaError::Stopped)?;
        blocking(move || producer.flush(timeout))
            .await?
            .map_err(|_| KafkaError::TimedOut {
                what: "flushing the producer",
                after: timeout,
            })
    }
}

impl Appending<'_> {
    /// Hands over the next message. Never waits: a full queue is an error. What is refused at once is
    /// told here, and among the outcomes.
    ///
    /// Without a `partition` it goes where `key` hashes to (murmur2, as the Java and JavaScript clients hash).
    pub fn push(
        &mut self,
        topic: Topic,
        partition: Option<i32>,
        key: &str,
        headers: &[(&str, &str)],
        value: &[u8],
    ) -> Result<(), AppendError> {
        let Some(producer) = &self.producer else {
            let stopped = AppendError::Unavailable("the producer has stopped".to_owned());
            return Err(self.acks.refused(stopped));
        };
        let headers = headers.iter().fold(
            OwnedHeaders::new_with_capacity(headers.len()),
            |headers, &(key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            },
        );
        let topic = match topic {
            Topic::GameEvents => Cow::Borrowed(self.inner.game_events.as_str()),
            other => Cow::Owned(self.inner.names.full(other)),
        };
        let pending = Box::new(Acks::await_next(&self.acks));
        let mut record = BaseRecord::with_opaque_to(&topic, pending)
            .key(key)
            .payload(value)
            .headers(headers);
        record.partition = partition;
        producer.send(record).map_err(|(error, record)| {
            record.delivery_opaque.taken_back();
            self.acks.refused(refused(&error))
        })
    }

    /// All are handed over; the future tells what came of each.
    pub fn outcomes(self) -> Outcomes {
        Outcomes {
            acks: self.acks,
            deadline: Box::pin(tokio::time::sleep(self.inner.timeout + REPORT_GRACE)),
        }
    }
}

impl Future for Outcomes {
    type Output = Vec<Result<Appended, AppendError>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcomes) = self.acks.poll(cx) {
            return Poll::Ready(outcomes);
        }
        let timed_out = self.deadline.as_mut().poll(cx);
        timed_out.map(|()| self.acks.give_up())
    }
}

impl Future for AppendFuture {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcomes = ready!(Pin::new(&mut self.0).poll(cx)).pop();
        Poll::Ready(outcomes.unwrap_or(Err(AppendError::TimedOut)))
    }
}

impl Inner {
    fn producer(&self) -> Option<Arc<ThreadedProducer<AppendContext>>> {
        self.producer
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Asks the broker about the topic of events: it must have a leader for every partition.
    async fn ask(&self) -> Result<(), String> {
        let producer = self.producer().ok_or("the producer has stopped")?;
        let topic = self.game_events.clone();
        let name = topic.clone();
        let metadata = blocking(move || producer.client().fetch_metadata(Some(&name), ASK))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("the broker does not answer: {error}"))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.filter(|found| found.error().is_none() && !found.partitions().is_empty()) {
            None => Err(format!("topic {topic} does not exist")),
            Some(found)
                if found
                    .partitions()
                    .iter()
                    .any(|partition| partition.leader() < 0) =>
            {
                Err(format!("topic {topic} has partitions without a leader"))
            }
            Some(_) => Ok(()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let slot = self
            .producer
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = slot.take() {
            drop(drop_in_background(producer));
        }
    }
}

/// Puts a fresh producer in the place of one that cannot go on. What the old one held is answered `Unavailable`.
async fn replace_failed(inner: Weak<Inner>, mut failed: mpsc::UnboundedReceiver<u64>) {
    let mut generation = 0;
    while let Some(reported) = failed.recv().await {
        if reported != generation {
            continue;
        }
        loop {
            let Some(inner) = inner.upgrade() else {
                return;
            };
            let context = AppendContext::new(
                generation + 1,
                &inner.observer,
                &inner.health,
                &inner.failures,
            );
            match inner.settings.create_with_context(context) {
                Ok(fresh) => {
                    generation += 1;
                    inner.observer.forget();
                    metrics::counter!("bm_kafka_append_generations_total").increment(1);
                    let old = inner
                        .producer
                        .write()
                        .unwrap_or_else(PoisonError::into_inner)
                        .replace(Arc::new(fresh));
                    drop(drop_in_background(old));
                    break;
                }
                Err(error) => tracing::error!(error = %error, "no fresh producer for events"),
            }
            drop(inner);
            tokio::time::sleep(ANSWER_STANDS).await;
        }
    }
}

fn settings(config: &KafkaConfig, append: &AppendConfig, client_name: &str) -> ClientConfig {
    let timeout = append.timeout.as_millis().to_string();
    let mut settings = config.client();
    settings
        .set("client.id", client_name)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", &timeout)
        .set("request.timeout.ms", &timeout)
        // Of each partition, messages that come while requests are on their way go together in the next.
        // Not fewer requests under way than the client's five: it makes one for each partition, and
        // partitions would wait for each other's acks.
        .set("linger.ms", "0")
        .set("compression.type", "snappy")
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string())
        .set(
            "queue.buffering.max.messages",
            append.queue_messages.to_string(),
        )
        .set(
            "queue.buffering.max.kbytes",
            append.queue_kbytes.to_string(),
        )
        // Tells when the producer id is there.
        .set("statistics.interval.ms", "500");
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_timeout_above_ten_seconds_is_refused() {
        let read = |value: &'static str| {
            AppendConfig::from_vars(move |name| {
                (name == "BM_APPEND_TIMEOUT_MS").then(|| value.to_owned())
            })
        };
        assert_eq!(read("2000").unwrap().timeout, Duration::from_secs(2));
        assert!(
            read("10001")
                .unwrap_err()
                .to_string()
                .contains("BM_APPEND_TIMEOUT_MS")
        );
        assert_eq!(read("").unwrap(), AppendConfig::default());
    }
}
