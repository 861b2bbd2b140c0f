//! Servers side by side, each with its clients and its publisher: what a round is, and that it was whole.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    peer::{API_KEY, Peer, Running},
    swarm::Swarm,
    wire::{self, Role, Wire},
};

/// How long a burst may take: far longer than any server needs.
const PATIENCE: Duration = Duration::from_secs(30);
/// After the last delivery a server may still have to tidy up; that is its work too.
const TIDY: Duration = Duration::from_millis(3);

/// A server may close a connection that was quiet for some seconds, and a request into a closed one is lost.
const KEPT: Duration = Duration::from_secs(2);
/// What comes to a socket after a longer pause is acknowledged at once (Linux takes its shortest retransmission timeout for
/// a measure), which costs the sender more on loopback.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// So many segments are acknowledged at once from there on (`TCP_MAX_QUICKACKS`). Who is measured without pauses sends as
/// many before.
pub(super) const QUICK_ACKS: usize = 16;
/// The end of a line, and an empty chunk.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";
/// Connections that publish.
const PUBLISHERS: usize = 8;

/// One of the servers that take turns.
#[derive(Debug)]
pub(crate) struct Contestant {
    pub(crate) running: Running,
    pub(crate) members: Swarm,
    publisher: Publisher,
    rooms: usize,
}

/// CPU time of one round, and what it was spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) server: Duration,
    pub(crate) redis: Duration,
    pub(crate) deliveries: u64,
}

impl Spent {
    /// Microseconds of the server per delivery.
    #[allow(clippy::cast_precision_loss, reason = "microseconds, to three digits")]
    pub(crate) fn server_us(self) -> f64 {
        self.server.as_secs_f64() * 1e6 / self.deliveries as f64
    }

    /// Microseconds of its Redis per delivery.
    #[allow(clippy::cast_precision_loss, reason = "microseconds, to three digits")]
    pub(crate) fn redis_us(self) -> f64 {
        self.redis.as_secs_f64() * 1e6 / self.deliveries as f64
    }
}

impl Contestant {
    /// Fills `rooms` rooms of a server with `members` each.
    pub(crate) fn enter(running: Running, rooms: usize, members: usize) -> anyhow::Result<Self> {
        let wire = running.peer.wire();
        let roles: Vec<Role<'_>> = (0..rooms * members).map(|index| Role::Member(index % rooms)).collect();
        let name = running.peer.name();
        let swarm = Swarm::open(wire, running.address, &roles)
            .with_context(|| format!("opening {} connections to {name}", roles.len()))?;
        let publisher = Publisher::connect(&running).with_context(|| format!("a publisher for {name}"))?;
        Ok(Self { running, members: swarm, publisher, rooms })
    }

    pub(crate) fn peer(&self) -> Peer {
        self.running.peer
    }

    /// All clients go; the server stays.
    pub(crate) fn leave(self) -> Running {
        self.running
    }

    /// Publishes to one room `queued` events that arrive together, and waits until everyone has them.
    pub(crate) fn burst(&mut self, queued: usize, data: &str) -> anyhow::Result<()> {
        let events: Vec<(usize, &str)> = std::iter::repeat_n((0, data), queued).collect();
        self.burst_of(&events)
    }

    /// Publishes one event to each room, all together.
    pub(crate) fn burst_everywhere(&mut self, data: &str) -> anyhow::Result<()> {
        let events: Vec<(usize, &str)> = (0..self.rooms).map(|room| (room, data)).collect();
        self.burst_of(&events)
    }

    fn burst_of(&mut self, events: &[(usize, &str)]) -> anyhow::Result<()> {
        let each = self.members.len() / self.rooms;
        let wanted = self.members.seen().deliveries + (events.len() * each) as u64;
        self.publisher.publish(events)?;
        let done = self.members.until(wanted, PATIENCE);
        done.with_context(|| format!("{}: {} events together", self.peer().name(), events.len()))?;
        self.publisher.settle()
    }

