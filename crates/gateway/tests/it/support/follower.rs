//! A client that follows a room through everything: sent away, it comes back and asks for what it missed.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    Client, Speak,
    client::{PATIENCE, Refused},
};

/// What a follower has seen.
#[derive(Debug, Default)]
pub struct Followed {
    /// The offsets of all events, as they came.
    pub offsets: Vec<u64>,
    /// The nodes it was on.
    pub nodes: Vec<String>,
    /// The `retry_ms` of each `goaway`.
    pub goaways: Vec<u64>,
    /// When and with which code it was closed.
    pub closes: Vec<(Instant, Option<u16>)>,
}

impl Followed {
    /// Every event up to `last`, once and in order.
    pub fn saw_everything(&self, last: u64) -> bool {
        self.offsets.iter().copied().eq(1..=last)
    }
}

/// Follows `room` from its beginning to offset `last`. The n-th connection, from 0, goes to `to(n)`.
pub async fn follow(
    to: impl Fn(usize) -> SocketAddr,
    speak: Speak,
    room: &str,
    last: u64,
    joined: impl FnOnce(),
) -> Followed {
    let mut seen = Followed::default();
    let mut joined = Some(joined);
    let mut since: Option<Value> = None;
    loop {
        let mut client = come_in(to(seen.nodes.len()), speak).await;
        let connected = client.ok(json!({ "op": "connect" })).await;
        seen.nodes.push(connected["node"].as_str().expect("a node's name").to_owned());
        let mut join = json!({ "op": "join", "room": room });
        if let Some(since) = &since {
            join["since"] = since.clone();
        }
        let answer = client.ok(join).await;
        assert_eq!(answer["recovered"], true, "{answer}");
        for event in answer["events"].as_array().expect("a list") {
            seen.offsets.push(event["offset"].as_u64().expect("an offset"));
        }
        if let Some(joined) = joined.take() {
            joined();
        }
        let epoch = answer["epoch"].clone();
        while seen.offsets.last() != Some(&last) {
            let next = match client.pushes.pop_front() {
                Some(push) => Ok(push),
                None => client.frame().await,
            };
            match next {
                Ok(push) if push["push"] == "event" => {
                    seen.offsets.push(push["offset"].as_u64().expect("an offset"));
                }
                Ok(push) if push["push"] == "goaway" => {
                    seen.goaways.push(push["retry_ms"].as_u64().expect("a time"));
                }
                Ok(push) => assert_eq!(push["push"], "presence", "{push}"),
                Err(end) => {
                    seen.closes.push((Instant::now(), end.map(|frame| frame.code.into())));
                    break;
                }
            }
        }
        if seen.offsets.last() == Some(&last) {
            return seen;
        }
        since = Some(json!({ "epoch": epoch, "offset": seen.offsets.last().copied().unwrap_or_default() }));
    }
}

async fn come_in(to: SocketAddr, speak: Speak) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Client::try_open(to, speak).await {
            Ok(client) => return client,
            Err(Refused { status, .. }) => {
                assert!(Instant::now() < deadline, "still refused with {status}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
