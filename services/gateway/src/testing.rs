//! Fakes for unit tests: a log, games and event ids in memory, and a gateway made of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use bm_admission::{Attempt, Begin, Idempotency, Limiter, LimiterConfig, Players, SteadyClock};
use bm_bootstrap::Clock;
use bm_contracts::{GameId, StudioId, Timestamp};
use bm_kafka::{AppendError, Appended};
use bm_studio_auth::{StudioAuthConfig, StudioDirectory, StudioDocument, StudioSource};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::games::GameCache;
use crate::gateway::Gateway;
use crate::memory::Memory;
use crate::ports::{EventIds, EventLog, Games, GamesAway};
use crate::record::BusRecord;
use crate::routes;
use crate::stats::EventStats;

/// 2026-01-02T03:04:05.000Z
pub(crate) const NOW: Timestamp = Timestamp::clamped(1_767_323_045_000);

/// What requests of a [`Harness`] may take up.
pub(crate) const MEMORY: usize = 16 * 1024 * 1024;

/// Games in memory.
#[derive(Default)]
pub(crate) struct FakeGames {
    games: Mutex<HashMap<String, String>>,
    away: Mutex<bool>,
    silent: watch::Sender<bool>,
    asked: Arc<AtomicUsize>,
}

impl FakeGames {
    pub(crate) fn of(games: &[(&str, &str)]) -> Self {
        let fake = Self::default();
        for (game, studio) in games {
            fake.register(game, studio);
        }
        fake
    }

    pub(crate) fn register(&self, game: &str, studio: &str) {
        let mut games = self.games.lock().unwrap();
        games.insert(game.to_owned(), studio.to_owned());
    }

    pub(crate) fn remove(&self, game: &str) {
        self.games.lock().unwrap().remove(game);
    }

    /// Whether questions are left without answer until this is over.
    pub(crate) fn be_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }

    pub(crate) fn go_away(&self, away: bool) {
        *self.away.lock().unwrap() = away;
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Games for FakeGames {
    fn of(
        &self,
        studio: StudioId,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<GameId>, GamesAway>> {
        let away = *self.away.lock().unwrap();
        let games = self.games.lock().unwrap();
        let found = games.iter().filter(|(_, owner)| *owner == studio.as_str());
        let mut found: Vec<GameId> = found
            .map(|(game, _)| GameId::new(game.as_str()).unwrap())
            .collect();
        found.sort();
        found.truncate(limit);
        let mut silent = self.silent.subscribe();
        let asked = Arc::clone(&self.asked);
        async move {
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            silent.wait_for(|silent| !*silent).await.unwrap();
            if away {
                return Err(GamesAway("not there".into()));
            }
            Ok(found)
        }
        .boxed()
    }
}

/// A log in memory.
#[derive(Default)]
pub(crate) struct FakeLog {
    records: Mutex<Vec<BusRecord>>,
    failing: Mutex<Option<AppendError>>,
    held_back: Mutex<Option<Arc<Notify>>>,
    panics: AtomicBool,
}

impl FakeLog {
    pub(crate) fn fail_with(&self, error: Option<AppendError>) {
        *self.failing.lock().unwrap() = error;
    }

    /// From now on records are taken, and then something of ours breaks.
    pub(crate) fn panic_after_taking(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }

    /// From now on records are taken and not acknowledged until the returned notice is given.
    pub(crate) fn hold_back(&self) -> Arc<Notify> {
        let go_on = Arc::new(Notify::new());
        *self.held_back.lock().unwrap() = Some(Arc::clone(&go_on));
        go_on
    }

    pub(crate) fn records(&self) -> Vec<BusRecord> {
        self.records.lock().unwrap().clone()
    }
}

impl EventLog for FakeLog {
    fn append(
        &self,
        records: &[&BusRecord],
    ) -> BoxFuture<'static, Vec<Result<Appended, AppendError>>> {
        if let Some(error) = self.failing.lock().unwrap().clone() {
            let failed = records.iter().map(|_| Err(error.clone())).collect();
            return async { failed }.boxed();
        }
        let mut log = self.records.lock().unwrap();
        let append = |record: &&BusRecord| {
            log.push((*record).clone());
            Ok(Appended {
                partition: 0,
                offset: log.len() as i64 - 1,
                timestamp: NOW.saturating_add_millis(log.len() as i64),
            })
        };
        let appended = records.iter().map(append).collect();
        let held_back = self.held_back.lock().unwrap().clone();
        let panics = self.panics.load(Ordering::SeqCst);
        async move {
            assert!(!panics, "as the test wants it");
            if let Some(go_on) = held_back {
                go_on.notified().await;
            }
            appended
        }
        .boxed()
    }
}

type BodyHash = [u8; 16];

enum Held {
    Pending(Attempt),
    Done(Timestamp),
}

/// Event ids in memory; the attempts and what repeats within a batch come from the real thing.
pub(crate) struct FakeIds {
    maker: Idempotency,
    held: Mutex<HashMap<[u8; 16], (BodyHash, Held)>>,
}

impl FakeIds {
    fn new() -> Self {
        Self {
            maker: Idempotency::new(None, ""),
            held: Mutex::default(),
        }
    }

    pub(crate) fn pending(&self) -> usize {
        let held = self.held.lock().unwrap();
        let pending = held
            .values()
            .filter(|(_, held)| matches!(held, Held::Pending(_)));
        pending.count()
    }

    fn with_attempt(&self, attempt: &Attempt, change: impl FnOnce(&mut Held)) {
        let mut held = self.held.lock().unwrap();
        let ours = held
            .values_mut()
            .find(|(_, held)| matches!(held, Held::Pending(pending) if pending == attempt));
        change(&mut ours.unwrap().1);
    }
}

impl EventIds for FakeIds {
    fn begin_many<'a>(&'a self, events: &'a [([u8; 16], [u8; 16])]) -> BoxFuture<'a, Vec<Begin>> {
        async move {
            let begun = self.maker.begin_many(events).await;
            let mut known = self.held.lock().unwrap();
            let judged = begun.into_iter().zip(events).map(|(begin, (key, body))| {
                let Begin::Unknown(attempt) = begin else {
                    return begin;
                };
                match known.get(key) {
                    None => {
                        known.insert(*key, (*body, Held::Pending(attempt.clone())));
                        Begin::Fresh(attempt)
                    }
                    Some((held, _)) if held != body => Begin::OtherBody,
                    Some((_, Held::Pending(_))) => Begin::InFlight,
                    Some((_, Held::Done(at))) => Begin::Done { answer: *at },
                }
            });
            judged.collect()
        }
        .boxed()
    }

    fn done(&self, attempt: Attempt, answer: Timestamp) {
        self.with_attempt(&attempt, |held| *held = Held::Done(answer));
    }

    fn clear(&self, attempt: Attempt) {
        let mut held = self.held.lock().unwrap();
        held.retain(|_, (_, held)| !matches!(held, Held::Pending(pending) if *pending == attempt));
    }
}

/// A gateway made of fakes. Studio `acme` has the keys `key` and `secret` and the game `g`; `late`
/// has not paid; `slow` may send 2 requests, and 1 event of a player, a minute, and has the game `s`.
pub(crate) struct Harness {
    pub(crate) log: Arc<FakeLog>,
    pub(crate) games: Arc<FakeGames>,
    pub(crate) ids: Arc<FakeIds>,
    pub(crate) work: TaskTracker,
    pub(crate) memory: Memory,
    router: Router,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or("none")
    }
}

