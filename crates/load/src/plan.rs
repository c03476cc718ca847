//! What a run sends and when: fixed by its settings and a seed, but for the events' timestamps.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bm_contracts::{GameId, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::Value;

use crate::mix::Mix;

/// How many of the newest requests a client's retry may repeat.
const REPEATABLE: usize = 256;

/// The settings of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Events a second.
    pub rate: f64,
    /// How long.
    pub duration: Duration,
    /// Events in a request; 1 sends single events.
    pub batch: usize,
    /// How many players each game has.
    pub players: u32,
    /// Games, each as likely as any other.
    pub games: Vec<GameId>,
    /// How many of the requests repeat an earlier one to the byte, from 0 to 1.
    pub retries: f64,
    /// Whether the events carry ids; repeats need them.
    pub named: bool,
    /// What the events are like.
    pub mix: Mix,
    /// Of everything drawn.
    pub seed: u64,
    /// Begins every event id and correlation id, so that runs do not meet.
    pub run: String,
}

/// Settings that make no run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A rate that is none.
    #[error("the rate must be a positive number of events a second")]
    Rate,
    /// A batch that the gateway does not take.
    #[error("a batch holds 1 to 500 events")]
    Batch,
    /// Nobody to play, or nothing.
    #[error("there must be a player and a game at least")]
    Nobody,
    /// A share that is none.
    #[error("the share of retries is a number from 0 to 1, below 1")]
    Retries,
    /// Repeats that cannot be told from new events.
    #[error("retries need events with an eventId")]
    Unnamed,
}

impl Plan {
    /// Whether it can be run.
    pub fn check(&self) -> Result<(), PlanError> {
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return Err(PlanError::Rate);
        }
        if !(1..=500).contains(&self.batch) {
            return Err(PlanError::Batch);
        }
        if self.players == 0 || self.games.is_empty() {
            return Err(PlanError::Nobody);
        }
        if !(0.0..1.0).contains(&self.retries) {
            return Err(PlanError::Retries);
        }
        if self.retries > 0.0 && !self.named {
            return Err(PlanError::Unnamed);
        }
        Ok(())
    }

    /// When the request of this number is due, since the run began.
    pub fn due(&self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 * self.batch as f64 / self.rate)
    }

    /// How many requests the run has.
    pub fn requests(&self) -> u64 {
        let events = self.rate * self.duration.as_secs_f64();
        (events / self.batch as f64).ceil() as u64
    }
}

/// A request, ready to be sent.
#[derive(Debug)]
pub struct Request {
    /// `x-correlation-id`; a repeat has its own.
    pub correlation: String,
    /// The body.
    pub body: Arc<Body>,
    /// An earlier request has the same body.
    pub repeats: bool,
}

/// The body of a request.
#[derive(Debug)]
pub struct Body {
    /// JSON: an event, or an array of them.
    pub json: String,
    /// Partition keys (`gameId:userId`) of its events, in their order.
    pub players: Vec<String>,
}

/// Makes the requests of a plan one after the other.
#[derive(Debug)]
pub struct Requests {
    plan: Plan,
    random: StdRng,
    made: u64,
    events: u64,
    newest: VecDeque<Arc<Body>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    event_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_name: Option<String>,
    user_id: &'a str,
    game_id: &'a GameId,
    timestamp: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    metadata: Value,
}

impl Requests {
    /// Of a plan that was checked.
    pub fn new(plan: Plan) -> Self {
        Self {
            random: StdRng::seed_from_u64(plan.seed),
            plan,
            made: 0,
            events: 0,
            newest: VecDeque::with_capacity(REPEATABLE),
        }
    }

    /// The next request, with `now` as the time of its events if it repeats none.
    pub fn next(&mut self, now: Timestamp) -> Request {
        let correlation = format!("{}-{}", self.plan.run, self.made);
        self.made += 1;
        let repeats = !self.newest.is_empty() && self.random.random_bool(self.plan.retries);
        let body = if repeats {
            let at = self.random.random_range(0..self.newest.len());
            Arc::clone(&self.newest[at])
        } else {
            let body = Arc::new(self.body(now));
            if self.plan.retries > 0.0 {
                if self.newest.len() == REPEATABLE {
                    self.newest.pop_front();
                }
                self.newest.push_back(Arc::clone(&body));
            }
            body
        };
        Request {
            correlation,
            body,
            repeats,
        }
    }

