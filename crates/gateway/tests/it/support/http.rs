//! The HTTP API as a back end or a sender of webhooks calls it.

use std::net::SocketAddr;

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use super::node::API_KEY;

/// One caller.
#[derive(Clone)]
pub struct Caller {
    client: reqwest::Client,
    at: SocketAddr,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub retry_after: Option<String>,
}

impl Caller {
    pub fn new(at: SocketAddr) -> Self {
        Self { client: reqwest::Client::new(), at }
    }

    /// Without a bearer.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.at))
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.bare(Method::GET, path).bearer_auth(API_KEY)).await.expect("answered")
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.try_post(path, body).await.expect("answered")
    }

    /// The same, where the node may be gone.
    pub async fn try_post(&self, path: &str, body: &Value) -> reqwest::Result<Answer> {
        send(self.bare(Method::POST, path).bearer_auth(API_KEY).body(body.to_string())).await
    }
}

pub async fn send(request: RequestBuilder) -> reqwest::Result<Answer> {
    let response: Response = request.send().await?;
    let status = response.status().as_u16();
    let retry_after =
        response.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let text = response.text().await?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Answer { status, body, retry_after })
}
