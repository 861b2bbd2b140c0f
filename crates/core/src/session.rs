//! One connection's rules, without the connection: what a frame may ask for, what it costs, and what time brings.
//!
//! The gateway feeds frames and timeouts in, with `now`; out come answers, tasks that are permitted, and closes.

mod cost;
#[cfg(test)]
mod tests;
mod timers;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use roomcast_protocol::{
    ClientFrame, CloseCode, Connect, Data, DecodeError, ErrorCode, Failure, Ok as Answer, Op, OpKind,
    Position, RoomName, ServerFrame,
};

use crate::{
    bucket::TokenBucket,
    events::may_say,
    limits::Limits,
    permission::{Access, Identity, Namespaces, Role, Rules},
};

pub use cost::cost;
pub use timers::Due;

/// Refused frames in a row after which the connection is closed as a flood.
pub const MAX_BREACHES: u32 = 100;
/// Frames in a row that are no frames of this protocol, after which it is closed as misuse.
pub const MAX_BAD_FRAMES: u32 = 20;
/// How long before its end a token's holder is told.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(60);
/// Events or members in one answer unless asked for fewer or more.
pub const DEFAULT_PAGE: usize = 100;
/// Events or members in one answer at most.
pub const MAX_PAGE: usize = 1_000;

/// The two clocks of a moment.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For durations.
    pub instant: Instant,
    /// For people and tokens: Unix ms.
    pub unix_ms: u64,
}

/// What a session is held to.
#[derive(Debug)]
pub struct Terms {
    /// Section 6 of the contract.
    pub limits: Limits,
    /// Section 5 of the contract.
    pub namespaces: Namespaces,
}

/// What a permitted operation asks the gateway to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Find out who this is, then call [`Session::opened`] or [`Session::refused`].
    Authenticate(Connect),
    /// Verify the new token, then call [`Session::refreshed`].
    Refresh {
        /// The new token.
        token: String,
    },
    /// Join, then call [`Session::joined`].
    Join {
        /// The room.
        room: RoomName,
        /// Its rules.
        rules: Rules,
        /// Everything after this is wanted.
        since: Option<Position>,
        /// Or so many of the newest.
        recent: usize,
    },
    /// Leave; the session has forgotten the room already.
    Leave {
        /// The room.
        room: RoomName,
    },
    /// Publish an event.
    Publish {
        /// The room.
        room: RoomName,
        /// Its rules.
        rules: Rules,
        /// What kind.
        event: String,
        /// The payload.
        data: Data,
        /// Makes a retry harmless.
        key: Option<String>,
    },
    /// Send a fleeting signal.
    Signal {
        /// The room.
        room: RoomName,
        /// What kind.
        event: String,
        /// The payload.
        data: Data,
    },
    /// Read the past.
    History {
        /// The room.
        room: RoomName,
        /// Its rules.
        rules: Rules,
        /// After this position …
        since: Option<Position>,
        /// … or before this offset.
        before: Option<u64>,
        /// At most so many.
        limit: usize,
    },
    /// Read who is there.
    Presence {
        /// The room.
        room: RoomName,
        /// Where the last page ended.
        cursor: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// Hand a counter operation on.
    Counter {
        /// The room.
        room: RoomName,
        /// Its rules.
        rules: Rules,
        /// The operation.
        op: Op,
    },
    /// Claim a name.
    Claim {
        /// Within which it is unique.
        scope: String,
        /// The name.
        name: String,
    },
    /// Do what only an admin may: `stats`, `queue`, `audit`, `drain`, `shed` or `disconnect`.
    Operate(Op),
}

/// What a frame leads to. Send the answer first, then carry out the task, then close.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// To be sent.
    pub answer: Option<ServerFrame>,
    /// To be carried out; its result is answered under this id.
    pub task: Option<(Option<u64>, Task)>,
    /// To be closed.
    pub close: Option<CloseCode>,
    /// The error that was answered, for the metrics.
    pub error: Option<ErrorCode>,
}

impl Outcome {
    fn task(id: Option<u64>, task: Task) -> Self {
        Self { task: Some((id, task)), ..Self::default() }
    }

    fn answer(id: Option<u64>, ok: Answer) -> Self {
        Self { answer: id.map(|id| ServerFrame::Ok { id, ok }), ..Self::default() }
    }

