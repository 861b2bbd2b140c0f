//! The two connections to Redis, set up so that fred neither hangs, nor repeats a command whose fate is unknown.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fred::{
    clients::{Client, Pipeline, WithOptions},
    error::{Error, ErrorKind},
    interfaces::ClientLike,
    types::{
        Builder, ClusterHash, ConnectHandle, CustomCommand, FromValue, RespVersion, Value,
        config::{Config, Options, ReconnectError, ReconnectPolicy},
    },
    util::redis_keyslot,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout},
};

use super::{
    fault::{self, Effect},
    scripts::Named,
};
use crate::{broker::BrokerError, config};

/// Messages between fred's reader and ours: a burst of some seconds. fred's own default of 32 loses half of one.
const MESSAGE_CAPACITY: usize = 65_536;
/// How long one TCP connect may take: a reachable Redis answers in far less.
const TCP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the greeting of a new connection may take, in all.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one whole attempt at the start may take; the parts above end sooner, but fred once hung.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);
/// Between attempts at the start, doubling up to the second.
const START_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Between reconnects, doubling from the first to the second, with up to as much jitter.
const RECONNECT_MS: (u32, u32) = (50, 250);

/// A lost connection is not used for so long, unless a new one stands: until fred's own word can be trusted again, a
/// reconnect pause with its jitter later.
const LOST_FOR: Duration = Duration::from_millis(200);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Commands,
    Subscriptions,
}

/// A connected client, after as many attempts as configured.
pub(super) async fn open(
    settings: &config::Redis,
    purpose: Purpose,
) -> Result<(Client, ConnectHandle), BrokerError> {
    let builder = builder(settings, purpose)?;
    let (mut backoff, longest) = START_BACKOFF;
    let mut attempt = 1;
    loop {
        let client = builder.build().map_err(|error| fault::map(&error, Effect::Harmless))?;
        let error = match timeout(ATTEMPT_TIMEOUT, client.init()).await {
            Ok(Ok(task)) => return Ok((client, task)),
            Ok(Err(error)) => error,
            Err(_) => {
                let _best_effort = timeout(HANDSHAKE_TIMEOUT, client.quit()).await;
                Error::new(ErrorKind::Timeout, "the connection was not ready in time")
            }
        };
        if attempt >= settings.connect_attempts || fault::is_hopeless(&error) {
            return Err(match fault::map(&error, Effect::Harmless) {
                BrokerError::Unavailable { cause, .. } if fault::is_hopeless(&error) => {
                    BrokerError::Denied(cause)
                }
                error => error,
            });
        }
        tracing::warn!(%error, attempt, attempts = settings.connect_attempts, "Redis can't be reached yet");
        sleep(backoff).await;
        backoff = (backoff * 2).min(longest);
        attempt += 1;
    }
}

fn builder(settings: &config::Redis, purpose: Purpose) -> Result<Builder, BrokerError> {
    // The error is not shown: it might quote the password.
    let mut redis = Config::from_url(settings.url.reveal())
        .map_err(|_| BrokerError::Internal("redis.url is not an address of Redis".into()))?;
    redis.fail_fast = true;
    redis.version = match purpose {
        Purpose::Commands => RespVersion::RESP2,
        Purpose::Subscriptions => RespVersion::RESP3,
    };
    let mut builder = Builder::from_config(redis);
    builder.with_performance_config(|performance| {
        performance.default_command_timeout = settings.command_timeout;
        if purpose == Purpose::Subscriptions {
            performance.broadcast_channel_capacity = MESSAGE_CAPACITY;
        }
    });
    builder.with_connection_config(|connection| {
        connection.connection_timeout = TCP_TIMEOUT;
        connection.internal_command_timeout = HANDSHAKE_TIMEOUT;
        connection.max_command_attempts = 1;
        connection.max_command_buffer_len = 0;
        // Few commands, each waited for. On the command connection it would halve the throughput of scripts.
        connection.tcp.nodelay = (purpose == Purpose::Subscriptions).then_some(true);
        connection.reconnect_errors = vec![
            ReconnectError::ClusterDown,
            ReconnectError::Loading,
            ReconnectError::MasterDown,
            ReconnectError::ReadOnly,
        ];
    });
    let (first, longest) = RECONNECT_MS;
    let mut policy = ReconnectPolicy::new_exponential(0, first, longest, 2);
    policy.set_jitter(first);
    builder.set_policy(policy);
    Ok(builder)
}

/// Commands that fail at once while there is no connection.
fn fail_fast(client: &Client) -> WithOptions<Client> {
    client.with_options(&Options { fail_fast: true, ..Options::default() })
}

/// A pipeline that does the same, all of it over one connection: in a cluster, the one that fred subscribes on.
pub(super) fn on_one_connection(client: &Client) -> WithOptions<Pipeline<Client>> {
    let slot = ClusterHash::Custom(redis_keyslot(client.id().as_bytes()));
    client.pipeline().with_options(&Options {
        fail_fast: true,
        cluster_hash: Some(slot),
        ..Options::default()
    })
}

