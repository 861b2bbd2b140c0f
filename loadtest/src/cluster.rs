//! What a run of `chaos` or `race` stands on: Redis, three nodes, each with its own way there, and HAProxy with the
//! configuration that is shipped. It starts and stops things and judges nothing.

pub(crate) mod dice;
pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod redis;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use self::{
    process::{Process, Signal, free_port, need},
    proxy::Proxy,
    redis::{Form, Redis},
};
use crate::target::Target;

/// How many nodes a run has.
pub(crate) const NODES: usize = 3;
/// Signs the publishers' tokens; no secret, because the cluster lives for one run on the loopback.
pub(crate) const HMAC_KEY: &str = "chaos-chaos-chaos-chaos-chaos-chaos";
/// Opens the internal API, as above.
pub(crate) const API_KEY: &str = "chaos-api-key-of-one-run";
const START_WAIT: Duration = Duration::from_secs(20);
const BALANCER: &str = include_str!("../../deploy/haproxy.cfg");

/// One node. It keeps its ports when it is restarted, and gets a new name.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) public: u16,
    pub(crate) internal: u16,
    pub(crate) proxy: Option<Proxy>,
    life: u32,
    url: String,
    process: Option<Process>,
}

impl Node {
    /// The name it runs under now.
    pub(crate) fn name(&self) -> String {
        format!("n{}-{}", self.index + 1, self.life)
    }

    pub(crate) async fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.as_ref().context("the node does not run")?.signal(signal).await
    }

    /// kill -9.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("the node does not run")?.kill().await
    }

    /// SIGTERM, and the wait for a good end.
    pub(crate) async fn drain(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("the node does not run")?;
        process.signal(Signal::Terminate).await?;
        let status = process.ended(START_WAIT).await?;
        ensure!(status.success(), "{} ended with {status}", self.name());
        Ok(())
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_WAIT;
        loop {
            if http::get(self.internal, "/readyz", None).await.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            let name = self.name();
            ensure!(!self.is_gone(), "{name} has ended instead of becoming ready");
            ensure!(Instant::now() < deadline, "{name} does not become ready");
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_gone(&mut self) -> bool {
        self.process.as_mut().is_none_or(Process::is_gone)
    }
}

/// What differs between runs.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The binary of the nodes.
    pub(crate) bin: PathBuf,
    /// How Redis stands.
    pub(crate) form: Form,
    /// Settings of the nodes besides the run's own, as environment variables.
    pub(crate) settings: Vec<(String, String)>,
}

/// Everything that runs. All of it ends when this goes out of scope, and its files go with it.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) redis: Redis,
    pub(crate) nodes: Vec<Node>,
    /// The balancer's public side.
    pub(crate) target: Target,
    balancer: Process,
    plan: Plan,
    folder: TempDir,
}

