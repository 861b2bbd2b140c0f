//! The client against a small WebSocket server that follows a script.

#![allow(clippy::result_large_err, reason = "the handshake callbacks of tungstenite return its large type")]

use std::{future::Future, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use roomcast_protocol::{Codec, Incoming, Op, Ping, RoomName, Since};
use tokio::{net::TcpListener, time::sleep};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::*;
use crate::target::Identity;

type Socket = WebSocketStream<TcpStream>;

/// Runs `client` against a server that accepts one connection and runs `server` on it.
async fn with_server<S, C>(server: impl FnOnce(Socket) -> S, client: impl FnOnce(Target) -> C) -> C::Output
where
    S: Future<Output = ()>,
    C: Future,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Target { url: format!("ws://{address}/ws"), address, receive_buffer: None };
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        let agree = |request: &Request, mut response: Response| {
            let wanted = request.headers().get(SEC_WEBSOCKET_PROTOCOL).cloned();
            response.headers_mut().extend(wanted.map(|name| (SEC_WEBSOCKET_PROTOCOL, name)));
            Ok(response)
        };
        server(accept_hdr_async(stream, agree).await.unwrap()).await;
    };
    let (outcome, ()) = tokio::join!(client(target), serve);
    outcome
}

/// The next frame of the client, as JSON, whatever its codec.
async fn heard(socket: &mut Socket) -> serde_json::Value {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Binary(bytes) => return rmp_serde::from_slice(&bytes).unwrap(),
            _ => {}
        }
    }
}

async fn say(socket: &mut Socket, json: &str) {
    socket.send(Message::text(json)).await.unwrap();
}

async fn say_packed(socket: &mut Socket, json: &str) {
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    socket.send(Message::binary(rmp_serde::to_vec_named(&value).unwrap())).await.unwrap();
}

const WELCOME: &str = r#"{"id":1,"ok":{"session":"s","user":"u","role":"guest","ping_ms":1,"node":"n","limits":{"frames_per_second":20}}}"#;
const JOINED: &str = r#"{"id":2,"ok":{"epoch":"e","offset":7,"recovered":true,"events":[{"event":"x","data":{"a":1},"offset":7,"at":1}],"presence":{"connections":1,"users":1}}}"#;

