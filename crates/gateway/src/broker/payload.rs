//! What stands on a room's channel: a header line, then a JSON body.
//!
//! Reading is strict and bounded, because whoever reaches Redis can publish there: what does not match is refused
//! whole, and nothing in it can panic.

use roomcast_protocol::{
    CounterValue, Data, Epoch, Event, MAX_SAFE_INTEGER, Offset, Position, PresenceCount,
};
use serde::{Deserialize, Serialize};

use super::Delivery;

/// Longer payloads are refused: far above any frame or request body that the node accepts.
pub(crate) const MAX_PAYLOAD: usize = 4 << 20;
/// Longer headers are refused: a letter, an epoch and two numbers of 16 digits.
const MAX_HEADER: usize = 128;

/// The body of an event or signal, and what the log keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Body {
    pub(crate) event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    pub(crate) data: Data,
}

#[derive(Serialize, Deserialize)]
struct Ended {
    reason: String,
}

#[derive(Deserialize)]
struct Count {
    target: String,
    counter: String,
    value: u64,
}

#[derive(Deserialize)]
struct Presence {
    connections: u64,
    users: u64,
}

/// What made a payload unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it is longer than {MAX_PAYLOAD} bytes")]
    Size,
    #[error("its header line is missing or wrong")]
    Header,
    #[error("its body is not the JSON that its header announces")]
    Body,
}

impl Body {
    /// The JSON text.
    pub(crate) fn text(event: &str, data: &Data, from: Option<&str>) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Borrowed<'a> {
            event: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            from: Option<&'a str>,
            data: &'a Data,
        }
        serde_json::to_string(&Borrowed { event, from, data })
    }

    /// Reads the JSON text.
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        if text.len() > MAX_PAYLOAD {
            return Err(Malformed::Size);
        }
        serde_json::from_str(text).map_err(|_| Malformed::Body)
    }

    /// The event that it is in the log.
    pub(crate) fn at(self, offset: Offset, at: u64) -> Event {
        Event { event: self.event, data: self.data, offset, at, from: self.from }
    }
}

/// Reads a payload.
pub(crate) fn parse(payload: &[u8]) -> Result<Delivery, Malformed> {
    if payload.len() > MAX_PAYLOAD {
        return Err(Malformed::Size);
    }
    let text = std::str::from_utf8(payload).map_err(|_| Malformed::Header)?;
    let (header, body) = text.split_once('\n').ok_or(Malformed::Header)?;
    if header.len() > MAX_HEADER {
        return Err(Malformed::Header);
    }
    let mut words = header.split(' ');
    let kind = words.next().ok_or(Malformed::Header)?;
    let delivery = match kind {
        "E" => {
            let (epoch, offset, at) = (epoch(words.next())?, number(words.next())?, number(words.next())?);
            Delivery::Event(epoch, Body::parse(body)?.at(Offset(offset), at))
        }
        "S" => {
            let Body { event, from, data } = Body::parse(body)?;
            Delivery::Signal { event, data, from }
        }
        "C" => {
            let version = number(words.next())?;
            let Count { target, counter, value } = json(body)?;
            Delivery::Count(CounterValue { target, counter, value: safe(value)?, version })
        }
        "P" => {
            let Presence { connections, users } = json(body)?;
            Delivery::Presence(PresenceCount { connections: safe(connections)?, users: safe(users)? })
        }
        "X" => {
            let (epoch, offset) = (epoch(words.next())?, number(words.next())?);
            let Ended { reason } = json(body)?;
            Delivery::Ended(Position { epoch, offset: Offset(offset) }, reason)
        }
        _ => return Err(Malformed::Header),
    };
    if words.next().is_some() {
        return Err(Malformed::Header);
    }
    Ok(delivery)
}

/// The payload of a signal.
pub(crate) fn signal(body: &str) -> String {
    format!("S\n{body}")
}

/// The body of a room's end.
pub(crate) fn ended_body(reason: &str) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Ended { reason: reason.to_owned() })
}

