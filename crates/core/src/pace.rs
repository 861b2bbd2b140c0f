//! How fast a node takes new connections: so many per second, evenly, and those it can't take are told when to come
//! back, each at a time of its own.
//!
//! There is no burst: what comes together is spread over the time that the rate allows. Like the buckets it reads no
//! clock and sleeps for nobody.

use std::time::{Duration, Instant};

use crate::limits::Cap;

/// How long a new connection may be made to wait for its turn: short enough that a person does not notice, and long
/// enough that most storms pass without a refusal.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Nobody is told to stay away for longer: by then the storm is over, or more nodes are there.
pub const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// The schedule of a node's new connections.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Between two connections; none means no limit.
    gap: Option<Duration>,
    /// When the next one may begin.
    next: Instant,
    /// When the next one that is refused may come back.
    next_return: Instant,
}

impl Pace {
    /// So many per second.
    pub fn per_second(rate: Cap, now: Instant) -> Self {
        // Rounded up, so that it is never more than the rate.
        let gap = rate.get().map(|rate| Duration::from_nanos(1_000_000_000_u64.div_ceil(rate)));
        Self { gap, next: now, next_return: now }
    }

    /// How long the connection that comes now has to wait for its turn. `Err`: too many wait already; it may come
    /// back after that time. The refused come back at the rate at which they can be taken.
    pub fn admit(&mut self, now: Instant) -> Result<Duration, Duration> {
        let Some(gap) = self.gap else { return Ok(Duration::ZERO) };
        let turn = self.next.max(now);
        let wait = turn - now;
        if wait <= LONGEST_WAIT {
            self.next = turn + gap;
            return Ok(wait);
        }
        let earliest = now + wait;
        let latest = now + LONGEST_RETRY;
        if self.next_return < earliest || self.next_return > latest {
            self.next_return = earliest;
        }
        let retry = self.next_return - now;
        self.next_return += gap;
        Err(retry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate: u64, now: Instant) -> Pace {
        Pace::per_second(Cap::new(rate).unwrap(), now)
    }

    #[test]
    fn a_storm_is_taken_evenly_and_never_faster_than_the_rate() {
        let now = Instant::now();
        let mut pace = pace(1_000, now);
        let waits: Vec<_> = (0..5_000).map_while(|_| pace.admit(now).ok()).collect();
        assert_eq!(waits.len(), 1_001, "a second's worth, and the one who need not wait");
        for (at, wait) in (0..).zip(&waits) {
            assert_eq!(*wait, Duration::from_millis(at));
        }
    }

    #[test]
    fn the_refused_come_back_spread_and_are_all_taken_in_the_end() {
        let start = Instant::now();
        let mut pace = pace(1_000, start);
        let mut coming: std::collections::BTreeMap<Instant, u32> = [(start, 5_000)].into();
        let (mut taken, mut rounds) = (Vec::new(), 0);
        while let Some((now, many)) = coming.pop_first() {
            for _ in 0..many {
                match pace.admit(now) {
                    Ok(wait) => taken.push(now + wait),
                    Err(retry) => {
                        assert!(retry > LONGEST_WAIT && retry <= LONGEST_RETRY, "{retry:?}");
                        *coming.entry(now + retry).or_default() += 1;
                        rounds += 1;
                    }
                }
            }
        }
        assert_eq!((taken.len(), rounds), (5_000, 3_999), "each is refused once at most");
        taken.sort();
        let last = *taken.last().unwrap() - start;
        assert!((Duration::from_millis(4_990)..Duration::from_secs(6)).contains(&last), "{last:?}");
        for window in taken.windows(1_002) {
            assert!(window[1_001] - window[0] > Duration::from_secs(1), "more than 1,000 in a second");
        }
    }

    #[test]
    fn who_comes_at_an_ordinary_rate_never_waits() {
        let start = Instant::now();
        let mut pace = pace(100, start);
        for n in 0..1_000 {
            assert_eq!(pace.admit(start + Duration::from_millis(10) * n), Ok(Duration::ZERO));
        }
        // Time that passed unused is not saved up for a burst.
        let later = start + Duration::from_secs(3_600);
        assert_eq!(
            [pace.admit(later), pace.admit(later)],
            [Ok(Duration::ZERO), Ok(Duration::from_millis(10))]
        );
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let now = Instant::now();
        let mut pace = Pace::per_second(Cap::UNLIMITED, now);
        assert!((0..100_000).all(|_| pace.admit(now) == Ok(Duration::ZERO)));
    }
}
