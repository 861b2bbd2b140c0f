//! Holds what was seen against what was promised. Pure: evidence in, verdicts out.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use roomcast_protocol::{Epoch, Offset, Position};
use serde::Serialize;

use super::{
    faults::{Fault, Nature, Occurrence, Since},
    follower::{Follower, Mark},
    ledger::{End, Pages},
    watch::{Health, Presence, Sights},
};

/// Presence is true again so long after a fault.
const PRESENCE_BOUND: Duration = Duration::from_secs(8);
/// An event that takes longer than this from its first sending to a subscriber shows that something is not healed.
const LATE: Duration = Duration::from_millis(300);
/// A look comes every so often, so that what it finds may be this old.
const LOOK: Duration = Duration::from_millis(150);
/// During a storm an event may take so long to those who have no part in it.
const SERVED_BOUND: Duration = Duration::from_secs(1);
/// How many findings are told.
const TOLD: usize = 4;

/// What a promise is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// What is true on any machine.
    Truth,
    /// How soon: a machine with other things to do may be late for once.
    Time,
}

/// One promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    pub(super) promise: &'static str,
    pub(super) kind: Kind,
    pub(super) held: bool,
    pub(super) detail: String,
}

/// One fault, measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Measure {
    pub(super) fault: Fault,
    pub(super) since: Since,
    pub(super) start_ms: u64,
    /// From the fault to the first sign of it in a node's health or at a client.
    pub(super) notice_ms: Option<u64>,
    pub(super) notice_bound_ms: Option<u64>,
    /// Until the last late event.
    pub(super) heal_ms: u64,
    pub(super) heal_bound_ms: u64,
    /// Until presence was told wrongly for the last time.
    pub(super) presence_ms: u64,
}

/// What the end of a run looked like.
#[derive(Debug, Clone, Default)]
pub(super) struct Finale {
    /// Each room's end.
    pub(super) tails: Vec<Option<Position>>,
    /// The counter, as the API tells it.
    pub(super) counter: Option<u64>,
    /// How many subscribers there are.
    pub(super) subscribers: u64,
    /// What ended by itself, or is not ready.
    pub(super) casualties: Vec<String>,
    /// When it was over.
    pub(super) at: Duration,
}

/// Everything that is judged.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    pub(super) pages: &'a Pages,
    pub(super) sights: &'a Sights,
    pub(super) faults: &'a [Occurrence],
    pub(super) finale: &'a Finale,
    /// All bounds are multiplied by this.
    pub(super) patience: f64,
}

struct Tally {
    findings: Vec<String>,
    count: usize,
}

impl Tally {
    const fn new() -> Self {
        Self { findings: Vec::new(), count: 0 }
    }

    fn add(&mut self, finding: String) {
        self.count += 1;
        if self.findings.len() < TOLD {
            self.findings.push(finding);
        }
    }

    fn verdict(self, promise: &'static str, fine: String) -> Verdict {
        let held = self.count == 0;
        let more = self.count.saturating_sub(self.findings.len());
        let mut detail = if held { fine } else { self.findings.join("; ") };
        if more > 0 {
            detail = format!("{detail}; and {more} more");
        }
        Verdict { promise, kind: Kind::Truth, held, detail }
    }

    fn verdict_of_time(self, promise: &'static str, fine: String) -> Verdict {
        Verdict { kind: Kind::Time, ..self.verdict(promise, fine) }
    }
}

