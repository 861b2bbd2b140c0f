//! The shares of connections per address on the bus, with the rules of the Redis broker: each node tells its own,
//! and a claim adds up those of the live nodes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::broker::Claim;

/// What one node holds.
#[derive(Debug, Default)]
struct Share {
    held: u64,
    /// What the others count: a connection that is still being judged is not among it.
    told: u64,
}

#[derive(Debug, Default)]
pub(super) struct Addresses(HashMap<Arc<str>, BTreeMap<String, Share>>);

impl Addresses {
    pub(super) fn hold(&mut self, node: &str, key: &Arc<str>) -> u64 {
        let share = self.0.entry(key.clone()).or_default().entry(node.to_owned()).or_default();
        share.held += 1;
        share.held
    }

    pub(super) fn claim(
        &mut self,
        node: &str,
        key: &Arc<str>,
        cap: u64,
        live: impl Fn(&str) -> bool,
    ) -> Claim {
        let Some(shares) = self.0.get_mut(key) else { return Claim::Admitted };
        let others: u64 = shares
            .iter()
            .filter(|(other, _)| *other != node && live(other))
            .map(|(_, share)| share.told)
            .sum();
        let Some(share) = shares.get_mut(node) else { return Claim::Admitted };
        if others + share.held > cap {
            return Claim::Full;
        }
        share.told = share.held;
        Claim::Admitted
    }

    pub(super) fn release(&mut self, node: &str, key: &Arc<str>) {
        let Some(shares) = self.0.get_mut(key) else { return };
        if let Some(share) = shares.get_mut(node) {
            share.held = share.held.saturating_sub(1);
            share.told = share.told.min(share.held);
            if share.held == 0 {
                shares.remove(node);
            }
        }
        if shares.is_empty() {
            self.0.remove(key);
        }
    }

    /// What was admitted without a claim counts from now on: the node's heartbeat tells it.
    pub(super) fn tell(&mut self, node: &str) {
        for share in self.0.values_mut().filter_map(|shares| shares.get_mut(node)) {
            share.told = share.held;
        }
    }

    /// Forgets a node altogether.
    pub(super) fn forget(&mut self, gone: impl Fn(&str) -> bool) {
        self.0.retain(|_, shares| {
            shares.retain(|node, _| !gone(node));
            !shares.is_empty()
        });
    }
}
