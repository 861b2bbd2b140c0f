//! Who somebody is: tokens verified and signed. Knows nothing of sockets, rooms or permissions, and never the time:
//! every check takes `now`.
//!
//! What a key may verify follows from the key, not from the token: the HMAC key takes only HS*, a public key only
//! the algorithms of its own type. The library checks signatures only: its checks of time are inexact (whole
//! seconds, 60 s of leeway, its own clock), so `claims` checks what a token says.

mod claims;
mod keys;
mod seen;
mod source;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, decode_header, errors::ErrorKind,
};
use roomcast_core::permission::{Identity, Role};
use roomcast_protocol::Data;

use crate::config;
use claims::{Claims, Expected};
use keys::Pick;
use seen::TokenDigest;
use source::Source;

pub use source::JwksError;

/// The longest token that is looked at: room for 4 KiB of `info` in base64 and some room patterns.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Who a token says somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Id, role and rooms.
    pub identity: Identity,
    /// Until when, in Unix ms: `exp` and the leeway. The token is good while now < this.
    pub expires_at: u64,
    /// What else the token says about its bearer, for others to see.
    pub info: Option<Data>,
}

/// What a new token is to say.
#[derive(Debug, Clone)]
pub struct NewClaims {
    /// The user's id, 1–128 characters.
    pub sub: String,
    /// What they may do.
    pub role: Role,
    /// Room patterns; none means what the role allows.
    pub rooms: Option<Vec<String>>,
    /// Anything about the user, at most 4 KiB of JSON.
    pub info: Option<Data>,
    /// Unix ms; rounded down to the second.
    pub expires_at: u64,
}

/// Why nobody knows who this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It was a good token.
    #[error("the token has expired")]
    Expired,
    /// It is no good token, and never will be.
    #[error("the token is not valid: {0}")]
    Invalid(Reason),
    /// The public keys are not there (yet): the same token may be good in a moment.
    #[error("the keys to verify tokens with are not available")]
    KeysUnavailable,
    /// There is no HMAC key to sign with.
    #[error("no auth.hmac_key is configured to sign with")]
    NoSigningKey,
}

/// What is wrong with a token; each is also a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    /// Not three parts of base64url, or no JSON inside.
    #[error("malformed")]
    Malformed,
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("too long")]
    TooLong,
    /// `none`, an unknown one, or one that the configured keys don't take.
    #[error("algorithm not allowed")]
    Algorithm,
    /// The header demands an extension with `crit`.
    #[error("unknown critical header")]
    Critical,
    /// No configured key has this `kid`.
    #[error("unknown key")]
    UnknownKey,
    /// Altered, or signed with another key.
    #[error("bad signature")]
    Signature,
    /// `exp` is missing, no number, or beyond the year 9999.
    #[error("exp missing or unusable")]
    Exp,
    /// `nbf` lies in the future.
    #[error("not valid yet")]
    NotYet,
    /// `iss` is not the configured one.
    #[error("wrong issuer")]
    Issuer,
    /// `aud` does not name the configured one, or names any where none is configured.
    #[error("wrong audience")]
    Audience,
    /// `sub` is missing, too long, or holds control characters.
    #[error("sub missing or unusable")]
    Subject,
    /// `role` is none of guest, member, admin, service.
    #[error("unknown role")]
    Role,
    /// `rooms` holds too many or too long patterns.
    #[error("rooms unusable")]
    Rooms,
    /// `info` is larger than 4 KiB.
    #[error("info too large")]
    Info,
}

/// Verifies tokens, and signs them where there is an HMAC key. Cheap to clone; all clones share their keys.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

impl fmt::Debug for Verifier {
    /// Nothing of the keys, only which kinds there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hmac, jwks) = (self.0.hmac.is_some(), self.0.public.is_some());
        f.debug_struct("Verifier").field("hmac", &hmac).field("jwks", &jwks).finish()
    }
}

struct Inner {
    hmac: Option<Hmac>,
    public: Option<Source>,
    expected: Expected,
}

struct Hmac {
    verify: DecodingKey,
    sign: EncodingKey,
}

