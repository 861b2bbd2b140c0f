//! A server that comes back knowing less: what was seen and is gone is told, and what is whole is left alone.

use std::time::Duration;

use roomcast_core::permission::HistoryRules;
use roomcast_gateway::broker::{Broker, Delivery, Feed, Publication, Range};
use roomcast_protocol::{Epoch, Offset, RoomName};

use roomcast_counter::{Command, Counter, History, Limits, Op};

use crate::{
    proxy::Proxy,
    server::RedisServer,
    world::{HISTORY, Node, connect, numbered, report, room},
};

async fn node(url: &str, name: &str) -> Node {
    let broker = Broker::Redis(connect(url, name).await.unwrap());
    broker.heartbeat(&report(name)).await.unwrap();
    let feed = broker.take_feed().unwrap();
    Node { name: name.to_owned(), broker, feed }
}

async fn tail(node: &Node, room: &RoomName) -> (Epoch, Offset) {
    let page = node.broker.history(room, &Range::Recent(0), HISTORY).await.unwrap();
    (page.tail.epoch, page.tail.offset)
}

fn is_ended(item: &Feed, name: &RoomName) -> bool {
    matches!(item, Feed::Delivery(room, Delivery::Ended(..)) if room == name)
}

/// Redis comes back from its file of a while ago, and somebody who saw nothing publishes past the lost end before
/// those who saw it are back: in the same epoch, no gap, no jump. They must tell all the same.
#[tokio::test]
async fn a_log_that_lost_its_end_and_grew_again_begins_a_new_epoch() {
    let mut server = RedisServer::start(&["--dbfilename", "dump.rdb"]);
    let proxy = Proxy::to(server.port);
    let mut a = node(&proxy.url(), "a").await;
    let (wall, whole, bare) = (room("event:wall"), room("event:whole"), room("event:bare"));
    let without_log = |number| Publication {
        history: HistoryRules { size: 0, ttl: Duration::from_secs(60) },
        ..numbered(&bare, number)
    };
    a.broker.subscribe(&wall).await.unwrap();
    a.broker.subscribe(&whole).await.unwrap();
    for number in 1..=3 {
        a.publish(&wall, number).await;
        a.publish(&whole, number).await;
        a.broker.publish(&without_log(number)).await.unwrap();
    }
    assert_eq!(server.command(&["SAVE"]), "+OK\r\n");
    for number in 4..=5 {
        // Acknowledged, and in the room without subscribers heard by nobody.
        a.publish(&wall, number).await;
        a.broker.publish(&without_log(number)).await.unwrap();
    }
    let before = [tail(&a, &wall).await, tail(&a, &whole).await, tail(&a, &bare).await];
    proxy.close();
    server.kill();
    server.restart();

    let b = node(&server.url(), "b").await;
    for number in 14..=17 {
        b.publish(&wall, number).await;
        b.broker.publish(&without_log(number)).await.unwrap();
    }
    assert_eq!(tail(&b, &wall).await, (before[0].0.clone(), Offset(7)), "nobody can see it by the offsets");
    proxy.open();
    // Told on the channel, or, where that is not heard again yet, by the look at the log that follows.
    a.until(|item| is_ended(item, &wall) || matches!(item, Feed::Interrupted(_))).await;

    a.until_health(|health| health.usable).await;
    a.until_health(|health| health.reconnects > 0).await;
    let after = [tail(&a, &wall).await, tail(&a, &whole).await, tail(&a, &bare).await];
    assert_ne!(after[0].0, before[0].0, "the room with a lost end");
    assert_eq!(after[0].1, Offset(7));
    assert_eq!(after[1], before[1], "the room that is whole");
    assert_ne!(after[2].0, before[2].0, "the room without a log");
    let page = a.broker.history(&wall, &Range::Recent(10), HISTORY).await.unwrap();
    let kept: Vec<u64> = page.events.iter().map(|event| event.data.to().unwrap()).collect();
    assert_eq!(kept, [1, 2, 3, 14, 15, 16, 17], "what there is can still be read");
}

#[tokio::test]
async fn a_cut_connection_to_the_same_server_begins_no_new_epoch() {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::to(server.port);
    let mut a = node(&proxy.url(), "a").await;
    let wall = room("event:wall");
    a.broker.subscribe(&wall).await.unwrap();
    a.publish(&wall, 1).await;
    let before = tail(&a, &wall).await;
    proxy.close();
    let b = node(&server.url(), "b").await;
    // The history is trimmed past what was seen: whoever looked at it could not tell.
    let short = HistoryRules { size: 1, ttl: Duration::from_secs(60) };
    for number in 2..=5 {
        b.broker.publish(&Publication { history: short, ..numbered(&wall, number) }).await.unwrap();
    }
    proxy.open();
    a.until(|item| matches!(item, Feed::Interrupted(_))).await;
    a.until_health(|health| health.usable).await;
    assert_eq!(tail(&a, &wall).await, (before.0, Offset(5)));
}

