//! What all processors do with a record before they look into it.

use bm_contracts::headers::{self, Kind, Name};
use bm_contracts::partition::player_key;
use bm_contracts::{GameEvent, GameId, UserId};
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
pub(crate) fn expect_key(record: &Record, game: &GameId, user: &UserId) -> Result<(), Poison> {
    let user_of = |key| <[u8]>::strip_prefix(key, b":");
    let found = record.key.strip_prefix(game.as_str().as_bytes());
    if found.and_then(user_of) == Some(user.as_str().as_bytes()) {
        Ok(())
    } else {
        let key = player_key(game, user);
        Err(Poison::new(
            "wrong_key",
            format!("the record's key is not {key}"),
        ))
    }
}

/// The header that says of which kind a record is.
pub(crate) fn of_kind(kind: Kind) -> (Name, String) {
    (Name::Borrowed(headers::KIND), kind.as_str().to_owned())
}

/// Writes a message. Ours are made of texts, numbers and JSON already read, which always encode.
pub(crate) fn encode(message: &impl Serialize) -> Result<Vec<u8>, Poison> {
    // Most need less, so they need not be moved while they grow.
    let mut bytes = Vec::with_capacity(256);
    serde_json::to_writer(&mut bytes, message)
        .map_err(|e| Poison::new("unencodable", e.to_string()))?;
    Ok(bytes)
}
