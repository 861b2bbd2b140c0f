//! A session, fed frames and time by hand.

use proptest::prelude::*;
use roomcast_protocol::{Codec, Message};

use super::*;
use crate::{events::HUB_EVENTS, limits::Cap, permission::RoomPatterns};

struct Rig {
    session: Session,
    codec: Codec,
    start: Instant,
    elapsed: Duration,
}

impl Rig {
    fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        let start = Instant::now();
        let terms = Arc::new(Terms { limits, namespaces: Namespaces::default() });
        Self { session: Session::new(terms, start), codec: Codec::json(), start, elapsed: Duration::ZERO }
    }

    fn open(role: Role, change: impl FnOnce(&mut Limits)) -> Self {
        let mut rig = Self::new(change);
        let now = rig.now().instant;
        rig.session.opened(who("ann", role), None, now);
        rig
    }

    fn now(&self) -> Now {
        Now { instant: self.start + self.elapsed, unix_ms: 1_000_000 }
    }

    fn pass(&mut self, ms: u64) {
        self.elapsed += Duration::from_millis(ms);
    }

    fn say(&mut self, text: &str) -> Outcome {
        let frame = self.codec.decode(Message::Text(text));
        self.session.on_frame(frame, self.now())
    }

    fn dues(&mut self) -> Vec<Due> {
        let now = self.now().instant;
        std::iter::from_fn(|| self.session.on_timeout(now)).collect()
    }
}

fn who(user: &str, role: Role) -> Identity {
    Identity { user: user.into(), role, rooms: None }
}

fn cap(n: u64) -> Cap {
    Cap::new(n).unwrap()
}

fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

