//! Which rooms this node must hear, and which it hears: the workers say what they want, one task makes it so.
//!
//! A join waits here until the broker has *proven* the subscription live.

use std::{collections::HashSet, sync::Arc};

use dashmap::{DashMap, mapref::entry::Entry};
use roomcast_protocol::RoomName;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::broker::{Broker, BrokerError};

/// Subscriptions under way at once: enough to share a round trip, few enough to keep Redis' buffers small.
const CONCURRENCY: usize = 256;

/// A worker's number, 0 to 63.
pub type WorkerId = u32;

/// The workers that hold a room, one bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Workers(u64);

impl Workers {
    /// Each worker in turn.
    pub fn iter(self) -> impl Iterator<Item = WorkerId> {
        (0..u64::BITS).filter(move |worker| self.0 & (1 << worker) != 0)
    }

    fn with(self, worker: WorkerId) -> Self {
        Self(self.0 | (1 << worker))
    }

    fn without(self, worker: WorkerId) -> Self {
        Self(self.0 & !(1 << worker))
    }
}

type Waiter = oneshot::Sender<Result<(), BrokerError>>;

#[derive(Debug)]
enum Standing {
    /// Being subscribed.
    Pending(Vec<Waiter>),
    /// Proven live.
    Live,
}

#[derive(Debug)]
struct Wanted {
    workers: Workers,
    standing: Standing,
}

/// What the workers want. Shared by all threads.
#[derive(Debug, Clone)]
pub struct Interest {
    rooms: Arc<DashMap<RoomName, Wanted>>,
    changed: mpsc::UnboundedSender<RoomName>,
}

impl Interest {
    /// The shared side, and what the reconciler reads. A name is sent only when a room's standing changes, so the
    /// channel holds at most as many names as there are rooms in motion.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<RoomName>) {
        let (changed, changes) = mpsc::unbounded_channel();
        (Self { rooms: Arc::new(DashMap::new()), changed }, changes)
    }

    /// How many rooms are wanted on this node.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether no room is wanted.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// Whether the room is wanted by any worker.
    pub fn contains(&self, room: &RoomName) -> bool {
        self.rooms.contains_key(room)
    }

    /// The workers to which the room's pushes go.
    pub fn workers(&self, room: &RoomName) -> Workers {
        self.rooms.get(room).map(|wanted| wanted.workers).unwrap_or_default()
    }

    /// The rooms that are proven live.
    pub fn live(&self) -> Vec<RoomName> {
        let is_live = |standing: &Standing| matches!(standing, Standing::Live);
        self.rooms.iter().filter(|entry| is_live(&entry.standing)).map(|entry| entry.key().clone()).collect()
    }

    /// A worker wants the room; the answer comes when its subscription is live.
    pub async fn acquire(&self, room: &RoomName, worker: WorkerId) -> Result<(), BrokerError> {
        let waiting = match self.rooms.entry(room.clone()) {
            Entry::Occupied(mut entry) => {
                let wanted = entry.get_mut();
                wanted.workers = wanted.workers.with(worker);
                match &mut wanted.standing {
                    Standing::Live => return Ok(()),
                    Standing::Pending(waiters) => wait(waiters),
                }
            }
            Entry::Vacant(entry) => {
                let mut waiters = Vec::new();
                let waiting = wait(&mut waiters);
                let workers = Workers::default().with(worker);
                entry.insert(Wanted { workers, standing: Standing::Pending(waiters) });
                self.announce(room);
                waiting
            }
        };
        let stopping =
            || BrokerError::Unavailable { maybe_applied: false, cause: "the node is stopping".into() };
        waiting.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// A worker holds the room no more.
    pub fn release(&self, room: &RoomName, worker: WorkerId) {
        if let Entry::Occupied(mut entry) = self.rooms.entry(room.clone()) {
            let wanted = entry.get_mut();
            wanted.workers = wanted.workers.without(worker);
            if wanted.workers == Workers::default() {
                entry.remove();
                self.announce(room);
            }
        }
    }

    fn announce(&self, room: &RoomName) {
        // Without a reconciler the node is stopping, and nobody waits for what it would do.
        let _stopping = self.changed.send(room.clone());
    }

    /// The broker answered for a room: everyone who waits is told. A failure forgets the room, so that the next
    /// join asks again.
    fn settle(&self, room: &RoomName, result: &Result<(), BrokerError>) {
        let Entry::Occupied(mut entry) = self.rooms.entry(room.clone()) else { return };
        let waiters = match std::mem::replace(&mut entry.get_mut().standing, Standing::Live) {
            Standing::Pending(waiters) => waiters,
            Standing::Live => Vec::new(),
        };
        if result.is_err() {
            entry.remove();
        }
        for waiter in waiters {
            let _gone = waiter.send(result.clone());
        }
    }
}

fn wait(waiters: &mut Vec<Waiter>) -> oneshot::Receiver<Result<(), BrokerError>> {
    let (waiter, waiting) = oneshot::channel();
    waiters.push(waiter);
    waiting
}

/// Makes what is subscribed equal to what is wanted. Ends when every [`Interest`] is gone.
pub async fn reconcile(
    interest: Interest,
    mut changes: mpsc::UnboundedReceiver<RoomName>,
    broker: Broker,
    gone: impl Fn(&RoomName),
) {
    let mut subscribed: HashSet<RoomName> = HashSet::new();
    let mut busy: HashSet<RoomName> = HashSet::new();
    let mut again: HashSet<RoomName> = HashSet::new();
    let mut work: JoinSet<(RoomName, bool, Result<(), BrokerError>)> = JoinSet::new();
    loop {
        let room = tokio::select! {
            changed = changes.recv(), if work.len() < CONCURRENCY => match changed {
                Some(room) if busy.contains(&room) => { again.insert(room); continue; }
                Some(room) => room,
                None => return,
            },
            Some(done) = work.join_next() => {
                let Ok((room, subscribing, result)) = done else { continue };
                busy.remove(&room);
                if subscribing {
                    if let Err(error) = &result {
                        tracing::warn!(%error, "a subscription failed");
                    } else {
                        subscribed.insert(room.clone());
                    }
                    interest.settle(&room, &result);
                } else {
                    subscribed.remove(&room);
                    gone(&room);
                    // Somebody may have come while it was being unsubscribed.
                    again.insert(room.clone());
                }
                if !again.remove(&room) { continue }
                room
            }
        };
        let (wanted, heard) = (interest.contains(&room), subscribed.contains(&room));
        let broker = broker.clone();
        match (wanted, heard) {
            (true, false) => {
                busy.insert(room.clone());
                work.spawn(async move {
                    let result = broker.subscribe(&room).await;
                    (room, true, result)
                });
            }
            (false, true) => {
                busy.insert(room.clone());
                work.spawn(async move {
                    let result = broker.unsubscribe(&room).await;
                    (room, false, result)
                });
            }
            // Left and wanted again before it was unsubscribed: it is live still.
            (true, true) => interest.settle(&room, &Ok(())),
            (false, false) => {}
        }
    }
}
