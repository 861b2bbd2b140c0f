//! Comments that wait for a moderator, over all rooms: which rooms those are is noted in a bounded log of the hub's own;
//! what waits is read from the rooms themselves.

use std::{
    collections::{HashMap, HashSet},
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use roomcast_core::permission::HistoryRules;
use roomcast_counter::{Comment, Outcome};
use roomcast_protocol::{
    Comment as Said, Data, ErrorCode, Failure, Moderate, Ok as Answer, PendingComment, Queue, RoomName,
};
use serde_json::json;

use super::audit::{self, Act, Deed};
use crate::{
    backend::Repeat,
    broker::{Publication, Range},
    node::{Node, now},
};

/// No client's room, as the audit log's is none.
static ROOM: LazyLock<Option<RoomName>> = LazyLock::new(|| RoomName::parse("admin:queue").ok());
/// Rooms noted, the same one now and then, for so long after the last.
const HISTORY: HistoryRules = HistoryRules { size: 1_000, ttl: Duration::from_secs(30 * 86_400) };
/// A room is noted by a node no more often than this.
const NOTE_AGAIN: Duration = Duration::from_secs(600);
/// Rooms that a node remembers to have noted.
const MAX_TOLD: usize = 4_096;
/// Rooms read where none was named, the last noted first, and how many at once.
const MAX_ROOMS: usize = 64;
const AT_ONCE: usize = 8;
/// Comments of one room unless asked for fewer or more.
const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 200;
/// Comments in one answer over all rooms.
const MAX_COMMENTS: usize = 500;

/// When this node noted which room.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashMap<RoomName, Instant>>);

impl Told {
    /// Whether the room is due to be noted; from now on it is noted.
    fn due(&self, room: &RoomName, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < NOTE_AGAIN;
        if told.get(room).is_some_and(fresh) {
            return false;
        }
        if told.len() >= MAX_TOLD {
            told.retain(|_, at| fresh(at));
            // Noted twice is harmless.
            if told.len() >= MAX_TOLD {
                told.clear();
            }
        }
        told.insert(room.clone(), now);
        true
    }

    fn forget(&self, room: &RoomName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(room);
    }
}

/// A comment was stored: where it waits, moderators are told.
pub(crate) async fn waits(node: &Node, room: &RoomName, user: &str, said: &Said, outcome: &Outcome) {
    let Outcome::Comment { comment, pending: true, version, at } = outcome else { return };
    let waiting = PendingComment {
        room: room.clone(),
        comment: comment.clone(),
        target: said.target.clone(),
        text: said.text.trim().to_owned(),
        user: user.to_owned(),
        at: *at,
        version: *version,
    };
    if node.admin.told.due(room, now().instant) && note(node, room).await.is_err() {
        node.admin.told.forget(room);
    }
    super::tell(node, "pending", &waiting).await;
}

async fn note(node: &Node, room: &RoomName) -> Result<(), Failure> {
    let internal = || Failure::new(ErrorCode::Internal, "internal error");
    let index = ROOM.clone().ok_or_else(internal)?;
    let data = Data::of(room).map_err(|_| internal())?;
    let event = "room".to_owned();
    let publication = Publication { room: index, event, data, from: None, key: None, history: HISTORY };
    let at = node.backend.at(publication.room.as_str());
    at.call(Repeat::Harmless, node.backend.broker.publish(&publication)).await.map(|_| ())
}

/// A comment was decided about: it is written down, and every moderator told.
pub(crate) async fn decided(node: &Node, room: &RoomName, by: &str, asked: &Moderate, outcome: &Outcome) {
    let Outcome::Moderate { state, version } = outcome else { return };
    let state = state.as_str();
    let told =
        json!({ "room": room, "comment": asked.comment, "state": state, "version": version, "by": by });
    super::tell(node, "decided", &told).await;
    let detail = format!("comment {} {state}", asked.comment);
    audit::record(node, Deed::new(by, Act::Moderate).on(room.as_str()).detail(&detail)).await;
}

/// Reads what waits.
pub(crate) async fn read(node: &Node, asked: Queue) -> Result<Answer, Failure> {
    let limit = asked.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    if let Some(room) = &asked.room {
        let (comments, cursor) = waiting_in(node, room, asked.cursor.as_deref(), limit).await?;
        return Ok(Answer::Queue { comments, cursor });
    }
    if asked.cursor.is_some() {
        return Err(Failure::new(ErrorCode::BadFrame, "queue: a cursor belongs to a room"));
    }
    let rooms = noted(node).await?;
    let pages: Vec<_> = stream::iter(rooms)
        .map(|room| async move { waiting_in(node, &room, None, limit).await })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut comments = Vec::new();
    for page in pages {
        comments.extend(page?.0);
    }
    comments.sort_by(|a: &PendingComment, b| (a.at, &a.comment).cmp(&(b.at, &b.comment)));
    comments.truncate(MAX_COMMENTS);
    Ok(Answer::Queue { comments, cursor: None })
}

/// The rooms in which comments have waited, the last noted first.
async fn noted(node: &Node) -> Result<Vec<RoomName>, Failure> {
    let Some(index) = &*ROOM else { return Ok(Vec::new()) };
    let all = usize::try_from(HISTORY.size).unwrap_or(usize::MAX);
    let newest = Range::Recent(all);
    let read = node.backend.broker.history(index, &newest, HISTORY);
    let page = node.backend.at(index.as_str()).call(Repeat::Harmless, read).await?;
    let mut seen = HashSet::new();
    let rooms = page.events.iter().rev().filter_map(|event| event.data.to::<RoomName>().ok());
    // A namespace may have been taken out of the configuration since.
    let known = |room: &RoomName| node.terms.namespaces.rules(room).is_some();
    Ok(rooms.filter(known).filter(|room| seen.insert(room.clone())).take(MAX_ROOMS).collect())
}

async fn waiting_in(
    node: &Node,
    room: &RoomName,
    cursor: Option<&str>,
    limit: u32,
) -> Result<(Vec<PendingComment>, Option<String>), Failure> {
    let read = node.backend.counter.queue(room.as_str(), cursor, limit);
    let page = node.backend.at(room.as_str()).call(Repeat::Harmless, read).await?;
    let waiting = |of: Comment| PendingComment {
        room: room.clone(),
        comment: of.comment,
        target: of.target,
        text: of.text,
        user: of.user,
        at: of.at,
        version: of.version,
    };
    Ok((page.comments.into_iter().map(waiting).collect(), page.cursor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_noted_once_in_a_while_and_the_memory_of_it_is_bounded() {
        let (told, start) = (Told::default(), Instant::now());
        let room = |n: usize| RoomName::parse(&format!("event:{n}")).unwrap();
        assert!(told.due(&room(0), start));
        assert!(!told.due(&room(0), start + NOTE_AGAIN / 2));
        assert!(told.due(&room(0), start + NOTE_AGAIN));
        told.forget(&room(0));
        assert!(told.due(&room(0), start + NOTE_AGAIN), "it could not be noted, so it is due again");
        for n in 0..3 * MAX_TOLD {
            told.due(&room(n), start + NOTE_AGAIN);
        }
        assert!(told.0.lock().unwrap().len() <= MAX_TOLD);
    }
}
