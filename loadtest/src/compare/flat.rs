//! Whether an idle connection costs the same among two thousand as among nineteen thousand, and a hundred thousand on
//! six nodes that all get one broadcast. Of roomcast alone: it is about growth, not about others.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use tokio::time::sleep;

use super::{
    Bench,
    contest::Contestant,
    handshake::each,
    peer::{Peer, Redis, Running},
    result::Case,
    swarm::Swarm,
    wire::{self, Role},
};
use crate::{cluster::process::Process, report, system};

/// Longer than the servers' pings are apart, so that each connection is seen to once.
const WATCH: Duration = Duration::from_secs(26);
const SETTLE: Duration = Duration::from_secs(5);
const NODES: usize = 6;
/// A hundred thousand connections come, through one core.
const COMING: Duration = Duration::from_secs(240);
const DELIVERING: Duration = Duration::from_secs(60);
/// Members of a crowd that come together.
const PARTY: usize = 1000;
/// How often a crowd lets a party come again that was refused, and when.
const REPEATS: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

/// Options of one crowd.
#[derive(Debug, Clone, Args)]
pub(crate) struct CrowdOptions {
    /// The node's public port on 127.0.0.1.
    #[arg(long)]
    port: u16,
    /// Connections, all in one room.
    #[arg(long)]
    members: usize,
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Vec<Case>> {
    let name = Peer::Roomcast.name();
    let (few, many, all, watch) =
        if bench.quick { (100, 400, 600, Duration::from_secs(1)) } else { (2000, 19_000, 100_000, WATCH) };
    let mut cases = Vec::new();
    let memory_name = format!("{many} over {few} idle, memory per connection");
    if bench.wants(&memory_name) {
        system::need_sockets(many)?;
        let mut memory =
            Case::new("memory per idle connection", "KiB of server memory (RssAnon) per connection");
        let mut cpu = Case::new("CPU per idle connection", "µs of server CPU per connection and second");
        let mut seen = [(0.0, 0.0); 2];
        for (place, count) in [few, many].into_iter().enumerate() {
            let running = Running::start(Peer::Roomcast, &bench.places, bench.cores).await?;
            let before = running.memory()?.rss_anon_kib;
            let mut contestant = Contestant::enter(running, 1, count)?;
            let bar = report::bar("flat", 2);
            quiet(&mut contestant, bench.settling(SETTLE)).await?;
            bar.inc(1);
            let kib = kib(contestant.running.memory()?.rss_anon_kib, before, count);
            let cpu_before = contestant.running.cpu()?;
            quiet(&mut contestant, watch).await?;
            let spent = each(contestant.running.cpu()? - cpu_before, count) / watch.as_secs_f64();
            bar.finish_and_clear();
            seen[place] = (kib, spent);
            memory.set(&format!("{name}, {count}"), 0, kib);
            cpu.set(&format!("{name}, {count}"), 0, spent);
        }
        let ratio = |of: &str, value: f64| {
            let mut case = Case::new(format!("{many} over {few} idle, {of} per connection"), "ratio");
            case.set(name, 0, value);
            case
        };
        let [(kib_few, cpu_few), (kib_many, cpu_many)] = seen;
        cases.extend([memory, cpu, ratio("memory", kib_many / kib_few), ratio("CPU", cpu_many / cpu_few)]);
    }
    let crowd_name = format!("{all} over six nodes, one broadcast: not delivered");
    if bench.wants(&crowd_name) {
        cases.extend(crowds(bench, all, crowd_name).await?);
    }
    Ok(cases)
}

async fn quiet(contestant: &mut Contestant, time: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        contestant.turn(Duration::from_millis(100), |_, _| {})?;
        sleep(Duration::from_millis(1)).await;
    }
    ensure!(contestant.members.seen().closed == 0, "a connection ended while idle");
    Ok(())
}

/// Six nodes over one Redis, each with a crowd in a process of its own; one event for all of them.
async fn crowds(bench: &Bench, members: usize, name: String) -> anyhow::Result<Vec<Case>> {
    let redis = Redis::start(bench.cores, &bench.places.run).await?;
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(Running::over(Peer::Roomcast, &bench.places, bench.cores.server, &redis.url()).await?);
    }
    let memory = |nodes: &[Running]| -> anyhow::Result<u64> {
        nodes.iter().map(|node| Ok(node.memory()?.rss_anon_kib)).sum()
    };
    let before = memory(&nodes)?;
    let tool = std::env::current_exe().context("asking for this program's own place")?;
    let mut crowds = Vec::new();
    for (place, node) in nodes.iter().enumerate() {
        let count = members * (place + 1) / NODES - members * place / NODES;
        let log = bench.places.run.join(format!("crowd-{place}.log"));
        let (port, text) = (node.address.port().to_string(), count.to_string());
        let words = ["compare-crowd", "--port", &port, "--members", &text];
        let process = Process::start("crowd", &tool, &words, &[], &log)?;
        crowds.push(Crowd { process, log, count });
    }
    for crowd in &mut crowds {
        crowd.says("ready", COMING).await?;
    }
    sleep(bench.settling(SETTLE)).await;
    let after = memory(&nodes)?;

    let token = nodes[0].token()?;
    let mut publisher = Swarm::open(Peer::Roomcast.wire(), nodes[0].address, &[Role::Publisher(&token)])?;
    let event = Peer::Roomcast.wire().publish(0, &wire::data(200, 0));
    publisher.say(0, [&event[..]])?;
    let (mut delivered, mut slowest) = (0, 0.0_f64);
    for crowd in &mut crowds {
        let said = crowd.says("delivered", DELIVERING).await?;
        let mut numbers = said.split_whitespace().skip(1);
        let got: usize = numbers.next().and_then(|text| text.parse().ok()).context("a crowd's answer")?;
        if got != crowd.count {
            eprintln!("  a crowd of {}: {said}", crowd.count);
        }
        delivered += got.min(crowd.count);
        slowest = slowest.max(numbers.next().and_then(|text| text.parse().ok()).unwrap_or_default());
    }
    let told = Peer::Roomcast.name();
    let mut missing = Case::new(name, "deliveries");
    missing.set(told, 0, count(members - delivered));
    let mut size =
        Case::new(format!("{members} over six nodes"), "KiB of server memory (RssAnon) per connection");
    size.set(told, 0, kib(after, before, members));
    let mut spread = Case::new(
        format!("{members} over six nodes, one broadcast"),
        "ms from the first delivery to the last, in one of six crowds",
    );
    spread.set(told, 0, slowest);
    Ok(vec![missing, size, spread])
}

