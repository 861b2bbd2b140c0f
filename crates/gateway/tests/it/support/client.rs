//! A client of one connection, in either codec.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use roomcast_protocol::{SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK};
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        http::{HeaderValue, Request, Response},
        protocol::CloseFrame,
    },
};

/// Longer than anything that works takes, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speak {
    Json,
    MsgPack,
}

pub struct Client {
    pub socket: WebSocketStream<TcpStream>,
    speak: Speak,
    next_id: u64,
    /// Pushes that came while something else was awaited.
    pub pushes: VecDeque<Value>,
}

impl Client {
    /// Opens a socket without saying anything.
    pub async fn open(to: SocketAddr, speak: Speak) -> Self {
        Self::open_from(Ipv4Addr::LOCALHOST.into(), to, speak).await.expect("the upgrade is accepted")
    }

    /// Opens a socket from one address of the loopback; the error holds the response, where there was one.
    pub async fn open_from(from: IpAddr, to: SocketAddr, speak: Speak) -> Result<Self, Error> {
        let protocol = match speak {
            Speak::Json => SUBPROTOCOL_JSON,
            Speak::MsgPack => SUBPROTOCOL_MSGPACK,
        };
        let request = with_header(request(to), "sec-websocket-protocol", protocol);
        let (socket, response) = upgrade(from, to, request).await?;
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
        Ok(Self { socket, speak, next_id: 1, pushes: VecDeque::new() })
    }

    /// Opens a socket, or says how it was refused.
    pub async fn try_open(to: SocketAddr, speak: Speak) -> Result<Self, Refused> {
        Self::try_open_from(Ipv4Addr::LOCALHOST.into(), to, speak).await
    }

    /// The same from one address of the loopback.
    pub async fn try_open_from(from: IpAddr, to: SocketAddr, speak: Speak) -> Result<Self, Refused> {
        match Self::open_from(from, to, speak).await {
            Ok(client) => Ok(client),
            Err(Error::Http(response)) => {
                let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
                let retry_after = after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
                Err(Refused { status: response.status().as_u16(), retry_after })
            }
            Err(error) => panic!("neither accepted nor refused: {error}"),
        }
    }

    /// A guest, connected.
    pub async fn guest(to: SocketAddr, speak: Speak) -> Self {
        let mut client = Self::open(to, speak).await;
        client.ok(json!({ "op": "connect" })).await;
        client
    }

    /// A user with a token, connected.
    pub async fn user(to: SocketAddr, speak: Speak, token: &str) -> Self {
        let mut client = Self::open(to, speak).await;
        client.ok(json!({ "op": "connect", "token": token })).await;
        client
    }

    pub async fn send(&mut self, frame: &Value) {
        let message = match self.speak {
            Speak::Json => Message::text(frame.to_string()),
            Speak::MsgPack => Message::binary(rmp_serde::to_vec_named(frame).expect("JSON fits MessagePack")),
        };
        self.raw(message).await;
    }

    pub async fn raw(&mut self, message: Message) {
        self.socket.send(message).await.expect("the socket takes the message");
    }

    /// Sends a frame under the next id and returns the whole answer; pushes that come before it are kept.
    pub async fn request(&mut self, mut frame: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        frame["id"] = id.into();
        self.send(&frame).await;
        loop {
            let answer = self.frame().await.expect("the socket stays open");
            if answer["id"] == id {
                return answer;
            }
            assert!(answer.get("push").is_some(), "an answer that nobody asked for: {answer}");
            self.pushes.push_back(answer);
        }
    }

    /// The `ok` of an answer that must be one.
    pub async fn ok(&mut self, frame: Value) -> Value {
        let mut answer = self.request(frame.clone()).await;
        assert!(answer.get("ok").is_some(), "{frame} was answered {answer}");
        answer["ok"].take()
    }

    /// The `error` of an answer that must be one.
    pub async fn error(&mut self, frame: Value) -> Value {
        let mut answer = self.request(frame.clone()).await;
        assert!(answer.get("error").is_some(), "{frame} was answered {answer}");
        answer["error"].take()
    }

    /// The next push.
    pub async fn push(&mut self) -> Value {
        match self.pushes.pop_front() {
            Some(push) => push,
            None => self.frame().await.expect("the socket stays open"),
        }
    }

    /// The next push of this kind; others are passed over.
    pub async fn push_of(&mut self, kind: &str) -> Value {
        loop {
            let push = self.push().await;
            if push["push"] == kind {
                return push;
            }
        }
    }

    /// The next frame, or how the socket ended.
    pub async fn frame(&mut self) -> Result<Value, Option<CloseFrame>> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("something comes in time");
            return Ok(match message {
                Some(Ok(Message::Text(text))) => serde_json::from_str(&text).expect("JSON"),
                Some(Ok(Message::Binary(bytes))) => rmp_serde::from_slice(&bytes).expect("MessagePack"),
                Some(Ok(Message::Close(frame))) => return Err(frame),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(_)) | None => return Err(None),
            });
        }
    }

    /// The code with which the server closes; whatever comes before it is passed over.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            if let Err(end) = self.frame().await {
                return end.map(|frame| frame.code.into());
            }
        }
    }

    /// Nothing comes for a while.
    pub async fn hears_nothing(&mut self, during: Duration) {
        assert!(self.pushes.is_empty(), "{:?} came before", self.pushes);
        let heard = timeout(during, self.socket.next()).await;
        assert!(heard.is_err(), "{heard:?} came");
    }
}

/// How an upgrade was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub retry_after: Option<Duration>,
}

/// A good request for an upgrade, to be spoilt by tests.
pub fn request(to: SocketAddr) -> Request<()> {
    format!("ws://{to}/ws").into_client_request().expect("a good request")
}

pub fn with_header(mut request: Request<()>, name: &'static str, value: &str) -> Request<()> {
    request.headers_mut().insert(name, HeaderValue::from_str(value).expect("a good value"));
    request
}

/// Makes the request from one address of the loopback.
pub async fn upgrade(
    from: IpAddr,
    to: SocketAddr,
    request: Request<()>,
) -> Result<(WebSocketStream<TcpStream>, Response<Option<Vec<u8>>>), Error> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(from, 0))?;
    let stream = socket.connect(to).await?;
    client_async(request, stream).await
}
