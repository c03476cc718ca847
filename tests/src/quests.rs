//! Quests as the tests define them, and the oracle's own idea of what they count.

use std::collections::BTreeSet;

use bm_contracts::Timestamp;
use serde_json::{Map, Value, json};

use crate::number::Thousandths;
use crate::oracle::Kept;

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
    event_name: Option<String>,
    step: Step,
    target: i64,
    filters: Map<String, Value>,
    at_most: Option<(String, i64)>,
    /// From the first to before the second, in milliseconds.
    dates: Option<(i64, i64)>,
    rewards: Vec<Value>,
    archived: bool,
}

impl Quest {
    /// A quest that adds `step` for each event of a type until `target`; it rewards nothing.
    pub fn new(id: &str, event_type: &str, step: Step, target: i64) -> Self {
        Self {
            id: id.to_owned(),
            event_type: event_type.to_owned(),
            event_name: None,
            step,
            target,
            filters: Map::new(),
            at_most: None,
            dates: None,
            rewards: Vec::new(),
            archived: false,
        }
    }

    /// Completed at another target.
    #[must_use]
    pub fn until(mut self, target: i64) -> Self {
        self.target = target;
        self
    }

    /// No event counts any more, until it is not archived again.
    #[must_use]
    pub fn archived(mut self, archived: bool) -> Self {
        self.archived = archived;
        self
    }

    /// With these rewards and no others.
    #[must_use]
    pub fn rewards_only(mut self, rewards: impl IntoIterator<Item = Value>) -> Self {
        self.rewards = rewards.into_iter().collect();
        self
    }

    /// Only events of this name count.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.event_name = Some(name.to_owned());
        self
    }

    /// Only events that were ingested at `start` or later and before `end` count; milliseconds.
    #[must_use]
    pub fn between(mut self, start: i64, end: i64) -> Self {
        self.dates = Some((start, end));
        self
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

    /// Whether it is about events of this type.
    pub fn is_of(&self, event_type: &str) -> bool {
        self.event_type == event_type
    }

    /// Its rewards in order.
    pub fn rewards(&self) -> &[Value] {
        &self.rewards
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
        if let Some(name) = &self.event_name {
            conditions["eventName"] = name.as_str().into();
        }
        if !self.filters.is_empty() {
            conditions["filters"] = self.filters.clone().into();
        }
        if let Some((field, limit)) = &self.at_most {
            conditions["when"] = format!("event.metadata.{field} <= {limit}").into();
        }
        let mut definition = json!({
            "gameId": game, "questId": self.id, "name": self.id,
            "conditions": conditions, "rewards": self.rewards,
        });
        if let Some((start, end)) = self.dates {
            definition["startDate"] = Timestamp::clamped(start).to_string().into();
            definition["endDate"] = Timestamp::clamped(end).to_string().into();
        }
        if self.archived {
            definition["status"] = "archived".into();
        }
        definition
    }

    /// Whether an event of that type and name may count: what a router can know of it.
    pub fn concerns(&self, event: &Kept) -> bool {
        !self.archived
            && self.event_type == event.event_type
            && (self.event_name.is_none() || self.event_name == event.event_name)
    }

    /// Whether an event counts.
    pub fn wants(&self, event: &Kept) -> bool {
        let metadata = &event.metadata;
        self.concerns(event)
            && self
                .dates
                .is_none_or(|(start, end)| (start..end).contains(&event.ingested_at))
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
    pub fn advance(&self, reached: &Reached, event: &Kept) -> Option<Reached> {
        if reached.completed_at.is_some() {
            return None;
        }
        let mut next = reached.clone();
        match &self.step {
            Step::Count => next.current += Thousandths::whole(1),
            Step::Accumulate(field) => {
                next.current += event
                    .metadata
                    .get(field)
                    .map_or(Thousandths::whole(1), Thousandths::read);
            }
            Step::Unique(field) => {
                let item = event.metadata.get(field)?.to_string();
                if next.items.insert(item) {
                    next.current += Thousandths::whole(1);
                }
            }
        }
        next.target = Thousandths::whole(self.target);
        // A new version may have lowered the target to where the player is already: then any event
        // that counts completes it, be it one that adds nothing.
        if next.current == reached.current && next.current < next.target {
            return None;
        }
        next.version += 1;
        next.completed_at = (next.current >= next.target).then_some(event.ingested_at);
        Some(next)
    }
}

/// How far a player is in a quest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// Progress.
    pub current: Thousandths,
    /// Of the version that counted last.
    pub target: Thousandths,
    /// When the event that completed it was ingested, in milliseconds.
    pub completed_at: Option<i64>,
    /// How many changes there were.
    pub version: i64,
    items: BTreeSet<String>,
}
