//! A Redis that forgets, stops, hangs, comes late or becomes a replica.

use std::time::{Duration, Instant};

use bm_admission::limits::script::Keys;
use bm_admission::{Begin, Idempotency, Limiter, LimiterConfig, RedisHandle, SteadyClock};
use bm_testkit::{Server, eventually};

use crate::common::{
    SOON, TIMEOUT, Time, Traffic, begin, calls, client, connections, flush_all, limits, settings,
    stepped, stepped_among, studio,
};

#[tokio::test]
async fn a_flush_in_mid_run_lets_no_gateway_begin_again() {
    let server = Server::redis().await;
    let (time, studio, limits) = (Time::new(), studio(), limits(300, 300));
    let limiter = stepped(&server.url(), "", &time).await;
    let mut traffic = Traffic::of(&studio, limits, &time);
    let only = std::slice::from_ref(&limiter);
    for flushes in 0..6 {
        traffic.drive(only, (5, 3, 9_000, 130)).await;
        flush_all(&server).await;
        if flushes % 2 == 0 {
            limiter.tick().await;
        }
    }
    traffic.drive(only, (5, 3, 70_000, 500)).await;
    traffic.assert_never_over();
    let end = time.now();
    let (requests, _) = traffic.within(end - 60_000, end);
    assert!(requests >= 270, "only {requests} of 300 a minute");
}

#[tokio::test]
async fn a_flush_lets_in_what_is_promised_and_no_more() {
    const GATEWAYS: usize = 3;
    /// A lease lasts so long.
    const LEASE: u64 = 1_000;
    let server = Server::redis().await;
    let (time, studio, limits) = (Time::new(), studio(), limits(300, 300));
    let mut limiters = Vec::new();
    for _ in 0..GATEWAYS {
        limiters.push(stepped(&server.url(), "", &time).await);
    }
    for limiter in &limiters {
        limiter.tick().await;
    }
    // Who has just come keeps within its share for so long.
    time.pass(3_000);
    let mut traffic = Traffic::of(&studio, limits, &time);
    // All the traffic is the first gateway's; the others' counts are untouched.
    let first = &limiters[..1];
    traffic.drive(first, (5, 3, 2_000, 50)).await;
    let before = traffic.admitted.len();
    assert!(before >= 150, "{before}");
    flush_all(&server).await;
    let flushed = time.now();
    // Those come first whose counts are untouched: whoever has counted would book that at once.
    let others = &limiters[1..];
    traffic.drive(others, (9, 3, 100, 100)).await;
    // A heartbeat once a second, and traffic everywhere before the first.
    for _ in 0..90 {
        traffic.drive(&limiters, (9, 3, 1_000, 100)).await;
        for limiter in &limiters {
            limiter.tick().await;
        }
    }
    let limit = u64::from(limits.limits.requests.per_minute);
    let share = limit / GATEWAYS as u64;
    let most = limit + share * (GATEWAYS as u64 - 1);
    let mut highest = 0;
    for &(end, ..) in &traffic.admitted {
        let (requests, _) = traffic.within(end - 60_000, end);
        // Once all have booked their counts, nobody gets a lease while they are over.
        let bound = if end < flushed + 1_000 + LEASE {
            most
        } else {
            limit
        };
        assert!(requests <= bound, "{requests} {} ms after", end - flushed);
        highest = highest.max(requests);
    }
    assert!(
        highest > limit,
        "the promise is weaker than need be: {highest}"
    );
    let (requests, _) = traffic.within(time.now() - 60_000, time.now());
    assert!(requests >= 250, "only {requests} of {limit} a minute");
}

