//! Token buckets: how much one socket or address may do, and how long it has to wait when it did too much.
//!
//! A bucket is whole numbers in 32 bytes, so that every socket can own several. It reads no clock and sleeps for
//! nobody: it answers, and the caller tells the client.

use std::time::{Duration, Instant};

use crate::limits::Cap;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

/// How fast a bucket fills: a number above 0 per second or per minute, or without limit.
///
/// Kept as the nanoseconds that one token takes, rounded up: a bucket never gives more than it was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// 0 for no limit.
    nanos_per_token: u64,
}

impl Rate {
    /// No limit: every take passes.
    pub const UNLIMITED: Self = Self { nanos_per_token: 0 };

    /// So many tokens per second; above 10⁹ means 10⁹.
    pub fn per_second(tokens: Cap) -> Self {
        Self::per(SECOND, tokens)
    }

    /// So many tokens per minute.
    pub fn per_minute(tokens: Cap) -> Self {
        Self::per(MINUTE, tokens)
    }

    fn per(period: u64, tokens: Cap) -> Self {
        tokens.get().map_or(Self::UNLIMITED, |tokens| Self { nanos_per_token: period.div_ceil(tokens) })
    }

    /// How long so many tokens take.
    fn time_for(self, tokens: u32) -> Duration {
        Duration::from_nanos(self.nanos_per_token).saturating_mul(tokens)
    }

    /// How many whole tokens a time brings.
    fn tokens_in(self, elapsed: Duration) -> u32 {
        let tokens = elapsed.as_nanos().checked_div(u128::from(self.nanos_per_token));
        tokens.and_then(|tokens| u32::try_from(tokens).ok()).unwrap_or(u32::MAX)
    }
}

/// A token bucket, full at first.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: Rate,
    burst: u32,
    level: u32,
    /// When the level was last a whole number of tokens: what has been gained since is never rounded away.
    last: Instant,
}

impl TokenBucket {
    /// A full bucket that holds at most `burst` tokens; a burst of 0 counts as 1, or nothing could ever pass.
    pub fn new(rate: Rate, burst: u32, now: Instant) -> Self {
        let burst = burst.max(1);
        Self { rate, burst, level: burst, last: now }
    }

    /// Takes `cost` tokens, or says how long to wait until they are there. A refused take costs nothing.
    ///
    /// A cost above the burst is charged as the whole burst, so that it passes when the bucket is full.
    pub fn take(&mut self, cost: u32, now: Instant) -> Result<(), Duration> {
        self.ready(cost, now)?;
        if self.rate != Rate::UNLIMITED {
            self.level -= cost.min(self.burst);
        }
        Ok(())
    }

    /// Whether [`take`](Self::take) would pass now, without taking.
    pub fn ready(&mut self, cost: u32, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        let missing = cost.min(self.burst).saturating_sub(self.level);
        if missing == 0 || self.rate == Rate::UNLIMITED {
            return Ok(());
        }
        let wait = self.rate.time_for(missing);
        // A `now` before `last` waits for that difference too; more than the time `Instant` can hold never comes.
        Err(match self.last.checked_add(wait) {
            Some(due) => due.saturating_duration_since(now),
            None => wait,
        })
    }

    /// Whether the bucket is full: then it remembers nothing, and a new one is as good.
    pub fn full(&self, now: Instant) -> bool {
        let gained = self.rate.tokens_in(now.saturating_duration_since(self.last));
        self.rate == Rate::UNLIMITED || self.level.saturating_add(gained) >= self.burst
    }

    fn refill(&mut self, now: Instant) {
        let gained = self.rate.tokens_in(now.saturating_duration_since(self.last));
        if self.level.saturating_add(gained) >= self.burst {
            self.level = self.burst;
            self.last = self.last.max(now);
        } else {
            self.level += gained;
            self.last += self.rate.time_for(gained);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cap(n: u64) -> Cap {
        Cap::new(n).expect("tests use caps above 0")
    }

    #[test]
    fn a_bucket_is_small_enough_for_every_socket() {
        assert!(size_of::<TokenBucket>() <= 32);
    }

    #[test]
    fn the_burst_passes_at_once_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate::per_second(cap(20)), 60, start);
        for _ in 0..60 {
            assert_eq!(bucket.take(1, start), Ok(()));
        }
        assert_eq!(bucket.take(1, start), Err(Duration::from_millis(50)));
        assert_eq!(bucket.take(1, start + Duration::from_millis(30)), Err(Duration::from_millis(20)));
        assert_eq!(bucket.take(1, start + Duration::from_millis(50)), Ok(()));
        assert_eq!(bucket.take(3, start + Duration::from_millis(50)), Err(Duration::from_millis(150)));
    }

