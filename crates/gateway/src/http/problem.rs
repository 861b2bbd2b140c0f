//! Failures over HTTP: `application/problem+json` (RFC 9457) with the codes of the protocol.

use std::time::Duration;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use roomcast_protocol::{Data, ErrorCode, Failure};
use serde_json::json;

use crate::metrics;

/// A failure as it is answered.
#[derive(Debug)]
pub struct Problem {
    code: ErrorCode,
    status: StatusCode,
    detail: String,
    retry_ms: Option<u64>,
    current: Option<Data>,
    headers: Vec<(HeaderName, String)>,
}

impl Problem {
    /// A problem with the code's own status.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { code, status, detail: detail.into(), retry_ms: None, current: None, headers: Vec::new() }
    }

    /// With another status.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// With a header.
    pub fn header(mut self, name: HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// `Retry-After` in whole seconds, at least 1.
pub fn retry_seconds(after: Duration) -> String {
    after.as_secs_f64().ceil().max(1.0).to_string()
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let Failure { code, message, retry_ms, current } = failure;
        let problem = Self { retry_ms, current, ..Self::new(code, message) };
        match retry_ms {
            Some(ms) => problem.header(header::RETRY_AFTER, retry_seconds(Duration::from_millis(ms))),
            None => problem,
        }
    }
}

impl From<Problem> for Response {
    /// Every problem becomes a response once, so here it is counted.
    fn from(problem: Problem) -> Self {
        metrics::error(problem.code);
        let mut body = json!({
            "type": "about:blank",
            "title": problem.status.canonical_reason(),
            "status": problem.status.as_u16(),
            "code": problem.code.as_str(),
            "detail": problem.detail,
        });
        if let Some(ms) = problem.retry_ms {
            body["retry_ms"] = ms.into();
        }
        if let Some(current) = problem.current.and_then(|current| current.to().ok()) {
            body["current"] = current;
        }
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = problem.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in problem.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.into()
    }
}
