//! `slow`: a busy room, and in every other round slow readers in it. What the others feel (the ratio of their p99,
//! with to without), what it costs the node, and whether the slow ones get everything back after they were closed.
//!
//! Both kinds of rounds alternate in one run, so that what else the machine does falls on both alike. It is a
//! benchmark: its verdict means something on a machine that does nothing else.

mod reader;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Args;
use roomcast_protocol::{Data, Offset, Op, Publish, RoomName};
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use self::reader::{Fast, Phase, Shared, Slow};
use crate::{
    client::Client,
    fanout::tally::Stamp,
    report::{self, Latency},
    system::{self, Memory},
    target::{Identity, Sources, Target, Wire},
};

/// Between two rounds: what belongs to the last one has arrived, and the slow readers lag.
const SETTLE: Duration = Duration::from_secs(2);
/// How often the node's memory is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The allocator keeps what it once had, in pieces, and each connection has more than its queue.
const MEMORY_SLACK_KIB: u64 = 32 * 1024;
/// What a slow reader's connection holds besides its queue, in KiB.
const CONNECTION_KIB: u64 = 32;

/// Options of `slow`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Options {
    /// A node's endpoint, `ws://host:port/ws`.
    #[arg(long)]
    url: String,
    /// Slow readers.
    #[arg(long, default_value_t = 200)]
    slow: usize,
    /// Readers that keep up.
    #[arg(long, default_value_t = 100)]
    readers: usize,
    /// Events per second; what a round misses must fit into the room's history.
    #[arg(long, default_value_t = 60)]
    rate: u32,
    /// Bytes of each event's `data`.
    #[arg(long, default_value_t = 4096)]
    payload: usize,
    /// A slow reader takes one frame in this time.
    #[arg(long, default_value = "100ms", value_parser = humantime::parse_duration)]
    read_every: Duration,
    /// How long a round is.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    round: Duration,
    /// Rounds of each kind.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The most that the p99 with slow readers may be of the p99 without.
    #[arg(long, default_value_t = 1.2)]
    max_ratio: f64,
    /// The node's process, whose memory is to be watched.
    #[arg(long)]
    pid: Option<u32>,
    /// The node's `limits.outbound_bytes`.
    #[arg(long, default_value_t = 256 * 1024)]
    outbound_bytes: u64,
    /// The room's namespace.
    #[arg(long, default_value = "event")]
    namespace: String,
    #[command(flatten)]
    #[serde(skip)]
    sources: Sources,
    #[command(flatten)]
    #[serde(skip)]
    identity: Identity,
    /// Where to write the result as JSON.
    #[arg(long)]
    #[serde(skip)]
    json: Option<PathBuf>,
}

/// What the slow readers lived through, in all rounds.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct SlowSeen {
    /// Closed with 4001.
    closed_slow: u64,
    /// Ended without a word.
    ended_untold: u64,
    /// Closed otherwise.
    closed_otherwise: u64,
    /// Came back and got everything since.
    recovered: u64,
    /// Came back and had missed more than the history holds.
    beyond_history: u64,
    /// Had, after their round, everything that was published up to its end.
    caught_up: u64,
    /// Events that were missing or out of order in what a slow reader saw.
    broken: u64,
    /// Why some ended.
    failures: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    tool: &'static str,
    settings: &'a Options,
    passed: bool,
    published: u64,
    ratio_p99: f64,
    without_us: Latency,
    with_us: Latency,
    lost: u64,
    disorder: u64,
    unexpected_closes: u64,
    slow: SlowSeen,
    memory_without_kib: Option<u64>,
    memory_with_kib: Option<u64>,
    memory_bound_kib: u64,
}

/// What a publish answered.
#[derive(Debug, Deserialize)]
struct Published {
    offset: Offset,
}

