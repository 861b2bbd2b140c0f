//! What a node knows of itself, once a second: totals become rates, and a window of deliveries a percentile.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    drain::Phase,
    hub::{RoomFigures, top},
    interest::WorkerId,
    lag::LagCounts,
    metrics::Figures as Totals,
};

/// Seconds of deliveries behind the percentile: enough to hold a hundred of them, few enough to follow a change.
const WINDOW: usize = 10;
/// Rooms that a node tells for each reason to tell one.
pub const TOLD_ROOMS: usize = 20;
/// Two looks that are closer than this make no rate.
const LEAST: Duration = Duration::from_millis(200);

/// The figures of a node, kept between two looks at them. Shared by all threads.
#[derive(Debug, Default)]
pub struct Figures {
    sampler: Mutex<Sampler>,
    rooms: Mutex<Vec<Vec<RoomFigures>>>,
}

impl Figures {
    /// Looks at the totals once more.
    pub fn sample(&self, now: Instant, totals: Totals, phase: Phase) {
        self.sampler.lock().unwrap_or_else(PoisonError::into_inner).sample(now, totals, phase);
    }

    /// How long a command to the broker took, there and back.
    pub fn round_trip(&self, took: Option<Duration>) {
        self.sampler.lock().unwrap_or_else(PoisonError::into_inner).seen.round_trip = took;
    }

    /// What came of the last look.
    pub fn seen(&self) -> Seen {
        self.sampler.lock().unwrap_or_else(PoisonError::into_inner).seen
    }

    /// A worker's rooms that stand out.
    pub fn surveyed(&self, worker: WorkerId, found: Vec<RoomFigures>) {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let at = worker as usize;
        if rooms.len() <= at {
            rooms.resize(at + 1, Vec::new());
        }
        rooms[at] = found;
    }

    /// The node's rooms that stand out.
    pub fn rooms(&self) -> Vec<RoomFigures> {
        let rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        top(rooms.iter().flatten().cloned(), TOLD_ROOMS)
    }
}

/// What is known besides the totals.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// Per second, between the last two looks.
    pub rates: Rates,
    /// Deliveries of the last seconds, by how long they took.
    pub lags: LagCounts<u64>,
    /// Open connections when the node began to go; none while it serves.
    pub drain_from: Option<u64>,
    /// How long a command to the broker took, there and back.
    pub round_trip: Option<Duration>,
}

/// Per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Frames received.
    pub frames_in: f64,
    /// Frames sent.
    pub frames_out: f64,
    /// Bytes sent.
    pub bytes_out: f64,
    /// Events delivered to this node.
    pub events: f64,
    /// Fleeting frames dropped.
    pub drops: f64,
    /// Slow consumers closed.
    pub slow_closed: f64,
}

impl Rates {
    fn between(before: &Totals, after: &Totals, seconds: f64) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "what comes within seconds stays far below 2^53")]
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        Self {
            frames_in: rate(before.frames_in, after.frames_in),
            frames_out: rate(before.frames_out, after.frames_out),
            bytes_out: rate(before.bytes_out, after.bytes_out),
            events: rate(before.events, after.events),
            drops: rate(before.drops, after.drops),
            slow_closed: rate(before.slow_closed, after.slow_closed),
        }
    }
}

#[derive(Debug, Default)]
struct Sampler {
    last: Option<(Instant, Totals)>,
    window: VecDeque<LagCounts<u64>>,
    seen: Seen,
}

impl Sampler {
    fn sample(&mut self, now: Instant, totals: Totals, phase: Phase) {
        let Some((at, before)) = self.last else {
            self.last = Some((now, totals));
            return;
        };
        let passed = now.saturating_duration_since(at);
        if passed < LEAST {
            return;
        }
        self.seen.rates = Rates::between(&before, &totals, passed.as_secs_f64());
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(totals.lags.since(&before.lags));
        self.seen.lags = self.window.iter().fold(LagCounts::default(), |all, second| all.plus(second));
        self.seen.drain_from = match phase {
            Phase::Serving => None,
            // Between two looks some may have gone already.
            Phase::Leaving | Phase::Draining => {
                let open = |totals: &Totals| u64::try_from(totals.connections).unwrap_or_default();
                Some(self.seen.drain_from.unwrap_or_else(|| open(&before)).max(open(&totals)))
            }
        };
        self.last = Some((now, totals));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(frames: u64, connections: i64) -> Totals {
        Totals { frames_in: frames, frames_out: 10 * frames, connections, ..Totals::default() }
    }

    #[test]
    fn totals_become_rates_whatever_the_distance_of_the_looks() {
        let start = Instant::now();
        let mut sampler = Sampler::default();
        sampler.sample(start, totals(100, 0), Phase::Serving);
        assert_eq!(sampler.seen.rates, Rates::default(), "one look is no rate");
        sampler.sample(start + Duration::from_secs(2), totals(300, 0), Phase::Serving);
        assert_eq!((sampler.seen.rates.frames_in, sampler.seen.rates.frames_out), (100.0, 1_000.0));
        sampler.sample(start + Duration::from_millis(2_010), totals(900, 0), Phase::Serving);
        assert!((sampler.seen.rates.frames_in - 100.0).abs() < 1e-9, "too close: the last rate stands");
        sampler.sample(start + Duration::from_millis(2_500), totals(300, 0), Phase::Serving);
        assert_eq!(sampler.seen.rates, Rates::default(), "totals that fell are no negative rate");
    }

    #[test]
    fn a_drain_is_measured_from_what_was_open_before_it() {
        let start = Instant::now();
        let mut sampler = Sampler::default();
        let looks =
            [(500, Phase::Serving), (480, Phase::Draining), (100, Phase::Draining), (0, Phase::Draining)];
        let mut from = Vec::new();
        for (second, (open, phase)) in (0..).zip(looks) {
            sampler.sample(start + Duration::from_secs(second), totals(0, open), phase);
            from.push(sampler.seen.drain_from);
        }
        assert_eq!(from, [None, Some(500), Some(500), Some(500)]);
    }

    #[test]
    fn only_the_last_seconds_are_behind_the_percentile() {
        let start = Instant::now();
        let mut sampler = Sampler::default();
        let mut slow = Totals::default();
        for second in 0..30_u64 {
            if second == 5 {
                slow.lags = LagCounts::from_list([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            }
            sampler.sample(start + Duration::from_secs(second), slow, Phase::Serving);
            let seen = sampler.seen.lags.quantile(0.99).is_some();
            assert_eq!(seen, (5..15).contains(&second), "second {second}");
        }
    }

    #[test]
    fn the_rooms_of_all_workers_are_told_together() {
        let figures = Figures::default();
        let room = |members| RoomFigures {
            room: roomcast_protocol::RoomName::parse("event:a").unwrap(),
            members,
            rate: 1.0,
            drops: 0.0,
        };
        figures.surveyed(2, vec![room(3)]);
        figures.surveyed(0, vec![room(4)]);
        figures.surveyed(2, vec![room(5)]);
        assert_eq!(figures.rooms(), [room(9)], "the newest survey of each worker");
    }
}
