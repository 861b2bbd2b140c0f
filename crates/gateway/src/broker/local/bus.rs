//! The state of the bus: rooms, attached nodes, leases. Synchronous, driven by a passed `now`, behind one lock.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant as StdInstant, SystemTime},
};

use roomcast_core::permission::HistoryRules;
use roomcast_protocol::{Epoch, Position, RoomName};
use tokio::time::Instant;

use super::{addresses::Addresses, room::Room};
use crate::broker::{
    Claim, Control, Delivery, Feed, Health, Members, NodeReport, PresenceState, PresenceUpdate, Scope,
    feed::FeedSender, payload::Body,
};

/// Rooms kept at once: as many as a node may have. The longest idle give way.
const MAX_ROOMS: usize = 1_000_000;
/// How often everything is looked over for what has expired.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// How long the presence of a dead node is kept, should it wake: longer than any pause that is not a death.
const FORGET_NODE: Duration = Duration::from_secs(600);

/// Whether deliveries reach a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Whole,
    Severed,
}

#[derive(Debug)]
struct Node {
    id: u64,
    feed: FeedSender,
    rooms: HashSet<RoomName>,
    reach: Reach,
    refusing: bool,
    live: Vec<String>,
    health: Health,
}

#[derive(Debug)]
struct Lease {
    until: Instant,
    report: Option<NodeReport>,
    figures: Option<NodeReport>,
}

#[derive(Debug)]
pub(super) struct Bus {
    lease: Duration,
    rooms: HashMap<RoomName, Room>,
    pub(super) addresses: Addresses,
    nodes: HashMap<String, Node>,
    leases: BTreeMap<String, Lease>,
    next_id: u64,
    next_sweep: Instant,
}

