//! Thousands who come at once: they are taken at the node's own pace, and nobody who is there already notices.

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use crate::support::{Client, Speak, TestNode, call::call, client::Refused};

const STORM: u32 = 2_000;
const RATE: u32 = 300;
/// Longer than the storm can take at that rate, on a machine with other work.
const LONGEST: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_is_taken_at_the_nodes_pace_and_those_who_are_there_stay_served() {
    let rate = RATE.to_string();
    let settings = [
        ("limits.accept_per_second", rate.as_str()),
        ("limits.connections_per_ip", "unlimited"),
        ("limits.connect_rate_per_ip", "unlimited"),
        ("limits.connect_burst_per_ip", "unlimited"),
    ];
    let node = TestNode::alone(&settings).await;
    let mut there = Client::guest(node.public, Speak::Json).await;
    let done = Arc::new(Semaphore::new(0));
    let began = Instant::now();
    let storm: Vec<_> = (0..STORM)
        .map(|n| {
            // From many addresses: what waits of one is bounded before it is anybody's turn.
            let from = IpAddr::from([127, 0, 20, u8::try_from(n % 100).expect("below 100") + 1]);
            let (to, done) = (node.public, done.clone());
            tokio::spawn(async move {
                let mut refusals = Vec::new();
                loop {
                    match Client::try_open_from(from, to, Speak::MsgPack).await {
                        Ok(client) => {
                            done.add_permits(1);
                            return (client, refusals);
                        }
                        Err(Refused { status, retry_after }) => {
                            assert_eq!(status, 503);
                            let after = retry_after.expect("it is told when to come back");
                            refusals.push(after);
                            sleep(after).await;
                        }
                    }
                }
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    while done.available_permits() < STORM as usize {
        assert!(began.elapsed() < LONGEST, "{} of {STORM} are in", done.available_permits());
        let asked = Instant::now();
        there.ok(json!({ "op": "ping" })).await;
        slowest = slowest.max(asked.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    let took = began.elapsed();
    assert!(slowest < Duration::from_secs(1), "a ping took {slowest:?} during the storm");
    // The first comes at once, each other one a gap later.
    assert!(took >= Duration::from_secs(1) * (STORM - 1) / RATE, "faster than the rate: {took:?}");
    let (mut clients, mut hints) = (Vec::new(), Vec::new());
    for one in storm {
        let (client, refusals) = timeout(LONGEST, one).await.expect("it is in").expect("no panic");
        clients.push(client);
        hints.extend(refusals);
    }
    assert!(!hints.is_empty(), "a storm of five seconds does not fit into a wait of one");
    let distinct: std::collections::BTreeSet<_> = hints.iter().collect();
    assert!(distinct.len() >= 3, "the times to come back are not spread: {distinct:?}");
    let (_, stats) = call(node.internal, "GET", "/api/v1/stats", None).await;
    assert!(stats["total"]["connections"].as_u64().is_some_and(|n| n > u64::from(STORM)), "{stats}");
    drop(clients);
    assert!(there.ok(json!({ "op": "ping" })).await["now"].is_u64());
    node.stop().await;
}
