//! Failovers among a master, a replica and three sentinels, all real.

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use roomcast_core::permission::HistoryRules;
use roomcast_gateway::broker::{Broker, Delivery, Feed, Publication, Range};
use roomcast_protocol::Epoch;

use crate::{
    server::{RedisServer, command, free_port},
    world::{HISTORY, Node, connect, numbered, report, room},
};

/// A master, its replica, and sentinels that watch them.
struct Watched {
    servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
}

struct Sentinel {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _gone_already = self.process.kill();
        let _gone_already = self.process.wait();
    }
}

fn sentinel(master: u16) -> Sentinel {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let file = directory.path().join("sentinel.conf");
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 4000\n",
        directory.path().display()
    );
    std::fs::write(&file, text).unwrap();
    let process = Command::new("redis-server")
        .arg(file)
        .arg("--sentinel")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("redis-server: {error}; install it with: apt-get install redis-server")
        });
    Sentinel { process, port, _directory: directory }
}

impl Watched {
    async fn start() -> Self {
        let quick = ["--repl-diskless-sync-delay", "0"];
        let master = RedisServer::start(&quick);
        let of = format!("127.0.0.1 {}", master.port);
        let replica = RedisServer::start(&["--replicaof", &of, quick[0], quick[1]]);
        let sentinels: Vec<_> = (0..3).map(|_| sentinel(master.port)).collect();
        let watched = Self { servers: vec![master, replica], sentinels };
        let ready = async {
            while !watched.is_ready() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ready).await.expect("the sentinels see everything");
        watched
    }

    fn is_ready(&self) -> bool {
        let link = self.servers[1].command(&["INFO", "replication"]);
        link.contains("master_link_status:up")
            && self.sentinels.iter().all(|sentinel| {
                let Some(told) = ask(sentinel.port, &["SENTINEL", "MASTER", "main"]) else { return false };
                let field =
                    |name: &str| told.lines().skip_while(|line| *line != name).nth(2).map(str::to_owned);
                field("num-slaves").as_deref() == Some("1")
                    && field("num-other-sentinels").as_deref() == Some("2")
            })
    }

    fn url(&self) -> String {
        let ports: Vec<_> = self.sentinels.iter().map(|sentinel| sentinel.port).collect();
        format!(
            "redis-sentinel://127.0.0.1:{}?sentinelServiceName=main&node=127.0.0.1:{}&node=127.0.0.1:{}",
            ports[0], ports[1], ports[2]
        )
    }

    async fn node(&self, name: &str) -> Node {
        let broker = Broker::Redis(connect(&self.url(), name).await.unwrap());
        broker.heartbeat(&report(name)).await.unwrap();
        let feed = broker.take_feed().unwrap();
        Node { name: name.to_owned(), broker, feed }
    }

