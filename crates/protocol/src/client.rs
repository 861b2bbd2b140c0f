//! What a client says: one frame is one operation.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{Data, Epoch, Offset, Position, RoomName};

/// One frame of a client. Without `id` it gets no answer unless it fails.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClientFrame {
    /// The client's number for the answer: from 1, rising.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// What is asked for.
    #[serde(flatten)]
    pub op: Op,
}

macro_rules! ops {
    ($($(#[$doc:meta])* $variant:ident($body:ty) = $name:literal;)*) => {
        /// An operation with its fields.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "op")]
        pub enum Op { $($(#[$doc])* #[serde(rename = $name)] $variant($body),)* }

        /// Which operation: a bounded label for limits and metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum OpKind { $($(#[$doc])* $variant,)* }

        impl Op {
            /// Which operation this is.
            pub const fn kind(&self) -> OpKind {
                match self { $(Op::$variant(_) => OpKind::$variant,)* }
            }
        }

        impl OpKind {
            /// Every operation, in the order of the documentation.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$variant),*];

            /// The name on the wire and in metric labels.
            pub const fn as_str(self) -> &'static str {
                match self { $(OpKind::$variant => $name,)* }
            }

            /// The operation of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(OpKind::$variant),)* _ => None }
            }

            /// Reads the fields of this operation from any self-describing format.
            pub fn deserialize_body<'de, D: serde::Deserializer<'de>>(self, from: D) -> Result<Op, D::Error> {
                Ok(match self { $(OpKind::$variant => Op::$variant(Deserialize::deserialize(from)?),)* })
            }
        }
    };
}

ops! {
    /// Says who the client is; always first.
    Connect(Connect) = "connect";
    /// Replaces the token before it expires.
    Refresh(Refresh) = "refresh";
    /// Joins a room.
    Join(Join) = "join";
    /// Leaves a room.
    Leave(Leave) = "leave";
    /// Publishes a must-deliver event.
    Publish(Publish) = "publish";
    /// Sends a fleeting signal to the members of a room.
    Signal(Signal) = "signal";
    /// Reads past events.
    History(History) = "history";
    /// Reads who is in a room.
    Presence(Presence) = "presence";
    /// Asks whether the server is there.
    Ping(Ping) = "ping";
    /// Likes a target, or takes the like back.
    Like(Like) = "like";
    /// Adds to a counter.
    Count(Count) = "count";
    /// Stores a comment.
    Comment(Comment) = "comment";
    /// Approves or rejects a comment.
    Moderate(Moderate) = "moderate";
    /// Moves an upload forward.
    Upload(Upload) = "upload";
    /// Holds stock.
    Reserve(Reserve) = "reserve";
    /// Turns a hold into a sale.
    Confirm(Confirm) = "confirm";
    /// Gives a hold back.
    Release(Release) = "release";
    /// Takes a unique name.
    Claim(Claim) = "claim";
    /// Writes a versioned document.
    Put(DocPut) = "put";
    /// Reads a versioned document.
    Get(DocGet) = "get";
    /// Reads the figures of the whole cluster.
    Stats(Stats) = "stats";
    /// Reads the comments that wait for a moderator.
    Queue(Queue) = "queue";
    /// Reads who did what.
    Audit(Audit) = "audit";
    /// Drains a node.
    Drain(Drain) = "drain";
    /// Sends a share of a node's connections to others.
    Shed(Shed) = "shed";
    /// Closes connections.
    Disconnect(Disconnect) = "disconnect";
}

impl Op {
    /// The room that the operation names, if it names one.
    pub fn room(&self) -> Option<&RoomName> {
        match self {
            Op::Join(op) => Some(&op.room),
            Op::Leave(op) => Some(&op.room),
            Op::Publish(op) => Some(&op.room),
            Op::Signal(op) => Some(&op.room),
            Op::History(op) => Some(&op.room),
            Op::Presence(op) => Some(&op.room),
            Op::Like(op) => Some(&op.room),
            Op::Count(op) => Some(&op.room),
            Op::Comment(op) => Some(&op.room),
            Op::Moderate(op) => Some(&op.room),
            Op::Upload(op) => Some(&op.room),
            Op::Reserve(op) => Some(&op.room),
            Op::Put(op) => Some(&op.room),
            Op::Get(op) => Some(&op.room),
            Op::Queue(op) => op.room.as_ref(),
            Op::Connect(_)
            | Op::Refresh(_)
            | Op::Ping(_)
            | Op::Confirm(_)
            | Op::Release(_)
            | Op::Claim(_)
            | Op::Stats(_)
            | Op::Audit(_)
            | Op::Drain(_)
            | Op::Shed(_)
            | Op::Disconnect(_) => None,
        }
    }
}

macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_doc])* #[serde(skip_serializing_if = "Absent::absent")] pub $field: $type,)*
        }
    )*};
}

