//! The bare loop: the least that a server can do. One thread, one epoll; what a publisher brings is written to every
//! socket of the room as it stands, in one non-blocking write of everything that is there. No Redis, no history, no
//! bounds, no pings. It is what servers are compared with, and the client to test the tool with; nobody should run it.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::Context as _;
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::frames::{self, opcode};

const LISTENER: Token = Token(usize::MAX);
/// A request's head; more is no request of this tool.
const MAX_HEAD: usize = 8 * 1024;
const SCRATCH: usize = 256 * 1024;

#[derive(Debug)]
enum Kind {
    /// Its request is not whole yet.
    Asking,
    /// In the room of this number, or in none.
    Member(Option<usize>),
    Publisher,
}

#[derive(Debug)]
struct Conn {
    stream: TcpStream,
    kind: Kind,
    input: Vec<u8>,
    /// What did not fit into the socket.
    rest: Vec<u8>,
}

#[derive(Debug, Default)]
struct Room {
    members: Vec<usize>,
    pending: Vec<u8>,
}

/// The bare loop.
#[derive(Debug)]
pub(crate) struct Limit {
    poll: Poll,
    listener: TcpListener,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    rooms: Vec<Room>,
    dirty: BTreeSet<usize>,
    scratch: Vec<u8>,
}

