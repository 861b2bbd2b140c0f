//! What a node answers before it has reached its broker: that it lives, that it is not ready, and how it is doing. A
//! balancer and a supervisor hear so from the first moment, and a client is told when to come again.

use axum::{
    Json, Router,
    extract::RawQuery,
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, StatusCode, Uri, header};
use roomcast_protocol::ErrorCode;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{AppError, internal};
use crate::{
    config::Config,
    http::{address, ops, problem::Problem},
    metrics,
};

/// When to come again: Redis is reached within a moment, or the next attempt is not far.
const RETRY: &str = "1";

/// Health and metrics; everything else is refused for now.
pub(super) fn routes() -> Router {
    // No worker has started that could hang.
    let alive = async || "ok\n";
    ops::figures().route("/livez", get(alive)).route("/readyz", get(not_ready)).fallback(refuse)
}

/// Nothing but the refusal.
pub(super) fn refusals() -> Router {
    Router::new().fallback(refuse)
}

async fn not_ready(RawQuery(query): RawQuery) -> Response {
    if !ops::is_verbose(query.as_deref()) {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response();
    }
    let checks = json!({
        "ready": false,
        "checks": {
            "phase": { "ok": false, "state": "starting" },
            "broker": { "ok": false, "usable": false },
        },
    });
    (StatusCode::SERVICE_UNAVAILABLE, Json(checks)).into_response()
}

async fn refuse(uri: Uri) -> Response {
    if uri.path() == "/ws" {
        metrics::admission(metrics::Admission::Starting);
    }
    Problem::new(ErrorCode::Unavailable, "this node is starting")
        .header(header::RETRY_AFTER, RETRY.to_owned())
        .into_response()
}

/// What answers on the public listeners while the node starts.
#[derive(Debug)]
pub(super) struct Refusing {
    accepting: TaskTracker,
    stop: DropGuard,
}

impl Refusing {
    /// Nobody who comes after this is told that the node is starting.
    pub(super) async fn end(self) {
        drop(self.stop);
        self.accepting.close();
        self.accepting.wait().await;
    }
}

/// Answers on the public listeners, beside the workers-to-be, until it is ended.
pub(super) fn serve_public(
    listeners: &[std::net::TcpListener],
    config: &Config,
    routes: Router,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Refusing, AppError> {
    let accepting = TaskTracker::new();
    let started = stop.child_token();
    // One request per socket: who keeps it would go on being told that the node is starting.
    let routes = routes.layer(map_response(async |mut response: Response| {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }));
    for listener in listeners {
        let failed = |source| AppError::Listen { address: config.listen, source };
        let listener = listener.try_clone().and_then(TcpListener::from_std).map_err(failed)?;
        let accept = accept(listener, config.clone(), routes.clone(), tasks.clone(), stop.clone());
        super::spawn(&accepting, &started, accept);
    }
    Ok(Refusing { accepting, stop: started.drop_guard() })
}

async fn accept(
    listener: TcpListener,
    config: Config,
    routes: Router,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let timeout = config.limits.handshake_timeout;
    internal::accept_with(listener, tasks, stop, move |stream: TcpStream, peer| {
        let (config, routes) = (config.clone(), routes.clone());
        async move {
            let read = tokio::time::timeout(timeout, address::behind_proxy(stream, peer, &config));
            if let Ok(Ok((stream, _))) = read.await {
                internal::answer(stream, move || routes.clone(), timeout).await;
            }
        }
    })
    .await;
}
