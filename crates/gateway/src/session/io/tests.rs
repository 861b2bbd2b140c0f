//! Reading from real sockets, whatever the pieces in which bytes come.

use roomcast_protocol::Codec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use std::future::poll_fn;

use super::*;
use crate::{conn::fixture::pair, outbox::OutboxCaps};

const ROOMY: OutboxCaps = OutboxCaps { bytes: usize::MAX, frames: usize::MAX };

impl Reader {
    /// The next message, kept.
    async fn next(&mut self) -> Result<Message<'static>, End> {
        poll_fn(|cx| self.poll_hear(cx, kept)).await
    }
}

/// Breaks off at each message. A function of every lifetime, which a method is not.
fn kept(message: Message<'_>) -> ControlFlow<Message<'static>> {
    ControlFlow::Break(message.kept())
}

/// A frame under a key of zeros, which masks nothing.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let mut bytes = match length {
        0..=125 => vec![first, 0x80 | u8::try_from(length).unwrap()],
        126..=0xFFFF => [&[first, 0xFE][..], &u16::try_from(length).unwrap().to_be_bytes()].concat(),
        _ => [&[first, 0xFF][..], &(length as u64).to_be_bytes()].concat(),
    };
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

/// A text in two pieces, with a ping between them, and one behind it.
fn words() -> Vec<u8> {
    [frame(0x01, "gr\u{fc}".as_bytes()), frame(0x89, b"?"), frame(0x80, b"n"), text("b")].concat()
}

/// What is heard of them.
async fn hear_words(reader: &mut Reader) {
    assert_eq!(reader.next().await.unwrap(), Message::Ping(b"?".as_slice().into()));
    assert_eq!(reader.next().await.unwrap(), Message::Text("gr\u{fc}n".into()));
    assert_eq!(reader.next().await.unwrap(), Message::Text("b".into()));
}

#[tokio::test]
async fn bytes_that_come_in_two_parts_are_the_same_messages_and_leave_nothing_behind() {
    let (conn, mut far) = pair(ROOMY, Codec::json()).await;
    let mut reader = Reader::new(conn, b"", 1_000);
    let bytes = words();
    for at in 1..bytes.len() {
        let say = async {
            far.write_all(&bytes[..at]).await.unwrap();
            tokio::task::yield_now().await;
            far.write_all(&bytes[at..]).await.unwrap();
        };
        tokio::join!(say, hear_words(&mut reader));
        assert_eq!(reader.rest.capacity(), 0, "cut at {at}");
    }
}

/// By them the worker judges whether its rests pay.
#[tokio::test]
async fn reads_that_brought_something_are_counted() {
    let (conn, mut far) = pair(ROOMY, Codec::json()).await;
    let mut reader = Reader::new(conn, b"", 1_000);
    let before = rest::reads();
    far.write_all(&words()).await.unwrap();
    hear_words(&mut reader).await;
    assert_eq!(rest::reads() - before, 1, "one brought them all");
    let bytes = words();
    let (first, second) = bytes.split_at(bytes.len() - 2);
    far.write_all(first).await.unwrap();
    assert_eq!(reader.next().await.unwrap(), Message::Ping(b"?".as_slice().into()));
    assert_eq!(reader.next().await.unwrap(), Message::Text("gr\u{fc}n".into()));
    let last = async {
        far.write_all(second).await.unwrap();
        reader.next().await.unwrap()
    };
    assert_eq!(last.await, Message::Text("b".into()));
    assert_eq!(rest::reads() - before, 3, "the rest of a frame is one of its own");
}