#[tokio::test]
async fn a_gateway_that_comes_right_after_a_flush_keeps_within_its_share() {
    let server = Server::redis().await;
    let (time, studio, limits) = (Time::new(), studio(), limits(300, 300));
    let first = [stepped_among(3, &server.url(), "", &time).await];
    time.pass(3_000);
    let mut before = Traffic::of(&studio, limits, &time);
    before.drive(&first, (9, 3, 2_000, 50)).await;
    assert!(before.admitted.len() >= 200, "{}", before.admitted.len());
    flush_all(&server).await;
    // It finds an empty Redis, as if nobody had ever asked.
    let newcomer = [stepped_among(3, &server.url(), "", &time).await];
    let mut after = Traffic::of(&studio, limits, &time);
    after.drive(&newcomer, (300, 3, 100, 100)).await;
    let admitted = after.admitted.len();
    assert!(
        (1..=100).contains(&admitted),
        "{admitted} of a share of 100"
    );
}

#[tokio::test]
async fn a_redis_that_reads_old_counters_back_from_its_disk_has_lost_them() {
    let mut server = Server::redis().await;
    let (time, studio, limits) = (Time::new(), studio(), limits(300, 300));
    let mut limiters = Vec::new();
    for _ in 0..2 {
        limiters.push(stepped(&server.url(), "", &time).await);
    }
    let mut traffic = Traffic::of(&studio, limits, &time);
    traffic.drive(&limiters, (5, 3, 500, 50)).await;
    redis::cmd("SAVE")
        .query_async::<()>(&mut client(&server.url()).await)
        .await
        .unwrap();
    traffic.drive(&limiters, (5, 3, 5_000, 50)).await;
    assert!(traffic.admitted.len() >= 270, "{}", traffic.admitted.len());
    server.kill();
    server.start_again().await;
    let kept: u64 = redis::cmd("DBSIZE")
        .query_async(&mut client(&server.url()).await)
        .await
        .unwrap();
    assert!(kept >= 3, "{kept} keys were saved");
    for limiter in &limiters {
        // The old connection is dead: first that is noticed, then a new one is made.
        eventually(SOON, "the heartbeat of a new connection", || async {
            limiter.tick().await;
            let names = calls(&server, "zadd").await;
            (!limiter.is_alone() && names > 0).then_some(())
        })
        .await;
        limiter.tick().await;
    }
    traffic.drive(&limiters, (5, 3, 40_000, 200)).await;
    traffic.assert_never_over();
    traffic.drive(&limiters, (5, 3, 80_000, 200)).await;
    traffic.assert_never_over();
    let (requests, _) = traffic.within(time.now() - 60_000, time.now());
    assert!(requests >= 270, "only {requests} of 300 a minute");
}

#[tokio::test]
async fn counters_of_one_studio_that_are_evicted_are_booked_anew_within_a_heartbeat() {
    let server = Server::redis().await;
    let (time, studio, limits) = (Time::new(), studio(), limits(300, 300));
    let mut limiters = Vec::new();
    for _ in 0..3 {
        limiters.push(stepped(&server.url(), "", &time).await);
    }
    let mut traffic = Traffic::of(&studio, limits, &time);
    traffic.drive(&limiters, (5, 3, 5_000, 50)).await;
    for limiter in &limiters {
        limiter.tick().await;
    }
    let key = Keys::new("").studio(studio.as_str());
    let gone: u64 = redis::cmd("DEL")
        .arg(key)
        .query_async(&mut client(&server.url()).await)
        .await
        .unwrap();
    assert_eq!(gone, 1);
    for limiter in &limiters {
        limiter.tick().await;
    }
    // One gateway alone asks for more: the others' counts are known all the same.
    let first = &limiters[..1];
    traffic.drive(first, (5, 3, 40_000, 200)).await;
    traffic.assert_never_over();
}

#[tokio::test]
async fn one_call_that_fails_lets_nothing_in_beyond_an_exhausted_limit() {
    let mut server = Server::redis().await;
    let (time, studio, limits) = (Time::new(), studio(), limits(300, 300));
    let mut limiters = Vec::new();
    for _ in 0..2 {
        let timeout = Duration::from_millis(200);
        let redis = RedisHandle::connect(&server.url(), timeout).await.unwrap();
        let config = LimiterConfig {
            redis_clock: Some(time.clock()),
            background: false,
            ..settings("")
        };
        limiters.push(Limiter::new(Some(redis), config, time.clock()));
    }
    let mut admitted = 0;
    for _ in 0..400 {
        let admission = limiters[0].admit(&studio, &limits, 1, 1).await;
        admitted += u32::from(admission.request_admitted);
    }
    assert_eq!(admitted, 300);
    assert!(
        !limiters[1]
            .admit(&studio, &limits, 1, 1)
            .await
            .request_admitted
    );
    server.pause();
    // What is believed of a refusal is over, so Redis is asked, and does not answer.
    time.pass(60);
    for _ in 0..10 {
        let admission = limiters[1].admit(&studio, &limits, 1, 1).await;
        assert!(!admission.request_admitted);
        assert!(admission.retry_after_secs > 50, "{admission:?}");
    }
    assert!(limiters[1].is_alone());
    server.resume();
}

