//! The messages services, studios and tools read: fixed JSON, to be added to and never renamed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::{GameId, QuestId, StudioId, UserId};
use crate::time::Timestamp;

/// `reward.events`: a feature grants a reward to a player.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RewardEvent {
    /// `grt_` + 32 hex; see [`crate::hash::grant_id`].
    pub grant_id: String,
    /// Whose game.
    pub studio_id: StudioId,
    /// Which game.
    pub game_id: GameId,
    /// Who is rewarded.
    pub user_id: UserId,
    /// What grants it: `quest_<questId>`, `tournament_…`, `battlepass_…`.
    pub source: String,
    /// The reward as the studio defined it: an object with a `type`, the rest opaque.
    pub reward: Box<RawValue>,
    /// Time of the event that earned it.
    pub timestamp: Timestamp,
}

/// `reward.status`: a grant changed its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RewardStatusChange {
    /// Which grant.
    pub grant_id: String,
    /// Whose game.
    pub studio_id: StudioId,
    /// Which game.
    pub game_id: GameId,
    /// Who is rewarded.
    pub user_id: UserId,
    /// The new status.
    pub status: GrantStatus,
    /// Time of the change.
    pub timestamp: Timestamp,
}

/// Where a grant stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GrantStatus {
    /// In the ledger, not delivered yet.
    Pending,
    /// The studio's endpoint took it.
    Delivered,
    /// The studio said it was handed to the player.
    Acknowledged,
    /// Given up.
    Failed,
}

impl GrantStatus {
    /// The name on the wire and in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Acknowledged => "acknowledged",
            Self::Failed => "failed",
        }
    }
}

/// `ui.updates`: what a player's screen should show. Readers keep the newest `version` per object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum UiUpdate {
    /// Absolute progress of one player in one quest.
    QuestProgress(QuestProgressUpdate),
}

/// The body of a `quest_progress` update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuestProgressUpdate {
    /// Which game.
    pub game_id: GameId,
    /// Whose progress.
    pub user_id: UserId,
    /// Which quest.
    pub quest_id: QuestId,
    /// How far.
    pub progress: Progress,
    /// Whether the quest is completed.
    pub completed: bool,
    /// Grows with every change of this player's progress in this quest.
    pub version: i64,
}

/// How far a player is: plain JSON numbers, exact decimals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Reached so far; may pass `target` by the last step.
    pub current: serde_json::Number,
    /// To be reached.
    pub target: serde_json::Number,
}

/// `config.*`: a saved definition; key `gameId:id`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMessage {
    /// Whose game.
    pub studio_id: StudioId,
    /// Which game.
    pub game_id: GameId,
    /// The definition's own id (questId, …).
    pub id: String,
    /// The definition's version, from 1.
    pub version: i32,
    /// Counts saves over all definitions; the newest version not above an event's stamp counts for it.
    pub config_seq: i64,
    /// `active`, `archived`, …
    pub status: String,
    /// As the studio wrote it.
    pub definition: Box<RawValue>,
}

/// `dead.letter`: a record, or one definition's share of it, that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Unprefixed topic the record was read from.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The processor that could not use it.
    pub service: String,
    /// Stable code of what is wrong.
    pub code: String,
    /// A sentence that says what is wrong.
    pub error: String,
    /// The definition that could not use it (`quest_<questId>`); none when nobody can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// Ties it to the request that caused it.
    pub correlation_id: Option<String>,
    /// The record's headers, in order; values that are not UTF-8 with replacement characters.
    pub headers: Vec<(String, String)>,
    /// The record's value, base64.
    pub value_base64: String,
    /// When it was given up.
    pub failed_at: Timestamp,
}

impl DeadLetter {
    /// Base64 as `valueBase64` holds it.
    pub fn encode_value(value: &[u8]) -> String {
        STANDARD.encode(value)
    }

    /// The record's value; `None` when the text is not base64.
    pub fn value(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.value_base64).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: Serialize + for<'a> Deserialize<'a>>(golden: &str) {
        let message: T = serde_json::from_str(golden).unwrap();
        assert_eq!(serde_json::to_string(&message).unwrap(), golden.trim_end());
    }

    #[test]
    fn the_golden_messages_read_and_write_back() {
        round_trip::<RewardEvent>(include_str!("../golden/reward_event.json"));
        round_trip::<RewardStatusChange>(include_str!("../golden/reward_status.json"));
        round_trip::<UiUpdate>(include_str!("../golden/ui_quest_progress.json"));
        round_trip::<ConfigMessage>(include_str!("../golden/config_quest.json"));
        round_trip::<DeadLetter>(include_str!("../golden/dead_letter.json"));
    }
}
