//! Router and quest processor from records to what is handed to the database: decode, keys, fold,
//! and the outboxes' bytes. States come from memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bm_bootstrap::Clock;
use bm_contracts::headers::Seq;
use bm_contracts::{GameId, QuestId, StudioId, Timestamp, Topic};
use bm_domain::quest::{QuestDomain, QuestRules, QuestStatus, StoredQuest};
use bm_domain::routing::{RouteRules, RouterDomain};
use bm_engine::domain::LoadedStates;
use bm_engine::fold::prepare;
use bm_engine::lane::Fence;
use bm_engine::{BatchLimits, Domain, FoldContext, Folded, LaneInput, Record, Watermarks};
use serde_json::json;
use serde_json::value::to_raw_value;
use uuid::Uuid;

use crate::Work;
use crate::gateway::{GAME, KIND, STUDIO, records};

/// Records of a batch; they come from half of a topic's lanes.
const BATCH: usize = 1_000;

/// A processor that folds the same batch again and again.
pub(crate) struct Fold<D: Domain> {
    domain: D,
    rules: D::Rules,
    stored: Stored<D>,
    partitions: i32,
    counts: BTreeMap<Topic, i32>,
    now: Timestamp,
    before: BTreeMap<i32, Watermarks>,
    records: Vec<(i32, Vec<Record>)>,
    events: usize,
}

struct Stored<D: Domain>(HashMap<D::Key, D::State>);

impl<D: Domain> LoadedStates<D> for Stored<D> {
    fn get(&self, key: &D::Key) -> Option<&D::State> {
        self.0.get(key)
    }
}

impl<D: Domain> Fold<D> {
    fn new(domain: D, rules: D::Rules, records: Vec<Record>, lanes: i32) -> Self {
        let share = BATCH / lanes as usize;
        let mut by_lane = BTreeMap::<i32, Vec<Record>>::new();
        for record in records {
            let lane = by_lane.entry(record.partition).or_default();
            if record.partition < lanes && lane.len() < share {
                lane.push(record);
            }
        }
        by_lane.retain(|partition, _| *partition < lanes);
        let found: usize = by_lane.values().map(Vec::len).sum();
        assert_eq!(found, share * lanes as usize, "too few records");
        let counts = Topic::ALL.map(|topic| (topic, topic.spec().partitions));
        Self {
            domain,
            rules,
            stored: Stored(HashMap::new()),
            partitions: D::INPUT.spec().partitions,
            counts: BTreeMap::from(counts),
            now: Clock::system().now(),
            before: by_lane
                .iter()
                .map(|(partition, records)| (*partition, from_all(records)))
                .collect(),
            records: by_lane.into_iter().collect(),
            events: found,
        }
    }

    fn fold(&mut self, lanes: Vec<LaneInput>) -> Folded<D> {
        let prepared = prepare(&self.domain, lanes, self.partitions);
        assert!(
            !prepared.has_misplaced(),
            "records lie in foreign partitions"
        );
        let keys = prepared.keys(&self.domain, &self.rules);
        assert!(!keys.is_empty(), "the records concern nobody");
        let context = FoldContext {
            partition_counts: &self.counts,
            now: self.now,
            bytes_out: BatchLimits::default().bytes_out,
        };
        let folded = prepared.fold(&self.domain, &self.rules, &self.stored, &context);
        for lane in &folded.lanes {
            assert_eq!((lane.dead, lane.skipped), (0, 0), "all records count");
            let fence = Fence {
                epoch: 1,
                cursor: 0,
            };
            let bytes = lane.to_move(fence).expect("an outbox can be written down");
            std::hint::black_box(bytes);
        }
        self.records = prepared.into_records();
        folded
    }
}

/// As if something from each of the records' sources had been applied before.
fn from_all(records: &[Record]) -> Watermarks {
    let mut marks = Watermarks::default();
    for record in records {
        if let Ok(Some((source, _))) = record.origin() {
            let before = Seq {
                generation: 0,
                offset: -1,
                index: 0,
            };
            marks.admit(&source.to_owned(), before);
        }
    }
    marks
}

impl<D: Domain> Work for Fold<D> {
    type Input = Vec<LaneInput>;

    fn events(&self) -> u64 {
        self.events as u64
    }

    fn input(&mut self) -> Vec<LaneInput> {
        std::mem::take(&mut self.records)
            .into_iter()
            .map(|(partition, records)| LaneInput {
                partition,
                generation: 0,
                watermarks: self.before[&partition].clone(),
                records,
            })
            .collect()
    }

    fn run(&mut self, input: Vec<LaneInput>) {
        std::hint::black_box(self.fold(input));
    }
}

fn rules() -> Arc<QuestRules> {
    let definition = json!({
        "gameId": GAME, "questId": "counting", "name": "Counting",
        "conditions": {"eventType": "custom", "eventName": KIND, "progressType": "count",
            "target": 1_000_000_000_000_u64},
        "rewards": [],
    });
    let quest = StoredQuest {
        id: Uuid::from_u128(7),
        studio_id: StudioId::new(STUDIO).expect("a made-up studio id is one"),
        game_id: GameId::new(GAME).expect("a made-up game id is one"),
        quest_id: QuestId::new("counting").expect("a made-up quest id is one"),
        version: 1,
        config_seq: 1,
        status: QuestStatus::Active,
        definition: to_raw_value(&definition).expect("JSON can be written"),
    };
    Arc::new(QuestRules::build(1, [quest]).expect("rules can be made of it"))
}

/// The router, for records that the gateway has made; none of them has come before.
pub(crate) fn router() -> Fold<RouterDomain> {
    let rules = RouteRules {
        seq: 1,
        quests: rules(),
    };
    Fold::new(RouterDomain, rules, records(4 * BATCH), 5)
}

/// The quest processor, for records that the router has made; all players have progress.
pub(crate) fn quests() -> Fold<QuestDomain> {
    // Half of the log's partitions hold half of the events.
    let mut made = Vec::new();
    for record in records(12 * BATCH).chunks(3 * BATCH) {
        let rules = RouteRules {
            seq: 1,
            quests: rules(),
        };
        let mut router = Fold::new(RouterDomain, rules, record.to_vec(), 5);
        let input = router.input();
        for lane in router.fold(input).lanes {
            made.extend(lane.outbox.messages);
        }
    }
    let messages = made.iter().enumerate();
    let records =
        messages.map(|(offset, message)| message.to_record(offset as i64, Clock::system().now()));
    let rules = Arc::into_inner(rules()).expect("these rules are new");
    let mut quests = Fold::new(QuestDomain, rules, records.collect(), 2);
    let input = quests.input();
    let folded = quests.fold(input);
    quests.stored.0.extend(folded.states);
    quests
}
