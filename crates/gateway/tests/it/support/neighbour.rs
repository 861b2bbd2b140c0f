//! Somebody else on the same node, who must see nothing of what a test does to it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::json;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    api::{Api, Metrics, rose_by},
    client::{Client, PATIENCE, Speak},
    node::{TestNode, token},
};

/// The room in which neighbours sit.
pub const ROOM: &str = "event:wall";
/// Where neighbours connect from: no test connects from there.
pub const NEIGHBOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 99));
const BEAT: Duration = Duration::from_millis(25);
/// Some limits count frames: a neighbour speaks rarely.
const BEATS_PER_PING: u64 = 6;

/// A member of [`ROOM`] that hears every event of it in order, and is answered, until it is asked how it was.
pub struct Neighbour {
    stop: oneshot::Sender<()>,
    task: JoinHandle<u64>,
}

impl Neighbour {
    pub async fn of(node: &TestNode) -> Self {
        Self::between(node.public, node.internal, &token("neighbour", "member", Duration::from_secs(600)))
            .await
    }

    /// One that listens on one node while a back end publishes on another.
    #[allow(clippy::disallowed_methods, reason = "the task is joined when the neighbour is asked how it was")]
    pub async fn between(listens: SocketAddr, publishes: SocketAddr, token: &str) -> Self {
        let mut client =
            Client::open_from(NEIGHBOUR, listens, Speak::Json).await.expect("there is room for a neighbour");
        client.ok(json!({ "op": "connect", "token": token })).await;
        let joined = client.ok(json!({ "op": "join", "room": ROOM })).await;
        let last = joined["offset"].as_u64().expect("an offset");
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(live(client, Api::new(publishes), last, stopped));
        Self { stop, task }
    }

    /// Everything came, once and in order, and still does.
    pub async fn unharmed(self) {
        self.stop.send(()).expect("the neighbour lives");
        match timeout(PATIENCE, self.task).await.expect("the neighbour is served in time") {
            Ok(beats) => assert!(beats > 0, "the neighbour heard nothing at all"),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

async fn live(mut client: Client, mut api: Api, mut last: u64, mut stop: oneshot::Receiver<()>) -> u64 {
    let mut beats = 0;
    loop {
        // Asked before the beat, so that one more beat comes after whatever the test did.
        let done = stop.try_recv().is_ok();
        let body = json!({ "room": ROOM, "event": "beat", "data": beats });
        let published = api.ok("/api/v1/publish", &body).await["offset"].as_u64().expect("an offset");
        while last < published {
            let event = client.push_of("event").await;
            assert_eq!(event["offset"], last + 1, "the neighbour misses an event: {event}");
            last += 1;
            if last == published {
                assert_eq!((&event["event"], &event["data"]), (&json!("beat"), &json!(beats)));
            }
        }
        if beats % BEATS_PER_PING == 0 {
            client.ok(json!({ "op": "ping" })).await;
        }
        beats += 1;
        if done {
            return beats;
        }
        sleep(BEAT).await;
    }
}

/// A node with a neighbour on it, and its metrics from before.
pub struct Scene {
    pub node: TestNode,
    neighbour: Neighbour,
    before: Metrics,
}

impl Scene {
    pub async fn new(settings: &[(&str, &str)]) -> Self {
        let node = TestNode::alone(settings).await;
        let neighbour = Neighbour::of(&node).await;
        Self::with(node, neighbour).await
    }

    pub async fn with(node: TestNode, neighbour: Neighbour) -> Self {
        let before = Metrics::scrape(node.internal).await;
        Self { node, neighbour, before }
    }

    pub fn public(&self) -> SocketAddr {
        self.node.public
    }

    pub fn api(&self) -> Api {
        Api::new(self.node.internal)
    }

    /// The series rose since the scene began.
    pub async fn rose(&self, series: &str) {
        self.rose_by(series, 1).await;
    }

    pub async fn rose_by(&self, series: &str, by: u32) {
        rose_by(self.node.internal, &self.before, series, by).await;
    }

    /// The neighbour saw nothing of it.
    pub async fn end(self) {
        self.neighbour.unharmed().await;
        self.node.leave();
    }
}
