//! What the peers speak, as far as a comparison needs it: how a client joins a room, how an event is published, and
//! what a message from the server is. Bytes in, bytes out; no socket.

use serde_json::json;

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Rooms by path, ready-made bytes: the bare loop and plain `ws`.
    Plain,
    /// `roomcast.v1.json`.
    Roomcast,
    /// Engine.IO 4 and Socket.IO 5 over a WebSocket: Socket.IO and socketioxide.
    SocketIo,
    /// Centrifugo's JSON protocol, several messages in a frame.
    Centrifugo,
}

/// The upgrade request's own part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upgrade {
    pub(crate) path: String,
    pub(crate) subprotocol: Option<&'static str>,
}

/// Something said at the beginning, and the start of the message that answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) say: Option<String>,
    pub(crate) until: &'static str,
}

/// What a message from the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// An event for the members of a room.
    Delivery,
    /// Asks for this answer, or the connection ends.
    Ping(&'static str),
    /// A refusal.
    Failure,
    /// Whatever else: answers, presence.
    Other,
}

/// Who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    /// Connects, and joins nothing.
    Visitor,
    /// A member of the room of this number.
    Member(usize),
    /// A member that wants so many of the room's newest events with its join. Only roomcast is asked.
    Returning(usize, usize),
    /// Publishes; with the token that roomcast wants for that.
    Publisher(&'a str),
}

/// The room of this number, as roomcast names it.
pub(crate) fn room_name(room: usize) -> String {
    format!("event:bench-{room}")
}

impl Wire {
    pub(crate) fn upgrade(self, role: Role<'_>) -> Upgrade {
        match self {
            Self::Plain => {
                let path = match role {
                    Role::Visitor => "/".to_owned(),
                    Role::Member(room) | Role::Returning(room, _) => format!("/room/{room}"),
                    Role::Publisher(_) => "/publish".to_owned(),
                };
                Upgrade { path, subprotocol: None }
            }
            Self::Roomcast => Upgrade { path: "/ws".to_owned(), subprotocol: Some("roomcast.v1.json") },
            Self::SocketIo => {
                Upgrade { path: "/socket.io/?EIO=4&transport=websocket".to_owned(), subprotocol: None }
            }
            Self::Centrifugo => Upgrade { path: "/connection/websocket".to_owned(), subprotocol: None },
        }
    }

