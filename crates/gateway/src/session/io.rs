//! Reading what a client says: through a scratch shared by all sockets of the thread, so that one which says nothing
//! owns no buffer. What is said is heard where it was read.

use std::{
    cell::RefCell,
    io, mem,
    ops::ControlFlow,
    rc::Rc,
    task::{Context, Poll, ready},
};

use roomcast_protocol::{Opcode, server_frame};
use tokio::{io::Interest, net::TcpStream};

use super::frames::{Fault, Frames, Message, Taken, worth_reading};
use crate::{conn::Conn, rest};

/// One read takes up to this much from the kernel.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// Why nothing more is read.
#[derive(Debug)]
pub(super) enum End {
    /// The other side went, politely or not.
    Gone,
    Fault(Fault),
}

impl From<io::Error> for End {
    fn from(_broken: io::Error) -> Self {
        Self::Gone
    }
}

/// What stood at the beginning of some bytes.
enum Step<T> {
    /// A frame of this many bytes; with what came of the message that it completed.
    Frame(usize, Heard<T>),
    /// The beginning of a frame that has at least so many bytes.
    Part(usize),
}

/// What came of hearing.
enum Heard<T> {
    /// Whoever hears has broken off.
    Broken(T),
    /// There may be more.
    More,
    /// What there is is a part of a frame.
    Part,
}

impl<T> From<ControlFlow<T>> for Heard<T> {
    fn from(flow: ControlFlow<T>) -> Self {
        match flow {
            ControlFlow::Break(broken) => Self::Broken(broken),
            ControlFlow::Continue(()) => Self::More,
        }
    }
}

/// What comes from one client.
#[derive(Debug)]
pub(super) struct Reader {
    conn: Rc<Conn>,
    frames: Frames,
    /// What was read and not taken yet: nothing, for nearly all.
    rest: Vec<u8>,
    /// Where in it the next frame begins.
    at: usize,
    closed: bool,
}

impl Reader {
    /// Messages of at most `most` bytes; `first` was read with the handshake already.
    pub(super) fn new(conn: Rc<Conn>, first: &[u8], most: usize) -> Self {
        Self { conn, frames: Frames::new(most), rest: first.to_vec(), at: 0, closed: false }
    }

    /// Has messages heard, one after the other, until whoever hears them breaks off. Pings and closes are answered here; a
    /// close is not heard. Who hears must not read from another connection meanwhile.
    pub(super) fn poll_hear<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut hear: impl FnMut(Message<'_>) -> ControlFlow<T>,
    ) -> Poll<Result<T, End>> {
        loop {
            if self.closed {
                return Poll::Ready(Err(End::Gone));
            }
            let heard = if self.at < self.rest.len() {
                ready!(charge(cx));
                self.hear_rest(&mut hear)?
            } else {
                ready!(self.conn.stream().poll_read_ready(cx))?;
                ready!(self.hear_scratch(cx, &mut hear))?
            };
            match heard {
                Heard::Broken(broken) => return Poll::Ready(Ok(broken)),
                Heard::More => {}
                Heard::Part => {
                    ready!(self.conn.stream().poll_read_ready(cx))?;
                    self.read_rest()?;
                }
            }
        }
    }

