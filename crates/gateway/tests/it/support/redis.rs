//! A real redis-server of the test's own, on a free port.

use std::{
    io,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Ended when it goes out of scope.
pub struct RedisServer {
    child: Child,
    pub port: u16,
    durable: bool,
    dir: tempfile::TempDir,
}

impl RedisServer {
    /// A server that keeps nothing.
    pub fn start() -> Self {
        Self::start_with(false)
    }

    /// A server that has everything again after a restart.
    pub fn start_durable() -> Self {
        Self::start_with(true)
    }

    /// A cluster of one server, which owns every slot.
    pub fn start_cluster() -> Self {
        let port = free_port();
        let dir = tempfile::tempdir().expect("a directory for Redis");
        let bus = free_port().to_string();
        let more = ["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1", "--cluster-port", &bus];
        let child = spawn_with(port, false, &dir, &more);
        let server = Self { child, port, durable: false, dir };
        let mut asked = vec!["CLUSTER", "ADDSLOTSRANGE", "0", "16383"];
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = Command::new("redis-cli").args(["-p", &port.to_string()]).args(&asked).output();
            let answer = answer.expect("redis-cli is needed by this test: apt-get install redis-tools");
            let said = String::from_utf8_lossy(&answer.stdout).into_owned();
            if said.contains("cluster_state:ok") {
                return server;
            }
            if said.starts_with("OK") {
                asked = vec!["CLUSTER", "INFO"];
            }
            assert!(Instant::now() < deadline, "the cluster does not come up: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn start_with(durable: bool) -> Self {
        let port = free_port();
        let dir = tempfile::tempdir().expect("a directory for Redis");
        let child = spawn(port, durable, &dir);
        Self { child, port, durable, dir }
    }

    /// Starts it again on the same port, after it was killed.
    pub fn restart(&mut self) {
        self.child = spawn(self.port, self.durable, &self.dir);
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// kill -9.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _gone = self.kill();
    }
}

fn spawn(port: u16, durable: bool, dir: &tempfile::TempDir) -> Child {
    spawn_with(port, durable, dir, &[])
}

fn spawn_with(port: u16, durable: bool, dir: &tempfile::TempDir, more: &[&str]) -> Child {
    let keep = if durable {
        ["--appendonly", "yes", "--appendfsync", "always"]
    } else {
        ["--appendonly", "no", "--save", ""]
    };
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(keep)
        .args(more)
        .arg("--dir")
        .arg(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("redis-server can't be started ({error}): apt-get install redis-server")
        });
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "redis-server does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}