impl Harness {
    pub(crate) fn new() -> Self {
        let studio = |id: &str, document: Value| StudioDocument::from_json(id, &document).unwrap();
        let studios = vec![
            studio(
                "acme",
                json!({"tier": "pro", "subscriptionStatus": "active", "apiKey": "key", "secretKey": "secret"}),
            ),
            studio(
                "late",
                json!({"tier": "pro", "subscriptionStatus": "past_due", "apiKey": "unpaid"}),
            ),
            studio(
                "slow",
                json!({"tier": "ecosystem", "subscriptionStatus": "trialing", "apiKey": "slow",
                    "rateLimit": {"requestsPerMinute": 2, "burst": 2, "eventsPerMinute": 3,
                        "eventsBurst": 3, "playerEventsPerMinute": 1}}),
            ),
        ];
        Self::with(StudioDirectory::fixed(studios, Arc::new(|| NOW)))
    }

    /// The same, but nobody knows any studio yet.
    pub(crate) async fn without_studios() -> Self {
        let source = StudioSource::File("/nowhere/studios.json".into());
        let config = StudioAuthConfig { source };
        Self::with(StudioDirectory::start(&config, None, Arc::new(|| NOW)).await)
    }

    fn with(directory: StudioDirectory) -> Self {
        let log = Arc::new(FakeLog::default());
        let games = Arc::new(FakeGames::of(&[
            ("g", "acme"),
            ("s", "slow"),
            ("other", "late"),
        ]));
        let ids = Arc::new(FakeIds::new());
        let work = TaskTracker::new();
        let memory = Memory::of(MEMORY);
        let gateway = Gateway {
            directory,
            limiter: Limiter::new(None, LimiterConfig::alone(), SteadyClock::default()),
            players: Players::new(600),
            games: GameCache::new(games.clone()),
            ids: ids.clone(),
            log: log.clone(),
            clock: Clock::fixed(NOW),
            stats: EventStats::new(),
            work: work.clone(),
            body_timeout: Duration::from_secs(15),
            memory: memory.clone(),
        };
        Self {
            log,
            games,
            ids,
            work,
            memory,
            router: routes::router(Arc::new(gateway)),
        }
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 16 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            json: serde_json::from_slice(&body).unwrap_or(Value::Null),
        }
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.ask(request.body(body.into()).unwrap()).await
    }

    /// Posts one event with the key of `acme`.
    pub(crate) async fn event(&self, event: &Value) -> Answer {
        let key = [("x-api-key", "key")];
        self.post("/v1/events", &key, event.to_string()).await
    }

    /// Posts a batch with the key of `acme`.
    pub(crate) async fn batch(&self, events: &Value) -> Answer {
        let key = [("x-api-key", "key")];
        self.post("/v1/events/batch", &key, events.to_string())
            .await
    }
}

/// An event of `acme` that is good.
pub(crate) fn good() -> Value {
    json!({"eventType": "enemy_killed", "userId": "u", "gameId": "g", "timestamp": NOW.to_string()})
}

/// The same with a field set.
pub(crate) fn good_with(field: &str, value: impl Into<Value>) -> Value {
    let mut event = good();
    event[field] = value.into();
    event
}
