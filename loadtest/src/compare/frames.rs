//! WebSocket frames as bytes, read in place and written once. No socket, no allocation while reading: the comparison's
//! clients must cost less than any server they measure.

/// The data and control frames that occur here.
pub(crate) mod opcode {
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
}

/// One frame at the start of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    /// As it stands on the wire: still masked where `mask` is.
    pub(crate) payload: &'a [u8],
    pub(crate) mask: Option<[u8; 4]>,
    /// Header and payload.
    pub(crate) len: usize,
}

/// Bytes that no peer of this tool may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("a message in fragments, or with reserved bits: {0:#04x}")]
    Head(u8),
    #[error("a frame of {0} bytes")]
    Length(u64),
}

/// A frame longer than this is a lost position in the stream, not a message.
const MAX_FRAME: u64 = 1 << 30;

/// The frame at the start of `bytes`; none where it is not whole yet.
pub(crate) fn next(bytes: &[u8]) -> Result<Option<Frame<'_>>, Broken> {
    let [head, second, rest @ ..] = bytes else { return Ok(None) };
    if head & 0xf0 != 0x80 || head.trailing_zeros() >= 4 {
        return Err(Broken::Head(*head));
    }
    let (length, rest) = match second & 0x7f {
        126 => match rest.split_first_chunk::<2>() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        short => (u64::from(short), rest),
    };
    if length > MAX_FRAME {
        return Err(Broken::Length(length));
    }
    let (mask, rest) = if second & 0x80 == 0 {
        (None, rest)
    } else {
        match rest.split_first_chunk::<4>() {
            Some((mask, rest)) => (Some(*mask), rest),
            None => return Ok(None),
        }
    };
    let length = usize::try_from(length).map_err(|_| Broken::Length(length))?;
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    let len = bytes.len() - rest.len() + length;
    Ok(Some(Frame { opcode: head & 0x0f, payload, mask, len }))
}

/// Appends a whole unmasked frame, as servers send it.
pub(crate) fn push_server(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    push_head(out, opcode, payload.len(), 0);
    out.extend_from_slice(payload);
}

/// Appends a whole masked frame, as clients send it.
pub(crate) fn push_client(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: [u8; 4]) {
    push_head(out, opcode, payload.len(), 0x80);
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

fn push_head(out: &mut Vec<u8>, opcode: u8, length: usize, masked: u8) {
    out.push(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.push(masked | short),
        (_, Ok(middle)) => {
            out.push(masked | 0x7e);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(masked | 0x7f);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_each_length_are_read_as_written_and_never_before_they_are_whole() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..length).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
            let mut server = Vec::new();
            push_server(&mut server, opcode::TEXT, &payload);
            let frame = next(&server).unwrap().unwrap();
            assert_eq!((frame.payload, frame.mask, frame.len), (&payload[..], None, server.len()));
            for cut in [0, 1, 2, 3, 9, server.len() - 1] {
                if cut < server.len() {
                    assert_eq!(next(&server[..cut]), Ok(None), "{cut} of {length}");
                }
            }

            let mut client = Vec::new();
            push_client(&mut client, opcode::PING, &payload, [1, 2, 3, 4]);
            client.push(0x81);
            let frame = next(&client).unwrap().unwrap();
            assert_eq!((frame.opcode, frame.mask, frame.len), (9, Some([1, 2, 3, 4]), client.len() - 1));
            let clear: Vec<u8> = frame
                .payload
                .iter()
                .zip([1, 2, 3, 4].iter().cycle())
                .map(|(byte, mask)| byte ^ mask)
                .collect();
            assert_eq!(clear, payload);
        }
    }

    #[test]
    fn what_no_peer_sends_is_an_error_and_not_a_count() {
        assert_eq!(next(&[0x01, 0]), Err(Broken::Head(0x01)));
        assert_eq!(next(&[0xc1, 0]), Err(Broken::Head(0xc1)));
        assert_eq!(next(&[0x80, 0]), Err(Broken::Head(0x80)));
        assert!(matches!(next(&[0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 0]), Err(Broken::Length(_))));
    }
}
