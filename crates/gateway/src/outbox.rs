//! What waits for one socket that can't take it at once: bounded in bytes and frames, aware of delivery classes.
//!
//! The outbox never touches a socket. Fleeting frames give way first, conflated frames replace their older selves,
//! and what must be delivered is never dropped: when it does not fit, the socket is a slow consumer.

use std::{collections::VecDeque, hash::Hash, io::IoSlice, sync::Arc};

use bytes::Bytes;
use roomcast_protocol::{Push, PushClass, SharedPush};

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub struct OutboxCaps {
    /// Bytes.
    pub bytes: usize,
    /// Frames.
    pub frames: usize,
}

/// What a conflated frame is the latest of: the room and counter, or the room's presence.
#[derive(Debug, Clone)]
pub struct ConflationKey(Arc<SharedPush>);

impl ConflationKey {
    /// The key of a push, where its class has one.
    pub fn of(push: &Arc<SharedPush>) -> Option<Self> {
        (push.push().class() == PushClass::Conflated).then(|| Self(push.clone()))
    }
}

impl PartialEq for ConflationKey {
    fn eq(&self, other: &Self) -> bool {
        match (self.0.push(), other.0.push()) {
            (Push::Count { room, value }, Push::Count { room: other_room, value: other }) => {
                value.target == other.target && value.counter == other.counter && room == other_room
            }
            (Push::Presence { room, .. }, Push::Presence { room: other, .. }) => room == other,
            _ => false,
        }
    }
}

impl Eq for ConflationKey {}

impl Hash for ConflationKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self.0.push() {
            Push::Count { room, value } => (room, &value.target, &value.counter).hash(state),
            Push::Presence { room, .. } => room.hash(state),
            _ => {}
        }
    }
}

/// One frame on its way.
#[derive(Debug, Clone)]
pub struct Item {
    /// The rest of the frame.
    pub bytes: Bytes,
    /// What may happen to it.
    pub class: PushClass,
    /// What it is the latest of.
    pub key: Option<ConflationKey>,
    /// Who asked for it.
    pub cause: Cause,
}

/// Who asked for a frame, and with it, what bounds its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The client: while an answer waits, the client is not read, so at most one does.
    Answer,
    /// Nobody: the outbox's bytes and frames bound it.
    Push,
}

impl Item {
    /// What the client asked for.
    pub fn answer(bytes: Bytes) -> Self {
        Self { bytes, class: PushClass::MustDeliver, key: None, cause: Cause::Answer }
    }

    /// What nobody asked for, but must arrive.
    pub fn must(bytes: Bytes) -> Self {
        Self { cause: Cause::Push, ..Self::answer(bytes) }
    }

    /// A push of any class.
    pub fn push(bytes: Bytes, push: &Arc<SharedPush>) -> Self {
        Self { bytes, class: push.push().class(), key: ConflationKey::of(push), cause: Cause::Push }
    }
}

/// What became of a frame, besides being queued.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Fleeting frames that gave way, this one perhaps among them.
    pub fleeting: u64,
    /// Conflated frames that a newer one replaced or that gave way.
    pub conflated: u64,
}

/// A frame that must be delivered does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The queue of one socket. Most never need it, and none for long: it is there only as long as something waits.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Item>,
    /// Bytes and frames that the bounds count: all but answers.
    bytes: usize,
    frames: usize,
    /// Whether part of the first frame is on the wire already, so that the rest must follow.
    started: bool,
}

impl Outbox {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// All bytes that wait.
    pub fn len_bytes(&self) -> usize {
        self.queue.iter().map(|item| item.bytes.len()).sum()
    }

    /// Bytes of pushes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether an answer waits.
    pub fn owes_answers(&self) -> bool {
        self.frames < self.queue.len()
    }

    /// Puts the rest of a frame first whose beginning was written already. Only when nothing waits.
    pub fn push_rest(&mut self, rest: Bytes, cause: Cause) {
        debug_assert!(self.queue.is_empty());
        self.append(Item { cause, ..Item::must(rest) });
        self.started = true;
    }

