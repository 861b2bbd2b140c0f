//! Who is there: a token, a ticket, or a guest.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use roomcast_core::{
    permission::{Identity, Role, RoomPatterns},
    permits::CONNECTIONS_RETRY,
};
use roomcast_counter::Thing;
use roomcast_protocol::{CloseCode, Connect, Connected, ErrorCode, Failure, LimitsInfo, Ok as Answer};
use serde::{Deserialize, Serialize};

use super::{Change, Done};
use crate::{
    admission,
    auth::AuthError,
    backend::{Fault, Repeat},
    conn::Conn,
    node::{Node, now, unix_ms},
    random::jitter,
    restrictions::Speaks,
};

/// What a ticket stands for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// The user.
    pub(crate) sub: String,
    /// What it may do.
    pub(crate) role: Role,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rooms: Option<Vec<String>>,
    /// When a connection that used it ends, Unix ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<u64>,
}

struct Known {
    who: Identity,
    expires_at: Option<u64>,
    secret: Option<String>,
}

enum Refused {
    /// Nothing is wrong with the client: it may try again on this connection.
    Again(Failure),
    Final(Failure, CloseCode),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        match failure.code {
            ErrorCode::Unavailable | ErrorCode::Internal => Self::Again(failure),
            _ => Self::Final(failure, CloseCode::InvalidToken),
        }
    }
}

pub(super) async fn connect(node: &Node, conn: &Conn, id: Option<u64>, connect: Connect) -> Done {
    let Known { who, expires_at, secret } = match identify(node, connect).await {
        Ok(known) => known,
        Err(Refused::Again(failure)) => return Done::failed(id, failure),
        Err(Refused::Final(failure, code)) => return Done::failed(id, failure).closing(code),
    };
    if let Err(banned) = node.restrictions.admit(&who.user, Some(conn.ip), None, Speaks::No, unix_ms()) {
        return Done::failed(id, banned).closing(CloseCode::Disconnected);
    }
    let Ok(place) = admission::of_user(node, &who).await else {
        let retry_ms = u64::try_from(jitter(CONNECTIONS_RETRY).as_millis()).unwrap_or(u64::MAX);
        let failure = Failure::retry(ErrorCode::LimitReached, "this user has too many connections", retry_ms);
        return Done::failed(id, failure).closing(CloseCode::Overloaded);
    };
    conn.hold(place);
    let limits = &node.terms.limits;
    let answer = Answer::Connected(Box::new(Connected {
        session: conn.id.to_string(),
        user: who.user.to_string(),
        role: who.role.as_str().to_owned(),
        guest: secret,
        expires_at,
        ping_ms: u64::try_from(limits.ping_interval.as_millis()).unwrap_or(u64::MAX),
        node: node.config.node.clone(),
        limits: LimitsInfo {
            frame_bytes: limits.frame_bytes.get(),
            frames_per_second: limits.frames_per_second.get(),
            frames_burst: limits.frames_burst.get(),
            counter_ops_per_minute: limits.counter_ops_per_minute.get(),
            rooms_per_socket: limits.rooms_per_socket.get(),
        },
    }));
    let expires = expires_at.map(instant_of);
    Done::answer(id, Ok(answer)).with(Change::Opened { who, expires })
}

/// Verifies the new token of a user who is connected already.
pub(super) fn refresh(node: &Node, who: &Identity, id: Option<u64>, token: &str) -> Done {
    match node.verifier.verify(token, now().unix_ms) {
        Ok(verified) if verified.identity.user == who.user => {
            let expires = instant_of(verified.expires_at);
            let answer = Answer::Refreshed { expires_at: verified.expires_at };
            Done::answer(id, Ok(answer)).with(Change::Refreshed { who: verified.identity, expires })
        }
        Ok(_) => Done::failed(id, Failure::new(ErrorCode::InvalidToken, "the token is another user's")),
        Err(error) => Done::failed(id, failure_of(error)),
    }
}

async fn identify(node: &Node, connect: Connect) -> Result<Known, Refused> {
    match connect {
        Connect { token: Some(token), .. } => match node.verifier.verify(&token, now().unix_ms) {
            Ok(verified) => {
                Ok(Known { who: verified.identity, expires_at: Some(verified.expires_at), secret: None })
            }
            Err(error @ AuthError::Expired) => {
                Err(Refused::Final(failure_of(error), CloseCode::TokenExpired))
            }
            Err(error) => Err(failure_of(error).into()),
        },
        Connect { ticket: Some(ticket), .. } => redeem(node, &ticket).await,
        Connect { guest, .. } if node.config.auth.guests => {
            let guest = roomcast_counter::guest(guest.as_deref())
                .map_err(|error| error.into_failure(Repeat::Harmless))?;
            let who = Identity { user: guest.user.as_str().into(), role: Role::Guest, rooms: None };
            Ok(Known { who, expires_at: None, secret: Some(guest.secret) })
        }
        Connect { .. } => {
            Err(Failure::new(ErrorCode::InvalidToken, "guests are not admitted here: a token is needed")
                .into())
        }
    }
}

async fn redeem(node: &Node, ticket: &str) -> Result<Known, Refused> {
    let invalid = || Failure::new(ErrorCode::InvalidToken, "the ticket is unknown, used or expired");
    // A lost answer may have used it up; then a second try tells so.
    let counter = &node.backend.counter;
    let grant = node
        .backend
        .at(&counter.place(Thing::Ticket(ticket)))
        .call(Repeat::Harmless, counter.redeem_ticket(ticket))
        .await?
        .ok_or_else(invalid)?;
    let grant: Grant = serde_json::from_str(&grant).map_err(|_| invalid())?;
    let rooms = grant.rooms.map(RoomPatterns::new);
    let who = Identity { user: Arc::from(grant.sub), role: grant.role, rooms };
    Ok(Known { who, expires_at: grant.expires_at, secret: None })
}

fn failure_of(error: AuthError) -> Failure {
    match error {
        AuthError::Expired => Failure::new(ErrorCode::TokenExpired, error.to_string()),
        AuthError::Invalid(_) | AuthError::NoSigningKey => {
            Failure::new(ErrorCode::InvalidToken, error.to_string())
        }
        AuthError::KeysUnavailable => Failure::retry(ErrorCode::Unavailable, error.to_string(), 1_000),
    }
}

/// When a moment comes, on this process' clock.
fn instant_of(expires_at: u64) -> Instant {
    let now = now();
    let left = Duration::from_millis(expires_at.saturating_sub(now.unix_ms));
    // Far futures overflow some clocks; a year is as good as for ever for one connection.
    now.instant + left.min(Duration::from_secs(365 * 24 * 3_600))
}
