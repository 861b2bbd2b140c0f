//! What a script is given, and what its answer means. No I/O.

use std::{io, time::Duration};

use fred::types::Value;
use serde::Deserialize;

use super::script::{Script, Scripts};
use crate::{
    Cap, Command, Comment, CommentPage, CommentState, CommentsQuery, CounterError, Current, Doc, History,
    HoldState, Limits, Lock, Op, Outcome, Refusal, Restriction, RestrictionKind, Seed, StockItem, Update,
    UploadState, Viewer, Whom, Wish, body, secret,
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

    /// HASH of doc → its version and value.
    pub(super) fn docs(&self) -> String {
        self.name("docs")
    }

    /// HASH of user → until when muted in this room.
    pub(super) fn muted(&self) -> String {
        self.name("muted")
    }

    /// What `end_room.lua` removes, the index of idempotency records first.
    pub(super) fn owned(&self) -> Vec<String> {
        ["ops", "counts", "likes", "muted", "uploads", "docs"]
            .into_iter()
            .chain(COMMENTS)
            .chain(HIDDEN)
            .chain(STOCK)
            .map(|what| self.name(what))
            .collect()
    }

    fn comments(&self) -> Vec<String> {
        COMMENTS.map(|what| self.name(what)).to_vec()
    }

    /// In the order that `room.lua` names them: what all share, then the script's own, then the idempotency record.
    fn step(&self, own: &[&str], user: &str, key: Option<&str>) -> Vec<String> {
        let shared = ["meta", "log", "counts", "likes"].into_iter().chain(COMMENTS).chain(["ops", "muted"]);
        let mut keys: Vec<String> = shared.chain(own.iter().copied()).map(|what| self.name(what)).collect();
        // The length keeps a user `a:b` with key `c` apart from a user `a` with key `b:c`.
        keys.extend(key.map(|key| self.name(&format!("op:{}:{user}:{key}", user.len()))));
        keys
    }
}

const COMMENTS: [&str; 3] = ["comments", "comments:states", "comments:index"];
/// What is not in [`COMMENTS`]: those that wait, and where in the log the visible ones are.
const HIDDEN: [&str; 2] = ["comments:queue", "comments:places"];
const STOCK: [&str; 5] = ["items", "holds", "holds:due", "buyers", "holds:ended"];

/// The arguments that `room.lua` names.
fn shared_args(
    keys: &Keys<'_>,
    limits: &Limits,
    user: &str,
    hash: String,
    history: Option<(&History, &str)>,
) -> Result<Vec<Value>, CounterError> {
    let (size, ttl, epoch) = match history {
        Some((history, epoch)) => (history.size.to_string(), millis(history.ttl), epoch),
        None => ("0".to_owned(), "0".to_owned(), ""),
    };
    Ok(vec![
        keys.name("ch").into(),
        millis(limits.room_ttl).into(),
        limits.targets_per_room.into(),
        limits.counters_per_target.into(),
        limits.comments_per_room.into(),
        hash.into(),
        user.into(),
        body::json(user)?.into(),
        epoch.into(),
        size.into(),
        ttl.into(),
    ])
}

