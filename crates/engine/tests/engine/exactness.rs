//! Two processors in a row, of three lanes and two quarrelling owners each, under random batch
//! splits, lost commits and replies, kills in mid-publication and takes behind each other's back:
//! against what a naive reading of the same records gives.

use std::collections::{BTreeMap, BTreeSet};

use bm_contracts::messages::DeadLetter;
use bm_contracts::partition::partition_for;
use bm_contracts::{Timestamp, Topic};
use bm_engine::domain::Emit;
use bm_engine::fold::prepare;
use bm_engine::{
    ConfigDemand, Domain, FoldContext, Folded, LaneInput, Poison, Record, Scope, Watermarks,
};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::owners::{LANES, Log, Logs, Step, Without, live, step};

/// Passes on more than fits a message, after messages that fit.
const TOO_MUCH: i64 = -1;

/// Adds up amounts per player; passes each on, and shows the newest sum.
#[derive(Debug)]
pub(super) struct Sums;

#[derive(Debug)]
pub(super) struct Amount {
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
        if input.amount == TOO_MUCH {
            scope.dead_letter(Poison::new("partly", "too much"), "quest_much");
            scope.emit(emit(Topic::RewardEvents, "x".repeat(1_100_000)));
        }
        Ok(())
    }
}

fn records(values: &[(u8, i64)]) -> Vec<Log> {
    let mut logs = vec![Log::new(); LANES as usize];
    for (player, amount) in values {
        let key = format!("p{player}");
        let partition = partition_for(key.as_bytes(), LANES);
        let log = &mut logs[partition as usize];
        log.push(Record {
            partition,
            offset: log.len() as i64,
            timestamp: Timestamp::clamped(log.len() as i64),
            value: if *amount == 0 {
                Bytes::from("not an amount")
            } else {
                Bytes::from(format!("{key}={amount}"))
            },
            key: Bytes::from(key),
            headers: Vec::new(),
        });
    }
    logs
}

/// What a reader with watermarks takes of a topic.
fn distinct(logs: &Logs, topic: Topic) -> Vec<Record> {
    let mut taken = Vec::new();
    for log in logs.get(&topic).into_iter().flatten() {
        let mut marks = Watermarks::default();
        let new = |record: &&Record| {
            record
                .origin()
                .unwrap()
                .is_none_or(|(source, seq)| marks.admit(&source.to_owned(), seq))
        };
        taken.extend(log.iter().filter(new).cloned());
    }
    taken
}

fn amounts() -> impl Strategy<Value = Vec<(u8, i64)>> {
    prop::collection::vec((0..8u8, 0..15i64), 0..40)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..30)
}

/// Whether everything came out as a naive reading has it.
fn comes_out_right(
    without: Without,
    values: &[(u8, i64)],
    steps: &[Step],
    downstream_steps: &[Step],
) -> Result<(), TestCaseError> {
    let dead = |amount| [0, 7, 13].contains(&amount);
    let good = values
        .iter()
        .filter(|(_, amount)| *amount != 0 && *amount != 13);
    let mut sums = BTreeMap::new();
    for (player, amount) in good.clone() {
        *sums.entry(format!("p{player}")).or_insert(0) += amount;
    }
    let input = records(values);
    let (stored, logs) = live(without, &input, steps);
    prop_assert_eq!(&stored.sums, &sums);
    prop_assert_eq!(stored.rows.len(), good.count());

    // What it passed on, read by a second processor under its own misfortunes, comes to the same sums.
    let nothing = vec![Log::new(); LANES as usize];
    let passed = logs.get(&Topic::RewardEvents).unwrap_or(&nothing);
    let (second, _) = live(without, passed, downstream_steps);
    prop_assert_eq!(&second.sums, &sums);

    let shown: BTreeMap<_, _> = distinct(&logs, Topic::UiUpdates)
        .iter()
        .map(|record| {
            let text = String::from_utf8(record.value.to_vec()).unwrap();
            let (player, sum) = text.split_once('=').unwrap();
            (player.to_owned(), sum.parse::<i64>().unwrap())
        })
        .collect();
    prop_assert_eq!(shown, sums);

    let mut letters: Vec<(i32, i64)> = distinct(&logs, Topic::DeadLetter)
        .iter()
        .map(|record| serde_json::from_slice::<DeadLetter>(&record.value).unwrap())
        .map(|letter| (letter.partition, letter.offset))
        .collect();
    letters.sort_unstable();
    let mut read = vec![0; LANES as usize];
    let mut expected = Vec::new();
    for (player, amount) in values {
        let partition = partition_for(format!("p{player}").as_bytes(), LANES);
        let offset = &mut read[partition as usize];
        if dead(*amount) {
            expected.push((partition, *offset));
        }
        *offset += 1;
    }
    expected.sort_unstable();
    prop_assert_eq!(letters, expected);
    Ok(())
}

proptest! {
    #![proptest_config(Config::with_cases(2_000))]
    #[test]
    fn lanes_count_each_record_once_whatever_happens(
        values in amounts(),
        steps in steps(),
        downstream_steps in steps(),
    ) {
        comes_out_right(Without::Nothing, &values, &steps, &downstream_steps)?;
    }
}

#[test]
fn an_engine_that_lacks_a_part_is_found_out() {
    for without in [
        Without::Fence,
        Without::Watermarks,
        Without::OutboxAtTake,
        Without::Forgetting,
        Without::Cursor,
    ] {
        let config = Config {
            cases: 2_000,
            failure_persistence: None,
            max_shrink_iters: 0,
            ..Config::default()
        };
        let outcome = TestRunner::new(config)
            .run(&(amounts(), steps(), steps()), |(values, one, two)| {
                comes_out_right(without, &values, &one, &two)
            });
        assert!(outcome.is_err(), "nobody misses {without:?}");
    }
}

