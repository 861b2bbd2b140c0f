//! Many client connections on one thread: opened in step, then read by epoll. It counts what arrives and answers
//! pings; it spends as little as it can, because its core must not be what a server waits for.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use super::{
    frames::{self, opcode},
    wire::{Message, Role, Wire},
};

/// How many connections are being opened side by side.
const ABREAST: usize = 64;
/// How long a server may take for one step of a connection's beginning.
const STEP_WAIT: Duration = Duration::from_secs(20);
/// Between two looks at connections on which nothing had come.
pub(super) const NAP: Duration = Duration::from_micros(200);
/// What is read in one call.
const SCRATCH: usize = 256 * 1024;
/// Source addresses, so that no pair of addresses runs out of ports.
const SOURCES: u32 = 200;
/// Where each has an address of its own.
const LOOPBACK: u32 = 1 << 23;
/// Not zero, so that servers unmask as they do in life.
pub(crate) const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0xee];

/// What a swarm has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) deliveries: u64,
    /// Messages that are no deliveries.
    pub(crate) others: u64,
    /// Connections that the server ended.
    pub(crate) closed: u64,
    /// Refusals, resets and the like.
    pub(crate) failures: u64,
}

#[derive(Debug)]
struct Client {
    stream: mio::net::TcpStream,
    /// The beginning of a message whose end has not come yet.
    carry: Vec<u8>,
    deliveries: u64,
    open: bool,
}

/// The connections to one server.
#[derive(Debug)]
pub(crate) struct Swarm {
    wire: Wire,
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    scratch: Vec<u8>,
    seen: Seen,
    trouble: Option<String>,
}

impl Swarm {
    /// Opens a connection for each role and waits until each is what it wants to be.
    pub(crate) fn open(wire: Wire, to: SocketAddr, roles: &[Role<'_>]) -> anyhow::Result<Self> {
        let poll = Poll::new().context("epoll")?;
        let mut clients = Vec::with_capacity(roles.len());
        for (batch, some) in roles.chunks(ABREAST).enumerate() {
            for (stream, carry) in open_abreast(wire, to, some, batch * ABREAST)? {
                stream.set_read_timeout(None)?;
                stream.set_nonblocking(true)?;
                let mut stream = mio::net::TcpStream::from_std(stream);
                poll.registry().register(&mut stream, Token(clients.len()), Interest::READABLE)?;
                clients.push(Client { stream, carry, deliveries: 0, open: true });
            }
        }
        let mut swarm = Self {
            wire,
            poll,
            events: Events::with_capacity(1024),
            clients,
            scratch: vec![0; SCRATCH],
            seen: Seen::default(),
            trouble: None,
        };
        // What came behind the greetings is no part of any measurement.
        swarm.turn(Duration::ZERO, |_, _| {})?;
        Ok(swarm)
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen
    }

    /// The first thing that went wrong, in the server's words.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// What each client got.
    pub(crate) fn per_client(&self) -> impl Iterator<Item = u64> {
        self.clients.iter().map(|client| client.deliveries)
    }

    /// Reads whatever has come, waiting at most `wait` for the first; `on` gets each delivery and who got it.
    pub(crate) fn turn(&mut self, wait: Duration, mut on: impl FnMut(usize, &[u8])) -> anyhow::Result<()> {
        self.turn_all(wait, |client, kind, message| {
            if kind == Message::Delivery {
                on(client, message);
            }
        })
    }

    /// The same for every message, with what it is.
    pub(crate) fn turn_all(
        &mut self,
        wait: Duration,
        mut on: impl FnMut(usize, Message, &[u8]),
    ) -> anyhow::Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error).context("epoll"),
            _ => {}
        }
        for event in &self.events {
            let index = event.token().0;
            let Some(client) = self.clients.get_mut(index) else { continue };
            if client.open {
                let mut told = |kind: Message, message: &[u8]| on(index, kind, message);
                read(client, self.wire, &mut self.scratch, &mut self.seen, &mut self.trouble, &mut told)?;
            }
        }
        Ok(())
    }

    /// Reads until `deliveries` have come in all, by its own clock: whoever sleeps until something comes is woken at the
    /// cost of the server that writes, which is not so where clients are on other machines.
    pub(crate) fn until(&mut self, deliveries: u64, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        while self.seen.deliveries < deliveries {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "{} of {deliveries} deliveries after {patience:?}, {} connections ended, {} refusals{}",
                    self.seen.deliveries,
                    self.seen.closed,
                    self.seen.failures,
                    self.trouble.as_deref().map(|text| format!(": {text}")).unwrap_or_default()
                );
            }
            let before = self.seen;
            self.turn(Duration::ZERO, |_, _| {})?;
            if self.seen == before {
                thread::sleep(NAP.min(left));
            }
        }
        ensure!(self.seen.deliveries == deliveries, "{} deliveries of {deliveries}", self.seen.deliveries);
        Ok(())
    }

    /// Sends messages by one of the connections, all of them in one go.
    pub(crate) fn say<'a>(
        &mut self,
        index: usize,
        messages: impl IntoIterator<Item = &'a [u8]>,
    ) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        for message in messages {
            frames::push_client(&mut bytes, opcode::TEXT, message, MASK);
        }
        self.send(index, &bytes)
    }

    /// Sends ready-made bytes by one of the connections; waits where the socket's buffer is full.
    pub(crate) fn send(&mut self, index: usize, bytes: &[u8]) -> anyhow::Result<()> {
        let deadline = Instant::now() + STEP_WAIT;
        let mut rest = bytes;
        while !rest.is_empty() {
            let client = self.clients.get_mut(index).context("no such connection")?;
            match client.stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ensure!(Instant::now() < deadline, "the server does not read");
                    // What it waits for may be that its answers are read.
                    self.turn(Duration::from_micros(200), |_, _| {})?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("sending"),
            }
        }
        Ok(())
    }
}

