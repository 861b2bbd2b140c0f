//! One request to a node's internal listener, where only status and JSON matter.

use std::net::SocketAddr;

use serde_json::Value;

use super::Api;

/// Status and JSON body; null where the body is none.
pub async fn call(to: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    let body = body.map(|body| body.to_string().into_bytes());
    let reply = Api::new(to).send(method, path, &["Connection: close"], body.as_deref()).await;
    (reply.status, serde_json::from_str(reply.text()).unwrap_or_default())
}

/// Publishes one event over the API.
pub async fn publish(to: SocketAddr, room: &str, n: u64) {
    let event = serde_json::json!({ "room": room, "event": "n", "data": n, "key": format!("n-{n}") });
    let (status, answer) = call(to, "POST", "/api/v1/publish", Some(&event)).await;
    assert_eq!((status, &answer["offset"]), (200, &n.into()), "{answer}");
}
