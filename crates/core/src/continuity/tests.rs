//! A small world around one feed: a log, a wire that loses and repeats, reads that take time, and a subscriber that
//! keeps a ledger. The same ledger judges with the repair switched off, to show that it can fail.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    epoch: Epoch,
    offset: Offset,
    id: u64,
}

type Action = FeedAction<Event>;

fn epoch(n: u64) -> Epoch {
    Epoch::new(&format!("{n:016x}"))
}

fn at(epoch_number: u64, offset: u64) -> Position {
    Position { epoch: epoch(epoch_number), offset: Offset(offset) }
}

fn event(epoch_number: u64, offset: u64) -> Event {
    Event { epoch: epoch(epoch_number), offset: Offset(offset), id: epoch_number * 1_000 + offset }
}

fn page(offsets: std::ops::RangeInclusive<u64>) -> Vec<(Offset, Event)> {
    offsets.map(|offset| (Offset(offset), event(1, offset))).collect()
}

fn feed() -> RoomFeed<Event> {
    RoomFeed::new(FeedRules::default(), |_| 1)
}

/// A feed that has delivered up to this offset of epoch 1.
fn following(offset: u64) -> RoomFeed<Event> {
    let mut feed = feed();
    assert_eq!(feed.tail(&at(1, offset)), None);
    feed
}

fn live(feed: &mut RoomFeed<Event>, epoch_number: u64, offset: u64) -> Option<Action> {
    feed.live(&epoch(epoch_number), Offset(offset), event(epoch_number, offset))
}

fn deliver(offset: u64) -> Action {
    FeedAction::Deliver(at(1, offset), event(1, offset))
}

fn read(epoch_number: u64, offset: u64) -> Action {
    FeedAction::ReadHistory { since: at(epoch_number, offset) }
}

fn reset(epoch_number: u64, offset: u64, reason: ResetReason) -> Action {
    FeedAction::Reset { position: at(epoch_number, offset), reason }
}

#[test]
fn the_first_event_sets_the_position_and_the_next_ones_follow() {
    let mut feed = feed();
    assert_eq!(feed.interrupted(), None);
    assert_eq!(feed.position(), None);
    assert_eq!(live(&mut feed, 1, 7), Some(deliver(7)));
    assert_eq!(live(&mut feed, 1, 8), Some(deliver(8)));
    assert_eq!(live(&mut feed, 1, 8), None);
    assert_eq!(live(&mut feed, 1, 3), None);
    assert_eq!(feed.position(), Some(&at(1, 8)));
}

#[test]
fn a_jump_is_filled_from_history_before_what_came_live() {
    let mut feed = following(5);
    assert_eq!(live(&mut feed, 1, 8), Some(read(1, 5)));
    assert_eq!(live(&mut feed, 1, 9), None);
    assert_eq!(feed.page(at(1, 8), true, page(6..=8)), [deliver(6), deliver(7), deliver(8), deliver(9)]);
    assert!(!feed.repairing());
}

#[test]
fn a_partial_page_is_followed_by_the_next() {
    let mut feed = following(5);
    assert_eq!(feed.interrupted(), Some(read(1, 5)));
    assert_eq!(feed.page(at(1, 9), true, page(6..=7)), [deliver(6), deliver(7), read(1, 7)]);
    assert_eq!(feed.page(at(1, 9), true, page(8..=9)), [deliver(8), deliver(9)]);
    assert!(!feed.repairing());
}

#[test]
fn a_quiet_room_is_repaired_by_a_look_at_its_tail() {
    let mut feed = following(5);
    assert_eq!(feed.tail(&at(1, 5)), None);
    assert_eq!(feed.tail(&at(1, 6)), Some(read(1, 5)));
    assert_eq!(feed.page(at(1, 6), true, page(6..=6)), [deliver(6)]);
}

#[test]
fn one_late_look_is_harmless_and_two_that_fall_short_are_checked() {
    let mut feed = following(5);
    assert_eq!(feed.tail(&at(1, 4)), None);
    assert_eq!(live(&mut feed, 1, 6), Some(deliver(6)));
    assert_eq!(feed.tail(&at(1, 5)), None);
    assert_eq!(feed.tail(&at(1, 6)), None);
    assert_eq!(feed.tail(&at(1, 4)), None);
    assert_eq!(feed.tail(&at(1, 4)), Some(read(1, 6)));
    assert_eq!(feed.page(at(1, 4), true, vec![]), [reset(1, 4, ResetReason::LogWentBack)]);
    assert_eq!(live(&mut feed, 1, 5), Some(deliver(5)));
}

