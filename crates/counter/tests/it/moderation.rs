//! Moderation: decided once, seen only after, deleted to the last copy; and who may not speak.

use std::{collections::BTreeSet, time::Duration};

use roomcast_counter::{
    CommentState, CounterError, Current, Decision, Invalid, Op, Outcome, Refusal, RestrictionKind, Viewer,
    Whom,
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::stage::{
    Published, ROOM, Stage, command, comment, confirm, count, like, pending, release, reserve, stock,
};

crate::contract![
    an_approved_comment_is_an_event_and_counts_in_the_step_of_approval,
    a_rejected_comment_never_shows,
    two_admins_racing_have_one_winner_and_the_other_learns_the_state,
    a_stale_version_is_a_conflict_with_the_current_one,
    the_queue_pages_oldest_first_without_skips_or_repeats_while_it_changes,
    a_deleted_comment_leaves_a_tombstone_and_no_text_in_the_log,
    deleting_again_changes_nothing_and_a_pending_one_is_deleted_silently,
    offsets_go_on_without_a_gap_after_a_purge,
    a_muted_user_is_refused_in_that_room_only_and_until_lifted,
    restrictions_are_listed_for_every_node,
    a_mute_ends_by_itself,
];

fn moderate(id: &str, decision: Decision, version: u64) -> Op {
    Op::Moderate { comment: id.into(), decision, version }
}

fn delete(id: &str) -> Op {
    Op::DeleteComment { comment: id.into() }
}

fn id_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Comment { comment, .. } => comment,
        other => panic!("{other:?} is no comment"),
    }
}

async fn an_approved_comment_is_an_event_and_counts_in_the_step_of_approval(stage: Stage) {
    let text = "wait \"for\" it / <b> ünïcödé 📷";
    let Outcome::Comment { comment: id, at, .. } =
        stage.did("o'neil \"the\" user", pending("p/1", text)).await
    else {
        panic!("no comment");
    };
    assert!(stage.published().await.is_empty());
    let approved = stage.did("admin", moderate(&id, Decision::Approve, 1)).await;
    assert_eq!(approved, Outcome::Moderate { state: CommentState::Approved, version: 2 });
    let published = stage.published().await;
    assert_eq!(published.len(), 2);
    let (offset, _, body) = published[0].event().expect("the event comes first");
    let user = "o'neil \"the\" user";
    let data = json!({ "comment": id, "target": "p/1", "text": text, "user": user, "at": at, "version": 2 });
    assert_eq!((offset, body), (1, &json!({ "event": "comment", "from": user, "data": data })));
    assert_eq!(published[1].count().map(|c| (c.1, c.2)), Some(("comment", 1)));
    let seen = stage.all_comments(Viewer::Public, Some("p/1"), 10).await;
    assert_eq!((seen.len(), seen[0].pending, seen[0].version), (1, false, 2));
    assert!(stage.one().queue(ROOM, None, 10).await.expect("read").comments.is_empty());
}

async fn a_rejected_comment_never_shows(stage: Stage) {
    let id = id_of(stage.did("ann", pending("p/1", "rude")).await);
    let rejected = stage.did("admin", moderate(&id, Decision::Reject, 1)).await;
    assert_eq!(rejected, Outcome::Moderate { state: CommentState::Rejected, version: 2 });
    assert!(stage.published().await.is_empty());
    for viewer in [Viewer::Public, Viewer::User("ann".into()), Viewer::Admin] {
        for target in [None, Some("p/1")] {
            assert!(stage.all_comments(viewer.clone(), target, 10).await.is_empty(), "{viewer:?}");
        }
    }
    assert!(stage.one().queue(ROOM, None, 10).await.expect("read").comments.is_empty());
}

