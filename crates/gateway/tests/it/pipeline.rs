//! Publishes that a client sends without waiting for answers.

use std::time::Duration;

use roomcast_gateway::app::Backing;
use serde_json::{Value, json};

use crate::support::{Client, Raw, Speak, TestNode, raw::masked, redis::RedisServer, token};

const ROOM: &str = "event:wall";
const FRAMES: u64 = 300;

/// A publish; now and then one that is refused, or something that has to see what was published before it.
fn frame(id: u64) -> Value {
    match id % 10 {
        3 => json!({ "id": id, "op": "publish", "room": "nowhere:b", "event": "e", "data": id }),
        7 => json!({ "id": id, "op": "ping" }),
        9 => json!({ "id": id, "op": "history", "room": ROOM, "limit": 1 }),
        _ => json!({ "id": id, "op": "publish", "room": ROOM, "event": "e", "data": id }),
    }
}

fn token_of(role: &str) -> String {
    token("tom", role, Duration::from_secs(600))
}

async fn connected(node: &TestNode, role: &str) -> Raw {
    let mut socket = Raw::upgraded(node.public).await;
    socket.say(&json!({ "id": 1, "op": "connect", "token": token_of(role) })).await;
    assert!(socket.text().await["ok"].is_object());
    socket
}

async fn with_redis() -> (RedisServer, TestNode) {
    let redis = RedisServer::start();
    let node = TestNode::start(&[("redis.url", &redis.url())], Backing::Redis).await;
    (redis, node)
}

async fn in_a_row(node: &TestNode, watcher: &mut Client, before: u64) -> u64 {
    let mut socket = connected(node, "member").await;
    for id in 10..10 + FRAMES {
        socket.say(&frame(id)).await;
    }
    let mut offset = before;
    for id in 10..10 + FRAMES {
        let answer = socket.text().await;
        assert_eq!(answer["id"], id, "answers come in the order of the frames");
        match id % 10 {
            3 => assert_eq!(answer["error"]["code"], "bad_room"),
            7 => assert!(answer["ok"]["now"].is_u64()),
            9 => assert_eq!(answer["ok"]["offset"], offset, "what was published before is there"),
            _ => {
                offset += 1;
                assert_eq!(answer["ok"]["offset"], offset, "in the order in which it was sent");
                let event = watcher.push_of("event").await;
                assert_eq!((&event["offset"], &event["data"]), (&json!(offset), &json!(id)));
            }
        }
    }
    offset
}

async fn watch(node: &TestNode) -> Client {
    let mut watcher = Client::guest(node.public, Speak::Json).await;
    watcher.ok(json!({ "op": "join", "room": ROOM })).await;
    watcher
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_in_a_row_are_kept_told_and_answered_in_order() {
    let node = TestNode::alone(&[]).await;
    let mut watcher = watch(&node).await;
    in_a_row(&node, &mut watcher, 0).await;
    node.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_in_a_row_are_kept_told_and_answered_in_order_through_redis() {
    let (redis, node) = with_redis().await;
    let mut watcher = watch(&node).await;
    let mut kept = in_a_row(&node, &mut watcher, 0).await;
    // Also where Redis has forgotten the script meanwhile.
    for _ in 0..5 {
        forget_scripts(&redis.url());
        kept = in_a_row(&node, &mut watcher, kept).await;
    }
    node.leave();
}

fn forget_scripts(url: &str) {
    let flushed = std::process::Command::new("redis-cli").args(["-u", url, "script", "flush"]).output();
    assert!(flushed.expect("redis-cli").status.success());
}

/// Some were refused, others are on their way, and there are always more.
#[tokio::test(flavor = "multi_thread")]
async fn publishes_keep_their_order_while_redis_forgets_the_script_again_and_again() {
    let (redis, node) = with_redis().await;
    let mut watcher = watch(&node).await;
    let mut socket = connected(&node, "member").await;
    let url = redis.url();
    let forgets = tokio::task::spawn_blocking(move || (0..40).for_each(|_| forget_scripts(&url)));
    let (mut published, together) = (0, 100);
    while !forgets.is_finished() {
        let ids = published + 1..=published + together;
        for number in ids.clone() {
            let publish =
                json!({ "id": 9 + number, "op": "publish", "room": ROOM, "event": "e", "data": number });
            socket.say(&publish).await;
        }
        for number in ids {
            let answer = socket.text().await;
            assert_eq!((&answer["id"], &answer["ok"]["offset"]), (&json!(9 + number), &json!(number)));
            let event = watcher.push_of("event").await;
            assert_eq!((&event["offset"], &event["data"]), (&json!(number), &json!(number)));
        }
        published += together;
    }
    forgets.await.unwrap();
    node.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_a_close_is_done_and_written_down_all_the_same() {
    let (_redis, node) = with_redis().await;
    let mut watcher = watch(&node).await;
    let mut socket = connected(&node, "admin").await;
    let mut bytes = Vec::new();
    for id in 3..12 {
        let publish = json!({ "id": id, "op": "publish", "room": ROOM, "event": "e", "data": id });
        bytes.extend(masked(0x81, publish.to_string().as_bytes()));
    }
    let notice =
        json!({ "id": 12, "op": "publish", "room": ROOM, "event": "admin:notification", "data": {} });
    bytes.extend(masked(0x81, notice.to_string().as_bytes()));
    bytes.extend(masked(0x88, &1000_u16.to_be_bytes()));
    socket.write(&bytes).await;
    assert_eq!(socket.close_code().await, Some(1000));
    for offset in 1..=10 {
        assert_eq!(watcher.push_of("event").await["offset"], offset);
    }
    // Nobody does anything in silence by going at once.
    let mut admin = Client::user(node.public, Speak::Json, &token_of("admin")).await;
    let mut log = json!(null);
    for _ in 0..100 {
        log = admin.ok(json!({ "op": "audit" })).await;
        if log["entries"] != json!([]) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(log["entries"][0]["action"], "notify", "{log}");
    node.leave();
}