    fn error(id: Option<u64>, error: Failure) -> Self {
        let code = error.code;
        Self { answer: Some(ServerFrame::Error { id, error }), error: Some(code), ..Self::default() }
    }

    fn closing(mut self, code: Option<CloseCode>) -> Self {
        self.close = code;
        self
    }
}

/// One connection's state.
#[derive(Debug)]
pub struct Session {
    terms: Arc<Terms>,
    who: Option<Identity>,
    rooms: Vec<RoomName>,
    frames: TokenBucket,
    counters: Vec<(OpKind, TokenBucket)>,
    breaches: u32,
    bad_frames: u32,
    timers: timers::Timers,
}

impl Session {
    /// A connection that was just upgraded.
    pub fn new(terms: Arc<Terms>, now: Instant) -> Self {
        let limits = &terms.limits;
        Self {
            frames: cost::frame_bucket(limits, now),
            timers: timers::Timers::new(limits, now),
            who: None,
            rooms: Vec::new(),
            counters: Vec::new(),
            breaches: 0,
            bad_frames: 0,
            terms,
        }
    }

    /// Who this is, once `connect` succeeded.
    pub fn identity(&self) -> Option<&Identity> {
        self.who.as_ref()
    }

    /// The rooms joined.
    pub fn rooms(&self) -> &[RoomName] {
        &self.rooms
    }

    /// A frame came, or what should have been one.
    pub fn on_frame(&mut self, frame: Result<ClientFrame, DecodeError>, now: Now) -> Outcome {
        self.timers.heard_frame(&self.terms.limits, now.instant);
        let (id, charge) = match &frame {
            Ok(frame) => (frame.id, cost(frame.op.kind())),
            Err(error) => (error.id, 1),
        };
        if let Err(wait) = self.frames.take(charge, now.instant) {
            return self.breach(id, "too many frames", wait);
        }
        match frame {
            Err(error) => self.bad_frame(error),
            Ok(frame) => self.on_op(frame.id, frame.op, now),
        }
    }

    fn on_op(&mut self, id: Option<u64>, op: Op, now: Now) -> Outcome {
        let kind = op.kind();
        match (&self.who, op) {
            (None, Op::Connect(connect)) => Outcome::task(id, Task::Authenticate(connect)),
            (None, _) => self.bad_frame(DecodeError {
                id,
                code: ErrorCode::ConnectFirst,
                message: "the first frame must be connect".to_owned(),
            }),
            (Some(_), Op::Connect(_)) => self.bad_frame(DecodeError {
                id,
                code: ErrorCode::BadFrame,
                message: "connect comes once per connection; refresh replaces a token".to_owned(),
            }),
            (Some(_), op) => {
                self.bad_frames = 0;
                if let Some(Err(wait)) =
                    self.counter_bucket(kind, now.instant).map(|bucket| bucket.take(1, now.instant))
                {
                    return self.breach(id, "too many operations of this kind", wait);
                }
                self.breaches = 0;
                self.permitted(id, op, now).unwrap_or_else(|failure| Outcome::error(id, failure))
            }
        }
    }

