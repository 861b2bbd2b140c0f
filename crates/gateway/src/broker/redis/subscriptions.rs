//! What this node is subscribed to on one server: one task that alone writes to the subscription connection.
//!
//! A channel counts as subscribed once the server has said so, by its name; each is asked for by itself, so that one which
//! is denied does not take others along, as a cluster demands of sharded channels anyway.
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
    error::{Error, ErrorKind},
    util::redis_keyslot,
};
use roomcast_counter::PublishMode;
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    fault::{self, Effect},
    hearing::{Answers, Asker, Hearing},
    probe::PROBE_INTERVAL,
    resp,
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

/// What the task is asked.
#[derive(Debug)]
pub(super) enum Request {
    Subscribe(String, Waiter),
    Unsubscribe(String),
    /// These channels were proven on another server, and belong to this one now.
    Adopt(Vec<String>),
    /// These belong to another server now.
    Abandon(Vec<String>),
    /// The server has ended the subscription of this channel by itself.
    Ended(String),
}

pub(super) type Waiter = oneshot::Sender<Result<(), BrokerError>>;

/// The task's state.
pub(super) struct Task {
    context: Arc<Context>,
    shard: Arc<Shard>,
    requests: mpsc::Receiver<Request>,
    /// A connection that stands already when the task begins.
    standing: Option<Hearing>,
    /// Asks over the connection, while there is one.
    asker: Option<Asker>,
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
}

/// Which channels failed, each for its reason.
type Failed = HashMap<String, Error>;

/// The commands for a kind of channels.
struct Words {
    subscribe: &'static str,
    unsubscribe: &'static str,
}

