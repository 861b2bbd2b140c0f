//! The HTTP API for back ends: what a socket can do, on behalf of any user, and what only an operator may.

mod batch;
pub(crate) mod body;
mod changes;
mod claims;
mod moderation;
mod moves;
mod rooms;
mod stock;
mod tickets;

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, State},
    middleware::from_fn_with_state,
    routing::{delete, get, post},
};
use http::{HeaderMap, StatusCode};
use roomcast_core::permission::{Audience, Role, Rules};
use roomcast_counter::reservation_room;
use roomcast_protocol::{
    Confirm, Decoder, Epoch, ErrorCode, Failure, Offset, Ok as Answer, Op, OpKind, Publish, Release, RoomName,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::body::{Body, Named, Query, Text};
use super::{
    auth::{self, By, Caller},
    problem::Problem,
};
use crate::{
    admin,
    broker::Publication,
    node::{Node, unix_ms},
    restrictions::Speaks,
    session::tasks,
};

/// A batch of events of a few kilobytes each.
const MAX_BODY: usize = 8 * 1024 * 1024;
const MAX_KEY: usize = 128;

/// Everything below `/api/v1`, each route behind the bearer.
pub fn routes(node: Arc<Node>) -> Router {
    Router::new()
        .route("/api/v1/publish", post(publish))
        .route("/api/v1/batch", post(batch::publish))
        .route("/api/v1/tickets", post(tickets::mint))
        .route("/api/v1/disconnect", post(disconnect))
        .route("/api/v1/shed", post(moves::shed))
        .route("/api/v1/drain", post(moves::drain))
        .route("/api/v1/stock", post(stock::offer))
        .route("/api/v1/claim", post(claims::claim))
        .route("/api/v1/unclaim", post(claims::unclaim))
        .route("/api/v1/lock", post(claims::lock))
        .route("/api/v1/renew", post(claims::renew))
        .route("/api/v1/unlock", post(claims::unlock))
        .route("/api/v1/mute", post(moderation::mute))
        .route("/api/v1/unmute", post(moderation::unmute))
        .route("/api/v1/ban", post(moderation::ban))
        .route("/api/v1/unban", post(moderation::unban))
        .route("/api/v1/restrictions", get(moderation::restrictions))
        .route("/api/v1/stats", get(stats))
        .route("/api/v1/audit", get(audit))
        .route("/api/v1/changes", get(changes::read))
        .route("/api/v1/counters/restore", post(changes::restore))
        .route("/api/v1/rooms/{room}", get(rooms::snapshot).delete(rooms::end))
        .route("/api/v1/rooms/{room}/history", get(rooms::history))
        .route("/api/v1/rooms/{room}/presence", get(rooms::presence))
        .route("/api/v1/rooms/{room}/counters", get(rooms::counters))
        .route("/api/v1/rooms/{room}/comments", get(rooms::comments))
        .route("/api/v1/rooms/{room}/comments/{comment}", delete(moderation::delete))
        .route("/api/v1/rooms/{room}/stock", get(stock::read))
        .route("/api/v1/{op}", post(operation))
        .fallback(|| async { Problem::new(ErrorCode::NotFound, "no such address in this API") })
        .method_not_allowed_fallback(|| async {
            Problem::new(ErrorCode::BadFrame, "this address takes another method")
                .status(StatusCode::METHOD_NOT_ALLOWED)
        })
        .route_layer(from_fn_with_state(node.clone(), auth::guard))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(node)
}

fn answer(result: Result<Answer, Failure>) -> Result<Json<Answer>, Problem> {
    result.map(Json).map_err(Problem::from)
}

/// The rules of the room's namespace. The API reaches every room that is configured, but the admins' own ones only on
/// behalf of an admin, or of who holds the API key and could make one.
fn rules_of(node: &Node, caller: Caller, room: &RoomName) -> Result<Rules, Failure> {
    let unknown = || {
        Failure::new(ErrorCode::BadRoom, "the room's namespace is not configured, or it takes no such name")
    };
    let rules = node.terms.namespaces.rules(room).copied().ok_or_else(unknown)?;
    if rules.audience == Audience::AdminsOnly && caller == Caller::Token(Role::Service) {
        return Err(Failure::new(ErrorCode::Forbidden, "this room is for admins only"));
    }
    Ok(rules)
}

async fn publish(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Text(text): Text,
) -> Result<Json<Told>, Problem> {
    let header = idempotency_key(&headers)?;
    let mut publish = read_publish(&text).map_err(Problem::from)?;
    if header.is_some() && publish.key.is_some() && header != publish.key {
        return Err(Problem::new(ErrorCode::BadFrame, "key and Idempotency-Key differ"));
    }
    publish.key = publish.key.or(header);
    publish_one(&node, caller, publish).await.map(Json).map_err(Problem::from)
}

fn read_publish(text: &str) -> Result<Publish, Failure> {
    match Decoder::body(OpKind::Publish, text) {
        Ok(Op::Publish(publish)) => Ok(publish),
        Ok(_) => Err(Failure::new(ErrorCode::BadFrame, "not a publish")),
        Err(error) => Err(Failure::new(error.code, error.message)),
    }
}

async fn publish_one(node: &Node, caller: Caller, publish: Publish) -> Result<Told, Failure> {
    let (rules, publication) = publication(node, caller, publish)?;
    tasks::publish(node, &rules, publication).await.and_then(told)
}

fn publication(node: &Node, caller: Caller, publish: Publish) -> Result<(Rules, Publication), Failure> {
    let rules = rules_of(node, caller, &publish.room)?;
    let Publish { room, event, data, key } = publish;
    Ok((rules, Publication { room, event, data, from: None, key, history: rules.history }))
}

/// What became of a publish. Over HTTP `duplicate` is always told.
#[derive(Serialize)]
#[serde(untagged)]
enum Told {
    Published { epoch: Epoch, offset: Offset, duplicate: bool },
    Refused { error: Failure },
}

fn told(answer: Answer) -> Result<Told, Failure> {
    match answer {
        Answer::Published { epoch, offset, duplicate } => Ok(Told::Published { epoch, offset, duplicate }),
        _ => Err(Failure::new(ErrorCode::Internal, "internal error")),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let good = |key: &&str| (1..=MAX_KEY).contains(&key.len()) && !key.chars().any(char::is_control);
    match value.to_str().ok().filter(good) {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(Problem::new(ErrorCode::BadFrame, "Idempotency-Key must be 1 to 128 visible characters")),
    }
}

/// The operation in the address, its own fields in the body, and `user`: on whose behalf.
async fn operation(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Named(name): Named,
    Text(text): Text,
) -> Result<Json<Answer>, Problem> {
    #[derive(Deserialize)]
    struct OnBehalf {
        user: String,
    }
    let unknown = || Problem::new(ErrorCode::NotFound, "no such operation in this API");
    let kind = OpKind::from_name(&name).filter(|kind| is_counter(*kind)).ok_or_else(unknown)?;
    let OnBehalf { user } = body::read(&text)?;
    let op =
        Decoder::body(kind, &text).map_err(|error| Problem::from(Failure::new(error.code, error.message)))?;
    let room = match &op {
        Op::Confirm(Confirm { reservation }) | Op::Release(Release { reservation }) => {
            let room = reservation_room(reservation).and_then(|room| RoomName::parse(room).ok());
            room.ok_or_else(|| Problem::from(Failure::new(ErrorCode::NotFound, "no such reservation")))?
        }
        op => op.room().cloned().ok_or_else(unknown)?,
    };
    let rules = rules_of(&node, caller, &room).map_err(Problem::from)?;
    if matches!(kind, OpKind::Reserve) && !rules.stock {
        return Err(Problem::from(Failure::new(ErrorCode::Forbidden, "this namespace keeps no stock")));
    }
    let quiet = matches!(kind, OpKind::Confirm | OpKind::Release | OpKind::Get | OpKind::Moderate);
    let speaks = if quiet { Speaks::No } else { Speaks::Yes };
    node.restrictions.admit(&user, None, Some(room.as_str()), speaks, unix_ms()).map_err(Problem::from)?;
    answer(tasks::counter(&node, &room, &rules, &user, op).await)
}

/// The operations of a room's counters; the names of all others have routes of their own, or none.
fn is_counter(kind: OpKind) -> bool {
    match kind {
        OpKind::Like
        | OpKind::Count
        | OpKind::Comment
        | OpKind::Moderate
        | OpKind::Upload
        | OpKind::Reserve
        | OpKind::Confirm
        | OpKind::Release
        | OpKind::Put
        | OpKind::Get => true,
        OpKind::Connect
        | OpKind::Refresh
        | OpKind::Join
        | OpKind::Leave
        | OpKind::Publish
        | OpKind::Signal
        | OpKind::History
        | OpKind::Presence
        | OpKind::Ping
        | OpKind::Claim
        | OpKind::Stats
        | OpKind::Queue
        | OpKind::Audit
        | OpKind::Drain
        | OpKind::Shed
        | OpKind::Disconnect => false,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whom {
    user: Option<String>,
    session: Option<String>,
    ip: Option<IpAddr>,
}

/// Every node closes what matches with 4503; the answer comes when all have been told.
async fn disconnect(
    State(node): State<Arc<Node>>,
    Extension(By(by)): Extension<By>,
    Body(Whom { user, session, ip }): Body<Whom>,
) -> Result<Json<Value>, Problem> {
    admin::disconnect(&node, &by, user, session, ip).await?;
    Ok(Json(json!({})))
}

/// Every live node's own report, read in one step, and their sums.
async fn stats(State(node): State<Arc<Node>>) -> Result<Json<Value>, Problem> {
    let mut picture = admin::cluster_picture(&node).await?;
    // By id for who is told what changed; here in their order.
    if let Some(Value::Object(nodes)) = picture.remove("nodes") {
        let listed = nodes.into_iter().map(|(_, mut node)| {
            if let Some(node) = node.as_object_mut() {
                node.entry("connections_cap").or_insert(Value::Null);
            }
            node
        });
        picture.insert("nodes".to_owned(), listed.collect());
    }
    Ok(Json(Value::Object(picture)))
}

#[derive(Deserialize)]
struct Entries {
    before: Option<u64>,
    limit: Option<u32>,
}

/// Who did what: the newest entries, or those before a number.
async fn audit(
    State(node): State<Arc<Node>>,
    Query(Entries { before, limit }): Query<Entries>,
) -> Result<Json<Answer>, Problem> {
    answer(admin::audit::read(&node, before, limit).await)
}
