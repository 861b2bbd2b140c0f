//! `chaos`: a cluster of its own, clients that keep a ledger, faults, and a verdict per promise.
//!
//! It starts Redis, three nodes and HAProxy on free ports of the loopback, lets members publish and guests follow in
//! both codecs, breaks things, and holds what was seen against what was promised. The seed draws the faults, their
//! times and their victims; how the machine schedules the processes is beyond it.

mod faults;
mod follower;
mod judge;
mod ledger;
mod publisher;
mod run;
mod scenarios;
mod subscriber;
mod table;
mod watch;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Serialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use crate::{
    cluster::{self, dice, http, process, proxy, redis},
    report,
};
use judge::{Kind, Measure, Verdict};
use scenarios::Scenario;

/// Options of `chaos`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Draws times, victims and, in `random`, faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Scenarios by name, with commas between; `all` or `all-but-random` for many.
    #[arg(long, value_delimiter = ',', default_value = "random")]
    scenario: Vec<String>,
    /// How long faults are made in each scenario; every fault comes at least once.
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Tells the names of the scenarios.
    #[arg(long)]
    list: bool,
    /// The nodes' binary.
    #[arg(long, default_value = "target/release/roomcast")]
    bin: PathBuf,
    /// Scenarios that run at once.
    #[arg(long, default_value_t = 1)]
    parallel: usize,
    /// Bounds of time are multiplied by this: for machines that have other things to do.
    #[arg(long, default_value_t = 1.0)]
    patience: f64,
    /// Scenarios that break nothing but a bound of time run once more, alone and with the same seed, and that counts.
    #[arg(long)]
    again: bool,
    /// How many come back at once in a storm.
    #[arg(long, default_value_t = 5_000)]
    crowd: usize,
    /// A setting of the nodes, as often as needed: `--set limits.outbound_bytes=64KiB`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A variable of the nodes' environment, for builds with hooks: `--env NAME=VALUE`.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Where the logs of a run go that broke a promise.
    #[arg(long)]
    logs: Option<PathBuf>,
    /// A document into which the table of times is put, between its marks.
    #[arg(long)]
    table: Option<PathBuf>,
    /// Where to write the result as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One scenario's outcome.
#[derive(Debug, Clone, Serialize)]
struct Outcome {
    scenario: &'static str,
    seed: u64,
    passed: bool,
    seconds: f64,
    verdicts: Vec<Verdict>,
    faults: Vec<Measure>,
}

#[derive(Debug, Serialize)]
struct Report {
    tool: &'static str,
    passed: bool,
    scenarios: Vec<Outcome>,
}

/// Runs the scenarios; true where every promise held in all.
pub(crate) async fn run(options: Options) -> anyhow::Result<bool> {
    if options.list {
        for name in scenarios::names() {
            println!("{name:22} {}", scenarios::describe(name));
        }
        return Ok(true);
    }
    ensure!(
        options.bin.is_file(),
        "{} does not exist: build it, or name it with --bin",
        options.bin.display()
    );
    let bin = options.bin.canonicalize().context("the nodes' binary")?;
    let options = Options { bin, ..options };
    let mut waiting = chosen(&options)?;
    waiting.reverse();
    let mut told = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (mut outcomes, mut failures) = (Vec::new(), Vec::new());
    let mut late = Vec::new();
    // Dropped on every way out, and with it all processes of all runs.
    let mut running = JoinSet::new();
    loop {
        while running.len() < options.parallel.max(1) {
            let Some(scenario) = waiting.pop() else { break };
            start(&mut running, &options, scenario, Turn::First);
        }
        if running.is_empty()
            && let Some(scenario) = late.pop()
        {
            start(&mut running, &options, scenario, Turn::Again);
        }
        tokio::select! {
            done = running.join_next() => match done {
                Some(done) => {
                    let (scenario, turn, ended) = done.context("a scenario panicked")?;
                    match ended {
                        Ok(outcome) => {
                            tell(&outcome, &options);
                            if options.again && turn == Turn::First && outcome.was_only_late() {
                                println!("  nothing but time: it runs once more, alone");
                                late.push(scenario);
                            } else {
                                outcomes.push(outcome);
                            }
                        }
                        Err(error) => {
                            eprintln!("\n{}: could not be run: {error:#}", scenario.name);
                            failures.push(scenario.name);
                        }
                    }
                }
                None => break,
            },
            _ = told.0.recv() => bail!("interrupted"),
            _ = told.1.recv() => bail!("terminated"),
        }
    }
    let passed = outcomes.iter().all(|outcome| outcome.passed);
    if let Some(file) = &options.table {
        let measures: Vec<_> = outcomes.iter().flat_map(|outcome| outcome.faults.clone()).collect();
        table::merge(file, &measures)?;
    }
    if outcomes.len() > 1 {
        summary(&outcomes);
    }
    let report = Report { tool: "chaos", passed, scenarios: outcomes };
    report::json(options.json.as_deref(), &report)?;
    ensure!(failures.is_empty(), "could not be run: {}", failures.join(", "));
    Ok(passed)
}

