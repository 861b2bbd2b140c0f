//! The limits of a node and their defaults; each default stands with its reason.

use std::{num::NonZeroU64, time::Duration};

use ipnet::IpNet;

/// Connections one address may hold: enough for a household, far from enough to fill a node.
pub const DEFAULT_CONNECTIONS_PER_IP: u64 = 10;
/// In development every tab and tool comes from one address.
pub const DEV_CONNECTIONS_PER_IP: u64 = 1_000;
/// New connections per second and address: a reconnecting household.
pub const DEFAULT_CONNECT_RATE_PER_IP: u64 = 5;
/// New connections at once per address: a browser that restores its tabs.
pub const DEFAULT_CONNECT_BURST_PER_IP: u64 = 20;
/// In development, load tests come from one address.
pub const DEV_CONNECT_RATE_PER_IP: u64 = 1_000;
/// Connections one node holds: about 1 GiB of memory with its sockets' kernel buffers.
pub const DEFAULT_CONNECTIONS_PER_NODE: u64 = 100_000;
/// New connections per second and node: a node that comes back to 5,000 waiting clients serves those it has, and has
/// them all within seconds.
pub const DEFAULT_ACCEPT_PER_SECOND: u64 = 1_000;
/// In development, load tests connect as fast as they can.
pub const DEV_ACCEPT_PER_SECOND: u64 = 10_000;
/// Frames per second that a person with a busy page can cause.
pub const DEFAULT_FRAMES_PER_SECOND: u64 = 20;
/// Frames at once: a page that loads and joins its rooms.
pub const DEFAULT_FRAMES_BURST: u64 = 60;
/// Counter operations of one kind per minute: a person who likes every second.
pub const DEFAULT_COUNTER_OPS_PER_MINUTE: u64 = 60;
/// Largest frame: a comment or a document, not a photo.
pub const DEFAULT_FRAME_BYTES: u64 = 64 * 1024;
/// Rooms of one socket.
pub const DEFAULT_ROOMS_PER_SOCKET: u64 = 64;
/// Rooms of one node: about 300 MiB of bookkeeping.
pub const DEFAULT_ROOMS_PER_NODE: u64 = 1_000_000;
/// How long an empty room stays subscribed: people reload pages.
pub const DEFAULT_IDLE_ROOM_TTL: Duration = Duration::from_secs(60);
/// What may wait for one slow socket.
pub const DEFAULT_OUTBOUND_BYTES: u64 = 256 * 1024;
/// How many frames may wait for one slow socket.
pub const DEFAULT_OUTBOUND_FRAMES: u64 = 1_024;
/// From the TCP connection to the end of the request's head.
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// From the upgrade to the `connect` frame.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Below the 30 s after which the shortest-lived middle boxes forget a connection.
pub const DEFAULT_PING_INTERVAL: Duration = Duration::from_secs(25);
/// A phone that wakes its radio answers within this.
pub const DEFAULT_PONG_TIMEOUT: Duration = Duration::from_secs(10);

/// A limit: a number from 1, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap(Option<NonZeroU64>);

impl Cap {
    /// No limit.
    pub const UNLIMITED: Self = Self(None);

    /// A limit of `n`; 0 is no limit's value, so it is none at all.
    pub const fn new(n: u64) -> Option<Self> {
        match NonZeroU64::new(n) {
            Some(n) => Some(Self(Some(n))),
            None => None,
        }
    }

    /// The number, or none when unlimited.
    pub fn get(self) -> Option<u64> {
        self.0.map(NonZeroU64::get)
    }

    /// Whether one more than `used` still fits.
    pub fn admits(self, used: u64) -> bool {
        self.0.is_none_or(|cap| used < cap.get())
    }

    /// The number, or the largest there is.
    pub fn or_max(self) -> usize {
        self.0.map_or(usize::MAX, |cap| usize::try_from(cap.get()).unwrap_or(usize::MAX))
    }
}

/// Every limit of the contract's section 6.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections per address (IPv6: per /64).
    pub connections_per_ip: Cap,
    /// Other caps for address ranges; the longest prefix wins.
    pub ip_overrides: Vec<(IpNet, Cap)>,
    /// New connections per second and address.
    pub connect_rate_per_ip: Cap,
    /// New connections at once per address.
    pub connect_burst_per_ip: Cap,
    /// Connections per user, across the cluster.
    pub connections_per_user: Cap,
    /// Connections per node.
    pub connections_per_node: Cap,
    /// New connections per second and node.
    pub accept_per_second: Cap,
    /// Frames per second and socket.
    pub frames_per_second: Cap,
    /// Frames at once per socket.
    pub frames_burst: Cap,
    /// Counter operations of each kind per socket and minute.
    pub counter_ops_per_minute: Cap,
    /// Largest frame in bytes.
    pub frame_bytes: Cap,
    /// Rooms per socket.
    pub rooms_per_socket: Cap,
    /// Rooms per node.
    pub rooms_per_node: Cap,
    /// Members per room.
    pub members_per_room: Cap,
    /// How long an empty room is kept.
    pub idle_room_ttl: Duration,
    /// Bytes that may wait per socket.
    pub outbound_bytes: Cap,
    /// Frames that may wait per socket.
    pub outbound_frames: Cap,
    /// Until the request's head is complete.
    pub handshake_timeout: Duration,
    /// Until the `connect` frame.
    pub connect_timeout: Duration,
    /// Between pings.
    pub ping_interval: Duration,
    /// Until a ping is answered.
    pub pong_timeout: Duration,
    /// Until a silent socket is closed; none means never.
    pub idle_timeout: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        let cap = |n| Cap(NonZeroU64::new(n));
        Self {
            connections_per_ip: cap(DEFAULT_CONNECTIONS_PER_IP),
            ip_overrides: Vec::new(),
            connect_rate_per_ip: cap(DEFAULT_CONNECT_RATE_PER_IP),
            connect_burst_per_ip: cap(DEFAULT_CONNECT_BURST_PER_IP),
            connections_per_user: Cap::UNLIMITED,
            connections_per_node: cap(DEFAULT_CONNECTIONS_PER_NODE),
            accept_per_second: cap(DEFAULT_ACCEPT_PER_SECOND),
            frames_per_second: cap(DEFAULT_FRAMES_PER_SECOND),
            frames_burst: cap(DEFAULT_FRAMES_BURST),
            counter_ops_per_minute: cap(DEFAULT_COUNTER_OPS_PER_MINUTE),
            frame_bytes: cap(DEFAULT_FRAME_BYTES),
            rooms_per_socket: cap(DEFAULT_ROOMS_PER_SOCKET),
            rooms_per_node: cap(DEFAULT_ROOMS_PER_NODE),
            members_per_room: Cap::UNLIMITED,
            idle_room_ttl: DEFAULT_IDLE_ROOM_TTL,
            outbound_bytes: cap(DEFAULT_OUTBOUND_BYTES),
            outbound_frames: cap(DEFAULT_OUTBOUND_FRAMES),
            handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            ping_interval: DEFAULT_PING_INTERVAL,
            pong_timeout: DEFAULT_PONG_TIMEOUT,
            idle_timeout: None,
        }
    }
}