    /// Publishes to the first room `queued` events that arrive together, without waiting for anything.
    pub(crate) fn publish(&mut self, queued: usize, data: &str) -> anyhow::Result<()> {
        let events: Vec<(usize, &str)> = std::iter::repeat_n((0, data), queued).collect();
        self.publisher.publish(&events)
    }

    /// Publishes one event to the first room without waiting for anything; each time by another connection, because a
    /// server may answer one publish of a connection before it looks at the next.
    pub(crate) fn publish_on(&mut self, data: &str) -> anyhow::Result<()> {
        self.publisher.publish_on(data)
    }

    /// Reads what has come, waiting at most `wait`.
    pub(crate) fn turn(&mut self, wait: Duration, on: impl FnMut(usize, &[u8])) -> anyhow::Result<()> {
        self.members.turn(wait, on)?;
        self.publisher.take()
    }

    /// Bursts for about `time`, at least one.
    pub(crate) fn round(
        &mut self,
        time: Duration,
        mut burst: impl FnMut(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<Spent> {
        let (server, redis) = (self.running.cpu()?, self.running.redis_cpu()?);
        let before = self.members.seen();
        let began = Instant::now();
        loop {
            burst(self)?;
            if began.elapsed() >= time {
                break;
            }
        }
        std::thread::sleep(TIDY);
        self.idle()?;
        let after = self.members.seen();
        ensure!(
            after.closed == before.closed && after.failures == before.failures,
            "{}: {} connections ended and {} refusals in a round{}",
            self.peer().name(),
            after.closed - before.closed,
            after.failures - before.failures,
            self.members.trouble().map(|text| format!(": {text}")).unwrap_or_default()
        );
        Ok(Spent {
            server: Duration::from_nanos(self.running.cpu()?.saturating_sub(server)),
            redis: Duration::from_nanos(self.running.redis_cpu()?.saturating_sub(redis)),
            deliveries: after.deliveries - before.deliveries,
        })
    }

    /// Reads what has come by itself (pings, presence), while others have their turn.
    pub(crate) fn idle(&mut self) -> anyhow::Result<()> {
        self.members.turn(Duration::ZERO, |_, _| {})?;
        self.publisher.settle()
    }

    /// That nobody's connection has ended since it began.
    pub(crate) fn check_open(&self) -> anyhow::Result<()> {
        let seen = self.members.seen();
        ensure!(
            seen.closed == 0 && seen.failures == 0,
            "{}: {} connections ended, {} refusals{}",
            self.peer().name(),
            seen.closed,
            seen.failures,
            self.members.trouble().map(|text| format!(": {text}")).unwrap_or_default()
        );
        Ok(())
    }

    /// That every member of a room got the same, whatever the sum says.
    pub(crate) fn check_even(&self) -> anyhow::Result<()> {
        let mut counts: Vec<u64> = self.members.per_client().collect();
        counts.sort_unstable();
        let (least, most) = (counts.first().copied(), counts.last().copied());
        ensure!(least == most, "{}: some got {least:?} events, some {most:?}", self.peer().name());
        Ok(())
    }
}

/// One back end: publishes over some WebSockets, and where the server has an HTTP API for many at once, over that.
#[derive(Debug)]
pub(crate) struct Publisher {
    wire: Wire,
    sockets: Swarm,
    next: usize,
    api: Option<Api>,
}

impl Publisher {
    pub(crate) fn connect(running: &Running) -> anyhow::Result<Self> {
        let wire = running.peer.wire();
        let token = running.token()?;
        let sockets = Swarm::open(wire, running.address, &[Role::Publisher(&token); PUBLISHERS])?;
        let api = running.api.map(Api::connect).transpose()?;
        Ok(Self { wire, sockets, next: 0, api })
    }

    pub(crate) fn publish(&mut self, events: &[(usize, &str)]) -> anyhow::Result<()> {
        if events.len() > 1
            && let (Some(api), Some(request)) = (&mut self.api, self.wire.batch(events, API_KEY))
        {
            return api.send(&request);
        }
        let ready: Vec<Vec<u8>> = events.iter().map(|(room, data)| self.said(*room, data)).collect();
        self.sockets.say(0, ready.iter().map(Vec::as_slice))
    }

    fn said(&self, room: usize, data: &str) -> Vec<u8> {
        match self.wire {
            // The bare loop and `ws` add nothing of their own, so the event comes as roomcast would send it.
            Wire::Plain => self.wire.publish(room, &wire::ready_made(room, data)),
            Wire::Roomcast | Wire::SocketIo | Wire::Centrifugo => self.wire.publish(room, data),
        }
    }

    fn publish_on(&mut self, data: &str) -> anyhow::Result<()> {
        let message = self.said(0, data);
        self.next = (self.next + 1) % self.sockets.len();
        self.sockets.say(self.next, [&message[..]])
    }

    /// Takes what was answered.
    pub(crate) fn settle(&mut self) -> anyhow::Result<()> {
        if let Some(api) = &mut self.api {
            api.settle()?;
        }
        self.take()
    }

    fn take(&mut self) -> anyhow::Result<()> {
        self.sockets.turn(Duration::ZERO, |_, _| {})?;
        let seen = self.sockets.seen();
        ensure!(
            seen.failures == 0 && seen.closed == 0,
            "a publish failed: {}",
            self.sockets.trouble().unwrap_or("the connection ended")
        );
        Ok(())
    }
}

/// One kept connection to an HTTP API. A request is sent at once, its answer is read later.
#[derive(Debug)]
struct Api {
    to: SocketAddr,
    stream: TcpStream,
    used: Instant,
    due: usize,
}

impl Api {
    fn connect(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { to, stream, used: Instant::now(), due: 0 })
    }

    fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        // An answer that nobody reads would stop the server in the end.
        if self.due >= 16 {
            self.settle()?;
        }
        if self.due == 0 && self.used.elapsed() > KEPT {
            *self = Self::connect(self.to)?;
        }
        self.used = Instant::now();
        self.due += 1;
        self.stream.write_all(request).context("sending a batch")
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        while self.due > 0 {
            while let Some(end) = whole(&bytes)? {
                ensure!(bytes.starts_with(b"HTTP/1.1 200"), "a batch failed: {}", first_line(&bytes));
                let answer = &bytes[..end];
                ensure!(
                    memchr::memmem::find(answer, b"\"error\"").is_none(),
                    "a publish of a batch failed: {}",
                    String::from_utf8_lossy(answer)
                );
                bytes.drain(..end);
                self.due -= 1;
            }
            if self.due > 0 {
                let mut some = [0; 16 * 1024];
                let count = self.stream.read(&mut some).context("reading a batch's answer")?;
                ensure!(count > 0, "the API ended the connection");
                bytes.extend_from_slice(&some[..count]);
            }
        }
        Ok(())
    }
}

