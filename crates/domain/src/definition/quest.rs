//! Reads one quest definition, adding a fault for all that is wrong with it.

use std::collections::BTreeMap;

use bm_contracts::event::EVENT_NAME_MAX_CHARS;
use bm_contracts::{EventType, GameId, IdError, QuestId, Timestamp};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::fault::{Faults, member};
use super::{Conditions, ProgressType, QuestDefinition, Scalar};
use crate::amount::Amount;
use crate::json::jsonb_len;
use crate::path::MetadataPath;
use crate::quest::QuestStatus;

/// Longest `name`, in characters.
pub(super) const MAX_NAME_CHARS: usize = 200;
/// Longest `description`, in characters.
const MAX_DESCRIPTION_CHARS: usize = 2_000;
/// Most rewards of a quest: all of them are emitted by one event.
const MAX_REWARDS: usize = 50;
/// Largest reward, in bytes of JSON as JSONB writes it: so it is read, and granted.
const MAX_REWARD_BYTES: usize = 16 * 1024;
/// Largest definition, in bytes of JSON as JSONB writes it; `config.quests` carries it in one message.
const MAX_BYTES: usize = 256 * 1024;
/// Most filters of a quest.
const MAX_FILTERS: usize = 50;
/// Longest text a filter compares with, in characters.
const MAX_FILTER_CHARS: usize = 500;
/// Most distinct items a `unique` quest may ask for: progress keeps them all until it is completed.
const MAX_UNIQUE_TARGET: u64 = 1_000;
/// Largest target.
const MAX_TARGET: u64 = 1_000_000_000_000_000;

const QUEST_FIELDS: [&str; 10] = [
    "gameId",
    "questId",
    "name",
    "description",
    "conditions",
    "rewards",
    "startDate",
    "endDate",
    "claim",
    "status",
];
const QUEST_NOT_YET: [&str; 9] = [
    "objectives",
    "mode",
    "prerequisites",
    "repeat",
    "communityGate",
    "timeBasis",
    "grace",
    "trust",
    "version",
];
/// What conditions may say, in a file and as stored.
pub(super) const CONDITION_FIELDS: [&str; 8] = [
    "eventType",
    "eventName",
    "filters",
    "when",
    "progressType",
    "target",
    "valueField",
    "uniqueField",
];
const CONDITION_NOT_YET: [&str; 5] = ["objectives", "mode", "timeBasis", "grace", "trust"];

/// Reads a quest; `None` only together with at least one fault.
pub(super) fn read_quest(
    value: &Value,
    path: &str,
    faults: &mut Faults,
) -> Option<QuestDefinition> {
    let map = object(value, path, &QUEST_FIELDS, &QUEST_NOT_YET, faults)?;
    let game_id = id(map, path, "gameId", GameId::new, faults);
    let quest_id = id(map, path, "questId", QuestId::new, faults);
    let name = text(map, path, "name", MAX_NAME_CHARS, true, faults);
    let description = text(
        map,
        path,
        "description",
        MAX_DESCRIPTION_CHARS,
        false,
        faults,
    );
    match map.get("claim") {
        None => {}
        Some(Value::String(claim)) if claim == "auto" => {}
        Some(_) => faults.add(member(path, "claim"), "is not supported yet (only auto is)"),
    }
    let conditions_path = member(path, "conditions");
    let conditions = if let Some(value) = map.get("conditions") {
        read_conditions(value, &conditions_path, faults)
    } else {
        faults.add(conditions_path, "is missing");
        None
    };
    let rewards = read_rewards(map.get("rewards"), &member(path, "rewards"), faults);
    let start_date = date(map, path, "startDate", faults);
    let end_date = date(map, path, "endDate", faults);
    if let (Some(start), Some(end)) = (start_date, end_date)
        && start >= end
    {
        faults.add(member(path, "endDate"), "must be later than startDate");
    }
    let status = read_status(map.get("status"), &member(path, "status"), faults);
    let quest = QuestDefinition {
        game_id: game_id?,
        quest_id: quest_id?,
        name: name?,
        description,
        conditions: conditions?,
        rewards: rewards?,
        start_date,
        end_date,
        status: status?,
    };
    let size = jsonb_len(&quest.to_json());
    if size > MAX_BYTES {
        faults.add(path, format!("is {size} bytes, more than {MAX_BYTES}"));
    }
    Some(quest)
}

fn read_status(value: Option<&Value>, path: &str, faults: &mut Faults) -> Option<QuestStatus> {
    let status = match value {
        None => return Some(QuestStatus::Active),
        Some(value) => value.as_str().and_then(QuestStatus::parse),
    };
    if status.is_none() {
        faults.add(path, "must be active or archived");
    }
    status
}

