//! Whether the workers turn: each leaves a beat twice a second, and whoever asks sees how old the oldest is. A thread
//! that hangs keeps its port, its sockets and the node's readiness; nothing but the missing beat tells of it.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// A worker that has not come to its housekeeping for so long hangs: it should every half second, and shares its
/// thread with steps of milliseconds.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// The last beat of each worker.
#[derive(Debug)]
pub struct Pulse {
    since: Instant,
    /// Milliseconds since `since`.
    beats: Box<[AtomicU64]>,
}

/// A worker that does not turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hanging {
    /// Which.
    pub worker: usize,
    /// For how long.
    pub since: Duration,
}

impl Pulse {
    /// All of them have just started.
    pub fn new(workers: usize, now: Instant) -> Self {
        Self { since: now, beats: (0..workers).map(|_| AtomicU64::new(0)).collect() }
    }

    /// This worker turns.
    pub fn beat(&self, worker: usize, now: Instant) {
        if let Some(beat) = self.beats.get(worker) {
            beat.store(self.at(now), Relaxed);
        }
    }

    /// The worker that has hung longest, if one does.
    pub fn hanging(&self, now: Instant) -> Option<Hanging> {
        let now = self.at(now);
        let ages = self.beats.iter().map(|beat| now.saturating_sub(beat.load(Relaxed)));
        let (worker, age) = ages.enumerate().max_by_key(|(_, age)| *age)?;
        let since = Duration::from_millis(age);
        (since >= HANGS_AFTER).then_some(Hanging { worker, since })
    }

    fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_that_hangs_longest_is_named_until_it_turns_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let pulse = Pulse::new(3, start);
        assert_eq!(pulse.hanging(at(9)), None, "all have just started");
        pulse.beat(0, at(9));
        pulse.beat(1, at(2));
        pulse.beat(7, at(9));
        assert_eq!(pulse.hanging(at(10)), Some(Hanging { worker: 2, since: Duration::from_secs(10) }));
        pulse.beat(2, at(11));
        assert_eq!(pulse.hanging(at(11)), None);
        assert_eq!(pulse.hanging(at(13)), Some(Hanging { worker: 1, since: Duration::from_secs(11) }));
        assert_eq!(pulse.hanging(start), None, "a clock that is read late");
    }
}
