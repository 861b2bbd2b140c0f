//! One socket as its worker sees it: the stream, what waits for it, and how it is to end.
//!
//! A connection never leaves its worker, so cells do where threads would need locks. Whoever has bytes for it
//! writes them at once when nothing waits; what does not fit waits in the outbox, which the session's task drains.

use std::{
    cell::{Cell, OnceCell, RefCell, RefMut},
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    mem,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use roomcast_core::rooms::{MemberId, RoomId};
use roomcast_protocol::{CloseCode, Codec, PushClass, RoomName, close_frame};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{
    admission::Place,
    metrics,
    outbox::{Cause, Item, Outbox, OutboxCaps},
    random::Id,
};

const SLICES: usize = 32;
/// A send buffer that has grown so far is not touched: setting it could only make it smaller.
const LARGE_BUFFER: usize = 384 * 1024;
/// What the kernel adds to each byte that it keeps, at the worst: it counts whole pages and headers.
const KERNEL_OVERHEAD: usize = 4;

/// A place in a room.
#[derive(Debug, Clone)]
pub struct Seat {
    /// The room.
    pub name: RoomName,
    /// Its place in the worker's table.
    pub room: RoomId,
    /// The place in it.
    pub member: MemberId,
    /// Whether its user is counted as present.
    pub present: bool,
}

/// What somebody else wants of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Send `goaway`.
    GoAway {
        /// When to reconnect.
        retry_ms: u64,
        /// Why, for people.
        reason: &'static str,
    },
    /// Close with this code.
    Close(CloseCode),
}

/// One socket. There are very many of them: what few ever need is boxed, and what the flusher looks at stands together at
/// the front, because it comes from memory anew for each of them (`repr(C)` keeps it there).
#[repr(C)]
pub struct Conn {
    /// What waits; none where nothing does.
    outbox: RefCell<Option<Box<Outbox>>>,
    stream: TcpStream,
    /// How it speaks; the state of the session's own decoder is not here.
    pub codec: Codec,
    /// Takes no more frames: it ends, or it is too slow.
    cut: Cell<bool>,
    closed: Cell<bool>,
    close: Cell<Option<CloseCode>>,
    /// The client's address.
    pub ip: IpAddr,
    /// The session's public id.
    pub id: Id,
    /// Who it is, once known: for good.
    pub user: OnceCell<Arc<str>>,
    /// The rooms it sits in.
    pub seats: RefCell<Vec<Seat>>,
    /// When its token ends: guarded rooms deliver nothing after it.
    pub expires: Cell<Option<Instant>>,
    /// Its place in the hub's list.
    pub listed_at: Cell<Option<usize>>,
    caps: Rc<OutboxCaps>,
    rare: RefCell<Option<Box<Rare>>>,
    /// Bytes that left the outbox: a slow link that moves is not a dead one.
    drained: Cell<u64>,
    waker: Cell<Option<Waker>>,
    /// What the metrics were told of the bytes that wait.
    told: Cell<usize>,
}

