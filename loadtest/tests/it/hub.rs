//! A small hub in memory, with faults on request: as much of the protocol as the tool speaks, in one process. It
//! is no model of how roomcast works.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::header::SEC_WEBSOCKET_PROTOCOL,
    },
};

/// What the hub does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Every seventh event is not sent to one member.
    Loses,
    /// Every seventh event is sent twice.
    Doubles,
    /// Every seventh event is sent after the next one.
    Swaps,
    /// Members are closed after their seventh event.
    Closes,
    /// A join is answered, but takes effect later.
    JoinsLate,
    /// A like by the same user counts each time.
    LikesTwice,
    /// `since` is answered without the last event missed.
    Forgets,
    /// Every third publish is refused for a moment first.
    RateLimits,
    /// Nothing answers a ping.
    Deaf,
}

#[derive(Debug, Default)]
struct Room {
    log: Vec<Value>,
    members: HashMap<u64, (bool, mpsc::UnboundedSender<Message>)>,
    likes: HashSet<String>,
    counters: HashMap<String, (u64, u64)>,
    keys: HashMap<String, Value>,
    held: Option<Value>,
}

/// The state that all nodes of the fake cluster share.
#[derive(Debug)]
pub(crate) struct Hub {
    fault: Fault,
    rooms: Mutex<HashMap<String, Room>>,
    sockets: AtomicU64,
    publishes: AtomicU64,
}

