//! The WebSocket handshake (RFC 6455 §4.2), checked strictly, and admission: origin, address, subprotocol, drain.
//!
//! Nothing of the query string is read: a token there would stand in every log on the way.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, Method, Request, StatusCode, Version, header};
use roomcast_core::permits::{CONNECTIONS_RETRY, PermitRefusal};
use roomcast_protocol::{Codec, ErrorCode, Failure, SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    address,
    problem::{Problem, retry_seconds},
};
use crate::{
    admission::{self, Admission},
    drain::Phase,
    metrics,
    node::{Node, now},
    random::jitter,
    rarely::Rarely,
};

/// What a balancer says that would rather ask another node than this one while it is not ready.
const ONLY_IF_READY: &str = "roomcast-only-if-ready";

/// How often the log tells of an origin that was refused, and how much of it.
const ORIGINS_TOLD: Duration = Duration::from_secs(10);
const ORIGIN_SHOWN: usize = 200;

/// How a refusal is counted, and how it is told.
type Refusal = (metrics::Admission, Problem);

/// A connection that may begin.
pub(super) struct Accepted {
    pub(super) codec: Codec,
    pub(super) admission: Admission,
    pub(super) ip: IpAddr,
}

/// Answers a request for `/ws`; with the response 101 comes the admission.
pub(super) async fn handshake<B>(
    node: &Node,
    peer: SocketAddr,
    request: &Request<B>,
) -> (Response, Option<Accepted>) {
    match admit(node, peer, request).await {
        Ok((accept, offered, accepted)) => {
            metrics::admission(metrics::Admission::Accepted);
            let mut response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::UPGRADE, "websocket")
                .header(header::CONNECTION, "Upgrade")
                .header(header::SEC_WEBSOCKET_ACCEPT, accept);
            if offered {
                response = response.header(header::SEC_WEBSOCKET_PROTOCOL, accepted.codec.subprotocol());
            }
            match response.body(Body::empty()) {
                Ok(response) => (response, Some(accepted)),
                Err(_) => {
                    (Problem::new(ErrorCode::Internal, "the handshake could not be answered").into(), None)
                }
            }
        }
        Err((outcome, problem)) => {
            metrics::admission(outcome);
            (problem.into(), None)
        }
    }
}

async fn admit<B>(
    node: &Node,
    peer: SocketAddr,
    request: &Request<B>,
) -> Result<(String, bool, Accepted), Refusal> {
    let refused = |problem| (metrics::Admission::Refused, problem);
    let key = check_handshake(request).map_err(refused)?;
    let headers = request.headers();
    check_origin(node, headers).map_err(refused)?;
    let (codec, offered) = subprotocol(headers).map_err(refused)?;
    refuse_when_draining(node)?;
    refuse_when_unready(node, headers)?;
    let ip = address::client(peer.ip(), headers, &node.config.trusted_proxies);
    let permit = node.permits.acquire(ip, now().instant).map_err(too_many)?;
    wait_for_turn(node).await?;
    let retry_after = CONNECTIONS_RETRY;
    let full = |_| too_many(PermitRefusal::IpConnections { retry_after });
    let admission = admission::of_address(node, permit).await.map_err(full)?;
    Ok((derive_accept_key(key.as_bytes()), offered, Accepted { codec, admission, ip }))
}

fn refuse_when_draining(node: &Node) -> Result<(), Refusal> {
    if node.drain.phase() < Phase::Draining {
        return Ok(());
    }
    let problem = Problem::new(ErrorCode::Unavailable, "this node is going: connect to another")
        .header(header::RETRY_AFTER, "1".to_owned());
    Err((metrics::Admission::Draining, problem))
}

/// For balancers that can't ask for `/readyz`: their word makes the node answer 503 as `/readyz` would, and they ask
/// another one. Without it a node that has lost Redis still takes who comes, who may have nowhere else to go.
fn refuse_when_unready(node: &Node, headers: &HeaderMap) -> Result<(), Refusal> {
    if !headers.contains_key(ONLY_IF_READY) || node.ready() {
        return Ok(());
    }
    let problem = Problem::new(ErrorCode::Unavailable, "this node is not ready: connect to another")
        .header(header::RETRY_AFTER, "1".to_owned());
    Err((metrics::Admission::NotReady, problem))
}

