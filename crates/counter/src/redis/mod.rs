//! The store in Redis: each operation is one script, so one step in one hash slot. Works on Redis 6.2 and later.
//!
//! The client is the caller's: this module makes no connection, sets no timeout and repeats nothing. The one
//! exception is a script that the server does not know: that ran nowhere, so it is sent again in full.

mod calls;
mod fault;
mod script;

use std::{fmt, sync::Arc, time::Duration};

use fred::{
    clients::{Client, WithOptions},
    interfaces::{ClientLike, HashesInterface, KeysInterface},
    types::{Expiration, Value, config::Options},
};

pub(crate) use fault::{Effect, map as map_fault};
pub(crate) use script::run;

use crate::{
    Command, CommentPage, CommentsQuery, CounterError, Limits, Outcome, Seed, Update,
    redis::{calls::Keys, script::Scripts},
    secret,
};

/// Lua to put before a script that publishes into a room: local functions for the room's log, its channel and
/// idempotency records.
///
/// - `log_append(meta_key, log_key, channel, epoch_candidate, history_size, history_ttl_ms, body[, at])` appends one
///   event and publishes it; returns epoch, offset and at (Unix ms), as text.
/// - `idem_check(key, body_hash)` returns `'new'`, or `'same'` and the reply given then, or `'other'`;
///   `idem_store(key, body_hash, reply[, index_key[, keep_ms]])` keeps the reply for 10 minutes unless told, and
///   lists it in `index_key`.
/// - `count_publish(channel, version, target, counter, value)` and `publish(channel, payload)`;
///   `int_text(number)` and `now_ms()`.
/// - `publish_via` is `'PUBLISH'`; assign `'SPUBLISH'` right behind this text where channels are sharded.
/// - `change_append(kind, json)` adds an entry to the stream of changes, where there is one; see [`log_lua`].
pub const LOG_LUA: &str = include_str!("lua/log.lua");

/// Which stream the changes of a script go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeTarget {
    /// None is kept.
    Off,
    /// One stream for all rooms: on a single server, where a script may reach every key.
    Shared {
        /// Its key.
        key: String,
        /// Entries kept, about.
        size: u64,
    },
    /// `{prefix}:{room}:changes`, in the room's own slot: in a cluster.
    PerRoom {
        /// Entries kept of each room, about.
        size: u64,
    },
}

impl ChangeTarget {
    /// The right one for this client: `size` entries, none where it is 0.
    pub fn of(client: &Client, prefix: &str, size: u64) -> Self {
        match size {
            0 => Self::Off,
            size if client.is_clustered() => Self::PerRoom { size },
            size => Self::Shared { key: changes_key(prefix), size },
        }
    }
}

/// The key of the stream that all rooms share.
pub(crate) fn changes_key(prefix: &str) -> String {
    format!("{prefix}:{{changes}}:log")
}

/// [`LOG_LUA`], told which kind of channel to publish on and where changes go.
pub fn log_lua(mode: PublishMode, changes: &ChangeTarget) -> String {
    let via = match mode {
        PublishMode::Plain => "",
        PublishMode::Sharded => "publish_via = 'SPUBLISH'\n",
    };
    let changes = match changes {
        ChangeTarget::Off => String::new(),
        // A prefix is plain text, so Rust's quotes are Lua's.
        ChangeTarget::Shared { key, size } => format!("changes_size, changes_key = {size}, {key:?}\n"),
        ChangeTarget::PerRoom { size } => format!("changes_size = {size}\n"),
    };
    format!("{LOG_LUA}{via}{changes}")
}

/// Which channels the nodes subscribe to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PublishMode {
    /// `PUBLISH`: every node of a cluster carries every message.
    #[default]
    Plain,
    /// `SPUBLISH` (Redis 7): only the shard that owns the room's slot does.
    Sharded,
}

/// Counters in Redis.
#[derive(Clone)]
pub struct Redis(Arc<Shared>);

struct Shared {
    client: WithOptions<Client>,
    prefix: String,
    limits: Limits,
    scripts: Scripts,
}

impl fmt::Debug for Redis {
    /// Without the client: its configuration may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { prefix, limits, .. } = &*self.0;
        f.debug_struct("Redis").field("prefix", prefix).field("limits", limits).finish_non_exhaustive()
    }
}

impl Redis {
    /// A store on this client, with the default limits. Give the client a default command timeout: none is set here.
    pub fn new(client: Client, prefix: &str) -> Self {
        Self::with(client, prefix, Limits::default(), PublishMode::Plain)
    }