/// The wall clock, Unix ms.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Bus {
    pub(super) fn new(lease: Duration, now: Instant) -> Self {
        Self {
            lease,
            rooms: HashMap::new(),
            addresses: Addresses::default(),
            nodes: HashMap::new(),
            leases: BTreeMap::new(),
            next_id: 0,
            next_sweep: now + SWEEP_INTERVAL,
        }
    }

    pub(super) fn attach(&mut self, node: &str, feed: FeedSender, now: Instant) -> u64 {
        self.next_id += 1;
        let health = Health { usable: true, since: StdInstant::now(), reconnects: 0, last_lag: None };
        let attached = Node {
            id: self.next_id,
            feed,
            rooms: HashSet::new(),
            reach: Reach::Whole,
            refusing: false,
            live: vec![node.to_owned()],
            health,
        };
        self.nodes.insert(node.to_owned(), attached);
        self.leases.insert(node.to_owned(), Lease { until: now + self.lease, report: None, figures: None });
        self.next_id
    }

    pub(super) fn detach(&mut self, node: &str, id: u64) {
        if self.nodes.get(node).is_some_and(|attached| attached.id == id) {
            self.nodes.remove(node);
        }
    }

    /// The room, made with that epoch if there is none.
    pub(super) fn room(&mut self, name: &RoomName, epoch: &str, now: Instant) -> &mut Room {
        self.sweep(now);
        if self.rooms.get(name).is_some_and(|room| room.until() <= now && room.is_empty()) {
            self.rooms.remove(name);
        }
        if self.rooms.len() >= MAX_ROOMS && !self.rooms.contains_key(name) {
            self.evict();
        }
        self.rooms.entry(name.clone()).or_insert_with(|| Room::new(Epoch::new(epoch), now))
    }

    pub(super) fn append(
        &mut self,
        name: &RoomName,
        rules: HistoryRules,
        epoch: &str,
        body: Body,
        now: Instant,
    ) -> (Position, u64) {
        let at = unix_ms();
        let room = self.room(name, epoch, now);
        let event = room.append(rules, now, |offset| body.at(offset, at));
        let position = room.tail().clone();
        self.deliver(name, &Delivery::Event(position.epoch.clone(), event));
        (position, at)
    }

    /// Replaces the content of an event, if it is still there.
    pub(super) fn purge(&mut self, name: &RoomName, at: &Position, body: Body) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.purge(at, body);
        }
    }

    /// Takes an offset for nothing.
    pub(super) fn skip(
        &mut self,
        name: &RoomName,
        rules: HistoryRules,
        epoch: &str,
        now: Instant,
    ) -> Position {
        let room = self.room(name, epoch, now);
        room.skip(rules, now);
        room.tail().clone()
    }

    pub(super) fn tail(&mut self, name: &RoomName, now: Instant) -> Option<Position> {
        let room = self.rooms.get_mut(name).filter(|room| room.until() > now)?;
        room.renew(Duration::ZERO, now);
        Some(room.tail().clone())
    }

    pub(super) fn deliver(&mut self, name: &RoomName, delivery: &Delivery) {
        for node in self.nodes.values_mut() {
            if node.reach == Reach::Whole && node.rooms.contains(name) {
                node.feed.push(Feed::Delivery(name.clone(), delivery.clone()));
            }
        }
    }

    pub(super) fn control(&mut self, control: &Control) {
        for node in self.nodes.values_mut().filter(|node| node.reach == Reach::Whole) {
            node.feed.push(Feed::Control(control.clone()));
        }
    }

    pub(super) fn subscribe(&mut self, node: &str, id: u64, room: &RoomName) -> bool {
        match self.nodes.get_mut(node) {
            Some(node) if node.id == id && node.reach == Reach::Whole => {
                node.rooms.insert(room.clone());
                true
            }
            _ => false,
        }
    }

    pub(super) fn unsubscribe(&mut self, node: &str, id: u64, room: &RoomName) {
        if let Some(node) = self.nodes.get_mut(node).filter(|node| node.id == id) {
            node.rooms.remove(room);
        }
    }

    pub(super) fn reach(&mut self, node: &str, reach: Reach) {
        if let Some(node) = self.nodes.get_mut(node)
            && node.reach != reach
        {
            node.reach = reach;
            if reach == Reach::Whole {
                node.health.reconnects += 1;
                node.feed.push(Feed::Interrupted(Scope::All));
            }
            node.note_health();
        }
    }

    pub(super) fn refuse(&mut self, node: &str, refusing: bool) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.refusing = refusing;
            node.note_health();
        }
    }

    pub(super) fn accepts(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| !node.refusing)
    }

    pub(super) fn health(&self, node: &str) -> Option<Health> {
        self.nodes.get(node).map(|node| node.health)
    }

    pub(super) fn heartbeat(
        &mut self,
        name: &str,
        id: u64,
        report: &NodeReport,
        now: Instant,
    ) -> Vec<NodeReport> {
        self.sweep(now);
        let lost = !self.is_live(name, now);
        let figures = self.leases.get_mut(name).and_then(|lease| lease.figures.take());
        let lease = Lease { until: now + self.lease, report: Some(report.clone()), figures };
        self.leases.insert(name.to_owned(), lease);
        self.addresses.tell(name);
        let live: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.until > now)
            .map(|(node, lease)| {
                let silent = || NodeReport { node: node.clone(), stats: serde_json::Value::Null };
                lease.report.clone().unwrap_or_else(silent)
            })
            .collect();
        if let Some(node) = self.nodes.get_mut(name).filter(|node| node.id == id) {
            let ids: Vec<_> = live.iter().map(|report| report.node.clone()).collect();
            if lost || node.live != ids {
                node.live = ids;
                node.feed.push(Feed::Control(Control::NodesChanged));
            }
            node.feed.flush();
        }
        live
    }

    pub(super) fn figures(&mut self, name: &str, report: &NodeReport, now: Instant) -> Vec<NodeReport> {
        if let Some(lease) = self.leases.get_mut(name) {
            lease.figures = Some(report.clone());
        }
        let live = self.leases.iter().filter(|(_, lease)| lease.until > now);
        live.map(|(node, lease)| {
            let silent = || NodeReport { node: node.clone(), stats: serde_json::Value::Null };
            lease.figures.clone().unwrap_or_else(silent)
        })
        .collect()
    }

    pub(super) fn goodbye(&mut self, node: &str) {
        self.leases.remove(node);
        for room in self.rooms.values_mut() {
            room.leave(node);
        }
    }

    pub(super) fn presence(
        &mut self,
        node: &str,
        name: &RoomName,
        epoch: &str,
        update: &PresenceUpdate,
        interval: Duration,
        now: Instant,
    ) -> PresenceState {
        self.room(name, epoch, now);
        let leases = &self.leases;
        let live = |other: &str| other == node || is_live(leases, other, now);
        let Some(room) = self.rooms.get_mut(name) else {
            return PresenceState { count: <_>::default(), published: false };
        };
        let count = room.update(node, update, live);
        let published = room.may_push(interval, now);
        if published {
            self.deliver(name, &Delivery::Presence(count));
        }
        PresenceState { count, published }
    }

    pub(super) fn members(
        &self,
        name: &RoomName,
        cursor: Option<&str>,
        limit: usize,
        now: Instant,
    ) -> Option<Members> {
        let room = self.rooms.get(name)?;
        let live = |node: &str| self.is_live(node, now);
        let (members, cursor) = room.members(cursor, limit, live);
        Some(Members { count: room.count(live), members, cursor })
    }

    pub(super) fn claim_address(&mut self, node: &str, key: &Arc<str>, cap: u64, now: Instant) -> Claim {
        let leases = &self.leases;
        self.addresses.claim(node, key, cap, |other| is_live(leases, other, now))
    }

    pub(super) fn end(&mut self, name: &RoomName, epoch: &str, reason: &str, now: Instant) -> Position {
        self.rooms.remove(name);
        let position = self.room(name, epoch, now).tail().clone();
        self.deliver(name, &Delivery::Ended(position.clone(), reason.to_owned()));
        position
    }

    fn is_live(&self, node: &str, now: Instant) -> bool {
        is_live(&self.leases, node, now)
    }

    fn sweep(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_INTERVAL;
        self.leases.retain(|_, lease| lease.until + FORGET_NODE > now);
        let leases = &self.leases;
        self.addresses.forget(|node| !leases.contains_key(node));
        self.rooms.retain(|_, room| {
            room.sweep(now, |node| !leases.contains_key(node));
            room.until() > now || !room.is_empty()
        });
    }

    /// Makes room by forgetting the longest idle hundredth, so that the search is paid once for many.
    fn evict(&mut self) {
        let mut ages: Vec<_> = self.rooms.values().map(Room::until).collect();
        let (_, oldest, _) = ages.select_nth_unstable(MAX_ROOMS / 100);
        let oldest = *oldest;
        self.rooms.retain(|_, room| room.until() > oldest);
    }
}

impl Node {
    fn note_health(&mut self) {
        let usable = self.reach == Reach::Whole && !self.refusing;
        if usable != self.health.usable {
            self.health = Health { usable, since: StdInstant::now(), ..self.health };
        }
    }
}

fn is_live(leases: &BTreeMap<String, Lease>, node: &str, now: Instant) -> bool {
    leases.get(node).is_some_and(|lease| lease.until > now)
}