bodies! {
    /// Fields of `connect`. Neither token nor ticket: a guest.
    Connect {
        /// A JWT.
        token: Option<String>,
        /// A single-use ticket.
        ticket: Option<String>,
        /// The secret that an earlier `connect` gave to this guest.
        guest: Option<String>,
    }
    /// Fields of `refresh`.
    Refresh {
        /// The new JWT, of the same subject.
        token: String,
    }
    /// Fields of `join`.
    Join {
        /// The room.
        room: RoomName,
        /// The last position seen: everything after it is wanted.
        since: Option<Since>,
        /// How many of the newest events are wanted.
        recent: Option<u32>,
    }
    /// Fields of `leave`.
    Leave {
        /// The room.
        room: RoomName,
    }
    /// Fields of `publish`.
    Publish {
        /// The room.
        room: RoomName,
        /// What kind of event, 1 to 128 characters.
        event: String,
        /// The payload.
        data: Data,
        /// Makes a retry harmless, at most 128 characters.
        key: Option<String>,
    }
    /// Fields of `signal`.
    Signal {
        /// The room.
        room: RoomName,
        /// What kind of signal, 1 to 128 characters.
        event: String,
        /// The payload.
        data: Data,
    }
    /// Fields of `history`.
    History {
        /// The room.
        room: RoomName,
        /// Events after this position, oldest first.
        since: Option<Since>,
        /// Events before this offset, newest last.
        before: Option<u64>,
        /// How many at most.
        limit: Option<u32>,
    }
    /// Fields of `presence`.
    Presence {
        /// The room.
        room: RoomName,
        /// Where the last page ended.
        cursor: Option<String>,
        /// How many members at most.
        limit: Option<u32>,
    }
    /// `ping` has no fields.
    Ping {}
    /// Fields of `like`.
    Like {
        /// The room.
        room: RoomName,
        /// What is liked.
        target: String,
        /// True to like, false to take it back.
        on: bool,
    }
    /// Fields of `count`.
    Count {
        /// The room.
        room: RoomName,
        /// What is counted.
        target: String,
        /// Which counter of it.
        counter: String,
        /// How much to add, 1 to 100.
        by: u32,
        /// Makes a retry harmless.
        key: Option<String>,
    }
    /// Fields of `comment`.
    Comment {
        /// The room.
        room: RoomName,
        /// What is commented on.
        target: String,
        /// The comment.
        text: String,
        /// Makes a retry harmless.
        key: Option<String>,
    }
    /// Fields of `moderate`.
    Moderate {
        /// The room.
        room: RoomName,
        /// The comment.
        comment: String,
        /// `approve` or `reject`.
        decision: String,
        /// The version that was looked at.
        version: u64,
    }
    /// Fields of `upload`.
    Upload {
        /// The room.
        room: RoomName,
        /// What is uploaded.
        target: String,
        /// `started`, `progress`, `complete` or `failed`.
        state: String,
        /// How far, 0 to 100.
        progress: Option<u32>,
    }
    /// Fields of `reserve`.
    Reserve {
        /// The room.
        room: RoomName,
        /// The item.
        item: String,
        /// How many.
        quantity: u32,
        /// Makes a retry harmless.
        key: String,
    }
    /// Fields of `confirm`.
    Confirm {
        /// The reservation.
        reservation: String,
    }
    /// Fields of `release`.
    Release {
        /// The reservation.
        reservation: String,
    }
    /// Fields of `claim`.
    Claim {
        /// Within which names are unique.
        scope: String,
        /// The name wanted.
        name: String,
    }
    /// Fields of `put`.
    DocPut {
        /// The room.
        room: RoomName,
        /// The document.
        doc: String,
        /// Its new value.
        value: Data,
        /// The version that this one replaces; 0 for a new document.
        version: u64,
    }
    /// Fields of `get`.
    DocGet {
        /// The room.
        room: RoomName,
        /// The document.
        doc: String,
    }
    /// `stats` has no fields.
    Stats {}
    /// Fields of `queue`.
    Queue {
        /// The room; without, all in which comments have waited lately.
        room: Option<RoomName>,
        /// Where the last page ended; only with a room.
        cursor: Option<String>,
        /// How many comments at most.
        limit: Option<u32>,
    }
    /// Fields of `audit`.
    Audit {
        /// Entries before this number, newest last.
        before: Option<u64>,
        /// How many at most.
        limit: Option<u32>,
    }
    /// Fields of `drain`.
    Drain {
        /// Which node.
        node: String,
    }
    /// Fields of `shed`.
    Shed {
        /// Which node.
        node: String,
        /// Which part of its connections, above 0 and at most 1.
        share: Option<f64>,
        /// Or how many.
        count: Option<u64>,
        /// Over how long, in milliseconds.
        spread_ms: Option<u64>,
    }
    /// Fields of `disconnect`: whoever matches any of them.
    Disconnect {
        /// Of this user.
        user: Option<String>,
        /// With this session id.
        session: Option<String>,
        /// From this address.
        ip: Option<String>,
    }
}

/// The position after which a client wants events.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Since {
    /// The epoch of the join reply or the last `reset`.
    pub epoch: Epoch,
    /// The offset of the last event seen.
    pub offset: Offset,
}

impl<'de> Deserialize<'de> for Since {
    /// Reads an object only: the derived reader would take an array as well.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SinceVisitor)
    }
}

struct SinceVisitor;

impl<'de> de::Visitor<'de> for SinceVisitor {
    type Value = Since;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of epoch and offset")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Since, A::Error> {
        let position = Position::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(Since { epoch: position.epoch, offset: position.offset })
    }
}

impl From<Since> for Position {
    fn from(since: Since) -> Self {
        Position { epoch: since.epoch, offset: since.offset }
    }
}

/// Which fields are left out of a frame: options that hold nothing.
trait Absent {
    fn absent(&self) -> bool {
        false
    }
}

impl<T> Absent for Option<T> {
    fn absent(&self) -> bool {
        self.is_none()
    }
}

impl Absent for RoomName {}
impl Absent for String {}
impl Absent for Data {}
impl Absent for bool {}
impl Absent for u32 {}
impl Absent for u64 {}