impl Verifier {
    /// Prepares the keys. A JWKS file is read at once, a URL by [`keep_fresh`](Self::keep_fresh).
    pub fn new(auth: &config::Auth) -> Result<Self, JwksError> {
        let hmac = auth.hmac_key.as_ref().map(|key| Hmac {
            verify: DecodingKey::from_secret(key.reveal().as_bytes()),
            sign: EncodingKey::from_secret(key.reveal().as_bytes()),
        });
        let public = auth.jwks.as_ref().map(Source::new).transpose()?;
        let expected = Expected {
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            leeway_ms: u64::try_from(auth.leeway.as_millis()).unwrap_or(u64::MAX),
        };
        Ok(Self(Arc::new(Inner { hmac, public, expected })))
    }

    /// Who the bearer of `token` is at `now_unix_ms`.
    pub fn verify(&self, token: &str, now_unix_ms: u64) -> Result<Verified, AuthError> {
        let invalid = |reason| Err(AuthError::Invalid(reason));
        if token.len() > MAX_TOKEN_BYTES {
            return invalid(Reason::TooLong);
        }
        let Ok(header) = decode_header(token) else {
            return invalid(if claims::names_algorithm(token) {
                Reason::Algorithm
            } else {
                Reason::Malformed
            });
        };
        if header.crit.is_some() {
            return invalid(Reason::Critical);
        }
        let claims = if header.alg.family() == AlgorithmFamily::Hmac {
            let Some(hmac) = &self.0.hmac else { return invalid(Reason::Algorithm) };
            read(token, header.alg, &hmac.verify)?
        } else {
            let Some(public) = &self.0.public else { return invalid(Reason::Algorithm) };
            let set = public.keys(now_unix_ms).ok_or(AuthError::KeysUnavailable)?;
            match set.pick(header.kid.as_deref(), header.alg) {
                Pick::Key(key) => {
                    let digest = TokenDigest::of(token);
                    if set.seen.contains(digest) {
                        read_verified(token)?
                    } else {
                        let claims = read(token, header.alg, key)?;
                        set.seen.remember(digest);
                        claims
                    }
                }
                Pick::WrongAlgorithm => return invalid(Reason::Algorithm),
                Pick::Unknown if public.ask_for_newer() => return Err(AuthError::KeysUnavailable),
                Pick::Unknown => return invalid(Reason::UnknownKey),
            }
        };
        claims.check(&self.0.expected, now_unix_ms)
    }

    /// Signs a token with HS256 and the configured key, issuer and audience.
    pub fn sign(&self, new: &NewClaims) -> Result<String, AuthError> {
        let hmac = self.0.hmac.as_ref().ok_or(AuthError::NoSigningKey)?;
        let claims = Claims::of(new, &self.0.expected);
        // What this node would refuse, it does not sign: time 0 is before every expiry but that of the epoch itself.
        let _verified = claims.clone().check(&self.0.expected, 0)?;
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &hmac.sign)
            .map_err(|_| AuthError::Invalid(Reason::Malformed))
    }

    /// Reads or fetches the public keys now; the old ones stay on failure. Tells how many can be used.
    pub async fn refresh_keys(&self) -> Result<usize, JwksError> {
        match &self.0.public {
            Some(public) => public.refresh().await,
            None => Ok(0),
        }
    }

    /// Keeps the keys of a JWKS URL fresh, for as long as it is polled; ends at once where there is none. Without it,
    /// keys from a URL never arrive. Cancel safe.
    pub async fn keep_fresh(&self) {
        if let Some(public) = &self.0.public {
            public.keep_fresh().await;
        }
    }
}

/// The claims of a token whose signature is right; nothing else is checked. The library refuses a key of another
/// family than the algorithm's.
fn read(token: &str, algorithm: Algorithm, key: &DecodingKey) -> Result<Claims, AuthError> {
    let (message, signature) = token.rsplit_once('.').ok_or(Reason::Malformed)?;
    match jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, algorithm) {
        Ok(true) => {}
        Ok(false) => return Err(Reason::Signature.into()),
        Err(error) if matches!(error.kind(), ErrorKind::Base64(_)) => return Err(Reason::Malformed.into()),
        Err(_) => return Err(Reason::Algorithm.into()),
    }
    read_verified(token)
}

/// The claims of a token whose signature is known to be right.
fn read_verified(token: &str) -> Result<Claims, AuthError> {
    let payload = token.split('.').nth(1).ok_or(Reason::Malformed)?;
    let json = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Reason::Malformed)?;
    Ok(serde_json::from_slice(&json).map_err(|_| Reason::Malformed)?)
}

/// The system's time in Unix ms, for those who call [`Verifier::verify`].
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
