//! A room in one answer is a room at one moment; and what stays of a room when it is ended, or was only looked at.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use roomcast_gateway::app::Backing;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{Api, Client, Speak, TestNode, client::PATIENCE, redis::RedisServer};

const ROOM: &str = "event:wall";

/// Each comment is an event and a count in one step: half of one is never seen.
async fn a_snapshot_is_never_half_old_and_half_new(node: TestNode) {
    let done = Arc::new(AtomicBool::new(false));
    let writers = (0..4).map(|writer| {
        let (mut api, done) = (Api::new(node.internal), done.clone());
        async move {
            let mut n = 0;
            while !done.load(Relaxed) {
                let comment =
                    json!({ "room": ROOM, "target": "p", "text": format!("{writer}-{n}"), "user": "ann" });
                api.ok("/api/v1/comment", &comment).await;
                n += 1;
            }
        }
    });
    let mut api = Api::new(node.internal);
    let reader = async {
        let mut last = 0;
        for _ in 0..300 {
            let room = api.read(&format!("/api/v1/rooms/{ROOM}")).await;
            let offset = room["offset"].as_u64().expect("an offset");
            let counted = room["counters"]
                .as_array()
                .expect("counters")
                .first()
                .map_or(&json!(0), |count| &count["value"])
                .clone();
            assert_eq!(counted, json!(offset), "{room}");
            assert!(offset >= last);
            last = offset;
        }
        done.store(true, Relaxed);
        last
    };
    let (_, last) = tokio::join!(futures_util::future::join_all(writers), reader);
    assert!(last > 20, "only {last} comments were written meanwhile");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_redis_a_snapshot_is_of_one_moment() {
    let redis = RedisServer::start();
    let url = redis.url();
    a_snapshot_is_never_half_old_and_half_new(TestNode::start(&[("redis.url", &url)], Backing::Redis).await)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_process_a_snapshot_is_of_one_moment() {
    a_snapshot_is_never_half_old_and_half_new(TestNode::alone(&[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_tells_everything_of_the_room() {
    let redis = RedisServer::start();
    let url = redis.url();
    for node in [TestNode::start(&[("redis.url", &url)], Backing::Redis).await, TestNode::alone(&[]).await] {
        let mut api = Api::new(node.internal);
        let empty = api.read(&format!("/api/v1/rooms/{ROOM}")).await;
        assert_eq!(
            (&empty["offset"], &empty["counters"], &empty["stock"]),
            (&json!(0), &json!([]), &json!([]))
        );
        let mut client = Client::guest(node.public, Speak::Json).await;
        client.ok(json!({ "op": "join", "room": ROOM })).await;
        for target in ["b", "a"] {
            client.ok(json!({ "op": "like", "room": ROOM, "target": target, "on": true })).await;
        }
        for item in ["y", "x"] {
            let offer = json!({ "room": ROOM, "item": item, "stock": 3, "per_user": 2, "hold_ms": 60_000 });
            api.ok("/api/v1/stock", &offer).await;
        }
        client.ok(json!({ "op": "reserve", "room": ROOM, "item": "x", "quantity": 2, "key": "k" })).await;
        let room = api.read(&format!("/api/v1/rooms/{ROOM}")).await;
        assert_eq!(room["epoch"], empty["epoch"]);
        assert_eq!(room["presence"], json!({ "connections": 1, "users": 1 }));
        let told = |list: &str, fields: &[&str]| -> Vec<Value> {
            let list = room[list].as_array().expect("a list").iter();
            list.map(|one| fields.iter().map(|field| one[*field].clone()).collect()).collect()
        };
        let likes = told("counters", &["target", "counter", "value"]);
        assert!(
            likes.contains(&json!(["a", "like", 1])) && likes.contains(&json!(["b", "like", 1])),
            "{room}"
        );
        assert!(likes.is_sorted_by_key(|like| like[0].to_string()), "{room}");
        assert_eq!(told("stock", &["item", "held", "remaining"]), [json!(["x", 2, 1]), json!(["y", 0, 3])]);
        node.stop().await;
    }
}

/// Every key, and how long it lives in ms; -1: for ever.
fn keys(redis: &RedisServer) -> BTreeMap<String, i64> {
    let cli = |words: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", &redis.port.to_string()]).args(words).output();
        String::from_utf8(output.expect("redis-cli").stdout).expect("text")
    };
    let names = cli(&["--scan"]);
    names.lines().map(|key| (key.to_owned(), cli(&["PTTL", key]).trim().parse().expect("a number"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_room_leaves_nothing_but_what_is_explained() {
    let redis = RedisServer::start();
    let url = redis.url();
    let node = TestNode::start(&[("redis.url", &url)], Backing::Redis).await;
    let mut api = Api::new(node.internal);
    let mut client = Client::guest(node.public, Speak::Json).await;
    client.ok(json!({ "op": "join", "room": ROOM })).await;
    let publish = json!({ "room": ROOM, "event": "e", "data": 1, "key": "k" });
    api.ok("/api/v1/publish", &publish).await;
    let offer = json!({ "room": ROOM, "item": "x", "stock": 3, "per_user": 2, "hold_ms": 2_000 });
    api.ok("/api/v1/stock", &offer).await;
    for (op, more) in [
        ("like", json!({ "target": "p", "on": true })),
        ("count", json!({ "target": "p", "counter": "view", "by": 1, "key": "k" })),
        ("comment", json!({ "target": "p", "text": "hello", "key": "l" })),
        ("upload", json!({ "target": "q", "state": "started" })),
        ("reserve", json!({ "item": "x", "quantity": 1, "key": "m" })),
        ("put", json!({ "doc": "d", "value": 1, "version": 0 })),
    ] {
        let mut body = more;
        (body["room"], body["user"]) = (json!(ROOM), json!("ann"));
        api.ok(&format!("/api/v1/{op}"), &body).await;
    }
    api.ok("/api/v1/mute", &json!({ "room": ROOM, "user": "eve", "ttl_ms": 60_000 })).await;
    client.ok(json!({ "op": "leave", "room": ROOM })).await;
    let of_room = |keys: &BTreeMap<String, i64>| -> Vec<String> {
        keys.keys().filter(|key| key.contains(ROOM)).cloned().collect()
    };
    assert!(of_room(&keys(&redis)).len() > 12, "{:?}", keys(&redis));
    assert_eq!(api.send("DELETE", &format!("/api/v1/rooms/{ROOM}"), &[], None).await.status, 200);
    // The sweep of expired holds crosses the room off its list by itself. That somebody left may be told after the end:
    // then the pause until the next word of presence goes by itself.
    let deadline = Instant::now() + PATIENCE;
    let left = loop {
        let left = keys(&redis);
        if !left.contains_key("rc:stocked") && !left.keys().any(|key| key.ends_with(":p.pushed")) {
            break left;
        }
        assert!(Instant::now() < deadline, "{left:?}");
        sleep(Duration::from_millis(50)).await;
    };
    // Its new epoch, for those who are still there, and for minutes only.
    assert_eq!(of_room(&left), [format!("rc:{{{ROOM}}}:meta")]);
    for (key, ttl) in left {
        match key.as_str() {
            // Bounded by number: what the owner's database has still to read.
            "rc:{changes}:log" => {}
            // Who did what, of the whole cluster: bounded by number, and by as long as somebody may have to answer for it.
            "rc:{admin:audit}:log" | "rc:{admin:audit}:meta" => assert!(ttl > 0, "{key}: {ttl}"),
            // As long as the mute, which is the user's as much as the room's.
            "rc:restrictions" => assert!((1..=60_000).contains(&ttl), "{key}: {ttl}"),
            key if key.starts_with("rc:{nodes}:") => assert!((1..=600_000).contains(&ttl), "{key}: {ttl}"),
            key if key.starts_with("rc:{@") => assert!((1..=600_000).contains(&ttl), "{key}: {ttl}"),
            key => {
                assert!(key.contains(ROOM), "{key} is not explained");
                assert!((1..=300_000).contains(&ttl), "{key}: {ttl}");
            }
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_leaves_nothing_that_lasts() {
    let redis = RedisServer::start();
    let url = redis.url();
    let node = TestNode::start(&[("redis.url", &url)], Backing::Redis).await;
    let mut api = Api::new(node.internal);
    let mut guests = Vec::new();
    for n in 0..20 {
        let mut guest = Client::guest(node.public, Speak::Json).await;
        let room = format!("event:made-up-{n}");
        guest.ok(json!({ "op": "join", "room": room })).await;
        guest.ok(json!({ "op": "history", "room": room, "limit": 10 })).await;
        guest.ok(json!({ "op": "presence", "room": room })).await;
        for path in ["", "/history", "/presence", "/counters", "/comments", "/stock"] {
            api.read(&format!("/api/v1/rooms/event:looked-at-{n}{path}")).await;
        }
        guests.push(guest);
    }
    // Two looks of the pump at quiet rooms' tails: they keep what is lived in, and no longer than that.
    sleep(Duration::from_secs(5)).await;
    let left = keys(&redis);
    assert!(left.keys().any(|key| key.contains("made-up")));
    for (key, ttl) in left {
        assert!((1..=600_000).contains(&ttl), "{key} lives for {ttl} ms");
    }
    node.stop().await;
}
