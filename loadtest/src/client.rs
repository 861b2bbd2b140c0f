//! One client: a socket, the codec it speaks, its ids, and the pushes that came while it waited for an answer.
//!
//! It has no task of its own: it reads when it is asked to, and so answers pings only then. Whoever holds many
//! clients polls each in its own task. It never reconnects by itself; what a lost connection means is for the
//! subcommand to say.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use roomcast_protocol::{
    ClientFrame, Codec, Connect, Data, EncodeError, Epoch, ErrorCode, Incoming, IncomingError,
    IncomingFailure, Join, Message as Frame, Offset, Op, RoomName, Since,
};
use serde::Deserialize;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest as _,
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::WebSocketConfig,
    },
};

use crate::target::Target;

/// How long an answer may take before the client gives up.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How many pushes may pile up while a client waits for an answer.
const MAX_PENDING: usize = 65_536;
/// Small buffers, because one process holds some ten thousand clients; a longer frame grows its own.
const BUFFER: usize = 2048;
/// A join may tell a whole history of large events.
const MAX_MESSAGE: usize = 128 << 20;
/// The largest TCP segment of an ordinary network.
const SEGMENT: u32 = 1460;

/// Why a client could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no TCP connection")]
    Tcp(#[source] io::Error),
    #[error("the upgrade was refused with HTTP {status}{}", hint(*status))]
    Refused { status: u16 },
    #[error("no WebSocket")]
    Handshake(#[source] Box<tungstenite::Error>),
    #[error("the server chose subprotocol {0:?}")]
    Subprotocol(Option<String>),
    #[error("the socket failed")]
    Socket(#[source] Box<tungstenite::Error>),
    #[error("closed: {0}")]
    Closed(Closed),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("unreadable frame")]
    Unreadable(#[from] IncomingError),
    #[error("unreadable answer")]
    Answer(#[from] serde_json::Error),
    #[error("unwritable frame")]
    Encode(#[from] EncodeError),
    #[error("{}: {}", .0.code.as_str(), .0.message)]
    Failed(IncomingFailure),
    #[error("more than {MAX_PENDING} pushes came while waiting for an answer")]
    Flooded,
}

impl ClientError {
    /// How long to wait before the same again, where waiting helps.
    pub(crate) fn patience(&self) -> Option<Duration> {
        match self {
            Self::Failed(failure)
                if matches!(failure.code, ErrorCode::RateLimited | ErrorCode::Unavailable) =>
            {
                Some(Duration::from_millis(failure.retry_ms.unwrap_or(100).max(1)))
            }
            _ => None,
        }
    }
}

const fn hint(status: u16) -> &'static str {
    match status {
        429 => {
            " (too many connections from one address: use --sources, a lower --connect-rate, or higher limits)"
        }
        503 => " (the node is full, starting or draining)",
        _ => "",
    }
}

/// How the server or the network ended a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closed {
    /// The close code; none where the connection just ended.
    pub(crate) code: Option<u16>,
    /// What the server said.
    pub(crate) reason: String,
}

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Some(code) => write!(f, "{code} {}", self.reason),
            None => f.write_str("without a close frame"),
        }
    }
}

/// What `connect` answered, as far as this tool cares.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Welcome {
    /// The node that answers.
    #[serde(default)]
    pub(crate) node: String,
    /// The limits of this connection; an absent one is unlimited.
    #[serde(default)]
    pub(crate) limits: WelcomeLimits,
}

/// The limits that decide how fast a publisher may go.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct WelcomeLimits {
    /// Frames per second.
    #[serde(default)]
    pub(crate) frames_per_second: Option<u64>,
}

/// What `join` answered.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Joined {
    pub(crate) epoch: Epoch,
    pub(crate) offset: Offset,
    pub(crate) recovered: bool,
    pub(crate) events: Vec<Past>,
    /// Who is there; a server of a test may leave it out.
    #[serde(default)]
    pub(crate) presence: Option<PresenceCount>,
    /// Counters as they stand.
    #[serde(default)]
    pub(crate) counts: Vec<CountValue>,
}

