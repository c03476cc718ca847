//! The items a `unique` quest has counted: cheap to clone, because every change makes a new state.

use std::collections::BTreeSet;
use std::sync::Arc;

/// How many items may stand in `recent` before they are merged into `settled`.
const RECENT: usize = 64;

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
    fn from_iter<I: IntoIterator<Item = String>>(items: I) -> Self {
        Self {
            settled: Arc::new(items.into_iter().collect()),
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
