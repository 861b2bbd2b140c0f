//! Parts of rooms' logs for those who catch up: read once, and encoded once for each codec, for all who want them at
//! about the same time.
//!
//! Only what can't change any more is shared: a part that is whole, between fixed offsets of one epoch, with the log's
//! tail beyond it. Who reads on from there reads again, and hears of all that has happened to the log meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use roomcast_protocol::{Codec, Epoch, Event, Offset, Push, RoomName, ServerFrame};
use tokio::sync::OnceCell;

/// How long a part is kept: those who lost their connections together come back within a few seconds.
const TTL: Duration = Duration::from_secs(5);
/// Parts kept on a node.
const MAX_PARTS: usize = 128;
/// Bytes kept on a node, about.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// The same bytes may be there once as events, and once in each codec.
const COPIES: usize = 3;

/// Which part of which log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The log's room.
    pub room: RoomName,
    /// The log's life.
    pub epoch: Epoch,
    /// The part begins after it.
    pub after: Offset,
    /// How many events it has.
    pub events: usize,
}

/// A part of a log.
#[derive(Debug)]
pub struct Part {
    /// All of it, oldest first.
    pub events: Vec<Event>,
    encoded: [OnceLock<Encoded>; 2],
}

/// Pushes, one after the other.
#[derive(Debug)]
struct Encoded {
    bytes: Bytes,
    /// Where each of them ends.
    ends: Vec<usize>,
}

/// Some of a part's pushes in a codec.
#[derive(Debug, PartialEq)]
pub struct Pushes {
    /// One after the other.
    pub block: Bytes,
    /// How many.
    pub count: usize,
}

impl Part {
    /// A part that was read.
    pub fn new(events: Vec<Event>) -> Self {
        Self { events, encoded: [OnceLock::new(), OnceLock::new()] }
    }

    /// The pushes of a room from this event of the part on: as many as fit into so many bytes, but one at least where
    /// there is one. `encode` makes one push ready to be sent.
    pub fn pushes(
        &self,
        codec: Codec,
        room: &RoomName,
        from: usize,
        bytes: usize,
        encode: impl Fn(&ServerFrame) -> Option<Bytes>,
    ) -> Pushes {
        let slot = match codec {
            Codec::Json(_) => &self.encoded[0],
            Codec::MsgPack(_) => &self.encoded[1],
        };
        let Encoded { bytes: all, ends } = slot.get_or_init(|| {
            let (mut block, mut ends) = (BytesMut::new(), Vec::with_capacity(self.events.len()));
            for event in &self.events {
                let push = Push::Event { room: room.clone(), event: event.clone() };
                block.extend_from_slice(&encode(&ServerFrame::Push(push)).unwrap_or_default());
                ends.push(block.len());
            }
            Encoded { bytes: block.freeze(), ends }
        });
        let begin = from.checked_sub(1).and_then(|last| ends.get(last)).copied().unwrap_or_default();
        let left = ends.get(from..).unwrap_or_default();
        let count = left.partition_point(|end| end - begin <= bytes).max(usize::from(!left.is_empty()));
        let end = count.checked_sub(1).map_or(begin, |last| left[last]);
        let block = all.slice(begin..end);
        // A slice holds all of what it was cut from, and what one socket may hold is bounded.
        let block = if all.len() > bytes { Bytes::copy_from_slice(&block) } else { block };
        Pushes { block, count }
    }
}

/// The parts that a node keeps.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<HashMap<Key, Slot>>);

#[derive(Debug)]
struct Slot {
    part: Arc<OnceCell<Arc<Part>>>,
    /// What it will take, about.
    bytes: usize,
    since: Instant,
}

impl Shelf {
    /// A part: the one that is here, or what `reading` finds. Who comes while it is read waits for that; where nothing
    /// can be shared, only who read it gets what was found, and the next reads for itself. `bytes` is what the part
    /// will take, about.
    pub async fn part<E, F: Future<Output = Result<Part, E>>>(
        &self,
        key: &Key,
        bytes: usize,
        now: Instant,
        reading: impl FnOnce() -> F,
    ) -> Result<Arc<Part>, E> {
        let cell = self.place(key, bytes * COPIES, now);
        cell.get_or_try_init(|| async { reading().await.map(Arc::new) }).await.cloned()
    }

    /// Drops what is old.
    pub fn sweep(&self, now: Instant) {
        self.lock().retain(|_, slot| slot.is_fresh(now));
    }

