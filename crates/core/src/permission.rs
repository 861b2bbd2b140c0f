//! Who may do what where: roles, namespaces and the patterns of a token.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use roomcast_protocol::{Namespace, RoomName};
use serde::{Deserialize, Serialize};

/// Events kept per room: about 200 KiB of Redis at 200 bytes each.
pub const DEFAULT_HISTORY_SIZE: u64 = 1_000;
/// How long a room's events are kept after its last one: longer than any tunnel or lift.
pub const DEFAULT_HISTORY_TTL: Duration = Duration::from_secs(3_600);

/// A role; each may do what the one before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whoever comes without a token.
    Guest,
    /// A signed-in user.
    Member,
    /// A moderator or operator.
    Admin,
    /// A back end.
    Service,
}

impl Role {
    /// Every role, lowest first.
    pub const ALL: &'static [Role] = &[Role::Guest, Role::Member, Role::Admin, Role::Service];

    /// The role's name in tokens, configuration and frames.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Guest => "guest",
            Role::Member => "member",
            Role::Admin => "admin",
            Role::Service => "service",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.as_str() == name)
    }
}

/// How much of a room's past is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRules {
    /// Events kept; 0 keeps none.
    pub size: u64,
    /// For how long after the last event.
    pub ttl: Duration,
}

/// Who may join at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Every role that the rules name.
    Everyone,
    /// Only the user whose id is the room's name.
    Owner,
    /// Only role `admin`: not even a service listens in.
    AdminsOnly,
}

/// The rules of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Who may join at all; fixed for the built-in namespaces.
    pub audience: Audience,
    /// The lowest role that joins.
    pub join: Role,
    /// The lowest role that publishes and signals.
    pub publish: Role,
    /// The lowest role that likes, counts, comments and reserves.
    pub count: Role,
    /// The lowest role that moderates.
    pub moderate: Role,
    /// The past.
    pub history: HistoryRules,
    /// Whether members are counted and listed.
    pub presence: bool,
    /// Whether comments wait for approval.
    pub moderated: bool,
    /// Whether items can be stocked and reserved.
    pub stock: bool,
}

impl Default for Rules {
    /// What a newly configured namespace starts from: members talk, admins moderate.
    fn default() -> Self {
        Self {
            audience: Audience::Everyone,
            join: Role::Member,
            publish: Role::Member,
            count: Role::Member,
            moderate: Role::Admin,
            history: HistoryRules { size: DEFAULT_HISTORY_SIZE, ttl: DEFAULT_HISTORY_TTL },
            presence: true,
            moderated: false,
            stock: false,
        }
    }
}

/// The configured namespaces.
#[derive(Debug, Clone)]
pub struct Namespaces(BTreeMap<Namespace, Rules>);

impl Default for Namespaces {
    /// `event`, `admin` and `user`, as the contract's section 5 has them.
    fn default() -> Self {
        let event = Rules { join: Role::Guest, count: Role::Guest, stock: true, ..Rules::default() };
        let admin = Rules {
            audience: Audience::AdminsOnly,
            join: Role::Admin,
            publish: Role::Admin,
            count: Role::Admin,
            ..Rules::default()
        };
        let user = Rules {
            audience: Audience::Owner,
            join: Role::Guest,
            publish: Role::Service,
            count: Role::Service,
            presence: false,
            ..Rules::default()
        };
        let mut all = Self(BTreeMap::new());
        for (name, rules) in [("event", event), ("admin", admin), ("user", user)] {
            if let Ok(name) = Namespace::parse(name) {
                all.insert(name, rules);
            }
        }
        all
    }
}

impl Namespaces {
    /// Adds or replaces a namespace.
    pub fn insert(&mut self, name: Namespace, rules: Rules) {
        self.0.insert(name, rules);
    }

    /// The rules for a room; none when its namespace is not configured, or the room lacks or has a name against
    /// its namespace's nature.
    pub fn rules(&self, room: &RoomName) -> Option<&Rules> {
        let rules = self.0.get(room.namespace())?;
        match (rules.audience, room.name()) {
            (Audience::AdminsOnly, Some(_)) | (Audience::Owner, None) => None,
            _ => Some(rules),
        }
    }

    /// Every namespace and its rules, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Namespace, &Rules)> {
        self.0.iter()
    }
}

/// Room patterns of a token: a room name, or a prefix that ends in `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomPatterns(Arc<[String]>);

