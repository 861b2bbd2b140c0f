//! What a node does all the time, whoever is connected: it renews its lease, feeds the dashboard, sweeps.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    admin,
    broker::Want,
    cluster, metrics,
    node::{Node, now, unix_ms},
};

/// How often a node looks at itself, and the dashboard is told.
const DASHBOARD: Duration = Duration::from_secs(1);
/// Every so often the dashboard is told the whole state, for who missed a part of it.
const KEYFRAMES: u64 = 10;
/// How often rooms are looked at in which holds may be over.
const SWEEP: Duration = Duration::from_millis(250);
/// Rooms taken at once: one short step each.
const SWEEP_ROOMS: u32 = 64;
/// How often changes are copied, in a cluster.
const MOVE: Duration = Duration::from_millis(50);
/// How often histograms are folded and idle addresses forgotten.
const UPKEEP: Duration = Duration::from_secs(5);

/// Renews the node's lease and tells its figures to the others.
pub(super) async fn beat(node: Arc<Node>) {
    let mut tick = interval(node.config.presence.heartbeat);
    // A late beat is followed by the next at its usual distance: no burst of them after a pause.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match node.backend.broker.heartbeat(&node.report()).await {
            // The first of the live nodes sums up for all: one message a second, however many nodes there are.
            Ok(live) => node.admin.lead(live.first().is_some_and(|first| first.node == node.incarnation)),
            Err(error) => tracing::debug!(%error, "the heartbeat failed"),
        }
    }
}

/// Keeps this node's figures at the broker; the first of the live nodes puts all of them together and tells whoever is
/// in the room `admin`.
pub(super) async fn tell_dashboard(node: Arc<Node>) {
    let mut tick = interval(DASHBOARD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut told = Told::default();
    loop {
        tick.tick().await;
        node.figures.sample(now().instant, metrics::figures(), node.drain.phase());
        let broker = &node.backend.broker;
        let asked = Instant::now();
        let kept = broker.figures(&node.full_report(), Want::None).await;
        node.figures.round_trip(kept.is_ok().then(|| asked.elapsed()));
        if kept.is_err() || !node.admin.leads() {
            told = Told::default();
            continue;
        }
        let Ok(reports) = broker.figures(&node.full_report(), Want::All).await else { continue };
        let message = told.next(&node.config.node, cluster::picture(unix_ms(), reports));
        admin::tell(&node, "cluster", &message).await;
    }
}

/// What the dashboard was told last.
#[derive(Default)]
struct Told {
    seq: u64,
    picture: Option<Map<String, Value>>,
}

impl Told {
    /// The next message: what changed, or now and then everything.
    fn next(&mut self, by: &str, picture: Map<String, Value>) -> Value {
        let before = self.picture.take().filter(|_| !self.seq.is_multiple_of(KEYFRAMES));
        let message = match before {
            Some(before) => json!({ "by": by, "seq": self.seq, "patch": cluster::patch(&before, &picture) }),
            None => json!({ "by": by, "seq": self.seq, "state": picture }),
        };
        self.seq += 1;
        self.picture = Some(picture);
        message
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

/// In a cluster, brings the changes of all slots into the one stream. One node at a time copies; the others tell it where
/// there is something.
pub(super) async fn move_changes(node: Arc<Node>) {
    let Some(mut mover) = node.backend.changes.mover(&node.incarnation) else { return };
    let mut tick = interval(MOVE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match mover.step(now().instant).await {
            Ok(moved) if moved.gaps > 0 => {
                tracing::warn!(
                    ?moved,
                    "changes were given up before they could be copied: changes.size is too small"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "changes could not be copied"),
        }
    }
}

/// Folds histograms, forgets addresses and parts of the past.
pub(super) async fn keep_up(node: Arc<Node>) {
    let mut tick = interval(UPKEEP);
    loop {
        tick.tick().await;
        metrics::upkeep();
        node.permits.sweep(now().instant);
        node.shelf.sweep(now().instant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(connections: u64) -> Map<String, Value> {
        Map::from_iter([("connections".to_owned(), connections.into()), ("kept".to_owned(), true.into())])
    }

    #[test]
    fn one_message_in_ten_holds_everything_and_the_others_what_changed() {
        let mut told = Told::default();
        for seq in 0..25 {
            let message = told.next("a", picture(seq));
            assert_eq!((&message["by"], &message["seq"]), (&json!("a"), &json!(seq)));
            if seq % 10 == 0 {
                assert_eq!(message["state"], json!({ "connections": seq, "kept": true }), "{seq}");
                assert_eq!(message.get("patch"), None);
            } else {
                assert_eq!(message["patch"], json!({ "connections": seq }), "{seq}");
                assert_eq!(message.get("state"), None);
            }
        }
    }
}