    /// Queues a frame, making room by the classes' rules.
    pub fn push(&mut self, item: Item, caps: OutboxCaps) -> Result<Dropped, Full> {
        let mut dropped = Dropped::default();
        if let Some(key) = &item.key
            && let Some(at) = self.position_of(key)
        {
            // The newer value takes the older one's place: it may not overtake what was queued before it, but
            // must not fall behind what came between either, and a conflated frame has no order to keep.
            self.bytes = self.bytes - self.queue[at].bytes.len() + item.bytes.len();
            self.queue[at] = item;
            dropped.conflated += 1;
            return Ok(dropped);
        }
        if item.cause == Cause::Answer {
            self.append(item);
            return Ok(dropped);
        }
        if !self.fits(&item, caps) {
            dropped.fleeting += self.drop_class(PushClass::Fleeting);
        }
        if !self.fits(&item, caps) {
            match item.class {
                PushClass::Fleeting => {
                    dropped.fleeting += 1;
                    return Ok(dropped);
                }
                PushClass::Conflated | PushClass::MustDeliver => return Err(Full),
            }
        }
        self.append(item);
        Ok(dropped)
    }

    fn append(&mut self, item: Item) {
        if item.cause == Cause::Push {
            self.bytes += item.bytes.len();
            self.frames += 1;
        }
        self.queue.push_back(item);
    }

    /// Counts anew, after frames were taken out of the middle.
    fn recount(&mut self) {
        let pushes = self.queue.iter().filter(|item| item.cause == Cause::Push);
        (self.frames, self.bytes) = pushes.fold((0, 0), |(n, bytes), item| (n + 1, bytes + item.bytes.len()));
    }

    /// Queues a frame past the bounds: the close frame of a socket that is being ended.
    pub fn push_last(&mut self, bytes: Bytes) {
        self.append(Item::must(bytes));
    }

    /// Forgets all but the frame that is on the wire already. Returns how many frames were lost.
    pub fn clear(&mut self) -> usize {
        let keep = usize::from(self.started);
        let lost = self.queue.len().saturating_sub(keep);
        self.queue.truncate(keep);
        self.recount();
        lost
    }

