//! Error codes and WebSocket close codes, each in one table.

use serde::{Deserialize, Serialize};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal;)*) => {
        /// What went wrong, as told in an `error` frame and in `application/problem+json`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant),*];

            /// The code as it stands on the wire and in metric labels.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// The HTTP status of the same failure in the HTTP API.
            pub const fn status(self) -> u16 {
                match self { $(ErrorCode::$variant => $status,)* }
            }
        }
    };
}

error_codes! {
    /// The frame or body could not be understood.
    BadFrame = "bad_frame", 400;
    /// No such operation.
    UnknownOp = "unknown_op", 404;
    /// The first frame of a connection must be `connect`.
    ConnectFirst = "connect_first", 400;
    /// The token or ticket is not valid.
    InvalidToken = "invalid_token", 401;
    /// The token was valid once.
    TokenExpired = "token_expired", 401;
    /// This role may not do that here.
    Forbidden = "forbidden", 403;
    /// The room name is malformed or its namespace is not configured.
    BadRoom = "bad_room", 400;
    /// The operation needs a room that this connection has not joined.
    NotJoined = "not_joined", 409;
    /// The connection or the node holds as many rooms as it may.
    TooManyRooms = "too_many_rooms", 429;
    /// The room holds as many members as it may.
    RoomFull = "room_full", 429;
    /// The frame, body or value is larger than allowed.
    TooLarge = "too_large", 413;
    /// Too fast; retry after `retry_ms`.
    RateLimited = "rate_limited", 429;
    /// The version given is not the current one.
    Conflict = "conflict", 409;
    /// The idempotency key was used with another body.
    KeyReused = "key_reused", 409;
    /// Nothing is left of the item.
    SoldOut = "sold_out", 409;
    /// The user's own cap is reached.
    LimitReached = "limit_reached", 409;
    /// No such thing.
    NotFound = "not_found", 404;
    /// The broker is down: nothing was applied, retry after `retry_ms`.
    Unavailable = "unavailable", 503;
    /// A fault of the server.
    Internal = "internal", 500;
}

macro_rules! close_codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $reason:literal;)*) => {
        /// Why the server closes a WebSocket. 4000–4499 may reconnect, 4500–4999 must not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum CloseCode { $($(#[$doc])* $variant,)* }

        impl CloseCode {
            /// Every code that the server sends.
            pub const ALL: &'static [CloseCode] = &[$(CloseCode::$variant),*];

            /// The number in the close frame.
            pub const fn code(self) -> u16 {
                match self { $(CloseCode::$variant => $code,)* }
            }

            /// The reason text in the close frame, and the metric label.
            pub const fn reason(self) -> &'static str {
                match self { $(CloseCode::$variant => $reason,)* }
            }
        }
    };
}

close_codes! {
    /// The client closed, or the server has nothing more to say.
    GoingAway = 1001, "going away";
    /// A frame broke RFC 6455.
    Protocol = 1002, "protocol error";
    /// A text frame was not UTF-8.
    InvalidData = 1007, "invalid data";
    /// A frame was larger than `limits.frame_bytes`.
    TooBig = 1009, "frame too big";
    /// A fault of the server.
    InternalError = 1011, "internal error";
    /// The node restarts; reconnect to another.
    Restart = 1012, "node restarts";
    /// The node is overloaded.
    Overloaded = 1013, "overloaded";
    /// No frame came for `limits.idle_timeout`.
    Idle = 4000, "idle";
    /// The client read more slowly than its events came.
    SlowConsumer = 4001, "slow consumer";
    /// The token ran out and was not refreshed.
    TokenExpired = 4002, "token expired";
    /// Moved to another node to balance load.
    Shed = 4003, "shed to another node";
    /// No answer to a ping.
    PingTimeout = 4004, "ping timeout";
    /// The first `connect` carried an invalid token.
    InvalidToken = 4500, "invalid token";
    /// No `connect` came in time.
    ConnectTimeout = 4501, "no connect in time";
    /// An admin disconnected this client.
    Disconnected = 4503, "disconnected by an admin";
    /// Far too many frames, again and again.
    Flood = 4504, "flood";
    /// The client does not speak this protocol.
    Misuse = 4505, "protocol misuse";
}

impl CloseCode {
    /// Whether a client may come back after this code.
    pub const fn may_reconnect(self) -> bool {
        let code = self.code();
        code < 4500 && code != 1002 && code != 1007 && code != 1009
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_codes_share_a_name_or_number() {
        let names: std::collections::HashSet<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        let numbers: std::collections::HashSet<_> = CloseCode::ALL.iter().map(|c| c.code()).collect();
        assert_eq!(numbers.len(), CloseCode::ALL.len());
    }

    #[test]
    fn codes_from_4500_are_final() {
        assert!(CloseCode::ALL.iter().filter(|c| c.code() >= 4500).all(|c| !c.may_reconnect()));
        assert!(
            CloseCode::ALL.iter().filter(|c| (4000..4500).contains(&c.code())).all(|c| c.may_reconnect())
        );
    }

    #[test]
    fn reasons_fit_a_close_frame() {
        assert!(CloseCode::ALL.iter().all(|c| c.reason().len() <= 123));
    }
}
