//! What this node is subscribed to: one task that alone writes to the subscription connection.
//!
//! fred answers a SUBSCRIBE before it is written, and drops the server's refusal of one onto whatever command waits
//! next. So each SUBSCRIBE goes out in one pipeline with a PING that carries a fresh token, and nothing else is on the
//! way meanwhile: the token back means that all before it was carried out, a NOPERM in its place that it was denied.
//! A reconnect leaves nothing subscribed; the task subscribes anew, proves it, and only then says `Interrupted`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use fred::{
    clients::{Client, Pipeline, WithOptions},
    error::Error,
    interfaces::{ClientLike, PubsubInterface},
    types::{Value, config::Server},
};
use roomcast_protocol::RoomName;
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    SharedFeed, client,
    fault::{self, Effect},
    health::HealthCell,
    keys::Keys,
    probe::{PROBE_INTERVAL, Probe},
};
use crate::broker::BrokerError;

/// Channels in one SUBSCRIBE: well below a second's work for the server, and one round trip.
const CHUNK: usize = 500;
/// Requests that wait; more are refused after [`PATIENCE`].
const QUEUE: usize = 8_192;
/// How long a caller waits for the proof, the time to subscribe many rooms anew included.
const PATIENCE: Duration = Duration::from_secs(5);
/// Tries right after a reconnect, before it is left to the ticks, and the pause between them.
const MEND_TRIES: u32 = 10;
const MEND_PAUSE: Duration = Duration::from_millis(10);
/// Tries to come back in step with the server after a denial, each a round trip.
const RESYNC_TRIES: u32 = 50;

enum Request {
    Subscribe(RoomName, Waiter),
    Unsubscribe(RoomName),
}

type Waiter = oneshot::Sender<Result<(), BrokerError>>;

/// The handle on the task.
#[derive(Debug, Clone)]
pub(super) struct Subscriptions(mpsc::Sender<Request>);

impl Subscriptions {
    pub(super) async fn subscribe(&self, room: &RoomName) -> Result<(), BrokerError> {
        let (waiter, answer) = oneshot::channel();
        let ask = async {
            self.0.send(Request::Subscribe(room.clone(), waiter)).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        };
        timeout(PATIENCE, ask)
            .await
            .unwrap_or_else(|_| Err(BrokerError::refused("subscribing takes too long")))
    }

    pub(super) async fn unsubscribe(&self, room: &RoomName) -> Result<(), BrokerError> {
        let ask = self.0.send(Request::Unsubscribe(room.clone()));
        match timeout(PATIENCE, ask).await {
            Ok(sent) => sent.map_err(|_| stopped()),
            Err(_) => Err(BrokerError::refused("too many subscriptions are under way")),
        }
    }
}

fn stopped() -> BrokerError {
    BrokerError::refused("the broker has been shut down")
}

/// The task's state.
pub(super) struct Task {
    client: Client,
    keys: Keys,
    /// The node's own channels.
    own: Vec<String>,
    requests: mpsc::Receiver<Request>,
    reconnects: broadcast::Receiver<Server>,
    /// Rooms whose subscription was proven, and has to be proven again while `broken`.
    rooms: HashSet<RoomName>,
    /// Rooms that may be subscribed though nobody wants them.
    strays: HashSet<RoomName>,
    broken: bool,
    /// A new connection stands, and nothing was tried on it yet.
    reconnected: bool,
    token: u64,
    feed: SharedFeed,
    health: Arc<HealthCell>,
    probe: Arc<Probe>,
}

impl Task {
    /// Listens for reconnects from now on; nothing is subscribed yet.
    pub(super) fn new(
        client: Client,
        keys: Keys,
        own: Vec<String>,
        feed: SharedFeed,
        health: Arc<HealthCell>,
        probe: Arc<Probe>,
    ) -> (Self, Subscriptions) {
        use fred::interfaces::EventInterface;
        let (sender, requests) = mpsc::channel(QUEUE);
        let reconnects = client.reconnect_rx();
        let task = Self {
            client,
            keys,
            own,
            requests,
            reconnects,
            rooms: HashSet::new(),
            strays: HashSet::new(),
            broken: false,
            reconnected: false,
            token: 0,
            feed,
            health,
            probe,
        };
        (task, Subscriptions(sender))
    }

