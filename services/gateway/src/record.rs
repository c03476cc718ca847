//! The record an accepted event becomes on the bus.

use bm_contracts::{GameEvent, headers, partition};
use bm_web::{CorrelationId, TraceParent};

/// A record for `game.events`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusRecord {
    /// `gameId:userId`
    pub key: String,
    /// Name and value, in order.
    pub headers: [(&'static str, String); 5],
    /// The event's JSON.
    pub value: Vec<u8>,
}

impl BusRecord {
    /// The record of `event`, tied to the request it came in.
    pub fn of(event: &GameEvent, correlation: &CorrelationId, trace: &TraceParent) -> Self {
        Self {
            key: partition::player_key(&event.game_id, &event.user_id),
            headers: [
                (headers::STUDIO_ID, event.studio_id.to_string()),
                (headers::GAME_ID, event.game_id.to_string()),
                (headers::EVENT_TYPE, event.event_type.to_string()),
                (headers::CORRELATION_ID, correlation.to_string()),
                (headers::TRACEPARENT, trace.as_str().to_owned()),
            ],
            value: event.to_json(),
        }
    }
}
