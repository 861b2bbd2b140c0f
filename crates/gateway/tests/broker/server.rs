//! A real redis-server of the test's own, ended with it.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The process and its port. No data is kept on disk.
pub(crate) struct RedisServer {
    process: Child,
    pub(crate) port: u16,
    args: Vec<String>,
    directory: tempfile::TempDir,
}

impl RedisServer {
    pub(crate) fn start(args: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        // Another process may take the free port first: then try the next.
        for _ in 0..10 {
            let port = free_port();
            let process = spawn(port, &args, &directory);
            let mut server =
                Self { process, port, args: args.clone(), directory: tempfile::tempdir().unwrap() };
            if server.answers() {
                server.directory = directory;
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, empty, on the same port.
    pub(crate) fn restart(&mut self) {
        self.process = spawn(self.port, &self.args, &self.directory);
        assert!(self.answers(), "redis-server does not start again");
    }

    /// The same; it may be loading its data still.
    pub(crate) fn restart_without_waiting(&mut self) {
        self.process = spawn(self.port, &self.args, &self.directory);
    }

    /// Stops it in its tracks, or lets it go on: `STOP` or `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// One command over a connection of its own; the raw answer, as far as it came at once.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        command(self.port, words)
    }

    fn answers(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            // It may not listen yet, and whoever listens there may be another that is about to go.
            if let Ok(answer) = ask(self.port, &["PING"])
                && ["+PONG", "-NOAUTH"].iter().any(|word| answer.starts_with(word))
            {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

/// One command over a connection of its own to whoever listens there; the raw answer, as far as it came at once.
pub(crate) fn command(port: u16, words: &[&str]) -> String {
    ask(port, words).unwrap()
}

fn ask(port: u16, words: &[&str]) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.extend([&format!("${}\r\n", word.len()), *word, "\r\n"]);
    }
    stream.write_all(request.as_bytes())?;
    let mut answer = vec![0; 65_536];
    let read = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(port: u16, args: &[String], directory: &tempfile::TempDir) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(directory.path())
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("redis-server: {error}; install it with: apt-get install redis-server")
        })
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _gone_already = self.process.kill();
        let _gone_already = self.process.wait();
    }
}
