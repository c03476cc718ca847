//! What a batch knows of stored states: loaded for it, or remembered by its lanes; and what they remember of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;

use bm_engine::Domain;
use bm_engine::domain::LoadedStates;
use lru::LruCache;

use crate::slot::Slot;

/// Every key the database was asked for in a batch; `None` where it has no row.
pub(crate) type Loaded<K, S> = HashMap<K, Option<S>>;

/// What the list and the table of the cache take per entry, about.
const ENTRY_BYTES: usize = 64;

/// The states a lane remembers, least recently used first to go; bounded by the memory they take.
pub(crate) struct StateCache<K: Hash + Eq, S> {
    /// Each with the bytes it was counted as; `None` for keys known to have no row.
    entries: LruCache<K, (Option<S>, usize)>,
    bytes: usize,
    limit: usize,
}

impl<K: Hash + Eq, S> fmt::Debug for StateCache<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateCache")
            .field("entries", &self.entries.len())
            .field("bytes", &self.bytes)
            .field("limit", &self.limit)
            .finish()
    }
}

impl<K: Hash + Eq, S> StateCache<K, S> {
    /// Holds nothing yet, and never more than `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: LruCache::unbounded(),
            bytes: 0,
            limit,
        }
    }

    /// The state of a key; `None` when it is known to have no row, and when nothing is known of it.
    pub(crate) fn state(&self, key: &K) -> Option<&S> {
        self.entries.peek(key)?.0.as_ref()
    }

    /// Whether anything is known of a key.
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.entries.contains(key)
    }

    /// Remembers a state; `heap` is what key and state point to. What was used longest ago makes
    /// room; a state too large for the whole cache is not remembered.
    pub(crate) fn put(&mut self, key: K, state: Option<S>, heap: usize) {
        let size = ENTRY_BYTES + size_of::<K>() + size_of::<S>() + heap;
        if size > self.limit {
            self.forget(&key);
            return;
        }
        self.bytes += size;
        if let Some((_, before)) = self.entries.put(key, (state, size)) {
            self.bytes -= before;
        }
        while self.bytes > self.limit
            && let Some((_, (_, size))) = self.entries.pop_lru()
        {
            self.bytes -= size;
        }
    }

    fn forget(&mut self, key: &K) {
        if let Some((_, size)) = self.entries.pop(key) {
            self.bytes -= size;
        }
    }

    /// Marks a key as used.
    pub(crate) fn promote(&mut self, key: &K) {
        self.entries.promote(key);
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

/// The states of a batch: what was loaded, and what the lanes' memories hold.
pub(crate) struct View<'a, D: Domain> {
    pub(crate) keys: &'a BTreeMap<D::Key, i32>,
    pub(crate) loaded: Loaded<D::Key, D::State>,
    pub(crate) caches: BTreeMap<i32, &'a StateCache<D::Key, D::State>>,
}

impl<D: Domain> LoadedStates<D> for View<'_, D> {
    fn get(&self, key: &D::Key) -> Option<&D::State> {
        if let Some(found) = self.loaded.get(key) {
            return found.as_ref();
        }
        let cache = self.caches.get(self.keys.get(key)?)?;
        cache.state(key)
    }
}

