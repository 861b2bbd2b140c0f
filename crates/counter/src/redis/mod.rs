//! The store in Redis: each operation is one script, so one step in one hash slot. Works on Redis 6.2 and later.
//!
//! The client is the caller's: this module makes no connection, sets no timeout and repeats nothing. The one
//! exception is a script that the server does not know: that ran nowhere, so it is sent again in full.

mod calls;
mod fault;
mod route;
mod script;

use std::{fmt, sync::Arc, time::Duration};

use fred::types::{FromValue, Value};

pub(crate) use fault::{Effect, map as map_fault};
pub use route::{Route, Routed};
pub use script::tally_lua;
pub(crate) use script::{Script, lock_script, run};

use crate::{
    ChangeTarget, Command, CommentPage, CommentsQuery, CounterError, Doc, Limits, Lock, LockAct, Op, Outcome,
    Outlet, Restriction, RestrictionKind, Seed, StockItem, Swept, Thing, Update, Whom, Wish, body,
    changes::OUTBOX_TTL,
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

/// The key of the stream of all rooms' changes.
pub(crate) fn changes_key(prefix: &str) -> String {
    format!("{prefix}:{{changes}}:log")
}

/// [`LOG_LUA`], told which kind of channel to publish on and where changes go. With a target that has outboxes, every
/// call needs its [`Outlet`](crate::Outlet)'s key.
pub fn log_lua(mode: PublishMode, changes: &ChangeTarget) -> String {
    let via = match mode {
        PublishMode::Plain => "",
        PublishMode::Sharded => "publish_via = 'SPUBLISH'\n",
    };
    let changes = match changes {
        ChangeTarget::Off => String::new(),
        // A prefix is plain text, so Rust's quotes are Lua's.
        ChangeTarget::Shared { key, size } => format!("changes_size, changes_key = {size}, {key:?}\n"),
        // The last key is the outbox; behind this, a script has its own only.
        ChangeTarget::Outbox(outboxes) => {
            let (size, ttl) = (outboxes.size(), OUTBOX_TTL.as_millis());
            format!("changes_size, changes_key, changes_ttl = {size}, table.remove(KEYS), {ttl}\n")
        }
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

/// The keys and arguments of the part of a script that reads a room's counters and items.
#[derive(Debug)]
pub struct TallyCall {
    /// All in the room's slot.
    pub keys: Vec<String>,
    /// As `room.lua` names them.
    pub args: Vec<Value>,
}

/// A room's counters and items, read in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// By target and counter.
    pub counters: Vec<Update>,
    /// By item.
    pub stock: Vec<StockItem>,
}

fn items_of(reply: &[String]) -> Result<Vec<StockItem>, CounterError> {
    let item = |pair: &[String]| match pair {
        [item, packed] => calls::stock_item(item, packed),
        _ => Err(calls::nonsense("half an item")),
    };
    reply.chunks(2).map(item).collect()
}

/// Counters in Redis.
#[derive(Clone)]
pub struct Redis(Arc<Shared>);

struct Shared {
    client: Routed,
    prefix: String,
    limits: Limits,
    changes: ChangeTarget,
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
    /// A store on this client, or these, with the default limits.
    pub fn new(client: impl Into<Routed>, prefix: &str) -> Self {
        Self::with(client, prefix, Limits::default(), PublishMode::Plain)
    }

    /// A store with these limits and this kind of channel.
    pub fn with(client: impl Into<Routed>, prefix: &str, limits: Limits, mode: PublishMode) -> Self {
        let client = client.into();
        let changes = ChangeTarget::of(&client, prefix, limits.changes);
        Self::telling(client, prefix, limits, mode, changes)
    }

    /// A store whose changes go where those of others do, too, whatever the limits say.
    pub fn telling(
        client: impl Into<Routed>,
        prefix: &str,
        limits: Limits,
        mode: PublishMode,
        changes: ChangeTarget,
    ) -> Self {
        let scripts = Scripts::new(mode, &changes);
        Self(Arc::new(Shared { client: client.into(), prefix: prefix.to_owned(), limits, changes, scripts }))
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) async fn apply(&self, command: &Command) -> Result<Outcome, CounterError> {
        let Shared { client, limits, scripts, .. } = &*self.0;
        let (script, mut keys, args) = calls::apply(scripts, &self.keys(&command.room), limits, command)?;
        let _outlet = self.outlet(&mut keys);
        let stocking = matches!(command.op, Op::Stock { .. });
        // Told to the sweep before and after: whoever takes a room off the list between its reading and the first
        // item's making is found out by the second.
        if stocking {
            self.look_soon(&command.room).await?;
        }
        let reply: Vec<String> =
            run(client, script, keys, args).await.map_err(|error| fault::map(error, Effect::Write))?;
        if stocking {
            self.look_soon(&command.room).await?;
        }
        calls::outcome(command, &reply)
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
        let (mut keys, args) = calls::restore(&self.keys(room), limits, seeds)?;
        let _outlet = self.outlet(&mut keys);
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

    pub(crate) async fn keep_ticket(
        &self,
        ticket: &str,
        grant: &str,
        ttl: Duration,
    ) -> Result<(), CounterError> {
        let set = self.0.client.set_for(self.ticket_key(ticket), grant, ttl);
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

    /// The comments that wait, oldest first.
    pub(crate) async fn queue(
        &self,
        room: &str,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<CommentPage, CounterError> {
        let (keys, args) = calls::queue(&self.keys(room), cursor, limit);
        let reply: Vec<String> = self.read(&self.0.scripts.queue, keys, args).await?;
        calls::page(&reply)
    }

    pub(crate) async fn stock(&self, room: &str) -> Result<Vec<StockItem>, CounterError> {
        let Shared { limits, scripts, .. } = &*self.0;
        let (mut keys, args) = calls::stock(&self.keys(room), limits)?;
        let _outlet = self.outlet(&mut keys);
        let reply: Vec<String> = self.read(&scripts.stock_read, keys, args).await?;
        items_of(&reply)
    }

    /// How a script of somebody else reads this room's counters and items with [`tally_lua`]. That may end holds, so
    /// their [`Outlet`] is the caller's to add.
    pub fn tally(&self, room: &str) -> Result<TallyCall, CounterError> {
        let (keys, args) = calls::stock(&self.keys(room), &self.0.limits)?;
        Ok(TallyCall { keys, args })
    }

    /// What such a script answered.
    pub fn tallied(counters: &[String], items: &[String]) -> Result<Tally, CounterError> {
        let pairs = counters.chunks_exact(2).filter_map(|pair| Some((pair.first()?, pair.get(1)?)));
        let mut counters = calls::updates(pairs)?;
        counters.sort_unstable_by(|a, b| (&a.target, &a.counter).cmp(&(&b.target, &b.counter)));
        let mut stock = items_of(items)?;
        stock.sort_unstable_by(|a, b| a.item.cmp(&b.item));
        Ok(Tally { counters, stock })
    }

    /// Takes expired holds back in at most `max` rooms.
    pub(crate) async fn sweep(&self, max: u32) -> Result<Swept, CounterError> {
        let Shared { limits, scripts, .. } = &*self.0;
        let taken: Vec<String> =
            self.write(&scripts.sweep_take, vec![self.rooms_key()], vec![max.into()]).await?;
        let mut swept = Swept::default();
        for pair in taken.chunks_exact(2) {
            let [room, lease] = pair else { continue };
            let (mut keys, args) = calls::stock(&self.keys(room), limits)?;
            let _outlet = self.outlet(&mut keys);
            let (ended, again): (String, String) = self.write(&scripts.sweep, keys, args).await?;
            swept.rooms += 1;
            swept.expired += calls::number(&ended)?;
            let done: Vec<Value> = vec![room.into(), lease.into(), again.into()];
            let _changed: u64 = self.write(&scripts.sweep_done, vec![self.rooms_key()], done).await?;
        }
        Ok(swept)
    }

    pub(crate) async fn doc(&self, room: &str, doc: &str) -> Result<Option<Doc>, CounterError> {
        let packed: Option<String> = self
            .0
            .client
            .hget(self.keys(room).docs(), doc)
            .await
            .map_err(|error| fault::map(error, Effect::Read))?;
        packed.map_or(Ok(None), |packed| calls::unpack_doc(&packed))
    }

    pub(crate) async fn claim(
        &self,
        scope: &str,
        user: &str,
        wish: &Wish,
        names: Vec<String>,
    ) -> Result<String, CounterError> {
        let Shared { limits, scripts, .. } = &*self.0;
        let mut keys = self.claim_keys();
        let mut hash = String::new();
        if let Some((key, fingerprint)) = body::claim_idempotency(scope, wish) {
            keys.push(format!("{}:{{claims}}:op:{}:{user}:{key}", self.0.prefix, user.len()));
            hash = fingerprint;
        }
        let mut args: Vec<Value> =
            vec![scope.into(), user.into(), hash.into(), limits.claims.into(), limits.claims_per_user.into()];
        args.extend(names.into_iter().map(Value::from));
        let reply: Vec<String> = self.write(&scripts.claim, keys, args).await?;
        calls::claimed(wish, &reply)
    }

    pub(crate) async fn unclaim(&self, scope: &str, user: &str, name: &str) -> Result<bool, CounterError> {
        let args: Vec<Value> = vec![scope.into(), user.into(), name.into()];
        let given: u64 = self.write(&self.0.scripts.unclaim, self.claim_keys(), args).await?;
        Ok(given == 1)
    }

    pub(crate) async fn lock(&self, name: &str, owner: &str, act: LockAct) -> Result<Lock, CounterError> {
        let (act, fence, ttl) = match act {
            LockAct::Acquire { ttl } => ("acquire", 0, ttl),
            LockAct::Renew { fence, ttl } => ("renew", fence, ttl),
            LockAct::Release { fence } => ("release", fence, Duration::ZERO),
        };
        let keys = vec![self.lock_key(name)];
        let args: Vec<Value> =
            vec![act.into(), owner.into(), fence.to_string().into(), calls::millis(ttl).into()];
        let reply: Vec<String> = self.write(&self.0.scripts.lock, keys, args).await?;
        calls::lock(&reply)
    }

    /// `lasts` of zero lifts it. The list of one room is what its scripts look at; the list of all is what the nodes
    /// read. A restriction is in the first for longer than in the second, never the other way round.
    pub(crate) async fn restrict(
        &self,
        kind: RestrictionKind,
        whom: &Whom,
        room: Option<&str>,
        lasts: Duration,
    ) -> Result<u64, CounterError> {
        let field = calls::restriction_field(kind, whom, room);
        let all = (self.restrictions_key(), field);
        let of_room = match (whom, room, kind) {
            (Whom::User(user), Some(room), RestrictionKind::Mute) => {
                Some((self.keys(room).muted(), user.clone()))
            }
            _ => None,
        };
        let lists: Vec<(String, String)> = if lasts.is_zero() {
            std::iter::once(all).chain(of_room).collect()
        } else {
            of_room.into_iter().chain(std::iter::once(all)).collect()
        };
        let mut ends = 0;
        for (key, what) in lists {
            let args: Vec<Value> =
                vec![what.into(), calls::millis(lasts).into(), self.0.limits.restrictions.into()];
            let reply: Vec<String> = self.write(&self.0.scripts.restrict, vec![key], args).await?;
            ends = ends.max(calls::restricted(&reply)?);
        }
        Ok(ends)
    }

    pub(crate) async fn restrictions(&self) -> Result<Vec<Restriction>, CounterError> {
        let key = self.restrictions_key();
        let all: Vec<(String, String)> =
            self.0.client.hgetall(key).await.map_err(|error| fault::map(error, Effect::Read))?;
        all.iter().map(|(field, until)| calls::restriction(field, until)).collect()
    }

    /// Puts the way out for a step's changes behind its keys. Hold it until the step is over.
    fn outlet(&self, keys: &mut Vec<String>) -> Outlet {
        let outlet = self.0.changes.outlet(keys.first().map(String::as_str).unwrap_or_default());
        outlet.extend(keys);
        outlet
    }

    /// Puts a room at the head of the sweep's list.
    async fn look_soon(&self, room: &str) -> Result<(), CounterError> {
        let added = self.0.client.zadd(self.rooms_key(), 0.0, room);
        let _new: u64 = added.await.map_err(|error| fault::map(error, Effect::Write))?;
        Ok(())
    }

    async fn read<R: FromValue>(
        &self,
        script: &Script,
        keys: Vec<String>,
        args: Vec<Value>,
    ) -> Result<R, CounterError> {
        run(&self.0.client, script, keys, args).await.map_err(|error| fault::map(error, Effect::Read))
    }

    async fn write<R: FromValue>(
        &self,
        script: &Script,
        keys: Vec<String>,
        args: Vec<Value>,
    ) -> Result<R, CounterError> {
        run(&self.0.client, script, keys, args).await.map_err(|error| fault::map(error, Effect::Write))
    }

    /// ZSET of rooms with items, by when to look for expired holds.
    fn rooms_key(&self) -> String {
        format!("{}:stocked", self.0.prefix)
    }

    /// A key that is in the slot of that thing.
    pub(crate) fn key_of(&self, thing: Thing<'_>) -> String {
        match thing {
            Thing::Ticket(ticket) => self.ticket_key(ticket),
            Thing::Lock(name) => self.lock_key(name),
            Thing::Restrictions => self.restrictions_key(),
            Thing::Claims => self.claim_keys().swap_remove(0),
        }
    }

    fn claim_keys(&self) -> Vec<String> {
        ["names", "owners"].map(|what| format!("{}:{{claims}}:{what}", self.0.prefix)).to_vec()
    }

    fn keys<'a>(&'a self, room: &'a str) -> Keys<'a> {
        Keys { prefix: &self.0.prefix, room }
    }

    fn lock_key(&self, name: &str) -> String {
        format!("{}:lock:{name}", self.0.prefix)
    }

    fn restrictions_key(&self) -> String {
        format!("{}:restrictions", self.0.prefix)
    }

    fn ticket_key(&self, ticket: &str) -> String {
        format!("{}:ticket:{}", self.0.prefix, secret::digest(ticket))
    }
}
