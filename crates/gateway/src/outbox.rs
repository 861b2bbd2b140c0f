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
}

impl Item {
    /// A frame that must arrive: an answer, an event, a pong.
    pub fn must(bytes: Bytes) -> Self {
        Self { bytes, class: PushClass::MustDeliver, key: None }
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

/// The queue of one socket.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Item>,
    bytes: usize,
    /// Whether part of the first frame is on the wire already, so that the rest must follow.
    started: bool,
}

impl Outbox {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames that wait.
    pub fn frames(&self) -> usize {
        self.queue.len()
    }

    /// Puts the rest of a frame first whose beginning was written already. Only when nothing waits.
    pub fn push_rest(&mut self, rest: Bytes) {
        debug_assert!(self.queue.is_empty());
        self.bytes += rest.len();
        self.queue.push_back(Item::must(rest));
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
        self.bytes += item.bytes.len();
        self.queue.push_back(item);
        Ok(dropped)
    }

    /// Queues a frame past the bounds: the close frame of a socket that is being ended.
    pub fn push_last(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        self.queue.push_back(Item::must(bytes));
    }

    /// Forgets all but the frame that is on the wire already. Returns how many frames were lost.
    pub fn clear(&mut self) -> usize {
        let keep = usize::from(self.started);
        let lost = self.queue.len().saturating_sub(keep);
        self.queue.truncate(keep);
        self.bytes = self.queue.iter().map(|item| item.bytes.len()).sum();
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
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
        self.bytes = self.bytes.saturating_sub(written);
        while written > 0 {
            let Some(front) = self.queue.front_mut() else { break };
            if written < front.bytes.len() {
                let _sent = front.bytes.split_to(written);
                self.started = true;
                return;
            }
            written -= front.bytes.len();
            self.queue.pop_front();
            self.started = false;
        }
        if self.queue.is_empty() {
            // The queue's memory goes back: most sockets never need it again.
            self.queue = VecDeque::new();
        }
    }

    fn fits(&self, item: &Item, caps: OutboxCaps) -> bool {
        self.queue.len() < caps.frames && self.bytes + item.bytes.len() <= caps.bytes
    }

    fn position_of(&self, key: &ConflationKey) -> Option<usize> {
        let first_free = usize::from(self.started);
        self.queue.iter().skip(first_free).position(|item| item.key.as_ref() == Some(key)).map(|at| at + first_free)
    }

    fn drop_class(&mut self, class: PushClass) -> u64 {
        let before = self.queue.len();
        let mut first = self.started;
        self.queue.retain(|item| std::mem::take(&mut first) || item.class != class);
        self.bytes = self.queue.iter().map(|item| item.bytes.len()).sum();
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
        Item { bytes: Bytes::from(vec![b'f'; n]), class: PushClass::Fleeting, key: None }
    }

    fn count(target: &str, value: u64) -> Item {
        let value = CounterValue { target: target.into(), counter: "like".into(), value, version: value };
        let push = Arc::new(SharedPush::new(Push::Count { room: RoomName::parse("event:a").unwrap(), value: value.clone() }));
        let bytes = Bytes::from(format!("{target}{}", value.value));
        Item { bytes, class: PushClass::Conflated, key: ConflationKey::of(&push) }
    }

    fn text(outbox: &Outbox) -> String {
        outbox.queue.iter().map(|item| String::from_utf8_lossy(&item.bytes).into_owned()).collect::<Vec<_>>().join("|")
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
        assert_eq!(outbox.bytes(), 80);
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
    fn partial_writes_keep_every_byte_in_order() {
        let mut outbox = Outbox::default();
        for text in ["abc", "de", "f"] {
            outbox.push(Item::must(Bytes::from(text)), CAPS).unwrap();
        }
        let mut seen = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2];
            let filled = outbox.slices(&mut slices);
            let first: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).take(2).collect();
            seen.extend_from_slice(&first);
            let n = first.len();
            outbox.advance(n);
        }
        assert_eq!(seen, b"abcdef");
        assert_eq!(outbox.bytes(), 0);
    }
}
