//! Sending events as a careful client does: again, under the same id, until an answer settles it.

use std::net::SocketAddr;
use std::sync::Arc;
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

/// A client. Clones share nothing but the book.
#[derive(Clone)]
pub struct Sender {
    door: Door,
    http: reqwest::Client,
    book: Arc<Book>,
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
            turn: 0,
        }
    }

    /// Sends an event until it is settled; gives the answer (`{"status": "accepted"}` or
    /// `{"status": "duplicate"}`, and what more there is).
    pub async fn send(&mut self, event: &Value) -> Value {
        self.book.sending(event);
        let started = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            let reason = match self.attempt(event).await {
                Attempt::Settled(answer) => {
                    self.book.settled(event);
                    return answer;
                }
                Attempt::Again(reason) => reason,
            };
            assert!(
                started.elapsed() < SETTLED_WITHIN,
                "not settled within {SETTLED_WITHIN:?}: {event}; last: {reason}"
            );
            // As a client waits before it tries again.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn attempt(&mut self, event: &Value) -> Attempt {
        self.turn += 1;
        match &self.door {
            Door::Gateways(addresses, key) => {
                let url = format!(
                    "http://{}/v1/events",
                    addresses[self.turn % addresses.len()]
                );
                let request = self.http.post(url).header("x-api-key", key).json(event);
                match request.send().await {
                    Ok(response) => judge(response).await,
                    Err(error) => Attempt::Again(error.to_string()),
                }
            }
            Door::Log(topics, studio) => {
                append(topics, studio, event).await;
                Attempt::Settled(json!({"status": "accepted"}))
            }
        }
    }
}

async fn judge(response: reqwest::Response) -> Attempt {
    let status = response.status().as_u16();
    // An answer cut off by a kill says nothing.
    let body = match response.text().await {
        Ok(body) => body,
        Err(error) => return Attempt::Again(error.to_string()),
    };
    match status {
        200 => {
            let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| {
                panic!("200 with a body that is not JSON ({error}): {body}")
            });
            let told = answer["status"].as_str();
            assert!(
                matches!(told, Some("accepted" | "duplicate")),
                "200 that says neither accepted nor duplicate: {body}"
            );
            Attempt::Settled(answer)
        }
        // In flight, too many, or no broker at the moment.
        408 | 409 | 429 | 503 => Attempt::Again(format!("{status} {body}")),
        _ => panic!("an event that should be taken was answered {status} {body}"),
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
