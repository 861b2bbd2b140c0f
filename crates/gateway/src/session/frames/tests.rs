//! Frames as RFC 6455 has them, as it forbids them, and as nobody would send them; tungstenite is asked for a second
//! opinion.

use std::io::{self, Read, Write};

use proptest::{collection::vec, prelude::*, sample::select};
use tokio_tungstenite::tungstenite::{
    self,
    error::{CapacityError, Error, ProtocolError},
    protocol::{Role, WebSocket, WebSocketConfig},
};

use super::*;

const KEY: [u8; 4] = [0x17, 0xf0, 0x3c, 0x81];

/// A frame whose first byte is given, as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
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
    bytes.extend(KEY);
    bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// The same with a length of eight bytes, whatever it is, and without the payload.
fn announced(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first, MASKED | LENGTH_64];
    bytes.extend(length.to_be_bytes());
    bytes
}

/// What was said, and why nothing more was heard.
type Heard = (Vec<Message<'static>>, Option<Fault>);

impl Frames {
    /// Takes a frame from a copy.
    fn took(&mut self, bytes: &[u8]) -> Result<Taken<'static>, Fault> {
        self.take(&mut bytes.to_vec()).map(|taken| match taken {
            Taken::Frame(used, message) => Taken::Frame(used, message.map(Message::kept)),
            Taken::Part(needed) => Taken::Part(needed),
        })
    }
}

impl Message<'_> {
    /// The same, outliving its bytes.
    pub(in crate::session) fn kept(self) -> Message<'static> {
        match self {
            Message::Text(text) => Message::Text(text.into_owned().into()),
            Message::Binary(bytes) => Message::Binary(bytes.into_owned().into()),
            Message::Ping(bytes) => Message::Ping(bytes.into_owned().into()),
            Message::Pong => Message::Pong,
            Message::Close(bytes) => Message::Close(bytes.into_owned().into()),
        }
    }
}

/// All messages up to a close, when the bytes come in these parts.
fn heard<'a>(most: usize, parts: impl IntoIterator<Item = &'a [u8]>) -> Heard {
    let (mut frames, mut buffer, mut all) = (Frames::new(most), Vec::new(), Vec::new());
    for part in parts {
        buffer.extend_from_slice(part);
        loop {
            match frames.take(&mut buffer) {
                Ok(Taken::Frame(used, message)) => {
                    all.extend(message.map(Message::kept));
                    assert!((2..=buffer.len()).contains(&used));
                    buffer.drain(..used);
                    if matches!(all.last(), Some(Message::Close(_))) {
                        return (all, None);
                    }
                }
                Ok(Taken::Part(needed)) => {
                    assert!(needed > buffer.len(), "{needed} bytes are there already");
                    assert!(needed <= most.max(125) + MAX_HEADER, "{needed} bytes are wanted");
                    break;
                }
                Err(fault) => return (all, Some(fault)),
            }
            let held = frames.pieces.as_ref().map_or(0, |pieces| pieces.bytes.capacity());
            assert!(held <= 2 * most + 8, "{held} bytes are held");
        }
    }
    (all, None)
}

/// The same in parts of one size.
fn heard_in(most: usize, bytes: &[u8], size: usize) -> Heard {
    heard(most, bytes.chunks(size))
}

/// Bytes in the parts that some cuts make of them.
fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let ends = cuts.iter().copied().chain([bytes.len()]);
    let begins = [0].into_iter().chain(cuts.iter().copied());
    begins.zip(ends).map(|(begin, end)| &bytes[begin..end]).collect()
}

/// A socket from which these parts come, and into which anything goes.
struct Wire<'a>(std::vec::IntoIter<&'a [u8]>);

impl Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(part) = self.0.find(|part| !part.is_empty()) else { return Ok(0) };
        let now = part.len().min(into.len());
        into[..now].copy_from_slice(&part[..now]);
        if now < part.len() {
            let rest: Vec<&[u8]> = [&part[now..]].into_iter().chain(self.0.clone()).collect();
            self.0 = rest.into_iter();
        }
        Ok(now)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite hears.
