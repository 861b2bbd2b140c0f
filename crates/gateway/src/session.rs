//! One connection's task: it reads frames, lets `core` judge them, has the permitted ones carried out, and ends the
//! connection with the right code. It writes nothing to the socket itself: that is the outbox's work.

mod frames;
mod io;
mod pipeline;
pub(crate) mod tasks;

use std::{
    future::poll_fn,
    ops::ControlFlow,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use roomcast_core::session::{Due, Outcome, Session};
use roomcast_protocol::{
    ClientFrame, CloseCode, Codec, DecodeError, ErrorCode, Failure, OpKind, Opcode, Push, ServerFrame,
    server_frame,
};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use self::{
    frames::Message,
    io::{End, Reader},
    pipeline::{Company, Next, Pipeline},
    tasks::{Change, Done, Work},
};
use crate::{
    admission::Admission,
    conn::{Conn, Order},
    metrics,
    node::{now, unix_ms},
    outbox::Item,
    rest,
    restrictions::Speaks,
    worker::Worker,
};

/// How long a socket that is being closed may take to drain and to say goodbye.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// The same for one that is closed because it reads slowly. The kernel has the close frame then, and goes on trying to
/// deliver it for a while after the socket is let go.
const SLOW_GRACE: Duration = Duration::from_secs(10);

/// Serves a connection to its end. `first` came with the handshake; the admission is given back when it is over.
///
/// What the session needs is made here and not inside its future, which would keep room for it twice: as what it was
/// given, and as what it works with.
pub fn serve(
    worker: Rc<Worker>,
    conn: Rc<Conn>,
    first: &[u8],
    admission: Admission,
) -> impl Future<Output = ()> + use<> {
    let mut stay = Stay::begin(worker.clone(), conn.clone(), admission);
    let mut reader = Reader::new(conn.clone(), first, worker.node.terms.limits.frame_bytes.or_max());
    let mut driver = Driver::new(worker, conn);
    async move {
        stay.code = driver.run(&mut reader).await;
        drop((driver, reader));
        tracing::debug!(code = stay.code.map(CloseCode::code), "the connection ended");
        stay.worker.leave_all(&stay.conn);
        // Boxed: it is not needed as long as the connection lives.
        Box::pin(say_goodbye(&stay.conn, stay.code)).await;
    }
}

/// What a connection holds on its node; given back by `Drop`, so that not even a panic leaves a ghost behind.
struct Stay {
    worker: Rc<Worker>,
    conn: Rc<Conn>,
    code: Option<CloseCode>,
    _admission: Admission,
}

impl Stay {
    fn begin(worker: Rc<Worker>, conn: Rc<Conn>, admission: Admission) -> Self {
        metrics::opened();
        worker.hub.borrow_mut().register(&conn);
        Self { worker, conn, code: None, _admission: admission }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.worker.leave_all(&self.conn);
        self.worker.hub.borrow_mut().forget(&self.conn);
        // A client that comes back at once finds its place free.
        self.conn.hold(None);
        metrics::closed(self.code);
    }
}

/// What a session waits for.
enum Event {
    /// Somebody else wants something of it, or its socket is broken.
    Ordered(std::io::Result<Order>),
    /// A deadline has come.
    Due,
    /// Something that was asked for is done.
    Next(Next),
    /// The client was heard; and is to be closed for what it said, or what came of that has to be looked at.
    Heard(Option<CloseCode>),
    /// Nothing more can be heard of it.
    Ended(End),
}

/// What a client said.
enum Said {
    /// A frame of the protocol, or what should have been one.
    Frame(Result<ClientFrame, DecodeError>),
    /// A ping or a pong.
    Control,
}

impl Said {
    /// Reads a message where it lies.
    fn read(codec: &mut Codec, message: &Message<'_>) -> Self {
        Self::Frame(codec.decode(match message {
            Message::Text(text) => roomcast_protocol::Message::Text(text),
            Message::Binary(bytes) => roomcast_protocol::Message::Binary(bytes),
            // The reader has answered it, and ends with a close.
            Message::Ping(_) | Message::Pong | Message::Close(_) => return Self::Control,
        }))
    }
}

struct Driver {
    worker: Rc<Worker>,
    conn: Rc<Conn>,
    session: Session,
    works: Pipeline,
    codec: Codec,
    /// What had left the outbox when it was last looked at.
    drained: u64,
}

impl Driver {
    fn new(worker: Rc<Worker>, conn: Rc<Conn>) -> Self {
        let session = Session::new(worker.node.terms.clone(), now().instant);
        let codec = conn.codec;
        Self { worker, conn, session, works: Pipeline::default(), codec, drained: 0 }
    }

    /// Runs until the connection is to end. None: the client went by itself.
    async fn run(&mut self, reader: &mut Reader) -> Option<CloseCode> {
        let mut timer = pin!(sleep_until(Instant::now()));
        let code = loop {
            if let Some(next) = self.session.next_timeout().map(Instant::from_std)
                && timer.deadline() != next
            {
                timer.as_mut().reset(next);
            }
            let close = match poll_fn(|cx| self.poll_event(reader, timer.as_mut(), cx)).await {
                Event::Ordered(Ok(Order::GoAway { retry_ms, reason })) => {
                    self.push(&Push::Goaway { retry_ms, reason: reason.to_owned() });
                    None
                }
                Event::Ordered(Ok(Order::Close(code))) => Some(code),
                Event::Ordered(Err(_broken)) => break None,
                Event::Due => {
                    let working = !self.works.is_empty();
                    self.on_time(working)
                }
                Event::Next(next) => self.on_next(next),
                Event::Heard(close) => close,
                Event::Ended(End::Gone) => break None,
                Event::Ended(End::Fault(fault)) => Some(fault.code()),
            };
            if close.is_some() {
                break close;
            }
        };
        Box::pin(self.finish()).await;
        code
    }

    /// What happens next, in this order, so that orders and deadlines hold for a client that never pauses. By hand, and
    /// not by futures that each connection would have to keep. Cancel safe: what is not returned is not taken.
    fn poll_event(
        &mut self,
        reader: &mut Reader,
        timer: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<Event> {
        if let Poll::Ready(order) = self.conn.poll_attend(cx) {
            return Poll::Ready(Event::Ordered(order));
        }
        if timer.poll(cx).is_ready() {
            return Poll::Ready(Event::Due);
        }
        if let Poll::Ready(next) = self.works.poll_next(cx) {
            return Poll::Ready(Event::Next(next));
        }
        // Who does not read its answers is not read. What takes them off is this task too, so it is polled then.
        if self.works.takes_more() && !self.conn.owes_answers() {
            let due = self.session.next_timeout();
            return match ready!(reader.poll_hear(cx, |message| self.hear(&message, due))) {
                Ok(close) => Poll::Ready(Event::Heard(close)),
                Err(end) => Poll::Ready(Event::Ended(end)),
            };
        }
        Poll::Pending
    }

    /// Hears a message, and goes on to the next one only where nothing else could come first: nobody gave an order
    /// meanwhile, nothing waits to be written, no deadline was moved, nothing is under way.
    fn hear(
        &mut self,
        message: &Message<'_>,
        due: Option<std::time::Instant>,
    ) -> ControlFlow<Option<CloseCode>> {
        rest::heard();
        let said = Said::read(&mut self.codec, message);
        let close = self.on_said(said);
        let is_quiet = close.is_none()
            && self.works.is_empty()
            && self.conn.is_attended()
            && self.session.next_timeout() == due;
        if is_quiet { ControlFlow::Continue(()) } else { ControlFlow::Break(close) }
    }

    /// What was asked for before the end is carried out, written down and answered, in order; what waits behind it
    /// was not begun, and is not.
    async fn finish(&mut self) {
        let rest = async {
            while !self.works.is_empty() {
                let next = self.works.next().await;
                let _ends_anyway = self.tell(next);
            }
        };
        let _in_time = timeout(CLOSE_GRACE, rest).await;
    }

    fn on_said(&mut self, said: Said) -> Option<CloseCode> {
        match said {
            Said::Control => self.session.on_control(now().instant),
            // What is no publish waits for the publishes before it.
            Said::Frame(Ok(frame)) if !self.works.is_empty() && frame.op.kind() != OpKind::Publish => {
                self.works.hold(frame);
                None
            }
            Said::Frame(frame) => self.on_frame(frame),
        }
    }

    fn on_frame(&mut self, frame: Result<ClientFrame, DecodeError>) -> Option<CloseCode> {
        // What came after it was put out of a room is judged as from outside.
        for room in self.conn.take_put_out() {
            self.session.removed(&room);
        }
        let kind = frame.as_ref().ok().map(|frame| frame.op.kind());
        if let Some(kind) = kind {
            metrics::received(kind);
        }
        let Outcome { answer, task, close, error } = self.session.on_frame(frame, now());
        if let Some(code) = error {
            metrics::error(code);
        }
        match answer {
            Some(answer) if self.works.is_empty() => self.send(&answer),
            Some(answer) => self.works.answer(answer),
            None => {}
        }
        if let Some(((id, task), kind)) = task.zip(kind) {
            let company = if kind == OpKind::Publish { Company::Welcome } else { Company::Unwelcome };
            let work = self.begin(id, task, kind);
            self.works.begin(work, company);
        }
        close
    }

    fn on_next(&mut self, mut next: Next) -> Option<CloseCode> {
        if let Next::Done(done) = &mut next
            && let Some(rest) = done.rest.take()
        {
            self.works.go_on(rest);
        }
        self.tell(next).or_else(|| self.works.release().and_then(|frame| self.on_frame(Ok(frame))))
    }

    fn tell(&mut self, next: Next) -> Option<CloseCode> {
        match next {
            Next::Answer(answer) => {
                self.send(&answer);
                None
            }
            Next::Done(done) => self.on_done(*done),
        }
    }

    fn begin(&self, id: Option<u64>, task: roomcast_core::session::Task, kind: OpKind) -> Work {
        let (worker, conn) = (self.worker.clone(), self.conn.clone());
        let who = self.session.identity().cloned();
        Box::pin(async move {
            let started = Instant::now();
            let done = tasks::carry_out(&worker, &conn, who.as_ref(), id, task).await;
            metrics::op_took(kind, started.elapsed());
            done
        })
    }

    fn on_done(&mut self, done: Done) -> Option<CloseCode> {
        let instant = now().instant;
        match done.change {
            Change::None => {}
            Change::Opened { who, expires } => {
                // Who was banned while connecting was nobody yet when the others were put out.
                let restrictions = &self.worker.node.restrictions;
                if restrictions.admit(&who.user, Some(self.conn.ip), None, Speaks::No, unix_ms()).is_err() {
                    return Some(CloseCode::Disconnected);
                }
                // Connecting comes once, and a new token is the same user's.
                let _known = self.conn.user.set(who.user.clone());
                self.conn.expires.set(expires);
                self.session.opened(who, expires, instant);
            }
            Change::Refreshed { who, expires } => {
                self.conn.expires.set(Some(expires));
                for room in self.session.refreshed(who, expires, instant) {
                    self.worker.leave(&self.conn, &room);
                    self.push(&Push::Kicked {
                        room,
                        reason: "the new token does not open this room".to_owned(),
                    });
                }
            }
            Change::Joined(room) => self.session.joined(room),
            Change::Lost(room) => {
                self.session.removed(&room);
                let reason = "joining again failed, and the room was left for it: join once more".to_owned();
                self.push(&Push::Kicked { room, reason });
            }
        }
        if let Some(ServerFrame::Error { error, .. }) = &done.answer {
            metrics::error(error.code);
        }
        if let Some(answer) = &done.answer {
            self.send(answer);
        }
        done.close
    }

    fn on_time(&mut self, working: bool) -> Option<CloseCode> {
        while let Some(due) = self.session.on_timeout(now().instant) {
            match due {
                Due::Ping => {
                    self.drained = self.conn.drained_bytes();
                    self.alone(Item::must(server_frame(Opcode::Ping, b"")));
                }
                Due::Expiring(at) => {
                    let left = Instant::from_std(at).saturating_duration_since(Instant::now());
                    let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                    self.push(&Push::Expiring { expires_at: now().unix_ms.saturating_add(left) });
                }
                // A large answer on a slow link: the ping waits behind it, but it moves.
                Due::Close(CloseCode::PingTimeout) if self.conn.drained_bytes() > self.drained => {
                    self.drained = self.conn.drained_bytes();
                    self.session.heard();
                }
                // Nothing waits for it and it is not read: it is this node that is busy with what it asked for.
                Due::Close(CloseCode::PingTimeout) if working && self.conn.is_drained() => {
                    self.session.heard();
                }
                // It took nothing of what waits for it.
                Due::Close(CloseCode::PingTimeout) if !self.conn.is_drained() => {
                    metrics::slow_consumer();
                    return Some(CloseCode::SlowConsumer);
                }
                Due::Close(code) => return Some(code),
            }
        }
        None
    }

    fn push(&self, push: &Push) {
        self.send(&ServerFrame::Push(push.clone()));
    }

    fn send(&self, frame: &ServerFrame) {
        if let Some(item) = encode(self.codec, frame) {
            self.alone(item);
        }
    }

    fn alone(&self, item: Item) {
        self.worker.hub.borrow_mut().send_alone(&self.conn, item);
    }
}

/// Sends what waits and the close frame, then lets the client's own close arrive, within bounds.
async fn say_goodbye(conn: &Conn, code: Option<CloseCode>) {
    if let Some(code) = code {
        conn.send_close(code);
    }
    if code == Some(CloseCode::SlowConsumer) {
        conn.make_room_below();
    }
    let goodbye = async {
        conn.drained().await?;
        if code.is_some() {
            socket2::SockRef::from(conn.stream()).shutdown(std::net::Shutdown::Write)?;
            io::discard(conn.stream()).await?;
        }
        std::io::Result::Ok(())
    };
    let grace = if code == Some(CloseCode::SlowConsumer) { SLOW_GRACE } else { CLOSE_GRACE };
    let _in_time = timeout(grace, goodbye).await;
}

/// One frame for one socket.
pub(crate) fn encode(codec: Codec, frame: &ServerFrame) -> Option<Item> {
    let bytes = codec.encode(frame).or_else(|error| {
        tracing::error!(%error, "an answer could not be encoded");
        let failure = Failure::new(ErrorCode::Internal, "internal error");
        let id = match frame {
            ServerFrame::Ok { id, .. } => Some(*id),
            ServerFrame::Error { id, .. } => *id,
            ServerFrame::Push(_) => None,
        };
        codec.encode(&ServerFrame::Error { id, error: failure })
    });
    let cause = match frame {
        ServerFrame::Ok { .. } | ServerFrame::Error { .. } => Item::answer,
        ServerFrame::Push(_) => Item::must,
    };
    bytes.ok().map(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_of<F: Future>(_: impl Fn(Rc<Worker>, Rc<Conn>, &[u8], Admission) -> F) -> usize {
        size_of::<F>()
    }

    /// There are ten thousand of them and more, and nearly all of them wait.
    #[test]
    fn what_every_connection_holds_stays_small() {
        let (session, conn) = (future_of(serve), size_of::<Conn>());
        assert!(session <= 640, "the session's future takes {session} bytes");
        assert!(conn <= 256, "a connection takes {conn} bytes");
    }
}
