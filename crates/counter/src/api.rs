//! What callers say and hear: commands, outcomes, pages. Plain data; checked elsewhere.

use std::time::Duration;

/// One operation by one user in one room.
#[derive(Clone, Debug)]
pub struct Command {
    /// The room's full name, already checked and permitted.
    pub room: String,
    /// The public id of who does it.
    pub user: String,
    /// The room's log, for operations that append an event.
    pub history: History,
    /// 16 lower-case hex characters: the epoch a room gets that has none yet.
    pub epoch_candidate: String,
    /// What to do.
    pub op: Op,
}

/// How much of a room's events is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Events kept; 0 keeps none, and events are only published.
    pub size: u64,
    /// How long the log outlives its last event.
    pub ttl: Duration,
}

/// The operations. A target is 1–128 characters of `[A-Za-z0-9._~:/-]`, a key 1–128 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets the user's like of a target on or off.
    Like {
        /// What is liked.
        target: String,
        /// On or off.
        on: bool,
    },
    /// Adds to a counter.
    Count {
        /// What is counted.
        target: String,
        /// `[a-z][a-z0-9_-]{0,31}`, but not `like`, `comment` or `remaining`, which follow from other operations.
        counter: String,
        /// 1–100.
        by: u32,
        /// Makes a retry harmless for 10 minutes, per room and user.
        key: Option<String>,
    },
    /// Stores a comment.
    Comment {
        /// What is commented on.
        target: String,
        /// 1–2,000 characters after trimming; no control characters but `\n` and `\t`. Data, never HTML.
        text: String,
        /// Makes a retry harmless for 10 minutes, per room and user.
        key: Option<String>,
        /// The room's comments wait for approval.
        moderated: bool,
    },
    /// Decides about a pending comment, exactly once.
    Moderate {
        /// Its id.
        comment: String,
        /// What is decided.
        decision: Decision,
        /// The version that was looked at; another one is a conflict.
        version: u64,
    },
    /// Deletes a comment, whatever its state: its text is gone, from the room's log too; a tombstone stays.
    DeleteComment {
        /// Its id.
        comment: String,
    },
    /// Moves an upload forward; it belongs to who started it.
    Upload {
        /// What is uploaded.
        target: String,
        /// Where it is now.
        state: UploadState,
        /// 0–100; told to subscribers with `Progress`, never kept in the log.
        progress: Option<u32>,
    },
    /// Offers an item, or changes what is offered of it.
    Stock {
        /// Named like a target.
        item: String,
        /// All that is offered, sold and held ones included: setting it again changes nothing. At most 10^9.
        stock: u64,
        /// What one user may hold and have bought at most; 1 to 10^9.
        per_user: u64,
        /// How long a hold stands; 1 ms to 24 hours.
        hold: Duration,
    },
    /// Holds some of an item for a time.
    Reserve {
        /// Which.
        item: String,
        /// How many, 1–1,000.
        quantity: u32,
        /// Makes a retry harmless for 10 minutes, per room and user.
        key: String,
    },
    /// Turns the user's hold into a sale.
    Confirm {
        /// As `Reserve` gave it, for the same room.
        reservation: String,
    },
    /// Gives the user's hold back.
    Release {
        /// As `Reserve` gave it, for the same room.
        reservation: String,
    },
    /// Writes a document if its version is still the one that was read.
    Put {
        /// Named like a target.
        doc: String,
        /// One JSON value, at most [`Limits::doc_bytes`].
        value: String,
        /// The version that this value replaces; 0 for a new document.
        version: u64,
    },
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// The word for it on the wire and in the store.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// What the word stands for.
            pub fn from_name(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    )*};
}

words! {
    /// What a moderator decides.
    Decision {
        /// Everyone may see it.
        Approve = "approve",
        /// Nobody does.
        Reject = "reject",
    }
    /// Where a comment is.
    CommentState {
        /// It waits for a decision.
        Pending = "pending",
        /// Everyone sees it.
        Approved = "approved",
        /// Nobody sees it.
        Rejected = "rejected",
        /// It was deleted: only this tombstone is left.
        Deleted = "deleted",
    }
    /// Where an upload is; it only moves down this list, and the last two are ends.
    UploadState {
        /// It began.
        Started = "started",
        /// Some of it is there.
        Progress = "progress",
        /// It is there: from now on it is visible.
        Complete = "complete",
        /// It will never be.
        Failed = "failed",
    }
    /// Where a reservation is; it leaves `Held` exactly once.
    HoldState {
        /// The stock is held.
        Held = "held",
        /// It is sold.
        Confirmed = "confirmed",
        /// It was given back.
        Released = "released",
        /// Its time ran out, and it was given back.
        Expired = "expired",
    }
    /// What a user or address may not do.
    RestrictionKind {
        /// Say or do anything; it may listen.
        Mute = "mute",
        /// Be there.
        Ban = "ban",
    }
}

/// The room of a reservation, as its id tells it.
pub fn reservation_room(reservation: &str) -> Option<&str> {
    reservation.split_once('.').map(|(_, room)| room)
}

