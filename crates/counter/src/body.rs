//! The JSON of events, and the fingerprint of an operation under an idempotency key.

use serde::Serialize;

use crate::{Comment, CounterError, Op, secret};

/// The body of a comment's event, as the room's log keeps it.
pub(crate) fn comment_event(comment: &Comment) -> Result<String, CounterError> {
    #[derive(Serialize)]
    struct Envelope<'a> {
        event: &'static str,
        from: &'a str,
        data: Data<'a>,
    }
    #[derive(Serialize)]
    struct Data<'a> {
        comment: &'a str,
        target: &'a str,
        text: &'a str,
        user: &'a str,
        at: u64,
        version: u64,
    }
    let Comment { comment, target, text, user, at, version, pending: _ } = comment;
    let data = Data { comment, target, text, user, at: *at, version: *version };
    json(&Envelope { event: "comment", from: user, data })
}

/// A stored comment as the stream of changes tells it.
pub(crate) fn comment_change(comment: &Comment) -> Result<String, CounterError> {
    let Comment { comment, target, text, user, at, version, pending } = comment;
    let (text, user) = (json(text)?, json(user)?);
    let state = if *pending { "pending" } else { "visible" };
    Ok(format!(
        r#"{{"comment":"{comment}","target":"{target}","text":{text},"user":{user},"at":{at},"state":"{state}","version":{version}}}"#
    ))
}

/// A JSON literal.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, CounterError> {
    serde_json::to_string(value).map_err(|error| CounterError::Internal(error.into()))
}

/// The key of an operation, and the fingerprint of all that a retry must repeat.
pub(crate) fn idempotency(op: &Op) -> Option<(&str, String)> {
    match op {
        Op::Like { .. } => None,
        Op::Count { target, counter, by, key } => {
            key.as_deref().map(|key| (key, secret::fingerprint(&["count", target, counter, &by.to_string()])))
        }
        Op::Comment { target, text, key, moderated: _ } => {
            key.as_deref().map(|key| (key, secret::fingerprint(&["comment", target, text])))
        }
    }
}
