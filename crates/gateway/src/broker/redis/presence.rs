//! Who is in a room: each node owns its share, and readers add up the shares of the live nodes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fred::types::Value;
use futures_util::future::join_all;
use roomcast_protocol::{Member, PresenceCount, RoomName};

use super::{commands::Commands, fault::Effect, keys::Keys, nodes::Nodes, nonsense, scripts::Scripts};
use crate::broker::{BrokerError, MAX_MEMBERS, Members, PresenceState, PresenceUpdate};

/// Users in one script: a few milliseconds of the server's time.
const USERS_AT_ONCE: usize = 5_000;
/// Shares live at least this long without renewal: longer than any pause that is not a death. Until then the lease
/// alone says whether they count.
const MIN_SHARE_TTL: Duration = Duration::from_secs(600);
/// Shares renewed at one heartbeat, besides a part of all.
const RENEWALS: usize = 1_000;

#[derive(Debug)]
pub(super) struct Presence {
    node: String,
    share_ttl: Duration,
    keys: Keys,
    commands: Commands,
    scripts: Arc<Scripts>,
    nodes: Arc<Nodes>,
    shares: Mutex<Shares>,
}

/// The rooms in which this node has a share, and when each has to be renewed.
#[derive(Debug, Default)]
struct Shares {
    due: HashMap<RoomName, Instant>,
    order: BTreeSet<(Instant, RoomName)>,
}

impl Shares {
    fn touch(&mut self, room: &RoomName, due: Instant) {
        self.forget(room);
        self.due.insert(room.clone(), due);
        self.order.insert((due, room.clone()));
    }

    fn forget(&mut self, room: &RoomName) {
        if let Some(due) = self.due.remove(room) {
            self.order.remove(&(due, room.clone()));
        }
    }

    /// Takes out what is due, and puts it back for later.
    fn take_due(&mut self, now: Instant, again: Instant) -> Vec<RoomName> {
        let most = RENEWALS + self.due.len() / 64;
        let due = self.order.iter().take_while(|(due, _)| *due <= now).take(most);
        let taken: Vec<_> = due.map(|(_, room)| room.clone()).collect();
        for room in &taken {
            self.touch(room, again);
        }
        taken
    }
}

impl Presence {
    pub(super) fn new(
        node: &str,
        lease: Duration,
        keys: Keys,
        commands: Commands,
        scripts: Arc<Scripts>,
        nodes: Arc<Nodes>,
    ) -> Self {
        Self {
            node: node.to_owned(),
            share_ttl: MIN_SHARE_TTL.max(lease * 20),
            keys,
            commands,
            scripts,
            nodes,
            shares: Mutex::default(),
        }
    }

    pub(super) async fn update(
        &self,
        room: &RoomName,
        update: &PresenceUpdate,
        interval: Duration,
    ) -> Result<PresenceState, BrokerError> {
        let interval = interval.as_millis().to_string();
        let PresenceUpdate { connections, present, gone, replace } = update;
        let mut present: VecDeque<_> = present.chunks(USERS_AT_ONCE).collect();
        let mut gone: VecDeque<_> = gone.chunks(USERS_AT_ONCE).collect();
        let mut replace = *replace;
        // A change too large for one step takes several; only the last is told.
        loop {
            let (gone_now, present_now) = match gone.pop_front() {
                Some(gone) => (gone, &[][..]),
                None => (&[][..], present.pop_front().unwrap_or_default()),
            };
            let last = gone.is_empty() && present.is_empty();
            let interval = if last { &*interval } else { "never" };
            let state = self.step(room, *connections, present_now, gone_now, replace, interval).await?;
            replace = false;
            if last {
                return Ok(state);
            }
        }
    }

    async fn step(
        &self,
        room: &RoomName,
        connections: u64,
        present: &[(String, u64)],
        gone: &[String],
        replace: bool,
        interval: &str,
    ) -> Result<PresenceState, BrokerError> {
        {
            let mut shares = self.shares();
            if connections == 0 {
                shares.forget(room);
            } else {
                shares.touch(room, Instant::now() + self.share_ttl / 2);
            }
        }
        let mut args = self.head(room);
        args.extend([
            self.node.clone().into(),
            connections.to_string().into(),
            if replace { "1".into() } else { "0".into() },
            self.share_ttl.as_millis().to_string().into(),
            interval.into(),
            self.keys.channel(room).into(),
            gone.len().to_string().into(),
        ]);
        args.extend(gone.iter().map(Value::from));
        for (user, connections) in present {
            args.extend([user.into(), connections.to_string().into()]);
        }
        let mut keys = self.names(room);
        keys.push(self.keys.presence_pushed(room));
        // Told again it is the same: a share is replaced, not added to.
        let answer: Vec<String> =
            self.commands.run(&self.scripts.presence_update, keys, args, Effect::Harmless).await?;
        let [connections, users, published] = &answer[..] else { return Err(nonsense("presence_update")) };
        Ok(PresenceState { count: count(connections, users)?, published: published == "1" })
    }

