//! Who missed more than one answer holds gets the rest as pushes, page after page, each when the one before has left:
//! however much it is and however slowly it is read, a socket makes the node hold one page.
//!
//! The log itself is the queue. What happens in the room meanwhile is read from there too, and only what comes while
//! the last page is in work is kept in memory.

use std::{rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use roomcast_core::permission::Rules;
use roomcast_protocol::{Codec, Event, Position, Push, ServerFrame};
use tokio::{sync::Semaphore, task::yield_now, time::sleep};

use super::{
    most_bytes,
    past::{Known, Next, Past, cut},
};
use crate::{
    broker::Page,
    conn::{Conn, Seat},
    hub::More,
    metrics,
    random::jitter,
    session::encode,
    shelf::Pushes,
    worker::Worker,
};

/// A page is this part of what may wait for a socket.
const PAGES: usize = 4;
/// Pages that are sent without having been read, before what is live has its turn: nothing else slows down those who
/// find them on the shelf.
static TURNS: Semaphore = Semaphore::const_new(4);
/// After a page could not be read.
const PAUSE: Duration = Duration::from_millis(250);

/// Where a page ends before the log does.
pub(super) fn stop_of(page: &Page) -> Option<Position> {
    let last = page.events.last().filter(|last| last.offset < page.tail.offset)?;
    Some(Position { epoch: page.tail.epoch.clone(), offset: last.offset })
}

/// Sends what follows `so_far`, until the member stands where the room stands, or is told that it can't.
pub(super) async fn catch_up(
    worker: Rc<Worker>,
    conn: Rc<Conn>,
    seat: Seat,
    rules: Rules,
    (mut so_far, known): (Position, Option<Known>),
) {
    let node = worker.node.clone();
    let bytes = most_bytes(&node).div_ceil(PAGES);
    let mut past = Past::of(&node, &seat.name, &rules);
    past.known = known;
    loop {
        conn.answered().await;
        if !worker.hub.borrow_mut().expect_last_page(&seat) {
            return;
        }
        let page = match past.next(so_far.clone(), usize::MAX, bytes).await {
            Ok(Next::Own(page)) => cut(page, bytes),
            Ok(Next::Shared(part, from)) => {
                let encode = |frame: &ServerFrame| encode(conn.codec, frame).map(|item| item.bytes);
                let Pushes { block, count } = part.pushes(conn.codec, &seat.name, from, bytes, encode);
                so_far.offset.0 += count as u64;
                // The semaphore is never closed.
                let _turn = TURNS.acquire().await.ok();
                worker.hub.borrow_mut().send_past(&seat, block, count, More::Follows);
                yield_now().await;
                continue;
            }
            Err(_) => {
                // The answer said that nothing would be missing: it will be read when the log can be read again.
                sleep(jitter(PAUSE)).await;
                continue;
            }
        };
        let stop = Some(&page).filter(|page| page.complete).and_then(stop_of);
        let more = if stop.is_some() { More::Follows } else { More::Ends };
        let (block, frames) = if page.complete {
            let frames = page.events.len();
            (encode_all(conn.codec, page.events.into_iter().map(|event| of_event(&seat, event))), frames)
        } else {
            // The log was cut off behind the member: it could not keep up, and has to load the state anew.
            metrics::gap(metrics::Gap::Reset);
            (encode_all(conn.codec, [reset(&seat, &page.tail)]), 1)
        };
        let mut hub = worker.hub.borrow_mut();
        hub.send_past(&seat, block, frames, more);
        so_far = match stop {
            Some(stop) => stop,
            None if hub.activate(&seat, page.tail.clone(), None, |_| false).is_ok() => return,
            // So much came while the last page was read that it was not kept: there is one more page.
            None => page.tail,
        };
    }
}

fn of_event(seat: &Seat, event: Event) -> Push {
    Push::Event { room: seat.name.clone(), event }
}

fn reset(seat: &Seat, tail: &Position) -> Push {
    let Position { epoch, offset } = tail.clone();
    let reason = "more was missed than the room's history holds".to_owned();
    Push::Reset { room: seat.name.clone(), epoch, offset, reason }
}

fn encode_all(codec: Codec, pushes: impl IntoIterator<Item = Push>) -> Bytes {
    let mut block = BytesMut::new();
    for item in pushes.into_iter().filter_map(|push| encode(codec, &ServerFrame::Push(push))) {
        block.extend_from_slice(&item.bytes);
    }
    block.freeze()
}
