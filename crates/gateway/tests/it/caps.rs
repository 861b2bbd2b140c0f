//! Caps that hold over all nodes: by leases while Redis is there, by each node alone while it is away.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    process::{Child, Command, Stdio},
    time::Duration,
};

use roomcast_gateway::app::Backing;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::{Error, http::StatusCode};

use crate::support::{
    Client, Speak, TestNode,
    client::PATIENCE,
    node::{API_KEY, HMAC_KEY},
    redis::{RedisServer, free_port},
    token,
};

const HOME: [u8; 4] = [127, 0, 9, 1];
const HEARTBEAT: &str = "200ms";
const LEASE: &str = "600ms";

async fn node(redis: &RedisServer, name: &str, more: &[(&str, &str)]) -> TestNode {
    let url = redis.url();
    let mut settings = vec![
        ("node", name),
        ("redis.url", url.as_str()),
        ("drain.spread", "50ms"),
        ("breaker.open", "200ms"),
        ("presence.heartbeat", HEARTBEAT),
        ("presence.lease", LEASE),
        ("limits.connections_per_ip", "3"),
    ];
    settings.extend_from_slice(more);
    TestNode::start(&settings, Backing::Redis).await
}

/// The client, or the status and Retry-After with which it is refused.
async fn dial(from: impl Into<IpAddr>, to: SocketAddr) -> Result<Client, (StatusCode, u64)> {
    match Client::open_from(from.into(), to, Speak::Json).await {
        Ok(client) => Ok(client),
        Err(Error::Http(response)) => {
            let retry = response.headers().get("retry-after").expect("Retry-After");
            Err((response.status(), retry.to_str().expect("text").parse().expect("seconds")))
        }
        Err(error) => panic!("neither accepted nor refused: {error}"),
    }
}

async fn refused(from: impl Into<IpAddr>, to: SocketAddr) {
    match dial(from, to).await {
        Err((status, retry)) => {
            assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
            assert!((1..=30).contains(&retry), "{retry}");
        }
        Ok(_) => panic!("one too many is let in"),
    }
}

