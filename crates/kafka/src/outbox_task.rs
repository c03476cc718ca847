//! The publisher's task: sends outboxes whole and in order, by one producer after the other, until all is acknowledged.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bm_contracts::topics::{MAX_MESSAGE_BYTES, Topic};
use bm_engine::OutboxMessage;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};
use tokio::sync::{mpsc, oneshot};

use crate::background::{blocking, drop_in_background};
use crate::backlog::{SharedBacklog, lock};
use crate::config::KafkaConfig;
use crate::error::KafkaError;
use crate::ledger::{Delivered, NextSend, PublishLedger, Ticket};
use crate::observer::Observer;
use crate::refusal;

/// Messages handed to the producer before its reports are looked at again.
const STRIDE: usize = 1_000;
/// Room comes back a moment after the report that announces it, so a full queue is tried again by time too.
const ROOM_AGAIN: Duration = Duration::from_millis(5);
/// Between two producers that fail without one outbox acknowledged, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// So many producers in a row that get no outbox out need somebody to look, whatever they complain of.
const HOPELESS: u32 = 5;

/// An outbox to be published.
pub(crate) struct Order {
    pub(crate) messages: Arc<Vec<OutboxMessage>>,
    pub(crate) acked: oneshot::Sender<()>,
}

fn settings(config: &KafkaConfig, client_name: &str) -> ClientConfig {
    let mut settings = config.client();
    settings
        .set("client.id", client_name)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // A broker takes any first sequence from a producer it does not know: with more than one request in
        // flight a later one could overtake.
        .set("max.in.flight.requests.per.connection", "1")
        // Messages do not time out: a gap would be worse than waiting.
        .set("message.timeout.ms", "0")
        .set("enable.gapless.guarantee", "true")
        .set("linger.ms", "0")
        .set("compression.type", "lz4")
        .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string())
        .set("queue.buffering.max.messages", "500000")
        .set("queue.buffering.max.kbytes", "262144");
    settings
}

/// What the client's thread tells the task.
enum Report {
    Delivered { generation: u64, ticket: Ticket },
    Failed { generation: u64, failure: Failure },
}

/// Why a producer is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    reason: String,
    /// What is to be done, where it will not pass by itself.
    advice: Option<&'static str>,
}

impl Failure {
    fn new(reason: impl Into<String>, code: Option<RDKafkaErrorCode>) -> Self {
        Self {
            reason: reason.into(),
            advice: code.and_then(refusal::advice),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        match self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

struct OutboxContext {
    observer: Observer,
    generation: u64,
    reports: mpsc::UnboundedSender<Report>,
}

impl OutboxContext {
    fn report(&self, report: Report) {
        // The task is gone with its runtime.
        let _unheard = self.reports.send(report);
    }
}

impl ClientContext for OutboxContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.observer.log(level, facility, message);
    }

    fn error(&self, error: ClientError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.report(Report::Failed {
                generation: self.generation,
                failure: Failure::new(reason, None),
            });
        }
        self.observer.error(error, reason);
    }
}

impl ProducerContext for OutboxContext {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let generation = self.generation;
        self.report(match result {
            Ok(_) => Report::Delivered {
                generation,
                ticket: Ticket::from_u64(opaque as u64),
            },
            Err((error, message)) => {
                let (topic, partition) = (message.topic(), message.partition());
                Report::Failed {
                    generation,
                    failure: Failure::new(
                        format!(
                            "a message to {topic} partition {partition} was not taken: {error}"
                        ),
                        error.rdkafka_error_code(),
                    ),
                }
            }
        });
    }
}

type OutboxProducer = ThreadedProducer<OutboxContext>;

struct Outgoing {
    messages: Arc<Vec<OutboxMessage>>,
    acked: oneshot::Sender<()>,
    since: Instant,
}

/// How far handing over messages got.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pumped {
    /// Everything is handed over.
    All,
    /// There is more, and room for it as far as is known.
    More,
    /// The producer's queue is full.
    NoRoom,
    /// The producer cannot take the next message.
    Failed(Failure),
}

/// Publishes outboxes until nobody can give it any, and nobody waits.
pub(crate) struct Task {
    settings: ClientConfig,
    observer: Observer,
    backlog: SharedBacklog,
    names: HashMap<Topic, String>,
    ledger: PublishLedger,
    outboxes: HashMap<Ticket, Outgoing>,
    producer: Option<OutboxProducer>,
    orders: mpsc::UnboundedReceiver<Order>,
    reports: mpsc::UnboundedSender<Report>,
    incoming_reports: mpsc::UnboundedReceiver<Report>,
    /// Producers that failed in a row without one outbox acknowledged.
    fruitless: u32,
}

