//! Tokens that the node's own signer would not make.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::node::HMAC_KEY;

/// Seconds since 1970, with a fraction.
pub fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs_f64()
}

/// A token of the test key with these claims and no others.
pub fn signed(claims: &Value) -> String {
    signed_by(claims, HMAC_KEY)
}

/// The same by another key.
pub fn signed_by(claims: &Value, key: &str) -> String {
    let key = EncodingKey::from_secret(key.as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).expect("claims are JSON")
}

/// A token without a signature, whose header says so.
pub fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(&json!({ "alg": "none", "typ": "JWT" })), part(claims))
}

/// A token that lives so many seconds, which may be a fraction of one.
pub fn short(sub: &str, role: &str, seconds_left: f64) -> String {
    signed(&json!({ "sub": sub, "role": role, "exp": seconds() + seconds_left }))
}
