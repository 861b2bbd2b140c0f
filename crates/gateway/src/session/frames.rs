//! WebSocket frames as a client sends them (RFC 6455 §5), taken apart strictly and put together to messages. Does no
//! I/O: it is given bytes and says what they are.

use roomcast_protocol::CloseCode;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
/// The most that a control frame carries.
const MAX_CONTROL: u8 = 125;
/// The length follows in two bytes, or in eight.
const LENGTH_16: u8 = 0x7E;
const LENGTH_64: u8 = 0x7F;
/// The longest header: two bytes, a length of eight, a key of four.
const MAX_HEADER: usize = 14;

/// What a client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Text(String),
    Binary(Vec<u8>),
    /// With what its pong has to carry.
    Ping(Vec<u8>),
    Pong,
    /// With the code to be sent back, as it stands in the frame; empty where there was none.
    Close(Vec<u8>),
}

/// Why a client can't be listened to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// These are no frames of a client.
    Protocol,
    /// The message is larger than it may be.
    TooBig,
    /// The text is not UTF-8.
    NotUtf8,
}

impl Fault {
    pub(super) fn code(self) -> CloseCode {
        match self {
            Self::Protocol => CloseCode::Protocol,
            Self::TooBig => CloseCode::TooBig,
            Self::NotUtf8 => CloseCode::InvalidData,
        }
    }
}

/// What stood at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A frame of this many bytes; with the message that it completed.
    Frame(usize, Option<Message>),
    /// The beginning of a frame that has at least so many bytes.
    Part(usize),
}

/// Puts frames together to messages.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of a message.
    most: usize,
    /// Most clients never send a message in pieces.
    pieces: Option<Box<Pieces>>,
}

#[derive(Debug)]
struct Pieces {
    opcode: u8,
    bytes: Vec<u8>,
    frames: usize,
}

struct Head {
    fin: bool,
    opcode: u8,
    size: usize,
    length: usize,
    key: [u8; 4],
}

impl Frames {
    /// Of messages of at most so many bytes.
    pub(super) fn new(most: usize) -> Self {
        // What no buffer could hold is too big also where nothing else bounds it.
        Self { most: most.min(isize::MAX.unsigned_abs() / 2), pieces: None }
    }

    /// Takes the first frame. Its payload is unmasked in place.
    pub(super) fn take(&mut self, bytes: &mut [u8]) -> Result<Taken, Fault> {
        let Some(head) = self.head(bytes)? else { return Ok(Taken::Part(bytes.len() + 1)) };
        let end = head.size + head.length;
        let Some(payload) = bytes.get_mut(head.size..end) else { return Ok(Taken::Part(end)) };
        unmask(payload, head.key);
        let message = match head.opcode {
            PING => Some(Message::Ping(payload.to_vec())),
            PONG => Some(Message::Pong),
            CLOSE => Some(close(payload)?),
            _ => self.data(&head, payload)?,
        };
        Ok(Taken::Frame(end, message))
    }

    /// Reads a header and refuses what may not be, before any of its payload is waited for.
    fn head(&self, bytes: &[u8]) -> Result<Option<Head>, Fault> {
        let &[first, second, ref more @ ..] = bytes else { return Ok(None) };
        let (fin, opcode) = (first & FIN != 0, first & 0x0F);
        let short = second & !MASKED;
        let control = matches!(opcode, CLOSE | PING | PONG);
        let broken = first & RESERVED != 0
            || second & MASKED == 0
            || !(control || matches!(opcode, CONTINUATION | TEXT | BINARY))
            || control && (!fin || short > MAX_CONTROL)
            || opcode == CONTINUATION && self.pieces.is_none()
            || matches!(opcode, TEXT | BINARY) && self.pieces.is_some();
        if broken {
            return Err(Fault::Protocol);
        }
        let (length, more) = match short {
            LENGTH_16 => match more.split_first_chunk::<2>() {
                Some((length, more)) => (u64::from(u16::from_be_bytes(*length)), more),
                None => return Ok(None),
            },
            LENGTH_64 => match more.split_first_chunk::<8>() {
                Some((length, more)) => (u64::from_be_bytes(*length), more),
                None => return Ok(None),
            },
            short => (u64::from(short), more),
        };
        // An empty piece counts too, or there could be pieces without end.
        let held = self.pieces.as_ref().filter(|_| !control);
        let held = held.map_or(0, |pieces| pieces.bytes.len() + pieces.frames);
        let length = usize::try_from(length).map_err(|_| Fault::TooBig)?;
        if !control && held.saturating_add(length) > self.most {
            return Err(Fault::TooBig);
        }
        let Some((key, after)) = more.split_first_chunk::<4>() else { return Ok(None) };
        Ok(Some(Head { fin, opcode, size: bytes.len() - after.len(), length, key: *key }))
    }

