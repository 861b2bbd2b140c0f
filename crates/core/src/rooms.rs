//! One worker's rooms: who is in them, how many may be, and since when a room is empty, all changed together.
//!
//! A room without members is idle: it keeps its state for a while, because people reload pages, and is the first
//! to go when there are too many. The table never decides how many rooms a node may have, sends nothing, and
//! belongs to one thread: there is no lock in it.

mod slots;

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use roomcast_protocol::RoomName;

pub use self::slots::MemberId;
use self::slots::Slots;
use crate::limits::{Cap, Limits};

/// Below this many, memory is not given back: it would be asked for again.
const SHRINK_FLOOR: usize = 64;

/// The bounds of a table.
#[derive(Debug, Clone, Copy)]
pub struct RoomRules {
    /// Members per room.
    pub members: Cap,
    /// How long a room without members is kept.
    pub idle_ttl: Duration,
}

impl From<&Limits> for RoomRules {
    fn from(limits: &Limits) -> Self {
        Self { members: limits.members_per_room, idle_ttl: limits.idle_room_ttl }
    }
}

/// The room holds all the members it may, or is gone: a [`RoomId`] that has expired admits nobody either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the room is full")]
pub struct RoomFull;

/// A room's place in its table. Once the room is gone, it fits no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoomId {
    index: u32,
    generation: u32,
}

/// Rooms with the state `R` each, and members with the state `M` each.
#[derive(Debug)]
pub struct RoomTable<R, M> {
    rules: RoomRules,
    names: HashMap<RoomName, RoomId>,
    /// Boxed, so that a vacant place costs a pointer.
    places: Vec<Option<Box<Room<R, M>>>>,
    vacant: Vec<u32>,
    /// Rooms without members, longest idle first.
    idle: BTreeSet<(Instant, u32)>,
    members: usize,
    /// One number line for the whole table: a place that is used again gets a generation that no id holds.
    next_generation: u32,
}

/// A room and its members.
#[derive(Debug)]
pub struct Room<R, M> {
    /// Its name.
    pub name: RoomName,
    /// What the gateway keeps for it.
    pub state: R,
    generation: u32,
    members: Slots<M>,
    /// Set while there are no members; then `idle` of the table holds it too.
    idle_since: Option<Instant>,
}

impl<R, M> RoomTable<R, M> {
    /// No rooms yet.
    pub fn new(rules: RoomRules) -> Self {
        Self {
            rules,
            names: HashMap::new(),
            places: Vec::new(),
            vacant: Vec::new(),
            idle: BTreeSet::new(),
            members: 0,
            next_generation: 0,
        }
    }

    /// The room of this name.
    pub fn find(&self, name: &RoomName) -> Option<RoomId> {
        self.names.get(name).copied()
    }

    /// The room of this name, made when there is none. It is idle from `now` until somebody joins; one that was
    /// idle already is so anew. How many rooms the node may have is the caller's to decide.
    pub fn open(&mut self, name: &RoomName, now: Instant, make: impl FnOnce() -> R) -> RoomId {
        if let Some(id) = self.find(name) {
            if let Some(room) = get_mut(&mut self.places, id)
                && let Some(since) = &mut room.idle_since
            {
                self.idle.remove(&(*since, id.index));
                self.idle.insert((now, id.index));
                *since = now;
            }
            return id;
        }
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let (name, members) = (name.clone(), Slots::new(generation));
        let room =
            Box::new(Room { name: name.clone(), state: make(), generation, members, idle_since: Some(now) });
        let index = self.place(room);
        let id = RoomId { index, generation };
        self.names.insert(name, id);
        self.idle.insert((now, index));
        id
    }

    /// Adds a member; a room that was idle keeps its state and is idle no more.
    pub fn join(&mut self, room: RoomId, member: M, _now: Instant) -> Result<MemberId, RoomFull> {
        let cap = self.rules.members;
        let found = get_mut(&mut self.places, room).ok_or(RoomFull)?;
        if !cap.admits(found.members.len() as u64) {
            return Err(RoomFull);
        }
        let id = found.members.push(member);
        if let Some(since) = found.idle_since.take() {
            self.idle.remove(&(since, room.index));
        }
        self.members += 1;
        Ok(id)
    }

    /// Takes a member out, if it is in; with the last one the room is idle since `now`.
    pub fn leave(&mut self, room: RoomId, member: MemberId, now: Instant) -> Option<M> {
        let found = get_mut(&mut self.places, room)?;
        let gone = found.members.remove(member)?;
        if found.members.is_empty() {
            found.idle_since = Some(now);
            self.idle.insert((now, room.index));
        }
        self.members -= 1;
        Some(gone)
    }

    /// A room, unless it is gone.
    pub fn room(&self, id: RoomId) -> Option<&Room<R, M>> {
        let room = self.places.get(id.index as usize)?.as_deref()?;
        (room.generation == id.generation).then_some(room)
    }

    /// A room to change, unless it is gone.
    pub fn room_mut(&mut self, id: RoomId) -> Option<&mut Room<R, M>> {
        get_mut(&mut self.places, id)
    }

