//! Reading a client's frame: first the head (`id`, `op`, `room`), then the fields of that operation.
//!
//! The head is read leniently, so that even a frame with wrong fields is answered under its own `id`. JSON is read
//! twice for that; a frame in which nothing is wrong has been read in one pass before, by [`Object`].

use std::io::Cursor;

use serde::Deserialize;

use crate::{
    ClientFrame, Epoch, ErrorCode, MAX_SAFE_INTEGER, Op, OpKind, RoomName,
    head::{Head, Scalar},
    object::Object,
};

const MAX_EVENT_NAME: usize = 128;
const MAX_KEY: usize = 128;
/// Maps within `data` within the frame.
const MSGPACK_DEPTH: usize = crate::MAX_DEPTH + 8;

/// Why a frame was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct DecodeError {
    /// The frame's `id`, where it could be read.
    pub id: Option<u64>,
    /// The code to answer.
    pub code: ErrorCode,
    /// The sentence to answer, at most some 300 characters; what it quotes of the frame is cut off.
    pub message: String,
}

pub(crate) fn bad_frame(id: Option<u64>, message: impl Into<String>) -> DecodeError {
    DecodeError { id, code: ErrorCode::BadFrame, message: message.into() }
}

/// What a connection's codec remembers: the last `id`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decoder {
    last_id: u64,
}

impl Decoder {
    pub(crate) const fn new() -> Self {
        Self { last_id: 0 }
    }

    pub(crate) fn json(&mut self, text: &str) -> Result<ClientFrame, DecodeError> {
        match self.short_way(text) {
            Some(frame) => {
                self.last_id = frame.id.unwrap_or(self.last_id);
                Ok(frame)
            }
            None => self.long_way(text),
        }
    }

    /// Reads a frame as clients write them. None: this is not for it to judge.
    fn short_way(self, text: &str) -> Option<ClientFrame> {
        let object = Object::parse(text)?;
        let id = object.id;
        if id.is_some_and(|id| !(1..=MAX_SAFE_INTEGER).contains(&id) || id <= self.last_id) {
            return None;
        }
        let op = object.read(OpKind::from_name(object.op?)?)?;
        check_bounds(&op).ok()?;
        Some(ClientFrame { id, op })
    }

    fn long_way(&mut self, text: &str) -> Result<ClientFrame, DecodeError> {
        if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
            return Err(bad_frame(None, "a frame is one JSON object"));
        }
        let head: Head = serde_json::from_str(text)
            .map_err(|error| bad_frame(None, format!("not valid JSON: {error}")))?;
        self.frame(&head, |kind| {
            let mut from = serde_json::Deserializer::from_str(text);
            kind.deserialize_body(&mut from).map_err(|error| error.to_string())
        })
    }

    /// Reads the fields of one operation from a JSON object that is no frame: an HTTP body. The object may name
    /// more than the operation knows; `id` and `op` are among what is ignored.
    pub fn body(kind: OpKind, text: &str) -> Result<Op, DecodeError> {
        let short = Object::parse(text).and_then(|object| object.read(kind));
        match short.filter(|op| check_bounds(op).is_ok()) {
            Some(op) => Ok(op),
            None => Self::long_body(kind, text),
        }
    }

    fn long_body(kind: OpKind, text: &str) -> Result<Op, DecodeError> {
        let head: Head = serde_json::from_str(text)
            .map_err(|error| bad_frame(None, format!("not a valid JSON object: {error}")))?;
        let op = kind
            .deserialize_body(&mut serde_json::Deserializer::from_str(text))
            .map_err(|error| refusal(None, kind.as_str(), &head.room, &error.to_string()))?;
        check_bounds(&op).map_err(|message| bad_frame(None, format!("{}: {message}", kind.as_str())))?;
        Ok(op)
    }

    pub(crate) fn msgpack(&mut self, bytes: &[u8]) -> Result<ClientFrame, DecodeError> {
        if !matches!(bytes.first(), Some(0x80..=0x8f | 0xde | 0xdf)) {
            return Err(bad_frame(None, "a frame is one MessagePack map"));
        }
        let mut from = unpacker(bytes);
        let head = Head::deserialize(&mut from)
            .map_err(|error| bad_frame(None, format!("not valid MessagePack: {error}")))?;
        if from.position() != bytes.len() as u64 {
            return Err(bad_frame(head.id(), "bytes follow after the MessagePack map"));
        }
        self.frame(&head, |kind| {
            kind.deserialize_body(&mut unpacker(bytes)).map_err(|error| error.to_string())
        })
    }

    fn frame(
        &mut self,
        head: &Head,
        body: impl FnOnce(OpKind) -> Result<Op, String>,
    ) -> Result<ClientFrame, DecodeError> {
        let id = match head.id {
            Scalar::Absent => None,
            Scalar::Integer(id @ 1..=MAX_SAFE_INTEGER) if id > self.last_id => Some(id),
            Scalar::Integer(id @ 1..=MAX_SAFE_INTEGER) => {
                return Err(bad_frame(Some(id), format!("id must rise: the last one was {}", self.last_id)));
            }
            _ => return Err(bad_frame(None, "id must be an integer from 1 to 2^53-1")),
        };
        self.last_id = id.unwrap_or(self.last_id);
        let name = match &head.op {
            Scalar::Text(name) => name,
            Scalar::Absent => return Err(bad_frame(id, "op is missing")),
            _ => return Err(bad_frame(id, "op must be a string")),
        };
        let kind = OpKind::from_name(name).ok_or_else(|| DecodeError {
            id,
            code: ErrorCode::UnknownOp,
            message: format!("there is no op {:?}", shorten(name)),
        })?;
        let op = body(kind).map_err(|message| refusal(id, name, &head.room, &message))?;
        check_bounds(&op).map_err(|message| bad_frame(id, format!("{name}: {message}")))?;
        Ok(ClientFrame { id, op })
    }
}

