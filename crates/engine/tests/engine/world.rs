//! What the model of the lane protocol is made of, and how each action changes it.

use bm_engine::lane::{Decision, Fence, Lane, Publication, TakeAttempt};

pub(super) const RECORDS: i64 = 2;
pub(super) const OWNERS: usize = 2;
pub(super) const OUTPUTS: usize = 2;
pub(super) const ALL_APPLIED: &str = "all records are applied";
/// Takes explored; two owners that both believe would go on for ever.
pub(super) const MOST_TAKES: i64 = 3;

/// What is left out of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Without {
    Nothing,
    Fence,
    Watermark,
    WaitForAcks,
    OutboxAtTake,
    Forgetting,
    /// A failed producer's successor sends only what failed, not the outbox from its first message.
    WholeOutboxResent,
    /// More than one request may be on its way to a partition.
    OneInFlight,
    /// A refused owner does not take again.
    TakingAgain,
}

/// A message, named by its place: record offset, and index within the record.
pub(super) type Place = (i64, i32);

/// Where the messages of each record go: one record has two for one partition, one has one for each.
pub(super) const DESTINATIONS: [[usize; 2]; RECORDS as usize] = [[0, 0], [1, 0]];

pub(super) fn emitted(from: i64, to: i64) -> Vec<Place> {
    (from..to)
        .flat_map(|offset| (0..2).map(move |index| (offset, index)))
        .collect()
}

pub(super) fn destination(place: Place) -> usize {
    DESTINATIONS[place.0 as usize][place.1 as usize]
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) epoch: i64,
    pub(super) cursor: i64,
    pub(super) outbox: Vec<Place>,
    /// The lane's state: how many records were counted.
    pub(super) count: i64,
}

/// Epoch, cursor and outbox as take returned them.
pub(super) type TakenRow = (i64, i64, Vec<Place>);

/// A commit the database has received; its sender may have given up waiting.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Commit {
    pub(super) owner: usize,
    pub(super) awaited: bool,
    pub(super) epoch: i64,
    pub(super) expected: i64,
    pub(super) next: i64,
    pub(super) count: i64,
}

/// A produce request on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Request {
    pub(super) owner: usize,
    pub(super) generation: u8,
    pub(super) place: Place,
    /// The broker has it, the answer is on its way back.
    pub(super) appended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Publishing {
    pub(super) publication: Option<Publication>,
    pub(super) outbox: Vec<Place>,
    /// Not sent yet, in order.
    pub(super) queue: Vec<Place>,
    pub(super) unacked: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Owner {
    pub(super) lane: Lane,
    /// A take whose reply has not come, and the row once the database has executed it.
    pub(super) taking: Option<(TakeAttempt, Option<TakenRow>)>,
    /// The state kept in memory: right while the epoch holds.
    pub(super) memory: Option<i64>,
    pub(super) publishing: Publishing,
    pub(super) generation: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) row: Row,
    pub(super) commits: Vec<Commit>,
    pub(super) owners: Vec<Owner>,
    pub(super) requests: Vec<Request>,
    pub(super) log: Vec<Vec<Place>>,
    pub(super) faults_left: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Assign(usize),
    Revoke(usize),
    Kill(usize),
    ExecuteTake(usize),
    DeliverTake(usize),
    LoseTake(usize),
    Begin(usize, i64),
    Execute(usize),
    LoseReply(usize),
    Send(usize, usize),
    Append(usize),
    Ack(usize),
    FailProducer(usize),
    Lose(usize),
}

pub(super) struct Protocol {
    pub(super) without: Without,
    pub(super) faults: u8,
}

