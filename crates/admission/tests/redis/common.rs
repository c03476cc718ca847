//! What the tests share: a time they move, limiters that go by it, and a count of what came in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bm_admission::{
    AdmissionConfig, Begin, Idempotency, Limiter, LimiterConfig, RateLimitOverride, RedisHandle,
    SteadyClock, StudioLimits, Tier,
};
use bm_contracts::ids::StudioId;
use bm_testkit::{Server, unique};

pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Generous: the machine that runs the tests may be busy, and a slow answer is a Redis that is away.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// A time all gateways and the scripts agree on, moved by the test alone.
#[derive(Clone)]
pub(crate) struct Time(Arc<AtomicU64>);

impl Time {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_700_000_000_000)))
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn pass(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> SteadyClock {
        let time = self.clone();
        SteadyClock::new(move || time.now())
    }
}

type Meanwhile = Box<dyn FnOnce() + Send>;

/// Lets something happen at the moment at which a clock is read.
#[derive(Clone, Default)]
pub(crate) struct Interruption(Arc<Mutex<Option<(usize, Meanwhile)>>>);

impl Interruption {
    /// A clock of that time, which can be interrupted.
    pub(crate) fn clock(&self, time: &Time) -> SteadyClock {
        let (this, time) = (self.clone(), time.clone());
        SteadyClock::new(move || {
            this.read();
            time.now()
        })
    }

    /// Lets this happen once the clock has been read so often.
    pub(crate) fn after(&self, reads: usize, meanwhile: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some((reads, Box::new(meanwhile)));
    }

    /// What has not happened yet never does.
    pub(crate) fn none(&self) {
        *self.0.lock().unwrap() = None;
    }

    fn read(&self) {
        let mut held = self.0.lock().unwrap();
        let due = match &mut *held {
            Some((0, _)) => held.take(),
            Some((reads, _)) => {
                *reads -= 1;
                None
            }
            None => None,
        };
        drop(held);
        if let Some((_, meanwhile)) = due {
            meanwhile();
        }
    }
}

pub(crate) fn settings(prefix: &str) -> LimiterConfig {
    let config = AdmissionConfig::new("redis://unused");
    LimiterConfig {
        prefix: prefix.to_owned(),
        patience: TIMEOUT,
        ..LimiterConfig::from(&config)
    }
}

pub(crate) async fn stepped(url: &str, prefix: &str, time: &Time) -> Limiter {
    stepped_among(1, url, prefix, time).await
}

/// The same, told that there are so many gateways at least.
pub(crate) async fn stepped_among(gateways: u32, url: &str, prefix: &str, time: &Time) -> Limiter {
    let redis = RedisHandle::connect(url, TIMEOUT).await.unwrap();
    let config = LimiterConfig {
        redis_clock: Some(time.clock()),
        background: false,
        gateways,
        ..settings(prefix)
    };
    let limiter = Limiter::new(Some(redis), config, time.clock());
    limiter.tick().await;
    limiter
}

pub(crate) fn limits(requests_per_minute: u32, burst: u32) -> StudioLimits {
    let over = RateLimitOverride {
        requests_per_minute: Some(requests_per_minute),
        burst: Some(burst),
        ..RateLimitOverride::default()
    };
    StudioLimits::of(Tier::Ecosystem, &over)
}

pub(crate) fn studio() -> StudioId {
    StudioId::new(unique("s")).unwrap()
}

/// What a studio asked of gateways, and what was admitted when.
pub(crate) struct Traffic {
    studio: StudioId,
    limits: StudioLimits,
    time: Time,
    /// When, and how many requests and events.
    pub(crate) admitted: Vec<(u64, u64, u64)>,
}

impl Traffic {
    pub(crate) fn of(studio: &StudioId, limits: StudioLimits, time: &Time) -> Self {
        Self {
            studio: studio.clone(),
            limits,
            time: time.clone(),
            admitted: Vec::new(),
        }
    }

    /// Every limiter asks `asks` times at once, and so for `ms` in steps of `step`.
    pub(crate) async fn drive(
        &mut self,
        limiters: &[Limiter],
        (asks, events, ms, step): (usize, u32, u64, u64),
    ) {
        let end = self.time.now() + ms;
        while self.time.now() < end {
            let mut under_way = tokio::task::JoinSet::new();
            for limiter in limiters {
                for _ in 0..asks {
                    let (limiter, studio) = (limiter.clone(), self.studio.clone());
                    let limits = self.limits;
                    let admit = async move { limiter.admit(&studio, &limits, 1, events).await };
                    under_way.spawn(admit);
                }
            }
            for admission in under_way.join_all().await {
                if admission.request_admitted {
                    let events = admission.admitted_events.into();
                    self.admitted.push((self.time.now(), 1, events));
                }
            }
            self.time.pass(step);
        }
    }

    pub(crate) fn within(&self, from: u64, to: u64) -> (u64, u64) {
        let inside = self
            .admitted
            .iter()
            .filter(|one| one.0 > from && one.0 <= to);
        inside.fold((0, 0), |sum, one| (sum.0 + one.1, sum.1 + one.2))
    }

    pub(crate) fn assert_never_over(&self) {
        let limits = &self.limits;
        for &(end, ..) in &self.admitted {
            let (requests, events) = self.within(end - 60_000, end);
            assert!(
                requests <= u64::from(limits.limits.requests.per_minute)
                    && events <= u64::from(limits.limits.events.per_minute),
                "{requests} requests and {events} events in the 60 s before {end}"
            );
        }
    }
}

pub(crate) async fn client(url: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// How often a server was asked for a command.
pub(crate) async fn calls(server: &Server, command: &str) -> u64 {
    let line = info(server, &format!("cmdstat_{command}:calls=")).await;
    line.and_then(|rest| rest.split(',').next()?.parse().ok())
        .unwrap_or(0)
}

/// How many connections a server has taken.
pub(crate) async fn connections(server: &Server) -> u64 {
    let line = info(server, "total_connections_received:").await;
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
}

/// What follows `name` in what a server says of itself.
async fn info(server: &Server, name: &str) -> Option<String> {
    let all: String = redis::cmd("INFO")
        .arg("all")
        .query_async(&mut client(&server.url()).await)
        .await
        .unwrap();
    let mut lines = all.lines();
    lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
}

pub(crate) async fn flush_all(server: &Server) {
    redis::cmd("FLUSHALL")
        .query_async::<()>(&mut client(&server.url()).await)
        .await
        .unwrap();
    redis::cmd("SCRIPT")
        .arg("FLUSH")
        .query_async::<()>(&mut client(&server.url()).await)
        .await
        .unwrap();
}

/// Asks about one event.
pub(crate) async fn begin(memory: &Idempotency, event: [u8; 16], body: [u8; 16]) -> Begin {
    memory.begin_many(&[(event, body)]).await.remove(0)
}
