//! The stream that the WebSocket reader sees: it reads through a scratch shared by all sockets of the thread, and
//! what it writes goes through the connection's outbox.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::conn::Conn;

/// One read takes up to this much from the kernel, whatever the reader's own buffer is.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// A connection as a byte stream.
#[derive(Debug)]
pub struct Wire {
    conn: Rc<Conn>,
    /// What one read brought beyond the reader's buffer.
    rest: Bytes,
}

impl Wire {
    /// The stream of a connection; `first` was read with the handshake already.
    pub fn new(conn: Rc<Conn>, first: Bytes) -> Self {
        Self { conn, rest: first }
    }

    fn take_rest(&mut self, buf: &mut ReadBuf<'_>) {
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        if self.rest.is_empty() {
            // An empty `Bytes` could still hold its whole block.
            self.rest = Bytes::new();
        }
    }
}

/// Reads what a client still sends while it is being closed, and forgets it, until it ends. A socket that is closed
/// with bytes unread is reset, and a reset can overtake the close frame.
pub async fn discard(stream: &TcpStream) -> io::Result<()> {
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

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.rest.is_empty() {
            // What is in memory already is paid for like what comes from the kernel: thousands of tiny frames in one
            // read must not keep the worker from its other sockets.
            ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
            self.take_rest(buf);
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.conn.stream().poll_read_ready(cx))?;
            let read = SCRATCH_BUFFER.with_borrow_mut(|scratch| match self.conn.stream().try_read(scratch) {
                Ok(n) => {
                    let now = n.min(buf.remaining());
                    buf.put_slice(&scratch[..now]);
                    if now < n {
                        self.rest = Bytes::copy_from_slice(&scratch[now..n]);
                    }
                    Some(Ok(()))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(error) => Some(Err(error)),
            });
            if let Some(result) = read {
                return Poll::Ready(result);
            }
        }
    }
}

impl AsyncWrite for Wire {
    /// Only pongs and the echo of a close come this way.
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.conn.send_control(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
