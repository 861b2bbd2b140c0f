//! The internal listener: health, metrics and the HTTP API on the control thread, apart from the public port.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::AppError;

/// Callers of the API at once: they are few and known; beyond, they wait in the kernel.
const MAX_CALLERS: usize = 1_024;
/// After an accept failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens and serves until the node stops, each request by the routes of its moment. Answers where it listens.
pub(super) async fn serve(
    address: SocketAddr,
    routes: watch::Receiver<Router>,
    timeout: Duration,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<SocketAddr, AppError> {
    let failed = |source| AppError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let accept = accept_with(listener, tasks.clone(), stop.clone(), move |stream, _peer| {
        let routes = routes.clone();
        answer(stream, move || routes.borrow().clone(), timeout)
    });
    super::spawn(tasks, stop, accept);
    Ok(bound)
}

/// Accepts without end; so many callers are answered at once, each in a task of its own.
pub(super) async fn accept_with<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    tasks: TaskTracker,
    stop: CancellationToken,
    answer: impl Fn(TcpStream, SocketAddr) -> F,
) {
    let callers = Arc::new(tokio::sync::Semaphore::new(MAX_CALLERS));
    loop {
        let caller = callers.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, peer)) => {
                let answer = answer(stream, peer);
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

/// Speaks HTTP with one caller.
pub(super) async fn answer(
    stream: TcpStream,
    routes: impl Fn() -> Router + Send + 'static,
    timeout: Duration,
) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        TowerToHyperService::new(routes()).call(request.map(Body::new))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a caller went away");
    }
}
