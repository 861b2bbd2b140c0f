//! What belongs to no room, in this process: claimed names, locks, mutes and bans.

use std::collections::HashMap;

use super::expiring::Expiring;
use crate::{
    Cap, CounterError, Current, Limits, Lock, LockAct, Restriction, RestrictionKind, Whom, Wish, body,
};

/// As in `log.lua`.
const REPLY_TTL_MS: u64 = 600_000;
/// A lock's record outlives its lease by so much, so that its fence keeps rising: as in `lock.lua`.
const FENCE_TTL_MS: u64 = 86_400_000;

pub(super) struct Claims {
    names: HashMap<(String, String), String>,
    owners: HashMap<String, u32>,
    replies: Expiring<(String, String), (String, String)>,
}

impl Claims {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { names: HashMap::new(), owners: HashMap::new(), replies: Expiring::new(limits.memory_entries) }
    }

    pub(super) fn claim(
        &mut self,
        limits: &Limits,
        (scope, user, wish): (&str, &str, &Wish),
        names: Vec<String>,
        now: u64,
    ) -> Result<String, CounterError> {
        let retry =
            body::claim_idempotency(scope, wish).map(|(key, hash)| ((user.to_owned(), key.to_owned()), hash));
        if let Some((key, hash)) = &retry {
            if let Some((known, name)) = self.replies.get(key, now) {
                return if known == hash { Ok(name.clone()) } else { Err(CounterError::KeyReused) };
            }
            if self.replies.is_full(now) {
                return Err(CounterError::TooMany(Cap::Keys));
            }
        }
        let generated = matches!(wish, Wish::Generate { .. });
        for name in names {
            let field = (scope.to_owned(), name);
            match self.names.get(&field) {
                Some(owner) if owner == user && !generated => return Ok(field.1),
                Some(_) => {}
                None => {
                    if self.names.len() >= limits.claims as usize {
                        return Err(CounterError::TooMany(Cap::Claims));
                    }
                    let mine = self.owners.entry(user.to_owned()).or_default();
                    if *mine >= limits.claims_per_user {
                        return Err(CounterError::TooMany(Cap::ClaimsOfUser));
                    }
                    *mine += 1;
                    let name = field.1.clone();
                    self.names.insert(field, user.to_owned());
                    if let Some((key, hash)) = retry {
                        self.replies.insert(key, (hash, name.clone()), now + REPLY_TTL_MS, now);
                    }
                    return Ok(name);
                }
            }
        }
        if generated {
            Err(CounterError::TooMany(Cap::Names))
        } else {
            Err(CounterError::Conflict(Current::Claim))
        }
    }

    pub(super) fn unclaim(&mut self, scope: &str, user: &str, name: &str) -> bool {
        let field = (scope.to_owned(), name.to_owned());
        if self.names.get(&field).is_none_or(|owner| owner != user) {
            return false;
        }
        self.names.remove(&field);
        if let Some(mine) = self.owners.get_mut(user) {
            *mine -= 1;
            if *mine == 0 {
                self.owners.remove(user);
            }
        }
        true
    }
}

pub(super) struct Locks(Expiring<String, Held>);

struct Held {
    owner: Option<String>,
    fence: u64,
    ends: u64,
}

impl Locks {
    pub(super) fn new(limits: &Limits) -> Self {
        Self(Expiring::new(limits.memory_entries))
    }

    pub(super) fn change(
        &mut self,
        name: &str,
        owner: &str,
        act: LockAct,
        now: u64,
    ) -> Result<Lock, CounterError> {
        let name = name.to_owned();
        let record = self.0.get(&name, now);
        let last = record.map_or(0, |record| record.fence);
        let held = record.filter(|record| record.owner.is_some() && record.ends > now);
        let named = match act {
            LockAct::Acquire { .. } => None,
            LockAct::Renew { fence, .. } | LockAct::Release { fence } => Some(fence),
        };
        let mine = held.is_some_and(|held| {
            held.owner.as_deref() == Some(owner) && named.is_none_or(|fence| fence == last)
        });
        let acquire = matches!(act, LockAct::Acquire { .. });
        if !mine && (held.is_some() || !acquire) {
            let retry_ms = held.map_or(0, |held| held.ends - now);
            return Err(CounterError::Conflict(Current::Lock { retry_ms }));
        }
        if record.is_none() && self.0.is_full(now) {
            return Err(CounterError::TooMany(Cap::Locks));
        }
        let fence = if mine { last } else { now.max(last + 1) };
        let (owner, ends) = match act {
            LockAct::Acquire { ttl } | LockAct::Renew { ttl, .. } => {
                (Some(owner.to_owned()), now + super::millis(ttl))
            }
            LockAct::Release { .. } => (None, now),
        };
        self.0.insert(name, Held { owner, fence, ends }, ends + FENCE_TTL_MS, now);
        Ok(Lock { fence, expires_at: ends })
    }
}

type What = (RestrictionKind, Whom, Option<String>);

#[derive(Default)]
pub(super) struct Restrictions(Vec<(What, u64)>);

impl Restrictions {
    /// Zero ms takes it back.
    pub(super) fn set(
        &mut self,
        limits: &Limits,
        what: What,
        lasts_ms: u64,
        now: u64,
    ) -> Result<u64, CounterError> {
        self.0.retain(|(kept, until)| *kept != what && *until > now);
        if lasts_ms == 0 {
            return Ok(0);
        }
        if self.0.len() >= limits.restrictions as usize {
            return Err(CounterError::TooMany(Cap::Restrictions));
        }
        self.0.push((what, now + lasts_ms));
        Ok(now + lasts_ms)
    }

    pub(super) fn all(&self) -> Vec<Restriction> {
        let restriction = |((kind, whom, room), until): &(What, u64)| Restriction {
            kind: *kind,
            whom: whom.clone(),
            room: room.clone(),
            until: *until,
        };
        self.0.iter().map(restriction).collect()
    }

    pub(super) fn is_muted(&self, user: &str, room: &str, now: u64) -> bool {
        self.0.iter().any(|((kind, whom, of), until)| {
            *until > now
                && *kind == RestrictionKind::Mute
                && of.as_deref() == Some(room)
                && matches!(whom, Whom::User(id) if id == user)
        })
    }
}
