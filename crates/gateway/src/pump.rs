//! From the broker to the workers: every push is decoded once, shared by all workers, and every gap is healed here.
//!
//! The pump never blocks on a worker: a lane that is full makes a gap, and a gap is read back from history.

use std::{collections::HashMap, sync::Arc, time::Duration};

use roomcast_core::{continuity::{FeedAction, RoomFeed}, permission::{HistoryRules, Namespaces}};
use roomcast_protocol::{Event, Offset, Position, Push, RoomName, SharedPush};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    broker::{self, Broker, BrokerError, Control, Feed, Page, Range},
    hub::{Delivery, Place},
    interest::Interest,
    metrics,
};

/// Events read per repair step.
const REPAIR_PAGE: usize = 500;
/// Rooms repaired at once: a node with 100,000 rooms must not stampede a Redis that has just come back.
const REPAIRS: usize = 32;
/// Before a failed repair is tried again.
const REPAIR_PAUSE: Duration = Duration::from_millis(200);

/// What a worker is told besides pushes; rare, so its channel is unbounded.
#[derive(Debug, Clone)]
pub enum Word {
    /// A word for every session.
    Control(Control),
    /// Evict the room that was empty longest: another worker needs its place.
    EvictIdle,
}

/// The way to one worker.
#[derive(Debug, Clone)]
pub struct Lane {
    /// Pushes for the members of its rooms.
    pub deliveries: mpsc::Sender<Delivery>,
    /// Everything else.
    pub words: mpsc::UnboundedSender<Word>,
}

/// What the sessions tell the pump.
#[derive(Debug)]
pub enum Note {
    /// A join read the room's log and found its tail here.
    Tail(RoomName, Position),
    /// The room is not subscribed any more.
    Gone(RoomName),
}

/// What runs on the control thread between broker and workers.
#[derive(Debug)]
pub struct Pump {
    broker: Broker,
    interest: Interest,
    namespaces: Arc<Namespaces>,
    lanes: Vec<Lane>,
    feeds: HashMap<RoomName, RoomFeed<Event>>,
    waiting: std::collections::VecDeque<(RoomName, Position)>,
    repairs: JoinSet<(RoomName, Result<Page, BrokerError>)>,
}

impl Pump {
    /// A pump that has moved nothing yet.
    pub fn new(broker: Broker, interest: Interest, namespaces: Arc<Namespaces>, lanes: Vec<Lane>) -> Self {
        Self {
            broker,
            interest,
            namespaces,
            lanes,
            feeds: HashMap::new(),
            waiting: std::collections::VecDeque::new(),
            repairs: JoinSet::new(),
        }
    }

    /// Moves until the feed ends. `nodes_changed` is rung when nodes came or went.
    pub async fn run(mut self, mut feed: mpsc::Receiver<Feed>, mut notes: mpsc::UnboundedReceiver<Note>, nodes_changed: impl Fn()) {
        loop {
            tokio::select! {
                item = feed.recv() => match item {
                    Some(Feed::Delivery(room, delivery)) => self.arrived(&room, delivery),
                    Some(Feed::Control(control)) => {
                        if control == Control::NodesChanged {
                            nodes_changed();
                        } else {
                            self.tell_all(&Word::Control(control));
                        }
                    }
                    Some(Feed::Interrupted) => self.interrupted(),
                    None => return,
                },
                Some(note) = notes.recv() => match note {
                    Note::Tail(room, tail) => self.tail(&room, &tail),
                    Note::Gone(room) => {
                        if !self.interest.contains(&room) {
                            self.feeds.remove(&room);
                        }
                    }
                },
                Some(done) = self.repairs.join_next() => {
                    if let Ok((room, result)) = done {
                        self.repaired(&room, result);
                    }
                }
            }
            self.start_repairs();
        }
    }

    fn arrived(&mut self, room: &RoomName, delivery: broker::Delivery) {
        if !self.interest.contains(room) {
            return;
        }
        match delivery {
            broker::Delivery::Event(epoch, event) => {
                metrics::event();
                let offset = event.offset;
                let actions = self.feed(room).live(&epoch, offset, event);
                self.act(room, actions);
            }
            broker::Delivery::Signal { event, data, from } => {
                self.pass(room, Push::Signal { room: room.clone(), event, data, from });
            }
            broker::Delivery::Count(value) => self.pass(room, Push::Count { room: room.clone(), value }),
            broker::Delivery::Presence(count) => self.pass(room, Push::Presence { room: room.clone(), count }),
            broker::Delivery::Ended(position, reason) => {
                let actions = self.feed(room).reset(position, reason);
                self.act(room, actions);
            }
        }
    }

