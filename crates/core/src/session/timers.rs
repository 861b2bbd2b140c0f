//! A session's deadlines, folded into one "next".

use std::time::{Duration, Instant};

use roomcast_protocol::CloseCode;

use super::EXPIRY_WARNING;
use crate::limits::Limits;

/// What time brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Send a ping.
    Ping,
    /// Tell the client that its token ends at this moment.
    Expiring(Instant),
    /// Close.
    Close(CloseCode),
}

#[derive(Debug)]
pub(super) struct Timers {
    connect: Option<Instant>,
    ping: Instant,
    pong: Option<Instant>,
    idle: Option<Instant>,
    warning: Option<Instant>,
    expires: Option<Instant>,
}

impl Timers {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            connect: Some(now + limits.connect_timeout),
            ping: now + limits.ping_interval,
            pong: None,
            idle: limits.idle_timeout.map(|after| now + after),
            warning: None,
            expires: None,
        }
    }

    pub(super) fn opened(&mut self, limits: &Limits, now: Instant) {
        self.connect = None;
        self.ping = now + limits.ping_interval;
    }

    pub(super) fn expires(&mut self, at: Option<Instant>, now: Instant) {
        self.expires = at;
        // A short-lived token is warned of half way.
        self.warning = at.map(|at| {
            at.checked_sub(EXPIRY_WARNING.min(at.saturating_duration_since(now) / 2)).unwrap_or(now)
        });
    }

    pub(super) fn heard_frame(&mut self, limits: &Limits, now: Instant) {
        self.pong = None;
        self.idle = limits.idle_timeout.map(|after| now + after);
    }

    pub(super) fn heard(&mut self) {
        self.pong = None;
    }

    pub(super) fn next(&self) -> Option<Instant> {
        [self.connect, Some(self.ping), self.pong, self.idle, self.warning, self.expires]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn due(&mut self, limits: &Limits, now: Instant) -> Option<Due> {
        let past = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if past(self.expires) {
            self.put_off();
            return Some(Due::Close(CloseCode::TokenExpired));
        }
        if past(self.connect) {
            self.put_off();
            return Some(Due::Close(CloseCode::ConnectTimeout));
        }
        if past(self.pong) {
            // The one close that may be taken back: by a sign of life that was not read.
            self.pong = None;
            return Some(Due::Close(CloseCode::PingTimeout));
        }
        if past(self.idle) {
            self.put_off();
            return Some(Due::Close(CloseCode::Idle));
        }
        if past(self.warning) {
            self.warning = None;
            return self.expires.map(Due::Expiring);
        }
        if past(Some(self.ping)) {
            self.ping = now + limits.ping_interval;
            self.pong = self.pong.or(Some(now + limits.pong_timeout));
            return Some(Due::Ping);
        }
        None
    }

    /// A close is told once; nothing else is due after it.
    fn put_off(&mut self) {
        let never = self.ping + Duration::from_secs(365 * 24 * 3_600);
        *self = Self { connect: None, ping: never, pong: None, idle: None, warning: None, expires: None };
    }
}
