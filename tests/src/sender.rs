//! Sending events as a careful client does: again, under the same ids, until an answer settles them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bm_contracts::partition::partition_for;
use bm_testkit::TestTopics;
use serde_json::{Value, json};

use crate::Book;

/// A mark of a killed gateway's request stands for 30 s; after that a retry must be taken.
const SETTLED_WITHIN: Duration = Duration::from_mins(1);

/// Where events go in.
#[derive(Clone)]
pub enum Door {
    /// The gateways' own: addresses (`host:port`) and the key to show.
    Gateways(Vec<SocketAddr>, String),
    /// Straight onto `game.events`, as a gateway would have written it, for tests of what follows.
    Log(Arc<TestTopics>, String),
}

/// How a batch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A JSON array.
    Array,
    /// `{"events": […]}`
    Object,
    /// One event a line.
    Ndjson,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Array, Self::Object, Self::Ndjson];

    /// Content type and body of a batch.
    pub fn write(self, events: &[&Value]) -> (&'static str, String) {
        match self {
            Self::Array => ("application/json", json!(events).to_string()),
            Self::Object => ("application/json", json!({"events": events}).to_string()),
            Self::Ndjson => {
                let lines = events.iter().map(|event| format!("{event}\n"));
                ("application/x-ndjson", lines.collect())
            }
        }
    }
}

/// What a client has lived through.
#[derive(Debug, Default)]
pub struct Tally {
    cut_off: AtomicU64,
    retried: AtomicU64,
}

impl Tally {
    /// Requests that a gateway had, and did not answer before the connection ended.
    pub fn cut_off(&self) -> u64 {
        self.cut_off.load(Ordering::SeqCst)
    }

    /// Events of batches that were answered `retry`.
    pub fn retried(&self) -> u64 {
        self.retried.load(Ordering::SeqCst)
    }
}

/// A client. Clones share the book and the tally.
#[derive(Clone)]
pub struct Sender {
    door: Door,
    http: reqwest::Client,
    book: Arc<Book>,
    tally: Arc<Tally>,
    settles_within: Duration,
    turn: usize,
}

/// What one attempt came to.
enum Attempt {
    /// It is in the log; with the answer's body.
    Settled(Value),
    /// It may or may not be; the reason is for messages.
    Again(String),
}

