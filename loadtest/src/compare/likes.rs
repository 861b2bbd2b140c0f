//! Likes through the whole path (WebSocket, permission, limits, Redis, answer, pushes), per second, over what
//! `redis-benchmark` gets from the very same script with as many clients. The script and its arguments are read off a
//! real like with MONITOR, so they can't differ.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use super::{
    Bench,
    peer::{Peer, Running},
    result::Case,
    swarm::Swarm,
    wire::{self, Message, Role},
};
use crate::{cluster::process::need, report};

/// Clients on either side; each has one like under way.
const CLIENTS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(20);
/// The first id that neither `connect` nor `join` used.
const FIRST_ID: u64 = 3;
const UNIT: &str = "likes per second";

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Vec<Case>> {
    let (time, requests, rounds) = if bench.quick {
        (Duration::from_millis(200), 3000, 2)
    } else {
        (Duration::from_secs(1), 20_000, bench.rounds.min(7))
    };
    let running = Running::start(Peer::Roomcast, &bench.places, bench.cores).await?;
    let redis = running.redis.as_ref().context("a node without Redis")?.port;
    let clients = Swarm::open(running.peer.wire(), running.address, &[Role::Member(0); CLIENTS])?;
    let mut likers = Likers { clients, next: vec![FIRST_ID; CLIENTS] };

    let mut monitor = TcpStream::connect(("127.0.0.1", redis)).await.context("connecting to Redis")?;
    monitor.write_all(b"MONITOR\r\n").await.context("asking Redis for what it is told")?;
    let mut lines = BufReader::new(monitor).lines();
    timeout(PATIENCE, lines.next_line()).await.context("MONITOR")??;
    likers.like_once()?;
    let deadline = Instant::now() + PATIENCE;
    let script = loop {
        ensure!(Instant::now() < deadline, "Redis was told no script that likes");
        let line = timeout(PATIENCE, lines.next_line()).await.context("no script was seen")??;
        let words = words(&line.context("MONITOR ended")?);
        if let Some(words) = benchmarked(words) {
            break words;
        }
    };
    drop(lines);

    let mut whole = Case::new("likes per second", UNIT);
    let mut ratio =
        Case::new("likes per second over EVALSHA of the same script", "likes per second over EVALSHA's");
    let bar = report::bar("likes", (rounds + 1) as u64);
    for round in 0..=rounds {
        let through = likers.rate(time)?;
        let bare = redis_benchmark(bench.cores.server, redis, requests, &script).await?;
        likers.clients.turn(Duration::ZERO, |_, _| {})?;
        if let Some(round) = round.checked_sub(1) {
            whole.set(Peer::Roomcast.name(), round, through);
            whole.set("redis-benchmark", round, bare);
            ratio.set(Peer::Roomcast.name(), round, through / bare);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(vec![whole, ratio])
}

struct Likers {
    clients: Swarm,
    /// Each client's next id; odd ones like, even ones take it back, so that each changes something.
    next: Vec<u64>,
}

impl Likers {
    fn say(&mut self, client: usize) -> anyhow::Result<()> {
        let id = self.next[client];
        self.next[client] += 1;
        let room = wire::room_name(0);
        let on = !id.is_multiple_of(2);
        let like = format!(r#"{{"id":{id},"op":"like","room":"{room}","target":"photo-1","on":{on}}}"#);
        self.clients.say(client, [like.as_bytes()])
    }

    /// One like of the first client, answered.
    fn like_once(&mut self) -> anyhow::Result<()> {
        self.say(0)?;
        let deadline = Instant::now() + PATIENCE;
        while self.answered(Duration::from_millis(100))?.is_empty() {
            ensure!(Instant::now() < deadline, "a like was not answered");
        }
        Ok(())
    }

    /// Who got an answer; none may be a refusal.
    fn answered(&mut self, wait: Duration) -> anyhow::Result<Vec<usize>> {
        let mut who = Vec::new();
        let mut refused = None;
        self.clients.turn_all(wait, |client, kind, message| {
            if kind == Message::Other && message.starts_with(br#"{"id":"#) {
                who.push(client);
                if memchr::memmem::find(message, br#""ok""#).is_none() {
                    refused = Some(String::from_utf8_lossy(message).into_owned());
                }
            }
        })?;
        if let Some(refused) = refused {
            bail!("a like was refused: {refused}");
        }
        ensure!(self.clients.seen().closed == 0, "a connection ended");
        Ok(who)
    }

    /// Likes per second, each client one after the other.
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    fn rate(&mut self, time: Duration) -> anyhow::Result<f64> {
        let began = Instant::now();
        for client in 0..CLIENTS {
            self.say(client)?;
        }
        let (mut done, mut under_way) = (0_u64, CLIENTS);
        let mut last = began;
        while under_way > 0 {
            let who = self.answered(Duration::from_millis(100))?;
            let now = Instant::now();
            ensure!(now < last + PATIENCE, "a like was not answered");
            if !who.is_empty() {
                last = now;
            }
            for client in who {
                done += 1;
                under_way -= 1;
                if now - began < time {
                    self.say(client)?;
                    under_way += 1;
                }
            }
        }
        Ok(done as f64 / (last - began).as_secs_f64())
    }
}

/// The words of a command as MONITOR writes them: each in quotes, with C's escapes.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.bytes().peekable();
    while rest.any(|byte| byte == b'"') {
        let mut word = Vec::new();
        while let Some(byte) = rest.next() {
            match byte {
                b'"' => break,
                b'\\' => match rest.next() {
                    Some(b'n') => word.push(b'\n'),
                    Some(b'r') => word.push(b'\r'),
                    Some(b't') => word.push(b'\t'),
                    Some(b'x') => {
                        let digits: Vec<u8> = rest.by_ref().take(2).collect();
                        let byte = std::str::from_utf8(&digits)
                            .ok()
                            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
                        word.extend(byte);
                    }
                    Some(other) => word.push(other),
                    None => {}
                },
                other => word.push(other),
            }
        }
        words.push(word);
    }
    words
}

/// The call of a like's script, its user made random; nothing where this is another command.
fn benchmarked(words: Vec<Vec<u8>>) -> Option<Vec<String>> {
    let name = words.first()?.to_ascii_uppercase();
    if name != b"EVALSHA" && name != b"FCALL" || !words.iter().any(|word| word == b"photo-1") {
        return None;
    }
    let words: Vec<String> =
        words.into_iter().map(|word| String::from_utf8(word).ok()).collect::<Option<_>>()?;
    // The user's id stands there as it is and once more as JSON; everything else is the same for all.
    let user = words.iter().find(|word| words.contains(&format!("\"{word}\"")))?.clone();
    // In a room of its own, which no node hears: what is compared with is Redis alone.
    let bare = format!("{}-bare", wire::room_name(0));
    let changed = words.iter().map(|word| word.replace(&user, "u-__rand_int__"));
    Some(changed.map(|word| word.replace(&wire::room_name(0), &bare)).collect())
}

/// What `redis-benchmark` gets from it.
async fn redis_benchmark(core: usize, port: u16, requests: usize, script: &[String]) -> anyhow::Result<f64> {
    let output = Command::new(need("taskset", "util-linux")?)
        .args(["-c", &core.to_string()])
        .arg(need("redis-benchmark", "redis-tools")?)
        .args(["-p", &port.to_string(), "-c", &CLIENTS.to_string(), "-n", &requests.to_string()])
        .args(["-r", "1000000000", "--csv"])
        .args(script)
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(60), output).await.context("redis-benchmark does not end")??;
    let text = String::from_utf8_lossy(&output.stdout);
    per_second(&text)
        .with_context(|| format!("redis-benchmark said {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// The last line is the result: the test's name, which may hold commas in quotes, and requests per second.
fn per_second(csv: &str) -> Option<f64> {
    let line = csv.lines().rev().find(|line| line.starts_with('"'))?;
    // The columns behind the name are numbers in quotes: rate, then seven latencies.
    let columns: Vec<&str> = line.rsplit("\",\"").take(8).collect();
    columns.get(6).and_then(|rate| rate.trim_matches('"').parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_off_monitor_word_by_word() {
        let line = r#"1767225600.1 [0 127.0.0.1:4000] "EVALSHA" "ab" "1" "rc:{event:bench-0}:meta" "g-1" "photo-1" "a\"b\\\x01\n""#;
        let words = words(line);
        assert_eq!(words.len(), 7);
        assert_eq!(words[6], b"a\"b\\\x01\n");
        assert_eq!(super::words("+OK"), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn only_the_likes_script_is_taken_and_its_user_made_random() {
        let of = |words: &[&str]| benchmarked(words.iter().map(|word| word.as_bytes().to_vec()).collect());
        assert_eq!(of(&["PING"]), None);
        assert_eq!(of(&["EVALSHA", "ab", "0", "guest-1"]), None);
        let script =
            of(&["evalsha", "ab", "1", "rc:{event:bench-0}:meta", "guest-a", "\"guest-a\"", "photo-1", "1"])
                .unwrap();
        assert_eq!(
            script,
            [
                "evalsha",
                "ab",
                "1",
                "rc:{event:bench-0-bare}:meta",
                "u-__rand_int__",
                "\"u-__rand_int__\"",
                "photo-1",
                "1"
            ]
        );
    }

    #[test]
    fn the_rate_is_the_second_column() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                   \"p99_latency_ms\",\"max_latency_ms\"\n\
                   \"EVALSHA ab \"\",\"\" x\",\"12345.67\",\"0.3\",\"0.1\",\"0.2\",\"0.4\",\"0.5\",\"1.0\"\n";
        assert_eq!(per_second(csv), Some(12_345.67));
        assert_eq!(per_second("ERR no"), None);
    }
}
