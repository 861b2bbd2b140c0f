//! The scripts: each is one atomic step in one slot.

use fred::types::scripts::Script;
use roomcast_counter::{ChangeTarget, PublishMode, log_lua};

/// Every script of the broker.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) publish: Named,
    pub(super) history: Named,
    pub(super) forget_keys: Named,
    pub(super) end_room: Named,
    pub(super) presence_update: Named,
    pub(super) presence_members: Named,
    pub(super) heartbeat: Named,
    pub(super) live: Named,
    pub(super) goodbye: Named,
    pub(super) claim_address: Named,
}

/// A script and its name in the metrics.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: &'static str,
    pub(super) script: Script,
}

impl Scripts {
    pub(super) fn new(changes: &ChangeTarget) -> Self {
        let shared = log_lua(PublishMode::Plain, changes);
        let plain = |name, text: &str| Named { name, script: Script::from_lua(text) };
        let log = |name, text: &str| plain(name, &format!("{shared}{text}"));
        let presence = |name, text: &str| log(name, &format!("{}{text}", include_str!("lua/presence.lua")));
        let nodes = |name, text: &str| log(name, &format!("{}{text}", include_str!("lua/nodes.lua")));
        Self {
            publish: log("publish", include_str!("lua/publish.lua")),
            history: plain("history", include_str!("lua/history.lua")),
            forget_keys: plain("forget_keys", include_str!("lua/forget_keys.lua")),
            end_room: log("end_room", include_str!("lua/end_room.lua")),
            presence_update: presence("presence_update", include_str!("lua/presence_update.lua")),
            presence_members: presence("presence_members", include_str!("lua/presence_members.lua")),
            heartbeat: nodes("heartbeat", include_str!("lua/heartbeat.lua")),
            live: nodes("live", include_str!("lua/live.lua")),
            goodbye: nodes("goodbye", include_str!("lua/goodbye.lua")),
            claim_address: log("claim_address", include_str!("lua/claim_address.lua")),
        }
    }
}
