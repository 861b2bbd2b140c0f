//! The store of one process: everything under one lock, which is held while a step is applied and published.
//!
//! It is for one node without Redis, and for tests. It outlives nothing.

mod expiring;
mod room;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub(crate) use expiring::Expiring;
use room::{Room, Step};

use crate::{
    Cap, Command, CommentPage, CommentsQuery, CounterError, History, Limits, Outcome, Seed, Update, secret,
};

/// Where the steps of [`Memory`] are published: the in-process bus.
///
/// It is called while the store's lock is held, in the order of the steps: it must be quick, and must not call the
/// store.
pub trait Sink: Send + Sync {
    /// Appends an event to the room's log and publishes it. `body` is the JSON of `{"event","from","data"}`.
    fn event(&self, room: &str, history: History, epoch_candidate: &str, body: &str) -> Appended;

    /// Publishes a counter's new value.
    fn count(&self, room: &str, update: &Update);

    /// Adds an entry to the stream of changes, where there is one. `data` makes the JSON object.
    #[allow(unused_variables, reason = "the names say what an implementation gets")]
    fn change(&self, room: &str, kind: &str, data: &dyn Fn() -> String) {}
}

/// An event's place in its room's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The room's epoch.
    pub epoch: String,
    /// The event's offset in it.
    pub offset: u64,
    /// When, Unix ms.
    pub at: u64,
}

/// Reads the time, in Unix ms.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Counters in this process.
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

struct Shared {
    sink: Arc<dyn Sink>,
    limits: Limits,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    rooms: Expiring<String, Room>,
    guests: Expiring<String, String>,
    tickets: Expiring<String, String>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

impl Memory {
    /// A store with the default limits and the system's clock.
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Self::with(sink, Limits::default(), Arc::new(system_clock))
    }

    /// A store with these limits and this clock.
    pub fn with(sink: Arc<dyn Sink>, limits: Limits, clock: Clock) -> Self {
        let cap = limits.memory_entries;
        let state =
            State { rooms: Expiring::new(cap), guests: Expiring::new(cap), tickets: Expiring::new(cap) };
        Self(Arc::new(Shared { sink, limits, clock, state: Mutex::new(state) }))
    }

    pub(crate) fn apply(&self, command: &Command) -> Result<Outcome, CounterError> {
        let Shared { sink, limits, .. } = &*self.0;
        let (mut state, now) = self.open();
        let rooms = &mut state.rooms;
        let name = &command.room;
        let expires = now + millis(limits.room_ttl);
        if rooms.get(name, now).is_some() {
            rooms.renew(name, expires);
        } else if rooms.is_full(now) {
            return Err(CounterError::TooMany(Cap::Rooms));
        } else {
            rooms.insert(name.clone(), Room::new(limits), expires, now);
        }
        let Some(room) = rooms.get_mut(name, now) else {
            return Err(CounterError::TooMany(Cap::Rooms));
        };
        let outcome = room.apply(&Step { command, limits, sink: &**sink, now });
        if room.is_empty() {
            rooms.remove(name);
        }
        outcome
    }

    pub(crate) fn restore(&self, name: &str, seeds: &[Seed]) -> Result<u64, CounterError> {
        let Shared { sink, limits, .. } = &*self.0;
        let (mut state, now) = self.open();
        let rooms = &mut state.rooms;
        let (key, expires) = (name.to_owned(), now + millis(limits.room_ttl));
        if rooms.get(&key, now).is_some() {
            rooms.renew(&key, expires);
        } else if rooms.is_full(now) {
            return Err(CounterError::TooMany(Cap::Rooms));
        } else {
            rooms.insert(key.clone(), Room::new(limits), expires, now);
        }
        let room = rooms.get_mut(&key, now).ok_or(CounterError::TooMany(Cap::Rooms))?;
        let changed = room.restore(name, seeds, limits, &**sink, now);
        if room.is_empty() {
            rooms.remove(&key);
        }
        changed
    }

    pub(crate) fn counters(&self, room: &str, targets: Option<&[String]>) -> Vec<Update> {
        let (state, now) = self.open();
        state.rooms.get(&room.to_owned(), now).map(|room| room.counters(targets)).unwrap_or_default()
    }

    pub(crate) fn comments(&self, room: &str, query: &CommentsQuery) -> CommentPage {
        let (state, now) = self.open();
        let nothing = CommentPage { comments: Vec::new(), cursor: None };
        state.rooms.get(&room.to_owned(), now).map_or(nothing, |room| room.comments(query))
    }

    /// The user of the secret, and whether this call made it.
    pub(crate) fn guest(&self, secret: &str, candidate: String) -> (String, bool) {
        let (mut state, now) = self.open();
        let (key, expires) = (secret::digest(secret), now + millis(self.0.limits.guest_ttl));
        if let Some(user) = state.guests.get(&key, now).cloned() {
            state.guests.renew(&key, expires);
            return (user, false);
        }
        state.guests.insert(key, candidate.clone(), expires, now);
        (candidate, true)
    }

    pub(crate) fn mint_ticket(&self, ticket: &str, grant: &str, ttl: Duration) -> Result<(), CounterError> {
        let (mut state, now) = self.open();
        if state.tickets.is_full(now) {
            return Err(CounterError::TooMany(Cap::Tickets));
        }
        state.tickets.insert(secret::digest(ticket), grant.to_owned(), now + millis(ttl), now);
        Ok(())
    }

    pub(crate) fn redeem_ticket(&self, ticket: &str) -> Option<String> {
        let (mut state, now) = self.open();
        let (expires, grant) = state.tickets.remove(&secret::digest(ticket))?;
        (expires > now).then_some(grant)
    }

    pub(crate) fn end_room(&self, room: &str) {
        let (mut state, _) = self.open();
        state.rooms.remove(&room.to_owned());
    }

    /// Locks the state, then reads the clock, so that time never runs backwards between two steps; and forgets a
    /// few of those whose time has come. No step can leave the state half changed, so a poisoned lock is as good.
    fn open(&self) -> (MutexGuard<'_, State>, u64) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.0.clock)();
        state.rooms.sweep(now);
        state.guests.sweep(now);
        state.tickets.sweep(now);
        (state, now)
    }
}

fn system_clock() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}
