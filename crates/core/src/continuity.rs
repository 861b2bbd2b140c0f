//! The continuity of one room's feed on one node: every sign of a gap ends here, and leaves as one read of history.
//!
//! Subscribers get every event once and in order, or a reset that says from where on they do. What history says
//! decides; a live event alone never moves the feed into another epoch, because it may be a late one of an epoch
//! that is gone. The machine reads nothing itself and keeps no time: the caller carries out [`FeedAction`]s, one
//! read at a time, and paces its retries.
//!
//! It can't see a log that lost its tail and has grown past the old one within the same epoch (a failover that
//! rolled back, then new events, with no look in between): who restores a shorter log must change its epoch.

use std::{collections::BTreeMap, fmt};

use roomcast_protocol::{Epoch, Offset, Position};

/// Live events that wait for one read of history: a busy room's half second.
pub const DEFAULT_HELD_EVENTS: usize = 1_024;
/// Bytes that wait for one read of history: reading them again is cheaper than holding more.
pub const DEFAULT_HELD_BYTES: usize = 1024 * 1024;

/// How many live events may wait for a read. Beyond either bound all are dropped, and read once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedRules {
    /// At most so many events.
    pub events: usize,
    /// At most so many bytes, as the caller's measure has it.
    pub bytes: usize,
}

impl Default for FeedRules {
    fn default() -> Self {
        Self { events: DEFAULT_HELD_EVENTS, bytes: DEFAULT_HELD_BYTES }
    }
}

/// What the caller is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedAction<E> {
    /// Hand the event at this position to the subscribers. Its offset is one above the last.
    Deliver(Position, E),
    /// Read what came after this position, and answer with [`RoomFeed::page`] or [`RoomFeed::failed`].
    ReadHistory {
        /// The last event that was delivered.
        since: Position,
    },
    /// Tell the subscribers that what lies before this position is lost to them.
    Reset {
        /// From here on nothing is missing.
        position: Position,
        /// Why.
        reason: ResetReason,
    },
}

/// Why continuity could not be kept. Its `Display` is for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ResetReason {
    /// The log began anew.
    NewEpoch,
    /// History no longer reaches back to the last event delivered.
    HistoryGone,
    /// The log ends before the last event delivered: a failover lost its tail.
    LogWentBack,
    /// An operator ended the room, for this reason.
    Ended(String),
}

impl fmt::Display for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NewEpoch => "the room's log began anew",
            Self::HistoryGone => "more was missed than the history holds",
            Self::LogWentBack => "the room's log lost its end",
            Self::Ended(reason) => reason,
        })
    }
}

/// One room's feed.
#[derive(Debug)]
pub struct RoomFeed<E> {
    rules: FeedRules,
    size: fn(&E) -> usize,
    /// The position it was given when it had none: nothing up to there was ever delivered.
    began: Option<Position>,
    state: State<E>,
}

#[derive(Debug)]
enum State<E> {
    /// Nothing was delivered yet, so nothing can be missing.
    Unknown,
    Following {
        position: Position,
        /// The latest look saw the log end before `position`, and nothing was delivered since. One such look may
        /// merely be late; a second one is a sign.
        behind: bool,
    },
    /// A read is in flight. Boxed, because it is rare and large.
    Repairing(Box<Repair<E>>),
}

#[derive(Debug)]
struct Repair<E> {
    /// The last event delivered.
    position: Position,
    /// Live events after it, all of its epoch.
    held: BTreeMap<Offset, Held<E>>,
    held_bytes: usize,
    /// A look at the tail saw this offset of the epoch while the read was in flight.
    goal: Offset,
    /// A sign came while the read was in flight, perhaps too late for it: one more is needed.
    again: bool,
    /// The read in flight asks from another position than `position`: its answer is worthless.
    misdirected: bool,
}

#[derive(Debug)]
struct Held<E> {
    event: E,
    bytes: usize,
    /// It came after the read was asked for, so that the answer need not know it.
    late: bool,
}

impl<E> RoomFeed<E> {
    /// A feed without a position; `size` measures an event in bytes.
    pub fn new(rules: FeedRules, size: fn(&E) -> usize) -> Self {
        Self { rules, size, began: None, state: State::Unknown }
    }

    /// The last event that was delivered or covered by a reset; none before the first.
    pub fn position(&self) -> Option<&Position> {
        match &self.state {
            State::Unknown => None,
            State::Following { position, .. } => Some(position),
            State::Repairing(repair) => Some(&repair.position),
        }
    }

    /// Whether a read is in flight, or waits for the caller's retry.
    pub fn repairing(&self) -> bool {
        matches!(self.state, State::Repairing(_))
    }

