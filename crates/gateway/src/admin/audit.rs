//! Who did what, when: a bounded log in a room of the hub that no client can join, read or write, and a word to whoever is
//! in the room `admin`.
//!
//! An entry holds names and numbers, and never a token, a key or a comment's text.

use std::{sync::LazyLock, time::Duration};

use roomcast_core::permission::HistoryRules;
use roomcast_protocol::{AuditEntry, Data, ErrorCode, Event, Failure, Ok as Answer, RoomName};
use serde_json::json;

use crate::{
    backend::Repeat,
    broker::{Publication, Range},
    node::Node,
};

/// The namespace `admin` has no named rooms for clients: the rules have none for this one.
static ROOM: LazyLock<Option<RoomName>> = LazyLock::new(|| RoomName::parse("admin:audit").ok());
/// Entries kept, for so long after the last one.
const HISTORY: HistoryRules = HistoryRules { size: 10_000, ttl: Duration::from_secs(400 * 86_400) };
/// Of each part of an entry.
const MAX_TEXT: usize = 240;
/// Entries in one answer unless asked for fewer or more.
const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 500;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A node was told to drain.
    Drain,
    /// A node was told to send a part of its connections to others.
    Shed,
    /// A comment was decided about.
    Moderate,
    /// A comment was deleted.
    DeleteComment,
    /// A notification was sent.
    Notify,
    /// Connections were closed.
    Disconnect,
    /// Somebody was muted.
    Mute,
    /// A mute was taken back.
    Unmute,
    /// Somebody was banned.
    Ban,
    /// A ban was taken back.
    Unban,
    /// A room was ended.
    EndRoom,
}

impl Act {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Shed => "shed",
            Self::Moderate => "moderate",
            Self::DeleteComment => "delete_comment",
            Self::Notify => "notify",
            Self::Disconnect => "disconnect",
            Self::Mute => "mute",
            Self::Unmute => "unmute",
            Self::Ban => "ban",
            Self::Unban => "unban",
            Self::EndRoom => "end_room",
        }
    }
}

/// An entry to be.
#[derive(Debug, Clone)]
pub struct Deed {
    by: String,
    act: Act,
    on: Option<String>,
    detail: Option<String>,
}

impl Deed {
    /// Somebody did something.
    pub fn new(by: &str, act: Act) -> Self {
        Self { by: short(by), act, on: None, detail: None }
    }

    /// To a node, a room, a user.
    pub fn on(self, on: &str) -> Self {
        Self { on: Some(short(on)), ..self }
    }

    /// In words.
    pub fn detail(self, detail: &str) -> Self {
        Self { detail: Some(short(detail)), ..self }
    }
}

/// At most so much of it, and on one line.
fn short(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut kept: String = text.chars().take(MAX_TEXT).map(plain).collect();
    if kept.len() < text.len() {
        kept.push('…');
    }
    kept
}

/// Writes it down. It has happened: where it can't be written, the node's own log has to hold it.
pub async fn record(node: &Node, deed: Deed) {
    let Deed { by, act, on, detail } = deed;
    tracing::info!(by, act = act.as_str(), on, detail, "an operator acts");
    let body = json!({ "action": act.as_str(), "on": on, "detail": detail, "node": node.config.node });
    let (Some(room), Ok(data)) = (&*ROOM, Data::of(&body)) else { return };
    let event = act.as_str().to_owned();
    let publication = Publication {
        room: room.clone(),
        event: event.clone(),
        data,
        from: Some(by.clone()),
        key: None,
        history: HISTORY,
    };
    let written =
        node.backend.at(room.as_str()).call(Repeat::Harmful, node.backend.broker.publish(&publication)).await;
    match written {
        Ok(published) => {
            let at = crate::node::unix_ms();
            let (offset, node_id) = (published.position.offset, node.config.node.clone());
            let entry = AuditEntry { offset, at, by, action: event, on, detail, node: node_id };
            super::tell(node, "audit", &entry).await;
        }
        Err(failure) => tracing::warn!(
            by,
            act = act.as_str(),
            on,
            detail,
            why = failure.message,
            "an act could not be written into the audit log"
        ),
    }
}

/// Reads a page, oldest first: the newest entries, or those before a number.
pub(crate) async fn read(node: &Node, before: Option<u64>, limit: Option<u32>) -> Result<Answer, Failure> {
    let Some(room) = &*ROOM else { return Err(Failure::new(ErrorCode::Internal, "internal error")) };
    let limit = limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE) as usize;
    let range = before.map_or(Range::Recent(limit), |before| Range::Before(before, limit));
    let read = node.backend.broker.history(room, &range, HISTORY);
    let page = node.backend.at(room.as_str()).call(Repeat::Harmless, read).await?;
    Ok(Answer::Audit { entries: page.events.into_iter().map(entry).collect() })
}

fn entry(event: Event) -> AuditEntry {
    #[derive(Default, serde::Deserialize)]
    struct Body {
        on: Option<String>,
        detail: Option<String>,
        node: Option<String>,
    }
    let Body { on, detail, node } = event.data.to().unwrap_or_default();
    AuditEntry {
        offset: event.offset,
        at: event.at,
        by: event.from.unwrap_or_default(),
        action: event.event,
        on,
        detail,
        node: node.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_short_and_on_one_line() {
        let deed = Deed::new("ada\n", Act::Notify).on(&"x".repeat(1_000)).detail("é\tö");
        assert_eq!(deed.by, "ada ");
        assert_eq!(deed.on.as_ref().map(|on| on.chars().count()), Some(MAX_TEXT + 1));
        assert_eq!(deed.detail.as_deref(), Some("é ö"));
    }

    #[test]
    fn no_client_reaches_the_room_of_the_log() {
        let rules = roomcast_core::permission::Namespaces::default();
        let room = ROOM.as_ref().unwrap();
        assert!(rules.rules(room).is_none(), "no rules, so no role and no token opens it");
    }
}
