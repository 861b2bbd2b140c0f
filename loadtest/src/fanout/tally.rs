//! What one subscriber saw of its room, and what that says about loss and order.
//!
//! Two independent checks: the publishers' own numbers in `data`, and the room's `offset`. It knows no socket.

use std::{borrow::Cow, collections::HashSet};

use serde::{Deserialize, Serialize};

/// What a publisher puts into `data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// Which publisher of the room, from 0.
    pub(crate) p: u32,
    /// Its number for this event, from 1, without gap.
    pub(crate) n: u64,
    /// When it was sent: microseconds since the start of the run.
    pub(crate) t: u64,
    /// Fills the payload up.
    #[serde(default, skip_serializing_if = "String::is_empty", skip_deserializing)]
    pub(crate) x: String,
}

impl Stamp {
    /// Fills `data` up to this many bytes of JSON, where it is smaller without.
    pub(crate) fn filled(mut self, payload: usize) -> Self {
        let empty = serde_json::to_string(&self).map_or(0, |json| json.len());
        self.x = "x".repeat(payload.saturating_sub(empty + r#","x":"""#.len()));
        self
    }
}

/// As much of a server frame as a subscriber looks at: reading thousands of frames per second is the tool's own cost.
#[derive(Debug, Deserialize)]
pub(crate) struct Glance<'a> {
    #[serde(borrow, default)]
    pub(crate) push: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(crate) offset: Option<u64>,
    #[serde(default)]
    pub(crate) data: Option<Stamp>,
}

/// One subscriber's account.
#[derive(Debug)]
pub(crate) struct Tally {
    expected: Vec<u64>,
    missing: HashSet<(u32, u64)>,
    last_offset: u64,
    /// Events that came.
    pub(crate) received: u64,
    /// Events that came after a later one of the same publisher.
    pub(crate) late: u64,
    /// Events that came before.
    pub(crate) duplicates: u64,
    /// Events whose `offset` was not the one after the last.
    pub(crate) offset_jumps: u64,
}

impl Tally {
    /// A subscriber that joined at `offset` before anything was published.
    pub(crate) fn new(publishers: usize, offset: u64) -> Self {
        Self {
            expected: vec![1; publishers],
            missing: HashSet::new(),
            last_offset: offset,
            received: 0,
            late: 0,
            duplicates: 0,
            offset_jumps: 0,
        }
    }

    /// Takes note of an event.
    pub(crate) fn event(&mut self, offset: u64, stamp: &Stamp) {
        self.received += 1;
        if offset != self.last_offset + 1 {
            self.offset_jumps += 1;
        }
        self.last_offset = self.last_offset.max(offset);
        let Some(expected) = usize::try_from(stamp.p).ok().and_then(|p| self.expected.get_mut(p)) else {
            // Somebody else publishes into this room: that is not ours to judge.
            return;
        };
        if stamp.n >= *expected {
            self.missing.extend((*expected..stamp.n).map(|n| (stamp.p, n)));
            *expected = stamp.n + 1;
        } else if self.missing.remove(&(stamp.p, stamp.n)) {
            self.late += 1;
        } else {
            self.duplicates += 1;
        }
    }

    /// How many of the events that were published never came.
    pub(crate) fn lost(&self, published: &[u64]) -> u64 {
        let tail: u64 =
            published.iter().zip(&self.expected).map(|(last, next)| (last + 1).saturating_sub(*next)).sum();
        self.missing.len() as u64 + tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(p: u32, n: u64) -> Stamp {
        Stamp { p, n, t: 0, x: String::new() }
    }

    #[test]
    fn everything_in_order_is_no_finding() {
        let mut tally = Tally::new(2, 10);
        for (offset, (p, n)) in (11..).zip([(0, 1), (1, 1), (0, 2), (1, 2)]) {
            tally.event(offset, &stamp(p, n));
        }
        assert_eq!(tally.lost(&[2, 2]), 0);
        assert_eq!((tally.received, tally.late, tally.duplicates, tally.offset_jumps), (4, 0, 0, 0));
    }

    #[test]
    fn a_gap_in_the_middle_and_a_missing_end_are_losses() {
        let mut tally = Tally::new(2, 0);
        tally.event(1, &stamp(0, 1));
        tally.event(3, &stamp(0, 3));
        assert_eq!(tally.lost(&[4, 2]), 1 + 1 + 2);
        assert_eq!(tally.offset_jumps, 1);
    }

    #[test]
    fn what_comes_late_is_disorder_but_no_loss() {
        let mut tally = Tally::new(1, 0);
        tally.event(2, &stamp(0, 2));
        tally.event(1, &stamp(0, 1));
        assert_eq!((tally.lost(&[2]), tally.late, tally.duplicates), (0, 1, 0));
        assert_eq!(tally.offset_jumps, 2);
    }

    #[test]
    fn what_comes_twice_is_a_duplicate() {
        let mut tally = Tally::new(1, 0);
        tally.event(1, &stamp(0, 1));
        tally.event(1, &stamp(0, 1));
        assert_eq!((tally.lost(&[1]), tally.late, tally.duplicates), (0, 0, 1));
    }

    #[test]
    fn a_payload_has_the_size_that_was_asked_for() {
        for size in [64, 100, 1000] {
            let json = serde_json::to_string(&stamp(3, 77).filled(size)).unwrap();
            assert_eq!(json.len(), size);
        }
        assert!(stamp(0, 1).filled(1).x.is_empty());
    }

    #[test]
    fn a_glance_reads_events_of_both_codecs_and_other_frames_too() {
        let json = r#"{"push":"event","room":"event:a","event":"e","data":{"p":1,"n":2,"t":3,"x":"xx"},"offset":9,"at":1}"#;
        let glance: Glance<'_> = serde_json::from_str(json).unwrap();
        assert_eq!((glance.offset, glance.data), (Some(9), Some(stamp(1, 2)).map(|s| Stamp { t: 3, ..s })));
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let packed = rmp_serde::to_vec_named(&value).unwrap();
        let glance: Glance<'_> = rmp_serde::from_slice(&packed).unwrap();
        assert_eq!((glance.push.as_deref(), glance.offset), (Some("event"), Some(9)));
        let other: Glance<'_> =
            serde_json::from_str(r#"{"push":"presence","connections":1,"users":1}"#).unwrap();
        assert_eq!((other.push.as_deref(), other.data), (Some("presence"), None));
    }
}
