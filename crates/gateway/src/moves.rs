//! Moving clients to other nodes: a share of them after a scale-out, or all of them before this node goes. Whoever asks,
//! over HTTP, from a dashboard or from another node, is served here, and it is written down.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use roomcast_protocol::{ErrorCode, Failure};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    admin::audit::{self, Act, Deed},
    drain::{Phase, Shed},
    node::Node,
    pump::Word,
};

/// Longer than any sensible move.
const MAX_SPREAD_MS: u64 = 3_600_000;
/// A worker that is this busy has other worries.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(5);

/// Which part of the connections is to go, and how fast.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Wanted {
    /// A part of them, above 0 and at most 1 …
    pub share: Option<f64>,
    /// … or so many.
    pub count: Option<u64>,
    /// Over how long; else as the node is configured.
    pub spread_ms: Option<u64>,
}

/// What a shed set in motion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// So many connections go.
    pub shed: usize,
    /// Of so many.
    pub connections: u64,
    /// Over so long.
    pub spread: Duration,
}

impl Wanted {
    /// Refuses what makes no sense, whatever the node.
    pub fn check(&self) -> Result<(), Failure> {
        self.part_of(1)?;
        if self.spread_ms.is_some_and(|ms| ms > MAX_SPREAD_MS) {
            return Err(Failure::new(ErrorCode::BadFrame, "spread_ms is an hour at most"));
        }
        Ok(())
    }

    /// How many of so many, and which part that is of each worker's.
    fn part_of(&self, connections: u64) -> Result<(u64, f64), Failure> {
        let bad = |detail| Failure::new(ErrorCode::BadFrame, detail);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a share of a number of sockets"
        )]
        match (self.share, self.count) {
            (Some(share), None) if share > 0.0 && share <= 1.0 => {
                Ok(((connections as f64 * share).round() as u64, share))
            }
            (None, Some(count)) if count > 0 => {
                Ok((count, (count as f64 / connections.max(1) as f64).min(1.0)))
            }
            (Some(_), None) => Err(bad("share is above 0 and at most 1")),
            (None, Some(_)) => Err(bad("count is 1 or more")),
            _ => Err(bad("name either a share or a count")),
        }
    }
}

/// Tells clients of this node to go to another, spread over time, and closes each with 4003 at its time.
pub async fn shed(node: &Node, wanted: Wanted, by: &str) -> Result<Moved, Failure> {
    wanted.check()?;
    let connections = node.permits.connections();
    let (count, share) = wanted.part_of(connections)?;
    let spread = wanted.spread_ms.map_or(node.config.drain.spread, Duration::from_millis);
    let conflict = |detail| Failure::new(ErrorCode::Conflict, detail);
    if node.drain.phase() != Phase::Serving {
        return Err(conflict("this node drains: all of its clients are told to go"));
    }
    let only = node.drain.shed().ok_or_else(|| conflict("this node is shedding connections already"))?;
    let (chosen, mut choices) = mpsc::unbounded_channel();
    let shed = Arc::new(Shed { share, left: AtomicU64::new(count), spread, chosen, only });
    let lanes = node.lanes.get().map_or(&[][..], Vec::as_slice);
    // A worker that is gone has no connections any more.
    let told = lanes.iter().filter(|lane| lane.words.send(Word::Shed(shed.clone())).is_ok()).count();
    drop(shed);
    let count = async {
        let mut shed = 0;
        for _ in 0..told {
            shed += choices.recv().await.unwrap_or_default();
        }
        shed
    };
    let late = |_| Failure::new(ErrorCode::Unavailable, "the workers are too busy to say how many they shed");
    let shed = timeout(WORKERS_TIMEOUT, count).await.map_err(late)?;
    tracing::info!(shed, connections, ?spread, "shedding connections to other nodes");
    let detail = format!("{shed} of {connections} connections within {} s", spread.as_secs_f64());
    audit::record(node, Deed::new(by, Act::Shed).on(&node.config.node).detail(&detail)).await;
    Ok(Moved { shed, connections, spread })
}

/// Drains this node as SIGTERM does, but leaves the process: not ready and refusing until it is ended. At once: how many
/// connections it had.
pub async fn drain(node: &Node, by: &str) -> u64 {
    let serving = node.drain.phase() == Phase::Serving;
    node.drain.ask();
    let connections = node.permits.connections();
    if serving {
        let detail = format!("{connections} connections");
        audit::record(node, Deed::new(by, Act::Drain).on(&node.config.node).detail(&detail)).await;
    }
    connections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(share: Option<f64>, count: Option<u64>, of: u64) -> Option<(u64, f64)> {
        Wanted { share, count, spread_ms: None }.part_of(of).ok()
    }

    #[test]
    fn a_share_or_a_count_but_not_both() {
        assert_eq!(part(Some(0.25), None, 101), Some((25, 0.25)));
        assert_eq!(part(Some(1.0), None, 7), Some((7, 1.0)));
        assert_eq!(part(None, Some(10), 40), Some((10, 0.25)));
        assert_eq!(part(None, Some(50), 40), Some((50, 1.0)));
        assert_eq!(part(None, Some(1), 0), Some((1, 1.0)));
        for (share, count) in [
            (None, None),
            (Some(0.5), Some(1)),
            (Some(0.0), None),
            (Some(1.01), None),
            (Some(f64::NAN), None),
            (None, Some(0)),
        ] {
            assert_eq!(part(share, count, 10), None, "{share:?} {count:?}");
        }
    }

    #[test]
    fn a_move_takes_an_hour_at_most() {
        let over =
            |spread_ms| Wanted { share: Some(1.0), count: None, spread_ms: Some(spread_ms) }.check().is_ok();
        assert!(over(0) && over(MAX_SPREAD_MS) && !over(MAX_SPREAD_MS + 1));
    }
}