fn heard_by_another(most: usize, parts: Vec<&[u8]>) -> Heard {
    let config = WebSocketConfig::default().max_message_size(Some(most)).max_frame_size(Some(most));
    let mut socket = WebSocket::from_raw_socket(Wire(parts.into_iter()), Role::Server, Some(config));
    let mut all = Vec::new();
    loop {
        all.push(match socket.read() {
            Ok(tungstenite::Message::Text(text)) => Message::Text(text.to_string().into()),
            Ok(tungstenite::Message::Binary(bytes)) => Message::Binary(bytes.to_vec().into()),
            Ok(tungstenite::Message::Ping(bytes)) => Message::Ping(bytes.to_vec().into()),
            Ok(tungstenite::Message::Pong(_)) => Message::Pong,
            Ok(tungstenite::Message::Close(None)) => {
                all.push(Message::Close(Cow::default()));
                return (all, None);
            }
            // So it tells of a code that may not be.
            Ok(tungstenite::Message::Close(Some(close))) if close.reason == "Protocol violation" => {
                return (all, Some(Fault::Protocol));
            }
            Ok(tungstenite::Message::Close(Some(close))) => {
                all.push(Message::Close(u16::from(close.code).to_be_bytes().to_vec().into()));
                return (all, None);
            }
            Ok(tungstenite::Message::Frame(frame)) => panic!("{frame}"),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return (all, None),
            Err(Error::Protocol(_)) => return (all, Some(Fault::Protocol)),
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => return (all, Some(Fault::TooBig)),
            Err(Error::Utf8(_)) => return (all, Some(Fault::NotUtf8)),
            Err(error) => panic!("{error}"),
        });
    }
}

const MOST: usize = 300;

/// The first byte of a frame: mostly one that may be.
fn first_byte() -> impl Strategy<Value = u8> {
    let opcode = prop_oneof![
        4 => select(vec![CONTINUATION, TEXT]),
        2 => Just(BINARY),
        1 => select(vec![PING, PONG]),
    ];
    prop_oneof![
        40 => (any::<bool>(), opcode).prop_map(|(fin, opcode)| if fin { FIN | opcode } else { opcode }),
        1 => any::<u8>(),
    ]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    // Characters of each length, and the halves of some.
    let character = prop_oneof![
        20 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
        1 => vec(any::<u8>(), 1..4),
    ];
    vec(character, 0..40).prop_map(|characters| characters.concat())
}

/// Bytes of one of these sizes.
fn bytes_of(sizes: Vec<usize>) -> impl Strategy<Value = Vec<u8>> {
    select(sizes).prop_flat_map(|size| vec(any::<u8>(), size))
}

fn close_payload() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![
        select(vec![1000, 1001, 1003, 1004, 1005, 1006, 1007, 1011, 1013, 1015, 1016]),
        2990..5010_u16
    ];
    let reason = prop_oneof![3 => "[a-zä-ö]{0,20}".prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..9)];
    let with_code = (code, reason).prop_map(|(code, reason)| {
        // Of a bad code and a bad reason either could be told.
        let reason = if (1000..=1003).contains(&code) { reason } else { Vec::new() };
        [&code.to_be_bytes()[..], &reason].concat()
    });
    prop_oneof![1 => vec(any::<u8>(), 0..2), 4 => with_code]
}

/// What a client might send: text cut anywhere, sizes at every edge, and now and then something that is forbidden.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        6 => text(),
        2 => bytes_of(vec![0, 1, 3, 4, 31, 32, 33, 63, 100, 124, 125]),
        1 => bytes_of(vec![126, 127, 200, MOST - 1, MOST, MOST + 1]),
    ];
    prop_oneof![
        30 => (first_byte(), payload).prop_map(|(first, payload)| frame(first, &payload)),
        2 => close_payload().prop_map(|payload| frame(FIN | CLOSE, &payload)),
        // Without a mask.
        1 => first_byte().prop_map(|first| vec![first, 2, b'h', b'i']),
    ]
}

