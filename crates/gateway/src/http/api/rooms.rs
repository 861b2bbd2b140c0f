//! One room as a back end sees it: snapshot, past, members, counters, comments, end.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use roomcast_core::{
    permission::Rules,
    session::{DEFAULT_PAGE, MAX_PAGE},
};
use roomcast_counter::{CommentPage, CommentsQuery, Update, Viewer};
use roomcast_protocol::{Epoch, ErrorCode, Failure, Offset, Ok as Answer, Position, RoomName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    answer,
    body::{Named, Query},
    rules_of,
};
use crate::{
    admin::audit::{self, Act, Deed},
    backend::{Repeat, Snapshot, stock_item},
    http::{
        auth::{By, Caller},
        problem::Problem,
    },
    node::Node,
    session::tasks,
};

const DEFAULT_COMMENTS: u32 = 50;

pub(super) fn room_of(node: &Node, caller: Caller, name: &str) -> Result<(RoomName, Rules), Problem> {
    let bad = |error: roomcast_protocol::NameError| Failure::new(ErrorCode::BadRoom, error.to_string());
    let room = RoomName::parse(name).map_err(bad)?;
    let rules = rules_of(node, caller, &room).map_err(Problem::from)?;
    Ok((room, rules))
}

fn page(limit: Option<usize>) -> usize {
    limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE)
}

fn values(updates: Vec<Update>) -> Vec<Value> {
    let value = |Update { target, counter, value, version }| json!({ "target": target, "counter": counter, "value": value, "version": version });
    updates.into_iter().map(value).collect()
}

/// Where its log stands, who is there, what it counts and offers: all of one moment.
pub(super) async fn snapshot(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Named(name): Named,
) -> Result<Json<Value>, Problem> {
    let (room, rules) = room_of(&node, caller, &name)?;
    let Snapshot { tail, presence, tally } =
        node.backend.snapshot(&room, rules.history).await.map_err(Problem::from)?;
    Ok(Json(json!({
        "room": room,
        "epoch": tail.epoch,
        "offset": tail.offset,
        "presence": presence,
        "counters": values(tally.counters),
        "stock": tally.stock.iter().map(stock_item).collect::<Vec<_>>(),
    })))
}

/// Ends a room: all its keys are removed, and who is in it is told `reset`.
pub(super) async fn end(
    State(node): State<Arc<Node>>,
    Extension(By(by)): Extension<By>,
    Extension(caller): Extension<Caller>,
    Named(name): Named,
) -> Result<Json<Value>, Problem> {
    let (room, _) = room_of(&node, caller, &name)?;
    let backend = &node.backend;
    let at = backend.at(room.as_str());
    at.call(Repeat::Harmless, backend.counter.end_room(room.as_str())).await.map_err(Problem::from)?;
    let ended = backend.broker.end_room(&room, "the room was ended");
    let position = at.call(Repeat::Harmless, ended).await.map_err(Problem::from)?;
    audit::record(&node, Deed::new(&by, Act::EndRoom).on(room.as_str())).await;
    Ok(Json(json!({ "epoch": position.epoch, "offset": position.offset })))
}

#[derive(Deserialize)]
pub(super) struct Past {
    epoch: Option<String>,
    since: Option<u64>,
    before: Option<u64>,
    limit: Option<usize>,
}

/// `?epoch=&since=` for what came after an offset, `?before=` for what came before one, neither for the newest.
pub(super) async fn history(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Named(name): Named,
    Query(past): Query<Past>,
) -> Result<Json<Answer>, Problem> {
    let (room, rules) = room_of(&node, caller, &name)?;
    let since = match (past.epoch, past.since) {
        (Some(epoch), Some(offset)) => Some(Position { epoch: Epoch::new(&epoch), offset: Offset(offset) }),
        (None, None) => None,
        _ => return Err(Problem::new(ErrorCode::BadFrame, "epoch and since belong together")),
    };
    answer(tasks::history(&node, &room, &rules, tasks::range(since, past.before, page(past.limit))).await)
}

#[derive(Deserialize)]
pub(super) struct Paging {
    cursor: Option<String>,
    limit: Option<usize>,
}

/// Members by user id.
pub(super) async fn presence(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Named(name): Named,
    Query(paging): Query<Paging>,
) -> Result<Json<Answer>, Problem> {
    let (room, _) = room_of(&node, caller, &name)?;
    answer(tasks::presence(&node, &room, paging.cursor.as_deref(), page(paging.limit)).await)
}

#[derive(Deserialize)]
pub(super) struct Targets {
    /// Comma-separated; all without.
    targets: Option<String>,
}

/// Counter values, read in one step.
pub(super) async fn counters(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Named(name): Named,
    Query(query): Query<Targets>,
) -> Result<Json<Value>, Problem> {
    let (room, _) = room_of(&node, caller, &name)?;
    let targets: Option<Vec<String>> = query.targets.map(|list| list.split(',').map(str::to_owned).collect());
    let read = node.backend.counter.counters(room.as_str(), targets.as_deref());
    let updates = node.backend.at(room.as_str()).read(read).await.map_err(Problem::from)?;
    Ok(Json(json!({ "counters": values(updates) })))
}

#[derive(Deserialize)]
pub(super) struct Comments {
    target: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
    /// As this user sees them; without, as an admin does.
    user: Option<String>,
    /// `pending`: the moderation queue, oldest first.
    state: Option<String>,
}

/// Comments, newest first.
pub(super) async fn comments(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Named(name): Named,
    Query(query): Query<Comments>,
) -> Result<Json<Value>, Problem> {
    let (room, _) = room_of(&node, caller, &name)?;
    let limit = query.limit.unwrap_or(DEFAULT_COMMENTS);
    let page = match query.state.as_deref() {
        None => seen(&node, &room, query, limit).await,
        Some("pending") => {
            let read = node.backend.counter.queue(room.as_str(), query.cursor.as_deref(), limit);
            node.backend.at(room.as_str()).read(read).await
        }
        Some(_) => Err(Failure::new(ErrorCode::BadFrame, "state can be `pending`")),
    };
    Ok(Json(page_of(page.map_err(Problem::from)?)))
}

async fn seen(node: &Node, room: &RoomName, query: Comments, limit: u32) -> Result<CommentPage, Failure> {
    let viewer = query.user.map_or(Viewer::Admin, Viewer::User);
    let query = CommentsQuery { target: query.target, viewer, cursor: query.cursor, limit };
    let read = node.backend.counter.comments(room.as_str(), query);
    node.backend.at(room.as_str()).read(read).await
}

fn page_of(page: CommentPage) -> Value {
    let comment = |comment: roomcast_counter::Comment| {
        json!({
            "comment": comment.comment,
            "target": comment.target,
            "text": comment.text,
            "user": comment.user,
            "at": comment.at,
            "pending": comment.pending,
            "version": comment.version,
        })
    };
    let comments: Vec<_> = page.comments.into_iter().map(comment).collect();
    json!({ "comments": comments, "cursor": page.cursor })
}
