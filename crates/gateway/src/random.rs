//! Randomness from the system: ids that can't be guessed, and jitter.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

fn fill(bytes: &mut [u8]) {
    // Without system randomness no id is safe to hand out.
    getrandom::fill(bytes).expect("the system provides randomness");
}

/// 128 bits, as 22 URL-safe characters.
pub fn id() -> String {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
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