/// Where the first answer in `bytes` ends, once it is there. A body in chunks ends with an empty one; JSON on one line
/// holds nothing that looks like it.
fn whole(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    if head.lines().any(|line| line == "transfer-encoding: chunked") {
        return Ok(
            memchr::memmem::find(&bytes[end + 2..], LAST_CHUNK).map(|at| end + 2 + at + LAST_CHUNK.len())
        );
    }
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse().ok())
        .context("an answer without a length")?;
    let all = end + 4 + length;
    Ok((bytes.len() >= all).then_some(all))
}

fn first_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1";
        assert_eq!(whole(&answer[..20]).unwrap(), None);
        assert_eq!(whole(&answer[..answer.len() - 9]).unwrap(), None);
        assert_eq!(whole(answer).unwrap(), Some(answer.len() - 8));
        assert!(whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err());

        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nHTTP/1.1";
        assert_eq!(whole(&chunked[..chunked.len() - 9]).unwrap(), None);
        assert_eq!(whole(chunked).unwrap(), Some(chunked.len() - 8));
        let empty = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        assert_eq!(whole(empty).unwrap(), Some(empty.len()));
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "exact by construction")]
    fn time_is_shared_out_over_the_deliveries() {
        let spent =
            Spent { server: Duration::from_millis(4), redis: Duration::from_micros(500), deliveries: 1000 };
        assert_eq!((spent.server_us(), spent.redis_us()), (4.0, 0.5));
    }
}
