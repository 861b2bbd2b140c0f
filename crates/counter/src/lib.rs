//! Likes, counts, comments, guests and single-use tickets that no race can bend.
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
mod memory;
mod redis;
mod secret;
mod validate;

pub use api::{
    Command, Comment, CommentPage, CommentsQuery, Guest, History, Limits, Op, Outcome, Seed, Update, Viewer,
};
pub use changes::{Change, ChangeLog, ChangePage, Changes, RedisChanges};
pub use error::{Cap, CounterError, Invalid};
pub use ingest::{
    DeadLetter, Depth, Entry, Failing, Fate, Ingest, IngestRules, Intake, MemoryIngest, RedisIngest, Replayed,
};
pub use memory::{Appended, Clock, Memory, Sink};
pub use redis::{ChangeTarget, LOG_LUA, PublishMode, Redis, log_lua};

use std::time::Duration;

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
    /// [`CounterError::Unavailable`] with `maybe_applied` leaves its fate open: `Like` and whatever carries a `key`
    /// may be sent again as it was.
    pub async fn apply(&self, command: Command) -> Result<Outcome, CounterError> {
        let command = validate::command(command)?;
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

    /// The guest who holds this secret, made if there is none; without a secret, a new guest.
    ///
    /// The same secret gives the same user on every node, also when two calls race. Each use renews it for
    /// [`Limits::guest_ttl`].
    pub async fn guest(&self, secret: Option<&str>) -> Result<Guest, CounterError> {
        let secret = match secret {
            Some(secret) => validate::secret(secret)?.to_owned(),
            None => secret::token()?,
        };
        let candidate = secret::guest_user()?;
        let (user, created) = match self {
            Self::Memory(memory) => memory.guest(&secret, candidate),
            Self::Redis(redis) => redis.guest(&secret, candidate).await?,
        };
        Ok(Guest { user, secret, created })
    }

    /// Makes an unguessable ticket (192 bits) that stands for `grant`, an opaque text, until it is used or expires.
    pub async fn mint_ticket(&self, grant: &str, ttl: Duration) -> Result<String, CounterError> {
        validate::ticket(grant, ttl)?;
        let ticket = secret::token()?;
        match self {
            Self::Memory(memory) => memory.mint_ticket(&ticket, grant, ttl)?,
            Self::Redis(redis) => redis.mint_ticket(&ticket, grant, ttl).await?,
        }
        Ok(ticket)
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
}