impl Limit {
    pub(crate) fn bind(port: u16) -> anyhow::Result<Self> {
        let poll = Poll::new().context("epoll")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            conns: Vec::new(),
            free: Vec::new(),
            rooms: Vec::new(),
            dirty: BTreeSet::new(),
            scratch: vec![0; SCRATCH],
        })
    }

    #[cfg(test)]
    fn address(&self) -> anyhow::Result<SocketAddr> {
        self.listener.local_addr().context("asking for the address")
    }

    /// Serves until the process is ended, or `go_on` says no at a turn.
    pub(crate) fn serve(&mut self, go_on: impl Fn() -> bool) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        while go_on() {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error).context("epoll"),
                _ => {}
            }
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                    continue;
                }
                let index = event.token().0;
                if event.is_writable() && !self.drain(index) {
                    self.end(index);
                }
                if event.is_readable() && !self.read(index) {
                    self.end(index);
                }
            }
            self.flush();
        }
        Ok(())
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("accepting"),
            };
            stream.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or(self.conns.len());
            self.poll.registry().register(
                &mut stream,
                Token(index),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            let conn = Conn { stream, kind: Kind::Asking, input: Vec::new(), rest: Vec::new() };
            if index == self.conns.len() {
                self.conns.push(Some(conn));
            } else {
                self.conns[index] = Some(conn);
            }
        }
    }

    /// Whether the connection goes on.
    fn read(&mut self, index: usize) -> bool {
        loop {
            let Some(Some(conn)) = self.conns.get_mut(index) else { return true };
            match conn.stream.read(&mut self.scratch) {
                Ok(0) => return false,
                Ok(count) => {
                    conn.input.extend_from_slice(&self.scratch[..count]);
                    if !self.digest(index) {
                        return false;
                    }
                    if count < SCRATCH {
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    fn digest(&mut self, index: usize) -> bool {
        let Some(Some(conn)) = self.conns.get_mut(index) else { return true };
        if matches!(conn.kind, Kind::Asking) {
            let Some(end) = memchr::memmem::find(&conn.input, b"\r\n\r\n") else {
                return conn.input.len() <= MAX_HEAD;
            };
            let Some(asked) = Asked::parse(&conn.input[..end]) else { return false };
            conn.input.drain(..end + 4);
            if conn.stream.write_all(asked.answer.as_bytes()).is_err() {
                return false;
            }
            conn.kind = if asked.publishes { Kind::Publisher } else { Kind::Member(asked.room) };
            if let Some(room) = asked.room {
                if self.rooms.len() <= room {
                    self.rooms.resize_with(room + 1, Room::default);
                }
                self.rooms[room].members.push(index);
            }
        }
        let Some(Some(conn)) = self.conns.get_mut(index) else { return true };
        let mut done = 0;
        loop {
            match frames::next(&conn.input[done..]) {
                Ok(Some(frame)) => {
                    done += frame.len;
                    if frame.opcode == opcode::CLOSE {
                        return false;
                    }
                    if matches!(conn.kind, Kind::Publisher) {
                        let clear = unmasked(frame);
                        let Some((room, bytes)) = addressed(&clear) else { return false };
                        let Some(to) = self.rooms.get_mut(room) else { continue };
                        frames::push_server(&mut to.pending, opcode::TEXT, bytes);
                        self.dirty.insert(room);
                    }
                }
                Ok(None) => break,
                Err(_) => return false,
            }
        }
        conn.input.drain(..done);
        if conn.input.is_empty() {
            conn.input = Vec::new();
        }
        true
    }

    fn flush(&mut self) {
        while let Some(index) = self.dirty.pop_first() {
            let room = &mut self.rooms[index];
            let bytes = std::mem::take(&mut room.pending);
            for &member in &room.members {
                let Some(Some(conn)) = self.conns.get_mut(member) else { continue };
                let written = if conn.rest.is_empty() { conn.stream.write(&bytes).unwrap_or(0) } else { 0 };
                conn.rest.extend_from_slice(&bytes[written..]);
            }
            let mut bytes = bytes;
            bytes.clear();
            self.rooms[index].pending = bytes;
        }
    }

    fn drain(&mut self, index: usize) -> bool {
        let Some(Some(conn)) = self.conns.get_mut(index) else { return true };
        while !conn.rest.is_empty() {
            match conn.stream.write(&conn.rest) {
                Ok(written) => {
                    conn.rest.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        conn.rest = Vec::new();
        true
    }

    fn end(&mut self, index: usize) {
        let Some(conn) = self.conns.get_mut(index).and_then(Option::take) else { return };
        if let Kind::Member(Some(room)) = conn.kind {
            self.rooms[room].members.retain(|member| *member != index);
        }
        self.free.push(index);
    }
}

struct Asked {
    answer: String,
    room: Option<usize>,
    publishes: bool,
}

impl Asked {
    fn parse(head: &[u8]) -> Option<Self> {
        let head = std::str::from_utf8(head).ok()?;
        let path = head.strip_prefix("GET ")?.split(' ').next()?;
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))?;
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.trim().as_bytes())
        );
        let room = path.strip_prefix("/room/").and_then(|room| room.parse().ok());
        Some(Self { answer, room, publishes: path == "/publish" })
    }
}

fn unmasked(frame: frames::Frame<'_>) -> Vec<u8> {
    let mask = frame.mask.unwrap_or_default();
    frame.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

/// A room's number, a line's end, and the bytes for its members.
fn addressed(message: &[u8]) -> Option<(usize, &[u8])> {
    let end = memchr::memchr(b'\n', message)?;
    let room = std::str::from_utf8(&message[..end]).ok()?.parse().ok()?;
    Some((room, &message[end + 1..]))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        time::Duration,
    };

    use super::*;
    use crate::compare::{
        swarm::Swarm,
        wire::{self, Role, Wire},
    };

    #[test]
    fn every_member_gets_every_event_whole_also_where_sockets_would_block() {
        let mut limit = Limit::bind(0).unwrap();
        let address = limit.address().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let server = std::thread::spawn(move || limit.serve(|| !asked.load(Ordering::Relaxed)));

        let roles = [Role::Member(0), Role::Member(0), Role::Member(1), Role::Visitor];
        let mut members = Swarm::open(Wire::Plain, address, &roles).unwrap();
        let mut publisher = Swarm::open(Wire::Plain, address, &[Role::Publisher("")]).unwrap();
        let small = Wire::Plain.publish(1, &wire::data(64, 7));
        publisher.say(0, [&small[..]]).unwrap();
        members.until(1, Duration::from_secs(10)).unwrap();

        // 8 MiB to each: more than a socket holds.
        let large = Wire::Plain.publish(0, &wire::data(16 * 1024, 8));
        publisher.say(0, std::iter::repeat_n(&large[..], 512)).unwrap();
        let mut stamps = 0;
        while members.seen().deliveries < 1 + 2 * 512 {
            members
                .turn(Duration::from_secs(10), |_, message| {
                    stamps += u64::from(wire::stamp(message) == Some(8) && message.len() == 16 * 1024);
                })
                .unwrap();
        }
        assert_eq!(stamps, 1024, "whole and unmixed");
        assert_eq!(members.per_client().collect::<Vec<_>>(), [512, 512, 1, 0]);
        assert_eq!((members.seen().closed, members.seen().failures), (0, 0));

        stop.store(true, Ordering::Relaxed);
        drop(publisher);
        server.join().unwrap().unwrap();
    }

    #[test]
    fn what_is_no_upgrade_is_not_answered() {
        assert!(Asked::parse(b"GET /room/1 HTTP/1.1\r\nHost: a").is_none());
        assert!(Asked::parse(b"POST / HTTP/1.1\r\nSec-WebSocket-Key: x").is_none());
        let asked =
            Asked::parse(b"GET /room/12 HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==").unwrap();
        assert_eq!((asked.room, asked.publishes), (Some(12), false));
        assert!(asked.answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }
}
