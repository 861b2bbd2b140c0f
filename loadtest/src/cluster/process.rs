//! The processes of a run: each has a log, each is ended by its own pid, none outlives the tool.

use std::{
    ffi::OsStr,
    fs::OpenOptions,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// Below the ports that the kernel gives to outgoing connections; ten thousand above lies the bus of a Redis Cluster.
const FIRST_PORT: u16 = 15_000;
const PORTS: u16 = 7_000;
const BUS: u16 = 10_000;
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A port that nobody listens on now, and that this process gives out once.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    // Two runs side by side start at different places.
    let start = u16::try_from(std::process::id() % 389).unwrap_or_default() * 18;
    for _ in 0..PORTS {
        let turn = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + (start.wrapping_add(turn)) % PORTS;
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port) && free(port + BUS) {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST_PORT} and {}", FIRST_PORT + PORTS)
}

/// A signal, by the name that `kill` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ends it in good order.
    Terminate,
    /// Freezes it.
    Stop,
    /// Lets it go on.
    Continue,
}

impl Signal {
    const fn flag(self) -> &'static str {
        match self {
            Self::Terminate => "-TERM",
            Self::Stop => "-STOP",
            Self::Continue => "-CONT",
        }
    }
}

/// A process of this run. Killed when it goes out of scope, and by the kernel should this tool be killed.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts a program whose output goes to `log`. Nothing of a `ROOMCAST_` environment reaches it but `env`.
    pub(crate) fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: &[A],
        env: &[(String, String)],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        // setpriv becomes the program, so that the pid is the program's.
        let guard = find("setpriv");
        let mut command = match &guard {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("ROOMCAST_")
                || key.to_string_lossy().starts_with("BALANCER_")
            {
                command.env_remove(key);
            }
        }
        let child = command
            .args(arguments)
            .envs(env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stderr(out.try_clone().context("a second handle of the log")?)
            .stdout(out)
            // Ctrl-C is for the tool, which then ends its processes itself.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name} ({})", program.display()))?;
        Ok(Self { child, name: name.to_owned() })
    }

    /// Sends a signal to a process that has not ended. As long as we hold it, its pid is nobody else's.
    pub(crate) async fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(pid) = self.child.id() else { bail!("{} has ended already", self.name) };
        let status = Command::new("kill")
            .args([signal.flag(), &pid.to_string()])
            .status()
            .await
            .context("running kill")?;
        if !status.success() {
            bail!("kill {} {pid} ({}) failed", signal.flag(), self.name);
        }
        Ok(())
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }

    /// Its pid; none where it has ended and that was seen.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        timeout(within, self.child.wait())
            .await
            .with_context(|| format!("{} has not ended within {within:?}", self.name))?
            .with_context(|| format!("waiting for {}", self.name))
    }

    /// Whether it has ended by itself.
    pub(crate) fn is_gone(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

/// Where a program is: on the path, or where Debian keeps servers.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    places.map(|place| place.join(program)).find(|file| file.is_file())
}

/// Like [`find`], with what to do where it is missing.
pub(crate) fn need(program: &str, package: &str) -> anyhow::Result<PathBuf> {
    find(program).with_context(|| format!("{program} is missing: apt-get install {package}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_out_once() {
        let (one, other) = (free_port().unwrap(), free_port().unwrap());
        assert_ne!(one, other);
        assert!((FIRST_PORT..FIRST_PORT + PORTS).contains(&one));
    }

    #[tokio::test]
    async fn a_process_is_frozen_and_killed_by_its_own_pid() {
        let folder = tempfile::tempdir().unwrap();
        let sleep = need("sleep", "coreutils").unwrap();
        let mut process = Process::start("sleep", &sleep, &["60"], &[], &folder.path().join("log")).unwrap();
        assert!(!process.is_gone());
        process.signal(Signal::Stop).await.unwrap();
        process.kill().await.unwrap();
        assert!(process.is_gone());
        assert!(process.signal(Signal::Continue).await.is_err());
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = need("no-such-program", "its-package").unwrap_err().to_string();
        assert!(error.contains("apt-get install its-package"), "{error}");
    }
}
