//! One HTTP request to a node's internal listener.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::node::API_KEY;

/// Status and JSON body; null where the body is none.
pub async fn call(to: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = TcpStream::connect(to).await.expect("the node listens");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {to}\r\nauthorization: Bearer {API_KEY}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.expect("the node takes the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the node answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_default())
}

/// Publishes one event over the API.
pub async fn publish(to: SocketAddr, room: &str, n: u64) {
    let event = serde_json::json!({ "room": room, "event": "n", "data": n, "key": format!("n-{n}") });
    let (status, answer) = call(to, "POST", "/api/v1/publish", Some(&event)).await;
    assert_eq!((status, &answer["offset"]), (200, &n.into()), "{answer}");
}
