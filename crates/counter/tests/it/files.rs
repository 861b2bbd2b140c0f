//! Uploads only go forward and show when complete; documents change only from what was read.

use roomcast_counter::{CounterError, Current, Doc, Invalid, Limits, Op, Outcome, Refusal, UploadState};
use serde_json::json;
use tokio::task::JoinSet;

use crate::stage::{Published, ROOM, Stage, command};

crate::contract![
    an_upload_is_seen_only_when_complete_and_progress_is_fleeting,
    states_never_go_back,
    an_upload_belongs_to_who_started_it,
    racing_ends_of_an_upload_have_one_winner,
    a_document_changes_from_the_version_that_was_read,
    a_storm_of_writers_loses_no_update,
    a_bad_document_or_progress_is_refused,
];

fn upload(state: UploadState, progress: Option<u32>) -> Op {
    Op::Upload { target: "p/1".into(), state, progress }
}

fn put(value: &str, version: u64) -> Op {
    Op::Put { doc: "settings".into(), value: value.into(), version }
}

async fn an_upload_is_seen_only_when_complete_and_progress_is_fleeting(stage: Stage) {
    stage.did("ann \"a\"", upload(UploadState::Started, None)).await;
    assert!(stage.published().await.is_empty());
    stage.did("ann \"a\"", upload(UploadState::Progress, Some(40))).await;
    let late = stage.did("ann \"a\"", upload(UploadState::Progress, Some(20))).await;
    assert_eq!(late, Outcome::Upload { state: UploadState::Progress, progress: 40 });
    let published = stage.published().await;
    let data = json!({ "target": "p/1", "state": "progress", "progress": 40 });
    let body = json!({ "event": "upload", "from": "ann \"a\"", "data": data });
    assert_eq!(published[0], Published::Signal { body });
    let done = stage.did("ann \"a\"", upload(UploadState::Complete, None)).await;
    assert_eq!(done, Outcome::Upload { state: UploadState::Complete, progress: 100 });
    let published = stage.published().await;
    let (offset, _, body) = published[0].event().expect("an event");
    assert_eq!((offset, &body["event"], &body["from"]), (1, &json!("upload"), &json!("ann \"a\"")));
    assert_eq!((&body["data"]["target"], &body["data"]["user"]), (&json!("p/1"), &json!("ann \"a\"")));
    assert!(body["data"]["at"].as_u64().is_some_and(|at| at > 1_600_000_000_000));
    assert_eq!(stage.log().await.len(), 1, "progress is not kept");
}

