//! Who may do what, until when: tokens on live sockets, the admin room, users' own rooms, guests.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{
    Api, Client, Scene, Speak, TestNode, admin_token,
    api::{closes, errors},
    node::API_KEY,
    sign::{seconds, short, signed},
    token,
};

const MINUTES: Duration = Duration::from_secs(600);

fn unix_ms() -> f64 {
    seconds() * 1_000.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_holds_to_its_last_moment_on_a_live_socket() {
    let scene = Scene::new(&[]).await;
    let mut client = Client::open(scene.public(), Speak::Json).await;
    let connected = client.ok(json!({ "op": "connect", "token": short("ann", "member", 1.0) })).await;
    let ends = connected["expires_at"].as_f64().expect("expires_at");
    client.ok(json!({ "op": "join", "room": "event:x" })).await;
    // It is told half way, while there is time to refresh.
    let warning = client.push_of("expiring").await;
    let told = warning["expires_at"].as_f64().expect("expires_at");
    assert!((told - ends).abs() <= 20.0, "{told} is not {ends}");
    assert!(unix_ms() < ends, "the warning comes before the end");
    client.ok(json!({ "op": "publish", "room": "event:x", "event": "e", "data": 1 })).await;
    assert_eq!(client.close_code().await, Some(4002));
    assert!(unix_ms() >= ends - 5.0, "not a moment too soon");
    scene.rose(&closes(4002)).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refreshed_token_keeps_the_socket_and_its_rooms() {
    let scene = Scene::new(&[]).await;
    let mut client = Client::user(scene.public(), Speak::MsgPack, &short("ann", "member", 0.8)).await;
    client.ok(json!({ "op": "join", "room": "event:x" })).await;
    client.push_of("expiring").await;
    let refusals = [
        ("another user's", short("eve", "member", 60.0), "invalid_token"),
        ("expired", short("ann", "member", -1.0), "token_expired"),
        ("nonsense", "x.y.z".to_owned(), "invalid_token"),
    ];
    for (what, token, code) in refusals {
        assert_eq!(client.error(json!({ "op": "refresh", "token": token })).await["code"], code, "{what}");
    }
    let ok = client.ok(json!({ "op": "refresh", "token": token("ann", "member", MINUTES) })).await;
    assert!(ok["expires_at"].as_f64().is_some_and(|at| at > unix_ms() + 500_000.0), "{ok}");
    sleep(Duration::from_millis(900)).await;
    client.ok(json!({ "op": "publish", "room": "event:x", "event": "e", "data": 1 })).await;
    assert_eq!(client.push_of("event").await["data"], 1);
    scene.rose(&errors("token_expired")).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_to_a_lower_role_leaves_the_rooms_it_does_not_open() {
    let scene = Scene::new(&[]).await;
    let mut client = Client::user(scene.public(), Speak::Json, &token("ada", "admin", MINUTES)).await;
    client.ok(json!({ "op": "join", "room": "admin" })).await;
    client.ok(json!({ "op": "join", "room": "event:x" })).await;
    client.ok(json!({ "op": "refresh", "token": token("ada", "member", MINUTES) })).await;
    let kicked = client.push_of("kicked").await;
    assert_eq!(kicked["room"], "admin");
    assert!(kicked["reason"].is_string());
    let mut api = scene.api();
    api.ok("/api/v1/publish", &json!({ "room": "admin", "event": "secret", "data": 1 })).await;
    api.ok("/api/v1/publish", &json!({ "room": "event:x", "event": "open", "data": 2 })).await;
    loop {
        let push = client.push().await;
        assert_ne!(push["room"], "admin", "{push}");
        if push["event"] == "open" {
            break;
        }
    }
    assert_eq!(client.error(json!({ "op": "join", "room": "admin" })).await["code"], "forbidden");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_admins_enters_or_speaks_in_the_admin_room() {
    let scene = Scene::new(&[]).await;
    let patterns =
        json!({ "sub": "eve", "role": "member", "exp": seconds() + 600.0, "rooms": ["admin", "*"] });
    let strangers = [
        None,
        Some(token("mia", "member", MINUTES)),
        Some(token("back", "service", MINUTES)),
        Some(signed(&patterns)),
    ];
    let mut admin = Client::user(scene.public(), Speak::Json, &admin_token()).await;
    admin.ok(json!({ "op": "join", "room": "admin" })).await;
    for stranger in strangers {
        let mut client = Client::open(scene.public(), Speak::Json).await;
        let connect = match &stranger {
            Some(token) => json!({ "op": "connect", "token": token }),
            None => json!({ "op": "connect" }),
        };
        client.ok(connect).await;
        for frame in [
            json!({ "op": "join", "room": "admin" }),
            json!({ "op": "publish", "room": "admin", "event": "admin:notification", "data": "psst" }),
            json!({ "op": "signal", "room": "admin", "event": "psst", "data": 1 }),
            json!({ "op": "history", "room": "admin" }),
            json!({ "op": "presence", "room": "admin" }),
            json!({ "op": "like", "room": "admin", "target": "p", "on": true }),
            json!({ "op": "comment", "room": "admin", "target": "p", "text": "psst" }),
        ] {
            assert_eq!(client.error(frame.clone()).await["code"], "forbidden", "{stranger:?} {frame}");
        }
    }
    admin
        .ok(json!({ "op": "publish", "room": "admin", "event": "admin:notification", "data": "real" }))
        .await;
    let event = admin.push_of("event").await;
    assert_eq!((&event["data"], &event["offset"]), (&json!("real"), &json!(1)), "nothing came before it");
    scene.rose_by(&errors("forbidden"), 28).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_whose_token_has_ended_gets_nothing_more() {
    let scene = Scene::new(&[]).await;
    let mut client = Client::open(scene.public(), Speak::Json).await;
    let connected = client.ok(json!({ "op": "connect", "token": short("ada", "admin", 0.7) })).await;
    let ends = connected["expires_at"].as_u64().expect("expires_at");
    client.ok(json!({ "op": "join", "room": "admin" })).await;
    let internal = scene.node.internal;
    let publish = async {
        let mut api = Api::new(internal);
        let started = Instant::now();
        let mut last = 0;
        while started.elapsed() < Duration::from_secs(1) {
            let body = json!({ "room": "admin", "event": "secret", "data": 1 });
            last = api.ok("/api/v1/publish", &body).await["offset"].as_u64().expect("an offset");
        }
        last
    };
    let listen = async {
        let mut heard = 0;
        loop {
            match client.frame().await {
                Ok(push) if push["push"] == "event" => {
                    let at = push["at"].as_u64().expect("at");
                    assert!(at <= ends + 1, "delivered {} ms after the token ended", at - ends);
                    heard = push["offset"].as_u64().expect("an offset");
                }
                Ok(_) => {}
                Err(end) => break (heard, end.map(|frame| u16::from(frame.code))),
            }
        }
    };
    let (published, (heard, code)) = tokio::join!(publish, listen);
    assert_eq!(code, Some(4002));
    assert!(heard > 0 && heard < published, "heard {heard} of {published}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_of_a_users_own_is_for_that_user_and_what_services_say() {
    let scene = Scene::new(&[]).await;
    let join = json!({ "op": "join", "room": "user:ann" });
    let publish = json!({ "op": "publish", "room": "user:ann", "event": "e", "data": 1 });
    let mut ann = Client::user(scene.public(), Speak::Json, &token("ann", "member", MINUTES)).await;
    ann.ok(join.clone()).await;
    assert_eq!(ann.error(publish.clone()).await["code"], "forbidden", "not even to oneself");
    for (sub, role) in [("eve", "member"), ("ada", "admin"), ("back", "service")] {
        let mut other = Client::user(scene.public(), Speak::Json, &token(sub, role, MINUTES)).await;
        assert_eq!(other.error(join.clone()).await["code"], "forbidden", "{role}");
        if role == "service" {
            other.ok(publish.clone()).await;
        } else {
            assert_eq!(other.error(publish.clone()).await["code"], "forbidden", "{role}");
        }
    }
    let event = ann.push_of("event").await;
    assert_eq!((&event["from"], &event["offset"]), (&json!("back"), &json!(1)));
    ann.hears_nothing(Duration::from_millis(50)).await;
    // A guest has one as well.
    let mut guest = Client::open(scene.public(), Speak::Json).await;
    let user = guest.ok(json!({ "op": "connect" })).await["user"].take();
    let own = format!("user:{}", user.as_str().expect("a user"));
    guest.ok(json!({ "op": "join", "room": own })).await;
    assert_eq!(guest.error(join).await["code"], "forbidden");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_of_a_token_narrow_and_widen() {
    let settings = [("namespaces.vip.join", "admin"), ("namespaces.vip.publish", "admin")];
    let scene = Scene::new(&settings).await;
    let claims = json!({ "sub": "ann", "exp": seconds() + 600.0, "rooms": ["vip:gala", "event:a*"] });
    let mut client = Client::user(scene.public(), Speak::Json, &signed(&claims)).await;
    for (room, opens) in [
        ("vip:gala", true),
        ("vip:other", false),
        ("event:abc", true),
        ("event:wall", false),
        ("user:ann", false),
    ] {
        let answer = client.request(json!({ "op": "join", "room": room })).await;
        assert_eq!(answer.get("ok").is_some(), opens, "{room}: {answer}");
    }
    // Widened is who may listen, not who may speak.
    let publish = json!({ "op": "publish", "room": "vip:gala", "event": "e", "data": 1 });
    assert_eq!(client.error(publish).await["code"], "forbidden");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_the_secret_again_is_the_same_guest() {
    let scene = Scene::new(&[]).await;
    let mut first = Client::open(scene.public(), Speak::Json).await;
    let me = first.ok(json!({ "op": "connect" })).await;
    let (user, secret) = (me["user"].clone(), me["guest"].clone());
    assert_ne!(user, secret);
    assert!(secret.as_str().is_some_and(|secret| secret.len() >= 16));
    let tabs = (0..8).map(|_| async {
        let mut tab = Client::open(scene.public(), Speak::MsgPack).await;
        tab.ok(json!({ "op": "connect", "guest": secret })).await["user"].take()
    });
    let users: Vec<Value> = futures_util::future::join_all(tabs).await;
    assert!(users.iter().all(|other| *other == user), "{users:?} are not all {user}");
    let mut other = Client::open(scene.public(), Speak::Json).await;
    assert_ne!(other.ok(json!({ "op": "connect" })).await["user"], user);
    // The public id is no secret: it makes nobody that guest.
    let mut thief = Client::open(scene.public(), Speak::Json).await;
    let answer = thief.request(json!({ "op": "connect", "guest": user })).await;
    assert_ne!(answer["ok"]["user"], user, "{answer}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_not_widen_itself_through_the_api() {
    let node = TestNode::alone(&[]).await;
    let client = reqwest::Client::new();
    let mint = async |bearer: &str, role: &str| {
        let order = json!({ "sub": "eve", "role": role });
        let url = format!("http://{}/api/v1/tickets", node.internal);
        let answer = client.post(url).bearer_auth(bearer).body(order.to_string()).send().await;
        answer.expect("answered").status().as_u16()
    };
    let service = token("shop", "service", MINUTES);
    assert_eq!((mint(&service, "member").await, mint(&service, "service").await), (200, 200));
    assert_eq!(mint(&service, "admin").await, 403);
    assert_eq!(mint(&token("ada", "admin", MINUTES), "admin").await, 200);
    let limited =
        json!({ "sub": "shop", "role": "service", "rooms": ["event:shop"], "exp": 4_000_000_000_u64 });
    assert_eq!(mint(&signed(&limited), "member").await, 403);
    node.stop().await;
}

/// The contract gives the admins' room to role `admin` alone; the API key is the owner's, who can mint admin tokens.
#[tokio::test(flavor = "multi_thread")]
async fn no_service_token_reaches_the_admin_room_over_http_and_no_webhook_names_it() {
    let node = TestNode::alone(&[("ingest.sources.shop.event", "e")]).await;
    let mut service = Api::with_bearer(node.internal, Some(&token("back", "service", MINUTES)));
    let publish = json!({ "room": "admin", "event": "admin:notification", "data": 1 });
    let refused = service.post("/api/v1/publish", &publish).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (403, Some("forbidden")));
    let batch = service.ok("/api/v1/batch", &json!([publish])).await;
    assert_eq!(batch["results"][0]["error"]["code"], "forbidden");
    let put = json!({ "room": "admin", "doc": "d", "value": 1, "version": 0, "user": "back" });
    assert_eq!(service.post("/api/v1/put", &put).await.status, 403);
    for path in ["", "/history", "/presence", "/counters", "/comments", "/stock"] {
        assert_eq!(service.get(&format!("/api/v1/rooms/admin{path}")).await.status, 403, "{path}");
    }
    assert_eq!(service.send("DELETE", "/api/v1/rooms/admin", &[], None).await.status, 403);
    let webhook = json!({ "uuid": "1", "room": "admin", "event": "e" });
    assert_eq!(service.post("/api/v1/ingest/shop", &webhook).await.status, 403);
    for bearer in [admin_token(), API_KEY.to_owned()] {
        let mut api = Api::with_bearer(node.internal, Some(&bearer));
        api.ok("/api/v1/publish", &publish).await;
        api.read("/api/v1/rooms/admin/history").await;
    }
    node.stop().await;
}
