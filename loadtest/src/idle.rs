//! `idle`: many joined connections that say nothing; what each costs the server in user-space memory, and whether
//! all of them are still there at the end.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use roomcast_protocol::{Op, Ping, RoomName};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Client, ClientError},
    report,
    system::{self, Memory},
    target::{Identity, Sources, Target, Wire},
};

/// How many connections are being opened at once.
const OPENING: u64 = 128;
/// Beyond this, freed memory of the handshakes has had time to go back, and joins to be announced.
const DEFAULT_SETTLE: &str = "5s";

/// Options of `idle`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Options {
    /// The node's endpoint, `ws://host:port/ws`.
    #[arg(long)]
    url: String,
    /// Connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// A room to join; give several to spread the connections over them.
    #[arg(long = "room", default_value = "event:idle")]
    rooms: Vec<String>,
    /// The server's process: measure its memory before and after.
    #[arg(long)]
    pid: Option<u32>,
    /// What the clients speak.
    #[arg(long, value_enum, default_value = "both")]
    codec: Wire,
    #[command(flatten)]
    #[serde(skip)]
    sources: Sources,
    /// Connections opened per second.
    #[arg(long, default_value_t = 500)]
    connect_rate: u32,
    /// How long to wait before memory is measured.
    #[arg(long, default_value = DEFAULT_SETTLE, value_parser = humantime::parse_duration)]
    settle: Duration,
    /// How long to stay connected after that.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    hold: Duration,
    /// Fail where one connection costs more than this.
    #[arg(long, requires = "pid")]
    max_kib: Option<f64>,
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
    connected: u64,
    connect_seconds: f64,
    answered: u64,
    failures: BTreeMap<String, u64>,
    before: Option<Memory>,
    after: Option<Memory>,
    rss_anon_kib_per_connection: Option<f64>,
    pss_kib_per_connection: Option<f64>,
}

