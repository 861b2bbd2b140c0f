//! Broker and counter behind circuit breakers, one per server: when Redis is away, refusals are quick and clear, and
//! when one server of a cluster is, the rooms of the others notice nothing.

mod breakers;

use std::{future::Future, time::Duration};

use roomcast_core::{breaker::BreakerState, permission::HistoryRules};
use roomcast_counter::{
    Appended, Changes, Counter, CounterError, Current, History, Ingest, Place, Sink, StockItem, Tally, Update,
};
use roomcast_protocol::{
    CounterValue, Data, Epoch, ErrorCode, Failure, Offset, Position, PresenceCount, RoomName,
};
use tokio::time::Instant;

use self::breakers::{Breakers, Verdict};
use crate::{
    broker::{Broker, BrokerError, Owner, Range, RoomSnapshot, local::LocalBus},
    config,
    random::jitter,
};

/// What a client waits at least before it tries again.
const RETRY: Duration = Duration::from_millis(250);
/// And at most: refusing costs nothing, and whoever is told to wait for long is late when all is well again.
const LONGEST_RETRY: Duration = Duration::from_millis(300);

/// Looks at a room of this process before it is called too busy for a snapshot.
const MOST_LOOKS: usize = 1_000;

/// The hash tag of what belongs to the nodes themselves.
pub const NODES: &str = "nodes";

/// Whether a call that is sent again does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It reads, sets, or carries a key.
    Harmless,
    /// It might be applied twice.
    Harmful,
}

/// What keeps what.
#[derive(Debug)]
pub struct Stores {
    /// Events.
    pub broker: Broker,
    /// Counters, guests, tickets.
    pub counter: Counter,
    /// Webhooks that wait.
    pub ingest: Ingest,
    /// What changed.
    pub changes: Changes,
}

/// The durable side of a node.
#[derive(Debug)]
pub struct Backend {
    /// Events.
    pub broker: Broker,
    /// Counters, guests, tickets.
    pub counter: Counter,
    /// Webhooks that wait.
    pub ingest: Ingest,
    /// What changed.
    pub changes: Changes,
    breakers: Breakers,
}

impl Backend {
    /// Puts breakers in front of them.
    pub fn new(stores: Stores, breaker: config::Breaker) -> Self {
        let Stores { broker, counter, ingest, changes } = stores;
        Self { broker, counter, ingest, changes, breakers: Breakers::new(breaker) }
    }

    /// The way to what is kept under a key, or under all keys with this hash tag, as a room's name is one: to the one
    /// server that has it, whose failures say nothing of the others.
    pub fn at(&self, place: &str) -> At<'_> {
        At { backend: self, owner: self.broker.owner(place) }
    }

    /// A room at one moment: in Redis one script reads all of it.
    pub async fn snapshot(&self, room: &RoomName, history: HistoryRules) -> Result<Snapshot, Failure> {
        let at = self.at(room.as_str());
        let (Broker::Redis(broker), Counter::Redis(counter)) = (&self.broker, &self.counter) else {
            return self.snapshot_here(room, history).await;
        };
        let failed = |error: CounterError| error.into_failure(Repeat::Harmless);
        let tally = counter.tally(room.as_str()).map_err(failed)?;
        let RoomSnapshot { tail, presence, counters, items } =
            at.read(broker.snapshot(room, history, tally)).await?;
        let tally = roomcast_counter::Redis::tallied(&counters, &items).map_err(failed)?;
        Ok(Snapshot { tail, presence, tally })
    }

    /// In one process broker and counters have a lock each: where the log moved on between two looks at it, what was
    /// read between them may be of another moment, and is read again.
    async fn snapshot_here(&self, room: &RoomName, history: HistoryRules) -> Result<Snapshot, Failure> {
        let at = self.at(room.as_str());
        let tail = async || at.read(self.broker.history(room, &Range::Recent(0), history)).await;
        let mut before = tail().await?.tail;
        for _ in 0..MOST_LOOKS {
            let counters = at.read(self.counter.counters(room.as_str(), None)).await?;
            let stock = at.read(self.counter.stock(room.as_str())).await?;
            let presence = at.read(self.broker.presence_members(room, None, 1)).await?.count;
            let after = tail().await?.tail;
            if after == before {
                return Ok(Snapshot { tail: after, presence, tally: Tally { counters, stock } });
            }
            before = after;
            tokio::task::yield_now().await;
        }
        let message = "the room moves on faster than it can be read";
        Err(Failure::retry(ErrorCode::Unavailable, message, 250))
    }

    /// The worst state of all breakers.
    pub fn state(&self) -> BreakerState {
        self.breakers.worst(Instant::now().into_std())
    }

    /// The state of the breaker before what is kept there.
    pub fn state_at(&self, place: &str) -> BreakerState {
        self.breakers.state(&self.broker.owner(place), Instant::now().into_std())
    }
}

