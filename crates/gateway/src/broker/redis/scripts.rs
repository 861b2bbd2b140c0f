//! The scripts: each is one atomic step in one slot.

use fred::{
    error::Error,
    types::{Value, scripts::Script},
    util::redis_keyslot,
};
use roomcast_counter::{ChangeTarget, PublishMode, log_lua, tally_lua};

use super::{queue::Command, resp};

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

    /// A call by the script's hash, and in full where the server does not know it: then it certainly did not run.
    pub(super) fn called(&self, call: &Call) -> Command {
        let hash = self.script.sha1();
        let mut bytes = Vec::with_capacity(128 + call.words.len());
        resp::array(&mut bytes, 3 + call.keys + call.args);
        let start = bytes.len();
        resp::bulk(&mut bytes, b"EVALSHA");
        resp::bulk(&mut bytes, hash.as_bytes());
        let at = start..bytes.len();
        resp::bulk(&mut bytes, itoa::Buffer::new().format(call.keys).as_bytes());
        bytes.extend_from_slice(&call.words);
        let script = self.script.lua().map(|text| text.inner().clone()).unwrap_or_default();
        Command::by_hash(bytes, at, script)
    }
}

/// A script's keys and, behind them, its arguments, as they go over the wire.
#[derive(Debug)]
pub(super) struct Call {
    words: Vec<u8>,
    keys: usize,
    args: usize,
    /// That of the first key.
    slot: u16,
}

impl Call {
    /// A call of these keys. The arguments follow.
    pub(super) fn new(keys: &[String]) -> Self {
        let mut words = Vec::with_capacity(512);
        for key in keys {
            resp::bulk(&mut words, key.as_bytes());
        }
        let slot = redis_keyslot(keys.first().map(String::as_bytes).unwrap_or_default());
        Self { words, keys: keys.len(), args: 0, slot }
    }

    /// A call of these keys and arguments.
    pub(super) fn of(keys: &[String], args: &[Value]) -> Result<Self, Error> {
        let mut call = Self::new(keys);
        for arg in args {
            resp::value(&mut call.words, arg)?;
        }
        call.args = args.len();
        Ok(call)
    }

    /// The next argument.
    pub(super) fn arg(&mut self, text: &str) {
        self.args += 1;
        resp::bulk(&mut self.words, text.as_bytes());
    }

    /// A number as the next argument.
    pub(super) fn number(&mut self, number: impl TryInto<i64>) {
        self.args += 1;
        resp::number(&mut self.words, number.try_into().unwrap_or(i64::MAX));
    }

    /// The slot of its keys.
    pub(super) fn slot(&self) -> u16 {
        self.slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_written_with_its_script_before_its_keys_and_arguments() {
        let script = Named { name: "one", script: Script::from_lua("return 1") };
        let mut call = Call::new(&["rc:{event:wall}:meta".to_owned(), "rc:{event:wall}:log".to_owned()]);
        call.arg("\r\n");
        call.number(7_u32);
        call.number(u64::MAX);
        let rest = "$1\r\n2\r\n$20\r\nrc:{event:wall}:meta\r\n$19\r\nrc:{event:wall}:log\r\n\
                    $2\r\n\r\n\r\n$1\r\n7\r\n$19\r\n9223372036854775807\r\n";
        let hash = script.script.sha1();
        let by_hash = format!("*8\r\n$7\r\nEVALSHA\r\n$40\r\n{hash}\r\n{rest}");
        assert_eq!(script.called(&call).text(), by_hash);
        let in_full = format!("*8\r\n$4\r\nEVAL\r\n$8\r\nreturn 1\r\n{rest}");
        assert_eq!(script.called(&call).in_full().text(), in_full);
        assert_eq!(call.slot(), redis_keyslot(b"event:wall"));
    }

    #[test]
    fn a_call_of_values_is_the_same_and_takes_no_value_that_is_no_word() {
        let keys = ["a".to_owned(), "b".to_owned()];
        let mut call = Call::new(&keys);
        call.arg("text");
        call.number(-3);
        let of = Call::of(&keys, &["text".into(), Value::Integer(-3)]).unwrap();
        assert_eq!((of.words, of.keys, of.args), (call.words, call.keys, call.args));
        assert!(Call::of(&keys, &[Value::Null]).is_err());
    }
}
