//! The circuit breaker: when a dependency is down, callers hear so at once instead of queueing up for it.
//!
//! It counts outcomes and tells who may call; it makes no call, owns no timer and never asks why one failed.

use std::time::{Duration, Instant};

/// Failures in a row that open it: fewer is a hiccup.
pub const DEFAULT_FAILURES: u32 = 5;
/// How long it stays open at first: a failover in progress is not hurried by more calls.
pub const DEFAULT_OPEN: Duration = Duration::from_millis(500);
/// The open time doubles with each failed probe, up to so many times the first.
pub const MAX_BACKOFF: u32 = 4;

/// What the breaker does at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Everyone may call.
    Closed,
    /// Nobody may.
    Open,
    /// One may, to try.
    HalfOpen,
}

/// The right to make one call. Its outcome is told with it; one that is dropped (a cancelled call) is harmless.
#[derive(Debug)]
#[must_use = "tell the breaker the outcome with `success` or `failure`"]
pub struct Admission {
    generation: u64,
}

/// A circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    failures: u32,
    open: Duration,
    phase: Phase,
    /// Rises with every change of phase, so that the outcome of a call admitted before it counts for nothing.
    generation: u64,
}

#[derive(Debug)]
enum Phase {
    Closed { failed: u32 },
    Open { since: Instant, backoff: u32 },
    HalfOpen { probe: Instant, backoff: u32 },
}

impl Breaker {
    /// A closed breaker that opens for `open` after so many failures in a row; 0 counts as 1.
    pub fn new(failures: u32, open: Duration) -> Self {
        Self { failures: failures.max(1), open, phase: Phase::Closed { failed: 0 }, generation: 0 }
    }

    /// Whether a call may be made now; if not, how long to wait before asking again.
    pub fn admit(&mut self, now: Instant) -> Result<Admission, Duration> {
        match self.phase {
            Phase::Closed { .. } => {}
            Phase::Open { since, backoff } => {
                let left = self.left(since, backoff, now);
                if !left.is_zero() {
                    return Err(left);
                }
                self.enter(Phase::HalfOpen { probe: now, backoff });
            }
            Phase::HalfOpen { probe, backoff } => {
                // A probe whose outcome never came holds the place only for the open time.
                let left = self.left(probe, backoff, now);
                if !left.is_zero() {
                    return Err(left.min(self.open));
                }
                self.enter(Phase::HalfOpen { probe: now, backoff });
            }
        }
        Ok(Admission { generation: self.generation })
    }

    /// The admitted call succeeded.
    pub fn success(&mut self, Admission { generation }: Admission, _now: Instant) {
        if generation != self.generation {
            return;
        }
        match &mut self.phase {
            Phase::Closed { failed } => *failed = 0,
            Phase::HalfOpen { .. } => self.enter(Phase::Closed { failed: 0 }),
            // Nobody is admitted while it is open.
            Phase::Open { .. } => {}
        }
    }

    /// The admitted call failed in a way that speaks against the dependency.
    pub fn failure(&mut self, Admission { generation }: Admission, now: Instant) {
        if generation != self.generation {
            return;
        }
        match &mut self.phase {
            Phase::Closed { failed } => {
                *failed += 1;
                if *failed >= self.failures {
                    self.enter(Phase::Open { since: now, backoff: 1 });
                }
            }
            &mut Phase::HalfOpen { backoff, .. } => {
                self.enter(Phase::Open { since: now, backoff: (backoff * 2).min(MAX_BACKOFF) });
            }
            Phase::Open { .. } => {}
        }
    }

    /// The admitted call failed in a way that may be its own fault, as a large read that took too long: that keeps an
    /// open breaker open, but opens none.
    pub fn doubt(&mut self, admission: Admission, now: Instant) {
        if matches!(self.phase, Phase::HalfOpen { .. }) {
            self.failure(admission, now);
        }
    }

    /// Somebody else saw the dependency answer: everyone may call again, without a probe.
    pub fn recovered(&mut self) {
        if !matches!(self.phase, Phase::Closed { .. }) {
            self.enter(Phase::Closed { failed: 0 });
        }
    }

    /// What it does at `now`: an open one whose time is up is half-open, for the next caller would be its probe.
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { since, backoff } if !self.left(since, backoff, now).is_zero() => BreakerState::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    fn left(&self, since: Instant, backoff: u32, now: Instant) -> Duration {
        self.open.saturating_mul(backoff).saturating_sub(now.saturating_duration_since(since))
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPEN: Duration = Duration::from_millis(500);

    fn fail(breaker: &mut Breaker, now: Instant) {
        let admission = breaker.admit(now).expect("admitted");
        breaker.failure(admission, now);
    }

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(3, OPEN);
        (0..3).for_each(|_| fail(&mut breaker, now));
        assert_eq!(breaker.state(now), BreakerState::Open);
        breaker
    }

    #[test]
    fn word_of_recovery_closes_it_and_older_outcomes_do_not_open_it_again() {
        let start = Instant::now();
        let mut breaker = Breaker::new(1, OPEN);
        let late = breaker.admit(start).expect("admitted");
        fail(&mut breaker, start);
        assert!(breaker.admit(start).is_err());
        breaker.recovered();
        breaker.failure(late, start);
        assert_eq!(breaker.state(start), BreakerState::Closed);
        assert!(breaker.admit(start).is_ok());
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(3, OPEN);
        for _ in 0..10 {
            fail(&mut breaker, now);
            fail(&mut breaker, now);
            let admission = breaker.admit(now).unwrap();
            breaker.success(admission, now);
        }
        assert_eq!(breaker.state(now), BreakerState::Closed);
        (0..3).for_each(|_| fail(&mut breaker, now));
        assert_eq!(breaker.state(now), BreakerState::Open);
        assert_eq!(breaker.admit(now + OPEN / 5).unwrap_err(), OPEN * 4 / 5);
    }

