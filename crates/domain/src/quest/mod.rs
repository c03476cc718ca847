//! Quests: what a player's progress is, and how events change it.

mod decision;
mod facts;
mod items;
mod processor;
mod rules;
mod version;

use bm_contracts::{GameId, QuestId, StudioId, Timestamp, UserId};
use serde_json::value::RawValue;
use uuid::Uuid;

pub use decision::{Advance, Decision, Ignored, Step, advance, decide};
pub use facts::EventFacts;
pub use items::Items;
pub use processor::{NoRow, QuestDomain, QuestInput};
pub use rules::{Explained, QuestRules, RulesError};
pub use version::{QuestRule, QuestVersion};

use crate::amount::Amount;

/// Names a row of `quest_progress`: unique (quest_id, user_id).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuestKey {
    // First, since it tells more keys apart: they are compared in its order.
    /// `quest_progress.user_id`.
    pub user: UserId,
    /// `quests.id`, so it implies studio and game.
    pub quest: Uuid,
}

/// A row of `quest_progress`: how far one player is in one quest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuestState {
    /// `studio_id`.
    pub studio_id: StudioId,
    /// `progress->'current'`: reached so far, a JSON number ([`Amount`]'s `Display` and `FromStr`).
    pub current: Amount,
    /// `progress->'target'`: what was to be reached when this last changed, a JSON number.
    pub target: Amount,
    /// `progress->'items'`: for `unique`, the canonical items counted, a JSON array of strings;
    /// left out of the JSON when empty, as it is once the quest is completed.
    pub items: Items,
    /// `completed_at`; the column `completed` is whether it is there.
    pub completed_at: Option<Timestamp>,
    /// `version`: 1 at the first change, one more with each; `ui.updates` carries it.
    pub version: i64,
    /// `last_updated`: `ingestedAt` of the event that last changed it.
    pub last_updated: Timestamp,
}

/// One version of a quest, as storage keeps it. Versions are never changed once written.
#[derive(Debug, Clone)]
pub struct StoredQuest {
    /// `quests.id`; the same for all versions of a quest.
    pub id: Uuid,
    /// Whose game.
    pub studio_id: StudioId,
    /// Which game.
    pub game_id: GameId,
    /// The studio's own name of the quest; unique per game.
    pub quest_id: QuestId,
    /// From 1, per quest.
    pub version: i32,
    /// The config counter's value when this version was saved; grows with `version`.
    pub config_seq: i64,
    /// Of this version.
    pub status: QuestStatus,
    /// [`crate::definition::QuestDefinition::to_stored`]'s JSON, or what JSONB gave back for it.
    pub definition: Box<RawValue>,
}

/// What a quest's version says about whether events count for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuestStatus {
    /// Events count.
    Active,
    /// Events no longer count.
    Archived,
}

impl QuestStatus {
    /// As it stands in `quests.status` and on `config.quests`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Archived => "archived",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Active, Self::Archived]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod tests;