    fn place(&self, key: &Key, bytes: usize, now: Instant) -> Arc<OnceCell<Arc<Part>>> {
        let mut slots = self.lock();
        if let Some(slot) = slots.get(key).filter(|slot| slot.is_fresh(now)) {
            return slot.part.clone();
        }
        slots.retain(|_, slot| slot.is_fresh(now));
        let mut held: usize = slots.values().map(|slot| slot.bytes).sum();
        while slots.len() >= MAX_PARTS || (held + bytes > MAX_BYTES && !slots.is_empty()) {
            let Some(oldest) = slots.iter().min_by_key(|(_, slot)| slot.since).map(|(key, _)| key.clone())
            else {
                break;
            };
            held -= slots.remove(&oldest).map_or(0, |slot| slot.bytes);
        }
        let part = Arc::new(OnceCell::new());
        slots.insert(key.clone(), Slot { part: part.clone(), bytes, since: now });
        part
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < TTL
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use roomcast_protocol::Data;

    use super::*;

    fn key(after: u64) -> Key {
        Key {
            room: RoomName::parse("event:a").unwrap(),
            epoch: Epoch::new("e"),
            after: Offset(after),
            events: 3,
        }
    }

    fn part(after: u64) -> Part {
        let event = |offset| Event {
            event: "e".to_owned(),
            data: Data::of(&offset).unwrap(),
            offset: Offset(offset),
            at: 1,
            from: None,
        };
        Part::new((after + 1..=after + 3).map(event).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_cost_one_reading() {
        let (shelf, readings) = (Shelf::default(), Cell::new(0));
        let ask = async |_| {
            let reading = async || {
                readings.set(readings.get() + 1);
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok::<_, ()>(part(0))
            };
            shelf.part(&key(0), 1, Instant::now(), reading).await
        };
        let parts = futures_util::future::join_all((0..50).map(ask)).await;
        assert!(parts.iter().all(|part| part.as_ref().unwrap().events.len() == 3));
        assert_eq!(readings.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_shared_is_for_who_read_it_and_a_reader_that_goes_holds_up_nobody() {
        let (shelf, first) = (Shelf::default(), key(0));
        let refused = shelf.part(&first, 1, Instant::now(), || async { Err("not whole") }).await;
        assert_eq!(refused.unwrap_err(), "not whole");
        let never = shelf.part(&first, 1, Instant::now(), || async {
            std::future::pending::<()>().await;
            Err("never")
        });
        assert!(tokio::time::timeout(Duration::from_secs(1), never).await.is_err());
        let found = shelf.part(&first, 1, Instant::now(), || async { Ok::<_, ()>(part(0)) }).await.unwrap();
        assert_eq!(found.events[0].offset, Offset(1));
    }

    #[tokio::test]
    async fn it_holds_a_bounded_number_of_bytes_and_nothing_for_long() {
        let (shelf, begun) = (Shelf::default(), Instant::now());
        let fill = async |after, bytes, now| {
            shelf.part(&key(after), bytes, now, async || Ok::<_, ()>(part(after))).await
        };
        for after in 0..2 * MAX_PARTS as u64 {
            fill(after, 1, begun + Duration::from_millis(after)).await.unwrap();
        }
        assert_eq!(shelf.lock().len(), MAX_PARTS);
        assert!(!shelf.lock().contains_key(&key(0)), "the oldest gives way");
        fill(1_000, MAX_BYTES, begun + Duration::from_secs(1)).await.unwrap();
        assert_eq!(shelf.lock().keys().collect::<Vec<_>>(), [&key(1_000)]);
        shelf.sweep(begun + Duration::from_secs(1) + TTL);
        assert!(shelf.lock().is_empty());
    }

    #[test]
    fn pushes_are_cut_where_a_push_ends() {
        let (part, room) = (part(7), RoomName::parse("event:a").unwrap());
        for codec in [Codec::json(), Codec::msgpack()] {
            let each: Vec<Bytes> = part
                .events
                .iter()
                .map(|event| Push::Event { room: room.clone(), event: event.clone() })
                .map(|push| codec.encode(&ServerFrame::Push(push)).unwrap())
                .collect();
            let all = each.concat();
            let pushes = |from, bytes| {
                let encode = |frame: &ServerFrame| codec.encode(frame).ok();
                let Pushes { block, count } = part.pushes(codec, &room, from, bytes, encode);
                (block.to_vec(), count)
            };
            assert_eq!(pushes(0, usize::MAX), (all.clone(), 3));
            assert_eq!(pushes(1, usize::MAX), (each[1..].concat(), 2));
            assert_eq!(pushes(0, all.len() - 1), (each[..2].concat(), 2));
            assert_eq!(pushes(2, 1), (each[2].to_vec(), 1), "one at least");
            assert_eq!(pushes(3, 1), (Vec::new(), 0));
        }
    }
}
