//! One store with what a subscriber of its rooms hears, the same to a test whichever store it is.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fred::{
    clients::Client,
    interfaces::{ClientLike, EventInterface, PubsubInterface, StreamsInterface},
    types::Message,
};
use roomcast_counter::{
    Appended, Command, Comment, CommentPage, CommentsQuery, Counter, CounterError, History, Limits, Memory,
    Op, Outcome, Place, PublishMode, Redis, Sink, Update, Viewer,
};
use serde_json::Value;
use tokio::sync::broadcast;

use crate::server::Server;

pub(crate) const ROOM: &str = "event:wall";
pub(crate) const EPOCH: &str = "00000000000000e1";
pub(crate) const HISTORY: History = History { size: 100, ttl: Duration::from_secs(3_600) };
const PREFIX: &str = "rc";

pub(crate) struct Stage {
    /// Two nodes of one hub.
    pub(crate) nodes: [Counter; 2],
    backend: Backend,
}

enum Backend {
    Memory { bus: Arc<Bus>, clock: Arc<AtomicU64> },
    Redis { server: Server, client: Client, feed: Feed },
}

struct Feed {
    // Kept: the subscription ends with its client.
    _subscriber: Client,
    messages: tokio::sync::Mutex<broadcast::Receiver<Message>>,
}

/// What was published, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Published {
    Event { epoch: String, offset: u64, at: u64, body: Value },
    Count { version: u64, body: Value },
    Signal { body: Value },
}

impl Stage {
    pub(crate) fn memory() -> Self {
        Self::memory_with(Limits::default())
    }

    pub(crate) fn memory_with(limits: Limits) -> Self {
        let bus = Arc::new(Bus::default());
        let clock = Arc::new(AtomicU64::new(1_700_000_000_000));
        let reads = Arc::clone(&clock);
        let memory =
            Memory::with(Arc::clone(&bus) as _, limits, Arc::new(move || reads.load(Ordering::Relaxed)));
        let counter = Counter::Memory(memory);
        Self { nodes: [counter.clone(), counter], backend: Backend::Memory { bus, clock } }
    }

    pub(crate) async fn redis() -> Self {
        Self::redis_with(Limits::default()).await
    }

    pub(crate) async fn redis_with(limits: Limits) -> Self {
        let server = Server::start();
        let (client, other, subscriber) =
            (server.client().await, server.client().await, server.client().await);
        let messages = subscriber.message_rx();
        subscriber.subscribe(format!("{PREFIX}:{{{ROOM}}}:ch")).await.expect("subscribed");
        // The subscription is proven by an answer behind it on the same connection.
        let () = subscriber.ping(None).await.expect("an answer");
        let node = |client: &Client| {
            Counter::Redis(Redis::with(client.clone(), PREFIX, limits.clone(), PublishMode::Plain))
        };
        let nodes = [node(&client), node(&other)];
        let feed = Feed { _subscriber: subscriber, messages: messages.into() };
        Self { nodes, backend: Backend::Redis { server, client, feed } }
    }

    pub(crate) fn one(&self) -> &Counter {
        &self.nodes[0]
    }

    pub(crate) fn client(&self) -> &Client {
        match &self.backend {
            Backend::Redis { client, .. } => client,
            Backend::Memory { .. } => panic!("only the store in Redis has a client"),
        }
    }

    pub(crate) fn server(&mut self) -> &mut Server {
        match &mut self.backend {
            Backend::Redis { server, .. } => server,
            Backend::Memory { .. } => panic!("only the store in Redis has a server"),
        }
    }

    /// Lets time pass where it is ours.
    pub(crate) fn advance(&self, by: Duration) {
        match &self.backend {
            Backend::Memory { clock, .. } => {
                clock.fetch_add(u64::try_from(by.as_millis()).expect("a short time"), Ordering::Relaxed)
            }
            Backend::Redis { .. } => panic!("Redis has its own clock"),
        };
    }

    /// Lets time pass wherever it is: in Redis it really does.
    pub(crate) async fn pass(&self, by: Duration) {
        match &self.backend {
            Backend::Memory { .. } => self.advance(by),
            Backend::Redis { .. } => tokio::time::sleep(by).await,
        }
    }

