//! Who may call the internal API: the bearer of the API key, or of a token with role `service` or `admin`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, header};
use roomcast_core::permission::Role;
use roomcast_protocol::ErrorCode;

use super::problem::Problem;
use crate::node::{Node, now};

/// Lets a request pass, or answers 401 or 403.
pub async fn guard(State(node): State<Arc<Node>>, request: Request, next: Next) -> Result<Response, Problem> {
    check(&node, request.headers())?;
    Ok(next.run(request).await)
}

/// Whether these are the headers of somebody who may call the API.
pub fn check(node: &Node, headers: &HeaderMap) -> Result<(), Problem> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    let challenge = |problem: Problem| problem.header(header::WWW_AUTHENTICATE, "Bearer".to_owned());
    let Some(bearer) = bearer else {
        return Err(challenge(Problem::new(
            ErrorCode::InvalidToken,
            "Authorization: Bearer <api.key or token> is needed",
        )));
    };
    if node.config.api_key.as_ref().is_some_and(|key| key.matches(bearer)) {
        return Ok(());
    }
    match node.verifier.verify(bearer, now().unix_ms) {
        Ok(verified) if verified.identity.role >= Role::Admin => Ok(()),
        Ok(_) => Err(Problem::new(ErrorCode::Forbidden, "role service or admin is needed")),
        Err(_) => {
            Err(challenge(Problem::new(ErrorCode::InvalidToken, "neither the API key nor a valid token")))
        }
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, rest) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
}
