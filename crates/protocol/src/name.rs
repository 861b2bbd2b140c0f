//! Room names and namespaces: the grammar, checked once at the edge.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, de};

const MAX_NAMESPACE: usize = 32;
const MAX_NAME: usize = 128;

/// Why a room name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The part before the colon does not match the grammar.
    #[error("a namespace is a lower-case letter, then up to 31 of a-z, 0-9, _ and -")]
    Namespace,
    /// The part after the colon does not match the grammar.
    #[error("a room's name after the colon is 1 to 128 of A-Z, a-z, 0-9, ., _, ~ and -")]
    Name,
}

/// A valid namespace: `[a-z][a-z0-9_-]{0,31}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// Checks and keeps a namespace.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if is_namespace(text) { Ok(Self(text.into())) } else { Err(NameError::Namespace) }
    }

    /// The namespace as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Namespace {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A valid room name: `namespace` or `namespace:name`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomName(Arc<str>);

impl RoomName {
    /// Checks and keeps a room name.
    ///
    /// ```
    /// # use roomcast_protocol::RoomName;
    /// assert_eq!(RoomName::parse("event:wall").unwrap().namespace(), "event");
    /// assert!(RoomName::parse("Event:wall").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = match text.split_once(':') {
            Some((namespace, name)) => (namespace, Some(name)),
            None => (text, None),
        };
        if !is_namespace(namespace) {
            return Err(NameError::Namespace);
        }
        if !name.is_none_or(is_name) {
            return Err(NameError::Name);
        }
        Ok(Self(text.into()))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the colon.
    pub fn namespace(&self) -> &str {
        self.0.split_once(':').map_or(&*self.0, |(namespace, _)| namespace)
    }

    /// The part after the colon, if there is one.
    pub fn name(&self) -> Option<&str> {
        self.0.split_once(':').map(|(_, name)| name)
    }
}

fn is_namespace(text: &str) -> bool {
    text.len() <= MAX_NAMESPACE
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-'))
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for RoomName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for RoomName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RoomName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_of_the_contract_is_accepted() {
        for good in ["admin", "event:wall", "user:a.b_c~d-E9", "a", "x-y_9:1"] {
            assert!(RoomName::parse(good).is_ok(), "{good}");
        }
        assert!(RoomName::parse(&format!("{}:{}", "a".repeat(32), "b".repeat(128))).is_ok());
    }

    #[test]
    fn everything_else_is_refused_with_the_part_at_fault() {
        for bad in ["", ":", ":x", "9a", "Event:x", "-a", &"a".repeat(33)] {
            assert_eq!(RoomName::parse(bad), Err(NameError::Namespace), "{bad}");
        }
        for bad in ["a:", "a:b:c", "a:ä", "a:b c", "a:{x}", &format!("a:{}", "b".repeat(129))] {
            assert_eq!(RoomName::parse(bad), Err(NameError::Name), "{bad}");
        }
    }
}
