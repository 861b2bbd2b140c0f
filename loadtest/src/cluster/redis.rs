//! The Redis of a run: one server, a Sentinel setup, or a Cluster, each a real redis-server with its own data.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    process::Command,
    time::{Instant, sleep, timeout},
};

use super::process::{Process, Signal, free_port, need};

/// How long a server may take to come up.
const START_WAIT: Duration = Duration::from_secs(15);
/// Sentinel's name of the group.
const GROUP: &str = "main";
/// How long a sentinel bears silence.
const DOWN_AFTER_MS: u32 = 500;
/// The same for the masters of a Cluster.
const NODE_TIMEOUT_MS: u32 = 1_500;

/// One redis-server.
#[derive(Debug)]
pub(crate) struct Server {
    process: Option<Process>,
    pub(crate) port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
}

impl Server {
    async fn start(folder: &Path, name: &str, more: &[&str]) -> anyhow::Result<Self> {
        let port = free_port()?;
        let folder = folder.join(format!("{name}-{port}"));
        fs::create_dir_all(&folder).context("a folder for Redis")?;
        let text = port.to_string();
        let dir = folder.display().to_string();
        // What was answered is on disk: a crash of Redis alone loses nothing, so that any loss is roomcast's.
        let fixed =
            ["--port", &text, "--bind", "127.0.0.1", "--dir", &dir, "--save", "", "--appendonly", "yes"];
        let arguments = fixed.iter().chain(more).map(|&word| word.to_owned()).collect();
        let mut server = Self { process: None, port, folder, arguments };
        server.run().await?;
        Ok(server)
    }

    async fn sentinel(folder: &Path, master: u16, quorum: u32) -> anyhow::Result<Self> {
        let port = free_port()?;
        let folder = folder.join(format!("sentinel-{port}"));
        fs::create_dir_all(&folder).context("a folder for a sentinel")?;
        let file = folder.join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {GROUP} 127.0.0.1 {master} {quorum}\n\
             sentinel down-after-milliseconds {GROUP} {DOWN_AFTER_MS}\nsentinel failover-timeout {GROUP} 6000\n",
            folder.display()
        );
        fs::write(&file, text).context("a sentinel's configuration")?;
        let arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
        let mut server = Self { process: None, port, folder, arguments };
        server.run().await?;
        Ok(server)
    }

    /// Starts it, with the data that it had, and waits until it answers.
    pub(crate) async fn run(&mut self) -> anyhow::Result<()> {
        let program = need("redis-server", "redis-server")?;
        let log = self.folder.join("log");
        self.process = Some(Process::start(
            &format!("redis-server {}", self.port),
            &program,
            &self.arguments,
            &[],
            &log,
        )?);
        let deadline = Instant::now() + START_WAIT;
        while self.cli(&["PING"]).await.ok().as_deref() != Some("PONG") {
            ensure!(Instant::now() < deadline, "redis-server on port {} does not answer", self.port);
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// kill -9.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill().await,
            None => bail!("the Redis on port {} was not running", self.port),
        }
    }

    /// Removes what it kept on disk.
    pub(crate) fn wipe(&self) -> anyhow::Result<()> {
        let kept = self.folder.join("appendonlydir");
        if kept.exists() {
            fs::remove_dir_all(kept).context("removing the append-only files")?;
        }
        Ok(())
    }

    pub(crate) async fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.as_ref().context("this Redis does not run")?.signal(signal).await
    }

    /// One command by redis-cli.
    pub(crate) async fn cli(&self, words: &[&str]) -> anyhow::Result<String> {
        cli(self.port, words).await
    }

    /// A command that must not fail.
    pub(crate) async fn must(&self, words: &[&str]) -> anyhow::Result<String> {
        let answer = self.cli(words).await?;
        let failed =
            ["ERR", "NOAUTH", "NOGOODSLAVE", "INPROG", "(error)"].iter().any(|bad| answer.starts_with(bad));
        ensure!(!failed, "{}: {answer}", words.join(" "));
        Ok(answer)
    }

    fn is_gone(&mut self) -> bool {
        self.process.as_mut().is_none_or(Process::is_gone)
    }
}

async fn cli(port: u16, words: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(need("redis-cli", "redis-tools")?)
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(words)
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(10), output).await.context("redis-cli does not end")??;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        bail!("redis-cli {}: {text} {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(text)
}

