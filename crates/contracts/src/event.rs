//! A game event as it travels on the bus: the client's JSON and what the gateway adds.

use std::borrow::Cow;
use std::io::Write;

use serde_json::value::RawValue;

use crate::fields::{EventFields, FieldsError, string};
use crate::ids::{EventId, GameId, IdError, StudioId, UserId};
use crate::time::Timestamp;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventType {
    /// A match began.
    MatchStart,
    /// A match ended.
    MatchEnd,
    /// A score changed.
    ScoreUpdate,
    /// A level was completed.
    LevelComplete,
    /// An item was collected.
    ItemCollected,
    /// An enemy was killed.
    EnemyKilled,
    /// The player did something a quest asks for.
    QuestAction,
    /// An achievement was unlocked.
    AchievementUnlocked,
    /// What `eventName` says.
    Custom,
}

impl EventType {
    /// Every type there is.
    pub const ALL: [Self; 9] = [
        Self::MatchStart,
        Self::MatchEnd,
        Self::ScoreUpdate,
        Self::LevelComplete,
        Self::ItemCollected,
        Self::EnemyKilled,
        Self::QuestAction,
        Self::AchievementUnlocked,
        Self::Custom,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MatchStart => "match_start",
            Self::MatchEnd => "match_end",
            Self::ScoreUpdate => "score_update",
            Self::LevelComplete => "level_complete",
            Self::ItemCollected => "item_collected",
            Self::EnemyKilled => "enemy_killed",
            Self::QuestAction => "quest_action",
            Self::AchievementUnlocked => "achievement_unlocked",
            Self::Custom => "custom",
        }
    }

    /// The type of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == name)
    }
}

impl std::fmt::Display for EventType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Longest `eventName`, in characters.
pub const EVENT_NAME_MAX_CHARS: usize = 50;

/// An event as the bus carries it (`game.events`, and the feature topics).
#[derive(Debug, Clone)]
pub struct GameEvent {
    /// What happened.
    pub event_type: EventType,
    /// What a `custom` event is.
    pub event_name: Option<String>,
    /// Who it happened to.
    pub user_id: UserId,
    /// In which game.
    pub game_id: GameId,
    /// When, by the client's word.
    pub timestamp: Timestamp,
    /// The client's, or made by the gateway.
    pub event_id: EventId,
    /// Whose game it is.
    pub studio_id: StudioId,
    /// The studio's tier when the event was accepted.
    pub studio_tier: String,
    /// When the broker appended it to `game.events`; there once the router has seen the event.
    pub ingested_at: Option<Timestamp>,
    /// A JSON object, as the client sent it.
    pub metadata: Option<Box<RawValue>>,
    /// Top-level fields we do not know, in the client's order.
    pub extra: Vec<(String, Box<RawValue>)>,
}

/// A record's value is not an event of the bus.
#[derive(Debug, thiserror::Error)]
pub enum EventDecodeError {
    /// Not a JSON object, or a field twice.
    #[error(transparent)]
    Fields(#[from] FieldsError),
    /// A required field is not there.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A field has the wrong type or form.
    #[error("field {field}: {why}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl GameEvent {
    /// Reads a record's value.
    pub fn from_json(bytes: &[u8]) -> Result<Self, EventDecodeError> {
        let fields = EventFields::parse(bytes)?;
        let id = |field: &'static str| {
            move |e: IdError| EventDecodeError::Invalid {
                field,
                why: e.to_string(),
            }
        };
        let event_type = text("eventType", fields.event_type)?;
        Ok(Self {
            event_type: EventType::parse(&event_type).ok_or_else(|| EventDecodeError::Invalid {
                field: "eventType",
                why: format!("unknown event type: {event_type}"),
            })?,
            event_name: match fields.event_name {
                None => None,
                some => Some(text("eventName", some)?.into_owned()),
            },
            user_id: UserId::new(text("userId", fields.user_id)?).map_err(id("userId"))?,
            game_id: GameId::new(text("gameId", fields.game_id)?).map_err(id("gameId"))?,
            timestamp: timestamp(
                fields
                    .timestamp
                    .ok_or(EventDecodeError::Missing("timestamp"))?,
            )
            .ok_or_else(|| EventDecodeError::Invalid {
                field: "timestamp",
                why: crate::time::TimestampError.to_string(),
            })?,
            event_id: EventId::new(text("eventId", fields.event_id)?).map_err(id("eventId"))?,
            studio_id: StudioId::new(text("studioId", fields.studio_id)?)
                .map_err(id("studioId"))?,
            studio_tier: text("studioTier", fields.studio_tier)?.into_owned(),
            ingested_at: match fields.ingested_at {
                None => None,
                Some(raw) => Some(timestamp(raw).ok_or_else(|| EventDecodeError::Invalid {
                    field: "ingestedAt",
                    why: crate::time::TimestampError.to_string(),
                })?),
            },
            metadata: fields
                .metadata
                .filter(|raw| raw.get() != "null")
                .map(ToOwned::to_owned),
            extra: fields
                .extra
                .into_iter()
                .map(|(name, raw)| (name.into_owned(), raw.to_owned()))
                .collect(),
        })
    }

