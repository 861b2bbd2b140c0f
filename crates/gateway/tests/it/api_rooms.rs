//! Rooms over the HTTP API: read at one moment, paged, ended.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Client, Scene, Speak, token};

const MINUTES: Duration = Duration::from_secs(600);

/// With a listener of its own, as in production.
const INSIDE: (&str, &str) = ("internal.listen", "127.0.0.2:0");

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_read_in_one_snapshot_and_its_past_in_pages() {
    let scene = Scene::new(&[INSIDE]).await;
    let mut api = scene.api();
    for n in 1..=25 {
        api.ok("/api/v1/publish", &json!({ "room": "event:x", "event": "e", "data": n })).await;
    }
    let mut members = Vec::new();
    for sub in ["ann", "ben", "cid", "dan", "eva"] {
        let mut member = Client::user(scene.public(), Speak::Json, &token(sub, "member", MINUTES)).await;
        member.ok(json!({ "op": "join", "room": "event:x" })).await;
        members.push(member);
    }
    api.ok("/api/v1/like", &json!({ "room": "event:x", "target": "p", "on": true, "user": "ann" })).await;
    let room = api.read("/api/v1/rooms/event:x").await;
    assert_eq!((&room["room"], &room["offset"]), (&json!("event:x"), &json!(25)));
    assert_eq!(room["presence"], json!({ "connections": 5, "users": 5 }));
    assert_eq!((&room["counters"][0]["counter"], &room["counters"][0]["value"]), (&json!("like"), &json!(1)));

    let epoch = room["epoch"].as_str().expect("an epoch");
    let offsets = |page: &Value| -> Vec<u64> {
        page["events"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|event| event["offset"].as_u64())
            .collect()
    };
    let mut seen = Vec::new();
    loop {
        let since = seen.last().copied().unwrap_or(0);
        let path = format!("/api/v1/rooms/event:x/history?epoch={epoch}&since={since}&limit=10");
        let page = offsets(&api.read(&path).await);
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 10);
        seen.extend(page);
        // What comes meanwhile is neither skipped nor repeated.
        if seen.len() == 20 {
            api.ok("/api/v1/publish", &json!({ "room": "event:x", "event": "e", "data": 26 })).await;
        }
    }
    assert_eq!(seen, (1..=26).collect::<Vec<_>>());
    let page = api.read("/api/v1/rooms/event:x/history?before=6&limit=3").await;
    assert_eq!(offsets(&page), [3, 4, 5]);
    let page = api.read("/api/v1/rooms/event:x/history?limit=2").await;
    assert_eq!(offsets(&page), [25, 26]);

    let (mut users, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.read(&format!("/api/v1/rooms/event:x/presence?limit=2{cursor}")).await;
        assert_eq!(page["users"], 5);
        let names = page["members"].as_array().expect("a list").iter();
        users.extend(names.map(|member| member["user"].as_str().expect("a user").to_owned()));
        match page["cursor"].as_str() {
            Some(at) => cursor = format!("&cursor={at}"),
            None => break,
        }
    }
    assert_eq!(users, ["ann", "ben", "cid", "dan", "eva"]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_and_comments_are_read_and_paged() {
    let scene = Scene::new(&[INSIDE]).await;
    let mut api = scene.api();
    for (target, by) in [("p", 3), ("q", 4), ("p", 1)] {
        let body = json!({ "room": "event:x", "target": target, "counter": "view", "by": by, "user": "ann" });
        api.ok("/api/v1/count", &body).await;
    }
    let all = api.read("/api/v1/rooms/event:x/counters").await;
    assert_eq!(all["counters"].as_array().map(Vec::len), Some(2));
    let one = api.read("/api/v1/rooms/event:x/counters?targets=p").await;
    assert_eq!(one["counters"].as_array().map(Vec::len), Some(1));
    assert_eq!((&one["counters"][0]["target"], &one["counters"][0]["value"]), (&json!("p"), &json!(4)));
    let said =
        |n: u32| json!({ "room": "event:x", "target": "p", "text": format!("no. {n}"), "user": "ann" });
    for n in 1..=7 {
        api.ok("/api/v1/comment", &said(n)).await;
    }
    let (mut texts, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.read(&format!("/api/v1/rooms/event:x/comments?limit=3{cursor}")).await;
        let comments = page["comments"].as_array().expect("a list").iter();
        texts.extend(comments.map(|comment| comment["text"].as_str().expect("a text").to_owned()));
        match page["cursor"].as_str() {
            Some(at) => cursor = format!("&cursor={at}"),
            None => break,
        }
        // A comment that comes while one reads stands before the first page.
        if texts.len() == 3 {
            api.ok("/api/v1/comment", &said(8)).await;
        }
    }
    let expected: Vec<_> = (1..=7).rev().map(|n| format!("no. {n}")).collect();
    assert_eq!(texts, expected);
    let none = api.read("/api/v1/rooms/event:x/comments?target=q").await;
    assert_eq!(none["comments"], json!([]));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_is_ended_tells_its_members_and_leaves_nothing() {
    let scene = Scene::new(&[INSIDE]).await;
    let mut api = scene.api();
    let mut member = Client::guest(scene.public(), Speak::Json).await;
    let joined = member.ok(json!({ "op": "join", "room": "event:x" })).await;
    api.ok("/api/v1/publish", &json!({ "room": "event:x", "event": "e", "data": 1 })).await;
    api.ok("/api/v1/comment", &json!({ "room": "event:x", "target": "p", "text": "hi", "user": "ann" }))
        .await;
    let reply = api.send("DELETE", "/api/v1/rooms/event:x", &[], None).await;
    assert_eq!(reply.status, 200);
    let ended = reply.json();
    assert_ne!(ended["epoch"], joined["epoch"]);
    let reset = member.push_of("reset").await;
    assert_eq!(
        (&reset["room"], &reset["epoch"], &reset["offset"]),
        (&json!("event:x"), &ended["epoch"], &ended["offset"])
    );
    assert!(reset["reason"].is_string());
    let room = api.read("/api/v1/rooms/event:x").await;
    assert_eq!((&room["offset"], &room["counters"]), (&json!(0), &json!([])));
    assert_eq!(api.read("/api/v1/rooms/event:x/history").await["events"], json!([]));
    assert_eq!(api.read("/api/v1/rooms/event:x/comments").await["comments"], json!([]));
    // Who was in it is still, and hears what the new life brings.
    api.ok("/api/v1/publish", &json!({ "room": "event:x", "event": "anew", "data": 1 })).await;
    let event = member.push_of("event").await;
    assert_eq!((&event["event"], &event["offset"]), (&json!("anew"), &json!(1)));
    let since = json!({ "epoch": joined["epoch"], "offset": 1 });
    let back = member.ok(json!({ "op": "join", "room": "event:x", "since": since })).await;
    assert_eq!(back["recovered"], false);
    scene.end().await;
}
