//! Randomness from the system: ids that can't be guessed, and jitter.

use std::{cell::RefCell, fmt, time::Duration};

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
    try_epoch().expect("the system provides randomness")
}

/// The same, where the system may have no randomness to give.
pub(crate) fn try_epoch() -> Result<String, getrandom::Error> {
    DRAWN.with_borrow_mut(Drawn::draw).map(|bytes| hex(&bytes))
}

/// What epochs are made of, drawn from the system many at a time: each event takes along a candidate, and a system call
/// costs more than all else about it. An epoch is no secret, so it does no harm that it lies here for a while.
#[derive(Default)]
struct Drawn {
    numbers: [[u8; 8]; 32],
    left: usize,
}

thread_local! {
    static DRAWN: RefCell<Drawn> = RefCell::default();
}

impl Drawn {
    fn draw(&mut self) -> Result<[u8; 8], getrandom::Error> {
        if self.left == 0 {
            getrandom::fill(self.numbers.as_flattened_mut())?;
            self.left = self.numbers.len();
        }
        self.left -= 1;
        Ok(self.numbers[self.left])
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn epochs_are_16_digits_and_never_the_same_from_whichever_thread() {
        let some = || (0..100).map(|_| epoch()).collect::<Vec<_>>();
        let elsewhere = std::thread::spawn(some);
        let mut epochs = some();
        epochs.extend(elsewhere.join().unwrap());
        let digits = |epoch: &String| epoch.len() == 16 && epoch.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(epochs.iter().all(digits), "{epochs:?}");
        assert_eq!(epochs.iter().collect::<HashSet<_>>().len(), 200);
    }

    #[test]
    fn bytes_are_written_in_two_digits_each() {
        assert_eq!(hex(&[0x00, 0x0f, 0xa5, 0xff]), "000fa5ff");
    }
}
