//! The signature of a webhook: HMAC-SHA256 over the body, in hexadecimal, compared in constant time.

use aws_lc_rs::hmac;

use crate::config::Secret;

/// Whether `given`, with or without `sha256=` before it, is the body's signature.
pub(super) fn holds(secret: &Secret, given: &str, body: &[u8]) -> bool {
    let hex = given.trim();
    let hex = hex.strip_prefix("sha256=").unwrap_or(hex);
    let Some(tag) = bytes(hex) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes());
    hmac::verify(&key, body, &tag).is_ok()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some((digit(*high)? << 4) | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    const TAG: &str = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    const BODY: &[u8] = b"what do ya want for nothing?";

    #[test]
    fn the_known_answer_holds_in_every_spelling() {
        let secret = Secret::new("Jefe");
        for given in [TAG.to_owned(), format!("sha256={TAG}"), TAG.to_uppercase(), format!(" {TAG} ")] {
            assert!(holds(&secret, &given, BODY), "{given}");
        }
    }

    #[test]
    fn anything_else_does_not() {
        let secret = Secret::new("Jefe");
        let flipped = TAG.replacen('5', "4", 1);
        for given in
            ["", "sha256=", &TAG[..62], &TAG[1..], &flipped, &format!("{TAG}00"), "zz", "sha1=00", "é"]
        {
            assert!(!holds(&secret, given, BODY), "{given}");
        }
        assert!(!holds(&Secret::new("other"), TAG, BODY));
        assert!(!holds(&secret, TAG, b"another body"));
    }
}
