//! The lanes' rows: making, taking, moving, and being refused.

use bm_contracts::Topic;
use bm_contracts::headers::{Seq, Source};
use bm_domain::routing::RouterDomain;
use bm_engine::{Outbox, OutboxMessage, Watermarks};
use bm_storage::CommitError;

use crate::support::{Fixture, ROUTER, commit_events, event_row, step};

#[tokio::test]
async fn lanes_made_by_many_at_once_are_made_once() {
    let fixture = Fixture::new().await;
    let tasks: Vec<_> = (0..10)
        .map(|n| {
            let lanes = fixture.lanes.clone();
            tokio::spawn(async move { lanes.create(ROUTER.0, ROUTER.1, &[n, n, n]).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }

    let lanes = fixture.storage.lanes_of(ROUTER.0).await.unwrap();
    let partitions: Vec<_> = lanes.iter().map(|lane| lane.partition).collect();
    assert_eq!(partitions, [0, 1, 2]);
    let begins = lanes[0].next_offset;
    assert!(lanes.iter().all(|lane| lane.next_offset == begins));
    assert_eq!(fixture.take::<RouterDomain>(2).await.partition_count, 3);
}

#[tokio::test]
async fn a_lane_that_is_missing_later_is_not_made_again() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RouterDomain>(3).await;
    sqlx::query("DELETE FROM lanes WHERE partition = 1")
        .execute(&fixture.pool)
        .await
        .unwrap();

    fixture.make_lanes::<RouterDomain>(3).await;
    assert_eq!(
        fixture.lanes.take(ROUTER.0, ROUTER.1, 1).await.unwrap(),
        None
    );
    // Another topic or processor is another matter.
    fixture
        .lanes
        .create(ROUTER.0, Topic::QuestEvents, &[5])
        .await
        .unwrap();
    assert_eq!(fixture.count("lanes").await, 3);
}

#[tokio::test]
async fn take_raises_the_epoch_and_gives_back_what_was_committed() {
    let fixture = Fixture::new().await;
    fixture
        .lanes
        .create(ROUTER.0, ROUTER.1, &[0, 17])
        .await
        .unwrap();
    let first = fixture.take::<RouterDomain>(1).await;
    assert_eq!((first.epoch, first.next_offset), (1, 17));
    assert!(first.outbox.is_empty() && first.last_record.is_none());

    let mut watermarks = Watermarks::default();
    let source = Source {
        processor: "p".to_owned(),
        topic: "t".to_owned(),
        partition: 1,
    };
    watermarks.admit(
        &source,
        Seq {
            generation: 1,
            offset: 2,
            index: 3,
        },
    );
    let outbox = Outbox {
        messages: vec![OutboxMessage {
            topic: Topic::UiUpdates,
            partition: 7,
            key: "game:player".to_owned(),
            headers: vec![("bm-seq".into(), "0.1.0".to_owned())],
            // Larger than a page, so that it is stored out of line.
            value: (0..300_000_u32).map(|n| (n * 31) as u8).collect(),
        }],
    };
    let mut lane = step(1, &first);
    lane.watermarks = watermarks.encode();
    lane.outbox = outbox.encode().unwrap();
    commit_events(&fixture.router(), std::slice::from_ref(&lane), &[])
        .await
        .unwrap();

    let again = fixture.take::<RouterDomain>(1).await;
    assert_eq!((again.epoch, again.next_offset), (2, 18));
    assert_eq!(again.watermarks, watermarks);
    assert_eq!(again.outbox, outbox);
    assert_eq!(again.last_record, Some(lane.last_record));
}

#[tokio::test]
async fn a_commit_without_rows_moves_its_lanes() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RouterDomain>(2).await;
    let (zero, one) = (
        fixture.take::<RouterDomain>(0).await,
        fixture.take::<RouterDomain>(1).await,
    );
    commit_events(&fixture.router(), &[step(1, &one), step(0, &zero)], &[])
        .await
        .unwrap();
    assert_eq!(fixture.take::<RouterDomain>(0).await.next_offset, 1);
    assert_eq!(fixture.take::<RouterDomain>(1).await.next_offset, 1);
}

#[tokio::test]
async fn one_refused_lane_of_several_moves_none_and_is_named() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RouterDomain>(4).await;
    let mut moves = Vec::new();
    for partition in 0..4 {
        moves.push(step(
            partition,
            &fixture.take::<RouterDomain>(partition).await,
        ));
    }
    fixture.take::<RouterDomain>(2).await;
    fixture.take::<RouterDomain>(1).await;

    let store = fixture.router();
    let refused = commit_events(&store, &moves, &[event_row("e", "{}")]).await;
    assert!(
        matches!(&refused, Err(CommitError::Refused { partitions }) if partitions == &[1, 2]),
        "{refused:?}"
    );
    assert_eq!(fixture.count("events_raw").await, 0);
    let lanes = fixture.storage.lanes_of(ROUTER.0).await.unwrap();
    assert!(lanes.iter().all(|lane| lane.next_offset == 0));

    // Without them, the rest goes.
    moves.retain(|lane| ![1, 2].contains(&lane.partition));
    commit_events(&store, &moves, &[event_row("e", "{}")])
        .await
        .unwrap();
    assert_eq!(fixture.count("events_raw").await, 1);
}