impl Task {
    pub(crate) fn new(
        config: &KafkaConfig,
        client_name: &str,
        observer: &Observer,
        backlog: &SharedBacklog,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Result<Self, KafkaError> {
        let (reports, incoming_reports) = mpsc::unbounded_channel();
        let settings = settings(config, client_name);
        let context = OutboxContext {
            observer: observer.clone(),
            generation: 0,
            reports: reports.clone(),
        };
        let producer = settings
            .create_with_context(context)
            .map_err(|error| KafkaError::client(&error))?;
        Ok(Self {
            settings,
            observer: observer.clone(),
            backlog: Arc::clone(backlog),
            names: Topic::ALL
                .map(|topic| (topic, config.names.full(topic)))
                .into(),
            ledger: PublishLedger::default(),
            outboxes: HashMap::new(),
            producer: Some(producer),
            orders,
            reports,
            incoming_reports,
            fruitless: 0,
        })
    }

    pub(crate) async fn run(mut self) {
        let mut open = true;
        loop {
            let pumped = self.pump();
            if let Pumped::Failed(failure) = pumped {
                self.replace_producer(failure).await;
                continue;
            }
            if !open && self.ledger.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(report) = self.incoming_reports.recv() => {
                    if let Some(failure) = self.take_reports(report) {
                        self.replace_producer(failure).await;
                    }
                }
                order = self.orders.recv(), if open => match order {
                    Some(order) => self.take_order(order),
                    None => open = false,
                },
                () = tokio::task::yield_now(), if pumped == Pumped::More => {}
                () = tokio::time::sleep(ROOM_AGAIN), if pumped == Pumped::NoRoom => {}
                // Nobody may wait any more for what is left.
                () = tokio::time::sleep(BACKOFF.0), if !open => self.forget_cancelled(),
            }
        }
        if let Some(producer) = self.producer.take() {
            drop(drop_in_background(producer));
        }
    }

    fn take_order(&mut self, order: Order) {
        let ticket = self.ledger.add(order.messages.len());
        self.outboxes.insert(
            ticket,
            Outgoing {
                messages: order.messages,
                acked: order.acked,
                since: Instant::now(),
            },
        );
    }

    /// Takes `report` and those that are there already; gives the reason why the current producer has failed.
    fn take_reports(&mut self, report: Report) -> Option<Failure> {
        let mut next = Some(report);
        let mut failed: Option<Failure> = None;
        while let Some(report) = next {
            match report {
                Report::Delivered { generation, ticket } => {
                    match self.ledger.delivered(generation, ticket) {
                        // A producer that gets no further than some messages is no better than one
                        // that gets none out.
                        Delivered::Stale | Delivered::Counted => {}
                        Delivered::Complete => {
                            self.fruitless = 0;
                            self.complete(ticket);
                        }
                    }
                }
                Report::Failed {
                    generation,
                    failure,
                } => {
                    // What follows the first failure explains less, but for one that somebody must mend.
                    let explains = match &failed {
                        None => true,
                        Some(known) => known.advice.is_none() && failure.advice.is_some(),
                    };
                    if explains && generation == self.ledger.generation() {
                        failed = Some(failure);
                    }
                }
            }
            next = self.incoming_reports.try_recv().ok();
        }
        failed
    }

    fn complete(&mut self, ticket: Ticket) {
        let Some(outgoing) = self.outboxes.remove(&ticket) else {
            return;
        };
        metrics::histogram!("bm_kafka_outbox_ack_seconds")
            .record(outgoing.since.elapsed().as_secs_f64());
        self.observer.forget_fault();
        lock(&self.backlog).acknowledged();
        // Whoever waited may have gone meanwhile.
        let _unheard = outgoing.acked.send(());
    }

