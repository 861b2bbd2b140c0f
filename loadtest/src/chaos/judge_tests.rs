use roomcast_protocol::Data;

use super::*;
use crate::{
    chaos::ledger::{Record, Sent},
    client::{Closed, Joined, Past},
};

const fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn position(offset: u64) -> Position {
    Position { epoch: Epoch::new("e"), offset: Offset(offset) }
}

fn joined(offset: u64, recovered: bool, events: &[u64]) -> Joined {
    let past = |n: &u64| Past {
        offset: Offset(*n),
        data: Data::parse(&format!(r#"{{"p":0,"n":{n}}}"#)).expect("JSON"),
    };
    let events = events.iter().map(past).collect();
    Joined {
        epoch: Epoch::new("e"),
        offset: Offset(offset),
        recovered,
        events,
        presence: None,
        counts: Vec::new(),
    }
}

/// A look at a presence of two.
fn look(ms: u64, told: u64) -> Presence {
    Presence { at: at(ms), connections: told, users: told, members: told, misled: 0, truth: Some(2) }
}

/// A run of ten acknowledged events and two subscribers that saw them all.
struct Case {
    pages: Pages,
    sights: Sights,
    faults: Vec<Occurrence>,
    finale: Finale,
}

impl Case {
    fn new() -> Self {
        let mut pages = Pages { counted: 3, ..Pages::default() };
        for n in 1..=10 {
            let sent =
                Sent { room: 0, first: at(n * 100), acked: Some((at(n * 100 + 2), position(n))), tries: 1 };
            pages.sent.insert(Mark { p: 0, n }, sent);
        }
        for name in ["one", "two"] {
            let mut follower = Follower::default();
            follower.joined(at(0), &joined(0, true, &[]));
            (1..=10).for_each(|n| follower.event(at(n * 100 + 5), Offset(n), Mark { p: 0, n }));
            let record = Record {
                name: name.to_owned(),
                rooms: std::collections::BTreeMap::from([(0, follower)]),
                presence: Some((2, 2)),
                count: Some((3, 3)),
                node: None,
            };
            pages.records.push(record);
        }
        let presence = vec![look(100, 2), look(900, 2)];
        let sights = Sights { presence, health: Vec::new(), stall: at(0) };
        let finale = Finale {
            tails: vec![Some(position(10))],
            counter: Some(3),
            subscribers: 2,
            casualties: Vec::new(),
            at: at(2_000),
        };
        Self { pages, sights, faults: Vec::new(), finale }
    }

    fn with(mut self, fault: Fault, start: u64, cleared: u64) -> Self {
        let nodes = vec!["n1-1".to_owned()];
        self.faults.push(Occurrence { fault, start: at(start), cleared: at(cleared), nodes, felt: true });
        self
    }

    /// The promises that did not hold.
    fn broken(&self) -> Vec<&'static str> {
        let evidence = Evidence {
            pages: &self.pages,
            sights: &self.sights,
            faults: &self.faults,
            finale: &self.finale,
            patience: 1.0,
        };
        let verdicts = evidence.verdicts(&evidence.measures());
        verdicts.iter().filter(|verdict| !verdict.held).map(|verdict| verdict.promise).collect()
    }

    fn follower(&mut self) -> &mut Follower {
        self.pages.records[0].rooms.get_mut(&0).expect("the first room")
    }

    /// The first subscriber saw only the first `n`.
    fn saw(mut self, n: u64) -> Self {
        let mut follower = Follower::default();
        follower.joined(at(0), &joined(0, true, &[]));
        (1..=n).for_each(|n| follower.event(at(n * 100 + 5), Offset(n), Mark { p: 0, n }));
        *self.follower() = follower;
        self
    }
}

fn breaks(case: &Case, part: &str) {
    let broken = case.broken();
    assert!(broken.iter().any(|promise| promise.contains(part)), "{part}: {broken:?}");
}

#[test]
fn a_run_in_which_all_went_well_holds_every_promise() {
    assert_eq!(Case::new().broken(), Vec::<&str>::new());
}

#[test]
fn a_tail_that_never_came_is_loss_and_somebody_left_behind() {
    let case = Case::new().saw(8);
    breaks(&case, "every acknowledged event");
    breaks(&case, "nobody is left behind");
}

#[test]
fn a_jump_over_an_event_is_loss() {
    let mut case = Case::new().saw(4);
    (6..=10).for_each(|n| case.follower().event(at(n * 100), Offset(n), Mark { p: 0, n }));
    breaks(&case, "every acknowledged event");
}

#[test]
fn another_event_at_the_same_place_is_another_log() {
    let mut case = Case::new().saw(9);
    case.follower().event(at(1_005), Offset(10), Mark { p: 7, n: 1 });
    breaks(&case, "one log for all");
    breaks(&case, "every acknowledged event");
}

#[test]
fn a_key_that_is_stored_twice_is_found() {
    let mut case = Case::new();
    for record in &mut case.pages.records {
        let follower = record.rooms.get_mut(&0).expect("the first room");
        follower.event(at(1_100), Offset(11), Mark { p: 0, n: 10 });
    }
    case.finale.tails = vec![Some(position(11))];
    breaks(&case, "one log for all");
    breaks(&case, "every acknowledged event");
}

#[test]
fn a_reset_covers_what_was_lost_where_data_was_lost_and_nowhere_else() {
    let mut case = Case::new().saw(5);
    case.follower().joined(at(900), &joined(10, false, &[]));
    assert_eq!(case.broken(), ["a reset only where data was lost"]);
    let case = case.with(Fault::RedisEmptied, 500, 600);
    assert!(!case.broken().iter().any(|promise| promise.contains("reset")), "{:?}", case.broken());
}

#[test]
fn a_closed_connection_needs_a_fault_that_touched_its_node() {
    let end = |node: &str, code| End {
        who: "one".into(),
        node: node.into(),
        at: at(500),
        back: Some(at(600)),
        closed: Closed { code, reason: String::new() },
    };
    for (node, code, explained) in [("n1-1", None, true), ("n2-1", None, false), ("n1-1", Some(1011), false)]
    {
        let mut case = Case::new().with(Fault::NodeKilled, 450, 450);
        case.pages.ends.push(end(node, code));
        let unexplained = case.broken().iter().any(|promise| promise.contains("without a reason"));
        assert_eq!(unexplained, !explained, "{node} {code:?}");
    }
    let mut case = Case::new().with(Fault::NodeKilled, 450, 450);
    case.pages.ends.push(End { back: None, ..end("n1-1", None) });
    breaks(&case, "without a reason");
}

#[test]
fn presence_may_be_wrong_for_eight_seconds_after_a_fault_and_no_longer() {
    for (ms, fine) in [(8_000, true), (8_900, false)] {
        let mut case = Case::new().with(Fault::NodeKilled, 450, 450);
        case.sights.presence.push(look(ms, 5));
        let wrong = case.broken().iter().any(|promise| promise.contains("presence"));
        assert_eq!(wrong, !fine, "{ms}");
    }
    let mut case = Case::new();
    case.pages.records[1].presence = Some((2, 1));
    breaks(&case, "presence");
    for wrong in [Presence { members: 1, ..look(900, 2) }, Presence { misled: 1, ..look(900, 2) }] {
        let mut case = Case::new();
        case.sights.presence.push(wrong);
        breaks(&case, "presence");
    }
}

#[test]
fn counters_must_be_what_was_acknowledged() {
    let mut case = Case::new();
    case.finale.counter = Some(2);
    breaks(&case, "counters");
    let mut case = Case::new();
    case.pages.records[1].count = Some((2, 2));
    breaks(&case, "counters");
}

#[test]
fn late_events_after_a_fault_are_its_time_to_heal() {
    let mut case = Case::new().with(Fault::SubscriptionsKilled, 300, 310);
    let seen = |ms, node| Health {
        at: at(ms),
        node,
        seen: Some(crate::chaos::watch::Vitals { ready: true, usable: ms < 400, reconnects: 0, lag: None }),
    };
    case.sights.health = vec![seen(250, 0), seen(320, 0), seen(450, 0)];
    case.follower().seen[3].at = at(1_900);
    let evidence = Evidence {
        pages: &case.pages,
        sights: &case.sights,
        faults: &case.faults,
        finale: &case.finale,
        patience: 1.0,
    };
    let measures = evidence.measures();
    assert_eq!((measures[0].notice_ms, measures[0].heal_ms), (Some(150), 1_600));
    breaks(&case, "healed in time");
    case.sights.health.clear();
    breaks(&case, "noticed in time");
}

#[test]
fn who_stays_while_a_crowd_comes_back_is_served() {
    let mut case = Case::new().with(Fault::ReconnectStorm, 300, 3_000);
    assert_eq!(case.broken(), Vec::<&str>::new());
    case.follower().seen[3].at = at(1_600);
    assert_eq!(case.broken(), ["those who are there stay served"]);
}

#[test]
fn only_how_soon_is_a_matter_of_time() {
    let case = Case::new();
    let evidence = Evidence {
        pages: &case.pages,
        sights: &case.sights,
        faults: &case.faults,
        finale: &case.finale,
        patience: 1.0,
    };
    let verdicts = evidence.verdicts(&[]);
    let of_time = verdicts.iter().filter(|verdict| verdict.kind == Kind::Time);
    let names: Vec<_> = of_time.map(|verdict| verdict.promise).collect();
    assert_eq!(names, ["healed in time", "noticed in time", "those who are there stay served"]);
}

#[test]
fn nonsense_and_casualties_are_told() {
    let mut case = Case::new();
    case.pages.faults.push("an unasked push".into());
    breaks(&case, "everything stands");
    let mut case = Case::new();
    case.finale.casualties.push("n2-1".into());
    breaks(&case, "everything stands");
    let mut case = Case::new().with(Fault::SlowReaders, 1, 2);
    case.faults[0].felt = false;
    breaks(&case, "everything stands");
}
