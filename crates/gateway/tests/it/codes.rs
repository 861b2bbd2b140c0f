//! Every row of the contract's table of codes: each error and close code is provoked somewhere, or it is said here
//! why this version can't answer it yet.

use std::time::Duration;

use roomcast_protocol::{CloseCode, ErrorCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{
    Api, Client, Cluster, Raw, Scene, Speak,
    api::{closes, errors},
    client::PATIENCE,
    neighbour::{Neighbour, ROOM},
    raw::{BINARY, TEXT, masked},
    sign::short,
    token,
};

const MINUTES: Duration = Duration::from_secs(600);

/// Where a code is provoked.
enum Row {
    /// By this test of this binary.
    By(&'static str),
    /// Not in this version, and why.
    NotYet(&'static str),
}

/// A new code does not compile here until somebody decides where it is tested.
fn error_row(code: ErrorCode) -> Row {
    use Row::{By, NotYet};
    match code {
        ErrorCode::BadFrame
        | ErrorCode::UnknownOp
        | ErrorCode::ConnectFirst
        | ErrorCode::InvalidToken
        | ErrorCode::TokenExpired
        | ErrorCode::Forbidden
        | ErrorCode::BadRoom
        | ErrorCode::NotJoined
        | ErrorCode::TooManyRooms
        | ErrorCode::RoomFull
        | ErrorCode::TooLarge
        | ErrorCode::RateLimited
        | ErrorCode::KeyReused
        | ErrorCode::LimitReached
        | ErrorCode::NotFound => By("every_error_is_told_counted_and_unseen_by_others"),
        ErrorCode::Unavailable => By("a_broker_that_is_gone_is_told_at_once_and_comes_back_by_itself"),
        ErrorCode::Conflict => By("a_document_is_written_from_what_was_read"),
        ErrorCode::SoldOut => By("stock_is_held_sold_and_returned_live_on_two_nodes"),
        ErrorCode::Internal => NotYet("the in-process bus never answers nonsense; a Redis can"),
    }
}

fn close_row(code: CloseCode) -> Row {
    use Row::{By, NotYet};
    match code {
        CloseCode::GoingAway => By("a_client_that_goes_is_counted_as_gone"),
        CloseCode::Protocol => By("a_frame_against_rfc_6455_is_a_protocol_error"),
        CloseCode::InvalidData => By("text_that_is_not_utf_8_is_invalid_data"),
        CloseCode::TooBig => By("a_frame_that_is_too_big_ends_its_own_connection_only"),
        CloseCode::InternalError => NotYet("it stands for a bug: none is known"),
        CloseCode::Restart => By("a_node_that_stops_says_so_first"),
        CloseCode::Overloaded => NotYet("shedding under overload is not built yet"),
        CloseCode::Idle => By("who_only_answers_pings_is_closed_as_idle_where_that_is_wanted"),
        CloseCode::SlowConsumer => By("who_lets_too_many_bytes_wait_is_closed_and_misses_nothing"),
        CloseCode::TokenExpired => By("a_token_holds_to_its_last_moment_on_a_live_socket"),
        CloseCode::Shed => By("a_share_of_the_connections_moves_and_misses_nothing"),
        CloseCode::PingTimeout => By("who_answers_no_ping_is_closed_and_who_does_is_not"),
        CloseCode::InvalidToken => By("a_token_that_never_was_good_is_final"),
        CloseCode::ConnectTimeout => By("who_does_not_say_connect_in_time_is_closed"),
        CloseCode::Disconnected => By("an_operator_disconnects_by_user_session_and_address"),
        CloseCode::Flood => By("a_hundred_refused_frames_in_a_row_are_a_flood"),
        CloseCode::Misuse => By("who_does_not_speak_the_protocol_is_sent_away"),
    }
}

#[test]
fn every_code_is_provoked_or_its_absence_is_explained() {
    let sources = [
        include_str!("codes.rs"),
        include_str!("limits.rs"),
        include_str!("moves.rs"),
        include_str!("limits_rooms.rs"),
        include_str!("limits_time.rs"),
        include_str!("tokens.rs"),
        include_str!("bad_input.rs"),
        include_str!("counters.rs"),
    ];
    let rows = ErrorCode::ALL.iter().map(|&code| (code.as_str().to_owned(), error_row(code)));
    let rows = rows.chain(CloseCode::ALL.iter().map(|&code| (code.code().to_string(), close_row(code))));
    for (code, row) in rows {
        match row {
            Row::By(test) => {
                let head = format!("#[tokio::test(flavor = \"multi_thread\")]\nasync fn {test}()");
                assert!(sources.iter().any(|source| source.contains(&head)), "{code}: no test {test}");
            }
            Row::NotYet(why) => assert!(!why.is_empty(), "{code}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_told_counted_and_unseen_by_others() {
    let settings = [
        ("limits.rooms_per_socket", "3"),
        ("limits.members_per_room", "2"),
        ("limits.counter_ops_per_minute", "5"),
    ];
    let scene = Scene::new(&settings).await;
    let mut stranger = Client::open(scene.public(), Speak::Json).await;
    let error = stranger.error(json!({ "op": "ping" })).await;
    assert_told(&scene, &error, ErrorCode::ConnectFirst).await;

    let mut second = Client::guest(scene.public(), Speak::MsgPack).await;
    second.ok(json!({ "op": "join", "room": ROOM })).await;
    let mut guest = Client::guest(scene.public(), Speak::MsgPack).await;
    let frames = [
        (ErrorCode::BadFrame, json!({ "op": "join", "room": 5 })),
        (ErrorCode::UnknownOp, json!({ "op": "fly" })),
        (ErrorCode::Forbidden, json!({ "op": "claim", "scope": "s", "name": "n" })),
        (ErrorCode::Forbidden, json!({ "op": "join", "room": "admin" })),
        (ErrorCode::BadRoom, json!({ "op": "join", "room": "nowhere:x" })),
        (ErrorCode::NotJoined, json!({ "op": "leave", "room": "event:x" })),
        (ErrorCode::RoomFull, json!({ "op": "join", "room": ROOM })),
        (ErrorCode::InvalidToken, json!({ "op": "refresh", "token": "a.b.c" })),
        (ErrorCode::TokenExpired, json!({ "op": "refresh", "token": short("x", "member", -1.0) })),
    ];
    for (code, frame) in frames {
        let error = guest.error(frame).await;
        assert_told(&scene, &error, code).await;
    }
    for n in 0..3 {
        guest.ok(json!({ "op": "join", "room": format!("event:{n}") })).await;
    }
    let error = guest.error(json!({ "op": "join", "room": "event:4" })).await;
    assert_told(&scene, &error, ErrorCode::TooManyRooms).await;
    let count = |key: &str, by: u32| json!({ "op": "count", "room": "event:1", "target": "t", "counter": "view", "by": by, "key": key });
    guest.ok(count("k", 1)).await;
    let error = guest.error(count("k", 2)).await;
    assert_told(&scene, &error, ErrorCode::KeyReused).await;
    let error = loop {
        let mut answer = guest.request(count("l", 1)).await;
        if answer.get("error").is_some() {
            break answer["error"].take();
        }
    };
    assert!(error["retry_ms"].as_u64().is_some_and(|ms| ms > 0), "{error}");
    assert_told(&scene, &error, ErrorCode::RateLimited).await;

    let mut api = scene.api();
    let body = |n: u32| json!({ "room": "event:1", "target": "many", "counter": format!("c{n}"), "by": 1, "user": "u" });
    let mut n = 0;
    let refused = loop {
        let reply = api.post("/api/v1/count", &body(n)).await;
        if reply.status != 200 {
            break reply;
        }
        n += 1;
        assert!(n < 1_000, "a target has no bound");
    };
    assert_told(&scene, &refused.json(), ErrorCode::LimitReached).await;
    let missing = api.get("/api/v1/nothing/here").await;
    assert_told(&scene, &missing.json(), ErrorCode::NotFound).await;
    let large = vec![b' '; 8 * 1_024 * 1_024 + 1];
    let reply = api.send("POST", "/api/v1/batch", &[], Some(&large)).await;
    assert_told(&scene, &reply.json(), ErrorCode::TooLarge).await;
    guest.ok(json!({ "op": "ping" })).await;
    scene.end().await;
}

async fn assert_told(scene: &Scene, error: &Value, code: ErrorCode) {
    assert_eq!(error["code"], code.as_str(), "{error}");
    let words = error["message"].as_str().or(error["detail"].as_str()).expect("words for people");
    assert!((5..400).contains(&words.len()), "{words}");
    scene.rose(&errors(code.as_str())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_gone_is_told_at_once_and_comes_back_by_itself() {
    let cluster = Cluster::new();
    let settings = [("breaker.failures", "3"), ("breaker.open", "300ms")];
    let (a, b) = (cluster.node("a", &settings).await, cluster.node("b", &settings).await);
    // It hears on the node whose commands fail, what a back end says on the other.
    let neighbour = Neighbour::between(a.public, b.internal, &token("neighbour", "member", MINUTES)).await;
    let mut client = Client::user(a.public, Speak::Json, &token("ann", "member", MINUTES)).await;
    let publish = json!({ "op": "publish", "room": "event:quiet", "event": "e", "data": 1, "key": "once" });
    let before = client.ok(publish.clone()).await;
    let scene = Scene::with(a, neighbour).await;
    let roomcast_gateway::app::Backing::Local(bus, ..) = &cluster.backing else {
        panic!("a cluster on the bus")
    };
    let incarnation = scene.node.running().node.incarnation.clone();
    bus.refuse_commands(&incarnation);
    for _ in 0..6 {
        let started = Instant::now();
        let error =
            client.error(json!({ "op": "publish", "room": "event:quiet", "event": "e", "data": 2 })).await;
        assert_eq!(error["code"], "unavailable");
        assert!(error["retry_ms"].as_u64().is_some_and(|ms| ms > 0), "{error}");
        assert!(started.elapsed() < Duration::from_secs(1), "a refusal is quick");
    }
    let reply = scene.api().post("/api/v1/publish", &json!({ "room": ROOM, "event": "e", "data": 1 })).await;
    assert_eq!((reply.status, reply.json()["code"].as_str()), (503, Some("unavailable")));
    assert!(reply.header("retry-after").is_some());
    // Who a guest is follows from the secret: nothing of it stands in the broker.
    let mut guest = Client::open(scene.public(), Speak::Json).await;
    let me = guest.ok(json!({ "op": "connect" })).await;
    assert_eq!(guest.error(json!({ "op": "join", "room": ROOM })).await["code"], "unavailable");
    client.ok(json!({ "op": "ping" })).await;
    scene.rose_by(&errors("unavailable"), 8).await;
    bus.accept_commands(&incarnation);
    let deadline = Instant::now() + PATIENCE;
    let after = loop {
        let mut answer = client.request(publish.clone()).await;
        if answer.get("ok").is_some() {
            break answer["ok"].take();
        }
        assert!(Instant::now() < deadline, "the breaker never closes: {answer}");
        sleep(Duration::from_millis(20)).await;
    };
    // Nothing was applied meanwhile, and the key still stands.
    assert_eq!((&after["offset"], &after["duplicate"]), (&before["offset"], &json!(true)));
    let next = client.ok(json!({ "op": "publish", "room": "event:quiet", "event": "e", "data": 3 })).await;
    assert_eq!(next["offset"].as_u64(), before["offset"].as_u64().map(|offset| offset + 1));
    // The same socket may try again, and a new one is the same guest.
    guest.ok(json!({ "op": "join", "room": ROOM })).await;
    let mut again = Client::open(scene.public(), Speak::Json).await;
    let connected = again.ok(json!({ "op": "connect", "guest": me["guest"] })).await;
    assert_eq!(connected["user"], me["user"]);
    scene.end().await;
    b.leave();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_is_counted_as_gone() {
    let scene = Scene::new(&[]).await;
    let mut client = Client::guest(scene.public(), Speak::Json).await;
    client.ok(json!({ "op": "join", "room": ROOM })).await;
    client.socket.close(None).await.expect("it is open");
    // The server answers the close in kind.
    assert_eq!(client.close_code().await, None);
    drop(Client::guest(scene.public(), Speak::Json).await);
    scene.rose_by(&closes(1001), 2).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_against_rfc_6455_is_a_protocol_error() {
    let scene = Scene::new(&[]).await;
    let hello = b"{\"op\":\"connect\"}";
    let unmasked = [&[0x80 | TEXT, u8::try_from(hello.len()).expect("small")], &hello[..]].concat();
    let broken: [(&str, Vec<u8>); 8] = [
        ("not masked", unmasked),
        ("a reserved bit", masked(0xc0 | TEXT, hello)),
        ("an unknown opcode", masked(0x83, hello)),
        ("an unknown control opcode", masked(0x8b, b"")),
        ("a control frame in pieces", masked(0x09, b"")),
        ("a control frame of 126 bytes", masked(0x89, &[0; 126])),
        ("a continuation of nothing", masked(0x80, hello)),
        ("a new message within another", [masked(TEXT, b"{"), masked(0x80 | TEXT, hello)].concat()),
    ];
    for (what, bytes) in &broken {
        let mut raw = Raw::upgraded(scene.public()).await;
        raw.write(bytes).await;
        assert_eq!(raw.close_code().await, Some(1002), "{what}");
        assert!(raw.ends().await, "{what}");
    }
    scene.rose_by(&closes(1002), u32::try_from(broken.len()).expect("small")).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf_8_is_invalid_data() {
    let scene = Scene::new(&[]).await;
    for bytes in [&b"{\"op\":\"\xff\"}"[..], b"\xc0\x80", b"\xed\xa0\x80", b"{\"op\":\"\xe4"] {
        let mut raw = Raw::upgraded(scene.public()).await;
        raw.frame(TEXT, bytes).await;
        assert_eq!(raw.close_code().await, Some(1007), "{bytes:?}");
    }
    // A character may be cut by the pieces of a message.
    let mut raw = Raw::upgraded(scene.public()).await;
    let frame = "{\"id\":1,\"op\":\"connect\",\"x\":\"ä\"}".as_bytes();
    let cut = frame.len() - 3;
    raw.write(&masked(TEXT, &frame[..cut])).await;
    raw.write(&masked(0x80, &frame[cut..])).await;
    assert_eq!(raw.text().await["id"], 1);
    scene.rose_by(&closes(1007), 4).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_the_protocol_is_sent_away() {
    let scene = Scene::new(&[]).await;
    for connected in [true, false] {
        let mut raw = Raw::upgraded(scene.public()).await;
        if connected {
            raw.say(&json!({ "id": 1, "op": "connect" })).await;
            assert_eq!(raw.text().await["id"], 1);
        }
        for n in 0..20 {
            raw.frame(if n % 2 == 0 { TEXT } else { BINARY }, b"GET / HTTP/1.1").await;
            assert_eq!(raw.text().await["error"]["code"], "bad_frame");
        }
        assert_eq!(raw.close_code().await, Some(4505));
    }
    // Mistakes between good frames are forgiven.
    let mut clumsy = Client::guest(scene.public(), Speak::Json).await;
    for _ in 0..40 {
        assert_eq!(clumsy.error(json!({ "op": "fly" })).await["code"], "unknown_op");
        clumsy.ok(json!({ "op": "ping" })).await;
    }
    scene.rose_by(&closes(4505), 2).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_so_first() {
    let cluster = Cluster::new();
    let settings = [("drain.spread", "400ms"), ("drain.balancer_delay", "300ms")];
    let (a, b) = (cluster.node("a", &settings).await, cluster.node("b", &[]).await);
    // Stopping one node harms nobody on another.
    let neighbour = Neighbour::of(&b).await;
    let scene = Scene::with(b, neighbour).await;
    let mut clients = Vec::new();
    for speak in [Speak::Json, Speak::MsgPack, Speak::Json] {
        let mut client = Client::guest(a.public, speak).await;
        client.ok(json!({ "op": "join", "room": ROOM })).await;
        clients.push(client);
    }
    let mut early = Api::new(a.internal);
    assert_eq!(early.get("/readyz").await.status, 200);
    let public = a.public;
    let internal = a.internal;
    let stopping = a.stop();
    let watching = async {
        // Not ready at once, while it still takes connections: the balancer has to notice first.
        let deadline = Instant::now() + PATIENCE;
        while early.get("/readyz").await.status != 503 {
            assert!(Instant::now() < deadline, "ready for ever");
        }
        let late = Client::guest(public, Speak::Json).await;
        clients.push(late);
        // A balancer that can't ask for readiness is told with the handshake, and asks another node.
        let handshake = [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Roomcast-Only-If-Ready: 1",
        ];
        let told = Api::with_bearer(public, None).send("GET", "/ws", &handshake, None).await;
        assert_eq!((told.status, told.header("retry-after")), (503, Some("1")));
        let mut delays = Vec::new();
        for mut client in clients {
            let goaway = client.push_of("goaway").await;
            assert!(goaway["reason"].is_string());
            delays.push(goaway["retry_ms"].as_u64().expect("retry_ms"));
            assert_eq!(client.close_code().await, Some(1012));
        }
        assert!(delays.iter().all(|ms| *ms <= 400), "{delays:?}");
        delays.sort_unstable();
        assert!(delays.last() > delays.first(), "reconnects are spread: {delays:?}");
    };
    tokio::join!(stopping, watching);
    assert!(tokio::net::TcpStream::connect(public).await.is_err(), "nobody listens any more");
    assert!(tokio::net::TcpStream::connect(internal).await.is_err());
    scene.rose_by(&closes(1012), 4).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_disconnects_by_user_session_and_address() {
    let scene = Scene::new(&[]).await;
    let mut api = scene.api();
    let ann = token("ann", "member", MINUTES);
    let mut first = Client::user(scene.public(), Speak::Json, &ann).await;
    let mut second = Client::user(scene.public(), Speak::MsgPack, &ann).await;
    let mut ben = Client::open(scene.public(), Speak::Json).await;
    let session =
        ben.ok(json!({ "op": "connect", "token": token("ben", "member", MINUTES) })).await["session"].take();
    let from = "127.0.0.77".parse().expect("an address");
    let mut far = Client::open_from(from, scene.public(), Speak::Json).await.expect("it is let in");
    far.ok(json!({ "op": "connect" })).await;

    api.ok("/api/v1/disconnect", &json!({ "user": "ann" })).await;
    assert_eq!(first.close_code().await, Some(4503));
    assert_eq!(second.close_code().await, Some(4503));
    ben.ok(json!({ "op": "ping" })).await;
    api.ok("/api/v1/disconnect", &json!({ "session": session })).await;
    assert_eq!(ben.close_code().await, Some(4503));
    far.ok(json!({ "op": "ping" })).await;
    api.ok("/api/v1/disconnect", &json!({ "ip": "127.0.0.77" })).await;
    assert_eq!(far.close_code().await, Some(4503));
    // Whoever is not there is no error; nobody at all is.
    api.ok("/api/v1/disconnect", &json!({ "user": "nobody" })).await;
    let reply = api.post("/api/v1/disconnect", &json!({})).await;
    assert_eq!((reply.status, &reply.json()["code"]), (400, &json!("bad_frame")));
    scene.rose_by(&closes(4503), 4).await;
    scene.end().await;
}
