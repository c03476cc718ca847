//! The items a `unique` quest has counted: cheap to clone, because every change makes a new state.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// How many items may stand in `recent` before they are merged into `settled`.
const RECENT: usize = 64;

/// Longest item kept as it is, in bytes; no shorter than a longer one's fingerprint without `#`.
const MAX_ITEM_BYTES: usize = 22;

/// One text per item, however the JSON writes it: JSON itself, or `#` and a fingerprint. `None` for
/// what is no item.
pub(super) fn canonical(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(_) | Value::Bool(_) => value.to_string(),
        Value::Number(number) => crate::json::Decimal::parse(number.as_str())?.canonical(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    Some(kept(text))
}

fn kept(text: String) -> String {
    if text.len() <= MAX_ITEM_BYTES {
        text
    } else {
        fingerprint(&Sha256::digest(text.as_bytes())[..16])
    }
}

fn fingerprint(digest: &[u8]) -> String {
    format!("#{}", URL_SAFE_NO_PAD.encode(digest))
}

/// An item as it is kept now, of one that was kept earlier: as it is up to 64 bytes, or as `#` and
/// the same digest in hex. JSON does not begin with `#`.
fn kept_now(item: String) -> String {
    let Some(digest) = item.strip_prefix('#') else {
        return kept(item);
    };
    let hex = |at: usize| u8::from_str_radix(digest.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..32).step_by(2).map(hex).collect();
    match bytes {
        Some(bytes) if digest.len() == 32 => fingerprint(&bytes),
        _ => item,
    }
}

/// A set of canonical item texts.
///
/// States are cloned with each change while memory holds the one before. So most items stand in a
/// shared part, and only the newest few are copied.
#[derive(Debug, Clone, Default)]
pub struct Items {
    settled: Arc<BTreeSet<String>>,
    recent: Vec<String>,
}

impl Items {
    /// Whether the item was counted.
    pub fn contains(&self, item: &str) -> bool {
        self.recent.iter().any(|known| known == item) || self.settled.contains(item)
    }

    /// Adds an item; `false` when it was there.
    pub fn insert(&mut self, item: String) -> bool {
        if self.contains(&item) {
            return false;
        }
        self.recent.push(item);
        if self.recent.len() > RECENT {
            Arc::make_mut(&mut self.settled).extend(self.recent.drain(..));
        }
        true
    }

    /// About how many bytes of memory they take, shared parts counted as their own.
    pub fn heap_bytes(&self) -> usize {
        let texts: usize = self.iter().map(str::len).sum();
        texts + self.len() * 2 * size_of::<String>()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.settled.len() + self.recent.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All items, each once, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.settled.iter().chain(&self.recent).map(String::as_str)
    }
}

impl FromIterator<String> for Items {
    /// Of stored items, those of earlier forms too.
    fn from_iter<I: IntoIterator<Item = String>>(items: I) -> Self {
        Self {
            settled: Arc::new(items.into_iter().map(kept_now).collect()),
            recent: Vec::new(),
        }
    }
}

impl PartialEq for Items {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|item| other.contains(item))
    }
}

impl Eq for Items {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_set_kept_earlier_knows_its_items() {
        let texts = [
            "x".repeat(20),
            "x".repeat(21),
            "y".repeat(62),
            "z".repeat(500),
        ];
        // As it was: up to 64 bytes as they are, longer ones as 16 bytes of digest in hex.
        let earlier = texts.iter().map(|text| {
            let json = Value::from(text.as_str()).to_string();
            if json.len() <= 64 {
                return json;
            }
            let digest = &Sha256::digest(json.as_bytes())[..16];
            let hex = digest.iter().map(|byte| format!("{byte:02x}"));
            format!("#{}", hex.collect::<String>())
        });
        let earlier: Vec<String> = earlier.collect();
        assert_eq!(earlier[3].len(), 33);
        let items: Items = earlier.into_iter().collect();
        for text in &texts {
            let item = canonical(&Value::from(text.as_str())).unwrap();
            assert!(item.len() <= 23 && items.contains(&item), "{item}");
        }
        assert_eq!(items.len(), texts.len());
        // As they are kept now they stay.
        let again: Items = items.iter().map(str::to_owned).collect();
        assert_eq!(again, items);
    }

    proptest! {
        #[test]
        fn items_behave_as_a_plain_set(inserted in prop::collection::vec(0..200u8, 0..400)) {
            let mut items = Items::default();
            let mut model = BTreeSet::new();
            for n in inserted {
                prop_assert_eq!(items.insert(n.to_string()), model.insert(n.to_string()));
                prop_assert_eq!(items.len(), model.len());
            }
            prop_assert_eq!(items.iter().map(str::to_owned).collect::<BTreeSet<_>>(), model.clone());
            prop_assert_eq!(items, model.into_iter().collect::<Items>());
        }
    }
}
