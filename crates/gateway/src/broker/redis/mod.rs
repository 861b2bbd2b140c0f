//! The Redis broker: streams and scripts over one connection, pub/sub over another.
//!
//! fred stays inside this folder. Nothing here repeats a command whose fate is unknown, waits for a connection, or
//! decides what a gap means: a caller hears [`BrokerError::Unavailable`], the reader of the feed [`Feed::Interrupted`].

mod client;
mod fault;
mod health;
mod keys;
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
use futures_util::future::join_all;
use roomcast_core::permission::HistoryRules;
use roomcast_protocol::{Data, Offset, Position, RoomName};
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    BrokerError, Control, Feed, Health, MAX_PAGE, Members, NodeReport, Page, PresenceState, PresenceUpdate,
    Publication, Published, Range,
    feed::{self, FeedSender},
    new_epoch,
    payload::{self, Body},
};
use crate::config;
use client::{Commands, Purpose};
use fault::Effect;
use health::HealthCell;
use keys::{Keys, hex};
use nodes::Nodes;
use presence::Presence;
use probe::Probe;
use reader::Reader;
use scripts::Scripts;
use subscriptions::{Subscriptions, Task};

/// A room's position outlives its log by this much, as `log_append` has it.
const POSITION_TTL: Duration = Duration::from_secs(86_400);
/// How long a client may take to say goodbye to the server.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);

