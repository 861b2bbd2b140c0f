//! Counters after an interruption: a value that was pushed meanwhile is in no log, so the rooms' counters are read anew.
//!
//! What arrives live while a room is being read wins over what was read: versions never run backwards.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use roomcast_counter::{Counter, CounterError, Update};
use roomcast_protocol::{CounterValue, RoomName};
use tokio::{task::JoinSet, time::sleep};

use crate::random::jitter;

/// Rooms read at once: a Redis that has just come back has other things to do.
const READS: usize = 8;
/// Before a failed read is tried again.
const PAUSE: Duration = Duration::from_millis(300);
/// Values told per room, as with a join.
const MAX_VALUES: usize = 1_000;

/// The newest version that came live, by target and counter.
type Newest = HashMap<(String, String), u64>;

/// The rooms whose counters are to be read.
#[derive(Debug)]
pub(super) struct Recount {
    counter: Counter,
    /// Every room that waits or is being read, with what came live meanwhile.
    rooms: HashMap<RoomName, Newest>,
    waiting: VecDeque<RoomName>,
    reads: JoinSet<(RoomName, Result<Vec<Update>, CounterError>)>,
}

impl Recount {
    pub(super) fn new(counter: Counter) -> Self {
        Self { counter, rooms: HashMap::new(), waiting: VecDeque::new(), reads: JoinSet::new() }
    }

    /// A value of this room may have been missed. One that is being read already is read once more, because that
    /// read may have been too early.
    pub(super) fn wanted(&mut self, room: &RoomName) {
        if !self.waiting.contains(room) {
            self.waiting.push_back(room.clone());
        }
        self.rooms.entry(room.clone()).or_default();
    }

    /// A value came live.
    pub(super) fn live(&mut self, room: &RoomName, value: &CounterValue) {
        if let Some(newest) = self.rooms.get_mut(room) {
            let version = newest.entry((value.target.clone(), value.counter.clone())).or_default();
            *version = value.version.max(*version);
        }
    }

    /// Begins as many reads as may run at once, of rooms that still have members here.
    pub(super) fn start(&mut self, is_live: impl Fn(&RoomName) -> bool) {
        while self.reads.len() < READS {
            let Some(room) = self.waiting.pop_front() else { return };
            if !is_live(&room) {
                self.rooms.remove(&room);
                continue;
            }
            let counter = self.counter.clone();
            self.reads.spawn(async move {
                let mut values = counter.counters(room.as_str(), None).await;
                if values.is_err() {
                    sleep(jitter(PAUSE)).await;
                    values = counter.counters(room.as_str(), None).await;
                }
                (room, values)
            });
        }
    }

    /// The next room that was read, with the values that are newer than what came live. Cancel safe. Never ready while
    /// nothing is being read.
    pub(super) async fn next(&mut self) -> Option<(RoomName, Vec<CounterValue>)> {
        let Some(Ok((room, result))) = self.reads.join_next().await else { return None };
        let Ok(values) = result else {
            self.wanted(&room);
            return None;
        };
        let again = self.waiting.contains(&room);
        let newest = if again { self.rooms.get(&room).cloned() } else { self.rooms.remove(&room) };
        let newest = newest.unwrap_or_default();
        let fresh = values.into_iter().take(MAX_VALUES).filter_map(|update| {
            let Update { target, counter, value, version } = update;
            let known = newest.get(&(target.clone(), counter.clone())).copied();
            known.is_none_or(|known| version > known).then_some(CounterValue {
                target,
                counter,
                value,
                version,
            })
        });
        Some((room, fresh.collect()))
    }
}
