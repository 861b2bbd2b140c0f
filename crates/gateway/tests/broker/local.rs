//! The contract over the in-process bus, and what only the bus has: its hooks, and a clock that tests can turn.

use std::time::Duration;

use roomcast_core::permission::HistoryRules;
use roomcast_gateway::broker::{Broker, BrokerError, Delivery, Feed, Publication, Range, local::LocalBus};
use roomcast_protocol::{CounterValue, Offset};

use crate::{
    contract::{contract, promises},
    world::{HISTORY, PRESENCE, World, numbered, room},
};

promises!(contract!(World::local()));

#[tokio::test]
async fn a_severed_node_misses_what_comes_and_is_told_so() {
    let bus = LocalBus::new(PRESENCE);
    let world = World::Local(bus.clone());
    let (mut a, b) = (world.node("a").await, world.node("b").await);
    let wall = room("event:wall");
    a.broker.subscribe(&wall).await.unwrap();
    bus.sever("a");
    assert!(!a.broker.health().usable);
    assert!(matches!(
        a.broker.subscribe(&wall).await,
        Err(BrokerError::Unavailable { maybe_applied: false, .. })
    ));
    b.publish(&wall, 1).await;
    bus.restore("a");
    b.publish(&wall, 2).await;
    while !matches!(a.feed.recv().await, Some(Feed::Interrupted(_))) {}
    assert_eq!(a.event().await, (2, 2));
    assert_eq!((a.broker.health().usable, a.broker.health().reconnects), (true, 1));
}

#[tokio::test]
async fn refused_commands_change_nothing() {
    let bus = LocalBus::new(PRESENCE);
    let node = World::Local(bus.clone()).node("a").await;
    let wall = room("event:wall");
    bus.refuse_commands("a");
    let refused = node.broker.publish(&numbered(&wall, 1)).await;
    assert!(matches!(refused, Err(BrokerError::Unavailable { maybe_applied: false, .. })));
    bus.accept_commands("a");
    assert_eq!(node.publish(&wall, 1).await, 1);
}

#[tokio::test]
async fn a_slow_reader_is_told_at_the_place_of_the_loss() {
    let bus = LocalBus::with_feed_capacity(PRESENCE, 3);
    let broker = Broker::Local(bus.attach("a"));
    let mut feed = broker.take_feed().unwrap();
    assert!(broker.take_feed().is_none());
    let wall = room("event:wall");
    broker.subscribe(&wall).await.unwrap();
    for number in 1..=5 {
        broker.publish(&numbered(&wall, number)).await.unwrap();
    }
    let mut seen = Vec::new();
    while let Ok(item) = feed.try_recv() {
        seen.push(matches!(item, Feed::Delivery(_, Delivery::Event(..))));
    }
    assert_eq!(seen, [true, true, true, false]);
}

#[tokio::test]
async fn a_store_in_this_process_publishes_at_once() {
    let bus = LocalBus::new(PRESENCE);
    let mut node = World::Local(bus.clone()).node("a").await;
    let wall = room("event:wall");
    node.broker.subscribe(&wall).await.unwrap();
    let (position, at) =
        bus.append(&wall, HISTORY, "0123456789abcdef", r#"{"event":"comment","from":"ann","data":7}"#);
    assert_eq!((position.epoch.as_str(), position.offset), ("0123456789abcdef", Offset(1)));
    let (_, Delivery::Event(epoch, event)) = node.delivery().await else { panic!("no event") };
    assert_eq!((epoch, event.at, &*event.event), (position.epoch, at, "comment"));
    let value = CounterValue { target: "t".into(), counter: "like".into(), value: 1, version: 2 };
    bus.count(&wall, value.clone());
    assert!(matches!(node.delivery().await.1, Delivery::Count(told) if told == value));
    let (spoilt, _) = bus.append(&wall, HISTORY, "fedcba9876543210", "no json");
    assert_eq!(spoilt.offset, Offset(2));
    assert_eq!(node.publish(&wall, 3).await, 3, "the gap shows");
}

#[tokio::test(start_paused = true)]
async fn the_past_fades_with_its_ttl_and_the_position_a_day_later() {
    let node = World::local().node("a").await;
    let wall = room("event:wall");
    let history = HistoryRules { size: 10, ttl: Duration::from_secs(60) };
    let publication = Publication { history, key: Some("k".into()), ..numbered(&wall, 1) };
    let first = node.broker.publish(&publication).await.unwrap().position;
    tokio::time::advance(Duration::from_secs(61)).await;
    let page = node.broker.history(&wall, &Range::Recent(5), history).await.unwrap();
    assert_eq!((page.tail, page.events.len()), (first.clone(), 0));
    assert!(node.broker.publish(&publication).await.unwrap().duplicate);
    tokio::time::advance(Duration::from_secs(600)).await;
    assert!(!node.broker.publish(&publication).await.unwrap().duplicate, "keys live ten minutes");
    tokio::time::advance(Duration::from_secs(2 * 86_400)).await;
    assert_eq!(node.broker.tails(std::slice::from_ref(&wall)).await.unwrap(), [None]);
    let page = node.broker.history(&wall, &Range::Recent(5), history).await.unwrap();
    assert_ne!(page.tail.epoch, first.epoch);
}