/// Folds one batch of lane 0 from nothing.
fn fold_alone(record: Record) -> Folded<Sums> {
    let input = LaneInput {
        partition: 0,
        generation: 0,
        watermarks: Watermarks::default(),
        records: vec![record],
    };
    fold_all(vec![input], 1)
}

fn fold_all(lanes: Vec<LaneInput>, partitions: i32) -> Folded<Sums> {
    let counts = Topic::ALL.into_iter().map(|topic| (topic, 1)).collect();
    let context = FoldContext {
        partition_counts: &counts,
        now: Timestamp::clamped(0),
        bytes_out: 1 << 20,
    };
    let loaded = BTreeMap::new();
    prepare(&Sums, lanes, partitions).fold(&Sums, &(), &loaded, &context)
}

fn record(value: &str) -> Record {
    Record {
        partition: 0,
        offset: 0,
        timestamp: Timestamp::clamped(0),
        key: Bytes::from("p0"),
        value: Bytes::from(value.to_owned()),
        headers: Vec::new(),
    }
}

fn only_letter(folded: &Folded<Sums>) -> DeadLetter {
    let [message] = &folded.lanes[0].outbox.messages[..] else {
        panic!("one message expected")
    };
    serde_json::from_slice(&message.value).unwrap()
}

#[test]
fn a_record_whose_message_is_too_large_becomes_a_dead_letter_that_fits() {
    let folded = fold_alone(record(&format!("{}=1", "x".repeat(1_100_000))));
    let letter = only_letter(&folded);
    assert_eq!(letter.code, "message_too_large");
    assert_eq!(letter.value_base64, "");
    assert!(folded.states.is_empty() && folded.rows.is_empty());
}

#[test]
fn nothing_of_a_record_given_up_halfway_comes_with_the_next() {
    let records = [TOO_MUCH, 5].iter().enumerate();
    let input = LaneInput {
        partition: 0,
        generation: 0,
        watermarks: Watermarks::default(),
        records: records
            .map(|(offset, amount)| Record {
                offset: offset as i64,
                ..record(&format!("p0={amount}"))
            })
            .collect(),
    };
    let folded = fold_all(vec![input], 1);
    assert_eq!(folded.states, BTreeMap::from([("p0".to_owned(), 5)]));
    assert_eq!(folded.rows, [(0, 1)]);
    let lane = &folded.lanes[0];
    assert_eq!((lane.consumed, lane.dead), (2, 1));
    let [letter, passed, shown] = &lane.outbox.messages[..] else {
        panic!("three messages expected, not {:?}", lane.outbox.messages)
    };
    let letter: DeadLetter = serde_json::from_slice(&letter.value).unwrap();
    assert_eq!(
        (letter.offset, letter.code.as_str()),
        (0, "message_too_large")
    );
    assert_eq!(passed.value, b"p0=5");
    assert_eq!(shown.value, b"p0=5");
}

#[test]
fn whatever_does_not_fit_a_dead_letter_the_record_is_not_lost() {
    // Not UTF-8: as text it takes three times the room.
    let noise = Bytes::from(vec![0xff; 400_000]);
    let mut with_header = record("not an amount");
    with_header.headers.push(("noise".into(), noise.clone()));
    let letter = only_letter(&fold_alone(with_header));
    assert!(letter.headers.is_empty() && letter.error.contains("left out"));

    let with_key = Record {
        key: noise,
        ..record("not an amount")
    };
    assert_eq!(only_letter(&fold_alone(with_key)).code, "undecodable");

    let mut with_id = record("not an amount");
    let id = Bytes::from("i".repeat(600_000));
    with_id.headers.push(("bm-correlation-id".into(), id));
    let letter = only_letter(&fold_alone(with_id));
    assert_eq!(letter.code, "undecodable");
    assert_eq!(letter.correlation_id, None);
}

#[test]
fn a_record_in_another_partition_than_its_keys_touches_nothing() {
    let right = partition_for(b"p0", LANES);
    let lane = |partition| LaneInput {
        partition,
        generation: 0,
        watermarks: Watermarks::default(),
        records: vec![Record {
            partition,
            ..record("p0=1")
        }],
    };
    let folded = fold_all((0..LANES).map(lane).collect(), LANES);
    assert_eq!(folded.states, BTreeMap::from([("p0".to_owned(), 1)]));
    for output in &folded.lanes {
        assert_eq!(output.dead, usize::from(output.partition != right));
    }
}

#[test]
fn a_batch_folds_again_without_a_lane_as_if_it_had_never_been_in_it() {
    let lane = |partition, value: &str| LaneInput {
        partition,
        generation: 0,
        watermarks: Watermarks::default(),
        records: vec![Record {
            partition,
            // Some key of that partition.
            key: (0..100)
                .map(|n| Bytes::from(format!("k{n}")))
                .find(|key| partition_for(key, 2) == partition)
                .unwrap(),
            ..record(value)
        }],
    };
    let mut prepared = prepare(&Sums, vec![lane(0, "a=1"), lane(1, "b=2")], 2);
    let counts = Topic::ALL.into_iter().map(|topic| (topic, 1)).collect();
    let context = FoldContext {
        partition_counts: &counts,
        now: Timestamp::clamped(0),
        bytes_out: 1 << 20,
    };
    let loaded = BTreeMap::new();
    assert_eq!(prepared.fold(&Sums, &(), &loaded, &context).states.len(), 2);
    prepared.remove(&BTreeSet::from([0]));
    let folded = prepared.fold(&Sums, &(), &loaded, &context);
    assert_eq!(folded.states, BTreeMap::from([("b".to_owned(), 2)]));
    assert_eq!(folded.lanes.len(), 1);
}
