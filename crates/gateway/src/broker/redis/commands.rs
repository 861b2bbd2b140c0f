//! Sending commands: each to the server that owns its slot, with a bound on what is in flight, and refused at once
//! where that server is away.

use std::{cell::RefCell, collections::HashMap, sync::Arc, time::Instant};

use fred::{
    error::Error,
    types::{FromValue, Value},
    util::redis_keyslot,
};
use futures_util::future::BoxFuture;
use metrics::{Histogram, histogram};
use roomcast_counter::{PublishMode, Route};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::{
    fault::{self, Effect},
    queue::Command,
    resp,
    routes::Routes,
    scripts::{Call, Named},
};
use crate::{broker::BrokerError, config};

/// The way to all servers.
#[derive(Debug, Clone)]
pub(super) struct Commands {
    routes: Arc<Routes>,
    mode: PublishMode,
    in_flight: Arc<Semaphore>,
    most_at_once: usize,
}

impl Commands {
    pub(super) fn new(routes: Arc<Routes>, mode: PublishMode, settings: &config::Redis) -> Self {
        let max = settings.max_in_flight.get().min(Semaphore::MAX_PERMITS);
        // A pipeline takes a part only, so that it never shuts everything else out.
        let most_at_once = (max / 4).clamp(1, 256);
        Self { routes, mode, in_flight: Arc::new(Semaphore::new(max)), most_at_once }
    }

    /// Commands that one pipeline may hold.
    pub(super) fn most_at_once(&self) -> usize {
        self.most_at_once
    }

    /// Whether each slot may be with another server.
    pub(super) fn is_cluster(&self) -> bool {
        self.mode == PublishMode::Sharded
    }

    /// The command that publishes.
    pub(super) fn publish_command(&self) -> &'static str {
        match self.mode {
            PublishMode::Plain => "PUBLISH",
            PublishMode::Sharded => "SPUBLISH",
        }
    }

    fn permit(&self) -> Result<SemaphorePermit<'_>, BrokerError> {
        self.in_flight.try_acquire().map_err(|_full| BrokerError::Busy)
    }

    /// Sends one command to the server that owns the key.
    pub(super) async fn send<R: FromValue>(
        &self,
        name: &'static str,
        key: &str,
        words: Vec<Value>,
        effect: Effect,
    ) -> Result<R, BrokerError> {
        let _permit = self.permit()?;
        let begun = Instant::now();
        let answer = self.carry_out(redis_keyslot(key.as_bytes()), Order::Command(name, &words)).await;
        took(name, begun);
        answer.and_then(Value::convert).map_err(|error| fault::map(&error, effect))
    }

    /// Runs a script of these keys and arguments.
    pub(super) async fn run<R: FromValue>(
        &self,
        script: &Named,
        keys: Vec<String>,
        args: Vec<Value>,
        effect: Effect,
    ) -> Result<R, BrokerError> {
        let failed = |error| fault::map(&error, effect);
        let call = Call::of(&keys, &args).map_err(failed)?;
        self.call(script, &call, effect).await?.convert().map_err(failed)
    }

    /// Runs a script by its hash, and in full where the server does not know it: then it certainly did not run.
    pub(super) async fn call(
        &self,
        script: &Named,
        call: &Call,
        effect: Effect,
    ) -> Result<Value, BrokerError> {
        let _permit = self.permit()?;
        let begun = Instant::now();
        let answer = self.carry_out(call.slot(), Order::Script(script, call)).await;
        took(script.name, begun);
        answer.map_err(|error| fault::map(&error, effect))
    }

    /// Has an order carried out by the server that owns the slot.
    async fn carry_out(&self, slot: u16, order: Order<'_>) -> Result<Value, Error> {
        let shard =
            self.routes.owner(slot).ok_or_else(|| fault::not_sent("no server owns the room's slot"))?;
        let commands = shard.commands().ok_or_else(|| shard.away())?;
        let answer = commands.send_written(order.written()?).await;
        let Err(error) = answer else { return answer };
        if error.details().starts_with("READONLY") {
            // The master of a moment ago is a replica now.
            self.routes.look_again();
            shard.leave();
        }
        match self.mode {
            PublishMode::Sharded => Box::pin(self.follow(error, order)).await,
            PublishMode::Plain => Err(error),
        }
    }

    /// Sends an order where a server of a cluster says that it belongs. A redirection means that nothing ran, so this
    /// is no retry.
    async fn follow(&self, error: Error, order: Order<'_>) -> Result<Value, Error> {
        let Some((redirect, server)) = redirection(&error) else { return Err(error) };
        if redirect == Redirect::Moved {
            self.routes.look_again();
        }
        let Some(commands) = self.routes.at(server).and_then(|shard| shard.commands()) else {
            return Err(error);
        };
        match redirect {
            Redirect::Moved => commands.send_written(order.written()?).await,
            Redirect::Ask => commands.send_written(order.written()?.asking()?).await,
        }
    }
}