/// Runs the benchmark; true where nobody else felt the slow readers.
pub(crate) async fn run(options: Options) -> anyhow::Result<bool> {
    ensure!(options.slow > 0 && options.readers > 0 && options.rounds > 0, "counts are 1 or more");
    ensure!(options.rate > 0 && !options.round.is_zero(), "--rate and --round are above 0");
    system::need_sockets(options.slow + options.readers + 1)?;
    let target = Target::resolve(&options.url).await?;
    options.sources.check(std::slice::from_ref(&target))?;
    let room = room(&options.namespace)?;
    let shared = Arc::new(Shared::new());

    let mut readers = JoinSet::new();
    for index in 0..options.readers {
        let codec = Wire::Both.codec(index);
        let source = options.sources.of(index);
        let (mut client, _) = Client::connect(&target, codec, source, Identity::guest()).await?;
        let joined = client.join(&room, None).await?;
        readers.spawn(reader::fast(client, joined.offset.0, shared.clone()));
    }
    let stop = CancellationToken::new();
    let who = options.identity.member("load-publisher")?;
    let source = options.sources.of(options.readers);
    let (client, welcome) = Client::connect(&target, Wire::Json.codec(0), source, who).await?;
    if let Some(allowed) = welcome.limits.frames_per_second {
        ensure!(
            u64::from(options.rate) <= allowed,
            "the node allows {allowed} frames/s per connection: raise limits.frames_per_second there, or lower --rate"
        );
    }
    let publishing =
        publish(client, room.clone(), options.rate, options.payload, shared.clone(), stop.clone());
    let mut publisher = JoinSet::new();
    publisher.spawn(publishing);

    // The slow ones have a thread of their own, which has the processor only while nobody else wants it: what
    // they cost this tool is not what the node's other clients feel.
    let apart = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(system::give_way)
        .enable_all()
        .build()
        .context("starting the slow readers' thread")?;
    let (mut slow, mut without_kib, mut with_kib) = (SlowSeen::default(), None, None);
    let bar = report::bar("rounds", 2 * options.rounds as u64);
    for _ in 0..options.rounds {
        sleep(SETTLE).await;
        // The first round alone: what the allocator has kept of a crowd is not what a node without one needs.
        let mut after_a_crowd = None;
        let memory = if without_kib.is_none() { &mut without_kib } else { &mut after_a_crowd };
        round(&shared, Phase::Without, &options, memory).await?;
        bar.inc(1);
        let (crowd, over) = crowd(&options, &target, &room, &shared, apart.handle());
        sleep(SETTLE).await;
        round(&shared, Phase::With, &options, &mut with_kib).await?;
        bar.inc(1);
        over.cancel();
        slow.add(watched(crowd.join_all(), &options, &mut with_kib).await?);
    }
    bar.finish_and_clear();
    apart.shutdown_background();
    stop.cancel();
    let published =
        publisher.join_next().await.context("there is a publisher")?.context("the publisher panicked")??;
    sleep(SETTLE).await;
    shared.stop.cancel();
    let report =
        judge(&options, &shared, published, &readers.join_all().await, slow, (without_kib, with_kib));
    print(&report);
    report::json(options.json.as_deref(), &report)?;
    Ok(report.passed)
}

fn room(namespace: &str) -> anyhow::Result<RoomName> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let name = format!("{namespace}:slow-{:x}-{:x}", now.as_millis(), std::process::id());
    RoomName::parse(&name).with_context(|| format!("--namespace {namespace:?}"))
}

/// One round; the node's highest memory in it is kept.
async fn round(
    shared: &Shared,
    phase: Phase,
    options: &Options,
    memory: &mut Option<u64>,
) -> anyhow::Result<()> {
    shared.enter(phase);
    watched(sleep(options.round), options, memory).await?;
    shared.enter(Phase::Between);
    Ok(())
}

/// Waits for something; the node's highest memory meanwhile is kept.
async fn watched<T>(
    what: impl Future<Output = T>,
    options: &Options,
    memory: &mut Option<u64>,
) -> anyhow::Result<T> {
    let mut what = std::pin::pin!(what);
    loop {
        if let Some(pid) = options.pid {
            *memory = (*memory).max(Some(Memory::of(pid)?.rss_anon_kib));
        }
        tokio::select! {
            done = &mut what => return Ok(done),
            () = sleep(LOOK) => {}
        }
    }
}

/// All slow readers of a round.
fn crowd(
    options: &Options,
    target: &Target,
    room: &RoomName,
    shared: &Arc<Shared>,
    apart: &tokio::runtime::Handle,
) -> (JoinSet<Slow>, CancellationToken) {
    let over = CancellationToken::new();
    // With a small buffer of its own, a slow reader is slow at once.
    let target = Target { receive_buffer: Some(4096), ..target.clone() };
    let mut crowd = JoinSet::new();
    for index in 0..options.slow {
        let plan = reader::Plan {
            target: target.clone(),
            codec: Wire::Both.codec(index),
            source: options.sources.of(options.readers + 1 + index),
            room: room.clone(),
            read_every: options.read_every,
        };
        // Opened there too: a socket belongs to the thread that opened it.
        crowd.spawn_on(reader::slow(plan, shared.clone(), over.clone()), apart);
    }
    (crowd, over)
}

