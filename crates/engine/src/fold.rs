//! Folding a batch: which records count, what they do to state, what they emit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bm_contracts::headers::{HeaderError, Kind, Seq, Source};
use bm_contracts::partition::partition_for;
use bm_contracts::{Timestamp, Topic};

use crate::domain::{ConfigDemand, Domain, LoadedStates, Poison, RecordEffects, Scope, States};
use crate::lane::{Fence, LaneMove, LastRecord};
use crate::outbox::{Outbox, OutboxError};
use crate::outbox_writer::OutboxWriter;
use crate::record::Record;
use crate::watermark::Watermarks;

/// One lane's part of a batch.
#[derive(Debug, Clone)]
pub struct LaneInput {
    /// The lane's partition.
    pub partition: i32,
    /// See [`Seq::generation`].
    pub generation: i64,
    /// As of the lane's cursor.
    pub watermarks: Watermarks,
    /// From the cursor on, in offset order.
    pub records: Vec<Record>,
}

/// Code of the dead letter that a record in the wrong partition becomes.
pub const WRONG_PARTITION: &str = "wrong_partition";

/// What a fold needs besides records, rules and state.
#[derive(Debug, Clone)]
pub struct FoldContext<'a> {
    /// Partitions each topic has now; a message's partition follows from it.
    pub partition_counts: &'a BTreeMap<Topic, i32>,
    /// Wall time of the batch; only `failedAt` of dead letters shows it.
    pub now: Timestamp,
    /// See [`crate::batch::BatchLimits::bytes_out`].
    pub bytes_out: usize,
}

/// A record of the batch, looked at once.
enum Step<I> {
    /// Already applied: its source's watermark is at or above it.
    Skip,
    /// To be applied.
    Apply(I),
    /// Nobody can use it.
    Dead(Poison),
}

/// Whether a record lies in the partition of its key. If it does not, another lane owns what it is
/// about: applied here, it would meet states that are not this lane's to change.
///
/// Barriers and decisions go to every partition, whatever their key.
fn is_in_its_place(record: &Record, partitions: i32) -> bool {
    let keyed = matches!(record.kind(), Ok(Kind::Event | Kind::Command));
    !keyed || partition_for(&record.key, partitions) == record.partition
}

/// Where the records of a batch come from: few lanes send many records each.
#[derive(Default)]
struct Sources(Vec<Arc<Source>>);

impl Sources {
    /// As [`Record::origin`] says; each source is kept once.
    fn origin(&mut self, record: &Record) -> Result<Option<(Arc<Source>, Seq)>, HeaderError> {
        let Some((source, seq)) = record.origin()? else {
            return Ok(None);
        };
        let known = self.0.iter().find(|known| source.names(known));
        let source = if let Some(known) = known {
            Arc::clone(known)
        } else {
            let new = Arc::new(source.to_owned());
            self.0.push(Arc::clone(&new));
            new
        };
        Ok(Some((source, seq)))
    }
}

struct PreparedLane<I> {
    input: LaneInput,
    steps: Vec<Step<I>>,
    /// The watermarks after each record.
    marks: Vec<Option<(Arc<Source>, Seq)>>,
}

/// A batch whose records are decoded and whose repeats are known; folding it changes nothing, so it
/// can be folded again without one of its lanes.
pub struct Prepared<D: Domain> {
    lanes: Vec<PreparedLane<D::Input>>,
}

/// What a batch gives.
pub struct Folded<D: Domain> {
    /// Changed states, sorted by key.
    pub states: BTreeMap<D::Key, D::State>,
    /// Rows to add, in order.
    pub rows: Vec<D::Row>,
    /// Per lane.
    pub lanes: Vec<LaneOutput>,
}

