//! The one error of this crate, in the caller's terms: what was wrong, and whether anything may have happened.

use std::fmt;

use thiserror::Error;

use crate::{CommentState, Doc, HoldState, StockItem, UploadState};

/// Why an operation did not succeed. Except for `Unavailable { maybe_applied: true }`, nothing was applied.
#[derive(Debug, Error)]
pub enum CounterError {
    /// A field breaks its rule.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// The idempotency key was used with another body.
    #[error("this key was already used with another body")]
    KeyReused,
    /// Something else stands already: a later version, another state, another owner.
    #[error("{0}")]
    Conflict(Current),
    /// Less is left of the item than was asked for.
    #[error("only {remaining} are left")]
    SoldOut {
        /// What is left.
        remaining: u64,
    },
    /// The user would hold more of the item than one may.
    #[error("one user may have {per_user} of it, and this one has {mine}")]
    UserLimit {
        /// The cap.
        per_user: u64,
        /// What the user holds and has bought.
        mine: u64,
    },
    /// The user is muted here, or the thing is another's.
    #[error("{0}")]
    Forbidden(Refusal),
    /// The value is larger than may be kept.
    #[error("the value must be at most {max} bytes")]
    TooLarge {
        /// The bound.
        max: usize,
    },
    /// There is no such thing.
    #[error("not found")]
    NotFound,
    /// A bound was reached.
    #[error("the room or store holds no more {0}")]
    TooMany(Cap),
    /// The caller has as much under way as it may: nothing was sent.
    #[error("too many commands are in flight")]
    Busy,
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

/// What stands, where an operation came too late.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Current {
    /// The comment's state and version.
    #[error("the comment is {} at version {version}", state.as_str())]
    Comment {
        /// Its state.
        state: CommentState,
        /// Its version.
        version: u64,
    },
    /// The document, or none.
    #[error("the document's version is {}", .0.as_ref().map_or(0, |doc| doc.version))]
    Doc(Option<Doc>),
    /// The upload's state.
    #[error("the upload is {}: states never go back", .0.as_str())]
    Upload(UploadState),
    /// The reservation's state.
    #[error("the reservation is {}", .0.as_str())]
    Hold(HoldState),
    /// More is sold and held than would be offered.
    #[error("{} are sold and {} held: the stock cannot be less", .0.sold, .0.held)]
    Stock(StockItem),
    /// The name is another user's.
    #[error("the name is taken")]
    Claim,
    /// The lock is another owner's, or this owner's is over.
    #[error("the lock is held by another, or is over")]
    Lock {
        /// When whoever holds it loses it, in ms; 0 where nobody does.
        retry_ms: u64,
    },
}

/// Why something is not for this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Muted in this room.
    #[error("this user is muted here")]
    Muted,
    /// Another user's upload.
    #[error("this upload is another user's")]
    NotOwner,
}

/// The bounds that refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// Targets of a room.
    Targets,
    /// Counters of a target.
    Counters,
    /// Likes of a room.
    Likes,
    /// Comments of a room.
    Comments,
    /// A counter's value, 2^53−1.
    Value,
    /// Items of a room.
    Items,
    /// Reservations of a room.
    Holds,
    /// Uploads of a room.
    Uploads,
    /// Documents of a room.
    Docs,
    /// Claimed names.
    Claims,
    /// Claimed names of this user.
    ClaimsOfUser,
    /// Names of that length and alphabet.
    Names,
    /// Mutes and bans.
    Restrictions,
    /// Locks of a process.
    Locks,
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
            Self::Likes => "likes",
            Self::Comments => "comments",
            Self::Value => "of this count",
            Self::Items => "items",
            Self::Holds => "reservations",
            Self::Uploads => "uploads",
            Self::Docs => "documents",
            Self::Claims => "claimed names",
            Self::ClaimsOfUser => "claimed names of this user",
            Self::Names => "free names of that length: many were tried",
            Self::Restrictions => "mutes and bans",
            Self::Locks => "locks",
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
    #[error(
        "the counters `like`, `comment` and `remaining` follow from other operations and cannot be counted"
    )]
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
    /// A comment's id.
    #[error("comment must be the id of a comment")]
    Comment,
    /// A version.
    #[error("version must be at most 2^53-1")]
    Version,
    /// An upload's progress.
    #[error("progress must be 0 to 100, and comes with state `progress`")]
    Progress,
    /// An item on offer.
    #[error("stock must be at most 10^9, per_user 1 to 10^9, hold_ms 1 to 86,400,000")]
    Stock,
    /// How many are reserved.
    #[error("quantity must be 1 to 1,000")]
    Quantity,
    /// A reservation's id.
    #[error("reservation must be one that reserve gave")]
    Reservation,
    /// A document's value.
    #[error("value must be one JSON value")]
    Value,
    /// A claim's scope.
    #[error("scope must be a lower-case letter, then up to 31 of a-z, 0-9, _ and -")]
    Scope,
    /// What names are generated from.
    #[error("length must be 4 to 64, alphabet 2 to 64 different characters of A-Z, a-z, 0-9 and ._~:/-")]
    Generate,
    /// A lock.
    #[error("a lock's name is like a target's, its owner 1 to 128 characters, its ttl 1 ms to 24 hours")]
    Lock,
    /// How long somebody is restricted.
    #[error("a mute or ban lasts 1 ms to 365 days")]
    RestrictionTime,
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