/// A text that stands in pieces, some of them perhaps empty, cut where nobody asked for characters.
fn in_pieces(text: &[u8], cuts: &[prop::sample::Index], ping: bool) -> Vec<u8> {
    let parts = cut(text, cuts);
    let mut bytes = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let opcode = if at == 0 { TEXT } else { CONTINUATION };
        let fin = if at + 1 == parts.len() { FIN } else { 0 };
        bytes.extend(frame(fin | opcode, part));
        if ping && fin == 0 {
            bytes.extend(frame(FIN | PING, &[7; 125]));
        }
    }
    bytes
}

fn cuts(most: usize) -> impl Strategy<Value = Vec<prop::sample::Index>> {
    vec(any::<prop::sample::Index>(), 0..most)
}

/// The same words, and the same reason. What is forbidden and too big as well is told as forbidden here, as too big
/// there.
fn agree(ours: &Heard, theirs: &Heard) -> bool {
    let same = ours.1 == theirs.1 || (ours.1, theirs.1) == (Some(Fault::Protocol), Some(Fault::TooBig));
    ours.0 == theirs.0 && same
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn another_reader_hears_the_same_and_refuses_the_same(
        frames in vec(any_frame(), 1..12), own in cuts(20), others in cuts(20),
    ) {
        let bytes = frames.concat();
        let (ours, theirs) = (heard(MOST, cut(&bytes, &own)), heard_by_another(MOST, cut(&bytes, &others)));
        prop_assert!(agree(&ours, &theirs), "{ours:?}\nis not\n{theirs:?}");
    }

    #[test]
    fn a_text_in_pieces_is_whole_or_refused_as_another_reader_would(
        texts in vec((text(), cuts(6), any::<bool>()), 1..6), own in cuts(20), others in cuts(20),
    ) {
        let bytes: Vec<u8> = texts.iter().flat_map(|(text, cuts, ping)| in_pieces(text, cuts, *ping)).collect();
        let (ours, theirs) = (heard(MOST, cut(&bytes, &own)), heard_by_another(MOST, cut(&bytes, &others)));
        prop_assert!(agree(&ours, &theirs), "{ours:?}\nis not\n{theirs:?}");
    }

    #[test]
    fn headers_that_promise_anything_are_refused_or_waited_for_within_bounds(
        heads in vec((first_byte(), any::<u8>(), vec(any::<u8>(), 0..20)), 1..20), own in cuts(9),
    ) {
        let bytes: Vec<u8> = heads
            .into_iter()
            .flat_map(|(first, second, more)| [vec![first, second | MASKED], more].concat())
            .collect();
        let (messages, _) = heard(MOST, cut(&bytes, &own));
        prop_assert!(messages.len() <= bytes.len());
    }

    #[test]
    fn noise_is_refused_or_waited_for_and_never_a_panic(bytes in vec(any::<u8>(), 0..2_000), size in 1..100_usize) {
        let (messages, _) = heard_in(500, &bytes, size);
        prop_assert!(messages.len() <= bytes.len());
    }
}

/// A conversation with everything that may be in it, and what is heard of it.
fn conversation() -> (Vec<u8>, Vec<Message<'static>>) {
    let long = vec![b'x'; 70_000];
    let bytes = [
        frame(FIN | TEXT, "grüß".as_bytes()),
        frame(BINARY, &[1, 2]),
        frame(FIN | PING, &[9; 125]),
        frame(CONTINUATION, b""),
        frame(FIN | PONG, b"?"),
        frame(FIN | CONTINUATION, &[3; 130]),
        frame(FIN | TEXT, b""),
        frame(FIN | BINARY, &long),
        frame(FIN | CLOSE, b"\x03\xe9bye"),
    ]
    .concat();
    let messages = vec![
        Message::Text("grüß".into()),
        Message::Ping(vec![9; 125].into()),
        Message::Pong,
        Message::Binary([&[1, 2][..], &[3; 130]].concat().into()),
        Message::Text("".into()),
        Message::Binary(long.into()),
        Message::Close(vec![3, 0xe9].into()),
    ];
    (bytes, messages)
}

