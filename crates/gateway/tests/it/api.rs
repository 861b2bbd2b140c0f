//! The HTTP API: every route, who may call it, and what it answers when something is wrong.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{
    Api, Client, Scene, Speak, admin_token, api::errors, client::PATIENCE, neighbour::ROOM, raw::Reply,
    sign::short, token,
};

const MINUTES: Duration = Duration::from_secs(600);
/// With a listener of its own, as in production.
const INSIDE: (&str, &str) = ("internal.listen", "127.0.0.2:0");

/// RFC 9457, with the codes of the protocol.
fn assert_problem(reply: &Reply, status: u16, code: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let problem = reply.json();
    assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{problem}");
    for field in ["type", "title", "detail"] {
        assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {problem}");
    }
}

/// Every route of the API with a request that a good caller could make.
fn routes() -> Vec<(&'static str, String, Option<Value>)> {
    let room = "/api/v1/rooms/event:x";
    vec![
        ("POST", "/api/v1/publish".into(), Some(json!({ "room": "event:x", "event": "e", "data": 1 }))),
        ("POST", "/api/v1/batch".into(), Some(json!([]))),
        ("POST", "/api/v1/tickets".into(), Some(json!({ "sub": "ann", "role": "member" }))),
        ("POST", "/api/v1/disconnect".into(), Some(json!({ "user": "nobody" }))),
        (
            "POST",
            "/api/v1/like".into(),
            Some(json!({ "room": "event:x", "target": "p", "on": true, "user": "ann" })),
        ),
        (
            "POST",
            "/api/v1/count".into(),
            Some(json!({ "room": "event:x", "target": "p", "counter": "view", "by": 1, "user": "ann" })),
        ),
        (
            "POST",
            "/api/v1/comment".into(),
            Some(json!({ "room": "event:x", "target": "p", "text": "hi", "user": "ann" })),
        ),
        ("GET", "/api/v1/stats".into(), None),
        ("GET", room.into(), None),
        ("GET", format!("{room}/history"), None),
        ("GET", format!("{room}/presence"), None),
        ("GET", format!("{room}/counters"), None),
        ("GET", format!("{room}/comments"), None),
        ("DELETE", room.into(), None),
    ]
}

