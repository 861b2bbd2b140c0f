//! The promises themselves. Each runs over both brokers.

use std::{collections::HashSet, sync::Arc, time::Duration};

use roomcast_core::permission::HistoryRules;
use roomcast_gateway::broker::{
    BrokerError, Claim, Control, Delivery, Feed, NodeReport, Page, PresenceUpdate, Publication, Range, Want,
};
use roomcast_protocol::{Data, Epoch, Offset, Position, PresenceCount};

use crate::world::{HISTORY, Node, PRESENCE, World, numbered, present, room};

/// Hands the names of all promises to another macro, behind what it was given.
macro_rules! promises {
    ($then:ident!($($given:tt)*)) => {
        $then! { $($given)*;
            events_reach_every_subscriber_once_and_in_order,
            the_past_is_read_by_position,
            a_trimmed_past_is_not_complete,
            a_room_without_history_counts_on,
            an_ended_room_starts_a_new_epoch,
            lost_data_is_a_new_epoch,
            a_key_publishes_once,
            what_is_published_together_stands_together,
            signals_are_heard_and_not_kept,
            controls_reach_every_node,
            subscribing_is_proven_before_it_returns,
            an_unsubscribed_room_is_quiet,
            many_rooms_subscribe_at_once,
            tails_are_told_in_order,
            presence_adds_up_over_nodes,
            presence_pushes_are_spaced,
            members_page_by_user,
            a_dead_node_takes_its_guests_along,
            a_goodbye_takes_effect_at_once,
            a_node_that_lost_its_lease_is_told,
            live_nodes_are_listed_with_their_figures,
            all_figures_are_told_to_who_wants_them_and_leave_with_their_node,
            an_address_holds_its_cap_over_all_nodes,
            a_dead_node_gives_its_addresses_back,
            what_was_admitted_without_a_claim_counts_soon,
        }
    };
}

/// Makes one test of each promise.
macro_rules! contract {
    ($world:expr; $($promise:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $promise() {
            crate::contract::$promise($world).await;
        })*
    };
}

/// Keeps each promise in turn.
macro_rules! keep {
    ($world:ident; $($promise:ident),* $(,)?) => {
        $($promise($world(stringify!($promise))).await;)*
    };
}
pub(crate) use {contract, promises};

/// All promises, one after the other, each in a world of the name given.
pub(crate) async fn all(world: impl Fn(&str) -> World) {
    promises!(keep!(world));
}

fn numbers(page: &Page) -> Vec<u64> {
    page.events.iter().map(|event| event.data.to().unwrap()).collect()
}

async fn read(node: &Node, name: &str, range: Range) -> Page {
    node.broker.history(&room(name), &range, HISTORY).await.unwrap()
}

pub(crate) async fn events_reach_every_subscriber_once_and_in_order(world: World) {
    let (mut a, mut b) = (world.node("a").await, world.node("b").await);
    let (wall, other) = (room("event:wall"), room("event:other"));
    a.broker.subscribe(&wall).await.unwrap();
    b.broker.subscribe(&wall).await.unwrap();
    for number in 1..=50 {
        let from = if number % 2 == 0 { &a } else { &b };
        assert_eq!(from.publish(&wall, number).await, number);
        from.publish(&other, number).await;
    }
    for number in 1..=50 {
        assert_eq!(a.event().await, (number, number));
        assert_eq!(b.event().await, (number, number));
    }
    let tail = read(&a, "event:wall", Range::Recent(0)).await.tail;
    a.publish(&wall, 51).await;
    let (_, Delivery::Event(epoch, event)) = b.delivery().await else { panic!("no event") };
    assert_eq!((epoch, event.from.as_deref(), &*event.event), (tail.epoch, Some("ann"), "n"));
    assert!(event.at > 1_600_000_000_000, "{}", event.at);
}

