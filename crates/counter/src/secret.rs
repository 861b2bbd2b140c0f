//! Random names, and the hashes under which secrets are kept. A secret itself is never stored.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::CounterError;

/// A guest's secret or a ticket: 192 random bits, 32 characters that need no escaping anywhere.
pub(crate) fn token() -> Result<String, CounterError> {
    Ok(URL_SAFE_NO_PAD.encode(random::<24>()?))
}

/// The public id of the guest with this secret: 128 bits of a hash, so nothing has to be kept, no two calls can
/// disagree, and the secret, which nobody can guess, does not follow from it. The words in front make it another
/// hash than those under which tickets are kept.
pub(crate) fn guest_user(secret: &str) -> String {
    let digest = Sha256::new().chain_update("roomcast guest\0").chain_update(secret).finalize();
    format!("guest-{}", hex(&digest[..16]))
}

/// A name of so many characters, each of them equally likely of the alphabet: at most 64 ASCII characters.
pub(crate) fn name(length: usize, alphabet: &[u8]) -> Result<String, CounterError> {
    // Bytes that would favour the first characters are thrown away.
    let fair = 256 - 256 % alphabet.len();
    let mut name = String::with_capacity(length);
    while name.len() < length {
        for byte in random::<32>()?.map(usize::from) {
            if byte < fair && name.len() < length {
                name.push(char::from(alphabet[byte % alphabet.len()]));
            }
        }
    }
    Ok(name)
}

/// What a secret is filed under.
pub(crate) fn digest(secret: &str) -> String {
    hex(&Sha256::digest(secret))
}

/// A fingerprint of fields in order. Each is preceded by its length, so that no two lists look the same.
pub(crate) fn fingerprint(fields: &[&str]) -> String {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    hex(&hash.finalize())
}

fn random<const N: usize>() -> Result<[u8; N], CounterError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| CounterError::Internal(error.into()))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_only_look_alike_joined_have_other_fingerprints() {
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
        assert_ne!(fingerprint(&["a"]), fingerprint(&["a", ""]));
    }

    #[test]
    fn a_digest_is_sha_256_in_hex() {
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn tokens_are_fresh_and_of_the_form_that_is_accepted_again() {
        let (one, two) = (token().unwrap(), token().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 32);
        assert!(crate::validate::secret(&one).is_ok());
    }
}
