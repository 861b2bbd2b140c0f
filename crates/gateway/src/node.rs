//! What all threads of a node share.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::SystemTime,
};

use roomcast_core::{
    pace::Pace,
    permits::IpPermits,
    session::{Now, Terms},
};
use serde_json::json;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use crate::{
    auth::Verifier,
    backend::Backend,
    broker::NodeReport,
    config::Config,
    drain::{Drain, Phase},
    interest::Interest,
    metrics,
    presence::Presence,
    pulse::Pulse,
    pump::{Lane, Note, Word},
    restrictions::Restrictions,
    seats::Seats,
};

/// A node, as its workers and its HTTP API see it.
pub struct Node {
    /// What it was told at the start.
    pub config: Config,
    /// What sessions are held to.
    pub terms: Arc<Terms>,
    /// Judges tokens.
    pub verifier: Verifier,
    /// Events and counters.
    pub backend: Backend,
    /// Told when a webhook was taken in here.
    pub webhooks: Notify,
    /// What the workers want to hear.
    pub interest: Interest,
    /// Who is in which room here.
    pub presence: Presence,
    /// Who is muted or banned.
    pub restrictions: Restrictions,
    /// Who may connect.
    pub permits: Arc<IpPermits>,
    /// Who may join.
    pub seats: Seats,
    /// To the pump.
    pub notes: mpsc::UnboundedSender<Note>,
    /// How fast new connections are taken.
    pub pace: Mutex<Pace>,
    /// Whether the node is going.
    pub drain: Drain,
    /// Whether the workers turn.
    pub pulse: Pulse,
    /// Empty rooms per worker.
    pub idle_rooms: Vec<AtomicUsize>,
    /// The ways to the workers.
    pub lanes: OnceLock<Vec<Lane>>,
    /// What the broker knows it by: its id, and this start of it.
    pub incarnation: String,
    /// When it started.
    pub started: Instant,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("node", &self.config.node).finish_non_exhaustive()
    }
}

/// Both clocks of this moment.
pub fn now() -> Now {
    Now { instant: Instant::now().into_std(), unix_ms: unix_ms() }
}

/// The time, Unix ms.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Node {
    /// Whether a worker other than this one could give up an empty room, and if so, tells one to.
    pub fn evict_elsewhere(&self, worker: usize) -> bool {
        let other =
            self.idle_rooms.iter().enumerate().find(|(at, idle)| *at != worker && idle.load(Relaxed) > 0);
        let Some((other, _)) = other else { return false };
        self.lanes
            .get()
            .and_then(|lanes| lanes.get(other))
            .is_some_and(|lane| lane.words.send(Word::EvictIdle).is_ok())
    }

    /// Whether the broker is down for longer than readiness allows.
    pub fn broker_ready(&self) -> bool {
        let health = self.backend.broker.health();
        let grace = self.config.redis.as_ref().map_or(std::time::Duration::ZERO, |redis| redis.ready_grace);
        health.usable || health.since.elapsed() < grace
    }

    /// Whether new clients should come here.
    pub fn ready(&self) -> bool {
        self.drain.phase() == Phase::Serving && self.broker_ready()
    }

    /// What this node tells the others and the dashboard.
    pub fn report(&self) -> NodeReport {
        let figures = metrics::figures();
        let usable = self.backend.broker.health().usable;
        let redis = match (&self.config.redis, usable) {
            (None, _) => "none",
            (Some(_), true) => "ok",
            (Some(_), false) => "down",
        };
        let stats = json!({
            "node": self.config.node,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.started.elapsed().as_secs(),
            "at": unix_ms(),
            "connections": figures.connections,
            "connections_cap": self.config.limits.connections_per_node.get(),
            "rooms": self.interest.len(),
            "members": figures.members,
            "frames_in": figures.frames_in,
            "frames_out": figures.frames_out,
            "events": figures.events,
            "drops": figures.drops,
            "slow_closed": figures.slow_closed,
            "memory_bytes": resident_bytes(),
            "redis": redis,
            "breaker": match self.backend.state() {
                roomcast_core::breaker::BreakerState::Closed => "closed",
                roomcast_core::breaker::BreakerState::HalfOpen => "half_open",
                roomcast_core::breaker::BreakerState::Open => "open",
            },
            "draining": self.drain.phase() != Phase::Serving,
        });
        NodeReport { node: self.config.node.clone(), stats }
    }
}

/// Resident memory of this process (Linux); 0 where it can't be read.
fn resident_bytes() -> u64 {
    const PAGE: u64 = 4_096;
    let pages = |text: String| text.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    std::fs::read_to_string("/proc/self/statm").ok().and_then(pages).unwrap_or_default() * PAGE
}
