//! What requests hold: bodies, bounded and JSON, queries and names in addresses, with errors that say what is wrong.

use std::{borrow::Cow, collections::HashMap, future::Future};

use axum::{
    body::Bytes,
    extract::{self, FromRequest, FromRequestParts, Request},
    response::IntoResponse,
};
use futures_util::{StreamExt, stream};
use http::{StatusCode, request::Parts};
use roomcast_protocol::ErrorCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::Batch;
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

/// The items of a batch, where they stand: a list, or `{"items": list}`.
pub(super) fn batch_items(text: &str) -> Result<Vec<&RawValue>, Problem> {
    // An untagged enum can't hold raw JSON, so the form is told by the first character.
    if text.trim_start().starts_with('[') {
        return read(text);
    }
    read::<Batch>(text).map(|batch| batch.items)
}

/// Runs `work` over the items, at most `step` at once: items that name the same room together and in order, others side
/// by side, begun in the order in which their rooms are named first. It returns one result per item; none where `work`
/// gave too few.
pub(super) async fn in_order_per_room<'a, T, F>(
    items: Vec<&'a RawValue>,
    concurrency: usize,
    step: usize,
    work: impl Fn(Vec<&'a str>) -> F,
) -> Vec<Option<T>>
where
    F: Future<Output = Vec<T>>,
{
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        room: Option<Cow<'a, str>>,
    }
    let mut rooms: HashMap<Option<Cow<'_, str>>, usize> = HashMap::new();
    let mut lines: Vec<Vec<(usize, &str)>> = Vec::new();
    let mut results = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        let room = serde_json::from_str::<Named<'_>>(item.get()).ok().and_then(|named| named.room);
        let line = *rooms.entry(room).or_insert(lines.len());
        if line == lines.len() {
            lines.push(Vec::new());
        }
        lines[line].push((at, item.get()));
        results.push(None);
    }
    let work = &work;
    let line = |line: Vec<(usize, &'a str)>| async move {
        let mut results = Vec::with_capacity(line.len());
        for some in line.chunks(step) {
            let (places, items): (Vec<usize>, Vec<&str>) = some.iter().copied().unzip();
            results.extend(places.into_iter().zip(work(items).await));
        }
        results
    };
    let lines: Vec<_> = lines.into_iter().map(line).collect();
    let mut done = stream::iter(lines).buffer_unordered(concurrency);
    while let Some(line) = done.next().await {
        for (at, result) in line {
            results[at] = Some(result);
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn rooms_are_begun_in_the_order_in_which_they_are_named_first() {
        let names: Vec<String> = (0..100).map(|n| format!("event:{}", n * 37 % 50)).collect();
        let text =
            serde_json::json!(names.iter().map(|name| serde_json::json!({"room": name})).collect::<Vec<_>>());
        let text = text.to_string();
        let begun = RefCell::new(Vec::new());
        let work = |items: Vec<&str>| {
            begun.borrow_mut().push(items[0].to_owned());
            std::future::ready(vec![(); items.len()])
        };
        let results = in_order_per_room(batch_items(&text).unwrap(), 3, 8, work).await;
        assert_eq!(results, vec![Some(()); 100]);
        let expected: Vec<String> =
            names[..50].iter().map(|name| format!(r#"{{"room":"{name}"}}"#)).collect();
        assert_eq!(*begun.borrow(), expected);
    }
}
