//! Which nodes live: each renews a lease, and every one knows the live ones from its last look.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fred::types::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    SharedFeed,
    commands::Commands,
    fault::Effect,
    keys::Keys,
    reader,
    scripts::{Named, Scripts},
};
use crate::broker::{BrokerError, Control, Feed, NodeReport, Want};

/// Orders kept, about: far more than operators give in the time below.
const ORDERS_KEPT: usize = 1_000;
/// How long a node may be cut off from Redis and still learn what it was told.
const ORDERS_TTL: Duration = Duration::from_secs(600);

/// Which orders this node has taken: each comes on the channel and with a heartbeat, in whichever order.
#[derive(Debug, Default)]
struct Orders {
    /// The newest that a heartbeat brought or passed; empty before the first.
    read: String,
    taken: VecDeque<String>,
}

impl Orders {
    fn is_new(&mut self, id: &str) -> bool {
        let new = !self.taken.iter().rev().any(|taken| taken == id);
        if new {
            if self.taken.len() >= ORDERS_KEPT {
                self.taken.pop_front();
            }
            self.taken.push_back(id.to_owned());
        }
        new
    }
}

#[derive(Debug)]
pub(super) struct Nodes {
    node: String,
    lease: Duration,
    keys: Keys,
    commands: Commands,
    scripts: Arc<Scripts>,
    feed: SharedFeed,
    live: Mutex<BTreeSet<String>>,
    registered: AtomicBool,
    losses: AtomicU64,
    news: Notify,
    orders: Mutex<Orders>,
}

impl Nodes {
    pub(super) fn new(
        node: &str,
        lease: Duration,
        keys: Keys,
        commands: Commands,
        scripts: Arc<Scripts>,
        feed: SharedFeed,
    ) -> Self {
        Self {
            node: node.to_owned(),
            lease,
            keys,
            commands,
            scripts,
            feed,
            live: Mutex::new(BTreeSet::from([node.to_owned()])),
            registered: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            news: Notify::new(),
            orders: Mutex::default(),
        }
    }

    /// The live nodes of the last look, this one always among them.
    pub(super) fn live(&self) -> Vec<String> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// How often this node's lease did not hold: Redis may have lost what it was told.
    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// The set may have changed.
    pub(super) fn look_again(&self) {
        self.news.notify_one();
    }

    /// Looks again whenever there is news, until cancelled.
    pub(super) async fn follow(self: Arc<Self>, cancel: CancellationToken) {
        while cancel.run_until_cancelled(self.news.notified()).await.is_some() {
            match self.run::<Vec<String>>(&self.scripts.live, Vec::new(), Effect::Harmless).await {
                Ok(answer) => {
                    self.observe(reports(&answer), false);
                }
                // The next heartbeat sees it too.
                Err(error) => tracing::debug!(%error, "could not look which nodes live"),
            }
        }
    }

    pub(super) async fn heartbeat(&self, report: &NodeReport) -> Result<Vec<NodeReport>, BrokerError> {
        let lease = self.lease.as_millis().to_string();
        let read = self.orders().read.clone();
        let args = vec![
            self.node.clone().into(),
            report.stats.to_string().into(),
            lease.into(),
            self.keys.control().into(),
            read.into(),
        ];
        let answer: Vec<String> = self.run(&self.scripts.heartbeat, args, Effect::Harmless).await?;
        let nonsense = || BrokerError::Internal("a heartbeat without an answer".into());
        let [held, newest, count, rest @ ..] = &answer[..] else { return Err(nonsense()) };
        let count: usize = count.parse().map_err(|_| nonsense())?;
        let (orders, nodes) = rest.split_at_checked(count.saturating_mul(2)).ok_or_else(nonsense)?;
        for order in orders.chunks_exact(2) {
            // What is no order was put there by somebody else.
            if let Some(control) = reader::parse_order(&order[1]) {
                self.take_order(&order[0], control);
            }
        }
        self.orders().read.clone_from(newest);
        let first = !self.registered.swap(true, Ordering::Relaxed);
        let lost = held == "0" && !first;
        if lost {
            self.losses.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.observe(reports(nodes), lost))
    }

    pub(super) async fn figures(
        &self,
        report: &NodeReport,
        want: Want,
    ) -> Result<Vec<NodeReport>, BrokerError> {
        let args = vec![
            self.node.clone().into(),
            report.stats.to_string().into(),
            self.lease.as_millis().to_string().into(),
            if want == Want::All { "all" } else { "none" }.into(),
        ];
        let keys = vec![self.keys.leases(), self.keys.figures()];
        let answer: Vec<String> =
            self.commands.run(&self.scripts.figures, keys, args, Effect::Harmless).await?;
        Ok(reports(&answer).into_values().collect())
    }

    pub(super) async fn goodbye(&self) -> Result<(), BrokerError> {
        self.registered.store(false, Ordering::Relaxed);
        let args = vec![self.node.clone().into(), self.keys.control().into()];
        self.run::<Value>(&self.scripts.goodbye, args, Effect::Harmless).await.map(|_| ())
    }

    /// Tells every node, this one included, and those too that do not hear anything at the moment: they read it with
    /// the next heartbeat that gets through.
    pub(super) async fn order(&self, control: &Control) -> Result<(), BrokerError> {
        let body =
            reader::order_body(control).map_err(|error| BrokerError::Internal(error.to_string().into()))?;
        let args = vec![
            body.into(),
            self.keys.control().into(),
            ORDERS_KEPT.to_string().into(),
            ORDERS_TTL.as_millis().to_string().into(),
        ];
        // Twice does no harm.
        self.run::<Value>(&self.scripts.order, args, Effect::Harmless).await.map(|_| ())
    }

    /// Hands an order on, unless it was heard the other way already.
    pub(super) fn take_order(&self, id: &str, control: Control) {
        if self.orders().is_new(id) {
            self.feed.lock().push(Feed::Control(control));
        }
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node's share of the presence is gone, or the set of nodes is another: tell the feed.
    pub(super) fn changed(&self) {
        self.feed.lock().push(Feed::Control(Control::NodesChanged));
    }

    fn observe(&self, reports: BTreeMap<String, NodeReport>, lost: bool) -> Vec<NodeReport> {
        let mut live: BTreeSet<_> = reports.keys().cloned().collect();
        live.insert(self.node.clone());
        let before = {
            let mut known = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *known, live.clone())
        };
        if lost || before != live {
            self.changed();
        }
        reports.into_values().collect()
    }

    async fn run<R: fred::types::FromValue>(
        &self,
        script: &Named,
        args: Vec<Value>,
        effect: Effect,
    ) -> Result<R, BrokerError> {
        let keys = vec![self.keys.leases(), self.keys.stats(), self.keys.orders()];
        self.commands.run(script, keys, args, effect).await
    }
}

/// Pairs of node and figures, ordered by node. Figures that are no JSON are shown as none.
fn reports(pairs: &[String]) -> BTreeMap<String, NodeReport> {
    pairs
        .chunks_exact(2)
        .map(|pair| {
            let stats = serde_json::from_str(&pair[1]).unwrap_or_default();
            (pair[0].clone(), NodeReport { node: pair[0].clone(), stats })
        })
        .collect()
}