    /// An event arrived from the subscription. A duplicate asks for nothing.
    pub fn live(&mut self, epoch: &Epoch, offset: Offset, event: E) -> Option<FeedAction<E>> {
        match &mut self.state {
            State::Unknown => {
                let position = Position { epoch: epoch.clone(), offset };
                self.begin(Position { epoch: epoch.clone(), offset: Offset(offset.0.saturating_sub(1)) });
                self.follow(position.clone());
                Some(FeedAction::Deliver(position, event))
            }
            State::Following { position, behind } => {
                if *epoch != position.epoch {
                    // New or late: history knows, and holds this event too if it is new.
                    let since = position.clone();
                    return Some(self.repair(since));
                }
                if offset <= position.offset {
                    return None;
                }
                if offset == position.offset.next() {
                    position.offset = offset;
                    *behind = false;
                    return Some(FeedAction::Deliver(position.clone(), event));
                }
                let since = position.clone();
                let action = self.repair(since);
                // The read is asked for after this event came, so it is not late.
                self.hold(offset, event, false);
                Some(action)
            }
            State::Repairing(repair) => {
                if *epoch != repair.position.epoch {
                    repair.again = true;
                } else if offset > repair.position.offset {
                    self.hold(offset, event, true);
                }
                None
            }
        }
    }

    /// The subscription was lost, or a queue before this feed was full: anything may be missing.
    pub fn interrupted(&mut self) -> Option<FeedAction<E>> {
        match &mut self.state {
            State::Unknown => None,
            State::Following { position, .. } => {
                let since = position.clone();
                Some(self.repair(since))
            }
            State::Repairing(repair) => {
                repair.again = true;
                None
            }
        }
    }

    /// A subscriber has read the log up to `tail`, and needs what comes after. That gives a feed without a position
    /// its first one. A tail ahead of the feed asks for nothing, unlike a [look](Self::tail): in a busy room it is
    /// merely faster than the subscription. One before the beginning does: what lies between was never delivered.
    pub fn seed(&mut self, tail: &Position) -> Option<FeedAction<E>> {
        let Some(began) = &self.began else {
            self.begin(tail.clone());
            return None;
        };
        let earlier = tail.epoch == began.epoch && tail.offset < began.offset;
        if !earlier || self.position().is_none_or(|at| at.epoch != tail.epoch) {
            return None;
        }
        self.began = Some(tail.clone());
        self.rewind_to(tail.clone())
    }

    /// A look at where the log ends. It may be late, but not invented.
    pub fn tail(&mut self, tail: &Position) -> Option<FeedAction<E>> {
        match &mut self.state {
            State::Unknown => {
                self.begin(tail.clone());
                None
            }
            State::Following { position, behind } => {
                let falls_short = tail.epoch == position.epoch && tail.offset < position.offset;
                let agrees = tail == position;
                if agrees || (falls_short && !*behind) {
                    *behind = falls_short;
                    return None;
                }
                let since = position.clone();
                Some(self.repair(since))
            }
            State::Repairing(repair) => {
                if tail.epoch == repair.position.epoch {
                    repair.goal = repair.goal.max(tail.offset);
                } else {
                    repair.again = true;
                }
                None
            }
        }
    }

    /// The answer to [`FeedAction::ReadHistory`]: where the log ended at the moment of reading, whether nothing is
    /// missing between the position asked for and the first event, and the events, oldest first. A page may end
    /// before the tail; then the rest is asked for.
    pub fn page(&mut self, tail: Position, complete: bool, events: Vec<(Offset, E)>) -> Vec<FeedAction<E>> {
        let State::Repairing(repair) = &mut self.state else {
            // Nobody asked; where the log ends is worth knowing all the same.
            return self.tail(&tail).into_iter().collect();
        };
        if repair.misdirected {
            return vec![repair.ask()];
        }
        let end = tail.offset;
        let mut actions = Vec::new();
        if let Err(reason) = repair.take_page(&tail, complete, events, &mut actions) {
            actions.push(FeedAction::Reset { position: tail.clone(), reason });
            repair.reset(tail);
        }
        repair.take_held(end, &mut actions);
        if repair.unfinished(end) {
            actions.push(repair.ask());
        } else {
            let position = repair.position.clone();
            self.follow(position);
        }
        actions
    }

    /// The read failed: the feed stays as it is. The action, if there is one, is the same read again, for the
    /// caller to carry out after its backoff.
    pub fn failed(&mut self) -> Option<FeedAction<E>> {
        match &mut self.state {
            State::Unknown | State::Following { .. } => None,
            State::Repairing(repair) => Some(repair.ask()),
        }
    }

    /// Some subscribers did not get what was delivered from this offset of the present epoch on: deliver it again.
    /// The others see duplicates, and have to know them by their offsets.
    pub fn rewind(&mut self, offset: Offset) -> Option<FeedAction<E>> {
        let epoch = self.position()?.epoch.clone();
        self.rewind_to(Position { epoch, offset: Offset(offset.0.saturating_sub(1)) })
    }

    /// Some subscribers stand at `since`, which may lie before a reset: deliver what came after, or reset again.
    pub fn rewind_to(&mut self, since: Position) -> Option<FeedAction<E>> {
        let ahead = |at: &Position| since.epoch == at.epoch && since.offset >= at.offset;
        match &mut self.state {
            State::Following { position, .. } if ahead(position) => None,
            State::Unknown => {
                self.begin(since.clone());
                Some(self.repair(since))
            }
            State::Following { .. } => Some(self.repair(since)),
            State::Repairing(repair) => {
                if !ahead(&repair.position) {
                    repair.turn(since);
                }
                None
            }
        }
    }