    pub(super) async fn members(
        &self,
        room: &RoomName,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Members, BrokerError> {
        let limit = limit.clamp(1, MAX_MEMBERS);
        let (names, args) = self.members_call(room, cursor, limit + 1);
        let answer: Vec<String> =
            self.commands.run(&self.scripts.presence_members, names, args, Effect::Harmless).await?;
        let [connections, users, rest @ ..] = &answer[..] else { return Err(nonsense("presence_members")) };
        let count = count(connections, users)?;
        let mut merged = BTreeMap::<&str, u64>::new();
        for pair in rest.chunks_exact(2) {
            let connections: u64 = pair[1].parse().map_err(|_| nonsense("presence_members"))?;
            *merged.entry(&pair[0]).or_default() += connections;
        }
        let more = merged.len() > limit;
        let members: Vec<_> = merged
            .into_iter()
            .take(limit)
            .map(|(user, connections)| Member { user: user.to_owned(), connections })
            .collect();
        let cursor = members.last().filter(|_| more).map(|member| member.user.clone());
        Ok(Members { count, members, cursor })
    }

    /// The keys and arguments of `presence_members.lua`.
    pub(super) fn members_call(
        &self,
        room: &RoomName,
        cursor: Option<&str>,
        limit: usize,
    ) -> (Vec<String>, Vec<Value>) {
        let mut args = self.head(room);
        args.extend([cursor.unwrap_or_default().into(), limit.to_string().into()]);
        (self.names(room), args)
    }

    /// Renews the shares that are due; what fails is due again. Where one has vanished, the feed is told.
    pub(super) async fn renew(&self) -> Result<(), BrokerError> {
        let now = Instant::now();
        let due = self.shares().take_due(now, now + self.share_ttl / 2);
        let ttl = self.share_ttl.as_millis().to_string();
        for rooms in due.chunks((self.commands.most_at_once() / 3).max(1)) {
            let renewals = rooms.iter().map(|room| async {
                let names = [
                    self.keys.presence_users(room, &self.node),
                    self.keys.presence(room),
                    self.keys.presence_many(room, &self.node),
                ];
                let renewals = names.iter().map(|name| {
                    let words = vec![name.into(), ttl.clone().into()];
                    self.commands.send::<u64>("PEXPIRE", name, words, Effect::Harmless)
                });
                let renewed: Result<Vec<_>, _> = join_all(renewals).await.into_iter().collect();
                renewed.map(|renewed| renewed[0] == 1)
            });
            let mut outcome = Ok(());
            for (room, renewed) in rooms.iter().zip(join_all(renewals).await) {
                match renewed {
                    Ok(true) => {}
                    Ok(false) => self.nodes.changed(),
                    Err(error) => {
                        self.shares().touch(room, now);
                        outcome = Err(error);
                    }
                }
            }
            outcome?;
        }
        Ok(())
    }

    /// Removes every share of this node.
    pub(super) async fn leave(&self) -> Result<(), BrokerError> {
        let rooms: Vec<_> = self.shares().due.keys().cloned().collect();
        let nobody = PresenceUpdate { replace: true, ..PresenceUpdate::default() };
        for rooms in rooms.chunks(self.commands.most_at_once()) {
            let updates = rooms.iter().map(|room| self.step(room, 0, &nobody.present, &[], true, "never"));
            for left in join_all(updates).await {
                left?;
            }
        }
        Ok(())
    }

    /// The arguments that all presence scripts begin with.
    fn head(&self, room: &RoomName) -> Vec<Value> {
        let live = self.nodes.live();
        let mut args = vec![self.keys.presence(room).into(), live.len().to_string().into()];
        args.extend(live.into_iter().map(Value::from));
        args
    }

    fn names(&self, room: &RoomName) -> Vec<String> {
        vec![self.keys.presence(room), self.keys.presence_scratch(room)]
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn count(connections: &str, users: &str) -> Result<PresenceCount, BrokerError> {
    let number = |text: &str| text.parse().map_err(|_| nonsense("a presence script"));
    Ok(PresenceCount { connections: number(connections)?, users: number(users)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(number: usize) -> RoomName {
        RoomName::parse(&format!("event:{number}")).unwrap()
    }

    #[test]
    fn what_is_due_is_renewed_once_and_what_has_gone_is_not() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut shares = Shares::default();
        shares.touch(&room(1), later(10));
        shares.touch(&room(2), later(10));
        shares.touch(&room(3), later(10));
        shares.touch(&room(2), later(20));
        shares.forget(&room(3));
        assert!(shares.take_due(later(9), later(19)).is_empty());
        assert_eq!(shares.take_due(later(10), later(30)), [room(1)]);
        assert_eq!(shares.take_due(later(20), later(40)), [room(2)]);
        assert_eq!(shares.take_due(later(30), later(50)), [room(1)]);
        assert_eq!(
            (shares.due.len(), shares.order.len()),
            (2, 2),
            "no entry is left of the room that has gone"
        );
    }
}
