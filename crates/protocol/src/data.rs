//! `data`: what a user sends, opaque to the hub.
//!
//! It is kept as the JSON text in which it came, so that JSON passes through without being parsed again. One
//! scan makes sure that every codec can carry it: bounded depth, no lone surrogates, only finite numbers. What
//! MessagePack has and JSON has not (bytes, extension types, NaN, keys that are not strings) is refused.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use crate::scan::plain;

/// How deep `data` may nest.
pub const MAX_DEPTH: usize = 64;

/// Why a value can't be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// Not JSON at all.
    #[error("not valid JSON")]
    Syntax,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than 64 levels")]
    Depth,
    /// A `\uD800`-style escape without its partner: no UTF-8 text can hold it.
    #[error("a string holds half a surrogate pair")]
    Surrogate,
    /// A number beyond what a 64-bit float can hold.
    #[error("a number is out of range")]
    Number,
}

/// One JSON value, as text that every codec can carry.
#[derive(Clone)]
pub struct Data(Box<RawValue>);

impl Data {
    /// The value `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// Checks and keeps a JSON text.
    pub fn parse(json: &str) -> Result<Self, DataError> {
        let raw = serde_json::from_str::<&RawValue>(json).map_err(|_| DataError::Syntax)?;
        Self::from_raw(raw.to_owned())
    }

    /// The JSON of any value that can be serialized.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, DataError> {
        Self::from_raw(serde_json::value::to_raw_value(value).map_err(|_| DataError::Syntax)?)
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Reads the value into a Rust type.
    pub fn to<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }

    fn from_raw(raw: Box<RawValue>) -> Result<Self, DataError> {
        check(raw.get(), MAX_DEPTH)?;
        Ok(Self(raw))
    }

    /// Reads a value that holds `data` further in, as an answer's `ok` does, and so nests deeper.
    pub(crate) fn deserialize_around<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Self>, D::Error> {
        deserialize(deserializer, MAX_DEPTH + 8).map(Some)
    }

    /// Reads a value that is there, so that `null` is told from nothing at all.
    pub(crate) fn deserialize_some<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Self>, D::Error> {
        deserialize(deserializer, MAX_DEPTH).map(Some)
    }
}

fn deserialize<'de, D: Deserializer<'de>>(deserializer: D, max_depth: usize) -> Result<Data, D::Error> {
    if deserializer.is_human_readable() {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        check(raw.get(), max_depth).map_err(de::Error::custom)?;
        return Ok(Data(raw));
    }
    let mut json = String::new();
    let writer = JsonWriter { json: &mut json, depth_left: max_depth };
    de::DeserializeSeed::deserialize(writer, deserializer)?;
    RawValue::from_string(json).map(Data).map_err(de::Error::custom)
}

/// Walks over a syntactically valid JSON text once.
fn check(json: &str, max_depth: usize) -> Result<(), DataError> {
    let bytes = json.as_bytes();
    let mut depth = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at = match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > max_depth {
                    return Err(DataError::Depth);
                }
                at + 1
            }
            b'}' | b']' => {
                depth -= 1;
                at + 1
            }
            b'"' => check_string(bytes, at + 1)?,
            b'-' | b'0'..=b'9' => check_number(json, at)?,
            _ => at + 1,
        };
    }
    Ok(())
}

/// Returns the place after the closing quote.
fn check_string(bytes: &[u8], mut at: usize) -> Result<usize, DataError> {
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') if bytes.get(at + 1) == Some(&b'u') => match escaped_unit(bytes, at) {
                Some(0xD800..=0xDBFF) => {
                    if !matches!(escaped_unit(bytes, at + 6), Some(0xDC00..=0xDFFF)) {
                        return Err(DataError::Surrogate);
                    }
                    at += 12;
                }
                Some(0xDC00..=0xDFFF) | None => return Err(DataError::Surrogate),
                Some(_) => at += 6,
            },
            Some(b'\\') => at += 2,
            // Never nothing, whatever stands there.
            Some(_) => at += plain(&bytes[at..]).max(1),
            None => return Err(DataError::Syntax),
        }
    }
}

fn escaped_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let escape = bytes.get(at..at + 6)?;
    let digits = escape.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Returns the place after the number. Short numbers without exponent are always finite.
fn check_number(json: &str, start: usize) -> Result<usize, DataError> {
    let text = &json[start..];
    let len =
        text.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(text.len());
    let number = &text[..len];
    let risky = len > 17 || number.contains(['e', 'E']);
    if risky && !number.parse::<f64>().is_ok_and(f64::is_finite) {
        return Err(DataError::Number);
    }
    Ok(start + len)
}

impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Data {}

impl fmt::Debug for Data {
    /// Shows the size only: what users send does not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} bytes)", self.as_str().len())
    }
}

