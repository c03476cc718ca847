//! Admits requests: joins a gateway's ledgers with the shared counters in Redis.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bm_bootstrap::supervise;
use bm_contracts::ids::StudioId;

use super::exchange::{keep_beating, keep_reporting};
use super::headers;
use super::ledger::{Ledger, Quota, Step};
use super::pair::Pair;
use super::script::{self, Keys};
use super::studio::{Studio, Waiting, lock};
use super::tiers::{Limit, StudioLimits};
use crate::clock::SteadyClock;
use crate::config::AdmissionConfig;
use crate::redis_handle::RedisHandle;
use crate::stats::{Admitted, LimiterStats};
use crate::unique;

/// How often a request asks Redis at most: again when Redis had lost the counters, or when what was in
/// hand as it asked, or what it got, was over as the answer came.
const CALLS: usize = 3;

/// Settings of a [`Limiter`].
#[derive(Debug, Clone)]
pub struct LimiterConfig {
    /// Before every key in Redis.
    pub prefix: String,
    /// At least so many gateways share the limits.
    pub gateways: u32,
    /// A lease holds about what was used in so many ms.
    pub lease_ms: u64,
    /// For so many ms a lease is usable; more than 20.
    pub ttl_ms: u64,
    /// How long to wait for another request's lease at most.
    pub patience: Duration,
    /// For tests that step the time: read instead of the Redis server's own clock.
    pub redis_clock: Option<SteadyClock>,
    /// For tests that step the time: off means that nothing happens but by [`Limiter::tick`].
    pub background: bool,
}

impl From<&AdmissionConfig> for LimiterConfig {
    fn from(config: &AdmissionConfig) -> Self {
        Self {
            prefix: config.redis_prefix.clone(),
            gateways: config.gateways,
            lease_ms: u64::try_from(config.lease.as_millis()).unwrap_or(u64::MAX),
            ttl_ms: 1_000,
            patience: config.redis_timeout * 2,
            redis_clock: None,
            background: true,
        }
    }
}

impl LimiterConfig {
    /// Of the only gateway, which has no Redis; nothing happens in the background.
    pub fn alone() -> Self {
        Self {
            prefix: String::new(),
            gateways: 1,
            lease_ms: 100,
            ttl_ms: 1_000,
            patience: Duration::from_millis(100),
            redis_clock: None,
            background: false,
        }
    }
}

/// The verdict on one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The request comes in. When not, the answer is 429 and nothing was charged.
    pub request_admitted: bool,
    /// So many of its events come in, from the front; the rest is to be retried. Charged.
    pub admitted_events: u32,
    /// For `Retry-After`, when anything was refused: 1 to 60. 0 when nothing was.
    pub retry_after_secs: u64,
    /// For the header fields of every answer.
    pub quotas: Pair<Quota>,
}

impl Admission {
    /// Value of the field `RateLimit-Policy`.
    pub fn rate_limit_policy(&self) -> String {
        headers::rate_limit_policy(&self.quotas)
    }

    /// Value of the field `RateLimit`.
    pub fn rate_limit(&self) -> String {
        headers::rate_limit(&self.quotas)
    }
}

/// Limits per studio; see the module above. Clones are the same limiter.
#[derive(Debug, Clone)]
pub struct Limiter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: LimiterConfig,
    pub(super) redis: Option<RedisHandle>,
    pub(super) clock: SteadyClock,
    pub(super) keys: Keys,
    /// Names this gateway in Redis.
    pub(super) id: String,
    pub(super) studios: RwLock<HashMap<StudioId, Arc<Studio>>>,
    /// The name of the Redis incarnation the counters live in, once known.
    pub(super) born: Mutex<Option<String>>,
    /// Counts incarnations.
    pub(super) generation: AtomicU64,
    /// Calls have failed since the last that succeeded.
    pub(super) outage: AtomicBool,
    /// Until when (ms of `clock`) this gateway keeps within its share.
    pub(super) confined_until: AtomicU64,
    /// Gateways that share the limits.
    pub(super) gateways: AtomicU32,
    /// This gateway has taken its leave.
    pub(super) closed: AtomicBool,
    stats: LimiterStats,
}