#[tokio::test]
async fn connect_and_join_speak_either_codec_with_rising_ids() {
    for codec in [Codec::json(), Codec::msgpack()] {
        let binary = matches!(codec, Codec::MsgPack(_));
        with_server(
            async |mut socket: Socket| {
                for (expected, answer) in [("connect", WELCOME), ("join", JOINED)] {
                    assert_eq!(heard(&mut socket).await["op"], expected);
                    if binary {
                        say_packed(&mut socket, answer).await;
                    } else {
                        say(&mut socket, answer).await;
                    }
                }
                let ping = heard(&mut socket).await;
                assert_eq!((ping["op"].as_str(), ping["id"].as_u64()), (Some("ping"), Some(3)));
            },
            async |target| {
                let (mut client, welcome) =
                    Client::connect(&target, codec, None, Identity::guest()).await.unwrap();
                assert_eq!(welcome.limits.frames_per_second, Some(20));
                let room = RoomName::parse("event:a").unwrap();
                let since = Since { epoch: Epoch::new("e"), offset: Offset(6) };
                let joined = client.join(&room, Some(since)).await.unwrap();
                assert_eq!((joined.offset, joined.recovered), (Offset(7), true));
                assert_eq!(joined.events[0].data.as_str(), r#"{"a":1}"#);
                client.send(Op::Ping(Ping {})).await.unwrap();
            },
        )
        .await;
    }
}

#[tokio::test]
async fn pushes_that_come_before_an_answer_are_kept_in_order() {
    with_server(
        async |mut socket: Socket| {
            heard(&mut socket).await;
            for n in 1..=3 {
                say(&mut socket, &format!(r#"{{"push":"event","offset":{n}}}"#)).await;
            }
            say(&mut socket, r#"{"id":1,"ok":{"now":5}}"#).await;
            say(&mut socket, r#"{"push":"event","offset":4}"#).await;
        },
        async |target| {
            let mut client = Client::open(&target, Codec::json(), None).await.unwrap();
            let pong = client.request(Op::Ping(Ping {})).await.unwrap();
            assert_eq!(pong.as_str(), r#"{"now":5}"#);
            for n in 1..=4 {
                let push: Incoming = client.push(ANSWER_WAIT).await.unwrap();
                assert_eq!(push.offset, Some(Offset(n)));
            }
            assert!(client.take_pending().is_empty());
        },
    )
    .await;
}

#[tokio::test]
async fn a_refusal_is_told_and_a_wait_is_kept() {
    with_server(
        async |mut socket: Socket| {
            heard(&mut socket).await;
            say(&mut socket, r#"{"id":1,"error":{"code":"forbidden","message":"no"}}"#).await;
            heard(&mut socket).await;
            say(&mut socket, r#"{"id":2,"error":{"code":"rate_limited","message":"slower","retry_ms":30}}"#)
                .await;
            let refused = std::time::Instant::now();
            assert_eq!(heard(&mut socket).await["id"], 3);
            assert!(refused.elapsed() >= Duration::from_millis(29));
            say(&mut socket, r#"{"id":3,"ok":{"now":1}}"#).await;
        },
        async |target| {
            let mut client = Client::open(&target, Codec::json(), None).await.unwrap();
            let error = client.request_patiently(Op::Ping(Ping {})).await.unwrap_err();
            assert_eq!(error.to_string(), "forbidden: no");
            assert!(client.request_patiently(Op::Ping(Ping {})).await.is_ok());
        },
    )
    .await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_timeout_and_a_late_one_disturbs_nobody() {
    with_server(
        async |mut socket: Socket| {
            heard(&mut socket).await;
            assert_eq!(heard(&mut socket).await["id"], 2);
            say(&mut socket, r#"{"id":1,"ok":{"now":1}}"#).await;
            say(&mut socket, r#"{"id":2,"ok":{"now":2}}"#).await;
        },
        async |target| {
            let client = Client::open(&target, Codec::json(), None).await.unwrap();
            let mut client = client.with_answer_wait(Duration::from_millis(50));
            let error = client.request(Op::Ping(Ping {})).await.unwrap_err();
            assert!(matches!(error, ClientError::Timeout(_)), "{error}");
            let mut client = client.with_answer_wait(ANSWER_WAIT);
            assert_eq!(client.request(Op::Ping(Ping {})).await.unwrap().as_str(), r#"{"now":2}"#);
        },
    )
    .await;
}

#[tokio::test]
async fn a_close_is_told_with_its_code_and_a_vanished_server_without() {
    with_server(
        async |mut socket: Socket| {
            let frame = CloseFrame { code: CloseCode::from(4001), reason: "slow consumer".into() };
            socket.close(Some(frame)).await.unwrap();
        },
        async |target| {
            let mut client = Client::open(&target, Codec::json(), None).await.unwrap();
            let error = client.push(ANSWER_WAIT).await.unwrap_err();
            assert_eq!(error.to_string(), "closed: 4001 slow consumer");
        },
    )
    .await;
    with_server(
        async |socket: Socket| drop(socket),
        async |target| {
            let mut client = Client::open(&target, Codec::json(), None).await.unwrap();
            let error = client.push(ANSWER_WAIT).await.unwrap_err();
            assert!(matches!(error, ClientError::Closed(Closed { code: None, .. })), "{error:?}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_ping_of_the_server_is_answered_while_the_client_reads() {
    with_server(
        async |mut socket: Socket| {
            socket.send(Message::Ping("p".into())).await.unwrap();
            let pong = socket.next().await.unwrap().unwrap();
            assert_eq!(pong, Message::Pong("p".into()));
            say(&mut socket, r#"{"push":"goaway","retry_ms":1,"reason":"r"}"#).await;
        },
        async |target| {
            let mut client = Client::open(&target, Codec::json(), None).await.unwrap();
            assert_eq!(client.push(ANSWER_WAIT).await.unwrap().push.as_deref(), Some("goaway"));
        },
    )
    .await;
}

#[tokio::test]
async fn an_unreadable_frame_is_an_error_and_not_skipped() {
    with_server(
        async |mut socket: Socket| say(&mut socket, "[1,2").await,
        async |target| {
            let mut client = Client::open(&target, Codec::json(), None).await.unwrap();
            let error = client.push(ANSWER_WAIT).await.unwrap_err();
            assert!(matches!(error, ClientError::Unreadable(_)), "{error}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_connection_comes_from_the_address_that_was_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Target { url: format!("ws://{address}/ws"), address, receive_buffer: None };
    let source = Ipv4Addr::new(127, 0, 0, 77);
    let (client, peer) = tokio::join!(Client::open(&target, Codec::json(), Some(source)), async {
        let (stream, peer) = listener.accept().await.unwrap();
        drop(stream);
        peer
    });
    assert!(client.is_err());
    assert_eq!(peer.ip(), IpAddr::V4(source));
}

#[tokio::test]
async fn a_refused_upgrade_tells_its_status_and_a_foreign_subprotocol_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Target { url: format!("ws://{address}/ws"), address, receive_buffer: None };
    let refuse = async {
        let (stream, _) = listener.accept().await.unwrap();
        let deny = |_: &Request, _: Response| {
            let mut response = ErrorResponse::new(None);
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            Err(response)
        };
        assert!(accept_hdr_async(stream, deny).await.is_err());
        let (stream, _) = listener.accept().await.unwrap();
        let other = |_: &Request, mut response: Response| {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("chat"));
            Ok(response)
        };
        let _socket = accept_hdr_async(stream, other).await;
        sleep(Duration::from_millis(10)).await;
    };
    let ask = async {
        let refused = Client::open(&target, Codec::json(), None).await.unwrap_err();
        assert!(matches!(refused, ClientError::Refused { status: 429 }), "{refused}");
        assert!(refused.to_string().contains("--sources"));
        assert!(Client::open(&target, Codec::json(), None).await.is_err());
    };
    tokio::join!(refuse, ask);
}