#[tokio::test]
async fn a_redis_that_refuses_is_a_redis_that_is_down() {
    let server = Server::redis().await;
    let redis = RedisHandle::connect(&server.url(), TIMEOUT).await.unwrap();
    let limiter = Limiter::new(Some(redis.clone()), settings(""), SteadyClock::default());
    let limits = limits(1_000, 1_000);
    for (refuse, refuses, again) in [
        ("CONFIG SET maxmemory 1", "OOM", "CONFIG SET maxmemory 0"),
        (
            "ACL SETUSER default -hset",
            "can't run this command",
            "ACL SETUSER default +hset",
        ),
    ] {
        let tell = async |what: &str| {
            let mut words = what.split(' ');
            let mut command = redis::cmd(words.next().unwrap());
            for word in words {
                command.arg(word);
            }
            let mut client = client(&server.url()).await;
            command.query_async::<()>(&mut client).await.unwrap();
        };
        tell(refuse).await;
        eventually(SOON, "the refusal being noticed", || async {
            (limiter.is_alone() && !redis.redis_ok()).then_some(())
        })
        .await;
        let why = redis.trouble().unwrap();
        assert!(why.contains(refuses), "{why}");
        // And it stays so: what is asked meanwhile is decided without Redis.
        let before = calls(&server, "evalsha").await;
        for _ in 0..100 {
            let admission = limiter.admit(&self::studio(), &limits, 1, 1).await;
            assert!(admission.request_admitted);
        }
        let doomed = calls(&server, "evalsha").await - before;
        assert!(doomed < 20, "{doomed} calls that could only be refused");
        assert!(limiter.is_alone());
        tell(again).await;
        eventually(SOON, "Redis being used again", || async {
            redis.redis_ok().then_some(())
        })
        .await;
        assert_eq!(redis.trouble(), None);
    }
}

#[tokio::test]
async fn while_redis_is_stopped_a_gateway_goes_on_alone_and_tells_it_afterwards() {
    let mut server = Server::redis().await;
    let redis = RedisHandle::connect(&server.url(), TIMEOUT).await.unwrap();
    let limiter = Limiter::new(Some(redis.clone()), settings(""), SteadyClock::default());
    let (studio, limits) = (studio(), limits(1_000, 1_000));
    assert!(limiter.admit(&studio, &limits, 1, 1).await.request_admitted);
    assert!(!limiter.is_alone());

    server.stop().await;
    for _ in 0..400 {
        let began = Instant::now();
        assert!(limiter.admit(&studio, &limits, 1, 1).await.request_admitted);
        assert!(began.elapsed() < TIMEOUT);
    }
    assert!(limiter.is_alone() && !redis.redis_ok());
    let mut more = 0;
    while limiter.admit(&studio, &limits, 1, 1).await.request_admitted {
        more += 1;
    }
    assert!((550..=700).contains(&more), "{more} more than 401 of 1000");

    server.start_again().await;
    let other = RedisHandle::connect(&server.url(), TIMEOUT).await.unwrap();
    let other = Limiter::new(Some(other), settings(""), SteadyClock::default());
    eventually(
        SOON,
        "Redis being told of what was admitted without it",
        || {
            let (other, studio) = (other.clone(), studio.clone());
            async move {
                let admission = other.admit(&studio, &limits, 1, 1).await;
                (admission.quotas.requests.remaining < 100).then_some(())
            }
        },
    )
    .await;
    assert!(redis.redis_ok());
}