impl Protocol {
    pub(super) fn carry_out(
        &self,
        world: &mut World,
        o: usize,
        decision: Decision,
        outbox: Vec<Place>,
    ) {
        let owner = &mut world.owners[o];
        match decision {
            Decision::Nothing => {}
            Decision::Forget => {
                if self.without != Without::Forgetting {
                    owner.memory = None;
                }
                owner.taking = None;
                owner.publishing = Publishing::default();
            }
            Decision::ForgetAndTake { attempt, .. } => {
                if self.without != Without::Forgetting {
                    owner.memory = None;
                }
                owner.publishing = Publishing::default();
                owner.taking = Some((attempt, None));
            }
            Decision::Publish { publication } => {
                if outbox.is_empty() {
                    owner.lane.acked(publication);
                } else {
                    owner.publishing = Publishing {
                        publication: Some(publication),
                        queue: outbox.clone(),
                        unacked: outbox.clone(),
                        outbox,
                    };
                }
            }
        }
    }

    /// Keeps the space small: answers nobody waits for, and commits that can never fit again.
    pub(super) fn drop_what_cannot_matter(&self, world: &mut World) {
        let World {
            requests,
            owners,
            commits,
            row,
            ..
        } = world;
        requests.retain(|r| !(r.appended && r.generation != owners[r.owner].generation));
        if self.without != Without::Fence {
            commits.retain(|commit| commit.awaited || commit.epoch == row.epoch);
        }
    }

    pub(super) fn may_begin(&self, owner: &Owner) -> Option<Fence> {
        if self.without == Without::WaitForAcks && owner.publishing.publication.is_some() {
            // As if the acks were there.
            let mut lane = owner.lane.clone();
            lane.acked(owner.publishing.publication?);
            return lane.may_commit();
        }
        owner.lane.may_commit()
    }

    /// Requests of the owner's present producer that wait for their answer, for one partition.
    pub(super) fn in_flight(world: &World, o: usize, partition: usize) -> usize {
        world
            .requests
            .iter()
            .filter(|r| {
                r.owner == o
                    && r.generation == world.owners[o].generation
                    && destination(r.place) == partition
            })
            .count()
    }