    /// Removes the rooms that have been idle for the time to live, longest idle first.
    pub fn expire(&mut self, now: Instant) -> Vec<(RoomName, R)> {
        let mut gone = Vec::new();
        while let Some(&(since, _)) = self.idle.first()
            && now.checked_duration_since(since).is_some_and(|idle| idle >= self.rules.idle_ttl)
        {
            gone.extend(self.evict_longest_idle());
        }
        gone
    }

    /// Removes the room that has been idle the longest, if one is idle at all.
    pub fn evict_longest_idle(&mut self) -> Option<(RoomName, R)> {
        let (_, index) = self.idle.pop_first()?;
        let room = self.places.get_mut(index as usize)?.take()?;
        self.vacant.push(index);
        self.names.remove(&room.name);
        self.shrink();
        let Room { name, state, .. } = *room;
        Some((name, state))
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.idle.first().and_then(|(since, _)| since.checked_add(self.rules.idle_ttl))
    }

    /// How many rooms there are, the idle ones too.
    pub fn rooms(&self) -> usize {
        self.names.len()
    }

    /// How many rooms have no members.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// How many members all rooms have together.
    pub fn members(&self) -> usize {
        self.members
    }

    /// The names of all rooms, in no order.
    pub fn names(&self) -> impl Iterator<Item = &RoomName> {
        self.names.keys()
    }

    /// All rooms, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (RoomId, &Room<R, M>)> {
        (0..).zip(&self.places).filter_map(|(index, place)| {
            let room = place.as_deref()?;
            Some((RoomId { index, generation: room.generation }, room))
        })
    }

    /// Where a walk over all rooms by place ends: rooms and vacant places.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// The rooms in some of the places: a walk that pauses between its steps sees every room that stays.
    pub fn some_mut(&mut self, places: std::ops::Range<usize>) -> impl Iterator<Item = &mut Room<R, M>> {
        let end = places.end.min(self.places.len());
        self.places[places.start.min(end)..end].iter_mut().filter_map(|place| place.as_deref_mut())
    }

    fn place(&mut self, room: Box<Room<R, M>>) -> u32 {
        while let Some(index) = self.vacant.pop() {
            // `shrink` may have cut it off. The slab grows only once `vacant` is used up, so it never lists an
            // index that was cut off and is taken again.
            if let Some(place) = self.places.get_mut(index as usize) {
                *place = Some(room);
                return index;
            }
        }
        self.places.push(Some(room));
        u32::try_from(self.places.len() - 1).expect("memory ends before 2^32 rooms")
    }

    /// Gives memory back once three quarters stand empty, so that the cost spreads over the removals before.
    fn shrink(&mut self) {
        let sparse = |held: usize, used: usize| held / 4 > used.max(SHRINK_FLOOR);
        if sparse(self.names.capacity(), self.names.len()) {
            self.names.shrink_to(self.names.len() * 2);
        }
        if !sparse(self.places.len(), self.names.len()) {
            return;
        }
        // A room keeps its place, so only the end of the slab can go.
        while let Some(None) = self.places.last() {
            self.places.pop();
        }
        if sparse(self.places.capacity(), self.places.len()) {
            self.places.shrink_to(self.places.len() * 2);
        }
        if sparse(self.vacant.len(), self.places.len()) {
            let used = self.places.len();
            self.vacant.retain(|&index| (index as usize) < used);
            self.vacant.shrink_to_fit();
        }
    }
}

fn get_mut<R, M>(places: &mut [Option<Box<Room<R, M>>>], id: RoomId) -> Option<&mut Room<R, M>> {
    let room = places.get_mut(id.index as usize)?.as_deref_mut()?;
    (room.generation == id.generation).then_some(room)
}

impl<R, M> Room<R, M> {
    /// The members, in the order they joined.
    pub fn members(&self) -> impl Iterator<Item = (MemberId, &M)> {
        (0..self.slots()).filter_map(|slot| self.slot(slot))
    }

    /// One member, if it is in.
    pub fn member(&self, id: MemberId) -> Option<&M> {
        self.members.get(id)
    }

    /// One member to change, if it is in.
    pub fn member_mut(&mut self, id: MemberId) -> Option<&mut M> {
        self.members.get_mut(id)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Where a walk by index ends: members and holes. It grows while members join, and shrinks only by
    /// [`compact`](Self::compact).
    pub fn slots(&self) -> usize {
        self.members.slots()
    }

    /// Who stands in a slot; none for a hole.
    pub fn slot(&self, slot: usize) -> Option<(MemberId, &M)> {
        self.members.slot(slot)
    }

    /// Who stands in a slot, to change; none for a hole.
    pub fn slot_mut(&mut self, slot: usize) -> Option<(MemberId, &mut M)> {
        self.members.slot_mut(slot)
    }

    /// Closes the holes once they are more than half of the slots, and gives memory back. Members keep their ids
    /// but change slots: call it only between walks, best at the end of each. Cheap when there is nothing to do.
    pub fn compact(&mut self) {
        self.members.compact();
    }
}

#[cfg(test)]
mod tests;
