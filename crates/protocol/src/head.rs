//! The first look at a client's frame: its `id`, `op` and `room`, whatever they hold, and the assurance that
//! all the rest is something that JSON has too. It judges nothing else.
//!
//! serde's derived readers would take numbers for field names, arrays for objects and bytes for strings; the
//! protocol has one form for each, so that every codec, and every other server, agrees on what a frame says.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use crate::MAX_SAFE_INTEGER;

#[derive(Default)]
pub(crate) struct Head {
    pub(crate) id: Scalar,
    pub(crate) op: Scalar,
    pub(crate) room: Scalar,
}

impl Head {
    /// The id, where it is one.
    pub(crate) fn id(&self) -> Option<u64> {
        match self.id {
            Scalar::Integer(id @ 1..=MAX_SAFE_INTEGER) => Some(id),
            _ => None,
        }
    }
}

/// A field that is read whatever it holds, and judged afterwards.
#[derive(Default)]
pub(crate) enum Scalar {
    #[default]
    Absent,
    Integer(u64),
    Text(String),
    Other,
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let strict = !deserializer.is_human_readable();
        deserializer.deserialize_map(HeadVisitor { strict })
    }
}

struct HeadVisitor {
    strict: bool,
}

impl<'de> de::Visitor<'de> for HeadVisitor {
    type Value = Head;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
        let mut head = Head::default();
        while let Some(key) = map.next_key::<HeadKey>()? {
            let (field, name) = match key {
                HeadKey::Id => (&mut head.id, "id"),
                HeadKey::Op => (&mut head.op, "op"),
                HeadKey::Room => (&mut head.room, "room"),
                HeadKey::Other if self.strict => {
                    map.next_value::<Plain>()?;
                    continue;
                }
                HeadKey::Other => {
                    map.next_value::<de::IgnoredAny>()?;
                    continue;
                }
            };
            if !matches!(field, Scalar::Absent) {
                return Err(de::Error::duplicate_field(name));
            }
            *field = map.next_value_seed(ScalarSeed { strict: self.strict })?;
        }
        Ok(head)
    }
}

enum HeadKey {
    Id,
    Op,
    Room,
    Other,
}

impl<'de> Deserialize<'de> for HeadKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeadKeyVisitor)
    }
}

struct HeadKeyVisitor;

impl de::Visitor<'_> for HeadKeyVisitor {
    type Value = HeadKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string as key")
    }

    fn visit_str<E>(self, key: &str) -> Result<HeadKey, E> {
        Ok(match key {
            "id" => HeadKey::Id,
            "op" => HeadKey::Op,
            "room" => HeadKey::Room,
            _ => HeadKey::Other,
        })
    }
}

struct ScalarSeed {
    strict: bool,
}

impl<'de> de::DeserializeSeed<'de> for ScalarSeed {
    type Value = Scalar;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for ScalarSeed {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(u64::try_from(value).map_or(Scalar::Other, Scalar::Integer))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Scalar, A::Error> {
        if self.strict {
            PlainVisitor.visit_seq(seq)?;
        } else {
            de::IgnoredAny.visit_seq(seq)?;
        }
        Ok(Scalar::Other)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Scalar, A::Error> {
        if self.strict {
            PlainVisitor.visit_map(map)?;
        } else {
            de::IgnoredAny.visit_map(map)?;
        }
        Ok(Scalar::Other)
    }
}

/// Any value that JSON can hold, skipped: no bytes, no extension types, no NaN, only strings as keys.
struct Plain;

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor)
    }
}

struct PlainVisitor;

impl<'de> de::Visitor<'de> for PlainVisitor {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    fn visit_u64<E>(self, _: u64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Plain, E> {
        if value.is_finite() { Ok(Plain) } else { Err(E::custom("a number is out of range")) }
    }

    fn visit_str<E>(self, _: &str) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_unit<E>(self) -> Result<Plain, E> {
        Ok(Plain)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Plain, A::Error> {
        while seq.next_element::<Plain>()?.is_some() {}
        Ok(Plain)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Plain, A::Error> {
        while map.next_entry::<Text, Plain>()?.is_some() {}
        Ok(Plain)
    }
}

/// A key that is a string, and nothing that could be taken for one.
struct Text;

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeadKeyVisitor).map(|_| Text)
    }
}