/// The keys and arguments of `stock_read.lua` and `sweep.lua`.
pub(super) fn stock(keys: &Keys<'_>, limits: &Limits) -> Result<(Vec<String>, Vec<Value>), CounterError> {
    Ok((keys.step(&STOCK, "", None), shared_args(keys, limits, "", String::new(), None)?))
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
    let mut args =
        shared_args(keys, limits, user, hash.unwrap_or_default(), Some((history, epoch_candidate)))?;
    let (script, own): (_, &[&str]) = match op {
        Op::Like { target, on } => {
            args.extend([target.into(), flag(*on), limits.likes_per_room.into()]);
            (&scripts.like, &[])
        }
        Op::Count { target, counter, by, key: _ } => {
            args.extend([target.into(), counter.into(), (*by).into()]);
            (&scripts.count, &[])
        }
        Op::Comment { target, text, key: _, moderated } => {
            args.extend([target.into(), body::json(text)?.into(), flag(*moderated)]);
            (&scripts.comment, &HIDDEN)
        }
        Op::Moderate { comment, decision, version } => {
            args.extend([comment.into(), decision.as_str().into(), version.to_string().into()]);
            (&scripts.moderate, &HIDDEN)
        }
        Op::DeleteComment { comment } => {
            args.extend([comment.into(), body::PURGED.into()]);
            (&scripts.delete_comment, &HIDDEN)
        }
        Op::Upload { target, state, progress } => {
            args.extend([target.into(), state.as_str().into(), progress.unwrap_or_default().into()]);
            args.push(limits.uploads_per_room.into());
            (&scripts.upload, &["uploads"])
        }
        Op::Stock { item, stock, per_user, hold } => {
            args.extend([item.into(), stock.to_string().into(), per_user.to_string().into()]);
            args.extend([millis(*hold).into(), limits.items_per_room.into()]);
            (&scripts.stock_set, &STOCK)
        }
        Op::Reserve { item, quantity, key: _ } => {
            let token = secret::token()?;
            args.extend([item.into(), (*quantity).into(), token.into(), limits.holds_per_room.into()]);
            (&scripts.reserve, &STOCK)
        }
        Op::Confirm { reservation } | Op::Release { reservation } => {
            let token = reservation.split('.').next().unwrap_or_default();
            let act = if matches!(op, Op::Confirm { .. }) { "confirm" } else { "release" };
            args.extend([token.into(), act.into()]);
            (&scripts.settle, &STOCK)
        }
        Op::Put { doc, value, version } => {
            args.extend([doc.into(), value.into(), version.to_string().into(), limits.docs_per_room.into()]);
            (&scripts.put, &["docs"])
        }
    };
    Ok((script, keys.step(own, user, key), args))
}

/// The keys and arguments of `restore.lua`.
pub(super) fn restore(
    keys: &Keys<'_>,
    limits: &Limits,
    seeds: &[Seed],
) -> Result<(Vec<String>, Vec<Value>), CounterError> {
    let mut args = shared_args(keys, limits, "", String::new(), None)?;
    for Seed { target, counter, value } in seeds {
        args.extend([target.into(), counter.into(), value.to_string().into()]);
    }
    args.push(seeds.len().to_string().into());
    Ok((keys.step(&[], "", None), args))
}

/// How many counters a restore changed.
pub(super) fn restored(reply: &[String]) -> Result<u64, CounterError> {
    match reply {
        [status, cap] if status == "too_many" => Err(CounterError::TooMany(parse_cap(cap)?)),
        [status, changed] if status == "ok" => number(changed),
        _ => Err(nonsense(&reply.join(" "))),
    }
}

/// The outcome in a script's answer: a status, and what belongs to it.
pub(super) fn outcome(command: &Command, reply: &[String]) -> Result<Outcome, CounterError> {
    let words: Vec<&str> = reply.iter().map(String::as_str).collect();
    let Some((status, rest)) = words.split_first() else { return Err(nonsense("")) };
    if *status != "ok" {
        return Err(refusal(&command.op, status, rest));
    }
    // The counting scripts answer all in one text, as they keep it under their key.
    let split: Vec<&str> = match rest {
        [one] => one.split(' ').collect(),
        many => many.to_vec(),
    };
    match (&command.op, &split[..]) {
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
        (Op::Moderate { .. }, [state, version]) => {
            Ok(Outcome::Moderate { state: comment_state(state)?, version: number(version)? })
        }
        (Op::DeleteComment { .. }, [version]) => Ok(Outcome::Deleted { version: number(version)? }),
        (Op::Upload { .. }, [state, progress]) => {
            let state = UploadState::from_name(state).ok_or_else(|| nonsense(state))?;
            let progress = u32::try_from(number(progress)?).map_err(|_| nonsense(progress))?;
            Ok(Outcome::Upload { state, progress })
        }
        (Op::Stock { item, .. }, _) => Ok(Outcome::Stock(stock_item(item, &split.join(" "))?)),
        (Op::Reserve { .. }, [token, remaining, expires]) => Ok(Outcome::Reserve {
            reservation: format!("{token}.{}", command.room),
            remaining: number(remaining)?,
            expires_at: number(expires)?,
        }),
        (Op::Confirm { .. } | Op::Release { .. }, [state, remaining]) => {
            Ok(Outcome::Settled { state: hold_state(state)?, remaining: number(remaining)? })
        }
        (Op::Put { .. }, [version]) => Ok(Outcome::Put { version: number(version)? }),
        _ => Err(nonsense(&reply.join(" "))),
    }
}