impl Hub {
    pub(crate) fn new(fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            fault,
            rooms: Mutex::default(),
            sockets: AtomicU64::new(1),
            publishes: AtomicU64::new(0),
        })
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> u64 {
        self.sockets.load(Ordering::Relaxed) - 1
    }

    /// Listens as one more node of the cluster, for as long as the returned set lives.
    pub(crate) async fn node(self: &Arc<Self>) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let hub = self.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                sessions.spawn(hub.clone().session(stream));
            }
        });
        (address, tasks)
    }

    #[allow(
        clippy::result_large_err,
        reason = "the handshake callback of tungstenite returns its large type"
    )]
    async fn session(self: Arc<Self>, stream: TcpStream) {
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let mut binary = false;
        let agree = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            let wanted = request.headers().get(SEC_WEBSOCKET_PROTOCOL).cloned();
            binary = wanted.as_ref().is_some_and(|name| name == "roomcast.v1.msgpack");
            response.headers_mut().extend(wanted.map(|name| (SEC_WEBSOCKET_PROTOCOL, name)));
            Ok(response)
        };
        let Ok(socket) = accept_hdr_async(stream, agree).await else { return };
        let (mut write, mut read) = socket.split();
        let (outbox, mut inbox) = mpsc::unbounded_channel::<Message>();
        let session =
            Session { id: self.sockets.fetch_add(1, Ordering::Relaxed), binary, outbox, user: String::new() };
        let writing = async {
            while let Some(message) = inbox.recv().await {
                let last = matches!(message, Message::Close(_));
                if write.send(message).await.is_err() || last {
                    return;
                }
            }
        };
        let mut session = session;
        let id = session.id;
        let reading = async {
            while let Some(Ok(message)) = read.next().await {
                let frame: Value = match &message {
                    Message::Text(text) if !binary => serde_json::from_str(text).expect("JSON"),
                    Message::Binary(bytes) if binary => rmp_serde::from_slice(bytes).expect("MessagePack"),
                    Message::Close(_) => return,
                    _ => continue,
                };
                self.frame(&mut session, &frame);
            }
        };
        tokio::select! { () = writing => {}, () = reading => {} }
        for room in self.rooms.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            room.members.remove(&id);
        }
    }

    fn frame(&self, session: &mut Session, frame: &Value) {
        let op = frame["op"].as_str().expect("an op");
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let room = frame["room"].as_str().map(|name| (name, rooms.entry(name.to_owned()).or_default()));
        let refuse = |code: &str, retry: u64| json!({"id": frame["id"], "error": {"code": code, "message": "m", "retry_ms": retry}});
        let answer = match (op, room) {
            ("connect", _) => {
                frame["token"].as_str().unwrap_or("guest").clone_into(&mut session.user);
                json!({"session": "s", "user": "u", "role": "guest", "ping_ms": 25_000, "node": "n", "limits": {}})
            }
            ("ping", _) if self.fault == Fault::Deaf => return,
            ("ping", _) => json!({"now": 1}),
            ("join", Some((_, room))) => self.join(session, room, frame),
            ("leave", Some((_, room))) => {
                room.members.remove(&session.id);
                json!({})
            }
            ("publish", Some((name, room))) => {
                let n = self.publishes.fetch_add(1, Ordering::Relaxed);
                if self.fault == Fault::RateLimits && n.is_multiple_of(3) {
                    session.say(&refuse("rate_limited", 2));
                    return;
                }
                if session.user == "guest" {
                    session.say(&refuse("forbidden", 1));
                    return;
                }
                let offset = self.publish(name, room, &frame["event"], &frame["data"]);
                json!({"epoch": "e", "offset": offset})
            }
            ("like", Some((name, room))) => {
                let user = if self.fault == Fault::LikesTwice {
                    format!("{}-{}", session.user, room.likes.len())
                } else {
                    session.user.clone()
                };
                if frame["on"] == true {
                    room.likes.insert(user)
                } else {
                    room.likes.remove(&user)
                };
                let value = room.likes.len() as u64;
                count(name, room, "like", value)
            }
            ("count", Some((name, room))) => {
                let key = frame["key"].to_string();
                if let Some(reply) = room.keys.get(&key).cloned() {
                    reply
                } else {
                    let before = room.counters.get("download").map_or(0, |(value, _)| *value);
                    let reply = count(name, room, "download", before + frame["by"].as_u64().expect("by"));
                    room.keys.insert(key, reply.clone());
                    reply
                }
            }
            ("comment", Some((name, room))) => {
                let key = frame["key"].to_string();
                if let Some(reply) = room.keys.get(&key).cloned() {
                    reply
                } else {
                    let offset = self.publish(name, room, &json!("comment"), &json!({"text": frame["text"]}));
                    let reply =
                        json!({"comment": offset.to_string(), "pending": false, "version": 1, "at": 1});
                    room.keys.insert(key, reply.clone());
                    reply
                }
            }
            (op, _) => panic!("the tool says {op}"),
        };
        session.say(&json!({"id": frame["id"], "ok": answer}));
    }

    fn join(&self, session: &Session, room: &mut Room, frame: &Value) -> Value {
        let since = frame["since"]["offset"].as_u64();
        let mut events: Vec<Value> = since.map_or_else(Vec::new, |since| {
            room.log.iter().filter(|event| event["offset"].as_u64() > Some(since)).cloned().collect()
        });
        if self.fault == Fault::Forgets {
            events.pop();
        }
        // So late that the run is over.
        if self.fault != Fault::JoinsLate {
            room.members.insert(session.id, (session.binary, session.outbox.clone()));
        }
        json!({
            "epoch": "e", "offset": room.log.len(), "recovered": true, "events": events,
            "presence": {"connections": 1, "users": 1},
        })
    }

    fn publish(&self, name: &str, room: &mut Room, event: &Value, data: &Value) -> u64 {
        let offset = room.log.len() as u64 + 1;
        let event = json!({"event": event, "data": data, "offset": offset, "at": 1});
        room.log.push(event.clone());
        let mut push = event;
        push["push"] = json!("event");
        push["room"] = json!(name);
        let seventh = offset.is_multiple_of(7);
        let held = room.held.take();
        match self.fault {
            Fault::Loses if seventh => {
                let one = room.members.keys().min().copied();
                for (id, member) in &room.members {
                    if Some(*id) != one {
                        send(member, &push);
                    }
                }
            }
            Fault::Swaps if seventh => {
                room.held = Some(push);
                return offset;
            }
            _ => room.send(&push),
        }
        if self.fault == Fault::Doubles && seventh {
            room.send(&push);
        }
        if self.fault == Fault::Closes && seventh {
            for (_, outbox) in room.members.values() {
                let _gone = outbox.send(Message::Close(None));
            }
        }
        if let Some(held) = held {
            room.send(&held);
        }
        offset
    }
}

impl Room {
    fn send(&self, push: &Value) {
        for member in self.members.values() {
            send(member, push);
        }
    }
}

#[derive(Debug)]
struct Session {
    id: u64,
    binary: bool,
    outbox: mpsc::UnboundedSender<Message>,
    user: String,
}

impl Session {
    fn say(&self, frame: &Value) {
        send(&(self.binary, self.outbox.clone()), frame);
    }
}

fn send((binary, outbox): &(bool, mpsc::UnboundedSender<Message>), frame: &Value) {
    let message = if *binary {
        Message::binary(rmp_serde::to_vec_named(frame).expect("encodes"))
    } else {
        Message::text(frame.to_string())
    };
    // A member that just left hears nothing more.
    let _gone = outbox.send(message);
}

fn count(name: &str, room: &mut Room, counter: &str, value: u64) -> Value {
    let entry = room.counters.entry(counter.to_owned()).or_default();
    if entry.0 != value {
        *entry = (value, entry.1 + 1);
        let version = entry.1;
        room.send(&json!({
            "push": "count", "room": name, "target": "photo", "counter": counter, "value": value, "version": version,
        }));
    }
    let version = room.counters[counter].1;
    json!({"value": value, "on": true, "version": version})
}
