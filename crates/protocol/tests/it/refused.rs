//! What a server must refuse, and how it says so: the code, and the `id` where one can be told.

use roomcast_protocol::{Codec, ErrorCode, Incoming, Message, SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK};
use serde::{Deserialize, Serialize};

use crate::vectors::{compare, hex, read, unhex};

const FILE: &str = "refused.json";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Vector {
    name: String,
    codec: Name,
    /// The id of a `ping` that came before on the same connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<u64>,
    input: Input,
    code: ErrorCode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Name {
    Json,
    Msgpack,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Input {
    Text(String),
    Hex(String),
}

impl Name {
    fn codec(self) -> Codec {
        let name = match self {
            Name::Json => SUBPROTOCOL_JSON,
            Name::Msgpack => SUBPROTOCOL_MSGPACK,
        };
        Codec::for_subprotocol(name).expect("a subprotocol of our own")
    }
}

fn vector(name: &str, codec: Name, input: Input, code: ErrorCode, id: impl Into<Option<u64>>) -> Vector {
    Vector { name: name.to_owned(), codec, after: None, input, code, id: id.into() }
}

fn json() -> Vec<Vector> {
    use ErrorCode::{BadFrame, BadRoom, UnknownOp};
    let text = |name: &str, input: &str, code, id: Option<u64>| {
        vector(&format!("json/{name}"), Name::Json, Input::Text(input.to_owned()), code, id)
    };
    let deep = |n: usize| {
        let data = "[".repeat(n) + &"]".repeat(n);
        format!(r#"{{"id":1,"op":"publish","room":"event:wall","event":"e","data":{data}}}"#)
    };
    let publish =
        |data: &str| format!(r#"{{"id":1,"op":"publish","room":"event:wall","event":"e","data":{data}}}"#);
    let join = |room: &str| format!(r#"{{"id":1,"op":"join","room":{room}}}"#);
    let long = |n: usize| "x".repeat(n);
    let mut all = vec![
        text("empty", "", BadFrame, None),
        text("not JSON", "hello", BadFrame, None),
        text("cut off", r#"{"id":1,"op":"ping""#, BadFrame, None),
        text("two objects", r#"{"id":1,"op":"ping"}{"id":2,"op":"ping"}"#, BadFrame, None),
        text("trailing comma", r#"{"id":1,"op":"ping",}"#, BadFrame, None),
        text("byte order mark", "\u{feff}{\"id\":1,\"op\":\"ping\"}", BadFrame, None),
        text("array instead of object", r#"[1,"ping"]"#, BadFrame, None),
        text("string instead of object", r#""ping""#, BadFrame, None),
        text("null instead of object", "null", BadFrame, None),
        text("op missing", r#"{"id":1}"#, BadFrame, Some(1)),
        text("op not a string", r#"{"id":1,"op":7}"#, BadFrame, Some(1)),
        text("op null", r#"{"id":1,"op":null}"#, BadFrame, Some(1)),
        text("op unknown", r#"{"id":1,"op":"dance"}"#, UnknownOp, Some(1)),
        text("op in capitals", r#"{"id":1,"op":"PING"}"#, UnknownOp, Some(1)),
        text("op unknown without id", r#"{"op":"dance"}"#, UnknownOp, None),
        text("id zero", r#"{"id":0,"op":"ping"}"#, BadFrame, None),
        text("id negative", r#"{"id":-1,"op":"ping"}"#, BadFrame, None),
        text("id a fraction", r#"{"id":1.5,"op":"ping"}"#, BadFrame, None),
        text("id with a decimal point", r#"{"id":1.0,"op":"ping"}"#, BadFrame, None),
        text("id a string", r#"{"id":"1","op":"ping"}"#, BadFrame, None),
        text("id null", r#"{"id":null,"op":"ping"}"#, BadFrame, None),
        text("id an array", r#"{"id":[1],"op":"ping"}"#, BadFrame, None),
        text("id 2^53", r#"{"id":9007199254740992,"op":"ping"}"#, BadFrame, None),
        text("id 2^64", r#"{"id":18446744073709551616,"op":"ping"}"#, BadFrame, None),
        text("id 1e999", r#"{"id":1e999,"op":"ping"}"#, BadFrame, None),
        text("id twice", r#"{"id":1,"id":2,"op":"ping"}"#, BadFrame, None),
        text("op twice", r#"{"id":1,"op":"ping","op":"ping"}"#, BadFrame, None),
        text("field twice", r#"{"id":1,"op":"refresh","token":"a","token":"b"}"#, BadFrame, Some(1)),
        text("field missing", r#"{"id":1,"op":"refresh"}"#, BadFrame, Some(1)),
        text("field of a wrong type", r#"{"id":1,"op":"refresh","token":1}"#, BadFrame, Some(1)),
        text(
            "on not a boolean",
            r#"{"id":1,"op":"like","room":"event:wall","target":"p","on":1}"#,
            BadFrame,
            Some(1),
        ),
        text(
            "by negative",
            r#"{"id":1,"op":"count","room":"event:wall","target":"p","counter":"c","by":-1}"#,
            BadFrame,
            Some(1),
        ),
        text(
            "by beyond 32 bits",
            r#"{"id":1,"op":"count","room":"event:wall","target":"p","counter":"c","by":4294967296}"#,
            BadFrame,
            Some(1),
        ),
        text(
            "version 2^53",
            r#"{"id":1,"op":"put","room":"event:wall","doc":"d","value":1,"version":9007199254740992}"#,
            BadFrame,
            Some(1),
        ),
        text(
            "before 2^53",
            r#"{"id":1,"op":"history","room":"event:wall","before":9007199254740992}"#,
            BadFrame,
            Some(1),
        ),
        text(
            "since an array",
            r#"{"id":1,"op":"join","room":"event:wall","since":["e",1]}"#,
            BadFrame,
            Some(1),
        ),
        text("since a number", r#"{"id":1,"op":"join","room":"event:wall","since":1}"#, BadFrame, Some(1)),
        text(
            "since without epoch",
            r#"{"id":1,"op":"join","room":"event:wall","since":{"offset":1}}"#,
            BadFrame,
            Some(1),
        ),
        text(
            "since with an offset of 2^53",
            r#"{"id":1,"op":"join","room":"event:wall","since":{"epoch":"e","offset":9007199254740992}}"#,
            BadFrame,
            Some(1),
        ),
        text(
            "since and before",
            r#"{"id":1,"op":"history","room":"event:wall","before":9,"since":{"epoch":"e","offset":1}}"#,
            BadFrame,
            Some(1),
        ),
        text(
            "epoch of 65 characters",
            &format!(
                r#"{{"id":1,"op":"join","room":"event:wall","since":{{"epoch":"{}","offset":1}}}}"#,
                long(65)
            ),
            BadFrame,
            Some(1),
        ),
        text(
            "event empty",
            r#"{"id":1,"op":"publish","room":"event:wall","event":"","data":1}"#,
            BadFrame,
            Some(1),
        ),
        text(
            "event of 129 characters",
            &format!(r#"{{"id":1,"op":"publish","room":"event:wall","event":"{}","data":1}}"#, long(129)),
            BadFrame,
            Some(1),
        ),
        text(
            "event with a control character",
            r#"{"id":1,"op":"signal","room":"event:wall","event":"a\nb","data":1}"#,
            BadFrame,
            Some(1),
        ),
        text(
            "key empty",
            r#"{"id":1,"op":"publish","room":"event:wall","event":"e","data":1,"key":""}"#,
            BadFrame,
            Some(1),
        ),
        text(
            "key of 129 characters",
            &format!(
                r#"{{"id":1,"op":"publish","room":"event:wall","event":"e","data":1,"key":"{}"}}"#,
                long(129)
            ),
            BadFrame,
            Some(1),
        ),
        text("data missing", r#"{"id":1,"op":"publish","room":"event:wall","event":"e"}"#, BadFrame, Some(1)),
        text("data of 65 levels", &deep(65), BadFrame, Some(1)),
        text("data of 4,000 levels", &deep(4_000), BadFrame, Some(1)),
        text(
            "id of 4,000 levels",
            &format!(r#"{{"id":{}1{},"op":"ping"}}"#, "[".repeat(4_000), "]".repeat(4_000)),
            BadFrame,
            None,
        ),
        text("data with a lone high surrogate", &publish(r#""\ud800""#), BadFrame, Some(1)),
        text("data with a lone low surrogate", &publish(r#"["\udc00"]"#), BadFrame, Some(1)),
        text("data with surrogates in the wrong order", &publish(r#""\udc00\ud800""#), BadFrame, Some(1)),
        text("data with a lone surrogate as key", &publish(r#"{"\ud800":1}"#), BadFrame, Some(1)),
        text("field with a lone surrogate", r#"{"id":1,"op":"refresh","token":"\ud800"}"#, BadFrame, Some(1)),
        text("op with a lone surrogate", r#"{"id":1,"op":"\ud800"}"#, BadFrame, None),
        text("data 1e999", &publish("1e999"), BadFrame, Some(1)),
        text("data -1e999 within", &publish(r#"{"a":[-1e999]}"#), BadFrame, Some(1)),
        text("data with 400 digits", &publish(&"9".repeat(400)), BadFrame, Some(1)),
        text("data NaN", &publish("NaN"), BadFrame, None),
        text("data with a raw control character", &publish("\"\u{1}\""), BadFrame, None),
        text("data with an unknown escape", &publish(r#""\x""#), BadFrame, None),
        vector(
            "json/binary where text is due",
            Name::Json,
            Input::Hex(hex(br#"{"id":1,"op":"ping"}"#)),
            BadFrame,
            None,
        ),
    ];
    for (name, room) in [
        ("empty", r#""""#.to_owned()),
        ("in capitals", r#""Event:wall""#.to_owned()),
        ("without namespace", r#"":wall""#.to_owned()),
        ("without name", r#""event:""#.to_owned()),
        ("with two colons", r#""event:a:b""#.to_owned()),
        ("with a blank", r#""event:a b""#.to_owned()),
        ("with braces", r#""event:{a}""#.to_owned()),
        ("with a star", r#""event:*""#.to_owned()),
        ("with a slash", r#""event:a/b""#.to_owned()),
        ("with an umlaut", r#""event:ä""#.to_owned()),
        ("with a NUL", r#""event:a\u0000""#.to_owned()),
        ("with a line feed", r#""event:a\n""#.to_owned()),
        ("with a digit first", r#""9event:a""#.to_owned()),
        ("with a namespace of 33", format!(r#""{}""#, long(33))),
        ("with a name of 129", format!(r#""event:{}""#, long(129))),
    ] {
        all.push(text(&format!("room {name}"), &join(&room), BadRoom, Some(1)));
    }
    all.push(text("room missing", r#"{"id":1,"op":"join"}"#, BadFrame, Some(1)));
    all.push(text("room a number", &join("7"), BadFrame, Some(1)));
    all.push(text("room null", &join("null"), BadFrame, Some(1)));
    for (name, id) in [("repeated", 5), ("fallen", 4)] {
        let mut vector =
            text(&format!("id {name}"), &format!(r#"{{"id":{id},"op":"ping"}}"#), BadFrame, Some(id));
        vector.after = Some(5);
        all.push(vector);
    }
    all
}

fn msgpack() -> Vec<Vector> {
    use ErrorCode::{BadFrame, BadRoom, UnknownOp};
    let bytes = |name: &str, input: &[u8], code, id: Option<u64>| {
        vector(&format!("msgpack/{name}"), Name::Msgpack, Input::Hex(hex(input)), code, id)
    };
    // {"id":1,"op":"publish","room":"event:wall","event":"e","data":…}
    let publish = |data: &[u8]| {
        let head = b"\x85\xa2id\x01\xa2op\xa7publish\xa4room\xaaevent:wall\xa5event\xa1e\xa4data";
        [&head[..], data].concat()
    };
    let ping = |more: &[u8]| [&b"\x82\xa2id\x01\xa2op\xa4ping"[..], more].concat();
    let mut all = vec![
        bytes("empty", b"", BadFrame, None),
        bytes("reserved byte", b"\xc1", BadFrame, None),
        bytes("array instead of map", b"\x92\x01\xa4ping", BadFrame, None),
        bytes("string instead of map", b"\xa4ping", BadFrame, None),
        bytes("nil instead of map", b"\xc0", BadFrame, None),
        bytes("cut off", b"\x82\xa2id\x01\xa2op\xa4pin", BadFrame, None),
        bytes("trailing byte", &ping(b"\x00"), BadFrame, Some(1)),
        bytes("two maps", &ping(&ping(b"")), BadFrame, Some(1)),
        bytes("a map that claims 2^32-1 entries", b"\xdf\xff\xff\xff\xff\xa2id\x01", BadFrame, None),
        bytes("a string that claims 2^32-1 bytes", b"\x81\xdb\xff\xff\xff\xffid", BadFrame, None),
        bytes("integer as key", b"\x82\x00\x01\x01\xa4ping", BadFrame, None),
        bytes("bytes as key", b"\x82\xc4\x02id\x01\xa2op\xa4ping", BadFrame, None),
        bytes("nil as key", b"\x83\xa2id\x01\xa2op\xa4ping\xc0\x01", BadFrame, None),
        bytes("op missing", b"\x81\xa2id\x01", BadFrame, Some(1)),
        bytes("op unknown", b"\x82\xa2id\x01\xa2op\xa5dance", UnknownOp, Some(1)),
        bytes("op as bytes", b"\x82\xa2id\x01\xa2op\xc4\x04ping", BadFrame, None),
        bytes("op not UTF-8", b"\x82\xa2id\x01\xa2op\xa2\xff\xfe", BadFrame, None),
        bytes("id zero", b"\x82\xa2id\x00\xa2op\xa4ping", BadFrame, None),
        bytes("id negative", b"\x82\xa2id\xff\xa2op\xa4ping", BadFrame, None),
        bytes("id a float", b"\x82\xa2id\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\xa2op\xa4ping", BadFrame, None),
        bytes("id 2^53", b"\x82\xa2id\xcf\x00\x20\x00\x00\x00\x00\x00\x00\xa2op\xa4ping", BadFrame, None),
        bytes("id twice", b"\x83\xa2id\x01\xa2id\x02\xa2op\xa4ping", BadFrame, None),
        bytes("field missing", b"\x82\xa2id\x01\xa2op\xa7refresh", BadFrame, Some(1)),
        bytes("field of a wrong type", b"\x83\xa2id\x01\xa2op\xa7refresh\xa5token\x01", BadFrame, Some(1)),
        bytes("field as bytes", b"\x83\xa2id\x01\xa2op\xa7refresh\xa5token\xc4\x01a", BadFrame, None),
        bytes(
            "field twice",
            b"\x84\xa2id\x01\xa2op\xa7refresh\xa5token\xa1a\xa5token\xa1b",
            BadFrame,
            Some(1),
        ),
        bytes(
            "since an array",
            b"\x84\xa2id\x01\xa2op\xa4join\xa4room\xaaevent:wall\xa5since\x92\xa1e\x01",
            BadFrame,
            Some(1),
        ),
        bytes(
            "since with integer keys",
            b"\x84\xa2id\x01\xa2op\xa4join\xa4room\xaaevent:wall\xa5since\x82\x00\xa1e\x01\x01",
            BadFrame,
            None,
        ),
        bytes("room with braces", b"\x83\xa2id\x01\xa2op\xa4join\xa4room\xa9event:{a}", BadRoom, Some(1)),
        bytes("room in capitals", b"\x83\xa2id\x01\xa2op\xa4join\xa4room\xa7EVENT:a", BadRoom, Some(1)),
        bytes("data bytes", &publish(b"\xc4\x01\x00"), BadFrame, None),
        bytes("data bytes within", &publish(b"\x91\xc4\x01\x00"), BadFrame, None),
        bytes("data an extension type", &publish(b"\xd4\x01\x02"), BadFrame, None),
        bytes("data a timestamp", &publish(b"\xd6\xff\x00\x00\x00\x00"), BadFrame, None),
        bytes("data NaN", &publish(b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"), BadFrame, None),
        bytes("data infinite", &publish(b"\xca\x7f\x80\x00\x00"), BadFrame, None),
        bytes("data with an integer as key", &publish(b"\x81\x01\x02"), BadFrame, None),
        bytes("data with bytes as key", &publish(b"\x81\xc4\x01a\x02"), BadFrame, None),
        bytes("data not UTF-8", &publish(b"\xa2\xff\xfe"), BadFrame, None),
        bytes("data of 65 levels", &publish(&[&[0x91; 64][..], b"\x90"].concat()), BadFrame, Some(1)),
        bytes(
            "data of 65 levels of maps",
            &publish(&[&b"\x81\xa1a".repeat(64)[..], b"\x80"].concat()),
            BadFrame,
            Some(1),
        ),
        bytes("data of 8,000 levels", &publish(&[0x91; 8_000]), BadFrame, None),
        bytes("unknown field with bytes", b"\x83\xa2id\x01\xa2op\xa4ping\xa1x\xc4\x01\x00", BadFrame, None),
        vector(
            "msgpack/text where binary is due",
            Name::Msgpack,
            Input::Text(r#"{"id":1,"op":"ping"}"#.to_owned()),
            BadFrame,
            None,
        ),
    ];
    for (name, id) in [("repeated", 5_u8), ("fallen", 4)] {
        let input = [&b"\x82\xa2id"[..], &[id], b"\xa2op\xa4ping"].concat();
        let mut vector = bytes(&format!("id {name}"), &input, BadFrame, Some(id.into()));
        vector.after = Some(5);
        all.push(vector);
    }
    all
}

#[test]
fn the_file_of_refusals_is_what_the_code_refuses() {
    compare(FILE, &json().into_iter().chain(msgpack()).collect::<Vec<_>>());
}

#[test]
fn every_refusal_has_its_code_its_id_and_a_short_sentence() {
    for vector in read::<Vector>(FILE) {
        let name = &vector.name;
        let mut codec = vector.codec.codec();
        if let Some(id) = vector.after {
            let ping = codec.payload(&serde_json::json!({"id": id, "op": "ping"})).expect(name);
            let first = match vector.codec {
                Name::Json => codec.decode(Message::Text(std::str::from_utf8(&ping).expect(name))),
                Name::Msgpack => codec.decode(Message::Binary(&ping)),
            };
            assert_eq!(first.expect(name).id, Some(id));
        }
        let refused = match &vector.input {
            Input::Text(text) => codec.decode(Message::Text(text)),
            Input::Hex(text) => codec.decode(Message::Binary(&unhex(text))),
        };
        let error = refused.expect_err(name);
        assert_eq!((error.code, error.id), (vector.code, vector.id), "{name}: {}", error.message);
        assert!((1..=300).contains(&error.message.chars().count()), "{name}: {}", error.message);
    }
}

#[test]
fn a_frame_after_a_refused_one_is_read_as_if_nothing_had_been() {
    for vector in read::<Vector>(FILE) {
        let mut codec = vector.codec.codec();
        let _refused = match &vector.input {
            Input::Text(text) => codec.decode(Message::Text(text)),
            Input::Hex(text) => codec.decode(Message::Binary(&unhex(text))),
        };
        let ping = codec.payload(&serde_json::json!({"id": 1000, "op": "ping"})).expect("encodes");
        let next = match vector.codec {
            Name::Json => codec.decode(Message::Text(std::str::from_utf8(&ping).expect("JSON"))),
            Name::Msgpack => codec.decode(Message::Binary(&ping)),
        };
        assert_eq!(next.map(|frame| frame.id), Ok(Some(1000)), "{}", vector.name);
    }
}

#[test]
fn what_an_operation_does_not_know_is_ignored() {
    for text in [
        r#"{"id":1,"op":"ping","room":"not a room","x":{"y":[1e999]}}"#,
        r#" {"op":"ping"}"#,
        r#"{"id":1,"op":"connect","token":null,"future":[[[]]]}"#,
    ] {
        assert!(Codec::json().decode(Message::Text(text)).is_ok(), "{text}");
    }
}

#[test]
fn a_client_refuses_a_server_frame_with_an_unknown_error_code_instead_of_guessing() {
    assert!(Incoming::decode(Message::Text(r#"{"id":1,"error":{"code":"dance","message":"m"}}"#)).is_err());
    assert!(Incoming::decode(Message::Binary(b"\xc1")).is_err());
}
