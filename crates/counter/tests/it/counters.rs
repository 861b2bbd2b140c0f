//! Likes and counts: at most once, exact, versioned, bounded.

use std::time::Duration;

use roomcast_counter::{Cap, Counter, CounterError, Invalid, Limits, Op, Outcome};

use crate::stage::{ROOM, Stage, command, comment, count, like};

crate::contract![
    a_like_counts_once_however_often_it_is_sent,
    what_changes_nothing_publishes_nothing,
    an_unlike_takes_back_only_ones_own_like,
    a_count_adds_up_and_is_published,
    a_key_makes_a_retry_harmless,
    a_key_with_another_body_is_refused_and_changes_nothing,
    a_key_belongs_to_its_user,
    versions_rise_with_every_change,
    one_read_gives_every_counter_of_the_targets,
    rooms_do_not_share_counters,
    a_bad_field_changes_nothing,
    an_ended_room_is_empty_and_goes_on_with_later_versions,
];

fn value_of(outcome: &Outcome) -> (u64, u64) {
    match outcome {
        Outcome::Like { value, version, .. } | Outcome::Count { value, version } => (*value, *version),
        other => panic!("{other:?} has no value"),
    }
}

async fn a_like_counts_once_however_often_it_is_sent(stage: Stage) {
    let first = stage.did("ann", like("p/1", true)).await;
    let again = stage.did("ann", like("p/1", true)).await;
    assert_eq!(value_of(&first).0, 1);
    assert_eq!(first, again);
    assert_eq!(value_of(&stage.did("bob", like("p/1", true)).await).0, 2);
    assert_eq!(stage.value("p/1", "like").await.map(|(value, _)| value), Some(2));
}

async fn what_changes_nothing_publishes_nothing(stage: Stage) {
    assert_eq!(stage.did("ann", like("p/1", false)).await, Outcome::Like { value: 0, on: false, version: 0 });
    assert_eq!(stage.value("p/1", "like").await, None);
    stage.did("ann", like("p/1", true)).await;
    assert_eq!(stage.published().await.len(), 1);
    stage.did("ann", like("p/1", true)).await;
    assert!(stage.published().await.is_empty());
}

async fn an_unlike_takes_back_only_ones_own_like(stage: Stage) {
    stage.did("ann", like("p/1", true)).await;
    assert_eq!(value_of(&stage.did("bob", like("p/1", false)).await).0, 1);
    let Outcome::Like { value: 0, on: false, version } = stage.did("ann", like("p/1", false)).await else {
        panic!("the only like was not taken back");
    };
    assert_eq!(stage.value("p/1", "like").await, Some((0, version)));
    assert_eq!(value_of(&stage.did("ann", like("p/1", true)).await).0, 1);
}

async fn a_count_adds_up_and_is_published(stage: Stage) {
    stage.did("ann", count("p/1", "download", 1, None)).await;
    let (value, version) = value_of(&stage.did("bob", count("p/1", "download", 41, None)).await);
    assert_eq!(value, 42);
    let published = stage.published().await;
    assert_eq!(published.len(), 2);
    assert_eq!(published[1].count(), Some(("p/1", "download", 42, version)));
    assert_eq!(stage.value("p/1", "download").await, Some((42, version)));
}

async fn a_key_makes_a_retry_harmless(stage: Stage) {
    let first = stage.did("ann", count("p/1", "view", 5, Some("k"))).await;
    stage.did("bob", count("p/1", "view", 1, None)).await;
    let retried = stage.nodes[1].apply(command("ann", count("p/1", "view", 5, Some("k")))).await;
    assert_eq!(retried.expect("the reply given before"), first);
    assert_eq!(stage.value("p/1", "view").await.map(|(value, _)| value), Some(6));
    assert_eq!(stage.published().await.len(), 2);
}

async fn a_key_with_another_body_is_refused_and_changes_nothing(stage: Stage) {
    stage.did("ann", count("p/1", "view", 5, Some("k"))).await;
    for other in [
        count("p/1", "view", 6, Some("k")),
        count("p/1", "download", 5, Some("k")),
        count("p/2", "view", 5, Some("k")),
        comment("p/1", "view", Some("k")),
    ] {
        assert!(matches!(stage.refused("ann", other).await, CounterError::KeyReused));
    }
    assert_eq!(stage.one().counters(ROOM, None).await.expect("read").len(), 1);
    assert_eq!(stage.published().await.len(), 1);
}

