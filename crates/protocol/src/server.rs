//! What the server says: replies to frames with an `id`, and pushes that nobody asked for.

use std::sync::OnceLock;

use bytes::Bytes;
use serde::Serialize;

use crate::{Codec, Data, EncodeError, Epoch, ErrorCode, Offset, RoomName};

/// One frame of the server.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ServerFrame {
    /// The answer to a frame that succeeded.
    Ok {
        /// The client's number.
        id: u64,
        /// What was asked for.
        ok: Ok,
    },
    /// The answer to a frame that failed; without `id` when the frame had none.
    Error {
        /// The client's number.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// Why.
        error: Failure,
    },
    /// What nobody asked for.
    Push(Push),
}

/// Why a frame failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// For programs.
    pub code: ErrorCode,
    /// For people: one sentence.
    pub message: String,
    /// When a retry makes sense, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
    /// What stands, where a `conflict` can say so: an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Data>,
}

impl Failure {
    /// A failure that waiting does not cure.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_ms: None, current: None }
    }

    /// A failure that is over after `retry_ms` milliseconds.
    pub fn retry(code: ErrorCode, message: impl Into<String>, retry_ms: u64) -> Self {
        Self { code, message: message.into(), retry_ms: Some(retry_ms), current: None }
    }

    /// With what stands.
    pub fn with_current(self, current: Option<Data>) -> Self {
        Self { current, ..self }
    }
}

/// What an operation answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Ok {
    /// To `connect`.
    Connected(Box<Connected>),
    /// To `refresh`.
    Refreshed {
        /// When the new token expires, Unix ms.
        expires_at: u64,
    },
    /// To `join`.
    Joined(Box<Joined>),
    /// To `publish`.
    Published {
        /// The life of the room's log.
        epoch: Epoch,
        /// The number of the event in it.
        offset: Offset,
        /// Present and true when the key was seen before and nothing new was stored.
        #[serde(skip_serializing_if = "is_false")]
        duplicate: bool,
    },
    /// To `history`.
    History {
        /// The life of the room's log.
        epoch: Epoch,
        /// Its last offset.
        offset: Offset,
        /// Oldest first.
        events: Vec<Event>,
    },
    /// To `presence`.
    Presence {
        /// Open connections in the room, cluster-wide.
        connections: u64,
        /// Distinct users among them.
        users: u64,
        /// One page of users, by id.
        members: Vec<Member>,
        /// Where the next page starts; absent on the last.
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
    },
    /// To `ping`.
    Pong {
        /// The server's clock, Unix ms.
        now: u64,
    },
    /// To `like`.
    Like {
        /// Likes of the target.
        value: u64,
        /// Whether this user likes it now.
        on: bool,
        /// The version of `value`.
        version: u64,
    },
    /// To `count`.
    Count {
        /// The counter's value.
        value: u64,
        /// The version of `value`.
        version: u64,
    },
    /// To `comment`.
    Comment {
        /// The comment's id.
        comment: String,
        /// Whether it waits for a moderator.
        pending: bool,
        /// The version a moderator must name.
        version: u64,
        /// When it was stored, Unix ms.
        at: u64,
    },
    /// To `moderate`.
    Moderated {
        /// `approved` or `rejected`.
        state: String,
        /// The comment's version now.
        version: u64,
    },
    /// To `upload`.
    Uploaded {
        /// Where the upload is: as asked, or further where the step came late.
        state: String,
        /// How far, 0 to 100.
        progress: u32,
    },
    /// To `reserve`.
    Reserved {
        /// What `confirm` and `release` name.
        reservation: String,
        /// What is left of the item.
        remaining: u64,
        /// When the hold ends by itself, Unix ms.
        expires_at: u64,
    },
    /// To `confirm` and `release`.
    Settled {
        /// `confirmed`, `released`, or `expired` where a hold was over before it was given back.
        state: String,
        /// What is left of the item.
        remaining: u64,
    },
    /// To `claim`.
    Claimed {
        /// Within which the name is unique.
        scope: String,
        /// The name, now this user's.
        name: String,
    },
    /// To `put`.
    Put {
        /// The document's version now.
        version: u64,
    },
    /// To `get`.
    Doc {
        /// The document.
        value: Data,
        /// Its version, which `put` names.
        version: u64,
    },
    /// To `stats`.
    Stats(Box<ClusterStats>),
    /// To `queue`.
    Queue {
        /// Oldest first in each room.
        comments: Vec<PendingComment>,
        /// Where the next page of the room starts; absent on the last, and where no room was named.
        #[serde(skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
    },
    /// To `audit`.
    Audit {
        /// Oldest first.
        entries: Vec<AuditEntry>,
    },
    /// To `leave`, `signal`, `drain`, `shed` and `disconnect`.
    Empty {},
}

