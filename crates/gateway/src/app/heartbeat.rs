//! What a node does all the time, whoever is connected: it renews its lease, feeds the dashboard, sweeps.

use std::{sync::Arc, time::Duration};

use roomcast_protocol::{Data, RoomName};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    metrics,
    node::{Node, now},
};

/// How often a node tells the dashboard how it is.
const DASHBOARD: Duration = Duration::from_secs(1);
/// How often rooms are looked at in which holds may be over.
const SWEEP: Duration = Duration::from_millis(250);
/// Rooms taken at once: one short step each.
const SWEEP_ROOMS: u32 = 64;
/// How often histograms are folded and idle addresses forgotten.
const UPKEEP: Duration = Duration::from_secs(5);

/// Renews the node's lease and tells its figures to the others.
pub(super) async fn beat(node: Arc<Node>) {
    let mut tick = interval(node.config.presence.heartbeat);
    // A late beat is followed by the next at its usual distance: no burst of them after a pause.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = node.backend.broker.heartbeat(&node.report()).await {
            tracing::debug!(%error, "the heartbeat failed");
        }
    }
}

/// Sends this node's figures to whoever watches the room `admin`.
pub(super) async fn tell_dashboard(node: Arc<Node>) {
    let Ok(room) = RoomName::parse("admin") else { return };
    let mut tick = interval(DASHBOARD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        let Ok(data) = Data::of(&node.report().stats) else { continue };
        if let Err(error) = node.backend.broker.signal(&room, "node", &data, None).await {
            tracing::debug!(%error, "the dashboard could not be told");
        }
    }
}

/// Takes expired holds back where nobody asks for the item. The store gives each room to one node at a time.
pub(super) async fn sweep_holds(node: Arc<Node>) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match node.backend.counter.sweep_holds(SWEEP_ROOMS).await {
            Ok(swept) if swept.expired > 0 => tracing::debug!(?swept, "expired holds were taken back"),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "expired holds could not be looked for"),
        }
    }
}

/// Folds histograms, forgets addresses.
pub(super) async fn keep_up(node: Arc<Node>) {
    let mut tick = interval(UPKEEP);
    loop {
        tick.tick().await;
        metrics::upkeep();
        node.permits.sweep(now().instant);
    }
}
