//! Which server owns which slot. Everyone reads it; only the lookout writes it.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

use super::shard::Shard;

/// The last of the slots.
pub(super) const LAST_SLOT: u16 = 16_383;

/// Slots in a row that one server owns.
#[derive(Debug, Clone)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) shard: Arc<Shard>,
}

#[derive(Debug)]
pub(super) struct Routes {
    /// Ordered by slot, without overlaps.
    ranges: RwLock<Vec<Range>>,
    news: Notify,
}

impl Routes {
    /// Routes that lead nowhere yet.
    pub(super) fn new() -> Self {
        Self { ranges: RwLock::default(), news: Notify::new() }
    }

    /// The owner of a slot, if anyone is known to be.
    pub(super) fn owner(&self, slot: u16) -> Option<Arc<Shard>> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let range = ranges.get(ranges.partition_point(|range| range.last < slot))?;
        (range.first <= slot).then(|| range.shard.clone())
    }

    /// Whether this very server owns the slot.
    pub(super) fn is_owner(&self, shard: &Shard, slot: u16) -> bool {
        self.owner(slot).is_some_and(|owner| std::ptr::eq(&raw const *owner, shard))
    }

    /// The server at this address.
    pub(super) fn at(&self, address: &str) -> Option<Arc<Shard>> {
        self.shards().into_iter().find(|shard| shard.server.to_string() == address)
    }

    /// Every server that owns a slot.
    pub(super) fn shards(&self) -> Vec<Arc<Shard>> {
        let mut shards: Vec<Arc<Shard>> = Vec::new();
        for range in &*self.ranges.read().unwrap_or_else(PoisonError::into_inner) {
            if !shards.iter().any(|shard| Arc::ptr_eq(shard, &range.shard)) {
                shards.push(range.shard.clone());
            }
        }
        shards
    }

    /// Replaces all.
    pub(super) fn set(&self, mut ranges: Vec<Range>) {
        ranges.sort_by_key(|range| range.first);
        *self.ranges.write().unwrap_or_else(PoisonError::into_inner) = ranges;
    }

    /// There is a sign that this is not true any more.
    pub(super) fn look_again(&self) {
        self.news.notify_one();
    }

    /// Waits for such a sign. Cancel safe.
    pub(super) async fn doubted(&self) {
        self.news.notified().await;
    }
}
