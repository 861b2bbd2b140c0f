//! A set of public keys, each with the only algorithms that it may verify. Knows not where it came from.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

use super::{JwksError, seen::Seen};

/// Keys of a set: an issuer has a handful.
pub(super) const MAX_KEYS: usize = 100;

/// What a token's header leads to.
pub(super) enum Pick<'a> {
    Key(&'a DecodingKey),
    /// There is such a key, but it does not verify this algorithm.
    WrongAlgorithm,
    Unknown,
}

pub(super) struct KeySet {
    keys: Vec<PublicKey>,
    /// What these keys have verified: with the set it goes.
    pub(super) seen: Seen,
}

struct PublicKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads a JWKS document. Keys that can't verify tokens are passed over, as RFC 7517 asks; a set without any
    /// that can is an error.
    pub(super) fn parse(json: &[u8]) -> Result<Self, JwksError> {
        let document: Document = serde_json::from_slice(json).map_err(|_| JwksError::Malformed)?;
        if document.keys.len() > MAX_KEYS {
            return Err(JwksError::TooMany);
        }
        let keys: Vec<_> = document.keys.into_iter().filter_map(PublicKey::read).collect();
        if keys.is_empty() { Err(JwksError::NoUsableKey) } else { Ok(Self { keys, seen: Seen::default() }) }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key of that id for that algorithm; a token without id needs a set in which only one key fits.
    pub(super) fn pick(&self, id: Option<&str>, algorithm: Algorithm) -> Pick<'_> {
        let mut named = self.keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id).peekable();
        if named.peek().is_none() {
            return Pick::Unknown;
        }
        let mut fitting = named.filter(|key| key.algorithms.contains(&algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Pick::Key(&key.key),
            (None, _) => Pick::WrongAlgorithm,
            (Some(_), Some(_)) => Pick::Unknown,
        }
    }
}

impl PublicKey {
    fn read(json: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(json).ok()?;
        let for_signatures =
            jwk.common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature);
        let may_verify =
            jwk.common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        if !for_signatures || !may_verify {
            return None;
        }
        let of_type: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                &[Algorithm::ES256]
            }
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => {
                &[Algorithm::ES384]
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            // Above all no `oct`: a shared secret has no place among public keys.
            _ => return None,
        };
        let named = jwk.common.key_algorithm;
        let algorithms: Vec<_> = of_type
            .iter()
            .copied()
            .filter(|&algorithm| named.is_none_or(|named| named == KeyAlgorithm::from(algorithm)))
            .collect();
        let key = DecodingKey::from_jwk(&jwk).ok().filter(|_| !algorithms.is_empty())?;
        Some(Self { id: jwk.common.key_id, algorithms, key })
    }
}
