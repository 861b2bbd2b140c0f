//! The short way against the long way: it may decline, but never say anything else.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// What the long way says alone, and the `id` that it remembers then.
fn long(last_id: u64, text: &str) -> (Result<ClientFrame, DecodeError>, Decoder) {
    let mut decoder = Decoder { last_id };
    (decoder.long_way(text), decoder)
}

fn both(last_id: u64, text: &str) -> (Result<ClientFrame, DecodeError>, Decoder) {
    let mut decoder = Decoder { last_id };
    (decoder.json(text), decoder)
}

/// Names of fields that operations know, and of some that none does.
const NAMES: &[&str] = &[
    "id", "op", "room", "event", "data", "key", "token", "target", "on", "since", "recent", "before",
    "limit", "by", "counter", "value", "version", "doc", "share", "pad", "",
];

/// Keys: those names, other spellings of them, and what is no key.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => select(NAMES).prop_map(|name| format!("\"{name}\"")),
        1 => select(&[r#""\u0069d""#, r#""o\u0070""#, r#""\ud800""#, r#""dat\u0061""#, "1", "null"][..])
            .prop_map(str::to_owned),
        1 => any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
    ]
}

fn value() -> impl Strategy<Value = String> {
    let few = [
        r#""ping""#,
        r#""publish""#,
        r#""join""#,
        r#""like""#,
        r#""history""#,
        r#""stats""#,
        r#""pi\u006eg""#,
        r#""dance""#,
        r#""event:wall""#,
        r#""Event""#,
        r#""\ud83d\ude00""#,
        r#""\ud800""#,
        r#""\x""#,
        r#""a\"b\\""#,
        "\"\u{1}\"",
        "\"\u{7f}\u{e4}\"",
        "0",
        "1",
        "7",
        "-1",
        "-0",
        "01",
        "1.5",
        "1e3",
        "1e999",
        "1E+2",
        "1.",
        "-",
        "9007199254740991",
        "9007199254740992",
        "18446744073709551616",
        "true",
        "false",
        "null",
        "nul",
        "NaN",
        "[]",
        "{}",
        "[1,]",
        "{\"a\":}",
        r#"{"epoch":"e","offset":1}"#,
        r#"{"epoch":"e","offset":1,"x":[{}]}"#,
        r#"["e",1]"#,
        "",
    ];
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    let leaf = prop_oneof![
        8 => select(few.map(str::to_owned).to_vec()),
        1 => select(vec![deep(63), deep(64), deep(65), deep(200)]),
        2 => any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
        1 => "[ -~]{0,90}".prop_map(|text| format!("\"{text}\"")),
        1 => any::<f64>().prop_map(|number| number.to_string()),
        1 => any::<i64>().prop_map(|number| number.to_string()),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            (vec(inner.clone(), 0..4), blank())
                .prop_map(|(items, blank)| format!("[{blank}{}{blank}]", items.join(","))),
            (vec((key(), inner), 0..4), blank()).prop_map(|(members, blank)| object(&members, &blank)),
        ]
    })
}

fn blank() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(String::new()), 1 => "[ \t\r\n]{0,2}", 1 => Just("\u{a0}".to_owned())]
}

fn object(members: &[(String, String)], blank: &str) -> String {
    let members: Vec<_> =
        members.iter().map(|(key, value)| format!("{blank}{key}{blank}:{blank}{value}{blank}")).collect();
    format!("{{{}}}", members.join(","))
}

