//! Connection permits: how many connections one address and one node hold, and how fast an address opens new ones.
//!
//! The one structure of this crate that the workers share. A permit is a guard: what ends gives its place back by
//! `Drop`. No guard of the map lives beyond one short step, and nothing here knows of other nodes.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::{DashMap, Entry};
use ipnet::IpNet;

use crate::{
    bucket::{Rate, TokenBucket},
    limits::{Cap, Limits},
};

/// Addresses remembered at most: about 100 MiB, and far more than a node has connections.
pub const MAX_TRACKED: usize = 1_000_000;
/// What an address that holds all its connections is told: somebody closes a tab about this soon.
pub const CONNECTIONS_RETRY: Duration = Duration::from_secs(5);
/// What a full node tells: the balancer should have found another by then.
pub const NODE_RETRY: Duration = Duration::from_secs(5);
/// A full map is searched for idle addresses at most this often: it is a walk over all of them.
const EVICTION_INTERVAL: Duration = Duration::from_secs(1);

/// The caps of a node.
#[derive(Debug, Clone)]
pub struct PermitRules {
    /// Connections per address.
    pub connections: Cap,
    /// Other connection caps for address ranges; the longest prefix wins.
    pub overrides: Vec<(IpNet, Cap)>,
    /// New connections per second and address.
    pub rate: Cap,
    /// New connections at once per address.
    pub burst: Cap,
    /// Connections of the node.
    pub node: Cap,
}

impl From<&Limits> for PermitRules {
    fn from(limits: &Limits) -> Self {
        Self {
            connections: limits.connections_per_ip,
            overrides: limits.ip_overrides.clone(),
            rate: limits.connect_rate_per_ip,
            burst: limits.connect_burst_per_ip,
            node: limits.connections_per_node,
        }
    }
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PermitRefusal {
    /// The address holds all the connections it may.
    #[error("this address has too many connections")]
    IpConnections {
        /// When to try again.
        retry_after: Duration,
    },
    /// The address opens connections too fast, or no further address can be kept in mind.
    #[error("this address connects too fast")]
    IpRate {
        /// When to try again.
        retry_after: Duration,
    },
    /// The node holds all the connections it may.
    #[error("this node is full")]
    NodeFull {
        /// When to try again.
        retry_after: Duration,
    },
}

impl PermitRefusal {
    /// When to try again, whatever the reason.
    pub fn retry_after(self) -> Duration {
        match self {
            Self::IpConnections { retry_after }
            | Self::IpRate { retry_after }
            | Self::NodeFull { retry_after } => retry_after,
        }
    }
}

/// The permits of a node, shared by its workers.
pub struct IpPermits {
    rules: PermitRules,
    rate: Rate,
    burst: u32,
    addresses: DashMap<Key, Address>,
    max_tracked: usize,
    /// Entries of `addresses`: its own `len` locks every shard.
    tracked: AtomicUsize,
    connections: AtomicU64,
    /// When a full map was last searched for idle addresses.
    last_eviction: Mutex<Option<Instant>>,
}

/// Whose connections count together: an IPv4 address, or the /64 that one IPv6 household has to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    V4(u32),
    V6(u64),
}

impl From<IpAddr> for Key {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self::V6([a, b, c, d].into_iter().fold(0, |bits, segment| bits << 16 | u64::from(segment)))
            }
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4(bits) => Ipv4Addr::from_bits(bits).fmt(f),
            Self::V6(bits) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(bits) << 64)),
        }
    }
}

#[derive(Debug)]
struct Address {
    connections: u64,
    bucket: TokenBucket,
}

impl Address {
    /// Whether forgetting it changes nothing.
    fn idle(&self, now: Instant) -> bool {
        self.connections == 0 && self.bucket.full(now)
    }
}

impl IpPermits {
    /// No connections yet. Share it in an `Arc`.
    pub fn new(mut rules: PermitRules) -> Self {
        rules.overrides.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        Self {
            rate: Rate::per_second(rules.rate),
            burst: u32::try_from(rules.burst.or_max()).unwrap_or(u32::MAX),
            rules,
            addresses: DashMap::new(),
            max_tracked: MAX_TRACKED,
            tracked: AtomicUsize::new(0),
            connections: AtomicU64::new(0),
            last_eviction: Mutex::new(None),
        }
    }

    /// Remembers at most so many addresses instead of [`MAX_TRACKED`].
    pub fn tracking_at_most(self, addresses: usize) -> Self {
        Self { max_tracked: addresses, ..self }
    }

