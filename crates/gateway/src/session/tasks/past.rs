//! Reading a room's past in parts that are bounded in bytes: what one socket may make a node hold does not depend on
//! how large the events of a room are. It sends nothing.

use std::sync::Arc;

use roomcast_core::permission::Rules;
use roomcast_protocol::{Event, Failure, Offset, Position, RoomName};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use crate::{
    broker::{MAX_PAGE, Page, Range},
    node::{Node, now},
    shelf::{Key, Part},
};

/// What is read first, before it is known how large the events are; who missed no more needs nothing else.
const FIRST_READ: usize = 16;
/// Further reads at once on a node. Those who missed much, often all together after a loss, are served behind those
/// who are there: what they read passes through the same connection to Redis as what is live.
const FURTHER_READS: usize = 2;
/// A further read is for so many bytes, about: what is live waits behind it in Redis and on its connection.
const BITE: usize = 64 * 1024;
/// Parts that turn out larger than twice of what they are made for are not shared.
const MOST_SHARED: usize = 4 * BITE;

static FURTHER: Semaphore = Semaphore::const_new(FURTHER_READS);
/// What an event takes besides its data, about: names, numbers, braces.
const EVENT_OVERHEAD: usize = 96;
/// The most of an answer to a back end, and where nothing bounds what may wait for a socket.
pub(crate) const MAX_PAST: usize = 8 * 1024 * 1024;

/// Reads one room's past.
#[derive(Debug)]
pub(crate) struct Past<'a> {
    node: &'a Node,
    room: &'a RoomName,
    rules: &'a Rules,
    /// None before the first read.
    pub(crate) known: Option<Known>,
}

/// What the last read showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// What an event takes, on average.
    per_event: usize,
    /// The log goes to here, or further.
    tail: Offset,
}

/// What follows a position.
#[derive(Debug)]
pub(crate) enum Next {
    /// A part that all share who catch up, from this event of it on. The log goes on after it.
    Shared(Arc<Part>, usize),
    /// Read for this one alone.
    Own(Page),
}

impl<'a> Past<'a> {
    pub(crate) fn of(node: &'a Node, room: &'a RoomName, rules: &'a Rules) -> Self {
        Self { node, room, rules, known: None }
    }

    /// Any part of it, at most so many bytes, but always at least one event where there is one.
    pub(crate) async fn read(&mut self, range: Range, bytes: usize) -> Result<Page, Failure> {
        match range {
            Range::Since(since, limit) => self.since(since, limit, bytes).await,
            Range::Before(offset, limit) => {
                let page = self.page(Range::Before(offset, self.fit(limit, bytes))).await?;
                self.backwards(page, limit, bytes).await
            }
            Range::Recent(limit) => {
                let page = self.page(Range::Recent(self.fit(limit, bytes))).await?;
                self.backwards(page, limit, bytes).await
            }
        }
    }

    /// What came after a position, oldest first. Where it ends before the log's tail, the rest did not fit.
    pub(crate) async fn since(
        &mut self,
        since: Position,
        limit: usize,
        bytes: usize,
    ) -> Result<Page, Failure> {
        let mut whole = self.page(Range::Since(since, self.fit(limit, bytes))).await?;
        let mut held = cut_end(&mut whole.events, bytes);
        while whole.complete
            && let Some(held) = held.as_mut()
            && let Some(last) = whole.events.last().filter(|last| last.offset < whole.tail.offset)
            && whole.events.len() < limit
        {
            let so_far = Position { epoch: whole.tail.epoch.clone(), offset: last.offset };
            let room_left = bytes.saturating_sub(*held);
            if room_left < self.per_event() {
                break;
            }
            let wanted = limit - whole.events.len();
            let mut next = match self.next(so_far, wanted, room_left).await? {
                Next::Shared(part, from) => {
                    let mut tail = whole.tail.clone();
                    // A part ends below the tail that is known, and that may have been seen while it was read.
                    tail.offset = tail.offset.max(self.known.map_or(tail.offset, |known| known.tail));
                    let events = part.events[from..].iter().take(wanted).cloned().collect();
                    Page { tail, events, complete: true }
                }
                Next::Own(page) => page,
            };
            let more = cut_end(&mut next.events, room_left);
            // The first event is never cut off, but as the first of a later read it may be one too many.
            let fits = size(next.events.first()) <= room_left;
            if fits {
                whole.events.append(&mut next.events);
            }
            (whole.tail, whole.complete) = (next.tail, next.complete);
            match more.filter(|_| fits) {
                Some(more) => *held += more,
                None => break,
            }
        }
        Ok(whole)
    }