#[test]
fn history_that_is_gone_or_has_a_hole_is_a_reset() {
    for (complete, events) in [(false, page(8..=9)), (true, page(8..=9)), (true, vec![])] {
        let mut feed = following(5);
        feed.interrupted();
        assert_eq!(feed.page(at(1, 9), complete, events), [reset(1, 9, ResetReason::HistoryGone)]);
        assert_eq!(live(&mut feed, 1, 10), Some(deliver(10)));
    }
}

#[test]
fn a_new_epoch_is_a_reset_and_a_late_event_of_the_old_one_is_not() {
    let mut feed = following(5);
    assert_eq!(live(&mut feed, 2, 1), Some(read(1, 5)));
    assert_eq!(feed.page(at(2, 1), false, vec![]), [reset(2, 1, ResetReason::NewEpoch)]);
    assert_eq!(live(&mut feed, 1, 6), Some(read(2, 1)));
    assert_eq!(feed.page(at(2, 1), true, vec![]), []);
    assert_eq!(feed.position(), Some(&at(2, 1)));
}

#[test]
fn a_sign_that_comes_during_a_read_causes_one_more_and_never_a_second_at_once() {
    let mut feed = following(5);
    assert_eq!(feed.interrupted(), Some(read(1, 5)));
    assert_eq!(feed.interrupted(), None);
    assert_eq!(feed.page(at(1, 5), true, vec![]), [read(1, 5)]);
    assert_eq!(feed.tail(&at(1, 6)), None);
    assert_eq!(feed.page(at(1, 5), true, vec![]), [read(1, 5)]);
    assert_eq!(live(&mut feed, 2, 1), None);
    assert_eq!(feed.page(at(1, 6), true, page(6..=6)), [deliver(6), read(1, 6)]);
    assert_eq!(feed.page(at(2, 1), false, vec![]), [reset(2, 1, ResetReason::NewEpoch)]);
}

#[test]
fn a_page_that_overlaps_what_was_delivered_repeats_nothing() {
    let mut feed = following(5);
    feed.interrupted();
    assert_eq!(feed.page(at(1, 7), true, page(4..=7)), [deliver(6), deliver(7)]);
}

#[test]
fn a_gap_behind_the_page_is_read_too() {
    let mut feed = following(5);
    feed.interrupted();
    assert_eq!(live(&mut feed, 1, 8), None);
    assert_eq!(feed.page(at(1, 5), true, vec![]), [read(1, 5)]);
    assert_eq!(feed.page(at(1, 8), true, page(6..=7)), [deliver(6), deliver(7), deliver(8)]);
    assert!(!feed.repairing());
}

#[test]
fn a_joiner_that_read_less_than_the_first_one_gets_what_lies_between() {
    let mut feed = feed();
    assert_eq!(feed.seed(&at(1, 7)), None);
    assert_eq!(feed.seed(&at(1, 9)), None);
    // What the first joiner's read held is not news to the feed, but to the second joiner it is.
    assert_eq!(live(&mut feed, 1, 6), None);
    assert_eq!(feed.seed(&at(1, 5)), Some(read(1, 5)));
    assert_eq!(feed.page(at(1, 7), true, page(6..=7)), [deliver(6), deliver(7)]);
    assert_eq!(feed.seed(&at(1, 5)), None);
    assert_eq!(feed.seed(&at(0, 1)), None);
    assert_eq!(live(&mut feed, 1, 8), Some(deliver(8)));
}

#[test]
fn a_failed_read_is_asked_for_again() {
    let mut feed = following(5);
    assert_eq!(feed.failed(), None);
    feed.interrupted();
    assert_eq!(feed.failed(), Some(read(1, 5)));
    assert_eq!(feed.failed(), Some(read(1, 5)));
    assert_eq!(feed.page(at(1, 6), true, page(6..=6)), [deliver(6)]);
}

#[test]
fn live_events_that_were_rolled_back_are_not_delivered() {
    let mut feed = following(5);
    assert_eq!(live(&mut feed, 1, 7), Some(read(1, 5)));
    assert_eq!(feed.page(at(1, 5), true, vec![]), []);
    assert_eq!(feed.position(), Some(&at(1, 5)));
}