    /// The front of the queue for a vectored write; returns how many slices were filled.
    pub fn slices<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slot, item) in into.iter_mut().zip(&self.queue) {
            *slot = IoSlice::new(&item.bytes);
            filled += 1;
        }
        filled
    }

    /// So many bytes of the front were written.
    pub fn advance(&mut self, mut written: usize) {
        while written > 0 {
            let Some(front) = self.queue.front_mut() else { break };
            let sent = written.min(front.bytes.len());
            let _sent = front.bytes.split_to(sent);
            written -= sent;
            let (done, counted) = (front.bytes.is_empty(), front.cause == Cause::Push);
            if counted {
                self.bytes -= sent;
                self.frames -= usize::from(done);
            }
            self.started = !done;
            if done {
                self.queue.pop_front();
            }
        }
    }

    fn fits(&self, item: &Item, caps: OutboxCaps) -> bool {
        self.frames < caps.frames && self.bytes + item.bytes.len() <= caps.bytes
    }

    fn position_of(&self, key: &ConflationKey) -> Option<usize> {
        let first_free = usize::from(self.started);
        self.queue
            .iter()
            .skip(first_free)
            .position(|item| item.key.as_ref() == Some(key))
            .map(|at| at + first_free)
    }

    fn drop_class(&mut self, class: PushClass) -> u64 {
        let before = self.queue.len();
        let mut first = self.started;
        self.queue.retain(|item| std::mem::take(&mut first) || item.class != class);
        self.recount();
        (before - self.queue.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use roomcast_protocol::{CounterValue, RoomName};

    use super::*;

    const CAPS: OutboxCaps = OutboxCaps { bytes: 100, frames: 4 };

    fn must(n: usize) -> Item {
        Item::must(Bytes::from(vec![b'm'; n]))
    }

    fn fleeting(n: usize) -> Item {
        Item { class: PushClass::Fleeting, ..must(n) }
    }

    fn count(target: &str, value: u64) -> Item {
        let value = CounterValue { target: target.into(), counter: "like".into(), value, version: value };
        let push = Arc::new(SharedPush::new(Push::Count {
            room: RoomName::parse("event:a").unwrap(),
            value: value.clone(),
        }));
        let bytes = Bytes::from(format!("{target}{}", value.value));
        Item::push(bytes, &push)
    }

    fn text(outbox: &Outbox) -> String {
        outbox
            .queue
            .iter()
            .map(|item| String::from_utf8_lossy(&item.bytes).into_owned())
            .collect::<Vec<_>>()
            .join("|")
    }

    #[test]
    fn the_newest_value_of_a_counter_replaces_the_older_one() {
        let mut outbox = Outbox::default();
        outbox.push(count("a", 1), CAPS).unwrap();
        outbox.push(count("b", 1), CAPS).unwrap();
        assert_eq!(outbox.push(count("a", 2), CAPS), Ok(Dropped { fleeting: 0, conflated: 1 }));
        assert_eq!(text(&outbox), "a2|b1");
    }

    #[test]
    fn a_frame_on_the_wire_is_never_replaced_or_dropped() {
        let mut outbox = Outbox::default();
        outbox.push(count("a", 1), CAPS).unwrap();
        outbox.advance(1);
        outbox.push(count("a", 2), CAPS).unwrap();
        assert_eq!(text(&outbox), "1|a2");
        assert_eq!(outbox.clear(), 1);
        assert_eq!(text(&outbox), "1");
    }

    #[test]
    fn fleeting_frames_give_way_before_a_must_deliver_frame_is_refused() {
        let mut outbox = Outbox::default();
        outbox.push(fleeting(60), CAPS).unwrap();
        outbox.push(must(20), CAPS).unwrap();
        assert_eq!(outbox.push(must(60), CAPS), Ok(Dropped { fleeting: 1, conflated: 0 }));
        assert_eq!(outbox.push(fleeting(30), CAPS), Ok(Dropped { fleeting: 1, conflated: 0 }));
        assert_eq!(outbox.push(must(30), CAPS), Err(Full));
        assert_eq!(outbox.bytes, 80);
    }

    #[test]
    fn frames_are_bounded_in_number_too() {
        let mut outbox = Outbox::default();
        for _ in 0..4 {
            outbox.push(must(1), CAPS).unwrap();
        }
        assert_eq!(outbox.push(must(1), CAPS), Err(Full));
    }

    #[test]
    fn an_answer_is_never_refused_but_is_owed() {
        let mut outbox = Outbox::default();
        outbox.push(must(90), CAPS).unwrap();
        outbox.push(Item::answer(Bytes::from(vec![b'a'; 500])), CAPS).unwrap();
        assert!(outbox.owes_answers());
        assert!(outbox.push(must(10), CAPS).is_ok());
        outbox.advance(589);
        assert!(outbox.owes_answers());
        outbox.advance(1);
        assert!(!outbox.owes_answers());
        assert_eq!((outbox.bytes, outbox.frames), (10, 1));
    }

    #[test]
    fn partial_writes_keep_every_byte_in_order() {
        let mut outbox = Outbox::default();
        for text in ["abc", "de", "f"] {
            outbox.push(Item::must(Bytes::from(text)), CAPS).unwrap();
        }
        let mut seen = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2];
            let filled = outbox.slices(&mut slices);
            let first: Vec<u8> =
                slices[..filled].iter().flat_map(|slice| slice.iter().copied()).take(2).collect();
            seen.extend_from_slice(&first);
            let n = first.len();
            outbox.advance(n);
        }
        assert_eq!(seen, b"abcdef");
        assert_eq!((outbox.bytes, outbox.frames), (0, 0));
    }
}
