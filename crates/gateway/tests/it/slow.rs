//! Who missed much gets it in parts, each when it has taken the one before.

use std::net::{IpAddr, SocketAddr};

use roomcast_gateway::app::Backing;
use serde_json::{Value, json};

use crate::support::{Client, Raw, Scene, Speak, TestNode, call::call, redis::RedisServer};

/// Not the one in which the neighbour beats: offsets are told to the one here.
const ROOM: &str = "event:past";
const KIB: usize = 1_024;
const BYTES: (&str, &str) = ("limits.outbound_bytes", "64KiB");

async fn publish(scene: &Scene, kib: usize, n: usize) -> Value {
    let mut api = scene.api();
    let data = "x".repeat(kib * KIB);
    let mut last = Value::Null;
    for _ in 0..n {
        last = api.ok("/api/v1/publish", &json!({ "room": ROOM, "event": "big", "data": data })).await;
    }
    last
}

async fn join_since(client: &mut Client, position: &Value) -> Value {
    let since = json!({ "epoch": position["epoch"], "offset": position["offset"] });
    client.ok(json!({ "op": "join", "room": ROOM, "since": since })).await
}

/// The events of an answer follow an offset without a gap; where they end.
fn goes_on(joined: &Value, mut last: u64) -> u64 {
    assert_eq!(joined["recovered"], true);
    for event in joined["events"].as_array().expect("a list") {
        last += 1;
        assert_eq!(event["offset"], last);
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_answer_does_not_hold_follows_it_in_order_and_live_events_behind_it() {
    let scene = Scene::new(&[BYTES]).await;
    for speak in [Speak::Json, Speak::MsgPack] {
        let before = publish(&scene, 0, 1).await;
        let missed = publish(&scene, 8, 100).await;
        let mut client = Client::guest(scene.public(), speak).await;
        let joined = join_since(&mut client, &before).await;
        assert_eq!(joined["recovered"], true);
        let told = joined["events"].as_array().expect("a list");
        assert!((1..=8).contains(&told.len()), "{} events of 8 KiB in 64 KiB", told.len());
        let mut last = before["offset"].as_u64().expect("an offset");
        for event in told {
            assert_eq!(event["offset"], last + 1);
            last += 1;
        }
        assert_eq!(joined["offset"], last, "pushes go on from where the answer ends");
        let live = publish(&scene, 8, 20).await;
        while live["offset"] != last {
            let push = client.push_of("event").await;
            assert_eq!(
                push["offset"],
                last + 1,
                "missed up to {}, live up to {}",
                missed["offset"],
                live["offset"]
            );
            last += 1;
        }
        // It is a member like any other from here on: it is heard, and it can go.
        client.ok(json!({ "op": "ping" })).await;
        client.ok(json!({ "op": "leave", "room": ROOM })).await;
    }
    scene.end().await;
}

/// They share what they read, wherever they stand, and each gets what it missed and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn many_who_come_back_at_once_get_what_each_of_them_missed() {
    let scene = Scene::new(&[BYTES]).await;
    let first = publish(&scene, 0, 1).await;
    let missed = publish(&scene, 4, 200).await;
    let (epoch, begin) = (first["epoch"].clone(), first["offset"].as_u64().expect("an offset"));
    let tail = missed["offset"].as_u64().expect("an offset");
    let mut back = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (public, epoch) = (scene.public(), epoch.clone());
        back.spawn(async move {
            let speak = if n % 2 == 0 { Speak::Json } else { Speak::MsgPack };
            let mut client = Client::guest(public, speak).await;
            let mut last = begin + 7 * n;
            let joined = join_since(&mut client, &json!({ "epoch": epoch, "offset": last })).await;
            last = goes_on(&joined, last);
            while last < tail {
                last += 1;
                let push = client.push_of("event").await;
                assert_eq!(push["offset"], last, "{n}");
                assert_eq!(push["data"].as_str().map(str::len), Some(4 * KIB));
            }
            client
        });
    }
    let mut clients = back.join_all().await;
    let live = publish(&scene, 0, 1).await;
    for client in &mut clients {
        assert_eq!(client.push_of("event").await["offset"], live["offset"]);
    }
    scene.end().await;
}

async fn big_ones(internal: SocketAddr, count: usize) -> Value {
    let big = json!({ "room": ROOM, "event": "big", "data": "x".repeat(2 * KIB) });
    let mut last = Value::Null;
    for _ in 0..count {
        last = call(internal, "POST", "/api/v1/publish", Some(&big)).await.1;
    }
    last
}

