//! WebSocket frames as a server sends them (RFC 6455 §5.2): whole, unmasked, so that every socket can share
//! the same bytes.

use bytes::Bytes;

use crate::CloseCode;

/// The longest header of an unmasked frame.
pub const MAX_HEADER: usize = 10;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// UTF-8 text.
    Text = 0x1,
    /// Bytes.
    Binary = 0x2,
    /// Close, with code and reason.
    Close = 0x8,
    /// Ping.
    Ping = 0x9,
    /// Pong.
    Pong = 0xA,
}

/// A complete server frame around `payload`.
pub fn server_frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut buffer = Vec::with_capacity(MAX_HEADER + payload.len());
    buffer.resize(MAX_HEADER, 0);
    buffer.extend_from_slice(payload);
    seal(opcode, buffer)
}

/// The close frame for `code`.
pub fn close_frame(code: CloseCode) -> Bytes {
    let mut payload = code.code().to_be_bytes().to_vec();
    payload.extend_from_slice(code.reason().as_bytes());
    server_frame(Opcode::Close, &payload)
}

/// Writes the header in front of a payload that starts at [`MAX_HEADER`], without moving the payload.
pub(crate) fn seal(opcode: Opcode, mut buffer: Vec<u8>) -> Bytes {
    let len = buffer.len() - MAX_HEADER;
    let first = 0x80 | opcode as u8;
    let start = match len {
        0..=125 => {
            let start = MAX_HEADER - 2;
            buffer[start] = first;
            buffer[start + 1] = u8::try_from(len).unwrap_or_default();
            start
        }
        126..=0xFFFF => {
            let start = MAX_HEADER - 4;
            buffer[start] = first;
            buffer[start + 1] = 126;
            buffer[start + 2..MAX_HEADER]
                .copy_from_slice(&u16::try_from(len).unwrap_or_default().to_be_bytes());
            start
        }
        _ => {
            buffer[0] = first;
            buffer[1] = 127;
            buffer[2..MAX_HEADER].copy_from_slice(&(len as u64).to_be_bytes());
            0
        }
    };
    Bytes::from(buffer).slice(start..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_use_the_shortest_form() {
        assert_eq!(&server_frame(Opcode::Text, b"hi")[..], b"\x81\x02hi");
        assert_eq!(&server_frame(Opcode::Binary, &[0; 126])[..4], &[0x82, 126, 0, 126]);
        assert_eq!(server_frame(Opcode::Binary, &vec![0; 65535]).len(), 4 + 65535);
        let large = server_frame(Opcode::Binary, &vec![7; 65536]);
        assert_eq!(&large[..10], &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(large.len(), 10 + 65536);
    }

    #[test]
    fn a_close_frame_carries_code_and_reason() {
        assert_eq!(&close_frame(CloseCode::Idle)[..], b"\x88\x06\x0f\xa0idle");
    }
}
