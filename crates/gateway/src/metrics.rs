//! What a node counts. The hot path adds to plain atomics; a scrape copies them to the Prometheus recorder.
//!
//! Every label is a closed set: no room, user, address or error text ever becomes one.

use std::{
    cell::Cell,
    collections::VecDeque,
    sync::{
        LazyLock, Mutex, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use metrics::{Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use roomcast_core::breaker::BreakerState;
use roomcast_protocol::{CloseCode, ErrorCode, OpKind, PushClass};

use crate::{lag::LagCounts, node::unix_ms, outbox::Dropped};

/// Changes of the breaker that the dashboard is told: more in ten minutes is one long trouble.
const BREAKER_LOG: usize = 16;
/// From a local memory operation to a Redis that is about to time out.
const SECONDS_BUCKETS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// How a request for a WebSocket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Upgraded.
    Accepted,
    /// The handshake was malformed, or from a foreign origin.
    Refused,
    /// An address held too many, or came too fast.
    IpLimited,
    /// The node is full.
    NodeFull,
    /// The node is draining.
    Draining,
    /// The node was not ready, and the balancer had asked to be told.
    NotReady,
    /// Too many came at once.
    Paced,
    /// The request's head did not come in time.
    TimedOut,
    /// The node has not reached its broker yet.
    Starting,
}

impl Admission {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Accepted, "accepted"),
        (Self::Refused, "refused"),
        (Self::IpLimited, "ip_limited"),
        (Self::NodeFull, "node_full"),
        (Self::Draining, "draining"),
        (Self::NotReady, "not_ready"),
        (Self::Paced, "paced"),
        (Self::TimedOut, "timed_out"),
        (Self::Starting, "starting"),
    ];
}

/// What came of asking for a place over all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// It is there.
    Admitted,
    /// The address or user holds all it may.
    Full,
    /// The broker is known to be away: this node decided alone.
    Unasked,
    /// The broker did not answer in time: this node decided alone.
    Unanswered,
}

impl Claimed {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Admitted, "admitted"),
        (Self::Full, "full"),
        (Self::Unasked, "unasked"),
        (Self::Unanswered, "unanswered"),
    ];
}

/// What became of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Webhook {
    /// Taken in.
    Queued,
    /// Its id was known.
    Duplicate,
    /// Its id was known with another body.
    Mismatch,
    /// The queue was full.
    Full,
    /// Its body or signature was wrong.
    Refused,
    /// The queue could not be reached.
    Unavailable,
    /// It became an event.
    Published,
    /// It failed, and is tried again.
    Retried,
    /// It was given up.
    Dead,
}

impl Webhook {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Queued, "queued"),
        (Self::Duplicate, "duplicate"),
        (Self::Mismatch, "mismatch"),
        (Self::Full, "full"),
        (Self::Refused, "refused"),
        (Self::Unavailable, "unavailable"),
        (Self::Published, "published"),
        (Self::Retried, "retried"),
        (Self::Dead, "dead"),
    ];
}

/// How a gap in a room's feed was healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// Everything missed was read from history.
    Repaired,
    /// The members were told `reset`.
    Reset,
}

/// Everything counted since the process started.
#[derive(Debug, Default)]
pub struct Totals {
    connections: AtomicI64,
    rooms: AtomicI64,
    members: AtomicI64,
    admissions: [AtomicU64; Admission::ALL.len()],
    claims: [AtomicU64; Claimed::ALL.len()],
    closes: [AtomicU64; CloseCode::ALL.len()],
    errors: [AtomicU64; ErrorCode::ALL.len()],
    received: [AtomicU64; OpKind::ALL.len()],
    sent: [AtomicU64; PushClass::ALL.len()],
    sent_bytes: AtomicU64,
    dropped_fleeting: AtomicU64,
    conflated: AtomicU64,
    slow_consumers: AtomicU64,
    rests: AtomicU64,
    queued_bytes: AtomicI64,
    lags: LagCounts<AtomicU64>,
    events: AtomicU64,
    signals: AtomicU64,
    gaps_repaired: AtomicU64,
    gaps_reset: AtomicU64,
    draining: AtomicU64,
    breaker: AtomicU64,
    webhooks: [AtomicU64; Webhook::ALL.len()],
    webhooks_waiting: AtomicU64,
    webhooks_dead: AtomicU64,
}

static TOTALS: LazyLock<Totals> = LazyLock::new(Totals::default);
static BREAKER_CHANGES: Mutex<VecDeque<BreakerChange>> = Mutex::new(VecDeque::new());
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
static OP_SECONDS: LazyLock<Vec<Histogram>> = LazyLock::new(|| {
    OpKind::ALL.iter().map(|op| histogram!("roomcast_op_duration_seconds", "op" => op.as_str())).collect()
});
static DELIVERY_LAG: LazyLock<Histogram> = LazyLock::new(|| histogram!("roomcast_delivery_lag_seconds"));

