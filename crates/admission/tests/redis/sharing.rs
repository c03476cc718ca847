//! Several gateways, one limit.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use bm_admission::limits::pair::Pair;
use bm_admission::limits::script::{self, Keys};
use bm_admission::limits::shared::{Closing, Grant, LeaseRequest, Seed, SharedState};
use bm_admission::{Admission, Limit, Limiter, LimiterConfig, RedisHandle, SteadyClock};
use bm_testkit::{Server, TestEnv, unique};
use tokio::runtime::Handle;

use crate::common::{
    Interruption, SOON, TIMEOUT, Time, Traffic, calls, limits, settings, stepped, studio,
};

#[tokio::test]
async fn several_gateways_at_once_are_never_over_and_use_the_limit_up() {
    let (time, prefix, studio) = (Time::new(), unique("lim"), studio());
    let url = &TestEnv::get().redis;
    let mut limiters = Vec::new();
    for _ in 0..4 {
        limiters.push(stepped(url, &prefix, &time).await);
    }
    let limits = limits(600, 60);
    let mut traffic = Traffic::of(&studio, limits, &time);
    let began = time.now();
    traffic.drive(&limiters, (2, 7, 150_000, 370)).await;
    traffic.assert_never_over();
    for end in [began + 100_000, began + 130_000, began + 150_000] {
        let (requests, _) = traffic.within(end - 60_000, end);
        assert!(requests >= 570, "only {requests} of 600 a minute");
    }
}

#[tokio::test]
async fn batches_are_cut_where_the_events_run_out() {
    let (time, prefix, studio) = (Time::new(), unique("lim"), studio());
    let limiter = stepped(&TestEnv::get().redis, &prefix, &time).await;
    let limits = limits(60, 60);
    let first = limiter.admit(&studio, &limits, 1, 500).await;
    assert!(first.request_admitted);
    assert_eq!((first.admitted_events, first.retry_after_secs), (500, 0));
    assert_eq!(
        first.rate_limit_policy(),
        r#""requests";q=60;w=60, "events";q=600;w=60"#
    );
    let second = limiter.admit(&studio, &limits, 1, 500).await;
    assert_eq!(
        (second.request_admitted, second.admitted_events),
        (true, 100)
    );
    assert!((1..=60).contains(&second.retry_after_secs));
    let third = limiter.admit(&studio, &limits, 1, 500).await;
    assert!(!third.request_admitted);
    assert_eq!(third.quotas.events.remaining, 0);
    assert!(
        third.rate_limit().contains(r#""events";r=0;t="#),
        "{}",
        third.rate_limit()
    );
    // No more was charged than admitted.
    for _ in 0..58 {
        assert!(limiter.admit(&studio, &limits, 1, 0).await.request_admitted);
    }
    assert!(!limiter.admit(&studio, &limits, 1, 0).await.request_admitted);
}

/// A cheap, repeatable source of numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn pair(&mut self, end: u64) -> Pair<u32> {
        Pair::new(self.below(end) as u32, self.below(end * 4) as u32)
    }
}

/// The end of a lease that is not quite the one that was granted.
fn mistaken(grant: &Grant, numbers: &mut Numbers) -> Closing {
    Closing {
        birth: grant.birth,
        bucket: grant.bucket - numbers.below(3),
        used: numbers.pair(4),
        unused: numbers.pair(20),
        age_ms: numbers.below(2_000),
    }
}

#[tokio::test]
async fn the_script_answers_as_the_policy_does() {
    let connection = redis::Client::open(TestEnv::get().redis.as_str())
        .unwrap()
        .get_connection_manager()
        .await
        .unwrap();
    let prefix = unique("lim");
    let keys = Keys::new(&prefix);
    let mut cut = 0;
    for seed in 0..30 {
        let mut numbers = Numbers(seed);
        let key = keys.studio(&format!("s{seed}"));
        let limits = Pair::new(
            Limit::new(1 + numbers.below(80) as u32, 1 + numbers.below(40) as u32),
            Limit::new(1 + numbers.below(400) as u32, 1 + numbers.below(300) as u32),
        );
        let mut now = 1_700_000_000_000 + numbers.below(1_000);
        let mut model: Option<SharedState> = None;
        // Open leases by the names of both sides, and when they were granted.
        let mut open: Vec<(u64, Grant, u64)> = Vec::new();
        for _ in 0..80 {
            now += match numbers.below(20) {
                0 => 30_000 + numbers.below(60_000),
                1 => 700_000,
                2..=8 => numbers.below(5_000),
                _ => numbers.below(300),
            };
            // A server that took over may have a clock behind.
            let at = now
                - if numbers.below(10) == 0 {
                    numbers.below(400)
                } else {
                    0
                };
            let need = numbers.pair(8);
            let mut ask = LeaseRequest {
                limits,
                need,
                want: need.plus(numbers.pair(8)),
                fresh: Pair::new(numbers.below(40) * 60_000 + 7, numbers.below(300) * 60_000),
                closings: Vec::new(),
                seeds: Vec::new(),
            };
            let mut birth_in_redis = 0;
            if numbers.below(2) == 0 && !open.is_empty() {
                let (birth, grant, granted) =
                    open.remove(numbers.below(open.len() as u64) as usize);
                let used = grant.units.min(numbers.pair(8));
                birth_in_redis = birth;
                ask.closings.push(Closing {
                    birth: grant.birth,
                    bucket: grant.bucket,
                    used,
                    unused: grant.units.less(used),
                    age_ms: numbers.below(now.saturating_sub(granted) + 1),
                });
            }
            if numbers.below(6) == 0 && !open.is_empty() {
                // A lease that the state does not hold, or holds less of: closed a second time, or by
                // a gateway that is mistaken.
                let (birth, grant, _) = open[numbers.below(open.len() as u64) as usize];
                birth_in_redis = birth;
                ask.closings.push(mistaken(&grant, &mut numbers));
            }
            if numbers.below(12) == 0 {
                ask.seeds.push(Seed {
                    age_ms: numbers.below(70_000),
                    units: numbers.pair(3),
                });
            }
            let state = model.get_or_insert_with(|| SharedState::new(at, at, ask.fresh));
            let expected = state.lease(at, 1_000, &ask);
            for closing in &mut ask.closings {
                closing.birth = birth_in_redis;
            }
            let (got, _) = script::lease(
                connection.clone(),
                keys.clone(),
                key.clone(),
                at,
                1_000,
                ask.clone(),
                "x".to_owned(),
            )
            .await
            .unwrap();
            let named_alike = Grant {
                birth: expected.birth,
                ..got
            };
            assert_eq!(named_alike, expected, "seed {seed}, at {at}: {ask:?}");
            if expected.units != need {
                cut += 1;
            }
            if !expected.units.is_zero() {
                open.push((got.birth, expected, now));
            }
        }
    }
    assert!(cut > 100, "the limits were hardly met: {cut}");
}