/// An answer says where the room stood when its last event was read, and what is live goes on exactly there.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_while_the_room_goes_on_is_told_everything_once() {
    let redis = RedisServer::start();
    let node = TestNode::start(&[("redis.url", &redis.url())], Backing::Redis).await;
    let first = big_ones(node.internal, 1).await;
    let begin = first["offset"].as_u64().expect("an offset");
    big_ones(node.internal, 150).await;
    let going_on = tokio::spawn(big_ones(node.internal, 150));
    let mut back = tokio::task::JoinSet::new();
    for n in 0..24 {
        let (public, epoch) = (node.public, first["epoch"].clone());
        back.spawn(async move {
            let mut client =
                Client::guest(public, if n % 2 == 0 { Speak::Json } else { Speak::MsgPack }).await;
            let mut last = begin + 4 * n;
            let joined = join_since(&mut client, &json!({ "epoch": epoch, "offset": last })).await;
            last = goes_on(&joined, last);
            assert_eq!(joined["offset"], last, "no event beyond it, and none missing up to it");
            while last < begin + 300 {
                last += 1;
                assert_eq!(client.push_of("event").await["offset"], last);
            }
        });
    }
    back.join_all().await;
    assert_eq!(going_on.await.expect("all is published")["offset"], begin + 300);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_the_past_that_is_asked_for_is_as_large_as_what_may_wait() {
    let scene = Scene::new(&[BYTES]).await;
    let tail = publish(&scene, 8, 60).await;
    let mut client = Client::guest(scene.public(), Speak::Json).await;
    let newest = tail["offset"].as_u64().expect("an offset");
    // The newest of it …
    for frame in [
        json!({ "op": "join", "room": ROOM, "recent": 50 }),
        json!({ "op": "history", "room": ROOM, "limit": 50 }),
        json!({ "op": "history", "room": ROOM, "limit": 50, "before": newest + 1 }),
    ] {
        let answer = client.ok(frame.clone()).await;
        let offsets = offsets(&answer);
        assert_eq!(*offsets.last().expect("an event"), newest, "{frame}");
        assert!((4..=8).contains(&offsets.len()), "{frame}: {offsets:?}");
    }
    // … or the oldest, and page by page all of it.
    let mut since = json!({ "epoch": tail["epoch"], "offset": newest - 50 });
    let mut seen = newest - 50;
    while seen < newest {
        let page = client.ok(json!({ "op": "history", "room": ROOM, "since": since, "limit": 50 })).await;
        for offset in offsets(&page) {
            assert_eq!(offset, seen + 1);
            seen = offset;
        }
        since["offset"] = seen.into();
    }
    scene.end().await;
}

fn offsets(answer: &Value) -> Vec<u64> {
    let events = answer["events"].as_array().expect("a list");
    events.iter().map(|event| event["offset"].as_u64().expect("an offset")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_overtaken_by_the_end_of_the_log_while_it_catches_up_is_reset() {
    let settings = [BYTES, ("namespaces.event.history.size", "100")];
    let scene = Scene::new(&settings).await;
    let before = publish(&scene, 0, 1).await;
    // More than the buffers of both sockets hold.
    publish(&scene, 48, 90).await;
    // It asks for what it missed, and takes nothing of it.
    let raw = Raw::open_from(IpAddr::from([127, 0, 0, 5]), scene.public(), Some(8 * 1_024)).await;
    let mut raw = raw.upgrade(&[]).await;
    raw.say(&json!({ "id": 1, "op": "connect" })).await;
    assert_eq!(raw.text().await["id"], 1);
    let since = json!({ "epoch": before["epoch"], "offset": before["offset"] });
    raw.say(&json!({ "id": 2, "op": "join", "room": ROOM, "since": since })).await;
    let joined = raw.text().await["ok"].take();
    assert_eq!(joined["recovered"], true);
    // Until they are full, and the node waits for it.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let tail = publish(&scene, 48, 110).await;
    // What it reads now has no gap, and then it learns that there would be one.
    let mut last = joined["offset"].as_u64().expect("an offset");
    let reset = loop {
        let push = raw.text().await;
        match push["push"].as_str() {
            Some("event") => {
                assert_eq!(push["offset"], last + 1);
                last += 1;
            }
            Some("reset") => break push,
            _ => {}
        }
    };
    assert!(last < tail["offset"].as_u64().expect("an offset"));
    assert_eq!(reset["epoch"], tail["epoch"]);
    last = reset["offset"].as_u64().expect("an offset");
    assert!(last >= tail["offset"].as_u64().expect("an offset"));
    scene.rose("roomcast_gaps_total{outcome=\"reset\"}").await;
    // From there on it misses nothing again.
    let live = publish(&scene, 0, 1).await;
    while live["offset"] != last {
        let push = raw.text().await;
        if push["push"] == "event" {
            assert_eq!(push["offset"], last + 1);
            last += 1;
        }
    }
    scene.end().await;
}
