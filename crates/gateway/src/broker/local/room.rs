//! One room on the bus: its log, its idempotency records, and who is in it.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ops::Bound,
    time::Duration,
};

use roomcast_core::permission::HistoryRules;
use roomcast_protocol::{Epoch, Event, Member, Offset, Position, PresenceCount};
use tokio::time::Instant;

use crate::broker::{MAX_PAGE, Page, PresenceUpdate, Range, payload::Body};

/// How long an idempotency key is remembered.
pub(super) const KEY_TTL: Duration = Duration::from_secs(600);
/// The position outlives the log by this much: a log without its position could not be continued.
pub(super) const POSITION_TTL: Duration = Duration::from_secs(86_400);
/// Idempotency records kept per room; the oldest give way.
const MAX_KEYS: usize = 100_000;

/// What is known of an idempotency key.
pub(super) enum Seen {
    /// Nothing.
    New,
    /// The same body, stored at this position.
    Same(Position),
    /// Another body.
    Other,
}

#[derive(Debug)]
struct KeyRecord {
    body: [u8; 32],
    position: Position,
    until: Instant,
}

/// Who is in the room through one node.
#[derive(Debug, Default)]
struct NodePresence {
    connections: u64,
    users: BTreeMap<String, u64>,
}

#[derive(Debug)]
pub(super) struct Room {
    tail: Position,
    log: VecDeque<Event>,
    log_until: Instant,
    until: Instant,
    keys: HashMap<String, KeyRecord>,
    keys_by_age: VecDeque<(Instant, String)>,
    presence: HashMap<String, NodePresence>,
    pushed: Option<Instant>,
}

impl Room {
    pub(super) fn new(epoch: Epoch, now: Instant) -> Self {
        Self {
            tail: Position { epoch, offset: Offset(0) },
            log: VecDeque::new(),
            log_until: now,
            until: now + POSITION_TTL,
            keys: HashMap::new(),
            keys_by_age: VecDeque::new(),
            presence: HashMap::new(),
            pushed: None,
        }
    }

    /// Where the log stands.
    pub(super) fn tail(&self) -> &Position {
        &self.tail
    }

    /// When the room can be forgotten, if nobody is in it.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Keeps the position for longer.
    pub(super) fn renew(&mut self, ttl: Duration, now: Instant) {
        self.until = self.until.max(now + ttl + POSITION_TTL);
    }

    /// Gives the next offset, and keeps the event as long as the rules say.
    pub(super) fn append(
        &mut self,
        rules: HistoryRules,
        now: Instant,
        event: impl FnOnce(Offset) -> Event,
    ) -> Event {
        self.expire(now);
        self.tail.offset = self.tail.offset.next();
        let event = event(self.tail.offset);
        self.renew(rules.ttl, now);
        if rules.size > 0 {
            self.log.push_back(event.clone());
            let size = usize::try_from(rules.size).unwrap_or(usize::MAX);
            self.log.drain(..self.log.len().saturating_sub(size));
            self.log_until = now + rules.ttl;
        }
        event
    }

    /// Replaces the content of an event, if it is still there.
    pub(super) fn purge(&mut self, at: &Position, body: Body) {
        if at.epoch == self.tail.epoch
            && let Some(event) = self.log.iter_mut().find(|event| event.offset == at.offset)
        {
            *event = body.at(event.offset, event.at);
        }
    }

    /// Takes an offset for nothing.
    pub(super) fn skip(&mut self, rules: HistoryRules, now: Instant) {
        self.tail.offset = self.tail.offset.next();
        self.renew(rules.ttl, now);
    }

    /// Reads a part of the past.
    pub(super) fn read(&mut self, range: &Range, now: Instant) -> Page {
        self.expire(now);
        let tail = self.tail.clone();
        let (from, to, complete) = match range {
            Range::Since(since, limit) if since.epoch == tail.epoch && since.offset <= tail.offset => {
                let from = self.log.partition_point(|event| event.offset <= since.offset);
                let first = self.log.get(from).map_or(tail.offset.next(), |event| event.offset);
                let to = from.saturating_add((*limit).clamp(1, MAX_PAGE)).min(self.log.len());
                (from, to, first == since.offset.next())
            }
            Range::Since(..) => (0, 0, false),
            Range::Recent(limit) => {
                let to = self.log.len();
                (to.saturating_sub((*limit).min(MAX_PAGE)), to, true)
            }
            Range::Before(offset, limit) => {
                let to = self.log.partition_point(|event| event.offset.0 < *offset);
                (to.saturating_sub((*limit).min(MAX_PAGE)), to, true)
            }
        };
        Page { tail, events: self.log.range(from..to).cloned().collect(), complete }
    }

