//! A bounded map whose entries expire. It reads no clock: every call is given the time, in Unix ms.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

/// Expired entries removed per call: more than one call can add, so the map never fills with them, and few enough
/// that no call stands still for long.
const SWEEP: usize = 64;

/// A map of at most `cap` entries.
pub(crate) struct Expiring<K, V> {
    entries: HashMap<K, (u64, V)>,
    order: BTreeSet<(u64, K)>,
    cap: usize,
}

impl<K: Clone + Eq + Hash + Ord, V> Expiring<K, V> {
    pub(crate) fn new(cap: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeSet::new(), cap }
    }

    pub(crate) fn get(&self, key: &K, now: u64) -> Option<&V> {
        self.entries.get(key).filter(|(expires, _)| *expires > now).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &K, now: u64) -> Option<&mut V> {
        self.entries.get_mut(key).filter(|(expires, _)| *expires > now).map(|(_, value)| value)
    }

    /// Whether one more entry does not fit, after sweeping.
    pub(crate) fn is_full(&mut self, now: u64) -> bool {
        self.sweep(now);
        self.entries.len() >= self.cap
    }

    /// Adds or replaces an entry. Where the map is full, the one that would expire first makes room.
    pub(crate) fn insert(&mut self, key: K, value: V, expires: u64, now: u64) {
        self.remove(&key);
        if self.is_full(now)
            && let Some((_, first)) = self.order.pop_first()
        {
            self.entries.remove(&first);
        }
        self.order.insert((expires, key.clone()));
        self.entries.insert(key, (expires, value));
    }

    pub(crate) fn renew(&mut self, key: &K, expires: u64) {
        if let Some((old, _)) = self.entries.get_mut(key) {
            self.order.remove(&(*old, key.clone()));
            self.order.insert((expires, key.clone()));
            *old = expires;
        }
    }

    /// Takes an entry out, also an expired one.
    pub(crate) fn remove(&mut self, key: &K) -> Option<(u64, V)> {
        let (expires, value) = self.entries.remove(key)?;
        self.order.remove(&(expires, key.clone()));
        Some((expires, value))
    }

    pub(crate) fn sweep(&mut self, now: u64) {
        for _ in 0..SWEEP {
            match self.order.first() {
                Some((expires, _)) if *expires <= now => {
                    if let Some((_, key)) = self.order.pop_first() {
                        self.entries.remove(&key);
                    }
                }
                _ => return,
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_gone_at_its_time_and_swept_later() {
        let mut map = Expiring::new(10);
        map.insert("a", 1, 100, 0);
        assert_eq!(map.get(&"a", 99), Some(&1));
        assert_eq!(map.get(&"a", 100), None);
        map.insert("b", 2, 200, 100);
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn a_full_map_drops_what_expires_first() {
        let mut map = Expiring::new(2);
        map.insert("old", 1, 100, 0);
        map.insert("new", 2, 200, 0);
        map.renew(&"old", 300);
        assert!(map.is_full(0));
        map.insert("more", 3, 400, 0);
        assert_eq!((map.get(&"old", 0), map.get(&"new", 0), map.get(&"more", 0)), (Some(&1), None, Some(&3)));
        assert_eq!(map.order.len(), map.entries.len());
    }
}