/// A decision and whether it was made without the shared counters.
type Verdict = (Step, bool);

impl Limiter {
    /// A limiter over Redis, or, with none, over this gateway alone. Needs a Tokio runtime when
    /// `config.background` is on.
    pub fn new(redis: Option<RedisHandle>, config: LimiterConfig, clock: SteadyClock) -> Self {
        let inner = Arc::new(Inner {
            keys: Keys::new(&config.prefix),
            id: unique::text(),
            studios: RwLock::default(),
            born: Mutex::default(),
            generation: AtomicU64::new(0),
            outage: AtomicBool::new(false),
            confined_until: AtomicU64::new(0),
            gateways: AtomicU32::new(config.gateways.max(1)),
            closed: AtomicBool::new(false),
            stats: LimiterStats::new(),
            redis,
            clock,
            config,
        });
        if let Some(redis) = &inner.redis {
            redis.probe_under(&inner.config.prefix);
            if inner.config.background {
                let weak = Arc::downgrade(&inner);
                supervise::spawn("admission-heartbeat", move || keep_beating(weak.clone()));
                let weak = Arc::downgrade(&inner);
                supervise::spawn("admission-report", move || keep_reporting(weak.clone()));
            }
        }
        Self { inner }
    }

    /// Decides on a request that costs `requests` (1) and holds `events` events.
    ///
    /// With a lease in hand this does not wait for anything; else for one call to Redis, and for
    /// more only where the answer to one was worth nothing.
    /// A request none of whose events may come in is refused as a whole.
    pub async fn admit(
        &self,
        studio: &StudioId,
        limits: &StudioLimits,
        requests: u32,
        events: u32,
    ) -> Admission {
        let inner = &self.inner;
        let limits = limits.limits;
        let ask = Pair::new(requests, events);
        let studio = inner.studio(studio, limits);
        let (step, alone) = match inner.at_once(&studio, limits, ask) {
            (Step::Missing(_), _) => inner.with_lease(&studio, limits, ask).await,
            verdict => verdict,
        };
        inner.admission(&studio, ask, step, alone)
    }

    /// What is left to a studio, without charging anything: for answers given before a request is
    /// counted.
    pub fn quotas(&self, studio: &StudioId, limits: &StudioLimits) -> Pair<Quota> {
        let inner = &self.inner;
        let studio = inner.studio(studio, limits.limits);
        let now = inner.clock.now();
        let ledger = inner.advanced(&studio, limits.limits, now);
        ledger.quotas(now, inner.is_alone())
    }

    /// Whether limits are held without the shared counters at present.
    pub fn is_alone(&self) -> bool {
        self.inner.is_alone()
    }

    /// Reports what is to be reported, says that this gateway lives, and forgets idle studios. Done in
    /// the background by itself.
    pub async fn tick(&self) {
        self.inner.beat().await;
        self.inner.report().await;
    }

    /// Reports what is to be reported and takes this gateway off the list. For an orderly end.
    ///
    /// What is admitted after it is admitted all the same.
    pub async fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
        self.inner.report().await;
        if let Some(redis) = &self.inner.redis {
            let (keys, id) = (self.inner.keys.clone(), self.inner.id.clone());
            // The others notice 10 seconds later in any case.
            let _noticed_later = redis
                .run("farewell", |connection| {
                    script::farewell(connection, keys, id)
                })
                .await;
        }
    }
}

impl Inner {
    fn studio(&self, id: &StudioId, limits: Pair<Limit>) -> Arc<Studio> {
        let known = self.studios.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(studio) = known.get(id) {
            return Arc::clone(studio);
        }
        drop(known);
        let mut studios = self.studios.write().unwrap_or_else(PoisonError::into_inner);
        let studio = studios.entry(id.clone()).or_insert_with(|| {
            let generation = self.generation.load(Ordering::Acquire);
            Arc::new(Studio {
                key: self.keys.studio(id.as_str()),
                ledger: Mutex::new(Ledger::new(
                    self.clock.now(),
                    generation,
                    limits,
                    self.gateways(),
                )),
                flight: Arc::default(),
                waiting: Mutex::default(),
            })
        });
        Arc::clone(studio)
    }

    pub(super) fn gateways(&self) -> u32 {
        self.gateways.load(Ordering::Relaxed)
    }

