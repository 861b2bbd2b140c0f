//! Stock, moderation, uploads, documents, claims, locks and mutes, over sockets and the API of two nodes.

use std::time::Duration;

use roomcast_gateway::app::Backing;
use serde_json::{Value, json};

use crate::support::{Api, Client, Cluster, Speak, TestNode, admin_token, redis::RedisServer, token};

const HOUR: Duration = Duration::from_secs(3_600);
const ROOM: &str = "event:wall";
const MODERATED: (&str, &str) = ("namespaces.event.moderated", "true");

/// The last value pushed of what remains, once it is this one.
async fn hears_remaining(client: &mut Client, value: u64) {
    loop {
        let count = client.push_of("count").await;
        if count["counter"] == "remaining" && count["value"] == value {
            return;
        }
    }
}

async fn sell(buyer: &mut Client, other: &mut Client, api: &mut Api) {
    let item = json!({ "room": ROOM, "item": "print", "stock": 3, "per_user": 2, "hold_ms": 600 });
    let offered = api.ok("/api/v1/stock", &item).await;
    assert_eq!((&offered["remaining"], &offered["stock"]), (&json!(3), &json!(3)));
    for client in [&mut *buyer, &mut *other] {
        let joined = client.ok(json!({ "op": "join", "room": ROOM })).await;
        assert_eq!(joined["counts"][0]["counter"], "remaining");
    }
    let reserve = json!({ "op": "reserve", "room": ROOM, "item": "print", "quantity": 2, "key": "k" });
    let held = buyer.ok(reserve.clone()).await;
    assert_eq!(buyer.ok(reserve).await, held, "a retry holds nothing more");
    assert_eq!(held["remaining"], 1);
    hears_remaining(other, 1).await;
    let more = json!({ "op": "reserve", "room": ROOM, "item": "print", "quantity": 1, "key": "more" });
    assert_eq!(buyer.error(more).await["code"], "limit_reached");
    let reserve = json!({ "op": "reserve", "room": ROOM, "item": "print", "quantity": 2, "key": "k" });
    assert_eq!(other.error(reserve).await["code"], "sold_out");
    let confirm = json!({ "op": "confirm", "reservation": held["reservation"] });
    assert_eq!(other.error(confirm.clone()).await["code"], "not_found");
    for _ in 0..2 {
        assert_eq!(buyer.ok(confirm.clone()).await, json!({ "state": "confirmed", "remaining": 1 }));
    }
    let one = json!({ "op": "reserve", "room": ROOM, "item": "print", "quantity": 1, "key": "one" });
    let lapsing = other.ok(one).await;
    hears_remaining(buyer, 0).await;
    // Nobody asks for the item any more: the node itself takes the hold back, and tells.
    hears_remaining(buyer, 1).await;
    let late = other.error(json!({ "op": "confirm", "reservation": lapsing["reservation"] })).await;
    assert_eq!((&late["code"], &late["current"]["state"]), (&json!("conflict"), &json!("expired")));
    let items = api.read("/api/v1/rooms/event:wall/stock").await;
    assert_eq!((&items["items"][0]["sold"], &items["items"][0]["remaining"]), (&json!(2), &json!(1)));
    let on_behalf = json!({ "room": ROOM, "item": "print", "quantity": 1, "key": "k", "user": "cat" });
    let held = api.ok("/api/v1/reserve", &on_behalf).await;
    let release = json!({ "reservation": held["reservation"], "user": "cat" });
    assert_eq!(api.ok("/api/v1/release", &release).await["state"], "released");
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_held_sold_and_returned_live_on_two_nodes() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a", &[]).await, cluster.node("b", &[]).await);
    let mut buyer = Client::guest(a.public, Speak::Json).await;
    let mut other = Client::guest(b.public, Speak::MsgPack).await;
    sell(&mut buyer, &mut other, &mut Api::new(b.internal)).await;
    a.leave();
    b.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_held_sold_and_returned_live_through_redis() {
    let redis = RedisServer::start();
    let url = redis.url();
    let settings = |node| [("redis.url", url.as_str()), ("node", node)];
    let a = TestNode::start(&settings("a"), Backing::Redis).await;
    let b = TestNode::start(&settings("b"), Backing::Redis).await;
    let mut buyer = Client::guest(a.public, Speak::Json).await;
    let mut other = Client::guest(b.public, Speak::MsgPack).await;
    sell(&mut buyer, &mut other, &mut Api::new(b.internal)).await;
    a.leave();
    b.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_is_seen_once_an_admin_has_approved_it() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a", &[MODERATED]).await, cluster.node("b", &[MODERATED]).await);
    let mut api = Api::new(a.internal);
    let mut guest = Client::guest(a.public, Speak::Json).await;
    let mut admin = Client::user(b.public, Speak::MsgPack, &admin_token()).await;
    for client in [&mut guest, &mut admin] {
        client.ok(json!({ "op": "join", "room": ROOM })).await;
    }
    let comment = |text: &str| json!({ "op": "comment", "room": ROOM, "target": "p", "text": text });
    let (one, two) = (guest.ok(comment("one")).await, guest.ok(comment("two")).await);
    assert_eq!(one["pending"], true);
    let queue = api.read("/api/v1/rooms/event:wall/comments?state=pending&limit=1").await;
    assert_eq!(queue["comments"][0]["text"], "one");
    let next = format!(
        "/api/v1/rooms/event:wall/comments?state=pending&cursor={}",
        queue["cursor"].as_str().expect("more")
    );
    assert_eq!(api.read(&next).await["comments"][0]["text"], "two");
    let moderate = |comment: &Value, decision: &str| json!({ "op": "moderate", "room": ROOM, "comment": comment["comment"], "decision": decision, "version": 1 });
    assert_eq!(guest.error(moderate(&one, "approve")).await["code"], "forbidden");
    assert_eq!(admin.error(moderate(&one, "delay")).await["code"], "bad_frame");
    assert_eq!(admin.ok(moderate(&one, "approve")).await, json!({ "state": "approved", "version": 2 }));
    let lost = admin.error(moderate(&one, "reject")).await;
    assert_eq!(
        (&lost["code"], &lost["current"]),
        (&json!("conflict"), &json!({ "state": "approved", "version": 2 }))
    );
    assert_eq!(admin.ok(moderate(&two, "reject")).await["state"], "rejected");
    let shown = guest.push_of("event").await;
    assert_eq!((&shown["event"], &shown["data"]["text"]), (&json!("comment"), &json!("one")));
    let id = one["comment"].as_str().expect("an id");
    let deleted =
        api.send("DELETE", &format!("/api/v1/rooms/event:wall/comments/{id}"), &[], None).await.json();
    assert_eq!(deleted["state"], "deleted");
    let gone = guest.push_of("event").await;
    assert_eq!((&gone["event"], &gone["data"]["comment"]), (&json!("comment_deleted"), &one["comment"]));
    let history = guest.ok(json!({ "op": "history", "room": ROOM })).await;
    assert_eq!(history["events"][0]["event"], "purged");
    assert_eq!(history["events"][0]["offset"], 1);
    assert!(!history.to_string().contains("\"text\""), "{history}");
    a.leave();
    b.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_shows_when_complete() {
    let node = TestNode::alone(&[]).await;
    let mut ann = Client::user(node.public, Speak::Json, &token("ann", "member", HOUR)).await;
    let mut guest = Client::guest(node.public, Speak::MsgPack).await;
    guest.ok(json!({ "op": "join", "room": ROOM })).await;
    let upload = |state: &str| json!({ "op": "upload", "room": ROOM, "target": "p/1", "state": state });
    assert_eq!(guest.error(upload("started")).await["code"], "forbidden");
    assert_eq!(ann.ok(upload("started")).await, json!({ "state": "started", "progress": 0 }));
    let mut half = upload("progress");
    half["progress"] = 50.into();
    ann.ok(half).await;
    let signal = guest.push_of("signal").await;
    assert_eq!(signal["data"], json!({ "target": "p/1", "state": "progress", "progress": 50 }));
    ann.ok(upload("complete")).await;
    let shown = guest.push_of("event").await;
    assert_eq!((&shown["event"], &shown["data"]["target"]), (&json!("upload"), &json!("p/1")));
    let back = ann.error(upload("failed")).await;
    assert_eq!((&back["code"], &back["current"]["state"]), (&json!("conflict"), &json!("complete")));
    assert_eq!(ann.error(upload("half")).await["code"], "bad_frame");
    node.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_written_from_what_was_read() {
    let node = TestNode::alone(&[]).await;
    let mut ann = Client::user(node.public, Speak::Json, &token("ann", "member", HOUR)).await;
    let mut guest = Client::guest(node.public, Speak::MsgPack).await;
    guest.ok(json!({ "op": "join", "room": ROOM })).await;
    let get = json!({ "op": "get", "room": ROOM, "doc": "plan" });
    assert_eq!(guest.error(get.clone()).await["code"], "not_found");
    let put = |value: Value, version: u64| json!({ "op": "put", "room": ROOM, "doc": "plan", "value": value, "version": version });
    assert_eq!(ann.ok(put(json!({ "a": 1 }), 0)).await, json!({ "version": 1 }));
    let told = guest.push_of("event").await;
    assert_eq!((&told["event"], &told["data"]), (&json!("doc"), &json!({ "doc": "plan", "version": 1 })));
    assert_eq!(guest.ok(get).await, json!({ "value": { "a": 1 }, "version": 1 }));
    let stale = ann.error(put(json!(2), 0)).await;
    assert_eq!(stale["code"], "conflict");
    assert_eq!(stale["current"], json!({ "version": 1, "value": { "a": 1 } }));
    let mut api = Api::new(node.internal);
    let body = json!({ "room": ROOM, "doc": "plan", "value": 3, "version": 0, "user": "ann" });
    let reply = api.post("/api/v1/put", &body).await;
    assert_eq!((reply.status, reply.json()["current"]["version"].clone()), (409, json!(1)));
    node.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_locks_have_one_owner() {
    let node = TestNode::alone(&[]).await;
    let mut api = Api::new(node.internal);
    let mut ann = Client::user(node.public, Speak::Json, &token("ann", "member", HOUR)).await;
    let mut bob = Client::user(node.public, Speak::Json, &token("bob", "member", HOUR)).await;
    let claim = json!({ "op": "claim", "scope": "slug", "name": "party" });
    for _ in 0..2 {
        assert_eq!(ann.ok(claim.clone()).await, json!({ "scope": "slug", "name": "party" }));
    }
    assert_eq!(bob.error(claim).await["code"], "conflict");
    let generate = json!({ "length": 6, "alphabet": "0123456789" });
    let body = json!({ "scope": "code", "user": "ann", "generate": generate, "key": "k" });
    let made = api.ok("/api/v1/claim", &body).await;
    assert_eq!(made["name"].as_str().map(str::len), Some(6));
    assert_eq!(api.ok("/api/v1/claim", &body).await, made);
    let nothing = api.post("/api/v1/claim", &json!({ "scope": "code", "user": "ann", "name": "" })).await;
    assert_eq!(nothing.status, 400);
    api.ok("/api/v1/unclaim", &json!({ "scope": "slug", "user": "ann", "name": "party" })).await;
    let lock = |owner: &str| json!({ "name": "job", "owner": owner, "ttl_ms": 60_000 });
    let held = api.ok("/api/v1/lock", &lock("one")).await;
    let refused = api.post("/api/v1/lock", &lock("two")).await;
    assert_eq!(refused.status, 409);
    assert!(refused.json()["retry_ms"].as_u64().is_some_and(|ms| ms > 50_000));
    let renew = json!({ "name": "job", "owner": "one", "fence": held["fence"], "ttl_ms": 90_000 });
    assert_eq!(api.ok("/api/v1/renew", &renew).await["fence"], held["fence"]);
    api.ok("/api/v1/unlock", &json!({ "name": "job", "owner": "one", "fence": held["fence"] })).await;
    let next = api.ok("/api/v1/lock", &lock("two")).await;
    assert!(next["fence"].as_u64() > held["fence"].as_u64());
    node.leave();
}

async fn restrain(a: &TestNode, b: &TestNode) {
    let mut api = Api::new(a.internal);
    let mut ann = Client::user(b.public, Speak::Json, &token("ann", "member", HOUR)).await;
    let join = json!({ "op": "join", "room": ROOM });
    ann.ok(join.clone()).await;
    let like = json!({ "op": "like", "room": ROOM, "target": "p", "on": true });
    let publish = json!({ "op": "publish", "room": ROOM, "event": "photo", "data": 1 });
    let in_room = json!({ "user": "ann", "room": ROOM });
    api.ok("/api/v1/mute", &in_room).await;
    assert_eq!(ann.error(like.clone()).await["code"], "forbidden", "the store itself refuses at once");
    // The other node hears of it within moments.
    eventually(&mut ann, &publish, false).await;
    assert_eq!(api.read("/api/v1/restrictions").await["restrictions"][0]["user"], "ann");
    api.ok("/api/v1/unmute", &in_room).await;
    eventually(&mut ann, &publish, true).await;
    ann.ok(like).await;

    api.ok("/api/v1/ban", &in_room).await;
    let kicked = ann.push_of("kicked").await;
    assert_eq!((&kicked["room"], &kicked["reason"]), (&json!(ROOM), &json!("banned")));
    assert_eq!(ann.error(join.clone()).await["code"], "forbidden");
    for op in [
        publish.clone(),
        json!({ "op": "history", "room": ROOM, "limit": 1 }),
        json!({ "op": "presence", "room": ROOM }),
    ] {
        assert_eq!(ann.error(op.clone()).await["code"], "forbidden", "{op}");
    }
    ann.ok(json!({ "op": "join", "room": "event:other" })).await;
    // What is told in the room from now on is told to others only: the mark comes, and nothing before it.
    let say = |room: &str, n: u64| json!({ "room": room, "event": "photo", "data": n });
    api.ok("/api/v1/publish", &say(ROOM, 7)).await;
    api.ok("/api/v1/publish", &say("event:other", 8)).await;
    loop {
        let told = ann.push_of("event").await;
        assert_ne!(told["data"], 7, "told in a room that it was put out of");
        if told["data"] == 8 {
            break;
        }
    }
    api.ok("/api/v1/unban", &in_room).await;
    eventually(&mut ann, &publish, true).await;
    // Forgiven is not back: the session knows that it was put out.
    let typing = json!({ "op": "signal", "room": ROOM, "event": "typing", "data": 1 });
    assert_eq!(ann.error(typing.clone()).await["code"], "not_joined");
    eventually(&mut ann, &join, true).await;
    ann.ok(typing).await;

    api.ok("/api/v1/ban", &json!({ "user": "ann", "ttl_ms": 60_000 })).await;
    assert_eq!(ann.close_code().await, Some(4503));
    let mut again = Client::open(b.public, Speak::Json).await;
    let connect = json!({ "op": "connect", "token": token("ann", "member", HOUR) });
    assert_eq!(again.error(connect).await["code"], "forbidden");
    assert_eq!(again.close_code().await, Some(4503));
    let on_behalf = json!({ "room": ROOM, "target": "p", "on": false, "user": "ann" });
    assert_eq!(api.post("/api/v1/like", &on_behalf).await.status, 403);
    let both = api.post("/api/v1/ban", &json!({ "user": "ann", "ip": "192.0.2.1" })).await;
    assert_eq!(both.status, 400);
}

/// Asks until it is allowed, or is not.
async fn eventually(client: &mut Client, frame: &Value, allowed: bool) {
    for _ in 0..200 {
        if client.request(frame.clone()).await.get("ok").is_some() == allowed {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{frame} was never {}", if allowed { "allowed" } else { "refused" });
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_muted_or_banned_on_one_node_is_so_on_the_other() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a", &[]).await, cluster.node("b", &[]).await);
    restrain(&a, &b).await;
    a.leave();
    b.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_muted_or_banned_on_one_node_is_so_on_the_other_through_redis() {
    let redis = RedisServer::start();
    let url = redis.url();
    let settings = |node| [("redis.url", url.as_str()), ("node", node)];
    let a = TestNode::start(&settings("a"), Backing::Redis).await;
    let b = TestNode::start(&settings("b"), Backing::Redis).await;
    restrain(&a, &b).await;
    a.leave();
    b.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_likes_costs_each_subscriber_a_few_pushes_a_second_and_the_last_is_told() {
    const LIKES: u64 = 3_000;
    let node = TestNode::alone(&[("fanout.count_rate", "10")]).await;
    let mut watching = Client::guest(node.public, Speak::Json).await;
    watching.ok(json!({ "op": "join", "room": ROOM })).await;
    let begun = tokio::time::Instant::now();
    let storm = async {
        let like =
            |user: u64| json!({ "room": ROOM, "target": "photo", "on": true, "user": format!("u{user}") });
        let mut fans = tokio::task::JoinSet::new();
        for fan in 0..8 {
            let mut api = Api::new(node.internal);
            fans.spawn(async move {
                for user in (fan..LIKES).step_by(8) {
                    api.ok("/api/v1/like", &like(user)).await;
                }
            });
        }
        fans.join_all().await;
    };
    let hear = async {
        let mut heard = Vec::new();
        while heard.last() != Some(&LIKES) {
            heard.push(watching.push_of("count").await["value"].as_u64().expect("a value"));
        }
        heard
    };
    let ((), heard) = tokio::join!(storm, hear);
    // However slow the machine is: the first at once, and then one in a tenth of a second.
    let most = begun.elapsed().as_millis() / 100 + 2;
    assert!(heard.len() as u128 <= most, "{} pushes where {most} are the most", heard.len());
    assert!(heard.is_sorted());
    node.leave();
}
