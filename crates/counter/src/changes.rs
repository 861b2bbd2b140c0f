//! The stream of durable changes: what a back end reads to keep its own tables. Each entry is made in the step that
//! makes the change, so there is none without the other; in a cluster in an outbox, from where a mover copies it.
//!
//! It is bounded: a reader that stays away too long is told that it missed something, and starts over from a
//! snapshot. It knows no readers: each keeps the id up to which it has read.

mod mover;
mod outbox;

pub use mover::{Moved, Mover};
pub(crate) use outbox::OUTBOX_TTL;
pub use outbox::{ChangeTarget, Outboxes, Outlet};

use crate::{
    CounterError, Invalid,
    redis::{Effect, Routed, Script, changes_key, map_fault, run},
};
use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Rises: `<Unix ms>-<serial>`.
    pub id: String,
    /// `like`, `count`, `comment`, `event`, `restore`, …: what the data's fields are.
    pub kind: String,
    /// The room.
    pub room: String,
    /// A JSON object.
    pub data: String,
}

/// Changes behind an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangePage {
    /// Oldest first.
    pub changes: Vec<Change>,
    /// Whether nothing is missing between the id and the first of these. `false`: older entries were given up
    /// meanwhile, or data was lost. Where exactly the reader's own entry is the newest one given up, it is `false` too.
    pub complete: bool,
}

/// The kind of an entry that is no change: here some were given up before they could be copied.
const GAP: &str = "gap";

/// The stream: one handle, cheap to clone.
#[derive(Clone, Debug)]
pub enum Changes {
    /// In this process; gone with it.
    Memory(ChangeLog),
    /// In Redis.
    Redis(RedisChanges),
}

impl Changes {
    /// Whether any are kept.
    pub fn is_on(&self) -> bool {
        match self {
            Self::Memory(log) => log.0.size > 0,
            Self::Redis(redis) => !matches!(redis.0.target, ChangeTarget::Off),
        }
    }

    /// What is in the slot of the stream.
    pub fn place(&self) -> &'static str {
        "changes"
    }

    /// A node's part in bringing the changes of all slots into the one stream; none where they are written there.
    pub fn mover(&self, owner: &str) -> Option<Mover> {
        match self {
            Self::Redis(redis) => match &redis.0.target {
                ChangeTarget::Outbox(outboxes) => {
                    Some(Mover::new(redis.0.client.clone(), outboxes.clone(), owner))
                }
                ChangeTarget::Off | ChangeTarget::Shared { .. } => None,
            },
            Self::Memory(_) => None,
        }
    }

    /// At most so many changes behind the id; `0-0` is before the first. Where one of them is of the kind `gap`, some
    /// were given up before they could be copied, and the page is not complete.
    pub async fn read(&self, after: &str, limit: u32) -> Result<ChangePage, CounterError> {
        let after = Place::parse(after).ok_or(Invalid::Cursor)?;
        match self {
            Self::Memory(log) => Ok(log.read(after, limit)),
            Self::Redis(redis) => redis.read(after, limit).await,
        }
    }
}

impl Change {
    /// Whether this is none, but tells that some are missing.
    pub fn is_gap(&self) -> bool {
        self.kind == GAP
    }
}

/// An id, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    ms: u64,
    serial: u64,
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let (ms, serial) = text.split_once('-').unwrap_or((text, "0"));
        let number = |text: &str| text.parse().ok().filter(|_| digits(text));
        Some(Self { ms: number(ms)?, serial: number(serial)? })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.serial)
    }
}

/// The stream in this process.
#[derive(Clone)]
pub struct ChangeLog(Arc<Kept>);

struct Kept {
    size: usize,
    changes: Mutex<(Place, VecDeque<(Place, Change)>)>,
}

impl fmt::Debug for ChangeLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeLog").field("size", &self.0.size).finish_non_exhaustive()
    }
}

impl ChangeLog {
    /// Keeps so many; 0 keeps none.
    pub fn new(size: usize) -> Self {
        Self(Arc::new(Kept { size, changes: Mutex::default() }))
    }

