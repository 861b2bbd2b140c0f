//! When a busy worker rests: who is woken for every frame reads every frame by itself, and who looks only once in a
//! while finds several together, which one read and one acknowledgement serve.
//!
//! Rests are for a worker that hears frames whenever it looks, works for a fifth of its time at least, and does so
//! without a pause that is as long as a rest. One that is idle looks at once; so does one that does other things, as letting
//! people in, and one whose rests bring no more for a read, because those who speak wait for its answers before they go on,
//! or because there are many of them, and each says little. Nor does it rest where that holds up those who speak.

use std::time::{Duration, Instant};

/// A rest is no longer than this.
pub const LONGEST: Duration = Duration::from_millis(1);
/// Pauses that show whether a worker is busy.
const FEW: u32 = 16;
/// The most that it takes where rests gathered nothing, again and again.
const MANY: u32 = 4_096;
/// It works for one part in so many of its time, before it rests.
const BUSY: u32 = 5;
/// The same while it rests: what comes together is done in a fraction of the time.
const STILL_BUSY: u32 = 10;
/// Frames that a rest has to gather.
const SEVERAL: u64 = 8;
/// Frames from which on what was heard before them counts half.
const LATELY: u64 = 1_024;

/// What a worker heard.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    /// Frames that were heard.
    pub frames: u64,
    /// Reads from a socket that brought something.
    pub reads: u64,
}

impl Heard {
    /// Of one that was not spoken to.
    pub const NOTHING: Self = Self { frames: 0, reads: 0 };
}

/// Some pauses, and the work behind each.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    heard: Heard,
    worked: Duration,
    paused: Duration,
}

impl Stretch {
    const NONE: Self = Self { heard: Heard::NOTHING, worked: Duration::ZERO, paused: Duration::ZERO };

    fn and(self, more: Self) -> Self {
        Self {
            heard: Heard {
                frames: self.heard.frames + more.heard.frames,
                reads: self.heard.reads + more.heard.reads,
            },
            worked: self.worked + more.worked,
            paused: self.paused + more.paused,
        }
    }

    /// With more of it; what was long ago counts less and less.
    fn and_lately(self, more: Self) -> Self {
        let Self { heard: Heard { frames, reads }, worked, paused } = self;
        let by = if frames < LATELY { 1 } else { 2 };
        let heard = Heard { frames: frames / u64::from(by), reads: reads / u64::from(by) };
        Self { heard, worked: worked / by, paused: paused / by }.and(more)
    }

    fn time(self) -> Duration {
        self.worked + self.paused
    }

    /// Whether it worked for one part in so many of the time.
    fn is_busy(self, parts: u32) -> bool {
        self.worked.saturating_mul(parts) >= self.time()
    }

    /// Whether a read brought half as many frames again as before, or more.
    fn is_denser_than(self, before: Self) -> bool {
        let product = |of: Self, by: Self| u128::from(of.heard.frames) * u128::from(by.heard.reads);
        self.heard.reads > 0 && product(self, before) * 2 >= product(before, self) * 3
    }

    /// Whether fewer than half as many frames came in the same time.
    fn is_held_up(self, before: Self) -> bool {
        let product = |of: Self, by: Self| u128::from(of.heard.frames) * by.time().as_nanos();
        product(self, before) * 2 < product(before, self)
    }
}

/// How one worker's pauses went.
#[derive(Debug, Clone)]
pub struct Rest {
    most: Duration,
    /// Pauses that it takes until the next rest.
    needed: u32,
    state: State,
    /// When the pause began that goes on, and whether it was cut short by what is due.
    begun: Option<(Instant, bool)>,
    /// The last pause, and when the work behind it began.
    woken: Option<(Pause, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    length: Duration,
    is_cut: bool,
}

#[derive(Debug, Clone)]
enum State {
    /// It looks at once; in how many pauses it did what.
    Looking { pauses: u32, so_far: Stretch },
    /// It rests in each pause; what it did before and lately, whether nothing came of the rests so far, and how many were
    /// cut short since something did.
    Resting { before: Stretch, lately: Stretch, for_nothing: bool, cut: u32 },
}

impl State {
    const AT_FIRST: Self = Self::Looking { pauses: 0, so_far: Stretch::NONE };
}

impl Rest {
    /// Rests of at most `most`, and of [`LONGEST`]; of zero: none.
    pub fn new(most: Duration) -> Self {
        Self { most: most.min(LONGEST), needed: FEW, state: State::AT_FIRST, begun: None, woken: None }
    }

