//! What admins do from a dashboard: figures, drain, shed, disconnect, moderation, and the log of all that.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{
    Api, Client, Cluster, Speak, TestNode, admin_token, call::call, client::PATIENCE, sign::short, token,
};

const ROOM: &str = "event:wall";
const MINUTES: Duration = Duration::from_secs(600);

async fn admin(node: &TestNode) -> Client {
    Client::user(node.public, Speak::Json, &admin_token()).await
}

/// The data of the next signal of the hub's own in the room `admin`.
async fn told(client: &mut Client, event: &str) -> Value {
    loop {
        let mut signal = client.push_of("signal").await;
        if signal["event"] == event && signal.get("from").is_none() {
            return signal["data"].take();
        }
    }
}

/// The newest entry of the audit log that is of this action.
async fn audited(client: &mut Client, action: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = client.ok(json!({ "op": "audit" })).await;
        let entries = log["entries"].as_array().expect("a list").clone();
        if let Some(entry) = entries.into_iter().rev().find(|entry| entry["action"] == action) {
            return entry;
        }
        assert!(Instant::now() < deadline, "no {action} in {log}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_an_admin_operates_and_an_admin_no_longer_than_the_token_says() {
    let cluster = Cluster::new();
    let a = cluster.node("a", &[]).await;
    let frames = [
        json!({ "op": "stats" }),
        json!({ "op": "queue" }),
        json!({ "op": "audit" }),
        json!({ "op": "drain", "node": "a" }),
        json!({ "op": "shed", "node": "a", "share": 1 }),
        json!({ "op": "disconnect", "user": "ada" }),
    ];
    for role in ["member", "service"] {
        let mut client = Client::user(a.public, Speak::Json, &token("mo", role, MINUTES)).await;
        for frame in &frames {
            assert_eq!(client.error(frame.clone()).await["code"], "forbidden", "{role} {frame}");
        }
    }
    let mut guest = Client::guest(a.public, Speak::MsgPack).await;
    for frame in &frames {
        assert_eq!(guest.error(frame.clone()).await["code"], "forbidden", "a guest: {frame}");
    }
    let mut demoted = Client::user(a.public, Speak::Json, &token("ada", "admin", MINUTES)).await;
    demoted.ok(json!({ "op": "stats" })).await;
    demoted.ok(json!({ "op": "refresh", "token": token("ada", "member", MINUTES) })).await;
    for frame in &frames {
        assert_eq!(demoted.error(frame.clone()).await["code"], "forbidden", "demoted: {frame}");
    }
    let mut brief = Client::user(a.public, Speak::Json, &short("ada", "admin", 0.6)).await;
    brief.ok(json!({ "op": "stats" })).await;
    assert_eq!(brief.close_code().await, Some(4002), "with its token an admin's socket ends");
    let mut admin = admin(&a).await;
    assert_eq!(admin.ok(json!({ "op": "audit" })).await, json!({ "entries": [] }), "nothing was done");
    assert_eq!(call(a.internal, "GET", "/readyz", None).await.0, 200, "nobody drained it");
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_cluster_is_told_once_a_second_by_one_node_and_the_same_to_who_asks() {
    let cluster = Cluster::new();
    let fast = [("presence.heartbeat", "100ms")];
    let (a, b) = (cluster.node("a", &fast).await, cluster.node("b", &fast).await);
    let mut guest = Client::guest(b.public, Speak::Json).await;
    guest.ok(json!({ "op": "join", "room": ROOM })).await;
    let mut client = admin(&b).await;
    client.ok(json!({ "op": "join", "room": "admin" })).await;
    let mut state = loop {
        let message = told(&mut client, "cluster").await;
        let both = message["state"]["nodes"].as_object().is_some_and(|nodes| nodes.len() == 2);
        if both {
            break message;
        }
    };
    let began = Instant::now();
    for _ in 0..3 {
        let message = told(&mut client, "cluster").await;
        assert_eq!(message["by"], state["by"], "one node tells for all");
        assert_eq!(message["seq"].as_u64(), state["seq"].as_u64().map(|seq| seq + 1));
        assert!(message["patch"]["nodes"]["b"].get("version").is_none(), "what did not change is not told");
        assert!(message["patch"]["at"].is_u64(), "{message}");
        state = message;
    }
    assert!(began.elapsed() >= Duration::from_millis(1_500), "once a second");
    let deadline = Instant::now() + PATIENCE;
    let stats = loop {
        let stats = client.ok(json!({ "op": "stats" })).await;
        if stats["rooms"].as_array().is_some_and(|rooms| rooms.iter().any(|room| room["room"] == ROOM)) {
            break stats;
        }
        assert!(Instant::now() < deadline, "{stats}");
        sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((&stats["total"]["nodes"], stats.get("partial")), (&json!(2), None));
    for field in
        ["started_at", "queue_bytes", "in_per_s", "out_per_s", "redis_reconnects", "breaker_log", "phase"]
    {
        assert!(stats["nodes"]["a"].get(field).is_some(), "{field}: {stats}");
    }
    assert!(stats["nodes"]["a"].get("top").is_none(), "only for adding up");
    let mut http = Api::new(a.internal).read("/api/v1/stats").await;
    assert_eq!(http["nodes"].as_array().map(Vec::len), Some(2));
    assert!(http["total"]["in_per_s"].take().is_number() && http["rooms"].is_array(), "{http}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_and_shed_from_another_and_both_are_written_down() {
    let cluster = Cluster::new();
    let settings =
        [("presence.heartbeat", "100ms"), ("drain.balancer_delay", "50ms"), ("drain.spread", "100ms")];
    let (a, b) = (cluster.node("a", &settings).await, cluster.node("b", &settings).await);
    let mut client = admin(&b).await;
    client.ok(json!({ "op": "join", "room": "admin" })).await;
    let mut guests = Vec::new();
    for _ in 0..4 {
        guests.push(Client::guest(a.public, Speak::Json).await);
    }
    let shed = |share: f64| json!({ "op": "shed", "node": "a", "share": share, "spread_ms": 50 });
    for (bad, code) in [
        (json!({ "op": "shed", "node": "a" }), "bad_frame"),
        (json!({ "op": "shed", "node": "nobody", "share": 1 }), "not_found"),
        (json!({ "op": "drain", "node": "nobody" }), "not_found"),
        (shed(1.5), "bad_frame"),
    ] {
        assert_eq!(client.error(bad.clone()).await["code"], code, "{bad}");
    }
    // A node is known to the others once it has told something of itself.
    let deadline = Instant::now() + PATIENCE;
    while client.ok(json!({ "op": "stats" })).await["nodes"].get("a").is_none() {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.ok(shed(0.5)).await, json!({}));
    let live = told(&mut client, "audit").await;
    assert_eq!(
        (&live["action"], &live["on"], &live["by"], &live["node"]),
        (&json!("shed"), &json!("a"), &json!("ada"), &json!("a"))
    );
    let entry = audited(&mut client, "shed").await;
    assert_eq!(entry["detail"], "2 of 4 connections within 0.05 s");
    assert_eq!(entry["offset"], live["offset"], "told live as it stands in the log");
    assert_eq!(client.ok(json!({ "op": "drain", "node": "a" })).await, json!({}));
    let mut codes = Vec::new();
    for guest in &mut guests {
        codes.push(guest.close_code().await.expect("closed with a code"));
    }
    codes.sort_unstable();
    assert_eq!(codes, [1012, 1012, 4003, 4003]);
    assert_eq!(audited(&mut client, "drain").await["on"], "a");
    assert_eq!(call(a.internal, "GET", "/readyz", None).await.0, 503);
    assert_eq!(call(b.internal, "GET", "/readyz", None).await.0, 200, "the other serves on");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stats = client.ok(json!({ "op": "stats" })).await;
        if stats["nodes"]["a"]["phase"] == "draining" && stats["nodes"]["a"]["drain_from"].is_u64() {
            break;
        }
        assert!(Instant::now() < deadline, "{stats}");
        sleep(Duration::from_millis(50)).await;
    }
    // The same over HTTP, asked of one node for another.
    let (status, answer) = call(a.internal, "POST", "/api/v1/drain?node=b", None).await;
    assert_eq!((status, &answer), (202, &json!({ "draining": true, "node": "b" })));
    assert_eq!(client.close_code().await, Some(1012));
    let log = Api::new(a.internal).read("/api/v1/audit?limit=1").await;
    assert_eq!((&log["entries"][0]["by"], &log["entries"][0]["on"]), (&json!("api"), &json!("b")), "{log}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_wait_in_one_queue_for_all_rooms_and_every_moderator_hears_what_becomes_of_them() {
    let cluster = Cluster::new();
    let moderated = [("namespaces.event.moderated", "true")];
    let (a, b) = (cluster.node("a", &moderated).await, cluster.node("b", &moderated).await);
    let (mut ada, mut second) = (admin(&a).await, admin(&b).await);
    for client in [&mut ada, &mut second] {
        client.ok(json!({ "op": "join", "room": "admin" })).await;
    }
    assert_eq!(ada.ok(json!({ "op": "queue" })).await, json!({ "comments": [] }));
    let mut guest = Client::guest(b.public, Speak::Json).await;
    for (room, text) in [(ROOM, " first "), ("event:other", "<b>second</b>")] {
        guest.ok(json!({ "op": "comment", "room": room, "target": "p", "text": text })).await;
        // Times are told in milliseconds: what two rooms store within one is in no order.
        sleep(Duration::from_millis(2)).await;
    }
    let pending = told(&mut ada, "pending").await;
    assert_eq!(
        (&pending["room"], &pending["text"], &pending["version"]),
        (&json!(ROOM), &json!("first"), &json!(1))
    );
    let queue = ada.ok(json!({ "op": "queue" })).await;
    let texts: Vec<_> =
        queue["comments"].as_array().expect("a list").iter().map(|one| &one["text"]).collect();
    assert_eq!(texts, [&json!("first"), &json!("<b>second</b>")], "over all rooms, oldest first");
    assert_eq!(queue["comments"][0], pending, "live as it stands in the queue");
    let one = ada.ok(json!({ "op": "queue", "room": "event:other", "limit": 1 })).await;
    assert_eq!(one["comments"][0]["text"], "<b>second</b>");
    assert_eq!(ada.error(json!({ "op": "queue", "cursor": "c" })).await["code"], "bad_frame");
    let decide = json!({ "op": "moderate", "room": ROOM, "comment": pending["comment"], "decision": "approve", "version": 1 });
    ada.ok(decide.clone()).await;
    let decided = told(&mut second, "decided").await;
    assert_eq!(
        (&decided["comment"], &decided["state"], &decided["by"]),
        (&pending["comment"], &json!("approved"), &json!("ada"))
    );
    let conflict = second.error(decide).await;
    assert_eq!((&conflict["code"], &conflict["current"]["state"]), (&json!("conflict"), &json!("approved")));
    assert_eq!(ada.ok(json!({ "op": "queue", "room": ROOM })).await["comments"], json!([]));
    let entry = audited(&mut second, "moderate").await;
    assert_eq!((&entry["by"], &entry["on"]), (&json!("ada"), &json!(ROOM)));
    assert!(!entry.to_string().contains("first"), "no text of a comment in the log: {entry}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_and_disconnects_are_written_down_and_the_log_is_read_by_pages() {
    let cluster = Cluster::new();
    let a = cluster.node("a", &[]).await;
    let mut ada = admin(&a).await;
    let mut guest = Client::guest(a.public, Speak::Json).await;
    guest.ok(json!({ "op": "join", "room": ROOM })).await;
    let notice = |room: &str| json!({ "op": "publish", "room": room, "event": "admin:notification", "data": { "title": "Cake!", "body": "secret words" }, "key": room });
    ada.ok(notice(ROOM)).await;
    ada.ok(notice(ROOM)).await;
    ada.ok(notice("admin")).await;
    assert_eq!(guest.push_of("event").await["data"]["title"], "Cake!");
    let mut member = Client::user(a.public, Speak::Json, &token("mo", "member", MINUTES)).await;
    assert_eq!(member.error(notice(ROOM)).await["code"], "forbidden", "the word of an admin");
    assert_eq!(ada.error(json!({ "op": "disconnect" })).await["code"], "bad_frame");
    assert_eq!(ada.error(json!({ "op": "disconnect", "ip": "home" })).await["code"], "bad_frame");
    ada.ok(json!({ "op": "disconnect", "user": "mo" })).await;
    assert_eq!(member.close_code().await, Some(4503));
    let log = ada.ok(json!({ "op": "audit" })).await;
    let seen: Vec<_> = log["entries"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| (entry["action"].as_str().unwrap_or_default(), entry["on"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(
        seen,
        [("notify", ROOM), ("notify", "admin"), ("disconnect", "user mo")],
        "a retry is no second one"
    );
    assert!(!log.to_string().contains("secret words"), "{log}");
    let page = ada.ok(json!({ "op": "audit", "before": log["entries"][2]["offset"], "limit": 1 })).await;
    assert_eq!(page["entries"], json!([log["entries"][1]]));
    for (method, path, body) in [
        ("POST", "/api/v1/ban", json!({ "user": "eve", "room": ROOM })),
        ("POST", "/api/v1/unban", json!({ "user": "eve", "room": ROOM })),
        ("DELETE", "/api/v1/rooms/event:wall", json!({})),
    ] {
        assert_eq!(call(a.internal, method, path, Some(&body)).await.0, 200, "{path}");
    }
    let log = ada.ok(json!({ "op": "audit", "limit": 3 })).await;
    let acts: Vec<_> =
        log["entries"].as_array().expect("a list").iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(acts, ["ban", "unban", "end_room"]);
    assert_eq!(
        (&log["entries"][0]["on"], &log["entries"][0]["detail"]),
        (&json!("eve"), &json!("in event:wall"))
    );
    // The log is a room that no client enters.
    for op in ["join", "history"] {
        assert_eq!(ada.error(json!({ "op": op, "room": "admin:audit" })).await["code"], "bad_room");
    }
    let forged = json!({ "op": "publish", "room": "admin:audit", "event": "ban", "data": {} });
    assert_eq!(ada.error(forged).await["code"], "bad_room");
    a.stop().await;
}
