//! Every row of the contract's table of limits: provoked, answered as promised, counted, and unseen by a neighbour.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use roomcast_protocol::RoomName;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Client, Raw, Scene, Speak, TestNode,
    api::{admissions, closes, errors},
    client::PATIENCE,
    neighbour::ROOM,
    raw::{CLOSE, PING, PONG, Reply, TEXT, knock, masked, upgrade_head},
    token,
};

const MINUTES: Duration = Duration::from_secs(600);

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

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_holds_only_so_many_rooms() {
    let scene = Scene::new(&[("limits.rooms_per_socket", "2")]).await;
    let mut client = Client::guest(scene.public(), Speak::Json).await;
    let join = |room: &str| json!({ "op": "join", "room": room });
    client.ok(join("event:a")).await;
    client.ok(join("event:b")).await;
    assert_eq!(client.error(join("event:c")).await["code"], "too_many_rooms");
    client.ok(join("event:a")).await;
    client.ok(json!({ "op": "leave", "room": "event:b" })).await;
    client.ok(join("event:c")).await;
    scene.rose(&errors("too_many_rooms")).await;
    scene.end().await;
}

/// Guests on two workers; the kernel decides who goes where. Both sit in `event:probe`.
async fn on_two_workers(node: &TestNode) -> (Client, Client) {
    let probe = RoomName::parse("event:probe").expect("a good name");
    let join = json!({ "op": "join", "room": probe });
    let workers = || node.running().node.interest.workers(&probe).iter().count();
    let mut first = Client::guest(node.public, Speak::Json).await;
    first.ok(join.clone()).await;
    assert_eq!(workers(), 1);
    for _ in 0..64 {
        let mut second = Client::guest(node.public, Speak::Json).await;
        second.ok(join.clone()).await;
        if workers() == 2 {
            return (first, second);
        }
    }
    panic!("64 connections all went to one worker");
}