/// A room at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Where its log stands.
    pub tail: Position,
    /// Who is there.
    pub presence: PresenceCount,
    /// What it counts and offers.
    pub tally: Tally,
}

/// The way to one server.
#[derive(Debug)]
pub struct At<'a> {
    backend: &'a Backend,
    owner: Owner,
}

/// What speaks against a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// A call that takes a moment where all is well.
    Short,
    /// One that may be slow by itself.
    Long,
}

impl At<'_> {
    /// Makes a call if the breaker admits it, and tells the breaker what came of it.
    ///
    /// A call to the counters is large, whatever it does: it is kept on the heap, and whoever waits stays small.
    pub fn call<'a, T: 'a, E: Fault + 'a>(
        &'a self,
        repeat: Repeat,
        call: impl Future<Output = Result<T, E>> + 'a,
    ) -> impl Future<Output = Result<T, Failure>> + 'a {
        self.guarded(repeat, Work::Short, Box::pin(call))
    }

    /// The same for a read whose size has no small bound: that it took too long speaks against the server only while
    /// the probe over the real path does not vouch for it.
    pub fn read<'a, T: 'a, E: Fault + 'a>(
        &'a self,
        read: impl Future<Output = Result<T, E>> + 'a,
    ) -> impl Future<Output = Result<T, Failure>> + 'a {
        self.guarded(Repeat::Harmless, Work::Long, Box::pin(read))
    }

    async fn guarded<T, E: Fault>(
        &self,
        repeat: Repeat,
        work: Work,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        let Backend { broker, breakers, .. } = self.backend;
        let now = || Instant::now().into_std();
        let health = || broker.health_of(&self.owner);
        let admission = breakers.admit(&self.owner, now(), health).map_err(unavailable)?;
        let result = call.await;
        let blame = result.as_ref().err().map_or(Blame::None, Fault::blame);
        let verdict = match (blame, work) {
            (Blame::None, _) => Verdict::Well,
            (Blame::Caller, _) => Verdict::Unknown,
            (Blame::Server, Work::Long) if health().usable => Verdict::Doubtful,
            (Blame::Server, _) => Verdict::Failed,
        };
        breakers.judge(&self.owner, admission, verdict, now());
        result.map_err(|fault| fault.into_failure(repeat))
    }
}

fn unavailable(wait: Duration) -> Failure {
    let wait = jitter(wait.clamp(RETRY, LONGEST_RETRY));
    let retry_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    Failure::retry(ErrorCode::Unavailable, "the broker is unavailable: nothing was applied", retry_ms)
}

/// Nothing is wrong with the broker: this node has more to ask of it than it takes.
fn busy() -> Failure {
    let retry_ms = u64::try_from(jitter(RETRY).as_millis()).unwrap_or(u64::MAX);
    Failure::retry(ErrorCode::Unavailable, "this node is busy: nothing was applied", retry_ms)
}

/// Its fate is not known, and a retry might double it: that is no case for `unavailable`.
fn unknown_fate() -> Failure {
    let message = "the broker did not answer in time: the operation may have been applied; use a key to make a retry safe";
    Failure::new(ErrorCode::Internal, message)
}

/// Whose failure it is that a call did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Nobody's: the server answered.
    None,
    /// The server's: it could not be reached, or did not answer in time.
    Server,
    /// This node's own: it has as much under way as it may, and sent nothing.
    Caller,
}

/// What the breaker and the client are told of a failed call.
pub trait Fault {
    /// Whose failure it is.
    fn blame(&self) -> Blame;
    /// The answer to the client.
    fn into_failure(self, repeat: Repeat) -> Failure;
}

impl Fault for BrokerError {
    fn blame(&self) -> Blame {
        match self {
            Self::Unavailable { .. } => Blame::Server,
            Self::Busy => Blame::Caller,
            _ => Blame::None,
        }
    }

    fn into_failure(self, repeat: Repeat) -> Failure {
        match self {
            Self::Unavailable { maybe_applied: true, .. } if repeat == Repeat::Harmful => unknown_fate(),
            Self::Unavailable { .. } => unavailable(RETRY),
            Self::Busy => busy(),
            Self::KeyReused => {
                Failure::new(ErrorCode::KeyReused, "this key was already used with another body")
            }
            Self::Denied(cause) => {
                tracing::error!(%cause, "the broker denies a command");
                Failure::new(ErrorCode::Internal, "the broker denies it")
            }
            Self::Internal(cause) => {
                tracing::error!(%cause, "the broker answered nonsense");
                Failure::new(ErrorCode::Internal, "internal error")
            }
        }
    }
}

