//! The runner on a real broker and database, under a storage that fails as told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod faulty;
mod mid_batch;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use bm_contracts::Topic;
use bm_contracts::partition::partition_for;
use bm_storage::LaneTable;
use bm_testkit::eventually;
use faulty::Fault;
use world::{DEADLINE, PARTITIONS, World, grant, of_lane};

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_reply_is_lost_counts_once_whether_it_happened_or_not() {
    let mut world = World::new().await;
    world.start();
    for (round, fault) in [
        Fault::LoseReplyAfter,
        Fault::LoseReplyBefore,
        Fault::LoseReplyAfter,
    ]
    .into_iter()
    .enumerate()
    {
        world.store.next(fault);
        for player in 0..20 {
            world.grant(&format!("p{player}"), round).await;
        }
        world.await_ledger((round as i64 + 1) * 20).await;
    }
    assert_eq!(world.store.faults_done(), 3);
    world.await_announced(60).await;
    assert_eq!(world.announced().await, world.sent);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_the_database_refuses_becomes_a_dead_letter_and_all_others_count() {
    // All lanes in one batch, and a backlog of many batches of each; one and more at a time.
    // A half that goes through lets the next be larger, so the search takes up to twice as many steps as halving
    // alone, and more where not all is read when it begins. It takes many times that when it stops for others.
    for (batch, grants, workers, most_refused) in
        [(1_000, 40, 2, 20), (4, 600, 1, 8), (4, 600, 3, 8)]
    {
        let refused = a_value_is_refused(batch, grants, workers).await;
        assert!(
            refused <= most_refused,
            "{refused} commits were refused in batches of {batch}, {workers} at a time"
        );
    }
}

/// How many commits were refused until the bad one of `grants` was found.
async fn a_value_is_refused(batch: usize, grants: usize, workers: usize) -> usize {
    let mut world = World::new().await;
    world.batch = batch;
    world.workers = workers;
    world.store.refuse_player("bad", Fault::Data);
    for index in 0..grants {
        world.grant(&format!("p{}", index % 7), index).await;
        if index == 20 {
            world.grant("bad", 0).await;
        }
    }
    world.start();
    world.await_ledger(grants as i64).await;
    let letters = eventually(DEADLINE, "the dead letter", || async {
        let letters = world.dead_letters().await;
        (!letters.is_empty()).then_some(letters)
    })
    .await;
    let [letter] = &letters[..] else {
        panic!("one dead letter expected: {letters:?}")
    };
    assert_eq!(letter.code, "refused_by_database_22P05");
    assert!(
        String::from_utf8(letter.value().unwrap())
            .unwrap()
            .contains("\"bad\"")
    );
    let refused = world.store.refusals();
    // The lane went on behind it.
    world.grant("bad-neighbour", 0).await;
    world.await_ledger(grants as i64 + 1).await;
    world.stop().await;
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_is_no_data_stalls_one_lane_and_loses_nothing() {
    let mut world = World::new().await;
    world.store.refuse_player("stuck", Fault::NoPartition);
    let stuck = world.grant("stuck", 0).await;
    let mut others = 0;
    let mut behind = 0;
    for index in 0..50 {
        if world.grant(&format!("p{index}"), 0).await == stuck {
            behind += 1
        } else {
            others += 1
        }
    }
    world.start();
    world.await_ledger(others).await;
    let status = Arc::clone(&world.status);
    eventually(DEADLINE, "the stalled lane", || async {
        (status.stalled() == 1).then_some(())
    })
    .await;
    assert_eq!(world.dead_letters().await, []);
    world.store.relent();
    world.await_ledger(others + behind + 1).await;
    eventually(DEADLINE, "no stalled lane", || async {
        (status.stalled() == 0).then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_are_stuck_with_all_that_may_be_held_do_not_keep_another_from_being_read() {
    const EACH: usize = 11;
    let mut world = World::new().await;
    // Together more than a process reads ahead, each less than a lane may.
    let large = format!(r#"{{"type":"coins","note":"{}"}}"#, "x".repeat(500_000));
    for lane in 1..PARTITIONS {
        let user = of_lane(lane);
        world.store.refuse_player(&user, Fault::NoPartition);
        for index in 0..EACH {
            assert_eq!(world.grant_of(&user, index, &large).await, lane);
        }
    }
    world.start();
    let status = Arc::clone(&world.status);
    eventually(DEADLINE, "the stalled lanes", || async {
        (status.stalled() == PARTITIONS as usize - 1).then_some(())
    })
    .await;
    world.grant(&of_lane(0), 0).await;
    world.await_ledger(1).await;
    world.store.relent();
    world
        .await_ledger(1 + i64::from(PARTITIONS - 1) * EACH as i64)
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_taken_by_someone_else_is_taken_again_and_the_others_go_on() {
    let mut world = World::new().await;
    world.start();
    world.grant("first", 0).await;
    world.await_ledger(1).await;
    let lanes = LaneTable::new(world.storage.clone());
    for round in 0..3 {
        lanes
            .take("reward-processor", Topic::RewardEvents, round % PARTITIONS)
            .await
            .unwrap()
            .unwrap();
        for player in 0..20 {
            world.grant(&format!("p{player}"), round as usize).await;
        }
        world.await_ledger(1 + (i64::from(round) + 1) * 20).await;
    }
    world.await_announced(61).await;
    assert_eq!(world.announced().await, world.sent);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_goes_on_where_it_stopped_and_refuses_a_topic_made_anew() {
    let mut world = World::new().await;
    world.start();
    for player in 0..10 {
        world.grant(&format!("p{player}"), 0).await;
    }
    world.await_ledger(10).await;
    world.stop().await;
    for player in 0..10 {
        world.grant(&format!("p{player}"), 1).await;
    }
    world.start();
    world.await_ledger(20).await;
    world.await_announced(20).await;
    world.stop().await;

    world.topics.delete(Topic::RewardEvents.name()).await;
    world
        .topics
        .add([bm_testkit::TopicPlan::of(Topic::RewardEvents)])
        .await;
    for player in 0..60 {
        world.grant(&format!("p{player}"), 2).await;
    }
    // Lanes that had no record yet have nothing to tell the logs apart by, and begin at 0 rightly.
    let touched: BTreeSet<i32> = world
        .storage
        .lanes_of("reward-processor")
        .await
        .unwrap()
        .into_iter()
        .filter(|lane| lane.next_offset > 0)
        .map(|lane| lane.partition)
        .collect();
    world.start();
    let status = Arc::clone(&world.status);
    assert!(!touched.is_empty());
    eventually(DEADLINE, "the halted lanes", || async {
        (status.halted() == touched.len()).then_some(())
    })
    .await;
    world.stop().await;
    drop(world.database);
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_run_halt_when_their_topic_gets_more_partitions() {
    let mut world = World::new().await;
    world.start();
    for player in 0..20 {
        world.grant(&format!("p{player}"), 0).await;
    }
    world.await_ledger(20).await;
    world
        .topics
        .grow(Topic::RewardEvents.name(), PARTITIONS + 1)
        .await;
    let status = Arc::clone(&world.status);
    eventually(DEADLINE, "the halted lanes", || async {
        (status.halted() >= PARTITIONS as usize && status.running() == 0).then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_too_large_for_the_time_there_is_becomes_smaller_until_it_goes_through() {
    let mut world = World::new().await;
    world.store.slow_above(3);
    for player in 0..40 {
        world.grant(&format!("p{player}"), 0).await;
    }
    world.start();
    world.await_ledger(40).await;
    assert!(world.store.faults_done() > 0);
    assert_eq!(world.dead_letters().await, []);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_read_stalls_its_lane_alone() {
    let mut world = World::new().await;
    let (unreadable, ..) = grant("unreadable", 0);
    world.store.corrupt(&unreadable);
    let stuck = world.grant("unreadable", 0).await;
    let mut others = 0;
    for index in 0..50 {
        if world.grant(&format!("p{index}"), 0).await != stuck {
            others += 1;
        }
    }
    world.start();
    world.await_ledger(others).await;
    let status = Arc::clone(&world.status);
    eventually(DEADLINE, "the stalled lane", || async {
        (status.stalled() == 1).then_some(())
    })
    .await;
    world.store.relent();
    world.await_ledger(51).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_in_the_wrong_partition_is_a_dead_letter_and_never_touches_anothers_state() {
    let mut world = World::new().await;
    let (_, key, value) = grant("foreign", 0);
    let right = partition_for(key.as_bytes(), PARTITIONS);
    world.produce((right + 1) % PARTITIONS, &key, &value).await;
    for player in 0..20 {
        world.grant(&format!("p{player}"), 0).await;
    }
    world.start();
    world.await_ledger(20).await;
    let letters = eventually(DEADLINE, "the dead letter", || async {
        let letters = world.dead_letters().await;
        (!letters.is_empty()).then_some(letters)
    })
    .await;
    let [letter] = &letters[..] else {
        panic!("one dead letter expected: {letters:?}")
    };
    assert_eq!(letter.code, "wrong_partition");
    assert_eq!(letter.value().unwrap(), value);
    assert_eq!(world.ledger().await, 20);
    world.stop().await;
}
