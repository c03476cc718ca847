//! Two lanes in a row under random batch splits, lost commits, rewinds and repeated publication,
//! against what a naive reading of the same records gives.

use std::collections::BTreeMap;

use bm_contracts::messages::DeadLetter;
use bm_contracts::{Timestamp, Topic};
use bm_engine::domain::Emit;
use bm_engine::fold::{Prepared, prepare};
use bm_engine::lane::Fence;
use bm_engine::{
    BatchLimits, ConfigDemand, Domain, FoldContext, LaneBuffer, LaneInput, Outbox, Poison, Record,
    Scope, Watermarks, batch,
};
use bytes::Bytes;
use proptest::prelude::*;

/// Adds up amounts per player; passes each on, and shows the newest sum.
#[derive(Debug)]
struct Sums;

#[derive(Debug)]
struct Amount {
    player: String,
    amount: i64,
}

impl Domain for Sums {
    const PROCESSOR: &'static str = "sums";
    const INPUT: Topic = Topic::QuestEvents;
    const CACHE_BYTES_PER_LANE: usize = 0;
    type Input = Amount;
    type Key = String;
    type State = i64;
    type Rules = ();
    type Row = (i64, i64);

    fn decode(&self, record: &Record) -> Result<Amount, Poison> {
        let text = std::str::from_utf8(&record.value)
            .map_err(|e| Poison::new("undecodable", e.to_string()))?;
        let (player, amount) = text
            .split_once('=')
            .ok_or_else(|| Poison::new("undecodable", "no ="))?;
        let amount = amount
            .parse()
            .map_err(|_| Poison::new("undecodable", "no number"))?;
        Ok(Amount {
            player: player.to_owned(),
            amount,
        })
    }

    fn demand(&self, _: &Amount) -> ConfigDemand {
        ConfigDemand::Any
    }

    fn keys(&self, (): &(), input: &Amount, keys: &mut Vec<String>) {
        keys.push(input.player.clone());
    }

    fn apply(
        &self,
        (): &(),
        record: &Record,
        input: &Amount,
        scope: &mut Scope<'_, Self>,
    ) -> Result<(), Poison> {
        let sum = scope.state(&input.player).copied().unwrap_or(0) + input.amount;
        scope.put(input.player.clone(), sum);
        scope.row((i64::from(record.partition), record.offset));
        let emit = |topic, value: String| Emit {
            topic,
            key: input.player.clone(),
            headers: Vec::new(),
            value: value.into_bytes(),
        };
        scope.emit(emit(
            Topic::RewardEvents,
            format!("{}={}", input.player, input.amount),
        ));
        scope.emit_latest(
            input.player.clone(),
            emit(Topic::UiUpdates, format!("{}={sum}", input.player)),
        );
        if input.amount == 13 {
            // All that was done above must not count.
            return Err(Poison::new("unlucky", "13"));
        }
        if input.amount == 7 {
            scope.dead_letter(Poison::new("partly", "7"), "quest_seven");
        }
        Ok(())
    }
}

/// A lane's row and its processor's tables.
#[derive(Debug, Clone, Default)]
struct Stored {
    cursor: i64,
    watermarks: Watermarks,
    outbox: Outbox,
    sums: BTreeMap<String, i64>,
    rows: Vec<(i64, i64)>,
}

/// A topic of one partition, as its reader finds it.
type Log = Vec<Record>;

/// What the world does next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A batch of so many records, committed.
    Batch(usize),
    /// A batch that is folded and whose commit never happens.
    LostCommit(usize),
    /// The outbox of the row is appended again, up to so many of its messages, as by a producer
    /// that fails; then all of it.
    Republish(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..6usize).prop_map(Step::Batch),
        1 => (1..6usize).prop_map(Step::LostCommit),
        1 => (0..6usize).prop_map(Step::Republish),
    ]
}

fn counts() -> BTreeMap<Topic, i32> {
    Topic::ALL.into_iter().map(|topic| (topic, 1)).collect()
}

