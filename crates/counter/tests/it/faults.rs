//! What only Redis can get wrong: lost scripts, refusals, silence, absence. No operation is half done or doubled.

use std::time::Duration;

use fred::{
    clients::Client,
    interfaces::{ClientLike, ConfigInterface, KeysInterface, LuaInterface},
    types::{ClusterHash, CustomCommand},
};
use roomcast_counter::{
    Command, CommentsQuery, Counter, CounterError, Limits, Op, Outcome, PublishMode, Redis, Viewer,
};
use tokio::time::Instant;

use crate::server::Server;
use crate::stage::{ROOM, Stage, command, comment, count, like, pending, reserve, stock};

async fn raw(client: &Client, words: &[&str]) {
    let (name, args) = words.split_first().expect("a command");
    let custom = CustomCommand::new((*name).to_owned(), ClusterHash::FirstKey, false);
    let args: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
    let _: fred::types::Value = client.custom(custom, args).await.expect("done");
}

/// Whether it was unavailable, and then whether anything may have happened.
fn doubt<T: std::fmt::Debug>(result: Result<T, CounterError>) -> bool {
    match result {
        Err(CounterError::Unavailable { maybe_applied, .. }) => maybe_applied,
        other => panic!("{other:?} instead of unavailable"),
    }
}

/// A node that gives up on a command after so many milliseconds.
async fn impatient(stage: &mut Stage, timeout_ms: u64) -> Counter {
    let client = stage.server().client_with(Duration::from_millis(timeout_ms)).await;
    Counter::Redis(Redis::with(client, "rc", Limits::default(), PublishMode::Plain))
}

