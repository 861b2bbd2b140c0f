//! `capacity`: measures what one thing costs on the machine at hand, and says how many nodes and Redis processes, how
//! much memory and network a given load needs. The model is in `docs/scaling.md`.

mod measure;
mod model;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Serialize;

use self::{
    measure::Size,
    model::{Coefficients, Load, Plan},
};
use crate::{
    compare::{
        cpu::{self, Cores},
        peer::Places,
        result::machine,
        table::digits,
    },
    report,
};

const GIB: f64 = 1_073_741_824.0;

/// Options of `capacity`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Connections in all.
    #[arg(long, default_value_t = 100_000.0)]
    connections: f64,
    /// Rooms that they are spread over.
    #[arg(long, default_value_t = 1000.0)]
    rooms: f64,
    /// Events per second in each room.
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Bytes of an event's data.
    #[arg(long, default_value_t = 200.0)]
    data: f64,
    /// Frames per second that each client sends: likes, comments, signals.
    #[arg(long, default_value_t = 0.05)]
    inbound: f64,
    /// Clients that come per second, while as many go.
    #[arg(long, default_value_t = 100.0)]
    come: f64,
    /// Events kept per room (`history.size`, or as many as come within `history.ttl`).
    #[arg(long, default_value_t = 1000.0)]
    history: f64,
    /// Rooms that tell nobody who is there (`presence = false`).
    #[arg(long)]
    no_presence: bool,
    /// Cores of each node.
    #[arg(long, default_value_t = 8.0)]
    cores: f64,
    /// Memory of each node, in GiB.
    #[arg(long, default_value_t = 16.0)]
    memory: f64,
    /// Network of each node, in Gbit/s.
    #[arg(long, default_value_t = 10.0)]
    network: f64,
    /// How much of anything may be in use, so that a node can be lost and a peak borne.
    #[arg(long, default_value_t = 0.5)]
    share: f64,
    /// Takes the costs from a file that `--json` wrote, and measures nothing.
    #[arg(long)]
    coefficients: Option<PathBuf>,
    /// Fewer and shorter: some ten seconds, and rougher numbers.
    #[arg(long)]
    quick: bool,
    /// The node's binary; without it, roomcast beside this program.
    #[arg(long)]
    roomcast: Option<PathBuf>,
    /// Where to write costs, load and answer as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    tool: &'static str,
    machine: &'a str,
    coefficients: &'a Coefficients,
    load: &'a Load,
    plan: Option<Plan>,
}

/// Measures and answers; false where no cluster bears the load.
pub(crate) async fn run(options: Options) -> anyhow::Result<bool> {
    let load = load(&options)?;
    // Before this thread keeps to one core, which is then all that it knows of.
    let here = machine();
    let (coefficients, machine) = match &options.coefficients {
        Some(path) => read(path)?,
        None => (measure(&options).await?, here),
    };
    report::table("costs", &costs(&coefficients, &machine));
    let plan = coefficients.plan(&load);
    match &plan {
        Some(plan) => report::table("answer", &answer(plan, &load)),
        None => println!("\nno number of such nodes bears this load"),
    }
    let report =
        Report { tool: "capacity", machine: &machine, coefficients: &coefficients, load: &load, plan };
    report::json(options.json.as_deref(), &report)?;
    Ok(plan.is_some())
}

fn load(options: &Options) -> anyhow::Result<Load> {
    ensure!(
        options.connections >= 1.0 && options.rooms >= 1.0 && options.rooms <= options.connections,
        "--rooms is 1 or more, and no more than --connections"
    );
    let positive = [options.cores, options.memory, options.network, options.data];
    ensure!(positive.iter().all(|value| *value > 0.0), "--cores, --memory, --network and --data are above 0");
    let rates = [options.rate, options.inbound, options.come, options.history];
    ensure!(rates.iter().all(|value| *value >= 0.0), "--rate, --inbound, --come and --history are 0 or more");
    ensure!(options.share > 0.0 && options.share <= 1.0, "--share is above 0 and at most 1");
    Ok(Load {
        connections: options.connections,
        rooms: options.rooms,
        events: options.rate,
        data: options.data,
        inbound: options.inbound,
        come: options.come,
        history: options.history,
        presence: !options.no_presence,
        cores: options.cores,
        memory: options.memory * GIB,
        link: options.network * 1e9,
        share: options.share,
    })
}

async fn measure(options: &Options) -> anyhow::Result<Coefficients> {
    let cores = Cores::pick()?;
    let folder = tempfile::Builder::new().prefix("roomcast-capacity.").tempdir().context("a folder")?;
    let beside = std::env::current_exe().context("asking for this program's own place")?;
    let places = Places {
        roomcast: options.roomcast.clone().unwrap_or_else(|| beside.with_file_name("roomcast")),
        peers: PathBuf::new(),
        built: PathBuf::new(),
        run: folder.path().to_owned(),
        settings: Vec::new(),
    };
    cpu::pin(cores.client)?;
    let size = if options.quick {
        Size { sockets: 500, members: 200, rounds: 3, round: Duration::from_millis(100) }
    } else {
        Size { sockets: 5000, members: 2000, rounds: 9, round: Duration::from_millis(250) }
    };
    measure::coefficients(&places, cores, size).await
}

