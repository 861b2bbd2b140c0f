//! How many members a room has on this node, over all its workers: what `limits.members_per_room` bounds.

use std::sync::Arc;

use dashmap::{DashMap, mapref::entry::Entry};
use roomcast_core::limits::Cap;
use roomcast_protocol::RoomName;

/// The members of this node's rooms. Shared by all threads; empty where rooms are not bounded.
#[derive(Debug, Clone)]
pub struct Seats {
    cap: Cap,
    taken: Arc<DashMap<RoomName, u64>>,
}

/// One member's place; given back by `Drop`. Boxed: where rooms are not bounded it is nothing.
#[derive(Debug)]
pub struct SeatPermit(Option<Box<(Seats, RoomName)>>);

impl Seats {
    /// So many members per room.
    pub fn new(cap: Cap) -> Self {
        Self { cap, taken: Arc::default() }
    }

    /// A place in the room, unless all are taken.
    pub fn take(&self, room: &RoomName) -> Option<SeatPermit> {
        if self.cap == Cap::UNLIMITED {
            return Some(SeatPermit(None));
        }
        let mut taken = self.taken.entry(room.clone()).or_default();
        if !self.cap.admits(*taken) {
            return None;
        }
        *taken += 1;
        Some(SeatPermit(Some(Box::new((self.clone(), room.clone())))))
    }
}

impl Drop for SeatPermit {
    fn drop(&mut self) {
        let Some(held) = self.0.take() else { return };
        let (seats, room) = *held;
        if let Entry::Occupied(mut entry) = seats.taken.entry(room) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_takes_as_many_as_it_may_whichever_worker_asks() {
        let seats = Seats::new(Cap::new(8).unwrap());
        let room = RoomName::parse("event:a").unwrap();
        let taken: Vec<_> = std::thread::scope(|threads| {
            let workers: Vec<_> = (0..4)
                .map(|_| threads.spawn(|| (0..4).filter_map(|_| seats.take(&room)).collect::<Vec<_>>()))
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(taken.len(), 8);
        drop(taken);
        assert!(seats.taken.is_empty(), "an empty room is forgotten");
    }
}
