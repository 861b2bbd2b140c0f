//! What this node is subscribed to on one server: one task that alone writes to the subscription connection.
//!
//! fred answers a SUBSCRIBE before it is written, and drops the server's refusal of one onto whatever command waits
//! next. So each SUBSCRIBE goes out in one pipeline with an ECHO of a fresh token, and nothing else is on the way
//! meanwhile: the token back means that all before it was carried out, a NOPERM in its place that it was denied. (ECHO
//! and not PING, which Redis refuses while it can't write to its disk.) Sharded channels are asked for one by one, as
//! a cluster demands, and each is answered by itself.
//!
//! A new connection has nothing subscribed; the task subscribes anew, proves it, and only then says `Interrupted`, of the
//! rooms that it heard. Whatever is under way when a connection ends or is given up is dropped with it: what has to be
//! subscribed is written down before it is asked for.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use fred::{
    clients::{Client, Pipeline},
    error::{Error, ErrorKind},
    interfaces::{ClientLike, PubsubInterface},
    types::{CustomCommand, Value},
    util::redis_keyslot,
};
use roomcast_counter::PublishMode;
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::DropGuard;

use super::{
    fault::{self, Effect},
    link::Link,
    probe::PROBE_INTERVAL,
    shard::{self, Context, Shard},
};
use crate::{
    broker::{BrokerError, Scope},
    random,
};

/// Channels in one round trip: well below a second's work for the server.
const CHUNK: usize = 500;
/// Between the chunks of many, and up to half as much again: all nodes come back at the same moment.
const CHUNK_PAUSE: Duration = Duration::from_millis(5);
/// Between attempts to subscribe what the server can't do yet, and before a connection that failed is made anew.
const MEND_PAUSE: Duration = Duration::from_millis(50);
/// So many of them; what is due then is asked for with every sign of life.
const MEND_ATTEMPTS: u32 = 5;
/// Requests that wait; more are refused after some patience.
pub(super) const QUEUE: usize = 8_192;
/// Tries to come back in step with the server after a denial, each a round trip.
const RESYNC_TRIES: u32 = 50;

/// What the task is asked.
#[derive(Debug)]
pub(super) enum Request {
    Subscribe(String, Waiter),
    Unsubscribe(String),
    /// These channels were proven on another server, and belong to this one now.
    Adopt(Vec<String>),
    /// These belong to another server now.
    Abandon(Vec<String>),
}

pub(super) type Waiter = oneshot::Sender<Result<(), BrokerError>>;

/// A connection and the task that reads it.
struct Hearing {
    link: Link,
    _reading: DropGuard,
}

/// The task's state.
pub(super) struct Task {
    context: Arc<Context>,
    shard: Arc<Shard>,
    requests: mpsc::Receiver<Request>,
    /// A connection that stands already when the task begins.
    standing: Option<Hearing>,
    /// The client of the connection, while there is one.
    client: Option<Client>,
    /// Channels whose subscription was proven once, here or on another server, and has to be proven on each new
    /// connection.
    channels: HashSet<String>,
    /// Those of them that are not proven on this one.
    due: HashSet<String>,
    /// Channels that may be subscribed though nobody wants them.
    strays: HashSet<String>,
    /// The connection was gone through once: what is not due is subscribed.
    proven: bool,
    /// Something may have been missed that nobody was told of yet.
    missed: bool,
    token: u64,
}

/// Which channels failed, each for its reason.
type Failed = HashMap<String, Error>;

impl Task {
    pub(super) fn new(
        context: Arc<Context>,
        shard: Arc<Shard>,
        requests: mpsc::Receiver<Request>,
        channels: HashSet<String>,
    ) -> Self {
        let missed = !channels.is_empty();
        Self {
            context,
            shard,
            requests,
            standing: None,
            client: None,
            channels,
            due: HashSet::new(),
            strays: HashSet::new(),
            proven: false,
            missed,
            token: 0,
        }
    }