#[test]
fn wherever_the_bytes_are_cut_the_messages_are_the_same() {
    let (bytes, messages) = conversation();
    // Every cut but those within the long payload, which are all alike.
    let dull = 450..bytes.len() - 300;
    for at in (0..bytes.len()).filter(|at| !dull.contains(at)) {
        assert_eq!(heard(100_000, [&bytes[..at], &bytes[at..]]), (messages.clone(), None), "cut at {at}");
    }
    for size in [3, 7, 64, 4_096] {
        assert_eq!(heard_in(100_000, &bytes, size), (messages.clone(), None), "in parts of {size}");
    }
}

#[test]
fn byte_by_byte_is_no_different() {
    let bytes = [frame(TEXT, b"a"), frame(FIN | PING, b"p"), frame(FIN, &[b'b'; 126])].concat();
    let text = Message::Text(format!("a{}", "b".repeat(126)).into());
    assert_eq!(heard_in(200, &bytes, 1), (vec![Message::Ping(b"p".as_slice().into()), text], None));
}

#[test]
fn a_length_takes_as_few_bytes_as_it_can() {
    for length in [0, 125, 126, 65_535, 65_536, 70_000] {
        let payload = vec![b'x'; length];
        let bytes = frame(FIN | BINARY, &payload);
        let size = bytes.len();
        let taken = Frames::new(100_000).took(&bytes);
        assert_eq!(taken, Ok(Taken::Frame(size, Some(Message::Binary(payload.into())))));
    }
    let refused = |bytes: &[u8]| Frames::new(100_000).took(bytes);
    for length in [0, 1, 125] {
        assert_eq!(refused(&[FIN | TEXT, MASKED | LENGTH_16, 0, length]), Err(Fault::Protocol), "{length}");
    }
    for length in [0, 125, 126, 65_535] {
        assert_eq!(refused(&announced(FIN | TEXT, length)), Err(Fault::Protocol), "{length}");
    }
    for length in [1 << 63, u64::MAX] {
        assert_eq!(refused(&announced(FIN | TEXT, length)), Err(Fault::Protocol), "{length}");
    }
    for length in [100_001, 1 << 32, (1 << 63) - 1] {
        assert_eq!(refused(&announced(FIN | TEXT, length)), Err(Fault::TooBig), "{length}");
        // Also where no limit was set.
        let unlimited = Frames::new(usize::MAX).took(&announced(FIN | TEXT, length));
        assert!(matches!(unlimited, Ok(Taken::Part(11)) | Err(Fault::TooBig)), "{length}: {unlimited:?}");
    }
}

#[test]
fn what_is_forbidden_is_refused_by_its_first_bytes() {
    let begun = || {
        let mut frames = Frames::new(100);
        assert!(frames.took(&frame(TEXT, b"x")).is_ok());
        frames
    };
    let fresh = || Frames::new(100);
    let masked = |length: u8| MASKED | length;
    let reserved = [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF];
    for opcode in reserved {
        assert_eq!(fresh().took(&[FIN | opcode, masked(0)]), Err(Fault::Protocol), "{opcode}");
        assert_eq!(begun().took(&[FIN | opcode, masked(0)]), Err(Fault::Protocol), "{opcode}");
    }
    for bit in [0x10, 0x20, 0x40] {
        for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
            assert_eq!(fresh().took(&[FIN | bit | opcode, masked(0)]), Err(Fault::Protocol), "{bit}");
        }
        assert_eq!(begun().took(&[FIN | bit | CONTINUATION, masked(0)]), Err(Fault::Protocol), "{bit}");
    }
    for opcode in [CLOSE, PING, PONG] {
        for mut frames in [fresh(), begun()] {
            assert_eq!(frames.took(&[opcode, masked(0)]), Err(Fault::Protocol), "in pieces");
            assert_eq!(frames.took(&[FIN | opcode, masked(126)]), Err(Fault::Protocol), "long");
            assert_eq!(frames.took(&[FIN | opcode, masked(127)]), Err(Fault::Protocol), "longer");
            assert_eq!(frames.took(&[FIN | opcode, 0]), Err(Fault::Protocol), "unmasked");
        }
    }
    assert_eq!(fresh().took(&[FIN | TEXT, 5]), Err(Fault::Protocol), "unmasked");
    for first in [CONTINUATION, FIN | CONTINUATION] {
        assert_eq!(fresh().took(&[first, masked(0)]), Err(Fault::Protocol), "nothing to continue");
    }
    for first in [TEXT, BINARY, FIN | TEXT, FIN | BINARY] {
        assert_eq!(begun().took(&[first, masked(0)]), Err(Fault::Protocol), "in the middle of another");
    }
}

