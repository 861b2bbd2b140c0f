//! The golden frames: what the code writes is what the file holds, and what the file holds can be read.

use std::collections::BTreeSet;

use roomcast_protocol::{Codec, ErrorCode, Incoming, Message, OpKind, Opcode, ServerFrame, server_frame};
use serde::{Deserialize, Serialize};

use crate::{
    samples,
    vectors::{compare, hex, read, unhex},
};

const FILE: &str = "frames.json";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Vector {
    name: String,
    direction: Direction,
    json: String,
    msgpack: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ws_json: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ws_msgpack: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Client,
    Server,
}

fn vector<T: Serialize>(name: &str, direction: Direction, frame: &T) -> Vector {
    let payload = |codec: Codec| codec.payload(frame).expect("encodes");
    let whole = |codec: Codec| {
        // A client masks its frames with random keys: only the server's whole frames are always the same.
        (direction == Direction::Server).then(|| hex(&codec.encode(frame).expect("encodes")))
    };
    Vector {
        name: name.to_owned(),
        direction,
        json: String::from_utf8(payload(Codec::json())).expect("JSON is UTF-8"),
        msgpack: hex(&payload(Codec::msgpack())),
        ws_json: whole(Codec::json()),
        ws_msgpack: whole(Codec::msgpack()),
    }
}

fn written() -> Vec<Vector> {
    let client = samples::client();
    let client = client.iter().map(|(name, frame)| vector(name, Direction::Client, frame));
    let server = samples::server();
    let server = server.iter().map(|(name, frame)| vector(name, Direction::Server, frame));
    client.chain(server).collect()
}

#[test]
fn every_frame_is_written_byte_for_byte_as_in_the_golden_file() {
    compare(FILE, &written());
}

#[test]
fn every_client_frame_of_the_golden_file_is_read_alike_in_both_codecs() {
    let samples = samples::client();
    let vectors: Vec<Vector> =
        read::<Vector>(FILE).into_iter().filter(|v| v.direction == Direction::Client).collect();
    assert_eq!(vectors.len(), samples.len());
    for (vector, (name, frame)) in vectors.iter().zip(&samples) {
        assert_eq!(vector.name, *name);
        let json = Codec::json().decode(Message::Text(&vector.json));
        assert_eq!(json.as_ref(), Ok(frame), "{name}");
        let packed = unhex(&vector.msgpack);
        let msgpack = Codec::msgpack().decode(Message::Binary(&packed));
        assert_eq!(msgpack.as_ref(), Ok(frame), "{name}");
    }
}

#[test]
fn every_server_frame_of_the_golden_file_is_read_alike_in_both_codecs() {
    let mut seen = 0;
    for vector in read::<Vector>(FILE).iter().filter(|v| v.direction == Direction::Server) {
        let name = &vector.name;
        let json = Incoming::decode(Message::Text(&vector.json)).expect(name);
        let packed = unhex(&vector.msgpack);
        assert_eq!(Incoming::decode(Message::Binary(&packed)).expect(name), json, "{name}");
        let kinds =
            [json.ok.is_some(), json.error.is_some(), json.push.is_some()].iter().filter(|is| **is).count();
        assert_eq!(kinds, 1, "{name} is exactly one of ok, error and push");
        seen += 1;
    }
    assert_eq!(seen, samples::server().len());
}

#[test]
fn whole_server_frames_are_the_payload_behind_an_unmasked_header() {
    for vector in read::<Vector>(FILE).iter().filter(|v| v.direction == Direction::Server) {
        let text = server_frame(Opcode::Text, vector.json.as_bytes());
        assert_eq!(vector.ws_json.as_deref(), Some(&*hex(&text)), "{}", vector.name);
        let binary = server_frame(Opcode::Binary, &unhex(&vector.msgpack));
        assert_eq!(vector.ws_msgpack.as_deref(), Some(&*hex(&binary)), "{}", vector.name);
    }
}

#[test]
fn the_golden_file_knows_every_op_every_push_and_every_error_code() {
    let vectors: Vec<Vector> = read(FILE);
    let part = |direction: Direction, prefix: &str| -> BTreeSet<String> {
        vectors
            .iter()
            .filter(|v| v.direction == direction)
            .filter_map(|v| v.name.strip_prefix(prefix))
            .map(|rest| rest.split('/').next().unwrap_or_default().to_owned())
            .collect()
    };
    let names = |all: &mut dyn Iterator<Item = &'static str>| all.map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(part(Direction::Client, ""), names(&mut OpKind::ALL.iter().map(|op| op.as_str())));
    assert_eq!(part(Direction::Server, "error/"), names(&mut ErrorCode::ALL.iter().map(|c| c.as_str())));
    let pushes = ["event", "signal", "count", "presence", "reset", "kicked", "expiring", "goaway"];
    assert_eq!(part(Direction::Server, "push/"), names(&mut pushes.into_iter()));
    for (name, frame) in samples::server() {
        match frame {
            ServerFrame::Push(push) => {
                assert_eq!(name.split('/').nth(1), Some(samples::push_name(&push)), "{name}");
            }
            ServerFrame::Ok { ok, .. } => {
                let op = name.split('/').nth(1).unwrap_or_default();
                assert!(samples::answered_by(&ok).contains(&op), "{name}");
            }
            ServerFrame::Error { error, .. } => {
                assert_eq!(name.split('/').nth(1), Some(error.code.as_str()), "{name}");
            }
        }
    }
}
