//! Likes, counts, comments, stock, uploads, documents, claims, locks, guests and tickets that no race can bend.
//!
//! Each change is one atomic step, and what it publishes is published in that step, so what a subscriber sees never
//! runs backwards. Two stores keep the same promises behind [`Counter`]: [`Memory`] for one process, [`Redis`] for
//! many. One contract test suite runs over both.
//!
//! This crate knows no WebSocket, no session and no permission: who may do what is decided before it is called. It
//! makes no connection, and never repeats a command whose fate is unknown.

mod api;
mod body;
mod changes;
mod error;
mod ingest;
mod limits;
mod memory;
mod redis;
mod secret;
mod validate;

pub use api::{
    Command, Comment, CommentPage, CommentState, CommentsQuery, Decision, Doc, Guest, History, HoldState,
    Lock, Op, Outcome, Restriction, RestrictionKind, Seed, StockItem, Swept, Thing, Update, UploadState,
    Viewer, Whom, Wish, reservation_room,
};
pub use changes::{
    Change, ChangeLog, ChangePage, ChangeTarget, Changes, Moved, Mover, Outboxes, Outlet, RedisChanges,
};
pub use error::{Cap, CounterError, Current, Invalid, Refusal};
pub use ingest::{
    DeadLetter, Depth, Entry, Failing, Fate, Ingest, IngestRules, Intake, MemoryIngest, RedisIngest, Replayed,
};
pub use limits::Limits;
pub use memory::{Appended, Clock, Memory, Place, Sink};
pub use redis::{LOG_LUA, PublishMode, Redis, Route, Routed, Tally, TallyCall, log_lua, tally_lua};

use std::time::Duration;

/// Names tried in one step before a generated claim gives up.
const CANDIDATES: usize = 16;

/// What is done with a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LockAct {
    Acquire { ttl: Duration },
    Renew { fence: u64, ttl: Duration },
    Release { fence: u64 },
}

/// The store of counters: one handle, cheap to clone.
#[derive(Clone, Debug)]
pub enum Counter {
    /// In this process; gone with it.
    Memory(Memory),
    /// In Redis, shared by all nodes.
    Redis(Redis),
}

impl Counter {
    /// Carries out one operation: validated, applied and published in one step, or not at all.
    ///
    /// [`CounterError::Unavailable`] with `maybe_applied` leaves its fate open: whatever carries a `key` or sets a
    /// state may be sent again as it was; of `Moderate` and `Put` the second answer may be a conflict with the first.
    pub async fn apply(&self, command: Command) -> Result<Outcome, CounterError> {
        let command = validate::command(command)?;
        if let Op::Put { value, .. } = &command.op
            && value.len() > self.limits().doc_bytes
        {
            return Err(CounterError::TooLarge { max: self.limits().doc_bytes });
        }
        match self {
            Self::Memory(memory) => memory.apply(&command),
            Self::Redis(redis) => redis.apply(&command).await,
        }
    }

    /// The counters of these targets, or of all targets of the room: one round trip, one snapshot. Ordered by
    /// target and counter; a target that was never counted is absent.
    pub async fn counters(
        &self,
        room: &str,
        targets: Option<&[String]>,
    ) -> Result<Vec<Update>, CounterError> {
        validate::counters(room, targets)?;
        let mut updates = match self {
            Self::Memory(memory) => memory.counters(room, targets),
            Self::Redis(redis) => redis.counters(room, targets).await?,
        };
        updates.sort_unstable_by(|a, b| (&a.target, &a.counter).cmp(&(&b.target, &b.counter)));
        updates.dedup();
        Ok(updates)
    }

    /// Seeds counters after a loss of data, each where it is absent or lower, all in one step or none: at most 1,000.
    /// Answers how many it changed; those are pushed with a risen version. Sending it again changes nothing more.
    ///
    /// A restored `like` is a number only: who liked is not known any more, and may like again.
    pub async fn restore(&self, room: &str, seeds: &[Seed]) -> Result<u64, CounterError> {
        let seeds = validate::seeds(room, seeds)?;
        match self {
            Self::Memory(memory) => memory.restore(room, &seeds),
            Self::Redis(redis) => redis.restore(room, &seeds).await,
        }
    }

