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
/// What an event takes besides its texts, about.
const EVENT_OVERHEAD: usize = 128;

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

    /// What its events take, about, in memory or encoded for this room.
    pub fn bytes(&self, room: &RoomName) -> usize {
        let of = |event: &Event| {
            let texts =
                event.data.as_str().len() + event.event.len() + event.from.as_ref().map_or(0, String::len);
            texts + room.as_str().len() + EVENT_OVERHEAD
        };
        self.events.iter().map(of).sum()
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
    part: Arc<Cell>,
    /// What it takes, about.
    bytes: usize,
    since: Instant,
}

/// A part, once it was looked for; none where there is nothing that could be shared.
type Cell = OnceCell<Option<Arc<Part>>>;

impl Shelf {
    /// A part: the one that is here, or what `reading` finds. Who comes while it is read waits for that, and where there
    /// is nothing to share, all are told so for as long as a part is kept. After a failure the next one reads.
    pub async fn part<E, F: Future<Output = Result<Option<Part>, E>>>(
        &self,
        key: &Key,
        now: Instant,
        reading: impl FnOnce() -> F,
    ) -> Result<Option<Arc<Part>>, E> {
        let cell = self.place(key, now);
        let found = cell.get_or_try_init(|| async {
            let part = reading().await?.map(Arc::new);
            self.account(key, &cell, part.as_ref().map_or(0, |part| part.bytes(&key.room) * COPIES));
            Ok(part)
        });
        found.await.cloned()
    }

    /// Forgets everything: the logs may not be what they were.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Drops what is old.
    pub fn sweep(&self, now: Instant) {
        self.lock().retain(|_, slot| slot.is_fresh(now));
    }

    fn place(&self, key: &Key, now: Instant) -> Arc<Cell> {
        let mut slots = self.lock();
        if let Some(slot) = slots.get(key).filter(|slot| slot.is_fresh(now)) {
            return slot.part.clone();
        }
        slots.retain(|_, slot| slot.is_fresh(now));
        make_room(&mut slots, MAX_PARTS - 1, MAX_BYTES);
        let part = Arc::new(Cell::new());
        slots.insert(key.clone(), Slot { part: part.clone(), bytes: 0, since: now });
        part
    }

    /// A part was read, and takes so much.
    fn account(&self, key: &Key, cell: &Arc<Cell>, bytes: usize) {
        let mut slots = self.lock();
        if !slots.get(key).is_some_and(|slot| Arc::ptr_eq(&slot.part, cell)) {
            return;
        }
        make_room(&mut slots, MAX_PARTS, MAX_BYTES.saturating_sub(bytes));
        if let Some(slot) = slots.get_mut(key) {
            slot.bytes = bytes;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The oldest give way until no more than so many parts and bytes are left.
fn make_room(slots: &mut HashMap<Key, Slot>, parts: usize, bytes: usize) {
    let mut held: usize = slots.values().map(|slot| slot.bytes).sum();
    while slots.len() > parts || held > bytes {
        let oldest = slots.iter().min_by_key(|(_, slot)| slot.since).map(|(key, _)| key.clone());
        let Some(oldest) = oldest else { return };
        held -= slots.remove(&oldest).map_or(0, |slot| slot.bytes);
    }
}

impl Slot {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < TTL
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell as StdCell;

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
        for share in [true, false] {
            let (shelf, readings) = (Shelf::default(), StdCell::new(0));
            let ask = async |_| {
                let reading = async || {
                    readings.set(readings.get() + 1);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Ok::<_, ()>(share.then(|| part(0)))
                };
                shelf.part(&key(0), Instant::now(), reading).await
            };
            let parts = futures_util::future::join_all((0..50).map(ask)).await;
            assert!(parts.iter().all(|part| part.as_ref().unwrap().is_some() == share));
            assert_eq!(readings.get(), 1);
            assert_eq!(ask(0).await.unwrap().is_some(), share);
            shelf.clear();
            ask(0).await.unwrap();
            assert_eq!(readings.get(), 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_that_fails_or_never_ends_holds_up_nobody() {
        let (shelf, first) = (Shelf::default(), key(0));
        let failed = shelf.part(&first, Instant::now(), || async { Err("Redis is away") }).await;
        assert_eq!(failed.unwrap_err(), "Redis is away");
        let never = shelf.part(&first, Instant::now(), || async {
            std::future::pending::<()>().await;
            Err("never")
        });
        assert!(tokio::time::timeout(Duration::from_secs(1), never).await.is_err());
        let found = shelf.part(&first, Instant::now(), || async { Ok::<_, ()>(Some(part(0))) }).await;
        assert_eq!(found.unwrap().unwrap().events[0].offset, Offset(1));
    }

    #[tokio::test]
    async fn it_holds_a_bounded_number_of_bytes_and_nothing_for_long() {
        let (shelf, begun) = (Shelf::default(), Instant::now());
        let large = |after| {
            let mut part = part(after);
            part.events[0].data = Data::of(&"x".repeat(MAX_BYTES / COPIES / 4)).unwrap();
            part
        };
        let fill = async |after: u64, part: Part| {
            let now = begun + Duration::from_millis(after);
            shelf.part(&key(after), now, async || Ok::<_, ()>(Some(part))).await.unwrap().unwrap();
        };
        for after in 0..2 * MAX_PARTS as u64 {
            fill(after, part(after)).await;
        }
        assert_eq!(shelf.lock().len(), MAX_PARTS);
        assert!(!shelf.lock().contains_key(&key(0)), "the oldest gives way");
        for after in 1_000..1_010 {
            fill(after, large(after)).await;
        }
        let held: usize = shelf.lock().values().map(|slot| slot.bytes).sum();
        assert!((MAX_BYTES / 2..=MAX_BYTES).contains(&held), "{held}");
        assert_eq!(shelf.lock().len(), 3);
        shelf.sweep(begun + Duration::from_millis(1_009) + TTL);
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
