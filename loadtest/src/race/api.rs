//! The nodes' HTTP API as a back end uses it: connections kept alive, one request at a time on each, and no patience
//! of its own: whether to ask again is the caller's to say.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use crate::cluster::API_KEY;

/// A node answers within its command timeout of 500 ms, or it is gone.
const WAIT: Duration = Duration::from_secs(5);
/// A node hangs up on who says nothing for 5 s.
const KEPT: Duration = Duration::from_secs(2);
/// Requests under way at once: a back end's pool, and below the 1,024 callers that a node takes.
const AT_ONCE: usize = 400;

/// What a node answered.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
    /// `Retry-After`, as `retry_ms` says it more exactly.
    pub(super) retry: Option<Duration>,
}

#[derive(Debug, Default)]
struct Gateway {
    port: u16,
    idle: Mutex<Vec<(Instant, BufReader<TcpStream>)>>,
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Api {
    gateways: Vec<Gateway>,
    turn: Semaphore,
}

impl Api {
    pub(super) fn new(ports: impl Iterator<Item = u16>) -> Self {
        let gateways = ports.map(|port| Gateway { port, idle: Mutex::default() }).collect();
        Self { gateways, turn: Semaphore::new(AT_ONCE) }
    }

    pub(super) fn nodes(&self) -> usize {
        self.gateways.len()
    }

    /// One request, sent once. An error leaves open whether it was carried out.
    pub(super) async fn call(
        &self,
        node: usize,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> io::Result<Answer> {
        let _turn = self.turn.acquire().await.map_err(io::Error::other)?;
        let gateway = self.gateways.get(node).ok_or_else(|| io::Error::other("no such node"))?;
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        timeout(WAIT, exchange(gateway, method, path, body)).await.map_err(late)?
    }
}

async fn exchange(gateway: &Gateway, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
    let idle = || gateway.idle.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = idle().pop().filter(|(used, _)| used.elapsed() < KEPT);
    let mut stream = if let Some((_, stream)) = kept {
        stream
    } else {
        let stream = TcpStream::connect(("127.0.0.1", gateway.port)).await?;
        stream.set_nodelay(true)?;
        BufReader::new(stream)
    };
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        gateway.port,
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let (answer, keeps) = read(&mut stream).await?;
    if keeps {
        idle().push((Instant::now(), stream));
    }
    Ok(answer)
}

async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<(Answer, bool)> {
    let bad = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let (mut status, mut length, mut keeps, mut after) = (None, None, true, None);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else {
            status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse::<usize>().ok(),
            "connection" => keeps = !value.trim().eq_ignore_ascii_case("close"),
            "retry-after" => after = value.trim().parse().ok().map(Duration::from_secs),
            _ => {}
        }
    }
    let mut bytes = vec![0; length.ok_or_else(|| bad("an answer without a length"))?];
    stream.read_exact(&mut bytes).await?;
    let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let retry = body["retry_ms"].as_u64().map(Duration::from_millis).or(after);
    Ok((Answer { status: status.ok_or_else(|| bad("no status"))?, body, retry }, keeps))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_used_again_and_a_lost_answer_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            for answer in ["HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}", ""] {
                let (mut line, mut length) = (String::new(), 0);
                while line != "\r\n" {
                    if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                        length = text.trim().parse().unwrap();
                    }
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                }
                stream.read_exact(&mut vec![0; length]).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let api = Api::new([port].into_iter());
        let ask = async {
            let first = api.call(0, "POST", "/x", Some(&json!({ "b": 2 }))).await.unwrap();
            assert_eq!((first.status, &first.body), (200, &json!({ "a": 1 })));
            api.call(0, "GET", "/x", None).await
        };
        let (second, ()) = tokio::join!(ask, serve);
        assert!(second.is_err());
    }
}
