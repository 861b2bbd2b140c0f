//! Tokens whose signature was right, so that whoever comes back soon costs no second verification: with a public key
//! that is most of what a handshake takes. Only the signature is remembered, and only as long as the set of keys that
//! verified it: expiry and every other claim are checked each time.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};

/// Tokens in one half; together with the other, half a megabyte.
const HALF: usize = 4_096;

/// The digest of a whole token, its signature included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(super) fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }
}

/// The newest few thousand.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Halves>);

#[derive(Debug, Default)]
struct Halves {
    young: HashSet<TokenDigest>,
    old: HashSet<TokenDigest>,
}

impl Seen {
    pub(super) fn contains(&self, token: TokenDigest) -> bool {
        let halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        halves.young.contains(&token) || halves.old.contains(&token)
    }

    /// Once one half is full, the other is forgotten.
    pub(super) fn remember(&self, token: TokenDigest) {
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.young.len() >= HALF {
            halves.old = std::mem::take(&mut halves.young);
        }
        halves.young.insert(token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered_and_never_more_than_two_halves() {
        let seen = Seen::default();
        let digests: Vec<_> = (0..3 * HALF).map(|n| TokenDigest::of(&n.to_string())).collect();
        for &token in &digests {
            assert!(!seen.contains(token));
            seen.remember(token);
            assert!(seen.contains(token));
        }
        let kept = digests.iter().filter(|token| seen.contains(**token)).count();
        assert!((HALF..=2 * HALF).contains(&kept), "{kept}");
        assert!(!seen.contains(digests[0]));
    }
}
