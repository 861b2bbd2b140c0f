//! One room in this process: the same steps as the scripts in Redis take.

use std::collections::HashSet;

use super::{
    Place, Sink,
    comments::Comments,
    counts::{Counts, MAX_VALUE, Value},
    expiring::Expiring,
    files::{Docs, Uploads},
    stock::Stock,
};
use crate::{Cap, Command, CounterError, HoldState, Limits, Op, Outcome, Refusal, body};

/// As in `log.lua`.
const REPLY_TTL_MS: u64 = 600_000;

/// All that one step needs beside the room itself and what is asked.
pub(super) struct Step<'a> {
    pub(super) room: &'a str,
    pub(super) limits: &'a Limits,
    pub(super) sink: &'a dyn Sink,
    pub(super) now: u64,
    pub(super) muted: bool,
}

impl Step<'_> {
    /// Appends an event to the room's log.
    pub(super) fn event(&self, command: &Command, body: &str) -> Place {
        let Command { history, epoch_candidate, .. } = command;
        let appended = self.sink.event(self.room, *history, epoch_candidate, body);
        Place { epoch: appended.epoch, offset: appended.offset }
    }
}

/// One room. Its parts change together, under the store's lock.
pub(super) struct Room {
    pub(super) counts: Counts,
    pub(super) comments: Comments,
    pub(super) stock: Stock,
    pub(super) docs: Docs,
    uploads: Uploads,
    likes: HashSet<(String, String)>,
    replies: Expiring<(String, String), (String, Outcome)>,
}

impl Room {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            counts: Counts::default(),
            comments: Comments::default(),
            stock: Stock::default(),
            docs: Docs::default(),
            uploads: Uploads::default(),
            likes: HashSet::new(),
            replies: Expiring::new(limits.memory_entries),
        }
    }

    /// Nothing is kept of it.
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
            && self.comments.is_empty()
            && self.stock.is_empty()
            && self.docs.is_empty()
            && self.uploads.is_empty()
            && self.replies.len() == 0
    }

    pub(super) fn apply(&mut self, step: &Step<'_>, command: &Command) -> Result<Outcome, CounterError> {
        if step.muted && says_something(&command.op) {
            return Err(CounterError::Forbidden(Refusal::Muted));
        }
        let retry =
            body::idempotency(&command.op).map(|(key, hash)| ((command.user.clone(), key.to_owned()), hash));
        if let Some((key, hash)) = &retry {
            if let Some((known, outcome)) = self.replies.get(key, step.now) {
                return if known == hash { Ok(outcome.clone()) } else { Err(CounterError::KeyReused) };
            }
            if self.replies.is_full(step.now) {
                return Err(CounterError::TooMany(Cap::Keys));
            }
        }
        let outcome = self.carry_out(step, command)?;
        if let Some((key, hash)) = retry {
            self.replies.insert(key, (hash, outcome.clone()), step.now + REPLY_TTL_MS, step.now);
        }
        Ok(outcome)
    }

    fn carry_out(&mut self, step: &Step<'_>, command: &Command) -> Result<Outcome, CounterError> {
        let Self { counts, comments, stock, docs, uploads, .. } = self;
        let user = command.user.as_str();
        match &command.op {
            Op::Like { target, on } => self.like(step, user, target, *on),
            Op::Count { target, counter, by, key: _ } => self.count(step, target, counter, *by),
            Op::Comment { target, text, key: _, moderated } => {
                comments.store(counts, step, command, (target, text, *moderated))
            }
            Op::Moderate { comment, decision, version } => {
                comments.moderate(counts, step, command, (comment, *decision, *version))
            }
            Op::DeleteComment { comment } => comments.delete(counts, step, command, comment),
            Op::Upload { target, state, progress } => {
                uploads.advance(step, command, (target, *state, progress.unwrap_or_default()))
            }
            Op::Stock { item, stock: all, per_user, hold } => {
                stock.set(counts, step, item, (*all, *per_user, super::millis(*hold)))
            }
            Op::Reserve { item, quantity, key: _ } => stock.reserve(counts, step, (user, item, *quantity)),
            Op::Confirm { reservation } => {
                stock.settle(counts, step, (user, reservation, HoldState::Confirmed))
            }
            Op::Release { reservation } => {
                stock.settle(counts, step, (user, reservation, HoldState::Released))
            }
            Op::Put { doc, value, version } => docs.put(step, command, (doc, value, *version)),
        }
    }

    fn like(&mut self, step: &Step<'_>, user: &str, target: &str, on: bool) -> Result<Outcome, CounterError> {
        let before = self.counts.value(target, "like");
        let like = (target.to_owned(), user.to_owned());
        if self.likes.contains(&like) == on {
            return Ok(Outcome::Like { value: before.value, on, version: before.version });
        }
        let value = if on {
            self.counts.has_room_for(step.limits, target, "like")?;
            if self.likes.len() >= step.limits.likes_per_room as usize {
                return Err(CounterError::TooMany(Cap::Likes));
            }
            self.likes.insert(like);
            before.value + 1
        } else {
            self.likes.remove(&like);
            before.value.saturating_sub(1)
        };
        let Value { value, version } = self.counts.set(step, target, "like", value);
        let user = body::json(user)?;
        step.sink.change(step.room, "like", &|| {
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
        self.counts.has_room_for(step.limits, target, counter)?;
        let value = self.counts.value(target, counter).value + u64::from(by);
        if value > MAX_VALUE {
            return Err(CounterError::TooMany(Cap::Value));
        }
        let Value { value, version } = self.counts.set(step, target, counter, value);
        step.sink.change(step.room, "count", &|| {
            format!(
                r#"{{"target":"{target}","counter":"{counter}","by":{by},"value":{value},"version":{version}}}"#
            )
        });
        Ok(Outcome::Count { value, version })
    }
}

/// What a muted user may not do: a hold can still be confirmed or given back.
fn says_something(op: &Op) -> bool {
    match op {
        Op::Like { .. }
        | Op::Count { .. }
        | Op::Comment { .. }
        | Op::Upload { .. }
        | Op::Reserve { .. }
        | Op::Put { .. } => true,
        Op::Moderate { .. }
        | Op::DeleteComment { .. }
        | Op::Stock { .. }
        | Op::Confirm { .. }
        | Op::Release { .. } => false,
    }
}
