//! Broker and counter behind one circuit breaker: when Redis is away, refusals are quick and clear.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use roomcast_core::{
    breaker::{Breaker, BreakerState},
    permission::HistoryRules,
};
use roomcast_counter::{
    Appended, Changes, Counter, CounterError, Current, History, Ingest, Place, Sink, StockItem, Update,
};
use roomcast_protocol::{CounterValue, Data, Epoch, ErrorCode, Failure, Offset, Position, RoomName};
use tokio::time::Instant;

use crate::{
    broker::{Broker, BrokerError, local::LocalBus},
    config, metrics,
    random::jitter,
};

/// What a client waits at least before it tries again.
const RETRY: Duration = Duration::from_millis(250);
/// And at most: refusing costs nothing, and whoever is told to wait for long is late when all is well again.
const LONGEST_RETRY: Duration = Duration::from_millis(300);

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
    breaker: Mutex<Guard>,
}

#[derive(Debug)]
struct Guard {
    breaker: Breaker,
    /// When a call failed for the last time.
    failed: Option<Instant>,
}

impl Backend {
    /// Puts a breaker in front of them.
    pub fn new(stores: Stores, breaker: config::Breaker) -> Self {
        let Stores { broker, counter, ingest, changes } = stores;
        let breaker =
            Mutex::new(Guard { breaker: Breaker::new(breaker.failures, breaker.open), failed: None });
        Self { broker, counter, ingest, changes, breaker }
    }

    /// Makes a call if the breaker admits it, and tells the breaker what came of it.
    pub async fn call<T, E: Fault>(
        &self,
        repeat: Repeat,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        let now = || Instant::now().into_std();
        let admission = self.with_breaker(|Guard { breaker, failed }| {
            breaker.admit(now()).or_else(|wait| {
                // The probe over the real path is quicker than our own: it found the broker well after our last failure.
                let health = self.broker.health();
                if health.usable && failed.is_some_and(|failed| health.since > failed.into_std()) {
                    breaker.recovered();
                    return breaker.admit(now());
                }
                Err(wait)
            })
        });
        let admission = admission.map_err(unavailable)?;
        let result = call.await;
        let down = result.as_ref().is_err_and(Fault::is_unavailable);
        self.with_breaker(|Guard { breaker, failed }| {
            if down {
                *failed = Some(Instant::now());
                breaker.failure(admission, now());
            } else {
                breaker.success(admission, now());
            }
        });
        result.map_err(|fault| fault.into_failure(repeat))
    }

    /// The breaker's state.
    pub fn state(&self) -> BreakerState {
        self.with_breaker(|guard| guard.breaker.state(Instant::now().into_std()))
    }

    fn with_breaker<R>(&self, act: impl FnOnce(&mut Guard) -> R) -> R {
        let mut guard = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut guard);
        metrics::breaker(guard.breaker.state(Instant::now().into_std()));
        result
    }
}

fn unavailable(wait: Duration) -> Failure {
    let wait = jitter(wait.clamp(RETRY, LONGEST_RETRY));
    let retry_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    Failure::retry(ErrorCode::Unavailable, "the broker is unavailable: nothing was applied", retry_ms)
}

/// Its fate is not known, and a retry might double it: that is no case for `unavailable`.
fn unknown_fate() -> Failure {
    let message = "the broker did not answer in time: the operation may have been applied; use a key to make a retry safe";
    Failure::new(ErrorCode::Internal, message)
}

/// What the breaker and the client are told of a failed call.
pub trait Fault {
    /// Whether the other side could not be reached.
    fn is_unavailable(&self) -> bool;
    /// The answer to the client.
    fn into_failure(self, repeat: Repeat) -> Failure;
}

impl Fault for BrokerError {
    fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    fn into_failure(self, repeat: Repeat) -> Failure {
        match self {
            Self::Unavailable { maybe_applied: true, .. } if repeat == Repeat::Harmful => unknown_fate(),
            Self::Unavailable { .. } => unavailable(RETRY),
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
    fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
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
