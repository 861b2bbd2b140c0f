//! A server frame as a client reads it: for the load generator and for tests.
//!
//! All fields of all pushes and answers stand side by side; which of them are there depends on the frame.

use serde::Deserialize;

use crate::{Data, Epoch, ErrorCode, Message, Offset};

/// Why a server frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// Not the JSON of a server frame.
    #[error("not a JSON server frame")]
    Json(#[from] serde_json::Error),
    /// Not the MessagePack of a server frame.
    #[error("not a MessagePack server frame")]
    MsgPack(#[from] rmp_serde::decode::Error),
}

/// A server frame, read.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Incoming {
    /// The number of the client frame that this answers.
    pub id: Option<u64>,
    /// The answer.
    #[serde(deserialize_with = "Data::deserialize_around")]
    pub ok: Option<Data>,
    /// The failure.
    pub error: Option<IncomingFailure>,
    /// The kind of push.
    pub push: Option<String>,
    /// Where.
    pub room: Option<String>,
    /// The event's kind.
    pub event: Option<String>,
    /// The payload; `null` is one, too.
    #[serde(deserialize_with = "Data::deserialize_some")]
    pub data: Option<Data>,
    /// The event's number.
    pub offset: Option<Offset>,
    /// When, Unix ms.
    pub at: Option<u64>,
    /// Who.
    pub from: Option<String>,
    /// The life of the log (`reset`).
    pub epoch: Option<Epoch>,
    /// Why (`reset`, `kicked`, `goaway`).
    pub reason: Option<String>,
    /// What is counted.
    pub target: Option<String>,
    /// Which counter.
    pub counter: Option<String>,
    /// The counter's value.
    pub value: Option<u64>,
    /// Its version.
    pub version: Option<u64>,
    /// Presence: connections.
    pub connections: Option<u64>,
    /// Presence: distinct users.
    pub users: Option<u64>,
    /// `goaway`: when to come back.
    pub retry_ms: Option<u64>,
    /// `expiring`: when the token ends.
    pub expires_at: Option<u64>,
}

/// A failure, read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct IncomingFailure {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// When to retry.
    #[serde(default)]
    pub retry_ms: Option<u64>,
    /// What stands.
    #[serde(default, deserialize_with = "Data::deserialize_around")]
    pub current: Option<Data>,
}

impl Incoming {
    /// Reads one message of the server.
    pub fn decode(message: Message<'_>) -> Result<Self, IncomingError> {
        Ok(match message {
            Message::Text(text) => serde_json::from_str(text)?,
            Message::Binary(bytes) => rmp_serde::from_slice(bytes)?,
        })
    }
}
