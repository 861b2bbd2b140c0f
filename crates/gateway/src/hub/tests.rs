//! The hub over real sockets: every byte in order, whoever joins, leaves or reads slowly meanwhile.

use std::cell::RefCell;

use roomcast_core::gather::Gather;
use roomcast_protocol::{Codec, CounterValue, Data, Epoch, Event, Offset, PresenceCount, Push};
use tokio::{io::AsyncReadExt, net::TcpStream, task::LocalSet};
use tokio_util::task::TaskTracker;

use super::{flusher::FLUSH_STEP, *};
use crate::{
    conn::fixture::pair,
    node::now,
    outbox::{Item, OutboxCaps},
};

const ROOMY: OutboxCaps = OutboxCaps { bytes: usize::MAX, frames: usize::MAX };

fn name(text: &str) -> RoomName {
    RoomName::parse(text).unwrap()
}

fn position(offset: u64) -> Position {
    Position { epoch: Epoch::new("e"), offset: Offset(offset) }
}

fn event(room: &str, offset: u64, size: usize) -> Delivery {
    let data = Data::parse(&format!("\"{}\"", "x".repeat(size))).unwrap();
    let event = Event { event: "e".into(), data, offset: Offset(offset), at: now().unix_ms, from: None };
    Delivery {
        room: name(room),
        place: Place::Event(position(offset)),
        at: Some(event.at),
        push: Arc::new(SharedPush::new(Push::Event { room: name(room), event })),
    }
}

fn count(room: &str, value: u64) -> Delivery {
    let value = CounterValue { target: "t".into(), counter: "like".into(), value, version: value };
    let push = Arc::new(SharedPush::new(Push::Count { room: name(room), value }));
    Delivery { room: name(room), place: Place::None, at: None, push }
}

fn free() -> SeatPermit {
    crate::seats::Seats::new(Cap::UNLIMITED).take(&name("event:any")).unwrap()
}

fn nothing_told(_: &CounterValue) -> bool {
    false
}

fn new_hub() -> Hub {
    Hub::new(Duration::from_secs(60))
}

fn flush_all(hub: &mut Hub) {
    while hub.has_news() {
        hub.flush_step(now());
    }
}

