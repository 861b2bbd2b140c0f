//! Two nodes on one real Redis: what holds across nodes, across a lost Redis, and across a rolling restart.

use std::time::Duration;

use roomcast_gateway::app::Backing;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{Client, Speak, TestNode, client::PATIENCE, redis::RedisServer, token};

const HOUR: Duration = Duration::from_secs(3_600);
const ROOM: &str = "event:wall";

async fn node(redis: &RedisServer, name: &str) -> TestNode {
    let url = redis.url();
    let settings =
        [("node", name), ("redis.url", url.as_str()), ("drain.spread", "200ms"), ("breaker.open", "200ms")];
    TestNode::start(&settings, Backing::Redis).await
}

async fn member(node: &TestNode, speak: Speak, user: &str) -> Client {
    Client::user(node.public, speak, &token(user, "member", HOUR)).await
}

fn publish(n: u64) -> Value {
    json!({ "op": "publish", "room": ROOM, "event": "n", "data": n, "key": format!("n-{n}") })
}

/// Publishes until it is accepted, under the same key.
async fn publish_patiently(client: &mut Client, n: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = client.request(publish(n)).await;
        if answer.get("ok").is_some() {
            return;
        }
        assert_eq!(answer["error"]["code"], "unavailable", "{answer}");
        assert!(answer["error"]["retry_ms"].as_u64().is_some_and(|ms| ms > 0), "{answer}");
        assert!(Instant::now() < deadline, "Redis is not found again: {answer}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn expect_events(client: &mut Client, from: u64, to: u64) {
    for n in from..=to {
        let push = client.push_of("event").await;
        assert_eq!((&push["data"], &push["offset"]), (&json!(n), &json!(n)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_are_one_hub() {
    let redis = RedisServer::start();
    let (a, b) = (node(&redis, "a").await, node(&redis, "b").await);
    let mut ann = member(&a, Speak::Json, "ann").await;
    let mut ben = member(&b, Speak::MsgPack, "ben").await;
    ann.ok(json!({ "op": "join", "room": ROOM })).await;
    let joined = ben.ok(json!({ "op": "join", "room": ROOM })).await;
    assert_eq!(joined["presence"], json!({ "connections": 2, "users": 2 }));
    for n in 1..=20 {
        let publisher = if n % 2 == 0 { &mut ann } else { &mut ben };
        publisher.ok(publish(n)).await;
    }
    expect_events(&mut ann, 1, 20).await;
    expect_events(&mut ben, 1, 20).await;
    let like = json!({ "op": "like", "room": ROOM, "target": "p", "on": true });
    ann.ok(like.clone()).await;
    assert_eq!(ann.ok(like.clone()).await["value"], 1);
    assert_eq!(ben.ok(like).await["value"], 2);
    for client in [&mut ann, &mut ben] {
        while client.push_of("count").await["value"] != 2 {}
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_guest_secret_is_the_same_guest_on_every_node() {
    let redis = RedisServer::start();
    let (a, b) = (node(&redis, "a").await, node(&redis, "b").await);
    let mut first = Client::open(a.public, Speak::Json).await;
    let known = first.ok(json!({ "op": "connect" })).await;
    let connect = json!({ "op": "connect", "guest": known["guest"] });
    let mut races = Vec::new();
    for at in 0..10 {
        let to = if at % 2 == 0 { a.public } else { b.public };
        let connect = connect.clone();
        races.push(async move { Client::open(to, Speak::Json).await.ok(connect).await });
    }
    for again in futures_util::future::join_all(races).await {
        assert_eq!((&again["user"], &again["guest"]), (&known["user"], &known["guest"]));
    }
    let mut other = Client::open(b.public, Speak::Json).await;
    assert_ne!(other.ok(json!({ "op": "connect" })).await["user"], known["user"]);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_redis_is_lost_sockets_stay_and_nothing_published_is_lost() {
    let mut redis = RedisServer::start_durable();
    let (a, b) = (node(&redis, "a").await, node(&redis, "b").await);
    let mut ann = member(&a, Speak::Json, "ann").await;
    let mut ben = member(&b, Speak::MsgPack, "ben").await;
    for client in [&mut ann, &mut ben] {
        client.ok(json!({ "op": "join", "room": ROOM })).await;
    }
    for n in 1..=5 {
        ann.ok(publish(n)).await;
    }
    redis.kill().expect("Redis is killed");
    let refused = ann.error(publish(6)).await;
    assert_eq!(refused["code"], "unavailable", "{refused}");
    // Once the breaker is open, refusals don't wait for anything.
    for _ in 0..5 {
        ann.error(publish(6)).await;
    }
    let mut took = Vec::new();
    for _ in 0..3 {
        let before = Instant::now();
        assert_eq!(ann.error(publish(6)).await["code"], "unavailable");
        took.push(before.elapsed());
    }
    took.sort_unstable();
    // The middle one: a machine may stop once.
    assert!(took[1] < Duration::from_millis(50), "refusals took {took:?}");
    assert!(ann.ok(json!({ "op": "ping" })).await["now"].is_u64(), "the socket stays");
    redis.restart();
    for n in 6..=10 {
        publish_patiently(&mut ann, n).await;
    }
    expect_events(&mut ann, 1, 10).await;
    expect_events(&mut ben, 1, 10).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_redis_after_a_restart_is_told_as_a_reset() {
    let mut redis = RedisServer::start();
    let a = node(&redis, "a").await;
    let mut ann = member(&a, Speak::Json, "ann").await;
    let joined = ann.ok(json!({ "op": "join", "room": ROOM })).await;
    publish_patiently(&mut ann, 1).await;
    redis.kill().expect("Redis is killed");
    redis.restart();
    let reset = ann.push_of("reset").await;
    assert_eq!(reset["room"], ROOM);
    assert_ne!(reset["epoch"], joined["epoch"]);
    publish_patiently(&mut ann, 2).await;
    let event = ann.push_of("event").await;
    assert_eq!((&event["data"], event["offset"].as_u64() > reset["offset"].as_u64()), (&json!(2), true));
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_nothing() {
    let redis = RedisServer::start();
    let mut nodes = vec![node(&redis, "a1").await, node(&redis, "b1").await];
    let mut publisher = member(&nodes[1], Speak::Json, "ann").await;
    let mut reader = member(&nodes[0], Speak::MsgPack, "ben").await;
    let joined = reader.ok(json!({ "op": "join", "room": ROOM })).await;
    let (epoch, mut seen) = (joined["epoch"].clone(), 0);
    for n in 1..=5 {
        publisher.ok(publish(n)).await;
    }
    for round in 2..=3 {
        let old = nodes.remove(0);
        let stopping = tokio::spawn(old.stop());
        // The reader takes what comes until it is told to go, and goes when it is closed.
        loop {
            match reader.frame().await {
                Ok(push) if push["push"] == "event" => seen = push["offset"].as_u64().expect("an offset"),
                Ok(push) => {
                    assert!(["goaway", "presence"].contains(&push["push"].as_str().unwrap_or("")), "{push}");
                }
                Err(end) => {
                    assert_eq!(end.map(|frame| u16::from(frame.code)), Some(1012));
                    break;
                }
            }
        }
        let n = 5 * (round - 1) + 1;
        nodes.push(node(&redis, &format!("node{round}")).await);
        // What is published while nobody listens is not lost either.
        let mut other = member(&nodes[1], Speak::Json, "ann").await;
        for n in n..n + 5 {
            other.ok(publish(n)).await;
        }
        // To the node that goes next.
        reader = member(&nodes[0], Speak::MsgPack, "ben").await;
        let since = json!({ "epoch": epoch, "offset": seen });
        let back = reader.ok(json!({ "op": "join", "room": ROOM, "since": since })).await;
        assert_eq!(back["recovered"], true);
        for event in back["events"].as_array().expect("a list") {
            seen += 1;
            assert_eq!((&event["offset"], &event["data"]), (&json!(seen), &json!(seen)));
        }
        assert_eq!(seen, n + 4);
        stopping.await.expect("the old node stops");
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_since_long_ago_gets_more_than_one_page() {
    let redis = RedisServer::start();
    let url = redis.url();
    let settings = [("redis.url", url.as_str()), ("namespaces.event.history.size", "5000")];
    let node = TestNode::start(&settings, Backing::Redis).await;
    let mut ann = member(&node, Speak::Json, "ann").await;
    let joined = ann.ok(json!({ "op": "join", "room": ROOM })).await;
    ann.ok(json!({ "op": "leave", "room": ROOM })).await;
    for n in 1..=1_200 {
        let frame = json!({ "op": "publish", "room": ROOM, "event": "n", "data": n });
        ann.send(&frame).await;
    }
    ann.ok(publish(1_201)).await;
    let since = json!({ "epoch": joined["epoch"], "offset": 0 });
    let back = ann.ok(json!({ "op": "join", "room": ROOM, "since": since })).await;
    let offsets: Vec<u64> =
        back["events"].as_array().expect("a list").iter().filter_map(|e| e["offset"].as_u64()).collect();
    assert_eq!((back["recovered"].as_bool(), offsets), (Some(true), (1..=1_201).collect()));
    node.stop().await;
}
