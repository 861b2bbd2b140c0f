//! Hundreds of tasks on two nodes at once: exact totals, and values that never run backwards.

use std::collections::{BTreeMap, HashMap};

use roomcast_counter::{Outcome, Viewer};
use tokio::task::JoinSet;

use crate::stage::{Published, Stage, command, comment, count, like};

crate::contract![
    racing_likes_with_retries_count_each_user_once,
    racing_toggles_end_where_each_user_ended,
    racing_counts_lose_and_double_nothing,
    racing_retries_of_one_key_apply_once,
    racing_comments_are_all_stored_in_one_order,
];

/// What a subscriber relies on: of each counter, every later message has a higher version.
pub(crate) fn assert_never_backwards(published: &[Published]) -> HashMap<(String, String), u64> {
    let mut last: HashMap<(String, String), (u64, u64)> = HashMap::new();
    for (target, counter, value, version) in published.iter().filter_map(Published::count) {
        let before = last.insert((target.to_owned(), counter.to_owned()), (value, version));
        assert!(before.is_none_or(|(_, older)| older < version), "{target} {counter} fell back to {version}");
    }
    last.into_iter().map(|(name, (value, _))| (name, value)).collect()
}

async fn racing_likes_with_retries_count_each_user_once(stage: Stage) {
    let mut tasks = JoinSet::new();
    for n in 0..900 {
        let node = stage.nodes[n % 2].clone();
        tasks.spawn(async move {
            node.apply(command(&format!("user-{}", n % 300), like("p/1", true))).await.expect("applied")
        });
    }
    tasks.join_all().await;
    assert_eq!(stage.value("p/1", "like").await.map(|(value, _)| value), Some(300));
    let published = stage.published().await;
    let mut values: Vec<u64> = published.iter().filter_map(Published::count).map(|c| c.2).collect();
    assert_never_backwards(&published);
    assert!(values.is_sorted(), "likes only rose");
    values.dedup();
    assert_eq!(values.len(), 300);
}

async fn racing_toggles_end_where_each_user_ended(stage: Stage) {
    let mut tasks = JoinSet::new();
    for user in 0..100_usize {
        let nodes = stage.nodes.clone();
        tasks.spawn(async move {
            let user_name = format!("user-{user}");
            for round in 0..=user % 7 {
                let op = like("p/1", round % 2 == 0);
                nodes[round % 2].apply(command(&user_name, op)).await.expect("applied");
            }
        });
    }
    tasks.join_all().await;
    let on = (0..100).filter(|user| (user % 7) % 2 == 0).count() as u64;
    assert_eq!(stage.value("p/1", "like").await.map(|(value, _)| value), Some(on));
    let last = assert_never_backwards(&stage.published().await);
    assert_eq!(last[&("p/1".to_owned(), "like".to_owned())], on);
}

async fn racing_counts_lose_and_double_nothing(stage: Stage) {
    let mut tasks = JoinSet::new();
    for n in 0..600_u32 {
        let node = stage.nodes[(n % 2) as usize].clone();
        tasks.spawn(async move {
            let target = format!("p/{}", n % 3);
            let key = format!("k{n}");
            for _ in 0..2 {
                let op = count(&target, "download", n % 100 + 1, Some(&key));
                node.apply(command("ann", op)).await.expect("applied");
            }
        });
    }
    tasks.join_all().await;
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for n in 0..600_u64 {
        *expected.entry(format!("p/{}", n % 3)).or_default() += n % 100 + 1;
    }
    let last = assert_never_backwards(&stage.published().await);
    for (target, total) in expected {
        assert_eq!(stage.value(&target, "download").await.map(|(value, _)| value), Some(total));
        assert_eq!(last[&(target, "download".to_owned())], total);
    }
}

async fn racing_retries_of_one_key_apply_once(stage: Stage) {
    let mut tasks = JoinSet::new();
    for n in 0..100 {
        let node = stage.nodes[n % 2].clone();
        tasks.spawn(async move {
            node.apply(command("ann", count("p/1", "view", 3, Some("the key")))).await.expect("applied")
        });
    }
    let outcomes = tasks.join_all().await;
    assert!(matches!(outcomes[0], Outcome::Count { value: 3, .. }));
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
    assert_eq!(stage.value("p/1", "view").await.map(|(value, _)| value), Some(3));
    assert_eq!(stage.published().await.len(), 1);
}

async fn racing_comments_are_all_stored_in_one_order(stage: Stage) {
    let mut tasks = JoinSet::new();
    for n in 0..200 {
        let node = stage.nodes[n % 2].clone();
        tasks.spawn(async move {
            let op = comment("p/1", &format!("text {n}"), Some(&format!("k{n}")));
            for _ in 0..2 {
                node.apply(command("ann", op.clone())).await.expect("applied");
            }
        });
    }
    tasks.join_all().await;
    let published = stage.published().await;
    let (offsets, mut live): (Vec<u64>, Vec<String>) = published
        .iter()
        .filter_map(Published::event)
        .map(|(offset, _, body)| (offset, body["data"]["comment"].as_str().expect("an id").to_owned()))
        .unzip();
    assert_eq!(offsets, (1..=200).collect::<Vec<_>>());
    live.reverse();
    let stored: Vec<String> =
        stage.all_comments(Viewer::Public, None, 33).await.into_iter().map(|c| c.comment).collect();
    assert_eq!(stored, live, "read newest first is published newest first");
    assert_never_backwards(&published);
    assert_eq!(stage.value("p/1", "comment").await.map(|(value, _)| value), Some(200));
}
