//! How much of Redis' own speed the store leaves: each operation through [`Counter`], and the very same `EVALSHA` by
//! redis-benchmark, by turns in one run, one connection each and as many commands in flight.
//!
//! `cargo bench -p roomcast-counter`, or `just bench-counters`. Ends with 1 where a ratio is below its bar.

#[allow(dead_code, reason = "what the tests need of it beyond this")]
#[path = "../tests/it/server.rs"]
mod server;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    process::{Command as Process, ExitCode},
    time::{Duration, Instant},
};

use fred::{clients::Client, interfaces::ClientLike, types::CustomCommand};
use roomcast_counter::{Command, Counter, History, Limits, Op, PublishMode, Redis};
use tokio::task::JoinSet;

use crate::server::Server;

const ROOM: &str = "event:bench";
/// Commands in flight on the connection.
const IN_FLIGHT: usize = 128;
/// Per round; a room holds at most 100,000 reservations.
const OPS: usize = 40_000;
const ROUNDS: usize = 9;
/// As a node keeps them.
const CHANGES: u64 = 10_000;
/// Stands where each operation differs; redis-benchmark puts twelve digits there.
const PLACE: &str = "000000000000";
const RANDOM: &str = "__rand_int__";

/// What is measured.
struct Subject {
    name: &'static str,
    /// The least that the median may be.
    bar: f64,
    op: fn(&str) -> (String, Op),
}

const SUBJECTS: [Subject; 3] = [
    Subject {
        name: "like",
        bar: 0.5,
        op: |n| (format!("user-{n}"), Op::Like { target: "photo-1".into(), on: true }),
    },
    Subject {
        name: "count",
        bar: 0.5,
        op: |n| {
            let (target, counter) = ("photo-1".into(), "download".into());
            (format!("user-{n}"), Op::Count { target, counter, by: 1, key: None })
        },
    },
    Subject {
        name: "reserve",
        bar: 0.4,
        op: |n| {
            let op = Op::Reserve { item: "print-a3".into(), quantity: 1, key: format!("key-{n}") };
            (format!("user-{n}"), op)
        },
    },
];

fn command(user: String, op: Op) -> Command {
    Command {
        room: ROOM.to_owned(),
        user,
        history: History { size: 1_000, ttl: Duration::from_secs(3_600) },
        epoch_candidate: "0123456789abcdef".to_owned(),
        op,
    }
}

struct Bench {
    server: Server,
    client: Client,
    counter: Counter,
}

impl Bench {
    /// An empty Redis that knows the scripts and has an item on offer.
    async fn fresh(&self) {
        let flush = CustomCommand::new_static("FLUSHALL", None, false);
        let _ok: String = self.client.custom(flush, Vec::<String>::new()).await.expect("flushed");
        let op = Op::Stock {
            item: "print-a3".into(),
            stock: 1_000_000,
            per_user: 1_000_000,
            hold: Duration::from_secs(3_600),
        };
        self.counter.apply(command("shop".into(), op)).await.expect("stocked");
    }

    /// Operations per second through the store.
    async fn through_the_store(&self, subject: &Subject) -> f64 {
        self.fresh().await;
        let mut lanes = JoinSet::new();
        let began = Instant::now();
        for lane in 0..IN_FLIGHT {
            let (counter, op) = (self.counter.clone(), subject.op);
            lanes.spawn(async move {
                for n in (lane..OPS).step_by(IN_FLIGHT) {
                    let (user, op) = op(&format!("{n:012}"));
                    counter.apply(command(user, op)).await.expect("applied");
                }
            });
        }
        while let Some(done) = lanes.join_next().await {
            done.expect("a lane ended well");
        }
        per_second(began.elapsed())
    }

    /// Operations per second of the same words by redis-benchmark.
    async fn by_redis_benchmark(&self, words: &[String]) -> f64 {
        self.fresh().await;
        let (port, in_flight, ops) = (self.server.port().to_string(), IN_FLIGHT.to_string(), OPS.to_string());
        let output = Process::new("redis-benchmark")
            .args(["-p", &port, "-c", "1", "-P", &in_flight, "-n", &ops, "-r", "999999999", "-q"])
            .args(words)
            .output()
            .expect("redis-benchmark is needed by this bench: apt-get install redis-tools");
        let text = String::from_utf8_lossy(&output.stdout);
        let figure = text.rsplit(" requests per second").nth(1).expect("a figure");
        figure.rsplit(' ').next().and_then(|figure| figure.parse().ok()).expect("a number")
    }

