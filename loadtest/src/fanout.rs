//! `fanout`: rooms full of subscribers, publishers at a steady rate; latency, loss, order, unexpected closes.

mod publisher;
mod subscriber;
pub(crate) mod tally;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use roomcast_protocol::RoomName;
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use self::{
    publisher::{Plan, Sent},
    subscriber::{Seen, Shared},
    tally::Tally,
};
use crate::{
    client::Client,
    report::{self, Latency},
    system,
    target::{Identity, Sources, Target, Wire},
};

/// How many connections are being opened at once.
const OPENING: usize = 128;
/// After the last publish: how long nothing may come before what is missing counts as lost.
const SILENCE: Duration = Duration::from_secs(3);

/// Options of `fanout`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Options {
    /// A node's endpoint, `ws://host:port/ws`; give several to spread the clients over nodes.
    #[arg(long, required = true)]
    url: Vec<String>,
    /// Rooms.
    #[arg(long, default_value_t = 1)]
    rooms: usize,
    /// Subscribers per room.
    #[arg(long, default_value_t = 100)]
    subscribers: usize,
    /// Publishers per room.
    #[arg(long, default_value_t = 1)]
    publishers: usize,
    /// Events per second and room.
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Bytes of each event's `data`.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// How long to publish.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// What the subscribers speak.
    #[arg(long, value_enum, default_value = "both")]
    codec: Wire,
    #[command(flatten)]
    #[serde(skip)]
    sources: Sources,
    #[command(flatten)]
    #[serde(skip)]
    identity: Identity,
    /// The rooms' namespace: guests must be allowed to join it, members to publish.
    #[arg(long, default_value = "event")]
    namespace: String,
    /// Connections opened per second.
    #[arg(long, default_value_t = 500)]
    connect_rate: u32,
    /// Where to write the result as JSON.
    #[arg(long)]
    #[serde(skip)]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    tool: &'static str,
    settings: &'a Options,
    passed: bool,
    connected: usize,
    connect_seconds: f64,
    published: u64,
    published_per_second: f64,
    refused: u64,
    expected: u64,
    received: u64,
    delivered_per_second: f64,
    lost: u64,
    late: u64,
    duplicates: u64,
    offset_jumps: u64,
    warnings: u64,
    unexpected_closes: u64,
    failures: BTreeMap<String, u64>,
    delivery_us: Latency,
    publish_us: Latency,
}

/// Runs the test; true where nothing was lost, out of order or closed.
pub(crate) async fn run(options: Options) -> anyhow::Result<bool> {
    check(&options)?;
    let sockets = options.rooms * (options.subscribers + options.publishers);
    system::need_sockets(sockets)?;
    let targets = Target::resolve_all(&options.url).await?;
    options.sources.check(&targets)?;
    let names = rooms(&options)?;
    let shared = Arc::new(Shared::new());

    let opened = Instant::now();
    let mut readers = JoinSet::new();
    let subscribers = subscribe(&options, &targets, &names).await?;
    for (index, (room, client, tally)) in subscribers.into_iter().enumerate() {
        readers.spawn(subscriber::read(client, index, room, tally, shared.clone()));
    }
    let publishers = open_publishers(&options, &targets, &names).await?;
    let connect_seconds = opened.elapsed().as_secs_f64();

    let began = Instant::now();
    let mut writers = JoinSet::new();
    for (client, plan) in publishers {
        writers.spawn(publisher::publish(client, plan, shared.clone()));
    }
    let mut sent: Vec<Sent> = Vec::new();
    let bar = report::bar("publishing", options.duration.as_secs());
    let mut tick = interval(Duration::from_secs(1));
    while !writers.is_empty() {
        tokio::select! {
            Some(one) = writers.join_next() => sent.push(one.context("a publisher panicked")?),
            _ = tick.tick() => bar.set_position(began.elapsed().as_secs().min(options.duration.as_secs())),
        }
    }
    bar.finish_and_clear();
    let published_in = began.elapsed();
    let expected: u64 = sent.iter().map(|sent| sent.published * options.subscribers as u64).sum();
    let delivered_in = drain(&shared, expected, began).await;
    shared.stop.cancel();
    let mut seen: Vec<Seen> = Vec::new();
    while let Some(one) = readers.join_next().await {
        seen.push(one.context("a subscriber panicked")?);
    }
    let mut report = judge(&options, &sent, &seen);
    report.connected = sockets;
    report.connect_seconds = connect_seconds;
    report.published_per_second = report::per_second(report.published, published_in);
    report.delivered_per_second = report::per_second(report.received, delivered_in);
    report.expected = expected;
    report.delivery_us = Latency::of(&shared.latency());
    print(&report);
    report::json(options.json.as_deref(), &report)?;
    Ok(report.passed)
}

