//! The gateway from a request to its answer, with a log that takes every record and acks it at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use bm_admission::{Idempotency, Limiter, LimiterConfig, Players, SteadyClock};
use bm_bench::{ID, event};
use bm_bootstrap::telemetry::{self, Defaults};
use bm_bootstrap::{Clock, Vars};
use bm_contracts::partition::partition_for;
use bm_contracts::{GameId, StudioId, Topic};
use bm_engine::Record;
use bm_gateway::games::GameCache;
use bm_gateway::gateway::Gateway;
use bm_gateway::memory::Memory;
use bm_gateway::ports::{EventLog, Games, GamesAway};
use bm_gateway::record::BusRecord;
use bm_gateway::routes;
use bm_gateway::stats::EventStats;
use bm_kafka::{AppendError, Appended};
use bm_studio_auth::{StudioDirectory, StudioDocument};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use http::{Request, StatusCode};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::Work;

pub(crate) const STUDIO: &str = "studio-of-the-bench";
pub(crate) const GAME: &str = "game-of-the-bench";
/// What its events are called.
pub(crate) const KIND: &str = "counted";
const KEY: &str = "key-of-the-bench";
const PLAYERS: usize = 10_000;

/// Acks at once, and keeps what it is given where somebody wants it.
struct Log {
    clock: Clock,
    kept: Option<Arc<Mutex<Vec<Record>>>>,
}

impl EventLog for Log {
    fn append(
        &self,
        records: &[&BusRecord],
    ) -> BoxFuture<'static, Vec<Result<Appended, AppendError>>> {
        let appended = records.iter().map(|record| Ok(self.take(record)));
        ready(appended.collect()).boxed()
    }
}

impl Log {
    fn take(&self, record: &BusRecord) -> Appended {
        let timestamp = self.clock.now();
        let Some(kept) = &self.kept else {
            return Appended {
                partition: 0,
                offset: 0,
                timestamp,
            };
        };
        let mut kept = kept.lock().expect("nobody panics in here");
        let key = Bytes::from(record.key.clone());
        let partition = partition_for(&key, Topic::GameEvents.spec().partitions);
        let offset = kept.len() as i64;
        kept.push(Record {
            partition,
            offset,
            timestamp,
            key,
            value: Bytes::from(record.value.clone()),
            headers: record
                .headers()
                .iter()
                .map(|&(name, value)| (name.into(), Bytes::from(value.to_owned())))
                .collect(),
        });
        Appended {
            partition,
            offset,
            timestamp,
        }
    }
}

struct OneGame;

impl Games for OneGame {
    fn of(
        &self,
        _studio: StudioId,
        _limit: usize,
    ) -> BoxFuture<'static, Result<Vec<GameId>, GamesAway>> {
        let game = GameId::new(GAME).expect("a made-up game id is one");
        ready(Ok(vec![game])).boxed()
    }
}

/// A gateway, and requests for it.
pub(crate) struct Requests {
    runtime: Runtime,
    router: Router,
    path: &'static str,
    bodies: Vec<Bytes>,
    events: usize,
    sent: usize,
}

impl Requests {
    /// Requests of so many events each.
    pub(crate) fn of(events: usize, named: bool) -> Self {
        Self::with(events, named, None)
    }

    fn with(events: usize, named: bool, kept: Option<Arc<Mutex<Vec<Record>>>>) -> Self {
        let vars = Vars::from_map([("BM_LOG", "warn")]);
        telemetry::init("gateway", &vars, Defaults::SERVICE).expect("logging begins");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let router = runtime.block_on(async { routes::router(Arc::new(gateway(kept))) });
        let bodies = (0..PLAYERS.div_ceil(events))
            .map(|number| {
                let one = |n| {
                    let id = format!("{n:0width$x}", width = ID.len());
                    event(GAME, n % PLAYERS, KIND, named).replace(ID, &id)
                };
                let all: Vec<String> = (number * events..(number + 1) * events).map(one).collect();
                match &all[..] {
                    [one] => Bytes::from(one.clone()),
                    all => Bytes::from(format!("[{}]", all.join(","))),
                }
            })
            .collect();
        Self {
            runtime,
            router,
            path: if events == 1 {
                "/v1/events"
            } else {
                "/v1/events/batch"
            },
            bodies,
            events,
            sent: 0,
        }
    }
}

/// Records that the gateway made of so many events, in the order it appended them.
pub(crate) fn records(count: usize) -> Vec<Record> {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let mut requests = Requests::with(100, false, Some(Arc::clone(&kept)));
    while kept.lock().expect("nobody panics in there").len() < count {
        let request = requests.input();
        requests.run(request);
    }
    drop(requests);
    let kept = Arc::into_inner(kept).expect("the gateway is gone");
    kept.into_inner().expect("nobody panicked in there")
}

fn gateway(kept: Option<Arc<Mutex<Vec<Record>>>>) -> Gateway {
    let clock = Clock::system();
    bm_bootstrap::metrics::install("gateway", &clock).expect("metrics can be kept");
    let studio = json!({
        "tier": "enterprise", "subscriptionStatus": "active", "apiKey": KEY,
        "rateLimit": {
            "requestsPerMinute": 100_000_000, "burst": 10_000_000,
            "eventsPerMinute": 1_000_000_000, "eventsBurst": 100_000_000,
            "playerEventsPerMinute": 100_000_000,
        },
    });
    let studio = StudioDocument::from_json(STUDIO, &studio).expect("the studio is one");
    let now = clock.clone();
    Gateway {
        directory: StudioDirectory::fixed(vec![studio], Arc::new(move || now.now())),
        limiter: Limiter::new(None, LimiterConfig::alone(), SteadyClock::default()),
        players: Players::new(100_000_000),
        games: GameCache::new(Arc::new(OneGame)),
        ids: Arc::new(Idempotency::new(None, "")),
        log: Arc::new(Log {
            clock: clock.clone(),
            kept,
        }),
        clock,
        stats: EventStats::new(),
        work: TaskTracker::new(),
        body_timeout: Duration::from_secs(15),
        memory: Memory::of(64 << 20),
    }
}

impl Work for Requests {
    type Input = Request<Body>;

    fn events(&self) -> u64 {
        self.events as u64
    }

    fn input(&mut self) -> Request<Body> {
        let body = self.bodies[self.sent % self.bodies.len()].clone();
        self.sent += 1;
        Request::post(self.path)
            .header("host", "bench")
            .header("content-type", "application/json")
            .header("x-api-key", KEY)
            .header("content-length", body.len())
            .body(Body::from(body))
            .expect("a request can be made")
    }

    fn run(&mut self, request: Request<Body>) {
        let router = self.router.clone();
        self.runtime.block_on(async move {
            let answer = router.oneshot(request).await.expect("it answers");
            let status = answer.status();
            let body = to_bytes(answer.into_body(), 1 << 20).await;
            let body = body.expect("the answer has a body");
            assert_eq!(status, StatusCode::OK, "{body:?}");
        });
    }
}
