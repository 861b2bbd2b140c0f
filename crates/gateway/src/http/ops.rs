//! What operators and their tools ask: is it alive, is it ready, how is it doing.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use serde_json::json;

use crate::{
    drain::Phase,
    metrics,
    node::{Node, now},
    pulse::Hanging,
};

/// `/livez`, `/readyz` and `/metrics`.
pub fn routes(node: Arc<Node>) -> Router {
    let health = Router::new().route("/livez", get(alive)).route("/readyz", get(ready)).with_state(node);
    health.merge(figures())
}

/// `/metrics`, which needs no node.
pub fn figures() -> Router {
    Router::new().route(
        "/metrics",
        get(|| async { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render()) }),
    )
}

/// Whether `/readyz` is to name each check.
pub fn is_verbose(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")))
}

async fn alive(State(node): State<Arc<Node>>) -> Response {
    liveness(node.pulse.hanging(now().instant))
}

/// That this is answered at all shows that the control thread turns.
fn liveness(hanging: Option<Hanging>) -> Response {
    match hanging {
        None => "ok\n".into_response(),
        Some(Hanging { worker, since }) => {
            let told = format!("worker {worker} has not turned for {} s\n", since.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, told).into_response()
        }
    }
}

async fn ready(State(node): State<Arc<Node>>, RawQuery(query): RawQuery) -> Response {
    let phase = node.drain.phase();
    let serving = phase == Phase::Serving;
    let broker = node.broker_ready();
    let status = if serving && broker { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if !is_verbose(query.as_deref()) {
        return (status, if status == StatusCode::OK { "ready\n" } else { "not ready\n" }).into_response();
    }
    let health = node.backend.broker.health();
    let phase = match phase {
        Phase::Serving => "serving",
        Phase::Leaving => "leaving",
        Phase::Draining => "draining",
    };
    let checks = json!({
        "ready": status == StatusCode::OK,
        "checks": {
            "phase": { "ok": serving, "state": phase },
            "broker": {
                "ok": broker,
                "usable": health.usable,
                "for_ms": u64::try_from(health.since.elapsed().as_millis()).unwrap_or(u64::MAX),
                "reconnects": health.reconnects,
                "lag_ms": health.last_lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
            },
        },
    });
    (status, Json(checks)).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_worker_that_hangs_is_a_reason_to_restart() {
        assert_eq!(liveness(None).status(), StatusCode::OK);
        let hanging = Hanging { worker: 1, since: Duration::from_secs(11) };
        assert_eq!(liveness(Some(hanging)).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
