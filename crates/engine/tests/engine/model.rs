//! The lane protocol explored exhaustively for small bounds, over the decision functions that the
//! runner uses (`bm_engine::lane::Lane`, `bm_engine::Watermarks`).
//!
//! One lane, two processes that may both believe they own it, a database that executes a commit
//! when it likes (also after its sender gave up), producers that fail while a request is on its way,
//! two output partitions. Every part of the protocol that is left out must make the model fail.

use bm_contracts::headers::{Seq, Source};
use bm_engine::Watermarks;
use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::world::{
    ALL_APPLIED, Action, MOST_TAKES, OUTPUTS, OWNERS, Owner, Place, Protocol, RECORDS, Row,
    Without, World, destination, emitted,
};

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            row: Row {
                epoch: 0,
                cursor: 0,
                outbox: Vec::new(),
                count: 0,
            },
            commits: Vec::new(),
            owners: vec![Owner::default(); OWNERS],
            requests: Vec::new(),
            log: vec![Vec::new(); OUTPUTS],
            faults_left: self.faults,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let anyone = world.owners.iter().any(|owner| owner.lane.is_assigned());
        for (o, owner) in world.owners.iter().enumerate() {
            if owner.lane.is_assigned() {
                if world.faults_left > 0 {
                    actions.extend([Action::Revoke(o), Action::Kill(o)]);
                }
            } else if !anyone || world.faults_left > 0 {
                // Two that both believe cost a fault; somebody always gets the lane.
                actions.push(Action::Assign(o));
            }
            match &owner.taking {
                Some((_, None)) => actions.push(Action::ExecuteTake(o)),
                Some((_, Some(_))) => {
                    actions.push(Action::DeliverTake(o));
                    if world.faults_left > 0 {
                        actions.push(Action::LoseTake(o));
                    }
                }
                None => {}
            }
            if let Some(fence) = self.may_begin(owner) {
                for next in fence.cursor + 1..=RECORDS {
                    actions.push(Action::Begin(o, next));
                }
            }
            for partition in 0..OUTPUTS {
                let waiting = owner
                    .publishing
                    .queue
                    .iter()
                    .any(|place| destination(*place) == partition);
                let free = Self::in_flight(world, o, partition) == 0
                    || self.without == Without::OneInFlight;
                if waiting && free {
                    actions.push(Action::Send(o, partition));
                }
            }
            if world.faults_left > 0 && owner.publishing.publication.is_some() {
                actions.push(Action::FailProducer(o));
            }
        }
        for (i, commit) in world.commits.iter().enumerate() {
            actions.push(Action::Execute(i));
            if commit.awaited && world.faults_left > 0 {
                actions.push(Action::LoseReply(i));
            }
        }
        for (i, request) in world.requests.iter().enumerate() {
            let orphan = request.generation != world.owners[request.owner].generation;
            if request.appended {
                actions.push(Action::Ack(i));
            } else {
                actions.push(Action::Append(i));
                if orphan {
                    actions.push(Action::Lose(i));
                }
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Assign(_) | Action::Revoke(_) | Action::Kill(_) => {
                self.process(&mut world, action)
            }
            Action::ExecuteTake(_) | Action::DeliverTake(_) | Action::LoseTake(_) => {
                self.take(&mut world, action)
            }
            Action::Begin(..) | Action::Execute(_) | Action::LoseReply(_) => {
                self.commit(&mut world, action)
            }
            Action::Send(..)
            | Action::Append(_)
            | Action::Ack(_)
            | Action::FailProducer(_)
            | Action::Lose(_) => self.produce(&mut world, action),
        }?;
        self.drop_what_cannot_matter(&mut world);
        Some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.row.epoch <= MOST_TAKES && world.log.iter().all(|log| log.len() <= 12)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "readers see every message once and in order",
                |model: &Self, world: &World| {
                    (0..OUTPUTS).all(|partition| {
                        let expected: Vec<Place> = emitted(0, RECORDS)
                            .into_iter()
                            .filter(|place| destination(*place) == partition)
                            .collect();
                        expected.starts_with(&read(model, &world.log[partition]))
                    })
                },
            ),
            Property::always("the state holds what was applied", |_, world: &World| {
                world.row.count == world.row.cursor
            }),
            Property::always(
                "an assigned lane ends with an owner and everything done",
                |model, world| {
                    let mut actions = Vec::new();
                    model.actions(world, &mut actions);
                    let settled = actions.is_empty();
                    !settled
                        || (world.row.cursor == RECORDS
                            && world
                                .owners
                                .iter()
                                .any(|owner| owner.lane.may_commit().is_some())
                            && world
                                .log
                                .iter()
                                .map(|log| read(model, log).len())
                                .sum::<usize>()
                                == emitted(0, RECORDS).len())
                },
            ),
            Property::sometimes(ALL_APPLIED, |_, world: &World| world.row.cursor == RECORDS),
        ]
    }
}

/// What a reader takes of an output partition.
fn read(model: &Protocol, log: &[Place]) -> Vec<Place> {
    let source = Source {
        processor: "p".to_owned(),
        topic: "t".to_owned(),
        partition: 0,
    };
    let mut marks = Watermarks::default();
    log.iter()
        .copied()
        .filter(|&(offset, index)| {
            model.without == Without::Watermark
                || marks.admit(
                    &source,
                    Seq {
                        generation: 0,
                        offset,
                        index,
                    },
                )
        })
        .collect()
}

fn explore(without: Without, faults: u8) -> impl Checker<Protocol> {
    Protocol { without, faults }
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join()
}

#[test]
fn the_protocol_holds_under_every_order_of_two_faults() {
    let checker = explore(Without::Nothing, 2);
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
    assert!(
        checker.unique_state_count() > 100_000,
        "the bounds let too little happen"
    );
}

#[test]
fn every_part_of_the_protocol_is_needed() {
    for without in [
        Without::Fence,
        Without::Watermark,
        Without::WaitForAcks,
        Without::OutboxAtTake,
        Without::Forgetting,
        Without::WholeOutboxResent,
        Without::OneInFlight,
        Without::TakingAgain,
    ] {
        let found = explore(without, 1).discoveries();
        let broken: Vec<_> = found.keys().filter(|name| **name != ALL_APPLIED).collect();
        println!("without {without:?}: not true that {broken:?}");
        assert!(
            !broken.is_empty(),
            "the model does not notice a protocol without {without:?}"
        );
    }
}
