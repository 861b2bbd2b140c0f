//! What holds when nobody says otherwise, each value with its reason, and the draft that loading fills.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    thread,
    time::Duration,
};

use roomcast_core::{
    limits::{Cap, DEV_ACCEPT_PER_SECOND, DEV_CONNECT_RATE_PER_IP, DEV_CONNECTIONS_PER_IP, Limits},
    permission::{Namespaces, Role, Rules},
};
use roomcast_protocol::Namespace;

use super::{Auth, Breaker, Config, Drain, Fanout, Ingest, Log, LogFormat, Origins, Presence, Redis, Secret};

/// The port of the public listener.
pub const DEFAULT_PORT: u16 = 8080;
/// The port of the internal listener: another one, so that a firewall can tell them apart.
pub const DEFAULT_INTERNAL_PORT: u16 = 9090;
/// What every key starts with: short, because it stands in every key.
pub const DEFAULT_PREFIX: &str = "rc";
/// A failover of Redis takes this long; leaving the balancer for less would send everyone to and fro.
pub const DEFAULT_READY_GRACE: Duration = Duration::from_secs(5);
/// With backoff about 20 s: Redis may start at the same time as the node.
pub const DEFAULT_CONNECT_ATTEMPTS: u32 = 10;
/// A healthy Redis answers in 1 ms; 500 ms is a failure that a user already feels.
pub const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_millis(500);
/// 20 ms of work at 0.5 M commands/s: more waiting would only be refused later.
pub const DEFAULT_MAX_IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// Nobody feels a millisecond, and a thousand writes a second to each socket become as many as there are.
pub const DEFAULT_MAX_DELAY: Duration = Duration::from_millis(1);
/// More would be felt, and would gather no more than a slow flush does by itself.
pub const LONGEST_MAX_DELAY: Duration = Duration::from_millis(100);
/// Per room: a number that changes more often can't be read, and looks no more alive.
pub const DEFAULT_COUNT_RATE: u32 = 10;
/// Pushes per second and room: people read a guest count, they don't watch it run.
pub const DEFAULT_PRESENCE_RATE: u32 = 1;
/// Three heartbeats fit into a lease, so that one lost packet evicts nobody.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(2);
/// A dead node's guests leave the counts within 8 s: lease, plus one interval of the readers.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(6);
/// One slow command is chance, five in a row are not.
pub const DEFAULT_BREAKER_FAILURES: u32 = 5;
/// How long a dependency that failed is left alone before one probe; four times that, if it goes on failing.
pub const DEFAULT_BREAKER_OPEN: Duration = Duration::from_millis(500);
/// A burst of some seconds; more would only be late, and its sender retries.
pub const DEFAULT_INGEST_CAPACITY: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
/// A publish takes a millisecond: five do thousands per second, and no burst takes Redis from the clients.
pub const DEFAULT_INGEST_WORKERS: NonZeroUsize = NonZeroUsize::new(5).unwrap();
/// With pauses that double from 250 ms to 30 s about four minutes: longer than a failover or a restart of Redis.
pub const DEFAULT_INGEST_ATTEMPTS: u32 = 12;
/// Senders of webhooks retry for hours, some for a day.
pub const DEFAULT_INGEST_REMEMBER: Duration = Duration::from_secs(86_400);
/// A back end that was away for a deployment finds all it missed; about 5 MB.
pub const DEFAULT_CHANGES: u64 = 10_000;
/// Two health checks of a balancer that looks every 2 s.
pub const DEFAULT_BALANCER_DELAY: Duration = Duration::from_secs(5);
/// 100,000 clients over 10 s are 10,000 handshakes per second for the other nodes.
pub const DEFAULT_SPREAD: Duration = Duration::from_secs(10);
/// Below the 30 s after which Kubernetes and systemd kill by default.
pub const DEFAULT_DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// Where the demo wall lives; there is none in production.
pub const DEMO_NAMESPACE: &str = "wall";
/// In development nobody balances.
pub const DEV_BALANCER_DELAY: Duration = Duration::ZERO;
/// In development a restart should not make one wait.
pub const DEV_SPREAD: Duration = Duration::from_secs(1);
/// In development a restart should not make one wait.
pub const DEV_DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// The workers that hold a room are a set of 64 bits.
pub const MAX_WORKERS: usize = 64;
/// What an operator reads by default.
pub const DEFAULT_LOG_LEVEL: &str = "info";

/// The settings while they are being filled: what may still be missing is an `Option`.
pub(super) struct Draft {
    /// Holds placeholders for what stands below.
    pub(super) config: Config,
    pub(super) listen: Option<SocketAddr>,
    pub(super) internal: Option<SocketAddr>,
    pub(super) node: Option<String>,
    pub(super) redis: Redis,
    pub(super) redis_url: Option<Secret>,
    pub(super) prefix: Option<String>,
    pub(super) level: Option<String>,
    pub(super) rules: BTreeMap<Namespace, Rules>,
}