    /// Subscribes the node's own channels. A denial here is a wrong ACL.
    pub(super) async fn begin(&mut self) -> Result<(), BrokerError> {
        let own = self.own.clone();
        self.prove(own, Vec::new()).await.map_err(|error| fault::map(&error, Effect::Harmless))
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut ticks = interval(PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                lost = self.reconnects.recv() => {
                    if matches!(lost, Err(broadcast::error::RecvError::Closed)) {
                        return;
                    }
                    self.broken = true;
                    self.reconnected = true;
                }
                _ = ticks.tick() => {
                    if self.broken {
                        self.mend().await;
                    } else {
                        self.tidy().await;
                    }
                }
                received = self.requests.recv_many(&mut batch, CHUNK) => {
                    if received == 0 {
                        return;
                    }
                    self.carry_out(std::mem::take(&mut batch)).await;
                }
            }
            self.mend_soon().await;
        }
    }

    /// Carries out what was asked, with one round trip for all. Of several requests for one room the last decides.
    async fn carry_out(&mut self, batch: Vec<Request>) {
        let mut wanted: HashMap<RoomName, bool> = HashMap::new();
        let mut waiters: Vec<(RoomName, Waiter)> = Vec::new();
        for request in batch {
            match request {
                Request::Subscribe(_, waiter) if waiter.is_closed() => {}
                Request::Subscribe(room, waiter) => {
                    wanted.insert(room.clone(), true);
                    waiters.push((room, waiter));
                }
                Request::Unsubscribe(room) => {
                    wanted.insert(room, false);
                }
            }
        }
        if self.broken {
            self.mend().await;
        }
        for (room, _) in wanted.iter().filter(|(_, wanted)| !**wanted) {
            if self.rooms.remove(room) {
                self.strays.insert(room.clone());
            }
        }
        let new: Vec<_> = wanted
            .into_iter()
            .filter(|(room, wanted)| *wanted && !self.rooms.contains(room))
            .map(|(room, _)| room)
            .collect();
        let failed = if self.broken {
            let gone = || BrokerError::refused("the subscription connection is down");
            new.into_iter().map(|room| (room, gone())).collect()
        } else {
            self.add(new).await
        };
        for (room, waiter) in waiters {
            let answer = match failed.get(&room) {
                Some(error) => Err(error.clone()),
                None if self.broken => Err(BrokerError::refused("the subscription connection is down")),
                None => Ok(()),
            };
            // A caller that no longer waits will not unsubscribe either.
            if waiter.send(answer).is_err() && self.rooms.remove(&room) {
                self.strays.insert(room);
            }
        }
    }

    /// Subscribes rooms, and answers which of them failed.
    async fn add(&mut self, rooms: Vec<RoomName>) -> HashMap<RoomName, BrokerError> {
        let mut failed = HashMap::new();
        if rooms.is_empty() && self.strays.is_empty() {
            return failed;
        }
        for room in &rooms {
            self.strays.remove(room);
        }
        let gone: Vec<_> = self.strays.iter().take(CHUNK).cloned().collect();
        let channels = |rooms: &[RoomName]| rooms.iter().map(|room| self.keys.channel(room)).collect();
        let outcome = self.prove(channels(&rooms), channels(&gone)).await;
        match outcome {
            Ok(()) => {
                self.rooms.extend(rooms);
                for room in gone {
                    self.strays.remove(&room);
                }
            }
            // One denied channel refuses the whole command: ask for each.
            Err(error) if fault::is_denied(&error) && rooms.len() > 1 => {
                for room in rooms {
                    match self.prove(vec![self.keys.channel(&room)], Vec::new()).await {
                        Ok(()) => {
                            self.rooms.insert(room);
                        }
                        Err(error) => {
                            failed.insert(room.clone(), self.refusal(room, &error));
                        }
                    }
                }
            }
            Err(error) => {
                for room in rooms {
                    failed.insert(room.clone(), self.refusal(room, &error));
                }
            }
        }
        failed
    }

    fn refusal(&mut self, room: RoomName, error: &Error) -> BrokerError {
        if !fault::is_denied(error) {
            // Nobody knows whether it was subscribed.
            self.strays.insert(room);
        }
        fault::map(error, Effect::Harmless)
    }

    /// Drops what nobody wants, and shows that the connection lives.
    async fn tidy(&mut self) {
        let gone: Vec<_> = self.strays.iter().take(CHUNK).cloned().collect();
        let channels = gone.iter().map(|room| self.keys.channel(room)).collect();
        if self.prove(Vec::new(), channels).await.is_ok() {
            for room in gone {
                self.strays.remove(&room);
            }
        }
    }

    /// Right after a reconnect, tries a few times: fred tells of the new connection a moment before it takes commands.
    async fn mend_soon(&mut self) {
        if !std::mem::take(&mut self.reconnected) {
            return;
        }
        for _ in 0..MEND_TRIES {
            if !self.broken {
                return;
            }
            self.mend().await;
            sleep(MEND_PAUSE).await;
        }
    }

    /// After a reconnect: subscribes everything anew. On failure `broken` stays, for the next tick.
    async fn mend(&mut self) {
        while self.reconnects.try_recv().is_ok() {}
        self.strays.clear();
        let rooms: Vec<_> = self.rooms.iter().cloned().collect();
        for chunk in rooms.chunks(CHUNK) {
            let channels = chunk.iter().map(|room| self.keys.channel(room)).collect();
            match self.prove_once(channels, Vec::new()).await {
                Ok(()) => {}
                Err(error) if fault::is_denied(&error) => {
                    for room in chunk {
                        match self.prove_once(vec![self.keys.channel(room)], Vec::new()).await {
                            Ok(()) => {}
                            Err(error) if fault::is_denied(&error) => {
                                // Its members find out by the look at tails; there is no one here to tell.
                                tracing::error!(%room, "the subscription is denied since the reconnect");
                                self.rooms.remove(room);
                            }
                            Err(_) => return,
                        }
                    }
                }
                Err(_) => return,
            }
        }
        // The node's own channels come last: a probe that is heard proves that all stands.
        if self.prove_once(self.own.clone(), Vec::new()).await.is_err() {
            return;
        }
        if self.interrupted_again() {
            return;
        }
        self.broken = false;
        self.health.reconnected();
        self.feed.lock().interrupt();
        tracing::info!(rooms = self.rooms.len(), "subscribed anew after a reconnect");
    }

    /// Subscribes and proves it; a reconnect in between is noticed, and mended before this returns.
    async fn prove(&mut self, subscribe: Vec<String>, unsubscribe: Vec<String>) -> Result<(), Error> {
        let outcome = self.prove_once(subscribe, unsubscribe).await;
        if self.interrupted_again() {
            // fred tells of a reconnect before it uses the new connection: the token may have come over that one.
            self.broken = true;
            return Err(Error::new(fred::error::ErrorKind::IO, "the connection was lost meanwhile"));
        }
        outcome
    }

    fn interrupted_again(&mut self) -> bool {
        let again = !matches!(self.reconnects.try_recv(), Err(broadcast::error::TryRecvError::Empty));
        self.broken |= again;
        self.reconnected |= again;
        again
    }

    /// One pipeline: UNSUBSCRIBE, SUBSCRIBE, PING.
    async fn prove_once(&mut self, subscribe: Vec<String>, unsubscribe: Vec<String>) -> Result<(), Error> {
        let pipeline = client::on_one_connection(&self.client);
        if !unsubscribe.is_empty() {
            pipeline.unsubscribe(unsubscribe).await?;
        }
        if !subscribe.is_empty() {
            pipeline.subscribe(subscribe).await?;
        }
        match self.ping(&pipeline).await {
            Ok(true) => {
                self.probe.pong();
                Ok(())
            }
            Ok(false) => {
                self.come_in_step().await;
                Err(Error::new(fred::error::ErrorKind::Protocol, "an answer belongs to another question"))
            }
            Err(error) => {
                if fault::is_denied(&error) {
                    self.come_in_step().await;
                }
                Err(error)
            }
        }
    }

    /// Whether the token came back.
    async fn ping(&mut self, pipeline: &WithOptions<Pipeline<Client>>) -> Result<bool, Error> {
        self.token += 1;
        let token = self.token.to_string();
        let _queued: Value = pipeline.ping(Some(token.clone())).await?;
        let answer: Value = pipeline.last().await?;
        Ok(answer.as_str().is_some_and(|answer| *answer == token))
    }

    /// A refusal was taken for the answer to a PING, so the PING's own answer is still to come, and fred takes it for
    /// the next one's. Pause and ask until question and answer belong together again.
    async fn come_in_step(&mut self) {
        for _ in 0..RESYNC_TRIES {
            sleep(Duration::from_millis(2)).await;
            let pipeline = client::on_one_connection(&self.client);
            match self.ping(&pipeline).await {
                Ok(false) => {}
                Err(error) if fault::is_denied(&error) => {}
                Ok(true) | Err(_) => return,
            }
        }
        tracing::warn!("the subscription connection answers out of step: connecting anew");
        self.probe.distrust();
    }
}
