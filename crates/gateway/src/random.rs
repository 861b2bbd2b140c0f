//! Randomness from the system: ids that can't be guessed, and jitter.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

fn fill(bytes: &mut [u8]) {
    // Without system randomness no id is safe to hand out.
    getrandom::fill(bytes).expect("the system provides randomness");
}

/// 128 bits: an id that can't be guessed, in text as 22 URL-safe characters. Kept as what it is, because every
/// connection has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id([u8; 16]);

impl Id {
    /// A new one.
    pub fn new() -> Self {
        let mut bytes = [0; 16];
        fill(&mut bytes);
        Self(bytes)
    }

    /// The one that is written so; no other text means the same.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl Default for Id {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// 64 bits, as 16 lower-case hex characters: an epoch.
pub fn epoch() -> String {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    format!("{:016x}", u64::from_be_bytes(bytes))
}

/// Evenly between 0 and 1.
pub fn fraction() -> f64 {
    let mut bytes = [0; 4];
    fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

/// `base` and up to half of it more, so that what failed together does not come back together.
pub fn jitter(base: Duration) -> Duration {
    base.mul_f64(1.0 + fraction() / 2.0)
}
