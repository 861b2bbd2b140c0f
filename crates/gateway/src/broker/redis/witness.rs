//! The last that this node saw of each room, to hold against a log that may have lost its end.
//!
//! A failover, and a restart from an append-only file, can bring back a log without its last events; other events then
//! take the same offsets in the same epoch, and no subscriber can tell. So a node remembers of each room the newest
//! event that it heard or had acknowledged. When another server, or another life of the same one, takes over, the
//! event must still stand at its offset, made at its time; if it does not, the room gets a new epoch and everyone is
//! told. Counters go back in the same way, and whoever saw the later value would never believe the earlier one, whose
//! version is lower; so the newest count that was heard is remembered too. What is older than a minute has reached the
//! replica and the disk, and is forgotten.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use roomcast_protocol::{CounterValue, Epoch, Offset, RoomName};

/// A witness lives between one and two of these.
const GENERATION: Duration = Duration::from_secs(60);
/// Rooms remembered in one generation. Beyond it the node remembers no more rooms until the next.
const MAX_ROOMS: usize = 200_000;

/// The newest that is known of a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) event: Option<SeenEvent>,
    pub(super) count: Option<SeenCount>,
}

/// The newest event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenEvent {
    pub(super) epoch: Epoch,
    pub(super) offset: Offset,
    /// When Redis made it, in Unix ms: tells it from another event at the same offset.
    pub(super) at: u64,
}

/// The count that was heard last. What a server loses is an end of all it did: if this is there, so are those before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenCount {
    pub(super) target: String,
    pub(super) counter: String,
    pub(super) version: u64,
    /// No version of any of the room's counters that was heard is above this.
    pub(super) highest: u64,
}

impl Seen {
    /// What came after this: the newer of both, each for itself.
    fn grow(&mut self, newer: Self) {
        if let Some(event) = newer.event {
            match &self.event {
                Some(known) if event.epoch == known.epoch && event.offset <= known.offset => {}
                // A late event of an epoch that is gone has an earlier time.
                Some(known) if event.epoch != known.epoch && event.at < known.at => {}
                _ => self.event = Some(event),
            }
        }
        if let Some(count) = newer.count {
            let highest = self.count.as_ref().map_or(0, |known| known.highest).max(count.highest);
            self.count = Some(SeenCount { highest, ..count });
        }
    }
}

#[derive(Debug)]
pub(super) struct Witnesses(Mutex<State>);

#[derive(Debug)]
struct State {
    young: HashMap<RoomName, Seen>,
    old: HashMap<RoomName, Seen>,
    /// What has to be held against the log before it is used again; newer events don't touch it.
    frozen: HashMap<RoomName, Seen>,
    turned: Instant,
}

