//! A Redis that forgets, stops, hangs, comes late or becomes a replica.

use std::time::{Duration, Instant};

use bm_admission::{Begin, Idempotency, Limiter, RedisHandle, SteadyClock};
use bm_testkit::{Server, eventually};

use crate::common::{
    SOON, TIMEOUT, Tally, Time, client, drive, flush_all, limits, settings, stepped, studio,
};

#[tokio::test]
async fn a_flush_in_mid_run_lets_no_gateway_begin_again() {
    let server = Server::redis().await;
    let (time, studio, limits) = (Time::new(), studio(), limits(300, 300));
    let limiter = stepped(&server.url(), "", &time).await;
    let mut tally = Tally::default();
    let only = std::slice::from_ref(&limiter);
    for flushes in 0..6 {
        drive(only, &studio, limits, &time, (5, 3, 9_000, 130), &mut tally).await;
        flush_all(&server).await;
        if flushes % 2 == 0 {
            limiter.tick().await;
        }
    }
    drive(
        only,
        &studio,
        limits,
        &time,
        (5, 3, 70_000, 500),
        &mut tally,
    )
    .await;
    tally.assert_never_over(&limits);
    let end = time.now();
    let (requests, _) = tally.within(end - 60_000, end);
    assert!(requests >= 270, "only {requests} of 300 a minute");
}

#[tokio::test]
async fn after_a_flush_gateways_book_their_counts_anew_and_share_one_limit_again() {
    let server = Server::redis().await;
    let (time, studio, limits) = (Time::new(), studio(), limits(300, 300));
    let mut limiters = Vec::new();
    for _ in 0..3 {
        limiters.push(stepped(&server.url(), "", &time).await);
    }
    let mut tally = Tally::default();
    // All the traffic is the first gateway's.
    drive(
        &limiters[..1],
        &studio,
        limits,
        &time,
        (5, 3, 2_000, 50),
        &mut tally,
    )
    .await;
    let before = tally.0.len();
    assert!(before >= 150, "{before}");
    flush_all(&server).await;
    // Within a second all notice.
    for limiter in &limiters {
        limiter.tick().await;
    }
    drive(
        &limiters,
        &studio,
        limits,
        &time,
        (5, 3, 30_000, 200),
        &mut tally,
    )
    .await;
    tally.assert_never_over(&limits);
    assert!(tally.0.len() > before);
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
        memory.begin([1; 16], [1; 16]).await,
        Begin::Unknown(_)
    ));
    server.start_again().await;
    eventually(SOON, "Redis being found", || {
        let memory = memory.clone();
        async move { matches!(memory.begin([2; 16], [2; 16]).await, Begin::Fresh(_)).then_some(()) }
    })
    .await;
}

#[tokio::test]
async fn a_primary_that_became_a_replica_is_left_and_found_again() {
    let server = Server::redis().await;
    let redis = RedisHandle::connect(&server.url(), TIMEOUT).await.unwrap();
    let memory = Idempotency::new(Some(redis.clone()), "");
    assert!(matches!(
        memory.begin([1; 16], [1; 16]).await,
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
    let refused = memory.begin([2; 16], [2; 16]).await;
    assert!(matches!(refused, Begin::Unknown(_)), "{refused:?}");
    replicate("NO", "ONE").await;
    eventually(SOON, "writes going through again", || {
        let memory = memory.clone();
        async move {
            matches!(
                memory.begin([3; 16], [3; 16]).await,
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
