//! The Redis broker: streams and scripts over one connection to each server, pub/sub over another.
//!
//! One server, a master that sentinels name, or a cluster are the same thing here: a [`lookout`] says which server owns
//! which slots, each of these is a [`shard`], and [`routes`] lead to it. The connections are our own: one for commands
//! ([`multiplexed`]), one for subscriptions ([`hearing`]); fred stays inside this folder, for values, errors and addresses.
//! Nothing here repeats a command whose fate is unknown, waits for a connection, or decides what a gap means: a caller
//! hears [`BrokerError::Unavailable`], the reader of the feed [`Feed::Interrupted`].

mod addresses;
mod channels;
mod cluster;
mod commands;
mod dial;
mod fault;
mod health;
mod hearing;
mod keys;
mod log;
mod lookout;
mod multiplexed;
mod nodes;
mod plan;
mod presence;
mod probe;
mod queue;
mod reader;
mod resp;
mod routes;
mod scripts;
mod sentinels;
mod shard;
mod shares;
mod snapshot;
mod subscriptions;
mod verify;
mod witness;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fred::{
    types::{Value, config::Server},
    util::redis_keyslot,
};
use roomcast_core::permission::HistoryRules;
use roomcast_counter::{ChangeTarget, PublishMode, Route, Routed};
use roomcast_protocol::{Data, Position, RoomName};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    BrokerError, Claim, Control, Feed, Health, Members, NodeReport, Owner, Page, PresenceState,
    PresenceUpdate, Publication, Published, Range, Want,
    feed::{self, FeedSender},
    payload::{self, Body},
};
use crate::{config, random};
use addresses::Addresses;
use channels::Channels;
use commands::Commands;
use dial::dial;
use fault::Effect;
use health::HealthCell;
use keys::Keys;
use log::Log;
use lookout::Lookout;
use nodes::Nodes;
use plan::Plan;
use presence::Presence;
use routes::Routes;
use scripts::Scripts;
use shard::Context;
use subscriptions::Task;
use witness::Witnesses;

/// Between attempts at the start, doubling up to the second.
const START_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long a start waits for the other servers of a cluster.
const FELLOWS_PATIENCE: Duration = Duration::from_secs(3);

/// How long an idempotency key is remembered.
const KEY_TTL: Duration = Duration::from_secs(600);