struct Crowd {
    process: Process,
    log: PathBuf,
    count: usize,
}

impl Crowd {
    /// Waits for a line of it that begins with this word.
    async fn says(&mut self, word: &str, patience: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(line) = line_of(&self.log, word) {
                return Ok(line);
            }
            let said = || std::fs::read_to_string(&self.log).unwrap_or_default();
            if self.process.is_gone() && line_of(&self.log, word).is_none() {
                bail!("a crowd has ended: {}", said());
            }
            ensure!(Instant::now() < deadline, "a crowd is not {word}: {}", said());
            sleep(Duration::from_millis(100)).await;
        }
    }
}

fn line_of(log: &Path, word: &str) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    text.lines().find(|line| line.starts_with(word)).map(str::to_owned)
}

/// One crowd: comes, says so, waits for one event, and says how many of it got it.
pub(crate) fn crowd(options: &CrowdOptions) -> anyhow::Result<bool> {
    system::need_sockets(options.members)?;
    let to = ([127, 0, 0, 1], options.port).into();
    let (mut swarms, mut repeats): (Vec<Swarm>, u32) = (Vec::new(), 0);
    while let left @ 1.. = options.members - members(&swarms) {
        match Swarm::open(Peer::Roomcast.wire(), to, &vec![Role::Member(0); left.min(PARTY)]) {
            Ok(swarm) => swarms.push(swarm),
            // Six nodes share a core here, and so many come at once: who is told to come again does.
            Err(error) if repeats < REPEATS => {
                repeats += 1;
                println!("again: {error:#}");
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
        // Who is here already answers pings while the others come.
        for swarm in &mut swarms {
            swarm.turn(Duration::ZERO, |_, _| {})?;
        }
    }
    println!("ready {}", members(&swarms));
    let deadline = Instant::now() + COMING + DELIVERING;
    let (mut first, mut last) = (None, Instant::now());
    let wanted = options.members as u64;
    while sum(&swarms, |swarm| swarm.seen().deliveries) < wanted && Instant::now() < deadline {
        for swarm in &mut swarms {
            swarm.turn(Duration::ZERO, |_, _| {
                last = Instant::now();
                first.get_or_insert(last);
            })?;
        }
        std::thread::sleep(Duration::from_millis(1));
        if first.is_some_and(|first: Instant| first.elapsed() > DELIVERING / 2) {
            break;
        }
    }
    let took = first.map_or(0.0, |first| (last - first).as_secs_f64() * 1000.0);
    let each = || swarms.iter().flat_map(Swarm::per_client);
    println!(
        "delivered {} {took:.1} ({} more than once, {} closed{})",
        each().filter(|deliveries| *deliveries == 1).count(),
        each().filter(|deliveries| *deliveries > 1).count(),
        sum(&swarms, |swarm| swarm.seen().closed),
        swarms.iter().find_map(Swarm::trouble).map(|trouble| format!(", {trouble}")).unwrap_or_default()
    );
    Ok(true)
}

fn members(swarms: &[Swarm]) -> usize {
    swarms.iter().map(Swarm::len).sum()
}

fn sum(swarms: &[Swarm], of: impl Fn(&Swarm) -> u64) -> u64 {
    swarms.iter().map(of).sum()
}

#[allow(clippy::cast_precision_loss, reason = "a count that is to be zero")]
fn count(count: usize) -> f64 {
    count as f64
}

#[allow(clippy::cast_precision_loss, reason = "KiB per connection, to three digits")]
fn kib(after: u64, before: u64, connections: usize) -> f64 {
    (after as f64 - before as f64) / connections as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowds_word_is_found_in_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        assert_eq!(line_of(&log, "ready"), None);
        std::fs::write(&log, "ready 3\ndelivered 3 1.5 closed 0\n").unwrap();
        assert_eq!(line_of(&log, "delivered").unwrap(), "delivered 3 1.5 closed 0");
    }
}
