//! Two processes that may both believe they own the lanes of one processor, their memory, and the
//! database and log between them: over the engine's own decisions.

use std::collections::{BTreeMap, BTreeSet};

use bm_contracts::{Timestamp, Topic};
use bm_engine::domain::LoadedStates;
use bm_engine::fold::{Prepared, prepare};
use bm_engine::lane::{Decision, Lane, LaneMove};
use bm_engine::{
    BatchLimits, FoldContext, Folded, LaneBuffer, LaneInput, Outbox, Record, Watermarks, batch,
};
use proptest::prelude::*;

use crate::exactness::Sums;

pub(super) const LANES: i32 = 3;

/// A partition.
pub(super) type Log = Vec<Record>;

/// The partitions of each topic.
pub(super) type Logs = BTreeMap<Topic, Vec<Log>>;

/// What the engine is robbed of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Without {
    Nothing,
    /// Any commit is taken.
    Fence,
    /// Nobody remembers what was applied of whom.
    Watermarks,
    /// What the row's last owner owed is not published.
    OutboxAtTake,
    /// Memory outlives the epoch it was right in.
    Forgetting,
    /// A commit's cursor does not move with it.
    Cursor,
}

/// What happens next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// An owner folds so many records of its lanes, with this end; so many of each lane's messages
    /// get out before it is killed, or all of them and it lives.
    Batch {
        owner: usize,
        records: usize,
        end: End,
        published: Option<usize>,
    },
    /// The group gives a lane to an owner; its last one may not know.
    Assign { owner: usize, lane: usize },
    /// The group tells an owner that a lane is gone.
    Revoke { owner: usize, lane: usize },
    /// An owner dies, and another process stands in its place.
    Kill { owner: usize },
}

/// How a commit ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Answered,
    /// It happened, and the answer was lost.
    AnswerLost,
    /// It never arrived.
    RequestLost,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        6 => Just(End::Answered),
        1 => Just(End::AnswerLost),
        1 => Just(End::RequestLost),
    ];
    let published = prop_oneof![
        5 => Just(None),
        1 => (0..5usize).prop_map(Some),
    ];
    prop_oneof![
        8 => (0..2usize, 1..9usize, end, published).prop_map(|(owner, records, end, published)| {
            Step::Batch { owner, records, end, published }
        }),
        3 => (0..2usize, 0..LANES as usize).prop_map(|(owner, lane)| Step::Assign { owner, lane }),
        1 => (0..2usize, 0..LANES as usize).prop_map(|(owner, lane)| Step::Revoke { owner, lane }),
        1 => (0..2usize).prop_map(|owner| Step::Kill { owner }),
    ]
}

/// A lane's row.
#[derive(Debug, Clone, Default)]
struct Row {
    epoch: i64,
    cursor: i64,
    watermarks: Watermarks,
    outbox: Outbox,
}

/// The lanes' rows and their processor's tables.
#[derive(Debug, Default)]
pub(super) struct Stored {
    lanes: Vec<Row>,
    pub(super) sums: BTreeMap<String, i64>,
    pub(super) rows: Vec<(i64, i64)>,
}

/// One process: what it believes, and what it remembers of the states of its lanes.
#[derive(Debug, Default)]
struct Owner {
    lanes: Vec<Lane>,
    watermarks: Vec<Watermarks>,
    memory: Vec<BTreeMap<String, Option<i64>>>,
}

impl Owner {
    fn new() -> Self {
        let lanes = LANES as usize;
        Self {
            lanes: vec![Lane::default(); lanes],
            watermarks: vec![Watermarks::default(); lanes],
            memory: vec![BTreeMap::new(); lanes],
        }
    }
}

/// What a batch sees: memory, and what memory lacked.
struct View(BTreeMap<String, Option<i64>>);

impl LoadedStates<Sums> for View {
    fn get(&self, key: &String) -> Option<&i64> {
        self.0.get(key)?.as_ref()
    }
}

struct World<'a> {
    without: Without,
    input: &'a [Log],
    stored: Stored,
    owners: Vec<Owner>,
    logs: Logs,
}

