//! Copies what steps left in the outboxes of a cluster into the one stream of changes: each once, the changes of a room
//! in their order, whoever dies in between.
//!
//! How far each outbox was copied stands beside the stream, in its slot, and changes in the step that adds to it, so
//! neither is ever ahead of the other. One node at a time copies, by a lease whose fence that step checks. An outbox
//! keeps for a while what was copied: should a failover take the end of the stream, the positions went with it, and it
//! is copied again. Where an outbox gave up what was not copied yet, the stream says so.

use std::{
    collections::HashMap,
    mem,
    time::{Duration, Instant},
};

use fred::types::{FromValue, Value};
use futures_util::future::join_all;

use super::{
    Place, nonsense,
    outbox::{OUTBOX_TTL, Outboxes, SLOTS},
};
use crate::{
    CounterError,
    redis::{Effect, Routed, Script, lock_script, map_fault, run},
};

/// Entries copied at once, and about how many bytes of them: one entry may be as large as an event.
const PAGE: u32 = 100;
const PAGE_BYTES: u32 = 256 * 1024;
/// Outboxes worked on at once.
const AT_ONCE: usize = 32;
/// Outboxes taken from what other nodes told, at once.
const DUE: u32 = 1_024;
/// How long nobody else copies after a word of who does.
const LEASE: Duration = Duration::from_secs(3);
/// How often it is renewed, or asked for.
const RENEWAL: Duration = Duration::from_secs(1);
/// What was copied stays in its outbox for so long: far above what a failover takes along, and above a round.
const KEEP: Duration = Duration::from_secs(300);
/// Outboxes looked at unasked in each step: all of them within a minute of steps each 50 ms, or quickly by who begins.
const LOOK: u16 = 16;
const FIRST_LOOK: u16 = 256;

/// What a step of the mover came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Changes copied.
    pub changes: u64,
    /// Outboxes that had given up changes before they were copied.
    pub gaps: u64,
}

/// A node's part in copying changes.
#[derive(Debug)]
pub struct Mover {
    client: Routed,
    outboxes: Outboxes,
    owner: String,
    scripts: Scripts,
    next_lease: Option<Instant>,
    lead: Option<Lead>,
}

#[derive(Debug)]
struct Scripts {
    lease: Script,
    out: Script,
    copy: Script,
    told: Script,
    due: Script,
    positions: Script,
}

/// What only who copies knows.
#[derive(Debug)]
struct Lead {
    fence: String,
    /// How far each outbox was copied, as last heard.
    positions: HashMap<u16, Place>,
    /// The next outbox to be looked at unasked; and whether this is the first round.
    next: u16,
    first_round: bool,
}

/// What became of one outbox.
enum Copied {
    To(Option<Place>, Moved),
    /// Another copies now.
    Fenced,
}

impl Mover {
    pub(super) fn new(client: Routed, outboxes: Outboxes, owner: &str) -> Self {
        let scripts = Scripts {
            lease: lock_script("changes_lease"),
            out: Script::new(
                "changes_out",
                concat!(include_str!("lua/entry.lua"), include_str!("lua/out.lua")),
            ),
            copy: Script::new("changes_copy", include_str!("lua/copy.lua")),
            told: Script::new("changes_told", "return redis.call('SADD', KEYS[1], unpack(ARGV))"),
            due: Script::new("changes_due", "return redis.call('SPOP', KEYS[1], ARGV[1])"),
            positions: Script::new("changes_positions", "return redis.call('HGETALL', KEYS[1])"),
        };
        let owner = owner.to_owned();
        Self { client, outboxes, owner, scripts, next_lease: None, lead: None }
    }

    /// Whether this node copies, as far as it knows.
    pub fn leads(&self) -> bool {
        self.lead.is_some()
    }

