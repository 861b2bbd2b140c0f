//! A peer that is silent while its connections stay open, and one that stops reading until every buffer is full.

use std::time::{Duration, Instant};

use roomcast_gateway::broker::{Broker, BrokerError, Feed, Publication, Published};
use roomcast_protocol::Data;
use tokio::time::sleep;

use crate::{
    proxy::Proxy,
    server::RedisServer,
    world::{Node, connect, numbered, report, room},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_send_buffer_wedges_nothing() {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::to(server.port);
    let broker = Broker::Redis(connect(&proxy.url(), "a").await.unwrap());
    broker.heartbeat(&report("a")).await.unwrap();
    let feed = broker.take_feed().unwrap();
    let mut node = Node { name: "a".to_owned(), broker, feed };
    let wall = room("event:wall");
    node.broker.subscribe(&wall).await.unwrap();
    proxy.freeze(true);
    let begun = Instant::now();
    // Far more than the buffers of both sockets hold.
    let large = Data::of(&"x".repeat(1 << 20)).unwrap();
    let publication = Publication { data: large, ..numbered(&wall, 0) };
    let flood = (0..40).map(|_| async {
        let begun = Instant::now();
        let outcome = node.broker.publish(&publication).await;
        assert!(matches!(outcome, Err(BrokerError::Unavailable { .. })), "{outcome:?}");
        begun.elapsed()
    });
    for took in futures_util::future::join_all(flood).await {
        assert!(took < Duration::from_secs(2), "a command took {took:?}");
    }
    node.until_health(|health| !health.usable).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // Once both connections are given up, the one after the other, refusals are certain and quick.
    sleep(Duration::from_millis(1_500)).await;
    let given_up = Instant::now();
    while may_have_run(&node.broker.publish(&numbered(&wall, 1)).await) {
        assert!(given_up.elapsed() < Duration::from_secs(3), "a silent connection was kept");
        sleep(Duration::from_millis(10)).await;
    }
    let mut took = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        assert!(!may_have_run(&node.broker.publish(&numbered(&wall, 1)).await));
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    // The second slowest: a machine may stop once.
    assert!(took[3] < Duration::from_millis(50), "{took:?}");

    proxy.freeze(false);
    let begun = Instant::now();
    node.until_health(|health| health.usable).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    node.until(|item| matches!(item, Feed::Interrupted(_))).await;
    node.publish(&wall, 2).await;
}

/// Whether a publish that failed, as all do here, may have been done all the same.
fn may_have_run(outcome: &Result<Published, BrokerError>) -> bool {
    match outcome {
        Err(BrokerError::Unavailable { maybe_applied, .. }) => *maybe_applied,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_noticed_and_comes_back() {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::to(server.port);
    let broker = Broker::Redis(connect(&proxy.url(), "a").await.unwrap());
    let feed = broker.take_feed().unwrap();
    let mut node = Node { name: "a".to_owned(), broker, feed };
    node.broker.subscribe(&room("event:wall")).await.unwrap();
    for _ in 0..2 {
        proxy.freeze(true);
        let begun = Instant::now();
        node.until_health(|health| !health.usable).await;
        assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
        sleep(Duration::from_secs(1)).await;
        proxy.freeze(false);
        let begun = Instant::now();
        node.until(|item| matches!(item, Feed::Interrupted(_))).await;
        node.until_health(|health| health.usable).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}