fn read_conditions(value: &Value, path: &str, faults: &mut Faults) -> Option<Conditions> {
    let map = object(value, path, &CONDITION_FIELDS, &CONDITION_NOT_YET, faults)?;
    let event_type = text(map, path, "eventType", 50, true, faults).and_then(|name| {
        let found = EventType::parse(&name);
        if found.is_none() {
            let known: Vec<_> = EventType::ALL.iter().map(|t| t.as_str()).collect();
            faults.add(
                member(path, "eventType"),
                format!("must be one of {}", known.join(", ")),
            );
        }
        found
    });
    let event_name = text(map, path, "eventName", EVENT_NAME_MAX_CHARS, false, faults);
    let filters = read_filters(map.get("filters"), &member(path, "filters"), faults);
    // Its length and all else about it is the compiler's to say.
    let when = text(map, path, "when", usize::MAX, false, faults);
    let value_field = metadata_path(map, path, "valueField", faults);
    let unique_field = metadata_path(map, path, "uniqueField", faults);
    let kind = text(map, path, "progressType", 50, true, faults);
    let target = read_target(map, path, kind.as_deref(), faults);

    let only = |field: &str, kind: &str, faults: &mut Faults| {
        if map.contains_key(field) {
            faults.add(
                member(path, field),
                format!("only means something where progressType is {kind}"),
            );
        }
    };
    let wanted = |field: &str, kind: &str, faults: &mut Faults| {
        if !map.contains_key(field) {
            faults.add(
                member(path, field),
                format!("is missing: progressType {kind} needs it"),
            );
        }
    };
    let progress = match kind.as_deref() {
        Some("count") => {
            only("valueField", "accumulate", faults);
            only("uniqueField", "unique", faults);
            Some(ProgressType::Count)
        }
        Some("accumulate") => {
            only("uniqueField", "unique", faults);
            wanted("valueField", "accumulate", faults);
            value_field.map(ProgressType::Accumulate)
        }
        Some("unique") => {
            only("valueField", "accumulate", faults);
            wanted("uniqueField", "unique", faults);
            unique_field.map(ProgressType::Unique)
        }
        Some(_) => {
            faults.add(
                member(path, "progressType"),
                "must be one of count, accumulate, unique",
            );
            None
        }
        None => None,
    };
    Some(Conditions {
        event_type: event_type?,
        event_name,
        filters: filters?,
        when,
        progress: progress?,
        target: target?,
    })
}

fn read_filters(
    value: Option<&Value>,
    path: &str,
    faults: &mut Faults,
) -> Option<BTreeMap<MetadataPath, Scalar>> {
    let mut filters = BTreeMap::new();
    let map = match value {
        None => return Some(filters),
        Some(Value::Object(map)) => map,
        Some(_) => {
            faults.add(path, "must be an object of metadata paths and values");
            return None;
        }
    };
    if map.len() > MAX_FILTERS {
        faults.add(path, format!("must have at most {MAX_FILTERS} filters"));
    }
    for (name, value) in map {
        let path = member(path, name);
        let key = match MetadataPath::new(name) {
            Ok(key) => Some(key),
            Err(e) => {
                faults.add(&path, format!("is not a metadata path: it {e}"));
                None
            }
        };
        let scalar = match Scalar::from_json(value) {
            Some(Scalar::Text(text)) if text.chars().count() > MAX_FILTER_CHARS => {
                faults.add(
                    &path,
                    format!("must be at most {MAX_FILTER_CHARS} characters"),
                );
                None
            }
            None => {
                faults.add(&path, "must be a string, a number, a boolean or null");
                None
            }
            scalar => scalar,
        };
        if let (Some(key), Some(scalar)) = (key, scalar)
            && filters.insert(key, scalar).is_some()
        {
            faults.add(&path, "names a place that another filter names too");
        }
    }
    Some(filters)
}

fn read_target(
    map: &Map<String, Value>,
    path: &str,
    kind: Option<&str>,
    faults: &mut Faults,
) -> Option<Amount> {
    let path = member(path, "target");
    let target = match map.get("target") {
        None => {
            faults.add(path, "is missing");
            return None;
        }
        Some(Value::Number(number)) => number.as_str().parse::<Amount>(),
        Some(_) => Err(crate::amount::AmountError::NotANumber),
    };
    let target = match target {
        Ok(target) => target,
        Err(e) => {
            faults.add(path, e.to_string());
            return None;
        }
    };
    let fault = if target < Amount::ONE {
        "must be at least 1".to_owned()
    } else if target > Amount::from(MAX_TARGET) {
        format!("must be at most {MAX_TARGET}")
    } else if matches!(kind, Some("count" | "unique")) && target.to_u64().is_none() {
        "must be a whole number".to_owned()
    } else if kind == Some("unique") && target > Amount::from(MAX_UNIQUE_TARGET) {
        format!("must be at most {MAX_UNIQUE_TARGET} where progressType is unique")
    } else {
        return Some(target);
    };
    faults.add(path, fault);
    None
}

