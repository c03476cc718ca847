//! Whether an event counts for a quest, and why not: as data, for the processor and for people alike.

use std::fmt::{self, Write as _};

use bm_contracts::{EventType, Timestamp};
use bm_engine::Poison;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::facts::EventFacts;
use super::rules::QuestRule;
use super::{QuestState, QuestStatus};
use crate::amount::Amount;
use crate::definition::{ProgressType, Scalar};
use crate::path::MetadataPath;

/// What a quest makes of an event, whatever the player's progress.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It counts.
    Count(Step),
    /// It does not.
    Ignore(Ignored),
    /// It would, but for a value the quest cannot use: a dead letter for this quest.
    Unusable(Poison),
}

/// What an event that counts adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// So much.
    Add(Amount),
    /// 1, if this item was not counted before.
    Item(String),
}

/// Why an event does not count. Displays as the end of "ignored: …".
#[derive(Debug, Clone, PartialEq)]
pub enum Ignored {
    /// The quest was not defined yet.
    NotDefined,
    /// The quest is not active.
    Inactive(QuestStatus),
    /// The game belongs to another studio than the event says.
    OtherStudio,
    /// It wants another type of event.
    EventType {
        /// The quest's.
        wanted: EventType,
        /// The event's.
        found: EventType,
    },
    /// It wants another name.
    EventName {
        /// The quest's.
        wanted: String,
        /// The event's.
        found: Option<String>,
    },
    /// Ingested before the quest begins.
    NotStarted(Timestamp),
    /// Ingested when the quest was over.
    Ended(Timestamp),
    /// A filter wants something else.
    Filter {
        /// Where in the metadata.
        path: MetadataPath,
        /// The quest's value.
        wanted: Scalar,
        /// The event's value; `None` when there is none.
        found: Option<Value>,
    },
    /// `when` is false.
    When,
    /// `when` could not be evaluated.
    WhenFailed(String),
    /// There is no item in the event.
    NoItem(MetadataPath),
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDefined => f.write_str("the quest was not defined yet"),
            Self::Inactive(status) => write!(f, "the quest is {}", status.as_str()),
            Self::OtherStudio => f.write_str("the quest belongs to another studio"),
            Self::EventType { wanted, found } => {
                write!(f, "eventType is {wanted}, event says {found}")
            }
            Self::EventName { wanted, found } => {
                write!(f, "eventName is {wanted}, event ")?;
                says(f, found.as_deref())
            }
            Self::NotStarted(at) => write!(f, "the quest starts at {at}"),
            Self::Ended(at) => write!(f, "the quest ended at {at}"),
            Self::Filter {
                path,
                wanted,
                found,
            } => {
                write!(f, "filter {path} is {wanted}, event ")?;
                match found {
                    Some(Value::String(text)) => says(f, Some(text)),
                    Some(value) => says(f, Some(&value.to_string())),
                    None => says(f, None),
                }
            }
            Self::When => f.write_str("when is false"),
            Self::WhenFailed(reason) => write!(f, "when cannot be evaluated: {reason}"),
            Self::NoItem(path) => write!(f, "event has no {path} in its metadata"),
        }
    }
}

fn says(f: &mut fmt::Formatter<'_>, found: Option<&str>) -> fmt::Result {
    match found {
        None => f.write_str("has none"),
        Some(text) => {
            let short: String = text.chars().take(100).collect();
            write!(f, "says {short}")
        }
    }
}

/// Longest item kept as it is, in bytes; longer ones are kept as a fingerprint.
const MAX_ITEM_BYTES: usize = 64;

/// What `rule` makes of an event.
pub fn decide(rule: &QuestRule, facts: &EventFacts) -> Decision {
    match ignored(rule, facts) {
        Some(reason) => Decision::Ignore(reason),
        None => step(&rule.definition().conditions.progress, facts.metadata()),
    }
}

