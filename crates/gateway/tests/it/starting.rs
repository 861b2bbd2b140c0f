//! What a node answers before it has reached Redis, and that the same addresses serve afterwards.

use std::{net::TcpListener, time::Duration};

use roomcast_gateway::app::{self, Backing};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::{Api, Client, Speak, client::PATIENCE, node::config, raw::Reply, redis::RedisServer};

fn free() -> String {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("an address").to_string()
}

async fn get(to: &str, path: &str) -> Option<Reply> {
    let to = to.parse().expect("an address");
    tokio::net::TcpStream::connect(to).await.ok()?;
    Some(Api::with_bearer(to, None).get(path).await)
}

async fn begins_to_answer(to: &str) {
    let deadline = Instant::now() + PATIENCE;
    while get(to, "/livez").await.is_none() {
        assert!(Instant::now() < deadline, "nobody listens");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn starts_and_says_so(listen: &str, internal: &str) {
    let mut redis = RedisServer::start();
    redis.kill().expect("killed");
    let url = redis.url();
    let settings = [
        ("listen", listen),
        ("internal.listen", internal),
        ("redis.url", url.as_str()),
        ("redis.connect_attempts", "1000"),
    ];
    let starting = tokio::task::spawn(app::start(config(&settings), Backing::Redis));
    begins_to_answer(internal).await;
    let live = get(internal, "/livez").await.expect("answered");
    assert_eq!((live.status, live.text()), (200, "ok\n"));
    assert_eq!(get(internal, "/readyz").await.expect("answered").status, 503);
    let verbose = get(internal, "/readyz?verbose").await.expect("answered");
    assert_eq!((verbose.status, &verbose.json()["checks"]["phase"]["state"]), (503, &json!("starting")));
    assert!(get(internal, "/metrics").await.expect("answered").text().contains("roomcast_"));
    let early = get(internal, "/api/v1/stats").await.expect("answered");
    assert_eq!((early.status, early.header("retry-after")), (503, Some("1")));
    // More often than there are workers: each listener of the shared port answers.
    for _ in 0..8 {
        let early = get(listen, "/ws").await.expect("answered");
        assert_eq!((early.status, early.header("retry-after")), (503, Some("1")), "{}", early.text());
        assert_eq!(early.json()["code"], "unavailable");
    }
    assert!(!starting.is_finished());
    redis.restart();
    let running = starting.await.expect("no panic").expect("it starts once Redis is there");
    let addresses = (running.public.to_string(), running.internal.to_string());
    assert_eq!(addresses, (listen.to_owned(), internal.to_owned()));
    for _ in 0..8 {
        assert_eq!(get(internal, "/readyz").await.expect("answered").status, 200);
        let mut client = Client::guest(running.public, Speak::Json).await;
        client.ok(json!({ "op": "join", "room": "event:wall" })).await;
    }
    running.halt().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_for_redis_lives_is_not_ready_and_sends_clients_away() {
    let (listen, internal) = (free(), free());
    starts_and_says_so(&listen, &internal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_listener_for_all_it_says_so_there() {
    let listen = free();
    starts_and_says_so(&listen, &listen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_gives_its_addresses_back() {
    let (listen, internal) = (free(), free());
    let mut redis = RedisServer::start();
    redis.kill().expect("killed");
    let url = redis.url();
    let settings = [
        ("listen", listen.as_str()),
        ("internal.listen", internal.as_str()),
        ("redis.url", url.as_str()),
        ("redis.connect_attempts", "1"),
    ];
    assert!(app::start(config(&settings), Backing::Redis).await.is_err());
    let deadline = Instant::now() + PATIENCE;
    while TcpListener::bind(&listen).is_err() || TcpListener::bind(&internal).is_err() {
        assert!(Instant::now() < deadline, "somebody still listens");
        sleep(Duration::from_millis(10)).await;
    }
}