fn read(
    client: &mut Client,
    wire: Wire,
    scratch: &mut Vec<u8>,
    seen: &mut Seen,
    trouble: &mut Option<String>,
    on: &mut dyn FnMut(Message, &[u8]),
) -> anyhow::Result<()> {
    loop {
        let kept = client.carry.len();
        if scratch.len() < kept + SCRATCH / 2 {
            scratch.resize(kept + SCRATCH, 0);
        }
        scratch[..kept].copy_from_slice(&client.carry);
        client.carry.clear();
        let room = scratch.len() - kept;
        let count = match client.stream.read(&mut scratch[kept..]) {
            Ok(0) => 0,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                client.carry.extend_from_slice(&scratch[..kept]);
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                client.carry.extend_from_slice(&scratch[..kept]);
                continue;
            }
            Err(error) => {
                trouble.get_or_insert_with(|| error.to_string());
                0
            }
        };
        if count == 0 {
            client.open = false;
            seen.closed += 1;
            return Ok(());
        }
        let mut rest = &scratch[..kept + count];
        while let Some(frame) = frames::next(rest)? {
            rest = &rest[frame.len..];
            match frame.opcode {
                opcode::CLOSE => {
                    let reason = frame.payload.get(2..).unwrap_or_default();
                    trouble.get_or_insert_with(|| {
                        format!("closed {:?} {}", frame.payload.get(..2), String::from_utf8_lossy(reason))
                    });
                }
                opcode::PING => answer(&mut client.stream, opcode::PONG, frame.payload),
                opcode::PONG => {}
                _ => {
                    for message in wire.split(frame.payload) {
                        let kind = wire.message(message);
                        on(kind, message);
                        match kind {
                            Message::Delivery => {
                                seen.deliveries += 1;
                                client.deliveries += 1;
                            }
                            Message::Ping(pong) => answer(&mut client.stream, opcode::TEXT, pong.as_bytes()),
                            Message::Failure => {
                                seen.failures += 1;
                                trouble.get_or_insert_with(|| String::from_utf8_lossy(message).into_owned());
                            }
                            Message::Other => seen.others += 1,
                        }
                    }
                }
            }
        }
        client.carry.extend_from_slice(rest);
        // Less than there was room for: the socket is empty, and epoll tells when it is not.
        if count < room {
            if client.carry.is_empty() && client.carry.capacity() > 4096 {
                client.carry = Vec::new();
            }
            return Ok(());
        }
    }
}

/// Some bytes on a connection that says nothing else: they fit. Where it has just ended, the next read tells.
fn answer(stream: &mut mio::net::TcpStream, opcode: u8, payload: &[u8]) {
    let mut bytes = Vec::with_capacity(payload.len() + 8);
    frames::push_client(&mut bytes, opcode, payload, MASK);
    let _ = stream.write(&bytes);
}

/// What those do who come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visit {
    /// They are upgraded.
    Upgrade,
    /// The same, and each comes from an address that nobody came from before.
    FirstUpgrade,
    /// They are upgraded and greeted.
    Greeting,
}

