//! Every byte of a burst that no socket takes at once, however it is delivered: to who reads on and to who does not, to
//! who says something meanwhile, to who comes in the middle, in either codec.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Api, Client, Raw, Speak, TestNode, raw::PING, raw::TEXT, token};

const ROOM: &str = "event:wall";
/// Published by the back end, and by the one who talks.
const BURST: u64 = 512;
const TALK: u64 = 64;
const ALL: u64 = BURST + TALK;
const PINGS: u64 = 50;

/// 4 KiB that no other event has.
fn data(number: u64) -> String {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut text = format!("{number}:");
    while text.len() < 4_096 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push(char::from(b'a' + u8::try_from((state >> 33) % 26).expect("a letter")));
    }
    text
}

/// Frames as they came: events by their offset, and answers.
#[derive(Default)]
struct Heard {
    events: Vec<(u64, Vec<u8>)>,
    answers: Vec<Value>,
}

impl Heard {
    fn take(&mut self, payload: Vec<u8>) {
        let frame: Value = serde_json::from_slice(&payload).expect("whole frames only");
        match frame["push"].as_str() {
            Some("event") => self.events.push((frame["offset"].as_u64().expect("an offset"), payload)),
            Some(_) => {}
            None => self.answers.push(frame),
        }
    }

    async fn until(&mut self, socket: &mut Raw, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            match socket.next().await.expect("nobody is cut off") {
                (TEXT, payload) => self.take(payload),
                (PING, _) => {}
                other => panic!("{other:?} came"),
            }
        }
    }

    fn has_last(&self) -> bool {
        self.events.last().is_some_and(|(offset, _)| *offset == ALL)
    }
}

/// A member whose kernel holds next to nothing for it.
async fn member(node: &TestNode, from: u8, token: Option<&str>) -> Raw {
    let from = IpAddr::from([127, 0, 7, from]);
    let mut socket = Raw::open_from(from, node.public, Some(4_096)).await.upgrade(&[]).await;
    socket.say(&json!({ "id": 1, "op": "connect", "token": token })).await;
    assert!(socket.text().await["ok"].is_object());
    socket.say(&json!({ "id": 2, "op": "join", "room": ROOM })).await;
    assert!(socket.text().await["ok"].is_object());
    socket
}

/// Reads everything, from the first event on that it is to get.
async fn listen(mut socket: Raw) -> Heard {
    let mut heard = Heard::default();
    heard.until(&mut socket, Heard::has_last).await;
    heard
}

async fn burst(node: &TestNode) {
    let mut api = Api::new(node.internal);
    let numbers: Vec<u64> = (0..BURST).collect();
    for some in numbers.chunks(16) {
        let item = |number: &u64| json!({ "room": ROOM, "event": "big", "data": data(*number) });
        api.ok("/api/v1/batch", &json!(some.iter().map(item).collect::<Vec<_>>())).await;
    }
}

