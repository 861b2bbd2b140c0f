//! What every scenario stands on: Redis and three nodes of its own, and between each node and Redis a proxy that
//! swallows replies at moments that the seed draws. What was swallowed was carried out: nobody but Redis knows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep},
};

use super::{api::Api, store::Store};
use crate::{
    cluster::{
        Cluster, Plan,
        dice::Dice,
        proxy::{Kind, Proxy, Weather},
    },
    target::Target,
};

/// Whoever is not served by then gives up, and the run with it: a promise to serve was broken.
const PATIENCE: Duration = Duration::from_secs(180);
/// A good client's first pause after a failure that names none.
const PAUSE: Duration = Duration::from_millis(60);

/// What the faults did, as the clients felt it.
#[derive(Debug, Default)]
pub(super) struct Felt {
    /// Times that replies were swallowed on one node's connections.
    pub(super) storms: AtomicU64,
    /// Requests that were sent again because nobody knew what had become of them.
    pub(super) again: AtomicU64,
}

/// The cluster, and the ways to it.
#[derive(Debug)]
pub(super) struct Arena {
    pub(super) cluster: Mutex<Cluster>,
    pub(super) api: Api,
    pub(super) sockets: Vec<Target>,
    pub(super) felt: Felt,
    redis: u16,
    proxies: Vec<Proxy>,
    raining: watch::Sender<bool>,
}

impl Arena {
    pub(super) async fn start(plan: Plan) -> anyhow::Result<Self> {
        let mut cluster = Cluster::start(plan).await.context("starting the cluster")?;
        let redis = cluster.redis.first()?.port;
        // Out of the nodes, so that the rain and whoever kills a node need not wait for each other.
        let proxies = cluster.nodes.iter_mut().filter_map(|node| node.proxy.take()).collect();
        let socket = |port: u16| {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            Target { url: format!("ws://{address}/ws"), address, receive_buffer: None }
        };
        let sockets = cluster.nodes.iter().map(|node| socket(node.public)).collect();
        let api = Api::new(cluster.nodes.iter().map(|node| node.internal));
        let (felt, raining) = (Felt::default(), watch::channel(false).0);
        Ok(Self { cluster: Mutex::new(cluster), api, sockets, felt, redis, proxies, raining })
    }

    /// The judge's own connection to Redis.
    pub(super) async fn store(&self) -> anyhow::Result<Store> {
        Store::open(self.redis).await
    }

    /// Whether replies are swallowed from now on.
    pub(super) fn rain(&self, falls: bool) {
        self.raining.send_replace(falls);
    }

    /// Swallows replies while it rains; never ends.
    pub(super) async fn weather(&self, mut dice: Dice) {
        let mut raining = self.raining.subscribe();
        loop {
            if raining.wait_for(|falls| *falls).await.is_err() {
                return;
            }
            sleep(dice.between(Duration::from_millis(30), Duration::from_millis(450))).await;
            let Some(proxy) = self.proxies.get(dice.below(self.proxies.len())) else { return };
            // What was in flight is carried out and its answers are gone; then the connection breaks, and is made anew.
            if proxy.set(Kind::Commands, Weather::Deaf) > 0 {
                self.felt.storms.fetch_add(1, Ordering::Relaxed);
            }
            sleep(dice.between(Duration::from_millis(2), Duration::from_millis(70))).await;
            proxy.calm();
        }
    }

    /// One request as a good client makes it: whatever left its fate open is sent again as it was, to the next node.
    /// Answers the status and the body of the first answer that says something, and whether it was sent before.
    pub(super) async fn ask(
        &self,
        mut node: usize,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Told> {
        let deadline = Instant::now() + PATIENCE;
        let mut again = false;
        loop {
            let wait = match self.api.call(node % self.api.nodes(), method, path, body).await {
                Ok(answer) if !matches!(answer.status, 429 | 500 | 503) => {
                    return Ok(Told { status: answer.status, body: answer.body, again });
                }
                Ok(answer) => answer.retry.unwrap_or(PAUSE),
                Err(_) => PAUSE,
            };
            if Instant::now() > deadline {
                bail!("{method} {path} got no answer within {PATIENCE:?}");
            }
            again = true;
            self.felt.again.fetch_add(1, Ordering::Relaxed);
            node += 1;
            sleep(wait.min(Duration::from_millis(400))).await;
        }
    }

    /// Like [`Arena::ask`], of what must succeed.
    pub(super) async fn must(
        &self,
        node: usize,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let told = self.ask(node, method, path, body).await?;
        if !matches!(told.status, 200 | 202) {
            bail!("{method} {path}: {} {}", told.status, told.body);
        }
        Ok(told.body)
    }
}

/// An answer, and what it took.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) body: Value,
    /// It was sent more than once: an earlier one may have been carried out.
    pub(super) again: bool,
}

/// A handle for the tasks of a scenario.
pub(super) type Shared = Arc<Arena>;
