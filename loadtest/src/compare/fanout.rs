//! One room of many subscribers, and many rooms of few: server CPU per delivery.

use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    Bench,
    contest::{Contestant, PAUSE, QUICK_ACKS},
    peer::{Peer, Running},
    result::Case,
    wire,
};
use crate::{report, system};

/// Rooms of the workload of many small ones, and the members of each.
const ROOMS: (usize, usize) = (1000, 10);
const UNIT: &str = "µs of server CPU per delivery";
/// From one event of a room to its next, where there are many rooms. A receiver acknowledges what comes after a pause of
/// more than 200 ms at once, and not with what follows: a third more for whoever sends, on loopback. So the pause has to
/// be on the same side of that for all, and in rooms that small it is rather longer than shorter.
const PACE: Duration = Duration::from_millis(300);
/// After many have come, before it is measured what telling them something costs.
const SETTLE: Duration = Duration::from_secs(2);

/// One way to load a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Load {
    subscribers: usize,
    bytes: usize,
    queued: usize,
}

impl Load {
    fn name(self) -> String {
        let Self { subscribers, bytes, queued } = self;
        format!("{subscribers} subscribers, {bytes} B, {queued} queued")
    }
}

/// One room, each combination of subscribers, bytes and events that arrive together.
pub(super) async fn run(bench: &Bench) -> anyhow::Result<Vec<Case>> {
    let (sizes, bytes, queues): (&[usize], &[usize], &[usize]) = if bench.quick {
        (&[100], &[200], &[1, 16])
    } else {
        (&[100, 1000, 5000], &[64, 200, 2048], &[1, 16, 64])
    };
    let mut all = Vec::new();
    for &subscribers in sizes {
        let mut loads = Vec::new();
        for &bytes in bytes {
            loads.extend(queues.iter().map(|&queued| Load { subscribers, bytes, queued }));
        }
        loads.retain(|load| bench.wants(&load.name()));
        if loads.is_empty() {
            continue;
        }
        let mut cases: Vec<Case> = loads.iter().map(|load| Case::new(load.name(), UNIT)).collect();
        let mut turn = 0;
        for group in bench.groups(subscribers + 2)? {
            let mut contestants = enter(bench, &group, 1, subscribers).await?;
            for (load, case) in loads.iter().zip(&mut cases) {
                let data = wire::data(load.bytes, 0);
                rounds(bench, &mut contestants, case, turn, QUICK_ACKS, |contestant| {
                    contestant.burst(load.queued, &data)
                })?;
            }
            turn += bench.rounds;
        }
        all.extend(cases);
    }
    Ok(all)
}

/// Many small rooms, an event to each of them, all together, and as often for each server.
pub(super) async fn many_rooms(bench: &Bench) -> anyhow::Result<Vec<Case>> {
    let (rooms, members) = if bench.quick { (50, ROOMS.1) } else { ROOMS };
    let mut cases = Vec::new();
    let name = format!("{rooms} rooms of {members}, 200 B");
    if bench.wants(&name) {
        let mut case = Case::new(name, UNIT);
        let mut turn = 0;
        let data = wire::data(200, 0);
        let burst = |contestant: &mut Contestant| {
            let began = Instant::now();
            contestant.burst_everywhere(&data)?;
            thread::sleep(bench.settling(PACE).saturating_sub(began.elapsed()));
            Ok(())
        };
        if let Ok(groups) = bench.groups(rooms * members + 2) {
            for group in groups {
                let mut contestants = enter(bench, &group, rooms, members).await?;
                rounds(bench, &mut contestants, &mut case, turn, 0, burst)?;
                turn += bench.rounds;
            }
        } else {
            rounds_apart(bench, (rooms, members), &mut case, burst).await?;
        }
        cases.push(case);
    }
    Ok(cases)
}

/// Starts the servers of a group and fills their rooms.
pub(super) async fn enter(
    bench: &Bench,
    group: &[Peer],
    rooms: usize,
    members: usize,
) -> anyhow::Result<Vec<Contestant>> {
    system::need_sockets(group.len() * (rooms * members + 2))?;
    let mut contestants = Vec::new();
    for &peer in group {
        let running = Running::start(peer, &bench.places, bench.cores).await?;
        contestants.push(Contestant::enter(running, rooms, members)?);
    }
    Ok(contestants)
}

/// Alternating rounds of servers whose clients do not fit into this process together: they come for each round of
/// theirs, and go again.
async fn rounds_apart(
    bench: &Bench,
    (rooms, members): (usize, usize),
    case: &mut Case,
    burst: impl Fn(&mut Contestant) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    system::need_sockets(rooms * members + 2)?;
    let mut servers = VecDeque::new();
    for peer in bench.rivals() {
        servers.push_back(Running::start(peer, &bench.places, bench.cores).await?);
    }
    let bar = report::bar("rounds", (servers.len() * bench.rounds) as u64);
    bar.set_prefix(case.name.clone());
    for round in 0..bench.rounds {
        for _ in 0..servers.len() {
            let Some(server) = servers.pop_front() else { break };
            let name = server.peer.name();
            let mut contestant = Contestant::enter(server, rooms, members)?;
            // What coming costs is no part of the round: counts of the present are told for a while.
            thread::sleep(SETTLE);
            contestant.idle()?;
            burst(&mut contestant)?;
            let spent = contestant
                .round(bench.round_time, &burst)
                .and_then(|spent| contestant.check_even().map(|()| spent))
                .with_context(|| format!("{name}, {}", case.name))?;
            case.set(name, round, spent.server_us());
            if spent.redis > Duration::ZERO {
                case.set_redis(name, round, spent.redis_us());
            }
            servers.push_back(contestant.leave());
            bar.inc(1);
        }
        // Who comes first changes, so that nobody always follows the same neighbour.
        servers.rotate_left(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Up to so many bursts. Who needs longer than `PAUSE` for one has a pause before each.
fn warm(
    contestant: &mut Contestant,
    bursts: usize,
    burst: &mut impl FnMut(&mut Contestant) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for _ in 0..bursts {
        let began = Instant::now();
        burst(contestant)?;
        if began.elapsed() > PAUSE {
            break;
        }
    }
    Ok(())
}

/// Alternating rounds, each after so many bursts to warm up, and nothing lost in any of them.
pub(super) fn rounds(
    bench: &Bench,
    contestants: &mut [Contestant],
    case: &mut Case,
    first: usize,
    warm_up: usize,
    mut burst: impl FnMut(&mut Contestant) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let bar = report::bar("rounds", (contestants.len() * (bench.rounds + 1)) as u64);
    bar.set_prefix(case.name.clone());
    for round in 0..=bench.rounds {
        for place in 0..contestants.len() {
            // Who comes first changes, so that nobody always follows the same neighbour.
            let index = (place + round) % contestants.len();
            for waiting in contestants.iter_mut() {
                waiting.idle()?;
            }
            let contestant = &mut contestants[index];
            let name = contestant.peer().name();
            let spent = warm(contestant, warm_up, &mut burst)
                .and_then(|()| contestant.round(bench.round_time, &mut burst))
                .with_context(|| format!("{name}, {}", case.name))?;
            bar.inc(1);
            // The first warms up: caches, branch predictors, and whoever compiles while it runs.
            if let Some(round) = round.checked_sub(1) {
                case.set(name, first + round, spent.server_us());
                if spent.redis > Duration::ZERO {
                    case.set_redis(name, first + round, spent.redis_us());
                }
            }
        }
    }
    for contestant in contestants.iter() {
        contestant.check_even()?;
    }
    bar.finish_and_clear();
    Ok(())
}
