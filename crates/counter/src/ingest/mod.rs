//! A durable queue per source of webhooks: taken in once per id, worked on by whichever node is free, lost by none.
//!
//! An entry is in the queue before its sender is answered, and leaves it only when its effect stands or when it is
//! given up and kept among the dead. A worker that dies leaves a lease behind; when that runs out, another takes the
//! entry. So an effect may be *tried* twice, and must itself be idempotent: this queue knows nothing of effects.

mod memory;
mod redis;

use std::time::Duration;

use crate::{Clock, CounterError, Invalid, secret};
pub use memory::MemoryIngest;
pub use redis::RedisIngest;

/// The bounds of each source's queue.
#[derive(Clone, Debug)]
pub struct IngestRules {
    /// Entries that may wait or be in work, over all nodes.
    pub capacity: u64,
    /// How long an id is known after it was taken in.
    pub remember: Duration,
    /// How long a worker may be silent about an entry before another one takes it.
    pub lease: Duration,
    /// How often an entry is tried before it is given up.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each.
    pub backoff: Duration,
    /// The longest pause.
    pub longest_backoff: Duration,
    /// Dead entries kept; the oldest give way.
    pub dead: u64,
}

/// Entries waiting: a burst of some seconds; more would only be late.
const DEFAULT_CAPACITY: u64 = 1_000;
/// Senders of webhooks retry for hours, some for a day.
const DEFAULT_REMEMBER: Duration = Duration::from_secs(86_400);
/// Twenty times what a publish may take.
const DEFAULT_LEASE: Duration = Duration::from_secs(10);
/// With the pauses below about four minutes: longer than a failover or a restart of Redis.
const DEFAULT_ATTEMPTS: u32 = 12;
const DEFAULT_BACKOFF: Duration = Duration::from_millis(250);
const DEFAULT_LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// Enough to see what is wrong; a source that fills this has long been seen by the alert.
const DEFAULT_DEAD: u64 = 10_000;

impl Default for IngestRules {
    fn default() -> Self {
        Self {
            capacity: DEFAULT_CAPACITY,
            remember: DEFAULT_REMEMBER,
            lease: DEFAULT_LEASE,
            attempts: DEFAULT_ATTEMPTS,
            backoff: DEFAULT_BACKOFF,
            longest_backoff: DEFAULT_LONGEST_BACKOFF,
            dead: DEFAULT_DEAD,
        }
    }
}

impl IngestRules {
    /// The pause before the next try of an entry that was tried so often; none when it is given up.
    fn pause(&self, attempt: u32) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let doublings = attempt.saturating_sub(1).min(20);
        Some(self.backoff.saturating_mul(1 << doublings).min(self.longest_backoff))
    }
}

/// What became of a body that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// It is in the queue, durably.
    Queued,
    /// The id is known, with this very body.
    Duplicate,
    /// The id is known with another body.
    Mismatch,
    /// The queue is full; nothing was taken.
    Full,
}

/// An entry, handed out to a worker under a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the queue.
    pub entry: String,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// The sender's id.
    pub id: String,
    /// The body as it was sent.
    pub body: String,
}

/// Whether a failure may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// It may: the entry is tried again, unless it was tried too often.
    ForNow,
    /// It won't: the entry is given up at once.
    ForGood,
}

/// What became of an entry that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits for another try.
    Again,
    /// It was given up, and is kept among the dead.
    Dead,
    /// It is not in the queue any more: another worker brought it to its end.
    Gone,
}

/// An entry that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its place among the dead, by which it can be replayed.
    pub entry: String,
    /// The sender's id.
    pub id: String,
    /// The body as it was sent.
    pub body: String,
    /// Why it was given up.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was given up, Unix ms.
    pub at: u64,
}

/// How full a source's queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Entries that wait or are in work.
    pub waiting: u64,
    /// Entries that were given up.
    pub dead: u64,
}

/// What a replay came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Entries put back into the queue.
    pub replayed: u64,
    /// Entries still among the dead: for want of room, or because they were not named.
    pub left: u64,
}

/// The queues: one handle, cheap to clone.
#[derive(Clone, Debug)]
pub enum Ingest {
    /// In this process; gone with it.
    Memory(MemoryIngest),
    /// In Redis, shared by all nodes.
    Redis(RedisIngest),
}

impl Ingest {
    /// Queues in this process, on this clock.
    pub fn memory(rules: IngestRules, clock: Clock) -> Self {
        Self::Memory(MemoryIngest::new(rules, clock))
    }

    /// The hash tag of a source's keys.
    pub fn place(source: &str) -> String {
        format!("ingest:{source}")
    }

    /// Takes a body in, unless its id is known. The source is 1–64 characters of `[A-Za-z0-9._-]`, the id 1–256.
    ///
    /// Sending the same again is always safe, also after [`CounterError::Unavailable`].
    pub async fn enqueue(&self, source: &str, id: &str, body: &str) -> Result<Intake, CounterError> {
        check(source)?;
        if !(1..=256).contains(&id.chars().count()) {
            return Err(Invalid::IngestId.into());
        }
        let hash = secret::digest(body);
        match self {
            Self::Memory(memory) => Ok(memory.enqueue(source, id, &hash, body)),
            Self::Redis(redis) => redis.enqueue(source, id, &hash, body).await,
        }
    }

