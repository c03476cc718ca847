//! Quests as the tests define them, and the oracle's own idea of what they count.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// What an event that counts adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// One.
    Count,
    /// The number in this field of the metadata; 1 where it is missing.
    Accumulate(String),
    /// One for each value of this field not seen before.
    Unique(String),
}

/// One version of a quest.
#[derive(Debug, Clone)]
pub struct Quest {
    id: String,
    event_type: String,
    step: Step,
    target: i64,
    filters: Map<String, Value>,
    at_most: Option<(String, i64)>,
    rewards: Vec<Value>,
}

impl Quest {
    /// A quest that adds `step` for each event of a type until `target`; it rewards nothing.
    pub fn new(id: &str, event_type: &str, step: Step, target: i64) -> Self {
        Self {
            id: id.to_owned(),
            event_type: event_type.to_owned(),
            step,
            target,
            filters: Map::new(),
            at_most: None,
            rewards: Vec::new(),
        }
    }

    /// Only events that say `value` in this field of their metadata count.
    #[must_use]
    pub fn filter(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.filters.insert(field.to_owned(), value.into());
        self
    }

    /// Only events whose metadata holds at most `limit` in this field count; said in CEL.
    #[must_use]
    pub fn at_most(mut self, field: &str, limit: i64) -> Self {
        self.at_most = Some((field.to_owned(), limit));
        self
    }

    /// With one more reward.
    #[must_use]
    pub fn reward(mut self, reward: Value) -> Self {
        self.rewards.push(reward);
        self
    }

    /// The quest's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its rewards in order.
    pub fn rewards(&self) -> &[Value] {
        &self.rewards
    }

    /// What has to be reached.
    pub fn target(&self) -> i64 {
        self.target
    }

    /// The definition as a studio writes it.
    pub fn definition(&self, game: &str) -> Value {
        let mut conditions = json!({"eventType": self.event_type, "target": self.target});
        match &self.step {
            Step::Count => conditions["progressType"] = "count".into(),
            Step::Accumulate(field) => {
                conditions["progressType"] = "accumulate".into();
                conditions["valueField"] = field.as_str().into();
            }
            Step::Unique(field) => {
                conditions["progressType"] = "unique".into();
                conditions["uniqueField"] = field.as_str().into();
            }
        }
        if !self.filters.is_empty() {
            conditions["filters"] = self.filters.clone().into();
        }
        if let Some((field, limit)) = &self.at_most {
            conditions["when"] = format!("event.metadata.{field} <= {limit}").into();
        }
        json!({
            "gameId": game, "questId": self.id, "name": self.id,
            "conditions": conditions, "rewards": self.rewards,
        })
    }

    /// Whether an event of that type with that metadata counts.
    pub fn wants(&self, event_type: &str, metadata: &Value) -> bool {
        self.event_type == event_type
            && self
                .filters
                .iter()
                .all(|(field, wanted)| metadata.get(field) == Some(wanted))
            && self.at_most.as_ref().is_none_or(|(field, limit)| {
                metadata[field.as_str()]
                    .as_i64()
                    .is_some_and(|n| n <= *limit)
            })
    }

    /// Takes the step of an event that counts; `None` when it changes nothing.
    pub fn advance(&self, reached: &Reached, metadata: &Value, at: i64) -> Option<Reached> {
        if reached.completed_at.is_some() {
            return None;
        }
        let mut next = reached.clone();
        match &self.step {
            Step::Count => next.current += 1,
            Step::Accumulate(field) => {
                next.current += metadata.get(field).map_or(1, |value| {
                    value.as_i64().expect("the tests' values are whole numbers")
                });
            }
            Step::Unique(field) => {
                let item = metadata.get(field)?.to_string();
                next.current += i64::from(next.items.insert(item));
            }
        }
        if next.current == reached.current {
            return None;
        }
        next.target = self.target;
        next.version += 1;
        next.completed_at = (next.current >= self.target).then_some(at);
        Some(next)
    }
}

/// How far a player is in a quest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// Progress.
    pub current: i64,
    /// Of the version that counted last.
    pub target: i64,
    /// When the event that completed it was ingested, in milliseconds.
    pub completed_at: Option<i64>,
    /// How many changes there were.
    pub version: i64,
    items: BTreeSet<String>,
}