#[tokio::test]
async fn a_thousand_requests_need_few_trips_to_redis() {
    let server = Server::redis().await;
    let redis = RedisHandle::connect(&server.url(), TIMEOUT).await.unwrap();
    let limiter = Limiter::new(Some(redis), settings(""), SteadyClock::default());
    let (studio, limits) = (studio(), limits(100_000, 100_000));
    let mut under_way = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        let (limiter, studio) = (limiter.clone(), studio.clone());
        under_way.spawn(async move { limiter.admit(&studio, &limits, 1, 2).await });
    }
    let all = under_way.join_all().await;
    assert!(
        all.iter()
            .all(|one| one.request_admitted && one.admitted_events == 2)
    );
    let trips = calls(&server, "evalsha").await;
    assert!(trips < 100, "{trips} trips");
}

/// The clock is read less often than this for a request, and more than half as often.
const READS: usize = 12;

async fn interruptible(time: &Time, interruption: &Interruption) -> Limiter {
    let url = &TestEnv::get().redis;
    let redis = RedisHandle::connect(url, TIMEOUT).await.unwrap();
    let config = LimiterConfig {
        redis_clock: Some(time.clock()),
        background: false,
        ..settings(&unique("lim"))
    };
    Limiter::new(Some(redis), config, interruption.clock(time))
}

fn is_whole(admission: &Admission) -> bool {
    admission.request_admitted && admission.admitted_events == 5
}

#[tokio::test]
async fn what_a_request_asked_for_is_not_used_by_another_that_comes_just_then() {
    let (time, interruption) = (Time::new(), Interruption::default());
    let limiter = interruptible(&time, &interruption).await;
    let limits = limits(100_000, 100_000);
    let mut interrupted = 0;
    for reads in 0..READS {
        let studio = studio();
        let (result, other) = mpsc::channel();
        let (runtime, another, of) = (Handle::current(), limiter.clone(), studio.clone());
        interruption.after(reads, move || {
            let (done, over) = mpsc::channel();
            std::thread::spawn(move || {
                let admission = runtime.block_on(another.admit(&of, &limits, 1, 5));
                result.send(admission).unwrap();
                done.send(()).unwrap();
            });
            // Where it has to wait for the first, it comes after it.
            let _ = over.recv_timeout(Duration::from_millis(100));
        });
        assert!(
            is_whole(&limiter.admit(&studio, &limits, 1, 5).await),
            "{reads}"
        );
        interruption.none();
        let other = tokio::task::spawn_blocking(move || other.recv_timeout(SOON));
        match other.await.unwrap() {
            Ok(other) => {
                assert!(is_whole(&other), "{reads}");
                interrupted += 1;
            }
            // The request was over before.
            Err(error) => assert_eq!(error, RecvTimeoutError::Disconnected, "{reads}"),
        }
    }
    assert!((READS / 2..READS).contains(&interrupted), "{interrupted}");
}

#[tokio::test]
async fn a_lease_that_is_over_before_it_can_be_used_is_asked_for_again() {
    let (time, interruption) = (Time::new(), Interruption::default());
    let limiter = interruptible(&time, &interruption).await;
    let limits = limits(100_000, 100_000);
    for reads in 0..READS {
        let studio = studio();
        let later = time.clone();
        interruption.after(reads, move || later.pass(990));
        assert!(
            is_whole(&limiter.admit(&studio, &limits, 1, 5).await),
            "{reads}"
        );
    }
}

#[tokio::test]
async fn gateways_share_a_limit_as_many_as_live() {
    let server = Server::redis().await;
    let (time, studio, limits) = (Time::new(), studio(), limits(300, 300));
    let mut limiters = Vec::new();
    for _ in 0..3 {
        limiters.push(stepped(&server.url(), "", &time).await);
    }
    // The third has heard of all three; the second goes; the first hears of the two that are left.
    limiters[1].close().await;
    limiters[1].tick().await;
    limiters[0].tick().await;
    drop(server);
    for (limiter, share) in [(&limiters[2], 100), (&limiters[0], 150)] {
        let mut admitted = 0;
        while limiter.admit(&studio, &limits, 1, 0).await.request_admitted {
            admitted += 1;
        }
        assert_eq!(admitted, share);
        assert!(limiter.is_alone());
    }
}
