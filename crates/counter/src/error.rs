//! The one error of this crate, in the caller's terms: what was wrong, and whether anything may have happened.

use std::fmt;

use thiserror::Error;

/// Why an operation did not succeed. Except for `Unavailable { maybe_applied: true }`, nothing was applied.
#[derive(Debug, Error)]
pub enum CounterError {
    /// A field breaks its rule.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// The idempotency key was used with another body.
    #[error("this key was already used with another body")]
    KeyReused,
    /// The caller's version is stale.
    #[error("the version is stale: it is {version} now")]
    Conflict {
        /// The version that stands.
        version: u64,
    },
    /// There is no such thing.
    #[error("not found")]
    NotFound,
    /// A bound was reached.
    #[error("the room or store holds no more {0}")]
    TooMany(Cap),
    /// The store did not answer.
    #[error("the store is unavailable")]
    Unavailable {
        /// What the client or the store said.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// `false` is certain: nothing was sent, or it was refused before it had any effect.
        maybe_applied: bool,
    },
    /// A fault of this program, or of the data in the store.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The bounds that refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// Targets of a room.
    Targets,
    /// Counters of a target.
    Counters,
    /// Comments of a room.
    Comments,
    /// A counter's value, 2^53−1.
    Value,
    /// Rooms of a process.
    Rooms,
    /// Idempotency keys of a room in a process.
    Keys,
    /// Tickets of a process.
    Tickets,
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Targets => "targets",
            Self::Counters => "counters of this target",
            Self::Comments => "comments",
            Self::Value => "of this count",
            Self::Rooms => "rooms",
            Self::Keys => "idempotency keys",
            Self::Tickets => "tickets",
        })
    }
}

/// The rules of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Invalid {
    /// A room's name.
    #[error("room must be 1 to 256 characters without braces, spaces and control characters")]
    Room,
    /// A user's id.
    #[error("user must be 1 to 256 characters without control characters")]
    User,
    /// A target's name.
    #[error("target must be 1 to 128 characters of A-Z, a-z, 0-9 and ._~:/-")]
    Target,
    /// More targets in one read than are answered at once.
    #[error("at most 10,000 targets can be read at once")]
    Targets,
    /// More seeds in one restore than are taken at once.
    #[error("at most 1,000 counters can be restored at once")]
    Seeds,
    /// A seed's value.
    #[error("value must be at most 2^53-1")]
    SeedValue,
    /// A counter's name.
    #[error("counter must be a lower-case letter, then up to 31 of a-z, 0-9, _ and -")]
    CounterName,
    /// A counter that other operations own.
    #[error("the counters `like` and `comment` follow from those operations and cannot be counted")]
    ReservedCounter,
    /// An increment.
    #[error("by must be 1 to 100")]
    By,
    /// An idempotency key.
    #[error("key must be 1 to 128 characters")]
    Key,
    /// The length of a comment.
    #[error("text must be 1 to 2,000 characters")]
    TextLength,
    /// The content of a comment.
    #[error("text must not hold control characters other than line feed and tab")]
    TextControl,
    /// A page's cursor.
    #[error("cursor must be one that a page returned")]
    Cursor,
    /// A page's length.
    #[error("limit must be 1 to 100")]
    Limit,
    /// A guest's secret.
    #[error("guest secret must be 16 to 128 characters of A-Z, a-z, 0-9, _ and -")]
    Secret,
    /// What a ticket grants.
    #[error("a ticket's grant must be 1 to 4,096 bytes")]
    Grant,
    /// How long a ticket stands.
    #[error("a ticket's ttl must be 1 ms to 24 hours")]
    TicketTtl,
    /// A source of webhooks.
    #[error("source must be 1 to 64 characters of A-Z, a-z, 0-9 and ._-")]
    IngestSource,
    /// A webhook's id.
    #[error("id must be 1 to 256 characters")]
    IngestId,
    /// An epoch candidate.
    #[error("epoch candidate must be 16 lower-case hex characters")]
    Epoch,
    /// A log's time to live.
    #[error("the history's ttl must be 1 ms to 365 days where its size is not 0")]
    HistoryTtl,
}
