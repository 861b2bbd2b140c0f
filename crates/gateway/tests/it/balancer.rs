//! A drain as clients live it behind HAProxy, with the configuration that is deployed.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use roomcast_gateway::app::Backing;
use serde_json::json;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use crate::support::{
    Client, Speak, TestNode,
    call::{call, publish},
    client::PATIENCE,
    follower::follow,
    redis::{RedisServer, free_port},
};

const ROOM: &str = "event:wall";
const FOLLOWERS: u32 = 30;
const EVENTS: u64 = 300;
/// HAProxy looks every 500 ms and believes the second look; the rest is for a machine with other work.
const BALANCER_DELAY: Duration = Duration::from_secs(4);
/// By then it has noticed.
const NOTICED: Duration = Duration::from_secs(2);
const SPREAD: Duration = Duration::from_secs(1);

/// Ended when it goes out of scope.
struct Balancer {
    child: Child,
    address: SocketAddr,
}

impl Balancer {
    async fn start(nodes: &[&TestNode]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new("haproxy");
        command
            .args(["-db", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/haproxy.cfg")])
            .env("BALANCER_BIND", address.to_string())
            .env("BALANCER_MAXCONN", "400")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        for (number, node) in (1..).zip(nodes) {
            command.env(format!("BALANCER_NODE{number}"), node.public.to_string());
            command.env(format!("BALANCER_NODE{number}_CHECK_PORT"), node.internal.port().to_string());
        }
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("haproxy can't be started ({error}): apt-get install haproxy"));
        let balancer = Self { child, address };
        let deadline = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < deadline, "haproxy does not listen");
            sleep(Duration::from_millis(20)).await;
        }
        balancer
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}

async fn node(redis: &RedisServer, name: &str) -> TestNode {
    let (delay, spread) = (format!("{}ms", BALANCER_DELAY.as_millis()), format!("{}ms", SPREAD.as_millis()));
    let url = redis.url();
    let settings = [
        ("node", name),
        ("redis.url", url.as_str()),
        ("drain.balancer_delay", delay.as_str()),
        ("drain.spread", spread.as_str()),
        ("drain.deadline", "20s"),
    ];
    TestNode::start(&settings, Backing::Redis).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_drains_behind_haproxy_and_nobody_misses_anything() {
    let redis = RedisServer::start();
    let (a, b) = (node(&redis, "a").await, node(&redis, "b").await);
    let balancer = Balancer::start(&[&a, &b]).await;
    let joined = Arc::new(Semaphore::new(0));
    let address = balancer.address;
    let followers: Vec<_> = (0..FOLLOWERS)
        .map(|n| {
            let joined = joined.clone();
            let speak = if n % 2 == 0 { Speak::Json } else { Speak::MsgPack };
            tokio::spawn(async move {
                follow(move |_| address, speak, ROOM, EVENTS, move || joined.add_permits(1)).await
            })
        })
        .collect();
    drop(joined.acquire_many(FOLLOWERS).await.expect("all join"));
    let (internal, early) = (b.internal, Arc::new(AtomicBool::new(false)));
    let drained = early.clone();
    let publisher = tokio::spawn(async move {
        for n in 1..=EVENTS {
            // The last ones are kept until the node is gone, so that everybody lives through all of it.
            while n == EVENTS && !drained.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(10)).await;
            }
            publish(internal, ROOM, n).await;
            sleep(Duration::from_millis(10)).await;
        }
    });

    let (leaving, ready) = (Instant::now(), a.internal);
    let stopping = tokio::spawn(a.stop());
    while call(ready, "GET", "/readyz", None).await.0 == 200 {
        assert!(leaving.elapsed() < BALANCER_DELAY / 2, "ready while it leaves");
        sleep(Duration::from_millis(10)).await;
    }
    // Well before anybody is sent away the balancer has noticed: whoever comes now is sent to the other node.
    sleep((leaving + NOTICED).saturating_duration_since(Instant::now())).await;
    for _ in 0..10 {
        let mut newcomer = Client::open(address, Speak::Json).await;
        assert_eq!(newcomer.ok(json!({ "op": "connect" })).await["node"], "b");
    }
    assert!(leaving.elapsed() < BALANCER_DELAY, "the machine is too slow to tell");
    stopping.await.expect("the node stops");
    early.store(true, Ordering::Relaxed);
    publisher.await.expect("all is published");

    let (mut times, mut stayed) = (Vec::new(), 0);
    for follower in followers {
        let seen = follower.await.expect("a follower gets to the end");
        assert!(seen.saw_everything(EVENTS), "{seen:?}");
        assert_eq!(seen.nodes.last().map(String::as_str), Some("b"), "{seen:?}");
        let Some((at, code)) = seen.closes.first() else {
            stayed += 1;
            continue;
        };
        assert_eq!((seen.nodes.len(), seen.closes.len(), *code), (2, 1, Some(1012)), "{seen:?}");
        assert!(seen.goaways.iter().all(|ms| Duration::from_millis(*ms) <= SPREAD), "{seen:?}");
        assert_eq!(seen.goaways.len(), 1, "each is told once");
        times.push(*at - leaving);
    }
    assert!((10..=20).contains(&stayed), "{stayed} of {FOLLOWERS} were on the node that stays");
    times.sort_unstable();
    let (first, last) = (times[0], times[times.len() - 1]);
    assert!(first >= BALANCER_DELAY, "sent away before the balancer had time to notice: {first:?}");
    assert!(last >= first + SPREAD / 2, "reconnects are not spread: {times:?}");
    b.stop().await;
}
