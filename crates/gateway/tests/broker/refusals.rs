//! What Redis refuses is told as refused, with its cause; and it is over when the cause is.

use std::time::Duration;

use roomcast_gateway::broker::{BrokerError, Publication, Range};

use crate::{
    server::RedisServer,
    world::{HISTORY, Node, World, numbered, room},
};

/// Publishing is refused for this reason, and nothing is applied.
async fn refuse(node: &Node, word: &str) {
    let keyed = Publication { key: Some("k".into()), ..numbered(&room("event:wall"), 9) };
    for _ in 0..3 {
        match node.broker.publish(&keyed).await {
            Err(BrokerError::Unavailable { maybe_applied: false, cause }) if cause.contains(word) => {}
            other => panic!("expected {word}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn out_of_memory() {
    let mut world =
        World::Redis(RedisServer::start(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]));
    world.server().command(&["CONFIG", "SET", "maxmemory", "0"]);
    let node = world.node("a").await;
    world.server().command(&["CONFIG", "SET", "maxmemory", "1"]);
    refuse(&node, "OOM").await;
    // Reading goes on, and so does listening.
    node.broker.subscribe(&room("event:wall")).await.unwrap();
    world.server().command(&["CONFIG", "SET", "maxmemory", "0"]);
    node.publish(&room("event:wall"), 1).await;
}

#[tokio::test]
async fn too_few_replicas() {
    let mut world = World::redis();
    let node = world.node("a").await;
    world.server().command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    refuse(&node, "NOREPLICAS").await;
    world.server().command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    assert_eq!(node.publish(&room("event:wall"), 1).await, 1);
}

#[tokio::test]
async fn a_disk_that_takes_nothing() {
    let mut world = World::Redis(RedisServer::start(&["--save", "3600 1000000", "--dbfilename", "dump.rdb"]));
    let node = world.node("a").await;
    // A directory in the file's place: the next save fails, and from then on Redis takes no writes.
    std::fs::create_dir_all(world.server().directory().join("dump.rdb/full")).unwrap();
    world.server().command(&["BGSAVE"]);
    for _ in 0..500 {
        if world.server().command(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    refuse(&node, "MISCONF").await;
    // Neither a new subscription nor a new connection needs the disk.
    node.broker.subscribe(&room("event:wall")).await.unwrap();
    world.server().command(&["CLIENT", "KILL", "TYPE", "normal"]);
    world.server().command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.until_health(|health| health.usable && health.reconnects > 0).await;
    world.server().command(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    assert_eq!(node.publish(&room("event:wall"), 1).await, 1);
}

#[tokio::test]
async fn a_replica() {
    let master = RedisServer::start(&[]);
    let mut world = World::redis();
    let node = world.node("a").await;
    let port = master.port.to_string();
    assert_eq!(world.server().command(&["REPLICAOF", "127.0.0.1", &port]), "+OK\r\n");
    refuse_first(&node, "READONLY").await;
    assert_eq!(world.server().command(&["REPLICAOF", "NO", "ONE"]), "+OK\r\n");
    publish_soon(&node).await;
}

#[tokio::test]
async fn a_server_that_loads_its_data() {
    let slow = [
        "--dbfilename",
        "dump.rdb",
        "--key-load-delay",
        "4000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let mut world = World::Redis(RedisServer::start(&slow));
    let node = world.node("a").await;
    for number in 0..250 {
        node.publish(&room(&format!("event:{number}")), number).await;
    }
    world.server().command(&["SAVE"]);
    world.server().kill();
    world.server().restart_without_waiting();
    let mut causes = Vec::new();
    let loading = loop {
        match node.broker.publish(&numbered(&room("event:0"), 1)).await {
            Err(BrokerError::Unavailable { maybe_applied: false, cause }) if cause.contains("LOADING") => {
                break true;
            }
            Err(BrokerError::Unavailable { cause, .. }) => causes.push(cause),
            other => panic!("{other:?} after {causes:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(loading && !node.broker.health().usable);
    publish_soon(&node).await;
    node.until_health(|health| health.usable).await;
    let tail = node.broker.history(&room("event:7"), &Range::Recent(1), HISTORY).await.unwrap().tail;
    assert_eq!(tail.offset.0, 1);
}

/// The first answer; what comes after may already be refused here.
async fn refuse_first(node: &Node, word: &str) {
    match node.broker.publish(&numbered(&room("event:wall"), 9)).await {
        Err(BrokerError::Unavailable { maybe_applied: false, cause }) if cause.contains(word) => {}
        other => panic!("expected {word}: {other:?}"),
    }
}

async fn publish_soon(node: &Node) {
    for _ in 0..500 {
        if node.broker.publish(&numbered(&room("event:wall"), 9)).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the cause is gone, and nothing is taken");
}