    /// A step after a position: a part that is shared where there is a whole one, else at most so many events and bytes,
    /// about, of now.
    pub(crate) async fn next(
        &mut self,
        so_far: Position,
        limit: usize,
        bytes: usize,
    ) -> Result<Next, Failure> {
        let Some(key) = self.part_after(&so_far).filter(|key| key.events <= limit) else {
            return self.own(so_far, limit, bytes).await;
        };
        let from = usize::try_from(so_far.offset.0 - key.after.0).unwrap_or_default();
        let (node, mut unshared) = (self.node, None);
        let shared = node.shelf.part(&key, now().instant, async || {
            let begin = Position { epoch: key.epoch.clone(), offset: key.after };
            let page = self.page(Range::Since(begin, key.events)).await?;
            let whole = page.complete
                && page.events.len() == key.events
                && page.events.last().is_some_and(|last| last.offset < page.tail.offset);
            let tail = page.tail;
            let part = Part::new(page.events);
            if whole && part.bytes(&key.room) <= MOST_SHARED {
                return Ok(Some(part));
            }
            unshared = Some((part.events, tail));
            Ok(None)
        });
        match (shared.await?, unshared) {
            (Some(part), _) => Ok(Next::Shared(part, from)),
            (None, Some((events, tail))) => match going_on(events, tail, &so_far) {
                Some(page) => Ok(Next::Own(page)),
                None => self.own(so_far, limit, bytes).await,
            },
            (None, None) => self.own(so_far, limit, bytes).await,
        }
    }

    async fn own(&mut self, so_far: Position, limit: usize, bytes: usize) -> Result<Next, Failure> {
        let page = self.page(Range::Since(so_far, self.fit(limit, bytes))).await?;
        Ok(Next::Own(page))
    }

    /// The part in which the log goes on after a position, if it can be whole. All who catch up ask for the same parts,
    /// wherever they stand.
    fn part_after(&self, so_far: &Position) -> Option<Key> {
        let Known { per_event, tail } = self.known?;
        // Of a log that holds a few parts only, the first one would seldom be whole.
        let most = (usize::try_from(self.rules.history.size).unwrap_or(MAX_PAGE) / 8).min(MAX_PAGE);
        let events = BITE.div_ceil(per_event.max(1)).next_power_of_two().min(most);
        let length = events as u64;
        let after = Offset(so_far.offset.0 / length.max(1) * length);
        let key = Key { room: self.room.clone(), epoch: so_far.epoch.clone(), after, events };
        (events > 1 && after.0 + length < tail.0).then_some(key)
    }

    /// Goes on before a page, towards older events.
    async fn backwards(&mut self, mut whole: Page, limit: usize, bytes: usize) -> Result<Page, Failure> {
        let mut held = cut_begin(&mut whole.events, bytes);
        while let Some(so_far) = held
            && let Some(first) = whole.events.first()
            && whole.events.len() < limit
        {
            let room_left = bytes.saturating_sub(so_far);
            if room_left < self.per_event() {
                break;
            }
            let wanted = self.fit(limit - whole.events.len(), room_left);
            let mut older = self.page(Range::Before(first.offset.0, wanted)).await?;
            let more = cut_begin(&mut older.events, room_left);
            // A log that was lost between two reads has another epoch: what is there now is no past of this.
            let is_other = older.tail.epoch != whole.tail.epoch;
            if is_other || older.events.is_empty() || size(older.events.last()) > room_left {
                break;
            }
            older.events.append(&mut whole.events);
            whole.events = older.events;
            held = more.map(|more| so_far + more);
        }
        Ok(whole)
    }

    async fn page(&mut self, range: Range) -> Result<Page, Failure> {
        // The semaphore is never closed.
        let _turn = match self.known {
            Some(_) => FURTHER.acquire().await.ok(),
            None => None,
        };
        let begun = Instant::now();
        let backend = &self.node.backend;
        let read = backend.broker.history(self.room, &range, self.rules.history);
        let page = backend.at(self.room.as_str()).read(read).await?;
        if self.known.is_some() {
            // The turn lasts as long again as the read: half of the time is left to what is live.
            sleep(begun.elapsed()).await;
        }
        if !page.events.is_empty() {
            let bytes: usize = page.events.iter().map(|event| size(Some(event))).sum();
            self.known = Some(Known { per_event: bytes.div_ceil(page.events.len()), tail: page.tail.offset });
        }
        Ok(page)
    }