    /// The words with which the store sends an operation, as Redis hears them, with the place of what differs.
    async fn words(&self, subject: &Subject) -> Vec<String> {
        self.fresh().await;
        let (user, op) = (subject.op)("999999999999");
        // Now Redis knows the script.
        self.counter.apply(command(user, op)).await.expect("applied");
        let mut monitor = TcpStream::connect(("127.0.0.1", self.server.port())).expect("a connection");
        monitor.write_all(b"MONITOR\r\n").expect("sent");
        let mut lines = BufReader::new(monitor).lines().map_while(Result::ok);
        assert_eq!(lines.next().as_deref(), Some("+OK"));
        let (user, op) = (subject.op)(PLACE);
        self.counter.apply(command(user, op)).await.expect("applied");
        let line = lines.find(|line| line.to_lowercase().contains("] \"evalsha\" ")).expect("it was sent");
        let words = words_of(line.split_once("] ").expect("words").1);
        // A token is random already: 32 characters that are nobody's.
        let token = |word: &String| {
            word.len() == 32 && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        };
        let words = words.into_iter().map(|word| {
            if token(&word) { format!("{:t>20}{RANDOM}", "") } else { word.replace(PLACE, RANDOM) }
        });
        words.collect()
    }
}

/// The words of a line of MONITOR: each in quotes, with escapes.
fn words_of(line: &str) -> Vec<String> {
    let (mut words, mut word, mut chars) = (Vec::new(), None::<String>, line.chars());
    while let Some(c) = chars.next() {
        match (&mut word, c) {
            (None, '"') => word = Some(String::new()),
            (None, _) => {}
            (Some(_), '"') => words.extend(word.take()),
            (Some(text), '\\') => match chars.next() {
                Some('n') => text.push('\n'),
                Some(escaped @ ('"' | '\\')) => text.push(escaped),
                other => panic!("an escape that no word of ours needs: {other:?}"),
            },
            (Some(text), c) => text.push(c),
        }
    }
    words
}

#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(took: Duration) -> f64 {
    OPS as f64 / took.as_secs_f64()
}

fn median(mut of: Vec<f64>) -> (f64, f64, f64) {
    of.sort_by(f64::total_cmp);
    let at = |index: usize| of.get(index).copied().unwrap_or_default();
    (at(of.len() / 2), at(0), at(of.len().saturating_sub(1)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let server = Server::start();
    let client = server.client().await;
    let limits = Limits { changes: CHANGES, ..Limits::default() };
    let store = Redis::with(client.clone(), "rc", limits, PublishMode::Plain);
    let bench = Bench { server, client, counter: Counter::Redis(store) };
    println!("{OPS} operations a round, {ROUNDS} rounds, {IN_FLIGHT} in flight on one connection");
    let mut good = true;
    for subject in &SUBJECTS {
        let words = bench.words(subject).await;
        let bytes: usize = words.iter().map(|word| word.len() + 5 + word.len().to_string().len()).sum();
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        // The first round of each warms up and does not count.
        for round in 0..=ROUNDS {
            let (mine, other);
            if round % 2 == 0 {
                mine = bench.through_the_store(subject).await;
                other = bench.by_redis_benchmark(&words).await;
            } else {
                other = bench.by_redis_benchmark(&words).await;
                mine = bench.through_the_store(subject).await;
            }
            if round > 0 {
                ours.push(mine);
                theirs.push(other);
                ratios.push(mine / other);
            }
        }
        let (ratio, least, most) = median(ratios);
        let verdict = if ratio >= subject.bar { "holds" } else { "MISSED" };
        good &= ratio >= subject.bar;
        println!(
            "{:8} {ratio:.2} of redis-benchmark ({least:.2} to {most:.2}), bar {:.1} {verdict}; \
             {:.0}/s through the store, {:.0}/s EVALSHA; {bytes} bytes a command",
            subject.name,
            subject.bar,
            median(ours).0,
            median(theirs).0,
        );
    }
    if good { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
