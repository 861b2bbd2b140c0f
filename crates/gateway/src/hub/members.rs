//! The members of a room on one worker: what was told to each, and how it gets what comes.

use std::{collections::VecDeque, rc::Rc, time::Instant};

use roomcast_core::rooms::{MemberId, Room};
use roomcast_protocol::{Codec, Position};

use super::{
    Delivery, Place,
    block::{self, Block, Pending},
    survey::Tally,
};
use crate::{conn::Conn, outbox::Item, seats::SeatPermit};

/// What a worker keeps of a room besides its members.
#[derive(Debug, Default)]
pub(super) struct RoomState {
    /// Members whose token has ended get nothing more.
    pub(super) guarded: bool,
    pub(super) position: Option<Position>,
    pub(super) pending: Pending,
    pub(super) sealed: VecDeque<Block>,
    pub(super) seq: u64,
    /// Members that do not share the blocks yet.
    pub(super) apart: Vec<MemberId>,
    pub(super) queued: bool,
    pub(super) tally: Tally,
}

/// One member.
#[derive(Debug)]
pub(super) struct Seated {
    pub(super) conn: Rc<Conn>,
    /// Held for as long as the member is one.
    _permit: SeatPermit,
    pub(super) lane: Lane,
}

impl Seated {
    /// One whose join is not answered yet.
    pub(super) fn joining(conn: Rc<Conn>, permit: SeatPermit) -> Self {
        Self { conn, _permit: permit, lane: Lane::Joining(Box::default()) }
    }
}

/// What came for a member that can't be given it yet.
#[derive(Debug, Default)]
pub(super) struct Kept(pub(super) Vec<Delivery>);

/// How a member gets its pushes. All but the last pass: what they need is boxed, so that it takes no place in the row of
/// the room's members.
#[derive(Debug)]
pub(super) enum Lane {
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

/// Whether an event is news to somebody who stands at `seen`.
pub(super) fn is_after(position: &Position, seen: Option<&Position>) -> bool {
    seen.is_none_or(|seen| seen.epoch != position.epoch || seen.offset < position.offset)
}

/// Sends one push to one member, where it is news to it and, in a guarded room, its token still holds.
pub(super) fn send_apart(conn: &Conn, delivery: &Delivery, seen: &mut Position, guarded: bool) {
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
pub(super) fn has_ended(conn: &Conn, guarded: bool) -> bool {
    guarded && conn.expires.get().is_some_and(|at| at <= Instant::now())
}

/// Sends one push to one member.
pub(super) fn send_one(conn: &Conn, delivery: &Delivery) {
    if let Some(bytes) = block::frame(&delivery.push, conn.codec) {
        conn.send(Item::push(bytes, &delivery.push));
    }
}

/// Lets members that stand where the room stands share its blocks from here on. Not while a block is under way:
/// theirs would have to be closed behind it, and they are served one by one until then.
pub(super) fn promote(room: &mut Room<RoomState, Seated>) {
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
pub(super) fn seal(room: &mut Room<RoomState, Seated>) {
    if room.state.pending.is_empty() {
        return;
    }
    let state = &mut room.state;
    state.seq += 1;
    let block = std::mem::take(&mut state.pending).seal(state.seq);
    state.sealed.push_back(block);
}

/// Sends a block to a member that shares blocks, if it has not got it yet; `until` where its token may have ended.
pub(super) fn send_block(seated: &mut Seated, block: &Block, until: Option<Instant>) {
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
