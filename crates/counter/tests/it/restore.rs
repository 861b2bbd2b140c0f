//! Counters seeded after a loss of data; and the stream of changes as Redis keeps it.

use fred::interfaces::{KeysInterface, StreamsInterface};
use roomcast_counter::{
    Cap, ChangeTarget, Changes, CounterError, Decision, Limits, Op, Outcome, RedisChanges, Seed,
};
use serde_json::{Value, json};

use crate::{
    contract,
    stage::{ROOM, Stage, comment, count, like, pending},
};

contract!(
    seeds_count_where_absent_or_lower_and_are_pushed,
    a_restore_sent_again_changes_nothing,
    bad_seeds_change_nothing,
);

/// The stream of changes, of so many.
fn stream(stage: &Stage, size: u64) -> Changes {
    let target = ChangeTarget::of(&stage.client().clone().into(), "rc", size);
    Changes::Redis(RedisChanges::new(stage.client().clone(), "rc", target))
}

fn seed(target: &str, counter: &str, value: u64) -> Seed {
    Seed { target: target.into(), counter: counter.into(), value }
}

async fn seeds_count_where_absent_or_lower_and_are_pushed(stage: Stage) {
    stage.did("ann", count("p/1", "view", 9, None)).await;
    stage.did("ann", count("p/2", "view", 3, None)).await;
    stage.published().await;
    let before = stage.value("p/2", "view").await.expect("a value").1;
    let seeds =
        [seed("p/1", "view", 5), seed("p/2", "view", 40), seed("p/3", "like", 7), seed("p/3", "like", 2)];
    assert_eq!(stage.one().restore(ROOM, &seeds).await.expect("restored"), 2);
    let published = stage.published().await;
    let mut pushed: Vec<_> =
        published.iter().filter_map(|push| push.count()).map(|(t, c, v, _)| (t, c, v)).collect();
    pushed.sort_unstable();
    assert_eq!(pushed, [("p/2", "view", 40), ("p/3", "like", 7)]);
    assert_eq!(stage.value("p/1", "view").await.map(|(value, _)| value), Some(9));
    let (value, version) = stage.value("p/2", "view").await.expect("a value");
    assert_eq!(value, 40);
    assert!(version > before);
    stage.did("ann", like("p/3", true)).await;
    assert_eq!(stage.value("p/3", "like").await.map(|(value, _)| value), Some(8));
}

async fn a_restore_sent_again_changes_nothing(stage: Stage) {
    let seeds = [seed("p/1", "view", 0), seed("p/2", "view", 40)];
    assert_eq!(stage.one().restore(ROOM, &seeds).await.expect("restored"), 2);
    stage.published().await;
    assert_eq!(stage.one().restore(ROOM, &seeds).await.expect("restored"), 0);
    assert!(stage.published().await.is_empty());
    assert_eq!(stage.one().restore(ROOM, &[]).await.expect("nothing to do"), 0);
}

async fn bad_seeds_change_nothing(stage: Stage) {
    for seeds in [
        vec![seed("p/1", "view", 1), seed("p 2", "view", 1)],
        vec![seed("p/1", "view", 1), seed("p/1", "Bad", 1)],
        vec![seed("p/1", "view", 1), seed("p/1", "other", 1 << 53)],
        (0..1_001).map(|n| seed(&format!("p/{n}"), "view", 1)).collect(),
    ] {
        let refused = stage.one().restore(ROOM, &seeds).await;
        assert!(matches!(refused, Err(CounterError::Invalid(_))), "{refused:?}");
    }
    assert!(stage.one().counters(ROOM, None).await.expect("read").is_empty());
}

async fn caps_refuse_the_whole_restore(stage: &Stage) {
    stage.did("ann", count("p/1", "view", 1, None)).await;
    let refused = |result: Result<u64, CounterError>| match result {
        Err(CounterError::TooMany(cap)) => cap,
        other => panic!("{other:?}"),
    };
    let targets = [seed("p/1", "view", 9), seed("p/2", "view", 1), seed("p/3", "view", 1)];
    assert_eq!(refused(stage.one().restore(ROOM, &targets).await), Cap::Targets);
    let counters = [seed("p/1", "a", 1), seed("p/1", "b", 1)];
    assert_eq!(refused(stage.one().restore(ROOM, &counters).await), Cap::Counters);
    assert_eq!(stage.value("p/1", "view").await.map(|(value, _)| value), Some(1));
    let fits = [seed("p/1", "a", 1), seed("p/2", "a", 1), seed("p/2", "b", 1)];
    assert_eq!(stage.one().restore(ROOM, &fits).await.expect("restored"), 3);
}

#[tokio::test]
async fn a_restore_keeps_the_caps() {
    let narrow = Limits { targets_per_room: 2, counters_per_target: 2, ..Limits::default() };
    caps_refuse_the_whole_restore(&Stage::memory_with(narrow.clone())).await;
    caps_refuse_the_whole_restore(&Stage::redis_with(narrow).await).await;
}

