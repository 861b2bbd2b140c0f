//! How events travel between nodes: one face over the in-process bus and Redis.
//!
//! A broker stores a room's events in order, and tells every node that is subscribed to the room. It never
//! imports the hub: what arrives is handed out through [`Broker::feed`].

use std::sync::Arc;

use roomcast_core::permission::HistoryRules;
use roomcast_protocol::{CounterValue, Data, Event, Member, Position, PresenceCount, RoomName};
use serde::{Deserialize, Serialize};

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
    /// The subscription was interrupted and stands again: any subscribed room may have missed something.
    Interrupted,
}

/// What one node tells all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// A live node as the others know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its id.
    pub node: String,
    /// Its figures, as JSON, opaque to the broker.
    pub stats: serde_json::Value,
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
