//! The way that nearly every WebSocket comes: its request arrives whole, is judged, and is answered here. hyper would
//! take a buffer, timers and tasks for a connection that it gives back after one request.
//!
//! Whatever is not plainly such a request is left to hyper, with the bytes that were read: one in pieces, one with a body,
//! one for another path, one that is refused. So there is one place that answers everything else, and nothing is known
//! here of bodies, of errors, or of a second request.

use std::{cell::RefCell, future::poll_fn, io, pin::Pin, task::ready};

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

use super::MAX_HEAD;

/// What is given to hyper has more room, so this refuses nobody.
const MAX_HEADERS: usize = 64;
/// A 101 with an accept key and a subprotocol.
const ANSWER: usize = 256;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_HEAD]);
}

/// Waits for the first bytes, and takes what there is; nothing at the end of the stream.
pub(super) async fn first_bytes(stream: &mut TcpStream) -> io::Result<Bytes> {
    poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
            Ok(Bytes::copy_from_slice(buffer.filled())).into()
        })
    })
    .await
}

/// The request for a WebSocket that these bytes begin with, if it is whole and plain, and its length.
pub(super) fn request(bytes: &Bytes) -> Option<(Request<()>, usize)> {
    if !bytes.starts_with(b"GET /ws") {
        return None;
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let end = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) | Err(_) => return None,
    };
    if parsed.version != Some(1) {
        return None;
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = parsed.path?.parse().ok()?;
    if request.uri().path() != "/ws" {
        return None;
    }
    for parsed in &*parsed.headers {
        let name = HeaderName::from_bytes(parsed.name.as_bytes()).ok()?;
        if matches!(name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::EXPECT) {
            return None;
        }
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(parsed.value)).ok()?;
        request.headers_mut().append(name, value);
    }
    Some((request, end))
}

/// Writes the head of a response that has no body.
pub(super) async fn write_head(stream: &mut TcpStream, response: &Response) -> io::Result<()> {
    let status = response.status();
    let mut bytes = Vec::with_capacity(ANSWER);
    bytes.extend_from_slice(b"HTTP/1.1 ");
    bytes.extend_from_slice(status.as_str().as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in response.headers() {
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n\r\n");
    stream.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: &str = "GET /ws?a=b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn read(text: &str) -> Option<(Request<()>, usize)> {
        request(&Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_whole_and_plain_request_is_read_here_and_what_follows_it_is_left() {
        let (request, end) = read(&format!("{PLAIN}\u{1}frames")).unwrap();
        assert_eq!((request.uri().path(), end), ("/ws", PLAIN.len()));
        assert_eq!(request.headers().len(), 5);
        assert_eq!(request.headers()["sec-websocket-key"], "dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn anything_else_is_not() {
        for changed in [
            PLAIN.replace("GET", "POST"),
            PLAIN.replace("/ws?a=b", "/wss"),
            PLAIN.replace("/ws?a=b", "/ws/"),
            PLAIN.replace("/ws?a=b", "/ws a"),
            PLAIN.replace("HTTP/1.1", "HTTP/1.0"),
            PLAIN.replace("Host: a", "Content-Length: 0"),
            PLAIN.replace("Host: a", "Transfer-Encoding: chunked"),
            PLAIN.replace("Host: a", "Expect: 100-continue"),
            PLAIN.replace("Host: a", "Host : a"),
            PLAIN.replace("Host: a", "Host: \u{1}"),
            PLAIN.replace("Host: a", " folded"),
            PLAIN.replace("Host: a\r\n", &"a: b\r\n".repeat(MAX_HEADERS)),
            format!("\r\n{PLAIN}"),
        ] {
            assert!(read(&changed).is_none(), "{changed}");
        }
    }

    proptest! {
        #[test]
        fn no_part_of_a_request_is_taken_for_a_whole_one(length in 0..PLAIN.len()) {
            prop_assert!(read(&PLAIN[..length]).is_none());
        }

        #[test]
        fn no_bytes_make_it_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&b"GET /ws"[..], &tail].concat();
            let whole = request(&bytes.into());
            prop_assert!(whole.is_none_or(|(request, _)| request.uri().path() == "/ws"));
        }
    }
}