/// What a reader is told of a comment that is decided about or deleted.
#[tokio::test]
async fn what_becomes_of_a_comment_is_in_the_stream() {
    let stage = Stage::redis_with(Limits { changes: 1_000, ..Limits::default() }).await;
    let changes = stream(&stage, 1_000);
    let mut ids = Vec::new();
    for text in ["yes \"x\"", "no"] {
        let Outcome::Comment { comment, .. } = stage.did("ann/1", pending("p/1", text)).await else {
            panic!("a comment")
        };
        ids.push(comment);
    }
    for (comment, decision) in ids.iter().zip([Decision::Approve, Decision::Reject]) {
        stage.did("mod", Op::Moderate { comment: comment.clone(), decision, version: 1 }).await;
    }
    for comment in &ids {
        stage.did("mod", Op::DeleteComment { comment: comment.clone() }).await;
        stage.did("mod", Op::DeleteComment { comment: comment.clone() }).await;
    }
    let page = changes.read("0", 100).await.expect("read");
    let told: Vec<(&str, Value)> = page
        .changes
        .iter()
        .map(|change| (change.kind.as_str(), serde_json::from_str(&change.data).expect("JSON")))
        .collect();
    let states: Vec<_> =
        told.iter().map(|(kind, data)| (*kind, data["state"].as_str().unwrap_or_default())).collect();
    let expected = [
        ("comment", "pending"),
        ("comment", "pending"),
        ("comment", "visible"),
        ("event", ""),
        ("comment", "rejected"),
        ("comment", "deleted"),
        ("event", ""),
        ("comment", "deleted"),
    ];
    assert_eq!(states, expected);
    let approved = &told[2].1;
    assert_eq!(
        (&approved["text"], &approved["user"], &approved["version"]),
        (&json!("yes \"x\""), &json!("ann/1"), &json!(2))
    );
    assert_eq!(told[5].1, json!({ "comment": ids[0], "target": "p/1", "state": "deleted", "version": 3 }));
}

#[tokio::test]
async fn every_change_is_in_the_stream_in_the_order_of_the_steps() {
    let stage = Stage::redis_with(Limits { changes: 1_000, ..Limits::default() }).await;
    let changes = stream(&stage, 1_000);
    assert!(changes.is_on());
    stage.did("ann \"x\"", like("p/1", true)).await;
    stage.did("ann", count("p/1", "view", 5, Some("k"))).await;
    stage.did("ann", count("p/1", "view", 5, Some("k"))).await;
    stage.did("ann", like("p/2", false)).await;
    stage.did("ann", comment("p/1", "hello", None)).await;
    stage.did("ann", pending("p/1", "later")).await;
    stage.one().restore(ROOM, &[seed("p/9", "view", 4)]).await.expect("restored");
    let page = changes.read("0", 100).await.expect("read");
    assert!(page.complete);
    let kinds: Vec<_> = page.changes.iter().map(|change| change.kind.as_str()).collect();
    assert_eq!(kinds, ["like", "count", "comment", "event", "comment", "restore"]);
    assert!(page.changes.iter().all(|change| change.room == ROOM));
    let data: Vec<Value> =
        page.changes.iter().map(|change| serde_json::from_str(&change.data).expect("JSON")).collect();
    assert_eq!(
        (&data[0]["user"], &data[0]["on"], &data[0]["value"]),
        (&json!("ann \"x\""), &json!(true), &json!(1))
    );
    assert_eq!((&data[1]["by"], &data[1]["value"]), (&json!(5), &json!(5)));
    assert_eq!((&data[2]["text"], &data[2]["state"]), (&json!("hello"), &json!("visible")));
    assert_eq!((&data[3]["offset"], &data[3]["event"]["data"]["text"]), (&json!(1), &json!("hello")));
    assert_eq!(data[4]["state"], "pending");
    assert_eq!((&data[5]["counter"], &data[5]["value"]), (&json!("view"), &json!(4)));
    let rest = changes.read(&page.changes[2].id, 2).await.expect("read");
    assert_eq!((rest.complete, rest.changes[0].kind.as_str(), rest.changes.len()), (true, "event", 2));
}

#[tokio::test]
async fn the_stream_is_bounded_and_a_late_reader_is_told() {
    let stage = Stage::redis_with(Limits { changes: 100, ..Limits::default() }).await;
    let changes = stream(&stage, 100);
    stage.did("ann", count("p/1", "view", 1, None)).await;
    let first = changes.read("0", 1).await.expect("read").changes.remove(0);
    for _ in 0..500 {
        stage.did("ann", count("p/1", "view", 1, None)).await;
    }
    let kept: u64 = stage.client().xlen("rc:{changes}:log").await.expect("a length");
    assert!((100..=300).contains(&kept), "{kept}");
    assert!(!changes.read(&first.id, 10).await.expect("read").complete);
    let _gone: u64 = stage.client().del("rc:{changes}:log").await.expect("gone");
    let late = changes.read(&first.id, 10).await.expect("read");
    assert!(!late.complete && late.changes.is_empty());
}