/// Runs the test; true where every connection lasted, answered, and cost no more than allowed.
pub(crate) async fn run(options: Options) -> anyhow::Result<bool> {
    ensure!(
        options.connections > 0 && options.connect_rate > 0,
        "--connections and --connect-rate are 1 or more"
    );
    system::need_sockets(options.connections)?;
    let target = Target::resolve(&options.url).await?;
    options.sources.check(std::slice::from_ref(&target))?;
    let rooms = options
        .rooms
        .iter()
        .map(|room| RoomName::parse(room).with_context(|| format!("--room {room:?}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let memory = || options.pid.map(Memory::of).transpose();
    let before = memory()?;

    let began = Instant::now();
    let asked = CancellationToken::new();
    let joined = Arc::new(AtomicU64::new(0));
    let mut sockets = open(&options, &target, &rooms, &asked, &joined).await;
    let connected = joined.load(Ordering::Relaxed);
    let connect_seconds = began.elapsed().as_secs_f64();
    sleep(options.settle).await;
    let after = memory()?;
    sleep(options.hold).await;

    asked.cancel();
    let mut answered = 0;
    let mut failures = BTreeMap::new();
    while let Some(one) = sockets.join_next().await {
        match one.context("a client panicked")? {
            Ok(()) => answered += 1,
            Err(error) => *failures.entry(error).or_default() += 1,
        }
    }
    let per_connection = |of: fn(&Memory) -> Option<u64>| -> Option<f64> {
        let (before, after) = (of(before.as_ref()?)?, of(after.as_ref()?)?);
        Some(share(before, after, connected))
    };
    let rss_anon_kib_per_connection = per_connection(|memory| Some(memory.rss_anon_kib));
    let small = options.max_kib.is_none_or(|max| rss_anon_kib_per_connection.is_some_and(|kib| kib <= max));
    let report = Report {
        tool: "idle",
        settings: &options,
        passed: answered == options.connections as u64 && small,
        connected,
        connect_seconds,
        answered,
        failures,
        before,
        after,
        rss_anon_kib_per_connection,
        pss_kib_per_connection: per_connection(|memory| memory.pss_kib),
    };
    print(&report);
    report::json(options.json.as_deref(), &report)?;
    Ok(report.passed)
}

/// Opens the connections at the wanted pace and waits until each has joined or failed.
async fn open(
    options: &Options,
    target: &Target,
    rooms: &[RoomName],
    asked: &CancellationToken,
    joined: &Arc<AtomicU64>,
) -> JoinSet<Result<(), String>> {
    let bar = report::bar("connecting", options.connections as u64);
    let mut pace = interval(Duration::from_secs(1) / options.connect_rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let done = Arc::new(AtomicU64::new(0));
    let mut sockets = JoinSet::new();
    for index in 0..options.connections {
        pace.tick().await;
        bar.set_position(done.load(Ordering::Relaxed));
        while index as u64 - done.load(Ordering::Relaxed) >= OPENING {
            sleep(Duration::from_millis(1)).await;
        }
        let (target, room) = (target.clone(), rooms[index % rooms.len()].clone());
        let (codec, source) = (options.codec.codec(index), options.sources.of(index));
        let (asked, joined, done) = (asked.clone(), joined.clone(), done.clone());
        sockets.spawn(async move {
            let opened = async {
                let (mut client, _) = Client::connect(&target, codec, source, Identity::guest()).await?;
                client.join(&room, None).await?;
                Ok::<_, ClientError>(client)
            };
            let opened = opened.await;
            done.fetch_add(1, Ordering::Relaxed);
            let client = opened.map_err(|error| format!("opening: {}", chain(&error)))?;
            joined.fetch_add(1, Ordering::Relaxed);
            stay(client, &asked).await
        });
    }
    while done.load(Ordering::Relaxed) < options.connections as u64 {
        bar.set_position(done.load(Ordering::Relaxed));
        sleep(Duration::from_millis(10)).await;
    }
    bar.finish_and_clear();
    sockets
}

/// Reads, and so answers pings, until it is asked whether it is still there; then asks the server the same.
async fn stay(mut client: Client, asked: &CancellationToken) -> Result<(), String> {
    loop {
        let message = tokio::select! {
            () = asked.cancelled() => break,
            message = client.message() => message,
        };
        message.map_err(|error| format!("while idle: {}", chain(&error)))?;
    }
    let pong = client.request_patiently(Op::Ping(Ping {})).await;
    pong.map_err(|error| format!("ping at the end: {}", chain(&error)))?;
    client.close().await;
    Ok(())
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[allow(clippy::cast_precision_loss, reason = "KiB per connection, to two digits")]
fn share(before: u64, after: u64, connections: u64) -> f64 {
    (after as f64 - before as f64) / connections.max(1) as f64
}

fn print(report: &Report<'_>) {
    let kib =
        |value: Option<f64>| value.map_or_else(|| "not measured".to_owned(), |kib| format!("{kib:.2} KiB"));
    let whole = |memory: Option<Memory>| {
        memory.map_or_else(
            || "not measured".to_owned(),
            |memory| format!("{} KiB RssAnon", memory.rss_anon_kib),
        )
    };
    let mut rows = vec![
        (
            "connections",
            format!(
                "{} of {} in {:.1} s",
                report.connected, report.settings.connections, report.connect_seconds
            ),
        ),
        ("still there", format!("{} answered a ping at the end", report.answered)),
        ("server before", whole(report.before)),
        ("server after", whole(report.after)),
        ("per connection", format!("{} RssAnon", kib(report.rss_anon_kib_per_connection))),
        ("", format!("{} PSS", kib(report.pss_kib_per_connection))),
        ("verdict", if report.passed { "passed".to_owned() } else { "FAILED".to_owned() }),
    ];
    for (failure, times) in &report.failures {
        rows.push(("failure", format!("{times} × {failure}")));
    }
    report::table("idle", &rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shared_out_over_the_connections_that_joined() {
        assert!((share(1_000, 61_000, 10_000) - 6.0).abs() < 1e-9);
        assert!((share(61_000, 1_000, 0) + 60_000.0).abs() < 1e-9);
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error = ClientError::Tcp(std::io::Error::other("no route"));
        assert_eq!(chain(&error), "no TCP connection: no route");
    }
}
