//! Where a contract test runs: nodes on one broker, whichever it is.

use std::{num::NonZeroUsize, time::Duration};

use roomcast_core::permission::HistoryRules;
use roomcast_gateway::{
    broker::{
        Broker, BrokerError, Delivery, Feed, Health, NodeReport, PresenceUpdate, Publication,
        local::LocalBus, redis::RedisBroker,
    },
    config::{Presence, Redis, Secret},
};
use roomcast_protocol::{Data, RoomName};
use tokio::sync::mpsc::Receiver;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::server::RedisServer;

/// Long enough for a loaded machine, and short enough to fail in.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const HISTORY: HistoryRules = HistoryRules { size: 1_000, ttl: Duration::from_secs(3_600) };

/// Leases short enough to see a node die.
pub(crate) const PRESENCE: Presence =
    Presence { rate: 2, heartbeat: Duration::from_millis(200), lease: Duration::from_millis(600) };

/// The broker that a test runs over.
pub(crate) enum World {
    Local(LocalBus),
    Redis(RedisServer),
    /// Servers of somebody else, and how they are made to forget everything.
    Elsewhere(Redis, Box<dyn Fn()>),
}

impl World {
    pub(crate) fn local() -> Self {
        Self::Local(LocalBus::new(PRESENCE))
    }

    pub(crate) fn redis() -> Self {
        Self::Redis(RedisServer::start(&[]))
    }

    pub(crate) fn server(&mut self) -> &mut RedisServer {
        match self {
            World::Redis(server) => server,
            World::Local(_) | World::Elsewhere(..) => panic!("no server here"),
        }
    }

    /// A node that has told its first heartbeat.
    pub(crate) async fn node(&self, name: &str) -> Node {
        let broker = match self {
            World::Local(bus) => Broker::Local(bus.attach(name)),
            World::Redis(server) => Broker::Redis(connect(&server.url(), name).await.unwrap()),
            World::Elsewhere(settings, _) => {
                let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
                Broker::Redis(connect_with(settings, name, &tasks, &cancel).await.unwrap())
            }
        };
        broker.heartbeat(&report(name)).await.unwrap();
        let feed = broker.take_feed().unwrap();
        Node { name: name.to_owned(), broker, feed }
    }

    /// The node is gone without a word.
    pub(crate) async fn kill(&self, node: Node) {
        if let Broker::Redis(broker) = &node.broker {
            broker.shutdown().await;
        }
    }

    /// Everything that is stored is lost.
    pub(crate) async fn lose_all(&mut self, node: &Node, room: &RoomName) {
        match self {
            World::Local(_) => {
                node.broker.end_room(room, "lost").await.unwrap();
            }
            World::Redis(server) => assert_eq!(server.command(&["FLUSHALL"]), "+OK\r\n"),
            World::Elsewhere(_, forget) => forget(),
        }
    }
}

/// Connects a node to Redis.
pub(crate) async fn connect(url: &str, node: &str) -> Result<RedisBroker, BrokerError> {
    connect_with(&settings(url), node, &TaskTracker::new(), &CancellationToken::new()).await
}

pub(crate) async fn connect_with(
    settings: &Redis,
    node: &str,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<RedisBroker, BrokerError> {
    RedisBroker::connect(settings, node, PRESENCE, tasks, cancel).await
}

pub(crate) fn settings(url: &str) -> Redis {
    Redis {
        url: Secret::new(url),
        prefix: "rc".to_owned(),
        ready_grace: Duration::from_secs(10),
        ca_file: None,
        connect_attempts: 2,
        command_timeout: Duration::from_millis(1_500),
        max_in_flight: NonZeroUsize::new(4_096).unwrap(),
        changes: 0,
    }
}

/// A node and its feed.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) broker: Broker,
    pub(crate) feed: Receiver<Feed>,
}

impl Node {
    pub(crate) async fn heartbeat(&self) -> Vec<String> {
        let live = self.broker.heartbeat(&report(&self.name)).await.unwrap();
        live.into_iter().map(|report| report.node).collect()
    }

    pub(crate) async fn publish(&self, room: &RoomName, number: u64) -> u64 {
        self.broker.publish(&numbered(room, number)).await.unwrap().position.offset.0
    }

    /// The next delivery; controls and presence are passed over.
    pub(crate) async fn delivery(&mut self) -> (RoomName, Delivery) {
        let wait = async {
            loop {
                match self.feed.recv().await.expect("the feed stays open") {
                    Feed::Delivery(_, Delivery::Presence(_)) | Feed::Control(_) => {}
                    Feed::Delivery(room, delivery) => return (room, delivery),
                    Feed::Interrupted(_) => panic!("interrupted"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("a delivery in time")
    }

    /// The number and offset of the next event.
    pub(crate) async fn event(&mut self) -> (u64, u64) {
        match self.delivery().await.1 {
            Delivery::Event(_, event) => (event.data.to().unwrap(), event.offset.0),
            other => panic!("no event: {other:?}"),
        }
    }

    /// Waits until the feed brings what matches, passing over the rest.
    pub(crate) async fn until(&mut self, mut matches: impl FnMut(&Feed) -> bool) -> Feed {
        let wait = async {
            loop {
                let item = self.feed.recv().await.expect("the feed stays open");
                if matches(&item) {
                    return item;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it comes in time")
    }

    pub(crate) async fn until_health(&self, mut matches: impl FnMut(Health) -> bool) -> Health {
        let wait = async {
            loop {
                let health = self.broker.health();
                if matches(health) {
                    return health;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("health changes in time")
    }
}

pub(crate) fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

pub(crate) fn report(node: &str) -> NodeReport {
    NodeReport { node: node.to_owned(), stats: serde_json::json!({ "rooms": 1 }) }
}

pub(crate) fn numbered(room: &RoomName, number: u64) -> Publication {
    Publication {
        room: room.clone(),
        event: "n".to_owned(),
        data: Data::of(&number).unwrap(),
        from: Some("ann".to_owned()),
        key: None,
        history: HISTORY,
    }
}

/// These users, with one connection each.
pub(crate) fn present(users: &[&str]) -> PresenceUpdate {
    PresenceUpdate {
        connections: users.len() as u64,
        present: users.iter().map(|user| ((*user).to_owned(), 1)).collect(),
        gone: Vec::new(),
        replace: false,
    }
}
