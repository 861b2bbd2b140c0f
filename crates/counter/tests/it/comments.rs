//! Comments: stored once, hidden while pending, paged without skips or repeats.

use roomcast_counter::{CounterError, Invalid, Outcome, Viewer};
use serde_json::json;

use crate::stage::{ROOM, Stage, comment, like, pending};

crate::contract![
    a_comment_is_an_event_and_counts_in_one_step,
    a_key_stores_a_comment_once,
    text_is_kept_as_it_was_but_trimmed,
    a_pending_comment_is_seen_by_admins_and_its_author_only,
    pages_neither_skip_nor_repeat_while_comments_arrive,
    pages_of_a_target_hold_only_its_own,
    hidden_comments_do_not_end_the_pages_of_others,
    ids_sort_by_time_of_storing,
    a_cursor_or_limit_of_ones_own_making_is_refused,
];

fn id_of(outcome: Outcome) -> String {
    match outcome {
        Outcome::Comment { comment, .. } => comment,
        other => panic!("{other:?} is no comment"),
    }
}

async fn a_comment_is_an_event_and_counts_in_one_step(stage: Stage) {
    let Outcome::Comment { comment: id, pending: false, version: 1, at } =
        stage.did("ann", comment("p/1", "hello", None)).await
    else {
        panic!("not a visible comment");
    };
    let published = stage.published().await;
    assert_eq!(published.len(), 2);
    let (offset, _, body) = published[0].event().expect("the event comes first");
    let data =
        json!({ "comment": id, "target": "p/1", "text": "hello", "user": "ann", "at": at, "version": 1 });
    assert_eq!((offset, body), (1, &json!({ "event": "comment", "from": "ann", "data": data })));
    let (target, counter, value, version) = published[1].count().expect("then the count");
    assert_eq!((target, counter, value), ("p/1", "comment", 1));
    assert_eq!(stage.value("p/1", "comment").await, Some((1, version)));
}

async fn a_key_stores_a_comment_once(stage: Stage) {
    let first = stage.did("ann", comment("p/1", "hello", Some("k"))).await;
    let again = stage.did("ann", comment("p/1", " hello ", Some("k"))).await;
    assert_eq!(first, again);
    let other = stage.refused("ann", comment("p/1", "goodbye", Some("k"))).await;
    assert!(matches!(other, CounterError::KeyReused));
    assert_eq!(stage.all_comments(Viewer::Public, None, 10).await.len(), 1);
    assert_eq!(stage.published().await.len(), 2);
}

async fn text_is_kept_as_it_was_but_trimmed(stage: Stage) {
    let text = "<b>\"quoted\" \\ back/slash</b>\n\ttabbed ünïcödé 📷 \u{2028} ]] %s {brace} \u{202e}";
    stage.did("o'neil \"the\" \\ user", comment("a~b:c/d.e-f_g", &format!("  {text}\n"), None)).await;
    let all = stage.all_comments(Viewer::Public, None, 10).await;
    assert_eq!(all[0].text, text.trim());
    assert_eq!(all[0].user, "o'neil \"the\" \\ user");
    assert_eq!(all[0].target, "a~b:c/d.e-f_g");
    let published = stage.published().await;
    let (_, _, body) = published[0].event().expect("an event");
    assert_eq!(body["data"]["text"], text.trim());
    assert_eq!(body["from"], "o'neil \"the\" \\ user");
}

async fn a_pending_comment_is_seen_by_admins_and_its_author_only(stage: Stage) {
    let Outcome::Comment { comment: id, pending: true, version: 1, .. } =
        stage.did("ann", pending("p/1", "wait")).await
    else {
        panic!("not pending");
    };
    assert!(stage.published().await.is_empty());
    assert_eq!(stage.value("p/1", "comment").await, None);
    for (viewer, sees) in [
        (Viewer::Public, false),
        (Viewer::User("bob".into()), false),
        (Viewer::User("an".into()), false),
        (Viewer::User("ann".into()), true),
        (Viewer::Admin, true),
    ] {
        for target in [None, Some("p/1")] {
            let seen = stage.all_comments(viewer.clone(), target, 10).await;
            assert_eq!(seen.iter().any(|c| c.comment == id && c.pending), sees, "{viewer:?}");
            assert_eq!(seen.len(), usize::from(sees));
        }
    }
}

async fn pages_neither_skip_nor_repeat_while_comments_arrive(stage: Stage) {
    let mut before = Vec::new();
    for n in 0..25 {
        before.push(id_of(stage.did("ann", comment("p/1", &format!("n {n}"), None)).await));
    }
    before.reverse();
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = stage.page(&Viewer::Public, None, cursor, 4).await;
        seen.extend(page.comments.into_iter().map(|c| c.comment));
        stage.did("bob", comment("p/1", "meanwhile", None)).await;
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, before);
}

async fn pages_of_a_target_hold_only_its_own(stage: Stage) {
    // Names that are each other's beginnings, and end in what an id or an order could be taken for.
    let targets = ["p", "p/", "p/1", "p/10", "p~", "p:0000000000000001"];
    for round in 0..5 {
        for target in targets {
            stage.did("ann", comment(target, &format!("{target} {round}"), None)).await;
        }
    }
    for target in targets {
        let texts: Vec<String> =
            stage.all_comments(Viewer::Public, Some(target), 2).await.into_iter().map(|c| c.text).collect();
        let expected: Vec<String> = (0..5).rev().map(|round| format!("{target} {round}")).collect();
        assert_eq!(texts, expected);
        assert_eq!(stage.value(target, "comment").await.map(|(value, _)| value), Some(5));
    }
    assert_eq!(stage.all_comments(Viewer::Public, None, 7).await.len(), 30);
}

async fn hidden_comments_do_not_end_the_pages_of_others(stage: Stage) {
    let oldest = id_of(stage.did("ann", comment("p/1", "oldest", None)).await);
    // More than Redis passes over in one step.
    for n in 0..2_150 {
        stage.did("ann", pending("p/1", &format!("n {n}"))).await;
    }
    let newest = id_of(stage.did("ann", comment("p/1", "newest", None)).await);
    let ids = |all: Vec<roomcast_counter::Comment>| all.into_iter().map(|c| c.comment).collect::<Vec<_>>();
    assert_eq!(ids(stage.all_comments(Viewer::Public, None, 1).await), [newest.clone(), oldest.clone()]);
    assert_eq!(ids(stage.all_comments(Viewer::User("bob".into()), Some("p/1"), 100).await), [newest, oldest]);
    assert_eq!(stage.all_comments(Viewer::Admin, None, 100).await.len(), 2_152);
}

async fn ids_sort_by_time_of_storing(stage: Stage) {
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(id_of(stage.did("ann", comment("p/1", &format!("n {n}"), None)).await));
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
}

async fn a_cursor_or_limit_of_ones_own_making_is_refused(stage: Stage) {
    stage.did("ann", like("p/1", true)).await;
    let query = |cursor: Option<&str>, limit| roomcast_counter::CommentsQuery {
        target: None,
        viewer: Viewer::Public,
        cursor: cursor.map(Into::into),
        limit,
    };
    for (query, why) in [
        (query(Some("*"), 10), Invalid::Cursor),
        (query(Some("12"), 10), Invalid::Cursor),
        (query(None, 0), Invalid::Limit),
        (query(None, 101), Invalid::Limit),
    ] {
        match stage.one().comments(ROOM, query).await {
            Err(CounterError::Invalid(invalid)) => assert_eq!(invalid, why),
            other => panic!("{other:?} instead of {why:?}"),
        }
    }
}
