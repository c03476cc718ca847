//! The memory of event ids.

use std::time::Duration;

use bm_admission::{Begin, Idempotency, RedisHandle};
use bm_contracts::time::Timestamp;
use bm_testkit::{Server, TestEnv, eventually, unique};

use crate::common::{SOON, TIMEOUT, begin, client, flush_all};

#[tokio::test]
async fn an_event_goes_from_fresh_through_in_flight_to_done() {
    let redis = RedisHandle::connect(&TestEnv::get().redis, TIMEOUT)
        .await
        .unwrap();
    let memory = Idempotency::new(Some(redis), &unique("idem"));
    let (event, body, other) = ([1; 16], [2; 16], [3; 16]);
    let answer = Timestamp::clamped(1_700_000_000_123);
    let Begin::Fresh(attempt) = begin(&memory, event, body).await else {
        panic!("nobody has had it");
    };
    assert_eq!(begin(&memory, event, body).await, Begin::InFlight);
    assert_eq!(begin(&memory, event, other).await, Begin::OtherBody);
    memory.done(attempt.clone(), answer);
    memory.flush().await;
    assert_eq!(begin(&memory, event, body).await, Begin::Done { answer });
    assert_eq!(begin(&memory, event, other).await, Begin::OtherBody);
    // The first answer stays, and what is done is not cleared.
    memory.done(attempt.clone(), Timestamp::clamped(5));
    memory.clear(attempt);
    memory.flush().await;
    assert_eq!(begin(&memory, event, body).await, Begin::Done { answer });
}

#[tokio::test]
async fn a_cleared_attempt_makes_way_but_only_for_itself() {
    let redis = RedisHandle::connect(&TestEnv::get().redis, TIMEOUT)
        .await
        .unwrap();
    let memory = Idempotency::new(Some(redis), &unique("idem"));
    let (event, body) = ([1; 16], [2; 16]);
    let Begin::Fresh(first) = begin(&memory, event, body).await else {
        panic!("nobody has had it");
    };
    memory.clear(first.clone());
    memory.flush().await;
    let Begin::Fresh(_second) = begin(&memory, event, body).await else {
        panic!("it was cleared");
    };
    // Late news of the first attempt does not clear the second.
    memory.clear(first);
    memory.flush().await;
    assert_eq!(begin(&memory, event, body).await, Begin::InFlight);
}

#[tokio::test]
async fn an_attempt_that_never_ends_is_forgotten_and_an_answer_lasts_an_hour() {
    let redis = RedisHandle::connect(&TestEnv::get().redis, TIMEOUT)
        .await
        .unwrap();
    let life = Duration::from_millis(300);
    let prefix = unique("idem");
    let memory = Idempotency::with_pending(Some(redis), &prefix, life);
    let (event, body) = ([1; 16], [2; 16]);
    assert!(matches!(begin(&memory, event, body).await, Begin::Fresh(_)));
    let attempt = eventually(SOON, "the first attempt being forgotten", || {
        let memory = memory.clone();
        async move {
            match begin(&memory, event, body).await {
                Begin::Fresh(attempt) => Some(attempt),
                _ => None,
            }
        }
    })
    .await;
    memory.done(attempt, Timestamp::clamped(5));
    memory.flush().await;
    let left: i64 = redis::cmd("PTTL")
        .arg(format!("{prefix}bm:idem:{{{}}}", "01".repeat(16)))
        .query_async(&mut client(&TestEnv::get().redis).await)
        .await
        .unwrap();
    assert!((3_500_000..=3_600_000).contains(&left), "{left} ms left");
}

#[tokio::test]
async fn a_batch_is_asked_about_in_one_round_trip() {
    let server = Server::redis().await;
    let redis = RedisHandle::connect(&server.url(), TIMEOUT).await.unwrap();
    let memory = Idempotency::new(Some(redis), "");
    let events: Vec<_> = (0..500_u32)
        .map(|n| {
            let mut key = [0; 16];
            key[..4].copy_from_slice(&n.to_be_bytes());
            (key, [9; 16])
        })
        .collect();
    let begun = memory.begin_many(&events).await;
    assert!(begun.iter().all(|one| matches!(one, Begin::Fresh(_))));
    let answer = Timestamp::clamped(7);
    for (n, one) in begun.into_iter().enumerate() {
        if let (Begin::Fresh(attempt), true) = (one, n % 2 == 0) {
            memory.done(attempt, answer);
        }
    }
    memory.flush().await;
    let again = memory
        .begin_many(&[events[0], events[1], events[0], (events[2].0, [8; 16])])
        .await;
    assert_eq!(
        again,
        [
            Begin::Done { answer },
            Begin::InFlight,
            Begin::SameBatch { first: 0 },
            Begin::OtherBody
        ]
    );
    // A flushed Redis forgets, and its forgotten scripts are loaded anew.
    flush_all(&server).await;
    let Begin::Fresh(attempt) = begin(&memory, events[0].0, events[0].1).await else {
        panic!("it was flushed");
    };
    memory.done(attempt, answer);
    memory.flush().await;
    assert_eq!(
        begin(&memory, events[0].0, events[0].1).await,
        Begin::Done { answer }
    );
}