/// Members that make a frame of most objects, in any order and perhaps there twice.
fn members() -> impl Strategy<Value = Vec<(String, String)>> {
    let common = [
        ("op", r#""publish""#),
        ("op", r#""ping""#),
        ("op", r#""join""#),
        ("op", r#""like""#),
        ("id", "7"),
        ("id", "3"),
        ("room", r#""event:wall""#),
        ("event", r#""said""#),
        ("data", r#"{"a":["b",null]}"#),
        ("key", r#""k""#),
        ("target", r#""photo""#),
        ("on", "true"),
        ("since", r#"{"epoch":"e","offset":1}"#),
    ]
    .map(|(key, value)| (format!("\"{key}\""), value.to_owned()));
    let frame = prop_oneof![
        Just(vec![]),
        Just(vec![0, 6, 7, 8]),
        Just(vec![0, 4, 6, 7, 8, 9]),
        Just(vec![4, 1]),
        Just(vec![5, 2, 6, 12]),
        Just(vec![3, 6, 10, 11]),
    ]
    .prop_map({
        let common = common.to_vec();
        move |places: Vec<usize>| places.into_iter().map(|place| common[place].clone()).collect::<Vec<_>>()
    });
    let more = vec(prop_oneof![(key(), value()), select(common.to_vec())], 0..4);
    (frame, more).prop_flat_map(|(frame, more)| Just([frame, more].concat()).prop_shuffle())
}

/// A text after some changes to its characters.
fn broken(text: &str, changes: &[(prop::sample::Index, char, u8)]) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for (at, letter, change) in changes {
        let at = at.index(letters.len().max(1));
        match change {
            0 if at < letters.len() => letters[at] = *letter,
            1 if at < letters.len() => drop(letters.remove(at)),
            2 => letters.truncate(at),
            _ => letters.insert(at, *letter),
        }
    }
    letters.into_iter().collect()
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, char, u8)>> {
    let letter = select("{}[]\",:\\u0e-+.tfn 1\u{1}\u{e4}".chars().collect::<Vec<_>>());
    vec((any::<prop::sample::Index>(), letter, 0..6_u8), 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_object_is_read_or_refused_as_in_two_passes(
        members in members(),
        blank in blank(),
        changes in changes(),
        last_id in 0..9_u64,
    ) {
        let text = broken(&object(&members, &blank), &changes);
        prop_assert_eq!(both(last_id, &text), long(last_id, &text));
        for kind in [OpKind::Publish, OpKind::Ping, OpKind::Join, OpKind::Like, OpKind::History] {
            prop_assert_eq!(Decoder::body(kind, &text), Decoder::long_body(kind, &text));
        }
    }
}

#[test]
fn frames_as_clients_write_them_take_the_short_way() {
    let long = "x".repeat(20_000);
    for text in [
        r#"{"op":"ping"}"#,
        r#"{"id":7,"op":"ping"}"#,
        " {\n  \"op\" : \"ping\" ,\r\t\"id\" : 7\n} ",
        &format!(r#"{{"op":"ping","pad":"{long}"}}"#),
        r#"{"id":7,"op":"connect","token":null}"#,
        r#"{"id":7,"op":"join","room":"event:wall","since":{"epoch":"e","offset":1}}"#,
        r#"{"op":"publish","room":"event:wall","event":"said","data":{"a":["\u00e4\n",-1.5e3]},"key":"k"}"#,
        r#"{"data":"ä","event":"said","room":"event:wall","op":"signal"}"#,
        r#"{"id":7,"op":"comment","room":"event:wall","target":"p","text":"say \"yes\"","key":"k"}"#,
        r#"{"id":7,"op":"count","room":"event:wall","target":"p","counter":"c","by":3,"key":"k"}"#,
        r#"{"id":7,"op":"shed","node":"n","share":0.5,"spread_ms":1000}"#,
    ] {
        let short = Decoder { last_id: 6 }.short_way(text).expect(text);
        assert_eq!(Ok(short), Decoder { last_id: 6 }.long_way(text), "{text}");
    }
}

#[test]
fn an_id_of_the_short_way_is_remembered() {
    let mut decoder = Decoder::new();
    assert!(decoder.json(r#"{"id":7,"op":"ping"}"#).is_ok());
    assert_eq!(decoder, Decoder { last_id: 7 });
    assert!(decoder.json(r#"{"op":"ping"}"#).is_ok());
    assert_eq!(decoder, Decoder { last_id: 7 });
    assert!(decoder.json(r#"{"id":7,"op":"ping"}"#).is_err());
}