impl RoomPatterns {
    /// Keeps the patterns of a token.
    pub fn new(patterns: impl IntoIterator<Item = String>) -> Self {
        Self(patterns.into_iter().collect())
    }

    /// Whether any pattern matches.
    pub fn matches(&self, room: &RoomName) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => room.as_str().starts_with(prefix),
            None => room.as_str() == pattern,
        })
    }
}

/// Who a connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The public id.
    pub user: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// Where: with patterns, exactly the rooms that match may be joined, also those that the role alone would
    /// not open (never `admin` or another user's room); without, what the namespaces allow.
    pub rooms: Option<RoomPatterns>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Join, and with it receive, and read history and presence.
    Join,
    /// Publish and signal.
    Publish,
    /// Like, count, comment, reserve.
    Count,
    /// Approve, reject.
    Moderate,
}

impl Rules {
    /// Whether `who` may do that in `room`, which lies in the namespace of these rules.
    pub fn allow(&self, access: Access, who: &Identity, room: &RoomName) -> bool {
        let listed = who.rooms.as_ref().map(|patterns| patterns.matches(room));
        if listed == Some(false) {
            return false;
        }
        let lowest = match access {
            Access::Join => self.join,
            Access::Publish => self.publish,
            Access::Count => self.count,
            Access::Moderate => self.moderate,
        };
        match self.audience {
            Audience::AdminsOnly => who.role == Role::Admin,
            Audience::Owner if access == Access::Join => room.name() == Some(&who.user),
            Audience::Owner => who.role >= lowest,
            Audience::Everyone => who.role >= lowest || (access == Access::Join && listed == Some(true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn who(user: &str, role: Role) -> Identity {
        Identity { user: user.into(), role, rooms: None }
    }

    fn allow(access: Access, who: &Identity, name: &str) -> bool {
        let all = Namespaces::default();
        let room = room(name);
        all.rules(&room).is_some_and(|rules| rules.allow(access, who, &room))
    }

    #[test]
    fn guests_watch_and_like_events_but_do_not_publish() {
        let guest = who("g", Role::Guest);
        assert!(allow(Access::Join, &guest, "event:wall"));
        assert!(allow(Access::Count, &guest, "event:wall"));
        assert!(!allow(Access::Publish, &guest, "event:wall"));
        assert!(allow(Access::Publish, &who("m", Role::Member), "event:wall"));
        assert!(!allow(Access::Moderate, &who("m", Role::Member), "event:wall"));
    }

    #[test]
    fn only_role_admin_enters_the_admin_room() {
        for &role in Role::ALL {
            for access in [Access::Join, Access::Publish, Access::Count, Access::Moderate] {
                assert_eq!(
                    allow(access, &who("x", role), "admin"),
                    role == Role::Admin,
                    "{role:?} {access:?}"
                );
            }
        }
        assert!(!allow(Access::Join, &who("x", Role::Admin), "admin:other"));
    }

    #[test]
    fn a_user_room_belongs_to_that_user() {
        assert!(allow(Access::Join, &who("ann", Role::Guest), "user:ann"));
        assert!(!allow(Access::Join, &who("eve", Role::Admin), "user:ann"));
        assert!(!allow(Access::Publish, &who("ann", Role::Admin), "user:ann"));
        assert!(allow(Access::Publish, &who("back", Role::Service), "user:ann"));
        assert!(!allow(Access::Join, &who("ann", Role::Guest), "user"));
    }

    #[test]
    fn patterns_narrow_and_widen_but_never_open_the_admin_room() {
        let mut all = Namespaces::default();
        all.insert(Namespace::parse("vip").unwrap(), Rules { join: Role::Admin, ..Rules::default() });
        let mut member = who("m", Role::Member);
        member.rooms =
            Some(RoomPatterns::new(["vip:a".into(), "event:*".into(), "admin".into(), "user:*".into()]));
        let may = |name: &str| {
            let room = room(name);
            all.rules(&room).is_some_and(|rules| rules.allow(Access::Join, &member, &room))
        };
        assert!(may("vip:a"));
        assert!(!may("vip:b"));
        assert!(may("event:x"));
        assert!(!may("admin"));
        assert!(!may("user:ann"));
        assert!(may("user:m"));
    }

    #[test]
    fn unconfigured_namespaces_have_no_rules() {
        assert!(Namespaces::default().rules(&room("chat:x")).is_none());
    }
}
