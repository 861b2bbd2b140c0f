//! The JSON of events, and the fingerprint of an operation under an idempotency key.

use serde::Serialize;

use crate::{Comment, CounterError, Op, Wish, secret};

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

/// The body of the event that tells of a deletion.
pub(crate) fn comment_deleted(
    from: &str,
    comment: &str,
    target: &str,
    version: u64,
) -> Result<String, CounterError> {
    let data = serde_json::json!({ "comment": comment, "target": target, "version": version });
    json(&serde_json::json!({ "event": "comment_deleted", "from": from, "data": data }))
}

/// What stands in the log in place of a purged event, so that its offset is not missing.
pub(crate) const PURGED: &str = r#"{"event":"purged","data":null}"#;

/// The body of the event that makes an upload visible.
pub(crate) fn upload_event(user: &str, target: &str, at: u64) -> Result<String, CounterError> {
    let data = serde_json::json!({ "target": target, "user": user, "at": at });
    json(&serde_json::json!({ "event": "upload", "from": user, "data": data }))
}

/// The body of the signal that tells how far an upload is.
pub(crate) fn upload_signal(user: &str, target: &str, progress: u32) -> Result<String, CounterError> {
    let data = serde_json::json!({ "target": target, "state": "progress", "progress": progress });
    json(&serde_json::json!({ "event": "upload", "from": user, "data": data }))
}

/// The body of the event that tells of a document's new version.
pub(crate) fn doc_event(user: &str, doc: &str, version: u64) -> Result<String, CounterError> {
    let data = serde_json::json!({ "doc": doc, "version": version });
    json(&serde_json::json!({ "event": "doc", "from": user, "data": data }))
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

/// The key of a claim, and the fingerprint of all that a retry must repeat.
pub(crate) fn claim_idempotency<'a>(scope: &str, wish: &'a Wish) -> Option<(&'a str, String)> {
    match wish {
        Wish::Name(_) => None,
        Wish::Generate { length, alphabet, key } => key
            .as_deref()
            .map(|key| (key, secret::fingerprint(&["claim", scope, &length.to_string(), alphabet]))),
    }
}

/// The key of an operation, and the fingerprint of all that a retry must repeat.
pub(crate) fn idempotency(op: &Op) -> Option<(&str, String)> {
    match op {
        Op::Like { .. }
        | Op::Moderate { .. }
        | Op::DeleteComment { .. }
        | Op::Upload { .. }
        | Op::Stock { .. }
        | Op::Confirm { .. }
        | Op::Release { .. }
        | Op::Put { .. } => None,
        Op::Reserve { item, quantity, key } => {
            Some((key.as_str(), secret::fingerprint(&["reserve", item, &quantity.to_string()])))
        }
        Op::Count { target, counter, by, key } => {
            key.as_deref().map(|key| (key, secret::fingerprint(&["count", target, counter, &by.to_string()])))
        }
        Op::Comment { target, text, key, moderated: _ } => {
            key.as_deref().map(|key| (key, secret::fingerprint(&["comment", target, text])))
        }
    }
}