/// The command connection with a bound on what is in flight.
#[derive(Debug, Clone)]
pub(super) struct Commands {
    client: Client,
    fast: WithOptions<Client>,
    in_flight: Arc<Semaphore>,
    most_at_once: usize,
    /// When the connection was lost. fred goes on believing in it until its first try to reconnect, and what is sent
    /// till then waits for its timeout.
    lost: Arc<Mutex<Option<Instant>>>,
}

impl Commands {
    pub(super) fn new(client: Client, settings: &config::Redis) -> Self {
        let max = settings.max_in_flight.get().min(Semaphore::MAX_PERMITS);
        let fast = fail_fast(&client);
        // A pipeline takes a part only, so that it never shuts everything else out.
        let most_at_once = (max / 4).clamp(1, 256);
        Self { client, fast, in_flight: Arc::new(Semaphore::new(max)), most_at_once, lost: Arc::default() }
    }

    /// The bare client, for the counter store and the watchdog.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Commands that one pipeline may hold.
    pub(super) fn most_at_once(&self) -> usize {
        self.most_at_once
    }

    /// The connection was just lost.
    pub(super) fn lost(&self) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The connection stands again.
    pub(super) fn found(&self) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn is_lost(&self) -> bool {
        let lost = *self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.is_some_and(|lost| lost.elapsed() < LOST_FOR)
    }

    /// The right to send so many commands now.
    pub(super) fn permit(&self, commands: usize) -> Result<SemaphorePermit<'_>, BrokerError> {
        if self.is_lost() {
            return Err(BrokerError::refused("the connection was lost"));
        }
        let commands = u32::try_from(commands).unwrap_or(u32::MAX);
        let refused = |_| BrokerError::refused("too many commands are in flight");
        self.in_flight.try_acquire_many(commands).map_err(refused)
    }

    /// Sends one command whose first word after the name, or the given key, decides the slot.
    pub(super) async fn send<R: FromValue>(
        &self,
        name: &'static str,
        key: &str,
        words: Vec<Value>,
        effect: Effect,
    ) -> Result<R, BrokerError> {
        let _permit = self.permit(1)?;
        self.send_permitted(name, key, words, effect).await
    }

    /// The same under a permit that the caller holds.
    pub(super) async fn send_permitted<R: FromValue>(
        &self,
        name: &'static str,
        key: &str,
        words: Vec<Value>,
        effect: Effect,
    ) -> Result<R, BrokerError> {
        let begun = Instant::now();
        let answer = self.custom(name, key, words).await;
        took(name, begun);
        answer.map_err(|error| fault::map(&error, effect))
    }

    /// Runs a script by its hash, and in full where the server does not know it: then it certainly did not run.
    pub(super) async fn run<R: FromValue>(
        &self,
        script: &Named,
        keys: Vec<String>,
        args: Vec<Value>,
        effect: Effect,
    ) -> Result<R, BrokerError> {
        let _permit = self.permit(1)?;
        let begun = Instant::now();
        let slot_key = keys.first().cloned().unwrap_or_default();
        let mut words: Vec<Value> = Vec::with_capacity(2 + keys.len() + args.len());
        words.extend([Value::Null, keys.len().to_string().into()]);
        words.extend(keys.into_iter().map(Value::from));
        words.extend(args);
        let with = |text: Value| {
            let mut words = words.clone();
            words[0] = text;
            words
        };
        let by_hash = with(Value::String(script.script.sha1().clone()));
        let answer = match self.custom("EVALSHA", &slot_key, by_hash).await {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                tracing::debug!(script = script.name, "the server does not know the script yet");
                let text = script.script.lua().cloned().map_or(Value::Null, Value::String);
                self.custom("EVAL", &slot_key, with(text)).await
            }
            answer => answer,
        };
        took(script.name, begun);
        answer.map_err(|error| fault::map(&error, effect))
    }

    /// Publishes a probe. It takes no permit: a busy node is not a deaf one.
    pub(super) async fn probe(&self, channel: &str, number: u64) -> Result<(), Error> {
        let _receivers: Value =
            self.custom("PUBLISH", channel, vec![channel.into(), number.to_string().into()]).await?;
        Ok(())
    }

    /// By hand, because fred's script commands exist only on the client without options, which waits where it should
    /// fail.
    async fn custom<R: FromValue>(
        &self,
        name: &'static str,
        key: &str,
        words: Vec<Value>,
    ) -> Result<R, Error> {
        let command = CustomCommand::new_static(name, Some(redis_keyslot(key.as_bytes())), false);
        self.fast.custom(command, words).await
    }
}

fn took(command: &'static str, begun: Instant) {
    metrics::histogram!("roomcast_redis_command_duration_seconds", "command" => command)
        .record(begun.elapsed().as_secs_f64());
}
