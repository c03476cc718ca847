//! Tests' own: definitions and records to begin with, and a lane that folds batches of any size.

#![expect(
    clippy::needless_pass_by_value,
    reason = "json! literals read better without a borrow"
)]

use std::collections::BTreeMap;

use bm_contracts::messages::DeadLetter;
use bm_contracts::partition::player_key;
use bm_contracts::{GameEvent, Timestamp, Topic};
use bm_engine::fold::prepare;
use bm_engine::{Domain, FoldContext, LaneInput, OutboxMessage, Record, Watermarks};
use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::quest::{QuestStatus, StoredQuest};

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::clamped(millis)
}

/// A version of quest `id` of game `g` of studio `s`, saved at `seq` with `more` laid over defaults.
pub(crate) fn quest(
    id: &str,
    version: i32,
    seq: i64,
    conditions: Value,
    more: Value,
) -> StoredQuest {
    let mut definition = json!({
        "gameId": "g", "questId": id, "name": id, "conditions": conditions,
        "rewards": [{"type": "coins", "amount": 10}],
    });
    for (name, value) in more.as_object().unwrap() {
        definition[name] = value.clone();
    }
    StoredQuest {
        id: Uuid::from_u128(id.bytes().fold(1, |n, b| n * 256 + u128::from(b))),
        studio_id: "s".to_owned().try_into().unwrap(),
        game_id: "g".to_owned().try_into().unwrap(),
        quest_id: id.to_owned().try_into().unwrap(),
        version,
        config_seq: seq,
        status: QuestStatus::Active,
        definition: serde_json::value::to_raw_value(&definition).unwrap(),
    }
}

/// A `count` quest for one enemy kill.
pub(crate) fn simple(id: &str, version: i32, seq: i64) -> StoredQuest {
    let conditions = json!({"eventType": "enemy_killed", "progressType": "count", "target": 1});
    quest(id, version, seq, conditions, json!({}))
}

/// An event of player `user` with `more` laid over defaults. `metadata` is JSON text.
pub(crate) fn event(user: &str, id: &str, metadata: &str, more: Value) -> GameEvent {
    let mut event = json!({
        "eventType": "enemy_killed", "userId": user, "gameId": "g", "eventId": id,
        "timestamp": 1_000_000, "studioId": "s", "studioTier": "pro",
        "metadata": serde_json::from_str::<Value>(metadata).unwrap(),
    });
    for (name, value) in more.as_object().unwrap() {
        event[name] = value.clone();
    }
    GameEvent::from_json(event.to_string().as_bytes()).unwrap()
}

/// A record of `game.events`, appended at `millis`.
pub(crate) fn game_record(offset: i64, millis: i64, event: &GameEvent) -> Record {
    Record {
        partition: 0,
        offset,
        timestamp: at(millis),
        key: Bytes::from(player_key(&event.game_id, &event.user_id)),
        value: Bytes::from(event.to_json()),
        headers: vec![("bm-correlation-id".to_owned(), Bytes::from_static(b"c-1"))],
    }
}

/// A record of `quest.events`: `event`, ingested at `millis`, stamped.
pub(crate) fn quest_record(offset: i64, millis: i64, stamp: i64, event: &GameEvent) -> Record {
    let mut event = event.clone();
    event.ingested_at = Some(at(millis));
    let mut record = game_record(offset, millis, &event);
    record.headers = vec![
        ("bm-kind".to_owned(), Bytes::from_static(b"event")),
        ("bm-config".to_owned(), Bytes::from(stamp.to_string())),
    ];
    record
}

/// A message as the lane that reads its topic gets it.
pub(crate) fn delivered(offset: i64, message: &OutboxMessage) -> Record {
    Record {
        partition: 0,
        offset,
        timestamp: at(0),
        key: Bytes::from(message.key.clone()),
        value: Bytes::from(message.value.clone()),
        headers: message
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), Bytes::from(value.clone())))
            .collect(),
    }
}

/// A lane, its stored state and all it emitted.
pub(crate) struct Lane<D: Domain> {
    domain: D,
    pub(crate) states: BTreeMap<D::Key, D::State>,
    pub(crate) rows: Vec<D::Row>,
    pub(crate) messages: Vec<OutboxMessage>,
    watermarks: Watermarks,
}

impl<D: Domain> Lane<D> {
    pub(crate) fn new(domain: D) -> Self {
        Self {
            domain,
            states: BTreeMap::new(),
            rows: Vec::new(),
            messages: Vec::new(),
            watermarks: Watermarks::default(),
        }
    }

    /// Folds one batch. As in production, only the states `keys` named can be seen.
    pub(crate) fn batch(&mut self, rules: &D::Rules, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let prepared = prepare(
            &self.domain,
            vec![LaneInput {
                partition: 0,
                generation: 0,
                watermarks: self.watermarks.clone(),
                records,
            }],
            1,
        );
        let loaded: BTreeMap<D::Key, D::State> = prepared
            .keys(&self.domain, rules)
            .into_keys()
            .filter_map(|key| self.states.get(&key).cloned().map(|state| (key, state)))
            .collect();
        let counts: BTreeMap<Topic, i32> = Topic::ALL.into_iter().map(|t| (t, 1)).collect();
        let context = FoldContext {
            partition_counts: &counts,
            now: at(0),
            bytes_out: usize::MAX,
        };
        let folded = prepared.fold(&self.domain, rules, &loaded, &context);
        self.states.extend(folded.states);
        self.rows.extend(folded.rows);
        for lane in folded.lanes {
            self.watermarks = lane.watermarks;
            self.messages.extend(lane.outbox.messages);
        }
    }

    /// Folds in batches of these sizes, over and over.
    pub(crate) fn batches(&mut self, rules: &D::Rules, records: Vec<Record>, sizes: &[usize]) {
        let mut rest = records.into_iter().peekable();
        let mut sizes = sizes.iter().cycle();
        while rest.peek().is_some() {
            let size = sizes.next().copied().unwrap_or(1).max(1);
            let batch = rest.by_ref().take(size).collect();
            self.batch(rules, batch);
        }
    }

    /// Values of the messages of a topic.
    pub(crate) fn sent(&self, topic: Topic) -> Vec<Value> {
        self.messages
            .iter()
            .filter(|m| m.topic == topic)
            .map(|m| serde_json::from_slice(&m.value).unwrap())
            .collect()
    }

    /// Code and definition of each dead letter.
    pub(crate) fn dead(&self) -> Vec<(String, Option<String>)> {
        self.messages
            .iter()
            .filter(|m| m.topic == Topic::DeadLetter)
            .map(|m| serde_json::from_slice::<DeadLetter>(&m.value).unwrap())
            .map(|letter| (letter.code, letter.definition))
            .collect()
    }
}
