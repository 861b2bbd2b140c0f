//! Where a step in a cluster leaves its changes: an outbox per hash slot, because a script reaches one slot only.
//!
//! There are 16,384 of them at most, under names that everybody can work out, so nobody needs to keep a list of what
//! exists. A node remembers which of them its own steps went to, for the mover; whoever forgets (it died) costs time
//! only, as the mover looks at all of them by turns.

use std::{
    mem,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fred::util::redis_keyslot;

use crate::redis::changes_key;

/// Slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;
/// An outbox that nothing was put into for so long is gone.
pub(crate) const OUTBOX_TTL: Duration = Duration::from_secs(30 * 86_400);

/// For each slot the smallest number that is in it: the hash tag of its outbox. No room is named like a number.
static TAGS: LazyLock<Box<[u32]>> = LazyLock::new(|| {
    let mut tags: Vec<Option<u32>> = vec![None; usize::from(SLOTS)];
    let mut missing = tags.len();
    for number in 0.. {
        let tag = &mut tags[usize::from(redis_keyslot(number.to_string().as_bytes()))];
        if tag.is_none() {
            *tag = Some(number);
            missing -= 1;
        }
        if missing == 0 {
            break;
        }
    }
    tags.into_iter().flatten().collect()
});

/// The outboxes of a cluster; clones are the same.
#[derive(Clone, Debug)]
pub struct Outboxes(Arc<Slots>);

#[derive(Debug)]
struct Slots {
    prefix: String,
    size: u64,
    /// A bit for each slot in which a step of this node may have left something since it was last asked.
    touched: Box<[AtomicU64]>,
}

impl Outboxes {
    fn new(prefix: &str, size: u64) -> Self {
        let touched = (0..SLOTS / 64).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Slots { prefix: prefix.to_owned(), size, touched }))
    }

    pub(super) fn prefix(&self) -> &str {
        &self.0.prefix
    }

    /// Entries that each keeps, about.
    pub(crate) fn size(&self) -> u64 {
        self.0.size
    }

    pub(super) fn key(&self, slot: u16) -> String {
        format!("{}:{{{}}}:changes", self.0.prefix, TAGS[usize::from(slot)])
    }

    pub(super) fn touch(&self, slot: u16) {
        self.0.touched[usize::from(slot / 64)].fetch_or(1 << (slot % 64), Ordering::Relaxed);
    }

    /// The slots touched since the last call.
    pub(super) fn take_touched(&self) -> Vec<u16> {
        let mut slots = Vec::new();
        for (word, first) in self.0.touched.iter().zip((0..SLOTS).step_by(64)) {
            let bits = word.swap(0, Ordering::Relaxed);
            slots.extend((0..64).filter(|bit| bits & (1 << bit) != 0).map(|bit| first + bit));
        }
        slots
    }
}

/// Which stream the changes of a script go to. Broker and counters share one.
#[derive(Clone, Debug)]
pub enum ChangeTarget {
    /// None is kept.
    Off,
    /// One stream for all rooms: on a single server, where a script may reach every key.
    Shared {
        /// Its key.
        key: String,
        /// Entries kept, about.
        size: u64,
    },
    /// The outbox of the step's slot, for a mover to copy into the one stream: in a cluster.
    Outbox(Outboxes),
}

impl ChangeTarget {
    /// The right one for these servers: `size` entries, none where it is 0.
    pub fn of(servers: &crate::redis::Routed, prefix: &str, size: u64) -> Self {
        match size {
            0 => Self::Off,
            size if servers.is_cluster() => Self::Outbox(Outboxes::new(prefix, size)),
            size => Self::Shared { key: changes_key(prefix), size },
        }
    }

    /// The way out for the changes of one step in the slot of this key.
    pub fn outlet(&self, key: &str) -> Outlet {
        match self {
            Self::Off | Self::Shared { .. } => Outlet(None),
            Self::Outbox(outboxes) => Outlet(Some((outboxes.clone(), redis_keyslot(key.as_bytes())))),
        }
    }
}

/// Held while a step is under way: when it is dropped, the node knows that there may be something to copy.
#[derive(Debug)]
#[must_use = "what it stands for is under way for as long as it is held"]
pub struct Outlet(Option<(Outboxes, u16)>);

impl Outlet {
    /// Puts the outbox behind a script's own keys, where [`log_lua`](crate::log_lua) takes it from. Declared like all
    /// others, it keeps a step out of a slot that is on its way to another server.
    pub fn extend(&self, keys: &mut Vec<String>) {
        if let Some((outboxes, slot)) = &self.0 {
            keys.push(outboxes.key(*slot));
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if let Some((outboxes, slot)) = mem::take(&mut self.0) {
            outboxes.touch(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_an_outbox_of_its_own_in_it() {
        let outboxes = Outboxes::new("rc", 10);
        let mut seen = std::collections::HashSet::new();
        for slot in 0..SLOTS {
            let key = outboxes.key(slot);
            assert_eq!(redis_keyslot(key.as_bytes()), slot, "{key}");
            assert!(seen.insert(key));
        }
    }

    #[test]
    fn a_step_is_remembered_when_it_is_over_whatever_became_of_it() {
        let outboxes = Outboxes::new("rc", 10);
        let target = ChangeTarget::Outbox(outboxes.clone());
        let outlet = target.outlet("rc:{event:wall}:meta");
        let mut keys = vec!["rc:{event:wall}:meta".to_owned()];
        outlet.extend(&mut keys);
        let slot = redis_keyslot(b"event:wall");
        assert_eq!(keys[1..], [outboxes.key(slot)]);
        assert!(outboxes.take_touched().is_empty());
        drop(outlet);
        drop(target.outlet("rc:{event:wall}:log"));
        assert_eq!(outboxes.take_touched(), [slot]);
        assert!(outboxes.take_touched().is_empty());
        for slot in [0, 63, 64, SLOTS - 1] {
            outboxes.touch(slot);
        }
        assert_eq!(outboxes.take_touched(), [0, 63, 64, SLOTS - 1]);
    }
}