    /// One page of comments, newest first, as the viewer may see them.
    ///
    /// The cursor is the id of a comment, so pages neither skip nor repeat while comments arrive. A page may be
    /// short or empty and still carry a cursor, where many comments are hidden from the viewer.
    pub async fn comments(&self, room: &str, query: CommentsQuery) -> Result<CommentPage, CounterError> {
        validate::comments(room, &query)?;
        match self {
            Self::Memory(memory) => Ok(memory.comments(room, &query)),
            Self::Redis(redis) => redis.comments(room, &query).await,
        }
    }

    /// One page of the comments that wait for a decision, oldest first. The cursor is the id of a comment: pages
    /// neither skip nor repeat while comments arrive and are decided about.
    pub async fn queue(
        &self,
        room: &str,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<CommentPage, CounterError> {
        validate::queue(room, cursor, limit)?;
        match self {
            Self::Memory(memory) => Ok(memory.queue(room, cursor, limit)),
            Self::Redis(redis) => redis.queue(room, cursor, limit).await,
        }
    }

    /// What a room has on offer, ordered by item: one round trip, one snapshot, expired holds taken back.
    pub async fn stock(&self, room: &str) -> Result<Vec<StockItem>, CounterError> {
        validate::room(room)?;
        let mut items = match self {
            Self::Memory(memory) => memory.stock(room),
            Self::Redis(redis) => redis.stock(room).await?,
        };
        items.sort_unstable_by(|a, b| a.item.cmp(&b.item));
        Ok(items)
    }

    /// Takes expired holds back in at most `max_rooms` rooms where some may be due. Every operation on a room's items
    /// does so for its room first; this is for rooms where nobody asks, so that `remaining` is pushed there too. Many
    /// nodes may call it: each room is taken by one of them.
    pub async fn sweep_holds(&self, max_rooms: u32) -> Result<Swept, CounterError> {
        match self {
            Self::Memory(memory) => Ok(memory.sweep_holds()),
            Self::Redis(redis) => redis.sweep(max_rooms).await,
        }
    }

    /// A document; `None` if it was never written.
    pub async fn doc(&self, room: &str, doc: &str) -> Result<Option<Doc>, CounterError> {
        validate::doc(room, doc)?;
        match self {
            Self::Memory(memory) => Ok(memory.doc(room, doc)),
            Self::Redis(redis) => redis.doc(room, doc).await,
        }
    }

    /// Gives a name that nobody has in this scope to the user, for good; the user who has it already is given it
    /// again. A conflict: another has it.
    pub async fn claim(&self, scope: &str, user: &str, wish: &Wish) -> Result<String, CounterError> {
        validate::claim(scope, user, wish)?;
        let names = match wish {
            Wish::Name(name) => vec![name.clone()],
            Wish::Generate { length, alphabet, key: _ } => (0..CANDIDATES)
                .map(|_| secret::name(*length, alphabet.as_bytes()))
                .collect::<Result<_, _>>()?,
        };
        match self {
            Self::Memory(memory) => memory.claim(scope, user, wish, names),
            Self::Redis(redis) => redis.claim(scope, user, wish, names).await,
        }
    }

    /// Gives a name back. Whether the user had it.
    pub async fn unclaim(&self, scope: &str, user: &str, name: &str) -> Result<bool, CounterError> {
        validate::unclaim(scope, user, name)?;
        match self {
            Self::Memory(memory) => Ok(memory.unclaim(scope, user, name)),
            Self::Redis(redis) => redis.unclaim(scope, user, name).await,
        }
    }

    /// Takes a lock, or renews it for the owner who has it. A conflict: another has it.
    pub async fn lock(&self, name: &str, owner: &str, ttl: Duration) -> Result<Lock, CounterError> {
        self.change_lock(name, owner, LockAct::Acquire { ttl }).await
    }

    /// Keeps a lock for longer. A conflict: it is over, whether or not another has it by now.
    pub async fn renew_lock(
        &self,
        name: &str,
        owner: &str,
        fence: u64,
        ttl: Duration,
    ) -> Result<Lock, CounterError> {
        self.change_lock(name, owner, LockAct::Renew { fence, ttl }).await
    }

    /// Gives a lock back. A conflict: it was over already.
    pub async fn unlock(&self, name: &str, owner: &str, fence: u64) -> Result<(), CounterError> {
        self.change_lock(name, owner, LockAct::Release { fence }).await.map(|_| ())
    }

    async fn change_lock(&self, name: &str, owner: &str, act: LockAct) -> Result<Lock, CounterError> {
        let ttl = match act {
            LockAct::Acquire { ttl } | LockAct::Renew { ttl, .. } => Some(ttl),
            LockAct::Release { .. } => None,
        };
        validate::lock(name, owner, ttl)?;
        match self {
            Self::Memory(memory) => memory.lock(name, owner, act),
            Self::Redis(redis) => redis.lock(name, owner, act).await,
        }
    }

    /// Mutes or bans. A user muted in a room is refused there by the store itself; everything else is for the caller
    /// to hold to, who reads [`Counter::restrictions`].
    pub async fn restrict(
        &self,
        kind: RestrictionKind,
        whom: &Whom,
        room: Option<&str>,
        lasts: Duration,
    ) -> Result<Restriction, CounterError> {
        validate::restriction(whom, room, Some(lasts))?;
        let until = match self {
            Self::Memory(memory) => memory.restrict(kind, whom, room, lasts)?,
            Self::Redis(redis) => redis.restrict(kind, whom, room, lasts).await?,
        };
        Ok(Restriction { kind, whom: whom.clone(), room: room.map(str::to_owned), until })
    }

    /// Takes a mute or ban back.
    pub async fn lift(
        &self,
        kind: RestrictionKind,
        whom: &Whom,
        room: Option<&str>,
    ) -> Result<(), CounterError> {
        validate::restriction(whom, room, None)?;
        match self {
            Self::Memory(memory) => memory.restrict(kind, whom, room, Duration::ZERO).map(|_| ()),
            Self::Redis(redis) => redis.restrict(kind, whom, room, Duration::ZERO).await.map(|_| ()),
        }
    }

    /// Every mute and ban; some may be over by now.
    pub async fn restrictions(&self) -> Result<Vec<Restriction>, CounterError> {
        match self {
            Self::Memory(memory) => Ok(memory.restrictions()),
            Self::Redis(redis) => redis.restrictions().await,
        }
    }

    fn limits(&self) -> &Limits {
        match self {
            Self::Memory(memory) => memory.limits(),
            Self::Redis(redis) => redis.limits(),
        }
    }

    /// Keeps a ticket that [`new_ticket`] made: it stands for `grant`, an opaque text, until it is used or expires.
    pub async fn keep_ticket(&self, ticket: &str, grant: &str, ttl: Duration) -> Result<(), CounterError> {
        validate::ticket(grant, ttl)?;
        match self {
            Self::Memory(memory) => memory.keep_ticket(ticket, grant, ttl),
            Self::Redis(redis) => redis.keep_ticket(ticket, grant, ttl).await,
        }
    }

    /// Uses a ticket up and gives its grant, to exactly one caller. `None`: unknown, used or expired.
    pub async fn redeem_ticket(&self, ticket: &str) -> Result<Option<String>, CounterError> {
        match self {
            Self::Memory(memory) => Ok(memory.redeem_ticket(ticket)),
            Self::Redis(redis) => redis.redeem_ticket(ticket).await,
        }
    }

    /// Removes everything this crate keeps of the room. The room's log and epoch belong to the broker and stay.
    pub async fn end_room(&self, room: &str) -> Result<(), CounterError> {
        validate::room(room)?;
        match self {
            Self::Memory(memory) => {
                memory.end_room(room);
                Ok(())
            }
            Self::Redis(redis) => redis.end_room(room).await,
        }
    }

    /// A key of the store that is in the same slot as that thing; what is a room's is in the slot of its name.
    pub fn place(&self, thing: Thing<'_>) -> String {
        match self {
            Self::Memory(_) => String::new(),
            Self::Redis(redis) => redis.key_of(thing),
        }
    }
}

/// The guest who holds this secret; without one, a new guest.
///
/// The same secret gives the same user on every node, at any time and in any race: the user follows from it, so
/// nothing is kept of a guest who does nothing.
pub fn guest(secret: Option<&str>) -> Result<Guest, CounterError> {
    let secret = match secret {
        Some(secret) => validate::secret(secret)?.to_owned(),
        None => secret::token()?,
    };
    Ok(Guest { user: secret::guest_user(&secret), secret })
}

/// Makes an unguessable ticket (192 bits), which is worth nothing until [`Counter::keep_ticket`] has kept it.
pub fn new_ticket() -> Result<String, CounterError> {
    secret::token()
}
