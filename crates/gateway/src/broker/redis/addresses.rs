//! How many connections an address, or a user, holds over all nodes: each node tells its own share, and a claim adds
//! up the shares of the live ones. Nothing shared is counted up or down, so nothing drifts when a node dies.
//!
//! A claim is one round trip. What a claim did not tell (a connection that ended, an answer that got lost) is told
//! soon after, many in one go. Nothing here decides what holds while Redis is away.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{commands::Commands, fault::Effect, keys::Keys, nodes::Nodes, scripts::Scripts};
use crate::broker::{BrokerError, Claim};

/// A share that is not renewed is forgotten after so long: only then does a new process with the name of one that
/// died not inherit its connections. Until then the lease alone says whether they count.
const MIN_SHARE_TTL: Duration = Duration::from_secs(120);
/// Between two rounds of telling: what changes meanwhile is told together.
const ROUND: Duration = Duration::from_millis(20);
/// After a round failed.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Addresses {
    node: String,
    share_ttl: Duration,
    keys: Keys,
    commands: Commands,
    scripts: Arc<Scripts>,
    nodes: Arc<Nodes>,
    desk: Mutex<Desk>,
    bell: Notify,
    /// How often this node had lost its lease when its shares were last told anew.
    losses: AtomicU64,
}

/// What this node holds, and what Redis knows of it.
#[derive(Debug, Default)]
struct Desk {
    shares: HashMap<Arc<str>, Share>,
    untold: HashSet<Arc<str>>,
}

#[derive(Debug)]
struct Share {
    held: u64,
    /// What Redis has; none where that is not certain.
    told: Option<u64>,
    /// Writes under way. Where they overlap, nobody knows which of them was the last.
    writing: u32,
    overlapped: bool,
    renew_at: Instant,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Yes,
    No,
    Unknown,
}

impl Desk {
    fn hold(&mut self, key: &Arc<str>, renew_at: Instant) -> u64 {
        let new = || Share { held: 0, told: Some(0), writing: 0, overlapped: false, renew_at };
        let share = self.shares.entry(key.clone()).or_insert_with(new);
        share.held += 1;
        share.held
    }

    fn release(&mut self, key: &Arc<str>) {
        if let Some(share) = self.shares.get_mut(key) {
            share.held = share.held.saturating_sub(1);
            self.settle(key);
        }
    }

    /// A write begins; answers what it is to tell.
    fn begin(&mut self, key: &Arc<str>) -> u64 {
        let Some(share) = self.shares.get_mut(key) else { return 0 };
        share.writing += 1;
        share.overlapped |= share.writing > 1;
        share.held
    }

    fn end(&mut self, key: &Arc<str>, told: u64, written: Written) {
        let Some(share) = self.shares.get_mut(key) else { return };
        share.writing = share.writing.saturating_sub(1);
        match written {
            Written::Yes => share.told = Some(told),
            // Whoever was refused releases what it held, and then it is seen whether there is something to tell.
            Written::No => {
                share.overlapped &= share.writing > 0;
                return;
            }
            Written::Unknown => share.told = None,
        }
        if share.overlapped {
            share.told = None;
        }
        share.overlapped &= share.writing > 0;
        self.settle(key);
    }

    /// Where nothing is under way: what Redis knows already is forgotten, the rest is to be told.
    fn settle(&mut self, key: &Arc<str>) {
        let Some(share) = self.shares.get(key).filter(|share| share.writing == 0) else { return };
        if share.told != Some(share.held) {
            self.untold.insert(key.clone());
        } else if share.held == 0 {
            self.shares.remove(key);
        }
    }

    fn take_untold(&mut self, most: usize) -> Vec<Arc<str>> {
        let taken: Vec<_> = self.untold.iter().take(most).cloned().collect();
        for key in &taken {
            self.untold.remove(key);
        }
        taken
    }

    /// Shares that are due, or all, are to be told again; and those that nobody has told yet.
    fn renew(&mut self, now: Instant, again: Instant, all: bool) {
        for (key, share) in &mut self.shares {
            if all || share.renew_at <= now {
                share.told = None;
                share.renew_at = again;
            }
            if share.writing == 0 && share.told != Some(share.held) {
                self.untold.insert(key.clone());
            }
        }
    }
}

/// A write that is under way: given up, its fate is not known.
struct Writing<'a> {
    addresses: &'a Addresses,
    key: &'a Arc<str>,
    told: u64,
    written: Written,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut desk = self.addresses.desk();
        desk.end(self.key, self.told, self.written);
        let untold = !desk.untold.is_empty();
        drop(desk);
        if untold {
            self.addresses.bell.notify_one();
        }
    }
}

impl Addresses {
    pub(super) fn new(
        node: &str,
        lease: Duration,
        keys: Keys,
        commands: Commands,
        scripts: Arc<Scripts>,
        nodes: Arc<Nodes>,
    ) -> Self {
        Self {
            node: node.to_owned(),
            share_ttl: MIN_SHARE_TTL.max(lease * 20),
            keys,
            commands,
            scripts,
            nodes,
            desk: Mutex::default(),
            bell: Notify::new(),
            losses: AtomicU64::new(0),
        }
    }

    pub(super) fn hold(&self, key: &Arc<str>) -> u64 {
        self.desk().hold(key, Instant::now() + self.share_ttl / 2)
    }