async fn states_never_go_back(stage: Stage) {
    for state in [UploadState::Progress, UploadState::Complete, UploadState::Failed] {
        assert!(matches!(stage.refused("ann", upload(state, None)).await, CounterError::NotFound));
    }
    stage.did("ann", upload(UploadState::Started, None)).await;
    stage.did("ann", upload(UploadState::Progress, Some(10))).await;
    let again = stage.did("ann", upload(UploadState::Started, None)).await;
    assert_eq!(again, Outcome::Upload { state: UploadState::Progress, progress: 10 });
    stage.did("ann", upload(UploadState::Complete, None)).await;
    stage.published().await;
    stage.did("ann", upload(UploadState::Complete, None)).await;
    for state in [UploadState::Started, UploadState::Progress, UploadState::Failed] {
        match stage.refused("ann", upload(state, None)).await {
            CounterError::Conflict(Current::Upload(UploadState::Complete)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(stage.published().await.is_empty());
}

async fn an_upload_belongs_to_who_started_it(stage: Stage) {
    stage.did("ann", upload(UploadState::Started, None)).await;
    for state in [UploadState::Started, UploadState::Progress, UploadState::Complete, UploadState::Failed] {
        match stage.refused("bob", upload(state, None)).await {
            CounterError::Forbidden(Refusal::NotOwner) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(stage.published().await.is_empty());
}

async fn racing_ends_of_an_upload_have_one_winner(stage: Stage) {
    stage.did("ann", upload(UploadState::Started, None)).await;
    let mut tasks = JoinSet::new();
    for n in 0..40 {
        let state = if n % 4 < 2 { UploadState::Complete } else { UploadState::Failed };
        let node = stage.nodes[n % 2].clone();
        tasks.spawn(async move { (state, node.apply(command("ann", upload(state, None))).await) });
    }
    let mut ends = std::collections::BTreeSet::new();
    for (asked, result) in tasks.join_all().await {
        match result {
            Ok(Outcome::Upload { state, .. }) => {
                assert_eq!(state, asked);
                ends.insert(state.as_str());
            }
            Err(CounterError::Conflict(Current::Upload(state))) => assert_ne!(state, asked),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ends.len(), 1, "one end: {ends:?}");
    let events = stage.published().await.len();
    assert_eq!(events, usize::from(ends.contains("complete")));
}

async fn a_document_changes_from_the_version_that_was_read(stage: Stage) {
    assert_eq!(stage.one().doc(ROOM, "settings").await.expect("read"), None);
    let value = "{\"theme\":\"dark\",\"text\":\"line\\n📷 %s\"}";
    assert_eq!(stage.did("ann", put(value, 0)).await, Outcome::Put { version: 1 });
    let kept = Doc { value: value.to_owned(), version: 1 };
    assert_eq!(stage.nodes[1].doc(ROOM, "settings").await.expect("read"), Some(kept.clone()));
    let published = stage.published().await;
    let (_, _, body) = published[0].event().expect("an event");
    let data = json!({ "doc": "settings", "version": 1 });
    assert_eq!(body, &json!({ "event": "doc", "from": "ann", "data": data }));
    for stale in [0, 2] {
        match stage.refused("bob", put("2", stale)).await {
            CounterError::Conflict(Current::Doc(Some(doc))) => assert_eq!(doc, kept),
            other => panic!("{other:?}"),
        }
    }
    assert!(stage.published().await.is_empty());
    // A pretty-printed value holds line feeds.
    assert_eq!(stage.did("bob", put("{\n \"a\": 1\n}", 1)).await, Outcome::Put { version: 2 });
    let doc = stage.one().doc(ROOM, "settings").await.expect("read").expect("a document");
    assert_eq!((doc.value.as_str(), doc.version), ("{\n \"a\": 1\n}", 2));
    let none = stage.refused("bob", Op::Put { doc: "other".into(), value: "1".into(), version: 3 }).await;
    assert!(matches!(none, CounterError::Conflict(Current::Doc(None))));
}

async fn a_storm_of_writers_loses_no_update(stage: Stage) {
    let mut tasks = JoinSet::new();
    for n in 0..40 {
        let node = stage.nodes[n % 2].clone();
        tasks.spawn(async move {
            // Each adds one to what it read, until it was not overtaken.
            loop {
                let read = node.doc(ROOM, "settings").await.expect("read");
                let (value, version) =
                    read.map_or((0, 0), |doc| (doc.value.parse::<u64>().expect("a number"), doc.version));
                match node.apply(command("ann", put(&(value + 1).to_string(), version))).await {
                    Ok(_) => return,
                    Err(CounterError::Conflict(Current::Doc(_))) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        });
    }
    tasks.join_all().await;
    let doc = stage.one().doc(ROOM, "settings").await.expect("read").expect("a document");
    assert_eq!((doc.value.as_str(), doc.version), ("40", 40));
    let versions: Vec<u64> = stage
        .published()
        .await
        .iter()
        .filter_map(Published::event)
        .map(|(_, _, body)| body["data"]["version"].as_u64().expect("a version"))
        .collect();
    assert_eq!(versions, (1..=40).collect::<Vec<_>>());
}

async fn a_bad_document_or_progress_is_refused(stage: Stage) {
    stage.did("ann", upload(UploadState::Started, None)).await;
    for (op, why) in [
        (put("{", 0), Invalid::Value),
        (put("1 2", 0), Invalid::Value),
        (put("1", 1 << 53), Invalid::Version),
        (upload(UploadState::Progress, Some(101)), Invalid::Progress),
        (upload(UploadState::Complete, Some(1)), Invalid::Progress),
    ] {
        match stage.refused("ann", op).await {
            CounterError::Invalid(invalid) => assert_eq!(invalid, why),
            other => panic!("{other:?} instead of {why:?}"),
        }
    }
    let large = format!("\"{}\"", "x".repeat(16 * 1024));
    assert!(matches!(stage.refused("ann", put(&large, 0)).await, CounterError::TooLarge { max: 16_384 }));
}

async fn caps_of_files_refuse_clearly(stage: Stage) {
    stage.did("ann", upload(UploadState::Started, None)).await;
    let other = Op::Upload { target: "p/2".into(), state: UploadState::Started, progress: None };
    let refused = stage.refused("ann", other).await;
    assert_eq!(refused.to_string(), "the room or store holds no more uploads");
    stage.did("ann", put("1", 0)).await;
    let refused = stage.refused("ann", Op::Put { doc: "b".into(), value: "1".into(), version: 0 }).await;
    assert_eq!(refused.to_string(), "the room or store holds no more documents");
    stage.did("ann", put("2", 1)).await;
}

fn narrow() -> Limits {
    Limits { uploads_per_room: 1, docs_per_room: 1, ..Limits::default() }
}

#[tokio::test]
async fn caps_of_files_hold_in_memory() {
    caps_of_files_refuse_clearly(Stage::memory_with(narrow())).await;
}

#[tokio::test]
async fn caps_of_files_hold_in_redis() {
    caps_of_files_refuse_clearly(Stage::redis_with(narrow()).await).await;
}
