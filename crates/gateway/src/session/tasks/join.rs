//! Joining: seat first, then the subscription proven live, then the log; so nothing falls between past and live.

use std::{collections::HashMap, rc::Rc};

use roomcast_core::{
    limits::Cap,
    permission::{Audience, Identity, Rules},
};
use roomcast_counter::Update;
use roomcast_protocol::{
    CounterValue, ErrorCode, Failure, Joined, Ok as Answer, Position, PresenceCount, RoomName, ServerFrame,
};

use super::{
    Change, Done, Work, catch_up,
    catch_up::stop_of,
    most_bytes,
    past::{Known, Past},
};
use crate::{
    backend::Repeat,
    broker::{Page, Range},
    conn::{Conn, Seat},
    node::now,
    presence::Present,
    pump::Note,
    session::encode,
    tallies::{self, Reading, Turn},
    worker::Worker,
};

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
        Ok(rest) => Done { rest, ..Done::nothing() }.with(Change::Joined(shared_name(conn, request.room))),
        Err(failure) => {
            worker.leave(conn, &request.room);
            let done = Done::failed(id, failure);
            if again { done.with(Change::Lost(request.room)) } else { done }
        }
    }
}

/// The name as the hub has it, which all members share.
fn shared_name(conn: &Conn, room: RoomName) -> RoomName {
    let seats = conn.seats.borrow();
    seats.iter().find(|seat| seat.name == room).map_or(room, |seat| seat.name.clone())
}

async fn try_join(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    who: &Identity,
    id: Option<u64>,
    request: &Request,
) -> Result<Option<Work>, Failure> {
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
    let range = match since {
        Some(since) => Range::Since(since.clone(), usize::MAX),
        None => Range::Recent(*recent),
    };
    let mut past = Past::of(node, room, rules);
    let page = past.read(range, most_bytes(node));
    let counts = counts(worker, room);
    let presence = async {
        match counted {
            // Without the broker this node's own seats are all that bounds the room.
            Some(counted) => counted
                .await
                .unwrap_or_else(|_| Present { count: node.presence.local(room), behind: u64::MAX }),
            None => Present { count: PresenceCount::default(), behind: u64::MAX },
        }
    };
    let (page, counts, presence) = tokio::join!(page, counts, presence);
    let (page, counts) = (page?, counts?);
    let Present { count: presence, behind } = presence;
    let before = presence.connections.saturating_sub(behind).saturating_sub(1);
    if !node.terms.limits.members_per_room.admits(before) {
        return Err(full());
    }
    let tail = page.tail.clone();
    // The pump hears where the log stood, so that a loss before the first live event is a gap too.
    let _stopping = node.notes.send(Note::Tail(room.clone(), tail.clone()));
    let known = past.known;
    answer(
        worker,
        conn,
        id,
        seat,
        rules,
        Found { page, known, asked: since.is_some(), counts: counts.to_vec(), presence },
    )
}

/// What the answer to a join is made of.
struct Found {
    page: Page,
    /// What reading it has shown.
    known: Option<Known>,
    /// Whether everything since a position was asked for.
    asked: bool,
    counts: Vec<CounterValue>,
    presence: PresenceCount,
}

/// Answers the join. Where the past did not fit into the answer, what is left to send is returned.
fn answer(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    id: Option<u64>,
    seat: Seat,
    rules: &Rules,
    found: Found,
) -> Result<Option<Work>, Failure> {
    let (tail, known) = (found.page.tail.clone(), found.known);
    let behind = Some(&found.page).filter(|page| found.asked && page.complete).and_then(stop_of);
    let joined = joined(found, behind.clone());
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
    let overrun = |_| Failure::retry(ErrorCode::Unavailable, "the room's traffic outran the join", 250);
    let mut hub = worker.hub.borrow_mut();
    let Some(behind) = behind else {
        return hub.activate(&seat, tail, item, told).map(|()| None).map_err(overrun);
    };
    hub.begin_past(&seat, item, told).map_err(overrun)?;
    drop(hub);
    let rest = catch_up::catch_up(worker.clone(), conn.clone(), seat, *rules, (behind, known));
    Ok(Some(Box::pin(async {
        rest.await;
        Done::nothing()
    })))
}

fn joined(found: Found, behind: Option<Position>) -> Joined {
    let Found { page, asked, counts, presence, .. } = found;
    let recovered = page.complete || !asked;
    // Pushes go on from where the events end, also where that is not the log's tail yet.
    let Position { epoch, offset } = behind.unwrap_or(page.tail);
    Joined {
        epoch,
        offset,
        recovered,
        // Half of what was missed is no help: who is told `false` reloads.
        events: if recovered { page.events } else { Vec::new() },
        presence,
        counts,
    }
}

/// The room's counter values, of now: one reading serves all who join while another is under way.
async fn counts(worker: &Worker, room: &RoomName) -> Reading {
    let node = &worker.node;
    let waiting = match node.tallies.ask(room) {
        Turn::Wait(waiting) => waiting,
        Turn::Read(waiting) => {
            let (node, of) = (node.clone(), room.clone());
            let reading = move || {
                let (node, of) = (node.clone(), of.clone());
                async move {
                    let backend = &node.backend;
                    let all =
                        backend.at(of.as_str()).read(backend.counter.counters(of.as_str(), None)).await?;
                    Ok(all.into_iter().take(MAX_COUNTS).map(value).collect())
                }
            };
            worker.tasks.spawn_local(worker.node.tallies.clone().read(room.clone(), reading));
            waiting
        }
    };
    waiting.await.unwrap_or_else(|_cut_off| Err(tallies::cut_off()))
}

fn value(update: Update) -> CounterValue {
    let Update { target, counter, value, version } = update;
    CounterValue { target, counter, value, version }
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
