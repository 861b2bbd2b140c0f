//! The scripts, and how one is run: by its hash, and in full where the server does not know it.

use fred::{
    clients::{Client, WithOptions},
    error::Error,
    interfaces::LuaInterface,
    types::{FromValue, Value, scripts::Script},
};

use super::{LOG_LUA, PublishMode};

const ROOM_LUA: &str = include_str!("lua/room.lua");

/// Every script of this crate, complete as sent.
pub(super) struct Scripts {
    pub(super) like: Script,
    pub(super) count: Script,
    pub(super) comment: Script,
    pub(super) comments: Script,
    pub(super) guest: Script,
    pub(super) end_room: Script,
}

impl Scripts {
    pub(super) fn new(mode: PublishMode) -> Self {
        let via = match mode {
            PublishMode::Plain => "",
            PublishMode::Sharded => "publish_via = 'SPUBLISH'\n",
        };
        let step = |body: &str| Script::from_lua(format!("{LOG_LUA}{via}{ROOM_LUA}{body}"));
        Self {
            like: step(include_str!("lua/like.lua")),
            count: step(include_str!("lua/count.lua")),
            comment: step(include_str!("lua/comment.lua")),
            comments: Script::from_lua(include_str!("lua/comments.lua")),
            guest: Script::from_lua(include_str!("lua/guest.lua")),
            end_room: Script::from_lua(include_str!("lua/end_room.lua")),
        }
    }
}

/// Runs a script. After `NOSCRIPT` it certainly did not run, so sending it in full is no retry; `EVAL` runs it on the
/// very server that owns the slot, and leaves it known there.
pub(super) async fn run<R: FromValue>(
    client: &WithOptions<Client>,
    script: &Script,
    keys: Vec<String>,
    args: Vec<Value>,
) -> Result<R, Error> {
    let known: Result<R, Error> = client.evalsha(script.sha1().clone(), keys.clone(), args.clone()).await;
    match (known, script.lua()) {
        (Err(error), Some(text)) if error.details().starts_with("NOSCRIPT") => {
            tracing::debug!(script = %script, "the server does not know this script yet: sending it in full");
            client.eval(text.clone(), keys, args).await
        }
        (result, _) => result,
    }
}