impl Cluster {
    pub(crate) async fn start(plan: Plan) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("roomcast-chaos.").tempdir().context("a folder")?;
        let redis = Redis::start(plan.form, folder.path()).await.context("starting Redis")?;
        let mut nodes = Vec::new();
        for index in 0..NODES {
            let proxy = match plan.form {
                Form::Standalone => {
                    Some(Proxy::start(redis.servers.first().context("no server")?.port).await?)
                }
                Form::Sentinel | Form::Cluster => None,
            };
            let url = redis.url(proxy.as_ref().map(|proxy| proxy.port));
            let (public, internal) = (free_port()?, free_port()?);
            nodes.push(Node { index, public, internal, proxy, life: 0, url, process: None });
        }
        for node in &mut nodes {
            launch(node, &plan, folder.path())?;
        }
        for node in &mut nodes {
            if let Err(error) = node.wait_ready().await {
                bail!("{error:#}\n{}", last_lines(&log_of(folder.path(), node.index)));
            }
        }
        let port = free_port()?;
        let balancer = balance(port, &nodes, folder.path())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let target = Target { url: format!("ws://{address}/ws"), address, receive_buffer: None };
        let mut cluster = Self { redis, nodes, target, balancer, plan, folder };
        cluster.wait_balanced().await?;
        Ok(cluster)
    }

    /// Starts a node that has ended, under a new name.
    pub(crate) async fn restart(&mut self, index: usize) -> anyhow::Result<()> {
        let node = self.nodes.get_mut(index).context("no such node")?;
        launch(node, &self.plan, self.folder.path())?;
        node.wait_ready().await
    }

    /// What has ended although nobody ended it.
    pub(crate) fn casualties(&mut self) -> Vec<String> {
        let mut gone = Vec::new();
        if self.balancer.is_gone() {
            gone.push("haproxy".to_owned());
        }
        gone.extend(self.redis.dead().map(|port| format!("redis on port {port}")));
        for node in &mut self.nodes {
            let name = node.name();
            if node.is_gone() {
                gone.push(name);
            }
        }
        gone
    }

    /// Keeps the logs for people: copies them to a folder.
    pub(crate) fn save_logs(&self, to: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
        for entry in fs::read_dir(self.folder.path())? {
            let entry = entry?;
            let (from, name) = (entry.path(), entry.file_name());
            if from.is_file() {
                fs::copy(&from, to.join(name))?;
            } else if from.join("log").is_file() {
                fs::copy(from.join("log"), to.join(name).with_extension("log"))?;
            }
        }
        Ok(())
    }

    async fn wait_balanced(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_WAIT;
        // 503 is its own answer while it knows no healthy node.
        while !http::get(self.target.address.port(), "/client.js", None).await.is_ok_and(|a| a.status == 200)
        {
            ensure!(Instant::now() < deadline, "the balancer finds no node");
            ensure!(!self.balancer.is_gone(), "{}", last_lines(&self.folder.path().join("haproxy.log")));
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

fn log_of(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("node{}.log", index + 1))
}

fn launch(node: &mut Node, plan: &Plan, folder: &Path) -> anyhow::Result<()> {
    node.life += 1;
    let set = |name: &str, value: String| (format!("ROOMCAST_{name}"), value);
    let mut env = vec![
        set("NODE", node.name()),
        set("WORKERS", "2".into()),
        set("LISTEN", format!("127.0.0.1:{}", node.public)),
        set("INTERNAL__LISTEN", format!("127.0.0.1:{}", node.internal)),
        set("REDIS__URL", node.url.clone()),
        set("AUTH__HMAC_KEY", HMAC_KEY.into()),
        set("API__KEY", API_KEY.into()),
        set("TRUSTED_PROXIES", "127.0.0.1/32".into()),
        set("DRAIN__BALANCER_DELAY", "1500ms".into()),
        set("DRAIN__SPREAD", "1500ms".into()),
        set("DRAIN__DEADLINE", "10s".into()),
    ];
    env.extend(plan.settings.iter().cloned());
    let log = log_of(folder, node.index);
    node.process = Some(Process::start(&node.name(), &plan.bin, &["serve"], &env, &log)?);
    Ok(())
}

fn balance(port: u16, nodes: &[Node], folder: &Path) -> anyhow::Result<Process> {
    let file = folder.join("haproxy.cfg");
    fs::write(&file, BALANCER).context("writing the balancer's configuration")?;
    let mut env = vec![
        ("BALANCER_BIND".to_owned(), format!("127.0.0.1:{port}")),
        ("BALANCER_MAXCONN".to_owned(), "6000".to_owned()),
    ];
    for node in nodes {
        let name = format!("BALANCER_NODE{}", node.index + 1);
        env.push((format!("{name}_CHECK_PORT"), node.internal.to_string()));
        env.push((name, format!("127.0.0.1:{}", node.public)));
    }
    let words = ["-db".to_owned(), "-f".to_owned(), file.display().to_string()];
    Process::start("haproxy", &need("haproxy", "haproxy")?, &words, &env, &folder.join("haproxy.log"))
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
