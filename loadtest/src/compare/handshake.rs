//! What it costs to come: the upgrade alone, the upgrade and the protocol's own greeting, and a join that is given the
//! room's recent past.

use std::time::{Duration, Instant};

use super::{
    Bench,
    contest::Contestant,
    peer::{Peer, Places, Running},
    result::Case,
    swarm::{Swarm, Visit, visit},
    wire::{self, Role},
};
use crate::report;

const UNIT: &str = "µs of server CPU per connection";
/// Connections of one turn of a round.
const ABREAST: usize = 64;
/// Roomcast's own cap: who comes from an address, and how often, is what this workload is about.
const DEFAULT_CAP: &str = "limits.connections_per_ip=10";
/// How long it may take until all is done that an end brings with it.
const GONE: Duration = Duration::from_millis(20);
/// The same where a server remembers an address until its next heartbeat.
const FORGOTTEN: Duration = Duration::from_millis(2200);
/// A round of those who come for the first time is so many times longer, so that the quiet after it counts little.
const STRANGERS: u32 = 4;
/// Events that a room remembers, and that a client asks for.
const PAST: usize = 200;
const RECENT: usize = 100;

/// Connections that come and go.
pub(super) async fn run(bench: &Bench) -> anyhow::Result<Vec<Case>> {
    let mut bare = Case::new("CPU per handshake", UNIT);
    let mut strange = Case::new("CPU per handshake, each from an address of its own", UNIT);
    let mut greeted = Case::new("CPU per connection, greeted", UNIT);
    let mut rate =
        Case::new("handshakes per second", "handshakes per second, one client after another's answer");
    let mut servers = Vec::new();
    let places = Places { settings: vec![DEFAULT_CAP], ..bench.places.clone() };
    for &peer in &bench.peers {
        servers.push(Running::start(peer, &places, bench.cores).await?);
    }
    let mut number = 0;
    let bar = report::bar("handshake", (servers.len() * (bench.rounds + 1)) as u64);
    for round in 0..=bench.rounds {
        for place in 0..servers.len() {
            let server = &servers[(place + round) % servers.len()];
            let name = server.peer.name();
            let visits = [
                (Visit::Upgrade, &mut bare, bench.round_time, GONE),
                (Visit::Greeting, &mut greeted, bench.round_time, GONE),
                (Visit::FirstUpgrade, &mut strange, bench.round_time * STRANGERS, bench.settling(FORGOTTEN)),
            ];
            for (what, case, time, gone) in visits {
                let wanted = bench.wants(&case.name) || what == Visit::Upgrade && bench.wants(&rate.name);
                if !wanted || what == Visit::Greeting && !server.peer.has_rooms() {
                    continue;
                }
                let before = server.cpu()?;
                let redis = server.redis_cpu()?;
                let (began, first) = (Instant::now(), number);
                while number == first || began.elapsed() < time {
                    visit(server.peer.wire(), server.address, ABREAST, number, what)?;
                    number += ABREAST;
                }
                let took = began.elapsed();
                // What a server does when they have gone is a part of their cost.
                std::thread::sleep(gone);
                if let Some(round) = round.checked_sub(1) {
                    let count = number - first;
                    case.set(name, round, each(server.cpu()? - before, count));
                    if server.redis.is_some() {
                        case.set_redis(name, round, each(server.redis_cpu()? - redis, count));
                    }
                    if what == Visit::Upgrade {
                        rate.set(name, round, 1e6 / each(nanoseconds(took), count));
                    }
                }
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok([bare, strange, greeted, rate].into_iter().filter(|case| bench.wants(&case.name)).collect())
}

/// Clients that come into a room with a past.
pub(super) async fn join(bench: &Bench) -> anyhow::Result<Vec<Case>> {
    let mut case = Case::new(format!("connect and join, {RECENT} events of history"), UNIT);
    let mut without = Case::new("connect and join, no history", UNIT);
    for &peer in &bench.peers {
        // The others keep no history that a client could ask for in so many words.
        if !matches!(peer, Peer::Roomcast) {
            continue;
        }
        let running = Running::start(peer, &bench.places, bench.cores).await?;
        let mut contestant = Contestant::enter(running, 1, 1)?;
        for _ in 0..PAST {
            contestant.burst(1, &wire::data(200, 0))?;
        }
        for round in 0..=bench.rounds {
            for (role, case) in [(Role::Member(0), &mut without), (Role::Returning(0, RECENT), &mut case)] {
                let running = &contestant.running;
                let (before, redis) = (running.cpu()?, running.redis_cpu()?);
                let mut count = 0;
                let began = Instant::now();
                while count == 0 || began.elapsed() < bench.round_time {
                    drop(Swarm::open(peer.wire(), running.address, &[role; ABREAST])?);
                    count += ABREAST;
                }
                std::thread::sleep(GONE);
                if let Some(round) = round.checked_sub(1) {
                    case.set(peer.name(), round, each(running.cpu()? - before, count));
                    case.set_redis(peer.name(), round, each(running.redis_cpu()? - redis, count));
                }
                contestant.idle()?;
            }
        }
    }
    Ok(vec![without, case])
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Microseconds for each of `count`.
#[allow(clippy::cast_precision_loss, reason = "microseconds, to three digits")]
pub(super) fn each(nanoseconds: u64, count: usize) -> f64 {
    nanoseconds as f64 / 1000.0 / count as f64
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_is_shared_out_in_microseconds() {
        assert!((super::each(5_000_000, 100) - 50.0).abs() < 1e-9);
    }
}
