//! The binary as a person runs it: options in, exit code and JSON out.

use std::{path::Path, sync::Arc};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::hub::{Fault, Hub};

const KEY: &str = "0123456789abcdef0123456789abcdef";

struct Run {
    code: Option<i32>,
    result: Value,
    stdout: String,
    stderr: String,
}

impl Run {
    fn step(&self, part: &str) -> &Value {
        let steps = self.result["steps"].as_array().expect("steps");
        steps.iter().find(|step| step["name"].as_str().is_some_and(|name| name.contains(part))).expect(part)
    }
}

async fn run(arguments: &[&str]) -> Run {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("result.json");
    let output = Command::new(env!("CARGO_BIN_EXE_roomcast-loadtest"))
        .args(arguments)
        .arg("--json")
        .arg(&path)
        .kill_on_drop(true)
        .output()
        .await
        .expect("the tool starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Run {
        code: output.status.code(),
        result: read(&path),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn read(path: &Path) -> Value {
    std::fs::read_to_string(path).map_or(Value::Null, |text| serde_json::from_str(&text).expect("JSON"))
}

async fn fanout(hub: &Arc<Hub>, more: &[&str]) -> Run {
    let ((one, _one), (other, _other)) = (hub.node().await, hub.node().await);
    let urls = [format!("--url=ws://{one}/ws"), format!("--url=ws://{other}/ws")];
    let fixed = ["fanout", &urls[0], &urls[1], "--hmac-key", KEY, "--subscribers", "6", "--rooms", "2"];
    let pace = ["--duration", "1s", "--connect-rate", "1000", "--sources", "5"];
    run(&[&fixed[..], &pace, more].concat()).await
}

async fn smoke(hub: &Arc<Hub>, more: &[&str]) -> Run {
    let ((one, _one), (other, _other)) = (hub.node().await, hub.node().await);
    let urls = [format!("--url=ws://{one}/ws"), format!("--url=ws://{other}/ws")];
    let fixed = ["smoke", &urls[0], &urls[1], "--hmac-key", KEY, "--events", "10", "--push-wait", "1s"];
    run(&[&fixed[..], more].concat()).await
}

#[tokio::test]
async fn fanout_passes_where_every_event_comes_once_and_in_order() {
    let hub = Hub::new(Fault::None);
    let run = fanout(&hub, &["--publishers", "3", "--rate", "90", "--payload", "200"]).await;
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    let result = &run.result;
    assert_eq!(result["passed"], true);
    assert_eq!(result["connected"], 2 * (6 + 3));
    assert_eq!(hub.connections(), 2 * (6 + 3));
    let published = result["published"].as_u64().expect("a number");
    assert!((120..=200).contains(&published), "90/s in 2 rooms for 1 s: {published}");
    assert_eq!(result["received"].as_u64(), Some(published * 6));
    assert_eq!(result["delivery_us"]["count"].as_u64(), Some(published * 6));
    assert!(result["delivery_us"]["p50"].as_u64() > Some(0));
    assert!(run.stdout.contains("passed"));
    assert!(!run.stdout.contains(KEY) && !result.to_string().contains(KEY), "the key is told nobody");
}

#[tokio::test]
async fn fanout_counts_refusals_and_goes_on() {
    let run = fanout(&Hub::new(Fault::RateLimits), &["--rate", "60"]).await;
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    assert!(run.result["refused"].as_u64() > Some(10), "{}", run.result);
}

#[tokio::test]
async fn fanout_fails_on_each_kind_of_broken_promise() {
    for (fault, finding) in [
        (Fault::Loses, "lost"),
        (Fault::Doubles, "duplicates"),
        (Fault::Swaps, "late"),
        (Fault::Swaps, "offset_jumps"),
        (Fault::Closes, "unexpected_closes"),
    ] {
        let run = fanout(&Hub::new(fault), &["--rate", "50"]).await;
        assert_eq!(run.code, Some(1), "{fault:?}: {}{}", run.stdout, run.stderr);
        assert_eq!(run.result["passed"], false, "{fault:?}");
        assert!(run.result[finding].as_u64() > Some(0), "{fault:?}: {}", run.result);
    }
}

#[tokio::test]
async fn a_run_that_cannot_be_made_says_why_and_is_no_verdict() {
    let no_token = run(&["fanout", "--url", "ws://127.0.0.1:9/ws"]).await;
    assert_eq!(no_token.code, Some(2));
    assert!(no_token.stderr.contains("--hmac-key"), "{}", no_token.stderr);
    let nobody = run(&["fanout", "--url", "ws://127.0.0.1:9/ws", "--hmac-key", KEY]).await;
    assert_eq!(nobody.code, Some(2));
    assert!(nobody.stderr.contains("no TCP connection"), "{}", nobody.stderr);
    let many = run(&["idle", "--url", "ws://127.0.0.1:9/ws", "--connections", "99999999"]).await;
    assert_eq!(many.code, Some(2));
    assert!(many.stderr.contains("ulimit -n"), "{}", many.stderr);
}

#[tokio::test]
async fn idle_measures_the_server_and_hears_from_every_connection_at_the_end() {
    let hub = Hub::new(Fault::None);
    let (address, _node) = hub.node().await;
    let url = format!("ws://{address}/ws");
    let pid = std::process::id().to_string();
    let rooms = ["--room", "event:a", "--room", "event:b"];
    let fixed = ["idle", "--url", &url, "--connections", "200", "--settle", "100ms", "--pid", &pid];
    let run = run(&[&fixed[..], &rooms, &["--sources", "20", "--connect-rate", "2000"]].concat()).await;
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    assert_eq!((run.result["connected"].as_u64(), run.result["answered"].as_u64()), (Some(200), Some(200)));
    assert!(run.result["after"]["rss_anon_kib"].as_u64() > Some(0));
    assert!(run.result["rss_anon_kib_per_connection"].is_number());
}

#[tokio::test]
async fn idle_fails_where_connections_do_not_answer_or_cost_too_much() {
    let hub = Hub::new(Fault::Closes);
    let (address, _node) = hub.node().await;
    let url = format!("ws://{address}/ws");
    let pid = std::process::id().to_string();
    // Less than nothing is more than any connection may cost.
    let fixed = ["idle", "--url", &url, "--connections", "20", "--settle", "10ms", "--pid", &pid];
    let costly = run(&[&fixed[..], &["--max-kib=-1000000"]].concat()).await;
    assert_eq!((costly.code, costly.result["answered"].as_u64()), (Some(1), Some(20)), "{}", costly.stderr);
    let deaf = Hub::new(Fault::Deaf);
    let (address, _node) = deaf.node().await;
    let url = format!("ws://{address}/ws");
    let mute = run(&["idle", "--url", &url, "--connections", "3", "--settle", "10ms"]).await;
    assert_eq!((mute.code, mute.result["answered"].as_u64()), (Some(1), Some(0)), "{}", mute.stderr);
    assert!(mute.stdout.contains("ping at the end"), "{}", mute.stdout);
}

#[tokio::test]
async fn smoke_passes_on_two_nodes_that_keep_their_promises() {
    let run = smoke(&Hub::new(Fault::None), &["--subscribe-then-publish", "500", "--pairs", "10"]).await;
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    assert_eq!(run.result["steps"].as_array().map(Vec::len), Some(5));
}

#[tokio::test]
async fn smoke_names_the_step_that_failed() {
    for (fault, step) in [
        (Fault::Loses, "events reach both"),
        (Fault::Doubles, "events reach both"),
        (Fault::Swaps, "events reach both"),
        (Fault::LikesTwice, "likes and counters"),
        (Fault::Doubles, "comments reach both"),
        (Fault::Forgets, "recovered on the other node"),
    ] {
        let run = smoke(&Hub::new(fault), &["--subscribe-then-publish", "0"]).await;
        assert_eq!(run.code, Some(1), "{fault:?}: {}{}", run.stdout, run.stderr);
        assert_eq!(run.step(step)["passed"], false, "{fault:?}: {}", run.result);
    }
    let late = smoke(&Hub::new(Fault::JoinsLate), &["--subscribe-then-publish", "3", "--pairs", "3"]).await;
    assert_eq!(late.code, Some(1));
    assert_eq!(late.step("subscribe, then publish")["passed"], false);
}

#[tokio::test]
async fn smoke_kills_a_node_and_its_client_misses_nothing() {
    for (fault, passes) in [(Fault::None, true), (Fault::Forgets, false)] {
        let hub = Hub::new(fault);
        let ((one, node), (other, _other)) = (hub.node().await, hub.node().await);
        // Stands for the process of the first node: when it is killed, so are the node's connections.
        let mut process = Command::new("sleep").arg("60").kill_on_drop(true).spawn().expect("sleep");
        let pid = process.id().expect("a running process").to_string();
        let urls = [format!("--url=ws://{one}/ws"), format!("--url=ws://{other}/ws")];
        let fixed = ["smoke", &urls[0], &urls[1], "--hmac-key", KEY, "--events", "2", "--push-wait", "2s"];
        let arguments = [&fixed[..], &["--subscribe-then-publish", "0", "--kill-pid", &pid]].concat();
        let killed = async {
            let status = process.wait().await.expect("a status");
            drop(node);
            status
        };
        let (run, status) = tokio::join!(run(&arguments), killed);
        assert!(!status.success(), "the process was killed");
        assert_eq!(run.step("kill -9")["passed"], passes, "{fault:?}: {}{}", run.stdout, run.stderr);
        assert_eq!(run.code, Some(i32::from(!passes)));
    }
}