    fn data(&mut self, head: &Head, payload: &[u8]) -> Result<Option<Message>, Fault> {
        let (opcode, bytes) = match (self.pieces.take(), head.fin) {
            (None, true) => (head.opcode, payload.to_vec()),
            (None, false) => {
                let pieces = Pieces { opcode: head.opcode, bytes: payload.to_vec(), frames: 1 };
                self.pieces = Some(Box::new(pieces));
                return Ok(None);
            }
            (Some(mut pieces), fin) => {
                pieces.bytes.extend_from_slice(payload);
                pieces.frames += 1;
                if !fin {
                    self.pieces = Some(pieces);
                    return Ok(None);
                }
                (pieces.opcode, pieces.bytes)
            }
        };
        if opcode == BINARY {
            return Ok(Some(Message::Binary(bytes)));
        }
        String::from_utf8(bytes).map(|text| Some(Message::Text(text))).map_err(|_| Fault::NotUtf8)
    }
}

fn close(payload: &[u8]) -> Result<Message, Fault> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(Message::Close(Vec::new())) } else { Err(Fault::Protocol) };
    };
    // RFC 6455 §7.4 and the IANA's list: what may stand in a frame.
    if !matches!(u16::from_be_bytes(*code), 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Fault::Protocol);
    }
    std::str::from_utf8(reason).map_err(|_| Fault::NotUtf8)?;
    Ok(Message::Close(code.to_vec()))
}

/// A whole vector register at a time where the compiler can.
fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let mut wide = [0; 32];
    wide.chunks_exact_mut(4).for_each(|part| part.copy_from_slice(&key));
    let mut chunks = payload.chunks_exact_mut(32);
    for chunk in &mut chunks {
        chunk.iter_mut().zip(&wide).for_each(|(byte, key)| *byte ^= key);
    }
    chunks.into_remainder().iter_mut().zip(&wide).for_each(|(byte, key)| *byte ^= key);
}

