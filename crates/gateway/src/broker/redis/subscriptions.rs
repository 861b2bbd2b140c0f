//! What this node is subscribed to on one server: one task that alone writes to the subscription connection.
//!
//! fred answers a SUBSCRIBE before it is written, and drops the server's refusal of one onto whatever command waits
//! next. So each SUBSCRIBE goes out in one pipeline with an ECHO of a fresh token, and nothing else is on the way
//! meanwhile: the token back means that all before it was carried out, a NOPERM in its place that it was denied. (ECHO
//! and not PING, which Redis refuses while it can't write to its disk.) Sharded channels are asked for one by one, as
//! a cluster demands, and each is answered by itself.
//!
//! A new connection has nothing subscribed; the task subscribes anew, proves it, and only then says `Interrupted`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use fred::{
    clients::Pipeline,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, PubsubInterface},
    types::{CustomCommand, Value},
};
use roomcast_counter::PublishMode;
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::DropGuard;

use super::{
    fault::{self, Effect},
    link::{Link, Purpose},
    probe::PROBE_INTERVAL,
    shard::{self, Context, Shard},
};
use crate::{broker::BrokerError, random};

/// Channels in one round trip: well below a second's work for the server.
const CHUNK: usize = 500;
/// Between the chunks of many, and up to half as much again: all nodes come back at the same moment.
const CHUNK_PAUSE: Duration = Duration::from_millis(5);
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
    hearing: Option<Hearing>,
    /// Channels whose subscription was proven once, and has to be proven again on each new connection.
    channels: HashSet<String>,
    /// Channels that may be subscribed though nobody wants them.
    strays: HashSet<String>,
    /// All of them are subscribed on this connection.
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
            hearing: None,
            channels,
            strays: HashSet::new(),
            proven: false,
            missed,
            token: 0,
        }
    }

    /// The first connection of a node: subscribes what it has to hear always. A denial here is a wrong ACL.
    pub(super) async fn begin(&mut self, link: Link) -> Result<(), Error> {
        self.hear(link);
        let channels = self.channels.iter().cloned().collect();
        let failed = self.prove(channels, Vec::new()).await?;
        if let Some(error) = failed.into_values().next() {
            return Err(error);
        }
        let probe = vec![self.shard.probe_channel.clone()];
        match self.prove_plain(&probe, &[]).await? {
            failed if failed.is_empty() => {
                self.proven = true;
                self.missed = false;
                Ok(())
            }
            failed => Err(failed.into_values().next().unwrap_or_else(out_of_step)),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            if self.hearing.is_none() && !self.connect().await {
                return;
            }
            let why = match self.mend().await {
                Ok(()) => match self.serve().await {
                    Some(why) => why,
                    None => return,
                },
                Err(error) => {
                    sleep(random::jitter(Duration::from_millis(50))).await;
                    error.to_string()
                }
            };
            self.missed = true;
            self.proven = false;
            self.hearing = None;
            self.strays.clear();
            self.shard.probe.subscriptions_closed();
            self.context.health.down(&self.shard.server, &why);
            tracing::warn!(server = %self.shard.server, why, "the subscription connection to Redis was lost");
            shard::freeze(&self.context, &self.shard);
        }
    }

    fn hear(&mut self, link: Link) {
        self.shard.forget_doubts();
        let reading = shard::read(&self.context, &self.shard, &link);
        self.shard.probe.subscriptions_opened(Instant::now());
        self.hearing = Some(Hearing { link, _reading: reading });
    }

    /// Opens a connection, and refuses what is asked meanwhile. False when nobody can ask any more.
    async fn connect(&mut self) -> bool {
        let (context, shard) = (self.context.clone(), self.shard.clone());
        let mut opening = std::pin::pin!(shard::open(&context, &shard, Purpose::Subscriptions));
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                link = &mut opening => {
                    self.hear(link);
                    return true;
                }
                received = self.requests.recv_many(&mut batch, CHUNK) => {
                    if received == 0 {
                        return false;
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

    /// On a new connection: subscribes everything anew, in chunks.
    async fn mend(&mut self) -> Result<(), Error> {
        if self.proven {
            return Ok(());
        }
        let channels: Vec<_> = self.channels.iter().cloned().collect();
        for (number, chunk) in channels.chunks(CHUNK).enumerate() {
            if number > 0 {
                sleep(random::jitter(CHUNK_PAUSE)).await;
            }
            for (channel, error) in self.prove(chunk.to_vec(), Vec::new()).await? {
                if fault::is_elsewhere(&error) {
                    self.context.routes.look_again();
                } else {
                    // Its members find out by the look at tails; there is no one here to tell.
                    tracing::error!(channel, %error, "the subscription is denied since the reconnect");
                }
                self.channels.remove(&channel);
            }
        }
        // The node's own channel comes last: a probe that is heard proves that all stands.
        let probe = vec![self.shard.probe_channel.clone()];
        if let Some(error) = self.prove_plain(&probe, &[]).await?.into_values().next() {
            return Err(error);
        }
        self.proven = true;
        if std::mem::take(&mut self.missed) {
            self.context.health.reconnected();
            self.context.feed.lock().interrupt();
        }
        tracing::info!(server = %self.shard.server, channels = self.channels.len(), "subscribed anew");
        Ok(())
    }

    /// Carries out what is asked until the connection is lost, and says why it was; none when nobody can ask any more.
    async fn serve(&mut self) -> Option<String> {
        let shard = self.shard.clone();
        let mut ticks = interval(PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            let hearing = self.hearing.as_mut()?;
            let done = tokio::select! {
                why = hearing.link.ended() => return Some(why),
                () = shard.subscriptions_given_up() => return Some("it was given up".to_owned()),
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
        let mut adopted = false;
        for request in batch {
            match request {
                Request::Subscribe(_, waiter) if waiter.is_closed() => {}
                Request::Subscribe(channel, waiter) => {
                    wanted.insert(channel.clone(), true);
                    waiters.push((channel, waiter));
                }
                Request::Unsubscribe(channel) => {
                    wanted.insert(channel, false);
                }
                Request::Adopt(channels) => {
                    adopted = true;
                    wanted.extend(channels.into_iter().map(|channel| (channel, true)));
                }
                Request::Abandon(channels) => {
                    wanted.extend(channels.into_iter().map(|channel| (channel, false)));
                }
            }
        }
        for (channel, _) in wanted.iter().filter(|(_, wanted)| !**wanted) {
            if self.channels.remove(channel) {
                self.strays.insert(channel.clone());
            }
        }
        let new: Vec<_> = wanted
            .into_iter()
            .filter(|(channel, wanted)| *wanted && !self.channels.contains(channel))
            .map(|(channel, _)| channel)
            .collect();
        let failed = self.add(new).await;
        for (channel, waiter) in waiters {
            let answer =
                failed.get(&channel).map_or(Ok(()), |error| Err(fault::map(error, Effect::Harmless)));
            // A caller that no longer waits will not unsubscribe either.
            if waiter.send(answer).is_err() && self.channels.remove(&channel) {
                self.strays.insert(channel);
            }
        }
        if adopted {
            // What was published between the servers was heard by nobody.
            self.context.feed.lock().interrupt();
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
                            self.channels.insert(channel);
                        }
                        Some(error) if fault::is_elsewhere(error) => self.context.routes.look_again(),
                        Some(error) if fault::is_denied(error) => {}
                        Some(_) => {
                            // Nobody knows whether it was subscribed.
                            self.strays.insert(channel);
                        }
                    }
                }
                failed
            }
            Err(error) => {
                self.strays.extend(channels.iter().cloned());
                channels.into_iter().map(|channel| (channel, error.clone())).collect()
            }
        }
    }

    /// Drops what nobody wants, and shows that the connection lives.
    async fn tidy(&mut self) -> Result<(), Error> {
        let gone: Vec<_> = self.strays.iter().take(CHUNK).cloned().collect();
        self.prove(Vec::new(), gone.clone()).await?;
        for channel in gone {
            self.strays.remove(&channel);
        }
        Ok(())
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
            let client = self.hearing.as_ref().map(|hearing| hearing.link.client().clone());
            if let Some(client) = client {
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

    fn pipeline(&self) -> Result<Pipeline<fred::clients::Client>, Error> {
        let hearing = self.hearing.as_ref();
        hearing
            .map(|hearing| hearing.link.client().pipeline())
            .ok_or_else(|| fault::not_sent("the subscription connection is down"))
    }

    fn next_token(&mut self) -> String {
        self.token += 1;
        self.token.to_string()
    }

    /// Whether the token came back.
    async fn echo(&mut self, pipeline: &Pipeline<fred::clients::Client>) -> Result<bool, Error> {
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