impl Witnesses {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(State {
            young: HashMap::new(),
            old: HashMap::new(),
            frozen: HashMap::new(),
            turned: now,
        }))
    }

    /// An event was heard or acknowledged.
    pub(super) fn note(&self, room: &RoomName, epoch: &Epoch, offset: Offset, at: u64, now: Instant) {
        let event = Some(SeenEvent { epoch: epoch.clone(), offset, at });
        self.note_again(room, Seen { event, count: None }, now);
    }

    /// A count was heard.
    pub(super) fn note_count(&self, room: &RoomName, value: &CounterValue, now: Instant) {
        let CounterValue { target, counter, version, .. } = value;
        let (target, counter) = (target.clone(), counter.clone());
        let count = Some(SeenCount { target, counter, version: *version, highest: *version });
        self.note_again(room, Seen { event: None, count }, now);
    }

    /// What was taken out, and proved true.
    pub(super) fn note_again(&self, room: &RoomName, seen: Seen, now: Instant) {
        let mut state = self.lock();
        if now.saturating_duration_since(state.turned) >= GENERATION {
            let idle = now.saturating_duration_since(state.turned) >= GENERATION * 2;
            state.old = std::mem::take(&mut state.young);
            if idle {
                state.old.clear();
            }
            state.turned = now;
        }
        if let Some(known) = state.young.get_mut(room) {
            known.grow(seen);
        } else if state.young.len() < MAX_ROOMS {
            state.young.insert(room.clone(), seen);
        }
    }

    /// The server of these rooms may be another from here on: what is known now must be held against its logs.
    pub(super) fn freeze(&self, is_affected: impl Fn(&RoomName) -> bool) {
        let mut state = self.lock();
        let State { young, old, frozen, .. } = &mut *state;
        // The younger ones last, so that they win where the epochs differ.
        for generation in [old, young] {
            for (room, seen) in generation.extract_if(|room, _| is_affected(room)) {
                frozen.entry(room).or_default().grow(seen);
            }
        }
    }

    /// Takes out what has to be held against the logs.
    pub(super) fn take(&self, is_affected: impl Fn(&RoomName) -> bool) -> Vec<(RoomName, Seen)> {
        self.lock().frozen.extract_if(|room, _| is_affected(room)).collect()
    }

    /// Puts back what could not be looked at yet.
    pub(super) fn put_back(&self, witnesses: impl IntoIterator<Item = (RoomName, Seen)>) {
        let mut state = self.lock();
        for (room, seen) in witnesses {
            // What was frozen meanwhile is newer.
            let newer = state.frozen.insert(room.clone(), seen);
            if let (Some(newer), Some(known)) = (newer, state.frozen.get_mut(&room)) {
                known.grow(newer);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> RoomName {
        RoomName::parse("event:wall").unwrap()
    }

    fn note(witnesses: &Witnesses, epoch: &str, offset: u64, at: u64, now: Instant) {
        witnesses.note(&room(), &Epoch::new(epoch), Offset(offset), at, now);
    }

    fn offsets(witnesses: &Witnesses) -> Vec<u64> {
        witnesses.take(|_| true).into_iter().filter_map(|(_, seen)| Some(seen.event?.offset.0)).collect()
    }

    #[test]
    fn the_newest_is_kept_and_what_comes_after_the_freeze_does_not_hide_it() {
        let now = Instant::now();
        let witnesses = Witnesses::new(now);
        note(&witnesses, "a", 2, 10, now);
        note(&witnesses, "a", 1, 9, now);
        witnesses.freeze(|_| true);
        note(&witnesses, "a", 1, 20, now);
        witnesses.freeze(|_| true);
        assert_eq!(offsets(&witnesses), [2]);
        assert!(offsets(&witnesses).is_empty());
    }

    #[test]
    fn a_new_epoch_replaces_the_old_and_a_late_event_does_not() {
        let now = Instant::now();
        let witnesses = Witnesses::new(now);
        note(&witnesses, "a", 9, 10, now);
        note(&witnesses, "b", 1, 11, now);
        note(&witnesses, "a", 10, 10, now);
        witnesses.freeze(|_| true);
        assert_eq!(offsets(&witnesses), [1]);
    }

    #[test]
    fn a_witness_is_forgotten_after_two_minutes_and_not_before_one() {
        let start = Instant::now();
        let other = RoomName::parse("event:other").unwrap();
        for (later, kept) in [(59, 1), (61, 1), (121, 0)] {
            let witnesses = Witnesses::new(start);
            note(&witnesses, "a", 1, 10, start);
            let now = start + Duration::from_secs(later);
            witnesses.note(&other, &Epoch::new("a"), Offset(1), 10, now);
            witnesses.freeze(|name| *name == room());
            assert_eq!(offsets(&witnesses).len(), kept, "after {later} s");
        }
    }

    #[test]
    fn the_last_count_is_kept_with_the_highest_version_beside_the_event() {
        let now = Instant::now();
        let witnesses = Witnesses::new(now);
        let count = |target: &str, version| CounterValue {
            target: target.to_owned(),
            counter: "like".to_owned(),
            value: 1,
            version,
        };
        note(&witnesses, "a", 1, 10, now);
        witnesses.note_count(&room(), &count("hot", 90), now);
        witnesses.freeze(|_| true);
        witnesses.note_count(&room(), &count("calm", 40), now);
        witnesses.freeze(|_| true);
        let [(_, seen)] = &witnesses.take(|_| true)[..] else { panic!("one room") };
        let last = seen.count.as_ref().unwrap();
        assert_eq!((last.target.as_str(), last.version, last.highest), ("calm", 40, 90));
        assert_eq!(seen.event.as_ref().unwrap().offset, Offset(1));
    }

    #[test]
    fn what_could_not_be_looked_at_waits() {
        let now = Instant::now();
        let witnesses = Witnesses::new(now);
        note(&witnesses, "a", 1, 10, now);
        witnesses.freeze(|_| true);
        let taken = witnesses.take(|_| true);
        witnesses.put_back(taken);
        assert_eq!(offsets(&witnesses), [1]);
    }
}
