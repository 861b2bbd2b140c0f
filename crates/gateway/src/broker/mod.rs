//! How events travel between nodes: one face over the in-process bus and Redis.
//!
//! A broker stores a room's events in order, and tells every node that is subscribed to the room. It never
//! imports the hub: what arrives is handed out through [`Broker::take_feed`]. It does not repair what was lost on
//! the way; it says [`Feed::Interrupted`], and the reader fills the gap from [`Broker::history`].

mod feed;
pub mod local;
mod payload;
pub mod redis;
mod scope;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use roomcast_core::permission::HistoryRules;
use roomcast_protocol::{CounterValue, Data, Event, Member, Position, PresenceCount, RoomName};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::random;
use local::LocalBroker;
use redis::RedisBroker;
pub use scope::{Scope, Slots};

/// Events that one [`Page`] holds at most, whatever was asked for: what comes after is on the next page.
pub const MAX_PAGE: usize = 1_000;
/// Members that one page of [`Broker::presence_members`] holds at most.
pub const MAX_MEMBERS: usize = 1_000;

/// One node's handle on the broker: cheap to clone, usable from any thread and runtime.
#[derive(Debug, Clone)]
pub enum Broker {
    /// The in-process bus.
    Local(LocalBroker),
    /// Redis.
    Redis(RedisBroker),
}

/// Does the same on whichever broker it is.
macro_rules! each {
    ($self:ident, $broker:ident => $call:expr) => {
        match $self {
            Broker::Local($broker) => $call,
            Broker::Redis($broker) => $call,
        }
    };
}

impl Broker {
    /// Appends an event to the room's log and tells all subscribers, in one step.
    ///
    /// [`BrokerError::Unavailable`] with `maybe_applied` leaves its fate open: with a `key` it may be sent again.
    pub async fn publish(&self, publication: &Publication) -> Result<Published, BrokerError> {
        each!(self, broker => broker.publish(publication).await)
    }

    /// The same for events of one room, in their order and in one step: all of them stand behind one another. Each
    /// succeeds or fails by itself where its key decides it.
    pub async fn publish_all(
        &self,
        publications: &[Publication],
    ) -> Result<Vec<Result<Published, BrokerError>>, BrokerError> {
        each!(self, broker => broker.publish_all(publications).await)
    }

    /// The same as [`Broker::publish`], and the key is remembered for so long instead of ten minutes. The in-process bus, which outlives
    /// nothing, keeps to its ten minutes.
    pub async fn publish_remembered(
        &self,
        publication: &Publication,
        remember: Duration,
    ) -> Result<Published, BrokerError> {
        match self {
            Self::Local(broker) => broker.publish(publication).await,
            Self::Redis(broker) => broker.publish_remembered(publication, remember).await,
        }
    }

    /// Tells all subscribers something that is not kept.
    pub async fn signal(
        &self,
        room: &RoomName,
        event: &str,
        data: &Data,
        from: Option<&str>,
    ) -> Result<(), BrokerError> {
        each!(self, broker => broker.signal(room, event, data, from).await)
    }

    /// Reads a part of the room's past together with where its log stands, in one step. A room without a log gets
    /// its epoch here. With [`Range::Since`] at least one event is read where there is one; never more than
    /// [`MAX_PAGE`].
    pub async fn history(
        &self,
        room: &RoomName,
        range: &Range,
        history: HistoryRules,
    ) -> Result<Page, BrokerError> {
        each!(self, broker => broker.history(room, range, history).await)
    }

    /// Where the logs of these rooms stand, in the order asked; none for a room without a log. Keeps the positions
    /// of quiet rooms from expiring.
    pub async fn tails(&self, rooms: &[RoomName]) -> Result<Vec<Option<Position>>, BrokerError> {
        each!(self, broker => broker.tails(rooms).await)
    }

    /// Subscribes this node to a room. Returns only when what is published from now on is certain to arrive.
    pub async fn subscribe(&self, room: &RoomName) -> Result<(), BrokerError> {
        each!(self, broker => broker.subscribe(room).await)
    }

    /// Ends the subscription. What is on its way may still arrive.
    pub async fn unsubscribe(&self, room: &RoomName) -> Result<(), BrokerError> {
        each!(self, broker => broker.unsubscribe(room).await)
    }

    /// Whether an interruption of this scope concerns the room.
    pub fn concerns(&self, scope: &Scope, room: &RoomName) -> bool {
        match (scope, self) {
            (Scope::All, _) | (_, Self::Local(_)) => true,
            (Scope::Slots(slots), Self::Redis(broker)) => slots.contains(broker.slot(room)),
        }
    }

    /// What arrives for this node, in the order received. Given out once.
    ///
    /// It is bounded: what a slow reader has no room for is dropped and counted, and [`Feed::Interrupted`] stands
    /// in its place. Controls are kept aside and follow later.
    pub fn take_feed(&self) -> Option<mpsc::Receiver<Feed>> {
        each!(self, broker => broker.take_feed())
    }

    /// Tells every node, this one included.
    pub async fn control(&self, control: &Control) -> Result<(), BrokerError> {
        each!(self, broker => broker.control(control).await)
    }