    /// An operator ended the room, and its log begins again at `position`.
    pub fn reset(&mut self, position: Position, reason: String) -> Option<FeedAction<E>> {
        if self.position().is_some_and(|at| at.epoch == position.epoch && at.offset >= position.offset) {
            return None;
        }
        match &mut self.state {
            State::Unknown => self.begin(position.clone()),
            State::Following { .. } => self.follow(position.clone()),
            State::Repairing(repair) => repair.turn(position.clone()),
        }
        Some(FeedAction::Reset { position, reason: ResetReason::Ended(reason) })
    }

    fn begin(&mut self, position: Position) {
        self.began = Some(position.clone());
        self.follow(position);
    }

    fn follow(&mut self, position: Position) {
        self.state = State::Following { position, behind: false };
    }

    fn repair(&mut self, since: Position) -> FeedAction<E> {
        self.state = State::Repairing(Box::new(Repair {
            position: since.clone(),
            held: BTreeMap::new(),
            held_bytes: 0,
            goal: Offset(0),
            again: false,
            misdirected: false,
        }));
        FeedAction::ReadHistory { since }
    }

    fn hold(&mut self, offset: Offset, event: E, late: bool) {
        let State::Repairing(repair) = &mut self.state else { return };
        let bytes = (self.size)(&event);
        repair.forget(offset);
        if repair.held.len() >= self.rules.events
            || repair.held_bytes.saturating_add(bytes) > self.rules.bytes
        {
            repair.forget_all();
            repair.again = true;
        }
        if self.rules.events > 0 && bytes <= self.rules.bytes {
            repair.held_bytes += bytes;
            repair.held.insert(offset, Held { event, bytes, late });
        }
    }
}

impl<E> Repair<E> {
    /// Asks for what comes after the position. Every sign so far came before this read, so it answers them all.
    fn ask(&mut self) -> FeedAction<E> {
        self.goal = Offset(0);
        self.again = false;
        self.misdirected = false;
        self.held.values_mut().for_each(|held| held.late = false);
        FeedAction::ReadHistory { since: self.position.clone() }
    }

    /// Goes on from another position; the read in flight does not know of it.
    fn turn(&mut self, position: Position) {
        if position.epoch != self.position.epoch {
            self.forget_all();
        }
        self.position = position;
        self.misdirected = true;
    }

    /// Delivers what follows the position without a gap, or says why that can't be done.
    fn take_page(
        &mut self,
        tail: &Position,
        complete: bool,
        events: Vec<(Offset, E)>,
        actions: &mut Vec<FeedAction<E>>,
    ) -> Result<(), ResetReason> {
        if tail.epoch != self.position.epoch {
            return Err(ResetReason::NewEpoch);
        }
        if tail.offset < self.position.offset {
            return Err(ResetReason::LogWentBack);
        }
        if !complete {
            return Err(ResetReason::HistoryGone);
        }
        let before = self.position.offset;
        for (offset, event) in events {
            if offset > self.position.offset.next() {
                return Err(ResetReason::HistoryGone);
            }
            if offset == self.position.offset.next() {
                self.position.offset = offset;
                actions.push(FeedAction::Deliver(self.position.clone(), event));
            }
        }
        // A page that ends early but brings nothing would be asked for without end.
        if self.position.offset == before && before < tail.offset {
            return Err(ResetReason::HistoryGone);
        }
        Ok(())
    }

    /// Goes on at the tail; of what waits, only what came after the read can lie beyond it.
    fn reset(&mut self, tail: Position) {
        if tail.epoch == self.position.epoch {
            self.held.retain(|_, held| held.late);
            self.held_bytes = self.held.values().map(|held| held.bytes).sum();
        } else {
            // Late ones are most likely stale; if the old log came back after the read, the next one says so.
            self.again |= self.held.values().any(|held| held.late);
            self.forget_all();
            self.goal = Offset(0);
        }
        self.position = tail;
    }

    /// Delivers the live events that follow the position without a gap.
    fn take_held(&mut self, tail: Offset, actions: &mut Vec<FeedAction<E>>) {
        // What came before the read, and is not in the log it read, was rolled back.
        let position = self.position.offset;
        self.held.retain(|&offset, held| offset > position && (held.late || offset <= tail));
        while let Some(held) = self.held.remove(&self.position.offset.next()) {
            self.position.offset = self.position.offset.next();
            actions.push(FeedAction::Deliver(self.position.clone(), held.event));
        }
        self.held_bytes = self.held.values().map(|held| held.bytes).sum();
    }

    fn unfinished(&self, tail: Offset) -> bool {
        self.again || self.position.offset < tail.max(self.goal) || !self.held.is_empty()
    }

    fn forget(&mut self, offset: Offset) {
        if let Some(held) = self.held.remove(&offset) {
            self.held_bytes -= held.bytes;
        }
    }

    fn forget_all(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }
}

#[cfg(test)]
mod tests;