#[test]
fn a_full_buffer_is_dropped_and_read_again() {
    for (rules, size) in [
        (FeedRules { events: 2, bytes: 100 }, (|_| 1) as fn(&Event) -> usize),
        (FeedRules { events: 100, bytes: 25 }, |_| 10),
        (FeedRules { events: 100, bytes: 5 }, |_| 10),
    ] {
        let mut feed = RoomFeed::new(rules, size);
        feed.tail(&at(1, 5));
        assert_eq!(feed.interrupted(), Some(read(1, 5)));
        for offset in 6..=8 {
            assert_eq!(live(&mut feed, 1, offset), None);
        }
        let State::Repairing(repair) = &feed.state else { panic!("it repairs") };
        assert!(repair.held.len() <= rules.events && repair.held_bytes <= rules.bytes);
        assert_eq!(feed.page(at(1, 5), true, vec![]), [read(1, 5)]);
        assert_eq!(feed.page(at(1, 8), true, page(6..=8)), [deliver(6), deliver(7), deliver(8)]);
        assert!(!feed.repairing());
    }
}

#[test]
fn a_rewind_delivers_again_also_in_the_middle_of_a_read() {
    let mut feed = following(5);
    assert_eq!(feed.rewind(Offset(6)), None);
    assert_eq!(feed.rewind(Offset(5)), Some(read(1, 4)));
    assert_eq!(feed.rewind(Offset(3)), None);
    assert_eq!(feed.page(at(1, 5), true, page(5..=5)), [read(1, 2)]);
    assert_eq!(feed.page(at(1, 5), true, page(3..=5)), [deliver(3), deliver(4), deliver(5)]);
    // Whoever missed a reset is reset again.
    assert_eq!(feed.rewind_to(at(0, 9)), Some(read(0, 9)));
    assert_eq!(feed.page(at(1, 5), false, vec![]), [reset(1, 5, ResetReason::NewEpoch)]);
}

