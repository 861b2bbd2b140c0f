//! The scripts, and how one is run: by its hash, and in full where the server does not know it.

use fred::{
    error::Error,
    types::{FromValue, Value, scripts},
    util::redis_keyslot,
};

use super::{LOG_LUA, PublishMode, Routed, log_lua};
use crate::ChangeTarget;

const ROOM_LUA: &str = include_str!("lua/room.lua");
const STOCK_LUA: &str = include_str!("lua/stock.lua");

/// The body of a Lua function of `KEYS` and `ARGV` that answers a room's counters and its items, expired holds taken
/// back: for a script that reads other things of the room in the same step. Goes behind [`LOG_LUA`](super::LOG_LUA).
pub fn tally_lua() -> String {
    format!("{ROOM_LUA}{STOCK_LUA}{}", include_str!("lua/tally.lua"))
}

/// The script of a lease, under this name.
pub(crate) fn lock_script(name: &'static str) -> Script {
    Script::new(name, format!("{LOG_LUA}{}", include_str!("lua/lock.lua")))
}

/// A script, and the name under which its times are counted.
#[derive(Debug)]
pub(crate) struct Script {
    name: &'static str,
    script: scripts::Script,
}

impl Script {
    pub(crate) fn new(name: &'static str, lua: impl Into<String>) -> Self {
        Self { name, script: scripts::Script::from_lua(lua.into()) }
    }
}

/// Every script of this crate, complete as sent.
pub(super) struct Scripts {
    pub(super) like: Script,
    pub(super) count: Script,
    pub(super) comment: Script,
    pub(super) comments: Script,
    pub(super) queue: Script,
    pub(super) moderate: Script,
    pub(super) delete_comment: Script,
    pub(super) upload: Script,
    pub(super) put: Script,
    pub(super) stock_set: Script,
    pub(super) stock_read: Script,
    pub(super) reserve: Script,
    pub(super) settle: Script,
    pub(super) sweep: Script,
    pub(super) sweep_take: Script,
    pub(super) sweep_done: Script,
    pub(super) claim: Script,
    pub(super) unclaim: Script,
    pub(super) lock: Script,
    pub(super) restrict: Script,
    pub(super) restore: Script,
    pub(super) end_room: Script,
}

impl Scripts {
    pub(super) fn new(mode: PublishMode, changes: &ChangeTarget) -> Self {
        let log = log_lua(mode, changes);
        let step = |name, body: &str| Script::new(name, format!("{log}{ROOM_LUA}{body}"));
        let stock = |name, body: &str| step(name, &format!("{STOCK_LUA}{body}"));
        // Of no room, so of no interest to a reader of changes.
        let alone = |name, body: &str| Script::new(name, format!("{LOG_LUA}{body}"));
        Self {
            like: step("like", include_str!("lua/like.lua")),
            count: step("count", include_str!("lua/count.lua")),
            comment: step("comment", include_str!("lua/comment.lua")),
            comments: Script::new("comments", include_str!("lua/comments.lua")),
            queue: Script::new("queue", include_str!("lua/queue.lua")),
            moderate: step("moderate", include_str!("lua/moderate.lua")),
            delete_comment: step("delete_comment", include_str!("lua/delete_comment.lua")),
            upload: step("upload", include_str!("lua/upload.lua")),
            put: step("put", include_str!("lua/put.lua")),
            stock_set: stock("stock_set", include_str!("lua/stock_set.lua")),
            stock_read: stock("stock_read", include_str!("lua/stock_read.lua")),
            reserve: stock("reserve", include_str!("lua/reserve.lua")),
            settle: stock("settle", include_str!("lua/settle.lua")),
            sweep: stock("sweep", include_str!("lua/sweep.lua")),
            sweep_take: Script::new("sweep_take", include_str!("lua/sweep_take.lua")),
            sweep_done: Script::new("sweep_done", include_str!("lua/sweep_done.lua")),
            claim: alone("claim", include_str!("lua/claim.lua")),
            unclaim: Script::new("unclaim", include_str!("lua/unclaim.lua")),
            lock: lock_script("lock"),
            restrict: alone("restrict", include_str!("lua/restrict.lua")),
            restore: step("restore", include_str!("lua/restore.lua")),
            end_room: Script::new("end_room", include_str!("lua/end_room.lua")),
        }
    }
}

/// Runs a script. After `NOSCRIPT` it certainly did not run, so sending it in full is no retry; `EVAL` runs it on the
/// very server that owns the slot, and leaves it known there.
pub(crate) async fn run<R: FromValue>(
    client: &Routed,
    script: &Script,
    keys: Vec<String>,
    args: Vec<Value>,
) -> Result<R, Error> {
    let Script { name, script } = script;
    let _underway = client.begin(name)?;
    match send(client, "EVALSHA", Value::String(script.sha1().clone()), keys.clone(), args.clone()).await {
        Err(error) if error.details().starts_with("NOSCRIPT") => {
            tracing::debug!(name, "the server does not know this script yet: sending it in full");
            let text = script.lua().cloned().map_or(Value::Null, Value::String);
            send(client, "EVAL", text, keys, args).await
        }
        result => result,
    }
}

/// Sends one command. By hand, because fred 10.1 has no scripts on a client with options: `client.evalsha()` would
/// quietly reach through to the client without them, and wait where it should fail at once.
async fn send<R: FromValue>(
    client: &Routed,
    command: &'static str,
    script: Value,
    keys: Vec<String>,
    args: Vec<Value>,
) -> Result<R, Error> {
    let slot = redis_keyslot(keys.first().map(String::as_bytes).unwrap_or_default());
    let mut words: Vec<Value> = Vec::with_capacity(2 + keys.len() + args.len());
    words.extend([script, keys.len().to_string().into()]);
    words.extend(keys.into_iter().map(Value::from));
    words.extend(args);
    client.custom(command, slot, &words).await
}
