//! Sends requests as a game's client does, and says what became of their events.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::plan::Request;

/// How long an answer is waited for; longer than a gateway may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Posts to one gateway.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    one: String,
    many: String,
    key: String,
}

/// What became of the events of a request: how many per outcome, e.g. `accepted`,
/// `retry rate_limited`, `503 unavailable`, `no answer: timed out`.
pub type Outcomes = BTreeMap<String, u64>;

#[derive(Deserialize)]
struct Answer {
    status: Option<String>,
    code: Option<String>,
    results: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    status: String,
    code: Option<String>,
}

impl Client {
    /// For the gateway at `url` (`http://host:port`, or https), with a studio's key.
    pub fn new(url: &str, key: &str) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(usize::MAX)
            .tcp_nodelay(true)
            .http1_only()
            .timeout(PATIENCE)
            .build()?;
        let url = url.trim_end_matches('/');
        Ok(Self {
            http,
            one: format!("{url}/v1/events"),
            many: format!("{url}/v1/events/batch"),
            key: key.to_owned(),
        })
    }

    /// Sends a request and waits for its answer.
    pub async fn send(&self, request: &Request) -> Outcomes {
        let events = request.body.players.len() as u64;
        let is_batch = request.body.json.starts_with('[');
        let answer = self
            .http
            .post(if is_batch { &self.many } else { &self.one })
            .header("x-api-key", &self.key)
            .header("x-correlation-id", &request.correlation)
            .header("content-type", "application/json")
            .body(request.body.json.clone())
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return no_answer(&error, events),
        };
        let status = answer.status();
        let bytes = match answer.bytes().await {
            Ok(bytes) => bytes,
            Err(error) => return no_answer(&error, events),
        };
        let answer = serde_json::from_slice::<Answer>(&bytes);
        match answer {
            Ok(Answer {
                results: Some(items),
                ..
            }) => {
                let mut outcomes = Outcomes::new();
                for item in items {
                    let outcome = match item.code {
                        Some(code) => format!("{} {code}", item.status),
                        None => item.status,
                    };
                    *outcomes.entry(outcome).or_default() += 1;
                }
                outcomes
            }
            Ok(Answer {
                status: Some(outcome),
                ..
            }) if status.is_success() => Outcomes::from([(outcome, events)]),
            Ok(Answer {
                code: Some(code), ..
            }) => Outcomes::from([(format!("{} {code}", status.as_u16()), events)]),
            _ => Outcomes::from([(format!("{} without our form", status.as_u16()), events)]),
        }
    }
}

fn no_answer(error: &reqwest::Error, events: u64) -> Outcomes {
    let why = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "no connection"
    } else {
        "connection broken"
    };
    Outcomes::from([(format!("no answer: {why}"), events)])
}