    /// A store with these limits and this kind of channel.
    #[allow(clippy::needless_pass_by_value)] // The store keeps the client: that fred copies the handle is its affair.
    pub fn with(client: Client, prefix: &str, limits: Limits, mode: PublishMode) -> Self {
        // While the connection is away a command fails at once, and none is ever written twice.
        let options = Options { fail_fast: true, max_attempts: Some(1), ..Options::default() };
        let changes = ChangeTarget::of(&client, prefix, limits.changes);
        let client = client.with_options(&options);
        let scripts = Scripts::new(mode, &changes);
        Self(Arc::new(Shared { client, prefix: prefix.to_owned(), limits, scripts }))
    }

    pub(crate) async fn apply(&self, command: &Command) -> Result<Outcome, CounterError> {
        let Shared { client, limits, scripts, .. } = &*self.0;
        let (script, keys, args) = calls::apply(scripts, &self.keys(&command.room), limits, command)?;
        let reply: Vec<String> =
            run(client, script, keys, args).await.map_err(|error| fault::map(error, Effect::Write))?;
        calls::outcome(&command.op, &reply)
    }

    pub(crate) async fn counters(
        &self,
        room: &str,
        targets: Option<&[String]>,
    ) -> Result<Vec<Update>, CounterError> {
        let key = self.keys(room).counts();
        let client = &self.0.client;
        let read = |error| fault::map(error, Effect::Read);
        let Some(targets) = targets else {
            let all: Vec<(String, String)> = client.hgetall(key).await.map_err(read)?;
            return calls::updates(all.iter().map(|(target, packed)| (target, packed)));
        };
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let packed: Vec<Option<String>> = client.hmget(key, targets.to_vec()).await.map_err(read)?;
        calls::updates(
            targets.iter().zip(&packed).filter_map(|(target, packed)| Some((target, packed.as_ref()?))),
        )
    }

    pub(crate) async fn restore(&self, room: &str, seeds: &[Seed]) -> Result<u64, CounterError> {
        let Shared { client, limits, scripts, .. } = &*self.0;
        let (keys, args) = calls::restore(&self.keys(room), limits, seeds);
        let reply: Vec<String> = run(client, &scripts.restore, keys, args)
            .await
            .map_err(|error| fault::map(error, Effect::Write))?;
        calls::restored(&reply)
    }

    pub(crate) async fn comments(
        &self,
        room: &str,
        query: &CommentsQuery,
    ) -> Result<CommentPage, CounterError> {
        let Shared { client, scripts, .. } = &*self.0;
        let (keys, args) = calls::comments(&self.keys(room), query);
        let reply: Vec<String> = run(client, &scripts.comments, keys, args)
            .await
            .map_err(|error| fault::map(error, Effect::Read))?;
        calls::page(&reply)
    }

    /// The user of the secret, and whether this call made it.
    pub(crate) async fn guest(
        &self,
        secret: &str,
        candidate: String,
    ) -> Result<(String, bool), CounterError> {
        let Shared { client, limits, scripts, prefix } = &*self.0;
        let keys = vec![format!("{prefix}:guest:{}", secret::digest(secret))];
        let args: Vec<Value> = vec![candidate.into(), calls::millis(limits.guest_ttl).into()];
        let (user, created): (String, String) = run(client, &scripts.guest, keys, args)
            .await
            .map_err(|error| fault::map(error, Effect::Write))?;
        Ok((user, created == "1"))
    }

    pub(crate) async fn mint_ticket(
        &self,
        ticket: &str,
        grant: &str,
        ttl: Duration,
    ) -> Result<(), CounterError> {
        let expires = Expiration::PX(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let set = self.0.client.set(self.ticket_key(ticket), grant, Some(expires), None, false);
        set.await.map_err(|error| fault::map(error, Effect::Write))
    }

    pub(crate) async fn redeem_ticket(&self, ticket: &str) -> Result<Option<String>, CounterError> {
        let grant = self.0.client.getdel(self.ticket_key(ticket));
        grant.await.map_err(|error| fault::map(error, Effect::Write))
    }

    pub(crate) async fn end_room(&self, room: &str) -> Result<(), CounterError> {
        let Shared { client, scripts, .. } = &*self.0;
        let keys = self.keys(room).owned();
        loop {
            let left: u64 = run(client, &scripts.end_room, keys.clone(), Vec::new())
                .await
                .map_err(|error| fault::map(error, Effect::Write))?;
            if left == 0 {
                return Ok(());
            }
        }
    }

    fn keys<'a>(&'a self, room: &'a str) -> Keys<'a> {
        Keys { prefix: &self.0.prefix, room }
    }

    fn ticket_key(&self, ticket: &str) -> String {
        format!("{}:ticket:{}", self.0.prefix, secret::digest(ticket))
    }
}