/// Redis comes back from its file of a while ago, and with it the counters. Who saw the later values believes no lower
/// version, so the earlier ones have to be told under higher ones.
#[tokio::test]
async fn counters_that_went_back_are_told_again_under_higher_versions() {
    let mut server = RedisServer::start(&["--dbfilename", "dump.rdb"]);
    let proxy = Proxy::to(server.port);
    let mut a = node(&proxy.url(), "a").await;
    let redis = connect(&server.url(), "b").await.unwrap();
    let mode = redis.publish_mode();
    let counter =
        Counter::Redis(roomcast_counter::Redis::with(redis.servers(), "rc", Limits::default(), mode));
    let (wall, whole) = (room("event:wall"), room("event:whole"));
    let count = async |room: &RoomName, target: &str| {
        let op = Op::Count { target: target.to_owned(), counter: "view".to_owned(), by: 1, key: None };
        let history = History { size: 10, ttl: Duration::from_secs(60) };
        let epoch_candidate = "0123456789abcdef".to_owned();
        let command =
            Command { room: room.to_string(), user: "ann".to_owned(), history, epoch_candidate, op };
        counter.apply(command).await.unwrap();
    };
    a.broker.subscribe(&wall).await.unwrap();
    a.broker.subscribe(&whole).await.unwrap();
    count(&wall, "kept").await;
    count(&wall, "photo").await;
    count(&whole, "photo").await;
    assert_eq!(server.command(&["SAVE"]), "+OK\r\n");
    count(&wall, "photo").await;
    count(&wall, "new").await;
    let is_of = |item: &Feed, of: &str| matches!(item, Feed::Delivery(_, Delivery::Count(value)) if value.target == of);
    let Feed::Delivery(_, Delivery::Count(lost)) = a.until(|item| is_of(item, "new")).await else {
        panic!("no count")
    };
    let before = counter.counters(whole.as_str(), None).await.unwrap();
    proxy.close();
    server.kill();
    server.restart();
    a.until_health(|health| !health.usable).await;
    proxy.open();
    a.until_health(|health| health.usable).await;
    let after = counter.counters(wall.as_str(), None).await.unwrap();
    let values: Vec<_> = after.iter().map(|update| (update.target.as_str(), update.value)).collect();
    assert_eq!(values, [("kept", 1), ("new", 0), ("photo", 1)]);
    assert!(after.iter().all(|update| update.version > lost.version), "{after:?} after {lost:?}");
    assert_eq!(counter.counters(whole.as_str(), None).await.unwrap(), before, "the room that is whole");
    // And going on from there.
    count(&wall, "photo").await;
    let is_next = |item: &Feed| {
        matches!(item, Feed::Delivery(_, Delivery::Count(value))
            if value.target == "photo" && value.value == 2 && value.version > lost.version)
    };
    a.until(is_next).await;
}

/// Counts one more, as a back end would: the version that it got.
async fn count(server: &RedisServer, wall: &RoomName) -> u64 {
    let redis = connect(&server.url(), "back-end").await.unwrap();
    let mode = redis.publish_mode();
    let counter =
        Counter::Redis(roomcast_counter::Redis::with(redis.servers(), "rc", Limits::default(), mode));
    let op = Op::Count { target: "new".to_owned(), counter: "view".to_owned(), by: 1, key: None };
    let history = History { size: 10, ttl: Duration::from_secs(60) };
    let epoch_candidate = "0123456789abcdef".to_owned();
    let command = Command { room: wall.to_string(), user: "ann".to_owned(), history, epoch_candidate, op };
    counter.apply(command).await.unwrap();
    counter.counters(wall.as_str(), None).await.unwrap()[0].version
}

/// Nothing is left of a counter, and the node that tells so has missed its last changes: others have seen them.
#[tokio::test]
async fn a_counter_that_is_gone_is_told_above_what_others_have_seen_of_it() {
    let mut server = RedisServer::start(&[]);
    let proxy = Proxy::to(server.port);
    let mut a = node(&proxy.url(), "a").await;
    let wall = room("event:wall");
    a.broker.subscribe(&wall).await.unwrap();
    count(&server, &wall).await;
    a.until(|item| matches!(item, Feed::Delivery(_, Delivery::Count(_)))).await;
    proxy.close();
    a.until_health(|health| !health.usable).await;
    let seen_by_others = count(&server, &wall).await;
    server.kill();
    server.restart();
    let mut b = node(&server.url(), "b").await;
    b.broker.subscribe(&wall).await.unwrap();
    proxy.open();
    let Feed::Delivery(_, Delivery::Count(gone)) =
        b.until(|item| matches!(item, Feed::Delivery(_, Delivery::Count(_)))).await
    else {
        panic!("no count")
    };
    assert_eq!(gone.value, 0);
    assert!(gone.version > seen_by_others, "{} after {seen_by_others}", gone.version);
    assert!(count(&server, &wall).await > gone.version, "who counts from here on is believed");
}

/// Many counts a second have versions that outrun the clock: what comes after the loss has to outrun it as well.
#[tokio::test]
async fn a_counter_that_is_gone_goes_on_above_versions_that_outran_the_clock() {
    const AHEAD_MS: u64 = 3_600_000;
    let mut server = RedisServer::start(&[]);
    let proxy = Proxy::to(server.port);
    let mut a = node(&proxy.url(), "a").await;
    let wall = room("event:wall");
    a.broker.subscribe(&wall).await.unwrap();
    let seen = count(&server, &wall).await + AHEAD_MS;
    let told = format!("C {seen}\n{}", r#"{"target":"new","counter":"view","value":9}"#);
    server.command(&["PUBLISH", "rc:{event:wall}:ch", &told]);
    a.until(|item| matches!(item, Feed::Delivery(_, Delivery::Count(count)) if count.version == seen)).await;
    proxy.close();
    a.until_health(|health| !health.usable).await;
    server.kill();
    server.restart();
    // Whoever tells of the loss may not be subscribed again yet, and reads the counters once it is.
    let mut b = node(&server.url(), "b").await;
    b.broker.subscribe(&wall).await.unwrap();
    proxy.open();
    b.until(|item| matches!(item, Feed::Delivery(_, Delivery::Count(gone)) if gone.value == 0 && gone.version > seen))
        .await;
    assert!(count(&server, &wall).await > seen + 1, "who counts from here on is believed");
    let ttl = server.command(&["PTTL", "rc:{event:wall}:counts"]);
    assert!(!ttl.starts_with(":-"), "it lives for ever: {ttl}");
}
