//! What a script is given, and what its answer means. No I/O.

use std::{io, time::Duration};

use fred::types::{Value, scripts::Script};
use serde::Deserialize;

use super::script::Scripts;
use crate::{
    Cap, Command, Comment, CommentPage, CommentsQuery, CounterError, Limits, Op, Outcome, Seed, Update,
    Viewer, body,
};

/// The names of one room's keys. The braces make the room the hash tag: all are in one slot.
pub(super) struct Keys<'a> {
    pub(super) prefix: &'a str,
    pub(super) room: &'a str,
}

impl Keys<'_> {
    fn name(&self, what: &str) -> String {
        format!("{}:{{{}}}:{what}", self.prefix, self.room)
    }

    /// HASH of target → its counters, packed.
    pub(super) fn counts(&self) -> String {
        self.name("counts")
    }

    /// What `end_room.lua` removes, the index of idempotency records first.
    pub(super) fn owned(&self) -> Vec<String> {
        ["ops", "counts", "likes", "comments", "comments:states", "comments:index"]
            .map(|what| self.name(what))
            .to_vec()
    }

    fn comments(&self) -> Vec<String> {
        ["comments", "comments:states", "comments:index"].map(|what| self.name(what)).to_vec()
    }

    /// In the order that `room.lua` names them.
    fn step(&self, user: &str, key: Option<&str>) -> Vec<String> {
        let mut keys =
            ["meta", "log", "counts", "likes", "comments", "comments:states", "comments:index", "ops"]
                .map(|what| self.name(what))
                .to_vec();
        // The length keeps a user `a:b` with key `c` apart from a user `a` with key `b:c`.
        keys.extend(key.map(|key| self.name(&format!("op:{}:{user}:{key}", user.len()))));
        keys
    }
}

/// The script of an operation, with its keys and arguments in the order that `room.lua` and the script name them.
pub(super) fn apply<'s>(
    scripts: &'s Scripts,
    keys: &Keys<'_>,
    limits: &Limits,
    command: &Command,
) -> Result<(&'s Script, Vec<String>, Vec<Value>), CounterError> {
    let Command { user, history, epoch_candidate, op, .. } = command;
    let (key, hash) = body::idempotency(op).unzip();
    let mut args: Vec<Value> = vec![
        keys.name("ch").into(),
        millis(limits.room_ttl).into(),
        limits.targets_per_room.into(),
        limits.counters_per_target.into(),
        limits.comments_per_room.into(),
        hash.unwrap_or_default().into(),
    ];
    let script = match op {
        Op::Like { target, on } => {
            args.extend([target.into(), user.into(), flag(*on), body::json(user)?.into()]);
            &scripts.like
        }
        Op::Count { target, counter, by, key: _ } => {
            args.extend([target.into(), counter.into(), (*by).into()]);
            &scripts.count
        }
        Op::Comment { target, text, key: _, moderated } => {
            args.extend([target.into(), user.into(), body::json(user)?.into(), body::json(text)?.into()]);
            args.extend([flag(*moderated), epoch_candidate.into()]);
            args.extend([history.size.to_string().into(), millis(history.ttl).into()]);
            &scripts.comment
        }
    };
    Ok((script, keys.step(user, key), args))
}

/// The keys and arguments of `restore.lua`.
pub(super) fn restore(keys: &Keys<'_>, limits: &Limits, seeds: &[Seed]) -> (Vec<String>, Vec<Value>) {
    let mut args: Vec<Value> = vec![
        keys.name("ch").into(),
        millis(limits.room_ttl).into(),
        limits.targets_per_room.into(),
        limits.counters_per_target.into(),
        limits.comments_per_room.into(),
        "".into(),
    ];
    for Seed { target, counter, value } in seeds {
        args.extend([target.into(), counter.into(), value.to_string().into()]);
    }
    args.push(seeds.len().to_string().into());
    (keys.step("", None), args)
}

/// How many counters a restore changed.
pub(super) fn restored(reply: &[String]) -> Result<u64, CounterError> {
    match reply {
        [status, cap] if status == "too_many" => Err(CounterError::TooMany(parse_cap(cap)?)),
        [status, changed] if status == "ok" => number(changed),
        _ => Err(nonsense(&reply.join(" "))),
    }
}