/// Which form Redis takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One server, reached through a proxy of each node.
    Standalone,
    /// A master, two replicas, three sentinels.
    Sentinel,
    /// Three masters, each with a replica.
    Cluster,
}

/// The servers of a run.
#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) form: Form,
    pub(crate) servers: Vec<Server>,
    pub(crate) sentinels: Vec<Server>,
}

impl Redis {
    pub(crate) async fn start(form: Form, folder: &Path) -> anyhow::Result<Self> {
        match form {
            Form::Standalone => {
                let server = Server::start(folder, "redis", &["--appendfsync", "always"]).await?;
                Ok(Self { form, servers: vec![server], sentinels: Vec::new() })
            }
            Form::Sentinel => Self::start_sentinel(folder).await,
            Form::Cluster => Self::start_cluster(folder).await,
        }
    }

    async fn start_sentinel(folder: &Path) -> anyhow::Result<Self> {
        let master = Server::start(folder, "redis", &["--repl-diskless-sync-delay", "0"]).await?;
        let port = master.port.to_string();
        let mut servers = vec![master];
        for _ in 0..2 {
            let replica = ["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"];
            servers.push(Server::start(folder, "redis", &replica).await?);
        }
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Server::sentinel(folder, servers[0].port, 2).await?);
        }
        let redis = Self { form: Form::Sentinel, servers, sentinels };
        // A sentinel that does not know the others and the replicas yet can't fail over.
        let deadline = Instant::now() + START_WAIT;
        loop {
            let mut known = true;
            for sentinel in &redis.sentinels {
                let info = sentinel.must(&["INFO", "sentinel"]).await?;
                known &= info.contains("slaves=2,sentinels=3") && info.contains("status=ok");
            }
            for replica in &redis.servers[1..] {
                known &= replica.must(&["INFO", "replication"]).await?.contains("master_link_status:up");
            }
            if known {
                return Ok(redis);
            }
            ensure!(Instant::now() < deadline, "the sentinels do not find each other");
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn start_cluster(folder: &Path) -> anyhow::Result<Self> {
        let timeout = NODE_TIMEOUT_MS.to_string();
        let mut servers = Vec::new();
        for _ in 0..6 {
            let options = [
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                &timeout,
                "--cluster-require-full-coverage",
                "no",
                "--repl-diskless-sync-delay",
                "0",
            ];
            servers.push(Server::start(folder, "redis", &options).await?);
        }
        let addresses: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        let mut words = vec!["--cluster", "create"];
        words.extend(addresses.iter().map(String::as_str));
        words.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        cli(servers[0].port, &words).await.context("making a Redis Cluster")?;
        let deadline = Instant::now() + START_WAIT;
        loop {
            let mut ready = true;
            for server in &servers {
                ready &= server.must(&["CLUSTER", "INFO"]).await?.contains("cluster_state:ok");
                let replication = server.must(&["INFO", "replication"]).await?;
                ready &= replication.contains("master_link_status:up")
                    || replication.contains("connected_slaves:1");
            }
            if ready {
                return Ok(Self { form: Form::Cluster, servers, sentinels: Vec::new() });
            }
            ensure!(Instant::now() < deadline, "the Redis Cluster does not come up");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// What `redis.url` is; `port` is that of the node's proxy, which only the standalone form has.
    pub(crate) fn url(&self, port: Option<u16>) -> String {
        let list = |scheme: &str, of: &[Server], query: &str| {
            let nodes: Vec<_> =
                of.iter().skip(1).map(|server| format!("node=127.0.0.1:{}", server.port)).collect();
            let first = of.first().map_or(0, |server| server.port);
            format!("{scheme}://127.0.0.1:{first}?{}{query}", nodes.join("&"))
        };
        match self.form {
            Form::Standalone => {
                format!(
                    "redis://127.0.0.1:{}",
                    port.unwrap_or_else(|| self.servers.first().map_or(0, |s| s.port))
                )
            }
            Form::Sentinel => {
                list("redis-sentinel", &self.sentinels, &format!("&sentinelServiceName={GROUP}"))
            }
            Form::Cluster => list("redis-cluster", &self.servers, ""),
        }
    }

    /// The only server of the standalone form, the first else.
    pub(crate) fn first(&mut self) -> anyhow::Result<&mut Server> {
        self.servers.first_mut().context("a Redis without servers")
    }

    /// The index of the master: Sentinel's one, or the Cluster's that holds a room's keys.
    pub(crate) async fn master(&self, room: &str) -> anyhow::Result<usize> {
        let port = match self.form {
            Form::Standalone => return Ok(0),
            Form::Sentinel => {
                let sentinel = self.sentinels.first().context("no sentinels")?;
                let answer = sentinel.must(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", GROUP]).await?;
                answer.lines().nth(1).context("the sentinel knows no master")?.parse::<u16>()?
            }
            Form::Cluster => {
                let asked = self.servers.first().context("no servers")?;
                let slot: u16 = asked.must(&["CLUSTER", "KEYSLOT", room]).await?.parse()?;
                let nodes = asked.must(&["CLUSTER", "NODES"]).await?;
                owner(&nodes, slot).with_context(|| format!("nobody owns slot {slot}"))?
            }
        };
        let at = self.servers.iter().position(|server| server.port == port);
        at.with_context(|| format!("port {port} is none of our servers"))
    }

    /// Tells Sentinel to fail over, and waits until another master stands.
    pub(crate) async fn fail_over(&self) -> anyhow::Result<()> {
        let old = self.master("").await?;
        let sentinel = self.sentinels.first().context("no sentinels")?;
        sentinel.must(&["SENTINEL", "FAILOVER", GROUP]).await?;
        self.wait_for_another(old, "").await
    }

    /// Waits until somebody else than `old` is the master of the room.
    pub(crate) async fn wait_for_another(&self, old: usize, room: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_WAIT;
        loop {
            if self.master_seen_by_others(old, room).await.is_ok_and(|now| now != old) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no other server became master");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn master_seen_by_others(&self, old: usize, room: &str) -> anyhow::Result<usize> {
        if self.form != Form::Cluster {
            return self.master(room).await;
        }
        let asked = self.servers.iter().enumerate().find(|(at, _)| *at != old).context("no other server")?.1;
        let slot: u16 = asked.must(&["CLUSTER", "KEYSLOT", room]).await?.parse()?;
        let port = owner(&asked.must(&["CLUSTER", "NODES"]).await?, slot).context("no owner")?;
        self.servers.iter().position(|server| server.port == port).context("none of ours")
    }

    /// The first server that should run and does not.
    pub(crate) fn dead(&mut self) -> Option<u16> {
        self.servers
            .iter_mut()
            .chain(&mut self.sentinels)
            .find_map(|server| server.is_gone().then_some(server.port))
    }
}

/// The port of the live master that owns a slot, from `CLUSTER NODES`.
fn owner(nodes: &str, slot: u16) -> Option<u16> {
    nodes.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let flags = words.get(2)?;
        if !flags.contains("master") || flags.contains("fail") {
            return None;
        }
        let owns = words.get(8..)?.iter().any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
        });
        let address = words.get(1)?.split('@').next()?;
        owns.then(|| address.rsplit(':').next()?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_slot_is_a_master_that_lives() {
        let nodes = "aa 127.0.0.1:7001@17001 myself,master - 0 1 1 connected 0-5460 9000\n\
                     bb 127.0.0.1:7002@17002 slave aa 0 1 1 connected\n\
                     cc 127.0.0.1:7003@17003,host master,fail - 0 1 2 connected 5461-8999\n";
        assert_eq!(owner(nodes, 5_460), Some(7_001));
        assert_eq!(owner(nodes, 9_000), Some(7_001));
        assert_eq!(owner(nodes, 6_000), None);
    }

    #[tokio::test]
    async fn a_killed_redis_comes_back_with_its_data_or_without() {
        let folder = tempfile::tempdir().unwrap();
        let mut redis = Redis::start(Form::Standalone, folder.path()).await.unwrap();
        let server = redis.first().unwrap();
        server.must(&["SET", "a", "1"]).await.unwrap();
        server.kill().await.unwrap();
        server.run().await.unwrap();
        assert_eq!(server.must(&["GET", "a"]).await.unwrap(), "1");
        server.kill().await.unwrap();
        server.wipe().unwrap();
        server.run().await.unwrap();
        assert_eq!(server.must(&["GET", "a"]).await.unwrap(), "");
        assert!(server.must(&["NOSUCH"]).await.is_err());
        assert_eq!(redis.dead(), None);
    }
}