impl Serialize for Data {
    /// Verbatim in JSON; translated, token by token, in a binary format.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            self.0.serialize(serializer)
        } else {
            serde_transcode::transcode(&mut serde_json::Deserializer::from_str(self.as_str()), serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer, MAX_DEPTH)
    }
}

/// Writes whatever a self-describing format holds as JSON text.
struct JsonWriter<'a> {
    json: &'a mut String,
    depth_left: usize,
}

impl JsonWriter<'_> {
    fn push(self, token: impl fmt::Display) {
        let _infallible = write!(self.json, "{token}");
    }

    fn push_string<E: de::Error>(json: &mut String, text: &str) -> Result<(), E> {
        json.push_str(&serde_json::to_string(text).map_err(E::custom)?);
        Ok(())
    }

    fn deeper<E: de::Error>(&mut self) -> Result<JsonWriter<'_>, E> {
        let depth_left = self.depth_left.checked_sub(1).ok_or_else(|| E::custom(DataError::Depth))?;
        Ok(JsonWriter { json: self.json, depth_left })
    }
}

impl<'de> de::DeserializeSeed<'de> for JsonWriter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for JsonWriter<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.push("null");
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.push(value);
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.push(value);
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.push(value);
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        let number = serde_json::Number::from_f64(value).ok_or_else(|| E::custom(DataError::Number))?;
        self.push(number);
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        Self::push_string(self.json, text)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let mut separator = "";
        self.json.push('[');
        loop {
            let rollback = self.json.len();
            self.json.push_str(separator);
            if items.next_element_seed(self.deeper()?)?.is_none() {
                self.json.truncate(rollback);
                break;
            }
            separator = ",";
        }
        self.json.push(']');
        Ok(())
    }

    fn visit_map<A: de::MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        self.deeper::<A::Error>()?;
        let mut separator = "";
        self.json.push('{');
        while entries.next_key_seed(KeyWriter { json: self.json, separator })?.is_some() {
            entries.next_value_seed(self.deeper()?)?;
            separator = ",";
        }
        self.json.push('}');
        Ok(())
    }
}

/// Writes a key and its colon: strings only, where serde's own reader would take bytes as well.
struct KeyWriter<'a> {
    json: &'a mut String,
    separator: &'static str,
}

impl<'de> de::DeserializeSeed<'de> for KeyWriter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl de::Visitor<'_> for KeyWriter<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string as key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<(), E> {
        self.json.push_str(self.separator);
        JsonWriter::push_string(self.json, key)?;
        self.json.push(':');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_kept_to_the_letter() {
        let text = r#"{ "b":1.50, "a" : [null,true,"\u00e4"] }"#;
        assert_eq!(Data::parse(text).unwrap().as_str(), text);
    }

    #[test]
    fn what_another_codec_could_not_carry_is_refused() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Data::parse(&deep(MAX_DEPTH)).is_ok());
        assert_eq!(Data::parse(&deep(MAX_DEPTH + 1)), Err(DataError::Depth));
        assert_eq!(Data::parse(r#""\ud800""#), Err(DataError::Surrogate));
        assert_eq!(Data::parse(r#""\ud800\u0041""#), Err(DataError::Surrogate));
        assert_eq!(Data::parse(r#""\udc00""#), Err(DataError::Surrogate));
        assert!(Data::parse(r#""\ud83d\ude00""#).is_ok());
        assert!(Data::parse(r#""\\ud800""#).is_ok());
        assert_eq!(Data::parse("1e999"), Err(DataError::Number));
        assert!(Data::parse("[12345678901234567890123,-1.5e3]").is_ok());
        assert_eq!(Data::parse("{"), Err(DataError::Syntax));
    }

    #[test]
    fn messagepack_becomes_json_and_back() {
        let text = r#"{"a":[1,-2,3.5,"ä\n",null,true],"b":{}}"#;
        let packed = rmp_serde::to_vec_named(&Data::parse(text).unwrap()).unwrap();
        let back: Data = rmp_serde::from_slice(&packed).unwrap();
        assert_eq!(back.as_str(), text);
    }

    #[test]
    fn messagepack_that_json_lacks_is_refused() {
        for bad in [
            &[0xc4, 1, 0][..],                          // bytes
            &[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],      // NaN
            &[0x81, 1, 2],                              // an integer as key
            &[0x81, 0xc4, 1, b'a', 2],                  // bytes as key
            &[[0x91; 64].as_slice(), &[0x80]].concat(), // an empty map, one level too deep
            &[0xd4, 1, 2],                              // extension type
            &[0x91; 70],                                // deeper than allowed
        ] {
            assert!(rmp_serde::from_slice::<Data>(bad).is_err(), "{bad:x?}");
        }
    }

    #[test]
    fn debug_does_not_show_what_users_wrote() {
        assert_eq!(format!("{:?}", Data::parse(r#""secret""#).unwrap()), "Data(8 bytes)");
    }
}