impl Evidence<'_> {
    /// A verdict per promise.
    pub(super) fn verdicts(&self, measures: &[Measure]) -> Vec<Verdict> {
        vec![
            self.continuity(),
            self.nobody_behind(),
            self.one_log(),
            self.resets(),
            self.closes(),
            self.presence(),
            self.counters(),
            self.healed(measures),
            self.noticed(measures),
            self.served(),
            self.sane(),
        ]
    }

    fn followers(&self) -> impl Iterator<Item = (&str, usize, &Follower)> {
        self.pages.records.iter().flat_map(|record| {
            record.rooms.iter().map(|(room, follower)| (record.name.as_str(), *room, follower))
        })
    }

    fn acked(&self) -> impl Iterator<Item = (Mark, usize, &Position)> {
        self.pages.sent.iter().filter_map(|(mark, sent)| Some((*mark, sent.room, &sent.acked.as_ref()?.1)))
    }

    /// Every acknowledged event, by every subscriber, once and in order, or covered by a reset.
    fn continuity(&self) -> Verdict {
        let mut tally = Tally::new();
        let (mut seen, mut covered) = (0_u64, 0_u64);
        let lossy = self.may_lose();
        let mut acked: Vec<Vec<(Mark, &Position)>> = vec![Vec::new(); self.finale.tails.len()];
        for (mark, room, position) in self.acked() {
            if let Some(list) = acked.get_mut(room) {
                list.push((mark, position));
            }
        }
        for (who, room, follower) in self.followers() {
            for fault in &follower.faults {
                tally.add(format!("{who}, room {room}: {fault}"));
            }
            let mut given: HashMap<(&Epoch, Offset), Vec<Mark>> = HashMap::new();
            let mut times: HashMap<(Mark, usize), u32> = HashMap::new();
            for event in &follower.seen {
                given.entry((&event.epoch, event.offset)).or_default().push(event.mark);
                *times.entry((event.mark, event.stretch)).or_default() += 1;
            }
            for ((mark, _), _) in times.iter().filter(|(_, times)| **times > 1) {
                tally.add(format!("{who}, room {room}: event {}/{} came twice", mark.p, mark.n));
            }
            for (mark, position) in acked.get(room).into_iter().flatten() {
                let within = follower.stretches.iter().any(|stretch| {
                    stretch.epoch == position.epoch
                        && (stretch.after.next()..=stretch.last).contains(&position.offset)
                });
                let beyond = follower
                    .stretches
                    .last()
                    .is_none_or(|last| last.epoch == position.epoch && position.offset > last.last);
                let given =
                    given.get(&(&position.epoch, position.offset)).is_some_and(|at| at.contains(mark));
                match (given, within, beyond) {
                    (true, _, _) => seen += 1,
                    // What a failover took back is not in the log any more; then the reset is the word on it.
                    (false, true, _) | (false, _, true) if !lossy || follower.resets.is_empty() => {
                        tally.add(format!(
                            "{who}, room {room}: event {}/{} at offset {} is lost",
                            mark.p, mark.n, position.offset
                        ));
                    }
                    (false, _, _) => covered += 1,
                }
            }
        }
        let fine =
            format!("{} acknowledged, {seen} deliveries checked, {covered} covered", self.acked().count());
        tally.verdict("every acknowledged event comes once and in order, or a reset covers it", fine)
    }

    fn may_lose(&self) -> bool {
        self.faults.iter().any(|was| was.fault.nature().resets)
    }

    /// At the end everybody stands where the log stands.
    fn nobody_behind(&self) -> Verdict {
        let mut tally = Tally::new();
        for (who, room, follower) in self.followers() {
            let tail = self.finale.tails.get(room).cloned().flatten();
            match (follower.position(), tail) {
                (at, Some(tail)) if at == Some(&tail) => {}
                (at, tail) => tally.add(format!(
                    "{who}, room {room}: stands at {}, the log at {}",
                    shown(at),
                    shown(tail.as_ref())
                )),
            }
        }
        tally.verdict(
            "nobody is left behind",
            format!("{} views at their logs' ends", self.followers().count()),
        )
    }

    /// All see the same event at the same place, and no key is stored twice in one log.
    fn one_log(&self) -> Verdict {
        let mut tally = Tally::new();
        let mut at: HashMap<(usize, &Epoch, Offset), Mark> = HashMap::new();
        let mut of: HashMap<(usize, &Epoch, Mark), Offset> = HashMap::new();
        let lossy = self.may_lose();
        let told = self.followers().flat_map(|(_, room, follower)| {
            // Where a log may have lost its end, what a reset took back proves nothing.
            let last = follower.stretches.len().saturating_sub(1);
            let counts = follower.seen.iter().filter(move |event| !lossy || event.stretch == last);
            counts.map(move |event| (room, &event.epoch, event.offset, event.mark))
        });
        let acked = self.acked().filter(|_| !lossy);
        let acked = acked.map(|(mark, room, position)| (room, &position.epoch, position.offset, mark));
        for (room, epoch, offset, mark) in acked.chain(told) {
            let first = *at.entry((room, epoch, offset)).or_insert(mark);
            if first != mark {
                tally.add(format!("room {room}, offset {offset} is both {first:?} and {mark:?}"));
            }
            let first = *of.entry((room, epoch, mark)).or_insert(offset);
            if first != offset {
                tally.add(format!("room {room}: {mark:?} stands at {first} and at {offset}"));
            }
        }
        let again: u64 = self.pages.sent.values().map(|sent| u64::from(sent.tries.saturating_sub(1))).sum();
        tally.verdict(
            "one log for all, and a repeated key stores once",
            format!("{} places, {again} repeats", at.len()),
        )
    }

    /// Resets only where data was lost.
    fn resets(&self) -> Verdict {
        let mut tally = Tally::new();
        let mut told = 0;
        for (who, room, follower) in self.followers() {
            for (when, reason) in &follower.resets {
                told += 1;
                let excused = self.faults.iter().any(|was| was.fault.nature().resets && was.start <= *when);
                if !excused {
                    tally.add(format!("{who}, room {room}: {reason}, at {when:.3?}"));
                }
            }
        }
        tally.verdict("a reset only where data was lost", format!("{told} resets"))
    }

    fn closes(&self) -> Verdict {
        let mut tally = Tally::new();
        let explains = |was: &Occurrence, end: &End| {
            let Nature { closes, .. } = was.fault.nature();
            closes.contains(&end.closed.code)
                && was.nodes.contains(&end.node)
                && end.at + Duration::from_millis(5) >= was.start
        };
        for end in &self.pages.ends {
            if !self.faults.iter().any(|was| explains(was, end)) {
                tally.add(format!("{} on {}: closed {}, at {:.3?}", end.who, end.node, end.closed, end.at));
            } else if end.back.is_none() {
                tally.add(format!("{} did not come back after {}", end.who, end.closed));
            }
        }
        let mut codes: BTreeMap<String, u32> = BTreeMap::new();
        for end in &self.pages.ends {
            let code = end.closed.code.map_or("lost".to_owned(), |code| code.to_string());
            *codes.entry(code).or_default() += 1;
        }
        tally.verdict(
            "no connection ends without a reason",
            format!("{} ended: {codes:?}", self.pages.ends.len()),
        )
    }

    /// When presence was wrong for the last time in a fault's window.
    fn last_wrong(&self, from: Duration, to: Duration) -> Option<Duration> {
        let wrong = |look: &&Presence| (from..to).contains(&look.at) && look.is_wrong();
        self.sights.presence.iter().filter(wrong).map(|look| look.at).max()
    }

    fn presence(&self) -> Verdict {
        let mut tally = Tally::new();
        let looks = self.sights.presence.iter().filter(|look| look.truth.is_some());
        for look in looks.clone() {
            let Some(truth) = look.truth.filter(|_| look.is_wrong()) else { continue };
            // Either end of a fault changes who is there, or takes away the means to tell.
            let bound = PRESENCE_BOUND.mul_f64(self.patience) + LOOK + self.sights.stall;
            let excused = self.faults.iter().any(|was| {
                (was.start..was.start + bound).contains(&look.at)
                    || (was.start..was.cleared + bound).contains(&look.at) && was.fault != Fault::NodeFrozen
                    || (was.cleared..was.cleared + bound).contains(&look.at)
            });
            if !excused {
                let Presence { connections, users, members, misled, .. } = look;
                tally.add(format!(
                    "{connections} connections, {users} users, {members} members where {truth} were, \
                     and {misled} last told otherwise, at {:.3?}",
                    look.at
                ));
            }
        }
        let all = self.finale.subscribers;
        for record in self.pages.watched() {
            if record.presence != Some((all, all)) {
                tally.add(format!("{} was last told {:?} of {all}", record.name, record.presence));
            }
        }
        tally.verdict("presence is true within 8 s", format!("{} looks", looks.count()))
    }

    fn counters(&self) -> Verdict {
        let mut tally = Tally::new();
        let counted = self.pages.counted;
        match self.finale.counter {
            Some(value) if value == counted || (self.may_lose() && value <= counted) => {}
            value => tally.add(format!("{counted} acknowledged, the counter says {value:?}")),
        }
        for record in self.pages.records.iter().filter(|record| record.count.is_some()) {
            let told = record.count.map(|(value, _)| value);
            if told != self.finale.counter {
                tally.add(format!("{} was last told {told:?} of {:?}", record.name, self.finale.counter));
            }
        }
        tally.verdict("counters are equal", format!("{counted} counted"))
    }

    /// Each fault with its window's measures.
    pub(super) fn measures(&self) -> Vec<Measure> {
        let ends = self.faults.iter().skip(1).map(|next| next.start).chain([self.finale.at]);
        self.faults.iter().zip(ends).map(|(was, end)| self.measure(was, end)).collect()
    }

    fn measure(&self, was: &Occurrence, end: Duration) -> Measure {
        let Nature { since, notice, heal, .. } = was.fault.nature();
        let reference = match since {
            Since::Start => was.start,
            Since::Cleared => was.cleared,
        };
        let window = was.start..end;
        let mut healed = reference;
        for (_, _, follower) in self.followers() {
            for event in follower.seen.iter().filter(|event| window.contains(&event.at)) {
                let sent = self.pages.sent.get(&event.mark).map_or(event.at, |sent| sent.first);
                if event.at.saturating_sub(sent) > LATE + self.sights.stall {
                    healed = healed.max(event.at);
                }
            }
            for (at, _) in follower.resets.iter().filter(|(at, _)| window.contains(at)) {
                healed = healed.max(*at);
            }
        }
        for gone in self.pages.ends.iter().filter(|gone| window.contains(&gone.at)) {
            healed = healed.max(gone.back.filter(|back| *back > gone.at + LATE).unwrap_or(healed));
        }
        let presence =
            self.last_wrong(was.start, end).map_or(Duration::ZERO, |at| at.saturating_sub(was.start));
        Measure {
            fault: was.fault,
            since,
            start_ms: millis(was.start),
            notice_ms: self.noticed_at(was, end).map(|at| millis(at.saturating_sub(was.start))),
            notice_bound_ms: notice.map(millis),
            heal_ms: millis(healed.saturating_sub(reference)),
            heal_bound_ms: millis(heal),
            presence_ms: millis(presence),
        }
    }

    /// The first sign of a fault.
    fn noticed_at(&self, was: &Occurrence, end: Duration) -> Option<Duration> {
        let mut known: HashMap<usize, u64> = HashMap::new();
        let mut first: Option<Duration> = None;
        for Health { at, node, seen } in &self.sights.health {
            if *at < was.start {
                known.insert(*node, seen.map_or(0, |seen| seen.reconnects));
                continue;
            }
            let sign = match seen {
                None => true,
                Some(seen) => {
                    !seen.ready
                        || !seen.usable
                        || known.get(node).is_some_and(|known| seen.reconnects > *known)
                        || seen.lag.is_some_and(|lag| lag > Duration::from_secs(1))
                }
            };
            if sign && *at < end {
                first = Some(*at);
                break;
            }
        }
        let closed =
            self.pages.ends.iter().map(|gone| gone.at).filter(|at| (was.start..end).contains(at)).min();
        [first, closed].into_iter().flatten().min()
    }

    fn healed(&self, measures: &[Measure]) -> Verdict {
        let mut tally = Tally::new();
        for measure in measures {
            let bound = Duration::from_millis(measure.heal_bound_ms).mul_f64(self.patience)
                + LOOK
                + self.sights.stall;
            if measure.heal_ms > millis(bound) {
                let Measure { fault, heal_ms, heal_bound_ms, start_ms, .. } = measure;
                tally.add(format!("{fault:?} at {start_ms} ms: {heal_ms} ms, promised {heal_bound_ms}"));
            }
        }
        let worst = measures.iter().map(|measure| measure.heal_ms).max().unwrap_or_default();
        tally.verdict_of_time(
            "healed in time",
            format!(
                "{} faults, the slowest in {worst} ms; this machine stalled for up to {} ms",
                measures.len(),
                self.sights.stall.as_millis()
            ),
        )
    }

    fn noticed(&self, measures: &[Measure]) -> Verdict {
        let mut tally = Tally::new();
        for measure in measures {
            let Some(promised) = measure.notice_bound_ms else { continue };
            let bound = Duration::from_millis(promised).mul_f64(self.patience) + LOOK + self.sights.stall;
            let Measure { fault, notice_ms, start_ms, .. } = measure;
            if notice_ms.is_none_or(|notice| notice > millis(bound)) {
                tally.add(format!("{fault:?} at {start_ms} ms: {notice_ms:?} ms, promised {promised}"));
            }
        }
        let worst = measures.iter().filter_map(|measure| measure.notice_ms).max().unwrap_or_default();
        tally.verdict_of_time("noticed in time", format!("the slowest in {worst} ms"))
    }

    /// Whoever stays connected while a crowd comes back feels little of it.
    fn served(&self) -> Verdict {
        let mut tally = Tally::new();
        let bound = SERVED_BOUND.mul_f64(self.patience) + self.sights.stall;
        let mut slowest = Duration::ZERO;
        for was in self.faults.iter().filter(|was| was.fault == Fault::ReconnectStorm) {
            let window = was.start..was.cleared;
            for record in self.pages.watched() {
                for event in record.rooms.values().flat_map(|follower| &follower.seen) {
                    let Some(sent) = self.pages.sent.get(&event.mark) else { continue };
                    let late = event.at.saturating_sub(sent.first);
                    if window.contains(&event.at) && late > slowest {
                        slowest = late;
                        if late > bound {
                            tally.add(format!("{}: an event took {late:.3?}", record.name));
                        }
                    }
                }
            }
        }
        let fine = format!("an event took at most {} ms in a storm", millis(slowest));
        tally.verdict_of_time("those who are there stay served", fine)
    }

    /// Nothing died by itself, nobody was told nonsense.
    fn sane(&self) -> Verdict {
        let mut tally = Tally::new();
        self.finale.casualties.iter().for_each(|gone| tally.add(format!("{gone} has ended or is not ready")));
        self.pages.faults.iter().for_each(|fault| tally.add(fault.clone()));
        for was in self.faults.iter().filter(|was| !was.felt) {
            tally.add(format!("{:?} had no effect, so nothing is proven", was.fault));
        }
        tally.verdict(
            "everything stands, and says only what was promised",
            format!("refusals: {:?}", self.pages.refusals),
        )
    }
}

fn shown(position: Option<&Position>) -> String {
    position.map_or("nothing".to_owned(), |position| format!("{}:{}", position.epoch, position.offset))
}

fn millis(of: Duration) -> u64 {
    u64::try_from(of.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
