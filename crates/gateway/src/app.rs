//! A node from start to stop: it puts broker, counter, workers and HTTP together, and takes them apart without loss.

mod heartbeat;
mod internal;
mod starting;

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicUsize},
    thread::JoinHandle,
    time::Duration,
};

use axum::Router;
use roomcast_core::{
    counts::Counts,
    pace::Pace,
    permits::{IpPermits, PermitRules},
    session::Terms,
};
use roomcast_counter::{ChangeLog, Changes, Counter, Ingest, Limits, Memory, RedisChanges, RedisIngest};
use roomcast_protocol::RoomName;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, Admin},
    alarm::Alarm,
    auth::Verifier,
    backend::{Backend, BusSink, Stores},
    broker::{Broker, BrokerError, local::LocalBus, redis::RedisBroker},
    config::{self, Config},
    drain::Drain,
    figures::Figures,
    http::{api, assets, ops},
    ingest,
    interest::{self, Interest},
    lane::lane,
    metrics,
    node::{Node, now, unix_ms},
    presence::Presence,
    pulse::Pulse,
    pump::{Lane, Note, Pump},
    random,
    restrictions::{self, Restrictions},
    seats::Seats,
    shelf::Shelf,
    tallies::Tallies,
    worker,
};

/// Pushes that may wait for one worker: a busy second.
const LANE: usize = 65_536;
/// Kept back from the deadline for saying goodbye: to the sockets, to the broker. Never more than half of it.
const DEADLINE_MARGIN: Duration = Duration::from_secs(4);