/// A node's connections to Redis. Clones share them.
#[derive(Debug, Clone)]
pub struct RedisBroker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    keys: Keys,
    scripts: Arc<Scripts>,
    commands: Commands,
    subscriber: Client,
    subscriptions: Subscriptions,
    nodes: Arc<Nodes>,
    presence: Presence,
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
        let scripts = Arc::new(Scripts::new());
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

        let presence = Presence::new(
            node,
            presence.lease,
            keys.clone(),
            commands.clone(),
            scripts.clone(),
            nodes.clone(),
        );
        let receiver = Mutex::new(Some(receiver));
        Ok(Self(Arc::new(Inner {
            keys,
            scripts,
            commands,
            subscriber,
            subscriptions,
            nodes,
            presence,
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
        let Publication { room, event, data, from, key, history } = publication;
        let Inner { keys, scripts, commands, .. } = &*self.0;
        let body = body(event, data, from.as_deref())?;
        let hash = key.as_ref().map(|_| hex(&Sha256::digest(&body))).unwrap_or_default();
        let mut names = vec![keys.meta(room), keys.log(room), keys.key_index(room)];
        names.extend(key.as_ref().map(|key| keys.key(room, key)));
        let args = vec![
            keys.channel(room).into(),
            new_epoch()?.into(),
            history.size.to_string().into(),
            millis(history.ttl),
            body.into(),
            hash.into(),
        ];
        let answer: Vec<String> = commands.run(&scripts.publish, names, args, Effect::Write).await?;
        match &answer[..] {
            [outcome] if outcome == "key_reused" => Err(BrokerError::KeyReused),
            [outcome, epoch, offset] => {
                Ok(Published { position: position(epoch, offset)?, duplicate: outcome == "duplicate" })
            }
            _ => Err(nonsense("publish")),
        }
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
        let Inner { keys, scripts, commands, .. } = &*self.0;
        let (mode, epoch, offset, limit) = match range {
            Range::Since(since, limit) => {
                ("since", since.epoch.as_str(), since.offset.0, (*limit).clamp(1, MAX_PAGE))
            }
            Range::Recent(limit) => ("recent", "", 0, (*limit).min(MAX_PAGE)),
            Range::Before(offset, limit) => ("before", "", *offset, (*limit).min(MAX_PAGE)),
        };
        let args = vec![
            new_epoch()?.into(),
            millis(history.ttl + POSITION_TTL),
            mode.into(),
            epoch.into(),
            offset.to_string().into(),
            limit.to_string().into(),
        ];
        let names = vec![keys.meta(room), keys.log(room)];
        let answer: Vec<String> = commands.run(&scripts.history, names, args, Effect::Harmless).await?;
        let [epoch, offset, complete, entries @ ..] = &answer[..] else { return Err(nonsense("history")) };
        let mut events = Vec::with_capacity(entries.len() / 3);
        for entry in entries.chunks(3) {
            let [id, body, at] = entry else { return Err(nonsense("history")) };
            let read = || {
                let offset = payload::number(id.strip_suffix("-0")).ok()?;
                Some(Body::parse(body).ok()?.at(Offset(offset), payload::number(Some(at)).ok()?))
            };
            events.push(read().ok_or_else(|| nonsense("history"))?);
        }
        if mode != "since" {
            events.reverse();
        }
        Ok(Page { tail: position(epoch, offset)?, events, complete: complete == "1" })
    }

    /// See [`super::Broker::tails`].
    pub async fn tails(&self, rooms: &[RoomName]) -> Result<Vec<Option<Position>>, BrokerError> {
        let Inner { keys, commands, .. } = &*self.0;
        let keep = POSITION_TTL.as_millis().to_string();
        let mut tails = Vec::with_capacity(rooms.len());
        for rooms in rooms.chunks((commands.most_at_once() / 2).max(1)) {
            let looks = rooms.iter().map(|room| {
                let meta = keys.meta(room);
                let keep = keep.clone();
                async move {
                    let look = vec![meta.as_str().into(), "epoch".into(), "offset".into()];
                    let look = commands.send::<Vec<Option<String>>>("HMGET", &meta, look, Effect::Harmless);
                    // GT: never shortens what a longer history asked for.
                    let renew = vec![meta.as_str().into(), keep.into(), "GT".into()];
                    let renew = commands.send::<Value>("PEXPIRE", &meta, renew, Effect::Harmless);
                    let (look, renewed) = futures_util::future::join(look, renew).await;
                    if let Err(error) = renewed {
                        tracing::debug!(%error, "could not keep a room's position from expiring");
                    }
                    match &look?[..] {
                        [Some(epoch), Some(offset)] => position(epoch, offset).map(Some),
                        [Some(epoch), None] => position(epoch, "0").map(Some),
                        _ => Ok(None),
                    }
                }
            });
            for tail in join_all(looks).await {
                tails.push(tail?);
            }
        }
        Ok(tails)
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
        // The lease is renewed whatever becomes of this; the shares that were missed are due at the next heartbeat.
        if let Err(error) = self.0.presence.renew().await {
            tracing::warn!(%error, "could not renew this node's presence");
        }
        Ok(live)
    }

    /// See [`super::Broker::goodbye`].
    pub async fn goodbye(&self) -> Result<(), BrokerError> {
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

    /// See [`super::Broker::end_room`].
    pub async fn end_room(&self, room: &RoomName, reason: &str) -> Result<Position, BrokerError> {
        let Inner { keys, scripts, commands, .. } = &*self.0;
        loop {
            let index = vec![keys.key_index(room)];
            let left: u64 = commands.run(&scripts.forget_keys, index, Vec::new(), Effect::Harmless).await?;
            if left == 0 {
                break;
            }
        }
        let names = vec![keys.meta(room), keys.log(room), keys.presence(room), keys.presence_pushed(room)];
        let args = vec![
            keys.channel(room).into(),
            new_epoch()?.into(),
            millis(POSITION_TTL),
            payload::ended_body(reason).map_err(|error| internal(&error))?.into(),
            keys.presence(room).into(),
        ];
        let answer: Vec<String> = commands.run(&scripts.end_room, names, args, Effect::Write).await?;
        match &answer[..] {
            [epoch, offset] => position(epoch, offset),
            _ => Err(nonsense("end_room")),
        }
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

fn position(epoch: &str, offset: &str) -> Result<Position, BrokerError> {
    let read = || {
        let offset = Offset(payload::number(Some(offset)).ok()?);
        Some(Position { epoch: payload::epoch(Some(epoch)).ok()?, offset })
    };
    read().ok_or_else(|| nonsense("a position"))
}

fn millis(duration: Duration) -> Value {
    duration.as_millis().to_string().into()
}

fn internal(error: &serde_json::Error) -> BrokerError {
    BrokerError::Internal(error.to_string().into())
}

fn nonsense(what: &str) -> BrokerError {
    BrokerError::Internal(format!("{what} makes no sense").into())
}
