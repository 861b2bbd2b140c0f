use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(60);

fn table(members: Cap) -> RoomTable<u32, u32> {
    RoomTable::new(RoomRules { members, idle_ttl: TTL })
}

fn name(n: u32) -> RoomName {
    RoomName::parse(&format!("event:{n}")).expect("a test's room name")
}

#[test]
fn ids_are_small() {
    assert!(size_of::<RoomId>() <= 8 && size_of::<MemberId>() <= 16);
}

#[test]
fn a_room_takes_its_members_and_no_more() {
    let now = Instant::now();
    let mut rooms = table(Cap::new(2).unwrap());
    let room = rooms.open(&name(1), now, || 7);
    let first = rooms.join(room, 1, now).unwrap();
    rooms.join(room, 2, now).unwrap();
    assert_eq!(rooms.join(room, 3, now), Err(RoomFull));
    assert_eq!(rooms.leave(room, first, now), Some(1));
    assert_eq!(rooms.leave(room, first, now), None);
    rooms.join(room, 3, now).unwrap();
    assert_eq!((rooms.rooms(), rooms.members(), rooms.idle()), (1, 2, 0));
}

#[test]
fn an_idle_room_keeps_its_state_until_it_expires() {
    let now = Instant::now();
    let mut rooms = table(Cap::UNLIMITED);
    let room = rooms.open(&name(1), now, || 7);
    assert_eq!(rooms.next_expiry(), Some(now + TTL));
    let member = rooms.join(room, 1, now).unwrap();
    assert_eq!(rooms.next_expiry(), None);
    assert!(rooms.expire(now + TTL * 9).is_empty());

    let left = now + TTL;
    rooms.leave(room, member, left);
    assert!(rooms.expire(left + TTL / 2).is_empty());
    assert_eq!(rooms.open(&name(1), left + TTL / 2, || unreachable!("it is still there")), room);
    let member = rooms.join(room, 2, left + TTL / 2).unwrap();
    assert_eq!(rooms.room(room).unwrap().state, 7);

    let left = left + TTL;
    rooms.leave(room, member, left);
    assert_eq!(rooms.expire(left + TTL), [(name(1), 7)]);
    assert!(rooms.room(room).is_none());
    assert_eq!(rooms.join(room, 3, left + TTL), Err(RoomFull));
    assert_eq!((rooms.rooms(), rooms.members(), rooms.idle()), (0, 0, 0));
}

#[test]
fn opening_an_occupied_room_does_not_make_it_idle() {
    let now = Instant::now();
    let mut rooms = table(Cap::UNLIMITED);
    let room = rooms.open(&name(1), now, || 7);
    rooms.join(room, 1, now).unwrap();
    assert_eq!(rooms.open(&name(1), now, || 8), room);
    assert_eq!(rooms.idle(), 0);
    assert_eq!(rooms.evict_longest_idle(), None);
}

#[test]
fn the_longest_idle_room_goes_first_and_no_occupied_one_ever() {
    let now = Instant::now();
    let mut rooms = table(Cap::UNLIMITED);
    let ids: Vec<_> = (0..4).map(|n| rooms.open(&name(n), now + TTL * n, || n)).collect();
    rooms.join(ids[0], 0, now).unwrap();
    let member = rooms.join(ids[1], 0, now).unwrap();
    rooms.leave(ids[1], member, now + TTL * 9);
    let order: Vec<_> = std::iter::from_fn(|| rooms.evict_longest_idle()).map(|(_, n)| n).collect();
    assert_eq!(order, [2, 3, 1]);
    assert!(rooms.room(ids[0]).is_some());
}

#[test]
fn ids_of_the_past_fit_nobody_later() {
    let now = Instant::now();
    let mut rooms = table(Cap::UNLIMITED);
    let old = rooms.open(&name(1), now, || 1);
    let old_member = rooms.join(old, 1, now).unwrap();
    rooms.leave(old, old_member, now);
    rooms.evict_longest_idle();
    let new = rooms.open(&name(1), now, || 2);
    rooms.join(new, 2, now).unwrap();
    assert!(rooms.room(old).is_none() && rooms.leave(old, old_member, now).is_none());
    assert!(rooms.leave(new, old_member, now).is_none());
    assert_eq!(rooms.members(), 1);
}

