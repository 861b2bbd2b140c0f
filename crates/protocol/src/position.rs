//! Where a room's event log stands: an epoch, and an offset that rises within it.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The life of one room log. A new epoch means that what came before is gone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// Longer epochs are refused on the wire; roomcast's own are 16 characters.
    pub const MAX_LEN: usize = 64;

    /// Keeps an epoch as it was told.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The epoch as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of an event within its epoch: 1 for the first, 0 for "before the first".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset that the next event must have.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in a room's log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The life of the log.
    pub epoch: Epoch,
    /// The last event seen in it.
    pub offset: Offset,
}