    /// One step, to be called every 50 ms or so: copies, or tells who copies where there is something.
    ///
    /// After an error nothing is forgotten: call it again.
    pub async fn step(&mut self, now: Instant) -> Result<Moved, CounterError> {
        self.hold_lease(now).await?;
        let mut slots = self.outboxes.take_touched();
        let outcome = match self.lead.take() {
            None => self.tell(&slots).await.map(|()| Some(Moved::default())),
            Some(mut lead) => {
                let outcome = self.copy_due(&mut lead, &mut slots).await;
                let still = !matches!(outcome, Ok(None));
                self.lead = still.then_some(lead);
                outcome
            }
        };
        if !matches!(outcome, Ok(Some(_))) {
            for slot in slots {
                self.outboxes.touch(slot);
            }
        }
        outcome.map(Option::unwrap_or_default)
    }

    /// Asks for the lease, or for it to go on.
    async fn hold_lease(&mut self, now: Instant) -> Result<(), CounterError> {
        if self.next_lease.is_some_and(|next| now < next) {
            return Ok(());
        }
        self.next_lease = Some(now + RENEWAL);
        let args: Vec<Value> = vec!["acquire".into(), self.owner.as_str().into(), "0".into(), millis(LEASE)];
        let said: Vec<String> = self.call(&self.scripts.lease, vec![self.near("mover")], args).await?;
        match &said[..] {
            [ok, fence, _ends] if ok == "ok" => {
                if self.lead.as_ref().is_none_or(|lead| lead.fence != *fence) {
                    let positions = self.positions().await?;
                    self.lead = Some(Lead { fence: fence.clone(), positions, next: 0, first_round: true });
                }
            }
            _ => self.lead = None,
        }
        Ok(())
    }

    /// Leaves word of these for whoever copies.
    async fn tell(&self, slots: &[u16]) -> Result<(), CounterError> {
        // Lua unpacks some thousands at once.
        for some in slots.chunks(4_096) {
            let words = some.iter().map(|slot| Value::from(slot.to_string())).collect();
            let _new: u64 = self.call(&self.scripts.told, vec![self.near("due")], words).await?;
        }
        Ok(())
    }

    /// Copies what is due, these among it. `None`: another does. What was not copied is left in `slots`.
    async fn copy_due(&self, lead: &mut Lead, slots: &mut Vec<u16>) -> Result<Option<Moved>, CounterError> {
        let due: Vec<String> = self.call(&self.scripts.due, vec![self.near("due")], vec![DUE.into()]).await?;
        slots.extend(due.iter().filter_map(|slot| slot.parse::<u16>().ok()).filter(|slot| *slot < SLOTS));
        if lead.next == 0 && !lead.first_round {
            // A failover may have taken the end of the stream, and the positions with it.
            lead.positions = self.positions().await?;
        }
        let last = (lead.next + if lead.first_round { FIRST_LOOK } else { LOOK }).min(SLOTS);
        let mut all = mem::take(slots);
        all.extend(lead.next..last);
        all.sort_unstable();
        all.dedup();
        (lead.next, lead.first_round) = if last == SLOTS { (0, false) } else { (last, lead.first_round) };
        let (mut moved, mut failed, mut fenced) = (Moved::default(), None, false);
        for some in all.chunks(AT_ONCE) {
            let fence = &lead.fence;
            let copies = some.iter().map(|slot| self.copy(fence, *slot, lead.positions.get(slot).copied()));
            let copied = join_all(copies).await;
            for (slot, copied) in some.iter().zip(copied) {
                match copied {
                    Ok(Copied::To(position, part)) => {
                        moved.changes += part.changes;
                        moved.gaps += part.gaps;
                        lead.positions.extend(position.map(|position| (*slot, position)));
                    }
                    Ok(Copied::Fenced) => {
                        fenced = true;
                        slots.push(*slot);
                    }
                    // One server that is away does not hold up what others have.
                    Err(error) => {
                        failed = Some(error);
                        slots.push(*slot);
                    }
                }
            }
        }
        match failed {
            Some(error) if !fenced => Err(error),
            _ => Ok((!fenced).then_some(moved)),
        }
    }