    fn body(&mut self, now: Timestamp) -> Body {
        let mut players = Vec::with_capacity(self.plan.batch);
        let events: Vec<String> = (0..self.plan.batch)
            .map(|_| {
                let (json, player) = self.event(now);
                players.push(player);
                json
            })
            .collect();
        let json = match &events[..] {
            [event] if self.plan.batch == 1 => event.clone(),
            events => format!("[{}]", events.join(",")),
        };
        Body { json, players }
    }

    fn event(&mut self, now: Timestamp) -> (String, String) {
        let plan = &self.plan;
        let drawn = plan.mix.draw(&mut self.random);
        let game = &plan.games[self.random.random_range(0..plan.games.len())];
        let user = format!("player-{}", self.random.random_range(0..plan.players));
        self.events += 1;
        let event = Wire {
            event_type: drawn.event_type.as_str(),
            event_name: drawn.event_name,
            user_id: &user,
            game_id: game,
            timestamp: now,
            event_id: plan.named.then(|| format!("{}-{}", plan.run, self.events)),
            metadata: drawn.metadata,
        };
        // Strings, numbers and maps with string keys always encode.
        let json = serde_json::to_string(&event).unwrap_or_default();
        (json, format!("{game}:{user}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn plan() -> Plan {
        Plan {
            rate: 100.0,
            duration: Duration::from_secs(10),
            batch: 1,
            players: 5,
            games: vec![GameId::new("g").unwrap(), GameId::new("h").unwrap()],
            retries: 0.25,
            named: true,
            mix: Mix::parse(
                br#"{"events":[{"eventType":"custom","metadata":{"n":{"$int":[1,9]}}}]}"#,
            )
            .unwrap(),
            seed: 7,
            run: "r".to_owned(),
        }
    }

    fn all(plan: Plan) -> Vec<Request> {
        let count = plan.requests();
        let mut requests = Requests::new(plan);
        (0..count)
            .map(|_| requests.next(Timestamp::clamped(1_000)))
            .collect()
    }

    #[test]
    fn a_seed_says_what_is_sent_and_the_rate_when() {
        let one: Vec<String> = all(plan())
            .into_iter()
            .map(|r| r.body.json.clone())
            .collect();
        let two: Vec<String> = all(plan())
            .into_iter()
            .map(|r| r.body.json.clone())
            .collect();
        assert_eq!(one, two);
        assert_eq!(one.len(), 1_000);
        assert_eq!(plan().due(50), Duration::from_millis(500));
        let batches = Plan {
            batch: 20,
            ..plan()
        };
        assert_eq!(
            (batches.requests(), batches.due(1)),
            (50, Duration::from_millis(200))
        );
    }

    #[test]
    fn a_repeat_has_the_bytes_of_an_earlier_request_and_all_else_is_new() {
        let requests = all(plan());
        let mut sent = HashSet::new();
        for request in &requests {
            assert_eq!(sent.insert(&request.body.json), !request.repeats);
        }
        let repeats = requests.iter().filter(|request| request.repeats).count();
        assert!((200..300).contains(&repeats), "{repeats}");
        let correlations: HashSet<_> = requests.iter().map(|r| &r.correlation).collect();
        assert_eq!(correlations.len(), requests.len());
    }

    #[test]
    fn a_batch_is_an_array_of_events() {
        let requests = all(Plan {
            batch: 20,
            retries: 0.0,
            named: false,
            ..plan()
        });
        let events: Vec<Value> = serde_json::from_str(&requests[0].body.json).unwrap();
        assert_eq!(events.len(), 20);
        assert!(events.iter().all(|event| event.get("eventId").is_none()));
        let first = &events[0];
        let player = format!(
            "{}:{}",
            first["gameId"].as_str().unwrap(),
            first["userId"].as_str().unwrap()
        );
        assert_eq!(requests[0].body.players[0], player);
    }

    #[test]
    fn what_makes_no_run_is_refused() {
        assert!(plan().check().is_ok());
        for (bad, why) in [
            (
                Plan {
                    rate: 0.0,
                    ..plan()
                },
                "rate",
            ),
            (
                Plan {
                    batch: 501,
                    ..plan()
                },
                "batch",
            ),
            (
                Plan {
                    players: 0,
                    ..plan()
                },
                "player",
            ),
            (
                Plan {
                    retries: 1.0,
                    ..plan()
                },
                "share",
            ),
            (
                Plan {
                    named: false,
                    ..plan()
                },
                "eventId",
            ),
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