/// Why a node did not start, or did not stop well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address can't be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The broker can't be reached.
    #[error("the broker cannot be reached")]
    Broker(#[from] BrokerError),
    /// The metrics recorder refuses its buckets.
    #[error("the metrics cannot be recorded")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// Something ended that the node can't do without.
    #[error("an essential task ended; see the log")]
    Failed,
    /// The tokens can't be verified.
    #[error("the token verifier cannot be set up: {0}")]
    Auth(String),
    /// A thread can't be started.
    #[error("a worker thread cannot be started")]
    Thread(#[source] io::Error),
}

/// What keeps events and counters.
#[derive(Debug, Clone)]
pub enum Backing {
    /// In this process; several nodes of one process may share it.
    Local(LocalBus, Counter, Ingest),
    /// In Redis, as the configuration says.
    Redis,
}

impl Backing {
    /// A bus and a counter that publishes on it.
    pub fn local(config: &Config) -> Self {
        let kept = usize::try_from(config.changes).unwrap_or(usize::MAX);
        let bus = LocalBus::new(config.presence).with_changes(ChangeLog::new(kept));
        let ingest = Ingest::memory(ingest::rules(&config.ingest), Arc::new(unix_ms));
        let counter = Counter::Memory(Memory::new(Arc::new(BusSink(bus.clone()))));
        Self::Local(bus, counter, ingest)
    }

    /// What the configuration asks for.
    pub fn of(config: &Config) -> Self {
        if config.redis.is_some() { Self::Redis } else { Self::local(config) }
    }
}

/// A node that runs.
#[derive(Debug)]
pub struct Running {
    /// Where browsers connect.
    pub public: SocketAddr,
    /// Where health, metrics and the API are.
    pub internal: SocketAddr,
    /// The node.
    pub node: Arc<Node>,
    tasks: TaskTracker,
    stop: CancellationToken,
    alarm: Alarm,
    /// Ends the broker's own tasks, last of all.
    stop_broker: CancellationToken,
    workers: Vec<JoinHandle<io::Result<()>>>,
}

/// Starts a node. It serves when this returns.
pub async fn start(config: Config, backing: Backing) -> Result<Running, AppError> {
    metrics::install()?;
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let stop_broker = CancellationToken::new();
    let alarm = Alarm::new(stop.clone());
    let listeners = listen(config.listen, config.workers)?;
    let public = local_address(&listeners, config.listen)?;
    // A start that fails ends what it has begun.
    let failing = stop.clone().drop_guard();
    let merged = config.internal == config.listen;
    let (routes_now, current) = watch::channel(starting::routes());
    let internal = if merged {
        public
    } else {
        internal::serve(config.internal, current, config.limits.handshake_timeout, &tasks, &stop).await?
    };
    let show_starting = if merged { starting::routes() } else { starting::refusals() };
    let refusing = starting::serve_public(&listeners, &config, show_starting, &tasks, &stop)?;
    // A node that comes back under its old name is another: it must not inherit what its predecessor left behind.
    let incarnation = format!("{}.{}", config.node, random::epoch());
    let stores = connect(&config, &incarnation, backing, &tasks, &stop_broker).await?;
    let (broker, counter) = (stores.broker.clone(), stores.counter.clone());
    let feed = broker.take_feed();

    let verifier = Verifier::new(&config.auth).map_err(|error| AppError::Auth(error.to_string()))?;
    let (interest, changes) = Interest::new();
    let (notes, noted) = mpsc::unbounded_channel();
    let (orders, ordered) = mpsc::unbounded_channel();
    let presence = Presence::default();
    let node = Arc::new(Node {
        terms: Arc::new(Terms { limits: config.limits.clone(), namespaces: config.namespaces.clone() }),
        verifier,
        backend: Backend::new(stores, config.breaker),
        webhooks: Notify::new(),
        interest: interest.clone(),
        presence: presence.clone(),
        restrictions: Restrictions::default(),
        permits: Arc::new(IpPermits::new(PermitRules::from(&config.limits))),
        seats: Seats::new(config.limits.members_per_room),
        tallies: Tallies::default(),
        shelf: Shelf::default(),
        notes: notes.clone(),
        pace: Mutex::new(Pace::per_second(config.limits.accept_per_second, now().instant)),
        drain: Drain::default(),
        pulse: Pulse::new(listeners.len(), now().instant),
        figures: Figures::default(),
        admin: Admin::new(orders),
        idle_rooms: listeners.iter().map(|_| AtomicUsize::new(0)).collect(),
        lanes: OnceLock::new(),
        started: Instant::now(),
        incarnation,
        config,
    });

    let show = if node.config.dev { assets::Show::Demo } else { assets::Show::NoDemo };
    let inside =
        ops::routes(node.clone()).merge(api::routes(node.clone())).merge(ingest::routes(node.clone()));
    let routes = if merged { assets::routes(show).merge(inside.clone()) } else { assets::routes(show) };
    refusing.end().await;
    let (lanes, workers) = start_workers(&node, listeners, &routes, &stop, &alarm)?;
    let _first = node.lanes.set(lanes.clone());

    let pump = Pump::new(
        broker.clone(),
        counter,
        interest.clone(),
        Arc::new(node.terms.namespaces.clone()),
        presence.clone(),
        Counts::new(node.config.fanout.count_rate),
        lanes,
    );
    if let Some(feed) = feed {
        spawn(&tasks, &stop, alarm.watching("pump", pump.run(feed, noted)));
    }
    let gone = move |room: &RoomName| {
        // Without a pump the node is stopping.
        let _stopping = notes.send(Note::Gone(room.clone()));
    };
    let reconcile = interest::reconcile(interest, changes, broker.clone(), gone);
    spawn(&tasks, &stop, alarm.watching("interest", reconcile));
    let interval = Duration::from_secs(1) / node.config.presence.rate.max(1);
    spawn(&tasks, &stop, alarm.watching("presence", presence.run(broker, interval)));
    // Not watched: without sources they have nothing to do, and end.
    spawn(&tasks, &stop, ingest::work(node.clone(), tasks.clone()));
    spawn(&tasks, &stop, ingest::look(node.clone()));
    spawn(&tasks, &stop, alarm.watching("heartbeat", heartbeat::beat(node.clone())));
    spawn(&tasks, &stop, drain_when_asked(node.clone()));
    spawn(&tasks, &stop, heartbeat::tell_dashboard(node.clone()));
    spawn(&tasks, &stop, admin::obey(node.clone(), ordered));
    spawn(&tasks, &stop, heartbeat::keep_up(node.clone()));
    spawn(&tasks, &stop, heartbeat::sweep_holds(node.clone()));
    spawn(&tasks, &stop, heartbeat::move_changes(node.clone()));
    spawn(&tasks, &stop, restrictions::keep(node.clone()));
    let verifier = node.clone();
    spawn(&tasks, &stop, async move { verifier.verifier.keep_fresh().await });
    drop(routes_now.send_replace(inside));
    let _running = failing.disarm();
    tracing::info!(node = node.config.node, %public, %internal, workers = workers.len(), "serving");
    Ok(Running { public, internal, node, tasks, stop, alarm, stop_broker, workers })
}

impl Running {
    /// Ends everything at once, without the alarm.
    pub fn silence(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits until something ends that the node can't do without.
    pub async fn failed(&self) {
        self.alarm.rung().await;
    }

    /// Drains and stops: not ready, then reconnects spread, then the end. In `drain.deadline` at the latest.
    pub async fn stop(self) {
        let drain = self.node.config.drain;
        let deadline = Instant::now() + drain.deadline - DEADLINE_MARGIN.min(drain.deadline / 2);
        tracing::info!(connections = self.node.permits.connections(), "leaving: not ready any more");
        let _cut_short = timeout_at(deadline, self.node.drain.leave(drain.balancer_delay)).await;
        self.node.drain.drain_now();
        let emptied = async {
            while self.node.permits.connections() > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout_at(deadline, emptied).await.is_err() {
            tracing::warn!(
                connections = self.node.permits.connections(),
                "the deadline cuts the drain short"
            );
        }
        self.halt().await;
    }

    /// Stops at once: connections are closed with 1012, but nobody waits for anybody.
    pub async fn halt(self) {
        self.stop.cancel();
        let workers = self.workers;
        // Joining a thread blocks; the control thread still has the broker to attend to.
        let joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                match worker.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!(%error, "a worker failed"),
                    Err(_) => tracing::error!("a worker panicked"),
                }
            }
        });
        let _panicked = joined.await;
        if let Err(error) = self.node.backend.broker.goodbye().await {
            tracing::warn!(%error, "the broker could not be told goodbye: this node's lease runs out by itself");
        }
        if let Broker::Redis(redis) = &self.node.backend.broker {
            redis.shutdown().await;
        }
        self.stop_broker.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        tracing::info!("stopped");
    }
}

