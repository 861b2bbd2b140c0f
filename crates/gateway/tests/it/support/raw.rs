//! Bytes on a socket: requests and frames that no well-behaved client would send, and answers read to the byte.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::client::PATIENCE;

/// A key of 16 bytes, as RFC 6455 has it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// An HTTP response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A TCP connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub async fn open(to: SocketAddr) -> Self {
        Self::open_from(Ipv4Addr::LOCALHOST.into(), to, None).await
    }

    /// From one address of the loopback, with a receive buffer of about this size.
    pub async fn open_from(from: IpAddr, to: SocketAddr, receive_buffer: Option<u32>) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("addresses are free for all");
        if let Some(size) = receive_buffer {
            socket.set_recv_buffer_size(size).expect("a buffer");
        }
        socket.bind(SocketAddr::new(from, 0)).expect("an address of the loopback");
        let stream = socket.connect(to).await.expect("the node listens");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, read: Vec::new() }
    }

    /// An upgraded socket that speaks JSON.
    pub async fn upgraded(to: SocketAddr) -> Self {
        Self::open(to).await.upgrade(&[]).await
    }

    /// Upgrades, with these header lines besides the necessary ones.
    pub async fn upgrade(mut self, more: &[&str]) -> Self {
        self.write(upgrade_head(more).as_bytes()).await;
        let reply = self.reply().await;
        assert_eq!(reply.status, 101, "{reply:?}");
        self
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("it takes bytes").expect("it is open");
    }

    /// Writes what the other side may refuse to take, because it is closing.
    pub async fn try_write(&mut self, bytes: &[u8]) {
        let _closing = timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("it takes bytes or ends");
    }

    pub async fn shut(&mut self) {
        self.stream.shutdown().await.expect("it is open");
    }

    /// A masked frame, whole.
    pub async fn frame(&mut self, opcode: u8, payload: &[u8]) {
        self.write(&masked(0x80 | opcode, payload)).await;
    }

    pub async fn say(&mut self, frame: &Value) {
        self.frame(TEXT, frame.to_string().as_bytes()).await;
    }

    /// More bytes. False at the end.
    async fn more(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match timeout(PATIENCE, self.stream.read(&mut chunk)).await.expect("something comes in time") {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.read.extend_from_slice(&chunk[..n]);
                true
            }
        }
    }

    /// Whether the other side ends without another byte.
    pub async fn ends(&mut self) -> bool {
        self.read.is_empty() && !self.more().await
    }

    /// One HTTP response.
    pub async fn reply(&mut self) -> Reply {
        self.try_reply().await.expect("a response before the end")
    }

    /// One HTTP response; none when the socket ends first.
    pub async fn try_reply(&mut self) -> Option<Reply> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                return None;
            }
        };
        let head: Vec<u8> = self.read.drain(..end).collect();
        let head = String::from_utf8(head).expect("an ASCII head");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let status: u16 = status.parse().expect("a number");
        let headers: Vec<_> = lines
            .map(|line| line.split_once(':').expect("a header"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut reply = Reply { status, headers, body: Vec::new() };
        if status == 101 {
            return Some(reply);
        }
        let length = reply.header("content-length").map(|n| n.parse::<usize>().expect("a number"));
        while length.is_none_or(|length| self.read.len() < length) && self.more().await {}
        let length = length.unwrap_or(self.read.len()).min(self.read.len());
        reply.body = self.read.drain(..length).collect();
        Some(reply)
    }

    /// The next WebSocket frame of the server; none at the end.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((header, length)) = header(&self.read)
                && self.read.len() >= header + length
            {
                let opcode = self.read[0] & 0x0f;
                let payload = self.read[header..header + length].to_vec();
                self.read.drain(..header + length);
                if opcode == CLOSE {
                    // As a good client does, so that the node need not wait for it.
                    let _ended = self.stream.shutdown().await;
                }
                return Some((opcode, payload));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next text frame; pings are passed over.
    pub async fn text(&mut self) -> Value {
        loop {
            match self.next().await.expect("a frame before the end") {
                (TEXT, payload) => return serde_json::from_slice(&payload).expect("JSON"),
                (PING, _) => {}
                other => panic!("{other:?} came"),
            }
        }
    }

    /// The code of the close frame; whatever comes before it is passed over. None: there was no close frame.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            if let (CLOSE, payload) = self.next().await? {
                return Some(u16::from_be_bytes([payload[0], payload[1]]));
            }
        }
    }
}

/// Header and payload length of a server's frame, where the header is complete.
fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    let short = usize::from(*bytes.get(1)? & 0x7f);
    match short {
        126 => Some((4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().expect("two are two"))))),
        127 => {
            let long = u64::from_be_bytes(bytes.get(2..10)?.try_into().expect("eight are eight"));
            Some((10, usize::try_from(long).expect("it fits")))
        }
        _ => Some((2, short)),
    }
}

/// A client's frame with this first byte; the mask is zero, which is as good as any.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        n @ 0..=125 => frame.push(0x80 | u8::try_from(n).expect("small")),
        n @ 126..=0xffff => {
            frame.push(0x80 | 0x7e);
            frame.extend_from_slice(&u16::try_from(n).expect("small").to_be_bytes());
        }
        n => {
            frame.push(0x80 | 0x7f);
            frame.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// The head of a good upgrade, with these lines besides.
pub fn upgrade_head(more: &[&str]) -> String {
    let mut head = format!(
        "GET /ws HTTP/1.1\r\nHost: hub.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    );
    for line in more {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head
}

/// One try to upgrade from an address, and what came of it. The socket is open while the connection is kept.
pub async fn knock(from: IpAddr, to: SocketAddr) -> (Raw, Reply) {
    let mut raw = Raw::open_from(from, to, None).await;
    raw.write(upgrade_head(&[]).as_bytes()).await;
    let reply = raw.reply().await;
    (raw, reply)
}