    /// The next message of what was read before.
    fn hear_rest<T>(
        &mut self,
        hear: &mut impl FnMut(Message<'_>) -> ControlFlow<T>,
    ) -> Result<Heard<T>, End> {
        let mut rest = mem::take(&mut self.rest);
        let step = self.step(&mut rest[self.at..], hear);
        self.rest = rest;
        match step? {
            Step::Frame(used, heard) => {
                self.taken(used);
                Ok(heard)
            }
            Step::Part(needed) => {
                self.make_room(needed);
                Ok(Heard::Part)
            }
        }
    }

    /// Takes the first frame out of these bytes, and has its message heard.
    fn step<T>(
        &mut self,
        bytes: &mut [u8],
        hear: &mut impl FnMut(Message<'_>) -> ControlFlow<T>,
    ) -> Result<Step<T>, End> {
        match self.frames.take(bytes).map_err(End::Fault)? {
            Taken::Frame(used, None) => Ok(Step::Frame(used, Heard::More)),
            Taken::Frame(used, Some(message)) => {
                self.answer(&message)?;
                Ok(Step::Frame(used, hear(message).into()))
            }
            Taken::Part(needed) => Ok(Step::Part(needed)),
        }
    }

    fn taken(&mut self, bytes: usize) {
        self.at += bytes;
        if self.at == self.rest.len() {
            (self.rest, self.at) = (Vec::new(), 0);
        }
    }

    /// For a frame of so many bytes, the first of which are there. A header alone is not believed with megabytes, and
    /// what a large frame needed is not kept for a small one.
    fn make_room(&mut self, frame: usize) {
        self.rest.drain(..self.at);
        self.at = 0;
        let room = worth_reading(frame);
        let missing = room - self.rest.len();
        if missing > SCRATCH {
            self.rest.reserve(SCRATCH);
        } else if self.rest.capacity() > room + SCRATCH {
            self.rest.shrink_to(room);
        } else {
            self.rest.reserve_exact(missing);
        }
    }

    /// Reads into the scratch, and has the messages heard there; what is left of it is kept.
    fn hear_scratch<T>(
        &mut self,
        cx: &mut Context<'_>,
        hear: &mut impl FnMut(Message<'_>) -> ControlFlow<T>,
    ) -> Poll<Result<Heard<T>, End>> {
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            let n = match self.conn.stream().try_read(scratch) {
                Ok(0) => return Poll::Ready(Err(End::Gone)),
                Ok(n) => {
                    rest::read();
                    n
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Ok(Heard::More));
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            };
            if n < scratch.len() {
                is_empty(self.conn.stream());
            }
            let mut at = 0;
            loop {
                match self.step(&mut scratch[at..n], hear)? {
                    Step::Frame(used, Heard::More) => at += used,
                    Step::Frame(used, heard) => {
                        self.rest = scratch[at + used..n].to_vec();
                        return Poll::Ready(Ok(heard));
                    }
                    Step::Part(_) => {
                        self.rest = scratch[at..n].to_vec();
                        return Poll::Ready(Ok(Heard::More));
                    }
                }
                if at == n {
                    return Poll::Ready(Ok(Heard::More));
                }
                if charge(cx).is_pending() {
                    self.rest = scratch[at..n].to_vec();
                    return Poll::Pending;
                }
            }
        })
    }

    /// Reads more of a frame, straight to where it belongs. There is room for it.
    fn read_rest(&mut self) -> Result<(), End> {
        let room = self.rest.capacity() - self.rest.len();
        match self.conn.stream().try_read_buf(&mut self.rest) {
            Ok(0) => Err(End::Gone),
            Ok(n) => {
                rest::read();
                if n < room {
                    is_empty(self.conn.stream());
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn answer(&mut self, message: &Message<'_>) -> Result<(), End> {
        match message {
            Message::Ping(payload) => {
                self.conn.send_control(server_frame(Opcode::Pong, payload));
                Ok(())
            }
            Message::Close(code) => {
                self.conn.send_control(server_frame(Opcode::Close, code));
                self.closed = true;
                Err(End::Gone)
            }
            Message::Text(_) | Message::Binary(_) | Message::Pong => Ok(()),
        }
    }
}

/// What is in memory already is paid for like what comes from the kernel: thousands of tiny frames in one read must not
/// keep the worker from its other sockets.
fn charge(cx: &mut Context<'_>) -> Poll<()> {
    tokio::task::coop::poll_proceed(cx).map(|budget| budget.made_progress())
}

/// A read that did not fill its buffer has emptied the socket, and epoll tells of what comes next: the read that would
/// find nothing is saved. tokio does this where it reads by itself, and remembers an end of the stream all the same.
fn is_empty(stream: &TcpStream) {
    if cfg!(target_os = "linux") {
        let _would_block: io::Result<()> =
            stream.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
    }
}

/// Reads what a client still sends while it is being closed, and forgets it, until it ends. A socket that is closed
/// with bytes unread is reset, and a reset can overtake the close frame.
pub(super) async fn discard(stream: &TcpStream) -> io::Result<()> {
    loop {
        stream.readable().await?;
        match SCRATCH_BUFFER.with_borrow_mut(|scratch| stream.try_read(scratch)) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
