//! HTTP/1.1 on a worker's socket: the strict WebSocket handshake here, everything else through the routes.
//!
//! The connection is taken back from hyper as a plain stream once the upgrade is answered; the handshake's memory
//! is freed before the session begins.

pub mod address;
pub mod api;
pub mod assets;
pub mod auth;
pub mod ops;
pub mod problem;
pub mod waiting;
mod ws;

use std::{
    cell::RefCell, convert::Infallible, future::poll_fn, net::SocketAddr, rc::Rc, sync::Arc, time::Duration,
};

use axum::{Router, body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::OwnedSemaphorePermit, time::timeout};
use tokio_util::sync::CancellationToken;

use self::ws::Accepted;
use crate::{
    conn::Conn,
    metrics::{self, Admission},
    node::Node,
    session,
    worker::Worker,
};

/// A request's head: more than the 16 KiB that the balancers in deploy/ take from a browser, since they add to it.
const MAX_HEAD: usize = 20 * 1024;
/// One request and its answer, over the slowest link that a page can be used on.
const MAX_HTTP: Duration = Duration::from_secs(60);
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Serves one socket: HTTP first, and then, where it was upgraded, the session.
pub async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    routes: Router,
    handshake: Option<OwnedSemaphorePermit>,
    stop: CancellationToken,
) {
    let node = worker.node.clone();
    // A proxy speaks for many, and bounds them itself.
    let place = if address::is_trusted(peer.ip(), &node.config.trusted_proxies) {
        None
    } else {
        let Some(place) = worker.waiting.enter(peer.ip()) else {
            return metrics::admission(Admission::IpLimited);
        };
        Some(place)
    };
    let speak_http = async {
        let (stream, peer) = address::behind_proxy(stream, peer, &node.config).await.ok()?;
        handshake_on(node, stream, peer, routes, stop.clone()).await
    };
    let upgraded = tokio::select! {
        upgraded = timeout(MAX_HTTP, speak_http) => upgraded.ok().flatten(),
        () = stop.cancelled() => None,
    };
    if let Some((stream, first, accepted)) = upgraded {
        drop((handshake, place));
        let Accepted { codec, admission, ip } = accepted;
        let conn = Conn::new(ip, codec, stream, worker.caps.clone());
        // A task of its own: this one's memory, with the handshake in it, is freed.
        worker.tasks.spawn_local(session::serve(worker.clone(), Rc::new(conn), &first, admission));
    }
}

/// Speaks HTTP until the socket ends or is upgraded.
async fn handshake_on(
    node: Arc<Node>,
    stream: TcpStream,
    peer: SocketAddr,
    routes: Router,
    stop: CancellationToken,
) -> Option<(TcpStream, Bytes, Accepted)> {
    let head_timeout = node.terms.limits.handshake_timeout;
    let upgrade: Rc<RefCell<Option<Accepted>>> = Rc::default();
    let served = Rc::new(std::cell::Cell::new(false));
    let service = {
        let (upgrade, served) = (upgrade.clone(), served.clone());
        let routes = TowerToHyperService::new(routes);
        service_fn(move |request: Request<Incoming>| {
            served.set(true);
            let (node, upgrade, routes) = (node.clone(), upgrade.clone(), routes.clone());
            // Boxed, because hyper gives the stream back only of a connection that may be moved.
            Box::pin(
                async move { Ok::<_, Infallible>(answer(&node, peer, request, &upgrade, &routes).await) },
            )
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(MAX_HEAD)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let result = tokio::select! {
        result = poll_fn(|cx| connection.poll_without_shutdown(cx)) => result,
        () = stop.cancelled() => Ok(()),
    };
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    if let Some(accepted) = upgrade.take() {
        // A copy, because even an empty remainder would hold on to hyper's whole read buffer.
        return Some((stream, Bytes::copy_from_slice(&parts.read_buf), accepted));
    }
    // Nobody minds when a kept-alive connection ends; who never finished a request is told.
    if result.is_err_and(|error| error.is_timeout()) && !served.get() {
        metrics::admission(Admission::TimedOut);
        let _gone = stream.write_all(REQUEST_TIMEOUT).await;
    }
    let _gone = stream.shutdown().await;
    None
}

async fn answer(
    node: &Arc<Node>,
    peer: SocketAddr,
    request: Request<Incoming>,
    upgrade: &RefCell<Option<Accepted>>,
    routes: &TowerToHyperService<Router>,
) -> Response {
    if request.uri().path() == "/ws" {
        let (response, accepted) = ws::handshake(node, peer, &request).await;
        if let Some(accepted) = accepted {
            upgrade.replace(Some(accepted));
        }
        return response;
    }
    match routes.call(request.map(Body::new)).await {
        Ok(mut response) => {
            // One request per socket: what is kept alive keeps a place from others.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
        Err(never) => match never {},
    }
}