    #[test]
    fn a_doubtful_failure_opens_nothing_and_forgives_nothing_but_is_no_proof_of_recovery() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(3, OPEN);
        fail(&mut breaker, now);
        for _ in 0..10 {
            let admission = breaker.admit(now).unwrap();
            breaker.doubt(admission, now);
        }
        assert_eq!(breaker.state(now), BreakerState::Closed);
        fail(&mut breaker, now);
        fail(&mut breaker, now);
        assert_eq!(
            breaker.state(now),
            BreakerState::Open,
            "three failures in a row, whatever was between them"
        );
        now += OPEN;
        let probe = breaker.admit(now).unwrap();
        breaker.doubt(probe, now);
        assert_eq!(breaker.state(now), BreakerState::Open);
    }

    #[test]
    fn half_open_admits_one_probe_and_its_success_closes() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + OPEN;
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        let probe = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_err());
        assert!(breaker.admit(later + OPEN / 2).is_err());
        breaker.success(probe, later);
        assert_eq!(breaker.state(later), BreakerState::Closed);
        assert!(breaker.admit(later).is_ok());
    }

    #[test]
    fn the_open_time_doubles_to_four_times_and_resets_on_close() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for factor in [1, 2, 4, 4, 4] {
            assert_eq!(breaker.admit(now).unwrap_err(), OPEN * factor);
            now += OPEN * factor;
            fail(&mut breaker, now);
        }
        now += OPEN * 4;
        let probe = breaker.admit(now).unwrap();
        breaker.success(probe, now);
        (0..3).for_each(|_| fail(&mut breaker, now));
        assert_eq!(breaker.admit(now).unwrap_err(), OPEN);
    }

    #[test]
    fn a_lost_probe_is_replaced_after_the_open_time_and_its_late_outcome_ignored() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        now += OPEN;
        let lost = breaker.admit(now).unwrap();
        assert!(breaker.admit(now + OPEN * 99 / 100).is_err());
        now += OPEN;
        let second = breaker.admit(now).unwrap();
        breaker.success(lost, now);
        assert_eq!(breaker.state(now), BreakerState::HalfOpen);
        breaker.success(second, now);
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }

    #[test]
    fn outcomes_of_calls_admitted_before_it_opened_neither_close_nor_open_it() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(3, OPEN);
        let mut early: Vec<_> = (0..9).map(|_| breaker.admit(now).unwrap()).collect();
        early.drain(..3).for_each(|admission| breaker.failure(admission, now));
        breaker.success(early.pop().unwrap(), now);
        assert_eq!(breaker.state(now), BreakerState::Open);
        now += OPEN;
        let probe = breaker.admit(now).unwrap();
        breaker.failure(early.pop().unwrap(), now);
        breaker.success(early.pop().unwrap(), now);
        assert_eq!(breaker.state(now), BreakerState::HalfOpen);
        breaker.success(probe, now);
        early.drain(..).for_each(|admission| breaker.failure(admission, now));
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }

    proptest! {
        /// Whatever is admitted, lost or told late: it is never wedged, and never two probes within the open time.
        #[test]
        fn it_probes_one_at_a_time_and_never_wedges(
            steps in prop::collection::vec((0u64..400, 0u8..4, any::<prop::sample::Index>()), 1..200),
        ) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(2, Duration::from_millis(100));
            let (mut pending, mut last_probe) = (Vec::new(), None::<Instant>);
            for (gap, action, which) in steps {
                now += Duration::from_millis(gap);
                let before = breaker.state(now);
                match action {
                    0 | 1 => match breaker.admit(now) {
                        Ok(admission) => {
                            prop_assert_ne!(before, BreakerState::Open);
                            if before == BreakerState::HalfOpen {
                                if let Some(last) = last_probe {
                                    prop_assert!(now - last >= Duration::from_millis(100));
                                }
                                last_probe = Some(now);
                            }
                            pending.push(admission);
                        }
                        Err(wait) => {
                            prop_assert_ne!(before, BreakerState::Closed);
                            prop_assert!(!wait.is_zero() && wait <= Duration::from_millis(800));
                        }
                    },
                    _ if pending.is_empty() => {}
                    action => {
                        let admission = pending.swap_remove(which.index(pending.len()));
                        if action == 2 { breaker.success(admission, now) } else { breaker.failure(admission, now) }
                        if before == BreakerState::Open {
                            prop_assert_eq!(breaker.state(now), BreakerState::Open);
                        }
                        // A probe that was answered makes way: the next one may come sooner after a close.
                        if breaker.state(now) == BreakerState::Closed {
                            last_probe = None;
                        }
                    }
                }
            }
            now += Duration::from_millis(801);
            let admission = breaker.admit(now).expect("after the longest open time somebody may call");
            breaker.success(admission, now);
            prop_assert_eq!(breaker.state(now), BreakerState::Closed);
        }
    }
}
