//! The contract over a real Redis, and what only Redis can suffer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::join_all};
use roomcast_counter::{Counter, CounterError};
use roomcast_gateway::broker::{
    Broker, BrokerError, Claim, Control, Feed, PresenceUpdate, Publication, Range,
};
use roomcast_protocol::{Data, Epoch, Offset, Position};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    contract::{contract, enter, promises},
    server::RedisServer,
    world::{HISTORY, Node, World, connect, connect_with, numbered, present, report, room, settings},
};

promises!(contract!(World::redis()));

fn is_interrupted(item: &Feed) -> bool {
    matches!(item, Feed::Interrupted(_))
}

/// Publishes until an event comes through that was published after the interruption.
async fn hears_again(listener: &mut Node, speaker: &Node, name: &str) {
    let number = 1_000_000;
    let offset = speaker.publish(&room(name), number).await;
    listener
        .until(|item| {
            matches!(item, Feed::Delivery(_, roomcast_gateway::broker::Delivery::Event(_, event))
                if event.offset.0 == offset)
        })
        .await;
}

#[tokio::test]
async fn an_order_that_was_not_heard_comes_with_the_next_heartbeat_and_none_comes_twice() {
    let world = World::redis();
    let World::Redis(server) = &world else { panic!("Redis it is") };
    let (mut a, b) = (world.node("a").await, world.node("b").await);
    let order = |user: &str| Control::Disconnect { user: Some(user.into()), session: None, ip: None };
    let is = |item: &Feed, user: &str| matches!(item, Feed::Control(got) if *got == order(user));
    b.broker.control(&order("heard")).await.unwrap();
    a.until(|item| is(item, "heard")).await;
    // As where the subscription was away for a moment: it stands in the list, and nobody told.
    let body = serde_json::to_string(&order("unheard")).unwrap();
    server.command(&["XADD", "rc:{nodes}:orders", "*", "b", &body]);
    a.heartbeat().await;
    a.until(|item| is(item, "unheard") || is(item, "heard")).await;
    a.heartbeat().await;
    b.broker.control(&order("last")).await.unwrap();
    a.heartbeat().await;
    let mut between = Vec::new();
    a.until(|item| {
        between.push(item.clone());
        is(item, "last")
    })
    .await;
    assert!(!between.iter().any(|item| is(item, "heard") || is(item, "unheard")), "{between:?}");
    // Who starts later has no connections that were meant.
    let mut late = world.node("late").await;
    late.heartbeat().await;
    b.broker.control(&order("new")).await.unwrap();
    late.until(|item| {
        assert!(!["heard", "unheard", "last"].iter().any(|user| is(item, user)), "{item:?}");
        is(item, "new")
    })
    .await;
    let ttl = server.command(&["PTTL", "rc:{nodes}:orders"]);
    let ttl: i64 = ttl.trim().trim_start_matches(':').parse().unwrap();
    assert!((1..=600_000).contains(&ttl), "{ttl}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_publishes_right_after_subscribing_all_arrive() {
    let world = World::redis();
    let (mut a, b) = (world.node("a").await, world.node("b").await);
    for chunk in 0..100 {
        let rooms: Vec<_> = (0..100).map(|n| (n, room(&format!("event:{chunk}-{n}")))).collect();
        let publishes = rooms.iter().map(|(n, room)| {
            let (a, b) = (&a, &b);
            async move {
                a.broker.subscribe(room).await.unwrap();
                b.publish(room, *n).await;
            }
        });
        futures_util::future::join_all(publishes).await;
        let mut missing: std::collections::HashSet<u64> = (0..100).collect();
        while !missing.is_empty() {
            let (number, offset) = a.event().await;
            assert!(missing.remove(&number) && offset == 1, "{number} came twice");
        }
        for (_, room) in &rooms {
            a.broker.unsubscribe(room).await.unwrap();
        }
    }
    assert!(a.feed.try_recv().is_err());
}

#[tokio::test]
async fn a_killed_subscription_comes_back_and_says_so() {
    let mut world = World::redis();
    let (mut a, b) = (world.node("a").await, world.node("b").await);
    for number in 0..1_200 {
        a.broker.subscribe(&room(&format!("event:{number}"))).await.unwrap();
    }
    for round in 1..=3 {
        let begun = Instant::now();
        world.server().command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        a.until(is_interrupted).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        hears_again(&mut a, &b, "event:7").await;
        hears_again(&mut a, &b, "event:1199").await;
        assert_eq!(a.until_health(|health| health.usable).await.reconnects, round);
    }
}

#[tokio::test]
async fn a_dead_redis_fails_fast_and_heals_when_it_is_back() {
    let mut world = World::redis();
    let (mut a, b) = (world.node("a").await, world.node("b").await);
    let wall = room("event:wall");
    a.broker.subscribe(&wall).await.unwrap();
    let before = b.broker.publish(&numbered(&wall, 1)).await.unwrap().position;
    world.server().kill();
    a.until_health(|health| !health.usable).await;
    // Either connection may notice first, and the reader of the other may be behind.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    for _ in 0..100 {
        let refused = a.broker.publish(&numbered(&wall, 2)).await;
        assert!(matches!(refused, Err(BrokerError::Unavailable { maybe_applied: false, .. })), "{refused:?}");
        let refused = a.broker.subscribe(&room("event:new")).await;
        assert!(matches!(refused, Err(BrokerError::Unavailable { .. })), "{refused:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_millis(700)).await;
    world.server().restart();
    let begun = Instant::now();
    a.until(is_interrupted).await;
    b.until_health(|health| health.usable).await;
    a.until_health(|health| health.usable).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    hears_again(&mut a, &b, "event:wall").await;
    let page = a.broker.history(&wall, &Range::Since(before, 10), HISTORY).await.unwrap();
    assert!(!page.complete, "an empty Redis is a new epoch");
}

#[tokio::test]
async fn a_frozen_redis_is_noticed_within_two_seconds() {
    let mut world = World::redis();
    let (mut a, b) = (world.node("a").await, world.node("b").await);
    a.broker.subscribe(&room("event:wall")).await.unwrap();
    a.until_health(|health| health.last_lag.is_some()).await;
    let begun = Instant::now();
    world.server().signal("STOP");
    a.until_health(|health| !health.usable).await;
    let noticed = begun.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = a.broker.publish(&numbered(&room("event:wall"), 1)).await;
    world.server().signal("CONT");
    assert!(noticed < Duration::from_secs(2), "{noticed:?}");
    assert!(matches!(refused, Err(BrokerError::Unavailable { .. })), "{refused:?}");
    a.until(is_interrupted).await;
    a.until_health(|health| health.usable).await;
    b.until_health(|health| health.usable).await;
    hears_again(&mut a, &b, "event:wall").await;
}

#[tokio::test]
async fn a_lost_answer_says_so_and_its_key_makes_the_retry_safe() {
    let mut world = World::redis();
    let node = world.node("a").await;
    let wall = room("event:wall");
    let keyed = Publication { key: Some("k".into()), ..numbered(&wall, 1) };
    world.server().signal("STOP");
    let lost = node.broker.publish(&keyed).await;
    world.server().signal("CONT");
    assert!(matches!(lost, Err(BrokerError::Unavailable { maybe_applied: true, .. })), "{lost:?}");
    // The connection may be given up for its silence only now: then this answer is lost as well.
    let again = async {
        loop {
            match node.broker.publish(&keyed).await {
                Ok(published) => return published,
                Err(BrokerError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(10), again).await.expect("it is back");
    assert_eq!(again.position.offset, Offset(1));
    let page = node.broker.history(&wall, &Range::Recent(10), HISTORY).await.unwrap();
    assert_eq!(page.events.len(), 1);
}

#[tokio::test]
async fn a_denied_subscription_is_an_error_and_its_neighbours_are_not() {
    let server = RedisServer::start(&[]);
    let rules = ["~*", "+@all", "resetchannels", "&rc:{nodes}:*", "&rc:{event:*"];
    let mut words = vec!["ACL", "SETUSER", "node", "on", ">secret"];
    words.extend(rules);
    assert_eq!(server.command(&words), "+OK\r\n");
    let url = format!("redis://node:secret@127.0.0.1:{}", server.port);
    let broker = Broker::Redis(connect(&url, "a").await.unwrap());
    let feed = broker.take_feed().unwrap();
    let mut node = Node { name: "a".to_owned(), broker, feed };
    node.heartbeat().await;
    for number in 0..50 {
        let allowed: Vec<_> = (0..3).map(|n| room(&format!("event:{number}-{n}"))).collect();
        let denied = room(&format!("user:{number}"));
        let (one, two, no, three) = futures_util::join!(
            node.broker.subscribe(&allowed[0]),
            node.broker.subscribe(&allowed[1]),
            node.broker.subscribe(&denied),
            node.broker.subscribe(&allowed[2]),
        );
        assert!(matches!(no, Err(BrokerError::Denied(_))), "{no:?}");
        for outcome in [one, two, three] {
            outcome.unwrap();
        }
        for (n, room) in (0..).zip(&allowed) {
            node.publish(room, n).await;
            assert_eq!(node.event().await, (n, 1));
        }
        let alone = node.broker.subscribe(&denied).await;
        assert!(matches!(alone, Err(BrokerError::Denied(_))), "{alone:?}");
    }
    let data = Data::of(&1).unwrap();
    let denied = node.broker.signal(&room("user:1"), "typing", &data, None).await;
    assert!(matches!(denied, Err(BrokerError::Denied(_))), "{denied:?}");
    assert!(node.broker.health().usable && node.broker.health().reconnects == 0);
}

#[tokio::test]
async fn wrong_credentials_and_a_missing_server_end_the_start() {
    let server = RedisServer::start(&["--requirepass", "right"]);
    let wrong = connect(&format!("redis://:wrong@127.0.0.1:{}", server.port), "a").await.unwrap_err();
    assert!(matches!(wrong, BrokerError::Denied(_)), "{wrong:?}");
    assert!(!wrong.to_string().contains("wrong@"), "{wrong}");
    connect(&format!("redis://:right@127.0.0.1:{}", server.port), "a").await.unwrap().shutdown().await;
    let port = server.port;
    drop(server);
    let begun = Instant::now();
    let missing = connect(&format!("redis://127.0.0.1:{port}"), "a").await.unwrap_err();
    assert!(matches!(missing, BrokerError::Unavailable { maybe_applied: false, .. }), "{missing:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let nonsense = connect("redis://user:hush hush@[", "a").await.unwrap_err();
    assert!(!format!("{nonsense:?}").contains("hush"), "{nonsense:?}");
}

#[tokio::test]
async fn what_roomcast_did_not_write_is_dropped() {
    let mut world = World::redis();
    let mut node = world.node("a").await;
    let wall = room("event:wall");
    node.broker.subscribe(&wall).await.unwrap();
    for garbage in ["", "E", "E a 1 2\n{", "\0\u{1}", "P\n[]", "X zz\n{}"] {
        world.server().command(&["PUBLISH", "rc:{event:wall}:ch", garbage]);
        world.server().command(&["PUBLISH", "rc:{nodes}:control", garbage]);
        world.server().command(&["PUBLISH", "rc:{nodes}:probe:a", garbage]);
    }
    let forged = r#"O 1-1\n{"control":"nodes_changed"}"#.replace("\\n", "\n");
    world.server().command(&["PUBLISH", "rc:{nodes}:control", &forged]);
    node.publish(&wall, 1).await;
    let next = node.until(|_| true).await;
    assert!(matches!(next, Feed::Delivery(..)), "{next:?}");
}

#[tokio::test]
async fn scripts_flushed_from_the_server_are_sent_again() {
    let mut world = World::redis();
    let node = world.node("a").await;
    assert_eq!(node.publish(&room("event:wall"), 1).await, 1);
    assert_eq!(world.server().command(&["SCRIPT", "FLUSH"]), "+OK\r\n");
    assert_eq!(node.publish(&room("event:wall"), 2).await, 2);
}

#[tokio::test]
async fn too_many_commands_at_once_are_refused_unsent() {
    let mut world = World::redis();
    let url = world.server().url();
    let few = roomcast_gateway::config::Redis { max_in_flight: 4.try_into().unwrap(), ..settings(&url) };
    let broker = connect_with(&few, "a", &TaskTracker::new(), &CancellationToken::new()).await.unwrap();
    let wall = room("event:wall");
    let publications: Vec<_> = (0..20).map(|number| numbered(&wall, number)).collect();
    let outcomes = futures_util::future::join_all(publications.iter().map(|one| broker.publish(one))).await;
    let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let refused = |outcome: &&Result<_, BrokerError>| matches!(outcome, Err(BrokerError::Busy));
    assert_eq!((stored, outcomes.iter().filter(refused).count()), (4, 16));
    let tails = broker.tails(std::slice::from_ref(&wall)).await.unwrap();
    assert_eq!(tails[0].as_ref().unwrap().offset, Offset(4));
}

#[tokio::test]
async fn counters_share_the_bound() {
    let world = World::redis();
    let World::Redis(server) = &world else { panic!("Redis it is") };
    let one =
        roomcast_gateway::config::Redis { max_in_flight: 1.try_into().unwrap(), ..settings(&server.url()) };
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let broker = connect_with(&one, "a", &tasks, &cancel).await.unwrap();
    let counter = Counter::Redis(roomcast_counter::Redis::new(broker.servers(), "rc"));
    let wall = room("event:wall");
    let one_event = numbered(&wall, 1);
    // All are asked before the first is answered: the place is the first one's.
    let (read, published, refused) = tokio::join!(
        counter.counters("event:wall", None),
        broker.publish(&one_event).map(|outcome| outcome.unwrap_err()),
        counter.redeem_ticket("t").map(|outcome| outcome.unwrap_err()),
    );
    assert!(read.unwrap().is_empty());
    assert!(matches!(published, BrokerError::Busy), "{published:?}");
    assert!(matches!(refused, CounterError::Busy), "{refused:?}");
    // And free again afterwards.
    broker.publish(&numbered(&wall, 1)).await.unwrap();
    assert!(counter.redeem_ticket("t").await.unwrap().is_none());
}

#[tokio::test]
async fn positions_of_rooms_in_which_nothing_was_written_last_for_minutes() {
    let world = World::redis();
    let World::Redis(server) = &world else { panic!("Redis it is") };
    let node = world.node("a").await;
    let wall = room("event:wall");
    let ttl = || -> i64 {
        server.command(&["PTTL", "rc:{event:wall}:meta"]).trim().trim_start_matches(':').parse().unwrap()
    };
    let look = async || node.broker.history(&wall, &Range::Recent(1), HISTORY).await.unwrap().tail;
    let tail = look().await;
    assert!((1..=300_000).contains(&ttl()), "{}", ttl());
    let tails = node.broker.tails(std::slice::from_ref(&wall)).await.unwrap();
    assert_eq!(tails, [Some(tail.clone())]);
    assert!((1..=300_000).contains(&ttl()), "{}", ttl());
    node.publish(&wall, 1).await;
    assert_eq!(look().await, Position { epoch: tail.epoch, offset: Offset(1) }, "the epoch stays");
    assert!(ttl() > 86_400_000, "{}", ttl());
    node.broker.end_room(&wall, "over").await.unwrap();
    assert!((1..=300_000).contains(&ttl()), "{}", ttl());
}

#[tokio::test]
async fn an_ended_room_leaves_no_key_but_its_position() {
    let mut world = World::redis();
    let (a, b) = (world.node("a").await, world.node("b").await);
    let wall = room("event:wall");
    for number in 0..1_500 {
        let keyed = Publication { key: Some(number.to_string()), ..numbered(&wall, number) };
        a.broker.publish(&keyed).await.unwrap();
    }
    let two_tabs = PresenceUpdate { present: vec![("ann".into(), 2)], ..present(&["bob"]) };
    a.broker.presence_update(&wall, &two_tabs, Duration::from_secs(60)).await.unwrap();
    b.broker.presence_update(&wall, &two_tabs, Duration::from_secs(60)).await.unwrap();
    a.broker.end_room(&wall, "over").await.unwrap();
    assert_eq!(
        world.server().command(&["KEYS", "rc:{event:wall}:*"]),
        "*1\r\n$20\r\nrc:{event:wall}:meta\r\n"
    );
}

#[tokio::test]
async fn every_key_expires() {
    let mut world = World::redis();
    let node = world.node("a").await;
    let wall = room("event:wall");
    let keyed = Publication { key: Some("k".into()), ..numbered(&wall, 1) };
    node.broker.publish(&keyed).await.unwrap();
    node.broker.history(&room("event:empty"), &Range::Recent(1), HISTORY).await.unwrap();
    let two_tabs = PresenceUpdate { present: vec![("ann".into(), 2)], ..present(&["bob"]) };
    node.broker.presence_update(&wall, &two_tabs, Duration::from_secs(60)).await.unwrap();
    let keys = world.server().command(&["KEYS", "*"]);
    let keys: Vec<_> = keys.lines().filter(|line| line.starts_with("rc:")).map(str::to_owned).collect();
    assert!(keys.len() >= 10, "{keys:?}");
    for key in keys {
        let ttl: i64 = world.server().command(&["PTTL", &key]).trim()[1..].parse().unwrap();
        assert!(ttl > 0, "{key} lives for ever");
    }
}

#[tokio::test]
async fn an_empty_redis_has_the_nodes_register_again() {
    let mut world = World::redis();
    let mut node = world.node("a").await;
    world.server().command(&["FLUSHALL"]);
    assert_eq!(node.heartbeat().await, ["a"]);
    node.until(|item| matches!(item, Feed::Control(Control::NodesChanged))).await;
}

#[tokio::test]
async fn a_change_of_thousands_is_told_once() {
    let world = World::redis();
    let mut node = world.node("a").await;
    let wall = room("event:wall");
    node.broker.subscribe(&wall).await.unwrap();
    let names: Vec<_> = (0..12_000).map(|number| format!("user{number}")).collect();
    let all = present(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let state = node.broker.presence_update(&wall, &all, Duration::ZERO).await.unwrap();
    assert_eq!((state.count.users, state.published), (12_000, true));
    let gone = PresenceUpdate { gone: names[..11_000].to_vec(), connections: 1_000, ..<_>::default() };
    let state = node.broker.presence_update(&wall, &gone, Duration::ZERO).await.unwrap();
    assert_eq!(state.count.users, 1_000);
    node.publish(&wall, 1).await;
    let mut pushes = 0;
    while let Feed::Delivery(_, roomcast_gateway::broker::Delivery::Presence(_)) = node.until(|_| true).await
    {
        pushes += 1;
    }
    assert_eq!(pushes, 2);
}

/// The users of many nodes are a union of sets, which is walked for a push and not for each who comes.
#[tokio::test]
async fn the_users_of_a_large_room_are_counted_for_each_push() {
    let mut world = World::redis();
    let (a, b) = (world.node("a").await, world.node("b").await);
    let wall = room("event:wall");
    let users = |from: u64, to: u64| -> Vec<String> { (from..to).map(|n| format!("user{n}")).collect() };
    let told = async |node: &Node, users: &[String], interval| {
        let all = present(&users.iter().map(String::as_str).collect::<Vec<_>>());
        let state = node.broker.presence_update(&wall, &all, interval).await.unwrap();
        (state.count.connections, state.count.users, state.published)
    };
    let minute = Duration::from_secs(60);
    assert_eq!(told(&a, &users(0, 800), minute).await, (800, 800, true));
    // Half of them are on both nodes.
    assert_eq!(
        told(&b, &users(400, 600), minute).await,
        (1_000, 800, false),
        "a small room is always counted"
    );
    world.server().command(&["CONFIG", "RESETSTAT"]);
    assert_eq!(told(&b, &users(400, 1_200), minute).await, (1_600, 800, false), "as the last push told");
    let stats = world.server().command(&["INFO", "commandstats"]);
    assert!(!stats.contains("zunionstore"), "{stats}");
    assert_eq!(told(&b, &users(400, 1_200), Duration::ZERO).await, (1_600, 1_200, true));
}

/// Scripts that a server has run by their hash.
fn scripts_run(server: &RedisServer) -> u64 {
    let told = server.command(&["INFO", "commandstats"]);
    let calls = told.split("cmdstat_evalsha:calls=").nth(1).expect("scripts were run");
    calls.split(',').next().expect("a number").parse().expect("a number")
}

/// Connections that come at once ask for their places together: none too many is let in, none too few, and what it costs
/// Redis does not grow with them.
#[tokio::test]
async fn a_storm_asks_for_its_places_together_and_each_address_holds_its_cap() {
    const CAP: u64 = 20;
    let world = World::redis();
    let World::Redis(server) = &world else { panic!("Redis it is") };
    let (a, b) = (world.node("a").await, world.node("b").await);
    a.heartbeat().await;
    b.heartbeat().await;
    let enter = async |node: &Node, key: &Arc<str>| enter(node, key, CAP).await == Claim::Admitted;
    let before = scripts_run(server);
    let addresses: Vec<Arc<str>> = (0..40).map(|number| format!("ip/192.0.2.{number}").into()).collect();
    let storm = addresses.iter().flat_map(|key| (0..15).flat_map(move |_| [(key, true), (key, false)]));
    let storm: Vec<_> = storm.collect();
    let entered = join_all(storm.iter().map(|(key, first)| enter(if *first { &a } else { &b }, key))).await;
    let ran = scripts_run(server) - before;
    for key in &addresses {
        let let_in = storm.iter().zip(&entered).filter(|((of, _), entered)| of == &key && **entered).count();
        assert_eq!(let_in as u64, CAP, "{key}");
    }
    assert!(ran < 40, "{} claims took {ran} scripts", storm.len());
}

/// Of an address from which many come each node keeps some places in reserve, where the cap is far: whoever comes next
/// costs Redis nothing. The reserve counts as held, so the cap is never passed, and it goes back with the next heartbeat.
#[tokio::test]
async fn a_crowd_behind_one_address_has_places_in_reserve_while_its_cap_is_far() {
    const CAP: u64 = 400;
    let world = World::redis();
    let World::Redis(server) = &world else { panic!("Redis it is") };
    let (a, b) = (world.node("a").await, world.node("b").await);
    a.heartbeat().await;
    b.heartbeat().await;
    let key: Arc<str> = "ip/192.0.2.1".into();
    let enter = async |node: &Node| enter(node, &key, CAP).await == Claim::Admitted;
    let before = scripts_run(server);
    for _ in 0..100 {
        assert!(enter(&a).await);
    }
    let ran = scripts_run(server) - before;
    assert!(ran <= 16, "100 in a row took {ran} scripts");
    // The other node is refused what is in reserve, and gets it once it has been given back.
    let mut others = 0;
    while enter(&b).await {
        others += 1;
    }
    assert!((CAP / 2..=CAP - 100).contains(&others), "{others} beside 100");
    a.heartbeat().await;
    let all = async {
        while others < CAP - 100 {
            if enter(&b).await {
                others += 1;
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), all).await.expect("the reserve comes free");
    assert!(!enter(&a).await && !enter(&b).await, "and no more than the cap");
}

#[tokio::test]
async fn a_shut_down_broker_ends_its_tasks_and_its_connections() {
    let mut world = World::redis();
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let broker = connect_with(&settings(&world.server().url()), "a", &tasks, &cancel).await.unwrap();
    broker.heartbeat(&report("a")).await.unwrap();
    broker.goodbye().await.unwrap();
    broker.shutdown().await;
    tasks.close();
    tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.expect("all tasks end");
    let refused = broker.publish(&numbered(&room("event:wall"), 1)).await;
    assert!(matches!(refused, Err(BrokerError::Unavailable { .. })), "{refused:?}");
    let gone = async {
        while world
            .server()
            .command(&["CLIENT", "LIST"])
            .lines()
            .filter(|line| line.starts_with("id="))
            .count()
            > 1
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the connections close");
}

#[tokio::test]
async fn an_epoch_candidate_is_used_once() {
    let world = World::redis();
    let node = world.node("a").await;
    let wall = room("event:wall");
    let one = node.broker.history(&wall, &Range::Recent(1), HISTORY).await.unwrap().tail;
    let two = node.broker.publish(&numbered(&wall, 1)).await.unwrap().position;
    assert_eq!(two, Position { epoch: one.epoch.clone(), offset: Offset(1) });
    assert_eq!(one.epoch.as_str().len(), 16);
    assert_ne!(one.epoch, Epoch::new("0000000000000000"));
}
