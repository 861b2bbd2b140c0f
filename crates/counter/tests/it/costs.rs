//! What a step costs Redis: the commands inside each script, as `docs/counters.md` has them.

use fred::{interfaces::ClientLike, types::InfoKind};
use roomcast_counter::{Decision, Op, UploadState, Wish};

use crate::stage::{Stage, comment, confirm, count, like, pending, release, reserve, stock};

/// Bytes that the server has read from its clients.
async fn bytes_in(stage: &Stage) -> u64 {
    let info: String = stage.client().info(Some(InfoKind::Stats)).await.expect("info");
    let line = info.lines().find_map(|line| line.strip_prefix("total_net_input_bytes:")).expect("a figure");
    line.trim().parse().expect("a number")
}

#[tokio::test]
async fn the_words_of_an_operation_stay_under_a_kilobyte() {
    let stage = Stage::redis().await;
    stage.did("shop", stock("print-a3", 1_000, 1_000, 3_600_000)).await;
    stage.did("ann", reserve("print-a3", 1, "first")).await;
    stage.did("ann", like("photo-1", true)).await;
    let before = bytes_in(&stage).await;
    let asking = bytes_in(&stage).await - before;
    for (op, most) in [(like("photo-1", false), 700), (reserve("print-a3", 1, "second"), 1_000)] {
        let before = bytes_in(&stage).await;
        stage.did("ann", op).await;
        let sent = bytes_in(&stage).await - before - asking;
        println!("{sent} bytes");
        assert!((1..=most).contains(&sent), "{sent} bytes");
    }
}

/// Commands that the server has run, without those of the clients themselves.
async fn commands(stage: &Stage) -> u64 {
    let info: String = stage.client().info(Some(InfoKind::CommandStats)).await.expect("info");
    let other = ["evalsha", "eval", "info", "hello", "ping", "client", "subscribe", "config", "select"];
    let calls = |line: &str| -> Option<u64> {
        let (name, rest) = line.trim().strip_prefix("cmdstat_")?.split_once(':')?;
        if other.iter().any(|other| name.split('|').next() == Some(other)) {
            return None;
        }
        rest.strip_prefix("calls=")?.split(',').next()?.parse().ok()
    };
    info.lines().filter_map(calls).sum()
}

#[tokio::test]
async fn steps_cost_at_most_what_is_documented() {
    let stage = Stage::redis().await;
    let hour = 3_600_000;
    let moderate = |id: &str, decision| Op::Moderate { comment: id.into(), decision, version: 1 };
    let upload = |state| Op::Upload { target: "p/2".into(), state, progress: None };
    let put = |version| Op::Put { doc: "d".into(), value: "1".into(), version };
    let id = |outcome| match outcome {
        roomcast_counter::Outcome::Comment { comment, .. } => comment,
        other => panic!("{other:?}"),
    };
    let mut costs = Vec::new();
    macro_rules! cost {
        ($name:literal, $most:literal, $step:expr) => {{
            let before = commands(&stage).await;
            let result = $step;
            costs.push(($name, commands(&stage).await - before, $most));
            result
        }};
    }
    cost!("like", 13, stage.did("ann", like("p/1", true)).await);
    cost!("like, nothing", 3, stage.did("ann", like("p/1", true)).await);
    cost!("count", 10, stage.did("ann", count("p/1", "view", 1, None)).await);
    cost!("count, key", 16, stage.did("ann", count("p/1", "view", 1, Some("k"))).await);
    cost!("count, retried", 2, stage.did("ann", count("p/1", "view", 1, Some("k"))).await);
    let visible = id(cost!("comment", 27, stage.did("ann", comment("p/1", "hello", None)).await));
    let one = id(cost!("comment, pending", 17, stage.did("ann", pending("p/1", "a")).await));
    let two = id(stage.did("ann", pending("p/1", "b")).await);
    cost!("approve", 23, stage.did("admin", moderate(&one, Decision::Approve)).await);
    cost!("reject", 13, stage.did("admin", moderate(&two, Decision::Reject)).await);
    // Two entries are in the log: this one's and the approved one's.
    cost!("delete", 32, stage.did("admin", Op::DeleteComment { comment: visible }).await);
    cost!("upload started", 6, stage.did("ann", upload(UploadState::Started)).await);
    cost!("upload progress", 6, stage.did("ann", upload(UploadState::Progress)).await);
    cost!("upload complete", 12, stage.did("ann", upload(UploadState::Complete)).await);
    cost!("stock", 22, stage.did("shop", stock("i", 9, 4, hour)).await);
    let (sold, _) = crate::stock::hold_of(cost!("reserve", 28, stage.did("ann", reserve("i", 2, "a")).await));
    cost!("reserve, retried", 2, stage.did("ann", reserve("i", 2, "a")).await);
    let (back, _) = crate::stock::hold_of(stage.did("ann", reserve("i", 2, "b")).await);
    cost!("reserve, refused", 6, stage.refused("bob", reserve("i", 6, "c")).await);
    cost!("confirm", 17, stage.did("ann", confirm(&sold)).await);
    cost!("release", 20, stage.did("ann", release(&back)).await);
    cost!("put", 13, stage.did("ann", put(0)).await);
    let wish = Wish::Name("party".into());
    cost!("claim", 5, stage.one().claim("slug", "ann", &wish).await.expect("claimed"));
    let ttl = std::time::Duration::from_secs(9);
    cost!("lock", 4, stage.one().lock("job", "ann", ttl).await.expect("locked"));
    let over: Vec<_> = costs.iter().filter(|(_, cost, most)| cost > most).collect();
    assert!(over.is_empty(), "{over:?} of {costs:?}");
}
