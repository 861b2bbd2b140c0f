//! How many rooms a socket and a node hold, and how many members a room.

use std::time::Duration;

use roomcast_protocol::RoomName;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::{
    Client, Cluster, Scene, Speak, TestNode, api::errors, client::PATIENCE, neighbour::ROOM,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_holds_only_so_many_rooms() {
    let scene = Scene::new(&[("limits.rooms_per_socket", "2")]).await;
    let mut client = Client::guest(scene.public(), Speak::Json).await;
    let join = |room: &str| json!({ "op": "join", "room": room });
    client.ok(join("event:a")).await;
    client.ok(join("event:b")).await;
    assert_eq!(client.error(join("event:c")).await["code"], "too_many_rooms");
    client.ok(join("event:a")).await;
    client.ok(json!({ "op": "leave", "room": "event:b" })).await;
    client.ok(join("event:c")).await;
    scene.rose(&errors("too_many_rooms")).await;
    scene.end().await;
}

/// Guests on two workers; the kernel decides who goes where. Both sit in `event:probe`.
async fn on_two_workers(node: &TestNode) -> (Client, Client) {
    let probe = RoomName::parse("event:probe").expect("a good name");
    let join = json!({ "op": "join", "room": probe });
    let workers = || node.running().node.interest.workers(&probe).iter().count();
    let mut first = Client::guest(node.public, Speak::Json).await;
    first.ok(join.clone()).await;
    assert_eq!(workers(), 1);
    for _ in 0..64 {
        let mut second = Client::guest(node.public, Speak::Json).await;
        second.ok(join.clone()).await;
        if workers() == 2 {
            return (first, second);
        }
    }
    panic!("64 connections all went to one worker");
}

fn holds(node: &TestNode, room: &str) -> bool {
    node.running().node.interest.contains(&RoomName::parse(room).expect("a good name"))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} does not come");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_gives_up_its_longest_idle_room_also_that_of_another_worker() {
    // The neighbour's room, the probe, and three more.
    let scene = Scene::new(&[("limits.rooms_per_node", "5")]).await;
    let (mut near, mut far) = on_two_workers(&scene.node).await;
    let join = |room: &str| json!({ "op": "join", "room": room });
    for room in ["event:old", "event:new"] {
        far.ok(join(room)).await;
        far.ok(json!({ "op": "leave", "room": room })).await;
    }
    near.ok(join("event:a")).await;
    let held = |rooms: &[&str]| rooms.iter().filter(|room| holds(&scene.node, room)).count();
    assert_eq!(held(&[ROOM, "event:probe", "event:old", "event:new", "event:a"]), 5);
    near.ok(join("event:b")).await;
    until("the end of the longest idle room", || held(&["event:old"]) == 0).await;
    assert_eq!(held(&["event:new"]), 1);
    near.ok(join("event:c")).await;
    until("the end of the last idle room", || held(&["event:new"]) == 0).await;
    for client in [&mut near, &mut far] {
        assert_eq!(client.error(join("event:d")).await["code"], "too_many_rooms");
    }
    // A room that the node holds already may be joined, and what has members is never given up.
    near.ok(join(ROOM)).await;
    assert_eq!(held(&[ROOM, "event:probe", "event:a", "event:b", "event:c"]), 5);
    // An idle room of one's own worker goes as well.
    near.ok(json!({ "op": "leave", "room": "event:b" })).await;
    near.ok(join("event:d")).await;
    until("the end of the own idle room", || held(&["event:b"]) == 0).await;
    scene.rose_by(&errors("too_many_rooms"), 2).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_room_that_is_in_use_again_makes_no_place_for_another() {
    let node = TestNode::alone(&[("limits.rooms_per_node", "2")]).await;
    let (mut near, mut far) = on_two_workers(&node).await;
    let again = json!({ "op": "join", "room": "event:again" });
    far.ok(again.clone()).await;
    far.ok(json!({ "op": "leave", "room": "event:again" })).await;
    far.ok(again).await;
    let full = near.error(json!({ "op": "join", "room": "event:other" })).await;
    assert_eq!(full["code"], "too_many_rooms");
    node.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_holds_only_so_many_members_on_all_workers_together() {
    // The neighbour and two more.
    let scene = Scene::new(&[("limits.members_per_room", "3")]).await;
    let (mut near, mut far) = on_two_workers(&scene.node).await;
    let join = json!({ "op": "join", "room": ROOM });
    near.ok(join.clone()).await;
    far.ok(join.clone()).await;
    for _ in 0..4 {
        let mut late = Client::guest(scene.public(), Speak::Json).await;
        assert_eq!(late.error(join.clone()).await["code"], "room_full");
    }
    near.ok(join.clone()).await;
    far.ok(json!({ "op": "leave", "room": ROOM })).await;
    let mut late = Client::guest(scene.public(), Speak::Json).await;
    late.ok(join.clone()).await;
    assert_eq!(far.error(join.clone()).await["code"], "room_full");
    // Who is gone without a word takes no place.
    drop(late);
    let deadline = Instant::now() + PATIENCE;
    while far.request(join.clone()).await.get("error").is_some() {
        assert!(Instant::now() < deadline, "the place is never given back");
        sleep(Duration::from_millis(10)).await;
    }
    scene.rose_by(&errors("room_full"), 5).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_holds_only_so_many_members_on_all_nodes_together() {
    let cluster = Cluster::new();
    let settings = [("limits.members_per_room", "3")];
    let (a, b) = (cluster.node("a", &settings).await, cluster.node("b", &settings).await);
    let join = json!({ "op": "join", "room": "event:small" });
    let mut members = Vec::new();
    for node in [&a, &b, &a] {
        let mut member = Client::guest(node.public, Speak::Json).await;
        member.ok(join.clone()).await;
        members.push(member);
    }
    // Neither node has three, but together they have.
    for node in [&b, &a] {
        let mut late = Client::guest(node.public, Speak::Json).await;
        assert_eq!(late.error(join.clone()).await["code"], "room_full");
    }
    members.remove(0).ok(json!({ "op": "leave", "room": "event:small" })).await;
    // All at once, on one node, in one update: the place goes to one of them.
    let mut late = Vec::new();
    for _ in 0..4 {
        late.push(Client::guest(b.public, Speak::Json).await);
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let joins = late.iter_mut().map(|client| client.request(join.clone()));
        let answers = futures_util::future::join_all(joins).await;
        let joined = answers.iter().filter(|answer| answer.get("ok").is_some()).count();
        assert!(joined <= 1, "{answers:?}");
        if joined == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "nobody gets the place that is free");
        sleep(Duration::from_millis(20)).await;
    }
    a.leave();
    b.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_room_is_kept_for_a_while_and_then_given_up() {
    let scene = Scene::new(&[("limits.idle_room_ttl", "1s")]).await;
    let mut client = Client::guest(scene.public(), Speak::Json).await;
    client.ok(json!({ "op": "join", "room": "event:brief" })).await;
    client.ok(json!({ "op": "leave", "room": "event:brief" })).await;
    let left = Instant::now();
    assert!(holds(&scene.node, "event:brief"));
    until("the end of the empty room", || !holds(&scene.node, "event:brief")).await;
    assert!(left.elapsed() >= Duration::from_millis(900), "{:?}", left.elapsed());
    assert!(holds(&scene.node, ROOM));
    scene.end().await;
}