thread_local! {
    /// Fleeting frames that gave way on this thread.
    static DROPPED_HERE: Cell<u64> = const { Cell::new(0) };
}

/// The breaker went into this state at this time, Unix ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerChange {
    /// When.
    pub at: u64,
    /// Into which state.
    pub state: BreakerState,
}

/// Installs the recorder once per process.
pub fn install() -> Result<(), BuildError> {
    if RECORDER.get().is_some() {
        return Ok(());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)?
        .build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_ok() {
        let _first = RECORDER.set(handle);
        describe();
        // There from the first scrape on, so that rates begin at zero.
        LazyLock::force(&OP_SECONDS);
        LazyLock::force(&DELIVERY_LAG);
    }
    Ok(())
}

/// A node with Redis counts its reconnects from zero, so that the first one is seen as a rise.
pub fn expect_redis() {
    counter!("roomcast_redis_reconnects_total").increment(0);
}

/// The Prometheus text of now.
pub fn render() -> String {
    TOTALS.publish();
    metrics_process::Collector::default().collect();
    RECORDER.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Histograms fold their samples in here; call it every few seconds.
pub fn upkeep() {
    if let Some(recorder) = RECORDER.get() {
        recorder.run_upkeep();
    }
}

/// A request for a WebSocket ended like this.
pub fn admission(outcome: Admission) {
    if let Some(at) = Admission::ALL.iter().position(|(of, _)| *of == outcome) {
        TOTALS.admissions[at].fetch_add(1, Relaxed);
    }
}

/// A place over all nodes was asked for, and this came of it.
pub fn claimed(outcome: Claimed) {
    if let Some(at) = Claimed::ALL.iter().position(|(of, _)| *of == outcome) {
        TOTALS.claims[at].fetch_add(1, Relaxed);
    }
}

/// A webhook got so far.
pub fn webhook(outcome: Webhook) {
    if let Some(at) = Webhook::ALL.iter().position(|(of, _)| *of == outcome) {
        TOTALS.webhooks[at].fetch_add(1, Relaxed);
    }
}

/// Webhooks that wait and webhooks that were given up, over all nodes.
pub fn webhooks(waiting: u64, dead: u64) {
    TOTALS.webhooks_waiting.store(waiting, Relaxed);
    TOTALS.webhooks_dead.store(dead, Relaxed);
}

/// A connection opened.
pub fn opened() {
    TOTALS.connections.fetch_add(1, Relaxed);
}

/// A connection ended; with the code the server closed it with, or none when the client went.
pub fn closed(code: Option<CloseCode>) {
    TOTALS.connections.fetch_sub(1, Relaxed);
    let code = code.unwrap_or(CloseCode::GoingAway);
    if let Some(at) = CloseCode::ALL.iter().position(|of| *of == code) {
        TOTALS.closes[at].fetch_add(1, Relaxed);
    }
}

/// A frame failed.
pub fn error(code: ErrorCode) {
    if let Some(at) = ErrorCode::ALL.iter().position(|of| *of == code) {
        TOTALS.errors[at].fetch_add(1, Relaxed);
    }
}

/// A well-formed frame came.
pub fn received(op: OpKind) {
    TOTALS.received[op as usize].fetch_add(1, Relaxed);
}

/// An operation was carried out, well or not, in this time.
pub fn op_took(op: OpKind, took: Duration) {
    if let Some(of) = OP_SECONDS.get(op as usize) {
        of.record(took);
    }
}

/// Frames went to sockets, or to their outboxes.
pub fn sent(class: PushClass, frames: u64, bytes: usize) {
    TOTALS.sent[class as usize].fetch_add(frames, Relaxed);
    TOTALS.sent_bytes.fetch_add(bytes as u64, Relaxed);
}

/// Frames gave way in an outbox.
pub fn dropped(dropped: Dropped) {
    if dropped.fleeting > 0 {
        TOTALS.dropped_fleeting.fetch_add(dropped.fleeting, Relaxed);
        DROPPED_HERE.set(DROPPED_HERE.get() + dropped.fleeting);
    }
    if dropped.conflated > 0 {
        TOTALS.conflated.fetch_add(dropped.conflated, Relaxed);
    }
}

/// Fleeting frames that gave way on this thread so far: what a worker sees rise while it serves a room was the room's.
pub fn dropped_here() -> u64 {
    DROPPED_HERE.get()
}

/// So many bytes more wait in an outbox, or less.
pub fn queued(change: i64) {
    TOTALS.queued_bytes.fetch_add(change, Relaxed);
}

/// A socket could not keep up.
pub fn slow_consumer() {
    TOTALS.slow_consumers.fetch_add(1, Relaxed);
}

/// A busy worker has rested.
pub fn rested() {
    TOTALS.rests.fetch_add(1, Relaxed);
}

/// How often workers have rested.
#[cfg(test)]
pub fn rests() -> u64 {
    TOTALS.rests.load(Relaxed)
}

/// A must-deliver event arrived for this node's members.
pub fn event() {
    TOTALS.events.fetch_add(1, Relaxed);
}

/// A signal, count or presence arrived for this node's members.
pub fn signal() {
    TOTALS.signals.fetch_add(1, Relaxed);
}

/// From an event's time in the log to its bytes being handed to the sockets.
pub fn delivery_lag(lag: Duration) {
    DELIVERY_LAG.record(lag);
    TOTALS.lags.of(lag).fetch_add(1, Relaxed);
}

/// A gap was healed.
pub fn gap(outcome: Gap) {
    match outcome {
        Gap::Repaired => TOTALS.gaps_repaired.fetch_add(1, Relaxed),
        Gap::Reset => TOTALS.gaps_reset.fetch_add(1, Relaxed),
    };
}

/// Rooms and members changed by so many.
pub fn rooms_changed(rooms: i64, members: i64) {
    if rooms != 0 {
        TOTALS.rooms.fetch_add(rooms, Relaxed);
    }
    if members != 0 {
        TOTALS.members.fetch_add(members, Relaxed);
    }
}

/// The node drains.
pub fn draining() {
    TOTALS.draining.store(1, Relaxed);
}

/// The breaker's state changed.
pub fn breaker(state: BreakerState) {
    let value = match state {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    };
    // Told at every call: nearly always it is what it was, and then nobody's cache line is taken.
    if TOTALS.breaker.load(Relaxed) != value && TOTALS.breaker.swap(value, Relaxed) != value {
        let mut log = BREAKER_CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == BREAKER_LOG {
            log.pop_front();
        }
        log.push_back(BreakerChange { at: unix_ms(), state });
    }
}

/// The breaker's last changes, oldest first.
pub fn breaker_changes() -> Vec<BreakerChange> {
    BREAKER_CHANGES.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
}

/// The figures that a node tells the dashboard.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Open connections.
    pub connections: i64,
    /// Rooms held, per worker that holds them.
    pub rooms: i64,
    /// Seats in them.
    pub members: i64,
    /// Frames received since the start.
    pub frames_in: u64,
    /// Frames sent since the start.
    pub frames_out: u64,
    /// Events delivered to this node since the start.
    pub events: u64,
    /// Fleeting frames dropped since the start.
    pub drops: u64,
    /// Slow consumers since the start.
    pub slow_closed: u64,
    /// Bytes sent since the start.
    pub bytes_out: u64,
    /// Bytes that wait for slow sockets.
    pub queue_bytes: u64,
    /// How long deliveries took since the start.
    pub lags: LagCounts<u64>,
}