impl Sender {
    /// A client that writes down in `book` what it does.
    pub fn new(door: Door, book: Arc<Book>) -> Self {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(15))
            .build()
            .expect("an HTTP client can be made");
        Self {
            door,
            http,
            book,
            tally: Arc::default(),
            settles_within: SETTLED_WITHIN,
            turn: 0,
        }
    }

    /// One that waits so long for each answer, and goes on trying so long.
    #[must_use]
    pub fn waiting(mut self, for_answer: Duration, to_settle: Duration) -> Self {
        self.http = reqwest::Client::builder()
            .timeout(for_answer)
            .build()
            .expect("an HTTP client can be made");
        self.settles_within = to_settle;
        self
    }

    /// What this client and its clones have lived through.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// Sends an event until it is settled; gives the answer (`{"status": "accepted"}` or
    /// `{"status": "duplicate"}`, and what more there is).
    pub async fn send(&mut self, event: &Value) -> Value {
        self.book.sending(event);
        let mut patience = Patience::new(self.settles_within);
        loop {
            match self.attempt(event).await {
                Attempt::Settled(answer) => {
                    self.book.settled(event);
                    return answer;
                }
                Attempt::Again(reason) => patience.wait(&reason, event).await,
            }
        }
    }

    /// Sends events in one batch, and again what was answered `retry`, until all are settled.
    pub async fn send_batch(&mut self, events: &[Value], form: Form) {
        for event in events {
            self.book.sending(event);
        }
        let mut open: Vec<&Value> = events.iter().collect();
        let mut patience = Patience::new(self.settles_within);
        while !open.is_empty() {
            let reason = match self.attempt_batch(&open, form).await {
                Attempt::Settled(answer) => {
                    open = self.judge_items(&open, &answer);
                    answer.to_string()
                }
                Attempt::Again(reason) => reason,
            };
            if let Some(event) = open.first() {
                patience.wait(&reason, event).await;
            }
        }
    }

    async fn attempt(&mut self, event: &Value) -> Attempt {
        match &self.door {
            Door::Gateways(..) => {
                self.post("/v1/events", "application/json", event.to_string())
                    .await
            }
            Door::Log(topics, studio) => {
                append(topics, studio, event).await;
                Attempt::Settled(json!({"status": "accepted"}))
            }
        }
    }

    /// Settled is the request, not its events.
    async fn attempt_batch(&mut self, events: &[&Value], form: Form) -> Attempt {
        match &self.door {
            Door::Gateways(..) => {
                let (content_type, body) = form.write(events);
                self.post("/v1/events/batch", content_type, body).await
            }
            Door::Log(topics, studio) => {
                let mut results = Vec::with_capacity(events.len());
                for event in events {
                    append(topics, studio, event).await;
                    results.push(json!({"eventId": event["eventId"], "status": "accepted"}));
                }
                Attempt::Settled(json!({"results": results, "accepted": events.len()}))
            }
        }
    }

    async fn post(&mut self, path: &str, content_type: &str, body: String) -> Attempt {
        let Door::Gateways(addresses, key) = &self.door else {
            unreachable!("only gateways take posts");
        };
        self.turn += 1;
        let address = addresses[self.turn % addresses.len()];
        let request = self
            .http
            .post(format!("http://{address}{path}"))
            .header("x-api-key", key)
            .header("content-type", content_type)
            .body(body);
        let answered = match request.send().await {
            Ok(response) => {
                let (status, retry_after) = (
                    response.status().as_u16(),
                    response.headers().contains_key("retry-after"),
                );
                // An answer cut off by a kill says nothing.
                response
                    .text()
                    .await
                    .map(|body| (status, retry_after, body))
            }
            Err(error) => Err(error),
        };
        match answered {
            Ok((status, retry_after, body)) => judge(status, retry_after, &body),
            Err(error) => {
                if !error.is_connect() && !error.is_timeout() {
                    self.tally.cut_off.fetch_add(1, Ordering::SeqCst);
                }
                Attempt::Again(error.to_string())
            }
        }
    }

    /// Writes down what is settled; gives what must be sent again.
    fn judge_items<'a>(&self, sent: &[&'a Value], answer: &Value) -> Vec<&'a Value> {
        let results = answer["results"].as_array().map(Vec::as_slice);
        let results = results.unwrap_or_default();
        assert_eq!(results.len(), sent.len(), "a result for each: {answer}");
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut again = Vec::new();
        for (event, result) in sent.iter().zip(results) {
            let status = result["status"].as_str().unwrap_or_default();
            *counts.entry(status).or_default() += 1;
            assert_eq!(result["eventId"], event["eventId"], "in order: {answer}");
            match status {
                "accepted" | "duplicate" => self.book.settled(event),
                "retry" => again.push(*event),
                _ => panic!("{event} should be taken, and was answered {result}"),
            }
        }
        for status in ["accepted", "duplicate", "rejected", "retry"] {
            let counted = counts.get(status).copied().unwrap_or(0);
            let told = answer[status].as_u64().unwrap_or(0);
            assert_eq!(told, counted as u64, "{status} in {answer}");
        }
        let retried = again.len() as u64;
        self.tally.retried.fetch_add(retried, Ordering::SeqCst);
        again
    }
}

/// How long a client goes on trying, and waits between.
struct Patience {
    limit: Duration,
    started: Instant,
    pause: Duration,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            started: Instant::now(),
            pause: Duration::from_millis(20),
        }
    }

    async fn wait(&mut self, reason: &str, event: &Value) {
        let limit = self.limit;
        assert!(
            self.started.elapsed() < limit,
            "not settled within {limit:?}: {event}; last: {reason}"
        );
        // As a client waits before it tries again.
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_millis(500));
    }
}

fn judge(status: u16, retry_after: bool, body: &str) -> Attempt {
    match status {
        200 => {
            let answer: Value = serde_json::from_str(body).unwrap_or_else(|error| {
                panic!("200 with a body that is not JSON ({error}): {body}")
            });
            if answer["results"].is_array() {
                let retry = answer["retry"] != 0;
                assert_eq!(retry_after, retry, "Retry-After goes with `retry`: {body}");
            } else {
                let told = answer["status"].as_str();
                assert!(
                    matches!(told, Some("accepted" | "duplicate")),
                    "200 that says neither accepted nor duplicate: {body}"
                );
            }
            Attempt::Settled(answer)
        }
        // In flight, too many, or no broker at the moment.
        408 | 409 | 429 | 503 => Attempt::Again(format!("{status} {body}")),
        _ => panic!("events that should be taken were answered {status} {body}"),
    }
}

/// Appends an event to `game.events` with what a gateway adds.
pub async fn append(topics: &TestTopics, studio: &str, event: &Value) -> (i32, i64) {
    let key = format!(
        "{}:{}",
        event["gameId"].as_str().unwrap_or_default(),
        event["userId"].as_str().unwrap_or_default()
    );
    let mut record = event.clone();
    record["studioId"] = studio.into();
    record["studioTier"] = "pro".into();
    record["partitionKey"] = key.as_str().into();
    let partition = partition_for(key.as_bytes(), 10);
    let value = record.to_string();
    let headers = [("bm-correlation-id", "appended-by-a-test".as_bytes())];
    let offset = topics
        .produce(
            "game.events",
            partition,
            Some(key.as_bytes()),
            Some(value.as_bytes()),
            &headers,
        )
        .await;
    (partition, offset)
}
