//! The immutable index from key hashes to studios that a look-up reads.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bm_contracts::{StudioId, Timestamp};

use crate::document::{KeyHash, StudioDocument};
use crate::studio::{AuthError, Authenticated, KeyKind, Studio};

/// A key and whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    studio: Arc<Studio>,
    kind: KeyKind,
    expires_at: Option<Timestamp>,
}

impl Owner {
    /// What the owner of this key may do at `now`.
    pub(crate) fn admit(&self, now: Timestamp) -> Result<Authenticated, AuthError> {
        if self.expires_at.is_some_and(|at| at <= now) {
            Err(AuthError::Unknown)
        } else if !self.studio.subscription.is_active() {
            Err(AuthError::Inactive)
        } else {
            Ok(Authenticated {
                studio: Arc::clone(&self.studio),
                kind: self.kind,
            })
        }
    }
}

/// What the index knows of a key.
#[derive(Debug)]
pub(crate) enum Slot {
    /// One studio's key, perhaps expired.
    Owned(Owner),
    /// Two studios claim the key. It must identify one, so it identifies none; and that is known,
    /// so there is no reason to ask anybody.
    Disputed,
}

impl Slot {
    /// What the owner of this key may do at `now`.
    pub(crate) fn admit(&self, now: Timestamp) -> Result<Authenticated, AuthError> {
        match self {
            Self::Owned(owner) => owner.admit(now),
            Self::Disputed => Err(AuthError::Unknown),
        }
    }
}

/// A key that two studios claim, so that it is refused for both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispute {
    /// Who had it first in the order of the documents.
    pub first: StudioId,
    /// Who claims it too.
    pub second: StudioId,
}

/// All keys of all studios by their SHA-256.
#[derive(Debug, Default)]
pub struct KeyIndex {
    slots: HashMap<KeyHash, Slot>,
    studios: usize,
}

impl KeyIndex {
    /// Indexes `documents`.
    ///
    /// A key listed twice by one studio lives as long as the longer-lived listing and may do what
    /// the weaker one may. A key listed by two studios is refused for both: whichever were chosen,
    /// the other's events would be booked to it.
    pub fn build<'a>(
        documents: impl IntoIterator<Item = &'a StudioDocument>,
    ) -> (Self, Vec<Dispute>) {
        let mut index = Self::default();
        let mut owners: HashMap<KeyHash, StudioId> = HashMap::new();
        let mut disputes = Vec::new();
        for document in documents {
            index.studios += 1;
            for key in &document.keys {
                let owner = Owner {
                    studio: Arc::clone(&document.studio),
                    kind: key.kind,
                    expires_at: key.expires_at,
                };
                match index.slots.entry(key.hash) {
                    Entry::Vacant(vacant) => {
                        vacant.insert(Slot::Owned(owner));
                        owners.insert(key.hash, document.studio.id.clone());
                    }
                    Entry::Occupied(mut occupied) => {
                        let first = owners.get(&key.hash);
                        if let Some(first) = first.filter(|first| **first != document.studio.id) {
                            disputes.push(Dispute {
                                first: first.clone(),
                                second: document.studio.id.clone(),
                            });
                            occupied.insert(Slot::Disputed);
                        } else if let Slot::Owned(known) = occupied.get_mut() {
                            merge(known, &owner);
                        }
                    }
                }
            }
        }
        (index, disputes)
    }

    /// How many studios the index holds.
    pub fn studios(&self) -> usize {
        self.studios
    }

    /// How many different keys it holds.
    pub fn keys(&self) -> usize {
        self.slots.len()
    }

    /// Whose key hashes to `hash`, at `now`. Expired keys and keys two studios claim are unknown.
    pub fn lookup(&self, hash: &KeyHash, now: Timestamp) -> Result<Authenticated, AuthError> {
        self.find(hash)
            .map_or(Err(AuthError::Unknown), |slot| slot.admit(now))
    }

    /// What is known of the key; `None` when it is no studio's here.
    pub(crate) fn find(&self, hash: &KeyHash) -> Option<&Slot> {
        self.slots.get(hash)
    }
}

fn merge(known: &mut Owner, other: &Owner) {
    if other.kind == KeyKind::Client {
        known.kind = KeyKind::Client;
    }
    known.expires_at = match (known.expires_at, other.expires_at) {
        (Some(a), Some(b)) => Some(a.max(b)),
        _ => None,
    };
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document(id: &str, status: &str, keys: &Value) -> StudioDocument {
        let value = json!({ "tier": "pro", "subscriptionStatus": status, "keys": keys });
        StudioDocument::from_json(id, &value).unwrap()
    }

    fn key(key: &str, kind: &str, expires: Option<i64>) -> Value {
        json!({ "hash": KeyHash::of(key).to_hex(), "kind": kind, "expiresAt": expires })
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::clamped(millis)
    }

    #[test]
    fn a_key_is_refused_from_its_expiry_on() {
        let document = document("a", "active", &json!([key("k", "server", Some(100))]));
        let (index, _) = KeyIndex::build([&document]);
        let hash = KeyHash::of("k");
        assert_eq!(index.lookup(&hash, at(99)).unwrap().kind, KeyKind::Server);
        assert_eq!(index.lookup(&hash, at(100)), Err(AuthError::Unknown));
    }

    #[test]
    fn an_inactive_studio_is_told_so_and_an_unknown_key_is_not() {
        let document = document("a", "past_due", &json!([key("k", "client", None)]));
        let (index, _) = KeyIndex::build([&document]);
        assert_eq!(
            index.lookup(&KeyHash::of("k"), at(0)),
            Err(AuthError::Inactive)
        );
        assert_eq!(
            index.lookup(&KeyHash::of("l"), at(0)),
            Err(AuthError::Unknown)
        );
    }

    #[test]
    fn a_key_two_studios_claim_is_refused_for_both() {
        let a = document(
            "a",
            "active",
            &json!([key("k", "client", None), key("a", "client", None)]),
        );
        let b = document("b", "active", &json!([key("k", "client", None)]));
        let c = document("c", "active", &json!([key("k", "client", None)]));
        let (index, disputes) = KeyIndex::build([&a, &b, &c]);
        assert_eq!(
            index.lookup(&KeyHash::of("k"), at(0)),
            Err(AuthError::Unknown)
        );
        assert!(index.lookup(&KeyHash::of("a"), at(0)).is_ok());
        assert_eq!(disputes.len(), 2);
        assert_eq!(disputes[0].first.as_str(), "a");
        assert_eq!(disputes[0].second.as_str(), "b");
    }

    #[test]
    fn a_key_listed_twice_by_one_studio_is_the_weaker_kind_and_lives_longer() {
        let document = document(
            "a",
            "active",
            &json!([key("k", "server", Some(100)), key("k", "client", Some(200))]),
        );
        let (index, disputes) = KeyIndex::build([&document]);
        assert_eq!(disputes, []);
        let found = index.lookup(&KeyHash::of("k"), at(150)).unwrap();
        assert_eq!(found.kind, KeyKind::Client);
        assert_eq!((index.studios(), index.keys()), (1, 1));
    }
}
