//! RESP3, as far as our connections need it: a command into bytes, bytes into answers and messages.
//!
//! Source: <https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md>. The reading is
//! redis-protocol's, which fred reads with too; but messages, of which there are many, are read where they stand.

use bytes::BytesMut;
use fred::{
    error::{Error, ErrorKind},
    types::{Resp3Frame, Value},
};
use redis_protocol::resp3::decode::complete::decode_bytes_mut;

/// A command as it goes over the wire: an array of bulk strings.
pub(super) fn command(name: &str, words: &[Value]) -> Result<Vec<u8>, Error> {
    let length: usize = words.iter().map(|word| 16 + word.as_bytes().map_or(24, <[u8]>::len)).sum();
    let mut bytes = Vec::with_capacity(32 + name.len() + length);
    array(&mut bytes, 1 + words.len());
    bulk(&mut bytes, name.as_bytes());
    for word in words {
        value(&mut bytes, word)?;
    }
    Ok(bytes)
}

/// The head of a command of so many words, which follow.
pub(super) fn array(bytes: &mut Vec<u8>, words: usize) {
    head(bytes, b'*', words);
}

/// One word of a command.
pub(super) fn bulk(bytes: &mut Vec<u8>, word: &[u8]) {
    head(bytes, b'$', word.len());
    bytes.extend_from_slice(word);
    bytes.extend_from_slice(b"\r\n");
}

/// A number as a word of a command.
pub(super) fn number(bytes: &mut Vec<u8>, number: i64) {
    bulk(bytes, itoa::Buffer::new().format(number).as_bytes());
}

/// A value as a word of a command, where it can be one.
pub(super) fn value(bytes: &mut Vec<u8>, value: &Value) -> Result<(), Error> {
    match value {
        Value::String(text) => bulk(bytes, text.as_bytes()),
        Value::Bytes(raw) => bulk(bytes, raw),
        Value::Integer(integer) => number(bytes, *integer),
        Value::Double(double) => bulk(bytes, double.to_string().as_bytes()),
        _ => {
            let text = format!("a command can't hold a {:?}", value.kind());
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
    }
    Ok(())
}

fn head(bytes: &mut Vec<u8>, kind: u8, number: usize) {
    bytes.push(kind);
    bytes.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    bytes.extend_from_slice(b"\r\n");
}

/// The next frame, once all of it has come; the bytes behind it stay.
pub(super) fn frame(bytes: &mut BytesMut) -> Result<Option<Resp3Frame>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    match decode_bytes_mut(bytes) {
        Ok(decoded) => Ok(decoded.map(|(frame, ..)| frame)),
        Err(error) => {
            Err(Error::new(ErrorKind::Protocol, format!("Redis answers no RESP3: {:?}", error.kind())))
        }
    }
}

/// A message that was published, where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) channel: &'a [u8],
    pub(super) payload: &'a [u8],
    /// All of its bytes.
    pub(super) length: usize,
}

/// How the push of a message begins, from a channel and from a sharded one.
const MESSAGES: [&[u8]; 2] = [b">3\r\n$7\r\nmessage\r\n", b">3\r\n$8\r\nsmessage\r\n"];

/// The message that these bytes begin with; none where it is something else, or not whole yet.
pub(super) fn message(bytes: &[u8]) -> Option<Message<'_>> {
    let rest = MESSAGES.iter().find_map(|kind| bytes.strip_prefix(*kind))?;
    let (channel, rest) = bulk_string(rest)?;
    let (payload, rest) = bulk_string(rest)?;
    Some(Message { channel, payload, length: bytes.len() - rest.len() })
}

/// The bulk string that these bytes begin with, and what stands behind it.
fn bulk_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(b"$")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length: usize = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    let (text, rest) = rest[digits..].strip_prefix(b"\r\n")?.split_at_checked(length)?;
    Some((text, rest.strip_prefix(b"\r\n")?))
}

/// Whether a frame came by itself, and answers nothing.
pub(super) fn is_push(frame: &Resp3Frame) -> bool {
    matches!(frame, Resp3Frame::Push { .. })
}