/// Whether a scenario ran before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Again,
}

type Ended = (Scenario, Turn, anyhow::Result<Outcome>);

fn start(running: &mut JoinSet<Ended>, options: &Options, scenario: Scenario, turn: Turn) {
    let options = options.clone();
    running.spawn(async move {
        let ended = run::run(options, scenario.clone()).await;
        (scenario, turn, ended)
    });
}

impl Outcome {
    /// It broke something, and all that it broke is a bound of time.
    fn was_only_late(&self) -> bool {
        let mut broken = self.verdicts.iter().filter(|verdict| !verdict.held).peekable();
        broken.peek().is_some() && broken.all(|verdict| verdict.kind == Kind::Time)
    }
}

fn chosen(options: &Options) -> anyhow::Result<Vec<Scenario>> {
    let names = options.scenario.iter().flat_map(|name| match name.as_str() {
        "all" => scenarios::names().map(str::to_owned).collect(),
        "all-but-random" => {
            scenarios::names().filter(|name| *name != scenarios::RANDOM).map(str::to_owned).collect()
        }
        name => vec![name.to_owned()],
    });
    let find = |name: String| {
        scenarios::find(&name, options.seed).with_context(|| format!("no scenario {name}; --list names them"))
    };
    names.map(find).collect()
}

fn tell(outcome: &Outcome, options: &Options) {
    let Outcome { scenario, seed, passed, seconds, verdicts, faults } = outcome;
    let word = if *passed { "held" } else { "BROKEN" };
    println!("\n{scenario} (seed {seed}, {seconds:.0} s): {word}");
    for measure in faults {
        let notice = measure.notice_ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
        println!(
            "  {:>7} ms  {:?}: noticed {notice}, healed {} ms after its {}, presence true after {} ms",
            measure.start_ms,
            measure.fault,
            measure.heal_ms,
            if measure.since == faults::Since::Start { "start" } else { "end" },
            measure.presence_ms
        );
    }
    for Verdict { promise, held, detail, .. } in verdicts {
        println!("  {} {promise}: {detail}", if *held { "held  " } else { "BROKEN" });
    }
    if !passed {
        let duration = humantime::format_duration(options.duration);
        println!(
            "  again: roomcast-loadtest chaos --scenario {scenario} --seed {seed} --duration {duration}"
        );
    }
}

fn summary(outcomes: &[Outcome]) {
    let held = outcomes.iter().filter(|outcome| outcome.passed).count();
    let broken: Vec<_> =
        outcomes.iter().filter(|outcome| !outcome.passed).map(|outcome| outcome.scenario).collect();
    let broken = if broken.is_empty() { "none".to_owned() } else { broken.join(", ") };
    report::table("chaos", &[("held", held.to_string()), ("broken", broken)]);
}
