//! An event as quests look at it: decoded once, asked by many rules.

use std::sync::OnceLock;

use bm_contracts::{GameEvent, Timestamp};
use serde_json::Value;

use crate::cel::CelEvent;

/// An event with what rules ask of it, each thing worked out once.
#[derive(Debug)]
pub struct EventFacts {
    event: GameEvent,
    ingested_at: Timestamp,
    metadata: Option<Value>,
    cel: OnceLock<CelEvent>,
}

impl EventFacts {
    /// Takes an event that the broker appended at `ingested_at`. `Err` when its metadata is nested
    /// deeper than can be read (128).
    pub fn new(event: GameEvent, ingested_at: Timestamp) -> Result<Self, serde_json::Error> {
        let metadata = event
            .metadata
            .as_deref()
            .map(|raw| serde_json::from_str(raw.get()))
            .transpose()?;
        Ok(Self {
            event,
            ingested_at,
            metadata,
            cel: OnceLock::new(),
        })
    }

    /// The event.
    pub fn event(&self) -> &GameEvent {
        &self.event
    }

    /// The time that counts for it.
    pub fn ingested_at(&self) -> Timestamp {
        self.ingested_at
    }

    /// Its metadata, parsed; null where there is none.
    pub fn metadata(&self) -> &Value {
        self.metadata.as_ref().unwrap_or(&Value::Null)
    }

    /// The variable `event` of CEL.
    pub fn cel(&self) -> &CelEvent {
        self.cel
            .get_or_init(|| CelEvent::new(&self.event, self.metadata.as_ref()))
    }
}
