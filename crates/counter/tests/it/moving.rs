//! In a cluster: the changes of all slots in one stream, each once and in the order of its room, whatever dies.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use fred::{
    clients::Client,
    interfaces::{ClientLike, KeysInterface, StreamsInterface},
    types::{ClusterHash, CustomCommand},
};
use roomcast_counter::{
    Change, ChangeTarget, Changes, Command, Counter, Limits, Moved, Mover, PublishMode, Redis, RedisChanges,
    Routed,
};
use serde_json::Value;

use crate::{
    server::Server,
    stage::{command, count, reserve, stock},
};

/// What a process has: a store, the stream, and its part in copying.
struct Process {
    counter: Counter,
    changes: Changes,
    mover: Mover,
    client: Client,
}

impl Process {
    async fn start(server: &Server, name: &str, size: u64) -> Self {
        let client = server.client().await;
        let routed = Routed::from(client.clone());
        let target = ChangeTarget::of(&routed, "rc", size);
        let limits = Limits::default();
        let store = Redis::telling(routed.clone(), "rc", limits, PublishMode::Plain, target.clone());
        let changes = Changes::Redis(RedisChanges::new(routed, "rc", target));
        let mover = changes.mover(name).expect("it is a cluster");
        Self { counter: Counter::Redis(store), changes, mover, client }
    }

    async fn count(&self, room: &str) {
        let step = Command { room: room.to_owned(), ..command("ann", count("p/1", "view", 1, None)) };
        self.counter.apply(step).await.expect("applied");
    }

    async fn step(&mut self) -> Moved {
        self.mover.step(Instant::now()).await.expect("a step")
    }

    async fn all(&self) -> Vec<Change> {
        let page = self.changes.read("0", 100_000).await.expect("read");
        assert!(page.complete);
        page.changes
    }

    async fn raw(&self, words: &[&str]) -> fred::types::Value {
        let (name, rest) = words.split_first().expect("a command");
        let command = CustomCommand::new((*name).to_owned(), ClusterHash::FirstKey, false);
        let rest: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
        self.client.custom(command, rest).await.expect("done")
    }
}

/// The values that a room's counter took, in the order of the stream.
fn values(changes: &[Change]) -> HashMap<&str, Vec<u64>> {
    let mut values: HashMap<&str, Vec<u64>> = HashMap::new();
    for change in changes {
        let data: Value = serde_json::from_str(&change.data).expect("JSON");
        values.entry(&change.room).or_default().push(data["value"].as_u64().expect("a value"));
    }
    values
}

fn is_whole(changes: &[Change], rooms: &[String], each: u64) -> bool {
    let values = values(changes);
    rooms.iter().all(|room| {
        let seen = values.get(room.as_str()).map(Vec::as_slice).unwrap_or_default();
        let expected: Vec<u64> = (1..=each).collect();
        assert!(expected.starts_with(seen), "{room} was told {seen:?}");
        seen == expected
    })
}

