//! Who is muted or banned: the store's list at hand on every node, read anew when somebody says it changed, and from
//! time to time in case nobody was heard.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use roomcast_counter::{Counter, CounterError, Restriction, RestrictionKind, Whom};
use roomcast_protocol::{ErrorCode, Failure};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};

use crate::{node::Node, pump::Word};

/// A change that was not heard of holds after this long.
const REREAD: Duration = Duration::from_secs(5);

/// Whether an act is heard by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// A mute forbids it.
    Yes,
    /// Only a ban does.
    No,
}

#[derive(Debug, Default)]
struct Known {
    list: Vec<Restriction>,
    of: HashMap<Whom, Vec<Restriction>>,
}

/// The list as this node knows it.
#[derive(Debug, Default)]
pub struct Restrictions {
    known: RwLock<Arc<Known>>,
    changed: Notify,
}

impl Restrictions {
    /// Refuses what this user, from this address, may not do; without a room, what is done nowhere in particular.
    pub fn admit(
        &self,
        user: &str,
        ip: Option<IpAddr>,
        room: Option<&str>,
        speaks: Speaks,
        now: u64,
    ) -> Result<(), Failure> {
        let known = self.known();
        if known.of.is_empty() {
            return Ok(());
        }
        let user = Whom::User(user.to_owned());
        let ip = ip.map(|ip| Whom::Ip(ip.to_canonical()));
        let meant = [Some(&user), ip.as_ref()].into_iter().flatten().filter_map(|whom| known.of.get(whom));
        let mut muted = false;
        for restriction in meant.flatten() {
            let here = restriction.room.is_none() || restriction.room.as_deref() == room;
            if !here || restriction.until <= now {
                continue;
            }
            match restriction.kind {
                RestrictionKind::Ban => return Err(Failure::new(ErrorCode::Forbidden, "banned")),
                RestrictionKind::Mute => muted = true,
            }
        }
        if muted && speaks == Speaks::Yes {
            return Err(Failure::new(ErrorCode::Forbidden, "muted"));
        }
        Ok(())
    }

    /// Somebody said that the list changed.
    pub fn note(&self) {
        self.changed.notify_one();
    }

    /// Reads the list. Whether it is another one than before.
    pub async fn reread(&self, counter: &Counter) -> Result<bool, CounterError> {
        let mut list = counter.restrictions().await?;
        list.sort_by(|a, b| (&a.whom, &a.room, a.until).cmp(&(&b.whom, &b.room, b.until)));
        if self.known().list == list {
            return Ok(false);
        }
        let mut of: HashMap<Whom, Vec<Restriction>> = HashMap::new();
        for restriction in &list {
            of.entry(restriction.whom.clone()).or_default().push(restriction.clone());
        }
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Known { list, of });
        Ok(true)
    }

    fn known(&self) -> Arc<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Keeps the list fresh, and has the workers hold their connections to it.
pub(crate) async fn keep(node: Arc<Node>) {
    let mut tick = interval(REREAD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = node.restrictions.changed.notified() => {}
        }
        if let Err(error) = reread_and_enforce(&node).await {
            tracing::debug!(%error, "the list of mutes and bans could not be read");
        }
    }
}

/// Reads the list; where it changed, the workers put out who is banned.
pub(crate) async fn reread_and_enforce(node: &Node) -> Result<(), CounterError> {
    if node.restrictions.reread(&node.backend.counter).await? {
        for lane in node.lanes.get().into_iter().flatten() {
            // A worker that takes no more words is stopping.
            let _stopping = lane.words.send(Word::Enforce);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(list: Vec<Restriction>) -> Restrictions {
        let mut of: HashMap<Whom, Vec<Restriction>> = HashMap::new();
        for restriction in &list {
            of.entry(restriction.whom.clone()).or_default().push(restriction.clone());
        }
        Restrictions { known: RwLock::new(Arc::new(Known { list, of })), changed: Notify::new() }
    }

    fn restriction(kind: RestrictionKind, whom: Whom, room: Option<&str>) -> Restriction {
        Restriction { kind, whom, room: room.map(str::to_owned), until: 1_000 }
    }

    #[test]
    fn a_mute_forbids_speaking_in_its_room_until_it_ends() {
        let ann = Whom::User("ann".to_owned());
        let list = known(vec![restriction(RestrictionKind::Mute, ann, Some("event:a"))]);
        let admit = |user, room, speaks, now| list.admit(user, None, Some(room), speaks, now).is_ok();
        assert!(!admit("ann", "event:a", Speaks::Yes, 999));
        assert!(admit("ann", "event:a", Speaks::Yes, 1_000));
        assert!(admit("ann", "event:a", Speaks::No, 0));
        assert!(admit("ann", "event:b", Speaks::Yes, 0));
        assert!(admit("bob", "event:a", Speaks::Yes, 0));
    }

    #[test]
    fn a_ban_of_an_address_forbids_everything_everywhere() {
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let list = known(vec![restriction(RestrictionKind::Ban, Whom::Ip(ip), None)]);
        for room in [None, Some("event:a")] {
            assert!(list.admit("ann", Some(ip), room, Speaks::No, 0).is_err());
            let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
            assert!(list.admit("ann", Some(mapped), room, Speaks::No, 0).is_err());
            assert!(list.admit("ann", None, room, Speaks::Yes, 0).is_ok());
        }
    }
}