#[test]
fn an_ended_room_is_reset_at_once_and_a_read_of_its_past_ignored() {
    let mut feed = following(5);
    feed.interrupted();
    assert_eq!(feed.reset(at(2, 0), "over".into()), Some(reset(2, 0, ResetReason::Ended("over".into()))));
    assert_eq!(feed.reset(at(2, 0), "over".into()), None);
    assert_eq!(feed.page(at(1, 6), true, page(6..=6)), [read(2, 0)]);
    assert_eq!(feed.page(at(2, 0), true, vec![]), []);
    assert!(!feed.repairing());
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repairs {
    On,
    /// Every read says that nothing was missed.
    Off,
}

#[derive(Debug, Clone)]
enum Step {
    Publish,
    /// What is next on the wire reaches the feed.
    Arrive,
    /// All that is on the wire is lost, and the feed is told.
    Cut,
    /// What is next on the wire is lost, and nobody notices.
    Lose,
    /// What is next on the wire comes twice, the second time last.
    Repeat,
    /// The log is lost and begins anew.
    NewEpoch,
    /// Of the log's past so much stays.
    Trim(u64),
    /// The read in flight reaches the log, and brings at most so many events.
    Execute(u64),
    /// What it brought reaches the feed.
    Answer,
    Fail,
    Look,
    Looked,
    /// A worker lost the last so many deliveries.
    Rewind(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => Just(Step::Publish),
        12 => Just(Step::Arrive),
        1 => Just(Step::Cut),
        2 => Just(Step::Lose),
        1 => Just(Step::Repeat),
        1 => Just(Step::NewEpoch),
        1 => (0u64..6).prop_map(Step::Trim),
        5 => (1u64..5).prop_map(Step::Execute),
        5 => Just(Step::Answer),
        1 => Just(Step::Fail),
        1 => Just(Step::Look),
        1 => Just(Step::Looked),
        1 => (1u64..4).prop_map(Step::Rewind),
    ]
}

enum OnWire {
    Event(Event),
    Interrupted,
}

enum Flight {
    Asked(Position),
    Answered(Position, bool, Vec<(Offset, Event)>),
}

struct World {
    repairs: Repairs,
    feed: RoomFeed<Event>,
    /// Epochs are numbered from 0, so that the test knows which came later.
    epoch: u64,
    /// How many events the present epoch has, and how many of them are forgotten.
    length: u64,
    trimmed: u64,
    truth: HashMap<(Epoch, Offset), u64>,
    wire: VecDeque<OnWire>,
    flight: Option<Flight>,
    looks: VecDeque<Position>,
    /// The subscriber's ledger.
    seen: Option<Position>,
}

type Verdict = Result<(), String>;

impl World {
    fn new(rules: FeedRules, repairs: Repairs) -> Self {
        Self {
            repairs,
            feed: RoomFeed::new(rules, |_| 10),
            epoch: 0,
            length: 0,
            trimmed: 0,
            truth: HashMap::new(),
            wire: VecDeque::new(),
            flight: None,
            looks: VecDeque::new(),
            seen: None,
        }
    }

    fn log_tail(&self) -> Position {
        at(self.epoch, self.length)
    }

    fn step(&mut self, step: &Step) -> Verdict {
        let actions = match *step {
            Step::Publish => {
                self.length += 1;
                let Position { epoch, offset } = self.log_tail();
                let id = self.truth.len() as u64;
                self.truth.insert((epoch.clone(), offset), id);
                self.wire.push_back(OnWire::Event(Event { epoch, offset, id }));
                vec![]
            }
            Step::Arrive => match self.wire.pop_front() {
                Some(OnWire::Event(event)) => {
                    self.feed.live(&event.epoch.clone(), event.offset, event).into_iter().collect()
                }
                Some(OnWire::Interrupted) => self.feed.interrupted().into_iter().collect(),
                None => vec![],
            },
            Step::Cut => {
                self.wire.clear();
                self.wire.push_back(OnWire::Interrupted);
                vec![]
            }
            Step::Lose => {
                if let Some(OnWire::Event(_)) = self.wire.front() {
                    self.wire.pop_front();
                }
                vec![]
            }
            Step::Repeat => {
                if let Some(OnWire::Event(event)) = self.wire.front() {
                    self.wire.push_back(OnWire::Event(event.clone()));
                }
                vec![]
            }
            Step::NewEpoch => {
                (self.epoch, self.length, self.trimmed) = (self.epoch + 1, 0, 0);
                vec![]
            }
            Step::Trim(kept) => {
                self.trimmed = self.trimmed.max(self.length.saturating_sub(kept));
                vec![]
            }
            Step::Execute(limit) => {
                if let Some(Flight::Asked(since)) = &self.flight {
                    self.flight = Some(self.execute(since, limit));
                }
                vec![]
            }
            Step::Answer => match self.flight.take() {
                Some(Flight::Answered(tail, complete, events)) => self.feed.page(tail, complete, events),
                other => {
                    self.flight = other;
                    vec![]
                }
            },
            Step::Fail if self.flight.take().is_some() => self.feed.failed().into_iter().collect(),
            Step::Fail => vec![],
            Step::Look => {
                self.looks.push_back(self.log_tail());
                vec![]
            }
            Step::Looked => {
                self.looks.pop_front().and_then(|tail| self.feed.tail(&tail)).into_iter().collect()
            }
            Step::Rewind(by) => match &mut self.seen {
                Some(seen) if seen.offset.0 >= by => {
                    seen.offset.0 -= by;
                    let from = seen.offset.next();
                    self.feed.rewind(from).into_iter().collect()
                }
                _ => vec![],
            },
        };
        self.carry_out(actions)?;
        // A look may have set the position of a feed that had none: that is where its subscribers join.
        self.seen = self.seen.take().or_else(|| self.feed.position().cloned());
        if self.seen.as_ref() != self.feed.position() {
            return Err(format!(
                "the subscriber is at {:?}, the feed at {:?}",
                self.seen,
                self.feed.position()
            ));
        }
        if self.feed.repairing() != self.flight.is_some() {
            return Err("a repair needs exactly one read in flight".into());
        }
        Ok(())
    }

    fn execute(&self, since: &Position, limit: u64) -> Flight {
        let tail = self.log_tail();
        let complete = since.epoch == tail.epoch && since.offset.0 >= self.trimmed;
        let first =
            if since.epoch == tail.epoch { since.offset.0.max(self.trimmed) + 1 } else { self.trimmed + 1 };
        let event = |offset| {
            let id = self.truth[&(tail.epoch.clone(), Offset(offset))];
            (Offset(offset), Event { epoch: tail.epoch.clone(), offset: Offset(offset), id })
        };
        let events = (first..=self.length.min(first + limit - 1)).map(event).collect();
        Flight::Answered(tail, complete, events)
    }

    fn carry_out(&mut self, actions: Vec<Action>) -> Verdict {
        for action in actions {
            match action {
                FeedAction::Deliver(position, event) => self.see(&position, &event)?,
                FeedAction::Reset { position, .. } => self.see_reset(position)?,
                FeedAction::ReadHistory { since } => {
                    if self.flight.is_some() {
                        return Err("two reads at once".into());
                    }
                    self.flight = Some(match self.repairs {
                        Repairs::On => Flight::Asked(since),
                        Repairs::Off => Flight::Answered(since, true, vec![]),
                    });
                }
            }
        }
        Ok(())
    }

    fn see(&mut self, place: &Position, event: &Event) -> Verdict {
        if let Some(seen) = &self.seen
            && (seen.epoch != place.epoch || seen.offset.next() != place.offset)
        {
            return Err(format!("after {seen:?} came {place:?}"));
        }
        if self.truth.get(&(place.epoch.clone(), place.offset)) != Some(&event.id) {
            return Err(format!("{event:?} was never published"));
        }
        self.seen = Some(place.clone());
        Ok(())
    }

    fn see_reset(&mut self, position: Position) -> Verdict {
        let seen = self.seen.as_ref().ok_or("a reset before the first event")?;
        let known =
            position.offset.0 == 0 || self.truth.contains_key(&(position.epoch.clone(), position.offset));
        // Epochs are fixed-width numbers here: a later one compares greater.
        let forward = position.epoch.as_str() > seen.epoch.as_str();
        let lost = position.epoch == seen.epoch
            && position.offset > seen.offset
            && (position.epoch != epoch(self.epoch) || seen.offset.0 < self.trimmed);
        if !known || !(forward || lost) {
            return Err(format!("at {seen:?} an unfounded reset to {position:?}"));
        }
        self.seen = Some(position);
        Ok(())
    }

    /// Faults end: what is under way arrives, and reads succeed. Then one look at the tail, or one more event, is
    /// enough: nobody may be left behind.
    fn settle(&mut self, last: &Step) -> Verdict {
        self.step(last)?;
        // A page of one event per round, and a few rounds for what the last faults left to check.
        for _ in 0..self.length * 2 + 20 {
            while !self.wire.is_empty() {
                self.step(&Step::Arrive)?;
            }
            while !self.looks.is_empty() {
                self.step(&Step::Looked)?;
            }
            self.step(&Step::Execute(1))?;
            self.step(&Step::Answer)?;
        }
        if self.feed.repairing() {
            return Err("the feed is stuck in its repair".into());
        }
        match &self.seen {
            Some(seen) if *seen == self.log_tail() => Ok(()),
            seen => Err(format!("left behind at {seen:?}, the log is at {:?}", self.log_tail())),
        }
    }
}

fn run(steps: &[Step], last: &Step, rules: FeedRules, repairs: Repairs) -> Verdict {
    let mut world = World::new(rules, repairs);
    for step in steps {
        world.step(step)?;
    }
    world.settle(last)
}

#[test]
fn the_ledger_reports_every_kind_of_loss_when_the_repair_is_switched_off() {
    use Step::{Arrive, Cut, Look, Lose, NewEpoch, Publish, Trim};
    let scenarios: [&[Step]; 6] = [
        &[Publish, Arrive, Publish, Lose, Publish, Arrive],
        &[Publish, Arrive, Publish, Lose],
        &[Publish, Arrive, Publish, Publish, Cut],
        &[Publish, Arrive, Publish, Cut, Arrive, Publish, Arrive],
        &[Publish, Arrive, NewEpoch, Publish, Arrive],
        &[Publish, Arrive, Publish, Publish, Publish, Cut, Trim(1)],
    ];
    for steps in scenarios {
        assert_eq!(run(steps, &Look, FeedRules::default(), Repairs::On), Ok(()), "{steps:?}");
        let verdict = run(steps, &Look, FeedRules::default(), Repairs::Off);
        assert!(
            verdict.is_err_and(|loss| loss.contains("left behind") || loss.contains("stuck")),
            "{steps:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Whatever is lost, repeated, cut, forgotten or late: every event once and in order, or a reset with a cause,
    /// and once reads succeed nobody is left behind.
    #[test]
    fn every_event_comes_once_and_in_order_or_a_reset_covers_it(
        steps in prop::collection::vec(step(), 1..150),
        events in 0usize..6,
        bytes in 0usize..60,
        last in prop_oneof![Just(Step::Look), Just(Step::Publish)],
    ) {
        let verdict = run(&steps, &last, FeedRules { events, bytes }, Repairs::On);
        prop_assert_eq!(verdict, Ok(()));
    }

    /// Without faults no history is read at all.
    #[test]
    fn an_undisturbed_feed_reads_nothing(steps in prop::collection::vec(any::<bool>(), 1..100)) {
        let mut world = World::new(FeedRules::default(), Repairs::On);
        for publish in steps {
            let verdict = world.step(if publish { &Step::Publish } else { &Step::Arrive });
            prop_assert_eq!(verdict, Ok(()));
            prop_assert!(!world.feed.repairing());
        }
    }
}
