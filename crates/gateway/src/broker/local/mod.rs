//! The in-process bus: any number of nodes in one process, with the semantics of the Redis broker.
//!
//! It is the default for one node, and lets tests run many nodes without Redis. It outlives no process, and it is
//! one lock: it makes no attempt at the throughput of many cores.

mod addresses;
mod bus;
mod room;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant as StdInstant},
};

use roomcast_core::permission::HistoryRules;
use roomcast_counter::ChangeLog;
use roomcast_protocol::{CounterValue, Data, Position, PresenceCount, RoomName};
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, time::Instant};

use super::{
    BrokerError, Claim, Control, Delivery, Feed, Health, MAX_MEMBERS, Members, NodeReport, Page,
    PresenceState, PresenceUpdate, Publication, Published, Range, Want, feed, payload::Body,
};
use crate::config;
use bus::{Bus, Reach, unix_ms};
use room::Seen;

/// The bus. Clones are the same bus.
#[derive(Debug, Clone)]
pub struct LocalBus {
    bus: Arc<Mutex<Bus>>,
    feed_capacity: usize,
    changes: ChangeLog,
}

/// A node's connection to the bus. When the last clone is gone, the node is as good as dead: its subscriptions end
/// at once, and its presence with its lease.
#[derive(Debug, Clone)]
pub struct LocalBroker(Arc<Attached>);

#[derive(Debug)]
struct Attached {
    bus: LocalBus,
    node: String,
    id: u64,
    feed: Mutex<Option<mpsc::Receiver<Feed>>>,
}

impl LocalBus {
    /// An empty bus whose nodes hold leases as configured.
    pub fn new(presence: config::Presence) -> Self {
        Self::with_feed_capacity(presence, feed::DEFAULT_FEED_CAPACITY)
    }

    /// A bus whose feeds hold so many items (tests of what happens to slow readers).
    pub fn with_feed_capacity(presence: config::Presence, feed_capacity: usize) -> Self {
        let bus = Arc::new(Mutex::new(Bus::new(presence.lease, Instant::now())));
        Self { bus, feed_capacity, changes: ChangeLog::new(0) }
    }

    /// The same bus, which tells every event to this stream of changes.
    pub fn with_changes(self, changes: ChangeLog) -> Self {
        Self { changes, ..self }
    }

    /// The stream of changes.
    pub fn changes(&self) -> &ChangeLog {
        &self.changes
    }

