//! What is on offer: items are offered and restocked by back ends only.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use roomcast_counter::{Op, Outcome};
use roomcast_protocol::{ErrorCode, Failure, RoomName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    body::{Body, Named},
    rooms::room_of,
    rules_of,
};
use crate::{
    backend::{Repeat, stock_item},
    http::{auth::Caller, problem::Problem},
    node::Node,
    session::tasks,
};

/// Who changes the stock, as far as the store is told.
const OPERATOR: &str = "api";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Offer {
    room: RoomName,
    item: String,
    /// All that is offered, sold and held ones included.
    stock: u64,
    per_user: u64,
    hold_ms: u64,
}

/// `{room, item, stock, per_user, hold_ms}` → the item as it stands.
pub(super) async fn offer(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Body(offer): Body<Offer>,
) -> Result<Json<Value>, Problem> {
    let Offer { room, item, stock, per_user, hold_ms } = offer;
    let rules = rules_of(&node, caller, &room).map_err(Problem::from)?;
    if !rules.stock {
        return Err(Problem::from(Failure::new(ErrorCode::Forbidden, "this namespace keeps no stock")));
    }
    let op = Op::Stock { item, stock, per_user, hold: Duration::from_millis(hold_ms) };
    match tasks::apply(&node, &room, &rules, OPERATOR, op, Repeat::Harmless).await.map_err(Problem::from)? {
        Outcome::Stock(item) => Ok(Json(stock_item(&item))),
        _ => Err(Problem::from(Failure::new(ErrorCode::Internal, "internal error"))),
    }
}

/// All items of a room, read in one step.
pub(super) async fn read(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Named(name): Named,
) -> Result<Json<Value>, Problem> {
    let (room, _) = room_of(&node, caller, &name)?;
    let read = node.backend.counter.stock(room.as_str());
    let items = node.backend.at(room.as_str()).read(read).await.map_err(Problem::from)?;
    Ok(Json(json!({ "items": items.iter().map(stock_item).collect::<Vec<_>>() })))
}