/// How many are in a room.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct PresenceCount {
    pub(crate) connections: u64,
    pub(crate) users: u64,
}

/// One counter's value.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct CountValue {
    pub(crate) value: u64,
    pub(crate) version: u64,
}

/// An event of an `events` list.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Past {
    pub(crate) offset: Offset,
    pub(crate) data: Data,
}

/// A connected client.
#[derive(Debug)]
pub(crate) struct Client {
    socket: WebSocketStream<TcpStream>,
    codec: Codec,
    last_id: u64,
    pending: VecDeque<Incoming>,
    answer_wait: Duration,
}

impl Client {
    /// Upgrades a new connection, from the given address where there is one; says nothing yet.
    pub(crate) async fn open(
        target: &Target,
        codec: Codec,
        source: Option<Ipv4Addr>,
    ) -> Result<Self, ClientError> {
        let stream = tcp(target, source).await.map_err(ClientError::Tcp)?;
        let handshake = |error| ClientError::Handshake(Box::new(error));
        let mut request = target.url.as_str().into_client_request().map_err(handshake)?;
        let subprotocol = HeaderValue::from_static(codec.subprotocol());
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let upgrade = client_async_with_config(request, stream, Some(config));
        let (socket, response) = timeout(ANSWER_WAIT, upgrade)
            .await
            .map_err(|_| ClientError::Timeout(ANSWER_WAIT))?
            .map_err(|error| match error {
                tungstenite::Error::Http(response) => {
                    ClientError::Refused { status: response.status().as_u16() }
                }
                error => handshake(error),
            })?;
        let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|name| name.to_str().ok());
        if chosen != Some(codec.subprotocol()) {
            return Err(ClientError::Subprotocol(chosen.map(str::to_owned)));
        }
        Ok(Self { socket, codec, last_id: 0, pending: VecDeque::new(), answer_wait: ANSWER_WAIT })
    }

    /// Opens a connection and says `connect`.
    pub(crate) async fn connect(
        target: &Target,
        codec: Codec,
        source: Option<Ipv4Addr>,
        who: Connect,
    ) -> Result<(Self, Welcome), ClientError> {
        let mut client = Self::open(target, codec, source).await?;
        let welcome = client.request(Op::Connect(who)).await?.to()?;
        Ok((client, welcome))
    }

    /// Joins a room.
    pub(crate) async fn join(
        &mut self,
        room: &RoomName,
        since: Option<Since>,
    ) -> Result<Joined, ClientError> {
        let join = Op::Join(Join { room: room.clone(), since, recent: None });
        Ok(self.request_patiently(join).await?.to()?)
    }

    /// Sends an operation with the next id, and returns that id without waiting for the answer.
    pub(crate) async fn send(&mut self, op: Op) -> Result<u64, ClientError> {
        self.last_id += 1;
        let payload = self.codec.payload(&ClientFrame { id: Some(self.last_id), op })?;
        let message = match self.codec {
            Codec::Json(_) => Message::text(String::from_utf8_lossy(&payload).into_owned()),
            Codec::MsgPack(_) => Message::binary(payload),
        };
        self.socket.send(message).await.map_err(gone)?;
        Ok(self.last_id)
    }

    /// Sends an operation and waits for its answer. Pushes that come in between wait for [`Client::push`].
    pub(crate) async fn request(&mut self, op: Op) -> Result<Data, ClientError> {
        let wait = self.answer_wait;
        timeout(wait, async {
            let id = self.send(op).await?;
            self.answer(id).await
        })
        .await
        .map_err(|_| ClientError::Timeout(wait))?
    }

    /// Like [`Client::request`], but does as it is told where the server says "not so fast" or "not now".
    pub(crate) async fn request_patiently(&mut self, op: Op) -> Result<Data, ClientError> {
        loop {
            let outcome = self.request(op.clone()).await;
            match outcome.as_ref().err().and_then(ClientError::patience) {
                Some(wait) => sleep(wait).await,
                None => return outcome,
            }
        }
    }

    async fn answer(&mut self, id: u64) -> Result<Data, ClientError> {
        loop {
            let frame = self.read().await?;
            if frame.id == Some(id) {
                return match (frame.ok, frame.error) {
                    (_, Some(failure)) => Err(ClientError::Failed(failure)),
                    (ok, None) => Ok(ok.unwrap_or_else(Data::null)),
                };
            }
            if frame.push.is_some() {
                if self.pending.len() >= MAX_PENDING {
                    return Err(ClientError::Flooded);
                }
                self.pending.push_back(frame);
            } else if frame.id.is_none()
                && let Some(failure) = frame.error
            {
                return Err(ClientError::Failed(failure));
            }
            // What is left answers a request that was given up: nobody waits for it any more.
        }
    }

    /// The next push, the oldest first; waits at most so long.
    pub(crate) async fn push(&mut self, wait: Duration) -> Result<Incoming, ClientError> {
        if let Some(push) = self.pending.pop_front() {
            return Ok(push);
        }
        timeout(wait, async {
            loop {
                let frame = self.read().await?;
                if frame.push.is_some() {
                    return Ok(frame);
                }
            }
        })
        .await
        .map_err(|_| ClientError::Timeout(wait))?
    }

    /// Pushes that came before the last answer and were not taken yet.
    pub(crate) fn take_pending(&mut self) -> VecDeque<Incoming> {
        std::mem::take(&mut self.pending)
    }

    /// Reads one frame. Cancel safe.
    pub(crate) async fn read(&mut self) -> Result<Incoming, ClientError> {
        let message = self.message().await?;
        Ok(match &message {
            Message::Text(text) => Incoming::decode(Frame::Text(text))?,
            other => Incoming::decode(Frame::Binary(&other.clone().into_data()))?,
        })
    }

    /// The next text or binary message as it is, for a subcommand that reads only what it needs. Cancel safe.
    pub(crate) async fn message(&mut self) -> Result<Message, ClientError> {
        loop {
            match self.socket.next().await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => return Ok(message),
                Some(Ok(Message::Close(frame))) => {
                    let closed = match frame {
                        Some(frame) => {
                            Closed { code: Some(frame.code.into()), reason: frame.reason.to_string() }
                        }
                        None => Closed { code: Some(1005), reason: String::new() },
                    };
                    return Err(ClientError::Closed(closed));
                }
                // Pings are answered by the library with the next read.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(gone(error)),
                None => return Err(ClientError::Closed(Closed { code: None, reason: String::new() })),
            }
        }
    }

    /// Says goodbye; a server that is gone already is no failure.
    pub(crate) async fn close(mut self) {
        let _gone_already = timeout(Duration::from_secs(1), self.socket.close(None)).await;
    }

    #[cfg(test)]
    fn with_answer_wait(mut self, wait: Duration) -> Self {
        self.answer_wait = wait;
        self
    }
}

/// A connection that ended without a word is closed, not broken.
fn gone(error: tungstenite::Error) -> ClientError {
    use tungstenite::{Error, error::ProtocolError};
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing) => {
            ClientError::Closed(Closed { code: None, reason: String::new() })
        }
        Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
            ) =>
        {
            ClientError::Closed(Closed { code: None, reason: String::new() })
        }
        error => ClientError::Socket(Box::new(error)),
    }
}

async fn tcp(target: &Target, source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let address = target.address;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
    }
    if let Some(bytes) = target.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
        // Loopback's segments of 64 KiB would let the server's kernel keep megabytes; those of a real network do not.
        socket2::SockRef::from(&socket).set_tcp_mss(SEGMENT)?;
    }
    socket.set_nodelay(true)?;
    timeout(ANSWER_WAIT, socket.connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