#[tokio::test]
async fn a_redis_that_hangs_costs_one_timeout_and_not_one_per_request() {
    let mut server = Server::redis().await;
    let timeout = Duration::from_millis(100);
    let redis = RedisHandle::connect(&server.url(), timeout).await.unwrap();
    let limiter = Limiter::new(Some(redis.clone()), settings(""), SteadyClock::default());
    let limits = limits(1_000, 1_000);
    server.pause();
    let began = Instant::now();
    for _ in 0..100 {
        // A new studio each time, so that there is no lease in hand.
        assert!(
            limiter
                .admit(&studio(), &limits, 1, 1)
                .await
                .request_admitted
        );
    }
    assert!(began.elapsed() < timeout * 20, "{:?}", began.elapsed());
    server.resume();
    eventually(SOON, "Redis being used again", || {
        let up = redis.redis_ok();
        async move { up.then_some(()) }
    })
    .await;
}

#[tokio::test]
async fn a_gateway_starts_while_redis_is_away() {
    let mut server = Server::redis().await;
    server.stop().await;
    let redis = RedisHandle::connect(&server.url(), TIMEOUT).await.unwrap();
    let limiter = Limiter::new(Some(redis.clone()), settings(""), SteadyClock::default());
    let memory = Idempotency::new(Some(redis.clone()), "");
    assert!(!redis.redis_ok());
    assert!(
        limiter
            .admit(&studio(), &limits(10, 10), 1, 1)
            .await
            .request_admitted
    );
    assert!(matches!(
        begin(&memory, [1; 16], [1; 16]).await,
        Begin::Unknown(_)
    ));
    server.start_again().await;
    eventually(SOON, "Redis being found", || {
        let memory = memory.clone();
        async move { matches!(begin(&memory, [2; 16], [2; 16]).await, Begin::Fresh(_)).then_some(()) }
    })
    .await;
}

#[tokio::test]
async fn a_primary_that_became_a_replica_is_left_and_found_again() {
    let server = Server::redis().await;
    let redis = RedisHandle::connect(&server.url(), TIMEOUT).await.unwrap();
    let memory = Idempotency::new(Some(redis.clone()), "");
    assert!(matches!(
        begin(&memory, [1; 16], [1; 16]).await,
        Begin::Fresh(_)
    ));
    let connection = async || {
        redis
            .run("id", |mut connection| async move {
                let id: u64 = redis::cmd("CLIENT")
                    .arg("ID")
                    .query_async(&mut connection)
                    .await?;
                Ok(id)
            })
            .await
    };
    let before = connection().await.unwrap();
    let replicate = async |host: &str, port: &str| {
        redis::cmd("REPLICAOF")
            .arg(host)
            .arg(port)
            .query_async::<()>(&mut client(&server.url()).await)
            .await
            .unwrap();
    };
    replicate("127.0.0.1", "1").await;
    let refused = begin(&memory, [2; 16], [2; 16]).await;
    assert!(matches!(refused, Begin::Unknown(_)), "{refused:?}");
    // However many requests come: neither is it called well again, nor connected to for each.
    let (began, mut ever_up) = (Instant::now(), false);
    let connected = connections(&server).await;
    while began.elapsed() < Duration::from_secs(1) {
        let refused = begin(&memory, [2; 16], [2; 16]).await;
        assert!(matches!(refused, Begin::Unknown(_)), "{refused:?}");
        ever_up |= redis.redis_ok();
        tokio::task::yield_now().await;
    }
    let connected = connections(&server).await - connected;
    assert!(!ever_up && connected <= 10, "{connected} new connections");
    replicate("NO", "ONE").await;
    eventually(SOON, "writes going through again", || {
        let memory = memory.clone();
        async move {
            matches!(
                begin(&memory, [3; 16], [3; 16]).await,
                Begin::Fresh(_) | Begin::InFlight
            )
            .then_some(())
        }
    })
    .await;
    assert_ne!(
        connection().await.unwrap(),
        before,
        "the connection is the old one"
    );
}