/// What few connections have.
#[derive(Debug, Default)]
struct Rare {
    /// Its place among the user's connections, where they are bounded.
    place: Option<Place>,
    /// Rooms that it was put out of, for its session to hear.
    put_out: Vec<RoomName>,
    goaway: Option<(u64, &'static str)>,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.tell_queued(0);
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Conn {
    /// Wraps an upgraded stream.
    pub fn new(ip: IpAddr, codec: Codec, stream: TcpStream, caps: Rc<OutboxCaps>) -> Self {
        Self {
            id: Id::new(),
            ip,
            codec,
            user: OnceCell::new(),
            seats: RefCell::new(Vec::new()),
            expires: Cell::new(None),
            listed_at: Cell::new(None),
            stream,
            outbox: RefCell::new(None),
            caps,
            rare: RefCell::new(None),
            close: Cell::new(None),
            drained: Cell::new(0),
            cut: Cell::new(false),
            closed: Cell::new(false),
            waker: Cell::new(None),
            told: Cell::new(0),
        }
    }

    /// Tells the metrics where so many bytes wait now.
    fn tell_queued(&self, bytes: usize) {
        let before = self.told.replace(bytes);
        if bytes != before {
            let signed = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            metrics::queued(signed(bytes) - signed(before));
        }
    }

    /// The stream, for reading.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether everything so far is with the kernel.
    pub fn is_drained(&self) -> bool {
        self.outbox.borrow().is_none()
    }

    /// Whether a write would go to the kernel right now.
    pub fn takes_at_once(&self) -> bool {
        !self.cut.get() && self.is_drained()
    }

    /// Whether an answer waits. It changes only while [`Conn::poll_attend`] or [`Conn::drained`] is polled.
    pub fn owes_answers(&self) -> bool {
        self.outbox.borrow().as_deref().is_some_and(Outbox::owes_answers)
    }

    /// Waits until no answer waits: who does not read is not read. Only in the session's own task, which is also the one
    /// that drains the outbox, and so is polled when this changes. Cancel safe.
    pub async fn answered(&self) {
        poll_fn(|_| if self.owes_answers() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    /// Keeps its place among the user's connections until it is told otherwise.
    pub fn hold(&self, place: Option<Place>) {
        if place.is_some() || self.rare.borrow().is_some() {
            self.rare().place = place;
        }
    }

    /// Notes that it was put out of a room, for its session to hear.
    pub fn put_out(&self, room: RoomName) {
        self.rare().put_out.push(room);
    }

    /// The rooms that it was put out of since it was last asked.
    pub fn take_put_out(&self) -> Vec<RoomName> {
        self.rare.borrow_mut().as_deref_mut().map(|rare| mem::take(&mut rare.put_out)).unwrap_or_default()
    }

    fn rare(&self) -> RefMut<'_, Rare> {
        RefMut::map(self.rare.borrow_mut(), |rare| &mut **rare.get_or_insert_default())
    }

    /// Sends one frame: at once where nothing waits, else in its turn.
    pub fn send(&self, item: Item) {
        if self.cut.get() {
            return;
        }
        let bytes = item.bytes.clone();
        metrics::sent(item.class, 1, bytes.len());
        if !self.is_drained() {
            self.queue(item);
            return;
        }
        match self.write(&bytes) {
            Ok(written) if written == bytes.len() => {}
            Ok(written) => self.rest(bytes.slice(written..), item.cause),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.queue(item),
            Err(_) => self.fail(),
        }
    }

    /// Sends many frames that stand in one block: one write where nothing waits. `parts` cuts the block into
    /// frames for a socket that can't take it whole.
    pub fn send_block<'a>(
        &self,
        block: &Bytes,
        parts: impl Iterator<Item = (&'a Item, std::ops::Range<usize>)>,
    ) {
        if self.cut.get() {
            return;
        }
        let written = if self.is_drained() {
            match self.write(block) {
                Ok(written) if written == block.len() => return,
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return self.fail(),
            }
        } else {
            0
        };
        for (item, range) in parts {
            if range.end <= written {
                continue;
            }
            if range.start < written {
                self.rest(block.slice(written..range.end), item.cause);
            } else {
                self.queue(item.clone());
            }
            if self.cut.get() {
                return;
            }
        }
    }

    /// Writes as much as the socket takes now. The kernel is asked first, and tokio only where that would block: what tokio
    /// knows of a socket stands somewhere else in memory.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match SockRef::from(&self.stream).send(bytes) {
            // So that it waits for the socket from here on.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.try_write(bytes),
            written => written,
        }
    }

    /// Sends so many frames in a row that the client asked for: one of its answers, as far as bounds go.
    pub fn send_page(&self, page: Bytes, frames: usize) {
        metrics::sent(PushClass::MustDeliver, frames.saturating_sub(1) as u64, 0);
        self.send(Item::answer(page));
    }

    /// Queues bytes that the WebSocket layer made itself (a pong, the echo of a close).
    pub fn send_control(&self, frame: Bytes) {
        self.send(Item::answer(frame));
    }

    /// Ends the conversation: after what waits, or instead of it, comes the close frame, and nothing after that.
    pub fn send_close(&self, code: CloseCode) {
        self.cut.set(true);
        if self.closed.replace(true) {
            return;
        }
        self.with_outbox(|outbox| {
            if code == CloseCode::SlowConsumer {
                outbox.clear();
            }
            outbox.push_last(close_frame(code));
        });
        self.wake();
    }

    /// Has the kernel take what still waits, whether the other side reads or not: the end of the frame that is on the
    /// wire, and the reason for the close.
    pub fn make_room_below(&self) {
        let waiting = self.outbox.borrow().as_deref().map_or(0, Outbox::len_bytes);
        let socket = SockRef::from(&self.stream);
        let made = socket.set_tcp_notsent_lowat(u32::MAX).and_then(|()| {
            let size = socket.send_buffer_size()?;
            if size >= LARGE_BUFFER {
                return Ok(());
            }
            // The kernel doubles what it is given, and cuts it to its own maximum.
            socket.set_send_buffer_size(size.max(size / 2 + waiting * KERNEL_OVERHEAD))
        });
        if let Err(error) = made {
            tracing::debug!(%error, "no room could be made for a slow reader's close frame");
        }
    }

    /// Tells the session to do something. The first close stands; a `goaway` is sent before it.
    pub fn order(&self, order: Order) {
        match order {
            Order::GoAway { retry_ms, reason } => self.rare().goaway = Some((retry_ms, reason)),
            Order::Close(code) => self.close.set(self.close.get().or(Some(code))),
        }
        self.wake();
    }

    fn take_order(&self) -> Option<Order> {
        let goaway = self.rare.borrow_mut().as_deref_mut().and_then(|rare| rare.goaway.take());
        let goaway = goaway.map(|(retry_ms, reason)| Order::GoAway { retry_ms, reason });
        goaway.or_else(|| self.close.get().map(Order::Close))
    }

    /// Bytes that have left the outbox so far.
    pub fn drained_bytes(&self) -> u64 {
        self.drained.get()
    }

    /// Looks for an order and drains the outbox; polled again when there is one. Nothing is taken before it is returned.
    pub fn poll_attend(&self, cx: &mut Context<'_>) -> Poll<io::Result<Order>> {
        if let Some(order) = self.take_order() {
            return Poll::Ready(Ok(order));
        }
        if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        let same = self.waker.take().filter(|waker| waker.will_wake(cx.waker()));
        self.waker.set(same.or_else(|| Some(cx.waker().clone())));
        Poll::Pending
    }

    /// Whether nothing has come up since [`Conn::poll_attend`] had nothing to return.
    pub fn is_attended(&self) -> bool {
        let waker = self.waker.take();
        let is_attended = waker.is_some();
        self.waker.set(waker);
        is_attended
    }

    /// Waits until everything is with the kernel.
    pub async fn drained(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_drain(cx)).await
    }

    fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waiting = self.outbox.borrow_mut();
        while let Some(outbox) = waiting.as_deref_mut() {
            match self.stream.poll_write_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ready) => ready?,
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = outbox.slices(&mut slices);
            match self.stream.try_write_vectored(&slices[..filled]) {
                Ok(written) => {
                    outbox.advance(written);
                    self.tell_queued(outbox.bytes());
                    self.drained.set(self.drained.get() + written as u64);
                    if outbox.is_empty() {
                        *waiting = None;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Changes what waits, and forgets the outbox where nothing does then.
    fn with_outbox<T>(&self, change: impl FnOnce(&mut Outbox) -> T) -> T {
        let mut waiting = self.outbox.borrow_mut();
        let outbox = waiting.get_or_insert_default();
        let result = change(outbox);
        self.tell_queued(outbox.bytes());
        if outbox.is_empty() {
            *waiting = None;
        }
        result
    }

    fn rest(&self, rest: Bytes, cause: Cause) {
        self.with_outbox(|outbox| outbox.push_rest(rest, cause));
        self.wake();
    }

    fn queue(&self, item: Item) {
        match self.with_outbox(|outbox| outbox.push(item, *self.caps)) {
            Ok(dropped) => metrics::dropped(dropped),
            Err(_full) => {
                self.cut.set(true);
                metrics::slow_consumer();
                self.order(Order::Close(CloseCode::SlowConsumer));
            }
        }
        self.wake();
    }

    fn fail(&self) {
        // The session's read side sees the same broken pipe and ends; here it only must not be written again.
        self.cut.set(true);
        self.closed.set(true);
        self.order(Order::Close(CloseCode::GoingAway));
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    impl Conn {
        /// Waits for an order while draining the outbox.
        pub(crate) async fn attend(&self) -> io::Result<Order> {
            poll_fn(|cx| self.poll_attend(cx)).await
        }
    }

    /// A connection and the far end of its socket, with buffers so small that writes are cut short.
    pub(crate) async fn pair(caps: OutboxCaps, codec: Codec) -> (Rc<Conn>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let far = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        SockRef::from(&near).set_send_buffer_size(4_096).unwrap();
        (Rc::new(Conn::new("127.0.0.1".parse().unwrap(), codec, near, Rc::new(caps))), far)
    }
}