    pub(super) fn advanced<'a>(
        &self,
        studio: &'a Studio,
        limits: Pair<Limit>,
        now: u64,
    ) -> MutexGuard<'a, Ledger> {
        let mut ledger = lock(&studio.ledger);
        let generation = self.generation.load(Ordering::Acquire);
        ledger.advance(now, generation, limits, self.gateways());
        ledger
    }

    pub(super) fn is_alone(&self) -> bool {
        !self.redis.as_ref().is_some_and(RedisHandle::redis_ok)
    }

    /// With one gateway its own count is the whole count, and telling it makes the shared one exact.
    pub(super) fn is_confined(&self, now: u64) -> bool {
        now < self.confined_until.load(Ordering::Acquire) && self.gateways() > 1
    }

    fn at_once(&self, studio: &Studio, limits: Pair<Limit>, ask: Pair<u32>) -> Verdict {
        let now = self.clock.now();
        let mut ledger = self.advanced(studio, limits, now);
        if self.is_alone() {
            // Leases in hand were paid for.
            match ledger.step(now, ask, true) {
                Step::Admitted(units) => (Step::Admitted(units), true),
                Step::Refused | Step::Missing(_) => (ledger.alone(now, ask), true),
            }
        } else {
            (ledger.step(now, ask, self.is_confined(now)), false)
        }
    }

    /// Waits for the studio's turn at Redis, then asks for a lease.
    async fn with_lease(
        self: &Arc<Self>,
        studio: &Arc<Studio>,
        limits: Pair<Limit>,
        ask: Pair<u32>,
    ) -> Verdict {
        let waiting = Waiting::begin(studio, ask);
        let turn = Arc::clone(&studio.flight).lock_owned();
        if let Ok(turn) = tokio::time::timeout(self.config.patience, turn).await {
            // A task of its own: a client that goes away must not take a lease with it.
            let inner = Arc::clone(self);
            let task = tokio::spawn(async move {
                let verdict = inner.fetch(&waiting, limits).await;
                drop(turn);
                verdict
            });
            if let Ok(verdict) = task.await {
                return verdict;
            }
        }
        self.alone(studio, limits, ask)
    }

    fn alone(&self, studio: &Studio, limits: Pair<Limit>, ask: Pair<u32>) -> Verdict {
        let now = self.clock.now();
        (self.advanced(studio, limits, now).alone(now, ask), true)
    }

    /// Holding the turn: decides with what is in hand by now, or with a new lease.
    async fn fetch(&self, waiting: &Waiting, limits: Pair<Limit>) -> Verdict {
        let (studio, ask) = (&*waiting.studio, waiting.ask);
        for _ in 0..CALLS {
            let missing = match self.at_once(studio, limits, ask) {
                (Step::Missing(missing), _) => missing,
                verdict => return verdict,
            };
            let need = missing.plus(waiting.others());
            match self.ask_redis(studio, limits, need, ask).await {
                Ok(None | Some(Step::Missing(_))) => {}
                Ok(Some(step)) => return (step, false),
                Err(_) => break,
            }
        }
        self.alone(studio, limits, ask)
    }

    fn admission(&self, studio: &Studio, ask: Pair<u32>, step: Step, alone: bool) -> Admission {
        let now = self.clock.now();
        let (quotas, retry_ms) = {
            let ledger = lock(&studio.ledger);
            (ledger.quotas(now, alone), ledger.retry_ms(now))
        };
        let (request_admitted, got) = match step {
            Step::Admitted(units) => (true, units),
            Step::Refused | Step::Missing(_) => (false, Pair::ZERO),
        };
        let whole = request_admitted && got.events == ask.events;
        let admitted = match (request_admitted, whole) {
            (false, _) => Admitted::Nothing,
            (true, false) => Admitted::Part,
            (true, true) => Admitted::All,
        };
        let refused = ask.events - got.events;
        self.stats.decided(admitted, alone, got.events, refused);
        Admission {
            request_admitted,
            admitted_events: got.events,
            retry_after_secs: if whole {
                0
            } else {
                retry_ms.div_ceil(1_000).clamp(1, 60)
            },
            quotas,
        }
    }
}
