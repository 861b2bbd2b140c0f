//! Joining: seat first, then the subscription proven live, then the log; so nothing falls between past and live.

use std::{collections::HashMap, rc::Rc};

use roomcast_core::{
    limits::Cap,
    permission::{Audience, Identity, Rules},
};
use roomcast_protocol::{
    CounterValue, ErrorCode, Event, Failure, Joined, Ok as Answer, Position, PresenceCount, RoomName,
    ServerFrame,
};

use super::{Change, Done};
use crate::{
    backend::Repeat,
    broker::{MAX_PAGE, Page, Range},
    conn::{Conn, Seat},
    node::{Node, now},
    pump::Note,
    session::encode,
    worker::Worker,
};

/// What is read back for one join: more than that, and reloading is quicker than catching up.
const MAX_PAST: usize = 8 * 1024 * 1024;
/// Counter values told with a join.
const MAX_COUNTS: usize = 1_000;

pub(super) struct Request {
    pub(super) room: RoomName,
    pub(super) rules: Rules,
    pub(super) since: Option<Position>,
    pub(super) recent: usize,
}

pub(super) async fn join(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    who: &Identity,
    id: Option<u64>,
    request: Request,
) -> Done {
    // Who joins again starts again: from the position it names.
    let again = worker.leave(conn, &request.room);
    // Boxed: it holds several calls to Redis at once, and is far larger than any other task.
    match Box::pin(try_join(worker, conn, who, id, &request)).await {
        Ok(()) => Done { answer: None, change: Change::Joined(request.room), close: None },
        Err(failure) => {
            worker.leave(conn, &request.room);
            let done = Done::failed(id, failure);
            if again { done.with(Change::Lost(request.room)) } else { done }
        }
    }
}

async fn try_join(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    who: &Identity,
    id: Option<u64>,
    request: &Request,
) -> Result<(), Failure> {
    let node = &worker.node;
    let Request { room, rules, since, recent } = request;
    make_room_for(worker, room)?;
    let guarded = rules.audience == Audience::AdminsOnly;
    let full = || Failure::new(ErrorCode::RoomFull, "the room holds as many members as it may");
    let permit = node.seats.take(room).ok_or_else(full)?;
    let entered = worker.hub.borrow_mut().enter(room, guarded, conn, permit, now().instant);
    let seat = entered.map_err(|_full| full())?;
    // A room that was empty was one that could be given up.
    worker.note_idle();
    node.backend.at(room.as_str()).call(Repeat::Harmless, node.interest.acquire(room, worker.id)).await?;
    let counted = rules.presence.then(|| worker.appear(conn, room, &who.user));
    let backend = &node.backend;
    let at = backend.at(room.as_str());
    let page = past(node, room, rules, since.as_ref(), *recent);
    let counts = at.read(backend.counter.counters(room.as_str(), None));
    let presence = async {
        match counted {
            Some(counted) => counted.await.unwrap_or_else(|_| node.presence.local(room)),
            None => PresenceCount::default(),
        }
    };
    let (page, counts, presence) = tokio::join!(page, counts, presence);
    let (page, counts) = (page?, counts?);
    let tail = page.tail.clone();
    // The pump hears where the log stood, so that a loss before the first live event is a gap too.
    let _stopping = node.notes.send(Note::Tail(room.clone(), tail.clone()));
    answer(worker, conn, id, &seat, joined(page, since.is_some(), counts, presence), tail)
}

fn answer(
    worker: &Worker,
    conn: &Conn,
    id: Option<u64>,
    seat: &Seat,
    joined: Joined,
    tail: Position,
) -> Result<(), Failure> {
    let versions: HashMap<(String, String), u64> = joined
        .counts
        .iter()
        .map(|told| ((told.target.clone(), told.counter.clone()), told.version))
        .collect();
    let told = |value: &CounterValue| {
        let version = versions.get(&(value.target.clone(), value.counter.clone()));
        version.is_some_and(|version| value.version <= *version)
    };
    let frame = id.map(|id| ServerFrame::Ok { id, ok: Answer::Joined(Box::new(joined)) });
    let item = frame.as_ref().and_then(|frame| encode(conn.codec, frame));
    worker
        .hub
        .borrow_mut()
        .activate(seat, tail, item, told)
        .map_err(|_overrun| Failure::retry(ErrorCode::Unavailable, "the room's traffic outran the join", 250))
}

fn joined(
    page: Page,
    asked_since: bool,
    counts: Vec<roomcast_counter::Update>,
    presence: PresenceCount,
) -> Joined {
    let recovered = page.complete || !asked_since;
    let value = |update: roomcast_counter::Update| CounterValue {
        target: update.target,
        counter: update.counter,
        value: update.value,
        version: update.version,
    };
    Joined {
        epoch: page.tail.epoch,
        offset: page.tail.offset,
        recovered,
        // Half of what was missed is no help: who is told `false` reloads.
        events: if recovered { page.events } else { Vec::new() },
        presence,
        counts: counts.into_iter().take(MAX_COUNTS).map(value).collect(),
    }
}

/// What was missed since a position, page after page up to the log's end, or the newest events.
async fn past(
    node: &Node,
    room: &RoomName,
    rules: &Rules,
    since: Option<&Position>,
    recent: usize,
) -> Result<Page, Failure> {
    let broker = &node.backend.broker;
    let at = node.backend.at(room.as_str());
    let read = async |range: Range| at.read(broker.history(room, &range, rules.history)).await;
    let Some(since) = since else { return read(Range::Recent(recent)).await };
    let mut whole = read(Range::Since(since.clone(), MAX_PAGE)).await?;
    let size = |events: &[Event]| events.iter().map(|event| event.data.as_str().len()).sum::<usize>();
    let mut bytes = size(&whole.events);
    while whole.complete
        && let Some(last) = whole.events.last().filter(|last| last.offset < whole.tail.offset)
    {
        let so_far = Position { epoch: whole.tail.epoch.clone(), offset: last.offset };
        let next = read(Range::Since(so_far, MAX_PAGE)).await?;
        bytes += size(&next.events);
        whole.events.extend(next.events);
        (whole.tail, whole.complete) = (next.tail, next.complete && bytes <= MAX_PAST);
    }
    Ok(whole)
}

/// A room that is new on this node needs a place among `limits.rooms_per_node`: the room that was empty longest
/// gives way.
fn make_room_for(worker: &Worker, room: &RoomName) -> Result<(), Failure> {
    let node = &worker.node;
    let cap: Cap = node.terms.limits.rooms_per_node;
    if node.interest.contains(room) || cap.admits(node.interest.len() as u64) {
        return Ok(());
    }
    if worker.evict_idle() || node.evict_elsewhere(worker.id as usize) {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::TooManyRooms, "this node holds as many rooms as it may"))
}