    /// Renews this node's lease and tells its figures; answers with every live node, ordered by id. A change in the
    /// set of live nodes, and the loss of this node's own lease, is told as [`Control::NodesChanged`]: counts have to
    /// be looked at again, and presence told anew with `replace`.
    pub async fn heartbeat(&self, report: &NodeReport) -> Result<Vec<NodeReport>, BrokerError> {
        each!(self, broker => broker.heartbeat(report).await)
    }

    /// Keeps this node's figures for whoever asks, and answers those of every live node, ordered by id, where they are
    /// wanted. Between two heartbeats; a node without a lease is not in the answer.
    pub async fn figures(&self, report: &NodeReport, want: Want) -> Result<Vec<NodeReport>, BrokerError> {
        each!(self, broker => broker.figures(report, want).await)
    }

    /// Gives up this node's lease and presence, at a clean stop.
    pub async fn goodbye(&self) -> Result<(), BrokerError> {
        each!(self, broker => broker.goodbye().await)
    }

    /// Tells who of this node is in the room, and pushes the new counts to all subscribers unless that happened less
    /// than `interval` ago.
    pub async fn presence_update(
        &self,
        room: &RoomName,
        update: &PresenceUpdate,
        interval: Duration,
    ) -> Result<PresenceState, BrokerError> {
        each!(self, broker => broker.presence_update(room, update, interval).await)
    }

    /// One page of the room's members over all live nodes, by user id: those after `cursor`, at most `limit` and
    /// never more than [`MAX_MEMBERS`].
    pub async fn presence_members(
        &self,
        room: &RoomName,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Members, BrokerError> {
        each!(self, broker => broker.presence_members(room, cursor, limit).await)
    }

    /// Counts one more connection of this node under `key`, and answers how many that makes on this node. Each is to
    /// be given back by [`Broker::release_address`].
    pub fn hold_address(&self, key: &Arc<str>) -> u64 {
        each!(self, broker => broker.hold_address(key))
    }

    /// Whether what this node holds under `key` fits under the cap, beside what the other live nodes hold; where it
    /// does, they count it from now on. One round trip. It may be given up at any time: then, as after an error, the
    /// others hear of it soon after, unless it is released.
    pub async fn claim_address(&self, key: &Arc<str>, cap: u64) -> Result<Claim, BrokerError> {
        each!(self, broker => broker.claim_address(key, cap).await)
    }

    /// One connection less. The other nodes hear of it soon.
    pub fn release_address(&self, key: &Arc<str>) {
        each!(self, broker => broker.release_address(key));
    }

    /// Removes what the broker keeps of the room, starts a new epoch, and tells the members.
    pub async fn end_room(&self, room: &RoomName, reason: &str) -> Result<Position, BrokerError> {
        each!(self, broker => broker.end_room(room, reason).await)
    }

    /// Ends the broker's tasks and connections. Say [`Broker::goodbye`] before.
    pub async fn shutdown(&self) {
        match self {
            Broker::Local(_) => {}
            Broker::Redis(broker) => broker.shutdown().await,
        }
    }

    /// How the broker is.
    pub fn health(&self) -> Health {
        each!(self, broker => broker.health())
    }

    /// Which server has what is kept under this key, or under the keys with this hash tag.
    pub fn owner(&self, place: &str) -> Owner {
        match self {
            Self::Local(_) => Owner::Only,
            Self::Redis(broker) => broker.owner(place),
        }
    }

    /// How one server is, as far as is known; the broker as a whole where it is the only one.
    pub fn health_of(&self, owner: &Owner) -> Health {
        match (self, owner) {
            (Self::Redis(broker), Owner::Server(server)) => broker.health_of(server),
            _ => self.health(),
        }
    }
}

/// One server behind the broker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    /// There is one only, whichever it is at the moment.
    Only,
    /// The one of a cluster at this address.
    Server(Arc<str>),
    /// None that is known has it.
    Nobody,
}

/// How the broker is, as seen from this node.
#[derive(Debug, Clone, Copy)]
pub struct Health {
    /// Whether commands are answered and what is published arrives.
    pub usable: bool,
    /// Since when `usable` is what it is.
    pub since: Instant,
    /// How often the subscription was lost and stands again.
    pub reconnects: u64,
    /// How long the last probe took from this node through the broker and back.
    pub last_lag: Option<Duration>,
}

/// What is to be published.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Where.
    pub room: RoomName,
    /// What kind of event.
    pub event: String,
    /// The payload.
    pub data: Data,
    /// The user behind it.
    pub from: Option<String>,
    /// Makes a retry harmless for ten minutes.
    pub key: Option<String>,
    /// How much of the room's past is kept.
    pub history: HistoryRules,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where the event stands.
    pub position: Position,
    /// The key was seen before: nothing new was stored.
    pub duplicate: bool,
}

/// Which part of a room's past is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range {
    /// Everything after a position, oldest first; at most so many.
    Since(Position, usize),
    /// The newest so many.
    Recent(usize),
    /// So many before an offset.
    Before(u64, usize),
}

