//! What this node holds of each address and user, what Redis knows of it, and who asks for a place. No I/O.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use tokio::sync::oneshot;

use crate::broker::{BrokerError, Claim};

/// From so many connections of one address on, places are kept in reserve for the next ones: as many again, and no more
/// than [`MOST_RESERVED`].
const CROWD: u64 = 8;
const MOST_RESERVED: u64 = 256;

/// How a question was answered.
pub(super) type Verdict = Result<Claim, BrokerError>;

#[derive(Debug, Default)]
pub(super) struct Desk {
    shares: HashMap<Arc<str>, Share>,
    /// Addresses with questions that nothing keeps from being asked; the oldest first, each once.
    asked: VecDeque<Arc<str>>,
    untold: HashSet<Arc<str>>,
    /// What could not be told, and waits for [`Desk::retry`]: it must not stand before what can be told.
    failed: HashSet<Arc<str>>,
}

#[derive(Debug)]
struct Share {
    /// Connections here, those that still ask for their place among them.
    held: u64,
    asking: u64,
    /// Those of them whose question was not taken yet.
    questions: Vec<Question>,
    /// What Redis has; none where that is not certain.
    told: Option<u64>,
    /// The cap is far: what Redis has beyond what is held stays for those who come next, until the next renewal. Nobody
    /// has it after this moment, though: should the renewals fail, the node's lease ends, and others do not count it.
    far: Option<Instant>,
    /// A write is under way: the next waits for it, so that it is known which of them was the last.
    writing: bool,
    renew_at: Instant,
}

#[derive(Debug)]
struct Question {
    cap: u64,
    asker: oneshot::Sender<Verdict>,
}

/// What is to be written of one address.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Arc<str>,
    /// Connections that have their place.
    pub(super) settled: u64,
    pub(super) cap: u64,
    askers: Vec<oneshot::Sender<Verdict>>,
}

/// What Redis gave for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    /// So many of those who asked fit.
    pub(super) places: u64,
    /// So many more may come without asking.
    pub(super) reserve: u64,
    /// The cap is far, as far as that can be relied on.
    pub(super) far: Option<Instant>,
}

impl Entry {
    pub(super) fn asking(&self) -> u64 {
        self.askers.len() as u64
    }

    /// Places that are wanted besides, where many come from one address: then more will.
    pub(super) fn reserve(&self) -> u64 {
        let all = self.settled + self.asking();
        if self.asking() > 0 && all >= CROWD { all.min(MOST_RESERVED) } else { 0 }
    }
}

impl Share {
    /// Whether Redis counts everyone already that is held here, and may count more for a while.
    fn is_reserved(&self) -> bool {
        self.far.is_some() && !self.writing && self.told.is_some_and(|told| told >= self.held)
    }

    /// What is to be written of it, for those who ask.
    fn write(&mut self, key: Arc<str>, cap: u64, askers: Vec<oneshot::Sender<Verdict>>) -> Entry {
        self.writing = true;
        Entry { key, settled: self.held.saturating_sub(self.asking), cap, askers }
    }
}

impl Desk {
    pub(super) fn hold(&mut self, key: &Arc<str>, renew_at: Instant) -> u64 {
        let new = || Share {
            held: 0,
            asking: 0,
            questions: Vec::new(),
            told: Some(0),
            far: None,
            writing: false,
            renew_at,
        };
        let share = self.shares.entry(key.clone()).or_insert_with(new);
        share.held += 1;
        share.held
    }

    /// Whether a connection that is held here has its place without a question.
    pub(super) fn has_place(&self, key: &Arc<str>, now: Instant) -> bool {
        let counted = |share: &Share| share.is_reserved() && share.far.is_some_and(|until| now < until);
        self.shares.get(key).is_some_and(counted)
    }

    /// A connection that is held here asks whether it fits over all nodes.
    pub(super) fn ask(&mut self, key: &Arc<str>, cap: u64) -> oneshot::Receiver<Verdict> {
        let (asker, verdict) = oneshot::channel();
        if let Some(share) = self.shares.get_mut(key) {
            share.asking += 1;
            share.questions.push(Question { cap, asker });
            if share.questions.len() == 1 && !share.writing {
                self.asked.push_back(key.clone());
            }
        }
        verdict
    }

