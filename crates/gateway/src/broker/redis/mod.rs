//! The Redis broker: streams and scripts over one connection, pub/sub over another.
//!
//! fred stays inside this folder. Nothing here repeats a command whose fate is unknown, waits for a connection, or
//! decides what a gap means: a caller hears [`BrokerError::Unavailable`], the reader of the feed [`Feed::Interrupted`].

mod addresses;
mod client;
mod fault;
mod health;
mod keys;
mod log;
mod nodes;
mod presence;
mod probe;
mod reader;
mod scripts;
mod subscriptions;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fred::{
    clients::Client,
    interfaces::{ClientLike, EventInterface},
    types::Value,
};
use roomcast_core::permission::HistoryRules;
use roomcast_counter::ChangeTarget;
use roomcast_protocol::{Data, Position, RoomName};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    BrokerError, Claim, Control, Feed, Health, Members, NodeReport, Page, PresenceState, PresenceUpdate,
    Publication, Published, Range,
    feed::{self, FeedSender},
    payload::{self, Body},
};
use crate::config;
use addresses::Addresses;
use client::{Commands, Purpose};
use fault::Effect;
use health::HealthCell;
use keys::Keys;
use log::Log;
use nodes::Nodes;
use presence::Presence;
use probe::Probe;
use reader::Reader;
use scripts::Scripts;
use subscriptions::{Subscriptions, Task};

/// How long a client may take to say goodbye to the server.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an idempotency key is remembered.
const KEY_TTL: Duration = Duration::from_secs(600);

/// A node's connections to Redis. Clones share them.
#[derive(Debug, Clone)]
pub struct RedisBroker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    keys: Keys,
    commands: Commands,
    log: Log,
    subscriber: Client,
    subscriptions: Subscriptions,
    nodes: Arc<Nodes>,
    presence: Presence,
    addresses: Arc<Addresses>,
    health: Arc<HealthCell>,
    receiver: Mutex<Option<mpsc::Receiver<Feed>>>,
    cancel: CancellationToken,
}

/// The feed's sending end, shared by the tasks; locked for a moment only.
#[derive(Debug, Clone)]
struct SharedFeed(Arc<Mutex<FeedSender>>);