    /// Tells the stream of changes an event, while the bus is locked.
    fn note_event(&self, room: &RoomName, Position { epoch, offset }: &Position, at: u64, body: &str) {
        let data = format!(r#"{{"epoch":"{epoch}","offset":{offset},"at":{at},"event":{body}}}"#);
        self.changes.append(room.as_str(), "event", data);
    }

    /// Connects a node. Its lease starts now. An id that is attached already gives its place to the newcomer.
    pub fn attach(&self, node: &str) -> LocalBroker {
        let (sender, receiver) = feed::channel(self.feed_capacity);
        let id = self.lock().attach(node, sender, Instant::now());
        let feed = Mutex::new(Some(receiver));
        LocalBroker(Arc::new(Attached { bus: self.clone(), node: node.to_owned(), id, feed }))
    }

    /// Appends an event whose body is the JSON `{"event","from"?,"data"}`, and tells the subscribers, before it
    /// returns: for stores that publish while they hold their own lock. Answers where the event stands, and when it
    /// was stored (Unix ms). The epoch is used only if the room has none.
    ///
    /// A body that is no such JSON is a bug of the caller: it takes an offset and is not stored, so that subscribers
    /// notice the gap.
    pub fn append(
        &self,
        room: &RoomName,
        history: HistoryRules,
        epoch_candidate: &str,
        body_json: &str,
    ) -> (Position, u64) {
        let body = Body::parse(body_json);
        let now = Instant::now();
        let mut bus = self.lock();
        match body {
            Ok(body) => {
                let (position, at) = bus.append(room, history, epoch_candidate, body, now);
                self.note_event(room, &position, at, body_json);
                (position, at)
            }
            Err(malformed) => {
                tracing::error!(%room, %malformed, "an event's body is wrong; its offset is lost");
                (bus.skip(room, history, epoch_candidate, now), unix_ms())
            }
        }
    }

    /// Tells the subscribers a counter's new value, before it returns.
    pub fn count(&self, room: &RoomName, value: CounterValue) {
        self.lock().deliver(room, &Delivery::Count(value));
    }

    /// Tells a signal whose body is the JSON `{"event","from"?,"data"}`. Another body is a bug of the caller: it is
    /// dropped.
    pub fn signal_body(&self, room: &RoomName, body_json: &str) {
        match Body::parse(body_json) {
            Ok(Body { event, from, data }) => {
                self.lock().deliver(room, &Delivery::Signal { event, data, from });
            }
            Err(malformed) => tracing::error!(%malformed, "a signal could not be read"),
        }
    }

    /// Puts another body in the place of an event that the room's log still holds; its offset and time stay.
    pub fn purge(&self, room: &RoomName, at: &Position, body_json: &str) {
        match Body::parse(body_json) {
            Ok(body) => self.lock().purge(room, at, body),
            Err(malformed) => tracing::error!(%malformed, "what replaces an event could not be read"),
        }
    }

    /// For tests: cuts a node's subscription. What comes meanwhile does not reach it.
    pub fn sever(&self, node: &str) {
        self.lock().reach(node, Reach::Severed);
    }

    /// For tests: mends what [`LocalBus::sever`] cut; the node is told that it was interrupted.
    pub fn restore(&self, node: &str) {
        self.lock().reach(node, Reach::Whole);
    }

    /// For tests: the node's commands fail as if the broker were gone.
    pub fn refuse_commands(&self, node: &str) {
        self.lock().refuse(node, true);
    }

    /// For tests: ends [`LocalBus::refuse_commands`].
    pub fn accept_commands(&self, node: &str) {
        self.lock().refuse(node, false);
    }

    fn lock(&self) -> MutexGuard<'_, Bus> {
        // A panic while the lock was held is a bug in the bus; the others go on with what stands.
        self.bus.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalBroker {
    /// The bus behind it.
    pub fn bus(&self) -> &LocalBus {
        &self.0.bus
    }

    /// See [`super::Broker::publish`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn publish(&self, publication: &Publication) -> Result<Published, BrokerError> {
        let mut bus = self.commands()?;
        self.publish_on(&mut bus, publication)
    }

    /// See [`super::Broker::publish_all`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn publish_all(
        &self,
        publications: &[Publication],
    ) -> Result<Vec<Result<Published, BrokerError>>, BrokerError> {
        let mut bus = self.commands()?;
        Ok(publications.iter().map(|publication| self.publish_on(&mut bus, publication)).collect())
    }

    fn publish_on(&self, bus: &mut Bus, publication: &Publication) -> Result<Published, BrokerError> {
        let Publication { room, event, data, from, key, history } = publication;
        let now = Instant::now();
        let body = Body { event: event.clone(), from: from.clone(), data: data.clone() };
        let text = Body::text(event, data, from.as_deref()).map_err(|error| internal(&error))?;
        let Some(key) = key else {
            let (position, at) = bus.append(room, *history, &super::new_epoch()?, body, now);
            self.0.bus.note_event(room, &position, at, &text);
            return Ok(Published { position, duplicate: false });
        };
        let hash = fingerprint(&text);
        let epoch = super::new_epoch()?;
        match bus.room(room, &epoch, now).seen(key, &hash, now) {
            Seen::Same(position) => Ok(Published { position, duplicate: true }),
            Seen::Other => Err(BrokerError::KeyReused),
            Seen::New => {
                let (position, at) = bus.append(room, *history, &epoch, body, now);
                self.0.bus.note_event(room, &position, at, &text);
                bus.room(room, &epoch, now).remember(key.clone(), hash, now);
                Ok(Published { position, duplicate: false })
            }
        }
    }