impl Draft {
    /// The defaults of production, or of development.
    pub(super) fn defaults(dev: bool) -> Self {
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listen = if dev { local(DEFAULT_PORT) } else { any(DEFAULT_PORT) };
        let internal = if dev { None } else { Some(any(DEFAULT_INTERNAL_PORT)) };
        Self {
            config: config(dev, listen),
            listen: Some(listen),
            internal,
            node: None,
            redis: Redis {
                url: Secret::new(""),
                ca_file: None,
                prefix: String::new(),
                ready_grace: DEFAULT_READY_GRACE,
                connect_attempts: DEFAULT_CONNECT_ATTEMPTS,
                command_timeout: DEFAULT_COMMAND_TIMEOUT,
                max_in_flight: DEFAULT_MAX_IN_FLIGHT,
                changes: DEFAULT_CHANGES,
            },
            redis_url: None,
            prefix: Some(DEFAULT_PREFIX.to_owned()),
            level: Some(DEFAULT_LOG_LEVEL.to_owned()),
            rules: Namespaces::default()
                .iter()
                .map(|(name, rules)| (name.clone(), *rules))
                .chain(dev.then(demo).flatten())
                .collect(),
        }
    }
}

/// The namespace of the demo's photo wall: its guests share photos, and their comments wait for a host. Only in
/// development, where the wall is.
fn demo() -> Option<(Namespace, Rules)> {
    let guest = Role::Guest;
    let rules =
        Rules { join: guest, publish: guest, count: guest, moderated: true, stock: true, ..Rules::default() };
    Some((Namespace::parse(DEMO_NAMESPACE).ok()?, rules))
}

fn config(dev: bool, listen: SocketAddr) -> Config {
    Config {
        dev,
        listen,
        internal: listen,
        node: String::new(),
        workers: thread::available_parallelism()
            .ok()
            .and_then(|cores| NonZeroUsize::new(cores.get().min(MAX_WORKERS)))
            .unwrap_or(NonZeroUsize::MIN),
        redis: None,
        auth: Auth {
            hmac_key: None,
            key_is_generated: false,
            jwks: None,
            issuer: None,
            audience: None,
            guests: true,
            leeway: Duration::ZERO,
        },
        api_key: None,
        // In production the node's own pages may connect; in development whatever runs on this machine.
        origins: Origins { list: Vec::new(), localhost: dev, same_host: !dev },
        trusted_proxies: Vec::new(),
        proxy_protocol: false,
        limits: limits(dev),
        namespaces: Namespaces::default(),
        fanout: Fanout { max_delay: DEFAULT_MAX_DELAY, count_rate: DEFAULT_COUNT_RATE },
        presence: Presence {
            rate: DEFAULT_PRESENCE_RATE,
            heartbeat: DEFAULT_HEARTBEAT,
            lease: DEFAULT_LEASE,
        },
        ingest: Ingest {
            capacity: DEFAULT_INGEST_CAPACITY,
            workers: DEFAULT_INGEST_WORKERS,
            attempts: DEFAULT_INGEST_ATTEMPTS,
            remember: DEFAULT_INGEST_REMEMBER,
            sources: BTreeMap::new(),
        },
        changes: DEFAULT_CHANGES,
        breaker: Breaker { failures: DEFAULT_BREAKER_FAILURES, open: DEFAULT_BREAKER_OPEN },
        drain: Drain {
            balancer_delay: if dev { DEV_BALANCER_DELAY } else { DEFAULT_BALANCER_DELAY },
            spread: if dev { DEV_SPREAD } else { DEFAULT_SPREAD },
            deadline: if dev { DEV_DRAIN_DEADLINE } else { DEFAULT_DRAIN_DEADLINE },
        },
        log: Log { format: LogFormat::Text, level: String::new() },
    }
}

fn limits(dev: bool) -> Limits {
    let limits = Limits::default();
    if !dev {
        return limits;
    }
    let dev_cap = |n, production| Cap::new(n).unwrap_or(production);
    Limits {
        connections_per_ip: dev_cap(DEV_CONNECTIONS_PER_IP, limits.connections_per_ip),
        connect_rate_per_ip: dev_cap(DEV_CONNECT_RATE_PER_IP, limits.connect_rate_per_ip),
        accept_per_second: dev_cap(DEV_ACCEPT_PER_SECOND, limits.accept_per_second),
        connect_burst_per_ip: dev_cap(DEV_CONNECT_RATE_PER_IP, limits.connect_burst_per_ip),
        ..limits
    }
}
