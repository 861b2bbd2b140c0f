//! Many publishes in one request: all are read, those of one room are put together, and the rooms are worked on side by
//! side.

use std::{collections::HashMap, future::Future, num::NonZeroUsize, sync::Arc};

use axum::{Extension, Json, extract::State};
use futures_util::{StreamExt, stream::FuturesUnordered};
use roomcast_protocol::{ErrorCode, Failure};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Told,
    body::{self, Text},
    publication, read_publish, told,
};
use crate::{
    broker::Publication,
    http::{auth::Caller, problem::Problem},
    metrics,
    node::Node,
    session::tasks,
};

/// Publishes in one batch.
const MAX_BATCH: usize = 1_000;
/// Rooms of a batch that are worked on at once: so many share a round trip.
const BATCH_CONCURRENCY: usize = 256;
/// Of what may wait for Redis at once, one batch takes this part at most.
const BATCH_PART: usize = 4;
/// Items of one room that are published in one step: other commands wait for it meanwhile.
const BATCH_STEP: usize = 64;

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

#[derive(Serialize)]
pub(super) struct Results {
    results: Vec<Told>,
}

/// One result per item, in order: `{epoch, offset, duplicate}` or `{error}`. Items of one room are published in
/// order; a failed item does not keep the next from being tried.
pub(super) async fn publish(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Text(text): Text,
) -> Result<Json<Results>, Problem> {
    let items = items(&text)?;
    if items.len() > MAX_BATCH {
        return Err(Problem::new(
            ErrorCode::TooLarge,
            format!("a batch holds at most {MAX_BATCH} publishes"),
        ));
    }
    let mut publications = Vec::with_capacity(items.len());
    // What can't be read takes no part in it.
    let read = |item: &RawValue| {
        let (rules, publication) = publication(&node, caller, read_publish(item.get())?)?;
        publications.push(tasks::admissible(&node, &rules, publication)?);
        Ok(())
    };
    let read: Vec<Result<(), Failure>> = items.into_iter().map(read).collect();
    let rooms = Rooms::of(publications);
    let concurrency = concurrency(node.config.redis.as_ref().map(|redis| redis.max_in_flight));
    let answers = rooms.each(concurrency, BATCH_STEP, |some| tasks::publish_all(&node, some)).await;
    let mut answers = answers.into_iter();
    let missing = || Err(Failure::new(ErrorCode::Internal, "internal error"));
    let result = |read: Result<(), Failure>| {
        read.and_then(|()| answers.next().flatten().unwrap_or_else(missing)).and_then(told).unwrap_or_else(
            |error| {
                metrics::error(error.code);
                Told::Refused { error }
            },
        )
    };
    Ok(Json(Results { results: read.into_iter().map(result).collect() }))
}

/// Rooms at once, where so many commands may wait for Redis.
fn concurrency(max_in_flight: Option<NonZeroUsize>) -> usize {
    let most = max_in_flight.map_or(usize::MAX, |most| most.get() / BATCH_PART);
    BATCH_CONCURRENCY.min(most).max(1)
}

/// The items of a batch, where they stand: a list, or `{"items": list}`.
fn items(text: &str) -> Result<Vec<&RawValue>, Problem> {
    // An untagged enum can't hold raw JSON, so the form is told by the first character.
    if text.trim_start().starts_with('[') {
        return body::read(text);
    }
    body::read::<Batch>(text).map(|batch| batch.items)
}

/// Publications room by room: the rooms in the order in which they are named first, those of one room in their order.
struct Rooms {
    publications: Vec<Publication>,
    /// Where each stood.
    places: Vec<usize>,
}

impl Rooms {
    fn of(publications: Vec<Publication>) -> Self {
        let mut known = HashMap::new();
        let mut lines = Vec::with_capacity(publications.len());
        for publication in &publications {
            let next = known.len();
            lines.push(*known.entry(publication.room.as_str()).or_insert(next));
        }
        let mut all: Vec<_> = lines.into_iter().zip(publications).enumerate().collect();
        all.sort_by_key(|(_, (line, _))| *line);
        let (places, publications) =
            all.into_iter().map(|(place, (_, publication))| (place, publication)).unzip();
        Self { publications, places }
    }

