//! `compare`: roomcast and its peers by turns in one run, each through the same clients with that peer's own protocol,
//! servers on one core and clients on another. What is told is the median of ratios of neighbours in time, and their
//! spread. It is a benchmark: it means something on a machine that does nothing else.

mod bars;
pub(crate) mod contest;
pub(crate) mod cpu;
mod fanout;
mod flat;
mod frames;
mod handshake;
mod idle;
mod inbound;
mod latency;
mod likes;
mod limit;
mod nodes;
mod offer;
pub(crate) mod peer;
mod plot;
pub(crate) mod result;
pub(crate) mod stats;
pub(crate) mod swarm;
pub(crate) mod table;
mod tungstenite;
pub(crate) mod wire;

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};

pub(crate) use self::flat::{CrowdOptions, crowd};
use self::{
    bars::{Bar, Outcome},
    cpu::Cores,
    peer::{Peer, Places},
    result::{Case, Results, Run, Source},
};
use crate::system;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Workload {
    /// One room, 100 to 5,000 subscribers, 1 to 64 events queued: CPU per delivery.
    Fanout,
    /// 1,000 rooms of 10: CPU per delivery.
    Rooms,
    /// From publish to delivery, at shares of what each server bears itself.
    Latency,
    /// Memory of connections that say nothing, and after a burst.
    Idle,
    /// Connections that come and go: CPU of each.
    Handshake,
    /// Connect and join, with and without history: CPU of each.
    Join,
    /// Frames that come in: CPU of each.
    Inbound,
    /// One room on one node and on two.
    Nodes,
    /// Likes through the whole path, over EVALSHA of the same script.
    Likes,
    /// 2,000 idle connections against 19,000, and 100,000 over six nodes.
    Flat,
    /// 3,000 events a second to 1,000 subscribers, for half a minute.
    Sustained,
}

impl Workload {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    async fn measure(self, bench: &Bench) -> anyhow::Result<Vec<Case>> {
        match self {
            Self::Fanout => fanout::run(bench).await,
            Self::Rooms => fanout::many_rooms(bench).await,
            Self::Latency => latency::run(bench).await,
            Self::Idle => idle::run(bench).await,
            Self::Handshake => handshake::run(bench).await,
            Self::Join => handshake::join(bench).await,
            Self::Inbound => inbound::run(bench).await,
            Self::Nodes => nodes::run(bench).await,
            Self::Likes => likes::run(bench).await,
            Self::Flat => flat::run(bench).await,
            Self::Sustained => latency::sustained(bench).await,
        }
    }
}

/// Options of `compare`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Who takes part; without it, everyone who can.
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// What is measured; without it, everything.
    #[arg(long, value_enum, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// Only cases whose names hold this, such as "1000 subscribers, 200 B".
    #[arg(long)]
    only: Option<String>,
    /// Small and few: that everything works, in less than a minute. No figure to tell anyone.
    #[arg(long)]
    quick: bool,
    /// Exit 1 where a bar is missed.
    #[arg(long)]
    bars: bool,
    /// Rounds of each server and case, by turns.
    #[arg(long)]
    rounds: Option<usize>,
    /// How long a round is.
    #[arg(long, value_parser = humantime::parse_duration)]
    round: Option<Duration>,
    /// Where the results are added to: JSON, a table, plots. Not with --quick, unless given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The node's binary; without it, roomcast beside this program.
    #[arg(long)]
    roomcast: Option<PathBuf>,
    /// What that binary was built of, where git says something else here.
    #[arg(long)]
    commit: Option<String>,
    /// The folder of the other servers.
    #[arg(long, default_value = "loadtest/peers")]
    peers_dir: PathBuf,
    /// Where they were built.
    #[arg(long, default_value = "target/peers")]
    peers_built: PathBuf,
}

/// Options of the servers that are built in.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerOptions {
    /// Which.
    #[arg(value_enum)]
    which: Peer,
    /// Where it listens, on 127.0.0.1.
    #[arg(long)]
    port: u16,
}

/// What all workloads need.
#[derive(Debug)]
struct Bench {
    places: Places,
    cores: Cores,
    peers: Vec<Peer>,
    rounds: usize,
    round_time: Duration,
    quick: bool,
    only: Option<String>,
}

impl Bench {
    /// How long to let a server settle. With `--quick` a twentieth of that, because nobody is told its figures.
    fn settling(&self, time: Duration) -> Duration {
        if self.quick { time / 20 } else { time }
    }

    fn wants(&self, case: &str) -> bool {
        self.only.as_deref().is_none_or(|only| case.contains(only))
    }

    /// The peers with rooms, in groups whose clients fit into one process; the bare loop and roomcast are in each, so
    /// that there is always a neighbour in time to compare with.
    fn groups(&self, sockets: usize) -> anyhow::Result<Vec<Vec<Peer>>> {
        let fit = system::sockets()? / sockets.max(1);
        groups(&self.rivals(), fit)
    }

    /// The peers with rooms.
    fn rivals(&self) -> Vec<Peer> {
        self.peers.iter().copied().filter(|peer| peer.has_rooms()).collect()
    }
}

fn groups(peers: &[Peer], fit: usize) -> anyhow::Result<Vec<Vec<Peer>>> {
    if peers.len() <= fit {
        return Ok(vec![peers.to_vec()]);
    }
    let (base, others): (Vec<Peer>, Vec<Peer>) =
        peers.iter().partition(|peer| matches!(peer, Peer::Limit | Peer::Roomcast));
    if others.is_empty() || base.len() >= fit {
        ensure!(fit > 0 && peers.len() <= fit, "too few open files: raise them with `ulimit -n`");
    }
    Ok(others.chunks(fit - base.len()).map(|some| [&base[..], some].concat()).collect())
}

