//! What a batch knows of stored states: loaded for it, or remembered by its lanes; and what they remember of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use bm_engine::Domain;
use bm_engine::domain::LoadedStates;
use lru::LruCache;

use crate::slot::Slot;

/// Every key the database was asked for in a batch; `None` where it has no row.
pub(crate) type Loaded<K, S> = HashMap<K, Option<S>>;

/// The states of a batch: what was loaded, and what the lanes' memories hold.
pub(crate) struct View<'a, D: Domain> {
    pub(crate) keys: &'a BTreeMap<D::Key, i32>,
    pub(crate) loaded: Loaded<D::Key, D::State>,
    pub(crate) caches: BTreeMap<i32, &'a LruCache<D::Key, Option<D::State>>>,
}

impl<D: Domain> LoadedStates<D> for View<'_, D> {
    fn get(&self, key: &D::Key) -> Option<&D::State> {
        if let Some(found) = self.loaded.get(key) {
            return found.as_ref();
        }
        let cache = self.caches.get(self.keys.get(key)?)?;
        cache.peek(key)?.as_ref()
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
    mut changed: BTreeMap<K, S>,
) {
    for (key, partition) in keys.iter().filter(|(_, lane)| kept.contains(lane)) {
        let Some(cache) = slots
            .get_mut(partition)
            .and_then(|slot| slot.cache.as_mut())
        else {
            continue;
        };
        let newest = changed.remove(key).map(Some).or_else(|| loaded.remove(key));
        match newest {
            Some(state) => {
                cache.put(key.clone(), state);
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
    use super::*;

    type Slots = BTreeMap<i32, Slot<&'static str, u8>>;

    fn slots(lanes: i32, cached: usize) -> Slots {
        (0..lanes)
            .map(|partition| (partition, Slot::new(cached)))
            .collect()
    }

    /// What a lane remembers, by key; 0 for no row.
    fn known(slots: &Slots, partition: i32) -> BTreeMap<&'static str, u8> {
        let cache = slots[&partition].cache.as_ref().unwrap();
        cache
            .iter()
            .map(|(key, state)| (*key, state.unwrap_or(0)))
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
        remember(&mut slots, &kept, &keys, loaded, [("a", 2)].into());
        assert_eq!(known(&slots, 0), [("a", 2), ("new", 0)].into());
        assert_eq!(known(&slots, 1), BTreeMap::new());
    }

    #[test]
    fn a_state_pushed_out_by_its_own_batch_is_not_taken_for_missing() {
        let mut slots = slots(1, 2);
        let kept = BTreeSet::from([0]);
        let first = BTreeMap::from([("y", 0), ("z", 0)]);
        let loaded = [("y", Some(1)), ("z", Some(1))].into();
        remember(&mut slots, &kept, &first, loaded, BTreeMap::new());
        // Looks at the remembered two without changing them, behind two that are new.
        let second = BTreeMap::from([("a", 0), ("b", 0), ("y", 0), ("z", 0)]);
        let loaded = [("a", Some(5)), ("b", None)].into();
        remember(&mut slots, &kept, &second, loaded, BTreeMap::new());
        assert_eq!(known(&slots, 0), [("a", 5), ("b", 0)].into());
    }
}