    /// Processes come, lose the lane, and die.
    pub(super) fn process(&self, world: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Assign(o) => {
                if world.owners.iter().any(|owner| owner.lane.is_assigned()) {
                    world.faults_left -= 1;
                }
                let decision = world.owners[o].lane.assigned();
                self.carry_out(world, o, decision, Vec::new());
            }
            Action::Revoke(o) => {
                world.faults_left -= 1;
                let decision = world.owners[o].lane.revoked();
                self.carry_out(world, o, decision, Vec::new());
            }
            Action::Kill(o) => {
                world.faults_left -= 1;
                let generation = world.owners[o].generation + 1;
                world.owners[o] = Owner {
                    generation,
                    ..Owner::default()
                };
                for commit in world.commits.iter_mut().filter(|commit| commit.owner == o) {
                    commit.awaited = false;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// The take statement and its reply.
    pub(super) fn take(&self, world: &mut World, action: Action) -> Option<()> {
        match action {
            Action::ExecuteTake(o) => {
                world.row.epoch += 1;
                let row = (world.row.epoch, world.row.cursor, world.row.outbox.clone());
                world.owners[o].taking.as_mut()?.1 = Some(row);
            }
            Action::DeliverTake(o) => {
                let (attempt, row) = world.owners[o].taking.take()?;
                let (epoch, cursor, outbox) = row?;
                let decision = world.owners[o].lane.taken(attempt, epoch, cursor);
                let outbox = if self.without == Without::OutboxAtTake {
                    Vec::new()
                } else {
                    outbox
                };
                self.carry_out(world, o, decision, outbox);
            }
            Action::LoseTake(o) => {
                world.faults_left -= 1;
                let (attempt, _) = world.owners[o].taking.take()?;
                let decision = world.owners[o].lane.take_failed(attempt);
                self.carry_out(world, o, decision, Vec::new());
            }
            _ => return None,
        }
        Some(())
    }

    /// A batch: begun, executed by the database when it likes, its reply lost.
    pub(super) fn commit(&self, world: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Begin(o, next) => {
                if self.without == Without::WaitForAcks
                    && let Some(publication) = world.owners[o].publishing.publication
                {
                    world.owners[o].lane.acked(publication);
                }
                let fence = world.owners[o].lane.begin_commit(next)?;
                // Loads what memory does not hold.
                let stored = world.row.count;
                let count = *world.owners[o].memory.get_or_insert(stored);
                world.commits.push(Commit {
                    owner: o,
                    awaited: true,
                    epoch: fence.epoch,
                    expected: fence.cursor,
                    next,
                    count: count + (next - fence.cursor),
                });
                world.commits.sort();
            }
            Action::Execute(i) => {
                let commit = world.commits.remove(i);
                let fits = world.row.epoch == commit.epoch && world.row.cursor == commit.expected;
                let done = fits || self.without == Without::Fence;
                let outbox = emitted(commit.expected, commit.next);
                if done {
                    world.row.cursor = commit.next;
                    world.row.outbox.clone_from(&outbox);
                    world.row.count = commit.count;
                }
                if commit.awaited {
                    let owner = &mut world.owners[commit.owner];
                    let decision = if done {
                        let decision = owner.lane.committed();
                        if decision != Decision::Nothing {
                            owner.memory = Some(commit.count);
                        }
                        decision
                    } else if self.without == Without::TakingAgain {
                        owner.lane.commit_undone();
                        return Some(());
                    } else {
                        owner.lane.refused()
                    };
                    self.carry_out(world, commit.owner, decision, outbox);
                }
            }
            Action::LoseReply(i) => {
                world.faults_left -= 1;
                world.commits[i].awaited = false;
                let o = world.commits[i].owner;
                world.commits.sort();
                let decision = world.owners[o].lane.reply_lost();
                self.carry_out(world, o, decision, Vec::new());
            }
            _ => return None,
        }
        Some(())
    }

    /// Messages on their way to the log.
    pub(super) fn produce(&self, world: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Send(o, partition) => {
                let owner = &mut world.owners[o];
                let at = owner
                    .publishing
                    .queue
                    .iter()
                    .position(|place| destination(*place) == partition)?;
                let place = owner.publishing.queue.remove(at);
                let generation = owner.generation;
                world.requests.push(Request {
                    owner: o,
                    generation,
                    place,
                    appended: false,
                });
                world.requests.sort();
            }
            Action::Append(i) => {
                world.requests[i].appended = true;
                let place = world.requests[i].place;
                world.log[destination(place)].push(place);
                world.requests.sort();
            }
            Action::Ack(i) => {
                let request = world.requests.remove(i);
                let owner = &mut world.owners[request.owner];
                let publishing = &mut owner.publishing;
                publishing.unacked.retain(|place| *place != request.place);
                if publishing.unacked.is_empty()
                    && let Some(publication) = publishing.publication
                {
                    *publishing = Publishing::default();
                    owner.lane.acked(publication);
                }
            }
            Action::FailProducer(o) => {
                world.faults_left -= 1;
                let World {
                    owners, requests, ..
                } = world;
                let owner = &mut owners[o];
                let failed = owner.generation;
                owner.generation += 1;
                owner.publishing.queue = if self.without == Without::WholeOutboxResent {
                    let unacked = &owner.publishing.unacked;
                    owner
                        .publishing
                        .outbox
                        .iter()
                        .filter(|place| unacked.contains(place))
                        .copied()
                        .collect()
                } else {
                    owner
                        .publishing
                        .unacked
                        .clone_from(&owner.publishing.outbox);
                    owner.publishing.outbox.clone()
                };
                if self.without == Without::WholeOutboxResent {
                    // The old producer goes on with the rest; only what was on its way is sent anew, behind it.
                    let flying: Vec<Place> = requests
                        .iter()
                        .filter(|r| r.owner == o && r.generation == failed)
                        .map(|r| r.place)
                        .collect();
                    owner
                        .publishing
                        .queue
                        .sort_by_key(|place| flying.contains(place));
                }
            }
            Action::Lose(i) => {
                world.requests.remove(i);
            }
            _ => return None,
        }
        Some(())
    }
}