async fn a_key_belongs_to_its_user(stage: Stage) {
    stage.did("a:b", count("p/1", "view", 1, Some("c"))).await;
    stage.did("a", count("p/1", "view", 1, Some("b:c"))).await;
    stage.did("a", count("p/1", "view", 1, Some("c"))).await;
    assert_eq!(stage.value("p/1", "view").await.map(|(value, _)| value), Some(3));
}

async fn versions_rise_with_every_change(stage: Stage) {
    for round in 0..50 {
        stage.did("ann", like("p/1", round % 2 == 0)).await;
    }
    let versions: Vec<u64> =
        stage.published().await.iter().filter_map(|published| published.count()).map(|c| c.3).collect();
    assert_eq!(versions.len(), 50);
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    assert!(versions.iter().all(|version| *version < 1 << 53));
}

async fn one_read_gives_every_counter_of_the_targets(stage: Stage) {
    stage.did("ann", count("p/2", "view", 2, None)).await;
    stage.did("ann", count("p/1", "view", 1, None)).await;
    stage.did("ann", like("p/1", true)).await;
    stage.did("ann", count("p/3", "view", 3, None)).await;
    let names = |updates: Vec<roomcast_counter::Update>| {
        updates.into_iter().map(|u| format!("{} {} {}", u.target, u.counter, u.value)).collect::<Vec<_>>()
    };
    let some = ["p/1", "unknown", "p/2", "p/1"].map(str::to_owned);
    let read = stage.one().counters(ROOM, Some(&some)).await.expect("read");
    assert_eq!(names(read), ["p/1 like 1", "p/1 view 1", "p/2 view 2"]);
    let read = stage.one().counters(ROOM, None).await.expect("read");
    assert_eq!(names(read), ["p/1 like 1", "p/1 view 1", "p/2 view 2", "p/3 view 3"]);
    assert!(stage.one().counters(ROOM, Some(&[])).await.expect("read").is_empty());
    assert!(stage.one().counters("event:other", None).await.expect("read").is_empty());
}

async fn rooms_do_not_share_counters(stage: Stage) {
    let mut elsewhere = command("ann", count("p/1", "view", 9, Some("k")));
    elsewhere.room = "event:other".into();
    stage.one().apply(elsewhere).await.expect("applied");
    assert_eq!(value_of(&stage.did("ann", count("p/1", "view", 1, Some("k"))).await).0, 1);
}

async fn a_bad_field_changes_nothing(stage: Stage) {
    for (op, why) in [
        (like("no spaces", true), Invalid::Target),
        (like("", true), Invalid::Target),
        (count("p/1", "like", 1, None), Invalid::ReservedCounter),
        (count("p/1", "comment", 1, None), Invalid::ReservedCounter),
        (count("p/1", "View", 1, None), Invalid::CounterName),
        (count("p/1", "view", 0, None), Invalid::By),
        (count("p/1", "view", 101, None), Invalid::By),
        (count("p/1", "view", 1, Some("")), Invalid::Key),
        (comment("p/1", " \n ", None), Invalid::TextLength),
        (comment("p/1", "a\u{7}b", None), Invalid::TextControl),
        (comment("p/1", "a\u{85}b", None), Invalid::TextControl),
    ] {
        match stage.refused("ann", op).await {
            CounterError::Invalid(invalid) => assert_eq!(invalid, why),
            other => panic!("{other:?} instead of {why:?}"),
        }
    }
    assert!(stage.one().counters(ROOM, None).await.expect("read").is_empty());
    assert!(stage.published().await.is_empty());
}

async fn an_ended_room_is_empty_and_goes_on_with_later_versions(stage: Stage) {
    stage.did("ann", like("p/1", true)).await;
    let (_, before) = value_of(&stage.did("ann", count("p/1", "view", 7, Some("k"))).await);
    stage.did("ann", comment("p/1", "hello", Some("c"))).await;
    stage.one().end_room(ROOM).await.expect("ended");
    assert!(stage.one().counters(ROOM, None).await.expect("read").is_empty());
    assert!(stage.page(&roomcast_counter::Viewer::Admin, None, None, 10).await.comments.is_empty());
    // Neither the key nor the like of the old room counts in the new one.
    let (value, version) = value_of(&stage.did("ann", count("p/1", "view", 2, Some("k"))).await);
    assert_eq!(value, 2);
    assert!(version >= before);
    assert_eq!(value_of(&stage.did("ann", like("p/1", true)).await).0, 1);
}

fn narrow() -> Limits {
    Limits {
        targets_per_room: 3,
        counters_per_target: 2,
        likes_per_room: 4,
        comments_per_room: 2,
        ..Limits::default()
    }
}