    /// When the first sentinel names the replica as the master.
    async fn failed_over(&self) -> Instant {
        let replica = self.servers[1].port.to_string();
        let wait = async {
            loop {
                let named = |sentinel: &Sentinel| {
                    ask(sentinel.port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"])
                        .is_some_and(|answer| answer.contains(&replica))
                };
                if self.sentinels.iter().any(named) {
                    return Instant::now();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("a failover")
    }
}

fn ask(port: u16, words: &[&str]) -> Option<String> {
    std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    Some(command(port, words))
}

/// What was acknowledged, by epoch and number.
type Ledger = Arc<Mutex<BTreeMap<u64, Epoch>>>;

/// Publishes without pause until told to stop; each number is published by one attempt only.
async fn publish_on(broker: Broker, ledger: Ledger, next: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        // The judge looks at all of it.
        let history = HistoryRules { size: 1_000_000, ..HISTORY };
        let publication = Publication { history, ..numbered(&room("event:wall"), number) };
        match broker.publish(&publication).await {
            Ok(published) => {
                ledger.lock().unwrap().insert(number, published.position.epoch);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Every acknowledged event is in the log, or the log has another epoch than the one it was acknowledged in.
async fn judge(node: &Node, ledger: &Ledger) -> (usize, usize) {
    let page = node.broker.history(&room("event:wall"), &Range::Recent(0), HISTORY).await.unwrap();
    let mut kept = std::collections::BTreeSet::new();
    let mut before = page.tail.offset.0 + 1;
    loop {
        let range = Range::Before(before, 1_000);
        let page = node.broker.history(&room("event:wall"), &range, HISTORY).await.unwrap();
        let Some(first) = page.events.first() else { break };
        before = first.offset.0;
        kept.extend(page.events.iter().map(|event| event.data.to::<u64>().unwrap()));
    }
    let ledger = ledger.lock().unwrap();
    let lost: Vec<_> = ledger.iter().filter(|(number, _)| !kept.contains(number)).collect();
    for (number, epoch) in &lost {
        assert_ne!(**epoch, page.tail.epoch, "{number} was acknowledged and is silently gone");
    }
    (ledger.len(), lost.len())
}

/// Two nodes publish while the master is made to fail; all must be well again within `most`.
async fn failover(fail: impl FnOnce(&mut Watched), most: Duration) {
    let mut watched = Watched::start().await;
    let (a, mut b) = (watched.node("a").await, watched.node("b").await);
    b.broker.subscribe(&room("event:wall")).await.unwrap();
    let (ledger, next, stop) =
        (Ledger::default(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    #[allow(clippy::disallowed_methods)] // Joined below.
    let publishers: Vec<_> = [&a, &b]
        .map(|node| tokio::spawn(publish_on(node.broker.clone(), ledger.clone(), next.clone(), stop.clone())))
        .into();
    b.event().await;

    fail(&mut watched);
    let failed = Instant::now();
    let named = watched.failed_over().await;
    b.until(|item| matches!(item, Feed::Interrupted(_))).await;
    let new_master = watched.servers[1].port;
    let heard = next.load(Ordering::Relaxed);
    b.until(|item| {
        matches!(item, Feed::Delivery(_, Delivery::Event(_, event)) if event.data.to::<u64>().unwrap() > heard)
    })
    .await;
    let (since_failed, since_named) = (failed.elapsed(), named.elapsed());
    assert!(since_named < Duration::from_secs(2), "{since_named:?} after a sentinel knew it");
    assert!(since_failed < most, "{since_failed:?} after the fault");
    assert!(command(new_master, &["PUBSUB", "CHANNELS"]).contains("rc:{event:wall}:ch"));
    // As long as an old master that still runs may take writes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.await.unwrap();
    }
    b.until_health(|health| health.usable).await;
    let (acknowledged, lost) = judge(&b, &ledger).await;
    assert!(acknowledged > 50, "{acknowledged}");
    eprintln!(
        "healed {since_failed:?} after the fault, {since_named:?} after a sentinel knew; {lost} of {acknowledged} rolled back and told"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_is_followed_by_its_replica() {
    failover(|watched| watched.servers[0].kill(), Duration::from_secs(8)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_leaves_the_old_master_at_once() {
    let fail = |watched: &mut Watched| {
        assert_eq!(command(watched.sentinels[0].port, &["SENTINEL", "FAILOVER", "main"]), "+OK\r\n");
    };
    failover(fail, Duration::from_secs(6)).await;
}

#[tokio::test]
async fn a_start_without_all_sentinels_finds_the_master() {
    let watched = Watched::start().await;
    let gone = free_port();
    let url = format!(
        "redis-sentinel://127.0.0.1:{gone}?sentinelServiceName=main&node=127.0.0.1:{}",
        watched.sentinels[0].port
    );
    let broker = connect(&url, "a").await.unwrap();
    assert_eq!(broker.publish(&numbered(&room("event:wall"), 1)).await.unwrap().position.offset.0, 1);
    let unknown =
        format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName=other", watched.sentinels[0].port);
    assert!(connect(&unknown, "a").await.is_err());
}
