//! What a moderator does beside deciding: deletes comments, mutes and bans.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use roomcast_counter::{Op, Outcome, Restriction, RestrictionKind, Thing, Whom};
use roomcast_protocol::{ErrorCode, Failure, RoomName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    body::{Body, Named, Query},
    rooms::room_of,
    rules_of,
};
use crate::{
    admin::audit::{self, Act, Deed},
    backend::{At, NODES, Repeat},
    broker::Control,
    http::{
        auth::{By, Caller},
        problem::Problem,
    },
    node::Node,
    restrictions,
    session::tasks,
};

/// Until somebody lifts it, or a month.
const DEFAULT_MS: u64 = 30 * 86_400_000;

#[derive(Deserialize)]
pub(super) struct OnBehalf {
    /// Who deletes; `api` unless told.
    user: Option<String>,
}

/// Deletes a comment, its text in the room's log included. A second time answers the same.
pub(super) async fn delete(
    State(node): State<Arc<Node>>,
    Extension(By(by)): Extension<By>,
    Extension(caller): Extension<Caller>,
    Named((name, comment)): Named<(String, String)>,
    Query(OnBehalf { user }): Query<OnBehalf>,
) -> Result<Json<Value>, Problem> {
    let detail = format!("comment {comment}");
    let (room, rules) = room_of(&node, caller, &name)?;
    let user = user.unwrap_or_else(|| "api".to_owned());
    let op = Op::DeleteComment { comment };
    match tasks::apply(&node, &room, &rules, &user, op, Repeat::Harmless).await.map_err(Problem::from)? {
        Outcome::Deleted { version } => {
            audit::record(&node, Deed::new(&by, Act::DeleteComment).on(room.as_str()).detail(&detail)).await;
            Ok(Json(json!({ "state": "deleted", "version": version })))
        }
        _ => Err(Problem::from(Failure::new(ErrorCode::Internal, "internal error"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    user: Option<String>,
    ip: Option<IpAddr>,
    /// Everywhere unless told.
    room: Option<RoomName>,
    ttl_ms: Option<u64>,
}

/// `{user | ip, room?, ttl_ms?}`: may listen, but neither say nor do anything.
pub(super) async fn mute(
    State(node): State<Arc<Node>>,
    Extension(By(by)): Extension<By>,
    Extension(caller): Extension<Caller>,
    Body(target): Body<Target>,
) -> Result<Json<Value>, Problem> {
    let deed = deed(&by, Act::Mute, &target);
    let done = restrict(&node, caller, RestrictionKind::Mute, target).await?;
    audit::record(&node, deed).await;
    Ok(done)
}

/// Takes a mute back.
pub(super) async fn unmute(
    State(node): State<Arc<Node>>,
    Extension(By(by)): Extension<By>,
    Extension(caller): Extension<Caller>,
    Body(target): Body<Target>,
) -> Result<Json<Value>, Problem> {
    let deed = deed(&by, Act::Unmute, &target);
    let done = lift(&node, caller, RestrictionKind::Mute, target).await?;
    audit::record(&node, deed).await;
    Ok(done)
}

/// `{user | ip, room?, ttl_ms?}`: put out of the room, or everywhere disconnected, and not let in again.
pub(super) async fn ban(
    State(node): State<Arc<Node>>,
    Extension(By(by)): Extension<By>,
    Extension(caller): Extension<Caller>,
    Body(target): Body<Target>,
) -> Result<Json<Value>, Problem> {
    let deed = deed(&by, Act::Ban, &target);
    let done = restrict(&node, caller, RestrictionKind::Ban, target).await?;
    audit::record(&node, deed).await;
    Ok(done)
}

/// Takes a ban back.
pub(super) async fn unban(
    State(node): State<Arc<Node>>,
    Extension(By(by)): Extension<By>,
    Extension(caller): Extension<Caller>,
    Body(target): Body<Target>,
) -> Result<Json<Value>, Problem> {
    let deed = deed(&by, Act::Unban, &target);
    let done = lift(&node, caller, RestrictionKind::Ban, target).await?;
    audit::record(&node, deed).await;
    Ok(done)
}

/// Every mute and ban.
pub(super) async fn restrictions(State(node): State<Arc<Node>>) -> Result<Json<Value>, Problem> {
    let read = node.backend.counter.restrictions();
    let all = at_list(&node).read(read).await.map_err(Problem::from)?;
    Ok(Json(json!({ "restrictions": all.iter().map(shown).collect::<Vec<_>>() })))
}

/// Whom it is done to, and where, for the audit log.
fn deed(by: &str, act: Act, target: &Target) -> Deed {
    let ip = target.ip.map(|ip| ip.to_string());
    let whom = target.user.as_deref().or(ip.as_deref()).unwrap_or_default();
    let place = target.room.as_ref().map_or_else(|| "everywhere".to_owned(), |room| format!("in {room}"));
    Deed::new(by, act).on(whom).detail(&place)
}

async fn restrict(
    node: &Node,
    caller: Caller,
    kind: RestrictionKind,
    target: Target,
) -> Result<Json<Value>, Problem> {
    let lasts = Duration::from_millis(target.ttl_ms.unwrap_or(DEFAULT_MS));
    let (whom, room) = whom(node, caller, target)?;
    let kept = node.backend.counter.restrict(kind, &whom, room.as_deref(), lasts);
    let restriction = at_list(node).call(Repeat::Harmless, kept).await.map_err(Problem::from)?;
    tell(node).await?;
    Ok(Json(shown(&restriction)))
}

async fn lift(
    node: &Node,
    caller: Caller,
    kind: RestrictionKind,
    target: Target,
) -> Result<Json<Value>, Problem> {
    let (whom, room) = whom(node, caller, target)?;
    let lifted = node.backend.counter.lift(kind, &whom, room.as_deref());
    at_list(node).call(Repeat::Harmless, lifted).await.map_err(Problem::from)?;
    tell(node).await?;
    Ok(Json(json!({})))
}

fn whom(node: &Node, caller: Caller, target: Target) -> Result<(Whom, Option<String>), Problem> {
    let whom = match (target.user, target.ip) {
        (Some(user), None) => Whom::User(user),
        (None, Some(ip)) => Whom::Ip(ip.to_canonical()),
        _ => return Err(Problem::new(ErrorCode::BadFrame, "name a user or an ip")),
    };
    if let Some(room) = &target.room {
        rules_of(node, caller, room).map_err(Problem::from)?;
    }
    Ok((whom, target.room.map(|room| room.to_string())))
}

/// The way to the list.
fn at_list(node: &Node) -> At<'_> {
    node.backend.at(&node.backend.counter.place(Thing::Restrictions))
}

/// Tells every node, and holds this one to it before the answer.
async fn tell(node: &Node) -> Result<(), Problem> {
    let told = node.backend.broker.control(&Control::Restrictions);
    node.backend.at(NODES).call(Repeat::Harmless, told).await.map_err(Problem::from)?;
    let read = restrictions::reread_and_enforce(node);
    at_list(node).read(read).await.map_err(Problem::from)
}

fn shown(restriction: &Restriction) -> Value {
    let Restriction { kind, whom, room, until } = restriction;
    let (user, ip) = match whom {
        Whom::User(user) => (Some(user), None),
        Whom::Ip(ip) => (None, Some(ip.to_string())),
    };
    json!({ "kind": kind.as_str(), "user": user, "ip": ip, "room": room, "until": until })
}