fn check(options: &Options) -> anyhow::Result<()> {
    ensure!(options.rooms > 0 && options.subscribers > 0, "--rooms and --subscribers are 1 or more");
    ensure!(options.publishers > 0, "--publishers is 1 or more");
    ensure!(options.connect_rate > 0, "--connect-rate is 1 or more");
    ensure!(options.rate.is_finite() && options.rate > 0.0, "--rate is above 0");
    ensure!(!options.duration.is_zero(), "--duration is above 0");
    // Before thousands of sockets are open: publishing needs a token.
    options.identity.member("publisher")?;
    Ok(())
}

/// Names of rooms that no other run used, so that their logs start empty.
fn rooms(options: &Options) -> anyhow::Result<Vec<RoomName>> {
    let run = std::process::id();
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
    (0..options.rooms)
        .map(|room| {
            let name = format!("{}:load-{now:x}-{run:x}-{room}", options.namespace);
            RoomName::parse(&name).with_context(|| format!("--namespace {:?}", options.namespace))
        })
        .collect()
}

async fn subscribe(
    options: &Options,
    targets: &[Target],
    names: &[RoomName],
) -> anyhow::Result<Vec<(usize, Client, Tally)>> {
    let total = options.rooms * options.subscribers;
    let bar = report::bar("connecting", total as u64);
    let mut pace = interval(Duration::from_secs(1) / options.connect_rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut opening = JoinSet::new();
    let mut all = Vec::with_capacity(total);
    for index in 0..total {
        pace.tick().await;
        while opening.len() >= OPENING {
            all.extend(next(&mut opening).await?);
        }
        let room = index % options.rooms;
        // Each room has subscribers on every node and in every codec.
        let turn = index / options.rooms;
        let target = targets[turn % targets.len()].clone();
        let codec = options.codec.codec(turn / targets.len());
        let source = options.sources.of(index);
        let (name, publishers) = (names[room].clone(), options.publishers);
        opening.spawn(async move {
            let (mut client, _) = Client::connect(&target, codec, source, Identity::guest()).await?;
            let joined = client.join(&name, None).await?;
            anyhow::Ok((room, client, Tally::new(publishers, joined.offset.0)))
        });
        bar.set_position(all.len() as u64);
    }
    while !opening.is_empty() {
        all.extend(next(&mut opening).await?);
        bar.set_position(all.len() as u64);
    }
    bar.finish_and_clear();
    Ok(all)
}

async fn next<T: 'static>(opening: &mut JoinSet<anyhow::Result<T>>) -> anyhow::Result<Option<T>> {
    match opening.join_next().await {
        Some(one) => Ok(Some(one.context("a task panicked")?.context("connecting")?)),
        None => Ok(None),
    }
}

async fn open_publishers(
    options: &Options,
    targets: &[Target],
    names: &[RoomName],
) -> anyhow::Result<Vec<(Client, Plan)>> {
    let per_publisher = options.rate / f64::from(u32::try_from(options.publishers).unwrap_or(u32::MAX));
    let period = Duration::from_secs_f64(1.0 / per_publisher);
    let total = options.rooms * options.publishers;
    let mut pace = interval(Duration::from_secs(1) / options.connect_rate);
    let mut all = Vec::with_capacity(total);
    for index in 0..total {
        pace.tick().await;
        let who = options.identity.member(&format!("load-publisher-{index}"))?;
        let target = &targets[index % targets.len()];
        let source = options.sources.of(options.rooms * options.subscribers + index);
        let (client, welcome) = Client::connect(target, options.codec.codec(index), source, who)
            .await
            .context("connecting a publisher")?;
        if index == 0
            && let Some(allowed) = welcome.limits.frames_per_second
            && per_publisher > f64::from(u32::try_from(allowed).unwrap_or(u32::MAX))
        {
            eprintln!(
                "{per_publisher:.0} events/s per publisher, but the node allows {allowed} frames/s per connection: \
                 expect refusals; use more --publishers or raise limits.frames_per_second"
            );
        }
        let room = index % options.rooms;
        let plan = Plan {
            room,
            name: names[room].clone(),
            publisher: u32::try_from(index / options.rooms).unwrap_or(u32::MAX),
            period,
            delay: period
                .mul_f64(f64::from(u32::try_from(index).unwrap_or(0)) / f64::from(u32::try_from(total)?)),
            duration: options.duration,
            payload: options.payload,
        };
        all.push((client, plan));
    }
    Ok(all)
}