fn read(path: &PathBuf) -> anyhow::Result<(Coefficients, String)> {
    #[derive(serde::Deserialize)]
    struct Kept {
        machine: String,
        coefficients: Coefficients,
    }
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let Kept { machine, coefficients } = serde_json::from_str(&text)
        .with_context(|| format!("{} is no result of capacity", path.display()))?;
    Ok((coefficients, machine))
}

fn costs(of: &Coefficients, machine: &str) -> Vec<(&'static str, String)> {
    let us = |value: f64| format!("{} µs", digits(value));
    let bytes = |value: f64| format!("{value:.0} B");
    vec![
        ("measured on", machine.to_owned()),
        ("a publish: node", us(of.publish_us)),
        ("a publish: Redis", us(of.redis_publish_us)),
        ("each further node that hears it: Redis", us(of.redis_subscriber_us)),
        ("an event: each node that hears it", us(of.event_us)),
        ("a write to a socket", us(of.write_us)),
        ("each further event in that write", us(of.more_us)),
        ("a frame that comes in", us(of.inbound_us)),
        ("a client that comes and goes: node", us(of.come_us)),
        ("a client that comes and goes: Redis", us(of.redis_come_us)),
        ("and per user of its room, on two nodes or more: Redis", us(of.redis_user_us)),
        ("an idle connection, per second: node", us(of.idle_us)),
        ("a quiet room, per second: each node that holds it", us(of.room_us)),
        ("a quiet room, per second and node: Redis", us(of.redis_room_us)),
        ("memory of a connection: node", bytes(of.socket)),
        ("memory of a connection: kernel", bytes(of.kernel)),
        ("memory of a membership: node", bytes(of.member)),
        ("memory of a room: node", bytes(of.room)),
        ("memory of a room: Redis", bytes(of.redis_room)),
        ("memory of a user in a room: Redis", bytes(of.redis_user)),
        ("memory of a kept event beyond its data: Redis", bytes(of.redis_event)),
        ("a frame beyond its data", bytes(of.envelope)),
    ]
}

fn answer(plan: &Plan, load: &Load) -> Vec<(&'static str, String)> {
    let gib = |bytes: f64| format!("{:.2} GiB", bytes / GIB);
    let gbit = |bits: f64| format!("{:.2} Gbit/s", bits / 1e9);
    let mut rows = vec![
        ("nodes", format!("{:.0}, decided by {}", plan.nodes, plan.decided_by.name())),
        ("cores in use", format!("{:.1} of {:.0}", plan.cores, plan.nodes * load.cores)),
        ("memory per node", gib(plan.node_memory)),
        ("network out per node", format!("{}, {} in all", gbit(plan.node_out), gbit(plan.all_out))),
        ("from first to last member of a node", format!("{:.1} ms", plan.spread_ms)),
        ("Redis processes", format!("{:.0}, {:.2} cores in use", plan.shards, plan.redis_cores)),
        ("Redis memory", gib(plan.redis_memory)),
        ("network out of Redis", gbit(plan.redis_out)),
    ];
    let room = format!("{:.1} % of a Redis core", plan.room_redis_core * 100.0);
    if plan.room_redis_core > load.share {
        rows.push(("one room needs", format!("{room}: too much, and a room can't be spread over two")));
    } else {
        rows.push(("one room needs", room));
    }
    rows
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &[&str]) -> Options {
        Line::parse_from([&["capacity"], words].concat()).options
    }

    #[test]
    fn a_load_that_makes_no_sense_is_refused() {
        assert!(load(&options(&[])).is_ok());
        for words in ["--rooms=0", "--rooms=1000000", "--cores=0", "--rate=-1", "--share=0", "--share=1.1"] {
            assert!(load(&options(&[words])).is_err(), "{words}");
        }
    }

    #[tokio::test]
    async fn costs_that_were_kept_answer_another_question_without_measuring() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, answer) = (folder.path().join("kept.json"), folder.path().join("answer.json"));
        let costs = r#"{"machine":"two cores","coefficients":{"publish_us":40,"event_us":20,"write_us":4,"more_us":0.2,
            "inbound_us":4,"come_us":200,"redis_publish_us":20,"redis_subscriber_us":1,"redis_come_us":60,
            "redis_user_us":0.5,"idle_us":0.1,"room_us":5,"redis_room_us":2,"socket":3000,"member":200,"room":500,"kernel":4000,"redis_room":600,"redis_user":100,
            "redis_event":100,"envelope":110}}"#;
        fs::write(&kept, costs).unwrap();
        let words = ["--coefficients", kept.to_str().unwrap(), "--json", answer.to_str().unwrap()];
        assert!(run(options(&words)).await.unwrap());
        let told: serde_json::Value = serde_json::from_str(&fs::read_to_string(&answer).unwrap()).unwrap();
        assert_eq!(told["machine"], "two cores");
        assert!(told["plan"]["nodes"].as_f64() >= Some(1.0));
        fs::write(&kept, "{}").unwrap();
        assert!(run(options(&words)).await.is_err());
    }
}
