//! Whether Redis can be used: what the probes, the watchdogs and lost connections of all servers add up to.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fred::types::config::Server;

use crate::broker::Health;

#[derive(Debug)]
pub(super) struct HealthCell(Mutex<State>);

#[derive(Debug)]
struct State {
    health: Health,
    servers: HashMap<Server, One>,
}

#[derive(Debug)]
struct One {
    up: bool,
    /// Since when `up` is what it is.
    since: Instant,
    /// When it was last known to be down: only a probe sent after that proves it is up.
    down_at: Option<Instant>,
}

impl HealthCell {
    /// Just connected: usable, as the connections have proven.
    pub(super) fn new() -> Self {
        metrics::gauge!("roomcast_redis_up").set(1.0);
        let health = Health { usable: true, since: Instant::now(), reconnects: 0, last_lag: None };
        Self(Mutex::new(State { health, servers: HashMap::new() }))
    }

    pub(super) fn get(&self) -> Health {
        self.lock().health
    }

    /// One server of a cluster, by its address. One that is not known is not usable.
    pub(super) fn of(&self, server: &str) -> Health {
        let state = self.lock();
        let one = state.servers.iter().find(|(known, _)| known.to_string() == server).map(|(_, one)| one);
        let (usable, since) = one.map_or((false, state.health.since), |one| (one.up, one.since));
        Health { usable, since, ..state.health }
    }

    /// A server that counts from now on, and whether its connections stand.
    pub(super) fn add(&self, server: &Server, up: bool) {
        let mut state = self.lock();
        state.servers.insert(server.clone(), One { up, since: Instant::now(), down_at: None });
        state.judge("not yet connected to a server");
    }

    /// A server that counts no more.
    pub(super) fn remove(&self, server: &Server) {
        let mut state = self.lock();
        state.servers.remove(server);
        state.judge("a server has gone");
    }

    /// Something is wrong with a server.
    pub(super) fn down(&self, server: &Server, why: &str) {
        let mut state = self.lock();
        let Some(one) = state.servers.get_mut(server) else { return };
        let now = Instant::now();
        *one = One { up: false, since: if one.up { now } else { one.since }, down_at: Some(now) };
        state.judge(why);
    }

    /// A probe that was sent at this time came all the way round.
    pub(super) fn heard(&self, server: &Server, sent: Instant) {
        let lag = sent.elapsed();
        metrics::gauge!("roomcast_pubsub_lag_seconds").set(lag.as_secs_f64());
        let mut state = self.lock();
        state.health.last_lag = Some(lag);
        let Some(one) = state.servers.get_mut(server) else { return };
        if one.down_at.is_none_or(|down| sent > down) {
            if !one.up {
                (one.up, one.since) = (true, Instant::now());
            }
            state.judge("");
        }
    }

    /// The oldest probe on its way is this old.
    pub(super) fn waiting(&self, age: Duration) {
        metrics::gauge!("roomcast_pubsub_lag_seconds").set(age.as_secs_f64());
        self.lock().health.last_lag = Some(age);
    }

    /// A connection was lost and stands again.
    pub(super) fn reconnected(&self) {
        metrics::counter!("roomcast_redis_reconnects_total").increment(1);
        self.lock().health.reconnects += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Usable while more than half of the servers are: a cluster that has lost one master serves the other rooms, and
    /// turning every node away would help nobody.
    fn judge(&mut self, why: &str) {
        let up = self.servers.values().filter(|one| one.up).count();
        let usable = up * 2 > self.servers.len();
        if usable == self.health.usable {
            return;
        }
        let now = Instant::now();
        if usable {
            tracing::info!(down_for = ?(now - self.health.since), "Redis is usable again");
        } else {
            tracing::warn!(why, "Redis is unusable");
        }
        metrics::gauge!("roomcast_redis_up").set(if usable { 1.0 } else { 0.0 });
        self.health = Health { usable, since: now, ..self.health };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16) -> Server {
        Server::new("127.0.0.1", port)
    }

    #[test]
    fn only_a_probe_sent_after_the_fault_heals() {
        let cell = HealthCell::new();
        cell.add(&server(1), true);
        let before = Instant::now();
        cell.down(&server(1), "test");
        assert!(!cell.get().usable);
        cell.heard(&server(1), before);
        assert!(!cell.of("127.0.0.1:1").usable && !cell.of("127.0.0.1:9").usable);
        assert!(!cell.get().usable, "a probe from before the fault proves nothing");
        cell.heard(&server(1), Instant::now() + Duration::from_nanos(1));
        assert!(cell.get().usable);
    }

    #[test]
    fn most_servers_decide_and_the_forgotten_do_not() {
        let cell = HealthCell::new();
        for port in 1..=3 {
            cell.add(&server(port), true);
        }
        cell.down(&server(1), "test");
        assert!(cell.get().usable);
        assert_eq!([1, 2].map(|port| cell.of(&format!("127.0.0.1:{port}")).usable), [false, true]);
        cell.down(&server(2), "test");
        assert!(!cell.get().usable);
        cell.remove(&server(1));
        cell.remove(&server(2));
        assert!(cell.get().usable);
        cell.down(&server(1), "it is not there any more");
        assert!(cell.get().usable);
    }
}