pub(crate) async fn the_past_is_read_by_position(world: World) {
    let node = world.node("a").await;
    let empty = read(&node, "event:wall", Range::Recent(10)).await;
    assert_eq!((empty.tail.offset, empty.events.len(), empty.complete), (Offset(0), 0, true));
    let epoch = empty.tail.epoch;
    for number in 1..=10 {
        node.publish(&room("event:wall"), number).await;
    }
    let since =
        |offset: u64, limit| Range::Since(Position { epoch: epoch.clone(), offset: Offset(offset) }, limit);
    for (range, expected) in [
        (Range::Recent(3), vec![8, 9, 10]),
        (Range::Recent(0), vec![]),
        (Range::Recent(100), (1..=10).collect()),
        (Range::Before(4, 2), vec![2, 3]),
        (Range::Before(1, 5), vec![]),
        (Range::Before(0, 5), vec![]),
        (Range::Before(100, 1), vec![10]),
        (since(0, 100), (1..=10).collect()),
        (since(7, 100), vec![8, 9, 10]),
        (since(2, 3), vec![3, 4, 5]),
        (since(10, 5), vec![]),
    ] {
        let page = read(&node, "event:wall", range.clone()).await;
        assert_eq!(page.tail, Position { epoch: epoch.clone(), offset: Offset(10) });
        assert_eq!((numbers(&page), page.complete), (expected, true), "{range:?}");
    }
    let ahead = read(&node, "event:wall", since(11, 5)).await;
    assert_eq!((ahead.events.len(), ahead.complete), (0, false));
    let elsewhere = Range::Since(Position { epoch: Epoch::new("feedfeedfeedfeed"), offset: Offset(3) }, 5);
    assert!(!read(&node, "event:wall", elsewhere).await.complete);
}

pub(crate) async fn a_trimmed_past_is_not_complete(world: World) {
    let node = world.node("a").await;
    let history = HistoryRules { size: 3, ttl: Duration::from_secs(60) };
    let mut epoch = None;
    for number in 1..=5 {
        let publication = Publication { history, ..numbered(&room("event:wall"), number) };
        epoch = Some(node.broker.publish(&publication).await.unwrap().position.epoch);
    }
    let since = |offset| Range::Since(Position { epoch: epoch.clone().unwrap(), offset: Offset(offset) }, 10);
    for (offset, expected, complete) in
        [(0, vec![3, 4, 5], false), (1, vec![3, 4, 5], false), (2, vec![3, 4, 5], true), (4, vec![5], true)]
    {
        let page = read(&node, "event:wall", since(offset)).await;
        assert_eq!((numbers(&page), page.complete), (expected, complete), "since {offset}");
    }
}

pub(crate) async fn a_room_without_history_counts_on(world: World) {
    let mut node = world.node("a").await;
    node.broker.subscribe(&room("event:wall")).await.unwrap();
    let history = HistoryRules { size: 0, ttl: Duration::from_secs(60) };
    for number in 1..=3 {
        let publication = Publication { history, ..numbered(&room("event:wall"), number) };
        node.broker.publish(&publication).await.unwrap();
        assert_eq!(node.event().await, (number, number));
    }
    let tail = read(&node, "event:wall", Range::Recent(5)).await.tail;
    assert_eq!(tail.offset, Offset(3));
    let since = Range::Since(Position { offset: Offset(2), ..tail.clone() }, 5);
    let page = read(&node, "event:wall", since).await;
    assert_eq!((page.events.len(), page.complete), (0, false), "the third event is gone");
    assert!(read(&node, "event:wall", Range::Since(tail, 5)).await.complete);
}

