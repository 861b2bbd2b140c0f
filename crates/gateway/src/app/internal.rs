//! The internal listener: health, metrics and the HTTP API on the control thread, apart from the public port.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::AppError;
use crate::node::Node;

/// Callers of the API at once: they are few and known; beyond, they wait in the kernel.
const MAX_CALLERS: usize = 1_024;
/// After an accept failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens and serves until the node stops. Answers where it listens.
pub(super) async fn serve(
    node: &Arc<Node>,
    routes: Router,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<SocketAddr, AppError> {
    let address = node.config.internal;
    let failed = |source| AppError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let accept = accept(listener, routes, node.config.limits.handshake_timeout, tasks.clone(), stop.clone());
    super::spawn(tasks, stop, accept);
    Ok(bound)
}

async fn accept(
    listener: TcpListener,
    routes: Router,
    timeout: Duration,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let callers = Arc::new(tokio::sync::Semaphore::new(MAX_CALLERS));
    loop {
        let caller = callers.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer(stream, routes.clone(), timeout);
                super::spawn(&tasks, &stop, async move {
                    answer.await;
                    drop(caller);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting on the internal listener failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, routes: Router, timeout: Duration) {
    let routes = TowerToHyperService::new(routes);
    let service =
        hyper::service::service_fn(move |request: Request<Incoming>| routes.call(request.map(Body::new)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a caller of the internal listener went away");
    }
}
