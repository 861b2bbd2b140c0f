//! Reading what a client says: through a scratch shared by all sockets of the thread, so that one which says nothing
//! owns no buffer. What is said is heard where it was read.

use std::{
    cell::RefCell,
    io, mem,
    rc::Rc,
    task::{Context, Poll, ready},
};

use roomcast_protocol::{Opcode, server_frame};
use tokio::{io::Interest, net::TcpStream};

use super::frames::{Fault, Frames, Message, Taken, worth_reading};
use crate::conn::Conn;

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
    /// A frame of this many bytes; with what was heard in the message that it completed.
    Frame(usize, Option<T>),
    /// The beginning of a frame that has at least so many bytes.
    Part(usize),
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

    /// The next message, as whoever hears it understands it. Pings and closes are answered here; a close is not heard.
    /// Who hears must not read from another connection meanwhile.
    pub(super) fn poll_next<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut hear: impl FnMut(Message<'_>) -> T,
    ) -> Poll<Result<T, End>> {
        loop {
            if self.closed {
                return Poll::Ready(Err(End::Gone));
            }
            if self.at < self.rest.len() {
                // What is in memory already is paid for like what comes from the kernel: thousands of tiny frames in
                // one read must not keep the worker from its other sockets.
                ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
                let mut rest = mem::take(&mut self.rest);
                let step = self.step(&mut rest[self.at..], &mut hear);
                self.rest = rest;
                match step? {
                    Step::Frame(used, heard) => {
                        self.taken(used);
                        match heard {
                            Some(heard) => return Poll::Ready(Ok(heard)),
                            None => continue,
                        }
                    }
                    Step::Part(needed) => self.make_room(needed),
                }
            }
            ready!(self.conn.stream().poll_read_ready(cx))?;
            if !self.rest.is_empty() {
                self.read_rest()?;
            } else if let Some(heard) = self.read_scratch(&mut hear)? {
                return Poll::Ready(Ok(heard));
            }
        }
    }

    /// Takes the first frame out of these bytes, and has its message heard.
    fn step<T>(&mut self, bytes: &mut [u8], hear: &mut impl FnMut(Message<'_>) -> T) -> Result<Step<T>, End> {
        match self.frames.take(bytes).map_err(End::Fault)? {
            Taken::Frame(used, None) => Ok(Step::Frame(used, None)),
            Taken::Frame(used, Some(message)) => {
                self.answer(&message)?;
                Ok(Step::Frame(used, Some(hear(message))))
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

    /// Reads into the scratch, and has the first message heard in it; what is behind that is kept.
    fn read_scratch<T>(&mut self, hear: &mut impl FnMut(Message<'_>) -> T) -> Result<Option<T>, End> {
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            let n = match self.conn.stream().try_read(scratch) {
                Ok(0) => return Err(End::Gone),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            if n < scratch.len() {
                is_empty(self.conn.stream());
            }
            match self.step(&mut scratch[..n], hear)? {
                Step::Frame(used, heard) => {
                    self.rest = scratch[used..n].to_vec();
                    Ok(heard)
                }
                Step::Part(_) => {
                    self.rest = scratch[..n].to_vec();
                    Ok(None)
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