fn unpacker(bytes: &[u8]) -> rmp_serde::Deserializer<rmp_serde::decode::ReadReader<Cursor<&[u8]>>> {
    let mut from = rmp_serde::Deserializer::new(Cursor::new(bytes));
    from.set_max_depth(MSGPACK_DEPTH);
    from
}

/// A frame whose fields can't be read: the room's name is told apart, everything else is a bad frame. An
/// operation that has no room ignores one, however malformed, as it ignores any field it doesn't know.
fn refusal(id: Option<u64>, op: &str, room: &Scalar, message: &str) -> DecodeError {
    if let Scalar::Text(room) = room
        && let Err(error) = RoomName::parse(room)
    {
        return DecodeError { id, code: ErrorCode::BadRoom, message: error.to_string() };
    }
    bad_frame(id, format!("{op}: {}", shorten_to(message, 200)))
}

/// Bounds on texts and numbers that operations share; the counter crate checks its own.
fn check_bounds(op: &Op) -> Result<(), &'static str> {
    let (event, key, since) = match op {
        Op::Publish(op) => (Some(&op.event), op.key.as_ref(), None),
        Op::Signal(op) => (Some(&op.event), None, None),
        Op::Count(op) => (None, op.key.as_ref(), None),
        Op::Comment(op) => (None, op.key.as_ref(), None),
        Op::Reserve(op) => (None, Some(&op.key), None),
        Op::Join(op) => (None, None, op.since.as_ref()),
        Op::History(op) => (None, None, op.since.as_ref()),
        _ => (None, None, None),
    };
    if event.is_some_and(|event| !is_label(event, MAX_EVENT_NAME)) {
        return Err("event must be 1 to 128 characters, none of them a control character");
    }
    if key.is_some_and(|key| !is_label(key, MAX_KEY)) {
        return Err("key must be 1 to 128 characters, none of them a control character");
    }
    if since
        .is_some_and(|since| since.epoch.as_str().len() > Epoch::MAX_LEN || since.offset.0 > MAX_SAFE_INTEGER)
    {
        return Err("since must be {epoch, offset} as a join or reset told it");
    }
    let number = match op {
        Op::History(op) => op.before,
        Op::Moderate(op) => Some(op.version),
        Op::Put(op) => Some(op.version),
        _ => None,
    };
    if number.is_some_and(|number| number > MAX_SAFE_INTEGER) {
        return Err("integers go up to 2^53-1");
    }
    if let Op::History(op) = op
        && op.since.is_some()
        && op.before.is_some()
    {
        return Err("give since or before, not both");
    }
    Ok(())
}

fn is_label(text: &str, max: usize) -> bool {
    !text.is_empty() && text.chars().count() <= max && !text.chars().any(char::is_control)
}

fn shorten(text: &str) -> &str {
    shorten_to(text, 64)
}

fn shorten_to(text: &str, max: usize) -> &str {
    text.char_indices().nth(max).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests;