    fn expire(&mut self, now: Instant) {
        if self.log_until <= now {
            self.log.clear();
        }
    }

    pub(super) fn seen(&self, key: &str, body: &[u8; 32], now: Instant) -> Seen {
        match self.keys.get(key) {
            Some(record) if record.until <= now => Seen::New,
            Some(record) if record.body == *body => Seen::Same(record.position.clone()),
            Some(_) => Seen::Other,
            None => Seen::New,
        }
    }

    pub(super) fn remember(&mut self, key: String, body: [u8; 32], now: Instant) {
        self.forget_keys(now);
        let until = now + KEY_TTL;
        self.keys_by_age.push_back((until, key.clone()));
        self.keys.insert(key, KeyRecord { body, position: self.tail.clone(), until });
    }

    fn forget_keys(&mut self, now: Instant) {
        while let Some((until, _)) = self.keys_by_age.front() {
            if *until > now && self.keys_by_age.len() < MAX_KEYS {
                break;
            }
            if let Some((until, key)) = self.keys_by_age.pop_front()
                && self.keys.get(&key).is_some_and(|record| record.until <= until)
            {
                self.keys.remove(&key);
            }
        }
    }

    /// Changes who of a node is here. Counts over the nodes that `live` accepts.
    pub(super) fn update(
        &mut self,
        node: &str,
        update: &PresenceUpdate,
        live: impl Fn(&str) -> bool,
    ) -> PresenceCount {
        let mut here = self.presence.remove(node).unwrap_or_default();
        if update.replace {
            here.users.clear();
        }
        for user in &update.gone {
            here.users.remove(user);
        }
        for (user, connections) in &update.present {
            if *connections == 0 {
                here.users.remove(user);
            } else {
                here.users.insert(user.clone(), *connections);
            }
        }
        here.connections = update.connections;
        if here.connections > 0 || !here.users.is_empty() {
            self.presence.insert(node.to_owned(), here);
        }
        self.count(live)
    }

    /// Whether a push may go out now; then it counts as gone out.
    pub(super) fn may_push(&mut self, interval: Duration, now: Instant) -> bool {
        let may = self.pushed.is_none_or(|pushed| now >= pushed + interval);
        if may {
            self.pushed = Some(now);
        }
        may
    }

    pub(super) fn count(&self, live: impl Fn(&str) -> bool) -> PresenceCount {
        let nodes: Vec<_> = self.live(&live).collect();
        let users = match nodes[..] {
            [node] => node.users.len(),
            _ => nodes.iter().flat_map(|node| node.users.keys()).collect::<HashSet<_>>().len(),
        };
        PresenceCount { connections: nodes.iter().map(|node| node.connections).sum(), users: users as u64 }
    }

    /// One page of members after the cursor, and the next cursor.
    pub(super) fn members(
        &self,
        cursor: Option<&str>,
        limit: usize,
        live: impl Fn(&str) -> bool,
    ) -> (Vec<Member>, Option<String>) {
        let mut merged = BTreeMap::<&str, u64>::new();
        for node in self.live(&live) {
            let after = cursor.map_or(Bound::Unbounded, Bound::Excluded);
            for (user, connections) in node.users.range::<str, _>((after, Bound::Unbounded)).take(limit + 1) {
                *merged.entry(user).or_default() += connections;
            }
        }
        let more = merged.len() > limit;
        let page: Vec<_> = merged
            .into_iter()
            .take(limit)
            .map(|(user, connections)| Member { user: user.to_owned(), connections })
            .collect();
        let next = page.last().filter(|_| more).map(|member| member.user.clone());
        (page, next)
    }

    fn live(&self, live: &impl Fn(&str) -> bool) -> impl Iterator<Item = &NodePresence> {
        self.presence.iter().filter(|(node, _)| live(node)).map(|(_, presence)| presence)
    }

    /// Forgets a node that said goodbye.
    pub(super) fn leave(&mut self, node: &str) {
        self.presence.remove(node);
    }

    /// Drops what has expired, and what nodes that are `gone` left behind.
    pub(super) fn sweep(&mut self, now: Instant, gone: impl Fn(&str) -> bool) {
        self.expire(now);
        self.forget_keys(now);
        self.presence.retain(|node, _| !gone(node));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.presence.is_empty()
    }
}
