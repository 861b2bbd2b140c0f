//! Moving clients to other nodes: a share of them after a scale-out, or all of them before a node goes.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Body, Query};
use crate::{
    admin,
    broker::Control,
    http::{auth::By, problem::Problem},
    moves::{self, Moved, Wanted},
    node::Node,
};

/// Which node is meant: the one that is asked, unless another is named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    node: Option<String>,
}

impl Which {
    fn other(self, own: &Node) -> Option<String> {
        self.node.filter(|name| *name != own.config.node)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    share: Option<f64>,
    count: Option<u64>,
    spread_ms: Option<u64>,
}

/// Tells clients to go to another node, spread over time, and closes each with 4003 at its time. Of another node only
/// that it was told is answered: 202.
pub(super) async fn shed(
    State(node): State<Arc<Node>>,
    Extension(By(by)): Extension<By>,
    Query(which): Query<Which>,
    Body(Part { share, count, spread_ms }): Body<Part>,
) -> Result<Response, Problem> {
    let wanted = Wanted { share, count, spread_ms };
    if let Some(name) = which.other(&node) {
        wanted.check()?;
        let by = by.to_string();
        let control = Control::Shed { node: name.clone(), share, count, spread_ms, by };
        admin::order(&node, &name, control).await?;
        return Ok((StatusCode::ACCEPTED, Json(json!({ "node": name }))).into_response());
    }
    let Moved { shed, connections, spread } = moves::shed(&node, wanted, &by).await?;
    let spread_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
    let answer = json!({ "shed": shed, "connections": connections, "spread_ms": spread_ms });
    Ok(Json(answer).into_response())
}

/// Drains a node as SIGTERM does, but leaves the process: not ready and refusing until it is ended. 202 at once.
pub(super) async fn drain(
    State(node): State<Arc<Node>>,
    Extension(By(by)): Extension<By>,
    Query(which): Query<Which>,
) -> Result<Response, Problem> {
    let answer: Value = if let Some(name) = which.other(&node) {
        let control = Control::Drain { node: name.clone(), by: by.to_string() };
        admin::order(&node, &name, control).await?;
        json!({ "draining": true, "node": name })
    } else {
        json!({ "draining": true, "connections": moves::drain(&node, &by).await })
    };
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}