    /// Copies one outbox, from where it was copied to up to its end.
    async fn copy(
        &self,
        fence: &str,
        slot: u16,
        mut position: Option<Place>,
    ) -> Result<Copied, CounterError> {
        let mut moved = Moved::default();
        loop {
            let text = position.map(|position| position.to_string()).unwrap_or_default();
            let args: Vec<Value> = vec![text.as_str().into(), PAGE.into(), millis(KEEP), PAGE_BYTES.into()];
            let said: Vec<String> = self.call(&self.scripts.out, vec![self.outboxes.key(slot)], args).await?;
            let [oldest, kept, more, entries @ ..] = &said[..] else { return Err(nonsense()) };
            if entries.is_empty() {
                return Ok(Copied::To(position, moved));
            }
            let oldest = Place::parse(oldest).ok_or_else(nonsense)?;
            let kept: u64 = kept.parse().map_err(|_| nonsense())?;
            let gap = has_gap(position, oldest, kept, self.outboxes.size());
            let mut args: Vec<Value> = vec![
                self.owner.as_str().into(),
                fence.into(),
                self.outboxes.size().to_string().into(),
                slot.to_string().into(),
                text.into(),
                if gap { "1".into() } else { "0".into() },
            ];
            args.extend(entries.iter().map(|word| Value::from(word.as_str())));
            let keys = ["log", "from", "mover"].map(|what| self.near(what)).to_vec();
            let said: Vec<String> = self.call(&self.scripts.copy, keys, args).await?;
            let count = entries.len() as u64 / 4;
            match &said[..] {
                [ok, last] if ok == "ok" => {
                    position = Some(Place::parse(last).ok_or_else(nonsense)?);
                    moved.changes += count;
                    moved.gaps += u64::from(gap);
                    if more == "0" {
                        return Ok(Copied::To(position, moved));
                    }
                }
                // Somebody has copied meanwhile, or what was copied is lost.
                [moved, stands] if moved == "moved" => position = Place::parse(stands),
                [fenced] if fenced == "fenced" => return Ok(Copied::Fenced),
                _ => return Err(nonsense()),
            }
        }
    }

    async fn positions(&self) -> Result<HashMap<u16, Place>, CounterError> {
        let said: Vec<String> =
            self.call(&self.scripts.positions, vec![self.near("from")], Vec::new()).await?;
        let pair = |pair: &[String]| Some((pair.first()?.parse().ok()?, Place::parse(pair.get(1)?)?));
        said.chunks(2).map(|words| pair(words).ok_or_else(nonsense)).collect()
    }

    /// A key in the slot of the stream.
    fn near(&self, what: &str) -> String {
        format!("{}:{{changes}}:{what}", self.outboxes.prefix())
    }

    /// Whatever becomes of it, it may be sent again.
    async fn call<R: FromValue>(
        &self,
        script: &Script,
        keys: Vec<String>,
        args: Vec<Value>,
    ) -> Result<R, CounterError> {
        run(&self.client, script, keys, args).await.map_err(|error| map_fault(error, Effect::Read))
    }
}

/// Whether an outbox gave up something that was not copied: what was copied last is not there any more, nor anything
/// before it. One that nobody has copied from yet is whole while it is not full; one that went as a whole, because
/// nothing was put into it for a month, had been copied to its end.
fn has_gap(position: Option<Place>, oldest: Place, kept: u64, size: u64) -> bool {
    let month = u64::try_from(OUTBOX_TTL.as_millis()).unwrap_or(u64::MAX);
    match position {
        None => kept >= size,
        Some(position) => oldest > position && oldest.ms < position.ms.saturating_add(month),
    }
}

fn millis(duration: Duration) -> Value {
    duration.as_millis().to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_outbox_gave_up_uncopied_is_noticed() {
        let place = |ms| Place { ms, serial: 0 };
        let copied = Some(place(5_000));
        assert!(!has_gap(copied, place(4_000), 10, 10));
        assert!(!has_gap(copied, place(5_000), 1, 10));
        assert!(has_gap(copied, place(5_001), 1, 10));
        assert!(!has_gap(copied, place(5_000 + 30 * 86_400_000), 1, 10), "it went as a whole");
        assert!(!has_gap(None, place(1), 9, 10));
        assert!(has_gap(None, place(1), 10, 10), "it may have been fuller");
    }
}