const PLAIN: Words = Words { subscribe: "SUBSCRIBE", unsubscribe: "UNSUBSCRIBE" };
const SHARDED: Words = Words { subscribe: "SSUBSCRIBE", unsubscribe: "SUNSUBSCRIBE" };

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
            asker: None,
            channels,
            due: HashSet::new(),
            strays: HashSet::new(),
            proven: false,
            missed,
        }
    }

    /// The first connection of a node: subscribes what it has to hear always. A denial here is a wrong ACL.
    pub(super) async fn begin(&mut self, hearing: Hearing, asker: Asker) -> Result<(), Error> {
        self.take_up(asker);
        let channels: Vec<_> = self.channels.iter().cloned().collect();
        let failed = self.prove(&channels, &[]).await?;
        if let Some(error) = failed.into_values().next() {
            return Err(error);
        }
        let probe = vec![self.shard.probe_channel.clone()];
        if let Some(error) = self.prove_as(&PLAIN, &probe, &[]).await?.into_values().next() {
            return Err(error);
        }
        self.due.clear();
        self.proven = true;
        self.missed = false;
        self.standing = Some(hearing);
        Ok(())
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
                why = hearing.ended() => Some(why),
                () = shard.subscriptions_given_up() => Some("it was given up".to_owned()),
                why = self.work() => why,
            };
            let Some(why) = why else { return };
            self.missed = true;
            self.proven = false;
            self.asker = None;
            self.strays.clear();
            self.shard.probe.subscriptions_closed();
            self.context.health.down(&self.shard.server, &why);
            tracing::warn!(server = %self.shard.server, why, "the subscription connection to Redis was lost");
            shard::freeze(&self.context, &self.shard);
        }
    }

    /// A connection stands on which nothing is subscribed.
    fn take_up(&mut self, asker: Asker) {
        self.shard.forget_doubts();
        self.shard.probe.subscriptions_opened(Instant::now());
        self.asker = Some(asker);
        self.due.clone_from(&self.channels);
    }

    /// Opens a connection, and refuses what is asked meanwhile. None when nobody can ask any more.
    async fn connect(&mut self) -> Option<Hearing> {
        let (context, shard) = (self.context.clone(), self.shard.clone());
        let mut opening = std::pin::pin!(shard::open_subscriptions(&context, &shard));
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                (hearing, asker) = &mut opening => {
                    self.take_up(asker);
                    return Some(hearing);
                }
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
                            // Of the connection that is gone.
                            Request::Ended(_) => {}
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
            match self.subscribe_due().await {
                Ok(()) => {}
                // It does nothing for anybody for a while: another connection would not help.
                Err(error) if fault::is_busy(&error) && attempt < MEND_ATTEMPTS => {}
                Err(error) => return Err(error),
            }
            // Who is asked for a slot that is somebody else's will be told to abandon it; all else passes soon.
            if self.due.is_empty() || attempt >= MEND_ATTEMPTS {
                break;
            }
            sleep(random::jitter(MEND_PAUSE)).await;
        }
        // The node's own channel comes last: a probe that is heard proves that all stands.
        let probe = vec![self.shard.probe_channel.clone()];
        if let Some(error) = self.prove_as(&PLAIN, &probe, &[]).await?.into_values().next() {
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

    /// Subscribes what is due, in chunks. What the server can't do yet stays due. Of what is subscribed late something may
    /// have been missed, and each chunk says so by itself: the next may fail.
    async fn subscribe_due(&mut self) -> Result<(), Error> {
        let mut due: Vec<_> = self.due.iter().cloned().collect();
        // Those of one slot together: whole slots are told that something was missed.
        due.sort_by_cached_key(|channel| redis_keyslot(channel.as_bytes()));
        for (number, chunk) in due.chunks(CHUNK).enumerate() {
            if number > 0 {
                sleep(random::jitter(CHUNK_PAUSE)).await;
            }
            let failed = self.prove(chunk, &[]).await?;
            let mut proven = Vec::new();
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
                        proven.push(channel);
                    }
                }
            }
            // On a new connection it is said of all of them, at the end.
            if self.proven && !proven.is_empty() {
                self.context.feed.lock().interrupt(self.scope(proven));
            }
        }
        Ok(())
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
            // A slow answer is no lost connection; the watchdog knows those.
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
                Request::Ended(channel) => {
                    if self.channels.contains(&channel) {
                        self.due.insert(channel);
                        self.context.routes.look_again();
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
        // Of many requests the last catches up for all.
        if self.requests.is_empty() { self.catch_up().await } else { Ok(()) }
    }

    /// Nobody wants it here any more. It may be subscribed also where it is due.
    fn forget(&mut self, channel: String) {
        self.due.remove(&channel);
        if self.channels.remove(&channel) {
            self.strays.insert(channel);
        }
    }

    /// Subscribes what is due, if anything is.
    async fn catch_up(&mut self) -> Result<(), Error> {
        if self.due.is_empty() { Ok(()) } else { self.subscribe_due().await }
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
        match self.prove(&channels, &gone).await {
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
        self.prove(&[], &gone).await?;
        for channel in gone {
            self.strays.remove(&channel);
        }
        self.catch_up().await
    }

    /// Subscribes and unsubscribes, and proves it. An error means that nothing is certain.
    async fn prove(&mut self, subscribe: &[String], unsubscribe: &[String]) -> Result<Failed, Error> {
        let words = match self.context.mode {
            PublishMode::Plain => &PLAIN,
            PublishMode::Sharded => &SHARDED,
        };
        self.prove_as(words, subscribe, unsubscribe).await
    }

    async fn prove_as(
        &mut self,
        Words { subscribe: add, unsubscribe: remove }: &Words,
        subscribe: &[String],
        unsubscribe: &[String],
    ) -> Result<Failed, Error> {
        let asker =
            self.asker.as_mut().ok_or_else(|| fault::not_sent("the subscription connection is down"))?;
        let gone = unsubscribe.iter().map(|channel| (remove, channel));
        let all = gone.chain(subscribe.iter().map(|channel| (add, channel)));
        let commands = all.map(|(word, channel)| resp::command(word, &[channel.as_str().into()]));
        let Answers { subscribed, refusals } = asker.ask(commands, unsubscribe).await?;
        self.shard.probe.pong();
        let refused: Vec<_> = subscribe.iter().filter(|channel| !subscribed.contains(*channel)).collect();
        // Those of the channels that were to be left came first.
        let lefts = refusals.len().checked_sub(refused.len()).ok_or_else(out_of_step)?;
        Ok(refused.into_iter().cloned().zip(refusals.into_iter().skip(lefts)).collect())
    }
}

fn out_of_step() -> Error {
    Error::new(ErrorKind::Protocol, "an answer belongs to another question")
}

pub(super) fn down() -> BrokerError {
    BrokerError::refused("the subscription connection is down")
}