/// Keeps a committed batch's states in the memories of the lanes it ended with.
///
/// A lane that was refused on the way has forgotten everything: what was loaded for it may be older
/// than what its other owner has written, and its next epoch must not begin with that.
pub(crate) fn remember<K: Clone + Ord + Hash, S>(
    slots: &mut BTreeMap<i32, Slot<K, S>>,
    kept: &BTreeSet<i32>,
    keys: &BTreeMap<K, i32>,
    mut loaded: Loaded<K, S>,
    changed: BTreeMap<K, S>,
    heap_bytes: impl Fn(&K, Option<&S>) -> usize,
) {
    let mut changed = changed.into_iter().peekable();
    for (key, partition) in keys {
        // Both are in the order of keys.
        while changed.next_if(|(other, _)| other < key).is_some() {}
        let state = changed.next_if(|(other, _)| other == key);
        if !kept.contains(partition) {
            continue;
        }
        let Some(cache) = slots
            .get_mut(partition)
            .and_then(|slot| slot.cache.as_mut())
        else {
            continue;
        };
        let newest = match state {
            Some((_, state)) => Some(Some(state)),
            None => loaded.remove(key),
        };
        match newest {
            Some(state) => {
                let heap = heap_bytes(key, state.as_ref());
                cache.put(key.clone(), state, heap);
            }
            // It was remembered. Others of the batch may have pushed it out since: then nothing is
            // known of it, which is not the same as that it has no row.
            None => {
                cache.promote(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::flow::Flow;

    type Slots = BTreeMap<i32, Slot<&'static str, u8>>;

    /// What one state of these tests takes.
    const ONE: usize = ENTRY_BYTES + size_of::<&str>() + size_of::<u8>() + HEAP;
    const HEAP: usize = 100;

    fn slots(lanes: i32, cached: usize) -> Slots {
        (0..lanes)
            .map(|partition| {
                (
                    partition,
                    Slot::new(cached * ONE, Flow::new(Arc::default())),
                )
            })
            .collect()
    }

    fn heap(_: &&str, _: Option<&u8>) -> usize {
        HEAP
    }

    /// What a lane remembers, by key; 0 for no row.
    fn known(slots: &Slots, partition: i32) -> BTreeMap<&'static str, u8> {
        let cache = slots[&partition].cache.as_ref().unwrap();
        let entries = cache.entries.iter();
        entries
            .map(|(key, (state, _))| (*key, state.unwrap_or(0)))
            .collect()
    }

    #[test]
    fn a_lane_refused_in_a_batch_remembers_nothing_of_it() {
        let mut slots = slots(2, 10);
        let keys = BTreeMap::from([("a", 0), ("new", 0), ("b", 1), ("gone", 1)]);
        let loaded = [
            ("a", Some(1)),
            ("new", None),
            ("b", Some(1)),
            ("gone", None),
        ]
        .into();
        let kept = BTreeSet::from([0]);
        remember(&mut slots, &kept, &keys, loaded, [("a", 2)].into(), heap);
        assert_eq!(known(&slots, 0), [("a", 2), ("new", 0)].into());
        assert_eq!(known(&slots, 1), BTreeMap::new());
    }

    #[test]
    fn a_state_pushed_out_by_its_own_batch_is_not_taken_for_missing() {
        let mut slots = slots(1, 2);
        let kept = BTreeSet::from([0]);
        let first = BTreeMap::from([("y", 0), ("z", 0)]);
        let loaded = [("y", Some(1)), ("z", Some(1))].into();
        remember(&mut slots, &kept, &first, loaded, BTreeMap::new(), heap);
        // Looks at the remembered two without changing them, behind two that are new.
        let second = BTreeMap::from([("a", 0), ("b", 0), ("y", 0), ("z", 0)]);
        let loaded = [("a", Some(5)), ("b", None)].into();
        remember(&mut slots, &kept, &second, loaded, BTreeMap::new(), heap);
        assert_eq!(known(&slots, 0), [("a", 5), ("b", 0)].into());
    }

    #[test]
    fn memory_is_bounded_by_what_the_states_take() {
        let mut cache = StateCache::new(3 * ONE);
        for key in ["a", "b", "c"] {
            cache.put(key, Some(1_u8), HEAP);
        }
        cache.promote(&"a");
        // As large as two of the others: the two used longest ago go.
        cache.put("large", Some(2), HEAP + ONE);
        let known = |cache: &StateCache<&str, u8>, key| cache.contains(&key);
        assert!(known(&cache, "a") && known(&cache, "large"));
        assert!(!known(&cache, "b") && !known(&cache, "c"));
        // Grown beyond everything, it is not remembered: neither as it is nor as it was.
        cache.put("large", Some(3), 10 * ONE);
        assert!(!known(&cache, "large"));
        cache.put("a", Some(4), HEAP);
        assert_eq!(cache.bytes, ONE);
        cache.clear();
        assert_eq!((cache.bytes, cache.entries.len()), (0, 0));
    }
}
