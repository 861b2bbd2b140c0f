//! Promises that hold for every input, not for chosen ones.

use proptest::{collection::vec, option, prelude::*};
use roomcast_protocol::{
    ClientFrame, Codec, Comment, Connect, Count, CounterValue, Data, DocPut, Epoch, Event, Failure, History,
    Incoming, Join, Joined, Like, MAX_HEADER, MAX_SAFE_INTEGER, Message, Offset, Ok as Answer, Op, Opcode,
    Ping, PresenceCount, Publish, Push, Reserve, RoomName, ServerFrame, SharedPush, Signal, Since,
    server_frame,
};
use serde_json::{Number, Value};

use crate::samples;

fn label() -> impl Strategy<Value = String> {
    "[^\\p{C}]{1,40}"
}

fn room() -> impl Strategy<Value = RoomName> {
    "[a-z][a-z0-9_-]{0,31}(:[A-Za-z0-9._~-]{1,128})?".prop_map(|name| RoomName::parse(&name).expect("a room"))
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        any::<i64>().prop_map(Number::from),
        any::<u64>().prop_map(Number::from),
        any::<f64>().prop_filter_map("JSON has finite numbers only", Number::from_f64),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number().prop_map(Value::Number),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::Array),
            vec((any::<String>(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn data() -> impl Strategy<Value = Data> {
    value().prop_map(|value| Data::of(&value).expect("JSON"))
}

fn safe() -> impl Strategy<Value = u64> {
    prop_oneof![0..=300_u64, 0..=MAX_SAFE_INTEGER, Just(MAX_SAFE_INTEGER)]
}

fn since() -> impl Strategy<Value = Since> {
    ("[0-9a-f]{1,64}", safe())
        .prop_map(|(epoch, offset)| Since { epoch: Epoch::new(&epoch), offset: Offset(offset) })
}

fn op() -> impl Strategy<Value = Op> {
    let text = any::<String>;
    prop_oneof![
        Just(Op::Ping(Ping {})),
        (option::of(text()), option::of(text()), option::of(text()))
            .prop_map(|(token, ticket, guest)| Op::Connect(Connect { token, ticket, guest })),
        (room(), option::of(since()), option::of(any::<u32>()))
            .prop_map(|(room, since, recent)| Op::Join(Join { room, since, recent })),
        (room(), label(), data(), option::of(label()))
            .prop_map(|(room, event, data, key)| Op::Publish(Publish { room, event, data, key })),
        (room(), label(), data()).prop_map(|(room, event, data)| Op::Signal(Signal { room, event, data })),
        (room(), option::of(safe()), option::of(any::<u32>()))
            .prop_map(|(room, before, limit)| Op::History(History { room, since: None, before, limit })),
        (room(), text(), any::<bool>()).prop_map(|(room, target, on)| Op::Like(Like { room, target, on })),
        (room(), text(), text(), any::<u32>(), option::of(label()))
            .prop_map(|(room, target, counter, by, key)| Op::Count(Count { room, target, counter, by, key })),
        (room(), text(), text(), option::of(label()))
            .prop_map(|(room, target, text, key)| Op::Comment(Comment { room, target, text, key })),
        (room(), text(), any::<u32>(), label())
            .prop_map(|(room, item, quantity, key)| Op::Reserve(Reserve { room, item, quantity, key })),
        (room(), text(), data(), safe()).prop_map(|(room, doc, value, version)| Op::Put(DocPut {
            room,
            doc,
            value,
            version
        })),
    ]
}

fn push() -> impl Strategy<Value = Push> {
    let text = any::<String>;
    prop_oneof![
        (room(), text(), data(), safe(), safe(), option::of(text())).prop_map(
            |(room, event, data, offset, at, from)| {
                Push::Event { room, event: Event { event, data, offset: Offset(offset), at, from } }
            }
        ),
        (room(), text(), data(), option::of(text())).prop_map(|(room, event, data, from)| Push::Signal {
            room,
            event,
            data,
            from
        }),
        (room(), text(), text(), safe(), safe()).prop_map(|(room, target, counter, value, version)| {
            Push::Count { room, value: CounterValue { target, counter, value, version } }
        }),
        (room(), safe(), safe()).prop_map(|(room, connections, users)| Push::Presence {
            room,
            count: PresenceCount { connections, users }
        }),
        (room(), since(), text()).prop_map(|(room, since, reason)| Push::Reset {
            room,
            epoch: since.epoch,
            offset: since.offset,
            reason
        }),
        (room(), text()).prop_map(|(room, reason)| Push::Kicked { room, reason }),
        safe().prop_map(|expires_at| Push::Expiring { expires_at }),
        (safe(), text()).prop_map(|(retry_ms, reason)| Push::Goaway { retry_ms, reason }),
    ]
}

/// The payload of a whole server frame, and whether it is text; the header is read as RFC 6455 says.
fn open(frame: &[u8]) -> (Opcode, &[u8]) {
    let opcode = match frame[0] {
        0x81 => Opcode::Text,
        0x82 => Opcode::Binary,
        other => panic!("first byte {other:#x}"),
    };
    let (len, start) = match frame[1] {
        126 => (u64::from(u16::from_be_bytes([frame[2], frame[3]])), 4),
        127 => (u64::from_be_bytes(frame[2..10].try_into().expect("eight bytes")), 10),
        len @ 0..=125 => (u64::from(len), 2),
        masked => panic!("a server's frame is not masked: {masked:#x}"),
    };
    let shortest = match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    assert_eq!(start, shortest, "the length of {len} has its shortest form");
    assert_eq!(frame.len() as u64, start as u64 + len);
    (opcode, &frame[start..])
}

fn incoming(frame: &[u8]) -> Incoming {
    let (opcode, payload) = open(frame);
    let message = match opcode {
        Opcode::Text => Message::Text(std::str::from_utf8(payload).expect("text is UTF-8")),
        _ => Message::Binary(payload),
    };
    Incoming::decode(message).expect("a client can read what the server writes")
}

fn survive(bytes: &[u8]) {
    let _any = Codec::msgpack().decode(Message::Binary(bytes));
    let _any = Incoming::decode(Message::Binary(bytes));
    let text = String::from_utf8_lossy(bytes);
    let _any = Codec::json().decode(Message::Text(&text));
    let _any = Incoming::decode(Message::Text(&text));
    let _any = Data::parse(&text);
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..300)) {
        survive(&bytes);
        // Most random bytes are no map; these are.
        survive(&[&[0x80 | bytes.first().map_or(0, |byte| byte & 0x0f)], &bytes[..]].concat());
    }

    #[test]
    fn no_text_makes_a_decoder_panic(text in any::<String>(), inside in "[\\[\\]{}\",:0-9eE.+\\\\ud8 -]{0,200}") {
        survive(text.as_bytes());
        survive(inside.as_bytes());
        survive(format!("{{\"op\":\"publish\",\"room\":\"a\",\"event\":\"e\",\"data\":{inside}}}").as_bytes());
    }

    #[test]
    fn no_mutation_of_a_valid_frame_makes_a_decoder_panic(
        which in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..6),
    ) {
        let frames = samples::client();
        let (_, frame) = &frames[which.index(frames.len())];
        for codec in [Codec::json(), Codec::msgpack()] {
            let mut bytes = codec.payload(frame).expect("encodes");
            for (at, byte, change) in &changes {
                let at = at.index(bytes.len());
                match change {
                    0 => bytes[at] = *byte,
                    1 => bytes.insert(at, *byte),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            survive(&bytes);
        }
    }

    #[test]
    fn what_a_client_writes_is_what_the_server_reads(
        id in option::of(1..=MAX_SAFE_INTEGER),
        op in op(),
    ) {
        let frame = ClientFrame { id, op };
        let json = Codec::json().payload(&frame).expect("encodes");
        let json = Codec::json().decode(Message::Text(std::str::from_utf8(&json).expect("UTF-8")));
        prop_assert_eq!(json.as_ref(), Ok(&frame));
        let msgpack = Codec::msgpack().payload(&frame).expect("encodes");
        let msgpack = Codec::msgpack().decode(Message::Binary(&msgpack));
        prop_assert_eq!(msgpack.as_ref(), Ok(&frame));
    }

    #[test]
    fn data_survives_the_way_through_messagepack(value in value()) {
        let data = Data::of(&value).expect("JSON");
        let packed = Codec::msgpack().payload(&data).expect("encodes");
        let back: Data = rmp_serde::from_slice(&packed).expect("decodes");
        prop_assert_eq!(back.to::<Value>().expect("JSON"), data.to::<Value>().expect("JSON"));
        prop_assert_eq!(back.as_str(), data.as_str());
    }

    #[test]
    fn data_keeps_its_json_to_the_letter(value in value(), blanks in "[ \t\n]{0,3}") {
        let text = serde_json::to_string_pretty(&value).expect("JSON");
        let data = Data::parse(&format!("{blanks}{text}{blanks}")).expect("JSON");
        prop_assert_eq!(data.as_str(), text);
    }

    #[test]
    fn a_shared_push_says_the_same_in_both_codecs_and_encodes_once(push in push()) {
        let shared = SharedPush::new(push.clone());
        let json = shared.frame(Codec::json()).expect("encodes");
        let msgpack = shared.frame(Codec::msgpack()).expect("encodes");
        prop_assert_eq!(open(&json).0, Opcode::Text);
        prop_assert_eq!(open(&msgpack).0, Opcode::Binary);
        prop_assert_eq!(incoming(&json), incoming(&msgpack));
        let plain = Codec::json().payload(&ServerFrame::Push(push)).expect("encodes");
        prop_assert_eq!(open(&json).1, &plain[..]);
        let again = shared.frame(Codec::json()).expect("encodes");
        prop_assert_eq!(again.as_ptr(), json.as_ptr());
    }

    #[test]
    fn a_payload_of_any_length_stands_whole_behind_its_header(len in prop_oneof![0..200_usize, 65_500..65_600_usize]) {
        let payload = vec![0x5a; len];
        let frame = server_frame(Opcode::Binary, &payload);
        prop_assert!(frame.len() <= MAX_HEADER + len);
        prop_assert_eq!(open(&frame), (Opcode::Binary, &payload[..]));
    }
}

#[test]
fn the_lengths_at_which_the_header_grows() {
    for (len, header) in [(0, 2), (125, 2), (126, 4), (127, 4), (65_535, 4), (65_536, 10), (65_537, 10)] {
        let payload = vec![b'x'; len];
        let frame = server_frame(Opcode::Text, &payload);
        assert_eq!(frame.len(), header + len, "{len}");
        assert_eq!(open(&frame), (Opcode::Text, &payload[..]), "{len}");
        // Through a codec as well: a JSON string of that length in all.
        if len >= 2 {
            let frame = Codec::json().encode(&"x".repeat(len - 2)).expect("encodes");
            assert_eq!(frame.len(), header + len, "{len}");
            assert_eq!(open(&frame).1.len(), len);
        }
    }
}

#[test]
fn data_of_the_full_depth_passes_in_every_place_where_it_may_stand() {
    let deep = Data::parse(&("[".repeat(64) + &"]".repeat(64))).expect("64 levels");
    let room = RoomName::parse("event:wall").expect("a room");
    let event = Event { event: "e".into(), data: deep.clone(), offset: Offset(1), at: 1, from: None };
    let frames = [
        ServerFrame::Push(Push::Event { room: room.clone(), event: event.clone() }),
        ServerFrame::Ok {
            id: 1,
            ok: Answer::Joined(Box::new(Joined {
                epoch: Epoch::new("e"),
                offset: Offset(1),
                recovered: true,
                events: vec![event],
                presence: PresenceCount::default(),
                counts: Vec::new(),
            })),
        },
    ];
    for frame in frames {
        let json = incoming(&Codec::json().encode(&frame).expect("encodes"));
        assert_eq!(incoming(&Codec::msgpack().encode(&frame).expect("encodes")), json);
    }
    let publish = ClientFrame {
        id: Some(1),
        op: Op::Publish(Publish { room, event: "e".into(), data: deep, key: None }),
    };
    let packed = Codec::msgpack().payload(&publish).expect("encodes");
    assert_eq!(Codec::msgpack().decode(Message::Binary(&packed)), Ok(publish));
}

#[test]
fn a_push_of_null_is_told_from_a_push_without_data() {
    let null = Incoming::decode(Message::Text(r#"{"push":"signal","data":null}"#)).expect("decodes");
    assert_eq!(null.data, Some(Data::null()));
    let none = Incoming::decode(Message::Text(r#"{"push":"kicked"}"#)).expect("decodes");
    assert_eq!(none.data, None);
}

#[test]
fn a_failure_says_when_to_retry_only_if_waiting_helps() {
    let plain = Failure::new(roomcast_protocol::ErrorCode::Forbidden, "no");
    let text = Codec::json().payload(&ServerFrame::Error { id: None, error: plain }).expect("encodes");
    assert_eq!(text, br#"{"error":{"code":"forbidden","message":"no"}}"#);
}
