//! Moving clients to other nodes: a share of them after a scale-out, or all of them before this node goes.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use roomcast_protocol::ErrorCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use super::body::Body;
use crate::{
    drain::{Phase, Shed},
    http::problem::Problem,
    node::Node,
    pump::Word,
};

/// Longer than any sensible move.
const MAX_SPREAD_MS: u64 = 3_600_000;
/// A worker that is this busy has other worries.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    share: Option<f64>,
    count: Option<u64>,
    spread_ms: Option<u64>,
}

impl Wanted {
    /// How many of so many, and which part that is of each worker's.
    fn part_of(&self, connections: u64) -> Result<(u64, f64), Problem> {
        let bad = |detail| Problem::new(ErrorCode::BadFrame, detail);
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
pub(super) async fn shed(
    State(node): State<Arc<Node>>,
    Body(wanted): Body<Wanted>,
) -> Result<Json<Value>, Problem> {
    let connections = node.permits.connections();
    let (count, share) = wanted.part_of(connections)?;
    let spread = match wanted.spread_ms {
        Some(ms) if ms > MAX_SPREAD_MS => {
            return Err(Problem::new(ErrorCode::BadFrame, "spread_ms is an hour at most"));
        }
        Some(ms) => Duration::from_millis(ms),
        None => node.config.drain.spread,
    };
    let conflict = |detail| Problem::new(ErrorCode::Conflict, detail);
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
    let late = |_| Problem::new(ErrorCode::Unavailable, "the workers are too busy to say how many they shed");
    let shed = timeout(WORKERS_TIMEOUT, count).await.map_err(late)?;
    tracing::info!(shed, connections, ?spread, "shedding connections to other nodes");
    let spread_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
    Ok(Json(json!({ "shed": shed, "connections": connections, "spread_ms": spread_ms })))
}

/// Drains this node as SIGTERM does, but leaves the process: not ready and refusing until it is ended. 202 at once.
pub(super) async fn drain(State(node): State<Arc<Node>>) -> Response {
    node.drain.ask();
    let connections = node.permits.connections();
    (StatusCode::ACCEPTED, Json(json!({ "draining": true, "connections": connections }))).into_response()
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
}
