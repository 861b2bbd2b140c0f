//! The way from the pump to one worker: bounded, never blocking, and woken once for all that came together, so that
//! the worker finds all of it when it looks.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Release},
        },
    },
};

use tokio::sync::Notify;

use crate::hub::Delivery;

/// The lane has no room, or nobody reads it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The pump's end.
#[derive(Debug, Clone)]
pub struct LaneSender(Arc<Shared>);

/// The worker's end.
#[derive(Debug)]
pub struct LaneReceiver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    capacity: usize,
    queue: Mutex<Queue>,
    bell: Notify,
    /// Something was pushed since the bell rang.
    unheard: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    deliveries: VecDeque<Delivery>,
    closed: bool,
}

/// A lane with room for so many.
pub fn lane(capacity: usize) -> (LaneSender, LaneReceiver) {
    let shared =
        Shared { capacity, queue: Mutex::default(), bell: Notify::new(), unheard: AtomicBool::new(false) };
    let shared = Arc::new(shared);
    (LaneSender(shared.clone()), LaneReceiver(shared))
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that panics is done under the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneSender {
    /// Hands one over; the worker hears of it with the next [`LaneSender::ring`].
    pub fn push(&self, delivery: Delivery) -> Result<(), Full> {
        let mut queue = self.0.queue();
        if queue.closed || queue.deliveries.len() >= self.0.capacity {
            return Err(Full);
        }
        queue.deliveries.push_back(delivery);
        drop(queue);
        self.0.unheard.store(true, Release);
        Ok(())
    }

    /// Wakes the worker, where something was handed over since.
    pub fn ring(&self) {
        if self.0.unheard.swap(false, AcqRel) {
            self.0.bell.notify_one();
        }
    }
}

impl LaneReceiver {
    /// Waits for deliveries and takes at most so many of them. Cancel safe: nothing is taken before it is returned.
    pub async fn take_many(&self, most: usize, into: &mut Vec<Delivery>) {
        loop {
            {
                let mut queue = self.0.queue();
                let now = queue.deliveries.len().min(most);
                into.extend(queue.deliveries.drain(..now));
                if queue.deliveries.is_empty() && queue.deliveries.capacity() > 2 * most {
                    // What a burst needed goes back.
                    queue.deliveries = VecDeque::new();
                }
            }
            if !into.is_empty() {
                return;
            }
            self.0.bell.notified().await;
        }
    }
}

impl Drop for LaneReceiver {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.closed = true;
        queue.deliveries = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use roomcast_protocol::{PresenceCount, Push, RoomName, SharedPush};
    use tokio::time::timeout;

    use super::*;
    use crate::hub::Place;

    fn delivery(number: u64) -> Delivery {
        let room = RoomName::parse("event:a").unwrap();
        let count = PresenceCount { connections: number, users: number };
        let push = Arc::new(SharedPush::new(Push::Presence { room: room.clone(), count }));
        Delivery { room, place: Place::None, at: None, push }
    }

    async fn taken(receiver: &LaneReceiver, most: usize) -> Vec<u64> {
        let mut taken = Vec::new();
        receiver.take_many(most, &mut taken).await;
        let number = |delivery: &Delivery| match delivery.push.push() {
            Push::Presence { count, .. } => count.users,
            _ => 0,
        };
        taken.iter().map(number).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_was_handed_over_before_the_bell_is_there_when_it_rings() {
        let (sender, receiver) = lane(10);
        let waiting = async { taken(&receiver, 10).await };
        let pump = async {
            for number in 0..5 {
                sender.push(delivery(number)).unwrap();
                tokio::task::yield_now().await;
            }
            sender.ring();
        };
        assert_eq!(tokio::join!(waiting, pump).0, [0, 1, 2, 3, 4]);
        // The bell was heard: nobody is woken for nothing, and nothing is there.
        sender.ring();
        assert!(timeout(Duration::from_secs(1), taken(&receiver, 10)).await.is_err());
    }

    #[tokio::test]
    async fn what_is_taken_is_bounded_and_what_is_left_needs_no_other_bell() {
        let (sender, receiver) = lane(10);
        (0..10).for_each(|number| sender.push(delivery(number)).unwrap());
        assert_eq!(sender.push(delivery(10)), Err(Full));
        sender.ring();
        assert_eq!(taken(&receiver, 4).await, [0, 1, 2, 3]);
        sender.push(delivery(10)).unwrap();
        assert_eq!(taken(&receiver, 100).await, [4, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn a_lane_that_nobody_reads_takes_nothing_and_holds_nothing() {
        let (sender, receiver) = lane(10);
        sender.push(delivery(1)).unwrap();
        drop(receiver);
        assert_eq!(sender.push(delivery(2)), Err(Full));
        assert!(sender.0.queue().deliveries.is_empty());
    }
}
