//! What a step costs Redis: the commands inside each script, as `docs/counters.md` has them.

use fred::{
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, InfoKind},
};
use roomcast_counter::{Decision, Limits, Op, UploadState, Wish};

use crate::stage::{ROOM, Stage, comment, confirm, count, like, pending, release, reserve, stock};

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
    cost!("like", 14, stage.did("ann", like("p/1", true)).await);
    cost!("like, nothing", 3, stage.did("ann", like("p/1", true)).await);
    cost!("count", 10, stage.did("ann", count("p/1", "view", 1, None)).await);
    cost!("count, key", 17, stage.did("ann", count("p/1", "view", 1, Some("k"))).await);
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
    cost!("stock", 24, stage.did("shop", stock("i", 9, 4, hour)).await);
    let (sold, _) = crate::stock::hold_of(cost!("reserve", 32, stage.did("ann", reserve("i", 2, "a")).await));
    cost!("reserve, retried", 2, stage.did("ann", reserve("i", 2, "a")).await);
    let (back, _) = crate::stock::hold_of(stage.did("ann", reserve("i", 2, "b")).await);
    cost!("reserve, refused", 7, stage.refused("bob", reserve("i", 6, "c")).await);
    cost!("confirm", 21, stage.did("ann", confirm(&sold)).await);
    cost!("release", 24, stage.did("ann", release(&back)).await);
    cost!("put", 13, stage.did("ann", put(0)).await);
    let wish = Wish::Name("party".into());
    cost!("claim", 5, stage.one().claim("slug", "ann", &wish).await.expect("claimed"));
    let ttl = std::time::Duration::from_secs(9);
    cost!("lock", 4, stage.one().lock("job", "ann", ttl).await.expect("locked"));
    let over: Vec<_> = costs.iter().filter(|(_, cost, most)| cost > most).collect();
    assert!(over.is_empty(), "{over:?} of {costs:?}");
}

/// What `n` operations of a kind cost on average: commands inside Redis, bytes to it, bytes back with what one subscribed
/// node hears, bytes of memory kept.
struct Cost {
    commands: u64,
    sent: u64,
    answered: u64,
    memory: i64,
}

/// Bytes that the server read from and wrote to its clients.
async fn traffic(stage: &Stage) -> (u64, u64) {
    let info: String = stage.client().info(Some(InfoKind::Stats)).await.expect("info");
    let figure = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("a figure");
        line.trim().parse::<u64>().expect("a number")
    };
    (figure("total_net_input_bytes:"), figure("total_net_output_bytes:"))
}

/// What all keys take, without the room's log, which `history.size` bounds.
async fn memory(stage: &Stage) -> i64 {
    let mut sum = 0;
    for key in stage.keys("*").await.into_iter().filter(|key| *key != format!("rc:{{{ROOM}}}:log")) {
        let usage = CustomCommand::new_static("MEMORY", ClusterHash::FirstKey, false);
        let words = vec!["USAGE".to_owned(), key, "SAMPLES".to_owned(), "0".to_owned()];
        sum += stage.client().custom::<i64, _>(usage, words).await.expect("a size");
    }
    sum
}

async fn cost(stage: &Stage, n: u64, ops: impl Fn(u64) -> (String, Op)) -> Cost {
    // Known to the server before it is measured, and what there is once per room is there.
    let (user, op) = ops(0);
    stage.did(&user, op).await;
    let (kept, calls) = (memory(stage).await, commands(stage).await);
    let before = traffic(stage).await;
    let asking = traffic(stage).await;
    for n in 1..=n {
        let (user, op) = ops(n);
        stage.did(&user, op).await;
    }
    let after = traffic(stage).await;
    let (own_in, own_out) = (asking.0 - before.0, asking.1 - before.1);
    let made = commands(stage).await - calls;
    Cost {
        commands: made.div_ceil(n),
        sent: (after.0 - asking.0 - own_in) / n,
        answered: (after.1 - asking.1).saturating_sub(own_out) / n,
        memory: (memory(stage).await - kept) / i64::try_from(n).expect("small"),
    }
}

