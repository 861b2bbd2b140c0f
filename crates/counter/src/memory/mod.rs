//! The store of one process: everything under one lock, which is held while a step is applied and published.
//!
//! It is for one node without Redis, and for tests. It outlives nothing.

mod comments;
mod counts;
mod expiring;
mod files;
mod room;
mod shared;
mod stock;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub(crate) use expiring::Expiring;
use room::{Room, Step};
use shared::{Claims, Locks, Restrictions};

use crate::{
    Cap, Command, CommentPage, CommentsQuery, CounterError, Doc, History, Limits, Lock, LockAct, Outcome,
    Restriction, RestrictionKind, Seed, StockItem, Swept, Update, Whom, Wish, secret,
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

    /// Tells subscribers something that is not kept. `body` is like an event's.
    fn signal(&self, room: &str, body: &str);

    /// Puts `body` in the place of an event that the room's log may still hold: its offset stays, its content goes.
    fn purge(&self, room: &str, place: &Place, body: &str);

    /// Adds an entry to the stream of changes, where there is one. `data` makes the JSON object.
    #[allow(unused_variables, reason = "the names say what an implementation gets")]
    fn change(&self, room: &str, kind: &str, data: &dyn Fn() -> String) {}
}

/// Where an event is in its room's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The room's epoch.
    pub epoch: String,
    /// The event's offset in it.
    pub offset: u64,
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
    tickets: Expiring<String, String>,
    claims: Claims,
    locks: Locks,
    restrictions: Restrictions,
    /// Rooms that have something on offer.
    stocked: BTreeSet<String>,
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
        let state = State {
            rooms: Expiring::new(cap),
            tickets: Expiring::new(cap),
            claims: Claims::new(&limits),
            locks: Locks::new(&limits),
            restrictions: Restrictions::default(),
            stocked: BTreeSet::new(),
        };
        Self(Arc::new(Shared { sink, limits, clock, state: Mutex::new(state) }))
    }

    pub(crate) fn apply(&self, command: &Command) -> Result<Outcome, CounterError> {
        let Shared { sink, limits, .. } = &*self.0;
        let (mut state, now) = self.open();
        let State { rooms, restrictions, stocked, .. } = &mut *state;
        let name = &command.room;
        let muted = restrictions.is_muted(&command.user, name, now);
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
        let outcome = room.apply(&Step { room: name, limits, sink: &**sink, now, muted }, command);
        if !room.stock.is_empty() {
            stocked.insert(name.clone());
        }
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
        let changed =
            room.counts.restore(&Step { room: name, limits, sink: &**sink, now, muted: false }, seeds);
        if room.is_empty() {
            rooms.remove(&key);
        }
        changed
    }

    pub(crate) fn counters(&self, room: &str, targets: Option<&[String]>) -> Vec<Update> {
        let (state, now) = self.open();
        state.rooms.get(&room.to_owned(), now).map(|room| room.counts.read(targets)).unwrap_or_default()
    }

    pub(crate) fn comments(&self, room: &str, query: &CommentsQuery) -> CommentPage {
        let (state, now) = self.open();
        let nothing = CommentPage { comments: Vec::new(), cursor: None };
        state.rooms.get(&room.to_owned(), now).map_or(nothing, |room| room.comments.page(query))
    }

    pub(crate) fn queue(&self, room: &str, cursor: Option<&str>, limit: u32) -> CommentPage {
        let (state, now) = self.open();
        let nothing = CommentPage { comments: Vec::new(), cursor: None };
        state.rooms.get(&room.to_owned(), now).map_or(nothing, |room| room.comments.queue(cursor, limit))
    }

    pub(crate) fn doc(&self, room: &str, doc: &str) -> Option<Doc> {
        let (state, now) = self.open();
        state.rooms.get(&room.to_owned(), now).and_then(|room| room.docs.get(doc))
    }

    pub(crate) fn stock(&self, room: &str) -> Vec<StockItem> {
        let (mut state, now) = self.open();
        let (_, items) = self.expire_holds(&mut state, room, now);
        items
    }

    pub(crate) fn sweep_holds(&self) -> Swept {
        let (mut state, now) = self.open();
        let mut swept = Swept::default();
        for room in state.stocked.clone() {
            let (ended, items) = self.expire_holds(&mut state, &room, now);
            swept.rooms += 1;
            swept.expired += ended;
            if items.is_empty() {
                state.stocked.remove(&room);
            }
        }
        swept
    }

    fn expire_holds(&self, state: &mut State, name: &str, now: u64) -> (u64, Vec<StockItem>) {
        let Shared { sink, limits, .. } = &*self.0;
        let Some(room) = state.rooms.get_mut(&name.to_owned(), now) else { return (0, Vec::new()) };
        let step = Step { room: name, limits, sink: &**sink, now, muted: false };
        let ended = room.stock.expire(&mut room.counts, &step);
        (ended, room.stock.items())
    }

    pub(crate) fn claim(
        &self,
        scope: &str,
        user: &str,
        wish: &Wish,
        names: Vec<String>,
    ) -> Result<String, CounterError> {
        let (mut state, now) = self.open();
        state.claims.claim(&self.0.limits, (scope, user, wish), names, now)
    }

    pub(crate) fn unclaim(&self, scope: &str, user: &str, name: &str) -> bool {
        let (mut state, _) = self.open();
        state.claims.unclaim(scope, user, name)
    }

    pub(crate) fn lock(&self, name: &str, owner: &str, act: LockAct) -> Result<Lock, CounterError> {
        let (mut state, now) = self.open();
        state.locks.change(name, owner, act, now)
    }

    /// `lasts` of zero lifts it.
    pub(crate) fn restrict(
        &self,
        kind: RestrictionKind,
        whom: &Whom,
        room: Option<&str>,
        lasts: Duration,
    ) -> Result<u64, CounterError> {
        let (mut state, now) = self.open();
        let what = (kind, whom.clone(), room.map(str::to_owned));
        state.restrictions.set(&self.0.limits, what, millis(lasts), now)
    }

    pub(crate) fn restrictions(&self) -> Vec<Restriction> {
        let (state, _) = self.open();
        state.restrictions.all()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn keep_ticket(&self, ticket: &str, grant: &str, ttl: Duration) -> Result<(), CounterError> {
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
