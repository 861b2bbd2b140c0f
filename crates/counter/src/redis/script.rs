//! The scripts, and how one is run: by its hash, and in full where the server does not know it.

use fred::{
    clients::{Client, WithOptions},
    error::Error,
    interfaces::ClientLike,
    types::{CustomCommand, FromValue, Value, scripts::Script},
    util::redis_keyslot,
};

use super::{ChangeTarget, PublishMode, log_lua};

const ROOM_LUA: &str = include_str!("lua/room.lua");

/// Every script of this crate, complete as sent.
pub(super) struct Scripts {
    pub(super) like: Script,
    pub(super) count: Script,
    pub(super) comment: Script,
    pub(super) comments: Script,
    pub(super) guest: Script,
    pub(super) restore: Script,
    pub(super) end_room: Script,
}

impl Scripts {
    pub(super) fn new(mode: PublishMode, changes: &ChangeTarget) -> Self {
        let log = log_lua(mode, changes);
        let step = |body: &str| Script::from_lua(format!("{log}{ROOM_LUA}{body}"));
        Self {
            like: step(include_str!("lua/like.lua")),
            count: step(include_str!("lua/count.lua")),
            comment: step(include_str!("lua/comment.lua")),
            comments: Script::from_lua(include_str!("lua/comments.lua")),
            guest: Script::from_lua(include_str!("lua/guest.lua")),
            restore: step(include_str!("lua/restore.lua")),
            end_room: Script::from_lua(include_str!("lua/end_room.lua")),
        }
    }
}

/// Runs a script. After `NOSCRIPT` it certainly did not run, so sending it in full is no retry; `EVAL` runs it on the
/// very server that owns the slot, and leaves it known there.
pub(crate) async fn run<R: FromValue>(
    client: &WithOptions<Client>,
    script: &Script,
    keys: Vec<String>,
    args: Vec<Value>,
) -> Result<R, Error> {
    match send(client, "EVALSHA", Value::String(script.sha1().clone()), keys.clone(), args.clone()).await {
        Err(error) if error.details().starts_with("NOSCRIPT") => {
            tracing::debug!(script = %script, "the server does not know this script yet: sending it in full");
            let text = script.lua().cloned().map_or(Value::Null, Value::String);
            send(client, "EVAL", text, keys, args).await
        }
        result => result,
    }
}

/// Sends one command. By hand, because fred 10.1 has no scripts on a client with options: `client.evalsha()` would
/// quietly reach through to the client without them, and wait where it should fail at once.
async fn send<R: FromValue>(
    client: &WithOptions<Client>,
    command: &'static str,
    script: Value,
    keys: Vec<String>,
    args: Vec<Value>,
) -> Result<R, Error> {
    let slot = keys.first().map(|key| redis_keyslot(key.as_bytes()));
    let command = CustomCommand::new_static(command, slot, false);
    let mut words: Vec<Value> = Vec::with_capacity(2 + keys.len() + args.len());
    words.extend([script, keys.len().to_string().into()]);
    words.extend(keys.into_iter().map(Value::from));
    words.extend(args);
    client.custom(command, words).await
}
