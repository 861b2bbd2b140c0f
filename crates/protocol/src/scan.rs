//! Walks over JSON text without reading it: where a string and a value end. Strings are searched by whole vector
//! registers, which makes their length cheap.
//!
//! It says where what it is sure of ends, and nothing about the rest: why a text is no JSON is for `serde_json` to say.

use memchr::memchr2;

/// So many bytes are looked at one by one before that: most strings are short.
const SHORT: usize = 16;
/// As deep as a bit each goes; what nests deeper is for others to read.
const DEPTH: u32 = u64::BITS;

/// How many bytes from here on stand for themselves within a string: up to a quote, a backslash or a control character.
pub(crate) fn plain(bytes: &[u8]) -> usize {
    let (short, long) = bytes.split_at(bytes.len().min(SHORT));
    if let Some(at) = short.iter().position(|byte| is_control(*byte) || matches!(byte, b'"' | b'\\')) {
        return at;
    }
    let run = &long[..memchr2(b'"', b'\\', long).unwrap_or(long.len())];
    // One comparison of the smallest, as all of them together cost no more than one by one.
    let smallest = run.iter().fold(u8::MAX, |smallest, byte| smallest.min(*byte));
    let end = if is_control(smallest) { run.iter().position(|byte| is_control(*byte)) } else { None };
    short.len() + end.unwrap_or(run.len())
}

fn is_control(byte: u8) -> bool {
    byte < b' '
}

/// The place behind the string that begins at `at`, and whether it says what it says without escapes.
pub(crate) fn string(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let (mut at, mut literal) = (expect(bytes, at, b'"')?, true);
    loop {
        at += plain(bytes.get(at..)?);
        match bytes.get(at)? {
            b'"' => return Some((at + 1, literal)),
            b'\\' => (at, literal) = (escape(bytes, at + 1)?, false),
            _ => return None,
        }
    }
}

fn escape(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
        b'u' if bytes.get(at + 1..at + 5)?.iter().all(u8::is_ascii_hexdigit) => Some(at + 5),
        _ => None,
    }
}

/// The place behind the value that begins at `at`.
pub(crate) fn value(bytes: &[u8], mut at: usize) -> Option<usize> {
    // What is open, the innermost in the lowest bit: an object or an array.
    let (mut objects, mut depth) = (0_u64, 0);
    loop {
        at = match bytes.get(at)? {
            open @ (b'{' | b'[') if depth < DEPTH => {
                (objects, depth) = (objects << 1 | u64::from(*open == b'{'), depth + 1);
                let inner = blank(bytes, at + 1);
                let close = bytes.get(inner)?;
                if !closes(*close, objects) {
                    at = if objects & 1 == 1 { key(bytes, inner)? } else { inner };
                    continue;
                }
                inner
            }
            b'"' => string(bytes, at)?.0,
            b'-' | b'0'..=b'9' => number(bytes, at)?,
            b't' => word(bytes, at, b"true")?,
            b'f' => word(bytes, at, b"false")?,
            b'n' => word(bytes, at, b"null")?,
            _ => return None,
        };
        // A value ends here, and perhaps others with it.
        loop {
            if depth == 0 {
                return Some(at);
            }
            at = blank(bytes, at);
            match bytes.get(at)? {
                b',' => break,
                close if closes(*close, objects) => (at, objects, depth) = (at + 1, objects >> 1, depth - 1),
                _ => return None,
            }
        }
        at = blank(bytes, at + 1);
        if objects & 1 == 1 {
            at = key(bytes, at)?;
        }
    }
}

fn closes(byte: u8, objects: u64) -> bool {
    byte == if objects & 1 == 1 { b'}' } else { b']' }
}

/// From a key to its value.
fn key(bytes: &[u8], at: usize) -> Option<usize> {
    let (end, _) = string(bytes, at)?;
    Some(blank(bytes, expect(bytes, blank(bytes, end), b':')?))
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let at = expect(bytes, at, b'-').unwrap_or(at);
    let mut end = match bytes.get(at)? {
        b'0' => at + 1,
        _ => digits(bytes, at)?,
    };
    if let Some(fraction) = expect(bytes, end, b'.') {
        end = digits(bytes, fraction)?;
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        end = digits(bytes, end + 1 + sign)?;
    }
    Some(end)
}

/// The place behind at least one digit.
fn digits(bytes: &[u8], at: usize) -> Option<usize> {
    let count = bytes.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count > 0).then_some(at + count)
}

fn word(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    bytes.get(at..)?.starts_with(word).then_some(at + word.len())
}

/// The place behind this byte, where it stands there.
pub(crate) fn expect(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    (bytes.get(at) == Some(&byte)).then_some(at + 1)
}

/// The place behind any white space.
pub(crate) fn blank(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn a_value_ends_where_another_reader_says_and_is_one_if_it_says_so(
            text in prop_oneof![
                "[\\[\\]{}\":,0-9a\\\\ ]{1,12}",
                "-?[0-9.eE+-]{1,8}",
                "\"[ -~\u{0}-\u{1f}\u{e4}]{0,80}\"",
                r#""(\\[u"\\/bfnrtx0]|[0-9a-fA-F]|.){0,12}""#,
                r#"\{("a" ?: ?[0-9tfn\[\]\{\}]{1,3} ?,? ?){0,3}\}"#,
                "(true|false|null|tru|nul|\\[|\\]|,| ){1,6}",
            ],
            behind in "[ ,}\\]]{0,2}",
        ) {
            let text = text.trim_matches([' ', '\t', '\r', '\n']);
            let theirs = serde_json::from_str::<&RawValue>(text);
            let ours = value(text.as_bytes(), 0);
            if theirs.is_ok() {
                prop_assert_eq!(ours, Some(text.len()));
                prop_assert_eq!(value(format!("{text}{behind}").as_bytes(), 0), Some(text.len()));
            } else {
                prop_assert_ne!(ours, Some(text.len()));
            }
        }

        #[test]
        fn plain_bytes_end_at_the_first_that_is_not(
            run in 0..100_usize,
            end in prop::sample::select(&[b'"', b'\\', 0, 0x1f, b'\n'][..]),
            more in prop::collection::vec(any::<u8>(), 0..50),
            at in any::<prop::sample::Index>(),
        ) {
            let mut bytes = vec![0xE4; run];
            prop_assert_eq!(plain(&bytes), run);
            bytes.push(end);
            bytes.extend(more);
            prop_assert_eq!(plain(&bytes), run);
            // The first counts, whichever it is.
            let earlier = at.index(run + 1);
            bytes[earlier] = b'\t';
            prop_assert_eq!(plain(&bytes), earlier);
        }
    }

    #[test]
    fn what_nests_deeper_than_there_are_bits_is_left_to_others() {
        for (open, close) in [("[", "]"), (r#"{"a":["#, "]}")] {
            let levels = 64 / open.matches(['[', '{']).count();
            let nested = |n: usize| open.repeat(n) + &close.repeat(n);
            let text = nested(levels);
            assert_eq!(value(text.as_bytes(), 0), Some(text.len()));
            assert_eq!(value(nested(levels + 1).as_bytes(), 0), None);
        }
    }
}