    #[test]
    fn a_minute_rate_gives_one_token_per_share_of_the_minute() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate::per_minute(cap(60)), 1, start);
        assert_eq!(bucket.take(1, start), Ok(()));
        assert_eq!(bucket.take(1, start), Err(Duration::from_secs(1)));
        assert_eq!(bucket.take(1, start + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn a_cost_above_the_burst_passes_when_full_and_empties_the_bucket() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate::per_second(cap(1)), 5, start);
        assert_eq!(bucket.take(1_000, start), Ok(()));
        assert_eq!(bucket.take(1, start), Err(Duration::from_secs(1)));
        assert_eq!(bucket.take(1_000, start + Duration::from_secs(4)), Err(Duration::from_secs(1)));
        assert_eq!(bucket.take(1_000, start + Duration::from_secs(5)), Ok(()));
    }

    #[test]
    fn time_that_goes_back_gives_nothing_and_takes_nothing() {
        let early = Instant::now();
        let start = early + Duration::from_secs(100);
        let mut bucket = TokenBucket::new(Rate::per_second(cap(1)), 2, start);
        assert_eq!(bucket.take(1, early + Duration::from_secs(50)), Ok(()));
        assert_eq!(bucket.take(1, early), Ok(()));
        assert_eq!(bucket.take(1, early + Duration::from_secs(90)), Err(Duration::from_secs(11)));
        assert_eq!(bucket.take(1, start), Err(Duration::from_secs(1)));
        assert_eq!(bucket.take(1, start + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn without_limit_everything_passes() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate::per_second(Cap::UNLIMITED), 1, start);
        for _ in 0..1_000 {
            assert_eq!(bucket.take(u32::MAX, start), Ok(()));
        }
        assert!(bucket.full(start));
    }

    #[test]
    fn extreme_rates_and_bursts_do_not_overflow() {
        let start = Instant::now();
        let mut slow = TokenBucket::new(Rate::per_minute(cap(1)), u32::MAX, start);
        assert_eq!(slow.take(u32::MAX, start), Ok(()));
        assert!(slow.take(u32::MAX, start).is_err());
        let mut fast = TokenBucket::new(Rate::per_second(cap(u64::MAX)), u32::MAX, start);
        assert_eq!(fast.take(u32::MAX, start), Ok(()));
        assert_eq!(fast.take(u32::MAX, start + Duration::from_secs(1_000_000)), Ok(()));
    }

    proptest! {
        /// In every window between two takes, no more passes than the burst and what the rate brings in it.
        #[test]
        fn no_window_accepts_more_than_burst_and_rate(
            rate in 1u64..200,
            minutes in any::<bool>(),
            burst in 1u32..50,
            steps in prop::collection::vec((0u64..2_000_000_000, 0u32..80, -3i64..20), 1..120),
        ) {
            let start = Instant::now();
            let made = if minutes { Rate::per_minute(cap(rate)) } else { Rate::per_second(cap(rate)) };
            let period = u128::from(if minutes { MINUTE } else { SECOND });
            let mut bucket = TokenBucket::new(made, burst, start);
            let (mut clock, mut told, mut accepted) = (0u64, 0u64, Vec::new());
            for (gap, cost, shift) in steps {
                // Now and then the clock stands, or the caller's `now` lies behind.
                clock += if shift > 10 { 0 } else { gap };
                let at = if shift < 0 { clock.saturating_sub(shift.unsigned_abs() * SECOND) } else { clock };
                // The bucket's time is the latest it was told of.
                told = told.max(at);
                if bucket.take(cost, start + Duration::from_nanos(at)).is_ok() {
                    accepted.push((told, u128::from(cost.min(burst))));
                }
            }
            for first in 0..accepted.len() {
                let mut sum = 0;
                for &(at, cost) in &accepted[first..] {
                    sum += cost;
                    let window = u128::from(at - accepted[first].0);
                    prop_assert!(sum * period <= u128::from(burst) * period + window * u128::from(rate));
                }
            }
        }

        /// The wait that a refusal names is enough, and no shorter one is.
        #[test]
        fn the_wait_is_exact(rate in 1u64..1_000, burst in 1u32..50, costs in prop::collection::vec(1u32..60, 1..60)) {
            let mut now = Instant::now();
            let mut bucket = TokenBucket::new(Rate::per_second(cap(rate)), burst, now);
            for cost in costs {
                if let Err(wait) = bucket.take(cost, now) {
                    prop_assert!(wait > Duration::ZERO);
                    let too_soon = wait.saturating_sub(Duration::from_nanos(1));
                    prop_assert!(bucket.take(cost, now + too_soon).is_err());
                    now += wait;
                    prop_assert_eq!(bucket.take(cost, now), Ok(()));
                }
            }
        }
    }
}
