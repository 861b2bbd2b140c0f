//! `smoke`: the main job on two nodes, step by step. A JSON client on the first and a MessagePack client on the
//! second share a room: events, likes, counters and comments of either reach both, once and in order; a join is
//! live before it is answered; a client whose node is killed goes on at the other and misses nothing.

mod live;
mod recover;
mod together;

use std::{
    future::Future,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use roomcast_protocol::RoomName;
use serde::Serialize;

use crate::{
    client::Client,
    report,
    target::{Identity, Sources, Target},
};

/// Options of `smoke`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Two endpoints, `ws://host:port/ws`, on two nodes of one cluster (or the same twice, on one node).
    #[arg(long, required = true, num_args = 1)]
    url: Vec<String>,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    identity: Identity,
    /// The rooms' namespace: members must be allowed to publish.
    #[arg(long, default_value = "event")]
    namespace: String,
    /// Events, likes and comments of each client.
    #[arg(long, default_value_t = 20)]
    events: u64,
    /// Times to join on the second node and publish on the first at once; 0 leaves this out.
    #[arg(long, default_value_t = 10_000)]
    subscribe_then_publish: u64,
    /// Pairs of connections that share the above.
    #[arg(long, default_value_t = 50)]
    pairs: u64,
    /// How long a push may take before it counts as lost.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    push_wait: Duration,
    /// The process of the first node: kill it (kill -9) and see its client go on at the second.
    #[arg(long)]
    kill_pid: Option<u32>,
    /// Where to write the result as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What the steps share.
#[derive(Debug)]
struct Stage {
    options: Options,
    first: Target,
    second: Target,
    run: String,
}

impl Stage {
    /// A room that no other step and no other run uses.
    fn room(&self, name: &str) -> anyhow::Result<RoomName> {
        Ok(RoomName::parse(&format!("{}:smoke-{}-{name}", self.options.namespace, self.run))?)
    }

    /// A member on the first node, speaking JSON.
    async fn json(&self, name: &str, index: usize) -> anyhow::Result<Client> {
        self.member(&self.first, roomcast_protocol::Codec::json(), name, index).await
    }

    /// A member on the second node, speaking MessagePack.
    async fn msgpack(&self, name: &str, index: usize) -> anyhow::Result<Client> {
        self.member(&self.second, roomcast_protocol::Codec::msgpack(), name, index).await
    }

    async fn member(
        &self,
        target: &Target,
        codec: roomcast_protocol::Codec,
        name: &str,
        index: usize,
    ) -> anyhow::Result<Client> {
        let who = self.options.identity.member(name)?;
        Ok(Client::connect(target, codec, self.options.sources.of(index), who).await?.0)
    }
}

#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    passed: bool,
    seconds: f64,
    detail: String,
}

#[derive(Debug, Serialize)]
struct Report {
    tool: &'static str,
    passed: bool,
    steps: Vec<Step>,
}

/// Runs the steps; true where all passed. A failed step does not keep the next from being tried.
pub(crate) async fn run(options: Options) -> anyhow::Result<bool> {
    anyhow::ensure!(options.url.len() == 2, "smoke needs --url twice: the first and the second node");
    anyhow::ensure!(options.pairs > 0 && options.events > 0, "--pairs and --events are 1 or more");
    crate::system::need_sockets(usize::try_from(options.pairs * 2)?)?;
    let mut targets = Target::resolve_all(&options.url).await?;
    options.sources.check(&targets)?;
    options.identity.member("smoke")?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    let run = format!("{now:x}-{:x}", std::process::id());
    let (second, first) = (targets.remove(1), targets.remove(0));
    let stage = Stage { options, first, second, run };

    let mut steps = vec![
        step("events reach both, once, in order", together::events(&stage)).await,
        step("likes and counters are equal on both", together::counters(&stage)).await,
        step("comments reach both, once", together::comments(&stage)).await,
        step("what was missed is recovered on the other node", recover::after_goodbye(&stage)).await,
    ];
    if stage.options.subscribe_then_publish > 0 {
        steps.push(step("subscribe, then publish at once", live::subscribe_then_publish(&stage)).await);
    }
    if let Some(pid) = stage.options.kill_pid {
        steps.push(
            step("kill -9: the client goes on and misses nothing", recover::after_kill(&stage, pid)).await,
        );
    }
    let report = Report { tool: "smoke", passed: steps.iter().all(|step| step.passed), steps };
    report::table("smoke", &[("verdict", if report.passed { "passed".into() } else { "FAILED".into() })]);
    report::json(stage.options.json.as_deref(), &report)?;
    Ok(report.passed)
}

async fn step(name: &'static str, work: impl Future<Output = anyhow::Result<String>>) -> Step {
    let began = Instant::now();
    let outcome = work.await;
    let seconds = began.elapsed().as_secs_f64();
    let passed = outcome.is_ok();
    let detail = outcome.unwrap_or_else(|error| format!("{error:#}"));
    println!("{} {name} ({seconds:.1} s): {detail}", if passed { "ok    " } else { "FAILED" });
    Step { name, passed, seconds, detail }
}
