//! Rooms over real sockets, on nodes that share a bus.

use std::time::Duration;

use serde_json::json;

use crate::support::{Client, Cluster, Speak, TestNode, token};

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread")]
async fn what_one_publishes_reaches_all_nodes_and_codecs_in_order() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a", &[]).await, cluster.node("b", &[]).await);
    let mut json = Client::user(a.public, Speak::Json, &token("ann", "member", HOUR)).await;
    let mut msgpack = Client::guest(b.public, Speak::MsgPack).await;
    for client in [&mut json, &mut msgpack] {
        let joined = client.ok(json!({ "op": "join", "room": "event:wall" })).await;
        assert_eq!((joined["offset"].as_u64(), joined["recovered"].as_bool()), (Some(0), Some(true)));
    }
    for n in 1..=50 {
        let data = json!({ "n": n, "text": "ä" });
        let ok =
            json.ok(json!({ "op": "publish", "room": "event:wall", "event": "photo", "data": data })).await;
        assert_eq!(ok["offset"], n);
    }
    for client in [&mut json, &mut msgpack] {
        for n in 1..=50 {
            let push = client.push_of("event").await;
            assert_eq!(
                (&push["offset"], &push["data"]["n"], &push["from"]),
                (&json!(n), &json!(n), &json!("ann"))
            );
            assert_eq!((&push["room"], &push["event"]), (&json!("event:wall"), &json!("photo")));
        }
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_like_on_one_node_is_counted_on_the_other() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a", &[]).await, cluster.node("b", &[]).await);
    let mut ann = Client::guest(a.public, Speak::Json).await;
    let mut ben = Client::guest(b.public, Speak::MsgPack).await;
    for client in [&mut ann, &mut ben] {
        client.ok(json!({ "op": "join", "room": "event:wall" })).await;
    }
    let liked = ann.ok(json!({ "op": "like", "room": "event:wall", "target": "photo-1", "on": true })).await;
    assert_eq!((&liked["value"], &liked["on"]), (&json!(1), &json!(true)));
    for client in [&mut ann, &mut ben] {
        let count = client.push_of("count").await;
        assert_eq!(
            (&count["target"], &count["counter"], &count["value"]),
            (&json!("photo-1"), &json!("like"), &json!(1))
        );
        assert_eq!(count["version"], liked["version"]);
    }
    ben.ok(json!({ "op": "comment", "room": "event:wall", "target": "photo-1", "text": "lovely" })).await;
    let comment = ann.push_of("event").await;
    assert_eq!((&comment["event"], &comment["data"]["text"]), (&json!("comment"), &json!("lovely")));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_gets_what_was_missed() {
    let node = TestNode::alone(&[]).await;
    let mut ann = Client::user(node.public, Speak::Json, &token("ann", "member", HOUR)).await;
    let joined = ann.ok(json!({ "op": "join", "room": "event:wall" })).await;
    for n in 0..5 {
        ann.ok(json!({ "op": "publish", "room": "event:wall", "event": "photo", "data": n })).await;
    }
    let mut ben = Client::guest(node.public, Speak::MsgPack).await;
    let since = json!({ "epoch": joined["epoch"], "offset": 2 });
    let back = ben.ok(json!({ "op": "join", "room": "event:wall", "since": since })).await;
    assert_eq!(back["recovered"], true);
    let offsets: Vec<_> =
        back["events"].as_array().unwrap().iter().map(|event| event["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets, [3, 4, 5]);
    let since = json!({ "epoch": "another", "offset": 2 });
    let lost = ben.ok(json!({ "op": "join", "room": "event:wall", "since": since })).await;
    assert_eq!((&lost["recovered"], lost["events"].as_array().unwrap().len()), (&json!(false), 0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_counts_connections_and_users_over_all_nodes() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a", &[]).await, cluster.node("b", &[]).await);
    let mut ann = Client::user(a.public, Speak::Json, &token("ann", "member", HOUR)).await;
    let joined = ann.ok(json!({ "op": "join", "room": "event:wall" })).await;
    assert_eq!(joined["presence"], json!({ "connections": 1, "users": 1 }));
    let mut again = Client::user(b.public, Speak::Json, &token("ann", "member", HOUR)).await;
    let joined = again.ok(json!({ "op": "join", "room": "event:wall" })).await;
    assert_eq!(joined["presence"], json!({ "connections": 2, "users": 1 }));
    loop {
        let push = ann.push_of("presence").await;
        if push["connections"] == 2 {
            assert_eq!(push["users"], 1);
            break;
        }
    }
    drop(again);
    loop {
        let push = ann.push_of("presence").await;
        if push["connections"] == 1 {
            break;
        }
    }
    let members = ann.ok(json!({ "op": "presence", "room": "event:wall" })).await;
    assert_eq!(members["members"], json!([{ "user": "ann", "connections": 1 }]));
    a.stop().await;
    b.stop().await;
}
