//! Runs a plan: sends each request when it is due, whatever became of those before it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bm_contracts::Timestamp;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Client, Outcomes};
use crate::plan::{Plan, PlanError, Request, Requests};
use crate::report::{Latency, Report};
use crate::track::Tracker;

/// Why a load could not be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Settings that make no run.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No HTTP client can be made.
    #[error("cannot make an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// A run to be.
pub struct Load {
    /// What is sent, and when.
    pub plan: Plan,
    /// Where to.
    pub client: Client,
    /// How many requests may wait for their answer at once. One that is due and finds no place waits,
    /// and that counts into its latency.
    pub in_flight: usize,
    /// Wall time, for the events' timestamps.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Follows the events to `ui.updates`, where somebody reads that.
    pub tracker: Option<Arc<Tracker>>,
}

/// How far a run is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests sent.
    pub sent: AtomicU64,
    /// Requests answered.
    pub answered: AtomicU64,
    /// Events that are in the log.
    pub in_the_log: AtomicU64,
}

#[derive(Default)]
struct Tally {
    answers: Outcomes,
    latency: Latency,
    events: u64,
}

impl Load {
    /// Sends everything, waits for all answers, and reports. Ends early when `stop` resolves.
    pub async fn run(
        self,
        progress: Arc<Progress>,
        stop: impl Future<Output = ()>,
    ) -> Result<Report, LoadError> {
        self.plan.check()?;
        let Self {
            plan,
            client,
            in_flight,
            now,
            tracker,
        } = self;
        let places = Arc::new(Semaphore::new(in_flight.max(1)));
        let tally = Arc::new(Mutex::new(Tally::default()));
        let mut sending = JoinSet::new();
        let mut requests = Requests::new(plan.clone());
        let start = Instant::now();
        tokio::pin!(stop);
        let mut sent = 0;
        for number in 0..plan.requests() {
            let due = start + plan.due(number);
            let place = async {
                tokio::time::sleep_until(due).await;
                Arc::clone(&places).acquire_owned().await
            };
            let place = tokio::select! {
                biased;
                () = &mut stop => break,
                place = place => place,
            };
            let request = requests.next(now());
            sent += 1;
            progress.sent.fetch_add(1, Ordering::Relaxed);
            if let Some(tracker) = tracker.as_ref().filter(|_| !request.repeats) {
                for player in &request.body.players {
                    tracker.sent(player, &request.correlation, due);
                }
            }
            let (client, tally) = (client.clone(), Arc::clone(&tally));
            let (progress, tracker) = (Arc::clone(&progress), tracker.clone());
            sending.spawn(async move {
                let outcomes = client.send(&request).await;
                let took = due.elapsed();
                drop(place);
                count(
                    &tally,
                    &progress,
                    tracker.as_deref(),
                    &request,
                    outcomes,
                    took,
                );
            });
            while sending.try_join_next().is_some() {}
        }
        while sending.join_next().await.is_some() {}
        let seconds = start.elapsed().as_secs_f64();
        let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = Report {
            requests: sent,
            events: tally.events,
            seconds,
            events_per_second: 0.0,
            answers: tally.answers.clone(),
            latency_ms: tally.latency.figures(),
            follow_ms: None,
            not_seen: None,
        };
        report.events_per_second = report.in_the_log() as f64 / seconds.max(f64::MIN_POSITIVE);
        Ok(report)
    }
}

fn count(
    tally: &Mutex<Tally>,
    progress: &Progress,
    tracker: Option<&Tracker>,
    request: &Request,
    outcomes: Outcomes,
    took: Duration,
) {
    let accepted = outcomes.get("accepted").copied().unwrap_or(0);
    let in_the_log = accepted + outcomes.get("duplicate").copied().unwrap_or(0);
    // Of a batch of which only a part was accepted the rest shows as never seen.
    if let Some(tracker) = tracker.filter(|_| in_the_log == 0 && !request.repeats) {
        for player in &request.body.players {
            tracker.refused(player, &request.correlation);
        }
    }
    progress.answered.fetch_add(1, Ordering::Relaxed);
    progress.in_the_log.fetch_add(in_the_log, Ordering::Relaxed);
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    tally.events += request.body.players.len() as u64;
    tally.latency.record(took);
    for (outcome, count) in outcomes {
        *tally.answers.entry(outcome).or_default() += count;
    }
}

