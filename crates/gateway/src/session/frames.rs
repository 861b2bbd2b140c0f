//! WebSocket frames as a client sends them (RFC 6455 §5), taken apart strictly and put together to messages. Does no
//! I/O: it is given bytes and says what they are.

use std::borrow::Cow;

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

/// What a client said. What came in one piece stays where it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Text(Cow<'a, str>),
    Binary(Cow<'a, [u8]>),
    /// With what its pong has to carry.
    Ping(Cow<'a, [u8]>),
    Pong,
    /// With the code to be sent back, as it stands in the frame; empty where there was none.
    Close(Cow<'a, [u8]>),
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
pub(super) enum Taken<'a> {
    /// A frame of this many bytes; with the message that it completed.
    Frame(usize, Option<Message<'a>>),
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
    /// So many bytes of a text are whole characters.
    whole: usize,
}

impl Pieces {
    /// Adds a piece. What can't become text any more is refused now: the end of the message might never come.
    fn add(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.bytes.extend_from_slice(payload);
        self.frames += 1;
        if self.opcode == TEXT {
            match std::str::from_utf8(&self.bytes[self.whole..]) {
                Ok(_) => self.whole = self.bytes.len(),
                // A character that the next piece may complete.
                Err(error) if error.error_len().is_none() => self.whole += error.valid_up_to(),
                Err(_) => return Err(Fault::NotUtf8),
            }
        }
        Ok(())
    }

    /// What they are together.
    fn whole(self) -> Result<Message<'static>, Fault> {
        if self.opcode == BINARY {
            return Ok(Message::Binary(self.bytes.into()));
        }
        String::from_utf8(self.bytes).map(|text| Message::Text(text.into())).map_err(|_| Fault::NotUtf8)
    }
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

    /// Takes the first frame. Its payload is unmasked in place, and stays there.
    pub(super) fn take<'a>(&mut self, bytes: &'a mut [u8]) -> Result<Taken<'a>, Fault> {
        let Some(head) = self.head(bytes)? else { return Ok(Taken::Part(bytes.len() + 1)) };
        let end = head.size + head.length;
        let Some(payload) = bytes.get_mut(head.size..end) else { return Ok(Taken::Part(end)) };
        unmask(payload, head.key);
        let payload = &*payload;
        let message = match head.opcode {
            PING => Some(Message::Ping(payload.into())),
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
        // A length stands in as few bytes as it fits into, and has no sign.
        let (length, least, more) = match short {
            LENGTH_16 => match more.split_first_chunk::<2>() {
                Some((length, more)) => (u64::from(u16::from_be_bytes(*length)), u64::from(LENGTH_16), more),
                None => return Ok(None),
            },
            LENGTH_64 => match more.split_first_chunk::<8>() {
                Some((length, more)) => (u64::from_be_bytes(*length), 1 << 16, more),
                None => return Ok(None),
            },
            short => (u64::from(short), 0, more),
        };
        if length < least || length > i64::MAX.unsigned_abs() {
            return Err(Fault::Protocol);
        }
        let length = usize::try_from(length).map_err(|_| Fault::TooBig)?;
        if !control {
            let held = self.pieces.as_ref().map_or((0, 0), |pieces| (pieces.bytes.len(), pieces.frames));
            // As many pieces as bytes, and the last may be empty: or there could be empty ones without end.
            if held.0.saturating_add(length) > self.most || held.1 > self.most {
                return Err(Fault::TooBig);
            }
        }
        let Some((key, after)) = more.split_first_chunk::<4>() else { return Ok(None) };
        Ok(Some(Head { fin, opcode, size: bytes.len() - after.len(), length, key: *key }))
    }

    fn data<'a>(&mut self, head: &Head, payload: &'a [u8]) -> Result<Option<Message<'a>>, Fault> {
        match self.pieces.take() {
            None if head.fin && head.opcode == BINARY => Ok(Some(Message::Binary(payload.into()))),
            None if head.fin => {
                let text = simdutf8::basic::from_utf8(payload).map_err(|_| Fault::NotUtf8)?;
                Ok(Some(Message::Text(text.into())))
            }
            held => {
                let begun =
                    || Box::new(Pieces { opcode: head.opcode, bytes: Vec::new(), frames: 0, whole: 0 });
                let mut pieces = held.unwrap_or_else(begun);
                pieces.add(payload)?;
                if !head.fin {
                    self.pieces = Some(pieces);
                    return Ok(None);
                }
                pieces.whole().map(Some)
            }
        }
    }
}

fn close(payload: &[u8]) -> Result<Message<'_>, Fault> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(Message::Close(payload.into())) } else { Err(Fault::Protocol) };
    };
    std::str::from_utf8(reason).map_err(|_| Fault::NotUtf8)?;
    // RFC 6455 §7.4 and the IANA's list: what may stand in a frame.
    if !matches!(u16::from_be_bytes(*code), 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Fault::Protocol);
    }
    Ok(Message::Close(code.as_slice().into()))
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
mod tests;
