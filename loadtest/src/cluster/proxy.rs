//! A TCP proxy between one node and Redis, which breaks connections in the ways that networks do.
//!
//! It tells subscription connections from command connections by what the node says on them, and understands
//! nothing else of the protocol. A fault takes hold of connections that exist; new ones pass, unless the
//! whole link is down.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::sleep,
};

const BUFFER: usize = 16 * 1024;
/// The end of SUBSCRIBE, SSUBSCRIBE and their like as a word of a command; a script's text may hold the bare word.
const WORD: &[u8] = b"SUBSCRIBE\r\n";

/// What a connection suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Bytes pass.
    Clear,
    /// Nothing passes, in neither direction, and nobody is told: a half-open connection.
    Frozen,
    /// What the node says arrives; what Redis answers is gone.
    Deaf,
    /// Bytes arrive late, in order.
    Late(Duration),
    /// The connection is reset.
    Cut,
}

/// Which connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// On which the node subscribes.
    Subscriptions,
    /// The others.
    Commands,
    /// All, and those that come while it lasts.
    Link,
}

#[derive(Debug)]
struct Link {
    subscribes: Arc<AtomicBool>,
    weather: watch::Sender<Weather>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    links: Mutex<Vec<Link>>,
    /// For new connections.
    climate: watch::Sender<Weather>,
}

/// One node's way to Redis. Its connections end when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(upstream: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a port for a proxy")?;
        let port = listener.local_addr().context("a proxy's address")?.port();
        let shared = Arc::new(Shared {
            upstream: SocketAddr::from((Ipv4Addr::LOCALHOST, upstream)),
            links: Mutex::default(),
            climate: watch::channel(Weather::Clear).0,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared.clone()));
        Ok(Self { port, shared, _tasks: tasks })
    }

    /// Lets connections suffer; answers how many do.
    pub(crate) fn set(&self, kind: Kind, weather: Weather) -> usize {
        let mut links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| link.weather.receiver_count() > 0);
        if kind == Kind::Link {
            self.shared.climate.send_replace(weather);
        }
        let hit = links.iter().filter(|link| match kind {
            Kind::Subscriptions => link.subscribes.load(Ordering::Relaxed),
            Kind::Commands => !link.subscribes.load(Ordering::Relaxed),
            Kind::Link => true,
        });
        hit.fold(0, |hit, link| {
            link.weather.send_replace(weather);
            hit + 1
        })
    }

    /// Clear weather again. A connection that lost bytes can't go on as if nothing had been: it is cut.
    pub(crate) fn calm(&self) {
        self.shared.climate.send_replace(Weather::Clear);
        let links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        for link in links.iter() {
            link.weather.send_modify(|weather| {
                *weather = if *weather == Weather::Deaf { Weather::Cut } else { Weather::Clear };
            });
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and with them all connections.
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = links.join_next() => {}
            accepted = listener.accept() => {
                if let Ok((node, _)) = accepted {
                    links.spawn(carry(node, shared.clone()));
                }
            }
        }
    }
}

async fn carry(node: TcpStream, shared: Arc<Shared>) {
    let mut climate = shared.climate.subscribe();
    let now = *climate.borrow_and_update();
    if now == Weather::Frozen && climate.wait_for(|weather| *weather != Weather::Frozen).await.is_err() {
        return;
    }
    let Ok(redis) = TcpStream::connect(shared.upstream).await else { return };
    let _slower = (node.set_nodelay(true), redis.set_nodelay(true));
    let subscribes = Arc::new(AtomicBool::new(false));
    let (weather, felt) = watch::channel(*shared.climate.borrow());
    let link = Link { subscribes: subscribes.clone(), weather };
    shared.links.lock().unwrap_or_else(PoisonError::into_inner).push(link);
    let (from_node, to_node) = node.into_split();
    let (from_redis, to_redis) = redis.into_split();
    // Either direction's end is the end of both.
    tokio::select! {
        () = pump(from_node, to_redis, felt.clone(), Some(&subscribes)) => {}
        () = pump(from_redis, to_node, felt.clone(), None) => {}
        () = cut(felt) => {}
    }
}

async fn cut(mut felt: watch::Receiver<Weather>) {
    let _told = felt.wait_for(|weather| *weather == Weather::Cut).await;
}

/// `spoken` is given for what the node says: there the kind of connection shows.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut felt: watch::Receiver<Weather>,
    spoken: Option<&AtomicBool>,
) {
    let mut buffer = vec![0; BUFFER];
    let mut tail = Vec::new();
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let bytes = &buffer[..read];
        if let Some(subscribes) = spoken.filter(|kind| !kind.load(Ordering::Relaxed)) {
            tail.extend_from_slice(bytes);
            if tail.windows(WORD.len()).any(|word| word.eq_ignore_ascii_case(WORD)) {
                subscribes.store(true, Ordering::Relaxed);
            }
            tail.drain(..tail.len().saturating_sub(WORD.len() - 1));
        }
        if felt.wait_for(|weather| *weather != Weather::Frozen).await.is_err() {
            return;
        }
        let weather = *felt.borrow();
        match weather {
            Weather::Deaf if spoken.is_none() => continue,
            // Bytes may be missing before these: a network loses the end of what was said, never its middle.
            Weather::Cut => return,
            Weather::Late(by) => sleep(by).await,
            _ => {}
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
