//! One user of a race: by socket, by the API, or (to show that the judge is awake) by hand, in separate steps.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Context as _, bail};
use roomcast_protocol::{ClientFrame, Codec, ErrorCode, Op};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{arena::Shared, broken::Broken};
use crate::{
    client::{Client, ClientError},
    cluster::HMAC_KEY,
    target::{Identity, Wire},
};

/// Ten thousand at once on a small machine, and nodes that are without Redis half of the time: it may take a while.
const PATIENCE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(60);

/// How a user speaks.
#[derive(Debug)]
pub(super) enum Way {
    /// By a back end, which names the user.
    Api,
    /// By a socket of the user's own.
    Socket(Option<Box<Client>>),
    /// Past the hub: read, decide, write.
    Broken(Box<Broken>),
}

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) current: Value,
}

/// One user.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) name: String,
    /// The last operation was sent more than once.
    pub(super) again: bool,
    arena: Shared,
    way: Way,
    node: usize,
}

enum Once {
    Done(Value),
    Refused(Refusal),
    Again(Duration),
}

impl Person {
    pub(super) fn new(arena: &Shared, name: String, way: Way, node: usize) -> Self {
        Self { name, again: false, arena: arena.clone(), way, node }
    }

    /// Every eighth user has a socket of its own, the others speak through a back end; all of them by hand where the
    /// variant without atomic steps is asked for.
    pub(super) async fn of_crowd(
        arena: &Shared,
        name: String,
        index: usize,
        by_hand: bool,
    ) -> anyhow::Result<Self> {
        let way = if by_hand {
            Way::Broken(Box::new(Broken::new(arena.store().await?)))
        } else if index.is_multiple_of(8) {
            Way::Socket(None)
        } else {
            Way::Api
        };
        Ok(Self::new(arena, name, way, index))
    }

    /// Does what a good client does: sends the same again where nobody knows what became of it, by another node.
    pub(super) async fn ask(&mut self, op: Op) -> anyhow::Result<Result<Value, Refusal>> {
        let deadline = Instant::now() + PATIENCE;
        self.again = false;
        loop {
            let once = match &mut self.way {
                Way::Api => self.by_api(&op).await?,
                Way::Socket(_) => self.by_socket(&op).await?,
                Way::Broken(broken) => match broken.act(&self.name, &op).await? {
                    Ok(done) => Once::Done(done),
                    Err(code) => Once::Refused(Refusal { code: code.to_owned(), current: Value::Null }),
                },
            };
            match once {
                Once::Done(done) => return Ok(Ok(done)),
                Once::Refused(refusal) => return Ok(Err(refusal)),
                Once::Again(wait) => {
                    self.again = true;
                    self.node += 1;
                    self.arena.felt.again.fetch_add(1, Ordering::Relaxed);
                    if Instant::now() > deadline {
                        bail!("{} got no answer to {op:?} within {PATIENCE:?}", self.name);
                    }
                    sleep(wait.min(Duration::from_millis(400))).await;
                }
            }
        }
    }

    async fn by_api(&self, op: &Op) -> anyhow::Result<Once> {
        let frame = Codec::json().payload(&ClientFrame { id: None, op: op.clone() })?;
        let mut body: Value = serde_json::from_slice(&frame)?;
        let name = body["op"].take();
        body["user"] = self.name.clone().into();
        let path = format!("/api/v1/{}", name.as_str().context("an operation without a name")?);
        let node = self.node % self.arena.api.nodes();
        Ok(match self.arena.api.call(node, "POST", &path, Some(&body)).await {
            Ok(answer) if answer.status == 200 => Once::Done(answer.body),
            Ok(answer) if matches!(answer.status, 429 | 500 | 503) => {
                Once::Again(answer.retry.unwrap_or(PAUSE))
            }
            Ok(answer) => Once::Refused(Refusal {
                code: answer.body["code"].as_str().unwrap_or_default().to_owned(),
                current: answer.body["current"].clone(),
            }),
            Err(_) => Once::Again(PAUSE),
        })
    }

    async fn by_socket(&mut self, op: &Op) -> anyhow::Result<Once> {
        let Way::Socket(socket) = &mut self.way else { bail!("{} has no socket", self.name) };
        let client = if let Some(client) = socket {
            client
        } else {
            let nodes = &self.arena.sockets;
            let target = nodes.get(self.node % nodes.len()).context("no nodes")?;
            let who = Identity { token: None, hmac_key: Some(HMAC_KEY.to_owned()) }.member(&self.name)?;
            match Client::connect(target, Wire::Both.codec(self.node), None, who).await {
                Ok((client, _)) => socket.insert(Box::new(client)),
                Err(_) => return Ok(Once::Again(PAUSE)),
            }
        };
        Ok(match client.request(op.clone()).await {
            Ok(data) => Once::Done(data.to()?),
            Err(ClientError::Failed(failure)) => match failure.code {
                ErrorCode::Unavailable | ErrorCode::Internal | ErrorCode::RateLimited => {
                    // The next try is by another node: what is a retry must not depend on where it comes in.
                    *socket = None;
                    Once::Again(failure.retry_ms.map_or(PAUSE, Duration::from_millis))
                }
                code => {
                    let current = failure.current.map_or(Ok(Value::Null), |current| current.to())?;
                    Once::Refused(Refusal { code: code.as_str().to_owned(), current })
                }
            },
            Err(_) => {
                *socket = None;
                Once::Again(PAUSE)
            }
        })
    }
}
