//! Which nodes live: each renews a lease, and every one knows the live ones from its last look.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
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
    scripts::{Named, Scripts},
};
use crate::broker::{BrokerError, Control, Feed, NodeReport, Want};

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
        let args = vec![
            self.node.clone().into(),
            report.stats.to_string().into(),
            lease.into(),
            self.keys.control().into(),
        ];
        let answer: Vec<String> = self.run(&self.scripts.heartbeat, args, Effect::Harmless).await?;
        let Some((held, nodes)) = answer.split_first() else {
            return Err(BrokerError::Internal("a heartbeat without an answer".into()));
        };
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
        self.commands.run(script, vec![self.keys.leases(), self.keys.stats()], args, effect).await
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