fn fold(
    stored: &Stored,
    log: &Log,
    records: usize,
) -> Option<(Prepared<Sums>, bm_engine::Folded<Sums>)> {
    let mut buffer = LaneBuffer::default();
    for record in &log[usize::try_from(stored.cursor).unwrap()..] {
        buffer.push(record.clone());
    }
    let limits = BatchLimits {
        records,
        ..BatchLimits::default()
    };
    let records = batch::take_batch(&mut [&mut buffer], limits).remove(0);
    let input = LaneInput {
        partition: 0,
        generation: 0,
        watermarks: stored.watermarks.clone(),
        records,
    };
    let prepared = prepare(&Sums, vec![input], 1);
    if prepared.is_empty() {
        return None;
    }
    let counts = counts();
    let context = FoldContext {
        partition_counts: &counts,
        now: Timestamp::clamped(0),
        bytes_out: 2_000,
    };
    let folded = prepared.fold(&Sums, &(), &stored.sums, &context);
    Some((prepared, folded))
}

fn append(outbox: &Outbox, logs: &mut BTreeMap<Topic, Log>, most: usize) {
    for message in outbox.messages.iter().take(most) {
        let log = logs.entry(message.topic).or_default();
        log.push(Record {
            partition: message.partition,
            offset: log.len() as i64,
            timestamp: Timestamp::clamped(0),
            key: Bytes::from(message.key.clone()),
            value: Bytes::from(message.value.clone()),
            headers: message
                .headers
                .iter()
                .map(|(n, v)| (n.clone(), Bytes::from(v.clone())))
                .collect(),
        });
    }
}

/// Runs a lane over `log` to its end, doing `steps` on the way.
fn live(log: &Log, steps: &[Step]) -> (Stored, BTreeMap<Topic, Log>) {
    let mut stored = Stored::default();
    let mut logs = BTreeMap::new();
    let rest = std::iter::repeat(Step::Batch(3));
    for step in steps.iter().copied().chain(rest) {
        match step {
            Step::Batch(records) => {
                let Some((_, folded)) = fold(&stored, log, records) else {
                    return (stored, logs);
                };
                let output = &folded.lanes[0];
                let fence = Fence {
                    epoch: 1,
                    cursor: stored.cursor,
                };
                let moved = output.to_move(fence).unwrap();
                assert_eq!(moved.expected_offset, stored.cursor);
                stored.cursor = moved.next_offset;
                stored.watermarks = Watermarks::decode(&moved.watermarks).unwrap();
                stored.outbox = Outbox::decode(&moved.outbox).unwrap();
                stored.sums.extend(folded.states);
                stored.rows.extend(folded.rows);
                append(&stored.outbox, &mut logs, usize::MAX);
            }
            Step::LostCommit(records) => {
                fold(&stored, log, records);
            }
            Step::Republish(most) => {
                append(&stored.outbox, &mut logs, most);
                append(&stored.outbox, &mut logs, usize::MAX);
            }
        }
    }
    unreachable!("the steps never end")
}

fn records(values: &[(u8, i64)]) -> Log {
    values
        .iter()
        .enumerate()
        .map(|(offset, (player, amount))| Record {
            partition: 0,
            offset: offset as i64,
            timestamp: Timestamp::clamped(offset as i64),
            key: Bytes::from(format!("p{player}")),
            value: if *amount == 0 {
                Bytes::from("not an amount")
            } else {
                Bytes::from(format!("p{player}={amount}"))
            },
            headers: Vec::new(),
        })
        .collect()
}

fn distinct(log: Option<&Log>) -> Vec<Record> {
    let mut marks = Watermarks::default();
    let new = |record: &&Record| {
        record
            .origin()
            .unwrap()
            .is_none_or(|(source, seq)| marks.admit(&source, seq))
    };
    log.into_iter().flatten().filter(new).cloned().collect()
}

