//! One worker's rooms: who sits in them, and what came for them.
//!
//! An event is appended once to its room's pending block; the flusher seals the block and walks over the members.
//! Members that just joined are served one by one until they stand where the room stands; then they share the
//! blocks of all. The hub knows no broker: what it is given, it delivers.

mod block;
mod flusher;
mod members;
mod roster;
mod survey;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use roomcast_core::{
    limits::Cap,
    rooms::{RoomFull, RoomId, RoomRules, RoomTable},
};
use roomcast_protocol::{CounterValue, Position, Push, RoomName, SharedPush};
use tokio::sync::Notify;

pub use self::{
    flusher::flush,
    survey::{RoomFigures, Survey, top},
};
use self::{
    members::{
        Lane, RoomState, Seated, has_ended, is_after, promote, seal, send_apart, send_block, send_one,
    },
    roster::Roster,
};
use crate::{
    conn::{Conn, Seat},
    metrics,
    outbox::Item,
    seats::SeatPermit,
};

/// Pushes kept for a member whose join is still being answered.
const MAX_JOIN_BUFFER: usize = 1_024;

/// What a push does to the room's place in its log.
#[derive(Debug, Clone)]
pub enum Place {
    /// An event at this position.
    Event(Position),
    /// A reset: the room goes on from this position.
    Reset(Position),
    /// Neither: a count, a presence, a signal.
    None,
}

/// One push for the members of a room.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Where.
    pub room: RoomName,
    /// Its place in the log.
    pub place: Place,
    /// When the event was stored, Unix ms.
    pub at: Option<u64>,
    /// The push, encoded once for all.
    pub push: Arc<SharedPush>,
}

/// The join took too long for the room's traffic; it is to be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrun;

/// Whether a page of the past is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// Another is to be read.
    Follows,
    /// The log ended with it.
    Ends,
}

/// One worker's rooms.
#[derive(Debug)]
pub struct Hub {
    table: RoomTable<RoomState, Seated>,
    /// Rooms that this round of the flusher has to serve yet, and those that the next has to.
    round: VecDeque<RoomId>,
    next: VecDeque<RoomId>,
    conns: Roster,
    wake: Rc<Notify>,
}

impl Hub {
    /// A hub without rooms. How many members a room may have is decided by [`crate::seats`], for all workers.
    pub fn new(idle_ttl: Duration) -> Self {
        Self {
            table: RoomTable::new(RoomRules { members: Cap::UNLIMITED, idle_ttl }),
            round: VecDeque::new(),
            next: VecDeque::new(),
            conns: Roster::default(),
            wake: Rc::new(Notify::new()),
        }
    }

    /// Rings when there is something to flush.
    pub fn bell(&self) -> Rc<Notify> {
        self.wake.clone()
    }

    /// A connection begins.
    pub fn register(&mut self, conn: &Rc<Conn>) {
        self.conns.add(conn);
    }

    /// A connection ends.
    pub fn forget(&mut self, conn: &Conn) {
        self.conns.remove(conn);
    }

    /// The connections of this worker.
    pub fn conns(&self) -> impl Iterator<Item = &Rc<Conn>> {
        self.conns.iter()
    }

    /// Whether the room is held here, with members or without.
    pub fn holds(&self, room: &RoomName) -> bool {
        self.table.find(room).is_some()
    }

    /// Gives a connection a seat; pushes are kept for it until [`Hub::activate`].
    pub fn enter(
        &mut self,
        name: &RoomName,
        guarded: bool,
        conn: &Rc<Conn>,
        permit: SeatPermit,
        now: Instant,
    ) -> Result<Seat, RoomFull> {
        let before = self.table.rooms();
        let room = self.table.open(name, now, || RoomState { guarded, ..RoomState::default() });
        let joined = self.table.join(room, Seated::joining(conn.clone(), permit), now);
        metrics::rooms_changed(count(self.table.rooms()) - count(before), i64::from(joined.is_ok()));
        let member = joined?;
        if let Some(room) = self.table.room_mut(room) {
            room.state.apart.push(member);
        }
        // The room's own name, so that all who sit in it share one.
        let name = self.table.room(room).map_or_else(|| name.clone(), |room| room.name.clone());
        let seat = Seat { name, room, member, present: false };
        let mut seats = conn.seats.borrow_mut();
        // Most sit in one room, and stay there: a vector would begin with places for four.
        if seats.is_empty() {
            seats.reserve_exact(1);
        }
        seats.push(seat.clone());
        Ok(seat)
    }

