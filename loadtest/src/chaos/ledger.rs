//! The ledger of a run: what was sent and acknowledged, what each subscriber saw, and every end of a connection.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use roomcast_protocol::{Position, RoomName};

use super::follower::{Follower, Mark};
use crate::client::Closed;

/// One event on its way.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) room: usize,
    /// When it was first sent.
    pub(super) first: Duration,
    /// When it was acknowledged, and where it stands.
    pub(super) acked: Option<(Duration, Position)>,
    /// How often it was sent.
    pub(super) tries: u32,
}

/// The end of a connection that the client did not want.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) who: String,
    /// The node it was on.
    pub(super) node: String,
    pub(super) at: Duration,
    /// When the same client was back in its rooms.
    pub(super) back: Option<Duration>,
    pub(super) closed: Closed,
}

/// One subscriber's record.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) name: String,
    /// By room, those that it joins.
    pub(super) rooms: BTreeMap<usize, Follower>,
    /// The latest presence push of the first room.
    pub(super) presence: Option<(u64, u64)>,
    /// The latest counter push: value and version.
    pub(super) count: Option<(u64, u64)>,
    /// The node it is joined on now.
    pub(super) node: Option<String>,
}

/// What everybody writes into.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pub(super) sent: HashMap<Mark, Sent>,
    pub(super) records: Vec<Record>,
    pub(super) ends: Vec<End>,
    /// Refused attempts to connect or join, and failed publishes, by what was said.
    pub(super) refusals: BTreeMap<String, u64>,
    /// What no server that keeps its promises says.
    pub(super) faults: Vec<String>,
    /// Counter operations that were acknowledged.
    pub(super) counted: u64,
}

/// The ledger. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    start: Instant,
    pub(super) rooms: Arc<[RoomName]>,
    pages: Arc<Mutex<Pages>>,
}

impl Ledger {
    pub(super) fn new(rooms: Vec<RoomName>) -> Self {
        Self { start: Instant::now(), rooms: rooms.into(), pages: Arc::default() }
    }

    /// Since the run began.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Locked for moments only.
    pub(super) fn open(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new subscriber, who joins these rooms.
    pub(super) fn subscriber(&self, name: &str, rooms: &[usize]) -> usize {
        let mut pages = self.open();
        let rooms = rooms.iter().map(|room| (*room, Follower::default())).collect();
        pages.records.push(Record { name: name.to_owned(), rooms, ..Record::default() });
        pages.records.len() - 1
    }

    /// Somebody was refused something that may be refused.
    pub(super) fn refused(&self, what: String) {
        *self.open().refusals.entry(what).or_default() += 1;
    }

    /// Somebody was told something that must not be.
    pub(super) fn fault(&self, what: &str) {
        let at = self.now();
        self.open().faults.push(format!("{what}, at {at:.3?}"));
    }
}

impl Pages {
    /// How many subscribers are joined at all.
    pub(super) fn arrived(&self) -> usize {
        self.records.iter().filter(|record| record.node.is_some()).count()
    }

    /// Those who are in the first room, whose presence is judged, without those on nodes that are gone.
    pub(super) fn present<'a>(&'a self, gone: &'a [String]) -> impl Iterator<Item = &'a Record> {
        let here = |record: &Record| record.node.as_ref().is_some_and(|node| !gone.contains(node));
        self.watched().filter(move |record| here(record))
    }

    /// The subscribers of the first room, wherever they are now.
    pub(super) fn watched(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.rooms.contains_key(&0))
    }
}