    /// Runs `work` over the publications of each room in their order, at most `step` at once; the rooms side by side,
    /// begun in their order. The results stand where the publications stood; none where `work` gave too few.
    async fn each<'a, T, F>(
        &'a self,
        concurrency: usize,
        step: usize,
        work: impl Fn(&'a [Publication]) -> F,
    ) -> Vec<Option<T>>
    where
        F: Future<Output = Vec<T>>,
    {
        let work = &work;
        let line = |first: usize, line: &'a [Publication]| async move {
            let mut results = Vec::new();
            for some in line.chunks(step) {
                let more = work(some).await;
                // Most rooms take one step, and what it brought is all.
                if results.is_empty() {
                    results = more;
                } else {
                    results.extend(more);
                }
            }
            (first, results)
        };
        let mut results: Vec<Option<T>> = Vec::new();
        results.resize_with(self.places.len(), || None);
        let mut rooms = self.publications.chunk_by(|a, b| a.room == b.room);
        let (mut begun, mut running) = (0, FuturesUnordered::new());
        loop {
            while running.len() < concurrency
                && let Some(room) = rooms.next()
            {
                running.push(line(begun, room));
                begun += room.len();
            }
            let Some((first, some)) = running.next().await else { return results };
            for (place, result) in self.places[first..].iter().zip(some) {
                results[*place] = Some(result);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use roomcast_core::permission::HistoryRules;
    use roomcast_protocol::{Data, RoomName};

    use super::*;

    fn publication(room: usize, event: usize) -> Publication {
        Publication {
            room: RoomName::parse(&format!("event:{room}")).unwrap(),
            event: event.to_string(),
            data: Data::null(),
            from: None,
            key: None,
            history: HistoryRules { size: 0, ttl: std::time::Duration::ZERO },
        }
    }

    #[tokio::test]
    async fn rooms_are_begun_in_the_order_in_which_they_are_named_first() {
        let rooms: Vec<usize> = (0..100).map(|n| n * 37 % 50).collect();
        let batch = Rooms::of(rooms.iter().enumerate().map(|(at, room)| publication(*room, at)).collect());
        let begun = RefCell::new(Vec::new());
        let work = |some: &[Publication]| {
            begun.borrow_mut().push(some[0].room.as_str().to_owned());
            let events: Vec<_> = some.iter().map(|publication| publication.event.clone()).collect();
            std::future::ready(events)
        };
        let results = batch.each(3, 8, work).await;
        assert_eq!(results, (0..100).map(|at| Some(at.to_string())).collect::<Vec<_>>());
        let expected: Vec<String> = rooms[..50].iter().map(|room| format!("event:{room}")).collect();
        assert_eq!(*begun.borrow(), expected);
    }

    #[test]
    fn one_batch_leaves_most_of_what_may_wait_to_others() {
        for (max_in_flight, expected) in [(1, 1), (7, 1), (100, 25), (10_000, 256)] {
            assert_eq!(concurrency(NonZeroUsize::new(max_in_flight)), expected);
        }
        assert_eq!(concurrency(None), 256);
    }

    #[tokio::test]
    async fn a_room_takes_its_steps_one_after_the_other() {
        let batch = Rooms::of((0..20).map(|at| publication(at % 2, at)).collect());
        let (under_way, steps) = (RefCell::new([0; 2]), RefCell::new([const { Vec::new() }; 2]));
        let work = |some: &[Publication]| {
            let room = usize::from(some[0].room.as_str() == "event:1");
            let events: Vec<_> = some.iter().map(|publication| publication.event.clone()).collect();
            let (under_way, steps) = (&under_way, &steps);
            async move {
                under_way.borrow_mut()[room] += 1;
                assert_eq!(under_way.borrow()[room], 1);
                tokio::task::yield_now().await;
                under_way.borrow_mut()[room] -= 1;
                steps.borrow_mut()[room].push(events.join(" "));
                events
            }
        };
        let results = batch.each(2, 4, work).await;
        assert_eq!(results, (0..20).map(|at| Some(at.to_string())).collect::<Vec<_>>());
        let expected = [["0 2 4 6", "8 10 12 14", "16 18"], ["1 3 5 7", "9 11 13 15", "17 19"]];
        assert_eq!(steps.into_inner(), expected);
    }
}
