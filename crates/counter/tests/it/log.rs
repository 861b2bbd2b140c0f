//! The Lua that the node's broker shares: a log that is exact, bounded and never continued past a loss.

use std::collections::HashMap;

use fred::{
    interfaces::{KeysInterface, LuaInterface, StreamsInterface},
    types::Value,
};
use roomcast_counter::LOG_LUA;

use crate::stage::{Published, Stage};

const META: &str = "rc:{event:wall}:meta";
const LOG: &str = "rc:{event:wall}:log";

async fn eval(stage: &Stage, body: &str, args: &[&str]) -> Vec<String> {
    let args: Vec<Value> = args.iter().map(|arg| Value::from(*arg)).collect();
    let keys = [META, LOG, "rc:{event:wall}:key:k", "rc:{event:wall}:ops"].map(str::to_owned).to_vec();
    stage.client().eval(format!("{LOG_LUA}{body}"), keys, args).await.expect("ran")
}

async fn append(stage: &Stage, epoch: &str, size: &str) -> (String, u64) {
    let body =
        r"return { log_append(KEYS[1], KEYS[2], 'rc:{event:wall}:ch', ARGV[1], ARGV[2], '5000', '{}') }";
    let reply = eval(stage, body, &[epoch, size]).await;
    (reply[0].clone(), reply[1].parse().expect("an offset"))
}

#[tokio::test]
async fn offsets_rise_by_one_and_the_log_keeps_exactly_the_newest() {
    let stage = Stage::redis().await;
    for offset in 1..=250 {
        assert_eq!(append(&stage, "aaaaaaaaaaaaaaaa", "10").await, ("aaaaaaaaaaaaaaaa".into(), offset));
    }
    let entries: Vec<(String, HashMap<String, String>)> =
        stage.client().xrange_values(LOG, "-", "+", None).await.expect("a stream");
    let ids: Vec<String> = entries.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids, (241..=250).map(|offset| format!("{offset}-0")).collect::<Vec<_>>());
    assert_eq!(entries[0].1["b"], "{}");
    assert_eq!(entries[0].1["a"].len(), 13);
    assert_eq!(stage.published().await.len(), 250);
}

#[tokio::test]
async fn the_epoch_is_the_first_candidate_and_outlives_the_log() {
    let stage = Stage::redis().await;
    append(&stage, "aaaaaaaaaaaaaaaa", "10").await;
    assert_eq!(append(&stage, "bbbbbbbbbbbbbbbb", "10").await, ("aaaaaaaaaaaaaaaa".into(), 2));
    let log: i64 = stage.client().pttl(LOG).await.expect("a ttl");
    let meta: i64 = stage.client().pttl(META).await.expect("a ttl");
    assert!((1..=5_000).contains(&log) && (86_400_000..=86_405_000).contains(&meta), "{log} {meta}");
}

#[tokio::test]
async fn a_lost_position_starts_a_new_epoch_with_an_empty_log() {
    let stage = Stage::redis().await;
    append(&stage, "aaaaaaaaaaaaaaaa", "10").await;
    append(&stage, "aaaaaaaaaaaaaaaa", "10").await;
    let () = stage.client().del(META).await.expect("deleted");
    assert_eq!(append(&stage, "bbbbbbbbbbbbbbbb", "10").await, ("bbbbbbbbbbbbbbbb".into(), 1));
    let length: u64 = stage.client().xlen(LOG).await.expect("a stream");
    assert_eq!(length, 1);
}

#[tokio::test]
async fn without_history_there_is_no_stream_but_the_same_order() {
    let stage = Stage::redis().await;
    append(&stage, "aaaaaaaaaaaaaaaa", "0").await;
    append(&stage, "aaaaaaaaaaaaaaaa", "0").await;
    let exists: u64 = stage.client().exists(LOG).await.expect("an answer");
    assert_eq!(exists, 0);
    let published = stage.published().await;
    assert!(matches!(published[1], Published::Event { offset: 2, .. }));
}

#[tokio::test]
async fn a_record_answers_the_same_body_and_no_other() {
    let stage = Stage::redis().await;
    let check = "return { idem_check(KEYS[3], ARGV[1]) }";
    assert_eq!(eval(&stage, check, &["h1"]).await, ["new"]);
    let store = "idem_store(KEYS[3], ARGV[1], ARGV[2], KEYS[4]) return {}";
    eval(&stage, store, &["h1", "two\nlines"]).await;
    assert_eq!(eval(&stage, check, &["h1"]).await, ["same", "two\nlines"]);
    assert_eq!(eval(&stage, check, &["h2"]).await, ["other"]);
    assert_eq!(eval(&stage, "return { idem_check('', ARGV[1]) }", &["h2"]).await, ["new"]);
    assert_eq!(eval(&stage, "return { idem_check(nil, ARGV[1]) }", &["h2"]).await, ["new"]);
    let listed = eval(&stage, "return redis.call('ZRANGE', KEYS[4], 0, -1)", &[]).await;
    assert_eq!(listed, ["rc:{event:wall}:key:k"]);
}

#[tokio::test]
async fn large_numbers_are_written_out() {
    let stage = Stage::redis().await;
    let text = eval(&stage, "return { int_text(9007199254740991), int_text(now_ms()) }", &[]).await;
    assert_eq!(text[0], "9007199254740991");
    assert_eq!(text[1].len(), 13);
}
