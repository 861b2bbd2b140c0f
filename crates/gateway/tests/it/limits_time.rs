//! How long a node waits for whoever it serves: slow readers, unfinished requests, silence.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{
    Client, Raw, Scene, Speak,
    api::{admissions, closes},
    neighbour::ROOM,
    raw::{CLOSE, PING, PONG, TEXT, upgrade_head},
    token,
};

const MINUTES: Duration = Duration::from_secs(600);

fn ip(d: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, d).into()
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