#[tokio::test]
async fn an_end_that_came_with_the_last_bytes_is_seen() {
    for bytes in [text("a"), words()] {
        let (conn, mut far) = pair(ROOMY, Codec::json()).await;
        let mut reader = Reader::new(conn, b"", 1_000);
        far.write_all(&bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let all = async { while reader.next().await.is_ok() {} };
        tokio::time::timeout(std::time::Duration::from_secs(5), all).await.expect("it is not waited for");
    }
}

#[tokio::test]
async fn what_came_with_the_handshake_is_heard_first() {
    let bytes = words();
    for at in 0..=bytes.len() {
        let (conn, mut far) = pair(ROOMY, Codec::json()).await;
        let mut reader = Reader::new(conn, &bytes[..at], 1_000);
        far.write_all(&bytes[at..]).await.unwrap();
        hear_words(&mut reader).await;
        assert_eq!(reader.rest.capacity(), 0, "cut at {at}");
    }
}

#[tokio::test]
async fn many_frames_in_one_read_are_many_messages() {
    let (conn, mut far) = pair(ROOMY, Codec::json()).await;
    let mut reader = Reader::new(conn, b"", 1_000);
    let bytes: Vec<u8> = (0..5_000).flat_map(|n| text(&n.to_string())).collect();
    let hear = async {
        for n in 0..5_000 {
            assert_eq!(reader.next().await.unwrap(), Message::Text(n.to_string().into()));
        }
    };
    tokio::join!(async { far.write_all(&bytes).await.unwrap() }, hear);
}

#[tokio::test]
async fn a_large_message_is_held_once_and_given_back() {
    let (conn, mut far) = pair(ROOMY, Codec::json()).await;
    let mut reader = Reader::new(conn, b"", 10_000_000);
    let large = vec![b'x'; 5_000_000];
    // The beginning of another frame comes with its end: for that the large one's room is not kept.
    let bytes = [frame(0x82, &large), text("small")[..4].to_vec()].concat();
    let hear = async {
        assert_eq!(reader.next().await.unwrap(), Message::Binary(large.as_slice().into()));
        assert_eq!(reader.next().await.unwrap(), Message::Text("small".into()));
    };
    let say = async {
        far.write_all(&bytes).await.unwrap();
        tokio::task::yield_now().await;
        far.write_all(&text("small")[4..]).await.unwrap();
    };
    tokio::join!(say, hear);
    assert_eq!(reader.rest.capacity(), 0);
}

#[tokio::test]
async fn a_header_alone_is_not_believed_with_megabytes() {
    let (conn, mut far) = pair(ROOMY, Codec::json()).await;
    let mut reader = Reader::new(conn, b"", usize::MAX);
    far.write_all(&frame(0x82, &vec![0; 1 << 20])[..20]).await.unwrap();
    // Polled until it has read them, and found that more is to come.
    while reader.rest.is_empty() {
        let waits = poll_fn(|cx| Poll::Ready(reader.poll_hear(cx, kept).is_pending())).await;
        assert!(waits);
        tokio::task::yield_now().await;
    }
    assert!(reader.rest.capacity() <= 20 + SCRATCH, "{}", reader.rest.capacity());
}

#[tokio::test]
async fn a_ping_is_answered_with_its_own_words_and_a_close_with_its_code() {
    let (conn, mut far) = pair(ROOMY, Codec::json()).await;
    let mut reader = Reader::new(conn.clone(), b"", 1_000);
    far.write_all(&[frame(0x89, &[b'p'; 125]), frame(0x88, b"\x03\xe9bye"), text("late")].concat())
        .await
        .unwrap();
    assert_eq!(reader.next().await.unwrap(), Message::Ping(vec![b'p'; 125].into()));
    assert!(matches!(reader.next().await, Err(End::Gone)));
    // After the close nothing is heard.
    assert!(matches!(reader.next().await, Err(End::Gone)));
    drop((reader, conn));
    let mut answers = Vec::new();
    // The unread rest may come back as a reset: what was sent before is there all the same.
    let _reset = far.read_to_end(&mut answers).await;
    let expected = [&[0x8A, 125][..], &[b'p'; 125], &[0x88, 2, 0x03, 0xe9]].concat();
    assert_eq!(answers, expected);
}

#[tokio::test]
async fn a_client_that_goes_in_the_middle_of_a_frame_is_gone() {
    let (conn, mut far) = pair(ROOMY, Codec::json()).await;
    let mut reader = Reader::new(conn, b"", 1_000);
    far.write_all(&[text("whole"), text("half")[..7].to_vec()].concat()).await.unwrap();
    drop(far);
    assert_eq!(reader.next().await.unwrap(), Message::Text("whole".into()));
    assert!(matches!(reader.next().await, Err(End::Gone)));
}

#[tokio::test]
async fn what_one_read_brings_is_heard_in_a_row_and_a_break_leaves_the_rest() {
    let (conn, mut far) = pair(ROOMY, Codec::json()).await;
    let mut reader = Reader::new(conn, b"", 1_000);
    let bytes: Vec<u8> = (0..6).flat_map(|n: u8| text(&n.to_string())).collect();
    let whole = bytes.len() - 1;
    far.write_all(&bytes[..whole]).await.unwrap();
    let mut heard = Vec::new();
    for wanted in ["3", "4"] {
        let mut hear = |message: Message<'_>| {
            let Message::Text(said) = message else { panic!("{message:?}") };
            heard.push(said.to_string());
            if said == wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        poll_fn(|cx| reader.poll_hear(cx, &mut hear)).await.unwrap();
    }
    assert_eq!(heard, ["0", "1", "2", "3", "4"]);
    far.write_all(&bytes[whole..]).await.unwrap();
    assert_eq!(reader.next().await.unwrap(), Message::Text("5".into()));
}
