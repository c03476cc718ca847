//! What happens to a lane while it is in a batch.

use std::sync::Arc;
use std::time::Duration;

use bm_contracts::Topic;
use bm_lane_runner::RunnerError;
use bm_storage::{LaneTable, RewardStore};
use bm_testkit::eventually;
use tokio_util::sync::CancellationToken;

use crate::faulty::{Fault, Faulty};
use crate::world::{DEADLINE, PARTITIONS, World, ended, of_lane};

/// A world whose runner has a batch of this player under way that gets no answer; and the player's lane.
async fn silent_batch() -> (World, i32) {
    let mut world = World::new().await;
    world.store.refuse_player("silent", Fault::Silent);
    let lane = world.grant("silent", 0).await;
    world.start();
    await_silence(&world).await;
    (world, lane)
}

async fn await_silence(world: &World) {
    eventually(DEADLINE, "the batch without an answer", || async {
        (world.store.refusals() > 0).then_some(())
    })
    .await;
}

async fn epoch(world: &World, lane: i32) -> i64 {
    let lanes = world.storage.lanes_of("reward-processor").await.unwrap();
    let row = lanes.iter().find(|row| row.partition == lane);
    row.unwrap().epoch
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_gets_no_answer_holds_up_its_own_lanes_alone() {
    let (mut world, silent) = silent_batch().await;
    let (mut others, mut behind) = (0, 0);
    for index in 0..30 {
        if world.grant(&format!("p{index}"), 0).await == silent {
            behind += 1;
        } else {
            others += 1;
        }
    }
    assert!(behind > 0, "some come while their lane is in the batch");
    world.await_ledger(others).await;
    assert_eq!(world.store.given_up(), 0, "they waited for its end");
    world.store.relent();
    world.await_ledger(others + behind + 1).await;
    assert_eq!(world.dead_letters().await, []);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_taken_by_someone_else_in_mid_batch_is_not_moved_by_it() {
    let (mut world, lane) = silent_batch().await;
    let lanes = LaneTable::new(world.storage.clone());
    let taken = lanes
        .take("reward-processor", Topic::RewardEvents, lane)
        .await
        .unwrap()
        .unwrap();
    world.grant("silent", 1).await;
    world.store.relent();
    world.await_ledger(2).await;
    world.await_announced(2).await;
    assert_eq!(world.announced().await, world.sent);
    assert_eq!(epoch(&world, lane).await, taken.epoch + 1, "taken again");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_the_group_gives_to_another_in_mid_batch_count_once() {
    let mut world = World::new().await;
    world.workers = PARTITIONS as usize;
    // Longer than all that is waited for here.
    world.statement_timeout = DEADLINE * 5;
    for lane in 0..PARTITIONS {
        let user = of_lane(lane);
        world.store.refuse_player(&user, Fault::Silent);
        assert_eq!(world.grant(&user, 0).await, lane);
    }
    world.start();
    let first = Arc::clone(&world.status);
    eventually(DEADLINE, "batches without an answer", || async {
        (world.store.refusals() > 0 && first.assigned() == PARTITIONS as usize).then_some(())
    })
    .await;
    let (second, stop) = (Arc::default(), CancellationToken::new());
    let store = Faulty::around(RewardStore::new(world.storage.clone()));
    let other = world.run(&store, &second, &stop);
    eventually(DEADLINE, "the other's lanes", || async {
        (second.running() > 0 && second.running() == second.assigned()).then_some(())
    })
    .await;
    assert_eq!(world.store.given_up(), 0, "the batches are under way");
    for lane in 0..PARTITIONS {
        world.grant(&of_lane(lane), 1).await;
    }
    world.store.relent();
    world.await_ledger(i64::from(PARTITIONS) * 2).await;
    world.await_announced(PARTITIONS as usize * 2).await;
    assert_eq!(world.announced().await, world.sent);
    eventually(DEADLINE, "each lane with one owner", || async {
        let running = first.running() + second.running();
        (running == PARTITIONS as usize && second.running() > 0).then_some(())
    })
    .await;
    stop.cancel();
    ended(other).await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_told_to_stop_while_the_database_is_silent_ends_and_loses_nothing() {
    let mut world = World::new().await;
    world.statement_timeout = Duration::from_secs(1);
    world.store.refuse_player("silent", Fault::Silent);
    world.grant("silent", 0).await;
    world.start();
    await_silence(&world).await;
    world.grant("silent", 1).await;
    world.stop().await;
    assert!(world.store.given_up() > 0);
    assert_eq!(world.ledger().await, 0);
    world.store.relent();
    world.start();
    world.await_ledger(2).await;
    world.await_announced(2).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_batch_ends_the_runner_and_loses_nothing() {
    let mut world = World::new().await;
    world.store.next(Fault::Panic);
    for player in 0..20 {
        world.grant(&format!("p{player}"), 0).await;
    }
    world.start();
    let error = world.ended().await.unwrap_err();
    assert!(matches!(error, RunnerError::CannotGoOn(_)), "{error}");
    world.start();
    world.await_ledger(20).await;
    world.await_announced(20).await;
    world.stop().await;
}