/// Waits until every event has had its effect, or none has had for `patience`.
pub async fn all_seen(tracker: &Tracker, patience: Duration) {
    let mut waiting = tracker.waiting();
    let mut since = Instant::now();
    while waiting > 0 && since.elapsed() < patience {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = tracker.waiting();
        if now < waiting {
            since = Instant::now();
        }
        waiting = now;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use axum::Json;
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::post;
    use bm_contracts::GameId;
    use serde_json::{Value, json};

    use super::*;
    use crate::mix::Mix;

    fn plan() -> Plan {
        Plan {
            rate: 1_000.0,
            duration: Duration::from_millis(300),
            batch: 1,
            players: 3,
            games: vec![GameId::new("g").unwrap()],
            retries: 0.0,
            named: true,
            mix: Mix::parse(br#"{"events":[{"eventType":"custom"}]}"#).unwrap(),
            seed: 1,
            run: "t".to_owned(),
        }
    }

    async fn load(router: Router, plan: Plan, in_flight: usize) -> Report {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let load = Load {
            plan,
            client: Client::new(&url, "k").unwrap(),
            in_flight,
            now: Arc::new(|| Timestamp::clamped(1_000)),
            tracker: None,
        };
        let never = std::future::pending();
        load.run(Arc::default(), never).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stall_counts_for_every_request_that_was_due_in_it() {
        let stalled = Arc::new(AtomicBool::new(false));
        let router = Router::new().route(
            "/v1/events",
            post(move || {
                let first = !stalled.swap(true, Ordering::SeqCst);
                async move {
                    if first {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Json(json!({"eventId": "e", "status": "accepted"}))
                }
            }),
        );
        // One at a time: behind the first, some 200 requests are due and cannot be sent.
        let report = load(router, plan(), 1).await;
        assert_eq!((report.requests, report.in_the_log()), (300, 300));
        assert!(report.latency_ms.p50 > 50.0, "{}", report.latency_ms);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn answers_are_counted_by_event_and_by_what_they_say() {
        let router = Router::new()
            .route(
                "/v1/events/batch",
                post(|Json(events): Json<Vec<Value>>| async move {
                    let items: Vec<Value> = (0..events.len())
                        .map(|index| match index {
                            0 => json!({"index": 0, "status": "retry", "code": "rate_limited"}),
                            index => json!({"index": index, "status": "accepted"}),
                        })
                        .collect();
                    Json(json!({"results": items}))
                }),
            )
            .route(
                "/v1/events",
                post(|| async {
                    (
                        StatusCode::UNAUTHORIZED,
                        Json(json!({"code": "invalid_api_key"})),
                    )
                }),
            );
        let batches = Plan {
            batch: 10,
            ..plan()
        };
        let report = load(router.clone(), batches, 8).await;
        assert_eq!(
            report.answers,
            Outcomes::from([
                ("accepted".to_owned(), 270),
                ("retry rate_limited".to_owned(), 30)
            ])
        );
        let report = load(router, plan(), 8).await;
        assert_eq!(
            report.answers,
            Outcomes::from([("401 invalid_api_key".to_owned(), 300)])
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_gateway_that_is_not_there_is_no_answer() {
        let load = Load {
            plan: Plan {
                duration: Duration::from_millis(10),
                ..plan()
            },
            client: Client::new("http://127.0.0.1:1", "k").unwrap(),
            in_flight: 8,
            now: Arc::new(|| Timestamp::clamped(1_000)),
            tracker: None,
        };
        let report = load
            .run(Arc::default(), std::future::pending())
            .await
            .unwrap();
        assert_eq!(
            report.answers,
            Outcomes::from([("no answer: no connection".to_owned(), 10)])
        );
    }
}