proptest! {
    #[test]
    fn a_lane_counts_each_record_once_whatever_happens(
        values in prop::collection::vec((0..3u8, 0..15i64), 0..40),
        steps in prop::collection::vec(step(), 0..30),
        downstream_steps in prop::collection::vec(step(), 0..30),
    ) {
        let good: Vec<_> = values.iter().filter(|(_, amount)| *amount != 0 && *amount != 13).collect();
        let mut sums = BTreeMap::new();
        for (player, amount) in &good {
            *sums.entry(format!("p{player}")).or_insert(0) += amount;
        }
        let (stored, logs) = live(&records(&values), &steps);
        prop_assert_eq!(&stored.sums, &sums);
        prop_assert_eq!(stored.rows.len(), good.len());

        // What it passed on, read by a second lane under its own misfortunes, comes to the same sums.
        let passed = logs.get(&Topic::RewardEvents).cloned().unwrap_or_default();
        let (second, _) = live(&passed, &downstream_steps);
        prop_assert_eq!(&second.sums.values().sum::<i64>(), &passed_on(&good));

        let shown: BTreeMap<_, _> = distinct(logs.get(&Topic::UiUpdates))
            .iter()
            .map(|record| {
                let text = String::from_utf8(record.value.to_vec()).unwrap();
                let (player, sum) = text.split_once('=').unwrap();
                (player.to_owned(), sum.parse::<i64>().unwrap())
            })
            .collect();
        prop_assert_eq!(shown, sums);

        let dead: Vec<i64> = distinct(logs.get(&Topic::DeadLetter))
            .iter()
            .map(|record| serde_json::from_slice::<DeadLetter>(&record.value).unwrap().offset)
            .collect();
        let expected: Vec<i64> = (0..).zip(&values).filter(|(_, v)| [0, 7, 13].contains(&v.1)).map(|(o, _)| o).collect();
        prop_assert_eq!(dead, expected);
    }
}

/// Every good amount is passed on; 13 would be poison downstream too, but never gets there.
fn passed_on(good: &[&(u8, i64)]) -> i64 {
    good.iter().map(|(_, amount)| amount).sum()
}

#[test]
fn a_record_whose_message_is_too_large_becomes_a_dead_letter_that_fits() {
    let mut log = records(&[(0, 1)]);
    log[0].value = Bytes::from(format!("{}=1", "x".repeat(1_100_000)));
    let (_, folded) = fold(&Stored::default(), &log, 10).unwrap();
    let [message] = &folded.lanes[0].outbox.messages[..] else {
        panic!("one message expected")
    };
    let letter: DeadLetter = serde_json::from_slice(&message.value).unwrap();
    assert_eq!(letter.code, "message_too_large");
    assert_eq!(letter.value_base64, "");
    assert!(folded.states.is_empty() && folded.rows.is_empty());
}

#[test]
fn a_record_whose_headers_do_not_fit_a_dead_letter_is_not_lost() {
    let mut log = records(&[(0, 0)]);
    // Not UTF-8: as text it takes three times the room.
    let header = Bytes::from(vec![0xff; 400_000]);
    log[0].headers.push(("noise".to_owned(), header));
    let (_, folded) = fold(&Stored::default(), &log, 10).unwrap();
    let [message] = &folded.lanes[0].outbox.messages[..] else {
        panic!("one message expected")
    };
    let letter: DeadLetter = serde_json::from_slice(&message.value).unwrap();
    assert!(letter.headers.is_empty() && letter.error.contains("left out"));
}

#[test]
fn a_batch_folds_again_without_a_lane_as_if_it_had_never_been_in_it() {
    let lane = |partition, value: &str| LaneInput {
        partition,
        generation: 0,
        watermarks: Watermarks::default(),
        records: vec![Record {
            partition,
            value: Bytes::from(value.to_owned()),
            ..records(&[(0, 1)]).remove(0)
        }],
    };
    let mut prepared = prepare(&Sums, vec![lane(0, "a=1"), lane(1, "b=2")], 2);
    let counts = counts();
    let context = FoldContext {
        partition_counts: &counts,
        now: Timestamp::clamped(0),
        bytes_out: 1 << 20,
    };
    let loaded = BTreeMap::new();
    assert_eq!(prepared.fold(&Sums, &(), &loaded, &context).states.len(), 2);
    prepared.remove(&[0].into());
    let folded = prepared.fold(&Sums, &(), &loaded, &context);
    assert_eq!(folded.states, BTreeMap::from([("b".to_owned(), 2)]));
    assert_eq!(folded.lanes.len(), 1);
}