/// Connections that come, are upgraded, on request greeted, and go.
pub(crate) fn visit(
    wire: Wire,
    to: SocketAddr,
    count: usize,
    first: usize,
    what: Visit,
) -> anyhow::Result<()> {
    let roles = vec![Role::Visitor; count];
    if what == Visit::Greeting {
        return open_abreast(wire, to, &roles, first).map(drop);
    }
    let sources = if what == Visit::FirstUpgrade { LOOPBACK } else { SOURCES };
    let mut streams = Vec::with_capacity(count);
    for place in 0..count {
        let mut stream = connect(to, first + place, sources)?;
        stream.write_all(&request(wire, Role::Visitor)).context("asking for a WebSocket")?;
        streams.push(stream);
    }
    let mut carry = Vec::new();
    for mut stream in streams {
        carry.clear();
        upgraded(&mut stream, &mut carry)?;
    }
    Ok(())
}

/// Connections that take each step together: a server serves them side by side, and the tool needs no task for each.
fn open_abreast(
    wire: Wire,
    to: SocketAddr,
    roles: &[Role<'_>],
    first: usize,
) -> anyhow::Result<Vec<(TcpStream, Vec<u8>)>> {
    let mut streams = Vec::with_capacity(roles.len());
    for (place, role) in roles.iter().enumerate() {
        let mut stream = connect(to, first + place, SOURCES)?;
        stream.write_all(&request(wire, *role)).context("asking for a WebSocket")?;
        streams.push((stream, Vec::new()));
    }
    for (stream, carry) in &mut streams {
        upgraded(stream, carry)?;
    }
    let greetings: Vec<_> = roles.iter().map(|role| wire.greetings(*role)).collect();
    let steps = greetings.iter().map(Vec::len).max().unwrap_or_default();
    for step in 0..steps {
        for ((stream, _), greetings) in streams.iter_mut().zip(&greetings) {
            if let Some(text) = greetings.get(step).and_then(|greeting| greeting.say.as_deref()) {
                let mut bytes = Vec::new();
                frames::push_client(&mut bytes, opcode::TEXT, text.as_bytes(), MASK);
                stream.write_all(&bytes).context("greeting")?;
            }
        }
        for ((stream, carry), greetings) in streams.iter_mut().zip(&greetings) {
            if let Some(greeting) = greetings.get(step) {
                heard(wire, stream, carry, greeting.until)
                    .with_context(|| format!("waiting for {}", greeting.until))?;
            }
        }
    }
    Ok(streams)
}

/// A connection from one of so many addresses of this machine.
fn connect(to: SocketAddr, index: usize, sources: u32) -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("a socket")?;
    let turn = u32::try_from(index).unwrap_or_default() % sources;
    let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 0, 2)) + turn);
    socket.bind(&SocketAddr::from((source, 0)).into()).context("binding a client's address")?;
    socket.connect(&to.into()).with_context(|| format!("connecting to {to}"))?;
    socket.set_tcp_nodelay(true)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(STEP_WAIT))?;
    Ok(stream)
}

/// The upgrade request.
fn request(wire: Wire, role: Role<'_>) -> Vec<u8> {
    let upgrade = wire.upgrade(role);
    let subprotocol =
        upgrade.subprotocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
    format!(
        "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{subprotocol}\r\n",
        upgrade.path
    )
    .into_bytes()
}

/// Reads the answer to it; what came behind it is kept.
fn upgraded(stream: &mut TcpStream, carry: &mut Vec<u8>) -> anyhow::Result<()> {
    loop {
        if let Some(end) = memchr::memmem::find(carry, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&carry[..end]);
            ensure!(head.starts_with("HTTP/1.1 101"), "the upgrade was refused: {head}");
            carry.drain(..end + 4);
            return Ok(());
        }
        more(stream, carry)?;
    }
}

/// Reads messages until one begins like `until`.
fn heard(wire: Wire, stream: &mut TcpStream, carry: &mut Vec<u8>, until: &str) -> anyhow::Result<()> {
    loop {
        while let Some(frame) = frames::next(carry)? {
            let frame_len = frame.len;
            let mut found = false;
            for message in wire.split(frame.payload) {
                found |= message.starts_with(until.as_bytes());
                if !found
                    && (frame.opcode == opcode::CLOSE || message.windows(7).any(|word| word == b"\"error\""))
                {
                    bail!("the server says {}", String::from_utf8_lossy(message));
                }
            }
            carry.drain(..frame_len);
            if found {
                return Ok(());
            }
        }
        more(stream, carry)?;
    }
}

fn more(stream: &mut TcpStream, carry: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut bytes = [0; 16 * 1024];
    let count = loop {
        match stream.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read.context("reading")?,
        }
    };
    ensure!(count > 0, "the server ended the connection: {}", String::from_utf8_lossy(carry));
    carry.extend_from_slice(&bytes[..count]);
    Ok(())
}