    fn permitted(&mut self, id: Option<u64>, op: Op, now: Now) -> Result<Outcome, Failure> {
        let task = match op {
            Op::Ping(_) => return Ok(Outcome::answer(id, Answer::Pong { now: now.unix_ms })),
            Op::Refresh(op) => Task::Refresh { token: op.token },
            Op::Join(op) => {
                let rules = self.rules(Access::Join, &op.room)?;
                let held = self.rooms.len() as u64;
                if !self.rooms.contains(&op.room) && !self.terms.limits.rooms_per_socket.admits(held) {
                    return Err(Failure::new(
                        ErrorCode::TooManyRooms,
                        format!("this connection holds {held} rooms, its limit"),
                    ));
                }
                let recent = op.recent.map_or(0, |n| page(Some(n)));
                Task::Join { room: op.room, rules, since: op.since.map(Into::into), recent }
            }
            Op::Leave(op) => {
                let at = self.seat(&op.room)?;
                self.rooms.swap_remove(at);
                Task::Leave { room: op.room }
            }
            Op::Publish(op) => {
                let rules = self.rules(Access::Publish, &op.room)?;
                self.event_name(&op.event)?;
                Task::Publish { room: op.room, rules, event: op.event, data: op.data, key: op.key }
            }
            Op::Signal(op) => {
                self.rules(Access::Publish, &op.room)?;
                self.event_name(&op.event)?;
                self.seat(&op.room)?;
                Task::Signal { room: op.room, event: op.event, data: op.data }
            }
            Op::History(op) => {
                let rules = self.rules(Access::Join, &op.room)?;
                let since = op.since.map(Into::into);
                Task::History { room: op.room, rules, since, before: op.before, limit: page(op.limit) }
            }
            Op::Presence(op) => {
                if !self.rules(Access::Join, &op.room)?.presence {
                    return Err(Failure::new(ErrorCode::Forbidden, "this namespace keeps no presence"));
                }
                Task::Presence { room: op.room, cursor: op.cursor, limit: page(op.limit) }
            }
            op @ (Op::Like(_) | Op::Count(_) | Op::Comment(_)) => {
                let Some(room) = op.room().cloned() else { return Err(unknown(op.kind())) };
                let rules = self.rules(Access::Count, &room)?;
                Task::Counter { room, rules, op }
            }
            Op::Moderate(op) => {
                let rules = self.rules(Access::Moderate, &op.room)?;
                Task::Counter { room: op.room.clone(), rules, op: Op::Moderate(op) }
            }
            Op::Upload(op) => {
                let rules = self.rules(Access::Publish, &op.room)?;
                Task::Counter { room: op.room.clone(), rules, op: Op::Upload(op) }
            }
            Op::Put(op) => {
                let rules = self.rules(Access::Publish, &op.room)?;
                Task::Counter { room: op.room.clone(), rules, op: Op::Put(op) }
            }
            Op::Get(op) => {
                let rules = self.rules(Access::Join, &op.room)?;
                Task::Counter { room: op.room.clone(), rules, op: Op::Get(op) }
            }
            Op::Reserve(op) => {
                let rules = self.selling(&op.room)?;
                Task::Counter { room: op.room.clone(), rules, op: Op::Reserve(op) }
            }
            Op::Confirm(op) => {
                let room = reserved_in(&op.reservation)?;
                Task::Counter { rules: self.selling(&room)?, room, op: Op::Confirm(op) }
            }
            Op::Release(op) => {
                let room = reserved_in(&op.reservation)?;
                Task::Counter { rules: self.selling(&room)?, room, op: Op::Release(op) }
            }
            Op::Claim(op) => match &self.who {
                // A name is for good, and a guest is not.
                Some(who) if who.role >= Role::Member => Task::Claim { scope: op.scope, name: op.name },
                _ => return Err(Failure::new(ErrorCode::Forbidden, "guests may not claim names")),
            },
            op @ (Op::Stats(_)
            | Op::Queue(_)
            | Op::Audit(_)
            | Op::Drain(_)
            | Op::Shed(_)
            | Op::Disconnect(_)) => {
                self.operator()?;
                Task::Operate(op)
            }
            op @ Op::Connect(_) => return Err(unknown(op.kind())),
        };
        Ok(Outcome::task(id, task))
    }

    /// The rules of the room, where they allow this access.
    fn rules(&self, access: Access, room: &RoomName) -> Result<Rules, Failure> {
        let rules = self.terms.namespaces.rules(room).ok_or_else(|| {
            Failure::new(
                ErrorCode::BadRoom,
                "no such room: its namespace is not configured, or it takes no such name",
            )
        })?;
        match &self.who {
            Some(who) if rules.allow(access, who, room) => Ok(*rules),
            _ => Err(Failure::new(ErrorCode::Forbidden, "this role may not do that in this room")),
        }
    }

    fn event_name(&self, event: &str) -> Result<(), Failure> {
        may_say(self.who.as_ref().map_or(Role::Guest, |who| who.role), event)
    }

    /// Only who may be in the room `admin` operates the hub.
    fn operator(&self) -> Result<(), Failure> {
        let forbidden = Failure::new(ErrorCode::Forbidden, "only role admin may do that");
        let Ok(admin) = RoomName::parse("admin") else { return Err(forbidden) };
        self.rules(Access::Join, &admin).map(|_| ()).map_err(|_| forbidden)
    }

    /// The rules of a room in which this session may reserve.
    fn selling(&self, room: &RoomName) -> Result<Rules, Failure> {
        let rules = self.rules(Access::Count, room)?;
        if rules.stock {
            Ok(rules)
        } else {
            Err(Failure::new(ErrorCode::Forbidden, "this namespace keeps no stock"))
        }
    }

