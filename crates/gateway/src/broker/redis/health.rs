//! Whether Redis can be used: what the probe, the watchdog and fred's errors add up to.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::broker::Health;

#[derive(Debug)]
pub(super) struct HealthCell(Mutex<State>);

#[derive(Debug)]
struct State {
    health: Health,
    /// When it was last known to be down: only a probe sent after that proves it is up.
    down_at: Option<Instant>,
}

impl HealthCell {
    /// Just connected: usable, as the connections have proven.
    pub(super) fn new() -> Self {
        metrics::gauge!("roomcast_redis_up").set(1.0);
        let health = Health { usable: true, since: Instant::now(), reconnects: 0, last_lag: None };
        Self(Mutex::new(State { health, down_at: None }))
    }

    pub(super) fn get(&self) -> Health {
        self.lock().health
    }

    /// Something is wrong.
    pub(super) fn down(&self, why: &str) {
        let mut state = self.lock();
        state.down_at = Some(Instant::now());
        if state.health.usable {
            state.health = Health { usable: false, since: Instant::now(), ..state.health };
            metrics::gauge!("roomcast_redis_up").set(0.0);
            tracing::warn!(why, "Redis is unusable");
        }
    }

    /// A probe that was sent at this time came all the way round.
    pub(super) fn heard(&self, sent: Instant) {
        let now = Instant::now();
        let lag = now - sent;
        metrics::gauge!("roomcast_pubsub_lag_seconds").set(lag.as_secs_f64());
        let mut state = self.lock();
        state.health.last_lag = Some(lag);
        if !state.health.usable && state.down_at.is_none_or(|down| sent > down) {
            tracing::info!(down_for = ?(now - state.health.since), "Redis is usable again");
            state.health = Health { usable: true, since: now, ..state.health };
            metrics::gauge!("roomcast_redis_up").set(1.0);
        }
    }

    /// The oldest probe on its way is this old.
    pub(super) fn waiting(&self, age: Duration) {
        metrics::gauge!("roomcast_pubsub_lag_seconds").set(age.as_secs_f64());
        self.lock().health.last_lag = Some(age);
    }

    /// The subscription was lost and stands again.
    pub(super) fn reconnected(&self) {
        metrics::counter!("roomcast_redis_reconnects_total").increment(1);
        self.lock().health.reconnects += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_probe_sent_after_the_fault_heals() {
        let cell = HealthCell::new();
        let before = Instant::now();
        cell.down("test");
        assert!(!cell.get().usable);
        cell.heard(before);
        assert!(!cell.get().usable, "a probe from before the fault proves nothing");
        cell.heard(Instant::now() + Duration::from_nanos(1));
        assert!(cell.get().usable);
    }
}