/// The figures of now.
pub fn figures() -> Figures {
    let sum = |of: &[AtomicU64]| of.iter().map(|n| n.load(Relaxed)).sum();
    Figures {
        connections: TOTALS.connections.load(Relaxed),
        rooms: TOTALS.rooms.load(Relaxed),
        members: TOTALS.members.load(Relaxed),
        frames_in: sum(&TOTALS.received),
        frames_out: sum(&TOTALS.sent),
        events: TOTALS.events.load(Relaxed),
        drops: TOTALS.dropped_fleeting.load(Relaxed),
        slow_closed: TOTALS.slow_consumers.load(Relaxed),
        bytes_out: TOTALS.sent_bytes.load(Relaxed),
        queue_bytes: u64::try_from(TOTALS.queued_bytes.load(Relaxed)).unwrap_or_default(),
        lags: TOTALS.lags.read(),
    }
}

impl Totals {
    #[allow(clippy::cast_precision_loss, reason = "gauges are floats; 2^53 connections are not in sight")]
    fn publish(&self) {
        let gauge_of = |n: &AtomicI64| n.load(Relaxed) as f64;
        gauge!("roomcast_connections").set(gauge_of(&self.connections));
        gauge!("roomcast_rooms").set(gauge_of(&self.rooms));
        gauge!("roomcast_members").set(gauge_of(&self.members));
        gauge!("roomcast_outbound_queue_bytes").set(gauge_of(&self.queued_bytes));
        gauge!("roomcast_draining").set(self.draining.load(Relaxed) as f64);
        gauge!("roomcast_breaker_state").set(self.breaker.load(Relaxed) as f64);
        gauge!("roomcast_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        gauge!("roomcast_ingest_waiting").set(self.webhooks_waiting.load(Relaxed) as f64);
        gauge!("roomcast_ingest_dead").set(self.webhooks_dead.load(Relaxed) as f64);
        for ((_, outcome), n) in Webhook::ALL.iter().zip(&self.webhooks) {
            counter!("roomcast_ingest_total", "outcome" => *outcome).absolute(n.load(Relaxed));
        }
        for ((_, outcome), n) in Admission::ALL.iter().zip(&self.admissions) {
            counter!("roomcast_connections_total", "outcome" => *outcome).absolute(n.load(Relaxed));
        }
        for ((_, outcome), n) in Claimed::ALL.iter().zip(&self.claims) {
            counter!("roomcast_claims_total", "outcome" => *outcome).absolute(n.load(Relaxed));
        }
        for (code, n) in CloseCode::ALL.iter().zip(&self.closes) {
            counter!("roomcast_closes_total", "code" => code.code().to_string()).absolute(n.load(Relaxed));
        }
        for (code, n) in ErrorCode::ALL.iter().zip(&self.errors) {
            counter!("roomcast_errors_total", "code" => code.as_str()).absolute(n.load(Relaxed));
        }
        for (op, n) in OpKind::ALL.iter().zip(&self.received) {
            counter!("roomcast_frames_received_total", "op" => op.as_str()).absolute(n.load(Relaxed));
        }
        for (class, n) in PushClass::ALL.iter().zip(&self.sent) {
            counter!("roomcast_frames_sent_total", "class" => class.as_str()).absolute(n.load(Relaxed));
        }
        for (class, reason, n) in
            [("fleeting", "slow", &self.dropped_fleeting), ("conflated", "replaced", &self.conflated)]
        {
            counter!("roomcast_drops_total", "class" => class, "reason" => reason).absolute(n.load(Relaxed));
        }
        for (source, n) in [("event", &self.events), ("other", &self.signals)] {
            counter!("roomcast_events_total", "source" => source).absolute(n.load(Relaxed));
        }
        for (outcome, n) in [("repaired", &self.gaps_repaired), ("reset", &self.gaps_reset)] {
            counter!("roomcast_gaps_total", "outcome" => outcome).absolute(n.load(Relaxed));
        }
        counter!("roomcast_bytes_sent_total").absolute(self.sent_bytes.load(Relaxed));
        counter!("roomcast_slow_consumers_total").absolute(self.slow_consumers.load(Relaxed));
        counter!("roomcast_worker_rests_total").absolute(self.rests.load(Relaxed));
    }
}

fn describe() {
    describe_gauge!("roomcast_connections", "Open WebSocket connections.");
    describe_gauge!("roomcast_rooms", "Rooms held, counted once per worker that holds members of it.");
    describe_gauge!("roomcast_members", "Seats in rooms: a connection in three rooms counts three.");
    describe_gauge!("roomcast_outbound_queue_bytes", "Bytes that wait in outboxes for slow sockets.");
    describe_gauge!("roomcast_draining", "1 while the node drains.");
    describe_gauge!("roomcast_breaker_state", "The breaker before Redis: 0 closed, 1 half-open, 2 open.");
    describe_gauge!("roomcast_build_info", "Always 1; the label tells the version.");
    describe_counter!("roomcast_ingest_total", "Webhooks by what became of them.");
    describe_gauge!("roomcast_ingest_waiting", "Webhooks that wait or are in work, over all nodes.");
    describe_gauge!("roomcast_ingest_dead", "Webhooks that were given up, over all nodes.");
    describe_counter!("roomcast_connections_total", "Requests for a WebSocket by outcome.");
    describe_counter!(
        "roomcast_claims_total",
        "Claims for a place under a cap that holds over all nodes, by outcome."
    );
    describe_counter!(
        "roomcast_closes_total",
        "Connections ended, by close code; 1001 also when the client went."
    );
    describe_counter!("roomcast_errors_total", "Errors answered, by code.");
    describe_counter!("roomcast_frames_received_total", "Well-formed frames received, by op.");
    describe_counter!("roomcast_frames_sent_total", "Frames sent, by delivery class.");
    describe_counter!("roomcast_bytes_sent_total", "Bytes of frames sent.");
    describe_counter!("roomcast_drops_total", "Frames that gave way for a slow socket.");
    describe_counter!("roomcast_slow_consumers_total", "Sockets closed because they read too slowly.");
    describe_counter!(
        "roomcast_worker_rests_total",
        "Rests of busy workers, which let more come together before they look."
    );
    describe_counter!(
        "roomcast_events_total",
        "Events and other pushes that arrived for this node's members."
    );
    describe_counter!("roomcast_gaps_total", "Gaps found in rooms' feeds, by how they were healed.");
    describe_histogram!("roomcast_op_duration_seconds", "From a frame to its answer, by op.");
    describe_histogram!("roomcast_delivery_lag_seconds", "From an event's time in the log to the sockets.");
}
