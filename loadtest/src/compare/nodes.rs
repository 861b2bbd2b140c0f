//! The same room on one node and on two: what a delivery costs all nodes and their Redis together.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    Bench,
    contest::{Contestant, QUICK_ACKS},
    peer::{Peer, Running},
    result::Case,
    swarm::NAP,
    wire,
};
use crate::report;

const PATIENCE: Duration = Duration::from_secs(20);
const UNIT: &str = "µs of CPU per delivery, all nodes and Redis";
const OF_ONE: &str = "two nodes over one, all nodes and Redis";

/// Nodes over one Redis, their members, and who publishes: the first.
struct Side {
    name: &'static str,
    nodes: Vec<Contestant>,
}

impl Side {
    async fn enter(
        bench: &Bench,
        name: &'static str,
        nodes: usize,
        subscribers: usize,
    ) -> anyhow::Result<Self> {
        let first = Running::start(Peer::Roomcast, &bench.places, bench.cores).await?;
        let url = first.redis.as_ref().context("a node without Redis")?.url();
        let mut all = vec![Contestant::enter(first, 1, subscribers / nodes)?];
        for _ in 1..nodes {
            let more = Running::over(Peer::Roomcast, &bench.places, bench.cores.server, &url).await?;
            all.push(Contestant::enter(more, 1, subscribers / nodes)?);
        }
        Ok(Self { name, nodes: all })
    }

    fn cpu(&self) -> anyhow::Result<u64> {
        self.nodes.iter().map(|node| Ok(node.running.cpu()? + node.running.redis_cpu()?)).sum()
    }

    fn deliveries(&self) -> u64 {
        self.nodes.iter().map(|node| node.members.seen().deliveries).sum()
    }

    fn burst(&mut self, queued: usize, data: &str) -> anyhow::Result<()> {
        let clients: usize = self.nodes.iter().map(|node| node.members.len()).sum();
        let wanted = self.deliveries() + (clients * queued) as u64;
        self.nodes[0].publish(queued, data)?;
        let deadline = Instant::now() + PATIENCE;
        while self.deliveries() < wanted {
            ensure!(Instant::now() < deadline, "{}: a delivery is missing", self.name);
            let before = self.deliveries();
            for node in &mut self.nodes {
                node.turn(Duration::ZERO, |_, _| {})?;
            }
            if self.deliveries() == before {
                thread::sleep(NAP);
            }
        }
        for node in &mut self.nodes {
            node.idle()?;
            node.check_open()?;
        }
        ensure!(self.deliveries() == wanted, "{}: something was delivered twice", self.name);
        Ok(())
    }

    fn round(&mut self, time: Duration, queued: usize, data: &str) -> anyhow::Result<f64> {
        for _ in 0..QUICK_ACKS {
            self.burst(queued, data)?;
        }
        let (cpu, before) = (self.cpu()?, self.deliveries());
        let began = Instant::now();
        loop {
            self.burst(queued, data)?;
            if began.elapsed() >= time {
                break;
            }
        }
        thread::sleep(Duration::from_millis(3));
        let count = usize::try_from(self.deliveries() - before).context("deliveries")?;
        Ok(super::handshake::each(self.cpu()? - cpu, count))
    }
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Vec<Case>> {
    let subscribers = if bench.quick { 100 } else { 1000 };
    let mut sides = [
        Side::enter(bench, "one node", 1, subscribers).await?,
        Side::enter(bench, "two nodes", 2, subscribers).await?,
    ];
    let data = wire::data(200, 0);
    let mut cases = Vec::new();
    for queued in [1, 16] {
        let load = format!("{subscribers} subscribers, 200 B, {queued} queued");
        let mut costs = Case::new(&load, UNIT);
        let mut ratio = Case::new(format!("two nodes over one, {load}"), OF_ONE);
        if !bench.wants(&ratio.name) {
            continue;
        }
        let bar = report::bar("nodes", (bench.rounds + 1) as u64);
        for round in 0..=bench.rounds {
            let mut taken = [0.0; 2];
            for place in 0..2 {
                let index = (place + round) % 2;
                taken[index] = sides[index].round(bench.round_time, queued, &data)?;
            }
            if let Some(round) = round.checked_sub(1) {
                for (side, taken) in sides.iter().zip(taken) {
                    costs.set(side.name, round, taken);
                }
                ratio.set(Peer::Roomcast.name(), round, taken[1] / taken[0]);
            }
            bar.inc(1);
        }
        for node in sides.iter().flat_map(|side| &side.nodes) {
            node.check_even()?;
        }
        bar.finish_and_clear();
        cases.extend([costs, ratio]);
    }
    Ok(cases)
}
