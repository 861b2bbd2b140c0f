//! What a token says, and whether it may: times to the millisecond, issuer, audience, and bounds on everything.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use roomcast_core::permission::{Identity, Role, RoomPatterns};
use roomcast_protocol::Data;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AuthError, NewClaims, Reason, Verified};

/// Characters of a user id; as many as a room's name may have.
const MAX_SUBJECT: usize = 128;
/// Patterns of a token; as many as the rooms of a socket.
const MAX_ROOMS: usize = 64;
/// Characters of a pattern; a whole room name has at most 161.
const MAX_PATTERN: usize = 160;
/// Bytes of `info` as JSON: it is sent to others.
const MAX_INFO: usize = 4 * 1024;
/// The last second of the year 9999. A later `exp` is surely one in milliseconds, good for 50,000 years.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// What every token must agree with.
pub(super) struct Expected {
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) leeway_ms: u64,
}

/// The claims as they stand in a token: of any type, so that each one's own error can tell.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Claims {
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rooms: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<Data>,
}

impl Claims {
    /// The claims of a token to be signed.
    pub(super) fn of(new: &NewClaims, expected: &Expected) -> Self {
        Self {
            sub: Some(new.sub.clone().into()),
            exp: Some((new.expires_at / 1_000).into()),
            nbf: None,
            iss: expected.issuer.clone().map(Value::from),
            aud: expected.audience.clone().map(Value::from),
            role: Some(new.role.as_str().into()),
            rooms: new.rooms.clone().map(Value::from),
            info: new.info.clone(),
        }
    }

    /// Whom they name, if they hold at `now` (Unix ms).
    pub(super) fn check(self, expected: &Expected, now: u64) -> Result<Verified, AuthError> {
        let expires_at =
            self.exp.as_ref().and_then(millis).ok_or(Reason::Exp)?.saturating_add(expected.leeway_ms);
        if let Some(nbf) = &self.nbf {
            let starts_at = millis(nbf).ok_or(Reason::NotYet)?;
            if starts_at > now.saturating_add(expected.leeway_ms) {
                return Err(Reason::NotYet.into());
            }
        }
        if expected
            .issuer
            .as_ref()
            .is_some_and(|issuer| self.iss.as_ref().and_then(Value::as_str) != Some(issuer))
        {
            return Err(Reason::Issuer.into());
        }
        if !audience_fits(self.aud.as_ref(), expected.audience.as_deref()) {
            return Err(Reason::Audience.into());
        }
        let user =
            self.sub.as_ref().and_then(Value::as_str).filter(|sub| is_subject(sub)).ok_or(Reason::Subject)?;
        let role = match &self.role {
            None => Role::Member,
            Some(role) => role.as_str().and_then(Role::from_name).ok_or(Reason::Role)?,
        };
        let rooms = self.rooms.as_ref().map(|rooms| patterns(rooms).ok_or(Reason::Rooms)).transpose()?;
        if self.info.as_ref().is_some_and(|info| info.as_str().len() > MAX_INFO) {
            return Err(Reason::Info.into());
        }
        // Last: only a token that is good but for its age may be told to be refreshed.
        if now >= expires_at {
            return Err(AuthError::Expired);
        }
        let identity = Identity { user: user.into(), role, rooms };
        Ok(Verified { identity, expires_at, info: self.info })
    }
}

impl From<Reason> for AuthError {
    fn from(reason: Reason) -> Self {
        Self::Invalid(reason)
    }
}

/// Whether a token whose header can't be read is a JSON object that names an algorithm: one that is not allowed.
pub(super) fn names_algorithm(token: &str) -> bool {
    let header = token.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let header = header.and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    header.is_some_and(|header| header.get("alg").is_some_and(Value::is_string))
}

/// Seconds, perhaps with a fraction, in ms.
fn millis(seconds: &Value) -> Option<u64> {
    let seconds = seconds.as_f64().filter(|seconds| (0.0..=LAST_SECOND).contains(seconds))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // In range, as just checked.
    Some((seconds * 1_000.0) as u64)
}

/// A token for some audience is for nobody else; whoever has no name is none of them (RFC 7519, 4.1.3).
fn audience_fits(claim: Option<&Value>, own: Option<&str>) -> bool {
    match (claim, own) {
        (None, None) => true,
        (Some(Value::String(audience)), Some(own)) => audience == own,
        (Some(Value::Array(audiences)), Some(own)) => audiences.iter().any(|audience| audience == own),
        (Some(_), _) | (None, Some(_)) => false,
    }
}

fn is_subject(text: &str) -> bool {
    (1..=MAX_SUBJECT).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn patterns(rooms: &Value) -> Option<RoomPatterns> {
    let rooms = rooms.as_array().filter(|rooms| rooms.len() <= MAX_ROOMS)?;
    let is_pattern = |text: &&str| (1..=MAX_PATTERN).contains(&text.chars().count());
    let patterns: Option<Vec<String>> =
        rooms.iter().map(|room| room.as_str().filter(is_pattern).map(str::to_owned)).collect();
    patterns.map(RoomPatterns::new)
}