fn refusal(op: &Op, status: &str, rest: &[&str]) -> CounterError {
    let refused = || -> Result<CounterError, CounterError> {
        Ok(match (status, rest) {
            ("key_reused", []) => CounterError::KeyReused,
            ("too_many", [cap]) => CounterError::TooMany(parse_cap(cap)?),
            ("not_found", []) => CounterError::NotFound,
            ("muted", []) => CounterError::Forbidden(Refusal::Muted),
            ("not_owner", []) => CounterError::Forbidden(Refusal::NotOwner),
            ("sold_out", [remaining]) => CounterError::SoldOut { remaining: number(remaining)? },
            ("user_limit", [per_user, mine]) => {
                CounterError::UserLimit { per_user: number(per_user)?, mine: number(mine)? }
            }
            ("conflict", _) => CounterError::Conflict(match (op, rest) {
                (Op::Moderate { .. }, [state, version]) => {
                    Current::Comment { state: comment_state(state)?, version: number(version)? }
                }
                (Op::Upload { .. }, [state]) => {
                    Current::Upload(UploadState::from_name(state).ok_or_else(|| nonsense(state))?)
                }
                (Op::Confirm { .. } | Op::Release { .. }, [state]) => Current::Hold(hold_state(state)?),
                (Op::Stock { item, .. }, [packed]) => Current::Stock(stock_item(item, packed)?),
                (Op::Put { .. }, [version, value]) => Current::Doc(doc(number(version)?, value)),
                _ => return Err(nonsense(status)),
            }),
            _ => return Err(nonsense(status)),
        })
    };
    refused().unwrap_or_else(|error| error)
}

fn comment_state(word: &str) -> Result<CommentState, CounterError> {
    // What was never pending is stored as visible: that is what approval makes of the others.
    let word = if word == "visible" { "approved" } else { word };
    CommentState::from_name(word).ok_or_else(|| nonsense(word))
}

fn hold_state(word: &str) -> Result<HoldState, CounterError> {
    match word {
        "h" => Ok(HoldState::Held),
        "c" => Ok(HoldState::Confirmed),
        "r" => Ok(HoldState::Released),
        "x" => Ok(HoldState::Expired),
        _ => Err(nonsense(word)),
    }
}

fn doc(version: u64, value: &str) -> Option<Doc> {
    (version > 0).then(|| Doc { value: value.to_owned(), version })
}

/// A document as it is packed: `<version>\n<value>`.
pub(super) fn unpack_doc(packed: &str) -> Result<Option<Doc>, CounterError> {
    let (version, value) = packed.split_once('\n').ok_or_else(|| nonsense(packed))?;
    Ok(doc(number(version)?, value))
}

/// An item as it is packed: `<stock> <sold> <held> <per_user> <hold_ms>`.
pub(super) fn stock_item(item: &str, packed: &str) -> Result<StockItem, CounterError> {
    let numbers: Vec<u64> = packed.split(' ').map(number).collect::<Result<_, _>>()?;
    match numbers[..] {
        [stock, sold, held, per_user, hold_ms] => {
            Ok(StockItem { item: item.to_owned(), stock, sold, held, per_user, hold_ms })
        }
        _ => Err(nonsense(packed)),
    }
}