/// A node's connections to Redis. Clones share them.
#[derive(Debug, Clone)]
pub struct RedisBroker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    context: Arc<Context>,
    commands: Commands,
    channels: Arc<Channels>,
    log: Log,
    presence: Presence,
    addresses: Arc<Addresses>,
    receiver: Mutex<Option<mpsc::Receiver<Feed>>>,
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
        let plan = Plan::new(config)?;
        let mode = if plan.is_cluster() { PublishMode::Sharded } else { PublishMode::Plain };
        let keys = Keys::new(&config.prefix);
        let routes = Arc::new(Routes::new());
        let commands = Commands::new(routes.clone(), mode, config);
        let servers = Routed::from(Arc::new(commands.clone()) as Arc<dyn Route>);
        let changes = ChangeTarget::of(&servers, &config.prefix, config.changes);
        let scripts = Arc::new(Scripts::new(mode, &changes));
        let (sender, receiver) = feed::channel(feed::DEFAULT_FEED_CAPACITY);
        let feed = SharedFeed(Arc::new(Mutex::new(sender)));
        let witnesses = Arc::new(Witnesses::new(Instant::now()));
        let nodes = Arc::new(Nodes::new(
            node,
            presence.lease,
            keys.clone(),
            commands.clone(),
            scripts.clone(),
            feed.clone(),
        ));
        let context = Arc::new(Context {
            plan,
            mode,
            node: node.to_owned(),
            keys: keys.clone(),
            scripts: scripts.clone(),
            routes: routes.clone(),
            witnesses: witnesses.clone(),
            health: Arc::new(HealthCell::new()),
            feed,
            nodes: nodes.clone(),
            tasks: tasks.clone(),
            cancel: cancel.child_token(),
        });
        let channels = Arc::new(Channels::new(routes, [keys.control()]));
        let lookout = match begin(&context, &channels).await {
            Ok(lookout) => lookout,
            Err(error) => {
                context.cancel.cancel();
                return Err(error);
            }
        };
        let stop = context.cancel.clone();
        let (follow, news) = (lookout.follow(context.clone(), channels.clone()), nodes.clone());
        tasks.spawn(async move {
            let _ended_or_cancelled = stop.run_until_cancelled(follow).await;
        });
        tasks.spawn(news.follow(context.cancel.clone()));

        let log = Log {
            keys: keys.clone(),
            scripts: scripts.clone(),
            commands: commands.clone(),
            witnesses,
            changes,
        };
        let addresses = Arc::new(Addresses::new(
            node,
            presence.lease,
            keys.clone(),
            commands.clone(),
            scripts.clone(),
            nodes.clone(),
        ));
        tasks.spawn(addresses.clone().keep_told(context.cancel.clone()));
        let presence = Presence::new(node, presence.lease, keys, commands.clone(), scripts, nodes);
        let receiver = Mutex::new(Some(receiver));
        Ok(Self(Arc::new(Inner { context, commands, channels, log, presence, addresses, receiver })))
    }

    /// The way to the servers, for the counter store and whatever else is in Redis.
    pub fn servers(&self) -> Routed {
        Routed::from(Arc::new(self.0.commands.clone()) as Arc<dyn Route>)
    }

    /// Where the changes go, for the counter store and for whoever reads them.
    pub fn changes(&self) -> ChangeTarget {
        self.0.log.changes.clone()
    }

    /// Which channels the nodes subscribe to, for the counter store.
    pub fn publish_mode(&self) -> PublishMode {
        self.0.context.mode
    }

    /// Ends the tasks and closes the connections. The node's lease and presence stay, unless
    /// [`RedisBroker::goodbye`] was called before.
    #[allow(clippy::unused_async)] // The contract of every broker; this one's connections close by themselves.
    pub async fn shutdown(&self) {
        for shard in self.0.context.routes.shards() {
            shard.end();
        }
        self.0.context.cancel.cancel();
    }

    /// See [`super::Broker::publish`].
    pub async fn publish(&self, publication: &Publication) -> Result<Published, BrokerError> {
        self.0.log.publish(publication, KEY_TTL).await
    }

    /// See [`super::Broker::publish_all`].
    pub async fn publish_all(
        &self,
        publications: &[Publication],
    ) -> Result<Vec<Result<Published, BrokerError>>, BrokerError> {
        self.0.log.publish_all(publications, KEY_TTL).await
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
        self.tell(self.0.context.keys.channel(room), payload).await
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
        self.0.channels.subscribe(self.0.context.keys.channel(room)).await
    }

    /// See [`super::Broker::unsubscribe`].
    pub async fn unsubscribe(&self, room: &RoomName) -> Result<(), BrokerError> {
        self.0.channels.unsubscribe(self.0.context.keys.channel(room)).await
    }

    /// The slot of a room's keys and channel.
    pub(super) fn slot(&self, room: &RoomName) -> u16 {
        self.0.context.keys.slot(room)
    }

    /// See [`super::Broker::take_feed`].
    pub fn take_feed(&self) -> Option<mpsc::Receiver<Feed>> {
        self.0.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// See [`super::Broker::control`].
    pub async fn control(&self, control: &Control) -> Result<(), BrokerError> {
        self.0.context.nodes.order(control).await
    }

    /// See [`super::Broker::heartbeat`].
    pub async fn heartbeat(&self, report: &NodeReport) -> Result<Vec<NodeReport>, BrokerError> {
        let live = self.0.context.nodes.heartbeat(report).await?;
        self.0.addresses.renew();
        // The lease is renewed whatever becomes of this; the shares that were missed are due at the next heartbeat.
        if let Err(error) = self.0.presence.renew().await {
            tracing::warn!(%error, "could not renew this node's presence");
        }
        Ok(live)
    }

    /// See [`super::Broker::figures`].
    pub async fn figures(&self, report: &NodeReport, want: Want) -> Result<Vec<NodeReport>, BrokerError> {
        self.0.context.nodes.figures(report, want).await
    }

    /// See [`super::Broker::goodbye`].
    pub async fn goodbye(&self) -> Result<(), BrokerError> {
        self.0.addresses.leave().await;
        self.0.presence.leave().await?;
        self.0.context.nodes.goodbye().await
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
        self.0.context.health.get()
    }

    /// See [`super::Broker::owner`].
    pub fn owner(&self, place: &str) -> Owner {
        let Context { mode, routes, .. } = &*self.0.context;
        match mode {
            PublishMode::Plain => Owner::Only,
            PublishMode::Sharded => {
                let owner = routes.owner(redis_keyslot(place.as_bytes()));
                owner.map_or(Owner::Nobody, |shard| Owner::Server(shard.server.to_string().into()))
            }
        }
    }

    /// See [`super::Broker::health_of`].
    pub fn health_of(&self, server: &str) -> Health {
        self.0.context.health.of(server)
    }

    async fn tell(&self, channel: String, payload: String) -> Result<(), BrokerError> {
        let words = vec![channel.as_str().into(), payload.into()];
        let Inner { commands, .. } = &*self.0;
        commands.send::<Value>(commands.publish_command(), &channel, words, Effect::Write).await.map(|_| ())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.context.cancel.cancel();
    }
}

