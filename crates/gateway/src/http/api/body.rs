//! What requests hold: bodies, bounded and JSON, queries and names in addresses, with errors that say what is wrong.

use axum::{
    body::Bytes,
    extract::{self, FromRequest, FromRequestParts, Request},
    response::IntoResponse,
};
use http::{StatusCode, request::Parts};
use roomcast_protocol::ErrorCode;
use serde::{Deserialize, de::DeserializeOwned};

use crate::http::problem::Problem;

/// A body as UTF-8 text.
pub(super) struct Text(pub(super) String);

/// A body as JSON of a known shape.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await.map_err(|refused| {
            match refused.into_response().status() {
                StatusCode::PAYLOAD_TOO_LARGE => {
                    Problem::new(ErrorCode::TooLarge, "the body is larger than 8 MiB")
                }
                _ => Problem::new(ErrorCode::BadFrame, "the body could not be read"),
            }
        })?;
        let text = String::from_utf8(bytes.into());
        text.map(Self).map_err(|_| Problem::new(ErrorCode::BadFrame, "the body is not UTF-8"))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Text(text) = Text::from_request(request, state).await?;
        read(&text).map(Self)
    }
}

/// The name that stands in an address.
pub(crate) struct Named<T = String>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let name = extract::Path::<T>::from_request_parts(parts, state).await;
        let bad = |_| Problem::new(ErrorCode::BadFrame, "the address is not UTF-8");
        name.map(|extract::Path(name)| Self(name)).map_err(bad)
    }
}

/// A query of a known shape.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = extract::Query::<T>::try_from_uri(&parts.uri);
        let bad = |refused: extract::rejection::QueryRejection| {
            Problem::new(ErrorCode::BadFrame, format!("the query: {}", refused.body_text()))
        };
        query.map(|extract::Query(query)| Self(query)).map_err(bad)
    }
}

/// Reads JSON of a known shape.
pub(super) fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Problem> {
    serde_json::from_str(text)
        .map_err(|error| Problem::new(ErrorCode::BadFrame, format!("the body: {error}")))
}
