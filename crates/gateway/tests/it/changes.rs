//! The bridge to somebody else's database: changes as they happen, and counters seeded after a loss.

use std::time::Duration;

use roomcast_gateway::app::Backing;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Api, Client, Speak, TestNode, http::Caller, node::config, redis::RedisServer};

const ROOM: &str = "event:wall";

/// A node on the in-process bus, and one on a real Redis.
async fn both() -> Vec<(TestNode, Option<RedisServer>)> {
    let redis = RedisServer::start();
    let url = redis.url();
    let on_redis = TestNode::start(&[("redis.url", url.as_str())], Backing::Redis).await;
    vec![(TestNode::alone(&[]).await, None), (on_redis, Some(redis))]
}

fn kinds(page: &Value) -> Vec<&str> {
    page["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .map(|change| change["kind"].as_str().expect("a kind"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_durable_change_is_read_once_and_in_order() {
    for (node, _redis) in both().await {
        let caller = Caller::new(node.internal);
        let empty = caller.get("/api/v1/changes").await.body;
        assert_eq!(empty, json!({ "changes": [], "cursor": "0-0", "complete": true }));
        let like = json!({ "room": ROOM, "target": "p/1", "on": true, "user": "ann" });
        for _ in 0..2 {
            assert_eq!(caller.post("/api/v1/like", &like).await.status, 200);
        }
        let count = json!({ "room": ROOM, "target": "p/1", "counter": "view", "by": 3, "user": "ann" });
        caller.post("/api/v1/count", &count).await;
        let comment = json!({ "room": ROOM, "target": "p/1", "text": "hi \"there\"", "user": "ann" });
        caller.post("/api/v1/comment", &comment).await;
        let publish = json!({ "room": ROOM, "event": "photo", "data": { "n": 1 }, "key": "k" });
        for _ in 0..2 {
            caller.post("/api/v1/publish", &publish).await;
        }
        let page = caller.get("/api/v1/changes?after=0").await.body;
        assert_eq!(kinds(&page), ["like", "count", "comment", "event", "event"]);
        let data: Vec<_> = (0..5).map(|n| page["changes"][n]["data"].clone()).collect();
        assert_eq!((&data[0]["user"], &data[0]["value"]), (&json!("ann"), &json!(1)));
        assert_eq!((&data[1]["by"], &data[1]["value"]), (&json!(3), &json!(3)));
        assert_eq!(data[2]["text"], "hi \"there\"");
        assert_eq!(data[4]["event"], json!({ "event": "photo", "data": { "n": 1 } }));
        assert_eq!(page["changes"][0]["room"], ROOM);
        let cursor = page["cursor"].as_str().expect("a cursor");
        let rest = caller.get(&format!("/api/v1/changes?after={cursor}")).await.body;
        assert_eq!(rest, json!({ "changes": [], "cursor": cursor, "complete": true }));
        let first = page["changes"][0]["id"].as_str().expect("an id");
        let two = caller.get(&format!("/api/v1/changes?after={first}&limit=2")).await.body;
        assert_eq!(kinds(&two), ["count", "comment"]);
        assert_eq!(caller.get("/api/v1/changes?after=x").await.status, 400);
        assert_eq!(caller.get(&format!("/api/v1/changes?room={ROOM}")).await.status, 400);
        node.stop().await;
    }
}

/// Without what no two runs have in common: ids, times, versions that follow the clock.
fn bare(page: &Value) -> Vec<(String, Value)> {
    let bare = |change: &Value| {
        let mut data = change["data"].clone();
        for field in ["reservation", "expires_at", "at", "epoch", "comment"] {
            data.as_object_mut().expect("an object").remove(field);
        }
        if change["kind"] == "event" {
            data = data["event"]["event"].clone();
        }
        (change["kind"].as_str().expect("a kind").to_owned(), data)
    };
    page["changes"].as_array().expect("changes").iter().map(bare).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_uploads_documents_and_deletions_are_told_alike_by_both_stores() {
    for (node, _redis) in both().await {
        let caller = Caller::new(node.internal);
        let done = async |path: &str, body: Value| {
            let answer = caller.post(path, &body).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            answer.body
        };
        let offer = json!({ "room": ROOM, "item": "print", "stock": 3, "per_user": 3, "hold_ms": 60_000 });
        done("/api/v1/stock", offer).await;
        let reserve = |key: &str| json!({ "room": ROOM, "item": "print", "quantity": 2, "key": key, "user": "ann \"x\"/1" });
        let first = done("/api/v1/reserve", reserve("a")).await;
        done("/api/v1/reserve", reserve("a")).await;
        let hold = json!({ "reservation": first["reservation"], "user": "ann \"x\"/1" });
        done("/api/v1/release", hold).await;
        let second = done("/api/v1/reserve", reserve("b")).await;
        let hold = json!({ "reservation": second["reservation"], "user": "ann \"x\"/1" });
        done("/api/v1/confirm", hold).await;
        for state in ["started", "progress", "complete"] {
            let mut upload = json!({ "room": ROOM, "target": "p/1", "state": state, "user": "ann" });
            if state == "progress" {
                upload["progress"] = json!(10);
            }
            done("/api/v1/upload", upload).await;
        }
        let put =
            json!({ "room": ROOM, "doc": "title", "value": { "n": 1.50 }, "version": 0, "user": "ann" });
        done("/api/v1/put", put).await;
        let comment = json!({ "room": ROOM, "target": "p/1", "text": "hi", "user": "ann" });
        let comment = done("/api/v1/comment", comment).await;
        let id = comment["comment"].as_str().expect("an id");
        let mut api = Api::new(node.internal);
        let path = format!("/api/v1/rooms/{ROOM}/comments/{id}");
        assert_eq!(api.send("DELETE", &path, &[], None).await.status, 200);
        let page = caller.get("/api/v1/changes?limit=100").await.body;
        let stock = |sold: u64, held: u64| {
            let remaining = 3 - sold - held;
            let item = json!({ "item": "print", "stock": 3, "sold": sold, "held": held, "remaining": remaining, "per_user": 3, "hold_ms": 60_000 });
            ("stock".to_owned(), item)
        };
        let hold = |state: &str| {
            let hold = json!({ "item": "print", "user": "ann \"x\"/1", "quantity": 2, "state": state });
            ("hold".to_owned(), hold)
        };
        let upload = |state: &str, progress: u32| {
            let upload = json!({ "target": "p/1", "user": "ann", "state": state, "progress": progress });
            ("upload".to_owned(), upload)
        };
        let event = |name: &str| ("event".to_owned(), json!(name));
        let visible =
            json!({ "target": "p/1", "text": "hi", "user": "ann", "state": "visible", "version": 1 });
        let expected = [
            stock(0, 0),
            hold("held"),
            stock(0, 2),
            hold("released"),
            stock(0, 0),
            hold("held"),
            stock(0, 2),
            hold("confirmed"),
            stock(2, 0),
            upload("started", 0),
            upload("complete", 100),
            event("upload"),
            ("doc".to_owned(), json!({ "doc": "title", "user": "ann", "value": { "n": 1.5 }, "version": 1 })),
            event("doc"),
            ("comment".to_owned(), visible),
            event("comment"),
            ("comment".to_owned(), json!({ "target": "p/1", "state": "deleted", "version": 2 })),
            event("comment_deleted"),
            // Who deleted it stands in the audit log, which is a log of a room too.
            event("delete_comment"),
        ];
        assert_eq!(bare(&page), expected);
        assert_eq!(page["changes"][1]["data"]["reservation"], first["reservation"]);
        assert_eq!(page["changes"][3]["data"]["expires_at"], first["expires_at"]);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_reader_is_answered_when_something_changes() {
    for (node, _redis) in both().await {
        let caller = Caller::new(node.internal);
        let begun = Instant::now();
        let none = caller.get("/api/v1/changes?wait_ms=300").await.body;
        assert!(kinds(&none).is_empty() && begun.elapsed() >= Duration::from_millis(300));
        let waiting = caller.get("/api/v1/changes?wait_ms=20000");
        let change = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            caller.post("/api/v1/publish", &json!({ "room": ROOM, "event": "photo", "data": 1 })).await
        };
        let begun = Instant::now();
        let (page, _) = tokio::join!(waiting, change);
        assert_eq!(kinds(&page.body), ["event"]);
        assert!(begun.elapsed() < Duration::from_secs(5));
        node.stop().await;
    }
}

/// Two nodes over a cluster, and the one that copies leaves in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_one_stream_has_the_changes_of_all_rooms_whichever_node_stops() {
    let redis = RedisServer::start_cluster();
    let url = format!("redis-cluster://127.0.0.1:{}", redis.port);
    let a = TestNode::start(&[("redis.url", &url), ("node", "a")], Backing::Redis).await;
    let b = TestNode::start(&[("redis.url", &url), ("node", "b")], Backing::Redis).await;
    let callers = [Caller::new(a.internal), Caller::new(b.internal)];
    let rooms: Vec<String> = (0..12).map(|n| format!("event:{n}")).collect();
    let write = async |caller: &Caller, room: &str, n: u64| {
        let event = json!({ "room": room, "event": "photo", "data": n });
        assert_eq!(caller.post("/api/v1/publish", &event).await.status, 200);
        let count = json!({ "room": room, "target": "p/1", "counter": "view", "by": 1, "user": "ann" });
        assert_eq!(caller.post("/api/v1/count", &count).await.status, 200);
    };
    for room in &rooms {
        for n in 0..4 {
            write(&callers[usize::from(n % 2 == 1)], room, n).await;
        }
    }
    a.stop().await;
    let [_, caller] = &callers;
    for room in &rooms {
        write(caller, room, 4).await;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    let (mut told, mut cursor) = (Vec::new(), "0-0".to_owned());
    while told.len() < rooms.len() * 10 {
        assert!(Instant::now() < deadline, "{} changes were told", told.len());
        let page = caller.get(&format!("/api/v1/changes?after={cursor}&limit=50&wait_ms=1000")).await.body;
        assert_eq!(page["complete"], true);
        page["cursor"].as_str().expect("a cursor").clone_into(&mut cursor);
        told.extend(page["changes"].as_array().expect("changes").clone());
    }
    for room in &rooms {
        let of_room: Vec<_> = told
            .iter()
            .filter(|change| change["room"] == **room)
            .map(|change| match change["kind"].as_str().expect("a kind") {
                "event" => ("event", change["data"]["event"]["data"].as_u64().expect("a number")),
                _ => ("count", change["data"]["value"].as_u64().expect("a number")),
            })
            .collect();
        let expected: Vec<_> = (0..5).flat_map(|n| [("event", n), ("count", n + 1)]).collect();
        assert_eq!(of_room, expected, "{room}");
    }
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_size_no_changes_are_kept() {
    let settings = [("changes.size", "0")];
    let node = TestNode::start(&settings, Backing::local(&config(&settings))).await;
    let caller = Caller::new(node.internal);
    assert_eq!(caller.get("/api/v1/changes").await.status, 404);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_counters_are_pushed_and_never_lowered() {
    for (node, _redis) in both().await {
        let caller = Caller::new(node.internal);
        let mut ann = Client::guest(node.public, Speak::Json).await;
        ann.ok(json!({ "op": "join", "room": ROOM })).await;
        let seeds = |value: u64| json!({ "room": ROOM, "counters": [{ "target": "p/1", "counter": "view", "value": value }] });
        assert_eq!(caller.post("/api/v1/counters/restore", &seeds(40)).await.body, json!({ "changed": 1 }));
        let push = ann.push_of("count").await;
        assert_eq!((&push["target"], &push["value"]), (&json!("p/1"), &json!(40)));
        assert_eq!(caller.post("/api/v1/counters/restore", &seeds(30)).await.body, json!({ "changed": 0 }));
        assert_eq!(caller.post("/api/v1/counters/restore", &seeds(50)).await.body, json!({ "changed": 1 }));
        let risen = ann.push_of("count").await;
        assert_eq!(risen["value"], 50);
        assert!(risen["version"].as_u64() > push["version"].as_u64());
        let bad = json!({ "room": "nowhere:x", "counters": [] });
        assert_eq!(caller.post("/api/v1/counters/restore", &bad).await.status, 400);
        node.stop().await;
    }
}
