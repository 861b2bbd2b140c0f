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

/// As whom a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Who holds the API key: the operator.
    Operator,
    /// Who holds a token of this role.
    Token(Role),
}

/// In whose name a request is made, for the audit log.
#[derive(Debug, Clone)]
pub struct By(pub Arc<str>);

impl Caller {
    /// Whether it may hand out this role: the operator any, a token its own and what is below an admin's.
    pub fn may_grant(self, role: Role) -> bool {
        match self {
            Self::Operator => true,
            Self::Token(own) => role == own || role < Role::Admin,
        }
    }
}

/// Lets a request pass, or answers 401 or 403.
pub async fn guard(
    State(node): State<Arc<Node>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (caller, by) = identify(&node, request.headers())?;
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(by);
    Ok(next.run(request).await)
}

/// As whom a request with these headers is made, where it may call the API.
pub fn check(node: &Node, headers: &HeaderMap) -> Result<Caller, Problem> {
    identify(node, headers).map(|(caller, _)| caller)
}

fn identify(node: &Node, headers: &HeaderMap) -> Result<(Caller, By), Problem> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    let challenge = |problem: Problem| problem.header(header::WWW_AUTHENTICATE, "Bearer".to_owned());
    let Some(bearer) = bearer else {
        return Err(challenge(Problem::new(
            ErrorCode::InvalidToken,
            "Authorization: Bearer <api.key or token> is needed",
        )));
    };
    if node.config.api_key.as_ref().is_some_and(|key| key.matches(bearer)) {
        return Ok((Caller::Operator, By("api".into())));
    }
    match node.verifier.verify(bearer, now().unix_ms) {
        // The API reaches every room: a token that was made for some of them must not widen itself here.
        Ok(verified) if verified.identity.rooms.is_some() => {
            Err(Problem::new(ErrorCode::Forbidden, "a token that is limited to rooms may not call this API"))
        }
        Ok(verified) if verified.identity.role >= Role::Admin => {
            Ok((Caller::Token(verified.identity.role), By(verified.identity.user)))
        }
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
