//! One breaker per server. Which server a call goes to and what came of it is told; nothing is called from here.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use roomcast_core::breaker::{Admission, Breaker, BreakerState};

use crate::{
    broker::{Health, Owner},
    config, metrics,
};

/// Servers that are remembered: far more than a cluster has masters. Beyond, those that are well are forgotten.
const MOST: usize = 1_024;

/// What a call says of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answered.
    Well,
    /// It did not.
    Failed,
    /// It did not, but may not be to blame.
    Doubtful,
    /// It was not asked.
    Unknown,
}

/// The breakers of all servers.
#[derive(Debug)]
pub(super) struct Breakers {
    rules: config::Breaker,
    all: Mutex<HashMap<Owner, Guard>>,
}

#[derive(Debug)]
struct Guard {
    breaker: Breaker,
    /// When a call failed for the last time.
    failed: Option<Instant>,
}

impl Breakers {
    pub(super) fn new(rules: config::Breaker) -> Self {
        Self { rules, all: Mutex::default() }
    }

    /// Whether a call may go to the server; if not, how long to wait. `health` is what the probe says of it.
    pub(super) fn admit(
        &self,
        owner: &Owner,
        now: Instant,
        health: impl FnOnce() -> Health,
    ) -> Result<Admission, Duration> {
        self.with(owner, now, |Guard { breaker, failed }| {
            breaker.admit(now).or_else(|wait| {
                // The probe over the real path is quicker than our own: it found the server well after our last failure.
                let health = health();
                if health.usable && failed.is_some_and(|failed| health.since > failed) {
                    breaker.recovered();
                    return breaker.admit(now);
                }
                Err(wait)
            })
        })
    }

    /// An admitted call came to its end.
    pub(super) fn judge(&self, owner: &Owner, admission: Admission, verdict: Verdict, now: Instant) {
        self.with(owner, now, |Guard { breaker, failed }| match verdict {
            Verdict::Well => breaker.success(admission, now),
            Verdict::Failed => {
                *failed = Some(now);
                breaker.failure(admission, now);
            }
            Verdict::Doubtful => breaker.doubt(admission, now),
            Verdict::Unknown => drop(admission),
        });
    }

    /// The state before one server.
    pub(super) fn state(&self, owner: &Owner, now: Instant) -> BreakerState {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(owner).map_or(BreakerState::Closed, |guard| guard.breaker.state(now))
    }

    /// The worst of all.
    pub(super) fn worst(&self, now: Instant) -> BreakerState {
        worst(&self.all.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    fn with<R>(&self, owner: &Owner, now: Instant, act: impl FnOnce(&mut Guard) -> R) -> R {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.retain(|known, guard| known == owner || guard.breaker.state(now) == BreakerState::Open);
        }
        let fresh = || Guard { breaker: Breaker::new(self.rules.failures, self.rules.open), failed: None };
        let guard = all.entry(owner.clone()).or_insert_with(fresh);
        let before = guard.breaker.state(now);
        let result = act(guard);
        let after = guard.breaker.state(now);
        if (before, after) != (BreakerState::Closed, BreakerState::Closed) {
            metrics::breaker(worst(&all, now));
        }
        result
    }
}

fn worst(all: &HashMap<Owner, Guard>, now: Instant) -> BreakerState {
    let rank = |state: &BreakerState| match state {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    };
    all.values().map(|guard| guard.breaker.state(now)).max_by_key(rank).unwrap_or(BreakerState::Closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Duration = Duration::from_millis(500);

    fn server(name: &str) -> Owner {
        Owner::Server(name.into())
    }

    fn health(usable: bool, since: Instant) -> Health {
        Health { usable, since, reconnects: 0, last_lag: None }
    }

    fn breakers() -> Breakers {
        Breakers::new(config::Breaker { failures: 3, open: OPEN })
    }

    fn call(breakers: &Breakers, owner: &Owner, verdict: Verdict, now: Instant) -> Result<(), Duration> {
        let admission = breakers.admit(owner, now, || health(false, now))?;
        breakers.judge(owner, admission, verdict, now);
        Ok(())
    }

    #[test]
    fn a_server_that_fails_is_refused_and_the_others_notice_nothing() {
        let (breakers, now) = (breakers(), Instant::now());
        let (lost, well) = (server("a"), server("b"));
        for _ in 0..3 {
            call(&breakers, &lost, Verdict::Failed, now).unwrap();
        }
        assert_eq!(call(&breakers, &lost, Verdict::Well, now), Err(OPEN));
        call(&breakers, &well, Verdict::Well, now).unwrap();
        assert_eq!(breakers.state(&well, now), BreakerState::Closed);
        assert_eq!(
            (breakers.state(&lost, now), breakers.worst(now)),
            (BreakerState::Open, BreakerState::Open)
        );
        call(&breakers, &lost, Verdict::Well, now + OPEN).unwrap();
        assert_eq!(breakers.worst(now + OPEN), BreakerState::Closed);
    }

    #[test]
    fn neither_back_pressure_nor_slow_reads_open_one() {
        let (breakers, now) = (breakers(), Instant::now());
        let owner = Owner::Only;
        for _ in 0..100 {
            call(&breakers, &owner, Verdict::Unknown, now).unwrap();
            call(&breakers, &owner, Verdict::Doubtful, now).unwrap();
        }
        assert_eq!(breakers.state(&owner, now), BreakerState::Closed);
    }

    #[test]
    fn the_probe_over_the_real_path_closes_it_early_but_only_if_it_is_newer_than_the_failure() {
        let (breakers, now) = (breakers(), Instant::now());
        let owner = Owner::Only;
        for _ in 0..3 {
            call(&breakers, &owner, Verdict::Failed, now).unwrap();
        }
        let later = now + OPEN / 10;
        assert!(breakers.admit(&owner, later, || health(true, now)).is_err());
        assert!(breakers.admit(&owner, later, || health(true, later)).is_ok());
        assert_eq!(breakers.state(&owner, later), BreakerState::Closed);
    }

    #[test]
    fn servers_that_are_well_are_forgotten_when_there_are_many() {
        let (breakers, now) = (breakers(), Instant::now());
        for _ in 0..3 {
            call(&breakers, &server("lost"), Verdict::Failed, now).unwrap();
        }
        for n in 0..2 * MOST {
            call(&breakers, &server(&n.to_string()), Verdict::Well, now).unwrap();
        }
        assert!(breakers.all.lock().unwrap().len() <= MOST + 1);
        assert_eq!(breakers.state(&server("lost"), now), BreakerState::Open);
    }
}