/// What `stats` answers: the whole cluster as its nodes told it last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterStats {
    /// When it was put together, Unix ms.
    pub at: u64,
    /// Sums over all nodes: an object.
    pub total: Data,
    /// Each node's own figures: an object by node id.
    pub nodes: Data,
    /// The rooms with most members, most traffic and most drops: a list.
    pub rooms: Data,
    /// Present and true where the other nodes could not be asked: only the answering node is in it.
    #[serde(skip_serializing_if = "is_false")]
    pub partial: bool,
}

/// A comment that waits for a moderator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PendingComment {
    /// Where.
    pub room: RoomName,
    /// Its id.
    pub comment: String,
    /// What is commented on.
    pub target: String,
    /// The comment.
    pub text: String,
    /// Who wrote it.
    pub user: String,
    /// When it was stored, Unix ms.
    pub at: u64,
    /// What `moderate` names.
    pub version: u64,
}

/// One line of the audit log: who did what, when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Its number in the log.
    pub offset: Offset,
    /// When, Unix ms.
    pub at: u64,
    /// Who: a user, or who called the HTTP API.
    pub by: String,
    /// What: `drain`, `shed`, `moderate`, `notify`, `disconnect`, `ban` and their like.
    pub action: String,
    /// To what: a node, a room, a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The node that did it.
    pub node: String,
}

/// What `connect` answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Connected {
    /// This connection's id.
    pub session: String,
    /// The public id of the user.
    pub user: String,
    /// `guest`, `member`, `admin` or `service`.
    pub role: String,
    /// The guest's secret: who shows it again is the same guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// When the token expires, Unix ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// How often the server pings.
    pub ping_ms: u64,
    /// The node that answers.
    pub node: String,
    /// The limits that this connection is held to.
    pub limits: LimitsInfo,
}

/// The limits a client can plan with; an absent one is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LimitsInfo {
    /// Largest frame in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_bytes: Option<u64>,
    /// Frames per second, sustained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames_per_second: Option<u64>,
    /// Frames at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames_burst: Option<u64>,
    /// Counter operations of each kind per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counter_ops_per_minute: Option<u64>,
    /// Rooms joined at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms_per_socket: Option<u64>,
}

/// What `join` answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Joined {
    /// The life of the room's log.
    pub epoch: Epoch,
    /// The last offset that `events` and the past cover; pushes go on from here.
    pub offset: Offset,
    /// With `since`: whether `events` holds everything missed. Without: true.
    pub recovered: bool,
    /// Missed or recent events, oldest first.
    pub events: Vec<Event>,
    /// Who is there.
    pub presence: PresenceCount,
    /// Current counter values, at most the first thousand targets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<CounterValue>,
}

/// How many are in a room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PresenceCount {
    /// Open connections, cluster-wide.
    pub connections: u64,
    /// Distinct users among them.
    pub users: u64,
}

/// One user in a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The user's public id.
    pub user: String,
    /// Open connections of that user in the room.
    pub connections: u64,
}

/// One counter's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CounterValue {
    /// What is counted.
    pub target: String,
    /// Which counter of it.
    pub counter: String,
    /// The value.
    pub value: u64,
    /// Rises with every change.
    pub version: u64,
}