impl Fault for CounterError {
    fn blame(&self) -> Blame {
        match self {
            Self::Unavailable { .. } => Blame::Server,
            Self::Busy => Blame::Caller,
            _ => Blame::None,
        }
    }

    fn into_failure(self, repeat: Repeat) -> Failure {
        let message = self.to_string();
        match self {
            Self::Invalid(_) => Failure::new(ErrorCode::BadFrame, message),
            Self::KeyReused => Failure::new(ErrorCode::KeyReused, message),
            Self::Conflict(Current::Lock { retry_ms }) if retry_ms > 0 => {
                Failure::retry(ErrorCode::Conflict, message, retry_ms)
            }
            Self::Conflict(current) => {
                Failure::new(ErrorCode::Conflict, message).with_current(current_of(&current))
            }
            Self::SoldOut { .. } => Failure::new(ErrorCode::SoldOut, message),
            Self::Forbidden(_) => Failure::new(ErrorCode::Forbidden, message),
            Self::TooLarge { .. } => Failure::new(ErrorCode::TooLarge, message),
            Self::NotFound => Failure::new(ErrorCode::NotFound, message),
            Self::UserLimit { .. } | Self::TooMany(_) => Failure::new(ErrorCode::LimitReached, message),
            Self::Unavailable { maybe_applied: true, .. } if repeat == Repeat::Harmful => unknown_fate(),
            Self::Unavailable { .. } => unavailable(RETRY),
            Self::Busy => busy(),
            Self::Internal(source) => {
                tracing::error!(%source, "the counter failed");
                Failure::new(ErrorCode::Internal, "internal error")
            }
        }
    }
}

/// What a `conflict` tells of what stands.
fn current_of(current: &Current) -> Option<Data> {
    #[derive(serde::Serialize)]
    struct Version<'a> {
        version: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<&'a Data>,
    }
    match current {
        Current::Comment { state, version } => {
            Data::of(&serde_json::json!({ "state": state.as_str(), "version": version })).ok()
        }
        Current::Doc(doc) => {
            let version = doc.as_ref().map_or(0, |doc| doc.version);
            let value = doc.as_ref().and_then(|doc| Data::parse(&doc.value).ok());
            // A value of the greatest depth does not fit into another object: then the version has to do.
            let whole = Data::of(&Version { version, value: value.as_ref() });
            whole.or_else(|_| Data::of(&Version { version, value: None })).ok()
        }
        Current::Upload(state) => Data::of(&serde_json::json!({ "state": state.as_str() })).ok(),
        Current::Hold(state) => Data::of(&serde_json::json!({ "state": state.as_str() })).ok(),
        Current::Stock(item) => Data::of(&stock_item(item)).ok(),
        Current::Claim | Current::Lock { .. } => None,
    }
}

/// An item on offer, as the API tells it.
pub(crate) fn stock_item(item: &StockItem) -> serde_json::Value {
    serde_json::json!({
        "item": item.item,
        "stock": item.stock,
        "sold": item.sold,
        "held": item.held,
        "remaining": item.remaining(),
        "per_user": item.per_user,
        "hold_ms": item.hold_ms,
    })
}

/// The in-memory counter publishes on the in-process bus.
#[derive(Debug)]
pub struct BusSink(pub LocalBus);

impl Sink for BusSink {
    fn event(&self, room: &str, history: History, epoch_candidate: &str, body: &str) -> Appended {
        let Ok(room) = RoomName::parse(room) else {
            // The gateway hands on only names it has parsed; an event of any other has nowhere to go.
            tracing::error!("a counter event names no room");
            return Appended { epoch: epoch_candidate.to_owned(), offset: 0, at: 0 };
        };
        let history = HistoryRules { size: history.size, ttl: history.ttl };
        let (position, at) = self.0.append(&room, history, epoch_candidate, body);
        Appended { epoch: position.epoch.to_string(), offset: position.offset.0, at }
    }

    fn count(&self, room: &str, update: &Update) {
        if let Ok(room) = RoomName::parse(room) {
            let Update { target, counter, value, version } = update.clone();
            self.0.count(&room, CounterValue { target, counter, value, version });
        }
    }

    fn signal(&self, room: &str, body: &str) {
        if let Ok(room) = RoomName::parse(room) {
            self.0.signal_body(&room, body);
        }
    }

    fn purge(&self, room: &str, place: &Place, body: &str) {
        if let Ok(room) = RoomName::parse(room) {
            let at = Position { epoch: Epoch::new(&place.epoch), offset: Offset(place.offset) };
            self.0.purge(&room, &at, body);
        }
    }

    fn change(&self, room: &str, kind: &str, data: &dyn Fn() -> String) {
        self.0.changes().append(room, kind, data());
    }
}