impl Stage {
    /// Keys that match, of a small database.
    pub(crate) async fn keys(&self, pattern: &str) -> Vec<String> {
        let custom = CustomCommand::new_static("KEYS", ClusterHash::FirstKey, false);
        self.client().custom(custom, vec![pattern.to_owned()]).await.expect("keys")
    }
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_learns_them_again() {
    let stage = Stage::redis().await;
    stage.did("ann", count("p/1", "view", 1, None)).await;
    stage.client().script_flush(false).await.expect("flushed");
    stage.did("ann", count("p/1", "view", 1, None)).await;
    stage.did("ann", comment("p/1", "hello", None)).await;
    assert_eq!(stage.value("p/1", "view").await.map(|(value, _)| value), Some(2));
}

#[tokio::test]
async fn out_of_memory_refuses_the_whole_step() {
    let stage = Stage::redis().await;
    stage.did("ann", like("p/1", true)).await;
    stage.did("ann", comment("p/1", "hello", None)).await;
    stage.published().await;
    let before = stage.one().counters(ROOM, None).await.expect("read");
    stage.client().config_set("maxmemory", "1").await.expect("set");
    for op in [
        like("p/1", false),
        like("p/2", true),
        count("p/1", "view", 1, Some("k")),
        comment("p/1", "no", Some("c")),
        comment("p/2", "no", None),
    ] {
        assert!(!doubt(stage.one().apply(command("ann", op)).await));
    }
    assert!(!doubt(stage.one().keep_ticket("ticket", "grant", Duration::from_secs(9)).await));
    assert_eq!(stage.one().counters(ROOM, None).await.expect("reads go on"), before);
    stage.client().config_set("maxmemory", "0").await.expect("set");
    assert!(stage.published().await.is_empty());
    stage.did("ann", like("p/1", false)).await;
    assert_eq!(stage.value("p/1", "like").await.map(|(value, _)| value), Some(0));
    stage.did("ann", count("p/1", "view", 1, Some("k"))).await;
}

#[tokio::test]
async fn a_read_only_replica_refuses_the_whole_step() {
    let stage = Stage::redis().await;
    stage.did("ann", like("p/1", true)).await;
    raw(stage.client(), &["REPLICAOF", "127.0.0.1", "1"]).await;
    for op in [like("p/1", false), count("p/1", "view", 1, None), comment("p/1", "no", None)] {
        assert!(!doubt(stage.one().apply(command("ann", op)).await));
    }
    raw(stage.client(), &["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(stage.value("p/1", "like").await.map(|(value, _)| value), Some(1));
    stage.did("ann", like("p/1", false)).await;
}

#[tokio::test]
async fn silence_leaves_doubt_and_the_key_makes_the_retry_safe() {
    let mut stage = Stage::redis().await;
    let node = impatient(&mut stage, 100).await;
    let op = || command("ann", count("p/1", "view", 1, Some("k")));
    raw(stage.client(), &["CLIENT", "PAUSE", "1000", "WRITE"]).await;
    assert!(doubt(node.apply(op()).await), "it will run when the pause ends");
    // Reads change nothing, whatever becomes of them.
    raw(stage.client(), &["CLIENT", "PAUSE", "1000", "ALL"]).await;
    assert!(!doubt(node.counters(ROOM, None).await));
    let outcome = stage.did("ann", count("p/1", "view", 1, Some("k"))).await;
    assert!(matches!(outcome, Outcome::Count { value: 1, .. }), "{outcome:?}");
    assert_eq!(stage.value("p/1", "view").await.map(|(value, _)| value), Some(1));
}

#[tokio::test]
async fn without_a_connection_it_fails_at_once_and_certainly() {
    let mut stage = Stage::redis().await;
    let node = impatient(&mut stage, 100).await;
    node.apply(command("ann", like("p/1", true))).await.expect("applied");
    stage.server().stop();
    // Until the client has noticed, a command may still be written into the dying connection.
    let deadline = Instant::now() + Duration::from_secs(10);
    while doubt(node.apply(command("ann", count("p/1", "view", 1, None))).await) {
        assert!(Instant::now() < deadline, "the loss was never noticed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut took = Vec::new();
    for _ in 0..3 {
        let before = Instant::now();
        assert!(!doubt(node.apply(command("ann", like("p/1", false))).await));
        assert!(!doubt(node.redeem_ticket("t").await));
        assert!(!doubt(node.counters(ROOM, None).await));
        took.push(before.elapsed());
    }
    took.sort_unstable();
    // The middle one: a machine may stop once.
    assert!(took[1] < Duration::from_millis(50), "failing fast took {took:?}");
}

#[tokio::test]
async fn every_key_expires_and_ending_a_room_removes_this_crates() {
    let stage = Stage::redis().await;
    stage.did("ann", like("p/1", true)).await;
    stage.did("ann", comment("p/1", "hello", Some("c"))).await;
    // More records than one step removes.
    for n in 0..1_100 {
        stage.did("ann", count("p/1", "view", 1, Some(&format!("k{n}")))).await;
    }
    let keys = stage.keys("*").await;
    assert_eq!(keys.len(), 2 + 6 + 1 + 1_101, "log and meta, counters and comments, places, records");
    for key in &keys {
        assert!(key.starts_with(&format!("rc:{{{ROOM}}}:")), "{key} is outside the room's slot");
        let ttl: i64 = stage.client().pttl(key).await.expect("a ttl");
        assert!(ttl > 0, "{key} never expires");
        if key.contains(":op:") {
            assert!((590_000..=600_000).contains(&ttl), "{key}: {ttl}");
        }
    }
    stage.one().end_room(ROOM).await.expect("ended");
    let mut left = stage.keys("*").await;
    left.sort();
    assert_eq!(left, [format!("rc:{{{ROOM}}}:log"), format!("rc:{{{ROOM}}}:meta")]);
}

#[tokio::test]
async fn ending_a_room_removes_whatever_any_operation_left() {
    let stage = Stage::redis().await;
    let hour = Duration::from_secs(3_600);
    let upload =
        Op::Upload { target: "p/1".into(), state: roomcast_counter::UploadState::Started, progress: None };
    for op in [
        like("p/1", true),
        comment("p/1", "hello", Some("c")),
        pending("p/1", "wait"),
        upload,
        stock("print", 9, 9, 3_600_000),
        reserve("print", 1, "r"),
        Op::Put { doc: "d".into(), value: "1".into(), version: 0 },
    ] {
        stage.did("ann", op).await;
    }
    let ann = roomcast_counter::Whom::User("ann".into());
    let mute = roomcast_counter::RestrictionKind::Mute;
    stage.one().restrict(mute, &ann, Some(ROOM), hour).await.expect("muted");
    let room = format!("rc:{{{ROOM}}}:*");
    let keys = stage.keys(&room).await;
    assert!(keys.len() >= 17, "{keys:?}");
    for key in &keys {
        let ttl: i64 = stage.client().pttl(key).await.expect("a ttl");
        assert!(ttl > 0, "{key} never expires");
    }
    stage.one().end_room(ROOM).await.expect("ended");
    let mut left = stage.keys(&room).await;
    left.sort();
    assert_eq!(left, [format!("rc:{{{ROOM}}}:log"), format!("rc:{{{ROOM}}}:meta")]);
}

#[tokio::test]
async fn a_broken_key_is_an_internal_error_that_names_no_data() {
    let stage = Stage::redis().await;
    let key = format!("rc:{{{ROOM}}}:counts");
    let () = stage.client().set(key, "not a hash", None, None, false).await.expect("set");
    let error = stage.refused("ann", like("p/1", true)).await;
    assert!(matches!(error, CounterError::Internal(_)), "{error:?}");
    assert_eq!(error.to_string(), "internal error");
}

#[tokio::test]
async fn sharded_channels_carry_the_same() {
    use fred::interfaces::{EventInterface, PubsubInterface};
    let mut stage = Stage::redis().await;
    let subscriber = stage.server().client().await;
    let mut messages = subscriber.message_rx();
    subscriber.ssubscribe(format!("rc:{{{ROOM}}}:ch")).await.expect("subscribed");
    let () = subscriber.ping(None).await.expect("an answer");
    let client = stage.server().client().await;
    let node = Redis::with(client, "rc", Limits::default(), PublishMode::Sharded);
    let node = Counter::Redis(node);
    node.apply(command("ann", comment("p/1", "hello", None))).await.expect("applied");
    let heads = [messages.recv().await, messages.recv().await].map(|message| {
        message.expect("a message").value.as_string().expect("text").chars().next().expect("a header")
    });
    assert_eq!(heads, ['E', 'C']);
    assert!(stage.published().await.is_empty(), "and nothing on the plain channel");
}

#[tokio::test]
async fn in_a_cluster_every_step_stays_in_one_slot() {
    let server = Server::start_cluster();
    for mode in [PublishMode::Plain, PublishMode::Sharded] {
        let node = Counter::Redis(Redis::with(server.client().await, "rc", Limits::default(), mode));
        let room = |name: &str, op| Command { room: name.to_owned(), ..command("ann", op) };
        // Rooms of several slots, so that a wrong guess at the slot would be refused.
        for name in ["event:a", "event:b", "event:c", "event:d"] {
            node.apply(room(name, like("p/1", true))).await.expect("applied");
            node.apply(room(name, count("p/1", "view", 1, Some("k")))).await.expect("applied");
            node.apply(room(name, comment("p/1", "hello", Some("c")))).await.expect("applied");
            assert_eq!(node.counters(name, None).await.expect("read").len(), 3);
            let targets = ["p/1".to_owned()];
            assert_eq!(node.counters(name, Some(&targets)).await.expect("read").len(), 3);
            let query = CommentsQuery { target: None, viewer: Viewer::Public, cursor: None, limit: 10 };
            assert_eq!(node.comments(name, query).await.expect("read").comments.len(), 1);
            node.apply(room(name, stock("print", 9, 9, 50))).await.expect("applied");
            node.apply(room(name, reserve("print", 2, "r"))).await.expect("applied");
            let put = Op::Put { doc: "d".into(), value: "1".into(), version: 0 };
            node.apply(room(name, put)).await.expect("applied");
            let Outcome::Comment { comment: id, .. } =
                node.apply(room(name, pending("p/2", "wait"))).await.expect("applied")
            else {
                panic!("no comment");
            };
            let approve = roomcast_counter::Decision::Approve;
            let moderate = Op::Moderate { comment: id.clone(), decision: approve, version: 1 };
            node.apply(room(name, moderate)).await.expect("applied");
            node.apply(room(name, Op::DeleteComment { comment: id })).await.expect("applied");
            assert_eq!(node.stock(name).await.expect("read").len(), 1);
            node.sweep_holds(10).await.expect("swept");
            node.end_room(name).await.expect("ended");
            assert!(node.counters(name, None).await.expect("read").is_empty());
        }
        node.keep_ticket("ticket", "grant", Duration::from_secs(9)).await.expect("a ticket");
        assert_eq!(node.redeem_ticket("ticket").await.expect("read").as_deref(), Some("grant"));
    }
}