pub(crate) async fn an_ended_room_starts_a_new_epoch(world: World) {
    let (a, mut b) = (world.node("a").await, world.node("b").await);
    let wall = room("event:wall");
    let keyed = Publication { key: Some("k".into()), ..numbered(&wall, 1) };
    let before = a.broker.publish(&keyed).await.unwrap().position;
    a.broker.presence_update(&wall, &present(&["ann"]), Duration::ZERO).await.unwrap();
    b.broker.subscribe(&wall).await.unwrap();
    let position = a.broker.end_room(&wall, "it is over").await.unwrap();
    let (_, Delivery::Ended(told, reason)) = b.delivery().await else { panic!("not ended") };
    assert_eq!((&told, &*reason), (&position, "it is over"));
    assert_ne!(position.epoch, before.epoch);
    let page = read(&a, "event:wall", Range::Recent(5)).await;
    assert_eq!((page.tail, page.events.len()), (position.clone(), 0));
    assert_eq!(a.broker.presence_members(&wall, None, 5).await.unwrap().count, PresenceCount::default());
    let again = a.broker.publish(&keyed).await.unwrap();
    assert!(!again.duplicate, "the ended room's keys are forgotten");
    assert_eq!(again.position, Position { offset: Offset(1), ..position });
}

pub(crate) async fn lost_data_is_a_new_epoch(mut world: World) {
    let node = world.node("a").await;
    node.publish(&room("event:wall"), 1).await;
    let before = read(&node, "event:wall", Range::Recent(5)).await;
    world.lose_all(&node, &room("event:wall")).await;
    let after = read(&node, "event:wall", Range::Since(before.tail.clone(), 5)).await;
    assert_ne!(after.tail.epoch, before.tail.epoch);
    assert!(!after.complete);
    assert_eq!(node.publish(&room("event:wall"), 1).await, 1);
}

pub(crate) async fn a_key_publishes_once(world: World) {
    let (mut a, b) = (world.node("a").await, world.node("b").await);
    let wall = room("event:wall");
    a.broker.subscribe(&wall).await.unwrap();
    let keyed = Publication { key: Some("a key: with {anything}\n".into()), ..numbered(&wall, 1) };
    let first = a.broker.publish(&keyed).await.unwrap();
    a.publish(&wall, 2).await;
    let again = b.broker.publish(&keyed).await.unwrap();
    assert_eq!((first.duplicate, again.duplicate), (false, true));
    assert_eq!(again.position, first.position);
    let other = Publication { data: Data::of(&3).unwrap(), ..keyed.clone() };
    assert!(matches!(b.broker.publish(&other).await, Err(BrokerError::KeyReused)));
    let elsewhere = Publication { room: room("event:other"), ..keyed };
    assert!(!b.broker.publish(&elsewhere).await.unwrap().duplicate, "keys belong to their room");
    a.publish(&wall, 4).await;
    assert_eq!([a.event().await, a.event().await, a.event().await], [(1, 1), (2, 2), (4, 3)]);
}

pub(crate) async fn what_is_published_together_stands_together(world: World) {
    let (mut a, b) = (world.node("a").await, world.node("b").await);
    let wall = room("event:wall");
    a.broker.subscribe(&wall).await.unwrap();
    let keyed = |number, key: &str| Publication { key: Some(key.into()), ..numbered(&wall, number) };
    let together =
        [numbered(&wall, 1), keyed(2, "k"), keyed(2, "k"), keyed(9, "k"), numbered(&wall, 3), keyed(4, "l")];
    let noise = async {
        for number in 100..120 {
            b.publish(&wall, number).await;
        }
    };
    let (outcomes, ()) = tokio::join!(a.broker.publish_all(&together), noise);
    let outcomes = outcomes.unwrap();
    let placed: Vec<Option<(u64, bool)>> = outcomes
        .iter()
        .map(|outcome| {
            outcome.as_ref().ok().map(|published| (published.position.offset.0, published.duplicate))
        })
        .collect();
    let first = placed[0].unwrap().0;
    let expected = [(0, false), (1, false), (1, true), (9, false), (2, false), (3, false)];
    let expected = expected.map(|(at, duplicate)| (at != 9).then_some((first + at, duplicate)));
    assert_eq!(placed, expected);
    assert!(matches!(outcomes[3], Err(BrokerError::KeyReused)));
    let mut heard = Vec::new();
    for _ in 0..24 {
        heard.push(a.event().await);
    }
    assert!(heard.is_sorted_by_key(|(_, offset)| *offset));
    let ours: Vec<_> = heard.into_iter().filter(|(number, _)| *number < 100).collect();
    assert_eq!(ours, [(1, first), (2, first + 1), (3, first + 2), (4, first + 3)]);

    // Sent again, those with keys stand where they stood.
    let again = a.broker.publish_all(&together[1..2]).await.unwrap();
    assert_eq!(again[0].as_ref().unwrap().position.offset.0, first + 1);
    assert!(a.broker.publish_all(&[]).await.unwrap().is_empty());
}

