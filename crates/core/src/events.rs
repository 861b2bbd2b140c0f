//! Which names of events carry somebody's word: what the hub itself tells, and what admins tell. Knows nothing of what
//! is in an event.

use roomcast_protocol::{ErrorCode, Failure};

use crate::permission::Role;

/// How the names of events begin that only admins and services publish.
pub const ADMIN_EVENTS: &str = "admin:";
/// What the hub tells by itself. Whoever reads one takes it for something that was checked and stored.
pub const HUB_EVENTS: [&str; 5] = ["comment", "comment_deleted", "doc", "purged", "upload"];

/// Refuses the names of events and signals that this role may not use, in any room.
pub fn may_say(role: Role, event: &str) -> Result<(), Failure> {
    if role >= Role::Admin {
        return Ok(());
    }
    if event.starts_with(ADMIN_EVENTS) {
        return Err(Failure::new(ErrorCode::Forbidden, "events named admin:… are for admins"));
    }
    if HUB_EVENTS.contains(&event) {
        let message = format!("events named {event} are the hub's own: use the operation, or another name");
        return Err(Failure::new(ErrorCode::Forbidden, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_no_admin_can_not_speak_for_the_hub_or_for_admins() {
        for role in [Role::Guest, Role::Member] {
            for event in HUB_EVENTS.into_iter().chain(["admin:notice"]) {
                assert_eq!(may_say(role, event).unwrap_err().code, ErrorCode::Forbidden, "{event}");
            }
            for event in ["photo", "comments", "administration", "uploaded"] {
                assert!(may_say(role, event).is_ok(), "{event}");
            }
        }
        for role in [Role::Admin, Role::Service] {
            for event in HUB_EVENTS.into_iter().chain(["admin:notice", "photo"]) {
                assert!(may_say(role, event).is_ok(), "{event}");
            }
        }
    }
}
