//! Names and locks: what has one owner, whoever asks and however often.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use roomcast_counter::{Lock, Thing, Wish};
use roomcast_protocol::{ErrorCode, Failure, Ok as Answer};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{answer, body::Body};
use crate::{backend::Repeat, http::problem::Problem, node::Node, session::tasks};

#[derive(Deserialize)]
pub(super) struct Claim {
    scope: String,
    user: String,
    /// This name …
    name: Option<String>,
    /// … or one made of these.
    generate: Option<Generate>,
    /// Makes a retry of a generated claim harmless.
    key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Generate {
    length: usize,
    alphabet: String,
}

/// `{scope, user, name}`, or `{scope, user, generate: {length, alphabet}, key?}` → `{scope, name}`.
pub(super) async fn claim(
    State(node): State<Arc<Node>>,
    Body(claim): Body<Claim>,
) -> Result<Json<Answer>, Problem> {
    let Claim { scope, user, name, generate, key } = claim;
    let wish = match (name.filter(|name| !name.is_empty()), generate) {
        (Some(name), None) => Wish::Name(name),
        (None, Some(Generate { length, alphabet })) => Wish::Generate { length, alphabet, key },
        _ => return Err(Problem::new(ErrorCode::BadFrame, "name a name, or what to generate one from")),
    };
    answer(tasks::claim(&node, scope, &user, &wish).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unclaim {
    scope: String,
    user: String,
    name: String,
}

/// Gives a name back: 404 if it was not this user's.
pub(super) async fn unclaim(
    State(node): State<Arc<Node>>,
    Body(Unclaim { scope, user, name }): Body<Unclaim>,
) -> Result<Json<Value>, Problem> {
    let place = node.backend.counter.place(Thing::Claims);
    let given = node.backend.counter.unclaim(&scope, &user, &name);
    if node.backend.at(&place).call(Repeat::Harmless, given).await.map_err(Problem::from)? {
        Ok(Json(json!({})))
    } else {
        Err(Problem::from(Failure::new(ErrorCode::NotFound, "this user has no such name")))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Acquire {
    name: String,
    owner: String,
    ttl_ms: u64,
}

/// `{name, owner, ttl_ms}` → `{fence, expires_at}`; 409 with `retry_ms` while another has it.
pub(super) async fn lock(
    State(node): State<Arc<Node>>,
    Body(Acquire { name, owner, ttl_ms }): Body<Acquire>,
) -> Result<Json<Value>, Problem> {
    let place = node.backend.counter.place(Thing::Lock(&name));
    let taken = node.backend.counter.lock(&name, &owner, Duration::from_millis(ttl_ms));
    held(node.backend.at(&place).call(Repeat::Harmless, taken).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Renew {
    name: String,
    owner: String,
    fence: u64,
    ttl_ms: u64,
}

/// `{name, owner, fence, ttl_ms}` → `{fence, expires_at}`; 409 where the lease is over.
pub(super) async fn renew(
    State(node): State<Arc<Node>>,
    Body(Renew { name, owner, fence, ttl_ms }): Body<Renew>,
) -> Result<Json<Value>, Problem> {
    let place = node.backend.counter.place(Thing::Lock(&name));
    let renewed = node.backend.counter.renew_lock(&name, &owner, fence, Duration::from_millis(ttl_ms));
    held(node.backend.at(&place).call(Repeat::Harmless, renewed).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unlock {
    name: String,
    owner: String,
    fence: u64,
}

/// `{name, owner, fence}`; 409 where the lease was over already.
pub(super) async fn unlock(
    State(node): State<Arc<Node>>,
    Body(Unlock { name, owner, fence }): Body<Unlock>,
) -> Result<Json<Value>, Problem> {
    let place = node.backend.counter.place(Thing::Lock(&name));
    let given = node.backend.counter.unlock(&name, &owner, fence);
    node.backend.at(&place).call(Repeat::Harmless, given).await.map_err(Problem::from)?;
    Ok(Json(json!({})))
}

fn held(lock: Result<Lock, Failure>) -> Result<Json<Value>, Problem> {
    let Lock { fence, expires_at } = lock.map_err(Problem::from)?;
    Ok(Json(json!({ "fence": fence, "expires_at": expires_at })))
}