async fn two_admins_racing_have_one_winner_and_the_other_learns_the_state(stage: Stage) {
    let mut ids = Vec::new();
    for n in 0..50 {
        ids.push(id_of(stage.did("ann", pending("p/1", &format!("n {n}"))).await));
    }
    let mut tasks = JoinSet::new();
    for (n, id) in ids.iter().enumerate() {
        for (admin, decision) in [(n % 2, Decision::Approve), ((n + 1) % 2, Decision::Reject)] {
            let (node, op) = (stage.nodes[admin].clone(), moderate(id, decision, 1));
            tasks.spawn(async move { node.apply(command(&format!("admin-{admin}"), op)).await });
        }
    }
    let (mut approved, mut rejected, mut lost) = (0, 0, 0);
    for result in tasks.join_all().await {
        match result {
            Ok(Outcome::Moderate { state: CommentState::Approved, version: 2 }) => approved += 1,
            Ok(Outcome::Moderate { state: CommentState::Rejected, version: 2 }) => rejected += 1,
            Err(CounterError::Conflict(Current::Comment { state, version: 2 })) => {
                assert!(matches!(state, CommentState::Approved | CommentState::Rejected));
                lost += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((approved + rejected, lost), (50, 50));
    assert_eq!(stage.all_comments(Viewer::Public, None, 100).await.len(), approved);
    let published = stage.published().await;
    let told: BTreeSet<_> = published
        .iter()
        .filter_map(Published::event)
        .map(|(_, _, body)| body["data"]["comment"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(told.len(), approved);
    assert_eq!(published.iter().filter_map(Published::event).count(), approved);
}

async fn a_stale_version_is_a_conflict_with_the_current_one(stage: Stage) {
    let id = id_of(stage.did("ann", pending("p/1", "hello")).await);
    match stage.refused("admin", moderate(&id, Decision::Approve, 7)).await {
        CounterError::Conflict(Current::Comment { state: CommentState::Pending, version: 1 }) => {}
        other => panic!("{other:?}"),
    }
    let visible = id_of(stage.did("ann", comment("p/1", "hello", None)).await);
    match stage.refused("admin", moderate(&visible, Decision::Reject, 1)).await {
        CounterError::Conflict(Current::Comment { state: CommentState::Approved, version: 1 }) => {}
        other => panic!("{other:?}"),
    }
    let unknown = stage.refused("admin", moderate("0000000000000001", Decision::Approve, 1)).await;
    assert!(matches!(unknown, CounterError::NotFound));
    let malformed = stage.refused("admin", moderate("*", Decision::Approve, 1)).await;
    assert!(matches!(malformed, CounterError::Invalid(Invalid::Comment)));
}

async fn the_queue_pages_oldest_first_without_skips_or_repeats_while_it_changes(stage: Stage) {
    let mut before = Vec::new();
    for n in 0..25 {
        before.push(id_of(stage.did("ann", pending("p/1", &format!("n {n}"))).await));
    }
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = stage.nodes[1].queue(ROOM, cursor.as_deref(), 4).await.expect("read");
        assert!(page.comments.iter().all(|comment| comment.pending));
        let ids: Vec<_> = page.comments.into_iter().map(|comment| comment.comment).collect();
        // Decisions about what was read, and new arrivals at the end, between any two pages.
        stage.did("admin", moderate(&ids[0], Decision::Approve, 1)).await;
        stage.did("ann", pending("p/2", "late")).await;
        seen.extend(ids);
        cursor = page.cursor;
        if cursor.is_none() || seen.len() > 60 {
            break;
        }
    }
    assert_eq!(seen[..25], before);
    assert!(seen.is_sorted_by(|a, b| a < b));
}

async fn a_deleted_comment_leaves_a_tombstone_and_no_text_in_the_log(stage: Stage) {
    let gone = id_of(stage.did("ann", comment("p/1", "secret words", None)).await);
    let kept = id_of(stage.did("bob", comment("p/1", "kept words", None)).await);
    stage.published().await;
    let deleted = stage.did("admin", delete(&gone)).await;
    assert_eq!(deleted, Outcome::Deleted { version: 2 });
    let published = stage.published().await;
    let (offset, _, body) = published[0].event().expect("an event");
    let data = json!({ "comment": gone, "target": "p/1", "version": 2 });
    assert_eq!((offset, body), (3, &json!({ "event": "comment_deleted", "from": "admin", "data": data })));
    assert_eq!(published[1].count().map(|c| (c.1, c.2)), Some(("comment", 1)));
    let log = stage.log().await;
    let offsets: Vec<u64> = log.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [1, 2, 3], "no offset is missing");
    assert_eq!(log[0].1, json!({ "event": "purged", "data": null }));
    assert_eq!(log[1].1["data"]["text"], "kept words");
    let ids: Vec<_> =
        stage.all_comments(Viewer::Admin, None, 10).await.into_iter().map(|c| c.comment).collect();
    assert_eq!(ids, [kept]);
    match stage.refused("admin", moderate(&gone, Decision::Approve, 2)).await {
        CounterError::Conflict(Current::Comment { state: CommentState::Deleted, version: 2 }) => {}
        other => panic!("{other:?}"),
    }
}

async fn deleting_again_changes_nothing_and_a_pending_one_is_deleted_silently(stage: Stage) {
    let id = id_of(stage.did("ann", comment("p/1", "hello", None)).await);
    let first = stage.did("admin", delete(&id)).await;
    stage.published().await;
    assert_eq!(stage.did("admin", delete(&id)).await, first);
    let waiting = id_of(stage.did("ann", pending("p/1", "rude")).await);
    stage.did("admin", delete(&waiting)).await;
    assert!(stage.published().await.is_empty());
    assert!(stage.one().queue(ROOM, None, 10).await.expect("read").comments.is_empty());
    assert!(matches!(stage.refused("admin", delete("0000000000000001")).await, CounterError::NotFound));
    let next = id_of(stage.did("ann", comment("p/1", "again", None)).await);
    assert!(next > waiting, "an id is never used again");
}

async fn offsets_go_on_without_a_gap_after_a_purge(stage: Stage) {
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(id_of(stage.did("ann", comment("p/1", &format!("n {n}"), None)).await));
    }
    for id in ids.iter().skip(3).step_by(3) {
        stage.did("admin", delete(id)).await;
    }
    stage.did("ann", comment("p/1", "last", None)).await;
    let log = stage.log().await;
    let offsets: Vec<u64> = log.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, (1..=14).collect::<Vec<_>>());
    assert_eq!(log.iter().filter(|(_, body)| body["event"] == "purged").count(), 3);
}

async fn a_muted_user_is_refused_in_that_room_only_and_until_lifted(stage: Stage) {
    stage.did("shop", stock("print", 9, 9, 3_600_000)).await;
    let (hold, _) = crate::stock::hold_of(stage.did("ann", reserve("print", 1, "before")).await);
    let (mute, ann) = (RestrictionKind::Mute, Whom::User("ann".into()));
    let hour = Duration::from_secs(3_600);
    stage.one().restrict(mute, &ann, Some(ROOM), hour).await.expect("muted");
    stage.published().await;
    let upload =
        Op::Upload { target: "p/1".into(), state: roomcast_counter::UploadState::Started, progress: None };
    let put = Op::Put { doc: "d".into(), value: "1".into(), version: 0 };
    for op in [
        like("p/1", true),
        count("p/1", "view", 1, None),
        comment("p/1", "hello", None),
        reserve("print", 1, "k"),
        upload,
        put,
    ] {
        match stage.refused("ann", op.clone()).await {
            CounterError::Forbidden(Refusal::Muted) => {}
            other => panic!("{op:?}: {other:?}"),
        }
    }
    assert!(stage.published().await.is_empty());
    stage.did("ann", release(&hold)).await;
    stage.did("bob", like("p/1", true)).await;
    let elsewhere = roomcast_counter::Command { room: "event:b".into(), ..command("ann", like("p/1", true)) };
    stage.one().apply(elsewhere).await.expect("applied");
    stage.nodes[1].lift(mute, &ann, Some(ROOM)).await.expect("lifted");
    stage.did("ann", like("p/1", true)).await;
    assert!(matches!(stage.refused("ann", confirm(&hold)).await, CounterError::Conflict(_)));
}

async fn restrictions_are_listed_for_every_node(stage: Stage) {
    let hour = Duration::from_secs(3_600);
    let ip = Whom::Ip("2001:db8::1".parse().expect("an address"));
    let ann = Whom::User("ann b".into());
    let one = stage.one().restrict(RestrictionKind::Ban, &ip, None, hour).await.expect("banned");
    let two = stage.one().restrict(RestrictionKind::Mute, &ann, Some(ROOM), hour).await.expect("muted");
    stage.one().restrict(RestrictionKind::Ban, &ann, None, hour).await.expect("banned");
    stage.one().lift(RestrictionKind::Ban, &ann, None).await.expect("lifted");
    let all = stage.nodes[1].restrictions().await.expect("read");
    assert_eq!(all.len(), 2);
    assert!(all.contains(&one) && all.contains(&two), "{all:?}");
    let refused = stage.one().restrict(RestrictionKind::Ban, &ann, None, Duration::ZERO).await;
    assert!(matches!(refused, Err(CounterError::Invalid(Invalid::RestrictionTime))));
}

async fn a_mute_ends_by_itself(stage: Stage) {
    let ann = Whom::User("ann".into());
    let short = Duration::from_millis(80);
    stage.one().restrict(RestrictionKind::Mute, &ann, Some(ROOM), short).await.expect("muted");
    assert!(matches!(stage.refused("ann", like("p/1", true)).await, CounterError::Forbidden(_)));
    stage.pass(Duration::from_millis(120)).await;
    stage.did("ann", like("p/1", true)).await;
}
