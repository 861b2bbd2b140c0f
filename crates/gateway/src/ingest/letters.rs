//! The dead: webhooks that were given up, listed and put back by an operator. Never by the node itself.

use std::sync::Arc;

use axum::{Json, body::Bytes, extract::State};
use roomcast_counter::{DeadLetter, Ingest};
use roomcast_protocol::ErrorCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    backend::Repeat,
    http::{
        api::body::{Named, Query},
        problem::Problem,
    },
    node::Node,
};

const DEFAULT_LIMIT: u32 = 50;
/// Each may hold a mebibyte.
const MAX_LIMIT: u32 = 100;
/// As many as a queue holds by default.
const MAX_REPLAY: u32 = 1_000;

#[derive(Deserialize)]
pub(super) struct Paging {
    cursor: Option<String>,
    limit: Option<u32>,
}

/// `{dead: [{entry, id, body, reason, attempts, at}], cursor}`, oldest first.
pub(super) async fn list(
    State(node): State<Arc<Node>>,
    Named(source): Named,
    Query(paging): Query<Paging>,
) -> Result<Json<Value>, Problem> {
    known(&node, &source)?;
    let limit = paging.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let read = node.backend.ingest.dead(&source, paging.cursor.as_deref(), limit);
    let dead = node.backend.at(&Ingest::place(&source)).read(read).await.map_err(Problem::from)?;
    let full = dead.len() == limit as usize;
    let cursor = dead.last().filter(|_| full).map(|last| last.entry.clone());
    let told = |DeadLetter { entry, id, body, reason, attempts, at }: DeadLetter| {
        json!({
            "entry": entry, "id": id, "body": body, "reason": reason, "attempts": attempts, "at": at,
        })
    };
    let dead: Vec<Value> = dead.into_iter().map(told).collect();
    Ok(Json(json!({ "dead": dead, "cursor": cursor })))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    entries: Option<Vec<String>>,
}

/// Puts `{entries}` back, or the oldest where none are named: `{replayed, left}`.
pub(super) async fn replay(
    State(node): State<Arc<Node>>,
    Named(source): Named,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    known(&node, &source)?;
    let which = if body.is_empty() { Ok(Which::default()) } else { serde_json::from_slice(&body) };
    let which: Which =
        which.map_err(|error| Problem::new(ErrorCode::BadFrame, format!("the body: {error}")))?;
    if which.entries.as_ref().is_some_and(|entries| entries.len() > MAX_REPLAY as usize) {
        return Err(Problem::new(ErrorCode::TooLarge, format!("at most {MAX_REPLAY} entries at once")));
    }
    // It moves entries: a second call moves what is left, so a lost answer does no harm.
    let moved = node.backend.ingest.replay(&source, which.entries.as_deref(), MAX_REPLAY);
    let moved = node
        .backend
        .at(&Ingest::place(&source))
        .call(Repeat::Harmless, moved)
        .await
        .map_err(Problem::from)?;
    node.webhooks.notify_one();
    Ok(Json(json!({ "replayed": moved.replayed, "left": moved.left })))
}

fn known(node: &Node, source: &str) -> Result<(), Problem> {
    if node.config.ingest.sources.contains_key(source) {
        return Ok(());
    }
    Err(Problem::new(ErrorCode::NotFound, "no such source; see the setting ingest.sources"))
}
