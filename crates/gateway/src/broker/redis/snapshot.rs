//! A room at one moment: one script reads what broker and counters keep of it.

use roomcast_core::permission::HistoryRules;
use roomcast_counter::TallyCall;
use roomcast_protocol::RoomName;

use super::{RedisBroker, fault::Effect, log, nonsense, presence};
use crate::broker::{BrokerError, Range, RoomSnapshot};

impl RedisBroker {
    /// Where the room's log stands and who is there, and in the same step what the counters keep of it, as they gave
    /// the call and read the answer.
    pub async fn snapshot(
        &self,
        room: &RoomName,
        history: HistoryRules,
        tally: TallyCall,
    ) -> Result<RoomSnapshot, BrokerError> {
        let inner = &*self.0;
        let parts = [
            inner.log.history_call(room, &Range::Recent(0), history)?,
            inner.presence.members_call(room, None, 0),
            (tally.keys, tally.args),
        ];
        let lengths = parts.iter().flat_map(|(keys, args)| [keys.len(), args.len()]);
        let mut args: Vec<_> = lengths.map(|length| length.to_string().into()).collect();
        let mut names = Vec::new();
        for (part_names, part_args) in parts {
            names.extend(part_names);
            args.extend(part_args);
        }
        // Whoever looks at the items may be the one who ends a hold.
        let outlet = inner.log.changes.outlet(&names[0]);
        outlet.extend(&mut names);
        let scripts = &inner.context.scripts;
        let answer: Vec<String> =
            inner.commands.run(&scripts.snapshot, names, args, Effect::Harmless).await?;
        let mut rest = &answer[..];
        let [tail, present, counters, items] = [(); 4].map(|()| list(&mut rest));
        let (Some([epoch, offset, ..]), Some([connections, users, ..])) = (tail, present) else {
            return Err(nonsense("snapshot"));
        };
        let lists = counters.zip(items).ok_or_else(|| nonsense("snapshot"))?;
        Ok(RoomSnapshot {
            tail: log::position(epoch, offset)?,
            presence: presence::count(connections, users)?,
            counters: lists.0.to_vec(),
            items: lists.1.to_vec(),
        })
    }
}

/// The next list: its length, then its words.
fn list<'a>(rest: &mut &'a [String]) -> Option<&'a [String]> {
    let (length, words) = rest.split_first()?;
    let (list, after) = words.split_at_checked(length.parse().ok()?)?;
    *rest = after;
    Some(list)
}