    fn seat(&self, room: &RoomName) -> Result<usize, Failure> {
        let not_joined = || Failure::new(ErrorCode::NotJoined, "join the room first");
        self.rooms.iter().position(|joined| joined == room).ok_or_else(not_joined)
    }

    fn breach(&mut self, id: Option<u64>, message: &str, wait: Duration) -> Outcome {
        self.breaches += 1;
        let retry_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        let flood = (self.breaches >= MAX_BREACHES).then_some(CloseCode::Flood);
        Outcome::error(id, Failure::retry(ErrorCode::RateLimited, message, retry_ms)).closing(flood)
    }

    fn bad_frame(&mut self, error: DecodeError) -> Outcome {
        self.bad_frames += 1;
        let misuse = (self.bad_frames >= MAX_BAD_FRAMES).then_some(CloseCode::Misuse);
        Outcome::error(error.id, Failure::new(error.code, error.message)).closing(misuse)
    }

    fn counter_bucket(&mut self, kind: OpKind, now: Instant) -> Option<&mut TokenBucket> {
        if !cost::is_counter(kind) {
            return None;
        }
        let known = self.counters.iter().position(|(of, _)| *of == kind);
        let at = known.unwrap_or_else(|| {
            self.counters.push((kind, cost::counter_bucket(&self.terms.limits, now)));
            self.counters.len() - 1
        });
        self.counters.get_mut(at).map(|(_, bucket)| bucket)
    }

    /// `connect` succeeded: who it is, and when that ends.
    pub fn opened(&mut self, who: Identity, expires: Option<Instant>, now: Instant) {
        self.who = Some(who);
        self.timers.opened(&self.terms.limits, now);
        self.timers.expires(expires, now);
    }

    /// `refresh` succeeded. Returns the rooms that the new token does not open: they are to be left.
    pub fn refreshed(&mut self, who: Identity, expires: Instant, now: Instant) -> Vec<RoomName> {
        let namespaces = &self.terms.namespaces;
        let (kept, lost) = std::mem::take(&mut self.rooms).into_iter().partition(|room| {
            namespaces.rules(room).is_some_and(|rules| rules.allow(Access::Join, &who, room))
        });
        self.rooms = kept;
        self.who = Some(who);
        self.timers.expires(Some(expires), now);
        lost
    }

    /// The room was joined.
    pub fn joined(&mut self, room: RoomName) {
        if !self.rooms.contains(&room) {
            if self.rooms.is_empty() {
                // Most join one room, and stay there.
                self.rooms.reserve_exact(1);
            }
            self.rooms.push(room);
        }
    }

    /// The room was left by no act of the client.
    pub fn removed(&mut self, room: &RoomName) {
        self.rooms.retain(|joined| joined != room);
    }

    /// A WebSocket ping or pong came. Each costs as much as a frame; too many in a row are a flood.
    pub fn on_control(&mut self, now: Instant) -> Option<CloseCode> {
        self.timers.heard();
        if self.frames.take(1, now).is_ok() {
            return None;
        }
        self.breaches += 1;
        (self.breaches >= MAX_BREACHES).then_some(CloseCode::Flood)
    }

    /// The other side is known to live, though nothing was read from it.
    pub fn heard(&mut self) {
        self.timers.heard();
    }

    /// When [`Session::on_timeout`] is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Time passed: at most one thing is due; ask again until nothing is.
    pub fn on_timeout(&mut self, now: Instant) -> Option<Due> {
        self.timers.due(&self.terms.limits, now)
    }
}

/// The room that a reservation's id names behind its first dot.
fn reserved_in(reservation: &str) -> Result<RoomName, Failure> {
    let room = reservation.split_once('.').and_then(|(_, room)| RoomName::parse(room).ok());
    room.ok_or_else(|| Failure::new(ErrorCode::NotFound, "no such reservation"))
}

fn unknown(kind: OpKind) -> Failure {
    Failure::new(ErrorCode::UnknownOp, format!("{} is not offered", kind.as_str()))
}

fn page(limit: Option<u32>) -> usize {
    limit.map_or(DEFAULT_PAGE, |limit| usize::try_from(limit).unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE))
}
