//! What an error of the client or server means for the caller: certainly nothing happened, nobody knows, or denied.

use std::sync::Arc;

use fred::error::{Error, ErrorKind};

use crate::broker::BrokerError;

/// What a command does when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing that matters if it happens unseen.
    Harmless,
    /// Something that a blind repetition would double.
    Write,
}

/// First words of the server's refusals, given before anything ran. The scripts see to it that a write which is refused is
/// the first one.
const REFUSALS: [&str; 15] = [
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "WRONGPASS",
];

fn word(error: &Error) -> &str {
    error.details().split_whitespace().next().unwrap_or_default()
}

/// The error of a command that was not sent, for this reason.
pub(super) fn not_sent(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Routing, why.into())
}

/// Whether an ACL refused it.
pub(super) fn is_denied(error: &Error) -> bool {
    word(error) == "NOPERM"
}

/// Whether the server will do it before long.
pub(super) fn is_busy(error: &Error) -> bool {
    matches!(word(error), "BUSY" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "TRYAGAIN")
}

/// Whether another server of the cluster has to be asked: this one is fine.
pub(super) fn is_elsewhere(error: &Error) -> bool {
    matches!(word(error), "MOVED" | "ASK" | "TRYAGAIN")
}

/// Whether the server refused it before it did anything.
pub(super) fn is_refusal(error: &Error) -> bool {
    is_denied(error) || REFUSALS.contains(&word(error))
}

/// Whether trying again with the same credentials is pointless.
pub(super) fn is_hopeless(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Auth | ErrorKind::Config | ErrorKind::Url)
        || matches!(word(error), "NOPERM" | "WRONGPASS" | "NOAUTH")
}

/// The error for the caller.
pub(super) fn map(error: &Error, effect: Effect) -> BrokerError {
    let cause: Arc<str> = error.to_string().into();
    if is_denied(error) {
        BrokerError::Denied(cause)
    } else if REFUSALS.contains(&word(error)) || was_never_sent(error) {
        BrokerError::Unavailable { maybe_applied: false, cause }
    } else if is_fault(error) {
        BrokerError::Internal(cause)
    } else {
        BrokerError::Unavailable { maybe_applied: effect == Effect::Write, cause }
    }
}

/// Why a start failed: what no repetition can mend is told apart.
pub(super) fn start_error(error: &Error) -> BrokerError {
    match map(error, Effect::Harmless) {
        BrokerError::Unavailable { cause, .. } if is_hopeless(error) => BrokerError::Denied(cause),
        error => error,
    }
}

/// Whether nothing was written, as the connection says by the kind.
fn was_never_sent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Config | ErrorKind::Auth | ErrorKind::Routing)
}

/// Whether it is an answer that no command of ours should get.
fn is_fault(error: &Error) -> bool {
    matches!(word(error), "ERR" | "WRONGTYPE" | "NOPROTO")
        || matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::InvalidCommand | ErrorKind::Parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(kind: ErrorKind, details: &'static str, effect: Effect) -> Option<bool> {
        match map(&Error::new(kind, details), effect) {
            BrokerError::Unavailable { maybe_applied, .. } => Some(maybe_applied),
            _ => None,
        }
    }

    #[test]
    fn a_lost_answer_leaves_a_write_in_doubt_and_a_read_not() {
        for (kind, details) in
            [(ErrorKind::Timeout, "Request timed out."), (ErrorKind::IO, "Connection closed.")]
        {
            assert_eq!(applied(kind.clone(), details, Effect::Write), Some(true));
            assert_eq!(applied(kind, details, Effect::Harmless), Some(false));
        }
    }

    #[test]
    fn a_refusal_is_certain() {
        for details in ["READONLY You can't write", "OOM command not allowed", "NOREPLICAS Not enough"] {
            assert_eq!(applied(ErrorKind::Unknown, details, Effect::Write), Some(false), "{details}");
        }
        let away = not_sent("no connection").details().to_owned();
        let BrokerError::Unavailable { maybe_applied, .. } = map(&not_sent(away), Effect::Write) else {
            panic!("it is away")
        };
        assert!(!maybe_applied);
    }

    #[test]
    fn denials_and_faults_are_told_apart() {
        let denied = Error::new(ErrorKind::Unknown, "NOPERM this user has no permissions");
        assert!(matches!(map(&denied, Effect::Write), BrokerError::Denied(_)));
        let fault = Error::new(ErrorKind::Unknown, "ERR user_script:3: oops");
        assert!(matches!(map(&fault, Effect::Write), BrokerError::Internal(_)));
    }
}