/// What is worth waiting for besides a part of a frame, so that a header in pieces is not read byte by byte.
pub(super) const fn worth_reading(part: usize) -> usize {
    if part < MAX_HEADER { MAX_HEADER } else { part }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let key = [0x17, 0xf0, 0x3c, 0x81];
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(MASKED | u8::try_from(length).unwrap()),
            length @ 126..=0xFFFF => {
                bytes.push(MASKED | LENGTH_16);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                bytes.push(MASKED | LENGTH_64);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(key);
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// All messages, when the bytes come in pieces of this size.
    fn messages(most: usize, bytes: &[u8], piece: usize) -> (Vec<Message>, Option<Fault>) {
        let (mut frames, mut buffer, mut all) = (Frames::new(most), Vec::new(), Vec::new());
        for part in bytes.chunks(piece) {
            buffer.extend_from_slice(part);
            loop {
                match frames.take(&mut buffer) {
                    Ok(Taken::Frame(used, message)) => {
                        buffer.drain(..used);
                        all.extend(message);
                    }
                    Ok(Taken::Part(needed)) => {
                        assert!(needed > buffer.len());
                        break;
                    }
                    Err(fault) => return (all, Some(fault)),
                }
            }
        }
        (all, None)
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_messages_are_the_same(
            payloads in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..300), 1..4_usize), 1..6),
            piece in 1..700_usize,
        ) {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for (ping, payload, pieces) in &payloads {
                let size = payload.len().div_ceil(*pieces).max(1);
                let parts: Vec<&[u8]> = if payload.is_empty() { vec![&[]] } else { payload.chunks(size).collect() };
                for (at, part) in parts.iter().enumerate() {
                    let opcode = if at == 0 { BINARY } else { CONTINUATION };
                    let fin = if at + 1 == parts.len() { FIN } else { 0 };
                    bytes.extend(frame(fin | opcode, part));
                    // Between the pieces of a message a control frame may stand.
                    if *ping && fin == 0 {
                        bytes.extend(frame(FIN | PING, b"p"));
                        expected.push(Message::Ping(b"p".to_vec()));
                    }
                }
                expected.push(Message::Binary(payload.clone()));
            }
            prop_assert_eq!(messages(1_000, &bytes, piece), (expected, None));
        }

        #[test]
        fn noise_is_refused_or_waited_for_and_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..2_000), piece in 1..100_usize,
        ) {
            let (messages, _) = messages(500, &bytes, piece);
            prop_assert!(messages.len() <= bytes.len());
        }
    }

    #[test]
    fn a_length_takes_two_or_eight_bytes_where_it_has_to() {
        for length in [0, 125, 126, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; length];
            let mut bytes = frame(FIN | BINARY, &payload);
            let size = bytes.len();
            let taken = Frames::new(100_000).take(&mut bytes);
            assert_eq!(taken, Ok(Taken::Frame(size, Some(Message::Binary(payload)))));
        }
    }

    #[test]
    fn what_is_too_big_is_refused_by_its_header() {
        let header = [FIN | BINARY, MASKED | LENGTH_16, 0x01, 0x01];
        assert_eq!(Frames::new(256).take(&mut header.clone()), Err(Fault::TooBig));
        assert_eq!(Frames::new(257).take(&mut header.clone()), Ok(Taken::Part(5)));

        // In pieces it is no smaller, and empty pieces have an end.
        let pieces = [frame(TEXT, &[b'x'; 60]), frame(CONTINUATION, &[b'x'; 60])].concat();
        assert_eq!(messages(100, &pieces, 1_000), (Vec::new(), Some(Fault::TooBig)));
        let empty = [frame(TEXT, b""), frame(CONTINUATION, b"").repeat(101)].concat();
        assert_eq!(messages(100, &empty, 1_000), (Vec::new(), Some(Fault::TooBig)));
        assert!(messages(100, &[frame(TEXT, b"x"), frame(FIN | PING, &[1; 125])].concat(), 9).1.is_none());
    }

    #[test]
    fn a_close_says_why_in_a_way_that_may_be() {
        let closed = |payload: &[u8]| Frames::new(100).take(&mut frame(FIN | CLOSE, payload));
        let with = |code: u16| code.to_be_bytes().to_vec();
        assert_eq!(closed(b""), Ok(Taken::Frame(6, Some(Message::Close(Vec::new())))));
        for code in [1000, 1001, 1007, 1014, 3000, 4999] {
            assert_eq!(closed(&with(code)), Ok(Taken::Frame(8, Some(Message::Close(with(code))))));
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            assert_eq!(closed(&with(code)), Err(Fault::Protocol), "{code}");
        }
        assert_eq!(closed(b"\x03"), Err(Fault::Protocol));
        assert_eq!(closed(b"\x03\xe8\xff"), Err(Fault::NotUtf8));
    }

    #[test]
    fn a_character_may_be_cut_by_the_pieces_of_a_message_but_not_broken() {
        let text = "ä".as_bytes();
        let cut = [frame(TEXT, &text[..1]), frame(FIN, &text[1..])].concat();
        assert_eq!(messages(9, &cut, 99).0, [Message::Text("ä".to_owned())]);
        let broken = [frame(TEXT, &text[..1]), frame(FIN, b"x")].concat();
        assert_eq!(messages(9, &broken, 99).1, Some(Fault::NotUtf8));
    }
}