    pub(super) fn release(&self, key: &Arc<str>) {
        self.desk().release(key);
        self.bell.notify_one();
    }

    pub(super) async fn claim(&self, key: &Arc<str>, cap: u64) -> Result<Claim, BrokerError> {
        self.write(key, cap).await
    }

    /// Tells what is untold, round after round, until cancelled.
    pub(super) async fn keep_told(self: Arc<Self>, cancel: CancellationToken) {
        while cancel.run_until_cancelled(self.bell.notified()).await.is_some() {
            while let Some(told) = cancel.run_until_cancelled(self.tell_some()).await {
                let pause = match told {
                    Ok(0) => break,
                    Ok(_) => ROUND,
                    Err(error) => {
                        tracing::debug!(%error, "could not tell this node's connections per address");
                        RETRY
                    }
                };
                sleep(pause).await;
            }
        }
    }

    /// Has the shares told again that are due; all of them where Redis may have lost them.
    pub(super) fn renew(&self) {
        let losses = self.nodes.losses();
        let all = self.losses.swap(losses, Ordering::Relaxed) != losses;
        let now = Instant::now();
        self.desk().renew(now, now + self.share_ttl / 2, all);
        self.bell.notify_one();
    }

    /// At a clean stop: tells what has ended since.
    pub(super) async fn leave(&self) {
        while matches!(self.tell_some().await, Ok(1..)) {}
    }

    /// How many were told.
    async fn tell_some(&self) -> Result<usize, BrokerError> {
        let keys = self.desk().take_untold(self.commands.most_at_once());
        let told = join_all(keys.iter().map(|key| self.write(key, 0))).await;
        told.into_iter().collect::<Result<Vec<_>, _>>().map(|told| told.len())
    }

    async fn write(&self, key: &Arc<str>, cap: u64) -> Result<Claim, BrokerError> {
        let told = self.desk().begin(key);
        let mut writing = Writing { addresses: self, key, told, written: Written::Unknown };
        let mut args = vec![
            self.node.as_str().into(),
            told.to_string().into(),
            cap.to_string().into(),
            self.share_ttl.as_millis().to_string().into(),
        ];
        if cap > 0 {
            args.extend(self.nodes.live().into_iter().map(fred::types::Value::from));
        }
        let name = vec![self.keys.shares(key)];
        // Told again it is the same: a share is replaced, not added to.
        let answer: u64 =
            self.commands.run(&self.scripts.claim_address, name, args, Effect::Harmless).await?;
        let (written, claim) =
            if answer == 1 { (Written::Yes, Claim::Admitted) } else { (Written::No, Claim::Full) };
        writing.written = written;
        Ok(claim)
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Arc<str> {
        "ip/192.0.2.1".into()
    }

    #[test]
    fn a_connection_that_ended_is_told_and_then_forgotten() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        assert_eq!(desk.hold(&key, now), 1);
        let told = desk.begin(&key);
        desk.end(&key, told, Written::Yes);
        assert!(desk.take_untold(10).is_empty());
        desk.release(&key);
        assert_eq!(desk.take_untold(10), std::slice::from_ref(&key));
        let told = desk.begin(&key);
        desk.end(&key, told, Written::Yes);
        assert!(desk.shares.is_empty() && desk.untold.is_empty());
    }

    #[test]
    fn a_refused_claim_leaves_nothing_to_tell() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        desk.hold(&key, now);
        let told = desk.begin(&key);
        desk.end(&key, told, Written::No);
        desk.release(&key);
        assert!(desk.shares.is_empty() && desk.untold.is_empty());
    }

    #[test]
    fn a_write_whose_fate_is_unknown_is_told_again() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        desk.hold(&key, now);
        let told = desk.begin(&key);
        desk.end(&key, told, Written::Unknown);
        assert_eq!(desk.take_untold(10), std::slice::from_ref(&key));
    }

    #[test]
    fn writes_that_overlap_are_followed_by_one_that_does_not() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        desk.hold(&key, now);
        let first = desk.begin(&key);
        desk.hold(&key, now);
        let second = desk.begin(&key);
        desk.end(&key, second, Written::Yes);
        assert!(desk.take_untold(10).is_empty(), "one is still under way");
        desk.end(&key, first, Written::Yes);
        assert_eq!(desk.take_untold(10), std::slice::from_ref(&key));
        let last = desk.begin(&key);
        assert_eq!(last, 2);
        desk.end(&key, last, Written::Yes);
        assert!(desk.take_untold(10).is_empty());
    }

    #[test]
    fn what_nobody_told_is_told_at_the_next_renewal_and_all_of_it_after_a_loss() {
        let (now, key) = (Instant::now(), key());
        let later = now + Duration::from_secs(60);
        let mut desk = Desk::default();
        desk.hold(&key, later);
        desk.renew(now, later, false);
        assert_eq!(desk.take_untold(10), std::slice::from_ref(&key));
        let told = desk.begin(&key);
        desk.end(&key, told, Written::Yes);
        desk.renew(now, later, false);
        assert!(desk.take_untold(10).is_empty(), "Redis knows it");
        desk.renew(now, later, true);
        assert_eq!(desk.take_untold(10).len(), 1);
        let told = desk.begin(&key);
        desk.end(&key, told, Written::Yes);
        desk.renew(later, later + Duration::from_secs(60), false);
        assert_eq!(desk.take_untold(10).len(), 1, "it is due");
    }
}