/// Reads server frames until one holds the text `end`; returns their payloads.
async fn frames_until(far: &mut TcpStream, end: &str) -> Vec<String> {
    let mut frames = Vec::new();
    loop {
        let first = far.read_u8().await.unwrap();
        assert!(
            matches!(first, 0x81 | 0x82),
            "a frame begins with {first:#x}: bytes were lost or interleaved"
        );
        let len = match far.read_u8().await.unwrap() {
            126 => usize::from(far.read_u16().await.unwrap()),
            127 => usize::try_from(far.read_u64().await.unwrap()).unwrap(),
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        far.read_exact(&mut payload).await.unwrap();
        let text = String::from_utf8_lossy(&payload).into_owned();
        let done = text.contains(end);
        frames.push(text);
        if done {
            return frames;
        }
    }
}

fn offsets(frames: &[String]) -> Vec<u64> {
    let offset = |frame: &String| serde_json::from_str::<serde_json::Value>(frame).ok()?["offset"].as_u64();
    frames.iter().filter_map(offset).collect()
}

fn reply(text: &str) -> Item {
    Item::answer(roomcast_protocol::server_frame(roomcast_protocol::Opcode::Text, text.as_bytes()))
}

/// Runs a test on one thread, as a worker does.
fn on_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn every_byte_arrives_in_order_when_each_write_is_cut_short() {
    on_worker(async {
        let hub = RefCell::new(new_hub());
        let tasks = TaskTracker::new();
        let mut readers = Vec::new();
        for reader in 0..4 {
            let (conn, mut far) = pair(ROOMY, Codec::json()).await;
            let seat = hub.borrow_mut().enter(&name("event:a"), false, &conn, free(), now().instant).unwrap();
            hub.borrow_mut().activate(&seat, position(0), Some(reply("joined")), nothing_told).unwrap();
            tasks.spawn_local(async move {
                let _order = conn.attend().await;
            });
            readers.push(tasks.spawn_local(async move {
                // Some read at once, some late.
                tokio::time::sleep(Duration::from_millis(reader * 20)).await;
                offsets(&frames_until(&mut far, "\"offset\":512,").await)
            }));
        }
        for offset in 1..=512 {
            hub.borrow_mut().deliver(event("event:a", offset, 4_096));
            if offset % 7 == 0 {
                hub.borrow_mut().flush_step(now());
                tokio::task::yield_now().await;
            }
        }
        flush_all(&mut hub.borrow_mut());
        for reader in readers {
            assert_eq!(reader.await.unwrap(), (1..=512).collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_join_gets_what_came_since_the_log_was_read_and_nothing_twice() {
    on_worker(async {
        let mut hub = new_hub();
        let (first, mut first_far) = pair(ROOMY, Codec::json()).await;
        let seat = hub.enter(&name("event:a"), false, &first, free(), now().instant).unwrap();
        hub.activate(&seat, position(0), Some(reply("joined")), nothing_told).unwrap();

        let (late, mut late_far) = pair(ROOMY, Codec::json()).await;
        let seat = hub.enter(&name("event:a"), false, &late, free(), now().instant).unwrap();
        (1..=4).for_each(|offset| hub.deliver(event("event:a", offset, 10)));
        // The log was read when it stood at 2: 3 and 4 came in between.
        hub.activate(&seat, position(2), Some(reply("joined")), nothing_told).unwrap();
        (5..=6).for_each(|offset| hub.deliver(event("event:a", offset, 10)));
        flush_all(&mut hub);
        assert_eq!(offsets(&frames_until(&mut first_far, "\"offset\":6,").await), [1, 2, 3, 4, 5, 6]);
        let frames = frames_until(&mut late_far, "\"offset\":6,").await;
        assert_eq!((frames[0].as_str(), offsets(&frames)), ("joined", vec![3, 4, 5, 6]));
    });
}

#[test]
fn a_join_ahead_of_the_live_feed_hears_nothing_twice() {
    on_worker(async {
        let mut hub = new_hub();
        let (first, _first_far) = pair(ROOMY, Codec::json()).await;
        let seat = hub.enter(&name("event:a"), false, &first, free(), now().instant).unwrap();
        hub.activate(&seat, position(0), None, nothing_told).unwrap();
        let (ahead, mut far) = pair(ROOMY, Codec::json()).await;
        let seat = hub.enter(&name("event:a"), false, &ahead, free(), now().instant).unwrap();
        hub.activate(&seat, position(3), None, nothing_told).unwrap();
        (1..=5).for_each(|offset| hub.deliver(event("event:a", offset, 10)));
        flush_all(&mut hub);
        assert_eq!(offsets(&frames_until(&mut far, "\"offset\":5,").await), [4, 5]);
    });
}

#[test]
fn members_that_stand_apart_meet_the_room_from_both_sides() {
    on_worker(async {
        let mut hub = new_hub();
        // The room takes its first member's position; the second read an older log.
        let (first, mut first_far) = pair(ROOMY, Codec::json()).await;
        let (second, mut second_far) = pair(ROOMY, Codec::json()).await;
        let one = hub.enter(&name("event:a"), false, &first, free(), now().instant).unwrap();
        let two = hub.enter(&name("event:a"), false, &second, free(), now().instant).unwrap();
        hub.activate(&one, position(5), None, nothing_told).unwrap();
        hub.activate(&two, position(3), None, nothing_told).unwrap();
        (4..=7).for_each(|offset| hub.deliver(event("event:a", offset, 10)));
        flush_all(&mut hub);
        assert_eq!(offsets(&frames_until(&mut first_far, "\"offset\":7,").await), [6, 7]);
        assert_eq!(offsets(&frames_until(&mut second_far, "\"offset\":7,").await), [4, 5, 6, 7]);
    });
}

#[test]
fn what_goes_to_one_socket_alone_comes_after_the_rooms_events() {
    on_worker(async {
        let mut hub = new_hub();
        let (conn, mut far) = pair(ROOMY, Codec::json()).await;
        let (other, mut other_far) = pair(ROOMY, Codec::json()).await;
        for conn in [&conn, &other] {
            let seat = hub.enter(&name("event:a"), false, conn, free(), now().instant).unwrap();
            hub.activate(&seat, position(0), None, nothing_told).unwrap();
        }
        hub.deliver(event("event:a", 1, 10));
        hub.send_alone(&conn, reply("answer"));
        hub.deliver(event("event:a", 2, 10));
        flush_all(&mut hub);
        let frames = frames_until(&mut far, "\"offset\":2,").await;
        assert_eq!((frames.len(), frames[1].as_str()), (3, "answer"));
        assert_eq!(offsets(&frames_until(&mut other_far, "\"offset\":2,").await), [1, 2]);
    });
}

#[test]
fn who_left_hears_nothing_more_and_who_stays_misses_nothing() {
    on_worker(async {
        let mut hub = new_hub();
        let mut members = Vec::new();
        for _ in 0..10 {
            let (conn, far) = pair(ROOMY, Codec::json()).await;
            let seat = hub.enter(&name("event:a"), false, &conn, free(), now().instant).unwrap();
            hub.activate(&seat, position(0), None, nothing_told).unwrap();
            members.push((conn, far));
        }
        hub.deliver(event("event:a", 1, 10));
        let (gone, mut gone_far) = members.remove(4);
        assert!(hub.leave(&gone, &name("event:a"), now().instant).is_some());
        assert!(hub.leave(&gone, &name("event:a"), now().instant).is_none());
        hub.deliver(event("event:a", 2, 10));
        flush_all(&mut hub);
        gone.send(reply("the end"));
        assert_eq!(offsets(&frames_until(&mut gone_far, "the end").await), [1]);
        for (_, far) in &mut members {
            assert_eq!(offsets(&frames_until(far, "\"offset\":2,").await), [1, 2]);
        }
    });
}

#[test]
fn only_the_latest_value_of_a_counter_is_sent() {
    on_worker(async {
        let mut hub = new_hub();
        let (conn, mut far) = pair(ROOMY, Codec::json()).await;
        let seat = hub.enter(&name("event:a"), false, &conn, free(), now().instant).unwrap();
        hub.activate(&seat, position(0), None, nothing_told).unwrap();
        (1..=100).for_each(|value| hub.deliver(count("event:a", value)));
        hub.deliver(event("event:a", 1, 10));
        flush_all(&mut hub);
        let frames = frames_until(&mut far, "\"offset\":1,").await;
        assert_eq!(frames.len(), 2);
        assert!(frames[0].contains("\"value\":100"), "{}", frames[0]);
    });
}

#[test]
fn a_guarded_room_delivers_nothing_after_the_tokens_end() {
    on_worker(async {
        let mut hub = new_hub();
        let (ended, mut ended_far) = pair(ROOMY, Codec::json()).await;
        let (good, mut good_far) = pair(ROOMY, Codec::json()).await;
        for conn in [&ended, &good] {
            let seat = hub.enter(&name("admin"), true, conn, free(), now().instant).unwrap();
            hub.activate(&seat, position(0), None, nothing_told).unwrap();
        }
        hub.deliver(event("admin", 1, 10));
        flush_all(&mut hub);
        ended.expires.set(Some(now().instant));
        hub.deliver(event("admin", 2, 10));
        flush_all(&mut hub);
        assert_eq!(offsets(&frames_until(&mut good_far, "\"offset\":2,").await), [1, 2]);
        ended.send(reply("the end"));
        assert_eq!(offsets(&frames_until(&mut ended_far, "the end").await), [1]);
    });
}

#[test]
fn a_guarded_room_holds_for_members_that_stand_apart_too() {
    on_worker(async {
        let mut hub = new_hub();
        let (good, mut good_far) = pair(ROOMY, Codec::json()).await;
        let (ended, mut ended_far) = pair(ROOMY, Codec::json()).await;
        let seat = hub.enter(&name("admin"), true, &good, free(), now().instant).unwrap();
        hub.activate(&seat, position(0), None, nothing_told).unwrap();
        hub.deliver(event("admin", 1, 10));
        let seat = hub.enter(&name("admin"), true, &ended, free(), now().instant).unwrap();
        hub.deliver(event("admin", 2, 10));
        ended.expires.set(Some(now().instant));
        // One that was kept while the join was answered, and one that comes after it.
        hub.activate(&seat, position(0), None, nothing_told).unwrap();
        hub.deliver(event("admin", 3, 10));
        flush_all(&mut hub);
        assert_eq!(offsets(&frames_until(&mut good_far, "\"offset\":3,").await), [1, 2, 3]);
        ended.send(reply("the end"));
        assert_eq!(offsets(&frames_until(&mut ended_far, "the end").await), Vec::<u64>::new());
    });
}

#[test]
fn a_slow_socket_is_ordered_closed_and_harms_no_neighbour() {
    on_worker(async {
        let mut hub = new_hub();
        let caps = OutboxCaps { bytes: 16 * 1024, frames: 64 };
        let (slow, _slow_far) = pair(caps, Codec::json()).await;
        let (quick, mut quick_far) = pair(ROOMY, Codec::json()).await;
        for conn in [&slow, &quick] {
            let seat = hub.enter(&name("event:a"), false, conn, free(), now().instant).unwrap();
            hub.activate(&seat, position(0), None, nothing_told).unwrap();
        }
        let drain = quick.clone();
        let tasks = TaskTracker::new();
        tasks.spawn_local(async move {
            let _order = drain.attend().await;
        });
        for offset in 1..=2_000 {
            hub.deliver(event("event:a", offset, 4_096));
            flush_all(&mut hub);
            if offset % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let order = slow.attend().await.unwrap();
        assert_eq!(order, crate::conn::Order::Close(roomcast_protocol::CloseCode::SlowConsumer));
        assert_eq!(offsets(&frames_until(&mut quick_far, "\"offset\":2000,").await).len(), 2_000);
    });
}

#[test]
fn presence_reaches_members_that_stand_apart() {
    on_worker(async {
        let mut hub = new_hub();
        let (first, _far) = pair(ROOMY, Codec::json()).await;
        let seat = hub.enter(&name("event:a"), false, &first, free(), now().instant).unwrap();
        hub.activate(&seat, position(0), None, nothing_told).unwrap();
        let (ahead, mut far) = pair(ROOMY, Codec::msgpack()).await;
        let seat = hub.enter(&name("event:a"), false, &ahead, free(), now().instant).unwrap();
        hub.activate(&seat, position(3), None, nothing_told).unwrap();
        let count = PresenceCount { connections: 2, users: 2 };
        let push = Arc::new(SharedPush::new(Push::Presence { room: name("event:a"), count }));
        hub.deliver(Delivery { room: name("event:a"), place: Place::None, at: None, push });
        flush_all(&mut hub);
        assert_eq!(frames_until(&mut far, "connections").await.len(), 1);
    });
}

#[test]
fn a_join_that_told_a_counter_is_not_followed_by_an_older_value() {
    on_worker(async {
        let mut hub = new_hub();
        let (conn, mut far) = pair(ROOMY, Codec::json()).await;
        let seat = hub.enter(&name("event:a"), false, &conn, free(), now().instant).unwrap();
        (14..=16).for_each(|value| hub.deliver(count("event:a", value)));
        hub.activate(&seat, position(0), Some(reply("joined")), |told| told.version <= 15).unwrap();
        hub.deliver(event("event:a", 1, 10));
        flush_all(&mut hub);
        let frames = frames_until(&mut far, "\"offset\":1,").await;
        let values: Vec<_> = frames.iter().filter(|frame| frame.contains("\"value\"")).collect();
        assert_eq!(values.len(), 1, "{values:?}");
        assert!(values[0].contains("\"value\":16"), "{values:?}");
    });
}

#[test]
fn replies_in_the_middle_of_a_flush_do_not_multiply_the_counts() {
    on_worker(async {
        let mut hub = new_hub();
        let mut members = Vec::new();
        for _ in 0..FLUSH_STEP + 50 {
            let (conn, far) = pair(ROOMY, Codec::json()).await;
            let seat = hub.enter(&name("event:a"), false, &conn, free(), now().instant).unwrap();
            hub.activate(&seat, position(0), None, nothing_told).unwrap();
            members.push((conn, far));
        }
        hub.deliver(count("event:a", 1));
        // The first step serves only some; then replies go out and counts come in, by turns.
        hub.flush_step(now());
        for value in 2..=50 {
            hub.deliver(count("event:a", value));
            hub.send_alone(&members[0].0, reply("answer"));
        }
        hub.deliver(event("event:a", 1, 10));
        flush_all(&mut hub);
        let (_, last) = members.last_mut().unwrap();
        let frames = frames_until(last, "\"offset\":1,").await;
        assert_eq!(frames.len(), 3, "{frames:?}");
        assert!(frames[1].contains("\"value\":50"), "{}", frames[1]);
    });
}

#[test]
fn what_comes_while_a_round_goes_on_gathers_for_the_next() {
    on_worker(async {
        let mut hub = new_hub();
        let mut readers = Vec::new();
        // The first room is as much as a step serves.
        for (room, members) in [("event:a", FLUSH_STEP), ("event:b", 1)] {
            for _ in 0..members {
                let (conn, far) = pair(ROOMY, Codec::json()).await;
                let seat = hub.enter(&name(room), false, &conn, free(), now().instant).unwrap();
                hub.activate(&seat, position(0), Some(reply("joined")), nothing_told).unwrap();
                readers.push((conn, far));
            }
            hub.deliver(event(room, 1, 10));
        }
        assert!(hub.flush_step(now()), "one of two rooms was served");
        hub.deliver(event("event:a", 2, 10));
        hub.deliver(event("event:a", 3, 10));
        assert!(!hub.flush_step(now()), "the round is over though there is more");
        assert!(hub.has_news());
        assert!(!hub.flush_step(now()));
        assert!(!hub.has_news());
        hub.deliver(event("event:b", 2, 10));
        flush_all(&mut hub);
        let lasts = std::iter::repeat_n(3, FLUSH_STEP).chain([2]);
        for ((_, far), last) in readers.iter_mut().zip(lasts) {
            let frames = frames_until(far, &format!("\"offset\":{last},")).await;
            assert_eq!(offsets(&frames), (1..=last).collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_step_serves_many_small_rooms() {
    on_worker(async {
        let mut hub = new_hub();
        let mut readers = Vec::new();
        for room in ["event:a", "event:b", "event:c"] {
            let (conn, far) = pair(ROOMY, Codec::json()).await;
            let seat = hub.enter(&name(room), false, &conn, free(), now().instant).unwrap();
            hub.activate(&seat, position(0), Some(reply("joined")), nothing_told).unwrap();
            hub.deliver(event(room, 1, 10));
            readers.push((conn, far));
        }
        assert!(!hub.flush_step(now()), "all of them were served");
        for (_, far) in &mut readers {
            assert_eq!(offsets(&frames_until(far, "\"offset\":1,").await), [1]);
        }
    });
}

#[test]
fn the_flusher_serves_whatever_comes_whether_it_gathers_or_not() {
    for most in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(20)] {
        on_worker(async move {
            let hub = RefCell::new(new_hub());
            let (conn, mut far) = pair(ROOMY, Codec::json()).await;
            let seat = hub.borrow_mut().enter(&name("event:a"), false, &conn, free(), now().instant).unwrap();
            hub.borrow_mut().activate(&seat, position(0), Some(reply("joined")), nothing_told).unwrap();
            let publish = async {
                for offset in 1..=200 {
                    hub.borrow_mut().deliver(event("event:a", offset, 100));
                    tokio::task::yield_now().await;
                }
            };
            let serve = async {
                tokio::select! {
                    () = flush(&hub, now, Gather::new(most)) => panic!("the flusher never ends"),
                    _order = conn.attend() => panic!("the connection goes on"),
                    frames = frames_until(&mut far, "\"offset\":200,") => offsets(&frames),
                }
            };
            assert_eq!(tokio::join!(publish, serve).1, (1..=200).collect::<Vec<_>>());
        });
    }
}
