//! Counter values for those who join: however many join a room at once, its counters are read once at a time on this
//! node, and everyone gets a reading that began after they asked.
//!
//! A reading under way is never shared with who comes later: what was counted between its step in the store and their
//! coming would be missing from it, and was pushed before they had a seat.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use roomcast_protocol::{CounterValue, ErrorCode, Failure, RoomName};
use tokio::sync::oneshot;

/// Values, or why there are none: the same for all who waited for one reading.
pub type Reading = Result<Arc<[CounterValue]>, Failure>;

/// Who waits for the next reading of each room that is being read.
#[derive(Debug, Clone, Default)]
pub struct Tallies(Arc<Mutex<HashMap<RoomName, Vec<oneshot::Sender<Reading>>>>>);

/// What its maker has to see to.
#[derive(Debug)]
#[must_use = "nobody is answered before it runs"]
pub enum Turn {
    /// Readings are under way: wait.
    Wait(oneshot::Receiver<Reading>),
    /// Nobody reads this room: start [`Tallies::read`] as a task of its own, and wait.
    Read(oneshot::Receiver<Reading>),
}

impl Tallies {
    /// Asks for a reading that begins from now on.
    pub fn ask(&self, room: &RoomName) -> Turn {
        let (waiter, waiting) = oneshot::channel();
        let mut rooms = self.lock();
        if let Some(waiters) = rooms.get_mut(room) {
            waiters.push(waiter);
            return Turn::Wait(waiting);
        }
        rooms.insert(room.clone(), vec![waiter]);
        Turn::Read(waiting)
    }

    /// Reads until nobody waits any more.
    pub async fn read<F: Future<Output = Reading>>(self, room: RoomName, mut reading: impl FnMut() -> F) {
        // Where the task ends early, the next to ask begins anew.
        let mut forget = Forget { tallies: &self, room: &room, armed: true };
        loop {
            let waiters = {
                let mut rooms = self.lock();
                match rooms.get_mut(&room) {
                    Some(waiters) if !waiters.is_empty() => std::mem::take(waiters),
                    _ => {
                        // Within the lock: who asks after this starts another task.
                        forget.armed = false;
                        rooms.remove(&room);
                        return;
                    }
                }
            };
            let reading = reading().await;
            for waiter in waiters {
                let _gone = waiter.send(reading.clone());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RoomName, Vec<oneshot::Sender<Reading>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a joiner hears whose reader was cut off.
pub fn cut_off() -> Failure {
    Failure::retry(ErrorCode::Unavailable, "the counters could not be read", 250)
}

struct Forget<'a> {
    tallies: &'a Tallies,
    room: &'a RoomName,
    armed: bool,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.tallies.lock().remove(self.room);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering::Relaxed},
        time::Duration,
    };

    use tokio::{task::JoinSet, time::sleep};

    use super::*;

    fn value(n: u64) -> CounterValue {
        CounterValue { target: "p".to_owned(), counter: "like".to_owned(), value: n, version: n }
    }

    /// A store that counts on, and how often it was read.
    #[derive(Debug, Clone, Default)]
    struct Store {
        counted: Arc<AtomicU64>,
        readings: Arc<AtomicU64>,
    }

    impl Store {
        async fn read(self) -> Reading {
            self.readings.fetch_add(1, Relaxed);
            // Its step is at the beginning; the answer takes its time.
            let seen = self.counted.load(Relaxed);
            sleep(Duration::from_millis(10)).await;
            Ok(Arc::from([value(seen)]))
        }
    }

    async fn join(tallies: Tallies, store: Store) -> u64 {
        let room = RoomName::parse("event:a").unwrap();
        let reading = match tallies.ask(&room) {
            Turn::Wait(waiting) => waiting.await.unwrap(),
            Turn::Read(waiting) => {
                let task = tallies.clone().read(room, || store.clone().read());
                let ((), reading) = tokio::join!(task, waiting);
                reading.unwrap()
            }
        };
        reading.unwrap()[0].value
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_joins_costs_a_few_readings_and_nobody_gets_one_that_began_before() {
        let (tallies, store) = (Tallies::default(), Store::default());
        let mut joins = JoinSet::new();
        for n in 0..5_000u64 {
            let (tallies, store) = (tallies.clone(), store.clone());
            joins.spawn(async move {
                // They come over 50 ms, and between any two of them something is counted.
                sleep(Duration::from_micros(10 * n)).await;
                let at_least = store.counted.fetch_add(1, Relaxed) + 1;
                (at_least, join(tallies, store).await)
            });
        }
        while let Some(joined) = joins.join_next().await {
            let (at_least, got) = joined.unwrap();
            assert!(got >= at_least, "{got} is older than {at_least}");
        }
        let readings = store.readings.load(Relaxed);
        assert!(readings <= 8, "{readings} readings for 5,000 joins");
        assert!(tallies.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_cut_off_leaves_nobody_waiting_and_the_next_begins_anew() {
        let (tallies, store) = (Tallies::default(), Store::default());
        let room = RoomName::parse("event:a").unwrap();
        let Turn::Read(first) = tallies.ask(&room) else { panic!("nobody reads yet") };
        let mut task = Box::pin(tallies.clone().read(room.clone(), || store.clone().read()));
        assert!(futures_util::poll!(&mut task).is_pending());
        let Turn::Wait(second) = tallies.ask(&room) else { panic!("somebody reads") };
        drop(task);
        assert!(first.await.is_err() && second.await.is_err());
        assert_eq!(join(tallies, store).await, 0);
    }
}