#[test]
fn nothing_but_connect_comes_first() {
    let mut rig = Rig::new(|_| {});
    let outcome = rig.say(r#"{"id":1,"op":"ping"}"#);
    assert_eq!((outcome.error, outcome.task, outcome.close), (Some(ErrorCode::ConnectFirst), None, None));
    assert!(matches!(rig.say(r#"{"id":2,"op":"connect"}"#).task, Some((Some(2), Task::Authenticate(_)))));
}

#[test]
fn connect_comes_once() {
    let mut rig = Rig::open(Role::Guest, |_| {});
    assert_eq!(rig.say(r#"{"id":1,"op":"connect"}"#).error, Some(ErrorCode::BadFrame));
}

#[test]
fn a_ping_is_answered_with_the_time() {
    let mut rig = Rig::open(Role::Guest, |_| {});
    let answer = rig.say(r#"{"id":7,"op":"ping"}"#).answer;
    assert_eq!(answer, Some(ServerFrame::Ok { id: 7, ok: Answer::Pong { now: 1_000_000 } }));
    assert_eq!(rig.say(r#"{"op":"ping"}"#), Outcome::default());
}

#[test]
fn frames_without_id_are_answered_when_they_fail() {
    let mut rig = Rig::open(Role::Guest, |_| {});
    let outcome = rig.say(r#"{"op":"leave","room":"event:a"}"#);
    assert!(matches!(outcome.answer, Some(ServerFrame::Error { id: None, .. })));
    assert_eq!(outcome.error, Some(ErrorCode::NotJoined));
}

#[test]
fn a_burst_passes_and_then_the_rate_holds() {
    let mut rig = Rig::open(Role::Guest, |limits| {
        limits.frames_burst = cap(3);
        limits.frames_per_second = cap(10);
    });
    for id in 1..=3 {
        assert_eq!(rig.say(&format!(r#"{{"id":{id},"op":"ping"}}"#)).error, None);
    }
    let refused = rig.say(r#"{"id":4,"op":"ping"}"#);
    let Some(ServerFrame::Error { error, .. }) = refused.answer else { panic!("{refused:?}") };
    assert_eq!((error.code, error.retry_ms), (ErrorCode::RateLimited, Some(100)));
    rig.pass(100);
    assert_eq!(rig.say(r#"{"id":5,"op":"ping"}"#).error, None);
}

#[test]
fn a_hundred_breaches_in_a_row_are_a_flood_and_one_good_frame_starts_anew() {
    let mut rig = Rig::open(Role::Guest, |limits| {
        limits.frames_burst = cap(1);
        limits.frames_per_second = cap(1);
    });
    rig.say(r#"{"op":"ping"}"#);
    for _ in 1..MAX_BREACHES {
        assert_eq!(rig.say(r#"{"op":"ping"}"#).close, None);
    }
    rig.pass(1_000);
    assert_eq!(rig.say(r#"{"op":"ping"}"#).error, None);
    for _ in 1..MAX_BREACHES {
        assert_eq!(rig.say(r#"{"op":"ping"}"#).close, None);
    }
    assert_eq!(rig.say(r#"{"op":"ping"}"#).close, Some(CloseCode::Flood));
}

#[test]
fn pings_are_paid_for_and_too_many_are_a_flood() {
    let mut rig = Rig::open(Role::Guest, |limits| {
        limits.frames_burst = cap(2);
        limits.frames_per_second = cap(1);
    });
    let now = rig.now().instant;
    let codes: Vec<_> = (0..2 + MAX_BREACHES).map(|_| rig.session.on_control(now)).collect();
    let (last, before) = codes.split_last().unwrap();
    assert!(before.iter().all(Option::is_none));
    assert_eq!(*last, Some(CloseCode::Flood));
}

#[test]
fn garbage_in_a_row_is_misuse() {
    let mut rig = Rig::open(Role::Guest, |limits| limits.frames_burst = cap(1_000));
    for _ in 1..MAX_BAD_FRAMES {
        assert_eq!(rig.say("nonsense").close, None);
    }
    rig.say(r#"{"op":"ping"}"#);
    for _ in 1..MAX_BAD_FRAMES {
        assert_eq!(rig.say("nonsense").close, None);
    }
    assert_eq!(rig.say("nonsense").close, Some(CloseCode::Misuse));
}

#[test]
fn each_counter_operation_has_a_minute_of_its_own() {
    let mut rig = Rig::open(Role::Guest, |limits| limits.counter_ops_per_minute = cap(2));
    let like = r#"{"op":"like","room":"event:a","target":"p","on":true}"#;
    let count = r#"{"op":"count","room":"event:a","target":"p","counter":"view","by":1}"#;
    assert!(rig.say(like).task.is_some() && rig.say(like).task.is_some());
    assert_eq!(rig.say(like).error, Some(ErrorCode::RateLimited));
    assert!(rig.say(count).task.is_some());
    rig.pass(30_000);
    assert!(rig.say(like).task.is_some());
}

#[test]
fn permissions_are_asked_at_each_use() {
    let mut rig = Rig::open(Role::Guest, |_| {});
    assert_eq!(rig.say(r#"{"op":"join","room":"admin"}"#).error, Some(ErrorCode::Forbidden));
    assert_eq!(rig.say(r#"{"op":"join","room":"chat:x"}"#).error, Some(ErrorCode::BadRoom));
    let publish = r#"{"op":"publish","room":"event:a","event":"e","data":1}"#;
    assert_eq!(rig.say(publish).error, Some(ErrorCode::Forbidden));
    let soon = rig.now().instant + Duration::from_secs(9);
    let now = rig.now().instant;
    rig.session.refreshed(who("ann", Role::Member), soon, now);
    assert!(rig.say(publish).task.is_some());
}

#[test]
fn a_lower_role_loses_its_rooms() {
    let mut rig = Rig::open(Role::Admin, |_| {});
    rig.session.joined(room("admin"));
    rig.session.joined(room("event:a"));
    let now = rig.now().instant;
    let lost = rig.session.refreshed(who("ann", Role::Member), now + Duration::from_secs(9), now);
    assert_eq!(lost, [room("admin")]);
    assert_eq!(rig.session.rooms(), [room("event:a")]);
}

#[test]
fn rooms_per_socket_are_bounded_but_joining_again_is_not_refused() {
    let mut rig = Rig::open(Role::Guest, |limits| limits.rooms_per_socket = cap(1));
    assert!(rig.say(r#"{"op":"join","room":"event:a"}"#).task.is_some());
    rig.session.joined(room("event:a"));
    assert_eq!(rig.say(r#"{"op":"join","room":"event:b"}"#).error, Some(ErrorCode::TooManyRooms));
    assert!(rig.say(r#"{"op":"join","room":"event:a"}"#).task.is_some());
    assert!(rig.say(r#"{"op":"leave","room":"event:a"}"#).task.is_some());
    assert!(rig.say(r#"{"op":"join","room":"event:b"}"#).task.is_some());
}

#[test]
fn no_connect_in_time_closes() {
    let mut rig = Rig::new(|_| {});
    rig.pass(9_999);
    assert_eq!(rig.dues(), []);
    rig.pass(1);
    assert_eq!(rig.dues(), [Due::Close(CloseCode::ConnectTimeout)]);
}

#[test]
fn an_unanswered_ping_closes_and_an_answered_one_does_not() {
    let mut rig = Rig::open(Role::Guest, |_| {});
    rig.pass(25_000);
    assert_eq!(rig.dues(), [Due::Ping]);
    rig.session.heard();
    rig.pass(25_000);
    assert_eq!(rig.dues(), [Due::Ping]);
    rig.pass(10_000);
    assert_eq!(rig.dues(), [Due::Close(CloseCode::PingTimeout)]);
}

#[test]
fn pongs_do_not_keep_an_idle_socket() {
    let mut rig = Rig::open(Role::Guest, |limits| limits.idle_timeout = Some(Duration::from_secs(5)));
    rig.pass(4_000);
    rig.say(r#"{"op":"ping"}"#);
    rig.pass(4_000);
    rig.session.heard();
    assert_eq!(rig.dues(), []);
    rig.pass(1_000);
    assert_eq!(rig.dues(), [Due::Close(CloseCode::Idle)]);
}

#[test]
fn a_token_is_warned_of_and_then_ends() {
    let mut rig = Rig::new(|_| {});
    let (now, end) = (rig.now().instant, rig.now().instant + Duration::from_secs(100));
    rig.session.opened(who("ann", Role::Member), Some(end), now);
    rig.pass(24_000);
    assert_eq!(rig.dues(), []);
    rig.pass(26_000);
    assert_eq!(rig.dues(), [Due::Expiring(end), Due::Ping]);
    rig.session.heard();
    rig.pass(50_000);
    assert_eq!(rig.dues(), [Due::Close(CloseCode::TokenExpired)]);
    assert_eq!(rig.dues(), [], "a close is told once");
}

proptest! {
    /// Whatever comes, the session neither panics nor lets anything through before `connect`.
    #[test]
    fn nothing_passes_before_connect(frames in prop::collection::vec(".{0,80}", 0..40)) {
        let mut rig = Rig::new(|_| {});
        for frame in frames {
            let outcome = rig.say(&frame);
            prop_assert!(outcome.task.is_none());
        }
    }

    /// In any second, no more than burst + rate frames are let through.
    #[test]
    fn no_pattern_of_time_beats_the_rate(gaps in prop::collection::vec(0_u64..200, 1..200)) {
        let mut rig = Rig::open(Role::Guest, |limits| {
            limits.frames_burst = cap(5);
            limits.frames_per_second = cap(10);
        });
        let mut passed = Vec::new();
        for gap in gaps {
            rig.pass(gap);
            if rig.say(r#"{"op":"ping"}"#).error.is_none() {
                passed.push(rig.elapsed);
            }
        }
        for (at, from) in passed.iter().enumerate() {
            let within = passed[at..].iter().filter(|to| **to < *from + Duration::from_secs(1)).count();
            prop_assert!(within <= 5 + 10, "{within} frames in one second");
        }
    }
}

#[test]
fn what_may_be_asked_follows_from_role_and_room() {
    let task = |role, frame: &str| {
        let outcome = Rig::open(role, |_| {}).say(frame);
        outcome.error.map_or(Ok(outcome.task.map(|(_, task)| task)), Err)
    };
    let moderate =
        r#"{"id":1,"op":"moderate","room":"event:wall","comment":"1","decision":"approve","version":1}"#;
    let upload = r#"{"id":1,"op":"upload","room":"event:wall","target":"p","state":"started"}"#;
    let put = r#"{"id":1,"op":"put","room":"event:wall","doc":"d","value":1,"version":0}"#;
    let get = r#"{"id":1,"op":"get","room":"event:wall","doc":"d"}"#;
    let reserve = r#"{"id":1,"op":"reserve","room":"event:wall","item":"i","quantity":1,"key":"k"}"#;
    let confirm = r#"{"id":1,"op":"confirm","reservation":"token.event:wall"}"#;
    let release = r#"{"id":1,"op":"release","reservation":"token.event:wall"}"#;
    let claim = r#"{"id":1,"op":"claim","scope":"slug","name":"n"}"#;
    for (frame, lowest) in [
        (moderate, Role::Admin),
        (upload, Role::Member),
        (put, Role::Member),
        (get, Role::Guest),
        (reserve, Role::Guest),
        (confirm, Role::Guest),
        (release, Role::Guest),
        (claim, Role::Member),
    ] {
        for role in Role::ALL.iter().copied() {
            match task(role, frame) {
                Ok(task) => {
                    assert!(role >= lowest, "{role:?} {frame}");
                    match task {
                        Some(Task::Counter { room: of, .. }) => assert_eq!(of, room("event:wall")),
                        other => assert!(matches!(other, Some(Task::Claim { .. })), "{other:?}"),
                    }
                }
                Err(code) => {
                    assert!(role < lowest && code == ErrorCode::Forbidden, "{role:?} {code:?} {frame}");
                }
            }
        }
    }
}

const OPERATIONS: [&str; 6] = [
    r#"{"op":"stats"}"#,
    r#"{"op":"queue","room":"event:wall"}"#,
    r#"{"op":"audit"}"#,
    r#"{"op":"drain","node":"a"}"#,
    r#"{"op":"shed","node":"a","share":0.5}"#,
    r#"{"op":"disconnect","user":"mallory"}"#,
];

#[test]
fn only_admins_operate_the_hub_and_not_even_services() {
    for &role in Role::ALL {
        for frame in OPERATIONS {
            let outcome = Rig::open(role, |_| {}).say(frame);
            if role == Role::Admin {
                assert!(matches!(outcome.task, Some((None, Task::Operate(_)))), "{frame}: {outcome:?}");
            } else {
                assert_eq!(
                    (outcome.error, outcome.task),
                    (Some(ErrorCode::Forbidden), None),
                    "{role:?} {frame}"
                );
            }
        }
    }
}

#[test]
fn an_admin_operates_no_longer_than_the_role_holds_and_not_with_a_token_for_other_rooms() {
    let mut rig = Rig::open(Role::Admin, |_| {});
    assert_eq!(rig.say(OPERATIONS[0]).error, None);
    let now = rig.now().instant;
    rig.session.refreshed(who("ann", Role::Member), now + Duration::from_secs(60), now);
    for frame in OPERATIONS {
        assert_eq!(rig.say(frame).error, Some(ErrorCode::Forbidden), "demoted: {frame}");
    }
    let mut narrow = who("ann", Role::Admin);
    narrow.rooms = Some(RoomPatterns::new(["event:*".to_owned()]));
    rig.session.refreshed(narrow, now + Duration::from_secs(60), now);
    assert_eq!(rig.say(OPERATIONS[3]).error, Some(ErrorCode::Forbidden), "for other rooms");
}

#[test]
fn the_word_of_an_admin_or_of_the_hub_is_said_by_admins_and_services_alone() {
    for &role in Role::ALL {
        let mut rig = Rig::open(role, |_| {});
        rig.session.joined(room("event:wall"));
        for op in ["publish", "signal"] {
            for event in HUB_EVENTS.into_iter().chain(["admin:notification"]) {
                let frame = format!(r#"{{"op":"{op}","room":"event:wall","event":"{event}","data":1}}"#);
                let refused = rig.say(&frame).error == Some(ErrorCode::Forbidden);
                assert_eq!(refused, role < Role::Admin, "{role:?} {op} {event}");
            }
        }
    }
}

#[test]
fn stock_is_reserved_only_where_a_namespace_keeps_it() {
    let mut rig = Rig::open(Role::Admin, |_| {});
    let reserve = r#"{"id":1,"op":"reserve","room":"admin","item":"i","quantity":1,"key":"k"}"#;
    assert_eq!(rig.say(reserve).error, Some(ErrorCode::Forbidden));
    assert_eq!(
        rig.say(r#"{"id":2,"op":"confirm","reservation":"token.admin"}"#).error,
        Some(ErrorCode::Forbidden)
    );
    for reservation in ["token", "token.", "token.No Room", ".nowhere:x"] {
        let frame = format!(r#"{{"op":"release","reservation":"{reservation}"}}"#);
        let error = rig.say(&frame).error;
        assert!(matches!(error, Some(ErrorCode::NotFound | ErrorCode::BadRoom)), "{reservation}: {error:?}");
    }
}
