//! How many connections an address, or a user, holds over all nodes: each node tells its own share, and a claim adds
//! up the shares of the live ones. Nothing shared is counted up or down, so nothing drifts when a node dies.
//!
//! One task asks and tells. A claim that comes alone is asked for at once; in a storm those of a millisecond go
//! together. Where the cap is far, a place is not given back before the next heartbeat, so that whoever comes next from
//! that address has it without a question; and of an address from which many come, more are kept in reserve. What a claim
//! did not tell (a connection that ended, an answer that got lost) is told soon after, many in one go. Nothing here
//! decides what holds while Redis is away.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fred::types::Value;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use tokio::{sync::Notify, time};
use tokio_util::sync::CancellationToken;

use super::{
    commands::Commands,
    fault::Effect,
    keys::Keys,
    log::{millis, number},
    nodes::Nodes,
    nonsense,
    scripts::Scripts,
    shares::{Desk, Entry, Granted},
};
use crate::broker::{BrokerError, Claim};

/// A share that is not renewed is forgotten after so long: only then does a new process with the name of one that
/// died not inherit its connections. Until then the lease alone says whether they count.
const MIN_SHARE_TTL: Duration = Duration::from_secs(120);
/// Between two rounds of claims: alone, each would cost more than the handshake that it is for.
const PACE: Duration = Duration::from_millis(1);
/// What changes is told after so long, together with what changes meanwhile.
const GATHER: Duration = Duration::from_millis(20);
/// After a write failed.
const RETRY: Duration = Duration::from_millis(500);
/// Addresses in one script: below a millisecond's work for the server.
const BATCH: usize = 64;
/// Scripts under way where all addresses are with one server. What comes meanwhile goes together.
const AT_ONCE: usize = 2;