#[test]
fn a_member_keeps_its_id_when_holes_are_closed() {
    let now = Instant::now();
    let mut rooms = table(Cap::UNLIMITED);
    let room = rooms.open(&name(1), now, || 1);
    let ids: Vec<_> = (0..1_000).map(|n| rooms.join(room, n, now).unwrap()).collect();
    let stays = |n: u32| n % 7 == 3;
    for (n, &id) in (0..).zip(&ids) {
        assert!(stays(n) || rooms.leave(room, id, now) == Some(n));
    }
    let found = rooms.room_mut(room).unwrap();
    assert_eq!(found.slots(), 1_000);
    found.compact();
    assert_eq!(found.slots(), found.len());
    assert!(found.members.capacity() <= 2 * found.len());
    for (n, &id) in (0..).zip(&ids) {
        assert_eq!(found.member(id), stays(n).then_some(&n));
    }
    for (n, &id) in (0..).zip(&ids) {
        assert_eq!(rooms.leave(room, id, now), stays(n).then_some(n));
    }
    let found = rooms.room_mut(room).unwrap();
    found.compact();
    assert_eq!((found.slots(), found.members.capacity()), (0, 0));
}

#[test]
fn memory_returns_after_a_crowd_of_rooms_has_gone() {
    let now = Instant::now();
    let mut rooms = table(Cap::UNLIMITED);
    let stays = rooms.open(&name(0), now, || 0);
    rooms.join(stays, 0, now).unwrap();
    for n in 1..10_000 {
        rooms.open(&name(n), now, || n);
    }
    assert_eq!(rooms.expire(now + TTL).len(), 9_999);
    assert!(
        rooms.names.capacity() < 1_000 && rooms.places.capacity() < 1_000 && rooms.vacant.capacity() < 1_000
    );
    for n in 1..1_000 {
        let id = rooms.open(&name(n), now, || n);
        assert_eq!(rooms.room(id).unwrap().state, n);
    }
    assert_eq!(rooms.room(stays).unwrap().state, 0);
    assert_eq!(rooms.iter().count(), 1_000);
}

#[derive(Debug, Clone)]
enum Step {
    Open(u32),
    Join(u32),
    Leave(prop::sample::Index),
    /// Leaves again with an id of the past.
    LeaveTwice(prop::sample::Index),
    Compact(u32),
    Expire,
    Evict,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0u32..6).prop_map(Step::Open),
        6 => (0u32..6).prop_map(Step::Join),
        5 => any::<prop::sample::Index>().prop_map(Step::Leave),
        1 => any::<prop::sample::Index>().prop_map(Step::LeaveTwice),
        2 => (0u32..6).prop_map(Step::Compact),
        1 => Just(Step::Expire),
        1 => Just(Step::Evict),
    ]
}

#[derive(Debug, Default)]
struct ModelRoom {
    state: u32,
    members: BTreeMap<u32, MemberId>,
    idle_since: Option<Instant>,
}