fn ignored(rule: &QuestRule, facts: &EventFacts) -> Option<Ignored> {
    let definition = rule.definition();
    let conditions = &definition.conditions;
    let event = facts.event();
    if rule.status() != QuestStatus::Active {
        return Some(Ignored::Inactive(rule.status()));
    }
    if rule.studio_id() != &event.studio_id {
        return Some(Ignored::OtherStudio);
    }
    if conditions.event_type != event.event_type {
        return Some(Ignored::EventType {
            wanted: conditions.event_type,
            found: event.event_type,
        });
    }
    if let Some(wanted) = &conditions.event_name
        && event.event_name.as_ref() != Some(wanted)
    {
        return Some(Ignored::EventName {
            wanted: wanted.clone(),
            found: event.event_name.clone(),
        });
    }
    let at = facts.ingested_at();
    if let Some(start) = definition.start_date.filter(|start| at < *start) {
        return Some(Ignored::NotStarted(start));
    }
    if let Some(end) = definition.end_date.filter(|end| at >= *end) {
        return Some(Ignored::Ended(end));
    }
    for (path, wanted) in &conditions.filters {
        let found = path.find(facts.metadata());
        if !found.is_some_and(|value| wanted.matches(value)) {
            return Some(Ignored::Filter {
                path: path.clone(),
                wanted: wanted.clone(),
                found: found.cloned(),
            });
        }
    }
    match rule.when()?.evaluate(facts.cel()) {
        Ok(true) => None,
        Ok(false) => Some(Ignored::When),
        Err(reason) => Some(Ignored::WhenFailed(reason)),
    }
}

fn step(progress: &ProgressType, metadata: &Value) -> Decision {
    match progress {
        ProgressType::Count => Decision::Count(Step::Add(Amount::ONE)),
        ProgressType::Accumulate(path) => match path.find(metadata) {
            None => Decision::Count(Step::Add(Amount::ONE)),
            Some(Value::Number(number)) => match number.as_str().parse() {
                Ok(amount) => Decision::Count(Step::Add(amount)),
                Err(e) => unusable(path, &e.to_string()),
            },
            Some(_) => unusable(path, "must be a number"),
        },
        ProgressType::Unique(path) => match path.find(metadata) {
            None | Some(Value::Null) => Decision::Ignore(Ignored::NoItem(path.clone())),
            Some(value) => match item(value) {
                Some(item) => Decision::Count(Step::Item(item)),
                None => unusable(path, "must be a string, a number or a boolean"),
            },
        },
    }
}

fn unusable(path: &MetadataPath, why: &str) -> Decision {
    Decision::Unusable(Poison::new(
        "invalid_value",
        format!("metadata.{path} {why}"),
    ))
}

/// One text per item, however the JSON writes it; JSON itself, or `#` and a fingerprint.
fn item(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(_) | Value::Bool(_) => value.to_string(),
        Value::Number(number) => crate::json::Decimal::parse(number.as_str())?.canonical(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    if text.len() <= MAX_ITEM_BYTES {
        return Some(text);
    }
    let mut short = String::from("#");
    for byte in &Sha256::digest(text.as_bytes())[..16] {
        // Writing to a string cannot fail.
        let _ = write!(short, "{byte:02x}");
    }
    Some(short)
}

/// What a step does to a player's progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advance {
    /// Nothing: the quest was completed before, the item counted before, or the value is 0.
    Unchanged,
    /// Progress is now this. Completed by this event where `completed_at` is there.
    Changed(QuestState),
    /// The sum is beyond what progress can hold: a dead letter for this quest.
    TooLarge(Poison),
}

/// Takes a step from `state` (`None`: no progress yet) at the event's time.
pub fn advance(rule: &QuestRule, state: Option<&QuestState>, step: Step, at: Timestamp) -> Advance {
    if state.is_some_and(|state| state.completed_at.is_some()) {
        return Advance::Unchanged;
    }
    let target = rule.definition().conditions.target;
    let current = state.map_or(Amount::ZERO, |state| state.current);
    let (added, item) = match step {
        Step::Add(amount) => (amount, None),
        Step::Item(item) if state.is_some_and(|state| state.items.contains(&item)) => {
            (Amount::ZERO, None)
        }
        Step::Item(item) => (Amount::ONE, Some(item)),
    };
    let Some(sum) = current.checked_add(added) else {
        return Advance::TooLarge(Poison::new(
            "out_of_range",
            format!("progress of {current} and {added} more is beyond what can be counted"),
        ));
    };
    // A new version may have lowered the target to where the player is already.
    if sum == current && sum < target {
        return Advance::Unchanged;
    }
    let mut items = state.map_or_else(Default::default, |state| state.items.clone());
    if let Some(item) = item {
        items.insert(item);
    }
    Advance::Changed(QuestState {
        studio_id: rule.studio_id().clone(),
        current: sum,
        target,
        items,
        completed_at: (sum >= target).then_some(at),
        version: state.map_or(0, |state| state.version) + 1,
        last_updated: at,
    })
}
