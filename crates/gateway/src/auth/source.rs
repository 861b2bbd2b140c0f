//! Where public keys come from: a file that is read again when it changes, or a URL that is fetched in the
//! background. Old keys stay until there are new ones.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::keys::KeySet;
use crate::config::JwksSource;

/// A key set is a few KiB.
const MAX_BODY: usize = 1 << 20;
/// An issuer that needs longer is down.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Unknown key ids are anyone's to send, so they cause a fetch this seldom.
const REFETCH_INTERVAL: Duration = Duration::from_secs(30);
/// Without an unknown key: a key that its issuer withdrew must go, too.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);
/// Between attempts while there are no keys at all, doubled up to [`REFETCH_INTERVAL`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A file's time is looked at this often, in ms.
const FILE_CHECK_MS: u64 = 1_000;

/// Why there are no (new) keys.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// The file can't be read.
    #[error("the JWKS file can't be read: {0}")]
    File(#[source] io::Error),
    /// No client for HTTPS can be made, such as without root certificates.
    #[error("no HTTPS client: {0}")]
    Client(#[source] reqwest::Error),
    /// No answer, or not in time.
    #[error("the JWKS can't be fetched: {0}")]
    Fetch(#[source] reqwest::Error),
    /// An answer that is none.
    #[error("the JWKS can't be fetched: HTTP status {0}")]
    Status(u16),
    /// More than 1 MiB.
    #[error("the JWKS is larger than 1 MiB")]
    TooLarge,
    /// No JWKS document.
    #[error("this is no JWKS document")]
    Malformed,
    /// More than 100 keys.
    #[error("the JWKS holds more than 100 keys")]
    TooMany,
    /// None that verifies RS*, PS*, ES256, ES384 or `EdDSA`.
    #[error("the JWKS holds no key that can verify tokens")]
    NoUsableKey,
}

pub(super) struct Source {
    kind: Kind,
    keys: RwLock<Option<Arc<KeySet>>>,
}

enum Kind {
    File { path: PathBuf, seen: Mutex<Seen> },
    Url { url: String, client: reqwest::Client, wanted: Mutex<Wanted>, wake: Notify },
}

/// What was last seen of the file.
#[derive(Default)]
struct Seen {
    checked_at: u64,
    stamp: Option<(SystemTime, u64)>,
}

#[derive(Default)]
struct Wanted {
    is_wanted: bool,
    attempted: Option<Instant>,
}

impl Source {
    /// A file is read at once, a URL only by [`keep_fresh`](Self::keep_fresh) or [`refresh`](Self::refresh).
    pub(super) fn new(source: &JwksSource) -> Result<Self, JwksError> {
        let kind = match source {
            JwksSource::File(path) => Kind::File { path: path.clone(), seen: Mutex::default() },
            JwksSource::Url(url) => {
                // No redirects: the address was checked, where it leads to was not.
                let client = reqwest::Client::builder()
                    .timeout(FETCH_TIMEOUT)
                    .redirect(reqwest::redirect::Policy::none())
                    .build()
                    .map_err(JwksError::Client)?;
                Kind::Url { url: url.clone(), client, wanted: Mutex::default(), wake: Notify::new() }
            }
        };
        let source = Self { kind, keys: RwLock::new(None) };
        if let Kind::File { path, seen } = &source.kind {
            source.store(read(path, &mut lock(seen))?);
        }
        Ok(source)
    }

    /// The keys of the moment.
    pub(super) fn keys(&self, now: u64) -> Option<Arc<KeySet>> {
        if let Kind::File { path, seen } = &self.kind {
            // Whoever finds it locked uses the keys that are there.
            if let Ok(mut seen) = seen.try_lock() {
                self.look_again(path, &mut seen, now);
            }
        }
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After an unknown key: whether newer keys may be on their way. Asks for them, but seldom.
    pub(super) fn ask_for_newer(&self) -> bool {
        let Kind::Url { wanted, wake, .. } = &self.kind else { return false };
        let mut wanted = lock(wanted);
        if wanted.is_wanted {
            return true;
        }
        if wanted.attempted.is_some_and(|at| at.elapsed() < REFETCH_INTERVAL) {
            return false;
        }
        wanted.is_wanted = true;
        wake.notify_one();
        true
    }

    /// Reads or fetches now.
    pub(super) async fn refresh(&self) -> Result<usize, JwksError> {
        let keys = match &self.kind {
            Kind::File { path, seen } => read(path, &mut lock(seen))?,
            Kind::Url { url, client, wanted, .. } => {
                lock(wanted).attempted = Some(Instant::now());
                let fetched = fetch(client, url).await;
                *lock(wanted) = Wanted { is_wanted: false, attempted: Some(Instant::now()) };
                fetched?
            }
        };
        Ok(self.store(keys))
    }

    /// Fetches at once, when asked, and now and then; never ends, unless there is nothing to fetch.
    pub(super) async fn keep_fresh(&self) {
        let Kind::Url { wake, .. } = &self.kind else { return };
        let mut retry = FIRST_RETRY;
        loop {
            let result = self.refresh().await;
            match &result {
                Ok(keys) => tracing::debug!(keys, "public keys fetched"),
                Err(error) => tracing::warn!(%error, "public keys not fetched; the old ones stay"),
            }
            let has_keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).is_some();
            if has_keys {
                retry = FIRST_RETRY;
                let next = if result.is_ok() { REFRESH_INTERVAL } else { REFETCH_INTERVAL };
                let _elapsed = timeout_at(Instant::now() + next, wake.notified()).await;
            } else {
                sleep(retry).await;
                retry = (retry * 2).min(REFETCH_INTERVAL);
            }
        }
    }

    fn look_again(&self, path: &PathBuf, seen: &mut Seen, now: u64) {
        // A clock that was set back must not stop the checks.
        if now >= seen.checked_at && now - seen.checked_at < FILE_CHECK_MS {
            return;
        }
        seen.checked_at = now;
        if stamp(path) == seen.stamp {
            return;
        }
        match read(path, seen) {
            Ok(keys) => {
                self.store(keys);
            }
            Err(error) => tracing::warn!(%error, "changed JWKS file not taken; the old keys stay"),
        }
    }

    fn store(&self, keys: KeySet) -> usize {
        let count = keys.len();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
        count
    }
}

/// Reads the file and remembers which state of it that was; a bad state is not read again until it changes.
fn read(path: &PathBuf, seen: &mut Seen) -> Result<KeySet, JwksError> {
    seen.stamp = stamp(path);
    if seen.stamp.is_some_and(|(_, length)| length > MAX_BODY as u64) {
        return Err(JwksError::TooLarge);
    }
    KeySet::parse(&fs::read(path).map_err(JwksError::File)?)
}

fn stamp(path: &PathBuf) -> Option<(SystemTime, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

async fn fetch(client: &reqwest::Client, url: &str) -> Result<KeySet, JwksError> {
    let mut response = client.get(url).send().await.map_err(fetch_error)?;
    if !response.status().is_success() {
        return Err(JwksError::Status(response.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(fetch_error)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(JwksError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    KeySet::parse(&body)
}

/// Without the address: it may hold a key of its own.
fn fetch_error(error: reqwest::Error) -> JwksError {
    JwksError::Fetch(error.without_url())
}

/// Nothing that holds these locks can panic halfway through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
