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

/// What PostgreSQL gives back for a JSONB of this JSON: keys by length, the last of equal keys,
/// numbers without exponent.
pub(crate) fn jsonb(raw: &str) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Number(number) => out.push_str(&numeric(&number.to_string())),
            Value::Array(list) => {
                out.push('[');
                for (i, value) in list.iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    write(value, out);
                }
                out.push(']');
            }
            Value::Object(map) => {
                let mut members: Vec<_> = map.iter().collect();
                members.sort_by_key(|(name, _)| (name.len(), name.as_bytes()));
                out.push('{');
                for (i, (name, value)) in members.into_iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    out.push_str(&Value::from(name.as_str()).to_string());
                    out.push_str(": ");
                    write(value, out);
                }
                out.push('}');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    let mut out = String::new();
    write(&serde_json::from_str(raw).unwrap(), &mut out);
    out
}

/// PostgreSQL's text of a numeric.
fn numeric(text: &str) -> String {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().unwrap();
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let negative = whole.starts_with('-');
    let mut digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let mut scale = fraction.len() as i32 - exponent;
    while scale < 0 {
        digits.push('0');
        scale += 1;
    }
    while (digits.len() as i32) <= scale {
        digits.insert(0, '0');
    }
    let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let zero = digits.bytes().all(|b| b == b'0');
    let sign = if negative && !zero { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}

/// A record of `game.events`, appended at `millis`.
pub(crate) fn game_record(offset: i64, millis: i64, event: &GameEvent) -> Record {
    Record {
        partition: 0,
        offset,
        timestamp: at(millis),
        key: Bytes::from(player_key(&event.game_id, &event.user_id)),
        value: Bytes::from(event.to_json()),
        headers: vec![("bm-correlation-id".into(), Bytes::from_static(b"c-1"))],
    }
}

/// A record of `quest.events`: `event`, ingested at `millis`, stamped.
pub(crate) fn quest_record(offset: i64, millis: i64, stamp: i64, event: &GameEvent) -> Record {
    let mut event = event.clone();
    event.ingested_at = Some(at(millis));
    let mut record = game_record(offset, millis, &event);
    record.headers = vec![
        ("bm-kind".into(), Bytes::from_static(b"event")),
        ("bm-config".into(), Bytes::from(stamp.to_string())),
    ];
    record
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