/// Publishes and pings, sixteen in a row, and reads what comes between.
async fn talk(mut socket: Raw) -> Heard {
    let mut heard = Heard::default();
    let numbers: Vec<u64> = (BURST..ALL).collect();
    for (row, some) in (1..).zip(numbers.chunks(16)) {
        for number in some {
            let publish = json!({ "op": "publish", "id": 10 + 2 * number, "room": ROOM, "event": "big", "data": data(*number) });
            socket.say(&publish).await;
            socket.say(&json!({ "op": "ping", "id": 11 + 2 * number })).await;
        }
        heard.until(&mut socket, |heard| heard.answers.len() == row * 32).await;
    }
    heard.until(&mut socket, Heard::has_last).await;
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_of_a_burst_arrives_whoever_reads_and_whoever_talks_meanwhile() {
    let roomy = [("workers", "1"), ("limits.outbound_bytes", "64MiB"), ("limits.outbound_frames", "100000")];
    let node = TestNode::alone(&roomy).await;
    let token = token("tom", "member", Duration::from_secs(600));
    let quick = member(&node, 1, None).await;
    let slow = member(&node, 2, None).await;
    let mut mute = member(&node, 3, None).await;
    let talker = member(&node, 4, Some(&token)).await;
    let mut other = Client::guest(node.public, Speak::MsgPack).await;
    other.ok(json!({ "op": "join", "room": ROOM })).await;

    let mut readers = JoinSet::new();
    readers.spawn(listen(quick));
    readers.spawn(talk(talker));
    let in_msgpack = tokio::spawn(async move {
        let mut events = Vec::new();
        for _ in 0..ALL {
            events.push(other.push_of("event").await);
        }
        events
    });
    for id in 0..PINGS / 2 {
        mute.say(&json!({ "op": "ping", "id": 10 + id })).await;
    }
    burst(&node).await;
    for id in PINGS / 2..PINGS {
        mute.say(&json!({ "op": "ping", "id": 10 + id })).await;
    }
    // Those who have not read anything yet begin when everything is there.
    readers.spawn(listen(slow));
    let mut answered = Heard::default();
    answered.until(&mut mute, |heard| heard.has_last() && heard.answers.len() as u64 == PINGS).await;
    let ids: Vec<_> = answered.answers.iter().map(|answer| answer["id"].as_u64()).collect();
    assert_eq!(ids, (10..10 + PINGS).map(Some).collect::<Vec<_>>());
    let mut all = readers.join_all().await;
    all.push(answered);

    let talked = all.iter().find(|heard| heard.answers.len() as u64 == 2 * TALK).expect("the talker");
    let ids: Vec<_> = talked.answers.iter().map(|answer| answer["id"].as_u64()).collect();
    assert_eq!(ids, (10 + 2 * BURST..10 + 2 * ALL).map(Some).collect::<Vec<_>>());
    let said: BTreeMap<u64, u64> = (BURST..)
        .zip(talked.answers.iter().step_by(2))
        .map(|(number, answer)| (answer["ok"]["offset"].as_u64().expect("it was published"), number))
        .collect();

    let first = &all[0].events;
    let mut from_api = 0..BURST;
    for (at, (offset, payload)) in (1..).zip(first) {
        assert_eq!(*offset, at);
        let number =
            said.get(offset).copied().or_else(|| from_api.next()).expect("no more than were published");
        let frame: Value = serde_json::from_slice(payload).expect("JSON");
        assert_eq!(frame["data"], data(number), "at {offset}");
    }
    assert_eq!(first.len() as u64, ALL);
    for heard in &all {
        assert!(heard.events == *first, "the same bytes in the same order for everyone");
    }
    let packed = in_msgpack.await.expect("it read to the end");
    for ((offset, payload), packed) in first.iter().zip(&packed) {
        let frame: Value = serde_json::from_slice(payload).expect("JSON");
        assert_eq!((packed["offset"].as_u64(), &packed["data"]), (Some(*offset), &frame["data"]));
    }
    node.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_in_the_middle_of_a_burst_misses_nothing_from_there_on() {
    let roomy = [("workers", "1"), ("limits.outbound_bytes", "64MiB"), ("limits.outbound_frames", "100000")];
    let node = TestNode::alone(&roomy).await;
    let token = token("tom", "member", Duration::from_secs(600));
    // There before the burst begins: what it hears is what the others are held against.
    let talk = talk(member(&node, 200, Some(&token)).await);
    let come = async {
        let mut heard = Vec::new();
        for from in 1..=16 {
            let from = IpAddr::from([127, 0, 7, from]);
            let mut socket = Raw::open_from(from, node.public, Some(4_096)).await.upgrade(&[]).await;
            socket.say(&json!({ "id": 1, "op": "connect" })).await;
            socket.text().await;
            socket.say(&json!({ "id": 2, "op": "join", "room": ROOM })).await;
            let joined = socket.text().await;
            let at = joined["ok"]["offset"].as_u64().expect("where it begins");
            heard.push(tokio::spawn(async move {
                let mut heard = Heard::default();
                heard.until(&mut socket, |heard| at == ALL || heard.has_last()).await;
                (at, heard)
            }));
        }
        heard
    };
    let (whole, (), newcomers) = tokio::join!(talk, burst(&node), come);
    for newcomer in newcomers {
        let (at, heard) = newcomer.await.expect("it read to the end");
        let expected: Vec<_> = whole.events.iter().filter(|(offset, _)| *offset > at).collect();
        assert!(heard.events.iter().eq(expected), "from {at} on");
    }
    node.leave();
}
