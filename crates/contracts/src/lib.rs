//! What crosses a boundary in BrightMatter: ids, topics, keys, headers, messages, hashes. No I/O.

pub mod event;
pub mod fields;
pub mod hash;
pub mod headers;
pub mod ids;
pub mod messages;
pub mod partition;
pub mod time;
pub mod topics;

pub use event::{EventDecodeError, EventType, GameEvent};
pub use ids::{EventId, GameId, IdError, QuestId, StudioId, UserId};
pub use time::Timestamp;
pub use topics::{Topic, TopicNames};