impl SharedFeed {
    fn lock(&self) -> MutexGuard<'_, FeedSender> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RedisBroker {
    /// Connects a node. Tries as often as configured, with growing pauses; wrong credentials and a denied control
    /// channel end it at once. All tasks run on `tasks` until `cancel` is cancelled or [`RedisBroker::shutdown`] is
    /// called; the connections live on the runtime that this is called on.
    pub async fn connect(
        config: &config::Redis,
        node: &str,
        presence: config::Presence,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Result<Self, BrokerError> {
        let (command_client, command_task) = client::open(config, Purpose::Commands).await?;
        let (subscriber, subscriber_task) = client::open(config, Purpose::Subscriptions).await?;
        let cancel = cancel.child_token();
        let keys = Keys::new(&config.prefix);
        let scripts =
            Arc::new(Scripts::new(&ChangeTarget::of(&command_client, &config.prefix, config.changes)));
        let commands = Commands::new(command_client.clone(), config);
        let (sender, receiver) = feed::channel(feed::DEFAULT_FEED_CAPACITY);
        let feed = SharedFeed(Arc::new(Mutex::new(sender)));
        let health = Arc::new(HealthCell::new());
        let probe = Arc::new(Probe::new(Instant::now()));
        let nodes = Arc::new(Nodes::new(
            node,
            presence.lease,
            keys.clone(),
            commands.clone(),
            scripts.clone(),
            feed.clone(),
        ));
        let reader = Reader {
            keys: keys.clone(),
            control: keys.control(),
            own: keys.probe(node),
            feed: feed.clone(),
            health: health.clone(),
            probe: probe.clone(),
            nodes: nodes.clone(),
            warned: None,
        };
        let messages = subscriber.message_rx();
        let own = vec![keys.control(), keys.probe(node)];
        let (mut subscribing, subscriptions) =
            Task::new(subscriber.clone(), keys.clone(), own, feed.clone(), health.clone(), probe.clone());
        if let Err(error) = subscribing.begin().await {
            quit(&command_client).await;
            quit(&subscriber).await;
            return Err(error);
        }

        tasks.spawn(reader.run(messages, cancel.clone()));
        tasks.spawn(subscribing.run(cancel.clone()));
        tasks.spawn(nodes.clone().follow(cancel.clone()));
        // A cluster has many connections: one that is lost says nothing of the others.
        let gated = (!command_client.is_clustered()).then(|| commands.clone());
        for (client, commands, task) in
            [(command_client.clone(), gated, command_task), (subscriber.clone(), None, subscriber_task)]
        {
            tasks.spawn(probe::follow_errors(client, commands, health.clone(), cancel.clone()));
            let cancel = cancel.clone();
            tasks.spawn(async move {
                let _ended_or_cancelled = cancel.run_until_cancelled(task).await;
            });
        }
        let own = keys.probe(node);
        tasks.spawn(probe::send(probe.clone(), commands.clone(), own, health.clone(), cancel.clone()));
        tasks.spawn(probe::watch(
            probe,
            command_client,
            subscriber.clone(),
            feed,
            health.clone(),
            cancel.clone(),
        ));

        let addresses = Arc::new(Addresses::new(
            node,
            presence.lease,
            keys.clone(),
            commands.clone(),
            scripts.clone(),
            nodes.clone(),
        ));
        tasks.spawn(addresses.clone().keep_told(cancel.clone()));
        let presence = Presence::new(
            node,
            presence.lease,
            keys.clone(),
            commands.clone(),
            scripts.clone(),
            nodes.clone(),
        );
        let receiver = Mutex::new(Some(receiver));
        let log = Log { keys: keys.clone(), scripts, commands: commands.clone() };
        Ok(Self(Arc::new(Inner {
            keys,
            commands,
            log,
            subscriber,
            subscriptions,
            nodes,
            presence,
            addresses,
            health,
            receiver,
            cancel,
        })))
    }

    /// The command client, for the counter store.
    pub fn client(&self) -> Client {
        self.0.commands.client().clone()
    }

    /// Ends the tasks and closes the connections. The node's lease and presence stay, unless
    /// [`RedisBroker::goodbye`] was called before.
    pub async fn shutdown(&self) {
        self.0.cancel.cancel();
        quit(self.0.commands.client()).await;
        quit(&self.0.subscriber).await;
    }

    /// See [`super::Broker::publish`].
    pub async fn publish(&self, publication: &Publication) -> Result<Published, BrokerError> {
        self.0.log.publish(publication, KEY_TTL).await
    }

    /// See [`super::Broker::publish_remembered`].
    pub async fn publish_remembered(
        &self,
        publication: &Publication,
        remember: Duration,
    ) -> Result<Published, BrokerError> {
        self.0.log.publish(publication, remember).await
    }

    /// See [`super::Broker::signal`].
    pub async fn signal(
        &self,
        room: &RoomName,
        event: &str,
        data: &Data,
        from: Option<&str>,
    ) -> Result<(), BrokerError> {
        let payload = payload::signal(&body(event, data, from)?);
        self.tell(self.0.keys.channel(room), payload).await
    }

    /// See [`super::Broker::history`].
    pub async fn history(
        &self,
        room: &RoomName,
        range: &Range,
        history: HistoryRules,
    ) -> Result<Page, BrokerError> {
        self.0.log.history(room, range, history).await
    }

    /// See [`super::Broker::tails`].
    pub async fn tails(&self, rooms: &[RoomName]) -> Result<Vec<Option<Position>>, BrokerError> {
        self.0.log.tails(rooms).await
    }

    /// See [`super::Broker::subscribe`].
    pub async fn subscribe(&self, room: &RoomName) -> Result<(), BrokerError> {
        self.0.subscriptions.subscribe(room).await
    }

    /// See [`super::Broker::unsubscribe`].
    pub async fn unsubscribe(&self, room: &RoomName) -> Result<(), BrokerError> {
        self.0.subscriptions.unsubscribe(room).await
    }

    /// See [`super::Broker::take_feed`].
    pub fn take_feed(&self) -> Option<mpsc::Receiver<Feed>> {
        self.0.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// See [`super::Broker::control`].
    pub async fn control(&self, control: &Control) -> Result<(), BrokerError> {
        let payload = reader::control_payload(control).map_err(|error| internal(&error))?;
        self.tell(self.0.keys.control(), payload).await
    }

    /// See [`super::Broker::heartbeat`].
    pub async fn heartbeat(&self, report: &NodeReport) -> Result<Vec<NodeReport>, BrokerError> {
        let live = self.0.nodes.heartbeat(report).await?;
        self.0.addresses.renew();
        // The lease is renewed whatever becomes of this; the shares that were missed are due at the next heartbeat.
        if let Err(error) = self.0.presence.renew().await {
            tracing::warn!(%error, "could not renew this node's presence");
        }
        Ok(live)
    }

    /// See [`super::Broker::goodbye`].
    pub async fn goodbye(&self) -> Result<(), BrokerError> {
        self.0.addresses.leave().await;
        self.0.presence.leave().await?;
        self.0.nodes.goodbye().await
    }

    /// See [`super::Broker::presence_update`].
    pub async fn presence_update(
        &self,
        room: &RoomName,
        update: &PresenceUpdate,
        interval: Duration,
    ) -> Result<PresenceState, BrokerError> {
        self.0.presence.update(room, update, interval).await
    }

    /// See [`super::Broker::presence_members`].
    pub async fn presence_members(
        &self,
        room: &RoomName,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Members, BrokerError> {
        self.0.presence.members(room, cursor, limit).await
    }

    /// See [`super::Broker::hold_address`].
    pub fn hold_address(&self, key: &Arc<str>) -> u64 {
        self.0.addresses.hold(key)
    }

    /// See [`super::Broker::claim_address`].
    pub async fn claim_address(&self, key: &Arc<str>, cap: u64) -> Result<Claim, BrokerError> {
        self.0.addresses.claim(key, cap).await
    }

    /// See [`super::Broker::release_address`].
    pub fn release_address(&self, key: &Arc<str>) {
        self.0.addresses.release(key);
    }

    /// See [`super::Broker::end_room`].
    pub async fn end_room(&self, room: &RoomName, reason: &str) -> Result<Position, BrokerError> {
        self.0.log.end_room(room, reason).await
    }

    /// See [`super::Broker::health`].
    pub fn health(&self) -> Health {
        self.0.health.get()
    }

    async fn tell(&self, channel: String, payload: String) -> Result<(), BrokerError> {
        let words = vec![channel.as_str().into(), payload.into()];
        self.0.commands.send::<Value>("PUBLISH", &channel, words, Effect::Write).await.map(|_| ())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn quit(client: &Client) {
    if let Ok(Err(error)) = timeout(QUIT_TIMEOUT, client.quit()).await {
        tracing::debug!(%error, "a connection to Redis did not end well");
    }
}

fn body(event: &str, data: &Data, from: Option<&str>) -> Result<String, BrokerError> {
    Body::text(event, data, from).map_err(|error| internal(&error))
}

fn internal(error: &serde_json::Error) -> BrokerError {
    BrokerError::Internal(error.to_string().into())
}

fn nonsense(what: &str) -> BrokerError {
    BrokerError::Internal(format!("{what} makes no sense").into())
}