/// Prints the table of `docs/counters.md`: `cargo test -p roomcast-counter --test it measured -- --nocapture`. What is
/// asserted are its figures with some room, because other versions of Redis keep things otherwise.
#[tokio::test]
async fn what_operations_cost_is_as_measured() {
    // More than Redis packs into one small piece.
    const N: u64 = 600;
    let user = |n: u64| format!("guest-{n:016}");
    let target = |n: u64| format!("photo-{n:06}");
    let text = "What a lovely evening that was, thank you!";
    let mut rows: Vec<(&str, Cost, [u64; 3])> = Vec::new();
    let stage = Stage::redis_with(Limits { changes: 0, ..Limits::default() }).await;
    let likes = cost(&stage, N, |n| (user(n), like("photo-000001", true))).await;
    rows.push(("`like`, one target", likes, [700, 220, 150]));
    let likes = cost(&stage, N, |n| ("guest-0000000000000000".into(), like(&target(n), true))).await;
    rows.push(("`like`, a target each", likes, [700, 220, 300]));
    let counts = cost(&stage, N, |n| (user(n), count("photo-000001", "view", 1, None))).await;
    rows.push(("`count`, one target", counts, [700, 220, 10]));
    let keyed = |n: u64| count("photo-000001", "view", 1, Some(&format!("0198c9a0-{n:08}")));
    let counts = cost(&stage, N, |n| (user(n), keyed(n))).await;
    rows.push(("`count` with a key", counts, [850, 220, 600]));
    let comments = cost(&stage, N, |n| (user(n), comment("photo-000001", text, None))).await;
    rows.push(("`comment` of 42 characters", comments, [850, 600, 1_000]));
    let comments = cost(&stage, N, |n| (user(n), pending("photo-000001", text))).await;
    rows.push(("the same, pending", comments, [850, 100, 1_100]));
    let started = |n| Op::Upload { target: target(n), state: UploadState::Started, progress: None };
    let uploads = cost(&stage, N, |n| (user(n), started(n))).await;
    rows.push(("`upload` started", uploads, [750, 60, 150]));
    let put = |n| Op::Put { doc: format!("doc-{n:06}"), value: "{\"open\":true}".into(), version: 0 };
    let docs = cost(&stage, N, |n| (user(n), put(n))).await;
    rows.push(("`put` of 13 bytes", docs, [750, 280, 200]));
    stage.did("shop", stock("print-a3", 100_000, 100, 3_600_000)).await;
    let holds = cost(&stage, N, |n| (user(n), reserve("print-a3", 1, &format!("0198c9a1-{n:08}")))).await;
    rows.push(("`reserve`", holds, [1_050, 300, 1_000]));
    println!("| operation | commands | bytes to Redis | bytes back | memory kept |\n|---|---|---|---|---|");
    for (name, Cost { commands, sent, answered, memory }, _) in &rows {
        println!("| {name} | {commands} | {sent} | {answered} | {memory} |");
    }
    for (name, Cost { sent, answered, memory, .. }, [most_sent, most_back, most_kept]) in rows {
        assert!((1..=most_sent).contains(&sent), "{name}: {sent} bytes to Redis");
        assert!((1..=most_back).contains(&answered), "{name}: {answered} bytes back");
        let kept = u64::try_from(memory.max(0)).expect("positive");
        assert!(kept <= most_kept, "{name}: {kept} bytes are kept");
    }
}

/// What an entry of the stream of changes takes, beside the step itself.
#[tokio::test]
async fn a_change_takes_what_is_documented() {
    const N: u64 = 1_000;
    let user = |n: u64| format!("guest-{n:016}");
    let off = Stage::redis().await;
    let without = cost(&off, N, |n| (user(n), count("photo-000001", "view", 1, None))).await;
    let on = Stage::redis_with(Limits { changes: 1_000_000, ..Limits::default() }).await;
    let with = cost(&on, N, |n| (user(n), count("photo-000001", "view", 1, None))).await;
    println!(
        "a change of a count: {} bytes, {} command",
        with.memory - without.memory,
        with.commands - without.commands
    );
    assert_eq!(with.commands - without.commands, 1);
    assert!((50..=300).contains(&(with.memory - without.memory)));
    assert_eq!(with.sent, without.sent, "nothing more goes over the wire");
}