/// Runs a processor over `input` to its end, doing `steps` on the way.
pub(super) fn live(without: Without, input: &[Log], steps: &[Step]) -> (Stored, Logs) {
    let mut world = World {
        without,
        input,
        stored: Stored {
            lanes: vec![Row::default(); LANES as usize],
            ..Stored::default()
        },
        owners: vec![Owner::new(), Owner::new()],
        logs: Logs::new(),
    };
    for &step in steps {
        world.step(step);
    }
    // In the end one of them has all lanes, and knows.
    for lane in 0..LANES as usize {
        world.step(Step::Revoke { owner: 1, lane });
        world.step(Step::Revoke { owner: 0, lane });
        world.step(Step::Assign { owner: 0, lane });
    }
    // More batches than an engine needs that loses nothing.
    for _ in 0..=input.iter().map(Vec::len).sum::<usize>() {
        world.step(Step::Batch {
            owner: 0,
            records: 7,
            end: End::Answered,
            published: None,
        });
    }
    (world.stored, world.logs)
}

impl World<'_> {
    fn step(&mut self, step: Step) {
        match step {
            Step::Assign { owner, lane } => {
                let decision = self.owners[owner].lanes[lane].assigned();
                self.carry_out(owner, lane, decision);
            }
            Step::Revoke { owner, lane } => {
                let decision = self.owners[owner].lanes[lane].revoked();
                self.carry_out(owner, lane, decision);
            }
            Step::Kill { owner } => self.owners[owner] = Owner::new(),
            Step::Batch {
                owner,
                records,
                end,
                published,
            } => self.batch(owner, records, end, published),
        }
    }

    fn carry_out(&mut self, owner: usize, lane: usize, decision: Decision) {
        match decision {
            Decision::Nothing => {}
            Decision::Forget => self.forget(owner, lane),
            Decision::ForgetAndTake { attempt, .. } => {
                self.forget(owner, lane);
                let row = &mut self.stored.lanes[lane];
                row.epoch += 1;
                let row = row.clone();
                let holder = &mut self.owners[owner];
                holder.watermarks[lane] = row.watermarks;
                let decision = holder.lanes[lane].taken(attempt, row.epoch, row.cursor);
                if self.without != Without::OutboxAtTake {
                    self.append(&row.outbox, usize::MAX);
                }
                self.acked(owner, lane, decision);
            }
            Decision::Publish { .. } => unreachable!("publications are made by who commits"),
        }
    }

    fn forget(&mut self, owner: usize, lane: usize) {
        if self.without != Without::Forgetting {
            self.owners[owner].memory[lane].clear();
        }
    }

    fn acked(&mut self, owner: usize, lane: usize, decision: Decision) {
        if let Decision::Publish { publication } = decision {
            self.owners[owner].lanes[lane].acked(publication);
        }
    }

    fn append(&mut self, outbox: &Outbox, most: usize) {
        for message in outbox.messages.iter().take(most) {
            let logs = self
                .logs
                .entry(message.topic)
                .or_insert_with(|| vec![Log::new(); LANES as usize]);
            let log = &mut logs[message.partition as usize];
            let offset = log.len() as i64;
            log.push(message.to_record(offset, Timestamp::clamped(0)));
        }
    }

    /// The records of the next batch, in fair shares of the lanes that may commit.
    fn records(&self, owner: usize, records: usize) -> Vec<LaneInput> {
        let holder = &self.owners[owner];
        let ready = holder.lanes.iter().enumerate();
        let mut buffers: Vec<(usize, LaneBuffer)> = ready
            .filter_map(|(lane, state)| {
                let mut buffer = LaneBuffer::default();
                for record in &self.input[lane][state.may_commit()?.cursor as usize..] {
                    buffer.push(record.clone());
                }
                Some((lane, buffer))
            })
            .collect();
        let limits = BatchLimits {
            records,
            ..BatchLimits::default()
        };
        let mut waiting: Vec<_> = buffers.iter_mut().map(|(_, buffer)| buffer).collect();
        let taken = batch::take_batch(&mut waiting, limits);
        let watermarks = |lane: usize| match self.without {
            Without::Watermarks => Watermarks::default(),
            _ => holder.watermarks[lane].clone(),
        };
        buffers
            .iter()
            .zip(taken)
            .map(|((lane, _), records)| LaneInput {
                partition: *lane as i32,
                generation: 0,
                watermarks: watermarks(*lane),
                records,
            })
            .collect()
    }

    fn batch(&mut self, owner: usize, records: usize, end: End, published: Option<usize>) {
        let mut prepared = prepare(&Sums, self.records(owner, records), LANES);
        let keys = prepared.keys(&Sums, &());
        let view = View(
            keys.iter()
                .map(|(key, lane)| {
                    let known = self.owners[owner].memory[*lane as usize].get(key).copied();
                    let state = known.unwrap_or_else(|| self.stored.sums.get(key).copied());
                    (key.clone(), state)
                })
                .collect(),
        );
        while !prepared.is_empty() {
            let folded = fold(&prepared, &view);
            let moves: Vec<LaneMove> = folded
                .lanes
                .iter()
                .map(|output| {
                    let lane = &mut self.owners[owner].lanes[output.partition as usize];
                    let fence = lane.begin_commit(output.next_offset).unwrap();
                    output.to_move(fence).unwrap()
                })
                .collect();
            let refused = match end {
                End::RequestLost => BTreeSet::new(),
                End::Answered | End::AnswerLost => self.commit(&moves, &folded),
            };
            if end != End::Answered {
                for output in &folded.lanes {
                    let lane = output.partition as usize;
                    let decision = self.owners[owner].lanes[lane].reply_lost();
                    self.carry_out(owner, lane, decision);
                }
                return;
            }
            if refused.is_empty() {
                return self.committed(owner, &keys, &view, folded, published);
            }
            for output in &folded.lanes {
                let lane = output.partition as usize;
                if refused.contains(&output.partition) {
                    let decision = self.owners[owner].lanes[lane].refused();
                    self.carry_out(owner, lane, decision);
                } else {
                    self.owners[owner].lanes[lane].commit_undone();
                }
            }
            prepared.remove(&refused);
        }
    }

    /// What the database does: all or nothing. Gives the lanes it refuses.
    fn commit(&mut self, moves: &[LaneMove], folded: &Folded<Sums>) -> BTreeSet<i32> {
        let fits = |moved: &&LaneMove| {
            let row = &self.stored.lanes[moved.partition as usize];
            row.epoch == moved.epoch && row.cursor == moved.expected_offset
        };
        let refused: BTreeSet<i32> = moves
            .iter()
            .filter(|moved| self.without != Without::Fence && !fits(moved))
            .map(|moved| moved.partition)
            .collect();
        if !refused.is_empty() {
            return refused;
        }
        for moved in moves {
            let row = &mut self.stored.lanes[moved.partition as usize];
            if self.without != Without::Cursor {
                row.cursor = moved.next_offset;
            }
            row.watermarks = Watermarks::decode(&moved.watermarks).unwrap();
            row.outbox = Outbox::decode(&moved.outbox).unwrap();
        }
        self.stored.sums.extend(folded.states.clone());
        self.stored.rows.extend(&folded.rows);
        refused
    }

    /// Remembers what was committed and publishes it; killed on the way where `published` says when.
    fn committed(
        &mut self,
        owner: usize,
        keys: &BTreeMap<String, i32>,
        view: &View,
        folded: Folded<Sums>,
        published: Option<usize>,
    ) {
        let moved: BTreeSet<i32> = folded.lanes.iter().map(|output| output.partition).collect();
        for (key, lane) in keys.iter().filter(|(_, lane)| moved.contains(lane)) {
            let newest = folded.states.get(key).copied();
            let state = newest.or_else(|| view.0.get(key).copied().flatten());
            self.owners[owner].memory[*lane as usize].insert(key.clone(), state);
        }
        for output in folded.lanes {
            let lane = output.partition as usize;
            self.owners[owner].watermarks[lane] = output.watermarks;
            let decision = self.owners[owner].lanes[lane].committed();
            self.append(&output.outbox, published.unwrap_or(usize::MAX));
            if published.is_none() {
                self.acked(owner, lane, decision);
            }
        }
        if published.is_some() {
            self.owners[owner] = Owner::new();
        }
    }
}

fn fold(prepared: &Prepared<Sums>, view: &View) -> Folded<Sums> {
    let counts = Topic::ALL.into_iter().map(|topic| (topic, LANES)).collect();
    let context = FoldContext {
        partition_counts: &counts,
        now: Timestamp::clamped(0),
        bytes_out: 2_000,
    };
    prepared.fold(&Sums, &(), view, &context)
}