/// The lock in the answer of `lock.lua`.
pub(super) fn lock(reply: &[String]) -> Result<Lock, CounterError> {
    match reply {
        [status, fence, ends] if status == "ok" => {
            Ok(Lock { fence: number(fence)?, expires_at: number(ends)? })
        }
        [status, retry_ms] if status == "conflict" => {
            Err(CounterError::Conflict(Current::Lock { retry_ms: number(retry_ms)? }))
        }
        _ => Err(nonsense(&reply.join(" "))),
    }
}

/// The name in the answer of `claim.lua`.
pub(super) fn claimed(wish: &Wish, reply: &[String]) -> Result<String, CounterError> {
    match (reply, wish) {
        ([status, name], _) if status == "ok" => Ok(name.clone()),
        ([status, cap], _) if status == "too_many" => Err(CounterError::TooMany(parse_cap(cap)?)),
        ([status], _) if status == "key_reused" => Err(CounterError::KeyReused),
        ([status], Wish::Name(_)) if status == "taken" => Err(CounterError::Conflict(Current::Claim)),
        ([status], Wish::Generate { .. }) if status == "taken" => Err(CounterError::TooMany(Cap::Names)),
        _ => Err(nonsense(&reply.join(" "))),
    }
}

/// When a restriction ends, in the answer of `restrict.lua`.
pub(super) fn restricted(reply: &[String]) -> Result<u64, CounterError> {
    match reply {
        [status, ends] if status == "ok" => number(ends),
        [status, cap] if status == "too_many" => Err(CounterError::TooMany(parse_cap(cap)?)),
        _ => Err(nonsense(&reply.join(" "))),
    }
}

/// The field of a restriction in the list. A room's name holds no line feed, nor does a user.
pub(super) fn restriction_field(kind: RestrictionKind, whom: &Whom, room: Option<&str>) -> String {
    let (what, id) = match whom {
        Whom::User(user) => ("user", user.clone()),
        Whom::Ip(ip) => ("ip", ip.to_string()),
    };
    format!("{}\n{what}\n{id}\n{}", kind.as_str(), room.unwrap_or("*"))
}

/// A restriction from its field in the list.
pub(super) fn restriction(field: &str, until: &str) -> Result<Restriction, CounterError> {
    let words: Vec<&str> = field.split('\n').collect();
    let [kind, what, id, room] = words[..] else { return Err(nonsense(field)) };
    let whom = match what {
        "user" => Whom::User(id.to_owned()),
        "ip" => Whom::Ip(id.parse().map_err(|_| nonsense(id))?),
        _ => return Err(nonsense(what)),
    };
    let kind = RestrictionKind::from_name(kind).ok_or_else(|| nonsense(kind))?;
    let room = (room != "*").then(|| room.to_owned());
    Ok(Restriction { kind, whom, room, until: number(until)? })
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

/// The keys and arguments of `queue.lua`.
pub(super) fn queue(keys: &Keys<'_>, cursor: Option<&str>, limit: u32) -> (Vec<String>, Vec<Value>) {
    let names = ["comments", "comments:states", "comments:queue"].map(|what| keys.name(what)).to_vec();
    (names, vec![cursor.unwrap_or_default().into(), limit.into()])
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
        "likes" => Ok(Cap::Likes),
        "comments" => Ok(Cap::Comments),
        "value" => Ok(Cap::Value),
        "items" => Ok(Cap::Items),
        "holds" => Ok(Cap::Holds),
        "uploads" => Ok(Cap::Uploads),
        "docs" => Ok(Cap::Docs),
        "claims" => Ok(Cap::Claims),
        "claims_of_user" => Ok(Cap::ClaimsOfUser),
        "restrictions" => Ok(Cap::Restrictions),
        _ => Err(nonsense(name)),
    }
}

pub(super) fn number(text: &str) -> Result<u64, CounterError> {
    text.parse().map_err(|_| nonsense(text))
}

pub(super) fn nonsense(text: &str) -> CounterError {
    let message = format!("a script answered what it never says: {text:.100}");
    CounterError::Internal(io::Error::new(io::ErrorKind::InvalidData, message).into())
}