    /// The first connection of a node: subscribes what it has to hear always. A denial here is a wrong ACL.
    pub(super) async fn begin(&mut self, link: Link) -> Result<(), Error> {
        let hearing = self.hear(link);
        let channels = self.channels.iter().cloned().collect();
        let failed = self.prove(channels, Vec::new()).await?;
        if let Some(error) = failed.into_values().next() {
            return Err(error);
        }
        let probe = vec![self.shard.probe_channel.clone()];
        match self.prove_plain(&probe, &[]).await? {
            failed if failed.is_empty() => {
                self.due.clear();
                self.proven = true;
                self.missed = false;
                self.standing = Some(hearing);
                Ok(())
            }
            failed => Err(failed.into_values().next().unwrap_or_else(out_of_step)),
        }
    }

    pub(super) async fn run(mut self) {
        let shard = self.shard.clone();
        loop {
            let hearing = match self.standing.take() {
                Some(hearing) => Some(hearing),
                None => self.connect().await,
            };
            let Some(mut hearing) = hearing else { return };
            // Nobody waits for an answer that will not come: the watchdog knows before the command's time is up.
            let why = tokio::select! {
                why = hearing.link.ended() => Some(why),
                () = shard.subscriptions_given_up() => Some("it was given up".to_owned()),
                why = self.work() => why,
            };
            let Some(why) = why else { return };
            self.missed = true;
            self.proven = false;
            self.client = None;
            self.strays.clear();
            self.shard.probe.subscriptions_closed();
            self.context.health.down(&self.shard.server, &why);
            tracing::warn!(server = %self.shard.server, why, "the subscription connection to Redis was lost");
            shard::freeze(&self.context, &self.shard);
        }
    }

    fn hear(&mut self, link: Link) -> Hearing {
        self.shard.forget_doubts();
        let reading = shard::read(&self.context, &self.shard, &link);
        self.shard.probe.subscriptions_opened(Instant::now());
        self.client = Some(link.client().clone());
        self.due.clone_from(&self.channels);
        Hearing { link, _reading: reading }
    }