    /// How many events to read for so many bytes, at most `limit`.
    fn fit(&self, limit: usize, bytes: usize) -> usize {
        let fit = self
            .known
            .map_or(FIRST_READ, |known| (bytes.min(BITE) / known.per_event.max(1)).clamp(1, MAX_PAGE));
        limit.min(fit)
    }

    fn per_event(&self) -> usize {
        self.known.map_or(0, |known| known.per_event)
    }
}

/// What follows a position, of events that were read from further back; none where something is missing.
fn going_on(mut events: Vec<Event>, tail: Position, so_far: &Position) -> Option<Page> {
    let at = events.iter().position(|event| event.offset == so_far.offset.next())?;
    let follows = |pair: &[Event]| pair[1].offset == pair[0].offset.next();
    let is_going_on = tail.epoch == so_far.epoch && events[at..].windows(2).all(follows);
    events.drain(..at);
    is_going_on.then_some(Page { tail, events, complete: true })
}

fn size(event: Option<&Event>) -> usize {
    event.map_or(0, |event| event.data.as_str().len() + event.event.len() + EVENT_OVERHEAD)
}

/// A page of at most so many bytes, but at least one event where there is one.
pub(super) fn cut(mut page: Page, bytes: usize) -> Page {
    let _what_is_left_takes = cut_end(&mut page.events, bytes);
    page
}

/// Takes away what does not fit, newest first, but never the first event. What the rest takes; none where something
/// was taken away.
fn cut_end(events: &mut Vec<Event>, bytes: usize) -> Option<usize> {
    let (fit, held) = fitting(events.iter(), bytes);
    let whole = fit == events.len();
    events.truncate(fit);
    whole.then_some(held)
}

/// The same, oldest first.
fn cut_begin(events: &mut Vec<Event>, bytes: usize) -> Option<usize> {
    let (fit, held) = fitting(events.iter().rev(), bytes);
    let gone = events.len() - fit;
    events.drain(..gone);
    (gone == 0).then_some(held)
}

fn fitting<'e>(events: impl Iterator<Item = &'e Event>, bytes: usize) -> (usize, usize) {
    let (mut fit, mut held) = (0, 0);
    for event in events {
        let with = held + size(Some(event));
        if fit > 0 && with > bytes {
            break;
        }
        (fit, held) = (fit + 1, with);
    }
    (fit, held)
}

#[cfg(test)]
mod tests {
    use roomcast_protocol::{Data, Offset};

    use super::*;

    fn events(sizes: &[usize]) -> Vec<Event> {
        let event = |(offset, size): (u64, &usize)| Event {
            event: String::new(),
            data: Data::parse(&format!("\"{}\"", "x".repeat(size - 2))).unwrap(),
            offset: Offset(offset),
            at: 0,
            from: None,
        };
        (1..).zip(sizes).map(event).collect()
    }

    fn offsets(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.offset.0).collect()
    }

    #[test]
    fn what_fits_is_kept_from_the_side_that_was_asked_for() {
        let each = 10 + EVENT_OVERHEAD;
        let mut all = events(&[10, 10, 10]);
        assert_eq!(cut_end(&mut all, 3 * each), Some(3 * each));
        assert_eq!(cut_end(&mut all, 3 * each - 1), None);
        assert_eq!(offsets(&all), [1, 2]);
        let mut all = events(&[10, 10, 10]);
        assert_eq!(cut_begin(&mut all, 2 * each), None);
        assert_eq!(offsets(&all), [2, 3]);
    }

    #[test]
    fn an_event_that_is_too_large_by_itself_comes_alone() {
        let mut all = events(&[500, 10]);
        assert_eq!(cut_end(&mut all, 100), None);
        assert_eq!(offsets(&all), [1]);
        let mut all = events(&[10, 500]);
        assert_eq!(cut_begin(&mut all, 100), None);
        assert_eq!(offsets(&all), [2]);
    }

    #[test]
    fn nothing_fits_into_any_bound() {
        assert_eq!(cut_end(&mut Vec::new(), 0), Some(0));
    }
}