/// An event as it stands in `events` lists; the `event` push adds `room`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// What kind of event.
    pub event: String,
    /// The payload.
    pub data: Data,
    /// Its number in the room's log.
    pub offset: Offset,
    /// When it was stored, Unix ms.
    pub at: u64,
    /// The user that published it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// What nobody asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "push", rename_all = "snake_case")]
pub enum Push {
    /// A must-deliver event.
    Event {
        /// The room.
        room: RoomName,
        /// The event.
        #[serde(flatten)]
        event: Event,
    },
    /// A fleeting signal.
    Signal {
        /// The room.
        room: RoomName,
        /// What kind of signal.
        event: String,
        /// The payload.
        data: Data,
        /// The user that sent it.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    /// The latest value of a counter.
    Count {
        /// The room.
        room: RoomName,
        /// The value.
        #[serde(flatten)]
        value: CounterValue,
    },
    /// The latest presence counts.
    Presence {
        /// The room.
        room: RoomName,
        /// The counts.
        #[serde(flatten)]
        count: PresenceCount,
    },
    /// Continuity was lost: reload.
    Reset {
        /// The room.
        room: RoomName,
        /// The life of the log from here on.
        epoch: Epoch,
        /// Pushes go on from here.
        offset: Offset,
        /// Why, for people.
        reason: String,
    },
    /// Removed from a room.
    Kicked {
        /// The room.
        room: RoomName,
        /// Why, for people.
        reason: String,
    },
    /// The token runs out soon.
    Expiring {
        /// When, Unix ms.
        expires_at: u64,
    },
    /// This node is going.
    Goaway {
        /// When to reconnect, already spread per client.
        retry_ms: u64,
        /// Why, for people.
        reason: String,
    },
}

/// What may happen to a push when a socket can't keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PushClass {
    /// Never dropped: the socket is closed instead.
    MustDeliver,
    /// Only the latest per key is kept.
    Conflated,
    /// Dropped first.
    Fleeting,
}

impl PushClass {
    /// Every class, in the order of what gives way last.
    pub const ALL: &'static [PushClass] =
        &[PushClass::MustDeliver, PushClass::Conflated, PushClass::Fleeting];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            PushClass::MustDeliver => "must_deliver",
            PushClass::Conflated => "conflated",
            PushClass::Fleeting => "fleeting",
        }
    }
}

impl Push {
    /// The delivery class.
    pub const fn class(&self) -> PushClass {
        match self {
            Push::Event { .. }
            | Push::Reset { .. }
            | Push::Kicked { .. }
            | Push::Expiring { .. }
            | Push::Goaway { .. } => PushClass::MustDeliver,
            Push::Count { .. } | Push::Presence { .. } => PushClass::Conflated,
            Push::Signal { .. } => PushClass::Fleeting,
        }
    }
}

/// A push on its way to many sockets: encoded at most once per codec, however many share it.
#[derive(Debug)]
pub struct SharedPush {
    push: Push,
    json: OnceLock<Bytes>,
    msgpack: OnceLock<Bytes>,
}

impl SharedPush {
    /// Wraps a push; nothing is encoded yet.
    pub fn new(push: Push) -> Self {
        Self { push, json: OnceLock::new(), msgpack: OnceLock::new() }
    }

    /// The push itself.
    pub fn push(&self) -> &Push {
        &self.push
    }

    /// The complete WebSocket frame in that codec.
    pub fn frame(&self, codec: Codec) -> Result<Bytes, EncodeError> {
        let cell = match codec {
            Codec::Json(_) => &self.json,
            Codec::MsgPack(_) => &self.msgpack,
        };
        if let Some(frame) = cell.get() {
            return Ok(frame.clone());
        }
        let frame = codec.encode(&self.push)?;
        Ok(cell.get_or_init(|| frame).clone())
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_false(value: &bool) -> bool {
    !value
}
