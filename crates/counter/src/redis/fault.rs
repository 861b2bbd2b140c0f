//! What an error of the client or the server means: certainly nothing happened, or nobody knows.

use fred::error::{Error, ErrorKind};

use crate::CounterError;

/// What a command does when it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: it may always be sent again.
    Read,
    /// It changes something.
    Write,
}

/// How the server refuses before a script's first write; the scripts see to it that a later write is never the one
/// refused (see `log.lua`).
const REFUSALS: [&str; 16] = [
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOPERM",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "WRONGPASS",
];

pub(crate) fn map(error: Error, effect: Effect) -> CounterError {
    if *error.kind() == ErrorKind::Backpressure {
        return CounterError::Busy;
    }
    if is_refusal(&error) || was_never_sent(&error) {
        return CounterError::Unavailable { source: error.into(), maybe_applied: false };
    }
    if is_fault(&error) {
        return CounterError::Internal(error.into());
    }
    CounterError::Unavailable { source: error.into(), maybe_applied: effect == Effect::Write }
}

fn is_refusal(error: &Error) -> bool {
    error.details().split_whitespace().next().is_some_and(|code| REFUSALS.contains(&code))
}

/// The cases in which nothing was written: a route says so by its kind, fred in part only by its words, because its kinds also
/// stand for connections lost in the middle of a command. A test provokes the first, so a change of words would show.
fn was_never_sent(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Config | ErrorKind::Auth | ErrorKind::Routing => true,
        ErrorKind::Canceled => error.details() == "Connection closed unexpectedly.",
        ErrorKind::Unknown => matches!(
            error.details(),
            "Client is not initialized." | "Failed to send command to router." | "Failed to route command."
        ),
        _ => false,
    }
}

/// An answer of the server that no script of ours should cause, or one that makes no sense.
fn is_fault(error: &Error) -> bool {
    let answered = ["ERR ", "WRONGTYPE ", "NOPROTO "].iter().any(|code| error.details().starts_with(code));
    answered
        || matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::InvalidCommand | ErrorKind::Parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maybe_applied(kind: ErrorKind, details: &'static str, effect: Effect) -> Option<bool> {
        match map(Error::new(kind, details), effect) {
            CounterError::Unavailable { maybe_applied, .. } => Some(maybe_applied),
            _ => None,
        }
    }

    #[test]
    fn a_timeout_or_lost_connection_leaves_a_write_in_doubt() {
        for (kind, details) in [
            (ErrorKind::Timeout, "Request timed out."),
            (ErrorKind::IO, "Connection closed."),
            (ErrorKind::Canceled, "Canceled."),
            (ErrorKind::Unknown, "Too many failed write attempts."),
        ] {
            assert_eq!(maybe_applied(kind.clone(), details, Effect::Write), Some(true), "{details}");
            assert_eq!(maybe_applied(kind, details, Effect::Read), Some(false), "{details}");
        }
    }

    #[test]
    fn a_refusal_is_certain() {
        for details in
            ["READONLY You can't write against a read only replica.", "OOM command not allowed", "LOADING x"]
        {
            assert_eq!(maybe_applied(ErrorKind::Unknown, details, Effect::Write), Some(false), "{details}");
        }
    }

    #[test]
    fn what_was_not_sent_was_not_applied() {
        let fail_fast = maybe_applied(ErrorKind::Canceled, "Connection closed unexpectedly.", Effect::Write);
        assert_eq!(fail_fast, Some(false));
        assert_eq!(
            maybe_applied(ErrorKind::Routing, "no connection to 127.0.0.1:1", Effect::Write),
            Some(false)
        );
    }

    #[test]
    fn too_much_at_once_is_no_fault_of_the_store() {
        let busy = map(Error::new(ErrorKind::Backpressure, "too many commands are in flight"), Effect::Write);
        assert!(matches!(busy, CounterError::Busy));
    }

    #[test]
    fn a_fault_of_ours_is_not_called_unavailable() {
        assert_eq!(maybe_applied(ErrorKind::Unknown, "ERR user_script:1: oops", Effect::Write), None);
        assert_eq!(maybe_applied(ErrorKind::InvalidArgument, "WRONGTYPE Operation", Effect::Write), None);
    }
}