    /// Every room that may have missed something looks at its log.
    fn interrupted(&mut self) {
        tracing::warn!(rooms = self.feeds.len(), "the broker's subscription was interrupted: looking for gaps");
        let rooms: Vec<_> = self.feeds.keys().cloned().collect();
        for room in rooms {
            let actions = self.feed(&room).interrupted();
            self.act(&room, actions);
        }
    }

    fn tail(&mut self, room: &RoomName, tail: &Position) {
        if self.interest.contains(room) {
            self.feed(room).seed(tail);
        }
    }

    fn feed(&mut self, room: &RoomName) -> &mut RoomFeed<Event> {
        if !self.feeds.contains_key(room) {
            self.feeds.insert(room.clone(), RoomFeed::default());
        }
        self.feeds.entry(room.clone()).or_default()
    }

    fn act(&mut self, room: &RoomName, actions: impl IntoIterator<Item = FeedAction<Event>>) {
        let mut lost: Option<Offset> = None;
        for action in actions {
            match action {
                FeedAction::Deliver(position, event) => {
                    let offset = position.offset;
                    let delivery = Delivery {
                        room: room.clone(),
                        place: Place::Event(position),
                        at: Some(event.at),
                        push: Arc::new(SharedPush::new(Push::Event { room: room.clone(), event })),
                    };
                    if !self.hand_out(&delivery) {
                        lost = lost.or(Some(offset));
                    }
                }
                FeedAction::Reset { position, reason } => {
                    metrics::gap(metrics::Gap::Reset);
                    let Position { epoch, offset } = position.clone();
                    let push = Push::Reset { room: room.clone(), epoch, offset, reason: reason.to_string() };
                    let place = Place::Reset(position);
                    let delivery = Delivery { room: room.clone(), place, at: None, push: Arc::new(SharedPush::new(push)) };
                    if !self.hand_out(&delivery) {
                        lost = lost.or(Some(offset));
                    }
                }
                FeedAction::ReadHistory { since } => self.waiting.push_back((room.clone(), since)),
            }
        }
        if let Some(offset) = lost {
            let actions = self.feed(room).rewind(offset);
            for action in actions {
                if let FeedAction::ReadHistory { since } = action {
                    self.waiting.push_back((room.clone(), since));
                }
            }
        }
    }

    fn pass(&self, room: &RoomName, push: Push) {
        metrics::signal();
        let delivery = Delivery { room: room.clone(), place: Place::None, at: None, push: Arc::new(SharedPush::new(push)) };
        // A signal may be lost; a count or presence is followed by a newer one.
        let _full = self.hand_out(&delivery);
    }

    /// False when a worker's lane had no room for it.
    fn hand_out(&self, delivery: &Delivery) -> bool {
        let mut taken = true;
        for worker in self.interest.workers(&delivery.room).iter() {
            if let Some(lane) = self.lanes.get(worker as usize) {
                taken &= lane.deliveries.try_send(delivery.clone()).is_ok();
            }
        }
        taken
    }

    fn tell_all(&self, word: &Word) {
        for lane in &self.lanes {
            // A worker without a receiver is stopping: it closes its sessions anyway.
            let _stopping = lane.words.send(word.clone());
        }
    }

    fn start_repairs(&mut self) {
        while self.repairs.len() < REPAIRS {
            let Some((room, since)) = self.waiting.pop_front() else { return };
            if !self.interest.contains(&room) {
                self.feeds.remove(&room);
                continue;
            }
            let broker = self.broker.clone();
            let history = self.history(&room);
            self.repairs.spawn(async move {
                let page = broker.history(&room, &Range::Since(since, REPAIR_PAGE), history).await;
                if page.is_err() {
                    tokio::time::sleep(REPAIR_PAUSE).await;
                }
                (room, page)
            });
        }
    }

    fn repaired(&mut self, room: &RoomName, result: Result<Page, BrokerError>) {
        let actions = match result {
            Ok(Page { tail, events, complete }) => {
                let events: Vec<_> = events.into_iter().map(|event| (event.offset, event)).collect();
                if complete && !events.is_empty() {
                    metrics::gap(metrics::Gap::Repaired);
                }
                self.feed(room).page(tail, complete, events)
            }
            Err(_still_down) => self.feed(room).failed(),
        };
        self.act(room, actions);
    }

    fn history(&self, room: &RoomName) -> HistoryRules {
        let none = HistoryRules { size: 0, ttl: Duration::from_secs(60) };
        self.namespaces.rules(room).map_or(none, |rules| rules.history)
    }
}
