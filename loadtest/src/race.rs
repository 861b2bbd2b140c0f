//! `race`: crowds that all want the same at once, over a cluster of its own whose replies get lost, and a verdict per
//! invariant.
//!
//! Every scenario runs over all nodes, by sockets and by the API, while the proxies between the nodes and Redis swallow
//! replies at moments that the seed draws; clients send again what they do not know the fate of. Afterwards the
//! invariant is looked up in Redis itself, in what the API says, and in what every subscriber saw. The seed draws who
//! does what when; how the machine schedules the processes is beyond it.

mod api;
mod arena;
mod broken;
mod crowd;
mod files;
mod moderation;
mod names;
mod people;
mod person;
mod sale;
mod store;
mod verdict;
mod watch;
mod webhooks;

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cluster::{Plan, dice::Dice, redis::Form},
    report,
};
use arena::{Arena, Shared};
use verdict::Verdict;

/// Options of `race`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Draws who does what when, and when replies are lost.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Scenarios by name, with commas between.
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<String>,
    /// Tells the names of the scenarios.
    #[arg(long)]
    list: bool,
    /// Smaller crowds where the large ones take long.
    #[arg(long)]
    short: bool,
    /// The test of this test: reads, decides and writes in separate steps, past the nodes, and must be caught.
    #[arg(long)]
    broken: bool,
    /// The nodes' binary.
    #[arg(long, default_value = "target/release/roomcast")]
    bin: PathBuf,
    /// Where the nodes' logs go of a run in which an invariant broke.
    #[arg(long)]
    logs: Option<PathBuf>,
    /// Where to write the result as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How a scenario is played.
#[derive(Debug, Clone)]
struct Play {
    dice: Dice,
    short: bool,
    broken: bool,
}

impl Play {
    /// So many, or a quarter of them in the short form.
    const fn crowd(&self, whole: usize) -> usize {
        if self.short { whole / 4 } else { whole }
    }
}