/// Waits until everything arrived, or nothing has for a while. Returns the time until the last arrival.
async fn drain(shared: &Shared, expected: u64, began: Instant) -> Duration {
    let mut received = shared.received.load(Ordering::Relaxed);
    let mut last = Instant::now();
    while received < expected && last.elapsed() < SILENCE {
        sleep(Duration::from_millis(20)).await;
        let now = shared.received.load(Ordering::Relaxed);
        if now != received {
            (received, last) = (now, Instant::now());
        }
    }
    last - began
}

fn judge<'a>(options: &'a Options, sent: &[Sent], seen: &[Seen]) -> Report<'a> {
    let mut published = vec![vec![0; options.publishers]; options.rooms];
    let mut publish = report::histogram();
    let mut failures = BTreeMap::new();
    for one in sent {
        if let Some(last) =
            usize::try_from(one.publisher).ok().and_then(|publisher| published[one.room].get_mut(publisher))
        {
            *last = one.published;
        }
        let _same_bounds = publish.add(&one.latency);
    }
    let ended = sent.iter().filter_map(|sent| sent.failure.as_ref());
    for failure in ended.chain(seen.iter().filter_map(|seen| seen.failure.as_ref())) {
        *failures.entry(failure.clone()).or_default() += 1;
    }
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
    let empty = Latency::of(&report::histogram());
    let mut report = Report {
        tool: "fanout",
        settings: options,
        passed: false,
        connected: 0,
        connect_seconds: 0.0,
        published: sent.iter().map(|sent| sent.published).sum(),
        published_per_second: 0.0,
        refused: sent.iter().map(|sent| sent.refused).sum(),
        expected: 0,
        received: sum(|seen| seen.tally.received),
        delivered_per_second: 0.0,
        lost: seen.iter().map(|seen| seen.tally.lost(&published[seen.room])).sum(),
        late: sum(|seen| seen.tally.late),
        duplicates: sum(|seen| seen.tally.duplicates),
        offset_jumps: sum(|seen| seen.tally.offset_jumps),
        warnings: sum(|seen| seen.warnings),
        unexpected_closes: failures.values().sum(),
        failures,
        delivery_us: empty,
        publish_us: Latency::of(&publish),
    };
    let findings = report.lost
        + report.late
        + report.duplicates
        + report.offset_jumps
        + report.warnings
        + report.unexpected_closes;
    // A run in which nothing was published has shown nothing.
    report.passed = findings == 0 && report.published > 0;
    report
}

fn print(report: &Report<'_>) {
    let mut rows = vec![
        ("connections", format!("{} in {:.1} s", report.connected, report.connect_seconds)),
        (
            "published",
            format!(
                "{} ({:.0}/s), refused {}",
                report.published, report.published_per_second, report.refused
            ),
        ),
        (
            "delivered",
            format!("{} of {} ({:.0}/s)", report.received, report.expected, report.delivered_per_second),
        ),
        ("lost", report.lost.to_string()),
        ("out of order", format!("{} late, {} jumps in offset", report.late, report.offset_jumps)),
        ("duplicates", report.duplicates.to_string()),
        (
            "unexpected",
            format!("{} closes, {} reset, kicked or goaway", report.unexpected_closes, report.warnings),
        ),
        ("delivery", report.delivery_us.to_string()),
        ("publish", report.publish_us.to_string()),
        ("verdict", if report.passed { "passed".to_owned() } else { "FAILED".to_owned() }),
    ];
    for (failure, times) in &report.failures {
        rows.push(("failure", format!("{times} × {failure}")));
    }
    report::table("fanout", &rows);
}
