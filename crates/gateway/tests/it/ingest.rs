//! Webhooks: durable before they are answered, once per id, whoever dies, and honest when the queue is full.

use std::{
    collections::HashMap,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use aws_lc_rs::hmac;
use futures_util::future::join_all;
use reqwest::Method;
use roomcast_counter::{Ingest, IngestRules, RedisIngest};
use roomcast_gateway::app::Backing;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{
    Client, Speak, TestNode,
    http::{Caller, send},
    node::{API_KEY, HMAC_KEY},
    redis::{RedisServer, free_port},
};

const ROOM: &str = "event:orders";
const SECRET: &str = "the secret of the shop";
const PATIENCE: Duration = Duration::from_secs(40);
const SHOP: [(&str, &str); 2] = [("ingest.sources.shop.room", ROOM), ("ingest.sources.shop.event", "order")];

async fn on_redis(redis: &RedisServer, name: &str, more: &[(&str, &str)]) -> TestNode {
    let url = redis.url();
    let mut settings = vec![
        ("node", name),
        ("redis.url", url.as_str()),
        ("drain.spread", "100ms"),
        ("namespaces.event.history.size", "5000"),
    ];
    settings.extend(SHOP);
    settings.extend(more);
    TestNode::start(&settings, Backing::Redis).await
}

fn order(n: u32) -> Value {
    json!({ "uuid": format!("order-{n}"), "n": n })
}

/// The orders in the room's log, with how often each is there, once there are so many or time is up.
async fn landed(caller: &Caller, want: usize) -> HashMap<u64, usize> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut found = HashMap::new();
        let mut since = 0;
        let tail = caller.get(&format!("/api/v1/rooms/{ROOM}/history?limit=1")).await.body;
        loop {
            let epoch = tail["epoch"].as_str().expect("an epoch");
            let path = format!("/api/v1/rooms/{ROOM}/history?epoch={epoch}&since={since}&limit=500");
            let page = caller.get(&path).await.body;
            let events = page["events"].as_array().expect("events").clone();
            let Some(last) = events.last() else { break };
            since = last["offset"].as_u64().expect("an offset");
            for event in events {
                assert_eq!(event["event"], "order");
                *found.entry(event["data"]["n"].as_u64().expect("an order")).or_default() += 1;
            }
        }
        if found.len() >= want || Instant::now() > deadline {
            return found;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn assert_each_once(found: &HashMap<u64, usize>, count: usize) {
    assert_eq!(found.len(), count);
    assert!(found.values().all(|times| *times == 1), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_becomes_one_event_and_its_retries_none() {
    let node = TestNode::alone(&SHOP).await;
    let caller = Caller::new(node.internal);
    let mut ann = Client::guest(node.public, Speak::Json).await;
    ann.ok(json!({ "op": "join", "room": ROOM })).await;
    let first = caller.post("/api/v1/ingest/shop", &order(1)).await;
    assert_eq!((first.status, &first.body), (202, &json!({ "duplicate": false })));
    let push = ann.push_of("event").await;
    assert_eq!((&push["event"], &push["data"]), (&json!("order"), &order(1)));
    let again = caller.post("/api/v1/ingest/shop", &order(1)).await;
    assert_eq!((again.status, &again.body), (200, &json!({ "duplicate": true })));
    let other = caller.post("/api/v1/ingest/shop", &json!({ "uuid": "order-1", "n": 2 })).await;
    assert_eq!((other.status, &other.body["code"]), (409, &json!("key_reused")));
    let header = caller.bare(Method::POST, "/api/v1/ingest/shop").bearer_auth(API_KEY);
    let header = send(header.header("Idempotency-Key", "abc").body(r#"{"n":3}"#)).await.expect("answered");
    assert_eq!(header.status, 202);
    assert_eq!(ann.push_of("event").await["data"]["n"], 3);
    ann.hears_nothing(Duration::from_millis(300)).await;
    let metrics =
        caller.bare(Method::GET, "/metrics").send().await.expect("answered").text().await.expect("text");
    for name in
        ["roomcast_ingest_total{outcome=\"queued\"}", "roomcast_ingest_waiting", "roomcast_ingest_dead"]
    {
        assert!(metrics.contains(name), "{name}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_become_an_event_is_refused_at_the_door() {
    let mut settings = SHOP.to_vec();
    settings.push(("ingest.sources.open.signature_header", "x-any"));
    let node = TestNode::alone(&settings).await;
    let caller = Caller::new(node.internal);
    let status = async |source: &str, body: &Value| {
        let answer = caller.post(&format!("/api/v1/ingest/{source}"), body).await;
        (answer.status, answer.body["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(status("nobody", &order(1)).await, (404, "not_found".to_owned()));
    assert_eq!(status("shop", &json!({ "n": 1 })).await.0, 400);
    assert_eq!(status("shop", &json!("text")).await.0, 400);
    assert_eq!(status("shop", &json!({ "uuid": "" })).await.0, 400);
    assert_eq!(status("open", &json!({ "uuid": "a" })).await.0, 400, "no room");
    assert_eq!(
        status("open", &json!({ "uuid": "a", "room": "nowhere:x" })).await,
        (400, "bad_room".to_owned())
    );
    assert_eq!(status("open", &json!({ "uuid": "a", "room": "event:x", "event": "\n" })).await.0, 400);
    for event in ["upload", "comment_deleted", "admin:notification"] {
        let body = json!({ "uuid": "a", "room": "event:x", "event": event });
        assert_eq!(status("open", &body).await, (403, "forbidden".to_owned()), "{event}");
    }
    let large = json!({ "uuid": "a", "x": "x".repeat(1024 * 1024) });
    assert_eq!(status("shop", &large).await, (413, "too_large".to_owned()));
    assert_eq!(
        status("open", &json!({ "uuid": "a", "room": "event:x" })).await.0,
        202,
        "no refusal left a record"
    );
    let bare = caller.bare(Method::POST, "/api/v1/ingest/shop").body(order(9).to_string());
    assert_eq!(send(bare).await.expect("answered").status, 401);
    let bare = send(caller.bare(Method::GET, "/api/v1/ingest/shop/dead")).await.expect("answered");
    assert_eq!(bare.status, 401);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_source_takes_the_signature_and_nothing_else() {
    let mut settings = SHOP.to_vec();
    settings
        .extend([("ingest.sources.shop.secret", SECRET), ("ingest.sources.shop.signature_header", "X-Shop")]);
    let node = TestNode::alone(&settings).await;
    let caller = Caller::new(node.internal);
    let body = order(1).to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, body.as_bytes());
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).expect("a nibble");
    let hex: String =
        signature.as_ref().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
    let post = async |header: Option<&str>, body: &str| {
        let mut request = caller.bare(Method::POST, "/api/v1/ingest/shop").body(body.to_owned());
        if let Some(header) = header {
            request = request.header("x-shop", header);
        }
        send(request).await.expect("answered").status
    };
    assert_eq!(post(None, &body).await, 401);
    assert_eq!(post(Some("sha256="), &body).await, 401);
    assert_eq!(post(Some(&hex.replace(char::is_numeric, "0")), &body).await, 401);
    assert_eq!(post(Some(&hex), &order(2).to_string()).await, 401, "of another body");
    assert_eq!(post(Some(&hex), &body).await, 202);
    assert_eq!(post(Some(&format!("sha256={hex}")), &body).await, 200);
    let bearer = caller.post("/api/v1/ingest/shop", &order(3)).await;
    assert_eq!(bearer.status, 401, "the bearer is no signature");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_posts_at_once_half_of_them_duplicates_over_two_nodes_land_once() {
    let redis = RedisServer::start();
    let (a, b) = (on_redis(&redis, "a", &[]).await, on_redis(&redis, "b", &[]).await);
    let callers = [Caller::new(a.internal), Caller::new(b.internal)];
    let posts = (0..200).map(|post| {
        let caller = &callers[post as usize % 2];
        // Order n is sent to both nodes.
        async move { caller.post("/api/v1/ingest/shop", &order(post / 2)).await.status }
    });
    let begun = Instant::now();
    let answers = join_all(posts).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(answers.iter().filter(|status| **status == 202).count(), 100);
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 100);
    assert_each_once(&landed(&callers[0], 100).await, 100);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429_and_a_lost_redis_503_both_with_retry_after() {
    let mut redis = RedisServer::start();
    // Another consumer holds all entries, so that they stay.
    let holder = holder(&redis, 5).await;
    for n in 0..5 {
        let body = order(n).to_string();
        holder.enqueue("shop", &format!("order-{n}"), &body).await.expect("queued");
    }
    assert_eq!(holder.take("shop", "busy", 9).await.expect("taken").len(), 5);
    let node = on_redis(&redis, "a", &[("ingest.capacity", "5")]).await;
    let caller = Caller::new(node.internal);
    let full = caller.post("/api/v1/ingest/shop", &order(9)).await;
    assert_eq!((full.status, &full.body["code"]), (429, &json!("rate_limited")));
    assert_eq!(full.retry_after.as_deref(), Some("1"));
    let known = caller.post("/api/v1/ingest/shop", &order(0)).await;
    assert_eq!(known.status, 200, "what is known is answered all the same");
    redis.kill().expect("ours to end");
    let away = caller.post("/api/v1/ingest/shop", &order(10)).await;
    assert_eq!(away.status, 503, "{away:?}");
    assert!(away.retry_after.is_some());
}

async fn holder(redis: &RedisServer, capacity: u64) -> Ingest {
    use fred::prelude::{Builder, ClientLike, Config};
    let config = Config::from_url(&redis.url()).expect("a URL");
    let client = Builder::from_config(config).build().expect("a client");
    client.init().await.expect("redis-server answers");
    Ingest::Redis(RedisIngest::new(client, "rc", IngestRules { capacity, ..IngestRules::default() }))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_node_held_lands_once_published_or_not() {
    let redis = RedisServer::start();
    let dead = holder(&redis, 1_000).await;
    for n in 0..2 {
        dead.enqueue("shop", &format!("order-{n}"), &order(n).to_string()).await.expect("queued");
    }
    let held = dead.take("shop", "dead", 9).await.expect("taken");
    assert_eq!(held.len(), 2);
    // It published the first one, and died before it could say so. A node without sources stands in for it.
    let url = redis.url();
    let before = TestNode::start(&[("redis.url", url.as_str())], Backing::Redis).await;
    let data: Value = serde_json::from_str(&held[0].body).expect("JSON");
    let publish = json!({ "room": ROOM, "event": "order", "data": data, "key": "ingest:shop:order-0" });
    assert_eq!(Caller::new(before.internal).post("/api/v1/publish", &publish).await.status, 200);
    let node = on_redis(&redis, "b", &[]).await;
    let caller = Caller::new(node.internal);
    assert_each_once(&landed(&caller, 2).await, 2);
    let deadline = Instant::now() + PATIENCE;
    while dead.depth("shop").await.expect("read").waiting > 0 {
        assert!(Instant::now() < deadline, "the first one never ends");
        sleep(Duration::from_millis(100)).await;
    }
    assert_each_once(&landed(&caller, 2).await, 2);
    before.stop().await;
    node.stop().await;
}

/// The node as a process, to be killed as the kernel kills.
struct Process {
    child: Child,
    internal: SocketAddr,
}

impl Process {
    async fn start(redis: &RedisServer) -> Self {
        let (public, internal) = (free_port(), free_port());
        let set = |key: &str, value: &str| ["--set".to_owned(), format!("{key}={value}")];
        let child = Command::new(env!("CARGO_BIN_EXE_roomcast"))
            .args(["serve", "--dev"])
            .args(set("listen", &format!("127.0.0.1:{public}")))
            .args(set("internal.listen", &format!("127.0.0.1:{internal}")))
            .args(set("redis.url", &redis.url()))
            .args(set("auth.hmac_key", HMAC_KEY))
            .args(set("api.key", API_KEY))
            .args(set("workers", "1"))
            .args(set("namespaces.event.history.size", "5000"))
            .args(SHOP.iter().flat_map(|(key, value)| set(key, value)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let internal = SocketAddr::from(([127, 0, 0, 1], internal));
        let process = Self { child, internal };
        let deadline = Instant::now() + PATIENCE;
        // It listens before it has reached Redis.
        let caller = Caller::new(internal);
        while !send(caller.bare(Method::GET, "/readyz")).await.is_ok_and(|answer| answer.status == 200) {
            assert!(Instant::now() < deadline, "the process does not become ready");
            sleep(Duration::from_millis(20)).await;
        }
        process
    }

    fn kill(&mut self) {
        self.child.kill().expect("ours to end");
        self.child.wait().expect("ended");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_had_accepted_lands_once() {
    let redis = RedisServer::start();
    let mut process = Process::start(&redis).await;
    let caller = Caller::new(process.internal);
    let accepted = AtomicUsize::new(0);
    let posts = (0..300).map(|n| {
        let (caller, accepted) = (caller.clone(), &accepted);
        async move {
            let answer = caller.try_post("/api/v1/ingest/shop", &order(n)).await;
            if answer.as_ref().is_ok_and(|answer| answer.status == 202) {
                accepted.fetch_add(1, Ordering::Relaxed);
            }
            (n, answer)
        }
    });
    let killed = async {
        let deadline = Instant::now() + PATIENCE;
        while accepted.load(Ordering::Relaxed) < 50 {
            assert!(Instant::now() < deadline, "nothing is accepted");
            sleep(Duration::from_millis(1)).await;
        }
        process.kill();
    };
    let (answers, ()) = tokio::join!(join_all(posts), killed);
    let other = on_redis(&redis, "b", &[]).await;
    let caller = Caller::new(other.internal);
    // Its sender sends again whatever was not answered; whatever was answered is there already.
    for (n, answer) in &answers {
        let again = caller.post("/api/v1/ingest/shop", &order(*n)).await.status;
        match answer {
            Ok(answer) if answer.status == 202 => {
                assert_eq!(again, 200, "order {n} was accepted and is lost");
            }
            _ => assert!(matches!(again, 200 | 202), "{again}"),
        }
    }
    assert_each_once(&landed(&caller, 300).await, 300);
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_are_listed_and_replayed() {
    let redis = RedisServer::start();
    let holder = holder(&redis, 1_000).await;
    // A room that the node does not know: as if the settings had changed since it was taken in.
    holder.enqueue("open", "x", r#"{"uuid":"x","room":"gone:room"}"#).await.expect("queued");
    let node = on_redis(&redis, "a", &[("ingest.sources.open.event", "thing")]).await;
    let caller = Caller::new(node.internal);
    let deadline = Instant::now() + PATIENCE;
    let dead = loop {
        let page = caller.get("/api/v1/ingest/open/dead").await.body;
        if let Some(letter) = page["dead"].as_array().and_then(|dead| dead.first()) {
            break letter.clone();
        }
        assert!(Instant::now() < deadline, "it is not given up");
        sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((&dead["id"], &dead["attempts"]), (&json!("x"), &json!(1)));
    assert_eq!(dead["reason"], "the room's namespace is not configured");
    let none = caller.post("/api/v1/ingest/open/dead/replay", &json!({ "entries": [] })).await.body;
    assert_eq!(none, json!({ "replayed": 0, "left": 1 }));
    node.stop().await;
    let node = on_redis(
        &redis,
        "b",
        &[("ingest.sources.open.event", "thing"), ("namespaces.gone.publish", "service")],
    )
    .await;
    let caller = Caller::new(node.internal);
    let all = caller.post("/api/v1/ingest/open/dead/replay", &json!({})).await.body;
    assert_eq!(all, json!({ "replayed": 1, "left": 0 }));
    let deadline = Instant::now() + PATIENCE;
    while caller.get("/api/v1/rooms/gone:room").await.body["offset"] != 1 {
        assert!(Instant::now() < deadline, "it does not land");
        sleep(Duration::from_millis(50)).await;
    }
    node.stop().await;
}