/// An epoch as it was told, if it can be one.
pub(crate) fn epoch(word: Option<&str>) -> Result<Epoch, Malformed> {
    let fits = |word: &&str| {
        (1..=Epoch::MAX_LEN).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    word.filter(fits).map(Epoch::new).ok_or(Malformed::Header)
}

/// A decimal number that JavaScript holds exactly, written the one way there is.
pub(crate) fn number(word: Option<&str>) -> Result<u64, Malformed> {
    let word = word.ok_or(Malformed::Header)?;
    let plain = (1..=16).contains(&word.len())
        && word.bytes().all(|byte| byte.is_ascii_digit())
        && (word == "0" || !word.starts_with('0'));
    if !plain {
        return Err(Malformed::Header);
    }
    safe(word.parse().map_err(|_| Malformed::Header)?)
}

fn safe(number: u64) -> Result<u64, Malformed> {
    if number <= MAX_SAFE_INTEGER { Ok(number) } else { Err(Malformed::Body) }
}

fn json<'a, T: Deserialize<'a>>(body: &'a str) -> Result<T, Malformed> {
    serde_json::from_str(body).map_err(|_| Malformed::Body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_is_read() {
        let event =
            parse(b"E 0123456789abcdef 7 1700000000000\n{\"event\":\"e\",\"from\":\"u\",\"data\":[1]}");
        let Ok(Delivery::Event(epoch, event)) = event else { panic!("{event:?}") };
        assert_eq!(
            (epoch.as_str(), event.offset, event.at),
            ("0123456789abcdef", Offset(7), 1_700_000_000_000)
        );
        assert_eq!((event.from.as_deref(), event.data.as_str()), (Some("u"), "[1]"));
        assert!(matches!(
            parse(b"S\n{\"event\":\"e\",\"data\":null}"),
            Ok(Delivery::Signal { from: None, .. })
        ));
        let count = parse(b"C 9\n{\"target\":\"t\",\"counter\":\"like\",\"value\":3}");
        assert!(matches!(count, Ok(Delivery::Count(CounterValue { value: 3, version: 9, .. }))));
        let presence = parse(b"P\n{\"connections\":2,\"users\":1}");
        assert!(matches!(presence, Ok(Delivery::Presence(PresenceCount { connections: 2, users: 1 }))));
        let ended = parse(b"X abc 0\n{\"reason\":\"over\"}");
        assert!(
            matches!(ended, Ok(Delivery::Ended(Position { offset: Offset(0), .. }, reason)) if reason == "over")
        );
    }

    #[test]
    fn what_is_nearly_right_is_refused() {
        for bad in [
            &b""[..],
            b"\n",
            b"E",
            b"E a 1 2",
            b"E a 1\n{}",
            b"E a 01 2\n{\"event\":\"e\",\"data\":1}",
            b"E a +1 2\n{\"event\":\"e\",\"data\":1}",
            b"E a 1 2 3\n{\"event\":\"e\",\"data\":1}",
            b"E a  1 2\n{\"event\":\"e\",\"data\":1}",
            b"E a 9007199254740992 2\n{\"event\":\"e\",\"data\":1}",
            b"E \xff 1 2\n{\"event\":\"e\",\"data\":1}",
            b"E a-b 1 2\n{\"event\":\"e\",\"data\":1}",
            b"E a 1 2\n{\"event\":\"e\"}",
            b"E a 1 2\n{\"event\":\"e\",\"data\":1}x",
            b"S \n{\"event\":\"e\",\"data\":1}",
            b"Z\n{}",
            b"C -1\n{\"target\":\"t\",\"counter\":\"c\",\"value\":1}",
            b"P\n{\"connections\":-1,\"users\":1}",
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let long = format!("S\n{{\"event\":\"e\",\"data\":\"{}\"}}", "x".repeat(MAX_PAYLOAD));
        assert_eq!(parse(long.as_bytes()).unwrap_err(), Malformed::Size);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _refused_or_not = parse(&bytes);
        }

        #[test]
        fn garbage_behind_a_right_start_never_panics(
            head in "[ESCPX]( [a-f0-9]{0,20}){0,4}\n?",
            tail in "[{}\\[\\]\",:a-z0-9\\\\]{0,60}",
        ) {
            let _refused_or_not = parse(format!("{head}{tail}").as_bytes());
        }

        #[test]
        fn an_event_comes_back_as_it_went(
            name in "[a-z:]{1,20}",
            text in ".{0,40}",
            from in proptest::option::of("[a-zA-Z0-9-]{1,30}"),
            offset in 1..=MAX_SAFE_INTEGER,
            at in 0..=MAX_SAFE_INTEGER,
        ) {
            let data = Data::of(&text).unwrap();
            let body = Body::text(&name, &data, from.as_deref()).unwrap();
            let Ok(Delivery::Event(epoch, event)) = parse(format!("E ab12 {offset} {at}\n{body}").as_bytes()) else {
                panic!("refused");
            };
            prop_assert_eq!(epoch.as_str(), "ab12");
            prop_assert_eq!(event, Event { event: name, data, offset: Offset(offset), at, from });
        }
    }
}