    /// Writes the record's value; the timestamp in its one form, RFC 3339.
    pub fn to_json(&self) -> Vec<u8> {
        self.to_record().1
    }

    /// Writes the record: its key, `gameId:userId`, and its value.
    pub fn to_record(&self) -> (String, Vec<u8>) {
        let key = crate::partition::player_key(&self.game_id, &self.user_id);
        let metadata = self.metadata.as_deref().map_or("", |raw| raw.get());
        let mut out = Vec::with_capacity(384 + metadata.len());
        let mut open = b'{';
        let mut field = |out: &mut Vec<u8>, name: &str, write: &dyn Fn(&mut Vec<u8>)| {
            out.push(std::mem::replace(&mut open, b','));
            write_string(out, name);
            out.push(b':');
            write(out);
        };
        field(&mut out, "eventType", &|o| {
            write_string(o, self.event_type.as_str());
        });
        if let Some(name) = &self.event_name {
            field(&mut out, "eventName", &|o| write_string(o, name));
        }
        field(&mut out, "userId", &|o| {
            write_string(o, self.user_id.as_str());
        });
        field(&mut out, "gameId", &|o| {
            write_string(o, self.game_id.as_str());
        });
        field(&mut out, "timestamp", &|o| write_time(o, self.timestamp));
        field(&mut out, "eventId", &|o| {
            write_string(o, self.event_id.as_str());
        });
        field(&mut out, "studioId", &|o| {
            write_string(o, self.studio_id.as_str());
        });
        field(&mut out, "studioTier", &|o| {
            write_string(o, &self.studio_tier);
        });
        field(&mut out, "partitionKey", &|o| {
            write_string(o, &key);
        });
        if let Some(at) = self.ingested_at {
            field(&mut out, "ingestedAt", &|o| write_time(o, at));
        }
        if !metadata.is_empty() {
            field(&mut out, "metadata", &|o| {
                o.extend_from_slice(metadata.as_bytes());
            });
        }
        for (name, raw) in &self.extra {
            field(&mut out, name, &|o| {
                o.extend_from_slice(raw.get().as_bytes());
            });
        }
        out.push(b'}');
        (key, out)
    }
}

fn text<'a>(
    field: &'static str,
    raw: Option<&'a RawValue>,
) -> Result<Cow<'a, str>, EventDecodeError> {
    let raw = raw.ok_or(EventDecodeError::Missing(field))?;
    string(raw).ok_or_else(|| EventDecodeError::Invalid {
        field,
        why: "must be a string".to_owned(),
    })
}

/// Reads a timestamp in either of its forms: RFC 3339 text, or integer milliseconds since the epoch.
pub fn timestamp(raw: &RawValue) -> Option<Timestamp> {
    let text = raw.get();
    if text.starts_with('"') {
        Timestamp::parse_rfc3339(&string(raw)?).ok()
    } else {
        Timestamp::from_millis(text.parse().ok()?).ok()
    }
}

fn write_time(out: &mut Vec<u8>, at: Timestamp) {
    // Nothing in it needs escaping, and writing to memory cannot fail.
    let _ = write!(out, "\"{at}\"");
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::body_hash;

    const GOLDEN: &str = include_str!("../golden/game_event.json");

    #[test]
    fn the_golden_event_reads_and_writes_back() {
        let event = GameEvent::from_json(GOLDEN.as_bytes()).unwrap();
        assert_eq!(event.event_type, EventType::EnemyKilled);
        assert_eq!(event.extra.len(), 1);
        assert_eq!(
            String::from_utf8(event.to_json()).unwrap(),
            GOLDEN.trim_end()
        );
    }

    #[test]
    fn the_body_hash_ignores_order_and_form_of_the_timestamp_but_not_content() {
        let hash = |text: &str| body_hash(&GameEvent::from_json(text.as_bytes()).unwrap());
        let a = r#"{"eventType":"custom","userId":"u","gameId":"g","timestamp":1000,"eventId":"e1","studioId":"s","studioTier":"pro","x":1,"y":2}"#;
        let b = r#"{"y":2,"x":1,"eventType":"custom","gameId":"g","userId":"u","timestamp":"1970-01-01T00:00:01Z","eventId":"e2","studioId":"s","studioTier":"pro"}"#;
        let c = a.replace("\"x\":1", "\"x\":3");
        assert_eq!(hash(a), hash(b));
        assert_ne!(hash(a), hash(&c));
    }
}