    /// Adds one. Call it in the order of the changes, under the lock that makes them.
    pub fn append(&self, room: &str, kind: &str, data: String) {
        if self.0.size == 0 {
            return;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let mut kept = self.lock();
        let (last, changes) = &mut *kept;
        *last =
            if ms > last.ms { Place { ms, serial: 0 } } else { Place { serial: last.serial + 1, ..*last } };
        let change = Change { id: last.to_string(), kind: kind.to_owned(), room: room.to_owned(), data };
        changes.push_back((*last, change));
        if changes.len() > self.0.size {
            changes.pop_front();
        }
    }

    fn read(&self, after: Place, limit: u32) -> ChangePage {
        let kept = self.lock();
        let changes = &kept.1;
        let begin = changes.partition_point(|(place, _)| *place <= after);
        let page = changes.range(begin..).take(limit as usize).map(|(_, change)| change.clone());
        let oldest = changes.front().map(|(place, _)| *place);
        ChangePage { changes: page.collect(), complete: is_complete(after, oldest) }
    }

    fn lock(&self) -> MutexGuard<'_, (Place, VecDeque<(Place, Change)>)> {
        self.0.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing is missing if the reader begins, or if what it has read last is still there.
fn is_complete(after: Place, oldest: Option<Place>) -> bool {
    after == Place::default() || oldest.is_some_and(|oldest| oldest <= after)
}

/// The stream in Redis.
#[derive(Clone)]
pub struct RedisChanges(Arc<Stream>);

struct Stream {
    client: Routed,
    prefix: String,
    target: ChangeTarget,
    script: Script,
}

impl fmt::Debug for RedisChanges {
    /// Without the client: its configuration may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisChanges").field("prefix", &self.0.prefix).finish_non_exhaustive()
    }
}

impl RedisChanges {
    /// The stream of this prefix, with the target of those who write it.
    pub fn new(client: impl Into<Routed>, prefix: &str, target: ChangeTarget) -> Self {
        let script = Script::new(
            "changes",
            concat!(include_str!("changes/lua/entry.lua"), include_str!("changes/lua/read.lua")),
        );
        Self(Arc::new(Stream { client: client.into(), prefix: prefix.to_owned(), target, script }))
    }

    async fn read(&self, after: Place, limit: u32) -> Result<ChangePage, CounterError> {
        let Stream { client, prefix, script, .. } = &*self.0;
        let args = vec![after.to_string().into(), limit.to_string().into()];
        let said: Vec<String> = run(client, script, vec![changes_key(prefix)], args)
            .await
            .map_err(|error| map_fault(error, Effect::Read))?;
        let Some((oldest, entries)) = said.split_first() else { return Err(nonsense()) };
        let mut changes = Vec::with_capacity(entries.len() / 4);
        for entry in entries.chunks(4) {
            let [id, kind, room, data] = entry else { return Err(nonsense()) };
            changes.push(Change {
                id: id.clone(),
                kind: kind.clone(),
                room: room.clone(),
                data: data.clone(),
            });
        }
        let complete = is_complete(after, Place::parse(oldest)) && !changes.iter().any(Change::is_gap);
        Ok(ChangePage { changes, complete })
    }
}

fn nonsense() -> CounterError {
    CounterError::Internal(io::Error::new(io::ErrorKind::InvalidData, "a change makes no sense").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ids_rise_the_oldest_give_way_and_the_reader_is_told() {
        let log = ChangeLog::new(3);
        let changes = Changes::Memory(log.clone());
        for n in 0..3 {
            log.append("event:wall", "count", n.to_string());
        }
        let all = changes.read("0", 10).await.unwrap();
        assert!(all.complete);
        let data: Vec<_> = all.changes.iter().map(|change| change.data.as_str()).collect();
        assert_eq!(data, ["0", "1", "2"]);
        let first = &all.changes[0].id;
        let page = changes.read(first, 1).await.unwrap();
        assert_eq!((page.complete, page.changes[0].data.as_str()), (true, "1"));
        log.append("event:wall", "count", "3".to_owned());
        log.append("event:wall", "count", "4".to_owned());
        assert!(!changes.read(first, 1).await.unwrap().complete);
        let last = changes.read(&all.changes[2].id, 9).await.unwrap();
        assert_eq!((last.complete, last.changes.len()), (true, 2));
    }

    #[tokio::test]
    async fn without_a_size_nothing_is_kept() {
        let log = ChangeLog::new(0);
        log.append("event:wall", "count", "{}".to_owned());
        let changes = Changes::Memory(log);
        assert!(!changes.is_on());
        assert!(changes.read("0-0", 9).await.unwrap().changes.is_empty());
        assert!(changes.read("x", 9).await.is_err());
    }
}
