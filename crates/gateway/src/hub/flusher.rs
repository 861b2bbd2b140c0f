//! The flusher: it works in rounds, seals what waits for each room, and writes it to the members, some of them at a time.

use std::{cell::RefCell, hint, ops::Range, time::Duration};

use roomcast_core::{
    gather::Gather,
    rooms::{Room, RoomId},
    session::Now,
};

use super::{
    Hub,
    members::{RoomState, Seated, promote, seal, send_block},
};
use crate::{fine::FineTimer, metrics};

/// Members served in one step of the flusher: about a millisecond of system calls, then others get their turn.
pub(super) const FLUSH_STEP: usize = 256;
/// Members that are brought from memory together, before the first of them is served.
const AHEAD: usize = 16;

impl Hub {
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
}

/// Looks at connections that are served soon. What stands at their front comes from far away in memory: for several at once it
/// comes at the same time, where each would be waited for between two writes.
fn bring(room: &Room<RoomState, Seated>, slots: Range<usize>) {
    let ready = slots.filter(|slot| room.slot(*slot).is_some_and(|(_, seated)| seated.conn.takes_at_once()));
    hint::black_box(ready.count());
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
        let wait = gather.wait(now().instant);
        if !wait.is_zero() {
            timer.sleep(wait).await;
            // What came while the worker rested is still on its way into the rooms.
            tokio::task::yield_now().await;
        }
        gather.begin(now().instant);
        while hub.borrow_mut().flush_step(now()) {
            tokio::task::yield_now().await;
        }
    }
}