    pub(super) fn release(&mut self, key: &Arc<str>) {
        if let Some(share) = self.shares.get_mut(key) {
            share.held = share.held.saturating_sub(1);
            self.settle(key);
        }
    }

    /// Whether somebody can be asked for, and whether something is to be told that nobody asks for.
    pub(super) fn waiting(&self) -> (bool, bool) {
        (!self.asked.is_empty(), !self.untold.is_empty())
    }

    /// What is to be written next, of at most so many addresses: the oldest questions, and then, where it is time for
    /// it, what is untold. Until [`Desk::end`] nothing else is written of these addresses.
    pub(super) fn begin(&mut self, most: usize, untold: bool) -> Vec<Entry> {
        let mut entries = Vec::new();
        while entries.len() < most
            && let Some(key) = self.asked.pop_front()
        {
            let Some(share) = self.shares.get_mut(&key) else { continue };
            let (mut cap, mut askers) = (u64::MAX, Vec::with_capacity(share.questions.len()));
            for Question { cap: theirs, asker } in share.questions.drain(..) {
                if asker.is_closed() {
                    // It was given up: what it held is released, or stays without a claim.
                    share.asking = share.asking.saturating_sub(1);
                } else {
                    cap = cap.min(theirs);
                    askers.push(asker);
                }
            }
            if askers.is_empty() {
                self.settle(&key);
            } else {
                entries.push(share.write(key, cap, askers));
            }
        }
        if untold {
            let free = most.saturating_sub(entries.len());
            let writable = |key: &&Arc<str>| self.shares.get(*key).is_none_or(|share| !share.writing);
            let taken: Vec<_> = self.untold.iter().filter(writable).take(free).cloned().collect();
            for key in taken {
                self.untold.remove(&key);
                // Meanwhile it may have become what Redis knows.
                if let Some(share) = self.shares.get_mut(&key).filter(|share| share.told != Some(share.held))
                {
                    entries.push(share.write(key, 0, Vec::new()));
                }
            }
        }
        entries
    }

    /// An entry was written, and so many of its askers fit; or nobody knows.
    pub(super) fn end(&mut self, entry: Entry, granted: &Result<Granted, BrokerError>) {
        let Entry { key, settled, askers, .. } = entry;
        if let Some(share) = self.shares.get_mut(&key) {
            share.writing = false;
            share.asking = share.asking.saturating_sub(askers.len() as u64);
            share.told = granted.as_ref().ok().map(|given| settled + given.places + given.reserve);
            share.far = granted.as_ref().ok().and_then(|given| given.far);
            if !share.questions.is_empty() {
                self.asked.push_back(key.clone());
            }
        }
        for (place, asker) in (0..).zip(askers) {
            let fits = |granted: Granted| if place < granted.places { Claim::Admitted } else { Claim::Full };
            let verdict = granted.clone().map(fits);
            // Whoever has gone gives back what it held.
            let _told = asker.send(verdict);
        }
        self.settle(&key);
        if granted.is_err() && self.untold.remove(&key) {
            self.failed.insert(key);
        }
    }

    /// What could not be told is to be told.
    pub(super) fn retry(&mut self) {
        self.untold.extend(self.failed.drain());
    }

    /// Where nothing is under way: what Redis knows already is forgotten, the rest is to be told.
    fn settle(&mut self, key: &Arc<str>) {
        let Some(share) = self.shares.get(key) else { return };
        if share.writing || share.asking > 0 || share.is_reserved() {
            return;
        }
        if share.told != Some(share.held) {
            if !self.failed.contains(key) {
                self.untold.insert(key.clone());
            }
        } else if share.held == 0 {
            self.shares.remove(key);
            self.untold.remove(key);
        }
    }