fn rooms(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("event:{n}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_has_the_changes_of_all_rooms_each_once_though_its_mover_dies() {
    let server = Server::start_cluster();
    let mut first = Process::start(&server, "first", 10_000).await;
    let mut second = Process::start(&server, "second", 10_000).await;
    let rooms = rooms(40);
    first.step().await;
    second.step().await;
    assert!(first.mover.leads() && !second.mover.leads());
    for room in &rooms {
        first.count(room).await;
        second.count(room).await;
    }
    // Who does not copy tells where there is something, before who copies could have come by.
    second.step().await;
    assert!(first.step().await.changes >= 80);
    assert!(is_whole(&first.all().await, &rooms, 2));
    assert_eq!(first.step().await, Moved::default(), "and none a second time");
    // The other goes on for one that dies with changes that nobody was told of.
    for room in &rooms {
        first.count(room).await;
    }
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_whole(&second.all().await, &rooms, 3) {
        assert!(Instant::now() < deadline, "{:?}", values(&second.all().await));
        second.step().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let page = second.changes.read("0", 50).await.expect("read");
    let rest = second.changes.read(&page.changes[49].id, 100).await.expect("read");
    assert!(rest.complete && rest.changes.len() == 70);
    let mut ids: Vec<_> = second.all().await.into_iter().map(|change| change.id).collect();
    let told = ids.clone();
    ids.sort_by_key(|id| {
        let (ms, serial) = id.split_once('-').expect("an id");
        (ms.parse::<u64>().expect("ms"), serial.parse::<u64>().expect("serial"))
    });
    ids.dedup();
    assert_eq!(ids, told, "ids rise over all rooms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_the_lease_copies_nothing_any_more() {
    let server = Server::start_cluster();
    let mut stale = Process::start(&server, "stale", 10_000).await;
    let mut next = Process::start(&server, "next", 10_000).await;
    stale.step().await;
    stale.count("event:a").await;
    // As if it had stood still for longer than its lease.
    let _gone: u64 = stale.client.del("rc:{changes}:mover").await.expect("gone");
    next.step().await;
    assert!(next.mover.leads());
    assert_eq!(stale.step().await, Moved::default());
    assert!(!stale.mover.leads());
    // What it knew of is told to who leads now.
    stale.step().await;
    while !is_whole(&next.all().await, &["event:a".to_owned()], 1) {
        next.step().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failover_takes_from_the_stream_is_copied_again() {
    let server = Server::start_cluster();
    let mut node = Process::start(&server, "node", 10_000).await;
    let two = rooms(2);
    for room in &two {
        node.count(room).await;
    }
    node.step().await;
    for key in ["log", "from"] {
        let key = format!("rc:{{changes}}:{key}");
        node.raw(&["COPY", &key, &format!("{key}:replica")]).await;
    }
    for room in &two {
        node.count(room).await;
    }
    node.step().await;
    assert!(is_whole(&node.all().await, &two, 2));
    // The replica that takes over has not heard of the second round.
    for key in ["log", "from"] {
        let key = format!("rc:{{changes}}:{key}");
        node.raw(&["RENAME", &format!("{key}:replica"), &key]).await;
    }
    assert!(!is_whole(&node.all().await, &two, 2));
    // In one of the rooms something happens; at the other the mover looks in its round.
    node.count(&two[0]).await;
    node.step().await;
    assert!(is_whole(&node.all().await, &two[..1], 3));
    let mut steps = 0;
    while !is_whole(&node.all().await, &two[1..], 2) {
        node.step().await;
        steps += 1;
        assert!(steps < 2_500, "two rounds have passed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_outbox_gave_up_uncopied_is_told_to_readers() {
    let server = Server::start_cluster();
    let mut node = Process::start(&server, "node", 100).await;
    node.count("event:a").await;
    node.step().await;
    let first = node.all().await.remove(0);
    for _ in 0..400 {
        node.count("event:a").await;
    }
    let mut gaps = 0;
    for _ in 0..3 {
        gaps += node.step().await.gaps;
    }
    assert_eq!(gaps, 1);
    let page = node.changes.read("0", 1_000).await.expect("read");
    assert!(!page.complete);
    assert_eq!(page.changes.iter().filter(|change| change.is_gap()).count(), 1);
    // Whoever has read on beyond it is told nothing any more.
    let last = page.changes.last().expect("a change");
    assert!(node.changes.read(&last.id, 10).await.expect("read").complete);
    assert!(!node.changes.read(&first.id, 1_000).await.expect("read").complete);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outboxes_keep_what_was_copied_for_a_while_and_are_bounded() {
    let server = Server::start_cluster();
    let mut node = Process::start(&server, "node", 100).await;
    for _ in 0..300 {
        node.count("event:a").await;
        node.step().await;
    }
    let keys: Vec<String> = match node.raw(&["KEYS", "rc:{[0-9]*}:changes"]).await.convert() {
        Ok(keys) => keys,
        Err(error) => panic!("{error}"),
    };
    let [outbox] = &keys[..] else { panic!("one slot was written in: {keys:?}") };
    let kept: u64 = node.client.xlen(outbox.as_str()).await.expect("a length");
    assert!((1..=300).contains(&kept), "{kept}");
    let ttl: i64 = node.client.pttl(outbox.as_str()).await.expect("a ttl");
    assert!(ttl > 29 * 86_400_000, "{ttl}");
}

/// An event may be as large as a frame, and a hundred of them are more than one answer should hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_changes_are_copied_in_parts_each_once_and_in_order() {
    let server = Server::start_cluster();
    let mut node = Process::start(&server, "node", 10_000).await;
    node.count("event:a").await;
    let keys: Vec<String> = node.raw(&["KEYS", "rc:{[0-9]*}:changes"]).await.convert().expect("a list");
    for value in 2..=150 {
        let data = format!(r#"{{"value":{value},"more":"{}"}}"#, "x".repeat(64 * 1024));
        node.raw(&["XADD", &keys[0], "*", "k", "event", "r", "event:a", "d", &data]).await;
    }
    let asked = |told: &str| {
        let line =
            told.lines().find(|line| line.starts_with("cmdstat_xrange:")).unwrap_or_default().to_owned();
        line.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u64>().ok()).unwrap_or_default()
    };
    let info = async |node: &Process| -> String {
        node.raw(&["INFO", "commandstats"]).await.convert().expect("a text")
    };
    let before = asked(&info(&node).await);
    assert_eq!(node.step().await, Moved { changes: 150, gaps: 0 });
    // Four of 64 KiB are a page: 38 pages, and each looks at the oldest entry and at one piece at least.
    let pages = (asked(&info(&node).await) - before) / 2;
    assert!(pages >= 30, "{pages} pages");
    assert!(is_whole(&node.all().await, &["event:a".to_owned()], 150));
}

/// Every kind of step finds its way out, those that nobody calls a change included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_every_kind_reach_the_stream() {
    let server = Server::start_cluster();
    let mut node = Process::start(&server, "node", 10_000).await;
    let on = |op| Command { room: "event:shop".to_owned(), ..command("ann", op) };
    node.counter.apply(on(stock("print", 9, 9, 50))).await.expect("applied");
    node.counter.apply(on(reserve("print", 2, "r"))).await.expect("applied");
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(node.counter.sweep_holds(10).await.expect("swept").expired, 1);
    node.counter.apply(on(reserve("print", 1, "s"))).await.expect("applied");
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(node.counter.stock("event:shop").await.expect("read")[0].held, 0);
    node.step().await;
    let states: Vec<_> = node
        .all()
        .await
        .iter()
        .filter(|change| change.kind == "hold")
        .map(|change| serde_json::from_str::<Value>(&change.data).expect("JSON")["state"].clone())
        .collect();
    assert_eq!(states, ["held", "expired", "held", "expired"]);
}
