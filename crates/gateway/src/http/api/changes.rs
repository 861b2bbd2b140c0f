//! For the owner of a database beside the hub: what changed, as it changes, and the way back after a loss.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use roomcast_counter::{Change, Seed};
use roomcast_protocol::{ErrorCode, RoomName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use tokio::time::{Instant, sleep};

use super::{
    body::{Body, Query},
    rules_of,
};
use crate::{
    backend::Repeat,
    http::{auth::Caller, problem::Problem},
    node::Node,
};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;
/// Below the 30 s after which many a proxy gives up on an answer.
const MAX_WAIT: Duration = Duration::from_secs(25);
/// How often a waiting reader looks again: soon enough for a table, seldom enough for Redis.
const LOOK: Duration = Duration::from_millis(150);

#[derive(Deserialize)]
pub(super) struct From {
    /// The `cursor` of the answer before; without it, from the oldest that is kept.
    after: Option<String>,
    limit: Option<u32>,
    /// How long to wait for the first change.
    wait_ms: Option<u64>,
    /// Refused: who names a room expects less than is told.
    room: Option<String>,
}

/// `{changes: [{id, kind, room, data}], cursor, complete}`, oldest first. `complete: false`: something behind `after` was
/// given up meanwhile.
pub(super) async fn read(
    State(node): State<Arc<Node>>,
    Query(from): Query<From>,
) -> Result<Response, Problem> {
    let changes = &node.backend.changes;
    if !changes.is_on() {
        return Err(Problem::new(ErrorCode::NotFound, "no changes are kept: the setting changes.size is 0"));
    }
    let after = from.after.unwrap_or_else(|| "0-0".to_owned());
    let limit = from.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let wait = Duration::from_millis(from.wait_ms.unwrap_or_default()).min(MAX_WAIT);
    if from.room.is_some() {
        return Err(Problem::new(
            ErrorCode::BadFrame,
            "one stream holds the changes of all rooms: leave out the room",
        ));
    }
    let deadline = Instant::now() + wait;
    let page = loop {
        let read = changes.read(&after, limit);
        let page = node.backend.at(changes.place()).read(read).await.map_err(Problem::from)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if !page.changes.is_empty() || !page.complete || left.is_zero() {
            break page;
        }
        sleep(LOOK.min(left)).await;
    };
    let cursor = page.changes.last().map_or(after.as_str(), |last| last.id.as_str());
    let changes: Result<Vec<Told<'_>>, Problem> =
        page.changes.iter().filter(|change| !change.is_gap()).map(Told::of).collect();
    Ok(Json(Page { changes: changes?, cursor, complete: page.complete }).into_response())
}

#[derive(Serialize)]
struct Page<'a> {
    changes: Vec<Told<'a>>,
    cursor: &'a str,
    complete: bool,
}

#[derive(Serialize)]
struct Told<'a> {
    id: &'a str,
    kind: &'a str,
    room: &'a str,
    /// As it was written: whatever numbers a client once sent, they pass as they are.
    data: &'a RawValue,
}

impl<'a> Told<'a> {
    fn of(Change { id, kind, room, data }: &'a Change) -> Result<Self, Problem> {
        let data = serde_json::from_str(data).map_err(|error| {
            tracing::error!(%error, "a change is no JSON");
            Problem::new(ErrorCode::Internal, "internal error")
        })?;
        Ok(Self { id, kind, room, data })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Restore {
    room: RoomName,
    counters: Vec<Kept>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    target: String,
    counter: String,
    value: u64,
}

/// Seeds counters where they are absent or lower, all or none. Answers how many were changed.
pub(super) async fn restore(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Body(Restore { room, counters }): Body<Restore>,
) -> Result<Json<Value>, Problem> {
    rules_of(&node, caller, &room).map_err(Problem::from)?;
    let seed = |Kept { target, counter, value }| Seed { target, counter, value };
    let seeds: Vec<Seed> = counters.into_iter().map(seed).collect();
    let restored = node.backend.counter.restore(room.as_str(), &seeds);
    let changed =
        node.backend.at(room.as_str()).call(Repeat::Harmless, restored).await.map_err(Problem::from)?;
    Ok(Json(json!({ "changed": changed })))
}