    /// See [`super::Broker::signal`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn signal(
        &self,
        room: &RoomName,
        event: &str,
        data: &Data,
        from: Option<&str>,
    ) -> Result<(), BrokerError> {
        let signal =
            Delivery::Signal { event: event.to_owned(), data: data.clone(), from: from.map(str::to_owned) };
        self.commands()?.deliver(room, &signal);
        Ok(())
    }

    /// See [`super::Broker::history`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn history(
        &self,
        room: &RoomName,
        range: &Range,
        history: HistoryRules,
    ) -> Result<Page, BrokerError> {
        let now = Instant::now();
        let mut bus = self.commands()?;
        let room = bus.room(room, &super::new_epoch()?, now);
        room.renew(history.ttl, now);
        Ok(room.read(range, now))
    }

    /// See [`super::Broker::tails`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn tails(&self, rooms: &[RoomName]) -> Result<Vec<Option<Position>>, BrokerError> {
        let now = Instant::now();
        let mut bus = self.commands()?;
        Ok(rooms.iter().map(|room| bus.tail(room, now)).collect())
    }

    /// See [`super::Broker::subscribe`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn subscribe(&self, room: &RoomName) -> Result<(), BrokerError> {
        let mut bus = self.commands()?;
        if bus.subscribe(&self.0.node, self.0.id, room) {
            Ok(())
        } else {
            Err(BrokerError::refused("the subscription is severed"))
        }
    }

    /// See [`super::Broker::unsubscribe`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn unsubscribe(&self, room: &RoomName) -> Result<(), BrokerError> {
        self.0.bus.lock().unsubscribe(&self.0.node, self.0.id, room);
        Ok(())
    }

    /// See [`super::Broker::take_feed`].
    pub fn take_feed(&self) -> Option<mpsc::Receiver<Feed>> {
        self.0.feed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// See [`super::Broker::control`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn control(&self, control: &Control) -> Result<(), BrokerError> {
        self.commands()?.control(control);
        Ok(())
    }

    /// See [`super::Broker::heartbeat`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn heartbeat(&self, report: &NodeReport) -> Result<Vec<NodeReport>, BrokerError> {
        Ok(self.commands()?.heartbeat(&self.0.node, self.0.id, report, Instant::now()))
    }

    /// See [`super::Broker::figures`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn figures(&self, report: &NodeReport, want: Want) -> Result<Vec<NodeReport>, BrokerError> {
        let all = self.commands()?.figures(&self.0.node, report, Instant::now());
        Ok(if want == Want::All { all } else { Vec::new() })
    }

    /// See [`super::Broker::goodbye`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn goodbye(&self) -> Result<(), BrokerError> {
        self.commands()?.goodbye(&self.0.node);
        Ok(())
    }

    /// See [`super::Broker::presence_update`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn presence_update(
        &self,
        room: &RoomName,
        update: &PresenceUpdate,
        interval: Duration,
    ) -> Result<PresenceState, BrokerError> {
        let epoch = super::new_epoch()?;
        Ok(self.commands()?.presence(&self.0.node, room, &epoch, update, interval, Instant::now()))
    }

    /// See [`super::Broker::presence_members`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn presence_members(
        &self,
        room: &RoomName,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Members, BrokerError> {
        let bus = self.commands()?;
        let none = Members { count: PresenceCount::default(), members: Vec::new(), cursor: None };
        Ok(bus.members(room, cursor, limit.clamp(1, MAX_MEMBERS), Instant::now()).unwrap_or(none))
    }

    /// See [`super::Broker::hold_address`].
    pub fn hold_address(&self, key: &Arc<str>) -> u64 {
        self.0.bus.lock().addresses.hold(&self.0.node, key)
    }

    /// See [`super::Broker::claim_address`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn claim_address(&self, key: &Arc<str>, cap: u64) -> Result<Claim, BrokerError> {
        Ok(self.commands()?.claim_address(&self.0.node, key, cap, Instant::now()))
    }

    /// See [`super::Broker::release_address`].
    pub fn release_address(&self, key: &Arc<str>) {
        self.0.bus.lock().addresses.release(&self.0.node, key);
    }

    /// See [`super::Broker::end_room`].
    #[allow(clippy::unused_async, reason = "the face that both brokers share")]
    pub async fn end_room(&self, room: &RoomName, reason: &str) -> Result<Position, BrokerError> {
        let epoch = super::new_epoch()?;
        let position = self.commands()?.end(room, &epoch, reason, Instant::now());
        self.0.bus.changes.append(room.as_str(), "end", format!(r#"{{"epoch":"{epoch}"}}"#));
        Ok(position)
    }

    /// See [`super::Broker::health`].
    pub fn health(&self) -> Health {
        self.0.bus.lock().health(&self.0.node).unwrap_or(Health {
            usable: false,
            since: StdInstant::now(),
            reconnects: 0,
            last_lag: None,
        })
    }

    fn commands(&self) -> Result<MutexGuard<'_, Bus>, BrokerError> {
        let bus = self.0.bus.lock();
        if bus.accepts(&self.0.node) { Ok(bus) } else { Err(BrokerError::refused("commands are refused")) }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.bus.lock().detach(&self.node, self.id);
    }
}

/// What a retry under the same key must repeat.
fn fingerprint(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

fn internal(error: &serde_json::Error) -> BrokerError {
    BrokerError::Internal(error.to_string().into())
}