/// A storm is taken at the pace that those who are connected already do not feel.
async fn wait_for_turn(node: &Node) -> Result<(), Refusal> {
    let turn = node.pace.lock().unwrap_or_else(PoisonError::into_inner).admit(now().instant);
    match turn {
        Ok(Duration::ZERO) => Ok(()),
        Ok(wait) => {
            sleep(wait).await;
            refuse_when_draining(node)
        }
        Err(retry) => {
            let retry_ms = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
            let message = "too many clients are connecting to this node at once";
            Err((metrics::Admission::Paced, Failure::retry(ErrorCode::Unavailable, message, retry_ms).into()))
        }
    }
}

/// Tungstenite would answer 101 to nearly anything; this does not. Returns the key.
fn check_handshake<B>(request: &Request<B>) -> Result<&str, Problem> {
    let bad = |detail| Problem::new(ErrorCode::BadFrame, detail);
    let upgrade_required = |detail| {
        bad(detail)
            .status(StatusCode::UPGRADE_REQUIRED)
            .header(header::UPGRADE, "websocket".to_owned())
            .header(header::SEC_WEBSOCKET_VERSION, "13".to_owned())
    };
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(bad("a WebSocket begins with GET")
            .status(StatusCode::METHOD_NOT_ALLOWED)
            .header(header::ALLOW, "GET".to_owned()));
    }
    if request.version() != Version::HTTP_11 {
        return Err(bad("a WebSocket begins with HTTP/1.1"));
    }
    if headers.get_all(header::HOST).iter().count() != 1 {
        return Err(bad("exactly one Host is needed"));
    }
    if !has_token(headers, &header::UPGRADE, "websocket")
        || !has_token(headers, &header::CONNECTION, "upgrade")
    {
        return Err(upgrade_required("this address speaks WebSocket only"));
    }
    if single(headers, &header::SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(upgrade_required("Sec-WebSocket-Version must be 13"));
    }
    single(headers, &header::SEC_WEBSOCKET_KEY)
        .filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16))
        .ok_or_else(|| bad("exactly one Sec-WebSocket-Key of 16 bytes in base64 is needed"))
}

fn check_origin(node: &Node, headers: &HeaderMap) -> Result<(), Problem> {
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let host = single(headers, &header::HOST);
    let origin = single(headers, &header::ORIGIN);
    if origin.is_some_and(|origin| node.config.origins.allow(origin, host)) {
        return Ok(());
    }
    tell_of_origin(origin, now().instant);
    Err(Problem::new(ErrorCode::Forbidden, "this origin may not connect; see the setting `origins`"))
}

/// Browsers show nobody why a handshake was refused, so that a missing origin would look like a lost network. Rarely,
/// because anybody can send anything.
fn tell_of_origin(origin: Option<&str>, now: Instant) {
    static TOLD: Mutex<Rarely> = Mutex::new(Rarely::once_in(ORIGINS_TOLD));
    // Not held while it is said: a log that is slow to take it holds up nobody else.
    let is_due = TOLD.lock().unwrap_or_else(PoisonError::into_inner).is_due(now);
    if is_due {
        let origin: String = origin.unwrap_or("malformed").chars().take(ORIGIN_SHOWN).collect();
        tracing::warn!(?origin, "an origin that is not in the setting `origins` was refused a WebSocket");
    }
}

/// The first subprotocol offered that we speak; JSON when none is offered.
fn subprotocol(headers: &HeaderMap) -> Result<(Codec, bool), Problem> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut offered = offers
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim);
    if offers.iter().next().is_none() {
        return Ok((Codec::json(), false));
    }
    offered.find_map(Codec::for_subprotocol).map(|codec| (codec, true)).ok_or_else(|| {
        let detail = format!(
            "none of these subprotocols is spoken here; offer {SUBPROTOCOL_JSON} or {SUBPROTOCOL_MSGPACK}"
        );
        Problem::new(ErrorCode::BadFrame, detail)
    })
}

fn too_many(refusal: PermitRefusal) -> Refusal {
    let (outcome, code, status) = match refusal {
        PermitRefusal::IpConnections { .. } | PermitRefusal::IpRate { .. } => {
            (metrics::Admission::IpLimited, ErrorCode::RateLimited, StatusCode::TOO_MANY_REQUESTS)
        }
        PermitRefusal::NodeFull { .. } => {
            (metrics::Admission::NodeFull, ErrorCode::Unavailable, StatusCode::SERVICE_UNAVAILABLE)
        }
    };
    let problem = Problem::new(code, refusal.to_string())
        .status(status)
        // With jitter, so that what was refused together does not come back together.
        .header(header::RETRY_AFTER, retry_seconds(jitter(refusal.retry_after())));
    (outcome, problem)
}

/// The value of a header that must stand exactly once.
fn single<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}
