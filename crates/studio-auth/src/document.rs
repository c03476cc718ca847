//! Reading a studio document, the same wherever it comes from: Firestore, a file, the last-known copy.
//!
//! What decides who the studio is and whether its keys are taken (`id`, `tier`,
//! `subscriptionStatus`) must be right, or the document is refused. Anything else that is wrong (one
//! key, `rateLimit`, `features`) is left out and reported as a fault, so that a slip in a new key
//! does not lock out the old one. No fault ever quotes a key. A plain key counts only where its hash
//! field holds no hash.

use std::collections::BTreeSet;
use std::sync::Arc;

use bm_contracts::{IdError, StudioId, Timestamp};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::studio::{KeyKind, RateLimit, Studio, Subscription, Tier};

/// The longest key there is, in bytes; a longer one is unknown without looking.
pub const MAX_KEY_BYTES: usize = 512;

/// SHA-256 of an API key. Its `Debug` form shows nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a key as the client sends it.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// 64 lower-case hexadecimal digits, as documents hold it.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// A key of a studio, known by its hash only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudioKey {
    /// SHA-256 of the key.
    pub hash: KeyHash,
    /// What it may do.
    pub kind: KeyKind,
    /// For people.
    pub name: Option<String>,
    /// From this moment on the key is refused.
    pub expires_at: Option<Timestamp>,
}

/// Why a document is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// The document is not an object.
    #[error("a studio document must be an object")]
    NotAnObject,
    /// Its id is none.
    #[error("the studio's id {0}")]
    Id(#[from] IdError),
    /// A field that must be there is missing or not what it must be.
    #[error("{field} must be {expected}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

/// A studio with its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudioDocument {
    /// The studio.
    pub studio: Arc<Studio>,
    /// Its keys, expired ones too.
    pub keys: Vec<StudioKey>,
    /// What was left out, a sentence each.
    pub faults: Vec<String>,
}

impl StudioDocument {
    /// Reads the document `value` whose id is `id`.
    pub fn from_json(id: &str, value: &Value) -> Result<Self, DocumentError> {
        let fields = value.as_object().ok_or(DocumentError::NotAnObject)?;
        let id = StudioId::new(id)?;
        let tier = text(fields, "tier").and_then(Tier::parse);
        let tier = tier.ok_or(DocumentError::Field {
            field: "tier",
            expected: "ecosystem, pro or enterprise",
        })?;
        let subscription = text(fields, "subscriptionStatus").map(Subscription::parse);
        let subscription = subscription.ok_or(DocumentError::Field {
            field: "subscriptionStatus",
            expected: "a text, such as active or trialing",
        })?;

        let mut faults = Vec::new();
        let name = text(fields, "name").filter(|name| !name.is_empty());
        let studio = Studio {
            name: name.unwrap_or(id.as_str()).to_owned(),
            id,
            tier,
            subscription,
            features: features(given(fields, "features"), &mut faults),
            rate_limit: rate_limit(given(fields, "rateLimit"), &mut faults),
        };
        let keys = keys(fields, &mut faults);
        Ok(Self {
            studio: Arc::new(studio),
            keys,
            faults,
        })
    }

    /// Reads the document, and logs what is wrong with it; `None` when it is refused.
    pub(crate) fn read_or_report(id: &str, value: &Value) -> Option<Self> {
        match Self::from_json(id, value) {
            Ok(document) => {
                for fault in &document.faults {
                    tracing::error!(
                        studio.id = id,
                        fault,
                        "part of a studio document is left out"
                    );
                }
                Some(document)
            }
            Err(error) => {
                tracing::error!(studio.id = id, %error, "a studio document is broken; its keys are refused");
                None
            }
        }
    }

    /// The document with hashes for keys, as [`StudioDocument::from_json`] reads it back. Faults are
    /// not part of it.
    pub fn to_json(&self) -> Value {
        let keys: Vec<Value> = self
            .keys
            .iter()
            .map(|key| {
                let mut entry = json!({ "hash": key.hash.to_hex(), "kind": key.kind.as_str() });
                if let Some(name) = &key.name {
                    entry["name"] = json!(name);
                }
                if let Some(at) = key.expires_at {
                    entry["expiresAt"] = json!(at.as_millis());
                }
                entry
            })
            .collect();
        let mut document = json!({
            "name": self.studio.name,
            "tier": self.studio.tier.as_str(),
            "subscriptionStatus": self.studio.subscription.as_str(),
            "features": self.studio.features,
            "keys": keys,
        });
        if let Some(limit) = &self.studio.rate_limit {
            let mut entry = Map::new();
            for (name, value) in [
                ("requestsPerMinute", limit.requests_per_minute),
                ("burst", limit.burst),
                ("eventsPerMinute", limit.events_per_minute),
                ("eventsBurst", limit.events_burst),
                ("playerEventsPerMinute", limit.player_events_per_minute),
            ] {
                if let Some(value) = value {
                    entry.insert(name.to_owned(), json!(value));
                }
            }
            document["rateLimit"] = Value::Object(entry);
        }
        document
    }
}