#[derive(Debug)]
pub(super) struct Addresses {
    node: String,
    share_ttl: Duration,
    /// How long a place is relied on that nobody holds.
    keep: Duration,
    keys: Keys,
    commands: Commands,
    scripts: Arc<Scripts>,
    nodes: Arc<Nodes>,
    desk: Mutex<Desk>,
    bell: Notify,
    /// How often this node had lost its lease when its shares were last told anew.
    losses: AtomicU64,
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
            // Of the lease, a third may have gone since the last heartbeat.
            keep: lease / 3,
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
        let mut desk = self.desk();
        let (_, was_untold) = desk.waiting();
        desk.release(key);
        self.ring(was_untold, desk.waiting().1);
    }

    pub(super) async fn claim(&self, key: &Arc<str>, cap: u64) -> Result<Claim, BrokerError> {
        let verdict = {
            let mut desk = self.desk();
            if desk.has_place(key, Instant::now()) {
                return Ok(Claim::Admitted);
            }
            let (was_asked, _) = desk.waiting();
            let verdict = desk.ask(key, cap);
            self.ring(was_asked, desk.waiting().0);
            verdict
        };
        verdict.await.unwrap_or_else(|_gone| Err(BrokerError::refused("nobody asks for places any more")))
    }

    /// Wakes the task where something waits now, and nothing did: else it knows, and waits for its time. A wake is a system
    /// call and a turn of another thread.
    fn ring(&self, was_waiting: bool, is_waiting: bool) {
        if is_waiting && !was_waiting {
            self.bell.notify_one();
        }
    }

    /// Asks and tells, until cancelled.
    pub(super) async fn keep_told(self: Arc<Self>, cancel: CancellationToken) {
        let _cancelled = cancel.run_until_cancelled(self.tell_for_ever()).await;
    }

    async fn tell_for_ever(&self) {
        let (batch, at_once) = self.batches();
        let mut writes = FuturesUnordered::new();
        let (mut ask_at, mut tell_at, mut retry_at) = (time::Instant::now(), None, None);
        loop {
            let now = time::Instant::now();
            if retry_at.is_some_and(|at| at <= now) {
                retry_at = None;
                self.desk().retry();
            }
            let is_time = tell_at.is_some_and(|at| at <= now);
            if ask_at <= now || is_time {
                while writes.len() < at_once {
                    let entries = self.desk().begin(batch, is_time);
                    if entries.is_empty() {
                        break;
                    }
                    writes.push(self.write(entries));
                    ask_at = now + PACE;
                }
            }
            let is_free = writes.len() < at_once;
            if is_time && is_free {
                tell_at = None;
            }
            let (is_asked, is_untold) = self.desk().waiting();
            if tell_at.is_none() && is_untold {
                tell_at = Some(now + GATHER);
            }
            let ask = is_asked.then_some(ask_at);
            // While no more can be begun, the end of a write is what is waited for.
            let next = tell_at.into_iter().chain(ask).filter(|_| is_free).chain(retry_at).min();
            let due = async {
                match next {
                    Some(at) => time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(written) = writes.next() => {
                    if let Err(error) = written {
                        tracing::debug!(%error, "could not tell this node's connections per address");
                        retry_at.get_or_insert(time::Instant::now() + RETRY);
                    }
                }
                () = self.bell.notified() => {}
                () = due => {}
            }
        }
    }

    /// Addresses in one script, and scripts under way: in a cluster each address may be with another server, and one
    /// that is slow must not hold up the others.
    fn batches(&self) -> (usize, usize) {
        if self.commands.is_cluster() { (1, self.commands.most_at_once()) } else { (BATCH, AT_ONCE) }
    }

    /// Has the shares told again that are due; all of them where Redis may have lost them.
    pub(super) fn renew(&self) {
        let losses = self.nodes.losses();
        let all = self.losses.swap(losses, Ordering::Relaxed) != losses;
        let now = Instant::now();
        self.desk().renew(now, now + self.share_ttl / 2, all);
        self.bell.notify_one();
    }

    /// At a clean stop: tells what has ended since, and what was in reserve.
    pub(super) async fn leave(&self) {
        self.desk().retry();
        self.renew();
        let (batch, at_once) = self.batches();
        loop {
            let writes: Vec<_> = std::iter::repeat_with(|| self.desk().begin(batch, true))
                .take_while(|entries| !entries.is_empty())
                .take(at_once)
                .map(|entries| self.write(entries))
                .collect();
            if writes.is_empty() || join_all(writes).await.iter().any(Result::is_err) {
                break;
            }
        }
    }

    async fn write(&self, entries: Vec<Entry>) -> Result<(), BrokerError> {
        let granted = self.ask(&entries).await;
        let mut desk = self.desk();
        match granted {
            Ok(granted) => {
                for (entry, granted) in entries.into_iter().zip(granted) {
                    desk.end(entry, &Ok(granted));
                }
                Ok(())
            }
            Err(error) => {
                let unknown = Err(error.clone());
                for entry in entries {
                    desk.end(entry, &unknown);
                }
                Err(error)
            }
        }
    }

    /// How many of those who ask fit, of each entry, and what is in reserve behind them.
    async fn ask(&self, entries: &[Entry]) -> Result<Vec<Granted>, BrokerError> {
        let names = entries.iter().map(|entry| self.keys.shares(&entry.key)).collect();
        let mut args: Vec<Value> = vec![self.node.as_str().into(), millis(self.share_ttl)];
        for entry in entries {
            let numbers = [entry.settled, entry.asking(), entry.cap, entry.reserve()];
            args.extend(numbers.map(number));
        }
        if entries.iter().any(|entry| entry.asking() > 0) {
            args.extend(self.nodes.live().into_iter().map(Value::from));
        }
        // From before the step, and no longer than the lease lasts that the others count it by.
        let until = Instant::now() + self.keep;
        // Told again it is the same: a share is replaced, not added to.
        let granted: Vec<u64> =
            self.commands.run(&self.scripts.claim_addresses, names, args, Effect::Harmless).await?;
        match granted.as_chunks() {
            (granted, []) if granted.len() == entries.len() => {
                let read = |&[places, reserve, far]: &[u64; 3]| {
                    let far = (far == 1).then_some(until);
                    Granted { places, reserve, far }
                };
                Ok(granted.iter().map(read).collect())
            }
            _ => Err(nonsense("claim_addresses")),
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