/// The outcome in a script's answer: `{status, text}`.
pub(super) fn outcome(op: &Op, reply: &[String]) -> Result<Outcome, CounterError> {
    let text = match reply {
        [status] if status == "key_reused" => return Err(CounterError::KeyReused),
        [status, cap] if status == "too_many" => return Err(CounterError::TooMany(parse_cap(cap)?)),
        [status, text] if status == "ok" => text,
        _ => return Err(nonsense(&reply.join(" "))),
    };
    let words: Vec<&str> = text.split(' ').collect();
    match (op, &words[..]) {
        (Op::Like { on, .. }, [value, version]) => {
            Ok(Outcome::Like { value: number(value)?, on: *on, version: number(version)? })
        }
        (Op::Count { .. }, [value, version]) => {
            Ok(Outcome::Count { value: number(value)?, version: number(version)? })
        }
        (Op::Comment { .. }, [comment, pending, version, at]) => Ok(Outcome::Comment {
            comment: (*comment).to_owned(),
            pending: *pending == "1",
            version: number(version)?,
            at: number(at)?,
        }),
        _ => Err(nonsense(text)),
    }
}

/// The counters packed in the fields of targets: `<counter> <value> <version>;` for each.
pub(super) fn updates<'a>(
    fields: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<Update>, CounterError> {
    let mut updates = Vec::new();
    for (target, packed) in fields {
        for entry in packed.split_terminator(';') {
            let mut words = entry.split(' ');
            let (Some(counter), Some(value), Some(version), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(nonsense(packed));
            };
            updates.push(Update {
                target: target.clone(),
                counter: counter.to_owned(),
                value: number(value)?,
                version: number(version)?,
            });
        }
    }
    Ok(updates)
}

/// The keys and arguments of `comments.lua`.
pub(super) fn comments(keys: &Keys<'_>, query: &CommentsQuery) -> (Vec<String>, Vec<Value>) {
    let prefix = query.target.as_ref().map_or_else(|| "*".to_owned(), |target| format!("{target} "));
    let (viewer, user) = match &query.viewer {
        Viewer::Admin => ("admin", ""),
        Viewer::User(user) => ("user", user.as_str()),
        Viewer::Public => ("public", ""),
    };
    let cursor = query.cursor.clone().unwrap_or_default();
    (keys.comments(), vec![prefix.into(), cursor.into(), query.limit.into(), viewer.into(), user.into()])
}

/// The page in the answer of `comments.lua`.
pub(super) fn page(reply: &[String]) -> Result<CommentPage, CounterError> {
    #[derive(Deserialize)]
    struct Body {
        comment: String,
        target: String,
        text: String,
        user: String,
        at: u64,
    }
    let Some((cursor, rest)) = reply.split_first() else {
        return Err(nonsense(""));
    };
    let mut comments = Vec::with_capacity(rest.len() / 3);
    for entry in rest.chunks(3) {
        let [state, version, body] = entry else {
            return Err(nonsense(&entry.join(" ")));
        };
        let Body { comment, target, text, user, at } =
            serde_json::from_str(body).map_err(|error| CounterError::Internal(error.into()))?;
        let (pending, version) = (state == "pending", number(version)?);
        comments.push(Comment { comment, target, text, user, at, pending, version });
    }
    Ok(CommentPage { comments, cursor: (!cursor.is_empty()).then(|| cursor.clone()) })
}

pub(super) fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn flag(on: bool) -> Value {
    if on { "1".into() } else { "0".into() }
}

fn parse_cap(name: &str) -> Result<Cap, CounterError> {
    match name {
        "targets" => Ok(Cap::Targets),
        "counters" => Ok(Cap::Counters),
        "comments" => Ok(Cap::Comments),
        "value" => Ok(Cap::Value),
        _ => Err(nonsense(name)),
    }
}

fn number(text: &str) -> Result<u64, CounterError> {
    text.parse().map_err(|_| nonsense(text))
}

fn nonsense(text: &str) -> CounterError {
    let message = format!("a script answered what it never says: {text:.100}");
    CounterError::Internal(io::Error::new(io::ErrorKind::InvalidData, message).into())
}