/// A field that is there and not null.
fn given<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    given(fields, name)?.as_str()
}

/// `features` as a list of names, or as a map from names to true and false.
fn features(value: Option<&Value>, faults: &mut Vec<String>) -> Vec<String> {
    let names: Option<BTreeSet<String>> = match value {
        None => Some(BTreeSet::new()),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect(),
        Some(Value::Object(switches)) => switches
            .iter()
            .map(|(name, on)| Some((name, on.as_bool()?)))
            .collect::<Option<Vec<_>>>()
            .map(|switches| {
                let on = switches.into_iter().filter(|(_, on)| *on);
                on.map(|(name, _)| name.clone()).collect()
            }),
        Some(_) => None,
    };
    if names.is_none() {
        faults.push("features must be a list of texts, or a map of true and false".to_owned());
    }
    names.unwrap_or_default().into_iter().collect()
}

/// `rateLimit` as a map of limits, or as the number of requests a minute.
fn rate_limit(value: Option<&Value>, faults: &mut Vec<String>) -> Option<RateLimit> {
    let mut read = |name: &str, value: Option<&Value>| -> Option<u32> {
        let value = value?;
        let number = whole(value)
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n >= 1);
        if number.is_none() {
            faults.push(format!(
                "{name} must be a whole number from 1 to {}",
                u32::MAX
            ));
        }
        number
    };
    let limit = match value? {
        Value::Object(fields) => RateLimit {
            requests_per_minute: read(
                "rateLimit.requestsPerMinute",
                given(fields, "requestsPerMinute"),
            ),
            burst: read("rateLimit.burst", given(fields, "burst")),
            events_per_minute: read(
                "rateLimit.eventsPerMinute",
                given(fields, "eventsPerMinute"),
            ),
            events_burst: read("rateLimit.eventsBurst", given(fields, "eventsBurst")),
            player_events_per_minute: read(
                "rateLimit.playerEventsPerMinute",
                given(fields, "playerEventsPerMinute"),
            ),
        },
        other => RateLimit {
            requests_per_minute: read("rateLimit", Some(other)),
            ..RateLimit::default()
        },
    };
    (limit != RateLimit::default()).then_some(limit)
}

/// A whole number, whichever way it is written: other systems store 60 as 60.0.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        let exact = number.fract() == 0.0 && number.abs() < 9e15;
        exact.then_some(number as i64)
    })
}

fn keys(fields: &Map<String, Value>, faults: &mut Vec<String>) -> Vec<StudioKey> {
    let mut keys = Vec::new();
    for (plain, hashed, kind) in [
        ("apiKey", "apiKeyHash", KeyKind::Client),
        ("secretKey", "secretKeyHash", KeyKind::Server),
    ] {
        let plain_hash = given(fields, plain).map(|value| {
            let key = value
                .as_str()
                .filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len()));
            key.map(KeyHash::of)
                .ok_or_else(|| format!("{plain} must be a text of 1 to {MAX_KEY_BYTES} bytes"))
        });
        let given_hash = given(fields, hashed).map(|value| {
            let hash = value.as_str().and_then(KeyHash::from_hex);
            hash.ok_or_else(|| format!("{hashed} must be 64 hexadecimal digits"))
        });
        // A plain key beside its hash is what a studio left behind when it moved to hashes: it must
        // not outlive the rotations since.
        let plain_hash = plain_hash.filter(|_| !matches!(given_hash, Some(Ok(_))));
        for hash in [given_hash, plain_hash].into_iter().flatten() {
            match hash {
                Ok(hash) => keys.push(StudioKey {
                    hash,
                    kind,
                    name: None,
                    expires_at: None,
                }),
                Err(fault) => faults.push(fault),
            }
        }
    }
    match given(fields, "keys") {
        None => {}
        Some(Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                match listed_key(item) {
                    Ok(key) => keys.push(key),
                    Err(fault) => faults.push(format!("keys[{i}]{fault}")),
                }
            }
        }
        Some(_) => faults.push("keys must be a list".to_owned()),
    }
    keys
}

fn listed_key(item: &Value) -> Result<StudioKey, &'static str> {
    let fields = item.as_object().ok_or(" must be an object")?;
    let hash = text(fields, "hash").and_then(KeyHash::from_hex);
    let kind = text(fields, "kind").and_then(KeyKind::parse);
    let expires_at = match given(fields, "expiresAt") {
        None => None,
        Some(Value::String(text)) => Some(Timestamp::parse_rfc3339(text).ok()),
        Some(number) => Some(whole(number).and_then(|n| Timestamp::from_millis(n).ok())),
    };
    Ok(StudioKey {
        hash: hash.ok_or(".hash must be 64 hexadecimal digits")?,
        kind: kind.ok_or(".kind must be client or server")?,
        name: text(fields, "name").map(str::to_owned),
        // A key whose end nobody can read must not live for ever.
        expires_at: match expires_at {
            Some(None) => return Err(".expiresAt must be a time"),
            Some(at) => at,
            None => None,
        },
    })
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