/// Finds the servers, and connects to the one that the nodes themselves meet on; the others of a cluster may follow.
async fn begin(context: &Arc<Context>, channels: &Channels) -> Result<Lookout, BrokerError> {
    let attempts = context.plan.settings.connect_attempts;
    let (mut backoff, longest) = START_BACKOFF;
    let mut attempt = 1;
    let mut lookout = Lookout::new(&context.plan.form);
    loop {
        let error = match try_begin(context, channels, &mut lookout).await {
            Ok(()) => {
                let all_stand = async {
                    while !context.routes.shards().iter().all(|shard| shard.stands()) {
                        sleep(Duration::from_millis(10)).await;
                    }
                };
                if timeout(FELLOWS_PATIENCE, all_stand).await.is_err() {
                    tracing::warn!("not all servers of the cluster can be reached: starting without them");
                }
                return Ok(lookout);
            }
            Err(error) => error,
        };
        if attempt >= attempts || !matches!(error, BrokerError::Unavailable { .. }) {
            return Err(error);
        }
        tracing::warn!(%error, attempt, attempts, "Redis can't be reached yet");
        sleep(random::jitter(backoff)).await;
        backoff = (backoff * 2).min(longest);
        attempt += 1;
    }
}

async fn try_begin(
    context: &Arc<Context>,
    channels: &Channels,
    lookout: &mut Lookout,
) -> Result<(), BrokerError> {
    let layout = lookout.look(context).await?;
    let home_slot = redis_keyslot(context.keys.control().as_bytes());
    let home = layout.iter().find(|(_, first, last)| (*first..=*last).contains(&home_slot));
    let home: Server = home
        .map(|(server, ..)| server.clone())
        .ok_or_else(|| BrokerError::refused("no server owns the slot of the nodes' own keys"))?;
    let failed = |error| fault::start_error(&error);
    let connection = dial(context, &home).await.map_err(failed)?;
    let (shard, requests) = context.shard(&home);
    let (hearing, asker) = shard::hear(context, &shard).await.map_err(failed)?;
    shard::admit(context, &shard, connection.commands()).await.map_err(failed)?;
    let own = HashSet::from([context.keys.control()]);
    let mut subscribing = Task::new(context.clone(), shard.clone(), requests, own);
    if let Err(error) = subscribing.begin(hearing, asker).await {
        shard.end();
        return Err(failed(error));
    }
    context.health.add(&home, true);
    let home_range = routes::Range { first: 0, last: routes::LAST_SLOT, shard: shard.clone() };
    context.routes.set(vec![home_range]);
    shard::start(context, &shard, Some(connection), subscribing);
    lookout::apply(context, channels, &layout).await;
    Ok(())
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