    /// Shares that are due, or all, are to be told again; and those that nobody has told yet. What was kept beyond what is
    /// held is given back: other nodes may need it more.
    pub(super) fn renew(&mut self, now: Instant, again: Instant, all: bool) {
        for (key, share) in &mut self.shares {
            share.far = None;
            if all || share.renew_at <= now {
                share.told = None;
                share.renew_at = again;
            }
            if share.told != Some(share.held) && !self.failed.contains(key) {
                self.untold.insert(key.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key() -> Arc<str> {
        "ip/192.0.2.1".into()
    }

    /// After the moments of any test.
    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// So many fit, and the cap is near.
    fn fits(places: u64) -> Granted {
        Granted { places, reserve: 0, far: None }
    }

    fn written(entries: &[Entry]) -> Vec<(u64, u64)> {
        entries.iter().map(|entry| (entry.settled, entry.asking())).collect()
    }

    /// The only entry.
    fn one(mut entries: Vec<Entry>) -> Entry {
        assert_eq!(entries.len(), 1);
        entries.pop().unwrap()
    }

    #[test]
    fn a_connection_that_ended_is_told_and_then_forgotten() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        assert_eq!(desk.hold(&key, now), 1);
        let mut verdict = desk.ask(&key, 5);
        let entry = one(desk.begin(10, false));
        assert_eq!((entry.settled, entry.asking(), entry.cap), (0, 1, 5));
        desk.end(entry, &Ok(fits(1)));
        assert_eq!(verdict.try_recv().unwrap().unwrap(), Claim::Admitted);
        assert!(desk.begin(10, true).is_empty(), "Redis knows it");
        desk.release(&key);
        assert!(desk.waiting() == (false, true) && desk.begin(10, false).is_empty(), "that does not haste");
        let entry = one(desk.begin(10, true));
        assert_eq!((entry.settled, entry.asking()), (0, 0));
        desk.end(entry, &Ok(fits(0)));
        assert!(desk.shares.is_empty() && desk.untold.is_empty());
    }

    #[test]
    fn those_of_one_address_ask_together_and_the_first_of_them_fit() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        let verdicts: Vec<_> = (0..4)
            .map(|_| {
                desk.hold(&key, now);
                desk.ask(&key, 2)
            })
            .collect();
        let entry = one(desk.begin(10, true));
        assert_eq!((entry.settled, entry.asking()), (0, 4));
        desk.end(entry, &Ok(fits(2)));
        let told: Vec<_> =
            verdicts.into_iter().map(|mut verdict| verdict.try_recv().unwrap().unwrap()).collect();
        assert_eq!(told, [Claim::Admitted, Claim::Admitted, Claim::Full, Claim::Full]);
        desk.release(&key);
        desk.release(&key);
        assert!(desk.begin(10, true).is_empty(), "a refused claim leaves nothing to tell");
    }

    #[test]
    fn who_asks_while_a_write_is_under_way_waits_for_it() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        desk.hold(&key, now);
        let _first = desk.ask(&key, 5);
        let entry = one(desk.begin(10, true));
        desk.hold(&key, now);
        let mut second = desk.ask(&key, 5);
        desk.hold(&key, now);
        assert!(desk.begin(10, true).is_empty());
        desk.end(entry, &Ok(fits(1)));
        let entry = one(desk.begin(10, true));
        assert_eq!((entry.settled, entry.asking()), (2, 1), "one without a claim is held besides");
        desk.end(entry, &Ok(fits(1)));
        assert_eq!(second.try_recv().unwrap().unwrap(), Claim::Admitted);
        assert!(desk.begin(10, true).is_empty());
    }

    #[test]
    fn a_batch_is_bounded_and_takes_the_oldest_questions_first() {
        let now = Instant::now();
        let mut desk = Desk::default();
        let keys: Vec<Arc<str>> = (0..5).map(|number| format!("ip/{number}").into()).collect();
        let _verdicts: Vec<_> = keys
            .iter()
            .map(|key| {
                desk.hold(key, now);
                desk.ask(key, 9)
            })
            .collect();
        desk.hold(&keys[0], now);
        let _again = desk.ask(&keys[0], 9);
        let batch = desk.begin(3, true);
        assert_eq!(written(&batch), [(0, 2), (0, 1), (0, 1)]);
        assert_eq!(desk.begin(3, true).len(), 2);
    }

    #[test]
    fn a_question_that_was_given_up_is_not_asked() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        desk.hold(&key, now);
        drop(desk.ask(&key, 1));
        // It stays without a claim, as where Redis did not answer in time.
        let entry = one(desk.begin(10, true));
        assert_eq!((entry.settled, entry.asking()), (1, 0));
        desk.end(entry, &Ok(fits(0)));
        drop(desk.ask(&key, 1));
        desk.release(&key);
        let entry = one(desk.begin(10, true));
        assert_eq!((entry.settled, entry.asking()), (0, 0));
        desk.end(entry, &Ok(fits(0)));
        assert!(desk.shares.is_empty());
    }