    /// The log of [`ROOM`]: offsets and bodies.
    pub(crate) async fn log(&self) -> Vec<(u64, Value)> {
        let json = |body: &str| serde_json::from_str(body).expect("a JSON body");
        match &self.backend {
            Backend::Memory { bus, .. } => {
                let rooms = bus.rooms.lock().expect("no panic");
                let room = rooms.get(ROOM).expect("a room");
                (1..).zip(&room.log).map(|(offset, body)| (offset, json(body))).collect()
            }
            Backend::Redis { client, .. } => {
                let key = format!("{PREFIX}:{{{ROOM}}}:log");
                let entries: Vec<(String, HashMap<String, String>)> =
                    client.xrange_values(key, "-", "+", None).await.expect("a stream");
                let offset = |id: &str| id.split('-').next().and_then(|n| n.parse().ok()).expect("an offset");
                entries.iter().map(|(id, fields)| (offset(id), json(&fields["b"]))).collect()
            }
        }
    }

    /// All that was published in [`ROOM`] since the last call.
    pub(crate) async fn published(&self) -> Vec<Published> {
        let payloads = match &self.backend {
            Backend::Memory { bus, .. } => bus.take(ROOM),
            Backend::Redis { client, feed, .. } => {
                let channel = format!("{PREFIX}:{{{ROOM}}}:ch");
                // Redis keeps the order of a channel: whatever came before this mark has been heard at the mark.
                let () = client.publish(channel, "END").await.expect("published");
                let mut payloads = Vec::new();
                let mut messages = feed.messages.lock().await;
                loop {
                    let message = messages.recv().await.expect("a message");
                    match message.value.as_string().as_deref() {
                        Some("END") => break payloads,
                        payload => payloads.push(payload.expect("text").to_owned()),
                    }
                }
            }
        };
        payloads.iter().map(|payload| Published::parse(payload)).collect()
    }
}

impl Published {
    fn parse(payload: &str) -> Self {
        let (head, body) = payload.split_once('\n').expect("a header line");
        let body = serde_json::from_str(body).expect("a JSON body");
        let number = |text: &str| text.parse().expect("a number");
        match head.split(' ').collect::<Vec<_>>()[..] {
            ["E", epoch, offset, at] => {
                Self::Event { epoch: epoch.to_owned(), offset: number(offset), at: number(at), body }
            }
            ["S"] => Self::Signal { body },
            ["C", version] => Self::Count { version: number(version), body },
            _ => panic!("not a payload: {payload}"),
        }
    }

    /// Target, counter, value and version, where it is a count.
    pub(crate) fn count(&self) -> Option<(&str, &str, u64, u64)> {
        let Self::Count { version, body } = self else { return None };
        let text = |field: &str| body[field].as_str().expect("a string");
        Some((text("target"), text("counter"), body["value"].as_u64().expect("a number"), *version))
    }

    /// Offset, time and body, where it is an event.
    pub(crate) fn event(&self) -> Option<(u64, u64, &Value)> {
        let Self::Event { epoch, offset, at, body } = self else { return None };
        assert_eq!(epoch, EPOCH);
        Some((*offset, *at, body))
    }
}

/// An in-process bus that remembers, in the words of the channel in Redis.
#[derive(Default)]
struct Bus {
    rooms: Mutex<HashMap<String, BusRoom>>,
}

#[derive(Default)]
struct BusRoom {
    log: Vec<String>,
    payloads: Vec<String>,
}

impl Bus {
    fn take(&self, room: &str) -> Vec<String> {
        let mut rooms = self.rooms.lock().expect("no panic");
        rooms.get_mut(room).map(|room| std::mem::take(&mut room.payloads)).unwrap_or_default()
    }
}

impl Sink for Bus {
    fn event(&self, room: &str, _: History, epoch_candidate: &str, body: &str) -> Appended {
        let mut rooms = self.rooms.lock().expect("no panic");
        let room = rooms.entry(room.to_owned()).or_default();
        room.log.push(body.to_owned());
        let (epoch, offset, at) = (epoch_candidate.to_owned(), room.log.len() as u64, 1);
        room.payloads.push(format!("E {epoch} {offset} {at}\n{body}"));
        Appended { epoch, offset, at }
    }

