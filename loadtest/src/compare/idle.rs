//! Connections that say nothing: what each costs a server in memory of its own, and what is left of a burst.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Bench,
    contest::Contestant,
    peer::{Peer, Running},
    result::Case,
    wire,
};
use crate::{report, system};

/// Freed memory has had time to go back, and joins to be announced.
const SETTLE: Duration = Duration::from_secs(4);
/// Events of the burst after which memory shall be where it was.
const BURST: usize = 512;
/// How many a back end may send together.
const TOGETHER: usize = 64;
const UNIT: &str = "KiB of server memory (RssAnon) per connection";

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Vec<Case>> {
    let (idle, busy) = if bench.quick { (200, 20) } else { (10_000, 1000) };
    let settle = bench.settling(SETTLE);
    system::need_sockets(idle)?;
    let mut joined = Case::new(format!("{idle} joined and idle"), UNIT);
    let mut grown = Case::new(format!("growth by a burst of {BURST}, {busy} joined"), UNIT);
    let peers: Vec<Peer> = bench.peers.iter().copied().filter(|peer| peer.has_rooms()).collect();
    let turns = if bench.quick { 1 } else { 3 };
    let bar = report::bar("idle", (turns * peers.len()) as u64);
    for turn in 0..turns {
        for &peer in &peers {
            if bench.wants(&joined.name) {
                let running = Running::start(peer, &bench.places, bench.cores).await?;
                let before = running.memory()?.rss_anon_kib;
                let contestant = Contestant::enter(running, 1, idle)?;
                let after = settled(contestant, settle).await?.running.memory()?.rss_anon_kib;
                joined.set(peer.name(), turn, per(before, after, idle));
            }
            if bench.wants(&grown.name) {
                let running = Running::start(peer, &bench.places, bench.cores).await?;
                let mut contestant = settled(Contestant::enter(running, 1, busy)?, settle).await?;
                let data = wire::data(200, 0);
                // The first fills what is kept for good: the room's recent past, the allocator's own pools.
                burst(&mut contestant, &data)?;
                contestant = settled(contestant, settle).await?;
                let before = contestant.running.memory()?.rss_anon_kib;
                burst(&mut contestant, &data)?;
                let after = settled(contestant, settle).await?.running.memory()?.rss_anon_kib;
                grown.set(peer.name(), turn, per(before, after, busy));
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok([joined, grown].into_iter().filter(|case| !case.series.is_empty()).collect())
}

fn burst(contestant: &mut Contestant, data: &str) -> anyhow::Result<()> {
    for _ in 0..BURST / TOGETHER {
        contestant.burst(TOGETHER, data)?;
    }
    Ok(())
}

/// Lets time pass in which the clients go on answering pings.
async fn settled(mut contestant: Contestant, time: Duration) -> anyhow::Result<Contestant> {
    for _ in 0..20 {
        sleep(time / 20).await;
        contestant.idle()?;
    }
    Ok(contestant)
}

#[allow(clippy::cast_precision_loss, reason = "KiB per connection, to three digits")]
fn per(before: u64, after: u64, connections: usize) -> f64 {
    (after as f64 - before as f64) / connections as f64
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_may_also_shrink() {
        assert!((super::per(1_000, 61_000, 10_000) - 6.0).abs() < 1e-9);
        assert!((super::per(2_000, 1_000, 1_000) + 1.0).abs() < 1e-9);
    }
}
