//! The few HTTP requests a run makes of a node's internal listener. No keep-alive, no redirects, no TLS.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// A frozen node answers nobody.
const WAIT: Duration = Duration::from_millis(900);

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        if self.status != 200 {
            bail!("HTTP {}: {}", self.status, self.body);
        }
        serde_json::from_str(&self.body).context("an unreadable answer")
    }
}

/// GET from a port of this machine.
pub(crate) async fn get(port: u16, path: &str, key: Option<&str>) -> anyhow::Result<Answer> {
    timeout(WAIT, exchange(port, path, key)).await.with_context(|| format!("no answer from port {port}"))?
}

async fn exchange(port: u16, path: &str, key: Option<&str>) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{key}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(text: &str) -> anyhow::Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status =
        head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { joined(body).context("broken chunks")? } else { body.to_owned() };
    Ok(Answer { status, body })
}

fn joined(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_and_in_chunks() {
        let plain = parse("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno\n").unwrap();
        assert_eq!(plain, Answer { status: 503, body: "no\n".into() });
        assert!(plain.json::<u64>().is_err());
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n3\r\n,2]\r\n0\r\n\r\n";
        assert_eq!(parse(chunks).unwrap().json::<Vec<u8>>().unwrap(), [1, 2]);
        assert!(parse("").is_err());
    }
}
