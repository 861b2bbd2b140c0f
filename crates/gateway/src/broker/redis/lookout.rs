//! Follows the servers when they change: asks the sentinels who the master is, or the cluster who owns the slots, twice
//! a second and whenever there is a sign of change; and has the node leave at once who is named no more.

use std::{collections::HashSet, sync::Arc, time::Duration};

use fred::types::config::Server;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    channels::Channels,
    cluster::Cluster,
    plan::Form,
    routes::{LAST_SLOT, Range},
    sentinels::Sentinels,
    shard::{self, Context, Shard},
    subscriptions::Task,
};
use crate::broker::BrokerError;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Which server owns which slots: first and last.
pub(super) type Layout = Vec<(Server, u16, u16)>;

/// Whoever is asked.
#[derive(Debug)]
pub(super) enum Lookout {
    Nobody(Server),
    Sentinels(Sentinels),
    Cluster(Cluster),
}

impl Lookout {
    pub(super) fn new(form: &Form) -> Self {
        match form {
            Form::One(server) => Self::Nobody(server.clone()),
            Form::Sentinels(hosts, name) => Self::Sentinels(Sentinels::new(hosts, name)),
            Form::Cluster(seeds) => Self::Cluster(Cluster::new(seeds)),
        }
    }

    /// Who owns what now; an error where nobody knows.
    pub(super) async fn look(&mut self, context: &Context) -> Result<Layout, BrokerError> {
        let asked = async {
            match self {
                Self::Nobody(server) => Ok(vec![(server.clone(), 0, LAST_SLOT)]),
                Self::Sentinels(sentinels) => Ok(vec![(sentinels.look(context).await?, 0, LAST_SLOT)]),
                Self::Cluster(cluster) => cluster.look(context).await,
            }
        };
        timeout(PATIENCE, asked)
            .await
            .unwrap_or_else(|_| Err(BrokerError::refused("nobody says in time where Redis is")))
    }

    /// Looks for ever.
    pub(super) async fn follow(mut self, context: Arc<Context>, channels: Arc<Channels>) {
        if matches!(self, Self::Nobody(_)) {
            return;
        }
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = context.routes.doubted() => {
                    // Many signs of one change are one look.
                    tokio::time::sleep(LOOK_INTERVAL / 20).await;
                }
            }
            match self.look(&context).await {
                Ok(layout) => apply(&context, &channels, &layout).await,
                Err(error) => tracing::debug!(%error, "could not look where Redis is"),
            }
        }
    }
}

/// Makes the routes what the layout says.
pub(super) async fn apply(context: &Arc<Context>, channels: &Channels, layout: &Layout) {
    let known = context.routes.shards();
    let mut shards: Vec<Arc<Shard>> = Vec::new();
    let mut new = Vec::new();
    for (server, ..) in layout {
        if shards.iter().any(|shard| shard.server == *server) {
            continue;
        }
        if let Some(shard) = known.iter().find(|shard| shard.server == *server) {
            shards.push(shard.clone());
        } else {
            let (shard, requests) = context.shard(server);
            shards.push(shard.clone());
            new.push((shard, requests));
        }
    }
    let ranges: Vec<_> = layout
        .iter()
        .filter_map(|(server, first, last)| {
            let shard = shards.iter().find(|shard| shard.server == *server)?.clone();
            Some(Range { first: *first, last: *last, shard })
        })
        .collect();
    let gone: Vec<_> =
        known.into_iter().filter(|old| !shards.iter().any(|shard| Arc::ptr_eq(shard, old))).collect();
    for shard in &gone {
        tracing::warn!(server = %shard.server, "Redis moved: leaving this server");
        // What it acknowledged and did not pass on is held against the logs of whoever comes next.
        shard::freeze(context, shard);
        shard.end();
        context.health.remove(&shard.server);
    }
    for (shard, _) in &new {
        tracing::warn!(server = %shard.server, "Redis moved: going to this server");
        context.health.add(&shard.server, false);
    }
    let orders = channels.reroute(ranges);
    for (shard, requests) in new {
        let subscribing = Task::new(context.clone(), shard.clone(), requests, HashSet::new());
        shard::start(context, &shard, None, subscribing);
    }
    for (server, order) in orders {
        // Who is gone needs no orders.
        let _gone = server.send(order).await;
    }
}
