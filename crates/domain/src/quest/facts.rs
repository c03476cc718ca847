//! An event as quests look at it: decoded once, asked by many rules.

use std::sync::{Arc, OnceLock};

use bm_contracts::{GameEvent, Timestamp};
use serde_json::Value;

use crate::cel::CelEvent;

/// An event with what rules ask of it, each thing worked out once, when it is first asked for.
#[derive(Debug)]
pub struct EventFacts {
    event: Arc<GameEvent>,
    ingested_at: Timestamp,
    metadata: OnceLock<Result<Value, String>>,
    cel: OnceLock<CelEvent>,
}

impl EventFacts {
    /// Takes an event that the broker appended at `ingested_at`.
    pub fn new(event: impl Into<Arc<GameEvent>>, ingested_at: Timestamp) -> Self {
        Self {
            event: event.into(),
            ingested_at,
            metadata: OnceLock::new(),
            cel: OnceLock::new(),
        }
    }

    /// The event.
    pub fn event(&self) -> &Arc<GameEvent> {
        &self.event
    }

    /// The time that counts for it.
    pub fn ingested_at(&self) -> Timestamp {
        self.ingested_at
    }

    /// Its metadata, parsed; null where there is none. `Err` with the reason where it cannot be read:
    /// it is nested more than 128 deep, or has half a surrogate pair.
    pub fn metadata(&self) -> Result<&Value, &str> {
        let metadata = self.metadata.get_or_init(|| match &self.event.metadata {
            None => Ok(Value::Null),
            Some(raw) => serde_json::from_str(raw.get()).map_err(|e| e.to_string()),
        });
        metadata.as_ref().map_err(String::as_str)
    }

    /// The variable `event` of CEL.
    pub(crate) fn cel(&self) -> Result<&CelEvent, &str> {
        let metadata = self.metadata()?;
        let metadata = self.event.metadata.is_some().then_some(metadata);
        Ok(self
            .cel
            .get_or_init(|| CelEvent::new(&self.event, metadata)))
    }
}
