//! Where a command goes: to the one server, or in a cluster to the one that owns the key's slot.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::ClientLike,
    types::{CustomCommand, FromValue, Value, config::Options},
    util::redis_keyslot,
};

/// What becomes of a command.
type Answer<'a> = Pin<Box<dyn Future<Output = Result<Value, Error>> + Send + 'a>>;

/// The way to the servers.
pub trait Route: Send + Sync {
    /// Sends one command to the server that owns the slot, at most once, and waits for its answer as long as is set.
    /// While that server is away it fails at once. An error of the kind [`ErrorKind::Routing`] says that nothing was
    /// sent; any other leaves that open.
    fn send<'a>(&'a self, name: &'static str, slot: u16, words: &'a [Value]) -> Answer<'a>;

    /// Whether the servers are a cluster, so that a script reaches one slot only.
    fn is_cluster(&self) -> bool;

    /// A place among the commands under way, which is free again when it is dropped; none where all are taken. The
    /// name is for the figures: a command's or a script's.
    fn begin(&self, _command: &'static str) -> Option<Box<dyn Send>> {
        Some(Box::new(()))
    }
}

/// A client of its own, for tools and tests. Give it a default command timeout: none is set here. It fails with fred's
/// own errors, which do not tell what was never sent ([`ErrorKind::Canceled`] while it is not connected).
impl Route for Client {
    fn send<'a>(&'a self, name: &'static str, slot: u16, words: &'a [Value]) -> Answer<'a> {
        let options = Options { fail_fast: true, max_attempts: Some(1), ..Options::default() };
        let command = CustomCommand::new_static(name, Some(slot), false);
        Box::pin(async move { self.with_options(&options).custom(command, words.to_vec()).await })
    }

    fn is_cluster(&self) -> bool {
        self.is_clustered()
    }
}

/// The same, cheap to clone.
#[derive(Clone)]
pub struct Routed(Arc<dyn Route>);

impl fmt::Debug for Routed {
    /// Without what is behind it: its configuration may hold a password.
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

    /// What is over the bound is refused unsent: [`map`](super::fault::map) knows this kind.
    pub(super) fn begin(&self, command: &'static str) -> Result<Box<dyn Send>, Error> {
        let busy = || Error::new(ErrorKind::Backpressure, "too many commands are in flight");
        self.0.begin(command).ok_or_else(busy)
    }

    /// Sends one command to the server that owns the slot; its place among those under way is the caller's.
    pub(super) async fn custom<R: FromValue>(
        &self,
        name: &'static str,
        slot: u16,
        words: &[Value],
    ) -> Result<R, Error> {
        self.0.send(name, slot, words).await?.convert()
    }

    /// A command whose first word is the key.
    async fn keyed<R: FromValue>(&self, name: &'static str, words: &[Value]) -> Result<R, Error> {
        let _underway = self.begin(name)?;
        let key = words.first().and_then(Value::as_bytes).unwrap_or_default();
        self.custom(name, redis_keyslot(key), words).await
    }

    pub(super) async fn hgetall<R: FromValue>(&self, key: String) -> Result<R, Error> {
        self.keyed("HGETALL", &[key.into()]).await
    }

    pub(super) async fn hget<R: FromValue>(&self, key: String, field: &str) -> Result<R, Error> {
        self.keyed("HGET", &[key.into(), field.into()]).await
    }

    pub(super) async fn hmget<R: FromValue>(&self, key: String, fields: Vec<String>) -> Result<R, Error> {
        let words: Vec<Value> = std::iter::once(key).chain(fields).map(Value::from).collect();
        self.keyed("HMGET", &words).await
    }

    pub(super) async fn set_for(&self, key: String, value: &str, lives: Duration) -> Result<(), Error> {
        let words = [key.into(), value.into(), "PX".into(), lives.as_millis().to_string().into()];
        self.keyed("SET", &words).await
    }

    pub(super) async fn getdel<R: FromValue>(&self, key: String) -> Result<R, Error> {
        self.keyed("GETDEL", &[key.into()]).await
    }

    pub(super) async fn zadd<R: FromValue>(&self, key: String, score: f64, member: &str) -> Result<R, Error> {
        self.keyed("ZADD", &[key.into(), score.to_string().into(), member.into()]).await
    }
}
