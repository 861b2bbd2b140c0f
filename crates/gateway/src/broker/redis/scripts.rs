//! The scripts: each is one atomic step in one slot.

use fred::{
    error::Error,
    types::{Value, scripts::Script},
};
use roomcast_counter::{ChangeTarget, PublishMode, log_lua, tally_lua};

use super::log::number;

/// Every script of the broker.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) publish: Named,
    pub(super) history: Named,
    pub(super) snapshot: Named,
    pub(super) forget_keys: Named,
    pub(super) end_room: Named,
    pub(super) verify: Named,
    pub(super) presence_update: Named,
    pub(super) presence_members: Named,
    pub(super) heartbeat: Named,
    pub(super) figures: Named,
    pub(super) order: Named,
    pub(super) live: Named,
    pub(super) goodbye: Named,
    pub(super) claim_addresses: Named,
}

/// A script and its name in the metrics.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: &'static str,
    pub(super) script: Script,
}

impl Scripts {
    pub(super) fn new(mode: PublishMode, changes: &ChangeTarget) -> Self {
        // Only what changes something is called with its way out for changes.
        let (shared, changing) = (log_lua(mode, &ChangeTarget::Off), log_lua(mode, changes));
        let plain = |name, text: &str| Named { name, script: Script::from_lua(text) };
        let log = |name, text: &str| plain(name, &format!("{shared}{text}"));
        let change = |name, text: &str| plain(name, &format!("{changing}{text}"));
        let presence = |name, text: &str| log(name, &format!("{}{text}", include_str!("lua/presence.lua")));
        // As functions with keys and arguments of their own, so that each part is the script that it is alone.
        let part = |name: &str, text: &str| format!("local function {name}(KEYS, ARGV)\n{text}\nend\n");
        let snapshot = [
            part("log_part", include_str!("lua/history.lua")),
            part(
                "presence_part",
                concat!(include_str!("lua/presence.lua"), include_str!("lua/presence_members.lua")),
            ),
            part("tally_part", &tally_lua()),
            include_str!("lua/snapshot.lua").to_owned(),
        ]
        .concat();
        let nodes = |name, text: &str| log(name, &format!("{}{text}", include_str!("lua/nodes.lua")));
        Self {
            publish: change("publish", include_str!("lua/publish.lua")),
            history: plain("history", include_str!("lua/history.lua")),
            snapshot: change("snapshot", &snapshot),
            forget_keys: plain("forget_keys", include_str!("lua/forget_keys.lua")),
            end_room: change("end_room", include_str!("lua/end_room.lua")),
            verify: log("verify", include_str!("lua/verify.lua")),
            presence_update: presence("presence_update", include_str!("lua/presence_update.lua")),
            presence_members: presence("presence_members", include_str!("lua/presence_members.lua")),
            heartbeat: nodes("heartbeat", include_str!("lua/heartbeat.lua")),
            figures: nodes("figures", include_str!("lua/figures.lua")),
            order: nodes("order", include_str!("lua/order.lua")),
            live: nodes("live", include_str!("lua/live.lua")),
            goodbye: nodes("goodbye", include_str!("lua/goodbye.lua")),
            claim_addresses: log("claim_addresses", include_str!("lua/claim_addresses.lua")),
        }
    }
}

impl Named {
    /// The whole script.
    pub(super) fn text(&self) -> Value {
        self.script.lua().cloned().map_or(Value::Null, Value::String)
    }

    /// The words of an EVALSHA.
    pub(super) fn by_hash(&self, keys: Vec<String>, args: Vec<Value>) -> Vec<Value> {
        let mut words: Vec<Value> = Vec::with_capacity(2 + keys.len() + args.len());
        words.extend([Value::String(self.script.sha1().clone()), number(keys.len())]);
        words.extend(keys.into_iter().map(Value::from));
        words.extend(args);
        words
    }

    /// The words of an EVAL from those of the EVALSHA, where its answer was that the server does not know the script:
    /// then it certainly did not run.
    pub(super) fn in_full<R>(&self, mut words: Vec<Value>, answer: &Result<R, Error>) -> Option<Vec<Value>> {
        if !answer.as_ref().is_err_and(|error| error.details().starts_with("NOSCRIPT")) {
            return None;
        }
        tracing::debug!(script = self.name, "the server does not know the script yet");
        *words.first_mut()? = self.script.lua().cloned().map(Value::String)?;
        Some(words)
    }
}
