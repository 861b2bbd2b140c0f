//! One room's comments in this process: stored once, decided about once, deleted to a tombstone.

use std::collections::{BTreeMap, BTreeSet};

use super::{Place, counts::Counts, room::Step};
use crate::{
    Cap, Command, Comment, CommentPage, CommentState, CommentsQuery, CounterError, Current, Decision,
    Outcome, Viewer, body,
};

#[derive(Default)]
pub(super) struct Comments {
    all: BTreeMap<u64, Kept>,
    by_target: BTreeSet<(String, u64)>,
    waiting: BTreeSet<u64>,
}

struct Kept {
    comment: Comment,
    state: CommentState,
    /// Where its event is in the room's log.
    place: Option<Place>,
}

impl Comments {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn store(
        &mut self,
        counts: &mut Counts,
        step: &Step<'_>,
        command: &Command,
        (target, text, pending): (&str, &str, bool),
    ) -> Result<Outcome, CounterError> {
        if self.all.len() >= step.limits.comments_per_room as usize {
            return Err(CounterError::TooMany(Cap::Comments));
        }
        if !pending {
            counts.has_room_for(step.limits, target, "comment")?;
        }
        let newest = self.all.last_key_value().map_or(0, |(id, _)| *id);
        let id = step.now.max(newest + 1);
        let comment = Comment {
            comment: format!("{id:016}"),
            target: target.to_owned(),
            text: text.to_owned(),
            user: command.user.clone(),
            at: step.now,
            pending,
            version: 1,
        };
        let event = body::comment_event(&comment)?;
        let outcome =
            Outcome::Comment { comment: comment.comment.clone(), pending, version: 1, at: comment.at };
        let change = body::comment_change(&comment)?;
        step.sink.change(step.room, "comment", &|| change.clone());
        self.by_target.insert((target.to_owned(), id));
        let (state, place) = if pending {
            self.waiting.insert(id);
            (CommentState::Pending, None)
        } else {
            let place = step.event(command, &event);
            counts.set(step, target, "comment", counts.value(target, "comment").value + 1);
            (CommentState::Approved, Some(place))
        };
        self.all.insert(id, Kept { comment, state, place });
        Ok(outcome)
    }

    pub(super) fn moderate(
        &mut self,
        counts: &mut Counts,
        step: &Step<'_>,
        command: &Command,
        (id, decision, version): (&str, Decision, u64),
    ) -> Result<Outcome, CounterError> {
        let (id, kept) = self.find(id)?;
        if kept.state != CommentState::Pending || kept.comment.version != version {
            let current = Current::Comment { state: kept.state, version: kept.comment.version };
            return Err(CounterError::Conflict(current));
        }
        let target = kept.comment.target.clone();
        let decided = Comment { pending: false, version: version + 1, ..kept.comment.clone() };
        kept.state = match decision {
            Decision::Approve => {
                counts.has_room_for(step.limits, &target, "comment")?;
                kept.place = Some(step.event(command, &body::comment_event(&decided)?));
                counts.set(step, &target, "comment", counts.value(&target, "comment").value + 1);
                CommentState::Approved
            }
            Decision::Reject => CommentState::Rejected,
        };
        let state = kept.state;
        kept.comment = decided;
        self.waiting.remove(&id);
        if state == CommentState::Rejected {
            self.by_target.remove(&(target, id));
        }
        Ok(Outcome::Moderate { state, version: version + 1 })
    }

    pub(super) fn delete(
        &mut self,
        counts: &mut Counts,
        step: &Step<'_>,
        command: &Command,
        id: &str,
    ) -> Result<Outcome, CounterError> {
        let (id, kept) = self.find(id)?;
        if kept.state != CommentState::Deleted {
            let comment = &mut kept.comment;
            let target = comment.target.clone();
            comment.version += 1;
            comment.pending = false;
            comment.text = String::new();
            let event = body::comment_deleted(&command.user, &comment.comment, &target, comment.version)?;
            if let Some(place) = kept.place.take() {
                step.sink.purge(step.room, &place, body::PURGED);
            }
            if kept.state == CommentState::Approved {
                step.event(command, &event);
                let value = counts.value(&target, "comment").value.saturating_sub(1);
                counts.set(step, &target, "comment", value);
            }
            kept.state = CommentState::Deleted;
            self.waiting.remove(&id);
            self.by_target.remove(&(target, id));
        }
        let version = self.all.get(&id).map_or(0, |kept| kept.comment.version);
        Ok(Outcome::Deleted { version })
    }

    fn find(&mut self, id: &str) -> Result<(u64, &mut Kept), CounterError> {
        let id = id.parse().map_err(|_| CounterError::NotFound)?;
        self.all.get_mut(&id).map(|kept| (id, kept)).ok_or(CounterError::NotFound)
    }

    /// Those that wait, oldest first.
    pub(super) fn queue(&self, cursor: Option<&str>, limit: u32) -> CommentPage {
        let after = cursor.and_then(|cursor| cursor.parse().ok()).map_or(0, |id: u64| id + 1);
        let limit = limit as usize;
        let mut ids: Vec<u64> = self.waiting.range(after..).take(limit + 1).copied().collect();
        let more = ids.len() > limit;
        ids.truncate(limit);
        let comments: Vec<Comment> =
            ids.iter().filter_map(|id| self.all.get(id)).map(|kept| kept.comment.clone()).collect();
        let cursor = comments.last().filter(|_| more).map(|last| last.comment.clone());
        CommentPage { comments, cursor }
    }

    /// Those that the viewer sees, newest first.
    pub(super) fn page(&self, query: &CommentsQuery) -> CommentPage {
        let end = query.cursor.as_ref().and_then(|cursor| cursor.parse().ok()).unwrap_or(u64::MAX);
        let shown = |kept: &&Kept| match (kept.state, &query.viewer) {
            (CommentState::Approved, _) | (CommentState::Pending, Viewer::Admin) => true,
            (CommentState::Pending, Viewer::User(user)) => *user == kept.comment.user,
            (CommentState::Pending, Viewer::Public) | (CommentState::Rejected | CommentState::Deleted, _) => {
                false
            }
        };
        // One more than asked for tells whether there is a next page.
        let limit = query.limit as usize;
        let take = |kept: &mut dyn Iterator<Item = &Kept>| -> Vec<Comment> {
            kept.filter(shown).take(limit + 1).map(|kept| kept.comment.clone()).collect()
        };
        let mut comments = match &query.target {
            Some(target) => {
                let range = (target.clone(), 0)..(target.clone(), end);
                take(&mut self.by_target.range(range).rev().filter_map(|(_, id)| self.all.get(id)))
            }
            None => take(&mut self.all.range(..end).rev().map(|(_, kept)| kept)),
        };
        let more = comments.len() > limit;
        comments.truncate(limit);
        let cursor = comments.last().filter(|_| more).map(|last| last.comment.clone());
        CommentPage { comments, cursor }
    }
}