pub(crate) async fn signals_are_heard_and_not_kept(world: World) {
    let (a, mut b) = (world.node("a").await, world.node("b").await);
    let wall = room("event:wall");
    b.broker.subscribe(&wall).await.unwrap();
    a.broker.signal(&wall, "typing", &Data::of(&7).unwrap(), Some("ann")).await.unwrap();
    let (heard, Delivery::Signal { event, data, from }) = b.delivery().await else { panic!("no signal") };
    assert_eq!((heard, &*event, data.as_str(), from.as_deref()), (wall, "typing", "7", Some("ann")));
    assert_eq!(read(&a, "event:wall", Range::Recent(5)).await.tail.offset, Offset(0));
}

pub(crate) async fn controls_reach_every_node(world: World) {
    let (mut a, mut b) = (world.node("a").await, world.node("b").await);
    let control = Control::Disconnect { user: Some("eve".into()), session: None, ip: None };
    a.broker.control(&control).await.unwrap();
    for node in [&mut a, &mut b] {
        node.until(|item| matches!(item, Feed::Control(got) if *got == control)).await;
    }
}

pub(crate) async fn subscribing_is_proven_before_it_returns(world: World) {
    let (mut a, b) = (world.node("a").await, world.node("b").await);
    for number in 0..200 {
        let wall = room(&format!("event:{number}"));
        a.broker.subscribe(&wall).await.unwrap();
        b.publish(&wall, number).await;
        assert_eq!(a.event().await, (number, 1));
    }
}

pub(crate) async fn an_unsubscribed_room_is_quiet(world: World) {
    let mut a = world.node("a").await;
    let (wall, other) = (room("event:wall"), room("event:other"));
    a.broker.subscribe(&wall).await.unwrap();
    a.broker.subscribe(&wall).await.unwrap();
    a.broker.subscribe(&other).await.unwrap();
    a.broker.unsubscribe(&wall).await.unwrap();
    a.broker.unsubscribe(&wall).await.unwrap();
    // What is subscribed after is live only once the unsubscription has been carried out.
    a.broker.subscribe(&room("event:barrier")).await.unwrap();
    a.publish(&wall, 1).await;
    a.publish(&other, 2).await;
    assert_eq!(a.event().await, (2, 1));
    a.broker.subscribe(&wall).await.unwrap();
    a.publish(&wall, 3).await;
    assert_eq!(a.event().await, (3, 2));
}

pub(crate) async fn many_rooms_subscribe_at_once(world: World) {
    let (mut a, b) = (world.node("a").await, world.node("b").await);
    let rooms: Vec<_> = (0..2_000).map(|number| room(&format!("event:{number}"))).collect();
    let all = rooms.iter().map(|room| a.broker.subscribe(room));
    futures_util::future::try_join_all(all).await.unwrap();
    for (number, room) in rooms.iter().enumerate() {
        b.publish(room, number as u64).await;
    }
    let mut missing: HashSet<u64> = (0..2_000).collect();
    while !missing.is_empty() {
        let (number, _) = a.event().await;
        assert!(missing.remove(&number), "{number} came twice");
    }
}