async fn call(api: &mut Api, route: &(&str, String, Option<Value>)) -> Reply {
    let body = route.2.as_ref().map(|body| body.to_string().into_bytes());
    api.send(route.0, &route.1, &[], body.as_deref()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_asks_who_is_calling() {
    let scene = Scene::new(&[INSIDE]).await;
    let to = scene.node.internal;
    let bearers = [
        (None, 401, "invalid_token"),
        (Some(String::new()), 401, "invalid_token"),
        (Some("a-test-key-for-the-APi".to_owned()), 401, "invalid_token"),
        (Some(format!("{}x", admin_token())), 401, "invalid_token"),
        (Some(short("ada", "admin", -1.0)), 401, "invalid_token"),
        (Some(token("gus", "guest", MINUTES)), 403, "forbidden"),
        (Some(token("mia", "member", MINUTES)), 403, "forbidden"),
    ];
    for (bearer, status, code) in &bearers {
        let mut api = Api::with_bearer(to, bearer.as_deref());
        for route in routes() {
            let reply = call(&mut api, &route).await;
            assert_problem(&reply, *status, code);
            assert_eq!(reply.header("www-authenticate").is_some(), *status == 401, "{route:?}");
        }
    }
    let basic =
        Api::with_bearer(to, None).send("GET", "/api/v1/stats", &["Authorization: Basic YTpi"], None).await;
    assert_problem(&basic, 401, "invalid_token");
    for bearer in [admin_token(), token("back", "service", MINUTES), "a-test-key-for-the-API".to_owned()] {
        let mut api = Api::with_bearer(to, Some(&bearer));
        for route in routes() {
            let reply = call(&mut api, &route).await;
            assert_eq!(reply.status, 200, "{route:?}: {}", reply.text());
        }
    }
    let asked = u32::try_from(routes().len()).expect("few");
    scene.rose_by(&errors("invalid_token"), asked * 5 + 1).await;
    scene.rose_by(&errors("forbidden"), asked * 2).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_or_takes_another_method_is_told_so() {
    let scene = Scene::new(&[INSIDE]).await;
    let mut api = scene.api();
    for path in ["/api/v1/nothing/here", "/api/v2/publish", "/nowhere", "/api/v1/rooms/event:x/nothing"] {
        assert_problem(&api.get(path).await, 404, "not_found");
    }
    for path in ["/api/v1/fly", "/api/v1/connect", "/api/v1/join", "/api/v1/ping"] {
        assert_problem(&api.post(path, &json!({ "user": "ann" })).await, 404, "not_found");
    }
    for path in ["/api/v1/publish", "/api/v1/batch", "/api/v1/tickets"] {
        assert_problem(&api.get(path).await, 405, "bad_frame");
    }
    assert_problem(&api.post("/api/v1/stats", &json!({})).await, 405, "bad_frame");
    for name in ["nowhere:x", "event:a%20b", "EVENT:x", "event:", "%00"] {
        for rest in ["", "/history", "/presence", "/counters", "/comments"] {
            assert_problem(&api.get(&format!("/api/v1/rooms/{name}{rest}")).await, 400, "bad_room");
        }
    }
    scene.rose_by(&errors("not_found"), 8).await;
    scene.rose_by(&errors("bad_room"), 25).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_with_a_key_happens_once() {
    let scene = Scene::new(&[INSIDE]).await;
    let mut api = scene.api();
    let mut member = Client::guest(scene.public(), Speak::MsgPack).await;
    member.ok(json!({ "op": "join", "room": "event:x" })).await;
    let body = |data: u32| json!({ "room": "event:x", "event": "e", "data": data, "key": "k1" });
    let first = api.ok("/api/v1/publish", &body(1)).await;
    assert_eq!((&first["offset"], &first["duplicate"]), (&json!(1), &json!(false)));
    let again = api.ok("/api/v1/publish", &body(1)).await;
    assert_eq!(
        (&again["epoch"], &again["offset"], &again["duplicate"]),
        (&first["epoch"], &first["offset"], &json!(true))
    );
    assert_problem(&api.post("/api/v1/publish", &body(2)).await, 409, "key_reused");
    // The header is the same key.
    let plain = json!({ "room": "event:x", "event": "e", "data": 1 }).to_string();
    let header = async |api: &mut Api, line: &str, body: &str| {
        api.send("POST", "/api/v1/publish", &[line], Some(body.as_bytes())).await
    };
    let reply = header(&mut api, "Idempotency-Key: k1", &plain).await;
    assert_eq!((reply.status, &reply.json()["duplicate"]), (200, &json!(true)));
    let reply = header(&mut api, "Idempotency-Key: k2", &body(1).to_string()).await;
    assert_problem(&reply, 400, "bad_frame");
    let reply = header(&mut api, &format!("Idempotency-Key: {}", "k".repeat(129)), &plain).await;
    assert_problem(&reply, 400, "bad_frame");
    let reply = header(&mut api, "Idempotency-Key: k3", &plain).await;
    assert_eq!((reply.status, &reply.json()["offset"]), (200, &json!(2)));
    for offset in 1..=2 {
        assert_eq!(member.push_of("event").await["offset"], offset);
    }
    scene.rose(&errors("key_reused")).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_are_told_so() {
    let scene = Scene::new(&[INSIDE]).await;
    let mut api = scene.api();
    let bodies: [&[u8]; 10] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        br#"{"room":"event:x"}"#,
        br#"{"room":"event:x","event":5,"data":1}"#,
        br#"{"room":"event:x","event":"e","data":1} x"#,
        br#"{"room":"event:x","event":"e","data":1e999}"#,
        br#"{"room":5,"event":"e","data":1}"#,
    ];
    for body in bodies {
        let reply = api.send("POST", "/api/v1/publish", &[], Some(body)).await;
        assert_problem(&reply, 400, "bad_frame");
    }
    for room in ["nowhere:x", "event:a b", "admin:x", "user"] {
        let body = json!({ "room": room, "event": "e", "data": 1 });
        assert_problem(&api.post("/api/v1/publish", &body).await, 400, "bad_room");
    }
    let deep = format!(
        "{{\"room\":\"event:x\",\"event\":\"e\",\"data\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let reply = api.send("POST", "/api/v1/publish", &[], Some(deep.as_bytes())).await;
    assert_problem(&reply, 400, "bad_frame");
    for body in [
        json!({ "room": "event:x", "target": "p", "on": true }),
        json!({ "room": "event:x", "target": "p", "on": true, "user": "" }),
    ] {
        assert_problem(&api.post("/api/v1/like", &body).await, 400, "bad_frame");
    }
    for body in [
        json!({ "sub": "", "role": "member" }),
        json!({ "sub": "ann", "role": "root" }),
        json!({ "sub": "ann", "role": "member", "ttl_ms": 0 }),
        json!({ "sub": "ann", "role": "member", "ttl": 5 }),
        json!({ "role": "member" }),
    ] {
        assert_problem(&api.post("/api/v1/tickets", &body).await, 400, "bad_frame");
    }
    for body in [json!({ "ip": "nowhere" }), json!({ "everybody": true })] {
        assert_problem(&api.post("/api/v1/disconnect", &body).await, 400, "bad_frame");
    }
    for query in
        ["history?since=4", "history?epoch=e", "history?limit=x", "comments?cursor=x", "comments?limit=0"]
    {
        let reply = api.get(&format!("/api/v1/rooms/event:x/{query}")).await;
        assert_problem(&reply, 400, "bad_frame");
    }
    for path in ["/api/v1/rooms/%ff", "/api/v1/rooms/%ff/history"] {
        assert_problem(&api.get(path).await, 400, "bad_frame");
    }
    let large = vec![b' '; 8 * 1_024 * 1_024 + 1];
    for path in ["/api/v1/batch", "/api/v1/publish", "/api/v1/tickets"] {
        assert_problem(&api.send("POST", path, &[], Some(&large)).await, 413, "too_large");
    }
    scene.rose_by(&errors("bad_frame"), 25).await;
    scene.rose_by(&errors("too_large"), 3).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_each_item_in_order_whatever_becomes_of_the_others() {
    let scene = Scene::new(&[INSIDE]).await;
    let mut api = scene.api();
    let mut member = Client::guest(scene.public(), Speak::Json).await;
    member.ok(json!({ "op": "join", "room": "event:a" })).await;
    let item = |room: &str, n: u32| json!({ "room": room, "event": "e", "data": n });
    let items = json!([
        item("event:a", 1),
        item("nowhere:b", 2),
        item("event:b", 3),
        { "room": "event:a" },
        item("event:a", 4),
        "not even an object",
        item("event:a", 5),
    ]);
    for (body, first) in [(items.clone(), 0), (json!({ "items": items }), 3)] {
        let results = api.ok("/api/v1/batch", &body).await["results"].take();
        let offset = |at: usize| results[at]["offset"].as_u64();
        assert_eq!((offset(0), offset(4), offset(6)), (Some(first + 1), Some(first + 2), Some(first + 3)));
        assert_eq!(offset(2), Some(first / 3 + 1));
        assert_eq!(results[1]["error"]["code"], "bad_room");
        assert_eq!(
            (&results[3]["error"]["code"], &results[5]["error"]["code"]),
            (&json!("bad_frame"), &json!("bad_frame"))
        );
        assert_eq!(results.as_array().map(Vec::len), Some(7));
        for n in [1, 4, 5] {
            assert_eq!(member.push_of("event").await["data"], n);
        }
    }
    let many: Vec<_> = (0..1_000).map(|n| item("event:many", n)).collect();
    let results = api.ok("/api/v1/batch", &json!(many)).await["results"].take();
    let offsets: Vec<_> =
        results.as_array().expect("a list").iter().filter_map(|of| of["offset"].as_u64()).collect();
    assert_eq!(offsets, (1..=1_000).collect::<Vec<_>>());
    let more: Vec<_> = (0..1_001).map(|n| item("event:many", n)).collect();
    assert_problem(&api.post("/api/v1/batch", &json!(more)).await, 413, "too_large");
    let history = api.read("/api/v1/rooms/event:many/history?limit=1").await;
    assert_eq!(history["offset"], 1_000, "nothing of a batch that is too long is published");
    scene.rose_by(&errors("bad_room"), 2).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_one_socket_once_and_in_time() {
    let scene = Scene::new(&[INSIDE]).await;
    let mut api = scene.api();
    let minted =
        api.ok("/api/v1/tickets", &json!({ "sub": "ann", "role": "member", "rooms": ["event:x"] })).await;
    assert!(minted["expires_at"].as_u64().is_some());
    let connect = json!({ "op": "connect", "ticket": minted["ticket"] });
    // Of many that show it at once, one is let in.
    let tries = (0..6).map(|_| async {
        let mut client = Client::open(scene.public(), Speak::Json).await;
        let answer = client.request(connect.clone()).await;
        (client, answer)
    });
    let mut inside = Vec::new();
    for (mut client, answer) in futures_util::future::join_all(tries).await {
        if answer.get("ok").is_some() {
            assert_eq!((&answer["ok"]["user"], &answer["ok"]["role"]), (&json!("ann"), &json!("member")));
            inside.push(client);
        } else {
            assert_eq!(answer["error"]["code"], "invalid_token");
            assert_eq!(client.close_code().await, Some(4500));
        }
    }
    assert_eq!(inside.len(), 1);
    let client = &mut inside[0];
    client.ok(json!({ "op": "join", "room": "event:x" })).await;
    assert_eq!(client.error(json!({ "op": "join", "room": "event:y" })).await["code"], "forbidden");

    let brief = api.ok("/api/v1/tickets", &json!({ "sub": "ann", "role": "member", "ttl_ms": 50 })).await;
    sleep(Duration::from_millis(80)).await;
    let mut late = Client::open(scene.public(), Speak::Json).await;
    let error = late.error(json!({ "op": "connect", "ticket": brief["ticket"] })).await;
    assert_eq!(error["code"], "invalid_token");
    let bounded =
        api.ok("/api/v1/tickets", &json!({ "sub": "ann", "role": "member", "session_ms": 400 })).await;
    let mut short_lived = Client::open(scene.public(), Speak::Json).await;
    let ok = short_lived.ok(json!({ "op": "connect", "ticket": bounded["ticket"] })).await;
    assert!(ok["expires_at"].is_u64());
    assert_eq!(short_lived.close_code().await, Some(4002));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_back_end_does_for_a_user_counts_as_the_users() {
    let scene = Scene::new(&[INSIDE]).await;
    let mut api = scene.api();
    let mut ann = Client::user(scene.public(), Speak::Json, &token("ann", "member", MINUTES)).await;
    ann.ok(json!({ "op": "join", "room": ROOM })).await;
    let like = json!({ "room": ROOM, "target": "p", "on": true, "user": "ann" });
    assert_eq!(api.ok("/api/v1/like", &like).await["value"], 1);
    assert_eq!(api.ok("/api/v1/like", &like).await["value"], 1);
    let own = ann.ok(json!({ "op": "like", "room": ROOM, "target": "p", "on": true })).await;
    assert_eq!(own["value"], 1, "one like per user, whoever brings it");
    assert_eq!(ann.push_of("count").await["value"], 1);
    let count =
        json!({ "room": ROOM, "target": "p", "counter": "download", "by": 2, "user": "ann", "key": "k" });
    for _ in 0..3 {
        assert_eq!(api.ok("/api/v1/count", &count).await["value"], 2);
    }
    let other =
        json!({ "room": ROOM, "target": "p", "counter": "download", "by": 3, "user": "ann", "key": "k" });
    assert_problem(&api.post("/api/v1/count", &other).await, 409, "key_reused");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_show_every_node_and_the_sum() {
    let scene = Scene::new(&[INSIDE, ("node", "one"), ("presence.heartbeat", "100ms")]).await;
    let mut api = scene.api();
    let deadline = Instant::now() + PATIENCE;
    let stats = loop {
        let stats = api.read("/api/v1/stats").await;
        if stats["nodes"][0]["rooms"] == 1 {
            break stats;
        }
        assert!(Instant::now() < deadline, "{stats}");
        sleep(Duration::from_millis(20)).await;
    };
    let node = &stats["nodes"][0];
    assert_eq!(
        (&node["node"], &node["draining"], &node["breaker"]),
        (&json!("one"), &json!(false), &json!("closed"))
    );
    for field in ["connections", "members", "frames_in", "frames_out", "events", "drops", "slow_closed"] {
        assert!(stats["total"][field].is_u64(), "{field}: {stats}");
        assert_eq!(stats["total"][field], node[field], "one node is the sum of itself");
    }
    assert!(stats["at"].is_u64());
    scene.end().await;
}