    /// What is said after the upgrade, until the client is what it wants to be.
    pub(crate) fn greetings(self, role: Role<'_>) -> Vec<Greeting> {
        let say = |text: String, until| Greeting { say: Some(text), until };
        let mut all = match self {
            Self::Plain => vec![],
            Self::Roomcast => {
                let connect = match role {
                    Role::Publisher(token) => json!({"id": 1, "op": "connect", "token": token}),
                    _ => json!({"id": 1, "op": "connect"}),
                };
                vec![say(connect.to_string(), r#"{"id":1,"ok""#)]
            }
            Self::SocketIo => {
                vec![Greeting { say: None, until: "0{" }, say("40".to_owned(), "40{")]
            }
            Self::Centrifugo => vec![say(r#"{"id":1,"connect":{}}"#.to_owned(), r#"{"id":1,"connect""#)],
        };
        if let (Self::Roomcast, Role::Returning(room, recent)) = (self, role) {
            let join = json!({"id": 2, "op": "join", "room": room_name(room), "recent": recent});
            all.push(say(join.to_string(), r#"{"id":2,"ok""#));
        }
        if let Role::Member(room) = role {
            match self {
                Self::Plain => {}
                Self::Roomcast => {
                    let join = json!({"id": 2, "op": "join", "room": room_name(room)});
                    all.push(say(join.to_string(), r#"{"id":2,"ok""#));
                }
                Self::SocketIo => all.push(say(format!(r#"420["join","bench-{room}"]"#), "430[")),
                Self::Centrifugo => {
                    let join = json!({"id": 2, "subscribe": {"channel": format!("bench:{room}")}});
                    all.push(say(join.to_string(), r#"{"id":2,"subscribe""#));
                }
            }
        }
        all
    }

    /// One event, as its publisher says it. `data` is what the members shall get, a JSON text.
    pub(crate) fn publish(self, room: usize, data: &str) -> Vec<u8> {
        match self {
            Self::Plain => {
                let mut message = format!("{room}\n").into_bytes();
                message.extend_from_slice(data.as_bytes());
                message
            }
            Self::Roomcast => {
                format!(r#"{{"op":"publish","room":"{}","event":"e","data":{data}}}"#, room_name(room))
                    .into_bytes()
            }
            Self::SocketIo => format!(r#"42["publish","bench-{room}",{data}]"#).into_bytes(),
            Self::Centrifugo => {
                format!(r#"{{"id":9,"publish":{{"channel":"bench:{room}","data":{data}}}}}"#).into_bytes()
            }
        }
    }

    /// A message of about so many bytes that asks for nothing.
    pub(crate) fn note(self, bytes: usize) -> String {
        let pad = |around: usize| "x".repeat(bytes.saturating_sub(around));
        match self {
            Self::Plain | Self::Roomcast | Self::Centrifugo => {
                format!(r#"{{"op":"ping","pad":"{}"}}"#, pad(22))
            }
            Self::SocketIo => format!(r#"42["note","{}"]"#, pad(13)),
        }
    }

    /// A message that asks for an answer; `id` rises from one to the next.
    pub(crate) fn question(self, id: usize) -> String {
        match self {
            Self::Plain | Self::Roomcast | Self::Centrifugo => format!(r#"{{"id":{id},"op":"ping"}}"#),
            Self::SocketIo => format!(r#"42{id}["join","bench-0"]"#),
        }
    }

    /// The messages in the payload of one frame.
    pub(crate) fn split(self, payload: &[u8]) -> impl Iterator<Item = &[u8]> {
        let mut rest = Some(payload);
        std::iter::from_fn(move || {
            let all = rest?;
            let end = match self {
                Self::Centrifugo => memchr::memchr(b'\n', all),
                Self::Plain | Self::Roomcast | Self::SocketIo => None,
            };
            let (message, more) = end.map_or((all, None), |end| (&all[..end], Some(&all[end + 1..])));
            rest = more.filter(|more| !more.is_empty());
            Some(message)
        })
    }

    /// What a message is, by how it begins.
    pub(crate) fn message(self, text: &[u8]) -> Message {
        let begins = |start: &str| text.starts_with(start.as_bytes());
        match self {
            Self::Plain => Message::Delivery,
            Self::Roomcast if begins(r#"{"push":"event""#) => Message::Delivery,
            Self::Roomcast
                if begins(r#"{"error""#)
                    || begins(r#"{"push":"reset""#)
                    || begins(r#"{"push":"kicked""#)
                    || begins(r#"{"push":"goaway""#) =>
            {
                Message::Failure
            }
            Self::SocketIo if begins("42[") => Message::Delivery,
            Self::SocketIo if text == b"2" => Message::Ping("3"),
            Self::SocketIo if begins("41") || begins("44") => Message::Failure,
            Self::Centrifugo if begins(r#"{"push":{"channel""#) => Message::Delivery,
            Self::Centrifugo if text == b"{}" => Message::Ping("{}"),
            Self::Centrifugo if begins(r#"{"id":9,"error""#) => Message::Failure,
            Self::Roomcast | Self::SocketIo | Self::Centrifugo => Message::Other,
        }
    }

    /// Publishes for the HTTP API that takes many at once, where there is one.
    pub(crate) fn batch(self, events: &[(usize, &str)], key: &str) -> Option<Vec<u8>> {
        let (path, header, body) = match self {
            Self::Plain | Self::SocketIo => return None,
            Self::Roomcast => {
                let items: Vec<String> = events
                    .iter()
                    .map(|(room, data)| {
                        format!(r#"{{"room":"{}","event":"e","data":{data}}}"#, room_name(*room))
                    })
                    .collect();
                ("/api/v1/batch", format!("Authorization: Bearer {key}"), format!("[{}]", items.join(",")))
            }
            Self::Centrifugo => {
                let commands: Vec<String> = events
                    .iter()
                    .map(|(room, data)| {
                        format!(r#"{{"publish":{{"channel":"bench:{room}","data":{data}}}}}"#)
                    })
                    .collect();
                let body = format!(r#"{{"commands":[{}],"parallel":true}}"#, commands.join(","));
                ("/api/batch", format!("X-API-Key: {key}"), body)
            }
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        Some([head.into_bytes(), body.into_bytes()].concat())
    }
}

/// The mark before a stamp in an event's data.
const MARK: u8 = b'@';
/// Hexadecimal digits of a stamp.
const DIGITS: usize = 16;

/// `bytes` of data (a JSON string, its quotes counted) that carries a stamp.
pub(crate) fn data(bytes: usize, stamp: u64) -> String {
    let padding = bytes.saturating_sub(DIGITS + 3);
    format!(r#""@{stamp:016x}{}""#, "x".repeat(padding))
}

/// The stamp in a message.
pub(crate) fn stamp(message: &[u8]) -> Option<u64> {
    let digits = message.get(memchr::memchr(MARK, message)? + 1..)?.get(..DIGITS)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The bytes that roomcast would send for this event: what the bare loop writes, so that it moves as much.
pub(crate) fn ready_made(room: usize, data: &str) -> String {
    let name = room_name(room);
    format!(
        r#"{{"push":"event","room":"{name}","event":"e","data":{data},"offset":123456,"at":1767225600000}}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Wire; 4] = [Wire::Plain, Wire::Roomcast, Wire::SocketIo, Wire::Centrifugo];

    #[test]
    fn data_has_the_wanted_size_and_its_stamp_is_found_in_what_arrives() {
        for bytes in [64, 200, 2048] {
            let data = data(bytes, 0xdead_beef);
            assert_eq!(data.len(), bytes);
            assert!(serde_json::from_str::<String>(&data).is_ok());
            assert_eq!(stamp(ready_made(3, &data).as_bytes()), Some(0xdead_beef));
        }
        assert_eq!(stamp(br#"{"push":"presence"}"#), None);
        assert_eq!(stamp(b"@12"), None);
    }

    #[test]
    fn each_protocol_knows_its_deliveries_from_everything_else() {
        let cases: [(Wire, &str, Message); 15] = [
            (Wire::Plain, "anything", Message::Delivery),
            (Wire::Roomcast, r#"{"push":"event","room":"event:a"}"#, Message::Delivery),
            (Wire::Roomcast, r#"{"push":"presence","room":"event:a"}"#, Message::Other),
            (Wire::Roomcast, r#"{"push":"reset","room":"event:a"}"#, Message::Failure),
            (Wire::Roomcast, r#"{"error":{"code":"forbidden"}}"#, Message::Failure),
            (Wire::Roomcast, r#"{"id":2,"ok":{}}"#, Message::Other),
            (Wire::SocketIo, r#"42["e","x"]"#, Message::Delivery),
            (Wire::SocketIo, "2", Message::Ping("3")),
            (Wire::SocketIo, r#"430["ok"]"#, Message::Other),
            (Wire::SocketIo, "41", Message::Failure),
            (Wire::SocketIo, r#"0{"sid":"x"}"#, Message::Other),
            (Wire::Centrifugo, r#"{"push":{"channel":"bench:0","pub":{}}}"#, Message::Delivery),
            (Wire::Centrifugo, "{}", Message::Ping("{}")),
            (Wire::Centrifugo, r#"{"id":9,"publish":{}}"#, Message::Other),
            (Wire::Centrifugo, r#"{"id":9,"error":{"code":103}}"#, Message::Failure),
        ];
        for (wire, text, message) in cases {
            assert_eq!(wire.message(text.as_bytes()), message, "{wire:?} {text}");
        }
        assert_eq!(Wire::Roomcast.message(ready_made(0, "1").as_bytes()), Message::Delivery);
    }

    #[test]
    fn only_centrifugo_puts_several_messages_into_one_frame() {
        let frame = b"{}\n{\"push\":{}}\n";
        for wire in ALL {
            let messages: Vec<&[u8]> = wire.split(frame).collect();
            match wire {
                Wire::Centrifugo => assert_eq!(messages, [&b"{}"[..], b"{\"push\":{}}"]),
                _ => assert_eq!(messages, [&frame[..]]),
            }
        }
    }

    #[test]
    fn members_say_which_room_they_want_and_visitors_do_not() {
        for wire in ALL {
            let visitor = wire.greetings(Role::Visitor);
            let member = wire.greetings(Role::Member(7));
            let joins = member.iter().any(|greeting| {
                greeting
                    .say
                    .as_deref()
                    .is_some_and(|text| text.contains("bench-7") || text.contains("bench:7"))
            });
            assert_eq!(joins, wire != Wire::Plain, "{wire:?}");
            assert_eq!(member.len(), visitor.len() + usize::from(wire != Wire::Plain));
            assert_ne!(
                (wire.upgrade(Role::Member(7)), member),
                (wire.upgrade(Role::Visitor), visitor),
                "{wire:?}"
            );
        }
    }

    #[test]
    fn what_is_published_is_what_each_server_reads() {
        use roomcast_protocol::{Codec, Op};
        let data = data(64, 1);
        let text = String::from_utf8(Wire::Roomcast.publish(4, &data)).unwrap();
        let frame = Codec::json().decode(roomcast_protocol::Message::Text(&text)).unwrap();
        let Op::Publish(publish) = frame.op else { panic!("{text}") };
        assert_eq!(publish.room.as_str(), "event:bench-4");
        assert_eq!(Wire::Plain.publish(4, "\"x\""), b"4\n\"x\"");
        assert_eq!(Wire::SocketIo.publish(4, "\"x\""), br#"42["publish","bench-4","x"]"#);
        let centrifugo = Wire::Centrifugo.publish(4, &data);
        let value: serde_json::Value = serde_json::from_slice(&centrifugo).unwrap();
        assert_eq!(value["publish"]["channel"], "bench:4");
    }

    #[test]
    fn notes_have_the_wanted_size_and_roomcast_reads_them() {
        use roomcast_protocol::{Codec, Op};
        for wire in [Wire::Plain, Wire::Roomcast, Wire::SocketIo] {
            assert_eq!(wire.note(2048).len(), 2048, "{wire:?}");
        }
        for (text, id) in [(Wire::Roomcast.note(200), None), (Wire::Roomcast.question(9), Some(9))] {
            let frame = Codec::json().decode(roomcast_protocol::Message::Text(&text)).unwrap();
            assert!(matches!(frame.op, Op::Ping(_)));
            assert_eq!(frame.id, id);
        }
    }

    #[test]
    fn batches_are_whole_requests_with_every_event_in_order() {
        for (wire, list) in [(Wire::Roomcast, "/0/data"), (Wire::Centrifugo, "/commands/0/publish/data")] {
            let request =
                String::from_utf8(wire.batch(&[(0, "\"a\""), (1, "\"b\"")], "key").unwrap()).unwrap();
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())));
            let value: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(value.pointer(list).unwrap(), "a");
        }
        assert_eq!(Wire::SocketIo.batch(&[(0, "1")], "key"), None);
    }
}