    /// All that there was is done, and this was heard: for how long to rest before what came is looked at. What is `due`
    /// at some time is not made to wait.
    pub fn pause(&mut self, now: Instant, heard: Heard, due: Option<Instant>) -> Duration {
        if let Some((pause, woken)) = self.woken.take() {
            self.judge(pause, now.saturating_duration_since(woken), heard);
        }
        let left = due.map(|due| due.saturating_duration_since(now)).filter(|left| *left < self.most);
        self.begun = Some((now, left.is_some()));
        match self.state {
            State::Resting { .. } => left.unwrap_or(self.most),
            State::Looking { .. } => Duration::ZERO,
        }
    }

    /// The pause is over: something came, or is due.
    pub fn wake(&mut self, now: Instant) {
        self.woken = self
            .begun
            .take()
            .map(|(begun, is_cut)| (Pause { length: now.saturating_duration_since(begun), is_cut }, now));
    }

    /// After a pause, and the work behind it.
    fn judge(&mut self, pause: Pause, worked: Duration, heard: Heard) {
        let this = Stretch { heard, worked, paused: pause.length };
        match &mut self.state {
            // Nothing came for long: it is idle, or as good as that.
            State::Looking { .. } if pause.length >= self.most => {
                (self.needed, self.state) = (FEW, State::AT_FIRST);
            }
            State::Looking { pauses, so_far } => {
                *pauses += 1;
                *so_far = so_far.and(this);
                if *pauses >= self.needed {
                    let is_spoken_to = so_far.heard.frames >= u64::from(*pauses) && so_far.is_busy(BUSY);
                    self.state = if is_spoken_to {
                        let (before, lately) = (*so_far, Stretch::NONE);
                        State::Resting { before, lately, for_nothing: true, cut: 0 }
                    } else {
                        State::AT_FIRST
                    };
                }
            }
            State::Resting { before, lately, for_nothing, cut } => {
                *lately = lately.and_lately(this);
                let is_worth_it = heard.frames >= SEVERAL
                    && this.is_busy(STILL_BUSY)
                    && lately.is_denser_than(*before)
                    && !lately.is_held_up(*before);
                if is_worth_it {
                    (*for_nothing, *cut) = (false, 0);
                } else if pause.is_cut && *cut < FEW {
                    // Short as it was, that says nothing; but many of them do.
                    *cut += 1;
                } else {
                    // It is idle now, or those who speak wait for its answers, or each says little.
                    self.needed = if *for_nothing { (self.needed * 2).min(MANY) } else { FEW };
                    self.state = State::AT_FIRST;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: Duration = Duration::from_millis(1);
    const MUCH: Heard = Heard { frames: 150, reads: 30 };

    fn micros(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    /// A worker on a clock of its own.
    struct Worker {
        rest: Rest,
        now: Instant,
        /// Frames that one read brings after a rest.
        gathered: u64,
        /// The same where it has not rested.
        alone: u64,
        rested: bool,
        /// Since it looked the last time but one.
        turn: Duration,
    }

    impl Worker {
        fn new(most: Duration) -> Self {
            let (rest, now) = (Rest::new(most), Instant::now());
            Self { rest, now, gathered: 5, alone: 1, rested: false, turn: Duration::ZERO }
        }

        /// Hears a frame per 6 µs, by a read for each if it has not rested, and is woken again after the pause, or after
        /// the rest where that is longer. How long the rest was.
        fn turn(&mut self, work: Duration, pause: Duration) -> Duration {
            self.hear(u64::try_from(work.as_micros()).unwrap() / 6, work, pause)
        }

        fn hear(&mut self, frames: u64, work: Duration, pause: Duration) -> Duration {
            self.until(None, frames, work, pause)
        }

        /// The same where something is due in a while.
        fn until(&mut self, due: Option<Duration>, frames: u64, work: Duration, pause: Duration) -> Duration {
            self.now += work;
            let reads = frames.div_ceil(if self.rested { self.gathered } else { self.alone });
            let due = due.map(|due| self.now + due);
            let rest = self.rest.pause(self.now, Heard { frames, reads }, due);
            self.rested = !rest.is_zero();
            self.turn = work + rest.max(pause);
            self.now += rest.max(pause);
            self.rest.wake(self.now);
            rest
        }

        /// Hears what has come meanwhile from those who wait for nothing: a frame after so much time.
        fn flow(&mut self, every: Duration, cost: Duration) -> Duration {
            let frames = u64::try_from((self.turn.as_nanos() / every.as_nanos()).max(1)).unwrap();
            let work = cost * u32::try_from(frames).unwrap();
            self.hear(frames, work, every.saturating_sub(cost))
        }

        /// Works as much as it takes to have it rest in the next pause.
        fn tire(&mut self) {
            for _ in 0..FEW {
                assert_eq!(self.turn(micros(6), micros(24)), Duration::ZERO);
            }
        }
    }

    #[test]
    fn who_works_for_a_fifth_of_the_time_rests_after_a_while() {
        let mut worker = Worker::new(MOST);
        worker.tire();
        for _ in 0..100 {
            assert_eq!(worker.turn(micros(500), micros(3)), MOST);
        }
    }

    #[test]
    fn who_works_for_less_than_a_fifth_of_the_time_looks_at_once() {
        let mut worker = Worker::new(MOST);
        for _ in 0..10_000 {
            assert_eq!(worker.turn(micros(6), micros(25)), Duration::ZERO);
        }
    }

    #[test]
    fn who_works_at_other_things_looks_at_once() {
        let mut worker = Worker::new(MOST);
        for turn in 0..10_000 {
            assert_eq!(worker.hear(turn % 2, micros(60), micros(4)), Duration::ZERO);
        }
        // Also where that begins while it rests.
        worker.turn(micros(6), MOST);
        worker.tire();
        assert_eq!(worker.turn(micros(900), micros(4)), MOST);
        assert_eq!(worker.hear(SEVERAL - 1, micros(900), micros(4)), Duration::ZERO);
    }

    #[test]
    fn a_pause_as_long_as_a_rest_begins_anew() {
        let mut worker = Worker::new(MOST);
        for _ in 0..100 {
            for _ in 0..FEW - 1 {
                assert_eq!(worker.turn(micros(500), micros(4)), Duration::ZERO);
            }
            assert_eq!(worker.turn(micros(500), MOST), Duration::ZERO);
        }
    }

    /// The end of a crowd's turn: the rests before it were worth it, so it takes few pauses until the next.
    #[test]
    fn a_rest_for_nothing_after_others_is_forgiven() {
        let mut worker = Worker::new(MOST);
        worker.tire();
        for _ in 0..10 {
            for _ in 0..4 {
                assert_eq!(worker.turn(micros(500), micros(3)), MOST);
            }
            assert_eq!(worker.turn(micros(10), micros(3)), Duration::ZERO);
            for _ in 1..FEW {
                assert_eq!(worker.turn(micros(6), micros(24)), Duration::ZERO);
            }
        }
    }

    #[test]
    fn a_rest_in_which_nothing_came_is_the_last() {
        let mut worker = Worker::new(MOST);
        worker.tire();
        assert_eq!(worker.turn(micros(6), Duration::from_secs(1)), MOST);
        assert_eq!(worker.turn(micros(6), micros(4)), Duration::ZERO);
    }

    /// Those who ask wait for the answer before they ask on: there is nothing to gather. What the rests cost them
    /// becomes less and less.
    #[test]
    fn rests_that_gather_nothing_become_rare() {
        let mut worker = Worker::new(MOST);
        let turns = 100_000;
        let rested: Duration = (0..turns).map(|_| worker.turn(micros(60), micros(40))).sum();
        assert!(rested < micros(100) * turns / 50, "{rested:?} for {turns} turns of 0.1 ms");
        // A long pause forgets that.
        worker.turn(micros(6), MOST);
        worker.turn(micros(6), micros(4));
        for _ in 1..FEW {
            assert_eq!(worker.turn(micros(6), micros(4)), Duration::ZERO);
        }
        assert_eq!(worker.turn(micros(900), micros(4)), MOST);
    }

    /// Thousands of sockets, each of which says a few frames a second: many frames come in a rest, and each needs a read.
    #[test]
    fn rests_after_which_a_read_brings_no_more_become_rare() {
        let turns = 100_000;
        for (gathered, is_worth_it) in [(1, false), (2, true)] {
            let mut worker = Worker { gathered, ..Worker::new(MOST) };
            let rests = (0..turns).filter(|_| !worker.flow(micros(10), micros(4)).is_zero()).count();
            assert_eq!(rests > turns * 9 / 10, is_worth_it, "{rests}");
            assert_eq!(rests < turns / 1_000, !is_worth_it, "{rests}");
        }
    }

    /// Who sends so many, together or one by one, and waits for all the answers before the next.
    #[test]
    fn rests_that_hold_up_those_who_speak_become_rare() {
        let turns = 100_000;
        for (window, cost, gathered) in [(8, 15, 1), (8, 15, 8), (32, 6, 32), (32, 6, 2), (128, 3, 128)] {
            let mut worker = Worker { gathered, ..Worker::new(MOST) };
            let work = micros(window * cost);
            let rests = (0..turns).filter(|_| !worker.hear(window, work, micros(40)).is_zero()).count();
            assert!(rests < turns / 1_000, "{window}: {rests}");
        }
    }

    /// Who sends several frames in one packet and waits for nothing: a read brings all of them also without a rest.
    #[test]
    fn rests_behind_which_a_read_brings_what_it_brought_before_become_rare() {
        let mut worker = Worker { gathered: 8, alone: 8, ..Worker::new(MOST) };
        let (turns, every) = (100_000, micros(80));
        let packets = |turn: Duration| u64::try_from((turn.as_micros() / every.as_micros()).max(1)).unwrap();
        let mut rests = 0;
        for _ in 0..turns {
            let frames = packets(worker.turn) * 8;
            rests += u32::from(!worker.hear(frames, micros(frames * 4), micros(48)).is_zero());
        }
        assert!(rests < turns / 1_000, "{rests}");
    }

    #[test]
    fn a_few_rests_that_brought_no_more_are_forgiven_and_many_are_not() {
        let mut worker = Worker::new(MOST);
        worker.tire();
        for _ in 0..100 {
            assert_eq!(worker.turn(micros(600), micros(4)), MOST);
        }
        worker.gathered = 1;
        for _ in 0..4 {
            assert_eq!(worker.turn(micros(600), micros(4)), MOST);
        }
        let more = (0..20).take_while(|_| !worker.turn(micros(600), micros(4)).is_zero()).count();
        assert!(more < 20, "{more}");
    }

    #[test]
    fn what_is_due_ends_a_rest() {
        let mut worker = Worker::new(MOST);
        worker.tire();
        let now = worker.now + micros(900);
        for (due, rest) in [(Some(micros(300)), micros(300)), (Some(MOST * 3), MOST), (None, MOST)] {
            assert_eq!(worker.rest.clone().pause(now, MUCH, due.map(|due| now + due)), rest);
        }
        assert_eq!(worker.rest.pause(now, MUCH, Some(worker.now)), Duration::ZERO);
    }

    #[test]
    fn a_rest_that_was_cut_short_is_no_rest_for_nothing() {
        let mut worker = Worker::new(MOST);
        worker.tire();
        let cut = |worker: &mut Worker| worker.until(Some(micros(50)), 1, micros(6), micros(4));
        for _ in 0..FEW {
            assert_eq!(cut(&mut worker), micros(50));
        }
        // The next is not cut, and brings much.
        assert_eq!(worker.turn(micros(6), micros(4)), MOST);
        assert_eq!(worker.until(Some(Duration::ZERO), 150, micros(900), micros(4)), Duration::ZERO);
        for _ in 0..FEW {
            assert_eq!(cut(&mut worker), micros(50));
        }
        // So many in a row that bring nothing are enough.
        assert_eq!(cut(&mut worker), Duration::ZERO);
    }

    #[test]
    fn no_rest_is_longer_than_the_longest_and_of_zero_there_is_none() {
        let mut worker = Worker::new(Duration::from_secs(1));
        worker.tire();
        assert_eq!(worker.turn(micros(900), micros(4)), LONGEST);
        let mut worker = Worker::new(Duration::ZERO);
        assert!((0..1_000).all(|_| worker.turn(micros(900), micros(4)).is_zero()));
    }

    proptest! {
        /// However it goes: a rest is as long as it may be at most, ends when something is due, and comes only behind
        /// as many pauses shorter than itself as it takes.
        #[test]
        fn rests_keep_their_bounds(
            turns in prop::collection::vec(
                (0..2_000_u64, 0..1_050_u64, 0..20_u64, prop::option::of(0..2_000_u64)),
                1..500,
            )
        ) {
            let mut worker = Worker::new(MOST);
            let (mut short, mut rested) = (0, false);
            for (work, pause, heard, due) in turns {
                worker.now += micros(work);
                let heard = Heard { frames: heard, reads: heard.div_ceil(1 + pause % 4) };
                let rest = worker.rest.pause(worker.now, heard, due.map(|due| worker.now + micros(due)));
                prop_assert!(rest <= MOST.min(due.map_or(MOST, micros)));
                let rests = matches!(worker.rest.state, State::Resting { .. });
                prop_assert!(rests || rest.is_zero());
                prop_assert!(!rests || rested || short >= FEW);
                let pause = micros(pause).max(rest);
                short = if !rests && pause < MOST { short + 1 } else { 0 };
                (rested, worker.now) = (rests, worker.now + pause);
                worker.rest.wake(worker.now);
            }
        }
    }
}