    /// Hands messages to the producer, in order, until there is no more, no room, or others must have a turn.
    fn pump(&mut self) -> Pumped {
        let Some(producer) = &self.producer else {
            return Pumped::Failed(Failure::new("there is no producer", None));
        };
        let (mut messages, mut bytes) = (0u64, 0u64);
        let mut pumped = Pumped::More;
        for _ in 0..STRIDE {
            let Some(NextSend { ticket, index }) = self.ledger.next_send() else {
                pumped = Pumped::All;
                break;
            };
            let outgoing = self
                .outboxes
                .get(&ticket)
                .filter(|outgoing| !outgoing.acked.is_closed());
            let Some(message) = outgoing.and_then(|outgoing| outgoing.messages.get(index)) else {
                self.ledger.cancel(ticket);
                self.outboxes.remove(&ticket);
                continue;
            };
            let topic = self.names.get(&message.topic).map_or("", String::as_str);
            match producer.send(record(topic, message, ticket)) {
                Ok(()) => {
                    self.ledger.sent(ticket);
                    messages += 1;
                    bytes += message.value.len() as u64;
                }
                Err((ClientError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    pumped = Pumped::NoRoom;
                    break;
                }
                Err((error, _)) => {
                    pumped = Pumped::Failed(Failure::new(
                        format!("a message to {topic} was not taken: {error}"),
                        error.rdkafka_error_code(),
                    ));
                    break;
                }
            }
        }
        metrics::counter!("bm_kafka_outbox_messages_total").increment(messages);
        metrics::counter!("bm_kafka_outbox_bytes_total").increment(bytes);
        pumped
    }

    /// Gives up the producer and whatever it still holds, and makes a fresh one, which begins every outbox again.
    async fn replace_producer(&mut self, mut failure: Failure) {
        let fatal = self
            .producer
            .as_ref()
            .and_then(|p| p.client().fatal_error());
        if let (None, Some((code, _))) = (failure.advice, fatal) {
            failure.advice = refusal::advice(code);
        }
        let generation = self.ledger.generation();
        if failure.advice.is_some() || self.fruitless >= HOPELESS {
            tracing::error!(
                kafka.generation = generation,
                outboxes = self.outboxes.len(),
                "the lanes' producer failed, and will again until somebody acts; the lanes it serves wait: {failure}"
            );
        } else {
            tracing::warn!(
                kafka.generation = generation,
                "the lanes' producer failed, its outboxes are sent again by a fresh one: {failure}"
            );
        }
        lock(&self.backlog).failed(failure.to_string());
        metrics::counter!("bm_kafka_outbox_generations_total").increment(1);
        let generation = self.ledger.begin_generation();
        self.observer.forget();
        if let Some(producer) = self.producer.take() {
            // It must not send on what is queued behind the failed message. Purging waits for its threads.
            let purged = blocking(move || {
                producer.purge(PurgeConfig::default().queue().inflight());
                producer
            })
            .await;
            if let Ok(producer) = purged {
                drop(drop_in_background(producer));
            }
        }
        loop {
            tokio::time::sleep(backoff(self.fruitless)).await;
            self.fruitless = self.fruitless.saturating_add(1);
            self.forget_cancelled();
            let context = OutboxContext {
                observer: self.observer.clone(),
                generation,
                reports: self.reports.clone(),
            };
            match self.settings.create_with_context(context) {
                Ok(producer) => {
                    self.producer = Some(producer);
                    return;
                }
                Err(error) => tracing::error!(error = %error, "no fresh producer for the lanes"),
            }
        }
    }

    fn forget_cancelled(&mut self) {
        let ledger = &mut self.ledger;
        self.outboxes.retain(|&ticket, outgoing| {
            let awaited = !outgoing.acked.is_closed();
            if !awaited {
                ledger.cancel(ticket);
            }
            awaited
        });
    }
}

/// Pause before the producer that follows `fruitless` ones: none before the first.
fn backoff(fruitless: u32) -> Duration {
    match fruitless.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => (BACKOFF.0 * 2u32.saturating_pow(doublings.min(16))).min(BACKOFF.1),
    }
}

fn record<'a>(
    topic: &'a str,
    message: &'a OutboxMessage,
    ticket: Ticket,
) -> BaseRecord<'a, str, [u8], usize> {
    let headers = message.headers.iter().fold(
        OwnedHeaders::new_with_capacity(message.headers.len()),
        |headers, (name, value)| {
            headers.insert(Header {
                key: name,
                value: Some(value),
            })
        },
    );
    BaseRecord::with_opaque_to(topic, ticket.as_u64() as usize)
        .partition(message.partition)
        .key(message.key.as_str())
        .payload(message.value.as_slice())
        .headers(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_producers_that_keep_failing_come_slower_up_to_a_bound() {
        let pauses: Vec<u128> = (0..9).map(|n| backoff(n).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff(u32::MAX), BACKOFF.1);
    }
}