    /// Hands out at most so many entries to this consumer: those whose worker was silent for the length of the
    /// lease, those due for another try, then new ones.
    pub async fn take(&self, source: &str, consumer: &str, most: u32) -> Result<Vec<Entry>, CounterError> {
        check(source)?;
        match self {
            Self::Memory(memory) => Ok(memory.take(source, most)),
            Self::Redis(redis) => redis.take(source, consumer, most).await,
        }
    }

    /// The entry's effect stands: it leaves the queue. Its id stays known.
    pub async fn done(&self, source: &str, entry: &Entry) -> Result<(), CounterError> {
        check(source)?;
        match self {
            Self::Memory(memory) => {
                memory.done(source, entry);
                Ok(())
            }
            Self::Redis(redis) => redis.done(source, entry).await,
        }
    }

    /// The entry failed, for now or for good.
    pub async fn failed(
        &self,
        source: &str,
        entry: &Entry,
        failing: Failing,
        reason: &str,
    ) -> Result<Fate, CounterError> {
        check(source)?;
        let again = match failing {
            Failing::ForNow => self.rules().pause(entry.attempt),
            Failing::ForGood => None,
        };
        match self {
            Self::Memory(memory) => Ok(memory.failed(source, entry, again, reason)),
            Self::Redis(redis) => redis.failed(source, entry, again, reason).await,
        }
    }

    /// The dead behind this one, oldest first.
    pub async fn dead(
        &self,
        source: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, CounterError> {
        check(source)?;
        place(after)?;
        match self {
            Self::Memory(memory) => Ok(memory.dead(source, after, limit)),
            Self::Redis(redis) => redis.dead(source, after, limit).await,
        }
    }

    /// Puts the dead back into the queue: those named, or the oldest so many, while there is room.
    pub async fn replay(
        &self,
        source: &str,
        entries: Option<&[String]>,
        most: u32,
    ) -> Result<Replayed, CounterError> {
        check(source)?;
        entries.unwrap_or_default().iter().try_for_each(|entry| place(Some(entry)))?;
        match self {
            Self::Memory(memory) => Ok(memory.replay(source, entries, most)),
            Self::Redis(redis) => redis.replay(source, entries, most).await,
        }
    }

    /// How much waits, and how much is dead.
    pub async fn depth(&self, source: &str) -> Result<Depth, CounterError> {
        check(source)?;
        match self {
            Self::Memory(memory) => Ok(memory.depth(source)),
            Self::Redis(redis) => redis.depth(source).await,
        }
    }

    /// Whether an entry was handed out more often than it may be: whoever took it before went down with it.
    pub fn is_spent(&self, entry: &Entry) -> bool {
        entry.attempt > self.rules().attempts
    }

    fn rules(&self) -> &IngestRules {
        match self {
            Self::Memory(memory) => memory.rules(),
            Self::Redis(redis) => redis.rules(),
        }
    }
}

/// The source stands in the names of keys.
fn check(source: &str) -> Result<(), Invalid> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let good = (1..=64).contains(&source.len()) && source.bytes().all(fits);
    if good { Ok(()) } else { Err(Invalid::IngestSource) }
}

/// A place in a stream, as it was given out: `<number>-<number>`.
fn place(entry: Option<&str>) -> Result<(), Invalid> {
    let number = |text: &str| (1..=20).contains(&text.len()) && text.parse::<u64>().is_ok();
    let good = |entry: &str| entry.split_once('-').is_some_and(|(ms, serial)| number(ms) && number(serial));
    if entry.is_none_or(good) { Ok(()) } else { Err(Invalid::Cursor) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_then_end() {
        let rules = IngestRules { attempts: 10, ..IngestRules::default() };
        let pauses: Vec<_> = (1..=10).map(|attempt| rules.pause(attempt)).collect();
        assert_eq!(pauses[0], Some(Duration::from_millis(250)));
        assert_eq!(pauses[1], Some(Duration::from_millis(500)));
        assert_eq!(pauses[8], Some(Duration::from_secs(30)));
        assert_eq!(pauses[9], None);
    }

    #[test]
    fn a_source_cannot_leave_its_hash_tag() {
        for bad in ["", "a b", "a}b", "a:b", &"s".repeat(65)] {
            assert_eq!(check(bad), Err(Invalid::IngestSource), "{bad}");
        }
        assert_eq!(check("shop.orders-2_x"), Ok(()));
    }

    #[test]
    fn a_place_is_two_numbers() {
        for bad in ["", "1", "-", "1-", "+", "(1-1", "a-b", "18446744073709551616-0"] {
            assert_eq!(place(Some(bad)), Err(Invalid::Cursor), "{bad}");
        }
        assert_eq!(place(Some("1700000000000-0")), Ok(()));
    }
}
