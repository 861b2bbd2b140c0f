//! The sending end of a node's feed: bounded, never blocking, and honest about what it drops.
//!
//! One slot of the channel is always held back for [`Feed::Interrupted`]. So when there is no room for an event, the
//! mark of its loss still fits, at the very place of the loss. While no slot is held back, such a mark is on its way
//! unread, and it stands for later losses in its scope too: whoever reads it looks at the history of a time after
//! them. What lies beyond its scope follows as soon as there is room, before anything else.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::{Control, Feed, Scope};

/// Items on their way to the reader: what a burst of a second may bring.
pub(crate) const DEFAULT_FEED_CAPACITY: usize = 65_536;
/// Controls kept aside while the channel is full. No history repairs their loss.
const MAX_CONTROLS: usize = 1_024;

/// Why something did not reach the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// The reader of the feed was too slow.
    FeedFull,
    /// Too many controls waited already.
    ControlsFull,
    /// It was no payload of ours.
    Malformed,
}

impl Dropped {
    const ALL: [Self; 3] = [Self::FeedFull, Self::ControlsFull, Self::Malformed];

    const fn as_str(self) -> &'static str {
        match self {
            Dropped::FeedFull => "feed_full",
            Dropped::ControlsFull => "controls_full",
            Dropped::Malformed => "malformed",
        }
    }

    /// Counts so many in `roomcast_broker_dropped_total`.
    pub(crate) fn count(self, number: u64) {
        metrics::counter!("roomcast_broker_dropped_total", "reason" => self.as_str()).increment(number);
    }
}

/// The sending end. It has one owner at a time: its order is the feed's order.
#[derive(Debug)]
pub(crate) struct FeedSender {
    sender: mpsc::Sender<Feed>,
    mark: Option<mpsc::OwnedPermit<Feed>>,
    /// What the last mark said. It is unread while no slot is held back.
    told: Option<Scope>,
    /// What is to be said by the next one.
    untold: Option<Scope>,
    controls: VecDeque<Control>,
}

/// A feed with room for so many items besides the mark.
pub(crate) fn channel(capacity: usize) -> (FeedSender, mpsc::Receiver<Feed>) {
    // There from the first scrape on, so that the first loss is seen as a rise.
    for reason in Dropped::ALL {
        reason.count(0);
    }
    let (sender, receiver) = mpsc::channel(capacity.saturating_add(1));
    let mark = sender.clone().try_reserve_owned().ok();
    (FeedSender { sender, mark, told: None, untold: None, controls: VecDeque::new() }, receiver)
}