fn spawn(tasks: &TaskTracker, stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    });
}

/// Drains the node when an operator asks for it; the process stays until it is ended.
async fn drain_when_asked(node: Arc<Node>) {
    node.drain.asked().await;
    tracing::info!(connections = node.permits.connections(), "asked to drain: not ready any more");
    node.drain.leave(node.config.drain.balancer_delay).await;
}

/// One listener per worker, all on one port.
fn listen(address: SocketAddr, workers: NonZeroUsize) -> Result<Vec<std::net::TcpListener>, AppError> {
    let failed = |source| AppError::Listen { address, source };
    // With a shared port, a second node would silently take half of this one's connections: ask for it alone first.
    drop(std::net::TcpListener::bind(address).map_err(failed)?);
    let first = worker::listen(address).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let rest = (1..workers.get()).map(|_| worker::listen(bound).map_err(failed));
    std::iter::once(Ok(first)).chain(rest).collect()
}

fn local_address(listeners: &[std::net::TcpListener], wanted: SocketAddr) -> Result<SocketAddr, AppError> {
    let failed = |source| AppError::Listen { address: wanted, source };
    listeners.first().map_or(Ok(wanted), std::net::TcpListener::local_addr).map_err(failed)
}

async fn connect(
    config: &Config,
    incarnation: &str,
    backing: Backing,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Stores, AppError> {
    match (backing, &config.redis) {
        (Backing::Redis, Some(redis)) => {
            metrics::expect_redis();
            let broker = RedisBroker::connect(redis, incarnation, config.presence, tasks, stop).await?;
            let (servers, prefix) = (broker.servers(), &redis.prefix);
            let target = broker.changes();
            let counter = roomcast_counter::Redis::telling(
                servers.clone(),
                prefix,
                Limits::default(),
                broker.publish_mode(),
                target.clone(),
            );
            let ingest = RedisIngest::new(servers.clone(), prefix, ingest::rules(&config.ingest));
            let changes = RedisChanges::new(servers, prefix, target);
            Ok(Stores {
                broker: Broker::Redis(broker),
                counter: Counter::Redis(counter),
                ingest: Ingest::Redis(ingest),
                changes: Changes::Redis(changes),
            })
        }
        (Backing::Local(bus, counter, ingest), _) => {
            let changes = Changes::Memory(bus.changes().clone());
            Ok(Stores { broker: Broker::Local(bus.attach(incarnation)), counter, ingest, changes })
        }
        (Backing::Redis, None) => {
            let cause = "redis.url is not set".into();
            Err(BrokerError::Unavailable { maybe_applied: false, cause }.into())
        }
    }
}

type Workers = (Vec<Lane>, Vec<JoinHandle<io::Result<()>>>);

fn start_workers(
    node: &Arc<Node>,
    listeners: Vec<std::net::TcpListener>,
    routes: &Router,
    stop: &CancellationToken,
    alarm: &Alarm,
) -> Result<Workers, AppError> {
    let mut lanes = Vec::new();
    let mut threads = Vec::new();
    for (id, listener) in (0..).zip(listeners) {
        let (deliveries, delivered) = lane(LANE);
        let (words, said) = mpsc::unbounded_channel();
        lanes.push(Lane { deliveries, words });
        let start = worker::Start {
            id,
            node: node.clone(),
            listener,
            deliveries: delivered,
            words: said,
            routes: routes.clone(),
            stop: stop.clone(),
            alarm: alarm.clone(),
        };
        threads.push(worker::spawn(start).map_err(AppError::Thread)?);
    }
    Ok((lanes, threads))
}

/// Connects to Redis and says goodbye: for `checkconfig --connect`.
pub async fn reach_redis(redis: &config::Redis) -> Result<(), String> {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let once = config::Redis { connect_attempts: 1, ..redis.clone() };
    let node = format!("checkconfig-{}", random::Id::new());
    let presence =
        config::Presence { rate: 1, heartbeat: Duration::from_secs(2), lease: Duration::from_secs(6) };
    let reached = RedisBroker::connect(&once, &node, presence, &tasks, &stop).await;
    let result = match reached {
        Ok(broker) => {
            broker.shutdown().await;
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    };
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    result
}
