//! A frame's JSON object taken apart in one pass, and read as the operation that it turns out to be.
//!
//! This is the short way of frames as clients write them. It reads nothing that the long way would refuse and nothing
//! otherwise than the long way would, and where it is not sure it says nothing at all: so every refusal, with its
//! sentence, comes from the long way.

use std::slice;

use serde::{
    Deserializer,
    de::{self, value::BorrowedStrDeserializer},
    forward_to_deserialize_any,
};
use serde_json::{Deserializer as Json, Error};

use crate::{
    Op, OpKind,
    scan::{self, blank, expect},
};

/// Members of a frame: no operation has as many. What has more is read the long way.
const MOST: usize = 8;
/// A number of so many digits surely fits.
const DIGITS: usize = 16;

/// A key and its value, as they stand in the text.
#[derive(Debug, Clone, Copy, Default)]
struct Member<'a> {
    key: &'a str,
    value: &'a str,
}

/// The members of an object, in order.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    members: [Member<'a>; MOST],
    count: usize,
    /// What stands under these keys, where something does.
    pub(crate) id: Option<u64>,
    pub(crate) op: Option<&'a str>,
}

impl<'a> Object<'a> {
    /// Takes it apart. None: read it the long way.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        let mut object = Self { members: [Member::default(); MOST], count: 0, id: None, op: None };
        let mut at = blank(bytes, expect(bytes, blank(bytes, 0), b'{')?);
        let mut room = false;
        while bytes.get(at)? != &b'}' {
            let (end, literal) = scan::string(bytes, at)?;
            let key = literal.then(|| text.get(at + 1..end - 1)).flatten()?;
            at = blank(bytes, expect(bytes, blank(bytes, end), b':')?);
            let end = scan::value(bytes, at)?;
            let member = Member { key, value: text.get(at..end)? };
            // The same key a second time, and what is no plain number or text there, is for the long way to judge.
            match key {
                "id" if object.id.is_none() => object.id = Some(member.number()?),
                "op" if object.op.is_none() => object.op = Some(member.text()?),
                "room" if !room && member.text().is_some() => room = true,
                "id" | "op" | "room" => return None,
                _ => {}
            }
            *object.members.get_mut(object.count)? = member;
            object.count += 1;
            at = blank(bytes, end);
            if let Some(next) = expect(bytes, at, b',') {
                at = blank(bytes, next);
                // Behind a comma comes another member.
                expect(bytes, at, b'"')?;
            } else {
                expect(bytes, at, b'}')?;
            }
        }
        (blank(bytes, at + 1) == bytes.len()).then_some(object)
    }

    /// Reads the fields of an operation. None: read it the long way.
    pub(crate) fn read(&self, kind: OpKind) -> Option<Op> {
        let fields = Fields { left: self.members[..self.count].iter(), value: "" };
        kind.deserialize_body(de::value::MapAccessDeserializer::new(fields)).ok()
    }
}

impl<'a> Member<'a> {
    fn number(&self) -> Option<u64> {
        let plain = self.value.len() <= DIGITS && self.value.bytes().all(|byte| byte.is_ascii_digit());
        if plain { self.value.parse().ok() } else { None }
    }

    fn text(&self) -> Option<&'a str> {
        text(self.value)
    }
}

/// A string's text, where it stands there as it is.
fn text(value: &str) -> Option<&str> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    (scan::plain(inner.as_bytes()) == inner.len()).then_some(inner)
}

/// The members, one after the other, for serde.
struct Fields<'m, 'a> {
    left: slice::Iter<'m, Member<'a>>,
    value: &'a str,
}

impl<'a> de::MapAccess<'a> for Fields<'_, 'a> {
    type Error = Error;

    fn next_key_seed<K: de::DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(member) = self.left.next() else { return Ok(None) };
        self.value = member.value;
        seed.deserialize(BorrowedStrDeserializer::new(member.key)).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Value(self.value))
    }
}

/// One value. What nobody asks for is not read a second time; all else is as `serde_json` reads it.
struct Value<'a>(&'a str);

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Error;

    fn deserialize_any<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match text(self.0) {
            Some(text) => visitor.visit_borrowed_str(text),
            None => Json::from_str(self.0).deserialize_any(visitor),
        }
    }

    fn deserialize_ignored_any<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0 == "null" { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    /// Among these is [`Data`](crate::Data), which `serde_json` takes as it stands.
    fn deserialize_newtype_struct<V: de::Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        Json::from_str(self.0).deserialize_newtype_struct(name, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map struct enum identifier
    }
}
