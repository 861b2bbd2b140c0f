//! The queues in this process, behind one lock: for one node without Redis, and for tests. They outlive nothing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{DeadLetter, Depth, Entry, Fate, IngestRules, Intake, Replayed};
use crate::{Clock, memory::Expiring};

/// Ids remembered per source; the one that would be forgotten first makes room.
const MAX_IDS: usize = 100_000;

/// Queues in this process.
#[derive(Clone)]
pub struct MemoryIngest(Arc<Shared>);

struct Shared {
    rules: IngestRules,
    clock: Clock,
    /// As many as are configured.
    sources: Mutex<HashMap<String, Source>>,
}

struct Source {
    ids: Expiring<String, String>,
    entries: BTreeMap<u64, Waiting>,
    dead: VecDeque<(u64, DeadLetter)>,
    serial: u64,
}

struct Waiting {
    id: String,
    body: String,
    attempts: u32,
    /// Nobody works on it before: when it is due, or when the worker's lease ends.
    not_before: u64,
}

impl fmt::Debug for MemoryIngest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryIngest").field("rules", &self.0.rules).finish_non_exhaustive()
    }
}

impl MemoryIngest {
    pub(super) fn new(rules: IngestRules, clock: Clock) -> Self {
        Self(Arc::new(Shared { rules, clock, sources: Mutex::default() }))
    }

    pub(super) fn rules(&self) -> &IngestRules {
        &self.0.rules
    }

    pub(super) fn enqueue(&self, source: &str, id: &str, hash: &str, body: &str) -> Intake {
        let rules = self.rules();
        self.with(source, |source, now| {
            if let Some(known) = source.ids.get(&id.to_owned(), now) {
                return if known == hash { Intake::Duplicate } else { Intake::Mismatch };
            }
            if source.entries.len() as u64 >= rules.capacity {
                return Intake::Full;
            }
            source.queue(id.to_owned(), body.to_owned());
            source.ids.insert(id.to_owned(), hash.to_owned(), now + millis(rules.remember), now);
            Intake::Queued
        })
    }

    pub(super) fn take(&self, source: &str, most: u32) -> Vec<Entry> {
        let lease = millis(self.rules().lease);
        self.with(source, |source, now| {
            let free = source.entries.iter_mut().filter(|(_, waiting)| waiting.not_before <= now);
            free.take(most as usize)
                .map(|(serial, waiting)| {
                    waiting.attempts += 1;
                    waiting.not_before = now + lease;
                    Entry {
                        entry: place(*serial),
                        attempt: waiting.attempts,
                        id: waiting.id.clone(),
                        body: waiting.body.clone(),
                    }
                })
                .collect()
        })
    }

    pub(super) fn done(&self, source: &str, entry: &Entry) {
        self.with(source, |source, _| source.entries.remove(&serial(&entry.entry)));
    }

    pub(super) fn failed(&self, source: &str, entry: &Entry, again: Option<Duration>, reason: &str) -> Fate {
        let rules = self.rules();
        self.with(source, |source, now| {
            let key = serial(&entry.entry);
            let Some(waiting) = source.entries.get_mut(&key) else { return Fate::Gone };
            if let Some(pause) = again {
                waiting.not_before = now + millis(pause);
                return Fate::Again;
            }
            let Some(Waiting { id, body, attempts, .. }) = source.entries.remove(&key) else {
                return Fate::Gone;
            };
            source.serial += 1;
            let (at, reason) = (now, reason.to_owned());
            let letter = DeadLetter { entry: place(source.serial), id, body, reason, attempts, at };
            source.dead.push_back((source.serial, letter));
            while source.dead.len() as u64 > rules.dead {
                source.dead.pop_front();
            }
            Fate::Dead
        })
    }

    pub(super) fn dead(&self, source: &str, after: Option<&str>, limit: u32) -> Vec<DeadLetter> {
        let after = after.map_or(0, serial);
        self.with(source, |source, _| {
            let behind = source.dead.iter().filter(|(serial, _)| *serial > after);
            behind.take(limit as usize).map(|(_, letter)| letter.clone()).collect()
        })
    }

    pub(super) fn replay(&self, source: &str, entries: Option<&[String]>, most: u32) -> Replayed {
        let capacity = self.rules().capacity;
        self.with(source, |source, _| {
            let (mut replayed, mut kept) = (0, VecDeque::new());
            for (serial, letter) in std::mem::take(&mut source.dead) {
                let wanted =
                    entries.map_or(replayed < u64::from(most), |named| named.contains(&letter.entry));
                if wanted && (source.entries.len() as u64) < capacity {
                    source.queue(letter.id, letter.body);
                    replayed += 1;
                } else {
                    kept.push_back((serial, letter));
                }
            }
            source.dead = kept;
            Replayed { replayed, left: source.dead.len() as u64 }
        })
    }

    pub(super) fn depth(&self, source: &str) -> Depth {
        self.with(source, |source, _| Depth {
            waiting: source.entries.len() as u64,
            dead: source.dead.len() as u64,
        })
    }

    fn with<R>(&self, name: &str, act: impl FnOnce(&mut Source, u64) -> R) -> R {
        let mut sources: MutexGuard<'_, _> = self.0.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let now = (self.0.clock)();
        let source = sources.entry(name.to_owned()).or_insert_with(Source::new);
        source.ids.sweep(now);
        act(source, now)
    }
}

impl Source {
    fn new() -> Self {
        Self { ids: Expiring::new(MAX_IDS), entries: BTreeMap::new(), dead: VecDeque::new(), serial: 0 }
    }

    fn queue(&mut self, id: String, body: String) {
        self.serial += 1;
        self.entries.insert(self.serial, Waiting { id, body, attempts: 0, not_before: 0 });
    }
}

fn place(serial: u64) -> String {
    format!("{serial}-0")
}

fn serial(place: &str) -> u64 {
    place.split('-').next().and_then(|serial| serial.parse().ok()).unwrap_or_default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}