async fn caps_refuse_clearly_and_leave_the_rest_alone(stage: Stage) {
    let too_many = async |op: Op| match stage.refused("ann", op).await {
        CounterError::TooMany(cap) => cap,
        other => panic!("{other:?} instead of a cap"),
    };
    for target in ["p/1", "p/2", "p/3"] {
        stage.did("ann", like(target, true)).await;
    }
    assert_eq!(too_many(like("p/4", true)).await, Cap::Targets);
    assert_eq!(too_many(count("p/4", "view", 1, Some("k"))).await, Cap::Targets);
    assert_eq!(too_many(comment("p/4", "no", None)).await, Cap::Targets);
    stage.did("ann", count("p/1", "view", 1, Some("k"))).await;
    assert_eq!(too_many(count("p/1", "download", 1, None)).await, Cap::Counters);
    stage.did("ann", comment("p/2", "one", None)).await;
    stage.did("ann", comment("p/3", "two", None)).await;
    assert_eq!(too_many(comment("p/3", "three", None)).await, Cap::Comments);
    // What exists goes on.
    assert_eq!(value_of(&stage.did("bob", like("p/1", true)).await).0, 2);
    match stage.refused("cid", like("p/1", true)).await {
        CounterError::TooMany(cap) => assert_eq!(cap, Cap::Likes),
        other => panic!("{other:?} instead of a cap"),
    }
    stage.did("bob", like("p/1", true)).await;
    assert_eq!(value_of(&stage.did("bob", count("p/1", "view", 1, None)).await).0, 2);
    assert_eq!(stage.one().counters(ROOM, None).await.expect("read").len(), 6);
}

#[tokio::test]
async fn caps_hold_in_memory() {
    caps_refuse_clearly_and_leave_the_rest_alone(Stage::memory_with(narrow())).await;
}

#[tokio::test]
async fn caps_hold_in_redis() {
    caps_refuse_clearly_and_leave_the_rest_alone(Stage::redis_with(narrow()).await).await;
}

#[tokio::test]
async fn memory_forgets_keys_after_ten_minutes_and_rooms_after_their_time() {
    let stage = Stage::memory();
    stage.did("ann", count("p/1", "view", 1, Some("k"))).await;
    stage.advance(Duration::from_secs(599));
    stage.did("ann", count("p/1", "view", 1, Some("k"))).await;
    assert_eq!(stage.value("p/1", "view").await.map(|(value, _)| value), Some(1));
    stage.advance(Duration::from_secs(1));
    stage.did("ann", count("p/1", "view", 1, Some("k"))).await;
    assert_eq!(stage.value("p/1", "view").await.map(|(value, _)| value), Some(2));
    stage.advance(Limits::default().room_ttl);
    assert_eq!(stage.value("p/1", "view").await, None);
}

#[tokio::test]
async fn memory_refuses_what_would_overflow_its_maps() {
    let stage = Stage::memory_with(Limits { memory_entries: 2, ..Limits::default() });
    for key in ["a", "b"] {
        stage.did("ann", count("p/1", "view", 1, Some(key))).await;
    }
    let full = stage.refused("ann", count("p/1", "view", 1, Some("c"))).await;
    assert!(matches!(full, CounterError::TooMany(Cap::Keys)));
    let room = async |name: &str| {
        let mut command = command("ann", like("p/1", true));
        command.room = name.into();
        stage.one().apply(command).await
    };
    room("event:2").await.expect("applied");
    assert!(matches!(room("event:3").await, Err(CounterError::TooMany(Cap::Rooms))));
    // A refused operation leaves no room behind, and ten minutes later there is place for keys again.
    stage.one().end_room("event:2").await.expect("ended");
    room("event:3").await.expect("applied");
    stage.advance(Duration::from_secs(600));
    stage.did("ann", count("p/1", "view", 1, Some("c"))).await;
}

#[tokio::test]
async fn in_redis_the_number_of_likes_is_the_size_of_the_set() {
    use fred::interfaces::SetsInterface;
    let stage = Stage::redis().await;
    for user in 0..40 {
        stage.did(&format!("user {user}"), like("p/1", true)).await;
        stage.did(&format!("user {}", user / 2), like("p/1", user % 3 == 0)).await;
    }
    let members: u64 = stage.client().scard(format!("rc:{{{ROOM}}}:likes")).await.expect("a set");
    assert_eq!(stage.value("p/1", "like").await.map(|(value, _)| value), Some(members));
}

#[test]
fn a_handle_is_shared_between_tasks() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Counter>();
}
