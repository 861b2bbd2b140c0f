//! What a node is told before it starts: one struct per subsystem, filled from defaults, file, environment and
//! flags, checked as a whole.

pub mod defaults;
mod field;
mod load;
mod origins;
pub(crate) mod parse;
mod problem;
mod render;
mod schema;
mod secret;
mod settings;
mod source;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use ipnet::IpNet;
use roomcast_core::{limits::Limits, permission::Namespaces};

pub use problem::{Origin, Problem, Problems, Shown};
pub use render::{default_toml, markdown};
pub use schema::schema;
pub use secret::Secret;
pub use source::{Flag, Purpose, Sources};

/// Everything a node is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// `serve --dev`: one machine, nothing else needed.
    pub dev: bool,
    /// Where browsers connect.
    pub listen: SocketAddr,
    /// Where health, metrics and the HTTP API are; the same as `listen` means one listener for both.
    pub internal: SocketAddr,
    /// This node's id: unique in the cluster, new at every start unless given.
    pub node: String,
    /// Worker threads.
    pub workers: NonZeroUsize,
    /// The broker; none means the in-process bus.
    pub redis: Option<Redis>,
    /// Who may connect.
    pub auth: Auth,
    /// The bearer key of the internal API, where one is set.
    pub api_key: Option<Secret>,
    /// Browser origins that may connect, each `scheme://host[:port]`; see [`Origins`].
    pub origins: Origins,
    /// Peers whose word on the client's address is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether trusted proxies speak PROXY protocol v2 before HTTP.
    pub proxy_protocol: bool,
    /// Section 6 of the contract.
    pub limits: Limits,
    /// Section 5 of the contract.
    pub namespaces: Namespaces,
    /// How pushes gather.
    pub fanout: Fanout,
    /// Presence pushes.
    pub presence: Presence,
    /// The circuit breaker in front of Redis.
    pub breaker: Breaker,
    /// Webhook intake.
    pub ingest: Ingest,
    /// Entries of the stream of changes; 0 keeps none.
    pub changes: u64,
    /// How a node stops.
    pub drain: Drain,
    /// Logging.
    pub log: Log,
}

/// The broker's connection.
#[derive(Debug, Clone)]
pub struct Redis {
    /// `redis://`, `rediss://`, `redis-cluster://` or `redis-sentinel://`; may hold a password.
    pub url: Secret,
    /// Whom to trust with TLS instead of the system's authorities: certificates in PEM.
    pub ca_file: Option<PathBuf>,
    /// What every key starts with.
    pub prefix: String,
    /// How long the broker may be unusable before the node says it is not ready.
    pub ready_grace: Duration,
    /// Attempts to reach it at the start.
    pub connect_attempts: u32,
    /// How long one command may take.
    pub command_timeout: Duration,
    /// Commands in flight at once.
    pub max_in_flight: NonZeroUsize,
    /// Entries of the stream of changes, as [`Config::changes`].
    pub changes: u64,
}

/// Who may connect.
#[derive(Debug, Clone)]
pub struct Auth {
    /// Verifies HS256, HS384 and HS512.
    pub hmac_key: Option<Secret>,
    /// Whether that key was made up at this start (development), so that only this process can sign with it.
    pub key_is_generated: bool,
    /// Verifies RS*, PS*, ES* and `EdDSA`.
    pub jwks: Option<JwksSource>,
    /// The `iss` that a token must carry, where one is set.
    pub issuer: Option<String>,
    /// The `aud` that a token must carry, where one is set.
    pub audience: Option<String>,
    /// Whether one may come without a token.
    pub guests: bool,
    /// Clock skew allowed for `exp` and `nbf`.
    pub leeway: Duration,
}

/// Where the public keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// A file, read again when it changes.
    File(PathBuf),
    /// An `https://` (or, on loopback, `http://`) address, fetched again when an unknown key id is seen, at most every 30 s.
    Url(String),
}

/// Which browser origins may connect. A request without `Origin` does not come from a browser and passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    /// Exact origins, lower case.
    pub list: Vec<String>,
    /// Every `http(s)://localhost`, `127.0.0.1` and `[::1]`, with any port (development).
    pub localhost: bool,
    /// The origin that equals the request's own `Host`.
    pub same_host: bool,
}

/// How pushes gather, so that many leave in one write.
#[derive(Debug, Clone, Copy)]
pub struct Fanout {
    /// How long a push may wait for others while much is going on.
    pub max_delay: Duration,
    /// How often the members of a room are told its counts, per second.
    pub count_rate: u32,
}

/// Presence pushes.
#[derive(Debug, Clone, Copy)]
pub struct Presence {
    /// Pushes per second and room.
    pub rate: u32,
    /// How often a node renews its lease.
    pub heartbeat: Duration,
    /// How long a lease lasts without renewal.
    pub lease: Duration,
}

/// The circuit breaker.
#[derive(Debug, Clone, Copy)]
pub struct Breaker {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open before a probe.
    pub open: Duration,
}

/// Webhook intake.
#[derive(Debug, Clone)]
pub struct Ingest {
    /// Entries that may wait or be in work per source, over all nodes.
    pub capacity: NonZeroUsize,
    /// Entries that this node works on at once.
    pub workers: NonZeroUsize,
    /// How often an entry is tried before it is given up.
    pub attempts: u32,
    /// How long an id is known, and its effect not repeated.
    pub remember: Duration,
    /// By name.
    pub sources: BTreeMap<String, Source>,
}

/// Where the webhooks of one sender go.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The room; without one, the body names it.
    pub room: Option<String>,
    /// The event; without one, the body may name it, and else it is called like the source.
    pub event: Option<String>,
    /// Signs the body; without one, the API's bearer is needed.
    pub secret: Option<Secret>,
    /// Where the signature stands; without a name, [`DEFAULT_SIGNATURE_HEADER`].
    pub signature_header: Option<String>,
}

/// What the first big sender of signed webhooks calls it, and many others since.
pub const DEFAULT_SIGNATURE_HEADER: &str = "x-hub-signature-256";

/// How a node stops.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// From "not ready" to the first `goaway`: the balancer's time to notice.
    pub balancer_delay: Duration,
    /// Over how long the clients' reconnects are spread.
    pub spread: Duration,
    /// When the process ends, whatever is left.
    pub deadline: Duration,
}

/// Logging.
#[derive(Debug, Clone)]
pub struct Log {
    /// For people or for programs.
    pub format: LogFormat,
    /// A `tracing` filter such as `info,roomcast_gateway=debug`.
    pub level: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}
