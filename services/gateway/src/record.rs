//! The record an accepted event becomes on the bus.

use std::sync::Arc;

use bm_contracts::{EventType, GameEvent, GameId, StudioId, headers};
use bm_web::{CorrelationId, TraceParent};

/// What all records of one request have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whose request it is.
    pub studio: StudioId,
    /// The request's own id.
    pub correlation: CorrelationId,
    /// The trace it belongs to.
    pub trace: TraceParent,
}

/// A record for `game.events`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusRecord {
    /// `gameId:userId`
    pub key: String,
    /// The event's JSON.
    pub value: Vec<u8>,
    game: GameId,
    event_type: EventType,
    origin: Arc<Origin>,
}

impl BusRecord {
    /// The record of `event`, tied to the request it came in.
    pub fn of(event: GameEvent, origin: &Arc<Origin>) -> Self {
        let (key, value) = event.to_record();
        Self {
            key,
            value,
            game: event.game_id,
            event_type: event.event_type,
            origin: Arc::clone(origin),
        }
    }

    /// Name and value, in order.
    pub fn headers(&self) -> [(&'static str, &str); 5] {
        [
            (headers::STUDIO_ID, self.origin.studio.as_str()),
            (headers::GAME_ID, self.game.as_str()),
            (headers::EVENT_TYPE, self.event_type.as_str()),
            (headers::CORRELATION_ID, self.origin.correlation.as_str()),
            (headers::TRACEPARENT, self.origin.trace.as_str()),
        ]
    }
}
