//! The lanes' producer as its users see it: outboxes go in, acknowledgements and what keeps them come out.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bm_engine::OutboxMessage;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::backlog::{Backlog, SharedBacklog, Waiter, lock};
use crate::config::KafkaConfig;
use crate::error::KafkaError;
use crate::metrics::{OUTBOX_OLDEST, OUTBOXES_WAITING, describe_publisher};
use crate::observer::Observer;
use crate::outbox_task::{Order, Task};

/// How often the gauges are set.
const MEASURE: Duration = Duration::from_secs(1);

/// Publishes outboxes. Cheap to clone; its task ends when all clones and all [`Publication`]s are gone.
#[derive(Clone)]
pub struct OutboxPublisher {
    orders: mpsc::UnboundedSender<Order>,
    backlog: SharedBacklog,
    observer: Observer,
    /// Its sender goes with the task.
    alive: watch::Receiver<()>,
}

/// Resolves when every message of an outbox is acknowledged by all replicas in sync; never fails.
///
/// Dropped before, the outbox is not sent again by a later producer. While the runtime shuts down it may stay
/// unresolved; see [`OutboxPublisher::stopped`].
#[must_use = "an outbox nobody waits for is not sent again when its producer fails"]
pub struct Publication {
    state: Outlook,
    _place: Option<Place>,
}

/// A place among the outboxes that wait; given up when dropped.
struct Place {
    backlog: SharedBacklog,
    waiter: Waiter,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.backlog).remove(self.waiter);
    }
}

enum Outlook {
    /// There was nothing to send.
    Nothing,
    Awaited(oneshot::Receiver<()>),
    /// The task ended with its runtime: not acknowledged, and nobody left to say more.
    Abandoned,
}

impl OutboxPublisher {
    /// Starts the publisher on the current runtime. `client_name` names it in the broker's and in our logs.
    pub fn start(config: &KafkaConfig, client_name: &str) -> Result<Self, KafkaError> {
        describe_publisher();
        let observer = Observer::new(client_name);
        let backlog = SharedBacklog::default();
        let (orders, incoming) = mpsc::unbounded_channel();
        let task = Task::new(config, client_name, &observer, &backlog, incoming)?;
        tokio::spawn(measure(Arc::downgrade(&backlog), client_name.to_owned()));
        Ok(Self {
            orders,
            backlog,
            observer,
            alive: spawn_watched(task.run()),
        })
    }

    /// Publishes an outbox behind those that were given before. Never waits.
    pub fn publish(&self, messages: Arc<Vec<OutboxMessage>>) -> Publication {
        if messages.is_empty() {
            return Publication {
                state: Outlook::Nothing,
                _place: None,
            };
        }
        let waiter = lock(&self.backlog).add(Instant::now());
        let place = Place {
            backlog: Arc::clone(&self.backlog),
            waiter,
        };
        let (acked, receiver) = oneshot::channel();
        // Where the task is gone, the publication stays unresolved; `stopped` tells.
        let _unsent = self.orders.send(Order { messages, acked });
        Publication {
            state: Outlook::Awaited(receiver),
            _place: Some(place),
        }
    }

    /// How many outboxes wait for their acknowledgements.
    pub fn unacked(&self) -> usize {
        lock(&self.backlog).len()
    }

    /// How long the oldest unacknowledged outbox has waited; `None` when none waits.
    ///
    /// Also while the producer is being replaced, and when the publisher has stopped.
    pub fn oldest_unacked(&self) -> Option<Duration> {
        lock(&self.backlog).oldest(Instant::now())
    }

    /// What keeps the outboxes that wait, with what is to be done about it where that is known.
    ///
    /// `None` when none waits or nothing went wrong. A fault that passes by itself is told as well: how long the
    /// oldest has waited says whether it matters.
    pub fn fault(&self) -> Option<String> {
        if self.alive.has_changed().is_err() {
            return Some("the publisher has stopped".to_owned());
        }
        let backlog = lock(&self.backlog);
        if backlog.len() == 0 {
            return None;
        }
        let complaint = || Some(self.observer.faults().borrow().as_ref()?.reason.clone());
        backlog.fault().map(str::to_owned).or_else(complaint)
    }

    /// Resolves when nothing will be published any more: the publisher's task panicked, or its runtime shuts down.
    ///
    /// Publications not resolved by then never will be.
    pub async fn stopped(&self) {
        let mut alive = self.alive.clone();
        // Nothing is ever sent: it ends with its sender.
        while alive.changed().await.is_ok() {}
    }
}

/// Spawns `task`; the receiver is closed when it ends, however it ends.
fn spawn_watched(task: impl Future<Output = ()> + Send + 'static) -> watch::Receiver<()> {
    let (held, alive) = watch::channel(());
    tokio::spawn(async move {
        let _held = held;
        task.await;
    });
    alive
}

/// Sets the gauges, on a task of its own: they must grow when the publisher's hangs.
async fn measure(backlog: Weak<Mutex<Backlog>>, client: String) {
    let waiting = metrics::gauge!(OUTBOXES_WAITING, "client" => client.clone());
    let oldest = metrics::gauge!(OUTBOX_OLDEST, "client" => client);
    let mut tick = tokio::time::interval(MEASURE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(backlog) = backlog.upgrade() else {
            break;
        };
        let (outboxes, age) = {
            let backlog = lock(&backlog);
            (backlog.len(), backlog.oldest(Instant::now()))
        };
        waiting.set(outboxes as f64);
        oldest.set(age.unwrap_or_default().as_secs_f64());
    }
    waiting.set(0.0);
    oldest.set(0.0);
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

#[cfg(test)]
mod tests {
    use bm_contracts::Topic;

    use super::*;

    #[tokio::test]
    async fn a_publisher_that_panics_is_told() {
        let (orders, mut incoming) = mpsc::unbounded_channel();
        let publisher = OutboxPublisher {
            orders,
            backlog: SharedBacklog::default(),
            observer: Observer::new("test"),
            alive: spawn_watched(async move {
                incoming.recv().await;
                panic!("as a bug would");
            }),
        };
        let running = tokio::time::timeout(Duration::ZERO, publisher.stopped()).await;
        assert!(running.is_err() && publisher.fault().is_none());
        let message = OutboxMessage {
            topic: Topic::UiUpdates,
            partition: 0,
            key: "g:u".to_owned(),
            headers: Vec::new(),
            value: Vec::new(),
        };
        let publication = publisher.publish(Arc::new(vec![message]));
        let stopped = tokio::time::timeout(Duration::from_mins(1), publisher.stopped());
        stopped.await.unwrap();
        assert_eq!(publisher.fault().unwrap(), "the publisher has stopped");
        assert_eq!(publisher.unacked(), 1);
        assert!(publisher.oldest_unacked().is_some());
        drop(publication);
        assert_eq!(publisher.oldest_unacked(), None);
    }
}