/// Whether a frame refuses a call because the server does not know its script.
pub(super) fn is_unknown_script(frame: &Resp3Frame) -> bool {
    match frame {
        Resp3Frame::SimpleError { data, .. } => data.starts_with("NOSCRIPT"),
        Resp3Frame::BlobError { data, .. } => data.starts_with(b"NOSCRIPT"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use redis_protocol::resp3::types::{OwnedFrame, Resp3Frame as _};

    use super::*;

    fn all(bytes: &mut BytesMut) -> Vec<Resp3Frame> {
        std::iter::from_fn(|| frame(bytes).unwrap()).collect()
    }

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let words =
            ["k".into(), Value::Integer(-7), Value::Bytes(Bytes::from_static(b"\x00\r\n")), "".into()];
        let expected = b"*5\r\n$5\r\nHMGET\r\n$1\r\nk\r\n$2\r\n-7\r\n$3\r\n\x00\r\n\r\n$0\r\n\r\n";
        assert_eq!(command("HMGET", &words).unwrap(), &expected[..]);
        assert!(command("SET", &[Value::Null]).is_err(), "what Redis could not take is not sent");
    }

    #[test]
    fn answers_become_values_and_refusals_errors() {
        let mut bytes = BytesMut::from(
            &b"$2\r\nok\r\n:-3\r\n_\r\n%1\r\n+a\r\n:1\r\n-MOVED 3999 127.0.0.1:6381\r\n*2\r\n_\r\n,1.5\r\n"[..],
        );
        let answers: Vec<_> = all(&mut bytes).into_iter().map(Value::try_from).collect();
        assert_eq!(answers[0].as_ref().unwrap().as_str().as_deref(), Some("ok"));
        assert_eq!(answers[1].as_ref().unwrap().as_i64(), Some(-3));
        assert!(answers[2].as_ref().unwrap().is_null());
        assert!(answers[3].as_ref().unwrap().is_map());
        assert_eq!(answers[4].as_ref().unwrap_err().details(), "MOVED 3999 127.0.0.1:6381");
        assert_eq!(answers[5].as_ref().unwrap(), &Value::Array(vec![Value::Null, Value::Double(1.5)]));
    }

    #[test]
    fn news_is_told_from_answers() {
        let mut bytes = BytesMut::from(&b">2\r\n+invalidate\r\n*1\r\n+k\r\n+OK\r\n"[..]);
        let kinds: Vec<_> = all(&mut bytes).iter().map(is_push).collect();
        assert_eq!(kinds, [true, false]);
    }

    fn pushed(kind: &str, words: [&[u8]; 2]) -> Vec<u8> {
        let mut bytes = b">3\r\n".to_vec();
        for word in [kind.as_bytes(), words[0], words[1]] {
            bulk(&mut bytes, word);
        }
        bytes
    }

    #[test]
    fn only_messages_are_read_as_messages() {
        for bytes in [
            pushed("subscribe", [b"a", b"1"]),
            pushed("pmessage", [b"a", b"1"]),
            b">3\r\n$7\r\nmessage\r\n$-1\r\n$1\r\na\r\n".to_vec(),
            b">3\r\n$7\r\nmessage\r\n$99999999999999999999999\r\n".to_vec(),
            b">3\r\n$7\r\nmessage\r\n$1\r\nab\r\n$1\r\na\r\n".to_vec(),
            b"$7\r\nmessage\r\n".to_vec(),
        ] {
            assert_eq!(message(&bytes), None, "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn a_message_is_read_where_it_stands_once_it_is_whole(
            sharded: bool, channel: Vec<u8>, payload: Vec<u8>, behind: Vec<u8>,
        ) {
            let mut bytes = pushed(if sharded { "smessage" } else { "message" }, [&channel, &payload]);
            let length = bytes.len();
            for cut in 0..length {
                prop_assert_eq!(message(&bytes[..cut]), None);
            }
            bytes.extend(behind);
            let expected = Message { channel: &channel, payload: &payload, length };
            prop_assert_eq!(message(&bytes), Some(expected));
            // As redis-protocol reads it.
            let Some(Resp3Frame::Push { data, .. }) = frame(&mut BytesMut::from(&bytes[..])).unwrap() else { panic!("no push") };
            prop_assert_eq!((data[1].as_bytes().unwrap(), data[2].as_bytes().unwrap()), (&channel[..], &payload[..]));
        }

        #[test]
        fn nonsense_is_no_message_and_never_panics(bytes: Vec<u8>) {
            let mut bytes = bytes;
            prop_assert_eq!(message(&bytes), None);
            bytes.splice(0..0, *b">3\r\n$7\r\nmessage\r\n$");
            let _message_or_none = message(&bytes);
        }

        #[test]
        fn what_is_written_is_read_as_the_same_words(words in prop::collection::vec(any::<Vec<u8>>(), 0..20)) {
            let values: Vec<Value> = words.iter().map(|word| Value::Bytes(word.clone().into())).collect();
            let mut bytes = BytesMut::from(&command("PING", &values).unwrap()[..]);
            let Some(Resp3Frame::Array { data, .. }) = frame(&mut bytes).unwrap() else { panic!("no array") };
            let read: Vec<Vec<u8>> = data.iter().map(|word| word.as_bytes().unwrap().to_vec()).collect();
            let mut expected = vec![b"PING".to_vec()];
            expected.extend(words);
            prop_assert_eq!(read, expected);
            prop_assert!(bytes.is_empty());
        }

        #[test]
        fn a_frame_is_the_same_in_whatever_pieces_it_comes(
            texts in prop::collection::vec("[a-z\r\n]{0,40}", 1..6),
            cuts in prop::collection::vec(1_usize..9, 1..40),
        ) {
            let frames: Vec<_> = texts
                .iter()
                .map(|text| OwnedFrame::BlobString { data: text.clone().into_bytes(), attributes: None })
                .collect();
            let mut wire = Vec::new();
            for frame in &frames {
                let mut buffer = vec![0; frame.encode_len(false)];
                let length = redis_protocol::resp3::encode::complete::encode(&mut buffer, frame, false).unwrap();
                wire.extend_from_slice(&buffer[..length]);
            }
            let (mut bytes, mut read) = (BytesMut::new(), Vec::new());
            let mut cuts = cuts.iter().cycle();
            let mut rest = &wire[..];
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                bytes.extend_from_slice(piece);
                read.extend(all(&mut bytes).iter().map(|frame| frame.as_bytes().unwrap().to_vec()));
                rest = behind;
            }
            let expected: Vec<_> = texts.into_iter().map(String::into_bytes).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn nonsense_is_refused_or_waits_for_more(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = frame(&mut bytes) {}
        }
    }
}
