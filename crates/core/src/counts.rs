//! How often a room's members are told its counts. The first after a pause is told at once; those that come close
//! behind it are held, the newest of each counter, and told together. So thousands of likes a second cost each member
//! a few pushes a second, and the last of them is never left out.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use roomcast_protocol::{CounterValue, RoomName};

/// Counters held per room; the value of a further one is told at once.
const MAX_HELD: usize = 1_000;

/// What a counter is called in its room: target and counter.
type Name = (String, String);

/// The counts of all rooms that told some of late.
#[derive(Debug)]
pub struct Counts {
    interval: Duration,
    /// Rooms that have told counts within the interval, and what they hold since.
    rooms: HashMap<RoomName, HashMap<Name, CounterValue>>,
    /// When each of them may tell more: once each, the earliest first.
    due: VecDeque<(Instant, RoomName)>,
}

impl Counts {
    /// Told so many times a second per room.
    pub fn new(per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            rooms: HashMap::new(),
            due: VecDeque::new(),
        }
    }

    /// A counter has this value now. It is returned where it is to be told at once, and else held.
    pub fn offer(&mut self, room: &RoomName, value: CounterValue, now: Instant) -> Option<CounterValue> {
        let Some(held) = self.rooms.get_mut(room) else {
            self.rooms.insert(room.clone(), HashMap::new());
            self.due.push_back((now + self.interval, room.clone()));
            return Some(value);
        };
        let name = (value.target.clone(), value.counter.clone());
        let is_full = held.len() >= MAX_HELD;
        match held.get_mut(&name) {
            // A value that was read again may be older than what came meanwhile.
            Some(older) if older.version >= value.version => {}
            Some(older) => *older = value,
            None if is_full => return Some(value),
            None => {
                held.insert(name, value);
            }
        }
        None
    }

    /// What is held of a room is of no use any more: the room ended, or its counters are gone.
    pub fn forget(&mut self, room: &RoomName) {
        if let Some(held) = self.rooms.get_mut(room) {
            held.clear();
        }
    }

    /// When [`Counts::due`] has something to do.
    pub fn next(&self) -> Option<Instant> {
        self.due.front().map(|(at, _)| *at)
    }

    /// The next room whose time has come, and what it is to tell: nothing, where it held nothing. To be called until
    /// there is none.
    pub fn due(&mut self, now: Instant) -> Option<(RoomName, Vec<CounterValue>)> {
        self.next().filter(|at| *at <= now)?;
        let (_, room) = self.due.pop_front()?;
        let held = self.rooms.get_mut(&room).map(std::mem::take).unwrap_or_default();
        if held.is_empty() {
            self.rooms.remove(&room);
            if self.rooms.capacity() > 64 && self.rooms.len() * 4 < self.rooms.capacity() {
                self.rooms.shrink_to_fit();
                self.due.shrink_to_fit();
            }
        } else {
            self.due.push_back((now + self.interval, room.clone()));
        }
        Some((room, held.into_values().collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn likes(target: &str, version: u64) -> CounterValue {
        CounterValue { target: target.into(), counter: "like".into(), value: version, version }
    }

    /// What is told at a time, by a room and all counters.
    fn tell(counts: &mut Counts, now: Instant) -> Vec<(RoomName, u64)> {
        let mut told = Vec::new();
        while let Some((room, values)) = counts.due(now) {
            told.extend(values.into_iter().map(|value| (room.clone(), value.version)));
        }
        told
    }

    #[test]
    fn nothing_of_a_room_that_ended_is_told() {
        let (now, wall, mut counts) = (Instant::now(), room("event:wall"), Counts::new(10));
        assert!(counts.offer(&wall, likes("photo", 1), now).is_some());
        assert!(counts.offer(&wall, likes("photo", 2), now).is_none());
        counts.forget(&wall);
        assert_eq!(tell(&mut counts, now + Duration::from_secs(1)), []);
        assert!(counts.offer(&wall, likes("photo", 1), now + Duration::from_secs(1)).is_some());
    }

    #[test]
    fn ten_thousand_likes_a_second_are_ten_pushes_a_second_and_the_last_is_told() {
        let (mut now, wall, mut counts) = (Instant::now(), room("event:wall"), Counts::new(10));
        let mut told = Vec::new();
        for version in 1..=10_000 {
            now += Duration::from_micros(100);
            told.extend(tell(&mut counts, now).into_iter().map(|(_, version)| version));
            told.extend(counts.offer(&wall, likes("photo", version), now).map(|value| value.version));
        }
        assert!((10..=11).contains(&told.len()), "{told:?}");
        assert_eq!(told[0], 1, "the first is told at once");
        now += Duration::from_millis(100);
        told.extend(tell(&mut counts, now).into_iter().map(|(_, version)| version));
        assert_eq!(told.last(), Some(&10_000));
        assert!(told.is_sorted());
    }

    #[test]
    fn a_room_that_pauses_holds_nothing_and_tells_the_next_at_once() {
        let (now, mut counts) = (Instant::now(), Counts::new(10));
        for name in ["event:a", "event:b"] {
            assert!(counts.offer(&room(name), likes("photo", 1), now).is_some());
        }
        assert_eq!(counts.next(), Some(now + Duration::from_millis(100)));
        let later = now + Duration::from_millis(100);
        assert_eq!(tell(&mut counts, later), []);
        assert_eq!((counts.next(), counts.rooms.len()), (None, 0));
        assert!(counts.offer(&room("event:a"), likes("photo", 2), later).is_some());
    }

    #[test]
    fn an_older_value_does_not_take_a_newer_ones_place() {
        let (now, wall, mut counts) = (Instant::now(), room("event:wall"), Counts::new(10));
        for version in [1, 7, 5] {
            counts.offer(&wall, likes("photo", version), now);
        }
        assert_eq!(tell(&mut counts, now + Duration::from_secs(1)), [(wall, 7)]);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let (now, wall, mut counts) = (Instant::now(), room("event:wall"), Counts::new(1));
        let at_once = (0..=MAX_HELD + 10)
            .filter(|n| counts.offer(&wall, likes(&format!("photo{n}"), 1), now).is_some())
            .count();
        assert_eq!(at_once, 1 + 10);
    }

    proptest! {
        /// Whatever is counted and whenever: the last value of each counter is told, within the interval, and a room
        /// tells no more often than it may.
        #[test]
        fn the_last_of_each_is_told_in_time(
            likes_at in prop::collection::vec((0..50_u64, 0..3_usize, 0..3_usize), 1..200),
        ) {
            let (start, mut counts) = (Instant::now(), Counts::new(10));
            let (rooms, targets) = (["event:a", "event:b", "event:c"].map(room), ["x", "y", "z"]);
            let mut now = start;
            let mut newest = HashMap::new();
            let mut told: HashMap<(RoomName, String), u64> = HashMap::new();
            let mut times: HashMap<RoomName, Vec<Instant>> = HashMap::new();
            for (version, (gap, at, target)) in (1..).zip(likes_at) {
                now += Duration::from_millis(gap);
                while let Some(at) = counts.next().filter(|at| *at <= now) {
                    let Some((room, values)) = counts.due(at) else { break };
                    if !values.is_empty() {
                        times.entry(room.clone()).or_default().push(at);
                    }
                    told.extend(values.into_iter().map(|value| ((room.clone(), value.target), value.version)));
                }
                let (room, target) = (&rooms[at], targets[target]);
                newest.insert((room.clone(), target.to_owned()), version);
                if counts.offer(room, likes(target, version), now).is_some() {
                    times.entry(room.clone()).or_default().push(now);
                    told.insert((room.clone(), target.to_owned()), version);
                }
            }
            for (room, values) in std::iter::from_fn(|| counts.due(now + Duration::from_millis(100))) {
                told.extend(values.into_iter().map(|value| ((room.clone(), value.target), value.version)));
            }
            prop_assert_eq!(told, newest);
            for times in times.values() {
                prop_assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(100)));
            }
        }
    }
}