/// A part of a room's past, read in one step with where the log stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The log's epoch and last offset at the moment of reading.
    pub tail: Position,
    /// Oldest first.
    pub events: Vec<Event>,
    /// With [`Range::Since`]: whether nothing is missing between the position and the first event. False too when the epoch is another.
    pub complete: bool,
}

/// What arrives from the broker.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// A must-deliver event with its epoch.
    Event(roomcast_protocol::Epoch, Event),
    /// A fleeting signal.
    Signal {
        /// What kind.
        event: String,
        /// The payload.
        data: Data,
        /// Who.
        from: Option<String>,
    },
    /// A counter's latest value.
    Count(CounterValue),
    /// The latest presence counts.
    Presence(PresenceCount),
    /// The room was ended by an operator: its log starts again at this position.
    Ended(Position, String),
}

/// One item of the feed.
#[derive(Debug, Clone)]
pub enum Feed {
    /// Something for the members of a room.
    Delivery(RoomName, Delivery),
    /// Something for every node.
    Control(Control),
    /// A subscription was interrupted and stands again: these rooms may have missed something.
    Interrupted(Scope),
}

/// What one node tells all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "control", rename_all = "snake_case")]
pub enum Control {
    /// Close the connections that match any of these.
    Disconnect {
        /// Of this user.
        user: Option<String>,
        /// With this session id.
        session: Option<String>,
        /// From this address.
        ip: Option<std::net::IpAddr>,
    },
    /// One node is to drain, as its operator asked.
    Drain {
        /// Which, by its configured id.
        node: String,
        /// Who asked.
        by: String,
    },
    /// One node is to send a part of its connections to others.
    Shed {
        /// Which, by its configured id.
        node: String,
        /// Which part of them, above 0 and at most 1 …
        share: Option<f64>,
        /// … or how many.
        count: Option<u64>,
        /// Over how long; else as the node is configured.
        spread_ms: Option<u64>,
        /// Who asked.
        by: String,
    },
    /// Somebody was muted or banned, or is no longer: read the list again.
    Restrictions,
    /// The set of live nodes changed (made by the broker itself from its heartbeat, not sent).
    NodesChanged,
}

/// A change to who is in a room on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PresenceUpdate {
    /// This node's open connections in the room, after the change.
    pub connections: u64,
    /// Users of this node that are new in the room, or whose number of connections changed, with that number.
    pub present: Vec<(String, u64)>,
    /// Users of this node that have gone.
    pub gone: Vec<String>,
    /// Replace all that is known of this node in the room, rather than change it.
    pub replace: bool,
}

/// What came of a presence update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresenceState {
    /// Counts over all live nodes.
    pub count: PresenceCount,
    /// Whether a presence push went out; false when one went out less than the interval ago.
    pub published: bool,
}

/// What came of [`Broker::claim_address`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It fits.
    Admitted,
    /// It is one too many.
    Full,
}

/// One page of a room's members, by user id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// Counts over all live nodes.
    pub count: PresenceCount,
    /// The page.
    pub members: Vec<Member>,
    /// Where the next page starts; none on the last.
    pub cursor: Option<String>,
}

/// A room at one moment.
#[derive(Debug, Clone)]
pub struct RoomSnapshot {
    /// Where its log stands.
    pub tail: Position,
    /// Counts over all live nodes.
    pub presence: PresenceCount,
    /// What it counts, as the counters' store keeps it.
    pub counters: Vec<String>,
    /// What it offers, in the same way.
    pub items: Vec<String>,
}

/// A live node as the others know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its id.
    pub node: String,
    /// Its figures, as JSON, opaque to the broker.
    pub stats: serde_json::Value,
}

/// Whether all nodes' figures are wanted, or only told one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Answer them all.
    All,
    /// Answer none.
    None,
}

/// Why a broker call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// It can't be reached, or is too busy. Where nothing was sent, nothing was applied.
    #[error("the broker is unavailable: {cause}")]
    Unavailable {
        /// Whether the command may have been applied all the same (its answer was lost).
        maybe_applied: bool,
        /// What happened, without secrets.
        cause: Arc<str>,
    },
    /// This node has as many commands under way as it may: nothing was sent, and nothing is wrong with the broker.
    #[error("too many commands are in flight")]
    Busy,
    /// The key was used with another body.
    #[error("the idempotency key was used with another body")]
    KeyReused,
    /// The broker refused the subscription or command (ACL).
    #[error("the broker denies it: {0}")]
    Denied(Arc<str>),
    /// The broker answered what it never should.
    #[error("the broker answered nonsense: {0}")]
    Internal(Arc<str>),
}

impl BrokerError {
    /// Nothing was sent, nothing was applied.
    pub(crate) fn refused(cause: &str) -> Self {
        Self::Unavailable { maybe_applied: false, cause: cause.into() }
    }
}

/// A candidate for a room's epoch: 64 random bits, so that no two lives of a log are taken for one.
pub(crate) fn new_epoch() -> Result<String, BrokerError> {
    random::try_epoch().map_err(|error| BrokerError::Internal(error.to_string().into()))
}