#[test]
fn what_is_too_big_is_refused_by_its_header() {
    let header = [FIN | BINARY, MASKED | LENGTH_16, 0x01, 0x01];
    assert_eq!(Frames::new(256).took(&header), Err(Fault::TooBig));
    assert_eq!(Frames::new(257).took(&header), Ok(Taken::Part(5)));

    // In pieces it is no smaller and no larger.
    let pieces = |last: usize| [frame(TEXT, &[b'x'; 60]), frame(FIN, &vec![b'x'; last])].concat();
    assert_eq!(heard_in(100, &pieces(40), 1_000), (vec![Message::Text("x".repeat(100).into())], None));
    assert_eq!(heard_in(100, &pieces(41), 1_000), (Vec::new(), Some(Fault::TooBig)));
    assert!(heard_in(100, &[frame(TEXT, b"x"), frame(FIN | PING, &[1; 125])].concat(), 9).1.is_none());

    // Empty pieces have an end, and one byte each is not too many.
    let empty = [frame(TEXT, b""), frame(CONTINUATION, b"").repeat(101)].concat();
    assert_eq!(heard_in(100, &empty, 1_000), (Vec::new(), Some(Fault::TooBig)));
    let single = [frame(TEXT, b"x"), frame(CONTINUATION, b"x").repeat(99), frame(FIN, b"")].concat();
    assert_eq!(heard_in(100, &single, 1_000), (vec![Message::Text("x".repeat(100).into())], None));
}

#[test]
fn a_close_says_why_in_a_way_that_may_be() {
    let closed = |payload: &[u8]| Frames::new(100).took(&frame(FIN | CLOSE, payload));
    let with = |code: u16| code.to_be_bytes().to_vec();
    assert_eq!(closed(b""), Ok(Taken::Frame(6, Some(Message::Close(Cow::default())))));
    for code in [1000, 1001, 1007, 1014, 3000, 4999] {
        assert_eq!(closed(&with(code)), Ok(Taken::Frame(8, Some(Message::Close(with(code).into())))));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        assert_eq!(closed(&with(code)), Err(Fault::Protocol), "{code}");
    }
    assert_eq!(closed(b"\x03"), Err(Fault::Protocol));
    assert_eq!(closed(b"\x03\xe8\xff"), Err(Fault::NotUtf8));
    assert_eq!(closed(b"\xe0\xa0\x80"), Err(Fault::NotUtf8), "what is forbidden twice is told as by others");
}

#[test]
fn a_character_may_be_cut_by_the_pieces_of_a_message_but_not_broken() {
    let text = "ä€😀".as_bytes();
    for at in 0..=text.len() {
        let cut = [frame(TEXT, &text[..at]), frame(FIN, &text[at..])].concat();
        assert_eq!(heard_in(9, &cut, 99), (vec![Message::Text("ä€😀".into())], None), "cut at {at}");
    }
    // Broken by the next piece, or by the end.
    for pieces in [[&text[..1], b"x"], [&text[..1], b""]] {
        let broken = [frame(TEXT, pieces[0]), frame(FIN, pieces[1])].concat();
        assert_eq!(heard_in(9, &broken, 99).1, Some(Fault::NotUtf8), "{pieces:?}");
    }
    // The rest of such a message is not waited for.
    for begun in [&b"ok \xff"[..], b"\xc0", b"\xf5", b"\xed\xa0"] {
        assert_eq!(heard_in(9, &frame(TEXT, begun), 99).1, Some(Fault::NotUtf8), "{begun:?}");
    }
    assert_eq!(heard_in(9, &frame(FIN | TEXT, &text[..1]), 99).1, Some(Fault::NotUtf8));
    // Bytes are not read as text.
    assert_eq!(heard_in(9, &frame(FIN | BINARY, b"\xff"), 99).0, [Message::Binary(vec![0xff].into())]);
}
