//! Single-use tickets: a browser opens its socket with one, and no token needs to stand in a URL.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use roomcast_core::permission::Role;
use roomcast_counter::{Thing, new_ticket};
use roomcast_protocol::ErrorCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::Body;
use crate::{
    backend::{Fault, Repeat},
    http::{auth::Caller, problem::Problem},
    node::{Node, unix_ms},
    session::tasks::Grant,
};

const DEFAULT_TTL_MS: u64 = 30_000;
const MAX_TTL_MS: u64 = 3_600_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    sub: String,
    role: Role,
    rooms: Option<Vec<String>>,
    /// How long the ticket may wait to be used.
    ttl_ms: Option<u64>,
    /// How long a connection that used it may last; for ever unless told.
    session_ms: Option<u64>,
}

/// `{sub, role, rooms?, ttl_ms?, session_ms?}` → `{ticket, expires_at}`.
pub(super) async fn mint(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Body(order): Body<Order>,
) -> Result<Json<Value>, Problem> {
    if !caller.may_grant(order.role) {
        return Err(Problem::new(ErrorCode::Forbidden, "a token may not hand out this role"));
    }
    let bad = |detail| Problem::new(ErrorCode::BadFrame, detail);
    if order.sub.is_empty() || order.sub.chars().count() > 128 || order.sub.chars().any(char::is_control) {
        return Err(bad("sub must be 1 to 128 characters, none of them a control character"));
    }
    let ttl_ms = order.ttl_ms.unwrap_or(DEFAULT_TTL_MS);
    if !(1..=MAX_TTL_MS).contains(&ttl_ms) {
        return Err(bad("ttl_ms must be 1 to 3,600,000"));
    }
    if order.rooms.as_ref().is_some_and(|rooms| rooms.len() > 64 || rooms.iter().any(|room| room.len() > 160))
    {
        return Err(bad("rooms are at most 64 patterns of at most 160 characters"));
    }
    let now = unix_ms();
    let expires_at = order.session_ms.map(|ms| now.saturating_add(ms));
    let grant = Grant { sub: order.sub, role: order.role, rooms: order.rooms, expires_at };
    let grant =
        serde_json::to_string(&grant).map_err(|_| Problem::new(ErrorCode::Internal, "internal error"))?;
    let counter = &node.backend.counter;
    let ticket = new_ticket().map_err(|error| Problem::from(error.into_failure(Repeat::Harmless)))?;
    let kept = counter.keep_ticket(&ticket, &grant, Duration::from_millis(ttl_ms));
    let at = node.backend.at(&counter.place(Thing::Ticket(&ticket)));
    at.call(Repeat::Harmless, kept).await.map_err(Problem::from)?;
    Ok(Json(json!({ "ticket": ticket, "expires_at": now + ttl_ms })))
}