fn holds(node: &TestNode, room: &str) -> bool {
    node.running().node.interest.contains(&RoomName::parse(room).expect("a good name"))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} does not come");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_gives_up_its_longest_idle_room_also_that_of_another_worker() {
    // The neighbour's room, the probe, and three more.
    let scene = Scene::new(&[("limits.rooms_per_node", "5")]).await;
    let (mut near, mut far) = on_two_workers(&scene.node).await;
    let join = |room: &str| json!({ "op": "join", "room": room });
    for room in ["event:old", "event:new"] {
        far.ok(join(room)).await;
        far.ok(json!({ "op": "leave", "room": room })).await;
    }
    near.ok(join("event:a")).await;
    let held = |rooms: &[&str]| rooms.iter().filter(|room| holds(&scene.node, room)).count();
    assert_eq!(held(&[ROOM, "event:probe", "event:old", "event:new", "event:a"]), 5);
    near.ok(join("event:b")).await;
    until("the end of the longest idle room", || held(&["event:old"]) == 0).await;
    assert_eq!(held(&["event:new"]), 1);
    near.ok(join("event:c")).await;
    until("the end of the last idle room", || held(&["event:new"]) == 0).await;
    for client in [&mut near, &mut far] {
        assert_eq!(client.error(join("event:d")).await["code"], "too_many_rooms");
    }
    // A room that the node holds already may be joined, and what has members is never given up.
    near.ok(join(ROOM)).await;
    assert_eq!(held(&[ROOM, "event:probe", "event:a", "event:b", "event:c"]), 5);
    // An idle room of one's own worker goes as well.
    near.ok(json!({ "op": "leave", "room": "event:b" })).await;
    near.ok(join("event:d")).await;
    until("the end of the own idle room", || held(&["event:b"]) == 0).await;
    scene.rose_by(&errors("too_many_rooms"), 2).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_room_that_is_in_use_again_makes_no_place_for_another() {
    let node = TestNode::alone(&[("limits.rooms_per_node", "2")]).await;
    let (mut near, mut far) = on_two_workers(&node).await;
    let again = json!({ "op": "join", "room": "event:again" });
    far.ok(again.clone()).await;
    far.ok(json!({ "op": "leave", "room": "event:again" })).await;
    far.ok(again).await;
    let full = near.error(json!({ "op": "join", "room": "event:other" })).await;
    assert_eq!(full["code"], "too_many_rooms");
    node.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_holds_only_so_many_members_on_all_workers_together() {
    // The neighbour and two more.
    let scene = Scene::new(&[("limits.members_per_room", "3")]).await;
    let (mut near, mut far) = on_two_workers(&scene.node).await;
    let join = json!({ "op": "join", "room": ROOM });
    near.ok(join.clone()).await;
    far.ok(join.clone()).await;
    for _ in 0..4 {
        let mut late = Client::guest(scene.public(), Speak::Json).await;
        assert_eq!(late.error(join.clone()).await["code"], "room_full");
    }
    near.ok(join.clone()).await;
    far.ok(json!({ "op": "leave", "room": ROOM })).await;
    let mut late = Client::guest(scene.public(), Speak::Json).await;
    late.ok(join.clone()).await;
    assert_eq!(far.error(join.clone()).await["code"], "room_full");
    // Who is gone without a word takes no place.
    drop(late);
    let deadline = Instant::now() + PATIENCE;
    while far.request(join.clone()).await.get("error").is_some() {
        assert!(Instant::now() < deadline, "the place is never given back");
        sleep(Duration::from_millis(10)).await;
    }
    scene.rose_by(&errors("room_full"), 5).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_room_is_kept_for_a_while_and_then_given_up() {
    let scene = Scene::new(&[("limits.idle_room_ttl", "1s")]).await;
    let mut client = Client::guest(scene.public(), Speak::Json).await;
    client.ok(json!({ "op": "join", "room": "event:brief" })).await;
    client.ok(json!({ "op": "leave", "room": "event:brief" })).await;
    let left = Instant::now();
    assert!(holds(&scene.node, "event:brief"));
    until("the end of the empty room", || !holds(&scene.node, "event:brief")).await;
    assert!(left.elapsed() >= Duration::from_millis(900), "{:?}", left.elapsed());
    assert!(holds(&scene.node, ROOM));
    scene.end().await;
}

/// Publishes so much that no buffer of the kernel's holds it. Answers how many events.
async fn publish_much(scene: &Scene, kib: usize, n: usize) -> usize {
    let mut api = scene.api();
    let data = "x".repeat(kib * 1_024);
    for _ in 0..n {
        api.ok("/api/v1/publish", &json!({ "room": ROOM, "event": "big", "data": data })).await;
    }
    n
}

/// A member of the room that stopped reading, where it stands, and everything it did read.
async fn deaf_member(scene: &Scene) -> (Raw, Value) {
    let raw = Raw::open_from(ip(5), scene.public(), Some(8 * 1_024)).await;
    let mut raw = raw.upgrade(&[]).await;
    raw.say(&json!({ "id": 1, "op": "connect" })).await;
    assert_eq!(raw.text().await["id"], 1);
    raw.say(&json!({ "id": 2, "op": "join", "room": ROOM })).await;
    let joined = raw.text().await["ok"].take();
    (raw, joined)
}

async fn a_slow_reader_is_closed_and_misses_nothing(limit: (&str, &str)) {
    let scene = Scene::new(&[limit]).await;
    let (mut deaf, joined) = deaf_member(&scene).await;
    let epoch = joined["epoch"].clone();
    let mut last = joined["offset"].as_u64().expect("an offset");
    publish_much(&scene, 48, 150).await;
    scene.rose("roomcast_slow_consumers_total").await;
    // What it still reads is in order, and ends with the reason.
    let code = loop {
        match deaf.next().await {
            Some((TEXT, payload)) => {
                let push: Value = serde_json::from_slice(&payload).expect("JSON");
                if push["push"] == "event" {
                    assert_eq!(push["offset"], last + 1);
                    last += 1;
                }
            }
            Some((CLOSE, payload)) => break u16::from_be_bytes([payload[0], payload[1]]),
            Some(_) => {}
            None => panic!("the socket ended without a reason"),
        }
    };
    assert_eq!(code, 4001);
    scene.rose(&closes(4001)).await;
    // It comes back and gets the rest, once: in the answer, and where that is too much for one, behind it.
    let mut back = Client::guest(scene.public(), Speak::Json).await;
    let since = json!({ "epoch": epoch, "offset": last });
    let joined = back.ok(json!({ "op": "join", "room": ROOM, "since": since })).await;
    assert_eq!(joined["recovered"], true);
    for event in joined["events"].as_array().expect("a list") {
        assert_eq!(event["offset"], last + 1);
        last += 1;
    }
    assert_eq!(joined["offset"], last);
    let tail = scene.api().ok("/api/v1/publish", &json!({ "room": ROOM, "event": "end", "data": 0 })).await;
    while tail["offset"] != last {
        assert_eq!(back.push_of("event").await["offset"], last + 1);
        last += 1;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lets_too_many_bytes_wait_is_closed_and_misses_nothing() {
    a_slow_reader_is_closed_and_misses_nothing(("limits.outbound_bytes", "64KiB")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lets_too_many_frames_wait_is_closed_and_misses_nothing() {
    let limit = ("limits.outbound_frames", "4");
    a_slow_reader_is_closed_and_misses_nothing(limit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_missed_gives_way_before_a_slow_reader_is_closed() {
    let settings = [("limits.outbound_frames", "1024"), ("limits.outbound_bytes", "16MiB")];
    let scene = Scene::new(&settings).await;
    let (mut deaf, _) = deaf_member(&scene).await;
    let mut member = Client::user(scene.public(), Speak::Json, &token("ann", "member", MINUTES)).await;
    member.ok(json!({ "op": "join", "room": ROOM })).await;
    // Until the kernel takes no more: then everything waits.
    publish_much(&scene, 48, 150).await;
    for n in 0..300 {
        let on = n % 2 == 0;
        member.ok(json!({ "op": "like", "room": ROOM, "target": "p", "on": on })).await;
    }
    for n in 0..1_500 {
        member.ok(json!({ "op": "signal", "room": ROOM, "event": "typing", "data": n })).await;
    }
    let last = member.ok(json!({ "op": "like", "room": ROOM, "target": "p", "on": true })).await;
    scene.rose_by("roomcast_drops_total{class=\"conflated\",reason=\"replaced\"}", 200).await;
    scene.rose_by("roomcast_drops_total{class=\"fleeting\",reason=\"slow\"}", 300).await;
    // It was not closed: it reads on, hears every event, and the last of the values.
    deaf.say(&json!({ "id": 3, "op": "ping" })).await;
    let (mut events, mut values, mut signals, mut newest) = (None, 0, 0, Value::Null);
    loop {
        let frame = deaf.text().await;
        match frame["push"].as_str() {
            Some("event") => {
                let offset = frame["offset"].as_u64().expect("an offset");
                assert!(events.is_none_or(|before| offset == before + 1), "{offset} after {events:?}");
                events = Some(offset);
            }
            Some("count") => {
                values += 1;
                newest = frame;
            }
            Some("signal") => signals += 1,
            Some(_) => {}
            None if frame["id"] == 3 => break,
            None => panic!("{frame}"),
        }
    }
    assert!(events.is_some_and(|last| last >= 150));
    assert_eq!(newest["version"], last["version"], "the latest value arrives");
    assert!(values < 200, "{values} of 301 values");
    assert!(signals < 1_200, "{signals} of 1,500 signals");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_finishes_a_request_is_told_408() {
    let scene = Scene::new(&[("limits.handshake_timeout", "300ms")]).await;
    let head = upgrade_head(&[]);
    for begun in ["", "GET", &head[..head.len() - 2]] {
        let started = Instant::now();
        let mut raw = Raw::open(scene.public()).await;
        raw.write(begun.as_bytes()).await;
        assert_eq!(raw.reply().await.status, 408, "{begun:?}");
        assert!(raw.ends().await);
        assert!(started.elapsed() >= Duration::from_millis(250), "{begun:?}");
    }
    // Drop by drop is no faster: the clock does not start anew.
    let mut raw = Raw::open(scene.public()).await;
    let started = Instant::now();
    for byte in head.as_bytes().chunks(1).take(200) {
        raw.try_write(byte).await;
        sleep(Duration::from_millis(5)).await;
        if started.elapsed() > Duration::from_millis(900) {
            break;
        }
    }
    assert_eq!(raw.reply().await.status, 408);
    scene.rose_by(&admissions("timed_out"), 4).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_say_connect_in_time_is_closed() {
    let scene = Scene::new(&[("limits.connect_timeout", "400ms")]).await;
    let started = Instant::now();
    let mut silent = Raw::upgraded(scene.public()).await;
    let mut chatty = Raw::upgraded(scene.public()).await;
    let mut connected = Client::guest(scene.public(), Speak::Json).await;
    chatty.say(&json!({ "id": 1, "op": "ping" })).await;
    assert_eq!(chatty.text().await["error"]["code"], "connect_first");
    assert_eq!(silent.close_code().await, Some(4501));
    assert!(started.elapsed() >= Duration::from_millis(350), "{:?}", started.elapsed());
    assert_eq!(chatty.close_code().await, Some(4501));
    connected.ok(json!({ "op": "ping" })).await;
    scene.rose_by(&closes(4501), 2).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_no_ping_is_closed_and_who_does_is_not() {
    let settings = [("limits.ping_interval", "200ms"), ("limits.pong_timeout", "1s")];
    let scene = Scene::new(&settings).await;
    let mut dead = Raw::upgraded(scene.public()).await;
    dead.say(&json!({ "op": "connect" })).await;
    let mut alive = Raw::upgraded(scene.public()).await;
    alive.say(&json!({ "op": "connect" })).await;
    let started = Instant::now();
    // Answers pings and says nothing else, for longer than a ping may stay unanswered.
    while started.elapsed() < Duration::from_millis(1_600) {
        let (opcode, payload) = alive.next().await.expect("a ping, not the end");
        assert_eq!(opcode, PING);
        alive.frame(PONG, &payload).await;
    }
    assert_eq!(dead.close_code().await, Some(4004));
    alive.say(&json!({ "id": 1, "op": "ping" })).await;
    assert_eq!(alive.text().await["id"], 1);
    scene.rose(&closes(4004)).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_answers_pings_is_closed_as_idle_where_that_is_wanted() {
    let settings = [("limits.idle_timeout", "1500ms"), ("limits.ping_interval", "100ms")];
    let scene = Scene::new(&settings).await;
    let mut idle = Client::guest(scene.public(), Speak::Json).await;
    let started = Instant::now();
    assert_eq!(idle.close_code().await, Some(4000));
    assert!(started.elapsed() >= Duration::from_millis(1_400), "{:?}", started.elapsed());
    scene.rose(&closes(4000)).await;
    scene.end().await;
}