#[tokio::test]
async fn a_commit_from_another_cursor_is_refused() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RouterDomain>(1).await;
    let row = fixture.take::<RouterDomain>(0).await;
    let store = fixture.router();
    let lane = step(0, &row);
    commit_events(&store, std::slice::from_ref(&lane), &[])
        .await
        .unwrap();
    // The same batch again, as after a lost reply that nobody noticed.
    let again = commit_events(&store, &[lane], &[event_row("e", "{}")]).await;
    assert!(
        matches!(&again, Err(CommitError::Refused { partitions }) if partitions == &[0]),
        "{again:?}"
    );
    assert_eq!(fixture.count("events_raw").await, 0);
}

#[tokio::test]
async fn a_lane_without_a_row_is_refused() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RouterDomain>(1).await;
    let row = fixture.take::<RouterDomain>(0).await;
    let refused = commit_events(&fixture.router(), &[step(0, &row), step(9, &row)], &[]).await;
    assert!(
        matches!(&refused, Err(CommitError::Refused { partitions }) if partitions == &[9]),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_commit_that_waited_for_the_new_owners_take_is_refused() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RouterDomain>(1).await;
    let row = fixture.take::<RouterDomain>(0).await;

    let mut taking = fixture.pool.begin().await.unwrap();
    sqlx::query("UPDATE lanes SET epoch = epoch + 1")
        .execute(&mut *taking)
        .await
        .unwrap();
    let store = fixture.router();
    let zombie = tokio::spawn(async move {
        commit_events(&store, &[step(0, &row)], &[event_row("e", "{}")]).await
    });
    fixture.until_somebody_waits_for_a_lock().await;
    taking.commit().await.unwrap();

    let refused = zombie.await.unwrap();
    assert!(
        matches!(&refused, Err(CommitError::Refused { partitions }) if partitions == &[0]),
        "{refused:?}"
    );
    assert_eq!(fixture.count("events_raw").await, 0);
}

#[tokio::test]
async fn commits_that_share_lanes_in_other_orders_do_not_deadlock() {
    let fixture = Fixture::new().await;
    fixture.make_lanes::<RouterDomain>(8).await;
    let mut moves = Vec::new();
    for partition in 0..8 {
        moves.push(step(
            partition,
            &fixture.take::<RouterDomain>(partition).await,
        ));
    }
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let store = fixture.router();
            let mut moves = moves.clone();
            moves.rotate_left(n);
            if n % 2 == 0 {
                moves.reverse();
            }
            tokio::spawn(async move { commit_events(&store, &moves, &[]).await })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(()) => done += 1,
            Err(CommitError::Refused { partitions }) => assert_eq!(partitions.len(), 8),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(done, 1);
}