    fn count(&self, room: &str, Update { target, counter, value, version }: &Update) {
        let body = serde_json::json!({ "target": target, "counter": counter, "value": value });
        let mut rooms = self.rooms.lock().expect("no panic");
        rooms.entry(room.to_owned()).or_default().payloads.push(format!("C {version}\n{body}"));
    }

    fn signal(&self, room: &str, body: &str) {
        let mut rooms = self.rooms.lock().expect("no panic");
        rooms.entry(room.to_owned()).or_default().payloads.push(format!("S\n{body}"));
    }

    fn purge(&self, room: &str, place: &Place, body: &str) {
        let mut rooms = self.rooms.lock().expect("no panic");
        let room = rooms.get_mut(room).expect("a room");
        let at = usize::try_from(place.offset - 1).expect("small");
        body.clone_into(&mut room.log[at]);
    }
}

/// A user's command in [`ROOM`].
pub(crate) fn command(user: &str, op: Op) -> Command {
    Command { room: ROOM.into(), user: user.into(), history: HISTORY, epoch_candidate: EPOCH.into(), op }
}

pub(crate) fn like(target: &str, on: bool) -> Op {
    Op::Like { target: target.into(), on }
}

pub(crate) fn count(target: &str, counter: &str, by: u32, key: Option<&str>) -> Op {
    Op::Count { target: target.into(), counter: counter.into(), by, key: key.map(Into::into) }
}

pub(crate) fn comment(target: &str, text: &str, key: Option<&str>) -> Op {
    Op::Comment { target: target.into(), text: text.into(), key: key.map(Into::into), moderated: false }
}

pub(crate) fn pending(target: &str, text: &str) -> Op {
    Op::Comment { target: target.into(), text: text.into(), key: None, moderated: true }
}

pub(crate) fn stock(item: &str, stock: u64, per_user: u64, hold_ms: u64) -> Op {
    Op::Stock { item: item.into(), stock, per_user, hold: Duration::from_millis(hold_ms) }
}

pub(crate) fn reserve(item: &str, quantity: u32, key: &str) -> Op {
    Op::Reserve { item: item.into(), quantity, key: key.into() }
}

pub(crate) fn confirm(reservation: &str) -> Op {
    Op::Confirm { reservation: reservation.into() }
}

pub(crate) fn release(reservation: &str) -> Op {
    Op::Release { reservation: reservation.into() }
}

impl Stage {
    /// What an operation that must succeed came to.
    pub(crate) async fn did(&self, user: &str, op: Op) -> Outcome {
        self.one().apply(command(user, op)).await.expect("applied")
    }

    /// Why an operation that must fail failed.
    pub(crate) async fn refused(&self, user: &str, op: Op) -> CounterError {
        self.one().apply(command(user, op)).await.expect_err("refused")
    }

    /// A counter's value and version as read by the other node.
    pub(crate) async fn value(&self, target: &str, counter: &str) -> Option<(u64, u64)> {
        let targets = [target.to_owned()];
        let updates = self.nodes[1].counters(ROOM, Some(&targets)).await.expect("read");
        updates.iter().find(|update| update.counter == counter).map(|update| (update.value, update.version))
    }

    pub(crate) async fn page(
        &self,
        viewer: &Viewer,
        target: Option<&str>,
        cursor: Option<String>,
        limit: u32,
    ) -> CommentPage {
        let query = CommentsQuery { target: target.map(Into::into), viewer: viewer.clone(), cursor, limit };
        self.nodes[1].comments(ROOM, query).await.expect("read")
    }

    /// Every comment that the viewer sees, page by page.
    pub(crate) async fn all_comments(
        &self,
        viewer: Viewer,
        target: Option<&str>,
        limit: u32,
    ) -> Vec<Comment> {
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.page(&viewer, target, cursor, limit).await;
            assert!(page.comments.len() <= limit as usize);
            all.extend(page.comments);
            cursor = page.cursor;
            if cursor.is_none() {
                return all;
            }
        }
    }
}
