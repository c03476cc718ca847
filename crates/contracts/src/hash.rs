//! Ids and fingerprints derived from inputs, so that a replay derives the same ones.

use sha2::{Digest, Sha256};

use crate::event::EventRef;
use crate::ids::{EventId, GameId, StudioId, UserId};

/// Feeds a part with its length first, so that no two lists of parts read alike.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// The dedupe key of an event: 16 bytes of SHA-256 over studio, game, player and eventId.
pub fn event_key(studio: &StudioId, game: &GameId, user: &UserId, event: &EventId) -> [u8; 16] {
    let mut hash = Sha256::new();
    for text in [
        studio.as_str(),
        game.as_str(),
        user.as_str(),
        event.as_str(),
    ] {
        part(&mut hash, text.as_bytes());
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finalize()[..16]);
    key
}

/// Fingerprint (16 bytes of SHA-256) of what the client said in an event, without its eventId.
///
/// The same for any order of the top-level fields and either form of the timestamp. `metadata` and
/// kept extra fields count as the bytes sent: a retry repeats the bytes.
pub fn body_hash(event: &EventRef<'_>) -> [u8; 16] {
    let mut hash = Sha256::new();
    part(&mut hash, event.event_type.as_str().as_bytes());
    part(&mut hash, event.event_name.unwrap_or_default().as_bytes());
    part(&mut hash, event.user_id.as_str().as_bytes());
    part(&mut hash, event.game_id.as_str().as_bytes());
    part(&mut hash, &event.timestamp.as_millis().to_le_bytes());
    part(&mut hash, event.metadata.unwrap_or_default().as_bytes());
    let mut extra = event.extra.clone();
    extra.sort_unstable();
    for (name, json) in extra {
        part(&mut hash, name.as_bytes());
        part(&mut hash, json.as_bytes());
    }
    let mut out = [0; 16];
    out.copy_from_slice(&hash.finalize()[..16]);
    out
}

/// `grt_` + 32 hex of SHA-256 over studio, game, source, instance, player and index: the same grant
/// has the same id however often it is emitted.
///
/// `source` is what grants (`quest_<questId>`), `instance` which time it does (the period of a
/// repeating quest; empty for none), `index` the reward's place in the definition.
pub fn grant_id(
    studio: &StudioId,
    game: &GameId,
    source: &str,
    instance: &str,
    user: &UserId,
    index: usize,
) -> String {
    let mut hash = Sha256::new();
    for text in [
        studio.as_str(),
        game.as_str(),
        source,
        instance,
        user.as_str(),
    ] {
        part(&mut hash, text.as_bytes());
    }
    part(&mut hash, &(index as u64).to_le_bytes());
    format!("grt_{}", hex::encode(&hash.finalize()[..16]))
}

/// SHA-256 of an API key as lower-case hex: the form `apiKeyHash` and `secretKeyHash` hold.
pub fn key_hash(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

/// The first 8 bytes of SHA-256 of a record's key and value, as the lane remembers its last record by.
pub fn record_hash(key: &[u8], value: &[u8]) -> i64 {
    let mut hash = Sha256::new();
    part(&mut hash, key);
    part(&mut hash, value);
    let mut out = [0; 8];
    out.copy_from_slice(&hash.finalize()[..8]);
    i64::from_le_bytes(out)
}