/// Runs the comparison; false where `--bars` was given and one is missed.
pub(crate) async fn run(options: Options) -> anyhow::Result<bool> {
    let cores = Cores::pick()?;
    if cfg!(debug_assertions) {
        eprintln!("this tool was built without optimisation, and with it the bare loop: figures mean little");
    }
    if !cores.are_apart() {
        eprintln!("one core only: servers and clients share it, and the figures mean little");
    }
    let folder = tempfile::Builder::new().prefix("roomcast-compare.").tempdir().context("a folder")?;
    let beside = std::env::current_exe().context("asking for this program's own place")?;
    let places = Places {
        roomcast: options.roomcast.clone().unwrap_or_else(|| beside.with_file_name("roomcast")),
        peers: options.peers_dir.clone(),
        built: options.peers_built.clone(),
        run: folder.path().to_owned(),
        settings: Vec::new(),
    };
    let (peers, missing) = choose(&options, &places)?;
    let bench = Bench {
        places,
        cores,
        peers,
        rounds: options.rounds.unwrap_or(if options.quick { 1 } else { 9 }).max(1),
        round_time: options.round.unwrap_or(Duration::from_millis(if options.quick { 20 } else { 150 })),
        quick: options.quick,
        only: options.only.clone(),
    };
    let commit = options.commit.clone().unwrap_or_else(result::commit);
    let source = Source { machine: result::machine(), commit, command: command() };
    cpu::pin(cores.client)?;

    let workloads = if options.workloads.is_empty() {
        Workload::value_variants().to_vec()
    } else {
        options.workloads.clone()
    };
    let out = options.out.clone().or((!options.quick).then(|| PathBuf::from("docs/performance")));
    let file = out.as_ref().map(|folder| folder.join("compare.json"));
    let mut results = file.as_deref().map_or_else(|| Ok(Results::default()), Results::load)?;
    let mut fresh = Results::default();
    for workload in workloads {
        eprintln!("{}", workload.name());
        let mut cases = workload.measure(&bench).await.with_context(|| workload.name())?;
        // What was not measured replaces nothing.
        cases.retain(|case| !case.series.is_empty());
        for case in &mut cases {
            case.source = source.clone();
            case.missing.extend(missing.clone());
        }
        let run = Run { cases };
        fresh.merge(&workload.name(), run.clone());
        results.merge(&workload.name(), run);
        // Each workload is kept as soon as it is measured: a long run that is broken off has not been for nothing.
        if let Some(folder) = &out {
            write(folder, &results)?;
        }
    }
    let bars = Bar::all()?;
    let told: Vec<Bar> = bars.into_iter().filter(|bar| bar.judge(&fresh) != Outcome::Open).collect();
    println!("{}", table::markdown(&fresh, &told));
    let missed = told.iter().any(|bar| matches!(bar.judge(&fresh), Outcome::Missed(_)));
    Ok(!(options.bars && missed))
}

/// One of the built-in servers, until it is ended.
pub(crate) async fn serve(options: ServerOptions) -> anyhow::Result<bool> {
    match options.which {
        Peer::Limit => limit::Limit::bind(options.port)?.serve(|| true)?,
        Peer::Tungstenite => tungstenite::serve(options.port, tungstenite::Reading::Bytes).await?,
        Peer::TungsteniteJson => tungstenite::serve(options.port, tungstenite::Reading::Json).await?,
        other => anyhow::bail!("{} is no built-in server", other.name()),
    }
    Ok(true)
}

/// Who takes part, and who can't and why. Whoever was named must be there.
fn choose(options: &Options, places: &Places) -> anyhow::Result<(Vec<Peer>, BTreeMap<String, String>)> {
    let mut missing = BTreeMap::new();
    if !options.peers.is_empty() {
        for peer in &options.peers {
            peer.program(places).with_context(|| peer.name())?;
        }
        return Ok((options.peers.clone(), missing));
    }
    let mut there = Vec::new();
    for &peer in Peer::value_variants() {
        match peer.program(places) {
            Ok(_) => there.push(peer),
            Err(error) => {
                eprintln!("without {}: {error:#}", peer.name());
                missing.insert(peer.name().to_owned(), "not installed where this was measured".to_owned());
            }
        }
    }
    ensure!(there.contains(&Peer::Roomcast), "roomcast itself is missing, see above");
    Ok((there, missing))
}

fn write(folder: &std::path::Path, results: &Results) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    put("compare.json", serde_json::to_string_pretty(results).context("results as JSON")? + "\n")?;
    put("compare.md", table::markdown(results, &Bar::all()?))?;
    for (name, picture) in plot::pictures(results)? {
        put(&name, picture)?;
    }
    Ok(())
}

/// The command as it would be typed, without where this program lies.
fn command() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let quoted =
        words.iter().map(|word| if word.contains(' ') { format!("\"{word}\"") } else { word.clone() });
    format!("roomcast-loadtest {}", quoted.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_what_fits_and_always_the_reference() {
        use Peer::{Limit, Roomcast, Socketio, Socketioxide, Ws};
        let peers = [Limit, Roomcast, Socketio, Ws, Socketioxide];
        assert_eq!(groups(&peers, 5).unwrap(), [peers.to_vec()]);
        assert_eq!(
            groups(&peers, 3).unwrap(),
            [vec![Limit, Roomcast, Socketio], vec![Limit, Roomcast, Ws], vec![Limit, Roomcast, Socketioxide]]
        );
        assert_eq!(groups(&peers, 4).unwrap().len(), 2);
        assert!(groups(&peers, 2).is_err() && groups(&peers, 0).is_err());
        assert!(groups(&[Limit, Roomcast], 1).is_err());
    }
}
