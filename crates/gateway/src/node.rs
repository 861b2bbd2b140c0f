//! What all threads of a node share.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use roomcast_core::{
    breaker::BreakerState,
    pace::Pace,
    permits::IpPermits,
    session::{Now, Terms},
};
use serde_json::{Map, Value, json};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use crate::{
    admin::Admin,
    auth::Verifier,
    backend::Backend,
    broker::NodeReport,
    cluster::{shown, tenths},
    config::Config,
    drain::{Drain, Phase},
    figures::Figures,
    interest::Interest,
    metrics,
    presence::Presence,
    pulse::Pulse,
    pump::{Lane, Note, Word},
    restrictions::Restrictions,
    seats::Seats,
    shelf::Shelf,
    tallies::Tallies,
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
    /// Counter values for who joins.
    pub tallies: Tallies,
    /// Parts of the past for who catches up.
    pub shelf: Shelf,
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
    /// What it knows of itself.
    pub figures: Figures,
    /// What admins have asked of it.
    pub admin: Admin,
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

    /// What this node tells the others with each heartbeat.
    pub fn report(&self) -> NodeReport {
        NodeReport { node: self.incarnation.clone(), stats: Value::Object(self.basics()) }
    }

    /// All that this node tells the dashboard.
    pub fn full_report(&self) -> NodeReport {
        let seen = self.figures.seen();
        let health = self.backend.broker.health();
        let phase = self.drain.phase();
        let figures = metrics::figures();
        let mut stats = self.basics();
        let mut tell = |field: &str, value: Value| {
            stats.insert(field.to_owned(), value);
        };
        let now = unix_ms();
        let uptime = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        // In seconds, because two clocks are read that do not run alike.
        tell("started_at", (now.saturating_sub(uptime) / 1_000 * 1_000).into());
        tell("queue_bytes", figures.queue_bytes.into());
        for (field, rate) in [
            ("in_per_s", seen.rates.frames_in),
            ("out_per_s", seen.rates.frames_out),
            ("bytes_per_s", seen.rates.bytes_out),
            ("events_per_s", seen.rates.events),
            ("drops_per_s", seen.rates.drops),
            ("slow_per_s", seen.rates.slow_closed),
        ] {
            tell(field, tenths(rate));
        }
        let millis = |duration: Duration| tenths(duration.as_secs_f64() * 1_000.0);
        if let Some(ms) = seen.lags.quantile(0.99) {
            tell("delivery_p99_ms", tenths(ms));
        }
        tell("delivery_counts", seen.lags.list().into());
        if self.config.redis.is_some() {
            if let Some(took) = seen.round_trip {
                tell("redis_rtt_ms", millis(took));
            }
            if let Some(lag) = health.last_lag {
                tell("redis_lag_ms", millis(lag));
            }
        }
        tell("redis_reconnects", health.reconnects.into());
        let changes = metrics::breaker_changes();
        let change = |of: &metrics::BreakerChange| json!({ "at": of.at, "state": breaker_word(of.state) });
        tell("breaker_log", changes.iter().map(change).collect());
        let phase = match phase {
            Phase::Serving => "serving",
            Phase::Leaving => "leaving",
            Phase::Draining => "draining",
        };
        tell("phase", phase.into());
        if let Some(from) = seen.drain_from {
            tell("drain_from", from.into());
        }
        tell("shedding", self.drain.sheds().into());
        tell("top", self.figures.rooms().iter().map(shown).collect());
        NodeReport { node: self.incarnation.clone(), stats: Value::Object(stats) }
    }

    fn basics(&self) -> Map<String, Value> {
        let figures = metrics::figures();
        let usable = self.backend.broker.health().usable;
        let redis = match (&self.config.redis, usable) {
            (None, _) => "none",
            (Some(_), true) => "ok",
            (Some(_), false) => "down",
        };
        let basics = json!({
            "node": self.config.node,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.started.elapsed().as_secs(),
            "at": unix_ms(),
            "connections": figures.connections,
            "rooms": self.interest.len(),
            "members": figures.members,
            "frames_in": figures.frames_in,
            "frames_out": figures.frames_out,
            "events": figures.events,
            "drops": figures.drops,
            "slow_closed": figures.slow_closed,
            "memory_bytes": resident_bytes(),
            "redis": redis,
            "breaker": breaker_word(self.backend.state()),
            "draining": self.drain.phase() != Phase::Serving,
        });
        let mut basics = match basics {
            Value::Object(basics) => basics,
            _ => Map::new(),
        };
        // Absent where there is none: a null would take it out of a picture that is told by patches.
        if let Some(cap) = self.config.limits.connections_per_node.get() {
            basics.insert("connections_cap".to_owned(), cap.into());
        }
        basics
    }
}

fn breaker_word(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed => "closed",
        BreakerState::HalfOpen => "half_open",
        BreakerState::Open => "open",
    }
}

/// Resident memory of this process (Linux); 0 where it can't be read.
fn resident_bytes() -> u64 {
    const PAGE: u64 = 4_096;
    let pages = |text: String| text.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    std::fs::read_to_string("/proc/self/statm").ok().and_then(pages).unwrap_or_default() * PAGE
}
