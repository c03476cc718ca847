//! The lanes' producer: sends outboxes whole and in order, by one producer after the other, until all is acknowledged.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bm_contracts::topics::{MAX_MESSAGE_BYTES, Topic};
use bm_engine::OutboxMessage;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::background::{blocking, drop_in_background};
use crate::config::KafkaConfig;
use crate::error::KafkaError;
use crate::ledger::{Delivered, NextSend, PublishLedger, Ticket};
use crate::observer::Observer;

/// Messages handed to the producer before its reports are looked at again.
const STRIDE: usize = 1_000;
/// Room comes back a moment after the report that announces it, so a full queue is tried again by time too.
const ROOM_AGAIN: Duration = Duration::from_millis(5);
/// Between two producers that fail without one outbox acknowledged, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Publishes outboxes. Cheap to clone; its task ends when all clones and all [`Publication`]s are gone.
#[derive(Clone)]
pub struct OutboxPublisher {
    orders: mpsc::UnboundedSender<Order>,
    producer_id: watch::Receiver<bool>,
    observer: Observer,
    brokers: Arc<str>,
}

/// Resolves when every message of an outbox is acknowledged by all replicas in sync; never fails.
///
/// Dropped before, the outbox is not sent again by a later producer. While the runtime shuts down it may stay
/// unresolved.
#[must_use = "an outbox nobody waits for is not sent again when its producer fails"]
pub struct Publication {
    state: Outlook,
}

enum Outlook {
    /// There was nothing to send.
    Nothing,
    Awaited(oneshot::Receiver<()>),
    /// The task ended with its runtime: not acknowledged, and nobody left to say more.
    Abandoned,
}

struct Order {
    messages: Arc<Vec<OutboxMessage>>,
    acked: oneshot::Sender<()>,
}

impl OutboxPublisher {
    /// Starts the publisher on the current runtime. `client_name` names it in the broker's and in our logs.
    pub fn start(config: &KafkaConfig, client_name: &str) -> Result<Self, KafkaError> {
        let observer = Observer::new(client_name);
        let (orders, incoming) = mpsc::unbounded_channel();
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
        let task = Task {
            settings,
            observer: observer.clone(),
            names: Topic::ALL
                .map(|topic| (topic, config.names.full(topic)))
                .into(),
            ledger: PublishLedger::default(),
            outboxes: HashMap::new(),
            producer: Some(producer),
            orders: incoming,
            reports,
            incoming_reports,
            fruitless: 0,
        };
        tokio::spawn(task.run());
        Ok(Self {
            orders,
            producer_id: observer.producer_id(),
            observer,
            brokers: config.brokers.as_str().into(),
        })
    }

    /// Publishes an outbox behind those that were given before. Never waits.
    pub fn publish(&self, messages: Arc<Vec<OutboxMessage>>) -> Publication {
        if messages.is_empty() {
            return Publication {
                state: Outlook::Nothing,
            };
        }
        let (acked, receiver) = oneshot::channel();
        // Where the task is gone, the runtime is shutting down: the publication stays unresolved.
        let _unsent = self.orders.send(Order { messages, acked });
        Publication {
            state: Outlook::Awaited(receiver),
        }
    }

    /// Waits until the broker has given the producer its id, so that the first outbox need not wait for it.
    ///
    /// After `timeout` an error says what the client complained of last.
    pub async fn ready(&self, timeout: Duration) -> Result<(), KafkaError> {
        let mut known = self.producer_id.clone();
        let waited = tokio::time::timeout(timeout, known.wait_for(|assigned| *assigned)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(KafkaError::Stopped),
            Err(_) => {
                let fault = self.observer.faults().borrow().clone();
                Err(fault.map_or(
                    KafkaError::TimedOut {
                        what: "getting a producer id",
                        after: timeout,
                    },
                    |fault| fault.into_error(&self.brokers),
                ))
            }
        }
    }
}

impl Future for Publication {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            Outlook::Nothing => Poll::Ready(()),
            Outlook::Abandoned => Poll::Pending,
            Outlook::Awaited(acked) => match Pin::new(acked).poll(cx) {
                Poll::Ready(Err(_)) => {
                    self.state = Outlook::Abandoned;
                    Poll::Pending
                }
                outcome => outcome.map(drop),
            },
        }
    }
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
        .set("queue.buffering.max.kbytes", "262144")
        // Tells when the producer id is there.
        .set("statistics.interval.ms", "500");
    settings
}

/// What the client's thread tells the task.
enum Report {
    Delivered { generation: u64, ticket: Ticket },
    Failed { generation: u64, reason: String },
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

    fn stats_raw(&self, statistics: &[u8]) {
        self.observer.stats_raw(statistics);
    }

    fn error(&self, error: ClientError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.report(Report::Failed {
                generation: self.generation,
                reason: reason.to_owned(),
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
            Err((error, _)) => Report::Failed {
                generation,
                reason: error.to_string(),
            },
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
#[derive(Debug, PartialEq, Eq)]
enum Pumped {
    /// Everything is handed over.
    All,
    /// There is more, and room for it as far as is known.
    More,
    /// The producer's queue is full.
    NoRoom,
    /// The producer cannot take the next message.
    Failed(String),
}

struct Task {
    settings: ClientConfig,
    observer: Observer,
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
    async fn run(mut self) {
        let mut open = true;
        loop {
            let pumped = self.pump();
            if let Pumped::Failed(reason) = pumped {
                self.replace_producer(&reason).await;
                continue;
            }
            if !open && self.ledger.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(report) = self.incoming_reports.recv() => {
                    if let Some(reason) = self.take_reports(report) {
                        self.replace_producer(&reason).await;
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
    fn take_reports(&mut self, report: Report) -> Option<String> {
        let mut next = Some(report);
        let mut failed = None;
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
                Report::Failed { generation, reason } => {
                    if generation == self.ledger.generation() {
                        failed.get_or_insert(reason);
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
        // Whoever waited may have gone meanwhile.
        let _unheard = outgoing.acked.send(());
    }

    /// Hands messages to the producer, in order, until there is no more, no room, or others must have a turn.
    fn pump(&mut self) -> Pumped {
        let Some(producer) = &self.producer else {
            return Pumped::Failed("there is no producer".to_owned());
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
                    pumped = Pumped::Failed(error.to_string());
                    break;
                }
            }
        }
        metrics::counter!("bm_kafka_outbox_messages_total").increment(messages);
        metrics::counter!("bm_kafka_outbox_bytes_total").increment(bytes);
        pumped
    }

    /// Gives up the producer and whatever it still holds, and makes a fresh one, which begins every outbox again.
    async fn replace_producer(&mut self, reason: &str) {
        tracing::warn!(
            kafka.generation = self.ledger.generation(),
            "the lanes' producer failed, its outboxes are sent again by a fresh one: {reason}"
        );
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
