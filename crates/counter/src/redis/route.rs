//! Which client a command goes to: one for all, or in a cluster the one of the server that owns the key's slot.

use std::{fmt, sync::Arc};

use fred::{
    clients::{Client, WithOptions},
    error::{Error, ErrorKind},
    interfaces::{ClientLike, HashesInterface, KeysInterface, SortedSetsInterface},
    types::{CustomCommand, Expiration, FromValue, Value, config::Options},
    util::redis_keyslot,
};

/// Finds the client for a slot.
pub trait Route: Send + Sync {
    /// The client of the server that owns the slot; none while it is away.
    fn client(&self, slot: u16) -> Option<Client>;

    /// Whether the servers are a cluster, so that a script reaches one slot only.
    fn is_cluster(&self) -> bool;

    /// A server said that a slot is not its own any more.
    fn moved(&self) {}

    /// A place among the commands under way, which is free again when it is dropped; none where all are taken. The
    /// name is for the figures: a command's or a script's.
    fn begin(&self, _command: &'static str) -> Option<Box<dyn Send>> {
        Some(Box::new(()))
    }
}

impl Route for Client {
    fn client(&self, _slot: u16) -> Option<Client> {
        Some(self.clone())
    }

    fn is_cluster(&self) -> bool {
        self.is_clustered()
    }
}

/// The way to all clients; cheap to clone. Give them a default command timeout: none is set here.
#[derive(Clone)]
pub struct Routed(Arc<dyn Route>);

impl fmt::Debug for Routed {
    /// Without the clients: their configuration may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routed").finish_non_exhaustive()
    }
}

impl From<Client> for Routed {
    fn from(client: Client) -> Self {
        Self(Arc::new(client))
    }
}

impl From<Arc<dyn Route>> for Routed {
    fn from(route: Arc<dyn Route>) -> Self {
        Self(route)
    }
}

impl Routed {
    pub(crate) fn is_cluster(&self) -> bool {
        self.0.is_cluster()
    }

    /// While the connection is away a command fails at once, and none is ever written twice.
    fn at(&self, slot: u16) -> Result<WithOptions<Client>, Error> {
        let options = Options { fail_fast: true, max_attempts: Some(1), ..Options::default() };
        // Worded as fred does where it does not send.
        let away = || Error::new(ErrorKind::Canceled, "Connection closed unexpectedly.");
        self.0.client(slot).map(|client| client.with_options(&options)).ok_or_else(away)
    }

    fn of(&self, key: &str) -> Result<WithOptions<Client>, Error> {
        self.at(redis_keyslot(key.as_bytes()))
    }

    /// What is over the bound is refused unsent: [`map`](super::fault::map) knows this kind.
    pub(super) fn begin(&self, command: &'static str) -> Result<Box<dyn Send>, Error> {
        let busy = || Error::new(ErrorKind::Backpressure, "too many commands are in flight");
        self.0.begin(command).ok_or_else(busy)
    }

    fn heed<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        if answer.as_ref().is_err_and(|error| error.details().starts_with("MOVED")) {
            self.0.moved();
        }
        answer
    }

    /// Sends one command to the server that owns the slot; its place among those under way is the caller's. Boxed, as
    /// all of them: fred's futures are large, and sessions hold them.
    pub(super) async fn custom<R: FromValue>(
        &self,
        name: &'static str,
        slot: u16,
        words: Vec<Value>,
    ) -> Result<R, Error> {
        let command = CustomCommand::new_static(name, Some(slot), false);
        let client = self.at(slot)?;
        self.heed(Box::pin(client.custom(command, words)).await)
    }

    pub(super) async fn hgetall<R: FromValue>(&self, key: String) -> Result<R, Error> {
        let _underway = self.begin("HGETALL")?;
        let client = self.of(&key)?;
        self.heed(Box::pin(client.hgetall(key)).await)
    }

    pub(super) async fn hget<R: FromValue>(&self, key: String, field: &str) -> Result<R, Error> {
        let _underway = self.begin("HGET")?;
        let client = self.of(&key)?;
        self.heed(Box::pin(client.hget(key, field)).await)
    }

    pub(super) async fn hmget<R: FromValue>(&self, key: String, fields: Vec<String>) -> Result<R, Error> {
        let _underway = self.begin("HMGET")?;
        let client = self.of(&key)?;
        self.heed(Box::pin(client.hmget(key, fields)).await)
    }

    pub(super) async fn set_for(&self, key: String, value: &str, expires: Expiration) -> Result<(), Error> {
        let _underway = self.begin("SET")?;
        let client = self.of(&key)?;
        self.heed(Box::pin(client.set(key, value, Some(expires), None, false)).await)
    }

    pub(super) async fn getdel<R: FromValue>(&self, key: String) -> Result<R, Error> {
        let _underway = self.begin("GETDEL")?;
        let client = self.of(&key)?;
        self.heed(Box::pin(client.getdel(key)).await)
    }

    pub(super) async fn zadd<R: FromValue>(&self, key: String, score: f64, member: &str) -> Result<R, Error> {
        let _underway = self.begin("ZADD")?;
        let client = self.of(&key)?;
        self.heed(Box::pin(client.zadd(key, None, None, false, false, (score, member))).await)
    }
}