/// What a batch gives for one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneOutput {
    /// The lane's partition.
    pub partition: i32,
    /// How many of its records were consumed, skipped ones included.
    pub consumed: usize,
    /// The cursor after the batch.
    pub next_offset: i64,
    /// After the batch.
    pub watermarks: Watermarks,
    /// In sequence order.
    pub outbox: Outbox,
    /// The last record consumed.
    pub last_record: LastRecord,
    /// Records skipped as already applied.
    pub skipped: usize,
    /// Dead letters written.
    pub dead: usize,
}

impl LaneOutput {
    /// What the commit statement asks of this lane's row.
    pub fn to_move(&self, fence: Fence) -> Result<LaneMove, OutboxError> {
        Ok(LaneMove {
            partition: self.partition,
            epoch: fence.epoch,
            expected_offset: fence.cursor,
            next_offset: self.next_offset,
            watermarks: self.watermarks.encode(),
            outbox: self.outbox.encode()?,
            last_record: self.last_record,
        })
    }
}

/// Decodes the records of a batch and finds out which of them were applied before. `partitions` is
/// how many the topic they were read from has.
pub fn prepare<D: Domain>(domain: &D, lanes: Vec<LaneInput>, partitions: i32) -> Prepared<D> {
    let lanes = lanes
        .into_iter()
        .filter(|lane| !lane.records.is_empty())
        .map(|input| {
            let mut marks = input.watermarks.clone();
            let mut sources = Sources::default();
            let (steps, marks) = input
                .records
                .iter()
                .map(|record| match sources.origin(record) {
                    Err(e) => (Step::Dead(Poison::new("bad_header", e.to_string())), None),
                    Ok(Some((source, seq))) if !marks.admit(&source, seq) => (Step::Skip, None),
                    Ok(origin) if !is_in_its_place(record, partitions) => {
                        let why = format!(
                            "of {partitions} partitions its key goes to {}, not to this one",
                            partition_for(&record.key, partitions)
                        );
                        (Step::Dead(Poison::new(WRONG_PARTITION, why)), origin)
                    }
                    Ok(origin) => {
                        let step = match domain.decode(record) {
                            Ok(decoded) => Step::Apply(decoded),
                            Err(poison) => Step::Dead(poison),
                        };
                        (step, origin)
                    }
                })
                .unzip();
            PreparedLane {
                input,
                steps,
                marks,
            }
        })
        .collect();
    Prepared { lanes }
}

impl<D: Domain> Prepared<D> {
    /// How new the rules must be.
    pub fn demand(&self, domain: &D) -> ConfigDemand {
        self.inputs()
            .map(|input| domain.demand(input))
            .max()
            .unwrap_or(ConfigDemand::Any)
    }

    /// Every state the batch looks at, each once, with the lane that owns it.
    pub fn keys(&self, domain: &D, rules: &D::Rules) -> BTreeMap<D::Key, i32> {
        let mut keys = BTreeMap::new();
        let mut found = Vec::new();
        for lane in &self.lanes {
            for step in &lane.steps {
                if let Step::Apply(input) = step {
                    domain.keys(rules, input, &mut found);
                    keys.extend(found.drain(..).map(|key| (key, lane.input.partition)));
                }
            }
        }
        keys
    }

    /// Whether a record lies in another partition than its key says: it is foreign, or the topic has
    /// another number of partitions than it was given.
    pub fn has_misplaced(&self) -> bool {
        let is_misplaced =
            |step: &Step<_>| matches!(step, Step::Dead(poison) if poison.code == WRONG_PARTITION);
        self.lanes
            .iter()
            .any(|lane| lane.steps.iter().any(is_misplaced))
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.input.records.len()).sum()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The partitions of its lanes.
    pub fn partitions(&self) -> Vec<i32> {
        self.lanes.iter().map(|lane| lane.input.partition).collect()
    }

    /// Takes lanes out, and gives back nothing: their memory is to be thrown away.
    pub fn remove(&mut self, partitions: &BTreeSet<i32>) {
        self.lanes
            .retain(|lane| !partitions.contains(&lane.input.partition));
    }