    /// Answers a join: first the reply, then what came since the log was read at `tail`.
    /// `told` says which counter values the reply has told already, or newer ones.
    pub fn activate(
        &mut self,
        seat: &Seat,
        tail: Position,
        reply: Option<Item>,
        told: impl Fn(&CounterValue) -> bool,
    ) -> Result<(), Overrun> {
        let Some(room) = self.table.room_mut(seat.room) else { return Err(Overrun) };
        let guarded = room.state.guarded;
        let Some(seated) = room.member_mut(seat.member) else { return Err(Overrun) };
        let kept = match &mut seated.lane {
            Lane::Joining(kept) | Lane::CatchingUp(Some(kept)) => std::mem::take(kept),
            Lane::Overrun | Lane::CatchingUp(None) | Lane::Trailing(_) | Lane::Sharing(_) => {
                return Err(Overrun);
            }
        };
        let conn = seated.conn.clone();
        let mut seen = tail;
        if let Some(reply) = reply {
            conn.send(reply);
        }
        for delivery in kept.0.iter().filter(|delivery| !is_told(delivery, &told)) {
            send_apart(&conn, delivery, &mut seen, guarded);
        }
        seated.lane = Lane::Trailing(Box::new(seen.clone()));
        // A room that knew no position stands where its first member stands; others that stand elsewhere are
        // served apart until they meet it.
        room.state.position.get_or_insert(seen);
        promote(room);
        self.mark(seat.room);
        Ok(())
    }

    /// Answers a join whose past is too much for one answer: the rest is to follow with [`Hub::send_past`]. What is no
    /// event goes out from here on; events are read from the log.
    pub fn begin_past(
        &mut self,
        seat: &Seat,
        reply: Option<Item>,
        told: impl Fn(&CounterValue) -> bool,
    ) -> Result<(), Overrun> {
        let Some(room) = self.table.room_mut(seat.room) else { return Err(Overrun) };
        let guarded = room.state.guarded;
        let Some(seated) = room.member_mut(seat.member) else { return Err(Overrun) };
        let Lane::Joining(kept) = std::mem::replace(&mut seated.lane, Lane::CatchingUp(None)) else {
            return Err(Overrun);
        };
        let conn = seated.conn.clone();
        if let Some(reply) = reply {
            conn.send(reply);
        }
        let news = |delivery: &&Delivery| matches!(delivery.place, Place::None) && !is_told(delivery, &told);
        if !has_ended(&conn, guarded) {
            kept.0.iter().filter(news).for_each(|delivery| send_one(&conn, delivery));
        }
        Ok(())
    }

    /// Keeps the events that come from here on: the page that is about to be read may be the last. False where the
    /// seat is not catching up any more.
    pub fn expect_last_page(&mut self, seat: &Seat) -> bool {
        let seated = self.table.room_mut(seat.room).and_then(|room| room.member_mut(seat.member));
        match seated.map(|seated| &mut seated.lane) {
            Some(Lane::CatchingUp(kept)) => {
                *kept = Some(Box::default());
                true
            }
            _ => false,
        }
    }

    /// Sends one page of the past, frames in a row. `more` follows it.
    pub fn send_past(&mut self, seat: &Seat, page: Bytes, frames: usize, more: More) {
        let Some(room) = self.table.room_mut(seat.room) else { return };
        let guarded = room.state.guarded;
        let Some(seated) = room.member_mut(seat.member) else { return };
        if let (Lane::CatchingUp(kept), More::Follows) = (&mut seated.lane, more) {
            // While a slow client takes this page nothing is kept for it.
            *kept = None;
        }
        if !has_ended(&seated.conn, guarded) {
            seated.conn.send_page(page, frames);
        }
    }

    /// Takes a connection's seat away; what was delivered to the room before goes out to it first.
    pub fn leave(&mut self, conn: &Conn, name: &RoomName, now: Instant) -> Option<Seat> {
        let at = conn.seats.borrow().iter().position(|seat| seat.name == *name)?;
        let seat = conn.seats.borrow_mut().swap_remove(at);
        self.settle_seat(&seat);
        if let Some(room) = self.table.room_mut(seat.room) {
            room.state.apart.retain(|member| *member != seat.member);
        }
        let left = self.table.leave(seat.room, seat.member, now).is_some();
        metrics::rooms_changed(0, -i64::from(left));
        Some(seat)
    }

