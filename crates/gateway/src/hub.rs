//! One worker's rooms, and the flusher that writes to their members.
//!
//! An event is appended once to its room's pending block; a flush seals the block and walks over the members.
//! Members that just joined are served one by one until they stand where the room stands; then they share the
//! blocks of all. The hub knows no broker: what it is given, it delivers.

mod block;
mod roster;
mod survey;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::VecDeque,
    hint,
    ops::Range,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use roomcast_core::{
    gather::Gather,
    limits::Cap,
    rooms::{MemberId, Room, RoomFull, RoomId, RoomRules, RoomTable},
    session::Now,
};
use roomcast_protocol::{Codec, CounterValue, Position, Push, RoomName, SharedPush};
use tokio::sync::Notify;

pub use self::survey::{RoomFigures, Survey, top};
use self::{
    block::{Block, Pending},
    roster::Roster,
    survey::Tally,
};
use crate::{
    conn::{Conn, Seat},
    fine::FineTimer,
    metrics,
    outbox::Item,
    seats::SeatPermit,
};

/// Members served in one step of the flusher: about a millisecond of system calls, then others get their turn.
const FLUSH_STEP: usize = 256;
/// Members that are brought from memory together, before the first of them is served.
const AHEAD: usize = 16;
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

#[derive(Debug, Default)]
struct RoomState {
    /// Members whose token has ended get nothing more.
    guarded: bool,
    position: Option<Position>,
    pending: Pending,
    sealed: VecDeque<Block>,
    seq: u64,
    /// Members that do not share the blocks yet.
    apart: Vec<MemberId>,
    queued: bool,
    tally: Tally,
}

#[derive(Debug)]
struct Seated {
    conn: Rc<Conn>,
    /// Held for as long as the member is one.
    _permit: SeatPermit,
    lane: Lane,
}

/// What came for a member that can't be given it yet.
#[derive(Debug, Default)]
struct Kept(Vec<Delivery>);

/// How a member gets its pushes. All but the last pass: what they need is boxed, so that it takes no place in the row of
/// the room's members.
#[derive(Debug)]
enum Lane {
    /// The join is not answered yet: they are kept.
    Joining(Box<Kept>),
    /// More came than is kept.
    Overrun,
    /// The join is answered, but the past is still on its way, page after page. Events are in the log and will be
    /// read from there; while the last page may be in work, they are kept.
    CatchingUp(Option<Box<Kept>>),
    /// One by one, from this position on.
    Trailing(Box<Position>),
    /// With all others; the last block it got.
    Sharing(u64),
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
        let seated = Seated { conn: conn.clone(), _permit: permit, lane: Lane::Joining(Box::default()) };
        let joined = self.table.join(room, seated, now);
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

    /// Whether a round of the flusher would have anything to do.
    pub fn has_news(&self) -> bool {
        !(self.round.is_empty() && self.next.is_empty())
    }

    /// Serves some members of the next rooms of the round that have something for them. False when the round is over:
    /// what came meanwhile is for the next, so that it can gather.
    pub fn flush_step(&mut self, now: Now) -> bool {
        if self.round.is_empty() {
            std::mem::swap(&mut self.round, &mut self.next);
        }
        let mut left = FLUSH_STEP;
        while left > 0
            && let Some(id) = self.round.pop_front()
        {
            if let Some(next) = self.round.front().and_then(|next| self.table.room(*next)) {
                let first = next.state.sealed.front().map_or(0, |block| block.cursor);
                bring(next, first..first + AHEAD);
            }
            // A room without members is work, too.
            left -= self.flush_room(id, left, now).max(1);
        }
        !self.round.is_empty()
    }

