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
        /// `[a-z][a-z0-9_-]{0,31}`, but neither `like` nor `comment`, which follow from those operations.
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
}

/// A counter's value. `like` counts the users who like the target, `comment` its visible comments.
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

/// A guest session.
#[derive(Clone, PartialEq, Eq)]
pub struct Guest {
    /// The public id, `guest-…`: says nothing about the secret.
    pub user: String,
    /// What the guest shows again to be the same guest.
    pub secret: String,
    /// This call made the guest.
    pub created: bool,
}

impl std::fmt::Debug for Guest {
    /// Without the secret: whoever reads it becomes the guest.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest")
            .field("user", &self.user)
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

/// Targets per room: far above a gallery's photos, low enough that one room stays one quick read.
const DEFAULT_TARGETS_PER_ROOM: u32 = 100_000;
/// Counters per target: they share one packed field, rewritten at each change.
const DEFAULT_COUNTERS_PER_TARGET: u32 = 32;
/// Comments per room: about 50 MB where each is of usual length.
const DEFAULT_COMMENTS_PER_ROOM: u32 = 100_000;
/// A room's counters outlive its last write by a month: longer than any event, not for ever.
const DEFAULT_ROOM_TTL: Duration = Duration::from_secs(30 * 86_400);
/// A guest who comes back within a month is the same guest.
const DEFAULT_GUEST_TTL: Duration = Duration::from_secs(30 * 86_400);
/// Entries of each of a process' own maps; in Redis `maxmemory` bounds them.
const DEFAULT_MEMORY_ENTRIES: usize = 100_000;

/// The bounds of what is kept.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Targets that one room may count.
    pub targets_per_room: u32,
    /// Counters that one target may have.
    pub counters_per_target: u32,
    /// Comments that one room may hold.
    pub comments_per_room: u32,
    /// How long a room's counters and comments outlive the last write.
    pub room_ttl: Duration,
    /// How long a guest outlives the last use.
    pub guest_ttl: Duration,
    /// Entries of the stream of changes; 0 keeps none.
    pub changes: u64,
    /// [`Memory`](crate::Memory) only: the most rooms, idempotency keys per room, tickets and guests each. A new
    /// guest takes the place of the one unused for longest; for the others a full map is an error.
    pub memory_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            targets_per_room: DEFAULT_TARGETS_PER_ROOM,
            counters_per_target: DEFAULT_COUNTERS_PER_TARGET,
            comments_per_room: DEFAULT_COMMENTS_PER_ROOM,
            room_ttl: DEFAULT_ROOM_TTL,
            guest_ttl: DEFAULT_GUEST_TTL,
            changes: 0,
            memory_entries: DEFAULT_MEMORY_ENTRIES,
        }
    }
}
