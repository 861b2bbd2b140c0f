//! A room's members in a row that can be walked by index while they come and go.
//!
//! New members stand at the end, a leave makes a hole, and only [`Slots::compact`] moves anyone: so a walk with a
//! cursor neither skips nor repeats a member, however long it pauses between its steps.
//!
//! A row is sorted by serial, and that is all an id needs: no table from ids to slots has to be kept, moved or
//! shrunk. Without a compaction a serial tells its slot at once; afterwards the search is as wide as the number of
//! members that have gone since between those that stay.

/// A member of one room. Once the member has left, it fits nobody else, in no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemberId {
    serial: u64,
    room: u32,
}

#[derive(Debug)]
pub(super) struct Slots<M> {
    row: Vec<Slot<M>>,
    members: usize,
    next_serial: u64,
    room: u32,
}

#[derive(Debug)]
struct Slot<M> {
    serial: u64,
    /// None is a hole.
    member: Option<M>,
}

impl<M> Slots<M> {
    /// Empty, for the room with this generation.
    pub(super) fn new(room: u32) -> Self {
        Self { row: Vec::new(), members: 0, next_serial: 0, room }
    }

    pub(super) fn push(&mut self, member: M) -> MemberId {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.row.push(Slot { serial, member: Some(member) });
        self.members += 1;
        self.id(serial)
    }

    pub(super) fn remove(&mut self, id: MemberId) -> Option<M> {
        let slot = self.find(id)?;
        let gone = self.row[slot].member.take()?;
        self.members -= 1;
        Some(gone)
    }

    pub(super) fn get(&self, id: MemberId) -> Option<&M> {
        self.row[self.find(id)?].member.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut M> {
        let slot = self.find(id)?;
        self.row[slot].member.as_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.members
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members == 0
    }

    pub(super) fn slots(&self) -> usize {
        self.row.len()
    }

    pub(super) fn slot(&self, slot: usize) -> Option<(MemberId, &M)> {
        let slot = self.row.get(slot)?;
        Some((self.id(slot.serial), slot.member.as_ref()?))
    }

    pub(super) fn slot_mut(&mut self, slot: usize) -> Option<(MemberId, &mut M)> {
        let room = self.room;
        let slot = self.row.get_mut(slot)?;
        Some((MemberId { serial: slot.serial, room }, slot.member.as_mut()?))
    }

    pub(super) fn compact(&mut self) {
        if self.row.len() <= self.members * 2 {
            return;
        }
        self.row.retain(|slot| slot.member.is_some());
        if self.row.capacity() / 4 >= self.row.len() {
            self.row.shrink_to(self.row.len() * 2);
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.row.capacity()
    }

    fn id(&self, serial: u64) -> MemberId {
        MemberId { serial, room: self.room }
    }

    /// Serials rise by at least one from slot to slot. So a slot lies no further from the first than its serial
    /// does, and no further from the last: without gaps both say the same slot.
    fn find(&self, id: MemberId) -> Option<usize> {
        let (first, last) = (self.row.first()?, self.row.last()?);
        if id.room != self.room || id.serial < first.serial || id.serial > last.serial {
            return None;
        }
        let distance = |serials: u64| usize::try_from(serials).unwrap_or(usize::MAX);
        let end = self.row.len() - 1;
        let high = distance(id.serial - first.serial).min(end);
        let low = end.saturating_sub(distance(last.serial - id.serial));
        let found = self.row.get(low..=high)?.binary_search_by_key(&id.serial, |slot| slot.serial);
        found.ok().map(|at| low + at)
    }
}