pub(crate) async fn tails_are_told_in_order(world: World) {
    let node = world.node("a").await;
    let rooms: Vec<_> = (0..600).map(|number| room(&format!("event:{number}"))).collect();
    for (number, room) in rooms.iter().enumerate().filter(|(number, _)| number % 3 == 0) {
        node.publish(room, number as u64).await;
    }
    let tails = node.broker.tails(&rooms).await.unwrap();
    assert_eq!(tails.len(), rooms.len());
    for (number, tail) in tails.iter().enumerate() {
        assert_eq!(tail.as_ref().map(|tail| tail.offset), (number % 3 == 0).then_some(Offset(1)), "{number}");
    }
    assert_eq!(tails[0].as_ref().unwrap(), &read(&node, "event:0", Range::Recent(0)).await.tail);
    assert!(node.broker.tails(&[]).await.unwrap().is_empty());
}

pub(crate) async fn presence_adds_up_over_nodes(world: World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let wall = room("event:wall");
    a.heartbeat().await;
    let tell = async |node: &Node, update: PresenceUpdate| {
        let state = node.broker.presence_update(&wall, &update, Duration::ZERO).await.unwrap();
        (state.count.connections, state.count.users)
    };
    assert_eq!(tell(&a, present(&["ann", "bob"])).await, (2, 2));
    assert_eq!(tell(&b, present(&["bob", "cyd"])).await, (4, 3));
    let two_tabs =
        PresenceUpdate { connections: 3, present: vec![("ann".into(), 2)], ..PresenceUpdate::default() };
    assert_eq!(tell(&a, two_tabs).await, (5, 3));
    let left = PresenceUpdate { connections: 1, gone: vec!["cyd".into()], ..PresenceUpdate::default() };
    assert_eq!(tell(&b, left).await, (4, 2));
    assert_eq!(tell(&b, PresenceUpdate { replace: true, ..present(&["dan"]) }).await, (4, 3));
    assert_eq!(tell(&b, PresenceUpdate { replace: true, ..present(&[]) }).await, (3, 2));
    assert_eq!(tell(&a, PresenceUpdate { replace: true, ..present(&[]) }).await, (0, 0));
    let members = a.broker.presence_members(&wall, None, 10).await.unwrap();
    assert_eq!((members.count, members.members.len()), (PresenceCount::default(), 0));
}

pub(crate) async fn presence_pushes_are_spaced(world: World) {
    let mut node = world.node("a").await;
    let wall = room("event:wall");
    node.broker.subscribe(&wall).await.unwrap();
    let interval = Duration::from_millis(300);
    let first = node.broker.presence_update(&wall, &present(&["ann"]), interval).await.unwrap();
    let second = node.broker.presence_update(&wall, &present(&["ann", "bob"]), interval).await.unwrap();
    assert_eq!((first.published, second.published), (true, false));
    assert_eq!(second.count, PresenceCount { connections: 2, users: 2 });
    tokio::time::sleep(interval).await;
    let third = node.broker.presence_update(&wall, &present(&["ann", "bob"]), interval).await.unwrap();
    assert!(third.published);
    let mut told = Vec::new();
    while told.len() < 2 {
        if let Feed::Delivery(_, Delivery::Presence(count)) = node.until(|_| true).await {
            told.push((count.connections, count.users));
        }
    }
    assert_eq!(told, [(1, 1), (2, 2)]);
}

pub(crate) async fn members_page_by_user(world: World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let wall = room("event:wall");
    let names: Vec<String> = (0..250).map(|number| format!("user{number:03}")).collect();
    let share = |part: usize| -> Vec<&str> {
        names
            .iter()
            .enumerate()
            .filter(|(n, _)| n % 3 == part || n % 3 == 2)
            .map(|(_, name)| &**name)
            .collect()
    };
    a.broker.presence_update(&wall, &present(&share(0)), Duration::ZERO).await.unwrap();
    b.broker.presence_update(&wall, &present(&share(1)), Duration::ZERO).await.unwrap();
    a.heartbeat().await;
    let (mut cursor, mut seen) = (None, Vec::new());
    loop {
        let page = a.broker.presence_members(&wall, cursor.as_deref(), 40).await.unwrap();
        assert_eq!(page.count.users, 250);
        assert!(page.members.len() <= 40);
        seen.extend(page.members);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.iter().map(|member| member.user.clone()).collect::<Vec<_>>(), names);
    for (number, member) in seen.iter().enumerate() {
        assert_eq!(member.connections, if number % 3 == 2 { 2 } else { 1 }, "{}", member.user);
    }
}

