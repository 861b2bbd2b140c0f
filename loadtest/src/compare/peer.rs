//! The servers of a comparison: where each program is, how it is started on the servers' core, and what is counted as
//! its own. A Redis of its own stands beside each that uses one, on the clients' core.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use tokio::{net::TcpStream, time::sleep};

use super::{
    cpu::{self, Cores},
    wire::Wire,
};
use crate::{
    cluster::{
        http,
        process::{Process, find, free_port, need},
    },
    system::Memory,
    target::Identity,
};

/// Signs the publishers' tokens; no secret, because each server lives for one run on the loopback.
const HMAC_KEY: &str = "compare-compare-compare-compare-compare";
/// Opens the internal API, as above.
pub(super) const API_KEY: &str = "compare-api-key-of-one-run";
const START_WAIT: Duration = Duration::from_secs(20);
/// The caps that a comparison would otherwise meet. What is counted for them is counted all the same.
const ROOMY: [&str; 8] = [
    // Redis shares its core with the clients; a command that waits for them is late, and not lost.
    "redis.command_timeout=5s",
    "limits.connections_per_ip=1000000",
    "limits.connect_rate_per_ip=1000000",
    "limits.connect_burst_per_ip=1000000",
    "limits.accept_per_second=1000000",
    "limits.frames_per_second=1000000",
    "limits.frames_burst=1000000",
    "limits.counter_ops_per_minute=1000000",
];

/// Who is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// The bare loop: writes ready-made bytes to every socket.
    Limit,
    /// A production node, with Redis.
    Roomcast,
    /// Socket.IO with the Redis adapter.
    Socketio,
    /// Plain `ws` on Node.
    Ws,
    /// socketioxide, one node.
    Socketioxide,
    /// Centrifugo with Redis, history and recovery.
    Centrifugo,
    /// tokio-tungstenite with 4 KiB buffers, for frames that come in.
    Tungstenite,
    /// The same, and each message read as JSON.
    TungsteniteJson,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Roomcast => "roomcast",
            Self::Socketio => "socketio",
            Self::Ws => "ws",
            Self::Socketioxide => "socketioxide",
            Self::Centrifugo => "centrifugo",
            Self::Tungstenite => "tungstenite",
            Self::TungsteniteJson => "tungstenite-json",
        }
    }

    pub(crate) fn wire(self) -> Wire {
        match self {
            Self::Limit | Self::Ws | Self::Tungstenite | Self::TungsteniteJson => Wire::Plain,
            Self::Roomcast => Wire::Roomcast,
            Self::Socketio | Self::Socketioxide => Wire::SocketIo,
            Self::Centrifugo => Wire::Centrifugo,
        }
    }

    /// Whether it delivers events to rooms at all.
    pub(crate) fn has_rooms(self) -> bool {
        !matches!(self, Self::Tungstenite | Self::TungsteniteJson)
    }

    fn uses_redis(self) -> bool {
        matches!(self, Self::Roomcast | Self::Socketio | Self::Centrifugo)
    }

    /// What has to be there for it to run, or what to do where it is not.
    pub(crate) fn program(self, places: &Places) -> anyhow::Result<PathBuf> {
        let built = |file: PathBuf, how: &str| {
            ensure!(file.exists(), "{} is missing: {how}", file.display());
            Ok(file)
        };
        let node = |folder: &str| {
            let folder = places.peers.join(folder);
            ensure!(
                folder.join("node_modules").is_dir(),
                "its packages are missing: npm ci --prefix {}",
                folder.display()
            );
            need("node", "nodejs").map(|_| folder.join("server.mjs"))
        };
        match self {
            Self::Limit | Self::Tungstenite | Self::TungsteniteJson => {
                std::env::current_exe().context("asking for this program's own place")
            }
            Self::Roomcast => built(places.roomcast.clone(), "cargo build --release -p roomcast-gateway"),
            Self::Socketio => node("socketio"),
            Self::Ws => node("ws"),
            Self::Socketioxide => {
                let folder = places.peers.join("socketioxide");
                let file = places.built.join("release/roomcast-peer-socketioxide");
                let how = format!(
                    "CARGO_TARGET_DIR={} cargo build --release --locked --manifest-path {}/Cargo.toml",
                    places.built.display(),
                    folder.display()
                );
                built(file, &how)
            }
            Self::Centrifugo => {
                let file = places.built.join("bin/centrifugo");
                if file.is_file() { Some(file) } else { find("centrifugo") }.context(
                    "no centrifugo on the path: install version 6, or let scripts/compare build it, where Go is",
                )
            }
        }
    }
}

/// Where programs are found.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The node's binary.
    pub(crate) roomcast: PathBuf,
    /// `loadtest/peers`.
    pub(crate) peers: PathBuf,
    /// What was built of it.
    pub(crate) built: PathBuf,
    /// Logs and data of this run.
    pub(crate) run: PathBuf,
    /// Settings of roomcast's besides those that all comparisons have.
    pub(crate) settings: Vec<&'static str>,
}

/// A redis-server on the clients' core.
#[derive(Debug)]
pub(crate) struct Redis {
    process: Process,
    pub(crate) port: u16,
}

impl Redis {
    /// As a hub's Redis is run: append-only, flushed each second.
    pub(crate) async fn start(cores: Cores, run: &Path) -> anyhow::Result<Self> {
        let port = free_port()?;
        let folder = run.join(format!("redis-{port}"));
        std::fs::create_dir_all(&folder).context("a folder for Redis")?;
        let dir = folder.display().to_string();
        let text = port.to_string();
        let program = need("redis-server", "redis-server")?;
        let words =
            ["--port", &text, "--bind", "127.0.0.1", "--dir", &dir, "--save", "", "--appendonly", "yes"];
        let process =
            pinned("redis", cores.client, &program, &words, &[], &run.join(format!("redis-{port}.log")))?;
        listening("redis", port).await?;
        Ok(Self { process, port })
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn cpu(&self) -> anyhow::Result<u64> {
        cpu::time(self.process.pid().context("Redis has ended")?)
    }
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) peer: Peer,
    pub(crate) address: SocketAddr,
    /// Where its HTTP API listens.
    pub(crate) api: Option<SocketAddr>,
    process: Process,
    pub(crate) redis: Option<Redis>,
}

