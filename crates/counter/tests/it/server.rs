//! A redis-server of the test's own, on a free port of the loopback, ended with the test.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{
        Builder,
        config::{Config, ReconnectPolicy},
    },
};
use tempfile::TempDir;

pub(crate) struct Server {
    child: Child,
    addr: SocketAddr,
    scheme: &'static str,
    _dir: TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with("redis", &[])
    }

    /// A cluster of one node, which owns every slot: enough to refuse a script that reaches across slots.
    pub(crate) fn start_cluster() -> Self {
        let server = Self::start_with(
            "redis-cluster",
            &["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"],
        );
        assert!(server.asks("CLUSTER ADDSLOTSRANGE 0 16383\r\n", "+OK"), "it took its slots");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !server.asks("GET {x}\r\n", "$-1") {
            assert!(Instant::now() < deadline, "the cluster did not come up");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn start_with(scheme: &'static str, more: &[&str]) -> Self {
        // The port is free when asked for; should another take it meanwhile, the next one will do.
        let server = (0..5).find_map(|_| Self::try_start(scheme, more));
        server.expect("redis-server did not start on any of five ports")
    }

    fn try_start(scheme: &'static str, more: &[&str]) -> Option<Self> {
        let dir = TempDir::new().expect("a temporary directory");
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        let child = Command::new("redis-server")
            .args([
                "--port",
                &addr.port().to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--daemonize", "no", "--dir"])
            .arg(dir.path())
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed by this test: apt-get install redis-server");
        let mut server = Self { child, addr, scheme, _dir: dir };
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if server.asks("PING\r\n", "+PONG") {
                return Some(server);
            }
            if server.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }

    #[allow(dead_code, reason = "the benchmark's")]
    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Whether the answer to a command on a new connection begins so.
    fn asks(&self, command: &str, beginning: &str) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1))?;
            stream.write_all(command.as_bytes())?;
            let mut answer = vec![0; beginning.len()];
            stream.read_exact(&mut answer)?;
            Ok::<_, std::io::Error>(answer == beginning.as_bytes())
        };
        ask().unwrap_or(false)
    }

    /// A connected client, patient enough for a busy machine.
    pub(crate) async fn client(&self) -> Client {
        self.client_with(Duration::from_secs(5)).await
    }

    /// A connected client, set up as the node sets up its own.
    pub(crate) async fn client_with(&self, timeout: Duration) -> Client {
        let config = Config::from_url(&format!("{}://{}", self.scheme, self.addr)).expect("a URL");
        let client = Builder::from_config(config)
            .with_performance_config(|performance| {
                performance.default_command_timeout = timeout;
                performance.broadcast_channel_capacity = 65_536;
            })
            .with_connection_config(|connection| connection.max_command_attempts = 1)
            .set_policy(ReconnectPolicy::new_constant(0, 50))
            .build()
            .expect("a client");
        client.init().await.expect("redis-server answers");
        client
    }

    pub(crate) fn stop(&mut self) {
        self.child.kill().expect("redis-server is ours to end");
        self.child.wait().expect("redis-server ended");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