    /// A place for one connection from `ip`, or why there is none. A refusal costs nothing.
    pub fn acquire(self: &Arc<Self>, ip: IpAddr, now: Instant) -> Result<IpPermit, PermitRefusal> {
        let ip = ip.to_canonical();
        let key = Key::from(ip);
        self.make_room(key, now)?;
        match self.addresses.entry(key) {
            Entry::Occupied(mut entry) => {
                let address = entry.get_mut();
                if !self.connection_cap(ip).admits(address.connections) {
                    return Err(PermitRefusal::IpConnections { retry_after: CONNECTIONS_RETRY });
                }
                let refused = |retry_after| PermitRefusal::IpRate { retry_after };
                address.bucket.ready(1, now).map_err(refused)?;
                self.take_node_place()?;
                // Still under the entry's lock, so what was ready a moment ago is.
                address.bucket.take(1, now).map_err(refused)?;
                address.connections += 1;
            }
            // A full bucket and no connection: every cap is at least 1, so only the node can refuse.
            Entry::Vacant(entry) => {
                if !self.track() {
                    return Err(PermitRefusal::IpRate { retry_after: EVICTION_INTERVAL });
                }
                if let Err(refusal) = self.take_node_place() {
                    self.tracked.fetch_sub(1, Ordering::Relaxed);
                    return Err(refusal);
                }
                let mut bucket = TokenBucket::new(self.rate, self.burst, now);
                let first = bucket.take(1, now);
                debug_assert!(first.is_ok(), "a new bucket holds at least one token");
                entry.insert(Address { connections: 1, bucket });
            }
        }
        Ok(IpPermit { permits: Arc::clone(self), ip, cap: self.connection_cap(ip) })
    }

    /// Connections that hold a permit.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Addresses kept in mind, with or without connections.
    pub fn tracked(&self) -> usize {
        self.tracked.load(Ordering::Relaxed)
    }

    /// Forgets the addresses without connections whose bucket is full again, and returns their memory. Call it
    /// every few seconds: a permit that ends knows no time.
    pub fn sweep(&self, now: Instant) {
        self.addresses.retain(|_, address| {
            let keep = !address.idle(now);
            if !keep {
                self.tracked.fetch_sub(1, Ordering::Relaxed);
            }
            keep
        });
        if self.addresses.capacity() / 4 > self.tracked().max(1_024) {
            self.addresses.shrink_to_fit();
        }
    }

    /// A new address in a full map: idle ones go first, and if there are none, the new one has to wait.
    fn make_room(&self, key: Key, now: Instant) -> Result<(), PermitRefusal> {
        let full = || self.tracked() >= self.max_tracked;
        if !full() || self.addresses.contains_key(&key) {
            return Ok(());
        }
        // One thread walks; the others don't wait for it.
        if let Ok(mut last) = self.last_eviction.try_lock()
            && last.is_none_or(|last| now.saturating_duration_since(last) >= EVICTION_INTERVAL)
        {
            *last = Some(now);
            self.sweep(now);
        }
        if full() { Err(PermitRefusal::IpRate { retry_after: EVICTION_INTERVAL }) } else { Ok(()) }
    }

    fn connection_cap(&self, ip: IpAddr) -> Cap {
        let longest = self.rules.overrides.iter().find(|(net, _)| net.contains(&ip));
        longest.map_or(self.rules.connections, |&(_, cap)| cap)
    }

    fn track(&self) -> bool {
        let more = |tracked| (tracked < self.max_tracked).then_some(tracked + 1);
        self.tracked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn take_node_place(&self) -> Result<(), PermitRefusal> {
        let taken = self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            self.rules.node.admits(used).then_some(used + 1)
        });
        taken.map(drop).map_err(|_| PermitRefusal::NodeFull { retry_after: NODE_RETRY })
    }

    fn release(&self, ip: IpAddr) {
        if let Some(mut address) = self.addresses.get_mut(&Key::from(ip)) {
            address.connections = address.connections.saturating_sub(1);
        }
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for IpPermits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IpPermits")
            .field("rules", &self.rules)
            .field("connections", &self.connections())
            .field("tracked", &self.tracked())
            .finish_non_exhaustive()
    }
}

/// One connection's place; dropping it gives the place back.
#[derive(Debug)]
#[must_use = "dropping the permit gives the place back"]
pub struct IpPermit {
    permits: Arc<IpPermits>,
    ip: IpAddr,
    cap: Cap,
}

impl IpPermit {
    /// The address it was given to; an IPv4 address mapped into IPv6 is the IPv4 address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// How many connections the address may hold.
    pub fn cap(&self) -> Cap {
        self.cap
    }

    /// The name of all addresses that count as this one: the IPv4 address, or the IPv6 network as `2001:db8::/64`.
    pub fn group(&self) -> String {
        Key::from(self.ip).to_string()
    }
}

impl Drop for IpPermit {
    fn drop(&mut self) {
        self.permits.release(self.ip);
    }
}

#[cfg(test)]
mod tests;
