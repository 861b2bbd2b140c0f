//! The internal listener as a back end, an operator or a scraper uses it.

use std::{collections::HashMap, net::SocketAddr};

use serde_json::Value;
use tokio::time::{Duration, Instant, sleep};

use super::{
    client::PATIENCE,
    node::API_KEY,
    raw::{Raw, Reply},
};

/// A caller with a bearer.
#[derive(Debug)]
pub struct Api {
    to: SocketAddr,
    bearer: Option<String>,
    kept: Option<Raw>,
}

impl Api {
    /// With the API key.
    pub fn new(to: SocketAddr) -> Self {
        Self { to, bearer: Some(API_KEY.to_owned()), kept: None }
    }

    pub fn with_bearer(to: SocketAddr, bearer: Option<&str>) -> Self {
        Self { to, bearer: bearer.map(str::to_owned), kept: None }
    }

    /// A request with these header lines besides, and a body where there is one.
    pub async fn send(&mut self, method: &str, path: &str, more: &[&str], body: Option<&[u8]>) -> Reply {
        let mut lines = vec![format!("{method} {path} HTTP/1.1"), "Host: hub.internal".to_owned()];
        lines.extend(self.bearer.as_ref().map(|bearer| format!("Authorization: Bearer {bearer}")));
        lines.extend(more.iter().map(|&line| line.to_owned()));
        if let Some(body) = body {
            lines.push("Content-Type: application/json".to_owned());
            lines.push(format!("Content-Length: {}", body.len()));
        }
        let head = format!("{}\r\n\r\n", lines.join("\r\n"));
        let kept = match self.kept.take() {
            Some(raw) => Self::exchange(raw, &head, body).await,
            None => None,
        };
        let (raw, reply) = if let Some(done) = kept {
            done
        } else {
            // None was kept, or the node ended it because it was idle.
            let raw = Raw::open(self.to).await;
            Self::exchange(raw, &head, body).await.expect("a response before the end")
        };
        if reply.header("connection") != Some("close") {
            self.kept = Some(raw);
        }
        reply
    }

    async fn exchange(mut raw: Raw, head: &str, body: Option<&[u8]>) -> Option<(Raw, Reply)> {
        raw.try_write(head.as_bytes()).await;
        raw.try_write(body.unwrap_or_default()).await;
        let reply = raw.try_reply().await?;
        Some((raw, reply))
    }

    pub async fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[], None).await
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[], Some(body.to_string().as_bytes())).await
    }

    /// The JSON of an answer that must be 200.
    pub async fn ok(&mut self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body).await;
        assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text());
        reply.json()
    }

    /// The JSON of a GET that must be 200.
    pub async fn read(&mut self, path: &str) -> Value {
        let reply = self.get(path).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()
    }
}

/// What a scrape of `/metrics` found.
#[derive(Debug)]
pub struct Metrics(HashMap<String, f64>);

impl Metrics {
    pub async fn scrape(internal: SocketAddr) -> Self {
        let reply = Api::with_bearer(internal, None).get("/metrics").await;
        assert_eq!(reply.status, 200);
        let lines = reply.text().lines().filter(|line| !line.starts_with('#'));
        let split = lines.filter_map(|line| line.rsplit_once(' '));
        Self(split.map(|(key, value)| (key.to_owned(), value.parse().expect("a number"))).collect())
    }

    pub fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("there is no series {series}"))
    }
}

/// Waits until a series stands at least this much above what it was. All nodes of this process share their
/// metrics, so that "at least" is all that can be said.
pub async fn rose_by(internal: SocketAddr, before: &Metrics, series: &str, by: u32) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = Metrics::scrape(internal).await;
        if now.get(series) >= before.get(series) + f64::from(by) {
            return;
        }
        assert!(Instant::now() < deadline, "{series} did not rise by {by} from {}", before.get(series));
        sleep(Duration::from_millis(20)).await;
    }
}

pub fn closes(code: u16) -> String {
    format!("roomcast_closes_total{{code=\"{code}\"}}")
}

pub fn errors(code: &str) -> String {
    format!("roomcast_errors_total{{code=\"{code}\"}}")
}

pub fn admissions(outcome: &str) -> String {
    format!("roomcast_connections_total{{outcome=\"{outcome}\"}}")
}
