//! One server that holds data: a connection for commands, one for subscriptions, and the watch over both.
//!
//! Each connection is opened again when it ends, or when the watchdog gives it up for silence. A server that sentinels
//! or the cluster name no more is left for good.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use fred::{
    error::{Error, ErrorKind},
    types::{Value, config::Server},
};
use futures_util::FutureExt;
use roomcast_counter::PublishMode;
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    SharedFeed,
    dial::{dial, dial_hearing},
    health::HealthCell,
    hearing::{Asker, Hearing},
    keys::Keys,
    multiplexed::{Connection, Multiplexed},
    nodes::Nodes,
    plan::{Form, Plan},
    probe::{self, Probe},
    reader::{Reader, WARN_INTERVAL},
    routes::Routes,
    scripts::Scripts,
    subscriptions::{self, Request},
    verify,
    witness::Witnesses,
};
use crate::{random, rarely::Rarely};

/// Between attempts to open a connection, doubling from the first to the second, and up to half as much again, so that
/// the nodes do not come back in step.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(160));
/// A server that turned out to be a replica is left at most once in this time.
const LEAVE_AGAIN: Duration = Duration::from_secs(1);

/// What all servers of a node share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) plan: Plan,
    pub(super) mode: PublishMode,
    pub(super) node: String,
    pub(super) keys: Keys,
    pub(super) scripts: Arc<Scripts>,
    pub(super) routes: Arc<Routes>,
    pub(super) witnesses: Arc<Witnesses>,
    pub(super) health: Arc<HealthCell>,
    pub(super) feed: SharedFeed,
    pub(super) nodes: Arc<Nodes>,
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
}

impl Context {
    /// A server that nothing is connected to yet.
    pub(super) fn shard(&self, server: &Server) -> (Arc<Shard>, mpsc::Receiver<Request>) {
        let probe_channel = match self.mode {
            PublishMode::Plain => self.keys.probe(&self.node),
            PublishMode::Sharded => self.keys.probe_by(&self.node, server),
        };
        Shard::new(server.clone(), probe_channel, self.cancel.child_token())
    }
}

/// A server and the way to it.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) server: Server,
    /// The channel of the probe by way of this server.
    pub(super) probe_channel: String,
    pub(super) probe: Probe,
    pub(super) requests: mpsc::Sender<Request>,
    commands: RwLock<Option<Multiplexed>>,
    /// Which life of which server the log was last read from.
    identity: Mutex<Option<String>>,
    give_up_commands: Notify,
    give_up_subscriptions: Notify,
    probe_now: Notify,
    left_at: Mutex<Option<Instant>>,
    /// Why there is no connection for commands.
    why_away: Mutex<String>,
    cancel: CancellationToken,
}

impl Shard {
    pub(super) fn new(
        server: Server,
        probe_channel: String,
        cancel: CancellationToken,
    ) -> (Arc<Self>, mpsc::Receiver<Request>) {
        let (requests, requested) = mpsc::channel(subscriptions::QUEUE);
        let shard = Self {
            server,
            probe_channel,
            probe: Probe::new(Instant::now()),
            requests,
            commands: RwLock::default(),
            identity: Mutex::default(),
            give_up_commands: Notify::new(),
            give_up_subscriptions: Notify::new(),
            probe_now: Notify::new(),
            left_at: Mutex::default(),
            why_away: Mutex::new("not connected yet".to_owned()),
            cancel,
        };
        (Arc::new(shard), requested)
    }

