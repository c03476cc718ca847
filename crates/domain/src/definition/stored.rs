//! Reads what storage keeps of a definition: its types, and none of the limits a file must keep.
//!
//! Versions are never changed once written, but limits are, and JSONB writes numbers out: a limit
//! asked here would one day refuse what was accepted.

use std::collections::BTreeMap;

use bm_contracts::{EventType, GameId, IdError, QuestId, Timestamp};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::quest::CONDITION_FIELDS;
use super::{Conditions, ProgressType, QuestDefinition, Scalar};
use crate::amount::Amount;
use crate::path::MetadataPath;
use crate::quest::QuestStatus;

/// What this version understands.
const QUEST_FIELDS: [&str; 9] = [
    "gameId",
    "questId",
    "name",
    "description",
    "conditions",
    "rewards",
    "startDate",
    "endDate",
    "status",
];

/// Reads a quest, or says what is in the way: a field of a newer version above all, which must not
/// be taken for nothing.
pub(super) fn read_quest(value: &Value) -> Result<QuestDefinition, String> {
    let map = object(value, "the definition", &QUEST_FIELDS)?;
    let id = |why: IdError| format!("an id {why}");
    Ok(QuestDefinition {
        game_id: GameId::new(text(map, "gameId")?).map_err(id)?,
        quest_id: QuestId::new(text(map, "questId")?).map_err(id)?,
        name: text(map, "name")?,
        description: optional_text(map, "description")?,
        conditions: read_conditions(map.get("conditions").unwrap_or(&Value::Null))?,
        rewards: read_rewards(map.get("rewards"))?,
        start_date: date(map, "startDate")?,
        end_date: date(map, "endDate")?,
        status: match optional_text(map, "status")? {
            // What a definition is that says nothing.
            None => QuestStatus::Active,
            Some(name) => {
                QuestStatus::parse(&name).ok_or_else(|| format!("status {name} is unknown"))?
            }
        },
    })
}

/// The type and name of the events that a definition asks for, if no more of it can be read.
pub(super) fn read_events(value: &Value) -> Option<(EventType, Option<String>)> {
    let conditions = value.get("conditions")?;
    let event_type = EventType::parse(conditions.get("eventType")?.as_str()?)?;
    match conditions.get("eventName") {
        None => Some((event_type, None)),
        Some(name) => Some((event_type, Some(name.as_str()?.to_owned()))),
    }
}

fn read_conditions(value: &Value) -> Result<Conditions, String> {
    let map = object(value, "conditions", &CONDITION_FIELDS)?;
    let event_type = text(map, "eventType")?;
    let path = |field| text(map, field).map(MetadataPath::stored);
    Ok(Conditions {
        event_type: EventType::parse(&event_type)
            .ok_or_else(|| format!("eventType {event_type} is unknown"))?,
        event_name: optional_text(map, "eventName")?,
        filters: read_filters(map.get("filters"))?,
        when: optional_text(map, "when")?,
        progress: match text(map, "progressType")?.as_str() {
            "count" => ProgressType::Count,
            "accumulate" => ProgressType::Accumulate(path("valueField")?),
            "unique" => ProgressType::Unique(path("uniqueField")?),
            other => return Err(format!("progressType {other} is unknown")),
        },
        target: match map.get("target") {
            Some(Value::Number(number)) => number
                .as_str()
                .parse::<Amount>()
                .map_err(|e| format!("target {e}"))?,
            _ => return Err("target is no number".to_owned()),
        },
    })
}

fn read_filters(value: Option<&Value>) -> Result<BTreeMap<MetadataPath, Scalar>, String> {
    let map = match value {
        None => return Ok(BTreeMap::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err("filters are no object".to_owned()),
    };
    map.iter()
        .map(|(path, value)| {
            let scalar = Scalar::from_json(value)
                .ok_or_else(|| format!("filter {path} is no string, number, boolean or null"))?;
            Ok((MetadataPath::stored(path.clone()), scalar))
        })
        .collect()
}

fn read_rewards(value: Option<&Value>) -> Result<Vec<Box<RawValue>>, String> {
    let Some(Value::Array(list)) = value else {
        return Err("rewards are no array".to_owned());
    };
    list.iter()
        .map(|reward| {
            if !reward.is_object() {
                return Err("a reward is no object".to_owned());
            }
            serde_json::value::to_raw_value(reward).map_err(|e| e.to_string())
        })
        .collect()
}

fn object<'v>(
    value: &'v Value,
    what: &str,
    known: &[&str],
) -> Result<&'v Map<String, Value>, String> {
    let Value::Object(map) = value else {
        return Err(format!("{what} is no object"));
    };
    match map.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(map),
        Some(name) => Err(format!("{what} has the unknown field {name}")),
    }
}

fn text(map: &Map<String, Value>, field: &str) -> Result<String, String> {
    optional_text(map, field)?.ok_or_else(|| format!("{field} is missing"))
}

fn optional_text(map: &Map<String, Value>, field: &str) -> Result<Option<String>, String> {
    match map.get(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("{field} is no string")),
    }
}

fn date(map: &Map<String, Value>, field: &str) -> Result<Option<Timestamp>, String> {
    optional_text(map, field)?
        .map(|text| Timestamp::parse_rfc3339(&text).map_err(|e| format!("{field} {e}")))
        .transpose()
}
