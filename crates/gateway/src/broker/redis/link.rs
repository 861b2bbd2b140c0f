//! One connection to one server, for subscriptions or to a sentinel: a fred client that is thrown away together with it.
//!
//! fred's own reconnecting is not used. It waits where it should not (one task does all, and a full send buffer stops
//! it until TCP gives up), asks a sentinel that may not know yet, and stops a whole cluster for one lost server. So a
//! link is used until it ends or is given up, and its owner opens another. What fred knows of a client is then true of
//! exactly one connection.

use std::time::Duration;

use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::ClientLike,
    types::{Builder, ConnectHandle, CustomCommand, FromValue, RespVersion, Value, config::Server},
};
use tokio::time::timeout;

use super::plan::Plan;

/// Messages between fred's reader and ours: a burst of some seconds. fred's own default of 32 loses half of one.
const MESSAGE_CAPACITY: usize = 65_536;
/// How long one TCP connect may take: a reachable Redis answers in far less.
const TCP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the greeting of a new connection may take, in all.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one whole attempt may take; the parts above end sooner, but fred once hung.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);

/// Between two looks whether it stands.
const READY_LOOK: Duration = Duration::from_millis(20);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Subscriptions,
    Sentinel,
}

/// An open connection. It closes when this is dropped, whatever was under way.
#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    task: ConnectHandle,
}

impl Link {
    pub(super) async fn open(plan: &Plan, server: &Server, purpose: Purpose) -> Result<Self, Error> {
        let client = builder(plan, server, purpose).build()?;
        let mut opening = Opening(Some(client.connect()));
        let Some(task) = opening.0.as_mut() else { return Err(no_task()) };
        let connected = async {
            loop {
                tokio::select! {
                    // fred's task ends where the connection does not come about.
                    ended = &mut *task => return ended.map_err(|_| no_task()).and_then(|ended| ended).and(Err(no_task())),
                    // fred says it once: it may have been said between its look and its listening.
                    ready = timeout(READY_LOOK, client.wait_for_connect()) => {
                        if let Ok(ready) = ready {
                            return ready;
                        }
                    }
                }
            }
        };
        timeout(ATTEMPT_TIMEOUT, connected).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "the connection was not ready in time"))
        })?;
        opening.done().map(|task| Self { client, task }).ok_or_else(no_task)
    }

    /// One command, and its answer.
    pub(super) async fn ask<R: FromValue>(&self, name: &'static str, words: Vec<Value>) -> Result<R, Error> {
        self.client.custom(CustomCommand::new_static(name, None::<u16>, false), words).await
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Waits until the connection is lost, and says why. To be called once; cancel safe.
    pub(super) async fn ended(&mut self) -> String {
        match (&mut self.task).await {
            Ok(Ok(())) => "the connection was closed".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends fred's task unless the connection came about, also where the caller gave up waiting.
struct Opening(Option<ConnectHandle>);

impl Opening {
    fn done(mut self) -> Option<ConnectHandle> {
        self.0.take()
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

fn no_task() -> Error {
    Error::new(ErrorKind::Canceled, "the connection's task has ended")
}

fn builder(plan: &Plan, server: &Server, purpose: Purpose) -> Builder {
    let mut config = match purpose {
        Purpose::Sentinel => plan.sentinel(server),
        Purpose::Subscriptions => plan.data(server),
    };
    config.fail_fast = true;
    // RESP3 where it can be: with RESP2 fred greets with a PING, which Redis refuses while it can't write to its disk.
    config.version = match purpose {
        Purpose::Sentinel => RespVersion::RESP2,
        Purpose::Subscriptions => RespVersion::RESP3,
    };
    let mut builder = Builder::from_config(config);
    builder.with_performance_config(|performance| {
        performance.default_command_timeout = plan.settings.command_timeout;
        if purpose == Purpose::Subscriptions {
            performance.broadcast_channel_capacity = MESSAGE_CAPACITY;
        }
    });
    builder.with_connection_config(|connection| {
        connection.connection_timeout = TCP_TIMEOUT;
        connection.internal_command_timeout = HANDSHAKE_TIMEOUT;
        connection.max_command_attempts = 1;
        connection.max_command_buffer_len = 0;
        connection.disable_cluster_health_check = true;
        // Few commands, each waited for.
        connection.tcp.nodelay = Some(true);
        connection.reconnect_errors = Vec::new();
    });
    builder
}
