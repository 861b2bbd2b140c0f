//! Moving clients to other nodes: a share of them, or all of them without ending the process.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use crate::support::{
    Client, Cluster, Speak,
    call::{call, publish},
    client::{PATIENCE, Refused},
    follower::follow,
};

const ROOM: &str = "event:wall";
const FOLLOWERS: u32 = 40;
const EVENTS: u64 = 100;

fn speak(n: u32) -> Speak {
    if n.is_multiple_of(2) { Speak::Json } else { Speak::MsgPack }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_connections_moves_and_misses_nothing() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node("a", &[]).await, cluster.node("b", &[]).await);
    let joined = Arc::new(Semaphore::new(0));
    let followers: Vec<_> = (0..FOLLOWERS)
        .map(|n| {
            let (first, then, joined) = (a.public, b.public, joined.clone());
            let to = move |attempt| if attempt == 0 { first } else { then };
            tokio::spawn(
                async move { follow(to, speak(n), ROOM, EVENTS, move || joined.add_permits(1)).await },
            )
        })
        .collect();
    drop(joined.acquire_many(FOLLOWERS).await.expect("all join"));
    let internal = b.internal;
    let publisher = tokio::spawn(async move {
        for n in 1..=EVENTS {
            publish(internal, ROOM, n).await;
            sleep(Duration::from_millis(15)).await;
        }
    });
    let shed = json!({ "share": 0.5, "spread_ms": 600 });
    let (status, answer) = call(a.internal, "POST", "/api/v1/shed", Some(&shed)).await;
    assert_eq!((status, &answer), (200, &json!({ "shed": 20, "connections": 40, "spread_ms": 600 })));
    let (status, answer) = call(a.internal, "POST", "/api/v1/shed", Some(&json!({ "count": 1 }))).await;
    assert_eq!((status, &answer["code"]), (409, &json!("conflict")), "one at a time");
    publisher.await.expect("all is published");
    let mut told = Vec::new();
    for follower in followers {
        let seen = follower.await.expect("a follower gets to the end");
        assert!(seen.saw_everything(EVENTS), "{seen:?}");
        if seen.closes.is_empty() {
            assert!(seen.goaways.is_empty() && seen.nodes == ["a"], "{seen:?}");
            continue;
        }
        assert_eq!(seen.closes.iter().map(|(_, code)| *code).collect::<Vec<_>>(), [Some(4003)]);
        assert_eq!(seen.nodes, ["a", "b"]);
        told.extend(seen.goaways);
    }
    told.sort_unstable();
    assert_eq!(told.len(), 20, "each is told once");
    let (early, late) =
        (told.iter().filter(|ms| **ms < 200).count(), told.iter().filter(|ms| **ms >= 400).count());
    assert!(early >= 3 && late >= 3 && told[19] <= 600, "not spread: {told:?}");
    // Done: the next one is heard, and may name a number instead.
    let (status, answer) =
        call(b.internal, "POST", "/api/v1/shed", Some(&json!({ "count": 1_000, "spread_ms": 0 }))).await;
    assert_eq!(status, 200, "{answer}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shed_is_refused() {
    let cluster = Cluster::new();
    let a = cluster.node("a", &[]).await;
    for bad in [
        json!({}),
        json!({ "share": 0 }),
        json!({ "share": 1.5 }),
        json!({ "share": 0.5, "count": 3 }),
        json!({ "count": 0 }),
        json!({ "count": 1, "spread_ms": 3_600_001 }),
        json!({ "all": true }),
    ] {
        let (status, answer) = call(a.internal, "POST", "/api/v1/shed", Some(&bad)).await;
        assert_eq!((status, &answer["code"]), (400, &json!("bad_frame")), "{bad}: {answer}");
    }
    let (status, answer) = call(a.internal, "POST", "/api/v1/shed", Some(&json!({ "share": 1 }))).await;
    assert_eq!((status, &answer["shed"]), (200, &json!(0)), "nobody is there");
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_drained_by_its_operator_stays_not_ready_until_it_is_ended() {
    let cluster = Cluster::new();
    let settings = [("drain.balancer_delay", "400ms"), ("drain.spread", "200ms")];
    let (a, b) = (cluster.node("a", &settings).await, cluster.node("b", &[]).await);
    let mut client = Client::guest(a.public, Speak::Json).await;
    client.ok(json!({ "op": "join", "room": ROOM })).await;
    let asked = Instant::now();
    let (status, answer) = call(a.internal, "POST", "/api/v1/drain", None).await;
    assert_eq!((status, &answer), (202, &json!({ "draining": true, "connections": 1 })));
    let (again, _) = call(a.internal, "POST", "/api/v1/drain", None).await;
    assert_eq!(again, 202, "asked twice it is the same drain");
    while call(a.internal, "GET", "/readyz", None).await.0 == 200 {
        assert!(asked.elapsed() < Duration::from_millis(400), "ready until it drains");
        sleep(Duration::from_millis(5)).await;
    }
    // The balancer has not noticed yet: whom it still sends is served.
    drop(Client::guest(a.public, Speak::Json).await);
    let goaway = client.push_of("goaway").await;
    assert!(goaway["retry_ms"].as_u64().is_some_and(|ms| ms <= 200), "{goaway}");
    assert!(asked.elapsed() >= Duration::from_millis(400), "{:?}", asked.elapsed());
    assert_eq!(client.close_code().await, Some(1012));
    let refused = Client::try_open(a.public, Speak::Json).await.err();
    assert_eq!(refused, Some(Refused { status: 503, retry_after: Some(Duration::from_secs(1)) }));
    sleep(Duration::from_millis(700)).await;
    assert_eq!(call(a.internal, "GET", "/livez", None).await.0, 200, "the process lives");
    assert_eq!(call(a.internal, "GET", "/readyz", None).await.0, 503);
    let (_, stats) = call(a.internal, "GET", "/api/v1/stats", None).await;
    let draining = |name: &str| {
        let nodes = stats["nodes"].as_array().expect("a list");
        nodes.iter().find(|node| node["node"] == name).map(|node| node["draining"].clone())
    };
    assert_eq!((draining("a"), draining("b")), (Some(json!(true)), Some(json!(false))));
    let (status, answer) = call(a.internal, "POST", "/api/v1/shed", Some(&json!({ "share": 1 }))).await;
    assert_eq!((status, &answer["code"]), (409, &json!("conflict")));
    let ended = Instant::now();
    a.stop().await;
    assert!(ended.elapsed() < PATIENCE / 2, "what drained already stops at once: {:?}", ended.elapsed());
    b.stop().await;
}
