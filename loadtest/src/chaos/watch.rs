//! Looks at the nodes while faults are at work, as an operator's tools would: readiness, the broker's health, and
//! whether the presence they tell is true. Writes down what it sees; judges nothing.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use roomcast_protocol::{Epoch, Offset};
use serde::Deserialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::{cluster::API_KEY, http, ledger::Ledger};

const HEALTH_INTERVAL: Duration = Duration::from_millis(50);
const PULSE: Duration = Duration::from_millis(20);
const PRESENCE_INTERVAL: Duration = Duration::from_millis(200);

/// One look at a node's health.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Health {
    pub(super) at: Duration,
    pub(super) node: usize,
    /// Nothing where it did not answer.
    pub(super) seen: Option<Vitals>,
}

/// What `/readyz?verbose` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vitals {
    pub(super) ready: bool,
    pub(super) usable: bool,
    pub(super) reconnects: u64,
    pub(super) lag: Option<Duration>,
}

/// One look at a room's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Presence {
    pub(super) at: Duration,
    pub(super) connections: u64,
    pub(super) users: u64,
    /// How many members the first page of their list named.
    pub(super) members: u64,
    /// How many of those who are there were last told other numbers by a push.
    pub(super) misled: u64,
    /// How many subscribers were joined; nothing where that changed during the look.
    pub(super) truth: Option<u64>,
}

impl Presence {
    /// Whether anything that was told is not true.
    pub(super) fn is_wrong(&self) -> bool {
        self.truth.is_some_and(|truth| {
            self.misled > 0 || [self.connections, self.users, self.members].iter().any(|told| *told != truth)
        })
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Sights {
    pub(super) health: Vec<Health>,
    pub(super) presence: Vec<Presence>,
    /// The longest time for which this process itself did not get to run: nobody else here was quicker.
    pub(super) stall: Duration,
}

/// The record of one run. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Diary {
    sights: Arc<Mutex<Sights>>,
    /// Names of nodes that are dead or frozen: whoever is on them is nowhere.
    gone: Arc<Mutex<Vec<String>>>,
}

impl Diary {
    pub(super) fn open(&self) -> MutexGuard<'_, Sights> {
        self.sights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn node_gone(&self, name: String) {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).push(name);
    }

    pub(super) fn node_back(&self, name: &str) {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).retain(|gone| gone != name);
    }

    /// How many are in the first room, and how many of them were last told something else.
    fn truth(&self, ledger: &Ledger) -> (u64, u64) {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pages = ledger.open();
        let truth = pages.present(&gone).count() as u64;
        let misled = pages.present(&gone).filter(|record| record.presence != Some((truth, truth)));
        (truth, misled.count() as u64)
    }
}

#[derive(Deserialize)]
struct Ready {
    ready: bool,
    checks: Checks,
}

#[derive(Deserialize)]
struct Checks {
    broker: Broker,
}

#[derive(Deserialize)]
struct Broker {
    usable: bool,
    reconnects: u64,
    lag_ms: Option<u64>,
}

/// A room as the API tells it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Snapshot {
    pub(super) epoch: Epoch,
    pub(super) offset: Offset,
    #[serde(default)]
    pub(super) counters: Vec<Counter>,
}

/// Who is there, as the API tells it.
#[derive(Debug, Deserialize)]
struct Guests {
    connections: u64,
    users: u64,
    members: Vec<serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Counter {
    pub(super) target: String,
    #[serde(rename = "counter")]
    pub(super) name: String,
    pub(super) value: u64,
}

/// Reads a room from a node.
pub(super) async fn snapshot(internal: u16, room: &str) -> anyhow::Result<Snapshot> {
    http::get(internal, &format!("/api/v1/rooms/{room}"), Some(API_KEY)).await?.json()
}

/// Measures how late this process itself is, until told to stop.
pub(super) async fn pulse(diary: Diary, stop: CancellationToken) {
    loop {
        let began = Instant::now();
        if stop.run_until_cancelled(sleep(PULSE)).await.is_none() {
            return;
        }
        let late = began.elapsed().saturating_sub(PULSE);
        let mut sights = diary.open();
        sights.stall = sights.stall.max(late);
    }
}

/// Looks at one node's health until told to stop.
pub(super) async fn health(
    node: usize,
    internal: u16,
    ledger: Ledger,
    diary: Diary,
    stop: CancellationToken,
) {
    let mut ticks = interval(HEALTH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let seen = http::get(internal, "/readyz?verbose", None).await.ok().and_then(|answer| {
            let ready: Ready = serde_json::from_str(&answer.body).ok()?;
            let Broker { usable, reconnects, lag_ms } = ready.checks.broker;
            Some(Vitals { ready: ready.ready, usable, reconnects, lag: lag_ms.map(Duration::from_millis) })
        });
        diary.open().health.push(Health { at: ledger.now(), node, seen });
    }
}

/// Looks at the first room's presence, on each node in turn, until told to stop.
pub(super) async fn presence(nodes: Vec<u16>, ledger: Ledger, diary: Diary, stop: CancellationToken) {
    let Some(room) = ledger.rooms.first().cloned() else { return };
    let mut ticks = interval(PRESENCE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for internal in nodes.iter().cycle() {
        if stop.run_until_cancelled(ticks.tick()).await.is_none() {
            return;
        }
        let (before, _) = diary.truth(&ledger);
        // A node that is down or has no Redis tells nothing: that is no wrong presence.
        let path = format!("/api/v1/rooms/{room}/presence?limit=1000");
        let told =
            http::get(*internal, &path, Some(API_KEY)).await.and_then(|answer| answer.json::<Guests>());
        let Ok(Guests { connections, users, members }) = told else { continue };
        let (after, misled) = diary.truth(&ledger);
        let truth = Some(after).filter(|truth| *truth == before);
        let members = members.len() as u64;
        let look = Presence { at: ledger.now(), connections, users, members, misled, truth };
        diary.open().presence.push(look);
    }
}