impl FeedSender {
    /// Hands an item on, or drops it and marks the place.
    pub(crate) fn push(&mut self, item: Feed) {
        self.flush();
        match item {
            Feed::Interrupted(scope) => self.interrupt(scope),
            Feed::Control(control) if !self.controls.is_empty() => self.keep(control),
            item => match self.sender.try_send(item) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(Feed::Control(control))) => self.keep(control),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    Dropped::FeedFull.count(1);
                    self.interrupt(Scope::All);
                }
            },
        }
    }

    /// Says that something may have been missed in these rooms.
    pub(crate) fn interrupt(&mut self, scope: Scope) {
        self.hold_mark();
        if self.mark.is_none() && self.told == Some(Scope::All) {
            return;
        }
        self.untold = Some(match self.untold.take() {
            Some(untold) => untold.and(scope),
            None => scope,
        });
        self.tell();
    }

    fn tell(&mut self) {
        if let Some(scope) = self.untold.take() {
            match self.mark.take() {
                Some(mark) => {
                    self.told = Some(scope.clone());
                    mark.send(Feed::Interrupted(scope));
                    self.hold_mark();
                }
                None => self.untold = Some(scope),
            }
        }
    }

    /// Hands on what was kept aside, as far as there is room.
    pub(crate) fn flush(&mut self) {
        self.hold_mark();
        self.tell();
        while let Some(control) = self.controls.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(Feed::Control(control))) =
                self.sender.try_send(Feed::Control(control))
            {
                self.controls.push_front(control);
                return;
            }
        }
    }

    fn hold_mark(&mut self) {
        if self.mark.is_none() {
            self.mark = self.sender.clone().try_reserve_owned().ok();
        }
    }

    fn keep(&mut self, control: Control) {
        if self.controls.len() < MAX_CONTROLS {
            self.controls.push_back(control);
        } else {
            Dropped::ControlsFull.count(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use roomcast_protocol::{CounterValue, RoomName};

    use super::*;
    use crate::broker::Delivery;

    fn numbered(version: u64) -> Feed {
        let value = CounterValue { target: "t".into(), counter: "c".into(), value: 0, version };
        Feed::Delivery(RoomName::parse("event:a").unwrap(), Delivery::Count(value))
    }

    #[test]
    fn a_loss_is_marked_at_its_place_without_anyone_waiting() {
        let (mut feed, mut reader) = channel(2);
        (1..=4).for_each(|number| feed.push(numbered(number)));
        let seen: Vec<_> = std::iter::from_fn(|| reader.try_recv().ok()).collect();
        assert!(
            matches!(seen[..], [Feed::Delivery(..), Feed::Delivery(..), Feed::Interrupted(Scope::All)]),
            "{seen:?}"
        );
    }

    #[test]
    fn controls_outlive_a_full_channel() {
        let (mut feed, mut reader) = channel(1);
        feed.push(numbered(1));
        feed.push(Feed::Control(Control::NodesChanged));
        assert!(matches!(reader.try_recv(), Ok(Feed::Delivery(..))));
        feed.flush();
        assert!(matches!(reader.try_recv(), Ok(Feed::Control(Control::NodesChanged))));
    }

    fn slot(slot: u16) -> Scope {
        Scope::Slots([slot].into_iter().collect())
    }

    #[test]
    fn a_mark_on_its_way_stands_for_its_own_scope_only() {
        let (mut feed, mut reader) = channel(1);
        feed.push(numbered(1));
        feed.interrupt(slot(1));
        feed.interrupt(slot(1));
        feed.interrupt(slot(2));
        assert!(matches!(reader.try_recv(), Ok(Feed::Delivery(..))));
        // Whoever is told next is told of the rest first.
        feed.push(numbered(2));
        let seen: Vec<_> = std::iter::from_fn(|| reader.try_recv().ok()).collect();
        let [Feed::Interrupted(first), Feed::Interrupted(then)] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((first, then), (&slot(1), &slot(1).and(slot(2))));
    }

    proptest! {
        /// Whatever the interleaving: each interruption is followed by a mark that names its rooms.
        #[test]
        fn no_interruption_is_forgotten(
            capacity in 1usize..5,
            steps in proptest::collection::vec(0u16..5, 1..200),
        ) {
            let (mut feed, mut reader) = channel(capacity);
            let mut owed = std::collections::BTreeSet::new();
            let read = |reader: &mut mpsc::Receiver<Feed>, owed: &mut std::collections::BTreeSet<u16>| {
                match reader.try_recv() {
                    Ok(Feed::Interrupted(Scope::All)) => owed.clear(),
                    Ok(Feed::Interrupted(Scope::Slots(slots))) => owed.retain(|slot| !slots.contains(*slot)),
                    Ok(_) => {}
                    Err(_) => return false,
                }
                true
            };
            for step in steps {
                match step {
                    3 => feed.push(numbered(1)),
                    4 => { read(&mut reader, &mut owed); }
                    slot_number => {
                        owed.insert(slot_number);
                        feed.interrupt(slot(slot_number));
                    }
                }
            }
            loop {
                feed.flush();
                if !read(&mut reader, &mut owed) {
                    break;
                }
            }
            prop_assert!(owed.is_empty(), "{owed:?}");
        }

        /// Whatever the interleaving of sending and reading: a number that is missing is followed by a mark that
        /// is read after it was dropped.
        #[test]
        fn no_loss_goes_unmarked(capacity in 1usize..5, steps in proptest::collection::vec(any::<bool>(), 1..200)) {
            let (mut feed, mut reader) = channel(capacity);
            let (mut sent, mut covered) = (0u64, 0u64);
            let mut read = |reader: &mut mpsc::Receiver<Feed>, sent: u64| -> bool {
                match reader.try_recv() {
                    Ok(Feed::Delivery(_, Delivery::Count(value))) => {
                        assert!(value.version == covered + 1 || value.version <= covered, "unmarked loss");
                        covered = covered.max(value.version);
                        true
                    }
                    // Reading the mark means reading the history of this moment.
                    Ok(_) => { covered = sent; true }
                    Err(_) => false,
                }
            };
            for send in steps {
                if send {
                    sent += 1;
                    feed.push(numbered(sent));
                } else {
                    read(&mut reader, sent);
                }
            }
            while read(&mut reader, sent) {}
            prop_assert_eq!(covered, sent);
        }
    }
}