pub(crate) async fn a_dead_node_takes_its_guests_along(world: World) {
    let (mut a, b) = (world.node("a").await, world.node("b").await);
    let wall = room("event:wall");
    a.broker.presence_update(&wall, &present(&["ann"]), Duration::ZERO).await.unwrap();
    b.broker.presence_update(&wall, &present(&["ann", "bob"]), Duration::ZERO).await.unwrap();
    assert_eq!(a.heartbeat().await, ["a", "b"]);
    a.until(|item| matches!(item, Feed::Control(Control::NodesChanged))).await;
    assert_eq!(a.broker.presence_members(&wall, None, 10).await.unwrap().count.users, 2);
    world.kill(b).await;
    let live = async {
        while a.heartbeat().await != ["a"] {
            tokio::time::sleep(PRESENCE.heartbeat).await;
        }
    };
    tokio::time::timeout(PRESENCE.lease * 5, live).await.expect("the lease runs out");
    a.until(|item| matches!(item, Feed::Control(Control::NodesChanged))).await;
    let members = a.broker.presence_members(&wall, None, 10).await.unwrap();
    assert_eq!(members.count, PresenceCount { connections: 1, users: 1 });
    assert_eq!(members.members.len(), 1);
    let state = a.broker.presence_update(&wall, &present(&["ann"]), Duration::ZERO).await.unwrap();
    assert_eq!(state.count, PresenceCount { connections: 1, users: 1 });
}

pub(crate) async fn a_goodbye_takes_effect_at_once(world: World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let wall = room("event:wall");
    b.broker.presence_update(&wall, &present(&["bob"]), Duration::ZERO).await.unwrap();
    assert_eq!(a.heartbeat().await, ["a", "b"]);
    b.broker.goodbye().await.unwrap();
    assert_eq!(a.broker.presence_members(&wall, None, 10).await.unwrap().count, PresenceCount::default());
    assert_eq!(a.heartbeat().await, ["a"]);
}

pub(crate) async fn a_node_that_lost_its_lease_is_told(world: World) {
    let mut a = world.node("a").await;
    tokio::time::sleep(PRESENCE.lease + Duration::from_millis(100)).await;
    while a.feed.try_recv().is_ok() {}
    assert_eq!(a.heartbeat().await, ["a"]);
    a.until(|item| matches!(item, Feed::Control(Control::NodesChanged))).await;
    assert_eq!(a.heartbeat().await, ["a"]);
    assert!(a.feed.try_recv().is_err(), "told once");
}

pub(crate) async fn live_nodes_are_listed_with_their_figures(world: World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let mut report = crate::world::report("b");
    report.stats = serde_json::json!({ "connections": 5, "name": "ä" });
    b.broker.heartbeat(&report).await.unwrap();
    let live = a.broker.heartbeat(&crate::world::report("a")).await.unwrap();
    assert_eq!(live, [crate::world::report("a"), report]);
}