    /// Opens a connection, and refuses what is asked meanwhile. None when nobody can ask any more.
    async fn connect(&mut self) -> Option<Hearing> {
        let (context, shard) = (self.context.clone(), self.shard.clone());
        let mut opening = std::pin::pin!(shard::open_subscriptions(&context, &shard));
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                link = &mut opening => return Some(self.hear(link)),
                received = self.requests.recv_many(&mut batch, CHUNK) => {
                    if received == 0 {
                        return None;
                    }
                    for request in batch.drain(..) {
                        match request {
                            Request::Subscribe(_, waiter) => {
                                let _gone = waiter.send(Err(down()));
                            }
                            Request::Unsubscribe(channel) => {
                                self.channels.remove(&channel);
                            }
                            Request::Adopt(channels) => {
                                self.missed = true;
                                self.channels.extend(channels);
                            }
                            Request::Abandon(channels) => {
                                for channel in channels {
                                    self.channels.remove(&channel);
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Uses a connection until it is of no use, and says why; none when nobody can ask any more. What it has begun may
    /// be dropped at any point.
    async fn work(&mut self) -> Option<String> {
        match self.mend().await {
            Ok(()) => self.serve().await,
            Err(error) => {
                sleep(random::jitter(MEND_PAUSE)).await;
                Some(error.to_string())
            }
        }
    }

    /// On a new connection: subscribes everything anew.
    async fn mend(&mut self) -> Result<(), Error> {
        if self.proven {
            return Ok(());
        }
        for attempt in 1.. {
            self.subscribe_due().await?;
            // Who is asked for a slot that is somebody else's will be told to abandon it; all else passes soon.
            if self.due.is_empty() || attempt >= MEND_ATTEMPTS {
                break;
            }
            sleep(random::jitter(MEND_PAUSE)).await;
        }
        // The node's own channel comes last: a probe that is heard proves that all stands.
        let probe = vec![self.shard.probe_channel.clone()];
        if let Some(error) = self.prove_plain(&probe, &[]).await?.into_values().next() {
            return Err(error);
        }
        self.proven = true;
        self.shard.probe_now();
        if std::mem::take(&mut self.missed) {
            self.context.health.reconnected();
            self.context.feed.lock().interrupt(self.scope(&self.channels));
        }
        let channels = self.channels.len();
        tracing::info!(server = %self.shard.server, channels, due = self.due.len(), "subscribed anew");
        Ok(())
    }

    /// The rooms of these channels.
    fn scope<'a>(&self, channels: impl IntoIterator<Item = &'a String>) -> Scope {
        match self.context.mode {
            PublishMode::Plain => Scope::All,
            PublishMode::Sharded => {
                Scope::Slots(channels.into_iter().map(|channel| redis_keyslot(channel.as_bytes())).collect())
            }
        }
    }

    /// Subscribes what is due, in chunks; answers what is proven now. What the server can't do yet stays due.
    async fn subscribe_due(&mut self) -> Result<HashSet<String>, Error> {
        let mut proven = HashSet::new();
        let due: Vec<_> = self.due.iter().cloned().collect();
        for (number, chunk) in due.chunks(CHUNK).enumerate() {
            if number > 0 {
                sleep(random::jitter(CHUNK_PAUSE)).await;
            }
            let failed = self.prove(chunk.to_vec(), Vec::new()).await?;
            for channel in chunk {
                match failed.get(channel) {
                    Some(error) if fault::is_elsewhere(error) => self.context.routes.look_again(),
                    Some(error) if fault::is_denied(error) => {
                        // Its members find out by the look at tails; there is no one here to tell.
                        tracing::error!(channel, %error, "the subscription is denied since the reconnect");
                        self.due.remove(channel);
                        self.channels.remove(channel);
                    }
                    Some(error) => tracing::warn!(channel, %error, "a room can't be heard yet"),
                    None => {
                        self.due.remove(channel);
                        proven.insert(channel.clone());
                    }
                }
            }
        }
        Ok(proven)
    }

    /// Carries out what is asked, until nobody can ask any more: then it answers none.
    async fn serve(&mut self) -> Option<String> {
        let mut ticks = interval(PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            let done = tokio::select! {
                _ = ticks.tick() => self.tidy().await,
                received = self.requests.recv_many(&mut batch, CHUNK) => {
                    if received == 0 {
                        return None;
                    }
                    self.carry_out(std::mem::take(&mut batch)).await
                }
            };
            // A slow answer is no lost connection; the watchdog and fred know those.
            if let Err(error) = done {
                tracing::debug!(%error, "the subscription connection did not answer well");
            }
        }
    }

    /// Carries out what was asked, with one round trip for all. Of several requests for one channel the last decides.
    async fn carry_out(&mut self, batch: Vec<Request>) -> Result<(), Error> {
        let mut wanted: HashMap<String, bool> = HashMap::new();
        let mut waiters: Vec<(String, Waiter)> = Vec::new();
        for request in batch {
            match request {
                Request::Subscribe(_, waiter) if waiter.is_closed() => {}
                Request::Subscribe(channel, waiter) => {
                    wanted.insert(channel.clone(), true);
                    waiters.push((channel, waiter));
                }
                Request::Unsubscribe(channel) => {
                    wanted.insert(channel.clone(), false);
                    self.forget(channel);
                }
                Request::Adopt(channels) => {
                    for channel in channels {
                        self.strays.remove(&channel);
                        if self.channels.insert(channel.clone()) {
                            self.due.insert(channel);
                        }
                    }
                }
                Request::Abandon(channels) => {
                    for channel in channels {
                        wanted.insert(channel.clone(), false);
                        self.forget(channel);
                    }
                }
            }
        }
        let new: Vec<_> = wanted
            .into_iter()
            .filter(|(channel, wanted)| {
                *wanted && (!self.channels.contains(channel) || self.due.contains(channel))
            })
            .map(|(channel, _)| channel)
            .collect();
        let failed = self.add(new).await;
        for (channel, waiter) in waiters {
            let answer =
                failed.get(&channel).map_or(Ok(()), |error| Err(fault::map(error, Effect::Harmless)));
            // A caller that no longer waits will not unsubscribe either.
            if waiter.send(answer).is_err() {
                self.forget(channel);
            }
        }
        self.catch_up().await
    }

    /// Nobody wants it here any more.
    fn forget(&mut self, channel: String) {
        let was_due = self.due.remove(&channel);
        if self.channels.remove(&channel) && !was_due {
            self.strays.insert(channel);
        }
    }

    /// Subscribes what is due, if anything is.
    async fn catch_up(&mut self) -> Result<(), Error> {
        if self.due.is_empty() {
            return Ok(());
        }
        let proven = self.subscribe_due().await?;
        if !proven.is_empty() {
            // What was published meanwhile was heard by nobody.
            self.context.feed.lock().interrupt(self.scope(&proven));
        }
        Ok(())
    }

    /// Subscribes channels, and answers which of them failed.
    async fn add(&mut self, channels: Vec<String>) -> Failed {
        if channels.is_empty() && self.strays.is_empty() {
            return Failed::new();
        }
        for channel in &channels {
            self.strays.remove(channel);
        }
        let gone: Vec<_> = self.strays.iter().take(CHUNK).cloned().collect();
        match self.prove(channels.clone(), gone.clone()).await {
            Ok(failed) => {
                for channel in gone {
                    self.strays.remove(&channel);
                }
                for channel in channels {
                    match failed.get(&channel) {
                        None => {
                            self.due.remove(&channel);
                            self.channels.insert(channel);
                        }
                        Some(error) if fault::is_elsewhere(error) => self.context.routes.look_again(),
                        Some(error) if fault::is_denied(error) => {}
                        Some(_) => self.doubt(channel),
                    }
                }
                failed
            }
            Err(error) => {
                let failed = channels.iter().map(|channel| (channel.clone(), error.clone())).collect();
                for channel in channels {
                    self.doubt(channel);
                }
                failed
            }
        }
    }

    /// Nobody knows whether it was subscribed.
    fn doubt(&mut self, channel: String) {
        if !self.channels.contains(&channel) {
            self.strays.insert(channel);
        }
    }

    /// Drops what nobody wants, subscribes what is still due, and shows that the connection lives.
    async fn tidy(&mut self) -> Result<(), Error> {
        let gone: Vec<_> = self.strays.iter().take(CHUNK).cloned().collect();
        self.prove(Vec::new(), gone.clone()).await?;
        for channel in gone {
            self.strays.remove(&channel);
        }
        self.catch_up().await
    }

    /// Subscribes and unsubscribes, and proves it. An error means that nothing is certain.
    async fn prove(&mut self, subscribe: Vec<String>, unsubscribe: Vec<String>) -> Result<Failed, Error> {
        match self.context.mode {
            PublishMode::Sharded => self.prove_sharded(&subscribe, &unsubscribe).await,
            PublishMode::Plain => {
                let failed = self.prove_plain(&subscribe, &unsubscribe).await?;
                if subscribe.len() <= 1 || failed.is_empty() {
                    return Ok(failed);
                }
                // One denied channel refuses the whole command: ask for each.
                let mut failed = Failed::new();
                for channel in subscribe {
                    failed.extend(self.prove_plain(&[channel], &[]).await?);
                }
                Ok(failed)
            }
        }
    }

    /// One pipeline: UNSUBSCRIBE, SUBSCRIBE, ECHO. Where one channel is denied, all count as denied.
    async fn prove_plain(&mut self, subscribe: &[String], unsubscribe: &[String]) -> Result<Failed, Error> {
        let pipeline = self.pipeline()?;
        if !unsubscribe.is_empty() {
            pipeline.unsubscribe(unsubscribe.to_vec()).await?;
        }
        if !subscribe.is_empty() {
            pipeline.subscribe(subscribe.to_vec()).await?;
        }
        match self.echo(&pipeline).await {
            Ok(true) => {
                self.shard.probe.pong();
                Ok(Failed::new())
            }
            Ok(false) => {
                self.come_in_step().await;
                Err(out_of_step())
            }
            Err(error) if fault::is_denied(&error) => {
                self.come_in_step().await;
                Ok(subscribe.iter().map(|channel| (channel.clone(), error.clone())).collect())
            }
            Err(error) => Err(error),
        }
    }

    /// SUNSUBSCRIBEs, and one pipeline: an SSUBSCRIBE for each channel, each of which is answered, and ECHO.
    async fn prove_sharded(&mut self, subscribe: &[String], unsubscribe: &[String]) -> Result<Failed, Error> {
        let pipeline = self.pipeline()?;
        for channel in unsubscribe {
            // fred answers this one itself, so it has no place among the others.
            if let Some(client) = &self.client {
                client.sunsubscribe(channel.as_str()).await?;
            }
        }
        for channel in subscribe {
            pipeline.ssubscribe(channel.as_str()).await?;
        }
        let token = self.next_token();
        let _queued: Value = pipeline.custom(echo_command(), vec![token.clone()]).await?;
        let mut answers = pipeline.try_all::<Value>().await;
        match answers.pop() {
            Some(Ok(answer)) if answer.as_str().is_some_and(|answer| *answer == *token) => {}
            Some(Err(error)) => return Err(error),
            _ => return Err(out_of_step()),
        }
        if answers.len() != subscribe.len() {
            return Err(out_of_step());
        }
        self.shard.probe.pong();
        let failed = subscribe.iter().zip(answers);
        Ok(failed.filter_map(|(channel, answer)| Some((channel.clone(), answer.err()?))).collect())
    }

    fn pipeline(&self) -> Result<Pipeline<Client>, Error> {
        let client = self.client.as_ref();
        client.map(Client::pipeline).ok_or_else(|| fault::not_sent("the subscription connection is down"))
    }

    fn next_token(&mut self) -> String {
        self.token += 1;
        self.token.to_string()
    }

    /// Whether the token came back.
    async fn echo(&mut self, pipeline: &Pipeline<Client>) -> Result<bool, Error> {
        let token = self.next_token();
        let _queued: Value = pipeline.custom(echo_command(), vec![token.clone()]).await?;
        let answer: Value = pipeline.last().await?;
        Ok(answer.as_str().is_some_and(|answer| *answer == *token))
    }

    /// A refusal was taken for the answer to an ECHO, so the ECHO's own answer is still to come, and fred takes it for
    /// the next one's. Pause and ask until question and answer belong together again.
    async fn come_in_step(&mut self) {
        for _ in 0..RESYNC_TRIES {
            sleep(Duration::from_millis(2)).await;
            let Ok(pipeline) = self.pipeline() else { return };
            match self.echo(&pipeline).await {
                Ok(false) => {}
                Err(error) if fault::is_denied(&error) => {}
                Ok(true) | Err(_) => return,
            }
        }
        tracing::warn!("the subscription connection answers out of step: connecting anew");
        self.shard.probe.distrust();
    }
}

fn echo_command() -> CustomCommand {
    CustomCommand::new_static("ECHO", None::<u16>, false)
}

fn out_of_step() -> Error {
    Error::new(ErrorKind::Protocol, "an answer belongs to another question")
}

pub(super) fn down() -> BrokerError {
    BrokerError::refused("the subscription connection is down")
}