impl Running {
    /// Starts a peer, and a Redis where it uses one.
    pub(crate) async fn start(peer: Peer, places: &Places, cores: Cores) -> anyhow::Result<Self> {
        let redis = if peer.uses_redis() { Some(Redis::start(cores, &places.run).await?) } else { None };
        let url = redis.as_ref().map(Redis::url).unwrap_or_default();
        let mut running = Self::over(peer, places, cores.server, &url).await?;
        running.redis = redis;
        Ok(running)
    }

    /// Starts a peer over a Redis that is somebody else's.
    pub(crate) async fn over(peer: Peer, places: &Places, core: usize, url: &str) -> anyhow::Result<Self> {
        let program = peer.program(places)?;
        let port = free_port()?;
        let env = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let name = peer.name();
        let log = places.run.join(format!("{name}-{port}.log"));
        let text = port.to_string();
        let mut api = None;
        let process = match peer {
            Peer::Limit | Peer::Tungstenite | Peer::TungsteniteJson => {
                let words = ["compare-server", name, "--port", &text];
                pinned(name, core, &program, &words, &[], &log)?
            }
            Peer::Ws | Peer::Socketio => {
                let env = [env("PORT", &text), env("REDIS_URL", url), env("NODE_ENV", "production")];
                pinned(name, core, &need("node", "nodejs")?, &[&program], &env, &log)?
            }
            Peer::Socketioxide => pinned::<&str>(name, core, &program, &[], &[env("PORT", &text)], &log)?,
            Peer::Roomcast => {
                let internal = free_port()?;
                api = Some(internal);
                let env = [
                    env("ROOMCAST_LISTEN", &format!("127.0.0.1:{port}")),
                    env("ROOMCAST_INTERNAL__LISTEN", &format!("127.0.0.1:{internal}")),
                    env("ROOMCAST_WORKERS", "1"),
                    env("ROOMCAST_REDIS__URL", url),
                    env("ROOMCAST_AUTH__HMAC_KEY", HMAC_KEY),
                    env("ROOMCAST_API__KEY", API_KEY),
                    env("ROOMCAST_LOG__LEVEL", "warn"),
                ];
                let mut words = vec!["serve"];
                for setting in ROOMY.iter().chain(&places.settings) {
                    words.extend(["--set", setting]);
                }
                pinned(name, core, &program, &words, &env, &log)?
            }
            Peer::Centrifugo => {
                api = Some(port);
                let config = places.peers.join("centrifugo/config.json");
                let env = [
                    env("CENTRIFUGO_HTTP_SERVER_PORT", &text),
                    env("CENTRIFUGO_HTTP_API_KEY", API_KEY),
                    env("CENTRIFUGO_ENGINE_REDIS_ADDRESS", url),
                ];
                let words = [OsString::from("--config"), config.into_os_string()];
                pinned(name, core, &program, &words, &env, &log)?
            }
        };
        let mut running = Self {
            peer,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            api: api.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            process,
            redis: None,
        };
        let ready = match peer {
            Peer::Roomcast => running.ready().await,
            _ => listening(name, port).await,
        };
        if let Err(error) = ready {
            let gone = if running.process.is_gone() { ", it has ended" } else { "" };
            bail!("{error:#}{gone}; its log ends with\n{}", tail(&log));
        }
        Ok(running)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let port = self.api.context("it has no internal listener")?.port();
        let deadline = Instant::now() + START_WAIT;
        while !http::get(port, "/readyz", None).await.is_ok_and(|answer| answer.status == 200) {
            ensure!(!self.process.is_gone(), "{} has ended", self.peer.name());
            ensure!(Instant::now() < deadline, "{} does not become ready", self.peer.name());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The token of a publisher, where one is needed.
    pub(crate) fn token(&self) -> anyhow::Result<String> {
        if self.peer != Peer::Roomcast {
            return Ok(String::new());
        }
        let identity = Identity { token: None, hmac_key: Some(HMAC_KEY.to_owned()) };
        identity.member("bench")?.token.context("no token was signed")
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.process.pid().with_context(|| format!("{} has ended", self.peer.name()))
    }

    /// CPU time of the server alone, in nanoseconds.
    pub(crate) fn cpu(&self) -> anyhow::Result<u64> {
        cpu::time(self.pid()?)
    }

    /// CPU time of its Redis.
    pub(crate) fn redis_cpu(&self) -> anyhow::Result<u64> {
        self.redis.as_ref().map_or(Ok(0), Redis::cpu)
    }

    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        Memory::of(self.pid()?)
    }
}

/// Starts a program on one core.
fn pinned<A: AsRef<std::ffi::OsStr>>(
    name: &str,
    core: usize,
    program: &Path,
    arguments: &[A],
    env: &[(String, String)],
    log: &Path,
) -> anyhow::Result<Process> {
    let taskset = need("taskset", "util-linux")?;
    let mut words =
        vec![OsString::from("-c"), OsString::from(core.to_string()), program.as_os_str().to_owned()];
    words.extend(arguments.iter().map(|word| word.as_ref().to_owned()));
    Process::start(name, &taskset, &words, env, log)
}

async fn listening(name: &str, port: u16) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_WAIT;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
        ensure!(Instant::now() < deadline, "{name} does not listen");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