    /// Takes one push for the members of a room.
    pub fn deliver(&mut self, delivery: Delivery) {
        let Some(id) = self.table.find(&delivery.room) else { return };
        let Some(room) = self.table.room_mut(id) else { return };
        let guarded = room.state.guarded;
        for member in room.state.apart.clone() {
            let Some(seated) = room.member_mut(member) else { continue };
            match &mut seated.lane {
                Lane::Joining(kept) if kept.0.len() < MAX_JOIN_BUFFER => kept.0.push(delivery.clone()),
                Lane::Joining(_) => seated.lane = Lane::Overrun,
                Lane::CatchingUp(_) if matches!(delivery.place, Place::None) => {
                    if !has_ended(&seated.conn, guarded) {
                        send_one(&seated.conn, &delivery);
                    }
                }
                Lane::CatchingUp(Some(kept)) if kept.0.len() < MAX_JOIN_BUFFER => {
                    kept.0.push(delivery.clone());
                }
                Lane::CatchingUp(kept) => *kept = None,
                Lane::Trailing(seen) => {
                    let conn = seated.conn.clone();
                    send_apart(&conn, &delivery, seen, guarded);
                }
                Lane::Overrun | Lane::Sharing(_) => {}
            }
        }
        let state = &mut room.state;
        state.tally.pushes += 1;
        let news = match &delivery.place {
            Place::Event(position) => is_after(position, state.position.as_ref()),
            Place::Reset(_) | Place::None => true,
        };
        if news {
            match delivery.place {
                Place::Event(position) | Place::Reset(position) => state.position = Some(position),
                Place::None => {}
            }
            state.pending.append(delivery.push, delivery.at);
        }
        promote(room);
        self.mark(id);
    }

    /// Sends to one socket alone. Its rooms' pending blocks go first, so that it sees everything in order.
    pub fn send_alone(&mut self, conn: &Conn, item: Item) {
        self.settle(conn);
        conn.send(item);
    }

    /// Brings a connection up to date with all its rooms.
    pub fn settle(&mut self, conn: &Conn) {
        let seats = conn.seats.borrow().clone();
        for seat in &seats {
            self.settle_seat(seat);
        }
    }

    fn settle_seat(&mut self, seat: &Seat) {
        let Some(room) = self.table.room_mut(seat.room) else { return };
        if !room.member(seat.member).is_some_and(|seated| matches!(seated.lane, Lane::Sharing(_))) {
            return;
        }
        // While a block is on its way to the members, what is pending gathers on: closed now, for the sake of one
        // reply, every reply would add a block, and the flusher would fall ever further behind.
        if room.state.sealed.is_empty() {
            seal(room);
        }
        let sealed = std::mem::take(&mut room.state.sealed);
        let guarded = room.state.guarded;
        if let Some(seated) = room.member_mut(seat.member) {
            for block in &sealed {
                send_block(seated, block, guarded.then(Instant::now));
            }
        }
        room.state.sealed = sealed;
        self.mark(seat.room);
    }

    /// Removes rooms that were empty for long. Returns their names: they need no subscription any more.
    pub fn expire(&mut self, now: Instant) -> Vec<RoomName> {
        let gone: Vec<_> = self.table.expire(now).into_iter().map(|(name, _)| name).collect();
        metrics::rooms_changed(-count(gone.len()), 0);
        gone
    }

    /// Removes the room that was empty longest.
    pub fn evict(&mut self) -> Option<RoomName> {
        let (name, _) = self.table.evict_longest_idle()?;
        metrics::rooms_changed(-1, 0);
        Some(name)
    }

    /// Rooms that are empty.
    pub fn idle(&self) -> usize {
        self.table.idle()
    }

    /// When [`Hub::expire`] has something to do.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.table.next_expiry()
    }

    fn mark(&mut self, id: RoomId) {
        if let Some(room) = self.table.room_mut(id)
            && !room.state.queued
            && !(room.state.pending.is_empty() && room.state.sealed.is_empty())
        {
            room.state.queued = true;
            self.next.push_back(id);
            self.wake.notify_one();
        }
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Whether the answer to a join has told this count already.
fn is_told(delivery: &Delivery, told: impl Fn(&CounterValue) -> bool) -> bool {
    matches!(delivery.push.push(), Push::Count { value, .. } if told(value))
}