    #[test]
    fn a_write_whose_fate_is_unknown_is_told_again() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        desk.hold(&key, now);
        let mut verdict = desk.ask(&key, 1);
        let entry = one(desk.begin(10, false));
        desk.end(entry, &Err(BrokerError::Busy));
        assert!(matches!(verdict.try_recv().unwrap(), Err(BrokerError::Busy)));
        assert!(desk.begin(10, true).is_empty(), "not at once");
        desk.retry();
        assert_eq!(written(&desk.begin(10, true)), [(1, 0)]);
    }

    #[test]
    fn what_can_not_be_told_does_not_stand_before_what_can() {
        let now = Instant::now();
        let mut desk = Desk::default();
        let (bad, good) = (Arc::from("ip/1"), Arc::from("ip/2"));
        desk.hold(&bad, now);
        desk.renew(now, now, false);
        let entry = one(desk.begin(1, true));
        desk.end(entry, &Err(BrokerError::Busy));
        desk.hold(&good, now);
        desk.renew(now, now, false);
        assert_eq!(one(desk.begin(1, true)).key, good);
        assert_eq!(desk.waiting(), (false, false));
        desk.retry();
        assert_eq!(one(desk.begin(1, true)).key, bad);
    }

    #[test]
    fn what_nobody_told_is_told_at_the_next_renewal_and_all_of_it_after_a_loss() {
        let (now, key) = (Instant::now(), key());
        let later = now + Duration::from_secs(60);
        let mut desk = Desk::default();
        let tell = |desk: &mut Desk| {
            let batch = desk.begin(10, true);
            let told = batch.len();
            for entry in batch {
                desk.end(entry, &Ok(fits(0)));
            }
            told
        };
        desk.hold(&key, later);
        desk.renew(now, later, false);
        assert_eq!(tell(&mut desk), 1);
        desk.renew(now, later, false);
        assert_eq!(tell(&mut desk), 0, "Redis knows it");
        desk.renew(now, later, true);
        assert_eq!(tell(&mut desk), 1);
        desk.renew(later, later + Duration::from_secs(60), false);
        assert_eq!(tell(&mut desk), 1, "it is due");
    }

    /// As many come from one address as make a crowd, and get as many places in reserve.
    fn crowd(desk: &mut Desk, key: &Arc<str>) {
        let now = Instant::now();
        for _ in 0..CROWD {
            desk.hold(key, now);
            drop(desk.ask(key, 100));
        }
        let _one = {
            desk.hold(key, now);
            desk.ask(key, 100)
        };
        let entry = one(desk.begin(10, false));
        assert_eq!((entry.settled, entry.asking(), entry.reserve()), (CROWD, 1, CROWD + 1));
        assert!(!desk.has_place(key, now), "it is being written");
        desk.end(entry, &Ok(Granted { places: 1, reserve: CROWD + 1, far: Some(later()) }));
    }

    #[test]
    fn who_follows_a_crowd_has_a_place_without_a_question() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        crowd(&mut desk, &key);
        for _ in 0..=CROWD {
            desk.hold(&key, now);
            assert!(desk.has_place(&key, now));
        }
        desk.hold(&key, now);
        assert!(!desk.has_place(&key, now), "the reserve is used up");
        desk.release(&key);
        assert_eq!(desk.waiting(), (false, false));
        desk.release(&key);
        assert_eq!(desk.waiting(), (false, false), "whoever goes makes room for who comes");
        desk.hold(&key, now);
        assert!(desk.has_place(&key, now));
    }

    #[test]
    fn nobody_relies_on_a_place_that_was_not_renewed_in_time() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        crowd(&mut desk, &key);
        desk.hold(&key, now);
        assert!(desk.has_place(&key, now));
        assert!(!desk.has_place(&key, later() + Duration::from_secs(1)));
    }

    #[test]
    fn who_waited_longest_is_asked_for_first() {
        let now = Instant::now();
        let mut desk = Desk::default();
        let (busy, patient) = (Arc::from("ip/1"), Arc::from("ip/2"));
        let ask = |desk: &mut Desk, key: &Arc<str>| {
            desk.hold(key, now);
            desk.ask(key, 9)
        };
        let _first = ask(&mut desk, &busy);
        let entry = one(desk.begin(1, false));
        let _waits = ask(&mut desk, &patient);
        let _comes_meanwhile = ask(&mut desk, &busy);
        desk.end(entry, &Ok(fits(1)));
        assert_eq!(one(desk.begin(1, false)).key, patient);
        assert_eq!(one(desk.begin(1, false)).key, busy);
    }

    #[test]
    fn who_comes_back_has_its_place_still_where_the_cap_is_far() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        desk.hold(&key, now);
        let _verdict = desk.ask(&key, 100);
        let entry = one(desk.begin(10, false));
        desk.end(entry, &Ok(Granted { places: 1, reserve: 0, far: Some(later()) }));
        desk.release(&key);
        assert_eq!(desk.waiting(), (false, false));
        desk.hold(&key, now);
        assert!(desk.has_place(&key, now));
        desk.release(&key);
        desk.renew(now, now + Duration::from_secs(60), false);
        let entry = one(desk.begin(10, true));
        assert_eq!((entry.settled, entry.asking()), (0, 0));
        desk.end(entry, &Ok(fits(0)));
        assert!(desk.shares.is_empty());
    }

    #[test]
    fn a_reserve_is_given_back_with_the_next_renewal() {
        let (now, key) = (Instant::now(), key());
        let later = now + Duration::from_secs(60);
        let mut desk = Desk::default();
        crowd(&mut desk, &key);
        desk.renew(now, later, false);
        desk.hold(&key, now);
        assert!(!desk.has_place(&key, now), "it is to be given back");
        desk.release(&key);
        let entry = one(desk.begin(10, true));
        assert_eq!((entry.settled, entry.asking(), entry.reserve()), (CROWD + 1, 0, 0));
        desk.end(entry, &Ok(fits(0)));
        assert_eq!(desk.waiting(), (false, false));
    }

    #[test]
    fn a_few_have_no_reserve_and_nobody_has_an_endless_one() {
        let entry = |settled, asking| Entry {
            key: key(),
            settled,
            cap: 1_000,
            askers: (0..asking).map(|_| oneshot::channel().0).collect(),
        };
        assert_eq!(entry(CROWD - 2, 1).reserve(), 0);
        assert_eq!(entry(CROWD - 1, 1).reserve(), CROWD);
        assert_eq!(entry(0, 1_000).reserve(), MOST_RESERVED);
        assert_eq!(entry(1_000, 0).reserve(), 0, "what is told only asks for nothing");
    }

    #[test]
    fn a_write_whose_fate_is_unknown_leaves_no_reserve() {
        let (now, key) = (Instant::now(), key());
        let mut desk = Desk::default();
        crowd(&mut desk, &key);
        desk.renew(now, now, true);
        let entry = one(desk.begin(10, true));
        desk.end(entry, &Err(BrokerError::Busy));
        desk.hold(&key, now);
        assert!(!desk.has_place(&key, now));
    }
}