async fn in_time(from: impl Into<IpAddr> + Copy, to: SocketAddr, within: Duration) -> Client {
    let deadline = Instant::now() + within;
    loop {
        if let Ok(client) = dial(from, to).await {
            return client;
        }
        assert!(Instant::now() < deadline, "no place comes free");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fourth_connection_of_an_address_is_refused_on_whichever_node() {
    let redis = RedisServer::start();
    let venue = ("limits.ip_overrides", "127.0.9.128/25=5");
    let (a, b) = (node(&redis, "a", &[venue]).await, node(&redis, "b", &[venue]).await);
    // Both nodes have heard of each other.
    sleep(Duration::from_millis(500)).await;
    let mut held = Vec::new();
    for to in [a.public, b.public, a.public] {
        held.push(dial(HOME, to).await.expect("a place is free"));
    }
    refused(HOME, a.public).await;
    refused(HOME, b.public).await;
    let _other = dial([127, 0, 9, 2], b.public).await.expect("a neighbour has places of its own");
    // An override holds over all nodes as well.
    let venue = [127, 0, 9, 200];
    for to in [a.public, b.public, a.public, b.public, b.public] {
        held.push(dial(venue, to).await.expect("the venue may hold five"));
    }
    refused(venue, a.public).await;
    refused(venue, b.public).await;
    // A client that leaves makes room on the other node.
    drop(held.remove(0));
    let _again = in_time(HOME, b.public, PATIENCE).await;
    refused(HOME, a.public).await;
    a.stop().await;
    b.stop().await;
}

/// The binary itself, so that it can be killed.
struct Process {
    child: Child,
    public: SocketAddr,
}

impl Process {
    fn start(redis: &RedisServer) -> Self {
        let public = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let internal = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut child = Command::new(env!("CARGO_BIN_EXE_roomcast"))
            .args(["serve", "--dev", "--node", "doomed", "--workers", "1"])
            .env_clear()
            .env("ROOMCAST_LISTEN", public.to_string())
            .env("ROOMCAST_INTERNAL__LISTEN", internal.to_string())
            .env("ROOMCAST_REDIS__URL", redis.url())
            .env("ROOMCAST_AUTH__HMAC_KEY", HMAC_KEY)
            .env("ROOMCAST_API__KEY", API_KEY)
            .env("ROOMCAST_PRESENCE__HEARTBEAT", HEARTBEAT)
            .env("ROOMCAST_PRESENCE__LEASE", LEASE)
            .env("ROOMCAST_LIMITS__CONNECTIONS_PER_IP", "3")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stderr = child.stderr.take().expect("it is piped");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Ctrl-C")), "the node did not start");
        // Whatever else it says is read, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, public }
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_places_of_a_killed_node_come_free_with_its_lease() {
    let redis = RedisServer::start();
    let mut doomed = Process::start(&redis);
    let a = node(&redis, "a", &[]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(dial(HOME, doomed.public).await.expect("a place is free"));
    }
    sleep(Duration::from_millis(500)).await;
    refused(HOME, a.public).await;
    doomed.kill();
    let killed = Instant::now();
    let mut back = vec![in_time(HOME, a.public, Duration::from_secs(4)).await];
    assert!(killed.elapsed() > Duration::from_millis(100), "the lease holds for a while");
    for _ in 0..2 {
        back.push(dial(HOME, a.public).await.expect("all its places are free"));
    }
    refused(HOME, a.public).await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_node_holds_its_own_cap() {
    let mut redis = RedisServer::start();
    let (a, b) = (node(&redis, "a", &[]).await, node(&redis, "b", &[]).await);
    sleep(Duration::from_millis(500)).await;
    let mut held = Vec::new();
    for to in [a.public, a.public, b.public] {
        held.push(dial(HOME, to).await.expect("a place is free"));
    }
    refused(HOME, b.public).await;
    redis.kill().expect("Redis is killed");
    for to in [a.public, b.public, b.public] {
        let began = Instant::now();
        held.push(dial(HOME, to).await.expect("each node has three places"));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    refused(HOME, a.public).await;
    refused(HOME, b.public).await;
    // Redis comes back empty: what each node holds is told again, and nobody is thrown out.
    redis.restart();
    sleep(Duration::from_secs(3)).await;
    drop(held.split_off(4));
    sleep(Duration::from_millis(500)).await;
    refused(HOME, b.public).await;
    assert!(held[0].ok(json!({ "op": "connect" })).await["session"].is_string(), "the sockets stay");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_holds_a_cap_over_all_nodes_and_services_none() {
    let redis = RedisServer::start();
    let more = [("limits.connections_per_user", "2"), ("limits.connections_per_ip", "unlimited")];
    let (a, b) = (node(&redis, "a", &more).await, node(&redis, "b", &more).await);
    sleep(Duration::from_millis(500)).await;
    let hour = Duration::from_secs(3_600);
    let ann = token("ann", "member", hour);
    let first = Client::user(a.public, Speak::Json, &ann).await;
    let _second = Client::user(b.public, Speak::MsgPack, &ann).await;
    let mut third = Client::open(a.public, Speak::Json).await;
    let refused = third.error(json!({ "op": "connect", "token": ann })).await;
    assert_eq!(refused["code"], "limit_reached");
    assert!(refused["retry_ms"].as_u64().is_some_and(|ms| ms >= 1_000), "{refused}");
    assert_eq!(third.close_code().await, Some(1013));
    let _ben = Client::user(a.public, Speak::Json, &token("ben", "member", hour)).await;
    let bot = token("bot", "service", hour);
    for _ in 0..4 {
        drop(Client::user(b.public, Speak::Json, &bot).await);
    }
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut again = Client::open(b.public, Speak::Json).await;
        if again.request(json!({ "op": "connect", "token": ann })).await.get("ok").is_some() {
            break;
        }
        assert!(Instant::now() < deadline, "the place of a connection that ended comes free");
        sleep(Duration::from_millis(50)).await;
    }
    a.stop().await;
    b.stop().await;
}
