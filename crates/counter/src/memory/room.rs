//! One room's counters, comments and replies in this process: the same steps as the scripts in Redis take.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Sink, expiring::Expiring};
use crate::{
    Cap, Command, Comment, CommentPage, CommentsQuery, CounterError, Limits, Op, Outcome, Seed, Update,
    Viewer, body,
};

/// As in `log.lua`.
const REPLY_TTL_MS: u64 = 600_000;
const MAX_VALUE: u64 = (1 << 53) - 1;

/// All that one step needs beside the room itself.
pub(super) struct Step<'a> {
    pub(super) command: &'a Command,
    pub(super) limits: &'a Limits,
    pub(super) sink: &'a dyn Sink,
    pub(super) now: u64,
}

/// One room. Its maps change together, under the store's lock.
pub(super) struct Room {
    counts: HashMap<String, BTreeMap<String, Value>>,
    likes: HashSet<(String, String)>,
    comments: BTreeMap<u64, Comment>,
    by_target: BTreeSet<(String, u64)>,
    replies: Expiring<(String, String), (String, Outcome)>,
}

#[derive(Clone, Copy, Default)]
struct Value {
    value: u64,
    version: u64,
}

impl Room {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            counts: HashMap::new(),
            likes: HashSet::new(),
            comments: BTreeMap::new(),
            by_target: BTreeSet::new(),
            replies: Expiring::new(limits.memory_entries),
        }
    }

    /// Nothing is kept of it.
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.comments.is_empty() && self.replies.len() == 0
    }

    pub(super) fn apply(&mut self, step: &Step<'_>) -> Result<Outcome, CounterError> {
        let retry = body::idempotency(&step.command.op)
            .map(|(key, hash)| ((step.command.user.clone(), key.to_owned()), hash));
        if let Some((key, hash)) = &retry {
            if let Some((known, outcome)) = self.replies.get(key, step.now) {
                return if known == hash { Ok(outcome.clone()) } else { Err(CounterError::KeyReused) };
            }
            if self.replies.is_full(step.now) {
                return Err(CounterError::TooMany(Cap::Keys));
            }
        }
        let outcome = match &step.command.op {
            Op::Like { target, on } => self.like(step, target, *on),
            Op::Count { target, counter, by, key: _ } => self.count(step, target, counter, *by),
            Op::Comment { target, text, key: _, moderated } => self.comment(step, target, text, *moderated),
        }?;
        if let Some((key, hash)) = retry {
            self.replies.insert(key, (hash, outcome.clone()), step.now + REPLY_TTL_MS, step.now);
        }
        Ok(outcome)
    }

    fn like(&mut self, step: &Step<'_>, target: &str, on: bool) -> Result<Outcome, CounterError> {
        let before = self.value(target, "like");
        let like = (target.to_owned(), step.command.user.clone());
        if self.likes.contains(&like) == on {
            return Ok(Outcome::Like { value: before.value, on, version: before.version });
        }
        let value = if on {
            self.has_room_for(step.limits, target, "like")?;
            self.likes.insert(like);
            before.value + 1
        } else {
            self.likes.remove(&like);
            before.value.saturating_sub(1)
        };
        let Value { value, version } = self.set(step, target, "like", value);
        let user = body::json(&step.command.user)?;
        step.sink.change(&step.command.room, "like", &|| {
            format!(r#"{{"target":"{target}","user":{user},"on":{on},"value":{value},"version":{version}}}"#)
        });
        Ok(Outcome::Like { value, on, version })
    }

    fn count(
        &mut self,
        step: &Step<'_>,
        target: &str,
        counter: &str,
        by: u32,
    ) -> Result<Outcome, CounterError> {
        self.has_room_for(step.limits, target, counter)?;
        let value = self.value(target, counter).value + u64::from(by);
        if value > MAX_VALUE {
            return Err(CounterError::TooMany(Cap::Value));
        }
        let Value { value, version } = self.set(step, target, counter, value);
        step.sink.change(&step.command.room, "count", &|| {
            format!(
                r#"{{"target":"{target}","counter":"{counter}","by":{by},"value":{value},"version":{version}}}"#
            )
        });
        Ok(Outcome::Count { value, version })
    }

    fn comment(
        &mut self,
        step: &Step<'_>,
        target: &str,
        text: &str,
        pending: bool,
    ) -> Result<Outcome, CounterError> {
        if self.comments.len() >= step.limits.comments_per_room as usize {
            return Err(CounterError::TooMany(Cap::Comments));
        }
        if !pending {
            self.has_room_for(step.limits, target, "comment")?;
        }
        let newest = self.comments.last_key_value().map_or(0, |(id, _)| *id);
        let id = step.now.max(newest + 1);
        let comment = Comment {
            comment: format!("{id:016}"),
            target: target.to_owned(),
            text: text.to_owned(),
            user: step.command.user.clone(),
            at: step.now,
            pending,
            version: 1,
        };
        let event = body::comment_event(&comment)?;
        let outcome =
            Outcome::Comment { comment: comment.comment.clone(), pending, version: 1, at: comment.at };
        let change = body::comment_change(&comment)?;
        step.sink.change(&step.command.room, "comment", &|| change.clone());
        self.comments.insert(id, comment);
        self.by_target.insert((target.to_owned(), id));
        if !pending {
            let Command { room, history, epoch_candidate, .. } = step.command;
            step.sink.event(room, *history, epoch_candidate, &event);
            let value = self.value(target, "comment").value + 1;
            self.set(step, target, "comment", value);
        }
        Ok(outcome)
    }

    fn value(&self, target: &str, counter: &str) -> Value {
        self.counts.get(target).and_then(|counters| counters.get(counter)).copied().unwrap_or_default()
    }

    /// Refuses the first use of a target or counter that would break a cap.
    fn has_room_for(&self, limits: &Limits, target: &str, counter: &str) -> Result<(), CounterError> {
        match self.counts.get(target) {
            None if self.counts.len() >= limits.targets_per_room as usize => {
                Err(CounterError::TooMany(Cap::Targets))
            }
            Some(counters)
                if !counters.contains_key(counter)
                    && counters.len() >= limits.counters_per_target as usize =>
            {
                Err(CounterError::TooMany(Cap::Counters))
            }
            _ => Ok(()),
        }
    }

    /// Sets a value and publishes it. The version follows the clock, but always rises.
    fn set(&mut self, step: &Step<'_>, target: &str, counter: &str, value: u64) -> Value {
        self.put(&step.command.room, step.sink, step.now, (target, counter), value)
    }

    fn put(
        &mut self,
        room: &str,
        sink: &dyn Sink,
        now: u64,
        (target, counter): (&str, &str),
        value: u64,
    ) -> Value {
        let slot = self.counts.entry(target.to_owned()).or_default().entry(counter.to_owned()).or_default();
        *slot = Value { value, version: now.max(slot.version + 1) };
        let update = Update {
            target: target.to_owned(),
            counter: counter.to_owned(),
            value: slot.value,
            version: slot.version,
        };
        sink.count(room, &update);
        *slot
    }

    /// Seeds counters where they are absent or lower: all that is asked, or nothing where a cap would break.
    pub(super) fn restore(
        &mut self,
        name: &str,
        seeds: &[Seed],
        limits: &Limits,
        sink: &dyn Sink,
        now: u64,
    ) -> Result<u64, CounterError> {
        let mut after: HashMap<&str, usize> = HashMap::new();
        for Seed { target, counter, .. } in seeds {
            let counters = self.counts.get(target);
            if counters.is_none_or(|counters| !counters.contains_key(counter)) {
                *after.entry(target).or_insert_with(|| counters.map_or(0, BTreeMap::len)) += 1;
            }
        }
        if after.values().any(|counters| *counters > limits.counters_per_target as usize) {
            return Err(CounterError::TooMany(Cap::Counters));
        }
        let new = after.keys().filter(|target| !self.counts.contains_key(**target)).count();
        if new > 0 && self.counts.len() + new > limits.targets_per_room as usize {
            return Err(CounterError::TooMany(Cap::Targets));
        }
        let mut changed = 0;
        for Seed { target, counter, value } in seeds {
            let before = self.value(target, counter);
            if before.version == 0 || before.value < *value {
                let Value { value, version } = self.put(name, sink, now, (target, counter), *value);
                sink.change(name, "restore", &|| {
                    format!(
                        r#"{{"target":"{target}","counter":"{counter}","value":{value},"version":{version}}}"#
                    )
                });
                changed += 1;
            }
        }
        Ok(changed)
    }

    pub(super) fn counters(&self, targets: Option<&[String]>) -> Vec<Update> {
        let of = |target: &String, counters: &BTreeMap<String, Value>| {
            let update = |(counter, slot): (&String, &Value)| Update {
                target: target.clone(),
                counter: counter.clone(),
                value: slot.value,
                version: slot.version,
            };
            counters.iter().map(update).collect::<Vec<_>>()
        };
        match targets {
            Some(targets) => targets
                .iter()
                .filter_map(|target| self.counts.get(target).map(|counters| of(target, counters)))
                .flatten()
                .collect(),
            None => self.counts.iter().flat_map(|(target, counters)| of(target, counters)).collect(),
        }
    }

    pub(super) fn comments(&self, query: &CommentsQuery) -> CommentPage {
        let end = query.cursor.as_ref().and_then(|cursor| cursor.parse().ok()).unwrap_or(u64::MAX);
        let shown = |comment: &&Comment| {
            !comment.pending
                || match &query.viewer {
                    Viewer::Admin => true,
                    Viewer::User(user) => *user == comment.user,
                    Viewer::Public => false,
                }
        };
        let limit = query.limit as usize;
        // One more than asked for tells whether there is a next page.
        let mut comments: Vec<Comment> = match &query.target {
            Some(target) => self
                .by_target
                .range((target.clone(), 0)..(target.clone(), end))
                .rev()
                .filter_map(|(_, id)| self.comments.get(id))
                .filter(shown)
                .take(limit + 1)
                .cloned()
                .collect(),
            None => self
                .comments
                .range(..end)
                .rev()
                .map(|(_, c)| c)
                .filter(shown)
                .take(limit + 1)
                .cloned()
                .collect(),
        };
        let more = comments.len() > limit;
        comments.truncate(limit);
        let cursor = comments.last().filter(|_| more).map(|last| last.comment.clone());
        CommentPage { comments, cursor }
    }
}
