//! The way in: what is upgraded, what is refused, and from whose address it comes.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde_json::json;

use crate::support::{
    Raw, Scene,
    api::{Api, admissions, errors},
    raw::{KEY, Reply, upgrade_head},
};

/// The good head with one line replaced; empty takes it out.
fn head(line: &str, instead: &str) -> String {
    let good = upgrade_head(&[]);
    let at = good.find(line).unwrap_or_else(|| panic!("{line} is in the head"));
    let end = at + good[at..].find("\r\n").expect("a line ends") + 2;
    let instead = if instead.is_empty() { String::new() } else { format!("{instead}\r\n") };
    format!("{}{instead}{}", &good[..at], &good[end..])
}

async fn ask(scene: &Scene, head: &str) -> Reply {
    let mut raw = Raw::open(scene.public()).await;
    raw.try_write(head.as_bytes()).await;
    raw.reply().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_handshake_by_the_book_is_upgraded() {
    let scene = Scene::new(&[]).await;
    let cases: &[(&str, &str, u16)] = &[
        ("GET", "POST /ws HTTP/1.1", 405),
        ("GET", "PUT /ws HTTP/1.1", 405),
        ("GET", "GET /ws HTTP/1.0", 400),
        ("Host", "", 400),
        ("Host", "Host: a\r\nHost: b", 400),
        ("Upgrade", "", 426),
        ("Upgrade", "Upgrade: h2c", 426),
        ("Connection", "", 426),
        ("Connection", "Connection: keep-alive", 426),
        ("Sec-WebSocket-Version", "", 426),
        ("Sec-WebSocket-Version", "Sec-WebSocket-Version: 12", 426),
        ("Sec-WebSocket-Version", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13", 426),
        ("Sec-WebSocket-Key", "", 400),
        ("Sec-WebSocket-Key", "Sec-WebSocket-Key: c2hvcnQ=", 400),
        ("Sec-WebSocket-Key", "Sec-WebSocket-Key: not base64 at all!!", 400),
        (
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            400,
        ),
    ];
    for (line, instead, status) in cases {
        let reply = ask(&scene, &head(line, instead)).await;
        assert_eq!(reply.status, *status, "{line} → {instead:?}: {reply:?}");
        match status {
            426 => {
                assert_eq!(reply.header("sec-websocket-version"), Some("13"));
                assert_eq!(reply.header("upgrade"), Some("websocket"));
            }
            405 => assert_eq!(reply.header("allow"), Some("GET")),
            _ => {}
        }
    }
    let refused = u32::try_from(cases.len()).expect("few");
    scene.rose_by(&admissions("refused"), refused).await;
    // What the book allows in other letters.
    for (line, instead) in [
        ("Upgrade", "upgrade: WebSocket"),
        ("Connection", "Connection: keep-alive, Upgrade"),
        ("GET", "GET /ws?v=1 HTTP/1.1"),
    ] {
        assert_eq!(ask(&scene, &head(line, instead)).await.status, 101, "{instead}");
    }
    let reply = ask(&scene, &upgrade_head(&[])).await;
    // RFC 6455, 1.3: the answer to this very key.
    assert!(KEY.starts_with("dGhlIHNhbXBs"));
    assert_eq!(reply.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subprotocol_is_chosen_from_what_is_offered() {
    let scene = Scene::new(&[]).await;
    let cases: &[(&[&str], u16, Option<&str>)] = &[
        (&[], 101, None),
        (&["roomcast.v1.json"], 101, Some("roomcast.v1.json")),
        (&["roomcast.v1.msgpack"], 101, Some("roomcast.v1.msgpack")),
        (&["graphql-ws, roomcast.v1.msgpack"], 101, Some("roomcast.v1.msgpack")),
        (&["graphql-ws", "roomcast.v1.json"], 101, Some("roomcast.v1.json")),
        (&["roomcast.v1.msgpack, roomcast.v1.json"], 101, Some("roomcast.v1.msgpack")),
        (&["graphql-ws"], 400, None),
        (&["graphql-ws, roomcast.v2.json"], 400, None),
        (&["ROOMCAST.V1.JSON"], 400, None),
        (&[""], 400, None),
    ];
    for (offers, status, chosen) in cases {
        let lines: Vec<_> = offers.iter().map(|offer| format!("Sec-WebSocket-Protocol: {offer}")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let reply = ask(&scene, &upgrade_head(&lines)).await;
        assert_eq!((reply.status, reply.header("sec-websocket-protocol")), (*status, *chosen), "{offers:?}");
    }
    scene.rose_by(&admissions("refused"), 4).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_pages_may_not_connect() {
    let scene = Scene::new(&[("origins", "https://app.example, same-host")]).await;
    let cases = [
        (None, 101),
        (Some("https://app.example"), 101),
        (Some("https://APP.example:443"), 101),
        (Some("http://localhost:5173"), 101),
        (Some("https://hub.example"), 101),
        (Some("http://app.example"), 403),
        (Some("https://app.example.evil"), 403),
        (Some("https://evil.example"), 403),
        (Some("https://app.example:8443"), 403),
        (Some("null"), 403),
        (Some(""), 403),
        (Some("app.example"), 403),
    ];
    for (origin, status) in cases {
        let line = origin.map(|origin| format!("Origin: {origin}"));
        let lines: Vec<_> = line.iter().map(String::as_str).collect();
        let reply = ask(&scene, &upgrade_head(&lines)).await;
        assert_eq!(reply.status, status, "{origin:?}");
        if status == 403 {
            assert_eq!(reply.json()["code"], "forbidden");
        }
    }
    let twice = ["Origin: https://app.example", "Origin: https://app.example"];
    assert_eq!(ask(&scene, &upgrade_head(&twice)).await.status, 403);
    scene.rose_by(&errors("forbidden"), 8).await;
    scene.end().await;
}

/// Connects with this head, and tells whether disconnecting that address ends it: the node believed it.
async fn is_believed(scene: &Scene, from: Ipv4Addr, first: &[u8], lines: &[&str], address: &str) -> bool {
    let mut raw = Raw::open_from(from.into(), scene.public(), None).await;
    raw.write(&[first, upgrade_head(lines).as_bytes()].concat()).await;
    assert_eq!(raw.reply().await.status, 101);
    raw.say(&json!({ "id": 1, "op": "connect" })).await;
    let session = raw.text().await["ok"]["session"].take();
    let mut api = scene.api();
    api.ok("/api/v1/disconnect", &json!({ "ip": address })).await;
    // Then its session, so that there is an end in any case; which of the two came first tells.
    let probe = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        raw.say(&json!({ "id": 2, "op": "ping" })).await;
        matches!(raw.next().await, Some((8, _)) | None)
    };
    let believed = probe.await;
    api.ok("/api/v1/disconnect", &json!({ "session": session })).await;
    believed
}

const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 8, 1);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);

#[tokio::test(flavor = "multi_thread")]
async fn only_trusted_proxies_say_whose_connection_it_is() {
    let scene = Scene::new(&[("trusted_proxies", "127.0.8.0/24")]).await;
    let forwarded = ["X-Forwarded-For: 6.6.6.6, 198.51.100.7, 127.0.8.2"];
    assert!(is_believed(&scene, PROXY, b"", &forwarded, "198.51.100.7").await);
    assert!(!is_believed(&scene, PROXY, b"", &forwarded, "6.6.6.6").await);
    assert!(!is_believed(&scene, STRANGER, b"", &forwarded, "198.51.100.7").await);
    assert!(is_believed(&scene, STRANGER, b"", &forwarded, &STRANGER.to_string()).await);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_behind_a_proxy_are_capped_by_their_own_address() {
    let settings = [("trusted_proxies", "127.0.8.0/24"), ("limits.connections_per_ip", "1")];
    let scene = Scene::new(&settings).await;
    let mut held = Vec::new();
    for (client, status) in [(1, 101), (2, 101), (1, 429), (3, 101)] {
        let mut raw = Raw::open_from(PROXY.into(), scene.public(), None).await;
        let line = format!("X-Forwarded-For: 198.51.100.{client}");
        raw.write(upgrade_head(&[&line]).as_bytes()).await;
        assert_eq!(raw.reply().await.status, status, "{client}");
        held.push(raw);
    }
    // Who invents addresses without being a proxy has one connection still.
    for (n, status) in [(7, 101), (8, 429)] {
        let mut raw = Raw::open_from(STRANGER.into(), scene.public(), None).await;
        let line = format!("X-Forwarded-For: 198.51.100.{n}");
        raw.write(upgrade_head(&[&line]).as_bytes()).await;
        assert_eq!(raw.reply().await.status, status, "{n}");
        held.push(raw);
    }
    scene.end().await;
}

/// A PROXY protocol v2 header: this TCP connection is from that address.
fn proxy_v2(source: Ipv4Addr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend_from_slice(&12u16.to_be_bytes());
    header.extend_from_slice(&source.octets());
    header.extend_from_slice(&[10, 0, 0, 1]);
    header.extend_from_slice(&50_000u16.to_be_bytes());
    header.extend_from_slice(&443u16.to_be_bytes());
    header
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_protocol_is_read_from_trusted_proxies_alone() {
    let settings = [
        ("trusted_proxies", "127.0.8.0/24"),
        ("proxy_protocol", "true"),
        ("internal.listen", "127.0.0.2:0"),
        ("limits.handshake_timeout", "500ms"),
    ];
    let scene = Scene::new(&settings).await;
    let client = Ipv4Addr::new(198, 51, 100, 9);
    assert!(is_believed(&scene, PROXY, &proxy_v2(client), &[], "198.51.100.9").await);
    // Health checks of the proxy itself (LOCAL) are its own.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    assert!(is_believed(&scene, PROXY, local, &[], &PROXY.to_string()).await);
    // A stranger's header is no HTTP.
    let mut raw = Raw::open_from(STRANGER.into(), scene.public(), None).await;
    raw.try_write(&[&proxy_v2(client), upgrade_head(&[]).as_bytes()].concat()).await;
    assert!(raw.try_reply().await.is_none_or(|reply| reply.status == 400));
    // A proxy that says nothing of the kind is not served, nor one that lies about lengths, nor one that waits.
    let mut long = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    long.extend_from_slice(&[0; 64]);
    for bytes in [upgrade_head(&[]).as_bytes(), &long, &proxy_v2(client)[..14]] {
        let mut raw = Raw::open_from(PROXY.into(), scene.public(), None).await;
        raw.try_write(bytes).await;
        assert!(raw.try_reply().await.is_none());
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_refused_and_huge_heads_are_too() {
    let scene = Scene::new(&[]).await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"hello\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let mut raw = Raw::open(scene.public()).await;
        raw.try_write(garbage).await;
        raw.shut().await;
        let reply = raw.try_reply().await;
        assert!(reply.as_ref().is_none_or(|reply| reply.status == 400), "{garbage:?}: {reply:?}");
    }
    // What the balancers in deploy/ let through, a node takes: cookies of 16 KiB, and what they add to them.
    let large = upgrade_head(&[&format!("Cookie: a={}", "x".repeat(16 * 1_024)), "X-Forwarded-For: 1.2.3.4"]);
    assert_eq!(ask(&scene, &large).await.status, 101);
    let huge = upgrade_head(&[&format!("X-Filler: {}", "x".repeat(20 * 1_024))]);
    assert_eq!(ask(&scene, &huge).await.status, 431);
    let many: Vec<_> = (0..150).map(|n| format!("X-Header-{n}: x")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(ask(&scene, &upgrade_head(&many)).await.status, 431);
    let long = upgrade_head(&[]).replace("/ws", &format!("/ws?{}", "x".repeat(20 * 1_024)));
    let reply = ask(&scene, &long).await;
    assert!([414, 431].contains(&reply.status), "{reply:?}");
    assert_eq!(ask(&scene, "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 404);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_listeners_keep_the_inside_from_the_public() {
    let scene = Scene::new(&[("internal.listen", "127.0.0.2:0")]).await;
    let inside: IpAddr = Ipv4Addr::new(127, 0, 0, 2).into();
    assert_eq!(scene.node.internal.ip(), inside);
    for path in ["/metrics", "/livez", "/readyz", "/api/v1/stats", "/nowhere"] {
        assert_eq!(Api::new(scene.public()).get(path).await.status, 404, "{path}");
    }
    for path in ["/metrics", "/livez", "/readyz", "/api/v1/stats"] {
        assert_eq!(scene.api().get(path).await.status, 200, "{path}");
    }
    let verbose = scene.api().read("/readyz?verbose").await;
    assert_eq!((&verbose["ready"], &verbose["checks"]["broker"]["ok"]), (&json!(true), &json!(true)));
    assert_ne!(scene.api().get("/ws").await.status, 101, "no sockets inside");
    scene.end().await;
}