fn read_rewards(
    value: Option<&Value>,
    path: &str,
    faults: &mut Faults,
) -> Option<Vec<Box<RawValue>>> {
    let list = match value {
        None => return Some(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => {
            faults.add(path, "must be an array");
            return None;
        }
    };
    if list.len() > MAX_REWARDS {
        faults.add(path, format!("must have at most {MAX_REWARDS} rewards"));
    }
    let mut rewards = Vec::with_capacity(list.len());
    for (index, reward) in list.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Value::Object(map) = reward else {
            faults.add(path, "must be an object with a type");
            continue;
        };
        match map.get("type") {
            Some(Value::String(kind)) if !kind.is_empty() => {}
            Some(_) => faults.add(member(&path, "type"), "must be a string that is not empty"),
            None => faults.add(member(&path, "type"), "is missing"),
        }
        let Ok(raw) = serde_json::value::to_raw_value(reward) else {
            faults.add(path, "cannot be written as JSON");
            continue;
        };
        if jsonb_len(reward) > MAX_REWARD_BYTES {
            let why = format!("must be at most {MAX_REWARD_BYTES} bytes, numbers written out");
            faults.add(path, why);
        }
        rewards.push(raw);
    }
    Some(rewards)
}

/// The value as an object; faults for what it is not and for fields nobody knows.
pub(super) fn object<'v>(
    value: &'v Value,
    path: &str,
    known: &[&str],
    not_yet: &[&str],
    faults: &mut Faults,
) -> Option<&'v Map<String, Value>> {
    let Value::Object(map) = value else {
        faults.add(path, "must be an object");
        return None;
    };
    for name in map.keys().map(String::as_str) {
        if not_yet.contains(&name) {
            faults.add(member(path, name), "is not supported yet");
        } else if !known.contains(&name) {
            faults.add(member(path, name), "is an unknown field");
        }
    }
    Some(map)
}

/// A text of 1 to `max` characters, none of them control characters other than line breaks and tabs.
pub(super) fn text(
    map: &Map<String, Value>,
    path: &str,
    field: &str,
    max: usize,
    required: bool,
    faults: &mut Faults,
) -> Option<String> {
    let fault = match map.get(field) {
        None if !required => return None,
        None => "is missing".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "must not be empty".to_owned(),
        Some(Value::String(text)) if text.chars().count() > max => {
            format!("must be at most {max} characters")
        }
        Some(Value::String(text))
            if text
                .chars()
                .any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) =>
        {
            "must not contain control characters".to_owned()
        }
        Some(Value::String(text)) => return Some(text.clone()),
        Some(_) => "must be a string".to_owned(),
    };
    faults.add(member(path, field), fault);
    None
}

/// A well-formed id.
pub(super) fn id<T>(
    map: &Map<String, Value>,
    path: &str,
    field: &str,
    make: impl Fn(String) -> Result<T, IdError>,
    faults: &mut Faults,
) -> Option<T> {
    let fault = match map.get(field) {
        None => "is missing".to_owned(),
        Some(Value::String(text)) => match make(text.clone()) {
            Ok(id) => return Some(id),
            Err(e) => e.to_string(),
        },
        Some(_) => "must be a string".to_owned(),
    };
    faults.add(member(path, field), fault);
    None
}

fn metadata_path(
    map: &Map<String, Value>,
    path: &str,
    field: &str,
    faults: &mut Faults,
) -> Option<MetadataPath> {
    let text = text(map, path, field, usize::MAX, false, faults)?;
    MetadataPath::new(&text)
        .map_err(|e| faults.add(member(path, field), e.to_string()))
        .ok()
}

fn date(
    map: &Map<String, Value>,
    path: &str,
    field: &str,
    faults: &mut Faults,
) -> Option<Timestamp> {
    let text = match map.get(field) {
        None => return None,
        Some(Value::String(text)) => text,
        Some(_) => {
            faults.add(member(path, field), "must be an RFC 3339 date-time");
            return None;
        }
    };
    Timestamp::parse_rfc3339(text)
        .map_err(|_| {
            faults.add(
                member(path, field),
                "must be an RFC 3339 date-time with an offset, like 2026-01-02T00:00:00Z, of the years 0001 to 9999",
            );
        })
        .ok()
}
