//! Every row of the contract's table of limits: provoked, answered as promised, counted, and unseen by a neighbour.
//! Rooms and time have files of their own.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Client, Raw, Scene, Speak, TestNode,
    api::{admissions, closes, errors},
    client::PATIENCE,
    neighbour::ROOM,
    raw::{CLOSE, Reply, TEXT, knock, masked},
};

fn ip(d: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, d).into()
}

/// A refusal before the upgrade: problem+json, and when to come back.
fn assert_refused(reply: &Reply, status: u16, code: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert_eq!(reply.json()["code"], code);
    let seconds: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("whole seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
}

/// Knocks until it is let in.
async fn let_in(from: IpAddr, scene: &Scene) -> Raw {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (raw, reply) = knock(from, scene.public()).await;
        if reply.status == 101 {
            return raw;
        }
        assert!(Instant::now() < deadline, "never let in: {reply:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_holds_only_so_many_connections() {
    let scene = Scene::new(&[("limits.connections_per_ip", "2")]).await;
    let (first, reply) = knock(ip(5), scene.public()).await;
    assert_eq!(reply.status, 101);
    let (_second, reply) = knock(ip(5), scene.public()).await;
    assert_eq!(reply.status, 101);
    let (_, reply) = knock(ip(5), scene.public()).await;
    assert_refused(&reply, 429, "rate_limited");
    let (_other, reply) = knock(ip(6), scene.public()).await;
    assert_eq!(reply.status, 101, "another address has its own");
    scene.rose(&admissions("ip_limited")).await;
    scene.rose(&errors("rate_limited")).await;
    drop(first);
    let_in(ip(5), &scene).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_venue_may_hold_more_than_its_visitors_elsewhere() {
    let settings =
        [("limits.connections_per_ip", "1"), ("limits.ip_overrides", "127.0.7.0/24=3, 127.0.7.9/32=2")];
    let scene = Scene::new(&settings).await;
    for (last, holds) in [(5, 3), (9, 2)] {
        let venue: IpAddr = Ipv4Addr::new(127, 0, 7, last).into();
        let mut held = Vec::new();
        for _ in 0..holds {
            let (raw, reply) = knock(venue, scene.public()).await;
            assert_eq!(reply.status, 101);
            held.push(raw);
        }
        let (_, reply) = knock(venue, scene.public()).await;
        assert_refused(&reply, 429, "rate_limited");
    }
    let (_one, reply) = knock(ip(5), scene.public()).await;
    assert_eq!(reply.status, 101);
    let (_, reply) = knock(ip(5), scene.public()).await;
    assert_refused(&reply, 429, "rate_limited");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_connects_too_fast_has_to_wait() {
    let settings = [("limits.connect_rate_per_ip", "2"), ("limits.connect_burst_per_ip", "3")];
    let scene = Scene::new(&settings).await;
    let started = Instant::now();
    let mut let_through = 0;
    let refused = loop {
        let (_raw, reply) = knock(ip(5), scene.public()).await;
        if reply.status != 101 {
            break reply;
        }
        let_through += 1;
    };
    assert_refused(&refused, 429, "rate_limited");
    let more = usize::try_from(started.elapsed().as_millis() / 500).expect("small") + 1;
    assert!((3..=3 + more).contains(&let_through), "{let_through}");
    scene.rose(&admissions("ip_limited")).await;
    let_in(ip(5), &scene).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_sends_newcomers_elsewhere() {
    // The neighbour and two more.
    let scene = Scene::new(&[("limits.connections_per_node", "3")]).await;
    let (first, _) = knock(ip(5), scene.public()).await;
    let (_second, reply) = knock(ip(6), scene.public()).await;
    assert_eq!(reply.status, 101);
    let (_, reply) = knock(ip(7), scene.public()).await;
    assert_refused(&reply, 503, "unavailable");
    scene.rose(&admissions("node_full")).await;
    drop(first);
    let_in(ip(7), &scene).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_frames_are_refused_until_the_time_told() {
    let settings = [("limits.frames_per_second", "20"), ("limits.frames_burst", "30")];
    let scene = Scene::new(&settings).await;
    let mut client = Client::guest(scene.public(), Speak::Json).await;
    let mut answered = 0;
    let refused = loop {
        let mut answer = client.request(json!({ "op": "ping" })).await;
        if answer.get("error").is_some() {
            break answer["error"].take();
        }
        answered += 1;
        assert!(answered < 500, "nothing is refused");
    };
    assert!(answered >= 28, "{answered} of a burst of 30");
    assert_eq!(refused["code"], "rate_limited");
    let wait = refused["retry_ms"].as_u64().expect("retry_ms");
    assert!((1..=60).contains(&wait), "{wait}: a frame comes every 50 ms");
    scene.rose(&errors("rate_limited")).await;
    sleep(Duration::from_millis(wait + 5)).await;
    client.ok(json!({ "op": "ping" })).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_the_past_costs_more_than_saying_little() {
    let settings = [("limits.frames_per_second", "1"), ("limits.frames_burst", "12")];
    let node = TestNode::alone(&settings).await;
    let mut client = Client::guest(node.public, Speak::Json).await;
    let history = json!({ "op": "history", "room": ROOM });
    client.ok(history.clone()).await;
    client.ok(history.clone()).await;
    let refused = client.error(history).await;
    assert_eq!(refused["code"], "rate_limited");
    let wait = refused["retry_ms"].as_u64().expect("retry_ms");
    assert!((2_000..=4_000).contains(&wait), "{wait} ms for what is missing of 5 frames");
    node.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_refused_frames_in_a_row_are_a_flood() {
    let settings = [("limits.frames_per_second", "10"), ("limits.frames_burst", "10")];
    let scene = Scene::new(&settings).await;
    let mut raw = Raw::upgraded(scene.public()).await;
    raw.say(&json!({ "id": 1, "op": "connect" })).await;
    let flood: Vec<u8> =
        (0..400).flat_map(|_| masked(0x80 | TEXT, json!({ "op": "ping" }).to_string().as_bytes())).collect();
    raw.try_write(&flood).await;
    let mut refused = 0;
    let code = loop {
        match raw.next().await {
            Some((TEXT, payload)) => {
                let answer: Value = serde_json::from_slice(&payload).expect("JSON");
                if answer["error"]["code"] == "rate_limited" {
                    refused += 1;
                }
            }
            Some((CLOSE, payload)) => break u16::from_be_bytes([payload[0], payload[1]]),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, 4504);
    assert!((100..=130).contains(&refused), "{refused}");
    scene.rose(&closes(4504)).await;
    scene.rose_by(&errors("rate_limited"), 100).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_counter_operation_has_its_own_allowance() {
    let scene = Scene::new(&[("limits.counter_ops_per_minute", "3")]).await;
    let mut client = Client::guest(scene.public(), Speak::MsgPack).await;
    let like = |on: bool| json!({ "op": "like", "room": ROOM, "target": "p", "on": on });
    let count = json!({ "op": "count", "room": ROOM, "target": "p", "counter": "view", "by": 1 });
    for on in [true, false, true] {
        client.ok(like(on)).await;
    }
    let refused = client.error(like(false)).await;
    assert_eq!(refused["code"], "rate_limited");
    let wait = refused["retry_ms"].as_u64().expect("retry_ms");
    assert!((10_000..=20_000).contains(&wait), "{wait}: one each 20 s");
    for _ in 0..3 {
        client.ok(count.clone()).await;
    }
    assert_eq!(client.error(count).await["code"], "rate_limited");
    client.ok(json!({ "op": "ping" })).await;
    scene.rose_by(&errors("rate_limited"), 2).await;
    // What was refused was not applied.
    let counters = scene.api().read("/api/v1/rooms/event:wall/counters?targets=p").await;
    let values: Vec<_> = counters["counters"].as_array().expect("a list").iter().collect();
    let value = |name: &str| &values.iter().find(|of| of["counter"] == name).expect("it is there")["value"];
    assert_eq!((value("like"), value("view")), (&json!(1), &json!(3)));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_too_big_ends_its_own_connection_only() {
    let scene = Scene::new(&[("limits.frame_bytes", "4KiB")]).await;
    let fits = json!({ "id": 1, "op": "connect", "filler": "x".repeat(4_000) });
    for size in [4_097, 100_000, 5_000_000] {
        let mut raw = Raw::upgraded(scene.public()).await;
        raw.say(&fits).await;
        assert_eq!(raw.text().await["id"], 1);
        // All of it is taken, so that no reset overtakes the close frame.
        raw.write(&masked(0x80 | TEXT, &vec![b'x'; size])).await;
        assert_eq!(raw.close_code().await, Some(1009), "{size}");
    }
    // In pieces it is no smaller.
    let mut raw = Raw::upgraded(scene.public()).await;
    raw.try_write(&masked(TEXT, &[b'x'; 3_000])).await;
    raw.try_write(&masked(0, &[b'x'; 3_000])).await;
    assert_eq!(raw.close_code().await, Some(1009));
    // Who only says that a frame will be huge is not waited for.
    let mut raw = Raw::upgraded(scene.public()).await;
    raw.write(&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]).await;
    assert_eq!(raw.close_code().await, Some(1009));
    let mut client = Client::guest(scene.public(), Speak::MsgPack).await;
    client.raw(Message::binary(vec![0; 5_000])).await;
    assert_eq!(client.close_code().await, Some(1009));
    scene.rose_by(&closes(1009), 6).await;
    scene.end().await;
}