pub(crate) async fn all_figures_are_told_to_who_wants_them_and_leave_with_their_node(world: World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    let figures = |name: &str, n: u64| NodeReport {
        node: name.to_owned(),
        stats: serde_json::json!({ "connections": n, "name": "ä" }),
    };
    assert_eq!(b.broker.figures(&figures("b", 4), Want::None).await.unwrap(), []);
    // On a busy machine a lease may run out between two lines: then both are renewed, and asked again.
    let told = |n: u64| {
        let (a, b) = (&a, &b);
        async move {
            for _ in 0..50 {
                b.broker.figures(&figures("b", 5), Want::None).await.unwrap();
                a.heartbeat().await;
                b.heartbeat().await;
                let told = a.broker.figures(&figures("a", n), Want::All).await.unwrap();
                if told.len() == 2 {
                    return told;
                }
            }
            panic!("two live nodes are never told together");
        }
    };
    assert_eq!(
        told(1).await,
        [figures("a", 1), figures("b", 5)],
        "the newest of each, whatever heartbeats come"
    );
    a.heartbeat().await;
    b.broker.goodbye().await.unwrap();
    let told = a.broker.figures(&figures("a", 3), Want::All).await.unwrap();
    assert!(told.iter().all(|told| told.node == "a"), "who said goodbye is told no longer: {told:?}");
}

/// One more connection, which stays only where it fits.
pub(crate) async fn enter(node: &Node, key: &Arc<str>, cap: u64) -> Claim {
    node.broker.hold_address(key);
    let claim = node.broker.claim_address(key, cap).await.unwrap();
    if claim == Claim::Full {
        node.broker.release_address(key);
    }
    claim
}

/// Tries until there is a place, or patience ends.
async fn enter_in_time(node: &Node, key: &Arc<str>, cap: u64, within: Duration) {
    let entered = async {
        while enter(node, key, cap).await == Claim::Full {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(within, entered).await.expect("a place comes free");
}

pub(crate) async fn an_address_holds_its_cap_over_all_nodes(world: World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    a.heartbeat().await;
    let (one, other) = (Arc::from("ip/192.0.2.1"), Arc::from("ip/2001:db8::/64"));
    assert_eq!(a.broker.hold_address(&one), 1);
    assert_eq!(a.broker.claim_address(&one, 3).await.unwrap(), Claim::Admitted);
    assert_eq!(enter(&b, &one, 3).await, Claim::Admitted);
    assert_eq!(enter(&b, &one, 3).await, Claim::Admitted);
    for node in [&a, &b] {
        assert_eq!(enter(node, &one, 3).await, Claim::Full);
        assert_eq!(enter(node, &other, 3).await, Claim::Admitted, "a neighbour is not held to it");
        // A larger cap lets one more in, once the other node has told what it gave back.
        enter_in_time(node, &one, 4, Duration::from_secs(5)).await;
        node.broker.release_address(&one);
    }
    b.broker.release_address(&one);
    enter_in_time(&a, &one, 3, Duration::from_secs(5)).await;
    assert_eq!(enter(&b, &one, 3).await, Claim::Full);
}

pub(crate) async fn a_dead_node_gives_its_addresses_back(world: World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    a.heartbeat().await;
    let one = Arc::from("user/ann");
    for _ in 0..3 {
        assert_eq!(enter(&b, &one, 3).await, Claim::Admitted);
    }
    assert_eq!(enter(&a, &one, 3).await, Claim::Full);
    world.kill(b).await;
    let beats = async {
        loop {
            a.heartbeat().await;
            tokio::time::sleep(PRESENCE.heartbeat).await;
        }
    };
    tokio::select! {
        () = beats => {}
        () = enter_in_time(&a, &one, 3, PRESENCE.lease * 5) => {}
    }
    for _ in 0..2 {
        assert_eq!(enter(&a, &one, 3).await, Claim::Admitted);
    }
    assert_eq!(enter(&a, &one, 3).await, Claim::Full);
}

pub(crate) async fn what_was_admitted_without_a_claim_counts_soon(world: World) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    a.heartbeat().await;
    let one = Arc::from("ip/192.0.2.9");
    for _ in 0..3 {
        b.broker.hold_address(&one);
    }
    b.heartbeat().await;
    let told = async {
        while enter(&a, &one, 3).await == Claim::Admitted {
            a.broker.release_address(&one);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), told).await.expect("the others hear of it");
}