/// What a scenario found: the verdicts, and figures that are no promise.
#[derive(Debug, Default)]
struct Found {
    verdicts: Vec<Verdict>,
    figures: Vec<(&'static str, String)>,
}

impl From<verdict::Verdicts> for Found {
    fn from(verdicts: verdict::Verdicts) -> Self {
        Self { verdicts: verdicts.into_vec(), figures: Vec::new() }
    }
}

/// Name, what happens, and whether the broken variant knows it.
const SCENARIOS: &[(&str, &str, bool)] = &[
    ("sale", "500 buyers for 10 items, at most 2 each", true),
    ("crowd", "10,000 buyers for 100 items, at most 2 each", false),
    ("restock", "200 buyers, and twice more is put on sale", false),
    ("booking", "600 guests for 60 slots of one place", true),
    ("expiry", "confirms and releases at the moment at which holds end", false),
    ("likes", "1,000 users like, take back and repeat", true),
    ("downloads", "200 at once count, each retry with its key", false),
    ("moderation", "two admins decide about one queue while it grows", false),
    ("uploads", "complete, failed and late progress race", false),
    ("documents", "40 writers compare and set the same documents", false),
    ("tickets", "ten sockets use the same ticket", false),
    ("guests", "twenty tabs show the same secret", false),
    ("claims", "ten users want each name; codes are made in a small space", false),
    ("locks", "thirty owners, short leases, a resource that looks at fences", false),
    ("webhooks", "1,000 posts, half of them duplicates, and a node killed in the middle", false),
    ("intake", "how fast webhooks are answered while the workers are busy", false),
];

async fn play(name: &str, arena: &Shared, play: Play) -> anyhow::Result<Found> {
    match name {
        "sale" => sale::sale(arena, play, "sale", 500, &[10]).await,
        "crowd" => sale::sale(arena, play, "crowd", 10_000, &[100]).await,
        "restock" => sale::sale(arena, play, "restock", 200, &[20, 50, 80]).await,
        "booking" => sale::booking(arena, play).await,
        "expiry" => sale::expiry(arena, play).await,
        "likes" => crowd::likes(arena, play).await,
        "downloads" => crowd::downloads(arena, play).await,
        "moderation" => moderation::moderation(arena, play).await,
        "uploads" => files::uploads(arena, play).await,
        "documents" => files::documents(arena, play).await,
        "tickets" => people::tickets(arena, play).await,
        "guests" => people::guests(arena, play).await,
        "claims" => names::claims(arena, play).await,
        "locks" => names::locks(arena, play).await,
        "webhooks" => webhooks::webhooks(arena, play).await,
        "intake" => webhooks::intake(arena).await,
        name => bail!("no scenario {name}; --list names them"),
    }
}

#[derive(Debug, Serialize)]
struct Outcome {
    scenario: &'static str,
    passed: bool,
    seconds: f64,
    /// Times that replies were swallowed.
    storms: u64,
    /// Requests that were sent again.
    again: u64,
    verdicts: Vec<Verdict>,
    figures: Vec<(&'static str, String)>,
}

#[derive(Debug, Serialize)]
struct Report {
    tool: &'static str,
    seed: u64,
    passed: bool,
    scenarios: Vec<Outcome>,
}

/// Runs the scenarios, one after the other; true where every invariant held.
pub(crate) async fn run(options: Options) -> anyhow::Result<bool> {
    if options.list {
        for (name, what, _) in SCENARIOS {
            println!("{name:12} {what}");
        }
        return Ok(true);
    }
    let chosen = chosen(&options)?;
    ensure!(
        options.bin.is_file(),
        "{} does not exist: build it, or name it with --bin",
        options.bin.display()
    );
    let bin = options.bin.canonicalize().context("the nodes' binary")?;
    let settings = SETTINGS.iter().map(|(name, value)| (format!("ROOMCAST_{name}"), (*value).to_owned()));
    println!("seed {}", options.seed);
    let plan = Plan { bin, form: Form::Standalone, settings: settings.collect() };
    let arena = Arc::new(Arena::start(plan).await?);
    let mut told = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let outcomes = tokio::select! {
        outcomes = all(&arena, &options, &chosen) => outcomes?,
        () = arena.weather(Dice::new(options.seed, 1)) => bail!("the weather ended"),
        _ = told.0.recv() => bail!("interrupted"),
        _ = told.1.recv() => bail!("terminated"),
    };
    let passed = outcomes.iter().all(|outcome| outcome.passed);
    if let Some(folder) = options.logs.as_ref().filter(|_| !passed) {
        arena.cluster.lock().await.save_logs(&folder.join(format!("race-{}", options.seed)))?;
    }
    if outcomes.len() > 1 {
        let broken: Vec<_> = outcomes.iter().filter(|o| !o.passed).map(|o| o.scenario).collect();
        let broken = if broken.is_empty() { "none".to_owned() } else { broken.join(", ") };
        let held = outcomes.iter().filter(|outcome| outcome.passed).count().to_string();
        report::table("race", &[("seed", options.seed.to_string()), ("held", held), ("broken", broken)]);
    }
    let report = Report { tool: "race", seed: options.seed, passed, scenarios: outcomes };
    report::json(options.json.as_deref(), &report)?;
    Ok(passed)
}

/// Crowds come from one address, and nobody is held back: what is tested is what happens when all come through.
const SETTINGS: &[(&str, &str)] = &[
    ("LIMITS__CONNECTIONS_PER_IP", "unlimited"),
    ("LIMITS__CONNECT_RATE_PER_IP", "unlimited"),
    ("LIMITS__CONNECT_BURST_PER_IP", "unlimited"),
    ("LIMITS__FRAMES_PER_SECOND", "10000"),
    ("LIMITS__FRAMES_BURST", "10000"),
    ("LIMITS__COUNTER_OPS_PER_MINUTE", "unlimited"),
    ("CHANGES__SIZE", "500000"),
    ("NAMESPACES__GALLERY__JOIN", "guest"),
    ("NAMESPACES__GALLERY__COUNT", "guest"),
    ("NAMESPACES__GALLERY__MODERATED", "true"),
    ("INGEST__SOURCES__SHOP__ROOM", "event:race-webhooks"),
    ("INGEST__SOURCES__SHOP__EVENT", "order"),
    ("INGEST__SOURCES__CLOCK__ROOM", "event:race-intake"),
    ("INGEST__SOURCES__CLOCK__EVENT", "order"),
];

fn chosen(options: &Options) -> anyhow::Result<Vec<&'static str>> {
    if options.scenario.is_empty() {
        let all = SCENARIOS.iter().filter(|(_, _, breakable)| *breakable || !options.broken);
        return Ok(all.map(|(name, _, _)| *name).collect());
    }
    let find = |name: &String| {
        let (name, _, breakable) = SCENARIOS
            .iter()
            .find(|(of, _, _)| of == name)
            .with_context(|| format!("no scenario {name}; --list names them"))?;
        ensure!(*breakable || !options.broken, "there is no broken variant of {name}");
        Ok(*name)
    };
    options.scenario.iter().map(find).collect()
}

async fn all(arena: &Shared, options: &Options, chosen: &[&'static str]) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for name in chosen {
        let index = SCENARIOS.iter().position(|(of, _, _)| of == name).unwrap_or_default() as u64;
        let dice = Dice::new(options.seed, 100 + index);
        let began = Instant::now();
        let before = (arena.felt.storms.load(Ordering::Relaxed), arena.felt.again.load(Ordering::Relaxed));
        let how = Play { dice, short: options.short, broken: options.broken };
        let found = play(name, arena, how).await;
        arena.rain(false);
        let Found { verdicts, figures } = found.with_context(|| format!("{name} could not be run"))?;
        let outcome = Outcome {
            scenario: name,
            passed: verdicts.iter().all(|verdict| verdict.held),
            seconds: began.elapsed().as_secs_f64(),
            storms: arena.felt.storms.load(Ordering::Relaxed) - before.0,
            again: arena.felt.again.load(Ordering::Relaxed) - before.1,
            verdicts,
            figures,
        };
        tell(&outcome, options);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

fn tell(outcome: &Outcome, options: &Options) {
    let Outcome { scenario, passed, seconds, storms, again, verdicts, figures } = outcome;
    let word = if *passed { "held" } else { "BROKEN" };
    println!(
        "\n{scenario}: {word} ({seconds:.1} s, {storms} times replies were lost, {again} requests sent again)"
    );
    for Verdict { invariant, held, detail } in verdicts {
        println!("  {} {invariant}: {detail}", if *held { "held  " } else { "BROKEN" });
    }
    for (name, value) in figures {
        println!("  figure {name}: {value}");
    }
    if !passed {
        let more = if options.broken { " --broken" } else { "" };
        println!("  again: roomcast-loadtest race --scenario {scenario} --seed {}{more}", options.seed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_found_by_name_and_the_broken_variant_knows_some() {
        let options = |scenario: &[&str], broken| Options {
            seed: 1,
            scenario: scenario.iter().map(|&name| name.to_owned()).collect(),
            list: false,
            short: false,
            broken,
            bin: PathBuf::new(),
            logs: None,
            json: None,
        };
        assert_eq!(chosen(&options(&[], false)).unwrap().len(), SCENARIOS.len());
        assert!(chosen(&options(&[], true)).unwrap().contains(&"sale"));
        assert_eq!(chosen(&options(&["likes", "sale"], true)).unwrap(), ["likes", "sale"]);
        assert!(chosen(&options(&["locks"], true)).is_err());
        assert!(chosen(&options(&["no-such"], false)).is_err());
    }
}
