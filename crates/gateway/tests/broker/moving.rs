//! The one stream of changes of a cluster of three masters, while the master of that stream dies.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use roomcast_counter::{Changes, Mover, RedisChanges};
use roomcast_gateway::{
    broker::{Broker, redis::RedisBroker},
    config,
};
use roomcast_protocol::RoomName;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cluster::Cluster,
    world::{connect_with, numbered, report, room, settings},
};

struct Process {
    broker: Broker,
    changes: Changes,
    mover: Mover,
}

impl Process {
    async fn start(cluster: &Cluster, name: &str) -> Self {
        let settings = config::Redis { changes: 10_000, ..settings(&cluster.url()) };
        let redis: RedisBroker =
            connect_with(&settings, name, &TaskTracker::new(), &CancellationToken::new()).await.unwrap();
        let changes = Changes::Redis(RedisChanges::new(redis.servers(), "rc", redis.changes()));
        let mover = changes.mover(name).unwrap();
        let broker = Broker::Redis(redis);
        broker.heartbeat(&report(name)).await.unwrap();
        Self { broker, changes, mover }
    }
}

/// The offsets of each room's events, in the order of the stream.
async fn told(changes: &Changes) -> Option<HashMap<String, Vec<u64>>> {
    let page = changes.read("0", 100_000).await.ok()?;
    assert!(page.complete);
    let mut told: HashMap<String, Vec<u64>> = HashMap::new();
    for change in page.changes {
        let data: serde_json::Value = serde_json::from_str(&change.data).unwrap();
        told.entry(change.room).or_default().push(data["offset"].as_u64().unwrap());
    }
    Some(told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_come_once_and_in_order_though_the_master_of_their_stream_dies() {
    let mut cluster = Cluster::start(1).await;
    let mut a = Process::start(&cluster, "a").await;
    let mut b = Process::start(&cluster, "b").await;
    let victim = cluster.owner(&room("changes"));
    // What the dead master alone had acknowledged may be lost with it, as ever: its rooms are not looked at.
    let rooms: Vec<RoomName> = (0..40)
        .map(|number| room(&format!("event:{number}")))
        .filter(|room| cluster.owner(room) != victim)
        .collect();
    assert!(rooms.len() > 10, "{rooms:?}");
    let mut published: HashMap<String, u64> = HashMap::new();
    let begun = Instant::now();
    let mut killed = false;
    while begun.elapsed() < Duration::from_secs(8) {
        for (n, room) in rooms.iter().enumerate() {
            let process = if n % 2 == 0 { &a } else { &b };
            let done = process.broker.publish(&numbered(room, 1)).await.unwrap();
            published.insert(room.to_string(), done.position.offset.0);
        }
        for process in [&mut a, &mut b] {
            // While the stream's master is away nothing can be copied, and nothing is forgotten.
            let _copied_or_away = process.mover.step(Instant::now()).await;
        }
        if !killed && begun.elapsed() > Duration::from_secs(1) {
            cluster.servers[victim].kill();
            killed = true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        for process in [&mut a, &mut b] {
            let _copied_or_away = process.mover.step(Instant::now()).await;
        }
        if let Some(told) = told(&a.changes).await {
            for (room, offsets) in &told {
                let expected: Vec<u64> = (1..=offsets.len() as u64).collect();
                assert_eq!(*offsets, expected, "{room}");
            }
            if published.iter().all(|(room, last)| told.get(room).is_some_and(|all| all.last() == Some(last)))
            {
                break;
            }
        }
        assert!(Instant::now() < deadline, "the stream stays behind");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all: u64 = published.values().sum();
    eprintln!("{all} changes of {} rooms, each once", rooms.len());
}