/// What a server is to do. It is written anew for each that it is sent to.
#[derive(Debug, Clone, Copy)]
enum Order<'a> {
    Command(&'static str, &'a [Value]),
    Script(&'a Named, &'a Call),
}

impl Order<'_> {
    fn written(self) -> Result<Command, Error> {
        match self {
            Self::Command(name, words) => resp::command(name, words).map(Command::new),
            Self::Script(script, call) => Ok(script.called(call)),
        }
    }
}

/// The counters' way to the same servers, under the same bound and among the same figures.
impl Route for Commands {
    fn send<'a>(
        &'a self,
        name: &'static str,
        slot: u16,
        words: &'a [Value],
    ) -> BoxFuture<'a, Result<Value, Error>> {
        Box::pin(self.carry_out(slot, Order::Command(name, words)))
    }

    fn is_cluster(&self) -> bool {
        Self::is_cluster(self)
    }

    fn begin(&self, command: &'static str) -> Option<Box<dyn Send>> {
        let permit = self.in_flight.clone().try_acquire_owned().ok()?;
        Some(Box::new(Underway { command, begun: Instant::now(), _permit: permit }))
    }
}

/// A command that is counted while it is under way, and timed when it is done.
struct Underway {
    command: &'static str,
    begun: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Underway {
    fn drop(&mut self) {
        took(self.command, self.begun);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Redirect {
    Moved,
    Ask,
}

/// `MOVED 3999 127.0.0.1:6381`, `ASK 3999 127.0.0.1:6381`.
fn redirection(error: &Error) -> Option<(Redirect, &str)> {
    let mut words = error.details().split_whitespace();
    let redirect = match words.next()? {
        "MOVED" => Redirect::Moved,
        "ASK" => Redirect::Ask,
        _ => return None,
    };
    Some((redirect, words.nth(1)?))
}

thread_local! {
    /// The histograms of the commands that this thread has timed: to look one up costs more than to record into it.
    static TOOK: RefCell<HashMap<&'static str, Histogram>> = RefCell::default();
}

/// The recorder is there before any command is sent: a node installs it before it connects.
fn took(command: &'static str, begun: Instant) {
    let named = || histogram!("roomcast_redis_command_duration_seconds", "command" => command);
    let record = |known: &mut HashMap<_, Histogram>| {
        known.entry(command).or_insert_with(named).record(begun.elapsed());
    };
    TOOK.with_borrow_mut(record);
}

#[cfg(test)]
mod tests {
    use fred::error::ErrorKind;

    use super::*;

    #[test]
    fn redirections_are_read() {
        let read = |text: &'static str| {
            redirection(&Error::new(ErrorKind::Cluster, text)).map(|(kind, server)| (kind, server.to_owned()))
        };
        assert_eq!(read("MOVED 3999 127.0.0.1:6381"), Some((Redirect::Moved, "127.0.0.1:6381".to_owned())));
        assert_eq!(read("ASK 1 ::1:6381"), Some((Redirect::Ask, "::1:6381".to_owned())));
        assert_eq!(read("MOVED 3999"), None);
        assert_eq!(read("OOM command not allowed"), None);
    }
}
