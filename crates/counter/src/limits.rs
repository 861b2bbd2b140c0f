//! The bounds of what is kept. Numbers and their reasons; refuses nothing itself.

use std::time::Duration;

/// Targets per room: far above a gallery's photos, low enough that one room stays one quick read.
const DEFAULT_TARGETS_PER_ROOM: u32 = 100_000;
/// Counters per target: they share one packed field, rewritten at each change.
const DEFAULT_COUNTERS_PER_TARGET: u32 = 32;
/// Likes per room, of all users and targets: about 500 MB, far above what a crowd of people likes.
const DEFAULT_LIKES_PER_ROOM: u32 = 5_000_000;
/// Comments per room: about 50 MB where each is of usual length.
const DEFAULT_COMMENTS_PER_ROOM: u32 = 100_000;
/// Items per room: a sale or a day of time slots, all read at once.
const DEFAULT_ITEMS_PER_ROOM: u32 = 1_000;
/// Reservations per room that are held, and as many finished ones: about 15 MB each.
const DEFAULT_HOLDS_PER_ROOM: u32 = 100_000;
/// Uploads per room, like targets.
const DEFAULT_UPLOADS_PER_ROOM: u32 = 100_000;
/// Documents per room: settings and plans, not a database.
const DEFAULT_DOCS_PER_ROOM: u32 = 1_000;
/// A document fits a quarter of a frame.
const DEFAULT_DOC_BYTES: usize = 16 * 1024;
/// Claimed names in all: about 100 MB.
const DEFAULT_CLAIMS: u32 = 1_000_000;
/// Claimed names per user.
const DEFAULT_CLAIMS_PER_USER: u32 = 1_000;
/// Mutes and bans: every node keeps them all at hand.
const DEFAULT_RESTRICTIONS: u32 = 10_000;
/// A room's counters outlive its last write by a month: longer than any event, not for ever.
const DEFAULT_ROOM_TTL: Duration = Duration::from_secs(30 * 86_400);
/// Entries of each of a process' own maps; in Redis `maxmemory` bounds them.
const DEFAULT_MEMORY_ENTRIES: usize = 100_000;

/// The bounds of what is kept.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Targets that one room may count.
    pub targets_per_room: u32,
    /// Counters that one target may have.
    pub counters_per_target: u32,
    /// Likes that one room may hold.
    pub likes_per_room: u32,
    /// Comments that one room may hold.
    pub comments_per_room: u32,
    /// Items that one room may offer.
    pub items_per_room: u32,
    /// Reservations that one room may hold. As many finished ones are known; of more, the oldest are forgotten early.
    pub holds_per_room: u32,
    /// Uploads that one room may hold.
    pub uploads_per_room: u32,
    /// Documents that one room may hold.
    pub docs_per_room: u32,
    /// The size of a document's value.
    pub doc_bytes: usize,
    /// Claimed names in all scopes.
    pub claims: u32,
    /// Claimed names of one user.
    pub claims_per_user: u32,
    /// Mutes and bans.
    pub restrictions: u32,
    /// How long a room's counters and comments outlive the last write.
    pub room_ttl: Duration,
    /// Entries of the stream of changes; 0 keeps none.
    pub changes: u64,
    /// [`Memory`](crate::Memory) only: the most rooms, idempotency keys per room, and tickets each. A full
    /// map is an error.
    pub memory_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            targets_per_room: DEFAULT_TARGETS_PER_ROOM,
            counters_per_target: DEFAULT_COUNTERS_PER_TARGET,
            likes_per_room: DEFAULT_LIKES_PER_ROOM,
            comments_per_room: DEFAULT_COMMENTS_PER_ROOM,
            items_per_room: DEFAULT_ITEMS_PER_ROOM,
            holds_per_room: DEFAULT_HOLDS_PER_ROOM,
            uploads_per_room: DEFAULT_UPLOADS_PER_ROOM,
            docs_per_room: DEFAULT_DOCS_PER_ROOM,
            doc_bytes: DEFAULT_DOC_BYTES,
            claims: DEFAULT_CLAIMS,
            claims_per_user: DEFAULT_CLAIMS_PER_USER,
            restrictions: DEFAULT_RESTRICTIONS,
            room_ttl: DEFAULT_ROOM_TTL,
            changes: 0,
            memory_entries: DEFAULT_MEMORY_ENTRIES,
        }
    }
}
