//! What clients should not send: each gets its clear error under its own id, nothing panics, nobody else notices.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::{
    Client, Raw, Scene, Speak, TestNode,
    api::{admissions, closes, errors},
    neighbour::{Neighbour, ROOM},
    raw::{BINARY, CLOSE, PING, TEXT, masked, upgrade_head},
    sign::{seconds, short, signed, signed_by, unsigned},
    token,
};

const MINUTES: Duration = Duration::from_secs(600);

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

/// Says each text and expects the code; between them the socket must still work.
async fn assert_each(scene: &Scene, cases: &[(&str, &str, Option<u64>)]) {
    let mut raw = Raw::upgraded(scene.public()).await;
    raw.say(&json!({ "id": 1, "op": "connect", "token": token("ann", "member", MINUTES) })).await;
    assert_eq!(raw.text().await["id"], 1);
    for (n, (text, code, id)) in (100..).zip(cases) {
        raw.frame(TEXT, text.as_bytes()).await;
        raw.say(&json!({ "id": n * 100, "op": "ping" })).await;
        let text = text.get(..300).unwrap_or(text);
        let answer = raw.text().await;
        assert_eq!(answer["error"]["code"], *code, "{text}: {answer}");
        assert_eq!(answer["id"].as_u64(), *id, "{text}: {answer}");
        assert_eq!(raw.text().await["id"], n * 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_is_told_so() {
    let scene = Scene::new(&[]).await;
    let cases = [
        ("", "bad_frame", None),
        ("{", "bad_frame", None),
        ("null", "bad_frame", None),
        ("[]", "bad_frame", None),
        ("\"connect\"", "bad_frame", None),
        ("{}", "bad_frame", None),
        ("{\"id\":7000}", "bad_frame", Some(7_000)),
        ("{\"op\":\"ping\"} {}", "bad_frame", None),
        ("{\"op\":\"ping\",\"op\":\"ping\"}", "bad_frame", None),
        ("{\"op\":\"ping\",}", "bad_frame", None),
        ("{'op':'ping'}", "bad_frame", None),
        ("{\"op\":5}", "bad_frame", None),
        ("{\"op\":[\"ping\"]}", "bad_frame", None),
        ("{\"id\":0,\"op\":\"ping\"}", "bad_frame", None),
        ("{\"id\":-1,\"op\":\"ping\"}", "bad_frame", None),
        ("{\"id\":1.5,\"op\":\"ping\"}", "bad_frame", None),
        ("{\"id\":\"1\",\"op\":\"ping\"}", "bad_frame", None),
        ("{\"id\":9007199254740992,\"op\":\"ping\"}", "bad_frame", None),
        ("{\"id\":1,\"op\":\"ping\"}", "bad_frame", Some(1)),
        ("\u{feff}{\"op\":\"ping\"}", "bad_frame", None),
        ("{\"op\":\"\u{0}\"}", "bad_frame", None),
        ("{\"id\":90001,\"op\":\"\"}", "unknown_op", Some(90_001)),
        ("{\"id\":90002,\"op\":\"PING\"}", "unknown_op", Some(90_002)),
        ("{\"id\":90003,\"op\":\"connect\"}", "bad_frame", Some(90_003)),
    ];
    // The numbers rise from one good ping to the next, past those of the cases.
    let (first, last) = cases.split_at(22);
    assert_each(&scene, first).await;
    assert_each(&scene, last).await;
    scene.rose_by(&errors("bad_frame"), 20).await;
    scene.rose(&errors("unknown_op")).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_types_and_bounds_are_told_so() {
    let scene = Scene::new(&[]).await;
    let publish = |more: &str| format!("{{\"op\":\"publish\",\"room\":\"{ROOM}\",{more}}}");
    let long = "x".repeat(129);
    let frames = [
        publish("\"event\":\"e\""),
        publish("\"data\":1"),
        publish("\"event\":5,\"data\":1"),
        publish("\"event\":\"\",\"data\":1"),
        publish("\"event\":\"a\\nb\",\"data\":1"),
        publish(&format!("\"event\":\"{long}\",\"data\":1")),
        publish("\"event\":\"e\",\"data\":1,\"key\":\"\""),
        publish("\"event\":\"e\",\"data\":1,\"key\":7"),
        publish(&format!("\"event\":\"e\",\"data\":1,\"key\":\"{long}\"")),
        publish("\"event\":\"e\",\"data\":1e999"),
        publish("\"event\":\"e\",\"data\":{\"a\":01}"),
        format!("{{\"op\":\"join\",\"room\":\"{ROOM}\",\"since\":5}}"),
        format!("{{\"op\":\"join\",\"room\":\"{ROOM}\",\"since\":[\"e\",1]}}"),
        format!("{{\"op\":\"join\",\"room\":\"{ROOM}\",\"since\":{{\"epoch\":1,\"offset\":1}}}}"),
        format!("{{\"op\":\"join\",\"room\":\"{ROOM}\",\"since\":{{\"epoch\":\"e\",\"offset\":-1}}}}"),
        format!("{{\"op\":\"join\",\"room\":\"{ROOM}\",\"recent\":-1}}"),
        format!(
            "{{\"op\":\"history\",\"room\":\"{ROOM}\",\"since\":{{\"epoch\":\"e\",\"offset\":1}},\"before\":4}}"
        ),
        format!("{{\"op\":\"like\",\"room\":\"{ROOM}\",\"target\":\"p\",\"on\":\"yes\"}}"),
        format!("{{\"op\":\"like\",\"room\":\"{ROOM}\",\"target\":\"a b\",\"on\":true}}"),
        format!("{{\"op\":\"count\",\"room\":\"{ROOM}\",\"target\":\"p\",\"counter\":\"view\",\"by\":0}}"),
        format!("{{\"op\":\"count\",\"room\":\"{ROOM}\",\"target\":\"p\",\"counter\":\"view\",\"by\":101}}"),
        format!("{{\"op\":\"count\",\"room\":\"{ROOM}\",\"target\":\"p\",\"counter\":\"like\",\"by\":1}}"),
        format!("{{\"op\":\"comment\",\"room\":\"{ROOM}\",\"target\":\"p\",\"text\":\"  \"}}"),
        format!(
            "{{\"op\":\"comment\",\"room\":\"{ROOM}\",\"target\":\"p\",\"text\":\"{}\"}}",
            "x".repeat(2_001)
        ),
        "{\"op\":\"refresh\"}".to_owned(),
        "{\"op\":\"refresh\",\"token\":{}}".to_owned(),
        "{\"op\":\"join\"}".to_owned(),
    ];
    let cases: Vec<_> = frames.iter().map(|frame| (frame.as_str(), "bad_frame", None)).collect();
    assert_each(&scene, &cases).await;
    // Nothing of it was applied.
    let counters = scene.api().read(&format!("/api/v1/rooms/{ROOM}/counters")).await;
    assert_eq!(counters["counters"], json!([]));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_may_be_deep_but_not_bottomless() {
    let scene = Scene::new(&[("limits.frame_bytes", "1MiB")]).await;
    let publish = |data: &str| {
        format!("{{\"op\":\"publish\",\"room\":\"event:deep\",\"event\":\"e\",\"data\":{data}}}")
    };
    let (just, more) = (publish(&nested(65)), publish(&nested(200)));
    let bottomless = publish(&nested(200_000));
    let objects = publish(&format!("{}1{}", "{\"a\":".repeat(50_000), "}".repeat(50_000)));
    let unclosed = publish(&"[".repeat(500_000));
    let cases: Vec<_> = [&just, &more, &bottomless, &objects, &unclosed]
        .map(|text| (text.as_str(), "bad_frame", None))
        .into();
    assert_each(&scene, &cases).await;
    let mut member = Client::user(scene.public(), Speak::Json, &token("ann", "member", MINUTES)).await;
    member.ok(json!({ "op": "join", "room": "event:deep" })).await;
    let deep: Value = serde_json::from_str(&nested(64)).expect("JSON");
    member.ok(json!({ "op": "publish", "room": "event:deep", "event": "e", "data": deep })).await;
    assert_eq!(member.push_of("event").await["data"], deep);
    // A field that nobody knows is skipped, however deep it is.
    let mut raw = Raw::upgraded(scene.public()).await;
    raw.frame(TEXT, format!("{{\"id\":1,\"op\":\"connect\",\"x\":{}}}", nested(200_000)).as_bytes()).await;
    assert!(raw.text().await["ok"].is_object());
    // MessagePack nests in one byte each.
    let mut raw =
        Raw::open(scene.public()).await.upgrade(&["Sec-WebSocket-Protocol: roomcast.v1.msgpack"]).await;
    let frame = [&b"\x82\xa2op\xa4ping\xa1x"[..], &vec![0x91; 200_000], &[0xc0]].concat();
    raw.frame(BINARY, &frame).await;
    let (opcode, payload) = raw.next().await.expect("an answer");
    let answer: Value = rmp_serde::from_slice(&payload).expect("MessagePack");
    assert_eq!((opcode, &answer["error"]["code"]), (BINARY, &json!("bad_frame")));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_room_names_are_told_apart() {
    let scene = Scene::new(&[]).await;
    let long = format!("event:{}", "x".repeat(129));
    let names = [
        "",
        ":",
        "event:",
        ":wall",
        "Event:wall",
        "event:wall:x",
        "event:a b",
        "event:ä",
        "event:{x}",
        "event:a/b",
        "event:a\\u0000",
        "9:x",
        "-a:x",
        "nowhere",
        "nowhere:x",
        "admin:other",
        "user",
        &long,
    ];
    for op in ["join", "history", "presence"] {
        let frames: Vec<_> =
            names.iter().map(|name| format!("{{\"op\":\"{op}\",\"room\":\"{name}\"}}")).collect();
        let cases: Vec<_> = frames.iter().map(|frame| (frame.as_str(), "bad_room", None)).collect();
        assert_each(&scene, &cases).await;
    }
    let publish = r#"{"op":"publish","room":"event:a b","event":"e","data":1}"#;
    assert_each(&scene, &[(publish, "bad_room", None), (r#"{"op":"join","room":5}"#, "bad_frame", None)])
        .await;
    scene.rose_by(&errors("bad_room"), u32::try_from(names.len() * 3).expect("small")).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_kind_of_frame_is_told_so() {
    let scene = Scene::new(&[]).await;
    let mut json = Raw::upgraded(scene.public()).await;
    json.frame(BINARY, br#"{"id":1,"op":"connect"}"#).await;
    assert_eq!(json.text().await["error"]["code"], "bad_frame");
    json.frame(TEXT, br#"{"id":1,"op":"connect"}"#).await;
    assert_eq!(json.text().await["id"], 1);
    let upgrade = ["Sec-WebSocket-Protocol: roomcast.v1.msgpack"];
    let mut msgpack = Raw::open(scene.public()).await.upgrade(&upgrade).await;
    msgpack.frame(TEXT, br#"{"id":1,"op":"connect"}"#).await;
    let (opcode, payload) = msgpack.next().await.expect("an answer");
    let answer: Value = rmp_serde::from_slice(&payload).expect("MessagePack");
    assert_eq!((opcode, &answer["error"]["code"]), (BINARY, &json!("bad_frame")));
    let good = rmp_serde::to_vec_named(&json!({ "id": 1, "op": "connect" })).expect("it fits");
    msgpack.frame(BINARY, &good).await;
    let (_, payload) = msgpack.next().await.expect("an answer");
    assert_eq!(rmp_serde::from_slice::<Value>(&payload).expect("MessagePack")["id"], 1);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn msgpack_that_json_could_not_say_is_refused() {
    let scene = Scene::new(&[]).await;
    let upgrade = ["Sec-WebSocket-Protocol: roomcast.v1.msgpack"];
    let mut raw = Raw::open(scene.public()).await.upgrade(&upgrade).await;
    let ping = |more: &[u8]| [&b"\x82\xa2op\xa4ping\xa1x"[..], more].concat();
    let frames: [Vec<u8>; 12] = [
        vec![],
        vec![0xc1],
        b"\x81\xa2op".to_vec(),
        b"\x91\xa4ping".to_vec(),
        b"\xa4ping".to_vec(),
        b"\x81\xa2op\xa4ping\x00".to_vec(),
        b"\x81\x01\xa4ping".to_vec(),
        b"\x81\xa2op\xc4\x04ping".to_vec(),
        ping(b"\xc4\x01x"),
        ping(b"\xd4\x01x"),
        ping(b"\x81\x01\x02"),
        ping(b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"),
    ];
    for frame in frames {
        raw.frame(BINARY, &frame).await;
        let (_, payload) = raw.next().await.expect("an answer");
        let answer: Value = rmp_serde::from_slice(&payload).expect("MessagePack");
        assert!(answer.get("error").is_some(), "{frame:02x?}: {answer}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_never_was_good_is_final() {
    let scene = Scene::new(&[]).await;
    let claims = json!({ "sub": "eve", "role": "admin", "exp": seconds() + 600.0 });
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        signed(&claims)
    };
    let bad = [
        ("no token at all", "x".to_owned()),
        ("empty", String::new()),
        ("alg none", unsigned(&claims)),
        ("another key", signed_by(&claims, "another key that is long enough, too")),
        ("altered", format!("{}x", signed(&claims))),
        ("no exp", signed(&json!({ "sub": "eve" }))),
        ("exp in milliseconds", with("exp", json!((seconds() + 600.0) * 1_000.0))),
        ("not yet", with("nbf", json!(seconds() + 60.0))),
        ("an audience, where none is configured", with("aud", json!("elsewhere"))),
        ("no sub", signed(&json!({ "exp": seconds() + 600.0 }))),
        ("an unknown role", with("role", json!("root"))),
        ("huge", "x".repeat(20_000)),
    ];
    for (what, token) in &bad {
        let mut client = Client::open(scene.public(), Speak::Json).await;
        let error = client.error(json!({ "op": "connect", "token": token })).await;
        assert_eq!(error["code"], "invalid_token", "{what}");
        assert_eq!(client.close_code().await, Some(4500), "{what}");
    }
    let mut client = Client::open(scene.public(), Speak::Json).await;
    let error = client.error(json!({ "op": "connect", "ticket": "never minted" })).await;
    assert_eq!(error["code"], "invalid_token");
    assert_eq!(client.close_code().await, Some(4500));
    scene.rose_by(&closes(4500), 13).await;
    scene.rose_by(&errors("invalid_token"), 13).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_expired_by_a_second_may_be_replaced() {
    let scene = Scene::new(&[]).await;
    let mut client = Client::open(scene.public(), Speak::MsgPack).await;
    let error = client.error(json!({ "op": "connect", "token": short("ann", "member", -1.0) })).await;
    assert_eq!(error["code"], "token_expired");
    // 4002 lets a client come back with a new one; 4500 would not.
    assert_eq!(client.close_code().await, Some(4002));
    scene.rose(&errors("token_expired")).await;
    scene.rose(&closes(4002)).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tokens_for_this_hub_are_taken() {
    let settings =
        [("auth.audience", "hub"), ("auth.issuer", "https://id.example"), ("auth.guests", "false")];
    let node = TestNode::alone(&settings).await;
    let claims = |aud: Value, iss: &str| {
        signed(&json!({ "sub": "ann", "exp": seconds() + 600.0, "aud": aud, "iss": iss }))
    };
    let own = "https://id.example";
    let neighbour = Neighbour::between(node.public, node.internal, &claims(json!("hub"), own)).await;
    for (aud, iss, good) in [
        (json!("hub"), own, true),
        (json!(["other", "hub"]), own, true),
        (json!("other"), own, false),
        (json!(["other"]), own, false),
        (json!("hub"), "https://evil.example", false),
        (Value::Null, own, false),
    ] {
        let mut client = Client::open(node.public, Speak::Json).await;
        let answer = client.request(json!({ "op": "connect", "token": claims(aud.clone(), iss) })).await;
        assert_eq!(answer.get("ok").is_some(), good, "{aud} {iss}: {answer}");
        if !good {
            assert_eq!(answer["error"]["code"], "invalid_token");
            assert_eq!(client.close_code().await, Some(4500));
        }
    }
    let mut guest = Client::open(node.public, Speak::Json).await;
    assert_eq!(guest.error(json!({ "op": "connect" })).await["code"], "invalid_token");
    assert_eq!(guest.close_code().await, Some(4500));
    neighbour.unharmed().await;
    node.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_query_string_is_not_read() {
    let scene = Scene::new(&[]).await;
    let admin = token("ada", "admin", MINUTES);
    for path in [format!("/ws?token={admin}"), format!("/ws?ticket={admin}&access_token={admin}")] {
        let mut raw = Raw::open(scene.public()).await;
        raw.write(upgrade_head(&[]).replace("/ws", &path).as_bytes()).await;
        assert_eq!(raw.reply().await.status, 101);
        raw.say(&json!({ "id": 1, "op": "connect" })).await;
        let answer = raw.text().await;
        assert_eq!(answer["ok"]["role"], "guest", "{answer}");
    }
    scene.rose_by(&admissions("accepted"), 2).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_ends_nothing_but_its_own_connection() {
    let scene = Scene::new(&[]).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let mut seed = u64::from(now.subsec_nanos()) | 1;
    println!("seed {seed}");
    let mut random = || {
        // xorshift64: any noise will do.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let hello = masked(0x80 | TEXT, br#"{"id":1,"op":"connect"}"#);
    for round in 0..60 {
        let length = usize::try_from(random() % 3_000).expect("small");
        let noise: Vec<u8> = (0..length).map(|_| random().to_le_bytes()[0]).collect();
        let mut raw = Raw::open(scene.public()).await;
        match round % 3 {
            // Before HTTP.
            0 => raw.try_write(&noise).await,
            // As frames.
            1 => {
                raw = raw.upgrade(&[]).await;
                raw.try_write(&[&hello[..], &noise].concat()).await;
            }
            // As the content of good frames.
            _ => {
                raw = raw.upgrade(&["Sec-WebSocket-Protocol: roomcast.v1.msgpack"]).await;
                raw.try_write(&masked(0x80 | BINARY, &noise)).await;
                let (opcode, _) = raw.next().await.expect("an answer");
                assert!([BINARY, CLOSE, PING].contains(&opcode));
            }
        }
    }
    scene.end().await;
}
