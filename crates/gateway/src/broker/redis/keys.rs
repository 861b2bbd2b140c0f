//! The names of keys and channels. A room's name in braces is the hash tag: all that is a room's is in one slot.

use fred::{types::config::Server, util::redis_keyslot};
use roomcast_protocol::RoomName;
use sha2::{Digest, Sha256};

use crate::random::hex;

/// What comes before every name.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn of(&self, room: &RoomName, what: &str) -> String {
        [&*self.prefix, ":{", room.as_str(), "}:", what].concat()
    }

    /// HASH: epoch and offset.
    pub(super) fn meta(&self, room: &RoomName) -> String {
        self.of(room, "meta")
    }

    /// STREAM of events.
    pub(super) fn log(&self, room: &RoomName) -> String {
        self.of(room, "log")
    }

    /// HASH: target → `<counter> <value> <version>;` for each counter, as the counter store keeps it.
    pub(super) fn counts(&self, room: &RoomName) -> String {
        self.of(room, "counts")
    }

    /// One idempotency record; the hash keeps names short and plain, whatever the client chose.
    pub(super) fn key(&self, room: &RoomName, key: &str) -> String {
        self.of(room, &format!("key:{}", hex(&Sha256::digest(key))))
    }

    /// ZSET that lists the idempotency records.
    pub(super) fn key_index(&self, room: &RoomName) -> String {
        self.of(room, "keys")
    }

    /// HASH: node → connections.
    pub(super) fn presence(&self, room: &RoomName) -> String {
        self.of(room, "p")
    }

    /// ZSET of a node's users.
    pub(super) fn presence_users(&self, room: &RoomName, node: &str) -> String {
        self.of(room, &format!("p:{node}"))
    }

    /// HASH: user → connections, of a node's users with more than one.
    pub(super) fn presence_many(&self, room: &RoomName, node: &str) -> String {
        self.of(room, &format!("p.many:{node}"))
    }

    /// Exists while no presence push may go out.
    pub(super) fn presence_pushed(&self, room: &RoomName) -> String {
        self.of(room, "p.pushed")
    }

    /// Exists inside a script only.
    pub(super) fn presence_scratch(&self, room: &RoomName) -> String {
        self.of(room, "p.scratch")
    }

    /// The room's channel.
    pub(super) fn channel(&self, room: &RoomName) -> String {
        self.of(room, "ch")
    }

    /// The room of a channel.
    pub(super) fn room(&self, channel: &str) -> Option<RoomName> {
        let name = channel.strip_prefix(&*self.prefix)?.strip_prefix(":{")?.strip_suffix("}:ch")?;
        RoomName::parse(name).ok()
    }

    /// ZSET: node → end of its lease.
    pub(super) fn leases(&self) -> String {
        format!("{}:{{nodes}}:leases", self.prefix)
    }

    /// STREAM of the last orders to all nodes.
    pub(super) fn orders(&self) -> String {
        format!("{}:{{nodes}}:orders", self.prefix)
    }

    /// HASH: node → figures.
    pub(super) fn stats(&self) -> String {
        format!("{}:{{nodes}}:stats", self.prefix)
    }

    /// HASH: node → all that it tells the dashboard.
    pub(super) fn figures(&self) -> String {
        format!("{}:{{nodes}}:figures", self.prefix)
    }

    /// HASH: node → its share of the connections of an address or a user. No room's name begins with `@`; what would
    /// break the hash tag, or is long, is hashed.
    pub(super) fn shares(&self, key: &str) -> String {
        let plain =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'.' | b'/' | b'-' | b'_' | b'@' | b'|');
        if key.len() <= 128 && key.bytes().all(plain) {
            format!("{}:{{@{key}}}:shares", self.prefix)
        } else {
            format!("{}:{{@#{}}}:shares", self.prefix, hex(&Sha256::digest(key)))
        }
    }

    /// The channel of every node.
    pub(super) fn control(&self) -> String {
        format!("{}:{{nodes}}:control", self.prefix)
    }

    /// The channel on which a node hears itself, where there is one server.
    pub(super) fn probe(&self, node: &str) -> String {
        format!("{}:{{nodes}}:probe:{node}", self.prefix)
    }

    /// The channel on which a node hears itself by way of one server of a cluster, which tells it to all others too.
    pub(super) fn probe_by(&self, node: &str, server: &Server) -> String {
        format!("{}:{server}", self.probe(node))
    }

    /// The slot of all that is a room's.
    pub(super) fn slot(&self, room: &RoomName) -> u16 {
        redis_keyslot(self.channel(room).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_leads_back_to_its_room_only() {
        let keys = Keys::new("rc");
        let wall = RoomName::parse("event:wall").unwrap();
        assert_eq!(keys.channel(&wall), "rc:{event:wall}:ch");
        assert_eq!(keys.room("rc:{event:wall}:ch"), Some(wall));
        for other in
            ["rc:{event:wall}:meta", "xx:{event:wall}:ch", "rc:{}:ch", "rc:{a}:ch}:ch", "", &keys.control()]
        {
            assert_eq!(keys.room(other), None, "{other}");
        }
    }

    #[test]
    fn addresses_and_users_have_names_of_their_own() {
        let keys = Keys::new("rc");
        assert_eq!(keys.shares("ip/2001:db8::/64"), "rc:{@ip/2001:db8::/64}:shares");
        let odd = ["user/}{", "user/ann ", &format!("user/{}", "a".repeat(200)), "user/#"];
        let names: std::collections::HashSet<_> = odd.iter().map(|key| keys.shares(key)).collect();
        assert_eq!(names.len(), odd.len());
        for name in names {
            assert!(name.starts_with("rc:{@#") && name.len() == "rc:{@#}:shares".len() + 64, "{name}");
        }
    }

    #[test]
    fn keys_of_clients_cannot_reach_other_names() {
        let keys = Keys::new("rc");
        let wall = RoomName::parse("event:wall").unwrap();
        let name = keys.key(&wall, "} {\n");
        assert!(
            name.starts_with("rc:{event:wall}:key:") && name.len() == "rc:{event:wall}:key:".len() + 64,
            "{name}"
        );
    }
}
