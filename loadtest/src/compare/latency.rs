//! From publish to delivery, 1,000 subscribers: at a gentle rate, and at a quarter, a half and three quarters of what
//! each server can bear itself; and 3,000 events a second for half a minute.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;

use super::{
    Bench,
    contest::Contestant,
    fanout::enter,
    offer::{self, Outcome},
    peer::{Peer, Running},
    result::Case,
};
use crate::report::{self, Latency};

const BYTES: usize = 200;
const GENTLE: f64 = 20.0;
/// A server bears a rate when nothing is lost and this quantile stays below this.
const BEARABLE: Duration = Duration::from_millis(100);
const FIRST_RATE: f64 = 50.0;
/// No client of one core reads more than this.
const LAST_RATE: f64 = 12_800.0;
/// With `--quick` nobody is asked for more than this.
const LAST_QUICK_RATE: f64 = 200.0;
/// Halvings of the gap between what a server bears and what it does not.
const HALVINGS: usize = 3;
const SHARES: [(f64, &str); 3] = [(0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %")];
const UNIT: &str = "µs from publish to delivery";

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Vec<Case>> {
    let subscribers = if bench.quick { 50 } else { 1000 };
    let time = if bench.quick { Duration::from_millis(100) } else { Duration::from_millis(1200) };
    let rounds = bench.rounds.min(5);
    let mut cases = Cases::default();
    let maximum_name = format!("maximum × {subscribers}");
    let mut maxima = BTreeMap::new();
    for group in bench.groups(subscribers + 16)? {
        for peer in group {
            if maxima.contains_key(&peer) {
                continue;
            }
            let maximum = maximum(bench, peer, subscribers, time).await?;
            maxima.insert(peer, maximum);
            if bench.wants(&maximum_name) {
                cases.set(&maximum_name, "events per second", peer, 0, maximum);
            }
        }
    }
    let mut turn = 0;
    for group in bench.groups(subscribers + 16)? {
        let mut contestants = enter(bench, &group, 1, subscribers).await?;
        let bar = report::bar("latency", ((rounds + 1) * contestants.len()) as u64);
        for round in 0..=rounds {
            let mut ended = BTreeMap::new();
            for index in 0..contestants.len() {
                let peer = contestants[index].peer();
                let gentle = format!("{GENTLE} events/s × {subscribers}");
                let mut loads = vec![(gentle, GENTLE)];
                loads.extend(
                    SHARES.map(|(share, text)| (format!("{text} of its own maximum"), maxima[&peer] * share)),
                );
                if let Some(maximum) = maxima.get(&Peer::Centrifugo) {
                    loads.push(("half of centrifugo's maximum".to_owned(), maximum / 2.0));
                }
                for (load, rate) in loads {
                    if !bench.wants(&load) {
                        continue;
                    }
                    // Who waits for its turn still answers the pings of its server.
                    attend(&mut contestants, &mut ended)?;
                    if ended.contains_key(&peer) {
                        break;
                    }
                    let outcome = match offer::offer(&mut contestants[index], rate, time, BYTES)
                        .and_then(Outcome::whole)
                    {
                        Ok(outcome) => outcome,
                        Err(error) => {
                            leave_out(&mut ended, peer, error.context(load))?;
                            break;
                        }
                    };
                    if let Some(round) = round.checked_sub(1) {
                        for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
                            let name = format!("{name} at {load}");
                            cases.set(&name, UNIT, peer, turn + round, outcome.us(quantile));
                        }
                    }
                }
                bar.inc(1);
            }
            attend(&mut contestants, &mut ended)?;
            for contestant in contestants.iter().filter(|_| round == rounds) {
                if let Err(error) = contestant.check_even() {
                    leave_out(&mut ended, contestant.peer(), error)?;
                }
            }
            contestants.retain(|contestant| !ended.contains_key(&contestant.peer()));
            for (peer, why) in ended {
                cases.leave_out(peer, &why);
            }
        }
        bar.finish_and_clear();
        turn += rounds;
    }
    Ok(cases.list)
}

/// Takes what came by itself. A peer that has ended its connections takes part no more.
fn attend(contestants: &mut [Contestant], ended: &mut BTreeMap<Peer, String>) -> anyhow::Result<()> {
    for contestant in contestants {
        let peer = contestant.peer();
        if !ended.contains_key(&peer)
            && let Err(error) = contestant.idle().and_then(|()| contestant.check_open())
        {
            leave_out(ended, peer, error)?;
        }
    }
    Ok(())
}

/// Without roomcast there is no comparison, and without the bare loop nothing to compare with.
fn leave_out(ended: &mut BTreeMap<Peer, String>, peer: Peer, error: anyhow::Error) -> anyhow::Result<()> {
    if matches!(peer, Peer::Roomcast | Peer::Limit) {
        return Err(error.context(peer.name()));
    }
    eprintln!("{}: left out: {error:#}", peer.name());
    ended.insert(peer, format!("{error:#}"));
    Ok(())
}

#[derive(Default)]
struct Cases {
    list: Vec<Case>,
}

impl Cases {
    fn set(&mut self, name: &str, unit: &str, peer: Peer, turn: usize, value: f64) {
        let place = self.list.iter().position(|case| case.name == name).unwrap_or_else(|| {
            self.list.push(Case::new(name, unit));
            self.list.len() - 1
        });
        self.list[place].set(peer.name(), turn, value);
    }

    /// A peer did not hold out. What it bears at most was measured apart.
    fn leave_out(&mut self, peer: Peer, why: &str) {
        for case in self.list.iter_mut().filter(|case| case.unit == UNIT) {
            case.leave_out(peer.name(), why);
        }
    }
}

/// The highest rate that a server bears: doubled until it does not, then halved between. Each try has a fresh server
/// where the last one was overwhelmed, and each rate two tries, so that one hiccup of the machine is no bound.
async fn maximum(bench: &Bench, peer: Peer, subscribers: usize, time: Duration) -> anyhow::Result<f64> {
    let fresh = async || {
        let running = Running::start(peer, &bench.places, bench.cores).await?;
        let mut contestant = Contestant::enter(running, 1, subscribers)?;
        offer::offer(&mut contestant, FIRST_RATE / 2.0, time, BYTES)?;
        anyhow::Ok(contestant)
    };
    let holds = async |contestant: &mut Contestant, rate: f64| {
        if bears(peer, offer::offer(contestant, rate, time, BYTES))? {
            return anyhow::Ok(true);
        }
        *contestant = fresh().await.with_context(|| peer.name())?;
        bears(peer, offer::offer(contestant, rate, time, BYTES))
    };
    let mut contestant = fresh().await.with_context(|| peer.name())?;
    let last = if bench.quick { LAST_QUICK_RATE } else { LAST_RATE };
    let (mut good, mut bad) = (0.0, FIRST_RATE);
    while bad <= last && holds(&mut contestant, bad).await? {
        (good, bad) = (bad, bad * 2.0);
    }
    for _ in 0..HALVINGS {
        if bad > last {
            break;
        }
        let between = f64::midpoint(good, bad);
        contestant = fresh().await.with_context(|| peer.name())?;
        if holds(&mut contestant, between).await? {
            good = between;
        } else {
            bad = between;
        }
    }
    Ok(good.max(1.0))
}

/// A peer that ends what it can't bear has not borne it; roomcast has failed.
#[allow(clippy::cast_precision_loss, reason = "microseconds")]
fn bears(peer: Peer, outcome: anyhow::Result<Outcome>) -> anyhow::Result<bool> {
    match outcome {
        Ok(outcome) => Ok(outcome.is_whole() && outcome.us(0.99) < BEARABLE.as_micros() as f64),
        Err(error) if peer == Peer::Roomcast => Err(error.context(peer.name())),
        Err(_) => Ok(false),
    }
}

/// 3,000 events a second for half a minute: nothing lost, nobody cut off, and how late.
pub(super) async fn sustained(bench: &Bench) -> anyhow::Result<Vec<Case>> {
    let (rate, subscribers, time) = if bench.quick {
        (100.0, 50, Duration::from_millis(500))
    } else {
        (3000.0, 1000, Duration::from_secs(30))
    };
    let load = format!("{rate} events/s × {subscribers}");
    let mut lost = Case::new(format!("{load}: lost or cut off"), "deliveries and connections");
    let mut late = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)]
        .map(|(name, quantile)| (Case::new(format!("{load}: {name}"), UNIT), quantile));
    let mut cpu = Case::new(format!("{load}: server"), "share of a core");
    for &peer in &bench.peers {
        // Those who flush each message by itself bear less than a tenth of this.
        if !matches!(peer, Peer::Limit | Peer::Roomcast | Peer::Centrifugo) {
            continue;
        }
        let running = Running::start(peer, &bench.places, bench.cores).await?;
        let mut contestant = Contestant::enter(running, 1, subscribers)?;
        offer::offer(&mut contestant, rate / 10.0, time.min(Duration::from_secs(1)), BYTES)?;
        let (server, redis) = (contestant.running.cpu()?, contestant.running.redis_cpu()?);
        let outcome = offer::offer(&mut contestant, rate, time, BYTES).context("sustained")?;
        eprintln!("  {}: {}", peer.name(), Latency::of(&outcome.latency));
        if let Some(trouble) = contestant.members.trouble() {
            eprintln!("  {}: {trouble}", peer.name());
        }
        set(&mut lost, peer, outcome.lost + outcome.cut_off);
        let even = contestant.check_even();
        let whole = if outcome.is_whole() { even } else { Err(anyhow::anyhow!("not everything came")) };
        for (case, quantile) in &mut late {
            match &whole {
                Ok(()) => case.set(peer.name(), 0, outcome.us(*quantile)),
                Err(error) => case.leave_out(peer.name(), &format!("{error:#}")),
            }
        }
        let share = |from: u64, to: u64| {
            Duration::from_nanos(to.saturating_sub(from)).as_secs_f64()
                / outcome.took.as_secs_f64().max(0.001)
        };
        cpu.set(peer.name(), 0, share(server, contestant.running.cpu()?));
        if contestant.running.redis.is_some() {
            cpu.set_redis(peer.name(), 0, share(redis, contestant.running.redis_cpu()?));
        }
    }
    let mut all = vec![lost, cpu];
    all.extend(late.map(|(case, _)| case));
    Ok(all)
}

#[allow(clippy::cast_precision_loss, reason = "a count that is to be zero")]
fn set(case: &mut Case, peer: Peer, count: u64) {
    case.set(peer.name(), 0, count as f64);
}