    /// Serves at most so many members of a room, and says how many.
    fn flush_room(&mut self, id: RoomId, most: usize, now: Now) -> usize {
        let Some(room) = self.table.room_mut(id) else { return 0 };
        let mut served = 0;
        if room.state.sealed.is_empty() {
            promote(room);
            seal(room);
        }
        if let Some(mut block) = room.state.sealed.pop_front() {
            let until = room.state.guarded.then_some(now.instant);
            let end = (block.cursor + most).min(room.slots());
            served = end.saturating_sub(block.cursor);
            let dropped = metrics::dropped_here();
            for first in (block.cursor..end).step_by(AHEAD) {
                let last = (first + AHEAD).min(end);
                bring(room, first..last);
                for slot in first..last {
                    if let Some((_, seated)) = room.slot_mut(slot) {
                        send_block(seated, &block, until);
                    }
                }
            }
            room.state.tally.drops += metrics::dropped_here() - dropped;
            block.cursor = end;
            if end < room.slots() {
                room.state.sealed.push_front(block);
            } else if let Some(at) = block.at {
                metrics::delivery_lag(Duration::from_millis(now.unix_ms.saturating_sub(at)));
            }
        }
        promote(room);
        if !room.state.sealed.is_empty() {
            self.round.push_back(id);
        } else if room.state.pending.is_empty() {
            room.state.queued = false;
            room.compact();
        } else {
            self.next.push_back(id);
            self.wake.notify_one();
        }
        served
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

/// Whether an event is news to somebody who stands at `seen`.
fn is_after(position: &Position, seen: Option<&Position>) -> bool {
    seen.is_none_or(|seen| seen.epoch != position.epoch || seen.offset < position.offset)
}

/// Whether the answer to a join has told this count already.
fn is_told(delivery: &Delivery, told: impl Fn(&CounterValue) -> bool) -> bool {
    matches!(delivery.push.push(), Push::Count { value, .. } if told(value))
}

/// Sends one push to one member, where it is news to it and, in a guarded room, its token still holds.
fn send_apart(conn: &Conn, delivery: &Delivery, seen: &mut Position, guarded: bool) {
    if has_ended(conn, guarded) {
        return;
    }
    match &delivery.place {
        Place::Event(position) if !is_after(position, Some(seen)) => return,
        Place::Event(position) | Place::Reset(position) => *seen = position.clone(),
        Place::None => {}
    }
    send_one(conn, delivery);
}

/// Whether the room is guarded and the member's token holds no more.
fn has_ended(conn: &Conn, guarded: bool) -> bool {
    guarded && conn.expires.get().is_some_and(|at| at <= Instant::now())
}

fn send_one(conn: &Conn, delivery: &Delivery) {
    if let Some(bytes) = block::frame(&delivery.push, conn.codec) {
        conn.send(Item::push(bytes, &delivery.push));
    }
}

/// Lets members that stand where the room stands share its blocks from here on. Not while a block is under way:
/// theirs would have to be closed behind it, and they are served one by one until then.
fn promote(room: &mut Room<RoomState, Seated>) {
    if !room.state.sealed.is_empty() {
        return;
    }
    let Some(position) = room.state.position.clone() else { return };
    let stands = |lane: &Lane| matches!(lane, Lane::Trailing(seen) if **seen == position);
    let (ready, apart): (Vec<_>, Vec<_>) = std::mem::take(&mut room.state.apart)
        .into_iter()
        .partition(|member| room.member(*member).is_some_and(|seated| stands(&seated.lane)));
    room.state.apart = apart;
    if ready.is_empty() {
        return;
    }
    seal(room);
    let seq = room.state.seq;
    for member in ready {
        if let Some(seated) = room.member_mut(member) {
            seated.lane = Lane::Sharing(seq);
        }
    }
}

/// Closes the pending block: what comes later goes into the next.
fn seal(room: &mut Room<RoomState, Seated>) {
    if room.state.pending.is_empty() {
        return;
    }
    let state = &mut room.state;
    state.seq += 1;
    let block = std::mem::take(&mut state.pending).seal(state.seq);
    state.sealed.push_back(block);
}

/// Looks at connections that are served soon. What stands at their front comes from far away in memory: for several at once it
/// comes at the same time, where each would be waited for between two writes.
fn bring(room: &Room<RoomState, Seated>, slots: Range<usize>) {
    let ready = slots.filter(|slot| room.slot(*slot).is_some_and(|(_, seated)| seated.conn.takes_at_once()));
    hint::black_box(ready.count());
}

fn send_block(seated: &mut Seated, block: &Block, until: Option<Instant>) {
    let Lane::Sharing(seq) = &mut seated.lane else { return };
    if *seq >= block.seq {
        return;
    }
    *seq = block.seq;
    let ended = |now: Instant| seated.conn.expires.get().is_some_and(|at| at <= now);
    if until.is_some_and(ended) {
        return;
    }
    let lines = match seated.conn.codec {
        Codec::Json(_) => block.json(),
        Codec::MsgPack(_) => block.msgpack(),
    };
    lines.send(&seated.conn);
}

/// Flushes as long as there is something to flush, and lets others run in between.
pub async fn flush(hub: &RefCell<Hub>, now: impl Fn() -> Now, mut gather: Gather) {
    let bell = hub.borrow().bell();
    let timer = FineTimer::open();
    loop {
        bell.notified().await;
        // What is ready now may add more to the same blocks: one write instead of many.
        tokio::task::yield_now().await;
        if !hub.borrow().has_news() {
            continue;
        }
        timer.sleep(gather.wait(now().instant)).await;
        gather.begin(now().instant);
        while hub.borrow_mut().flush_step(now()) {
            tokio::task::yield_now().await;
        }
    }
}