    /// The connection for commands, while there is one.
    pub(super) fn commands(&self) -> Option<Multiplexed> {
        self.commands.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether both connections stand.
    pub(super) fn stands(&self) -> bool {
        self.commands().is_some() && self.probe.subscriptions_stand()
    }

    /// The error of a command while there is none.
    pub(super) fn away(&self) -> Error {
        let why = self.why_away.lock().unwrap_or_else(PoisonError::into_inner);
        super::fault::not_sent(format!("no connection to {}: {why}", self.server))
    }

    fn set_away(&self, why: &str) {
        why.clone_into(&mut self.why_away.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn set_commands(&self, commands: Option<Multiplexed>) {
        *self.commands.write().unwrap_or_else(PoisonError::into_inner) = commands;
    }

    /// Connects anew, both ways: this server is not what it was.
    pub(super) fn leave(&self) {
        let now = Instant::now();
        let mut left_at = self.left_at.lock().unwrap_or_else(PoisonError::into_inner);
        if left_at.is_none_or(|then| now - then >= LEAVE_AGAIN) {
            *left_at = Some(now);
            self.give_up_commands.notify_one();
            self.give_up_subscriptions.notify_one();
        }
    }

    /// Gives up the connection for commands.
    pub(super) fn give_up_commands(&self) {
        self.give_up_commands.notify_one();
    }

    /// Gives up the connection for subscriptions.
    pub(super) fn give_up_subscriptions(&self) {
        self.give_up_subscriptions.notify_one();
    }

    /// Waits until somebody does that. What was said before does not count. Cancel safe.
    pub(super) async fn subscriptions_given_up(&self) {
        self.give_up_subscriptions.notified().await;
    }

    /// A connection stands: whether all is well again must not wait for the next probe's turn.
    pub(super) fn probe_now(&self) {
        self.probe_now.notify_one();
    }

    /// Waits until somebody says that. Cancel safe.
    pub(super) async fn probe_wanted(&self) {
        self.probe_now.notified().await;
    }

    pub(super) fn forget_doubts(&self) {
        let _old = self.give_up_subscriptions.notified().now_or_never();
    }

    /// Ends its tasks and connections.
    pub(super) fn end(&self) {
        self.set_commands(None);
        self.cancel.cancel();
    }
}

/// Starts the tasks of a server. `commands` is a connection that stands already, if any does.
pub(super) fn start(
    context: &Arc<Context>,
    shard: &Arc<Shard>,
    commands: Option<Connection>,
    subscribing: subscriptions::Task,
) {
    if let Some(connection) = &commands {
        shard.set_commands(Some(connection.commands().clone()));
    }
    let keep = keep_commands(context.clone(), shard.clone(), commands);
    let send = probe::send(context.clone(), shard.clone());
    let watch = probe::watch(context.clone(), shard.clone());
    let subscribe = subscribing.run();
    run(context, shard, keep);
    run(context, shard, send);
    run(context, shard, watch);
    run(context, shard, subscribe);
}

fn run(context: &Context, shard: &Shard, task: impl Future<Output = ()> + Send + 'static) {
    let cancel = shard.cancel.clone();
    context.tasks.spawn(async move {
        let _ended_or_cancelled = cancel.run_until_cancelled(task).await;
    });
}

/// Opens a connection for subscriptions, whose messages are read from the first on. Cancel safe.
pub(super) async fn hear(context: &Context, shard: &Arc<Shard>) -> Result<(Hearing, Asker), Error> {
    let reader = Reader {
        server: shard.server.clone(),
        keys: context.keys.clone(),
        control: context.keys.control(),
        own: shard.probe_channel.clone(),
        feed: context.feed.clone(),
        health: context.health.clone(),
        shard: shard.clone(),
        nodes: context.nodes.clone(),
        witnesses: context.witnesses.clone(),
        warned: Rarely::once_in(WARN_INTERVAL),
    };
    dial_hearing(context, &shard.server, reader).await
}

/// Opens the connection for subscriptions, however often it takes. Cancel safe.
pub(super) async fn open_subscriptions(context: &Context, shard: &Arc<Shard>) -> (Hearing, Asker) {
    let mut attempts = Attempts::new(context, shard);
    loop {
        match hear(context, shard).await {
            Ok(opened) => return opened,
            Err(error) => attempts.pause(&error.to_string()).await,
        }
    }
}

/// Opens the connection for commands, however often it takes. Cancel safe.
async fn open_commands(context: &Context, shard: &Shard) -> Connection {
    let mut attempts = Attempts::new(context, shard);
    loop {
        match dial(context, &shard.server).await {
            Ok(connection) => return connection,
            Err(error) => {
                let why = error.to_string();
                shard.set_away(&why);
                attempts.pause(&why).await;
            }
        }
    }
}

/// Attempts to connect, and what is done where one failed.
struct Attempts<'a> {
    context: &'a Context,
    shard: &'a Shard,
    backoff: Duration,
}

impl<'a> Attempts<'a> {
    fn new(context: &'a Context, shard: &'a Shard) -> Self {
        Self { context, shard, backoff: BACKOFF.0 }
    }

    async fn pause(&mut self, why: &str) {
        let server = &self.shard.server;
        tracing::debug!(%server, why, "could not connect to Redis");
        self.context.health.down(server, why);
        sleep(random::jitter(self.backoff)).await;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }
}

/// Keeps a connection for commands.
async fn keep_commands(context: Arc<Context>, shard: Arc<Shard>, mut standing: Option<Connection>) {
    let mut missed = false;
    loop {
        let mut connection = match standing.take() {
            Some(connection) => connection,
            None => open_commands(&context, &shard).await,
        };
        let _old = shard.give_up_commands.notified().now_or_never();
        let why = match admit(&context, &shard, connection.commands()).await {
            Ok(()) => {
                shard.probe.commands_opened(Instant::now());
                shard.set_commands(Some(connection.commands().clone()));
                shard.probe_now();
                if std::mem::replace(&mut missed, true) {
                    context.health.reconnected();
                }
                tokio::select! {
                    why = connection.ended() => why,
                    () = shard.give_up_commands.notified() => "it was given up".to_owned(),
                }
            }
            Err(error) => {
                shard.set_away(&error.to_string());
                shard.set_commands(None);
                // The next attempt is not long away; what is wrong may last.
                sleep(random::jitter(BACKOFF.1)).await;
                error.to_string()
            }
        };
        shard.set_away(&why);
        shard.set_commands(None);
        drop(connection);
        context.health.down(&shard.server, &why);
        tracing::warn!(server = %shard.server, why, "the command connection to Redis was lost");
        freeze(&context, &shard);
    }
}

/// The next life of this server may know less than was seen of this one.
pub(super) fn freeze(context: &Context, shard: &Shard) {
    context.witnesses.freeze(|room| context.routes.is_owner(shard, context.keys.slot(room)));
}

/// Looks whether this is the server it should be, and whether it still knows what was seen.
pub(super) async fn admit(context: &Context, shard: &Shard, commands: &Multiplexed) -> Result<(), Error> {
    if matches!(context.plan.form, Form::Sentinels(..)) {
        let role: Value = commands.send("ROLE", &[]).await?;
        if !matches!(&role, Value::Array(words) if words.first().is_some_and(|word| word.as_str().is_some_and(|word| word == "master")))
        {
            context.routes.look_again();
            return Err(Error::new(ErrorKind::Sentinel, "the sentinels' master is a replica"));
        }
    }
    let identity = identity(commands).await?;
    let is_same = {
        let known = shard.identity.lock().unwrap_or_else(PoisonError::into_inner);
        identity.is_some() && *known == identity
    };
    let is_mine = |room: &_| context.routes.is_owner(shard, context.keys.slot(room));
    let witnesses = context.witnesses.take(is_mine);
    if is_same {
        for (room, seen) in witnesses {
            context.witnesses.note_again(&room, seen, Instant::now());
        }
    } else {
        verify::hold_against_logs(context, commands, witnesses).await?;
        *shard.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }
    // Publishes follow one another without waiting, and where the server has to be told the script first, one of them
    // could be told while another passes it. A server that does not let itself be told now is told by them.
    let load = ["LOAD".into(), context.scripts.publish.text()];
    if let Err(error) = commands.send::<Value>("SCRIPT", &load).await {
        tracing::debug!(server = %shard.server, %error, "the script that publishes could not be loaded");
    }
    Ok(())
}

/// What changes when the server starts again or another's log becomes its own; none where the server does not say.
async fn identity(commands: &Multiplexed) -> Result<Option<String>, Error> {
    let mut identity = String::new();
    for (section, field) in [("server", "run_id:"), ("replication", "master_replid:")] {
        let text: String = match commands.send("INFO", &[section.into()]).await {
            Ok(text) => text,
            Err(error) if super::fault::is_denied(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(value) = text.lines().find_map(|line| line.strip_prefix(field)) else { return Ok(None) };
        identity.push_str(value.trim());
    }
    Ok(Some(identity))
}
