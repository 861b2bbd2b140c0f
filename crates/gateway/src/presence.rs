//! Who is in which room on this node, and telling the others: joins and leaves are gathered per room, so that a
//! storm of them costs one update per round trip and one push per interval, however many come.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use roomcast_protocol::{PresenceCount, RoomName};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::broker::{Broker, BrokerError, PresenceState, PresenceUpdate};

/// Updates under way at once.
const CONCURRENCY: usize = 64;
/// Before a failed update is tried again.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct Here {
    connections: u64,
    users: HashMap<Arc<str>, u64>,
    changed: HashSet<Arc<str>>,
    /// Who waits for the next update's counts, and who for those of the one under way.
    waiters: Vec<oneshot::Sender<Present>>,
    answering: Vec<oneshot::Sender<Present>>,
    /// Everything is to be told anew: the broker may have lost it.
    replace: bool,
    turn: Turn,
}

/// Counts that include a connection that joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present {
    /// Over all live nodes.
    pub count: PresenceCount,
    /// How many joined here behind it, in the same update: of several that come at once only the last are too many.
    pub behind: u64,
}

/// Where a room stands on its way to the broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Turn {
    /// Nothing to tell.
    #[default]
    Idle,
    /// Waiting for its turn.
    Queued,
    /// An update is under way.
    Busy,
    /// An update is under way, and another is needed.
    BusyAgain,
}

#[derive(Debug, Default)]
struct Desk {
    rooms: HashMap<RoomName, Here>,
    dirty: Vec<RoomName>,
}

/// Who is where on this node. Shared by all threads; locked for moments only.
#[derive(Debug, Clone, Default)]
pub struct Presence {
    desk: Arc<Mutex<Desk>>,
    bell: Arc<Notify>,
}

impl Presence {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection of `user` joined. The counts that include it come when the broker has them; the channel is
    /// dropped when it can't be reached.
    pub fn join(&self, room: &RoomName, user: &Arc<str>) -> oneshot::Receiver<Present> {
        let (waiter, waiting) = oneshot::channel();
        {
            let mut desk = self.lock();
            let here = desk.rooms.entry(room.clone()).or_default();
            here.connections += 1;
            *here.users.entry(user.clone()).or_default() += 1;
            here.changed.insert(user.clone());
            here.waiters.push(waiter);
            desk.mark(room);
        }
        self.bell.notify_one();
        waiting
    }

    /// A connection of `user` left.
    pub fn leave(&self, room: &RoomName, user: &Arc<str>) {
        let mut desk = self.lock();
        let Some(here) = desk.rooms.get_mut(room) else { return };
        here.connections = here.connections.saturating_sub(1);
        if let Some(count) = here.users.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                here.users.remove(user);
            }
            here.changed.insert(user.clone());
        }
        desk.mark(room);
        drop(desk);
        self.bell.notify_one();
    }

    /// Tells everything anew: after the broker was away, and when the set of nodes changed.
    pub fn refresh(&self) {
        let mut desk = self.lock();
        let rooms: Vec<_> = desk.rooms.keys().cloned().collect();
        for room in rooms {
            if let Some(here) = desk.rooms.get_mut(&room) {
                here.replace = true;
            }
            desk.mark(&room);
        }
        drop(desk);
        self.bell.notify_one();
    }

    /// Tells one room anew: the broker has forgotten it.
    pub fn retell(&self, room: &RoomName) {
        let mut desk = self.lock();
        if let Some(here) = desk.rooms.get_mut(room) {
            here.replace = true;
            desk.mark(room);
            drop(desk);
            self.bell.notify_one();
        }
    }

    /// This node's own counts: what is known when the broker is away.
    pub fn local(&self, room: &RoomName) -> PresenceCount {
        self.lock().rooms.get(room).map_or_else(PresenceCount::default, |here| PresenceCount {
            connections: here.connections,
            users: here.users.len() as u64,
        })
    }

    /// Carries changes to the broker until the task is dropped.
    pub async fn run(self, broker: Broker, interval: Duration) {
        let mut work: JoinSet<(RoomName, PresenceUpdate, Result<PresenceState, BrokerError>)> =
            JoinSet::new();
        let mut later: HashMap<RoomName, Instant> = HashMap::new();
        loop {
            while work.len() < CONCURRENCY {
                let Some((room, update)) = self.lock().next_update() else { break };
                let broker = broker.clone();
                work.spawn(async move {
                    let result = broker.presence_update(&room, &update, interval).await;
                    (room, update, result)
                });
            }
            let next = later.values().min().copied();
            tokio::select! {
                () = self.bell.notified() => {}
                Some(done) = work.join_next() => {
                    if let Ok((room, update, result)) = done
                        && let Some(wait) = self.lock().updated(&room, &update, &result, interval)
                    {
                        later.insert(room, Instant::now() + wait);
                    }
                }
                () = async { match next { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {
                    let now = Instant::now();
                    let mut desk = self.lock();
                    later.retain(|room, at| {
                        let due = *at <= now;
                        if due {
                            desk.mark(room);
                        }
                        !due
                    });
                }
            }
        }
    }
}

impl Desk {
    fn mark(&mut self, room: &RoomName) {
        let Some(here) = self.rooms.get_mut(room) else { return };
        match here.turn {
            Turn::Idle => {
                here.turn = Turn::Queued;
                self.dirty.push(room.clone());
            }
            Turn::Busy => here.turn = Turn::BusyAgain,
            Turn::Queued | Turn::BusyAgain => {}
        }
    }

    fn next_update(&mut self) -> Option<(RoomName, PresenceUpdate)> {
        let room = self.dirty.pop()?;
        let here = self.rooms.get_mut(&room)?;
        here.turn = Turn::Busy;
        here.answering = std::mem::take(&mut here.waiters);
        let replace = std::mem::take(&mut here.replace);
        let mut update =
            PresenceUpdate { connections: here.connections, replace, ..PresenceUpdate::default() };
        let changed = std::mem::take(&mut here.changed);
        if replace {
            update.present = here.users.iter().map(|(user, n)| (user.to_string(), *n)).collect();
        } else {
            for user in changed {
                match here.users.get(&user) {
                    Some(n) => update.present.push((user.to_string(), *n)),
                    None => update.gone.push(user.to_string()),
                }
            }
        }
        Some((room, update))
    }

    /// An update came back. Returns when the room is to be looked at again, where it is.
    fn updated(
        &mut self,
        room: &RoomName,
        update: &PresenceUpdate,
        result: &Result<PresenceState, BrokerError>,
        interval: Duration,
    ) -> Option<Duration> {
        let here = self.rooms.get_mut(room)?;
        let again = std::mem::take(&mut here.turn) == Turn::BusyAgain;
        let wait = if let Ok(state) = result {
            for (behind, waiter) in (0..).zip(here.answering.drain(..).rev()) {
                let _gone = waiter.send(Present { count: state.count, behind });
            }
            (!state.published).then_some(interval)
        } else {
            here.replace = true;
            // Their joins are answered with this node's own counts.
            here.answering.clear();
            Some(RETRY)
        };
        if again {
            self.mark(room);
            return None;
        }
        if here.connections == 0 && update.connections == 0 && result.is_ok() && wait.is_none() {
            self.rooms.remove(room);
        }
        wait
    }
}
