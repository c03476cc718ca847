//! What all processors do with a record before they look into it.

use bm_contracts::GameEvent;
use bm_contracts::headers::Kind;
use bm_engine::{Poison, Record};
use serde::Serialize;

/// Refuses commands, barriers and deltas, which this version does not send.
pub(crate) fn expect_event(record: &Record) -> Result<(), Poison> {
    match record.kind() {
        Ok(Kind::Event) => Ok(()),
        Ok(kind) => Err(Poison::new(
            "unsupported_kind",
            format!("records of kind {} are not supported here", kind.as_str()),
        )),
        Err(e) => Err(Poison::new("bad_header", e.to_string())),
    }
}

/// Reads the record's value as a game event.
pub(crate) fn decode_event(record: &Record) -> Result<GameEvent, Poison> {
    GameEvent::from_json(&record.value).map_err(|e| Poison::new("undecodable", e.to_string()))
}

/// Refuses a record that did not travel under its player's key, since another lane owns that player.
pub(crate) fn expect_key(record: &Record, key: &str) -> Result<(), Poison> {
    if record.key == key.as_bytes() {
        Ok(())
    } else {
        Err(Poison::new(
            "wrong_key",
            format!("the record's key is not {key}"),
        ))
    }
}

/// Writes a message. Ours are made of texts, numbers and JSON already read, which always encode.
pub(crate) fn encode(message: &impl Serialize) -> Result<Vec<u8>, Poison> {
    serde_json::to_vec(message).map_err(|e| Poison::new("unencodable", e.to_string()))
}
