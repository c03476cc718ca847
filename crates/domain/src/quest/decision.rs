//! Whether an event counts for a quest, and why not: as data, for the processor and for people alike.

use std::fmt;

use bm_contracts::{EventType, StudioId, Timestamp};
use bm_engine::Poison;
use serde_json::Value;

use super::facts::EventFacts;
use super::items::{self, Items};
use super::version::{QuestRule, QuestVersion};
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

/// What `version` makes of an event, with the reason.
pub fn decide(version: &QuestVersion, facts: &EventFacts) -> Decision {
    match mismatch(version, facts) {
        Some(mismatch) => Decision::Ignore(mismatch.told()),
        None => judge(version, facts),
    }
}

/// What is seen of an event without looking at a player's progress, or evaluating anything. Borrowed,
/// since most events are none of most quests' business.
pub(super) enum Mismatch<'a> {
    Inactive(QuestStatus),
    OtherStudio,
    EventType(EventType, EventType),
    EventName(&'a str, Option<&'a str>),
    NotStarted(Timestamp),
    Ended(Timestamp),
    Filter(&'a MetadataPath, &'a Scalar, Option<&'a Value>),
}

impl Mismatch<'_> {
    fn told(self) -> Ignored {
        match self {
            Self::Inactive(status) => Ignored::Inactive(status),
            Self::OtherStudio => Ignored::OtherStudio,
            Self::EventType(wanted, found) => Ignored::EventType { wanted, found },
            Self::EventName(wanted, found) => Ignored::EventName {
                wanted: wanted.to_owned(),
                found: found.map(ToOwned::to_owned),
            },
            Self::NotStarted(at) => Ignored::NotStarted(at),
            Self::Ended(at) => Ignored::Ended(at),
            Self::Filter(path, wanted, found) => Ignored::Filter {
                path: path.clone(),
                wanted: wanted.clone(),
                found: found.cloned(),
            },
        }
    }
}

/// Why `version` has nothing to do with an event; `None` when it may count, or may have to be given
/// up for it. The same live and in replay: it asks the event alone.
pub(super) fn mismatch<'a>(
    version: &'a QuestVersion,
    facts: &'a EventFacts,
) -> Option<Mismatch<'a>> {
    let event = facts.event();
    if version.status() != QuestStatus::Active {
        return Some(Mismatch::Inactive(version.status()));
    }
    if version.studio_id() != &event.studio_id {
        return Some(Mismatch::OtherStudio);
    }
    if let Some((wanted, name)) = version.events() {
        if wanted != event.event_type {
            return Some(Mismatch::EventType(wanted, event.event_type));
        }
        let found = event.event_name.as_deref();
        if let Some(wanted) = name
            && found != Some(wanted)
        {
            return Some(Mismatch::EventName(wanted, found));
        }
    }
    let definition = version.definition()?;
    let at = facts.ingested_at();
    if let Some(start) = definition.start_date.filter(|start| at < *start) {
        return Some(Mismatch::NotStarted(start));
    }
    if let Some(end) = definition.end_date.filter(|end| at >= *end) {
        return Some(Mismatch::Ended(end));
    }
    let filters = &definition.conditions.filters;
    if filters.is_empty() {
        return None;
    }
    // What cannot be read is to be given up, not to be passed over.
    let metadata = facts.metadata().ok()?;
    filters.iter().find_map(|(path, wanted)| {
        let found = path.find(metadata);
        let matches = found.is_some_and(|value| wanted.matches(value));
        (!matches).then_some(Mismatch::Filter(path, wanted, found))
    })
}

/// What `version` makes of an event that it has no [`Mismatch`] with.
pub(super) fn judge(version: &QuestVersion, facts: &EventFacts) -> Decision {
    match version.rule().and_then(|rule| judge_rule(rule, facts)) {
        Ok(decision) => decision,
        Err(poison) => Decision::Unusable(poison),
    }
}

fn judge_rule(rule: &QuestRule, facts: &EventFacts) -> Result<Decision, Poison> {
    let conditions = &rule.definition().conditions;
    let unreadable = |why: &str| Poison::new("undecodable", format!("field metadata: {why}"));
    if !conditions.filters.is_empty() {
        facts.metadata().map_err(unreadable)?;
    }
    if let Some(when) = rule.when() {
        match when.evaluate(facts.cel().map_err(unreadable)?) {
            Ok(true) => {}
            Ok(false) => return Ok(Decision::Ignore(Ignored::When)),
            Err(reason) => return Ok(Decision::Ignore(Ignored::WhenFailed(reason))),
        }
    }
    let found = |path: &MetadataPath| {
        let metadata = facts.metadata().map_err(unreadable)?;
        Ok(path.find(metadata))
    };
    Ok(match &conditions.progress {
        ProgressType::Count => Decision::Count(Step::Add(Amount::ONE)),
        ProgressType::Accumulate(path) => match found(path)? {
            None => Decision::Count(Step::Add(Amount::ONE)),
            Some(Value::Number(number)) => match number.as_str().parse() {
                Ok(amount) => Decision::Count(Step::Add(amount)),
                Err(e) => unusable(path, &e.to_string()),
            },
            Some(_) => unusable(path, "must be a number"),
        },
        ProgressType::Unique(path) => match found(path)? {
            None | Some(Value::Null) => Decision::Ignore(Ignored::NoItem(path.clone())),
            Some(value) => match items::canonical(value) {
                Some(item) => Decision::Count(Step::Item(item)),
                None => unusable(path, "must be a string, a number or a boolean"),
            },
        },
    })
}

fn unusable(path: &MetadataPath, why: &str) -> Decision {
    Decision::Unusable(Poison::new(
        "invalid_value",
        format!("metadata.{path} {why}"),
    ))
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
pub fn advance(
    studio_id: &StudioId,
    target: Amount,
    state: Option<&QuestState>,
    step: Step,
    at: Timestamp,
) -> Advance {
    if state.is_some_and(|state| state.completed_at.is_some()) {
        return Advance::Unchanged;
    }
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
    let completed = sum >= target;
    // Nobody asks a finished player for items again.
    let mut items = match state {
        Some(state) if !completed => state.items.clone(),
        _ => Items::default(),
    };
    if let Some(item) = item
        && !completed
    {
        items.insert(item);
    }
    Advance::Changed(QuestState {
        studio_id: studio_id.clone(),
        current: sum,
        target,
        items,
        completed_at: completed.then_some(at),
        version: state.map_or(0, |state| state.version) + 1,
        last_updated: at,
    })
}