/// Publishes at a steady rate until it is told to stop. Answers how many events there are.
async fn publish(
    mut client: Client,
    room: RoomName,
    rate: u32,
    payload: usize,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> anyhow::Result<u64> {
    let mut tick = interval(Duration::from_secs(1) / rate);
    // A late tick is not made up for: a burst would be felt as latency in whichever round it falls.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut published = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(published),
            _ = tick.tick() => {}
        }
        let stamp = Stamp { p: 0, n: published + 1, t: shared.now(), x: String::new() };
        let data = Data::of(&stamp.filled(payload))?;
        let op = Op::Publish(Publish { room: room.clone(), event: "load".to_owned(), data, key: None });
        let answer: Published = client.request_patiently(op).await?.to()?;
        shared.published(answer.offset.0);
        published += 1;
    }
}

impl SlowSeen {
    fn add(&mut self, crowd: Vec<Slow>) {
        for one in crowd {
            self.closed_slow += one.closed;
            self.ended_untold += one.ended_untold;
            self.caught_up += one.caught_up;
            self.closed_otherwise += one.closed_otherwise;
            self.recovered += one.recovered;
            self.beyond_history += one.beyond_history;
            self.broken += one.broken;
            self.failures.extend(one.failure);
        }
    }
}

fn judge<'a>(
    options: &'a Options,
    shared: &Shared,
    published: u64,
    readers: &[Fast],
    slow: SlowSeen,
    (without_kib, with_kib): (Option<u64>, Option<u64>),
) -> Report<'a> {
    let (without, with) = (shared.latency(Phase::Without), shared.latency(Phase::With));
    let (without_us, with_us) = (Latency::of(&without), Latency::of(&with));
    #[allow(clippy::cast_precision_loss, reason = "microseconds below two minutes")]
    let ratio_p99 = with_us.p99 as f64 / without_us.p99.max(1) as f64;
    let lost: u64 = readers.iter().map(|fast| fast.tally.lost(&[published])).sum();
    let disorder =
        readers.iter().map(|fast| fast.tally.late + fast.tally.duplicates + fast.tally.offset_jumps).sum();
    let unexpected_closes = readers.iter().filter(|fast| fast.failure.is_some()).count() as u64;
    let memory_bound_kib =
        options.slow as u64 * (options.outbound_bytes / 1024 + CONNECTION_KIB) + MEMORY_SLACK_KIB;
    let grown = with_kib.zip(without_kib).map(|(with, without)| with.saturating_sub(without));
    let passed = ratio_p99 <= options.max_ratio
        && lost + disorder + unexpected_closes == 0
        && slow.broken + slow.closed_otherwise + slow.ended_untold == 0
        && slow.caught_up == (options.slow * options.rounds) as u64
        && slow.failures.is_empty()
        && grown.is_none_or(|grown| grown <= memory_bound_kib)
        // A run in which nobody was slow has shown nothing.
        && slow.closed_slow > 0
        && without_us.count > 0
        && with_us.count > 0;
    Report {
        tool: "slow",
        settings: options,
        passed,
        published,
        ratio_p99,
        without_us,
        with_us,
        lost,
        disorder,
        unexpected_closes,
        slow,
        memory_without_kib: without_kib,
        memory_with_kib: with_kib,
        memory_bound_kib,
    }
}

fn print(report: &Report<'_>) {
    let slow = &report.slow;
    let memory = match (report.memory_without_kib, report.memory_with_kib) {
        (Some(without), Some(with)) => {
            let mib = |kib: u64| kib / 1024;
            format!(
                "{} MiB without, {} MiB with; may grow by {} MiB",
                mib(without),
                mib(with),
                mib(report.memory_bound_kib)
            )
        }
        _ => "not watched (give --pid)".to_owned(),
    };
    let mut rows = vec![
        ("published", report.published.to_string()),
        ("without", report.without_us.to_string()),
        ("with", report.with_us.to_string()),
        ("p99 ratio", format!("{:.2} (at most {:.2})", report.ratio_p99, report.settings.max_ratio)),
        ("others", format!("{} lost, {} out of order", report.lost, report.disorder)),
        ("others closed", report.unexpected_closes.to_string()),
        (
            "slow closed",
            format!(
                "{} with 4001, {} without a word, {} otherwise",
                slow.closed_slow, slow.ended_untold, slow.closed_otherwise
            ),
        ),
        (
            "slow came back",
            format!(
                "{} times; {} had everything in the end, {} times beyond the history, {} broken",
                slow.recovered, slow.caught_up, slow.beyond_history, slow.broken
            ),
        ),
        ("memory", memory),
        ("verdict", if report.passed { "passed".to_owned() } else { "FAILED".to_owned() }),
    ];
    for failure in slow.failures.iter().take(5) {
        rows.push(("failure", failure.clone()));
    }
    report::table("slow", &rows);
}
