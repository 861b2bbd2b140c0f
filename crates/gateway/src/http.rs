//! HTTP/1.1 on a worker's socket: the strict WebSocket handshake here, everything else through the routes.
//!
//! A request for a WebSocket is nearly always read, judged and answered without hyper; hyper has all the rest, and gives
//! the stream back should it be an upgrade all the same. Either way the handshake's memory is freed before the session
//! begins.

pub mod address;
pub mod api;
pub mod assets;
pub mod auth;
pub mod ops;
pub mod problem;
mod rewound;
mod upgrade;
pub mod waiting;
mod ws;

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
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
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};

use self::{rewound::Rewound, ws::Accepted};
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

/// A stream that is a WebSocket's from here on, and what came behind its request.
type Upgraded = (TcpStream, Bytes, Accepted);

/// Serves one socket: HTTP first, and then, where it was upgraded, the session.
pub async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    handshake: Option<OwnedSemaphorePermit>,
) {
    // A proxy speaks for many, and bounds them itself.
    let place = if address::is_trusted(peer.ip(), &worker.node.config.trusted_proxies) {
        None
    } else {
        let Some(place) = worker.waiting.enter(peer.ip()) else {
            return metrics::admission(Admission::IpLimited);
        };
        Some(place)
    };
    let upgraded = tokio::select! {
        // In this order, because nearly all are done before the other has to be asked.
        biased;
        upgraded = timeout(MAX_HTTP, speak_http(&worker, stream, peer)) => upgraded.ok().flatten(),
        () = worker.stop.cancelled() => None,
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
async fn speak_http(worker: &Worker, stream: TcpStream, peer: SocketAddr) -> Option<Upgraded> {
    let node = &worker.node;
    let (mut stream, peer) = address::behind_proxy(stream, peer, &node.config).await.ok()?;
    let patience = node.terms.limits.handshake_timeout;
    let begun = Instant::now();
    let Ok(first) = timeout(patience, upgrade::first_bytes(&mut stream)).await else {
        return time_out(stream).await;
    };
    let first = first.ok().filter(|first| !first.is_empty())?;
    let mut refused = None;
    if let Some((request, end)) = upgrade::request(&first) {
        match ws::handshake(node, peer, &request).await {
            (response, Some(accepted)) => {
                upgrade::write_head(&mut stream, &response).await.ok()?;
                return Some((stream, first.slice(end..), accepted));
            }
            (response, None) => refused = Some(response),
        }
    }
    // What is left of it for the rest of the request; all of it for another one, behind one that was refused.
    let left = if refused.is_some() { patience } else { patience.saturating_sub(begun.elapsed()) };
    // Boxed: few need it.
    Box::pin(by_hyper(worker, Rewound { first, stream }, peer, left, refused)).await
}

/// Has hyper speak HTTP. Where the first request was judged already, this is its answer.
async fn by_hyper(
    worker: &Worker,
    stream: Rewound,
    peer: SocketAddr,
    head_timeout: Duration,
    judged: Option<Response>,
) -> Option<Upgraded> {
    let upgrade: Rc<RefCell<Option<Accepted>>> = Rc::default();
    let judged = Cell::new(judged);
    let served = Rc::new(Cell::new(false));
    let service = {
        let (node, upgrade, served) = (worker.node.clone(), upgrade.clone(), served.clone());
        let routes = TowerToHyperService::new(worker.routes.clone());
        service_fn(move |request: Request<Incoming>| {
            served.set(true);
            let (node, upgrade, routes) = (node.clone(), upgrade.clone(), routes.clone());
            let judged = judged.take();
            // Boxed, because hyper gives the stream back only of a connection that may be moved.
            Box::pin(async move {
                let response = match judged {
                    Some(response) => response,
                    None => answer(&node, peer, request, &upgrade, &routes).await,
                };
                Ok::<_, Infallible>(response)
            })
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
        () = worker.stop.cancelled() => Ok(()),
    };
    let parts = connection.into_parts();
    let Rewound { first, mut stream } = parts.io.into_inner();
    if let Some(accepted) = upgrade.take() {
        // A copy, because even an empty remainder would hold on to hyper's whole read buffer.
        return Some((stream, [parts.read_buf, first].concat().into(), accepted));
    }
    // Nobody minds when a kept-alive connection ends; who never finished a request is told.
    if result.is_err_and(|error| error.is_timeout()) && !served.get() {
        return time_out(stream).await;
    }
    let _gone = stream.shutdown().await;
    None
}

/// Tells a client that did not get on with its request that nobody waits for it any more.
async fn time_out(mut stream: TcpStream) -> Option<Upgraded> {
    metrics::admission(Admission::TimedOut);
    let _gone = stream.write_all(REQUEST_TIMEOUT).await;
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
