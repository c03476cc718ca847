//! What a studio configures, parsed and validated: the same for the `apply` file and what storage keeps.

mod document;
mod fault;
mod file;
mod quest;
mod scalar;
mod stored;

use std::collections::BTreeMap;

use bm_contracts::{EventType, GameId, QuestId, StudioId, Timestamp};
use serde_json::Value;
use serde_json::value::RawValue;

pub use fault::{Fault, Position};
pub use file::{NamedGames, named_games, parse_file};
pub use scalar::{FilterNumber, Scalar};

use crate::amount::Amount;
use crate::path::MetadataPath;
use crate::quest::QuestStatus;

/// A file of definitions without fault.
#[derive(Debug, Clone, Default)]
pub struct DefinitionFile {
    /// In the file's order; ids are distinct.
    pub games: Vec<GameDefinition>,
    /// In the file's order; (game, quest) pairs are distinct. Whether a game that is not in
    /// `games` exists, only the database knows.
    pub quests: Vec<QuestDefinition>,
}

/// A game, as the file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GameDefinition {
    /// Which game.
    pub game_id: GameId,
    /// Whose.
    pub studio_id: StudioId,
    /// For people to read; 1 to 200 characters.
    pub name: String,
}

/// A quest, as a studio defines it.
#[derive(Debug, Clone)]
pub struct QuestDefinition {
    /// In which game.
    pub game_id: GameId,
    /// Unique per game.
    pub quest_id: QuestId,
    /// For people to read; 1 to 200 characters.
    pub name: String,
    /// For people to read; at most 2,000 characters.
    pub description: Option<String>,
    /// Which events count, and how far.
    pub conditions: Conditions,
    /// What completion grants, each a JSON object with a `type`; at most 50, each at most 16 KiB as
    /// JSONB writes it.
    pub rewards: Vec<Box<RawValue>>,
    /// Events ingested before it do not count.
    pub start_date: Option<Timestamp>,
    /// Events ingested at or after it do not count.
    pub end_date: Option<Timestamp>,
    /// Whether events count at all.
    pub status: QuestStatus,
}

/// Which events count for a quest, and how far.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditions {
    /// The one type that counts.
    pub event_type: EventType,
    /// The one name that counts; any when there is none.
    pub event_name: Option<String>,
    /// What must stand at these places of the metadata.
    pub filters: BTreeMap<MetadataPath, Scalar>,
    /// A CEL expression that must be true.
    pub when: Option<String>,
    /// What an event adds.
    pub progress: ProgressType,
    /// Progress at which the quest is completed; at least 1.
    pub target: Amount,
}

/// What an event that counts adds to progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgressType {
    /// 1
    Count,
    /// The number at this place of the metadata; 1 where there is none.
    Accumulate(MetadataPath),
    /// 1 for each item at this place of the metadata that was not counted before.
    Unique(MetadataPath),
}

impl ProgressType {
    /// The name on the wire.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Accumulate(_) => "accumulate",
            Self::Unique(_) => "unique",
        }
    }
}

/// A stored definition cannot be read, so it was written by other software.
#[derive(Debug, thiserror::Error)]
#[error("stored definition cannot be read: {0}")]
pub struct StoredDefinitionError(String);

impl QuestDefinition {
    /// The JSON that storage keeps and `config.quests` carries.
    ///
    /// Canonical: keys sorted, times in their one form, nothing that means nothing. Two definitions
    /// are the same when their texts are.
    pub fn to_stored(&self) -> String {
        self.to_json().to_string()
    }

    fn to_json(&self) -> Value {
        let conditions = &self.conditions;
        let mut map = serde_json::Map::new();
        let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
        put("eventType", conditions.event_type.as_str().into());
        if let Some(name) = &conditions.event_name {
            put("eventName", name.as_str().into());
        }
        if !conditions.filters.is_empty() {
            let filters = conditions
                .filters
                .iter()
                .map(|(path, scalar)| (path.as_str().to_owned(), scalar.to_json()))
                .collect();
            put("filters", Value::Object(filters));
        }
        if let Some(when) = &conditions.when {
            put("when", when.as_str().into());
        }
        put("progressType", conditions.progress.as_str().into());
        put("target", Value::Number(conditions.target.to_number()));
        match &conditions.progress {
            ProgressType::Count => None,
            ProgressType::Accumulate(path) => put("valueField", path.as_str().into()),
            ProgressType::Unique(path) => put("uniqueField", path.as_str().into()),
        };
        let conditions = Value::Object(map);

        let mut map = serde_json::Map::new();
        let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
        put("gameId", self.game_id.as_str().into());
        put("questId", self.quest_id.as_str().into());
        put("name", self.name.as_str().into());
        if let Some(description) = &self.description {
            put("description", description.as_str().into());
        }
        put("conditions", conditions);
        let rewards = self
            .rewards
            .iter()
            // They were JSON when they were taken in.
            .filter_map(|raw| serde_json::from_str(raw.get()).ok())
            .collect();
        put("rewards", Value::Array(rewards));
        if let Some(at) = self.start_date {
            put("startDate", at.to_string().into());
        }
        if let Some(at) = self.end_date {
            put("endDate", at.to_string().into());
        }
        // Active is what a definition is that says nothing.
        if self.status != QuestStatus::Active {
            put("status", self.status.as_str().into());
        }
        Value::Object(map)
    }

    /// Reads what [`QuestDefinition::to_stored`] wrote, or what JSONB made of it. No limit is asked:
    /// what was accepted once can be read for ever.
    ///
    /// `when` is not compiled here.
    pub fn from_stored(json: &str) -> Result<Self, StoredDefinitionError> {
        let value = serde_json::from_str(json).map_err(|e| StoredDefinitionError(e.to_string()))?;
        stored::read_quest(&value).map_err(StoredDefinitionError)
    }
}

/// The type and name of the events a stored definition asks for, if that much of it can be read.
pub(crate) fn events_of_stored(json: &str) -> Option<(EventType, Option<String>)> {
    stored::read_events(&serde_json::from_str(json).ok()?)
}

#[cfg(test)]
mod stored_tests;
#[cfg(test)]
mod tests;
