//! A hash of everything that decides what a core does next, for explicit-state search: two cores with
//! the same fingerprint react alike. Times enter as spans from now; what only counts does not enter.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;

use super::Coherence;
use crate::page::Time;

impl Coherence {
    /// Adds this core's state to `hasher`. All outputs must have been polled.
    pub fn fingerprint(&self, now: Time, hasher: &mut impl Hasher) {
        assert!(self.outbox.outputs.is_empty() && self.outbox.local.is_empty(), "outputs wait");
        for &(to, message, due) in &self.outbox.lazy {
            (to, message, due.since(now)).hash(hasher);
        }
        self.round.fingerprint(hasher);
        self.reports.hash(hasher);
        self.places.fingerprint(hasher);
        self.directory.fingerprint(hasher);
        self.cache.fingerprint(now, hasher);
        self.locks.fingerprint(hasher);
        self.barriers.fingerprint(hasher);
    }
}

/// The keys of a map in an order that every run repeats.
pub(super) fn sorted_keys<K: Ord + Copy, V>(map: &FxHashMap<K, V>) -> Vec<K> {
    let mut keys: Vec<K> = map.keys().copied().collect();
    keys.sort_unstable();
    keys
}

/// Hashes a map in the order of its keys.
pub(super) fn hash_map<K: Ord + Hash, V>(
    map: &FxHashMap<K, V>,
    hasher: &mut impl Hasher,
    mut value: impl FnMut(&V, &mut dyn Hasher),
) {
    let mut entries: Vec<(&K, &V)> = map.iter().collect();
    entries.sort_unstable_by_key(|entry| entry.0);
    entries.len().hash(hasher);
    for (key, entry) in entries {
        key.hash(hasher);
        value(entry, hasher);
    }
}
