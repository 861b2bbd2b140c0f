//! What one subscriber saw of one room, and whether that is whole. Pure: it is told, and never asks.
//!
//! Within a stretch every offset follows the last one. A stretch ends only with a `reset` or a `recovered:false`,
//! which are the server's word that something is missing; any other jump is a broken promise.

use std::time::Duration;

use roomcast_protocol::{Epoch, Offset, Position};
use serde::{Deserialize, Serialize};

use crate::client::Joined;

/// Which event, as its publisher counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The publisher.
    pub(super) p: u32,
    /// Its event, from 1.
    pub(super) n: u64,
}

/// An event that a subscriber was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) epoch: Epoch,
    pub(super) offset: Offset,
    pub(super) mark: Mark,
    pub(super) at: Duration,
    /// In which of the stretches.
    pub(super) stretch: usize,
}

/// A part of a room's log in which nothing is missing: after one offset, up to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) epoch: Epoch,
    pub(super) after: Offset,
    pub(super) last: Offset,
}

/// One subscriber's view of one room.
#[derive(Debug, Default)]
pub(super) struct Follower {
    position: Option<Position>,
    /// In the order in which they began; a reset or a recovery that failed lies between two.
    pub(super) stretches: Vec<Stretch>,
    /// Everything, in the order in which it came.
    pub(super) seen: Vec<Seen>,
    /// When it was told that something is missing, and how.
    pub(super) resets: Vec<(Duration, String)>,
    /// What broke the promise.
    pub(super) faults: Vec<String>,
}

impl Follower {
    /// The last position; it is the `since` of the next join.
    pub(super) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// A join was answered.
    pub(super) fn joined(&mut self, at: Duration, joined: &Joined) {
        let tail = Position { epoch: joined.epoch.clone(), offset: joined.offset };
        match self.position.take() {
            Some(since) if joined.recovered => {
                self.position = Some(since);
                self.recover(at, joined, &tail);
                self.position = Some(tail);
                return;
            }
            None => {}
            Some(_) => self.resets.push((at, "recovered: false".to_owned())),
        }
        self.begin(tail);
    }

    fn begin(&mut self, position: Position) {
        let Position { epoch, offset } = position.clone();
        self.stretches.push(Stretch { epoch, after: offset, last: offset });
        self.position = Some(position);
    }

    fn recover(&mut self, at: Duration, joined: &Joined, tail: &Position) {
        let Some(since) = self.position.clone() else { return };
        if since.epoch != tail.epoch {
            self.faults.push(format!("recovered from epoch {} into {}", since.epoch, tail.epoch));
            return;
        }
        for past in &joined.events {
            match past.data.to() {
                Ok(mark) => self.event(at, past.offset, mark),
                Err(error) => self.faults.push(format!("offset {} is unreadable: {error}", past.offset)),
            }
        }
        if self.position.as_ref() != Some(tail) {
            let told = self.position.as_ref().map_or(Offset(0), |position| position.offset);
            let since = since.offset;
            self.faults
                .push(format!("a join since {since} covers {} but told events up to {told}", tail.offset));
        }
    }

    /// An event came.
    pub(super) fn event(&mut self, at: Duration, offset: Offset, mark: Mark) {
        let Some(position) = &mut self.position else {
            self.faults.push(format!("offset {offset} came before the join was answered"));
            return;
        };
        let expected = position.offset.next();
        if offset != expected {
            let what = if offset > expected { "a gap" } else { "again or late" };
            self.faults.push(format!("{what}: offset {offset} where {expected} was due, at {at:.3?}"));
        }
        position.offset = position.offset.max(offset);
        if let Some(stretch) = self.stretches.last_mut() {
            stretch.last = position.offset;
        }
        let stretch = self.stretches.len().saturating_sub(1);
        self.seen.push(Seen { epoch: position.epoch.clone(), offset, mark, at, stretch });
    }

    /// A `reset` came.
    pub(super) fn reset(&mut self, at: Duration, position: Position, reason: &str) {
        self.resets.push((at, reason.to_owned()));
        self.begin(position);
    }
}

#[cfg(test)]
mod tests {
    use roomcast_protocol::Data;

    use super::*;
    use crate::client::Past;

    const AT: Duration = Duration::from_secs(1);

    fn joined(epoch: &str, offset: u64, recovered: bool, events: &[u64]) -> Joined {
        let past = |n: &u64| Past {
            offset: Offset(*n),
            data: Data::parse(&format!(r#"{{"p":0,"n":{n},"x":""}}"#)).unwrap(),
        };
        let events = events.iter().map(past).collect();
        Joined {
            epoch: Epoch::new(epoch),
            offset: Offset(offset),
            recovered,
            events,
            presence: None,
            counts: Vec::new(),
        }
    }

    fn follower() -> Follower {
        let mut follower = Follower::default();
        follower.joined(AT, &joined("e", 5, true, &[]));
        follower
    }

    fn event(follower: &mut Follower, offset: u64) {
        follower.event(AT, Offset(offset), Mark { p: 0, n: offset });
    }

    #[test]
    fn events_in_order_across_a_rejoin_are_whole() {
        let mut follower = follower();
        event(&mut follower, 6);
        follower.joined(AT, &joined("e", 8, true, &[7, 8]));
        event(&mut follower, 9);
        assert_eq!((follower.faults.len(), follower.resets.len(), follower.seen.len()), (0, 0, 4));
        assert_eq!(follower.position().unwrap().offset, Offset(9));
    }

    #[test]
    fn gaps_and_repeats_are_faults() {
        let mut follower = follower();
        event(&mut follower, 7);
        event(&mut follower, 7);
        event(&mut follower, 8);
        assert_eq!(follower.faults.len(), 2, "{:?}", follower.faults);
    }

    #[test]
    fn a_rejoin_that_leaves_something_out_is_a_fault() {
        for events in [&[6][..], &[7], &[]] {
            let mut follower = follower();
            follower.joined(AT, &joined("e", 7, true, events));
            assert!(!follower.faults.is_empty(), "{events:?}");
        }
        let mut follower = follower();
        follower.joined(AT, &joined("other", 5, true, &[]));
        assert_eq!(follower.faults.len(), 1);
    }

    #[test]
    fn a_reset_and_a_false_recovery_cover_what_is_missing() {
        let mut follower = follower();
        follower.joined(AT, &joined("f", 70, false, &[]));
        event(&mut follower, 71);
        follower.reset(AT, Position { epoch: Epoch::new("g"), offset: Offset(3) }, "why");
        event(&mut follower, 4);
        assert_eq!((follower.faults.len(), follower.resets.len()), (0, 2));
        let stretch = |epoch: &str, after, last| Stretch {
            epoch: Epoch::new(epoch),
            after: Offset(after),
            last: Offset(last),
        };
        assert_eq!(follower.stretches, [stretch("e", 5, 5), stretch("f", 70, 71), stretch("g", 3, 4)]);
    }

    #[test]
    fn an_event_before_the_join_is_a_fault() {
        let mut follower = Follower::default();
        event(&mut follower, 1);
        assert_eq!(follower.faults.len(), 1);
    }
}
