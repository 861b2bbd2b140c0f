//! The door: who may send, what a webhook must be, and an answer as soon as it is durable. Waits for no worker.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest as _, Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use roomcast_counter::{Ingest, Intake};
use roomcast_protocol::{ErrorCode, Failure};
use serde::Deserialize;
use serde_json::json;

use super::{destination, signature};
use crate::{
    backend::Repeat,
    config::{DEFAULT_SIGNATURE_HEADER, Source},
    http::{
        api::body::Named,
        auth,
        problem::{Problem, retry_seconds},
    },
    metrics::{self, Webhook},
    node::Node,
};

/// A full queue has room again soon: five workers empty it in less than a second, if Redis is well.
const FULL_RETRY: Duration = Duration::from_secs(1);
const MAX_ID: usize = 256;

/// 202 once it is in the queue, 200 where it is known.
pub(super) async fn take_in(
    State(node): State<Arc<Node>>,
    Named(name): Named,
    request: Request,
) -> Result<Response, Problem> {
    let refused = |problem| {
        metrics::webhook(Webhook::Refused);
        problem
    };
    let Some(source) = node.config.ingest.sources.get(&name) else {
        return Err(refused(Problem::new(
            ErrorCode::NotFound,
            "no such source; see the setting ingest.sources",
        )));
    };
    let headers = request.headers().clone();
    if source.secret.is_none() {
        auth::check(&node, &headers).map_err(refused)?;
    }
    let body = read(request).await.map_err(refused)?;
    let body = signed(source, &headers, &body).map_err(refused)?;
    let id = id(&headers, body).map_err(refused)?;
    destination(&node, &name, source, body).map_err(|failure| refused(failure.into()))?;
    let queued = node.backend.ingest.enqueue(&name, &id, body);
    let intake =
        node.backend.at(&Ingest::place(&name)).call(Repeat::Harmless, queued).await.map_err(|failure| {
            metrics::webhook(Webhook::Unavailable);
            failed(failure)
        })?;
    answer(&node, intake)
}

fn answer(node: &Node, intake: Intake) -> Result<Response, Problem> {
    match intake {
        Intake::Queued => {
            metrics::webhook(Webhook::Queued);
            node.webhooks.notify_one();
            Ok((StatusCode::ACCEPTED, Json(json!({ "duplicate": false }))).into_response())
        }
        Intake::Duplicate => {
            metrics::webhook(Webhook::Duplicate);
            Ok(Json(json!({ "duplicate": true })).into_response())
        }
        Intake::Mismatch => {
            metrics::webhook(Webhook::Mismatch);
            Err(Problem::new(ErrorCode::KeyReused, "this id came before with another body"))
        }
        Intake::Full => {
            metrics::webhook(Webhook::Full);
            let ms = u64::try_from(FULL_RETRY.as_millis()).unwrap_or(u64::MAX);
            Err(Failure::retry(ErrorCode::RateLimited, "the queue of this source is full", ms).into())
        }
    }
}

/// Whatever kept it from the queue, its sender is told when to come again: sending it twice does no harm.
fn failed(failure: Failure) -> Problem {
    let tells_when = failure.retry_ms.is_some();
    let problem = Problem::from(failure);
    if tells_when { problem } else { problem.header(header::RETRY_AFTER, retry_seconds(FULL_RETRY)) }
}

async fn read(request: Request) -> Result<Bytes, Problem> {
    Bytes::from_request(request, &()).await.map_err(|refused| match refused.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(ErrorCode::TooLarge, "the body is larger than 1 MiB"),
        _ => Problem::new(ErrorCode::BadFrame, "the body could not be read"),
    })
}

/// The body as text, its signature checked over the very bytes that came.
fn signed<'a>(source: &Source, headers: &HeaderMap, body: &'a [u8]) -> Result<&'a str, Problem> {
    if let Some(secret) = &source.secret {
        let name = source.signature_header.as_deref().unwrap_or(DEFAULT_SIGNATURE_HEADER);
        let given = headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        if !given.is_some_and(|given| signature::holds(secret, given, body)) {
            let detail = format!("{name} must be the HMAC-SHA256 of the body in hexadecimal");
            return Err(Problem::new(ErrorCode::InvalidToken, detail));
        }
    }
    std::str::from_utf8(body).map_err(|_| Problem::new(ErrorCode::BadFrame, "the body is not UTF-8"))
}

/// The header's id, or else the body's `uuid`.
fn id(headers: &HeaderMap, body: &str) -> Result<String, Problem> {
    #[derive(Deserialize)]
    struct Uuid {
        uuid: Option<String>,
    }
    let bad = |detail: String| Problem::new(ErrorCode::BadFrame, detail);
    let header = match headers.get("idempotency-key").map(HeaderValue::to_str) {
        None => None,
        Some(Ok(key)) => Some(key.to_owned()),
        Some(Err(_)) => return Err(bad("Idempotency-Key must be visible characters".to_owned())),
    };
    let named = || {
        let named: Uuid = serde_json::from_str(body).map_err(|error| bad(format!("the body: {error}")))?;
        named.uuid.ok_or_else(|| bad("a uuid in the body or an Idempotency-Key is needed".to_owned()))
    };
    let id = header.map_or_else(named, Ok)?;
    if !(1..=MAX_ID).contains(&id.chars().count()) || id.chars().any(char::is_control) {
        return Err(bad(format!(
            "the id must be 1 to {MAX_ID} characters, none of them a control character"
        )));
    }
    Ok(id)
}