proptest! {
    /// Against a map of maps: same rooms, same members in the same order, same idle rooms, after every step.
    #[test]
    fn the_table_matches_a_simple_model(steps in prop::collection::vec((step(), 0u64..20), 1..200)) {
        let mut now = Instant::now();
        let mut rooms = table(Cap::new(5).unwrap());
        let mut model: BTreeMap<u32, ModelRoom> = BTreeMap::new();
        let (mut present, mut past, mut next) = (Vec::new(), Vec::new(), 0);
        for (step, gap) in steps {
            now += Duration::from_secs(gap) + Duration::from_nanos(1);
            match step {
                Step::Open(n) => {
                    let id = rooms.open(&name(n), now, || next);
                    let expected = model.entry(n).or_insert(ModelRoom { state: next, ..ModelRoom::default() });
                    if expected.members.is_empty() {
                        expected.idle_since = Some(now);
                    }
                    prop_assert_eq!(rooms.find(&name(n)), Some(id));
                }
                Step::Join(n) => {
                    let Some(id) = rooms.find(&name(n)) else { continue };
                    let expected = model.get_mut(&n).expect("both have it");
                    if let Ok(member) = rooms.join(id, next, now) {
                        prop_assert!(expected.members.len() < 5);
                        expected.members.insert(next, member);
                        expected.idle_since = None;
                        present.push((n, id, member, next));
                    } else {
                        prop_assert_eq!(expected.members.len(), 5);
                    }
                }
                Step::Leave(which) if !present.is_empty() => {
                    let (n, room, member, value) = present.swap_remove(which.index(present.len()));
                    prop_assert_eq!(rooms.leave(room, member, now), Some(value));
                    let expected = model.get_mut(&n).expect("it has members");
                    expected.members.remove(&value);
                    if expected.members.is_empty() {
                        expected.idle_since = Some(now);
                    }
                    past.push((room, member));
                }
                Step::LeaveTwice(which) if !past.is_empty() => {
                    let (room, member) = past[which.index(past.len())];
                    prop_assert_eq!(rooms.leave(room, member, now), None);
                }
                Step::Leave(_) | Step::LeaveTwice(_) => {}
                Step::Compact(n) => {
                    if let Some(room) = rooms.find(&name(n)).and_then(|id| rooms.room_mut(id)) {
                        room.compact();
                        prop_assert!(room.slots() <= 2 * room.len());
                    }
                }
                Step::Expire => {
                    let gone: Vec<_> = rooms.expire(now).into_iter().map(|(name, _)| name).collect();
                    let mut due: Vec<_> = model
                        .iter()
                        .filter_map(|(&n, room)| Some((room.idle_since?, n)))
                        .filter(|&(since, _)| now - since >= TTL)
                        .collect();
                    due.sort();
                    prop_assert_eq!(gone, due.iter().map(|&(_, n)| name(n)).collect::<Vec<_>>());
                    for (_, n) in &due {
 model.remove(n);
}
                }
                Step::Evict => {
                    let longest = model.iter().filter_map(|(&n, room)| Some((room.idle_since?, n))).min();
                    let expected = longest.map(|(_, n)| (name(n), model.remove(&n).expect("it is there").state));
                    prop_assert_eq!(rooms.evict_longest_idle(), expected);
                }
            }
            next += 1;
            prop_assert_eq!(rooms.rooms(), model.len());
            prop_assert_eq!(rooms.members(), model.values().map(|room| room.members.len()).sum::<usize>());
            prop_assert_eq!(rooms.idle(), model.values().filter(|room| room.members.is_empty()).count());
            let first_idle = model.values().filter_map(|room| room.idle_since).min();
            prop_assert_eq!(rooms.next_expiry(), first_idle.map(|since| since + TTL));
            for (id, room) in rooms.iter() {
                let expected = model.values().find(|expected| expected.state == room.state).expect("both have it");
                let members: Vec<_> = room.members().map(|(id, &value)| (value, id)).collect();
                prop_assert_eq!(&members, &expected.members.iter().map(|(&v, &id)| (v, id)).collect::<Vec<_>>());
                for (value, member) in members {
                    prop_assert_eq!(room.member(member), Some(&value));
                }
                prop_assert_eq!(rooms.find(&room.name), Some(id));
            }
        }
    }

    /// A walk by index that pauses while members come and go meets everyone who stays exactly once.
    #[test]
    fn a_walk_neither_skips_nor_repeats(
        start in 1usize..40,
        steps in prop::collection::vec((0usize..4, 0usize..3, any::<prop::sample::Index>()), 1..80),
    ) {
        let now = Instant::now();
        let mut rooms = table(Cap::UNLIMITED);
        let room = rooms.open(&name(1), now, || 0);
        let mut present: Vec<_> = (0u32..).take(start).map(|n| (rooms.join(room, n, now).unwrap(), n)).collect();
        let (mut next, mut cursor, mut met) = (u32::try_from(start).unwrap(), 0, Vec::new());
        for (walked, joins, leaves) in steps {
            for _ in 0..walked {
                if cursor < rooms.room(room).unwrap().slots() {
                    met.extend(rooms.room_mut(room).unwrap().slot_mut(cursor).map(|(_, &mut n)| n));
                    cursor += 1;
                }
            }
            for _ in 0..joins {
                present.push((rooms.join(room, next, now).unwrap(), next));
                next += 1;
            }
            if !present.is_empty() {
                let (id, n) = present.swap_remove(leaves.index(present.len()));
                prop_assert_eq!(rooms.leave(room, id, now), Some(n));
            }
        }
        let found = rooms.room(room).unwrap();
        met.extend((cursor..found.slots()).filter_map(|slot| found.slot(slot)).map(|(_, &n)| n));
        prop_assert!(met.is_sorted_by(|a, b| a < b), "repeated or out of order: {:?}", met);
        prop_assert!(present.iter().all(|(_, n)| met.contains(n)));
    }
}