    /// Declares the first record of the batch unusable: storing its effects was refused as bad data.
    pub fn condemn_first(&mut self, poison: Poison) {
        if let Some(step) = self
            .lanes
            .first_mut()
            .and_then(|lane| lane.steps.first_mut())
        {
            *step = Step::Dead(poison);
        }
    }

    /// Whether the first record is unusable already.
    pub fn first_is_dead(&self) -> bool {
        matches!(
            self.lanes.first().and_then(|lane| lane.steps.first()),
            Some(Step::Dead(_))
        )
    }

    /// The records of each lane, to be put back into its buffer.
    pub fn into_records(self) -> Vec<(i32, Vec<Record>)> {
        self.lanes
            .into_iter()
            .map(|lane| (lane.input.partition, lane.input.records))
            .collect()
    }

    fn inputs(&self) -> impl Iterator<Item = &D::Input> {
        self.lanes
            .iter()
            .flat_map(|lane| &lane.steps)
            .filter_map(|step| match step {
                Step::Apply(input) => Some(input),
                Step::Skip | Step::Dead(_) => None,
            })
    }

    /// Applies the records, in offset order per lane, until the bounds of a batch's output are reached.
    pub fn fold(
        &self,
        domain: &D,
        rules: &D::Rules,
        loaded: &(dyn LoadedStates<D> + Sync),
        context: &FoldContext<'_>,
    ) -> Folded<D> {
        let mut folded = Folded {
            states: BTreeMap::new(),
            rows: Vec::new(),
            lanes: Vec::new(),
        };
        let mut states = States::new(loaded);
        let mut bytes_out = 0;
        for lane in &self.lanes {
            if bytes_out >= context.bytes_out {
                break;
            }
            let output = fold_lane(
                domain,
                rules,
                lane,
                &mut states,
                &mut folded.rows,
                context,
                &mut bytes_out,
            );
            folded.lanes.push(output);
        }
        folded.states = states.changed;
        folded
    }
}

fn fold_lane<D: Domain>(
    domain: &D,
    rules: &D::Rules,
    lane: &PreparedLane<D::Input>,
    states: &mut States<'_, D>,
    rows: &mut Vec<D::Row>,
    context: &FoldContext<'_>,
    bytes_out: &mut usize,
) -> LaneOutput {
    let mut writer = OutboxWriter::<D>::new(&lane.input, context);
    let mut output = LaneOutput {
        partition: lane.input.partition,
        consumed: 0,
        next_offset: 0,
        watermarks: lane.input.watermarks.clone(),
        outbox: Outbox::default(),
        last_record: LastRecord {
            timestamp: Timestamp::clamped(0),
            hash: 0,
        },
        skipped: 0,
        dead: 0,
    };
    let mut effects = RecordEffects::default();
    let mut last = None;
    for ((record, step), mark) in lane.input.records.iter().zip(&lane.steps).zip(&lane.marks) {
        let before = writer.bytes;
        match step {
            Step::Skip => output.skipped += 1,
            Step::Dead(poison) => {
                writer.dead_letter(record, poison, None);
            }
            Step::Apply(input) => {
                effects.clear();
                let mut scope = Scope {
                    states,
                    effects: &mut effects,
                };
                let written = domain
                    .apply(rules, record, input, &mut scope)
                    .and_then(|()| writer.write(record, &mut effects));
                match written {
                    Ok(()) => {
                        states.changed.extend(effects.states.drain(..));
                        rows.append(&mut effects.rows);
                    }
                    Err(poison) => writer.dead_letter(record, &poison, None),
                }
            }
        }
        if let Some((source, seq)) = mark {
            output.watermarks.admit(source, *seq);
        }
        output.consumed += 1;
        last = Some(record);
        *bytes_out += writer.bytes - before;
        if *bytes_out >= context.bytes_out {
            break;
        }
    }
    if let Some(record) = last {
        output.next_offset = record.offset + 1;
        output.last_record = LastRecord::of(record);
    }
    output.dead = writer.dead;
    output.outbox = writer.finish();
    output
}