/// What an operation came to. A retry by key, or of a like, gives the same again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The like stands as asked.
    Like {
        /// Likes of the target now.
        value: u64,
        /// As asked.
        on: bool,
        /// The version of `value`; 0 where nobody ever liked the target.
        version: u64,
    },
    /// The counter was increased.
    Count {
        /// Its value after this increment.
        value: u64,
        /// The version of `value`.
        version: u64,
    },
    /// The comment is stored.
    Comment {
        /// Its id: stable, and sorted by time of storing.
        comment: String,
        /// It waits for approval.
        pending: bool,
        /// The comment's version, 1.
        version: u64,
        /// When it was stored, Unix ms.
        at: u64,
    },
    /// The comment was decided about.
    Moderate {
        /// What it is now.
        state: CommentState,
        /// Its version now.
        version: u64,
    },
    /// The comment is deleted.
    Deleted {
        /// Its version now.
        version: u64,
    },
    /// The upload stands as asked, or further where the step came late.
    Upload {
        /// Where it is.
        state: UploadState,
        /// 0–100.
        progress: u32,
    },
    /// The item is offered.
    Stock(StockItem),
    /// Some of the item is held.
    Reserve {
        /// What `Confirm` and `Release` name: unguessable, and of use to this user only.
        reservation: String,
        /// What is left of the item.
        remaining: u64,
        /// When the hold ends by itself, Unix ms.
        expires_at: u64,
    },
    /// The reservation is confirmed or given back; for `Release` also where its time had run out before.
    Settled {
        /// What it is now.
        state: HoldState,
        /// What is left of the item.
        remaining: u64,
    },
    /// The document is written.
    Put {
        /// Its version now.
        version: u64,
    },
}

/// An item on offer. `stock` = `sold` + `held` + `remaining`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockItem {
    /// Its name.
    pub item: String,
    /// All that was ever offered.
    pub stock: u64,
    /// Confirmed.
    pub sold: u64,
    /// Reserved and neither confirmed nor given back.
    pub held: u64,
    /// What one user may hold and have bought.
    pub per_user: u64,
    /// How long a hold stands, ms.
    pub hold_ms: u64,
}

impl StockItem {
    /// What can be reserved now.
    pub fn remaining(&self) -> u64 {
        self.stock.saturating_sub(self.sold + self.held)
    }
}

/// What a sweep of expired holds did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Rooms looked at.
    pub rooms: u64,
    /// Holds whose stock came back.
    pub expired: u64,
}

/// A versioned document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doc {
    /// Its JSON.
    pub value: String,
    /// Rises by 1 with each `Put`, from 1.
    pub version: u64,
}

/// What a claim asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// This name.
    Name(String),
    /// Any name of so many characters of this alphabet that nobody has.
    Generate {
        /// 4–64.
        length: usize,
        /// 2–64 different characters of a target's alphabet.
        alphabet: String,
        /// Makes a retry harmless for 10 minutes, per user.
        key: Option<String>,
    },
}

/// A lease lock as its holder has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Rises with every new holder: whoever guards the resource refuses a lower one than it has seen.
    pub fence: u64,
    /// When it ends unless renewed, Unix ms.
    pub expires_at: u64,
}

/// Who is restricted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Whom {
    /// A user's public id.
    User(String),
    /// An address.
    Ip(std::net::IpAddr),
}

/// A mute or ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restriction {
    /// Which.
    pub kind: RestrictionKind,
    /// Of whom.
    pub whom: Whom,
    /// In which room; `None`: everywhere.
    pub room: Option<String>,
    /// When it ends, Unix ms.
    pub until: u64,
}

/// A counter's value. `like` counts the users who like the target, `comment` its visible comments,
/// `remaining` what can be reserved of the item of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// What is counted.
    pub target: String,
    /// The counter's name.
    pub counter: String,
    /// Its value, at most 2^53−1.
    pub value: u64,
    /// Rises with each change of this counter, and never repeats; gaps mean nothing.
    pub version: u64,
}

/// A counter's value as somebody else kept it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seed {
    /// What is counted.
    pub target: String,
    /// The counter's name, `like` and `comment` included.
    pub counter: String,
    /// At most 2^53−1.
    pub value: u64,
}

/// Who reads comments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// Sees pending comments too.
    Admin,
    /// Sees their own pending comments too.
    User(String),
    /// Sees what all see.
    Public,
}

/// Which comments to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommentsQuery {
    /// Only those of this target.
    pub target: Option<String>,
    /// For whom.
    pub viewer: Viewer,
    /// The `cursor` of the page before.
    pub cursor: Option<String>,
    /// 1–100.
    pub limit: u32,
}

/// One page of comments, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommentPage {
    /// The comments of this page.
    pub comments: Vec<Comment>,
    /// Where to go on; `None` at the end.
    pub cursor: Option<String>,
}

/// A stored comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// Its id.
    pub comment: String,
    /// What it is about.
    pub target: String,
    /// The text as stored, trimmed.
    pub text: String,
    /// Who wrote it.
    pub user: String,
    /// When it was stored, Unix ms.
    pub at: u64,
    /// It waits for approval.
    pub pending: bool,
    /// Rises with each change of its state.
    pub version: u64,
}

/// What belongs to no room.
#[derive(Clone, Copy, Debug)]
pub enum Thing<'a> {
    /// This ticket.
    Ticket(&'a str),
    /// All claimed names.
    Claims,
    /// The lock of this name.
    Lock(&'a str),
    /// All mutes and bans.
    Restrictions,
}

/// A guest.
#[derive(Clone, PartialEq, Eq)]
pub struct Guest {
    /// The public id, `guest-…`: it follows from the secret, and the secret does not follow from it.
    pub user: String,
    /// What the guest shows again to be the same guest.
    pub secret: String,
}

impl std::fmt::Debug for Guest {
    /// Without the secret: whoever reads it becomes the guest.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("user", &self.user).finish_non_exhaustive()
    }
}
