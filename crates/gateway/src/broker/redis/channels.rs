//! All channels of this node, whichever server each belongs to: they are asked for where their slot is, and move
//! with it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fred::util::redis_keyslot;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    routes::{Range, Routes},
    shard::Shard,
    subscriptions::{Request, down},
};
use crate::broker::BrokerError;

/// How long a caller waits for the proof, the time to subscribe many rooms anew included.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Channels {
    routes: Arc<Routes>,
    /// What was proven, or adopted. Locked while the routes change, so that none is forgotten by a move.
    proven: Mutex<HashSet<String>>,
}

/// What a server is to be told once the routes have changed.
pub(super) type Orders = Vec<(mpsc::Sender<Request>, Request)>;

impl Channels {
    /// These are subscribed by the servers' tasks from the beginning.
    pub(super) fn new(routes: Arc<Routes>, own: impl IntoIterator<Item = String>) -> Self {
        Self { routes, proven: Mutex::new(own.into_iter().collect()) }
    }

    /// Returns when the subscription is proven live.
    pub(super) async fn subscribe(&self, channel: String) -> Result<(), BrokerError> {
        let slot = redis_keyslot(channel.as_bytes());
        let shard = self.routes.owner(slot).ok_or_else(down)?;
        let (waiter, answer) = oneshot::channel();
        let ask = async {
            shard.requests.send(Request::Subscribe(channel.clone(), waiter)).await.map_err(|_| stopped())?;
            // Dropped together with the connection that it was asked on.
            answer.await.map_err(|_| down())?
        };
        timeout(PATIENCE, ask)
            .await
            .unwrap_or_else(|_| Err(BrokerError::refused("subscribing takes too long")))?;
        let mut proven = self.lock();
        if self.routes.is_owner(&shard, slot) {
            proven.insert(channel);
            return Ok(());
        }
        drop(proven);
        // Nobody else would tell the server: to whom the room belongs now was said before it was proven here.
        let _too_full = timeout(PATIENCE, shard.requests.send(Request::Abandon(vec![channel]))).await;
        Err(BrokerError::refused("the room moved to another server meanwhile"))
    }

    pub(super) async fn unsubscribe(&self, channel: String) -> Result<(), BrokerError> {
        self.lock().remove(&channel);
        let Some(shard) = self.routes.owner(redis_keyslot(channel.as_bytes())) else { return Ok(()) };
        match timeout(PATIENCE, shard.requests.send(Request::Unsubscribe(channel))).await {
            Ok(sent) => sent.map_err(|_| stopped()),
            Err(_) => Err(BrokerError::refused("too many subscriptions are under way")),
        }
    }

    /// Sets the routes, and answers what to tell the servers whose channels come or go.
    pub(super) fn reroute(&self, ranges: Vec<Range>) -> Orders {
        let proven = self.lock();
        let before: Vec<_> = proven.iter().map(|channel| (channel, self.owner(channel))).collect();
        self.routes.set(ranges);
        let mut comes: HashMap<*const Shard, (Arc<Shard>, Vec<String>)> = HashMap::new();
        let mut goes: HashMap<*const Shard, (Arc<Shard>, Vec<String>)> = HashMap::new();
        for (channel, before) in before {
            let after = self.owner(channel);
            let is_same = match (&before, &after) {
                (Some(before), Some(after)) => Arc::ptr_eq(before, after),
                (None, None) => true,
                _ => false,
            };
            if is_same {
                continue;
            }
            for (shard, list) in [(before, &mut goes), (after, &mut comes)] {
                if let Some(shard) = shard {
                    list.entry(Arc::as_ptr(&shard)).or_insert((shard, Vec::new())).1.push(channel.clone());
                }
            }
        }
        let abandon =
            goes.into_values().map(|(shard, list)| (shard.requests.clone(), Request::Abandon(list)));
        let adopt = comes.into_values().map(|(shard, list)| (shard.requests.clone(), Request::Adopt(list)));
        abandon.chain(adopt).collect()
    }

    fn owner(&self, channel: &str) -> Option<Arc<Shard>> {
        self.routes.owner(redis_keyslot(channel.as_bytes()))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopped() -> BrokerError {
    BrokerError::refused("the broker has been shut down, or the server was left")
}
