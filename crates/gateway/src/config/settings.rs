//! The one table of settings. Loading, `defaultconfig`, the JSON Schema and `docs/configuration.md` all come from
//! it, so that none of them can know a setting that the others don't.

use std::time::Duration;

use roomcast_core::permission::Rules;
use roomcast_protocol::Namespace;

use super::{
    Source,
    defaults::{Draft, LONGEST_MAX_DELAY},
    field::{Field, TextRule},
};

/// One setting of the settings `T`.
pub(super) struct Setting<T: 'static> {
    /// With dots, as in `limits.frame_bytes`.
    pub(super) key: &'static str,
    pub(super) field: Field<T>,
    /// What is counted or measured.
    pub(super) unit: &'static str,
    /// The default in words, where it is no fixed value.
    pub(super) note: &'static str,
    /// A value in TOML, where there is no default to show; for a key one that is refused, lest somebody uses it.
    pub(super) example: &'static str,
    /// Why it is there, or why the default is what it is.
    pub(super) reason: &'static str,
}

/// What a key means.
pub(super) enum Target {
    Plain(&'static Setting<Draft>),
    Rule(Namespace, &'static Setting<Rules>),
    Source(String, &'static Setting<Source>),
}

/// The setting of that key.
pub(super) fn find(key: &str) -> Option<Target> {
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) {
        return Some(Target::Plain(setting));
    }
    if let Some((name, rest)) = key.strip_prefix(SOURCES).and_then(|rest| rest.split_once('.')) {
        let setting = SOURCE.iter().find(|setting| setting.key == rest)?;
        return is_source_name(name).then(|| Target::Source(name.to_owned(), setting));
    }
    let (name, rule) = key.strip_prefix("namespaces.")?.split_once('.')?;
    let setting = RULES.iter().find(|setting| setting.key == rule)?;
    Some(Target::Rule(Namespace::parse(name).ok()?, setting))
}

/// Whether settings stand below that key.
pub(super) fn is_section(key: &str) -> bool {
    let below = |whole: &str, key: &str| whole.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
    if let Some(rest) = key.strip_prefix(SOURCES) {
        return !rest.contains('.');
    }
    match key.strip_prefix("namespaces.").map(|rest| rest.split_once('.')) {
        Some(Some((_, rule))) => RULES.iter().any(|setting| below(setting.key, rule)),
        Some(None) => true,
        None => {
            matches!(key, "namespaces" | "ingest.sources")
                || SETTINGS.iter().any(|setting| below(setting.key, key))
        }
    }
}

/// What the keys of sources start with.
pub(super) const SOURCES: &str = "ingest.sources.";

/// Whether a source may be called so: the name stands in addresses, in variables and in the keys of its queue.
pub(super) fn is_source_name(name: &str) -> bool {
    let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    (1..=32).contains(&name.len()) && name.bytes().all(fits)
}

/// Rules that make `admin` and `user` what they are; they can't be set there.
pub(super) fn is_fixed_for_built_in(rule: &str) -> bool {
    matches!(rule, "join" | "publish" | "count" | "moderate" | "stock")
}

const MAX_LEEWAY: Duration = Duration::from_secs(300);
const LONG_DELAY: Duration = Duration::from_secs(3_600);

const NODE: TextRule = TextRule {
    holds: |text| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    },
    expected: "1 to 64 letters, digits, dots, dashes or underscores",
};
const PREFIX: TextRule = TextRule {
    holds: |text| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':'))
    },
    expected: "1 to 64 letters, digits, dots, dashes, underscores or colons",
};
const REDIS_URL: TextRule = TextRule {
    holds: is_redis_url,
    expected: "a URL with a host, and redis, rediss, redis-cluster, rediss-cluster, redis-sentinel or rediss-sentinel \
               as its scheme; with Sentinel also ?sentinelServiceName=…",
};
const HMAC_KEY: TextRule = TextRule {
    holds: |text| text.len() >= 32,
    expected: "at least 32 bytes (make one with: openssl rand -hex 32)",
};
const API_KEY: TextRule = TextRule {
    holds: |text| text.len() >= 16 && text.bytes().all(|b| b.is_ascii_graphic()),
    expected: "at least 16 visible ASCII characters without spaces",
};
const SOURCE_SECRET: TextRule =
    TextRule { holds: |text| text.len() >= 16, expected: "at least 16 bytes, as its sender knows them" };
const ROOM: TextRule = TextRule {
    holds: |text| roomcast_protocol::RoomName::parse(text).is_ok(),
    expected: "a room such as event:wall",
};
const EVENT: TextRule = TextRule {
    holds: |text| (1..=64).contains(&text.len()) && !text.chars().any(char::is_control),
    expected: "1 to 64 characters",
};
const HEADER: TextRule = TextRule {
    holds: |text| http::HeaderName::from_bytes(text.as_bytes()).is_ok(),
    expected: "the name of a header",
};
const FILLED: TextRule = TextRule { holds: |text| !text.is_empty(), expected: "a text, or nothing at all" };
const LEVEL: TextRule = TextRule {
    holds: |text| !text.is_empty() && tracing_subscriber::EnvFilter::try_new(text).is_ok(),
    expected: "error, warn, info, debug or trace, or a filter such as info,roomcast_gateway=debug",
};

fn is_redis_url(text: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(text) else { return false };
    let has_host = url.host_str().is_some_and(|host| !host.is_empty());
    match url.scheme() {
        "redis" | "rediss" | "redis-cluster" | "rediss-cluster" => has_host,
        "redis-sentinel" | "rediss-sentinel" => {
            has_host
                && url.query_pairs().any(|(name, value)| name == "sentinelServiceName" && !value.is_empty())
        }
        _ => false,
    }
}

/// Functions of their own instead of a generic one, so that the closures' types are known.
const fn node_row(
    key: &'static str,
    field: Field<Draft>,
    unit: &'static str,
    reason: &'static str,
) -> Setting<Draft> {
    Setting { key, field, unit, note: "", example: "", reason }
}

const fn source_row(
    key: &'static str,
    field: Field<Source>,
    unit: &'static str,
    note: &'static str,
    reason: &'static str,
) -> Setting<Source> {
    Setting { key, field, unit, note, example: "", reason }
}

const fn rule_row(
    key: &'static str,
    field: Field<Rules>,
    unit: &'static str,
    reason: &'static str,
) -> Setting<Rules> {
    Setting { key, field, unit, note: "", example: "", reason }
}

impl Setting<Draft> {
    const fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    const fn example(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }
}

/// Every setting but the namespaces', in the order of the documents; what belongs to one section stands together.
pub(super) static SETTINGS: &[Setting<Draft>] = &[
    node_row("listen", Field::Address(|d| &mut d.listen), "address and port",
        "Where browsers connect. In development only loopback addresses are taken: there is an admin token on the screen.")
        .note("0.0.0.0:8080"),
    node_row("node", Field::Text(|d| &mut d.node, NODE), "name",
        "The id of this node, unique in the cluster. A new one at every start keeps a restarted node apart from what it left behind.")
        .note("random").example("\"hub-1\""),
    node_row("workers", Field::Count(|d| &mut d.config.workers), "threads",
        "One worker per core serves its own share of the connections; at most 64.")
        .note("the number of cores").example("4"),
    node_row("origins", Field::Origins(|d| &mut d.config.origins), "origins",
        "Web pages that may connect: exact origins such as https://app.example, \"same-host\" for the pages of this node, \"*\" for every page. Development also allows localhost."),
    node_row("trusted_proxies", Field::Networks(|d| &mut d.config.trusted_proxies), "networks",
        "Proxies whose word on the client's address is believed. Whoever else sends X-Forwarded-For is not."),
    node_row("proxy_protocol", Field::Bool(|d| &mut d.config.proxy_protocol), "switch",
        "Whether the trusted proxies speak PROXY protocol v2 before HTTP."),
    node_row("internal.listen", Field::Address(|d| &mut d.internal), "address and port",
        "Health, metrics and the HTTP API. Keep it away from the public; equal to `listen` means one listener for both.")
        .note("0.0.0.0:9090; in development the same as listen").example("\"0.0.0.0:9090\""),
    node_row("redis.url", Field::Secret(|d| &mut d.redis_url, REDIS_URL), "URL",
        "The broker; production does not start without it. redis://, rediss:// (TLS), redis-cluster://, redis-sentinel://; may hold a user and a password.")
        .example("\"redis://127.0.0.1:6379\""),
    node_row("redis.ca_file", Field::File(|d| &mut d.redis.ca_file), "PEM file",
        "With TLS, whom to trust instead of the system's certificate authorities: for a Redis with a private one.")
        .example("\"/etc/roomcast/redis-ca.pem\""),
    node_row("redis.prefix", Field::Text(|d| &mut d.prefix, PREFIX), "text",
        "What every key starts with, so that one Redis can serve several clusters."),
    node_row("redis.ready_grace", Field::Duration(|d| &mut d.redis.ready_grace), "time",
        "How long Redis may be unusable before the node says it is not ready: a failover takes about this long."),
    node_row("redis.connect_attempts", Field::Number(|d| &mut d.redis.connect_attempts), "attempts",
        "How often the start tries to reach Redis, with backoff, before it gives up."),
    node_row("redis.command_timeout", Field::Duration(|d| &mut d.redis.command_timeout), "time per command",
        "A healthy Redis answers within 1 ms; a user feels more than half a second."),
    node_row("redis.max_in_flight", Field::Count(|d| &mut d.redis.max_in_flight), "commands",
        "Commands waiting for Redis at once; more are refused at once instead of late."),
    node_row("auth.hmac_key", Field::Secret(|d| &mut d.config.auth.hmac_key, HMAC_KEY), "at least 32 bytes",
        "Verifies (and, with gentoken, signs) HS256, HS384 and HS512 tokens. Production needs this or auth.jwks; development makes one up.")
        .example("\"...\""),
    node_row("auth.jwks", Field::Jwks(|d| &mut d.config.auth.jwks), "path or URL",
        "Public keys that verify RS*, PS*, ES256, ES384 and EdDSA tokens: a file, read again when it changes, or an https:// URL.")
        .example("\"https://id.example/.well-known/jwks.json\""),
    node_row("auth.issuer", Field::Text(|d| &mut d.config.auth.issuer, FILLED), "text",
        "The `iss` that every token must carry.").note("not checked").example("\"https://id.example\""),
    node_row("auth.audience", Field::Text(|d| &mut d.config.auth.audience, FILLED), "text",
        "The `aud` that every token must carry. Without it, tokens that name any audience are refused: they are meant for someone else.")
        .note("tokens must name none").example("\"roomcast\""),
    node_row("auth.guests", Field::Bool(|d| &mut d.config.auth.guests), "switch", "Whether one may connect without a token."),
    node_row("auth.leeway", Field::Delay(|d| &mut d.config.auth.leeway, MAX_LEEWAY), "time",
        "Clock skew forgiven in `exp` and `nbf`. None: a token lives exactly until its last second."),
    node_row("api.key", Field::Secret(|d| &mut d.config.api_key, API_KEY), "at least 16 characters",
        "The bearer key of the HTTP API; tokens with role service or admin work too.")
        .example("\"...\""),
    node_row("limits.connections_per_ip", Field::Cap(|d| &mut d.config.limits.connections_per_ip), "connections per address (IPv6: per /64)",
        "Enough for a household, far from enough to fill a node."),
    node_row("limits.ip_overrides", Field::Overrides(|d| &mut d.config.limits.ip_overrides), "connections per address of a network",
        "Other caps for address ranges, such as a venue whose guests share one address; the longest prefix wins. A list of \"network=limit\" or a table."),
    node_row("limits.connect_rate_per_ip", Field::Cap(|d| &mut d.config.limits.connect_rate_per_ip), "new connections per second and address",
        "A household that reconnects."),
    node_row("limits.connect_burst_per_ip", Field::Cap(|d| &mut d.config.limits.connect_burst_per_ip), "new connections at once per address",
        "A browser that restores its tabs."),
    node_row("limits.connections_per_user", Field::Cap(|d| &mut d.config.limits.connections_per_user), "connections per user",
        "Over all nodes; services are exempt. Unlimited: devices and tabs are the user's own business, until somebody shares a token."),
    node_row("limits.connections_per_node", Field::Cap(|d| &mut d.config.limits.connections_per_node), "connections",
        "About 1 GiB of memory with the sockets' kernel buffers."),
    node_row("limits.accept_per_second", Field::Cap(|d| &mut d.config.limits.accept_per_second), "new connections per second and node",
        "A storm of clients that come back waits its turn (for a second at most, then 503 with a time to return), so that those who are connected stay served."),
    node_row("limits.frames_per_second", Field::Cap(|d| &mut d.config.limits.frames_per_second), "frames per second and socket",
        "What a person with a busy page can cause; costs differ by operation."),
    node_row("limits.frames_burst", Field::Cap(|d| &mut d.config.limits.frames_burst), "frames at once per socket",
        "A page that loads and joins its rooms."),
    node_row("limits.counter_ops_per_minute", Field::Cap(|d| &mut d.config.limits.counter_ops_per_minute), "operations of one kind per minute and socket",
        "A person who likes every second."),
    node_row("limits.frame_bytes", Field::Bytes(|d| &mut d.config.limits.frame_bytes), "bytes",
        "The largest frame: a comment or a document, not a photo."),
    node_row("limits.rooms_per_socket", Field::Cap(|d| &mut d.config.limits.rooms_per_socket), "rooms", "Rooms that one socket may be in."),
    node_row("limits.rooms_per_node", Field::Cap(|d| &mut d.config.limits.rooms_per_node), "rooms",
        "About 300 MiB of bookkeeping; beyond it the longest idle room goes first."),
    node_row("limits.members_per_room", Field::Cap(|d| &mut d.config.limits.members_per_room), "members",
        "Over all nodes where the namespace has presence, else on each. A stadium in one room is a good use of a hub."),
    node_row("limits.idle_room_ttl", Field::Duration(|d| &mut d.config.limits.idle_room_ttl), "time",
        "How long an empty room is kept: people reload pages."),
    node_row("limits.outbound_bytes", Field::Bytes(|d| &mut d.config.limits.outbound_bytes), "bytes per socket",
        "What may wait for a slow reader before it is closed with 4001; it comes back and reads the history."),
    node_row("limits.outbound_frames", Field::Cap(|d| &mut d.config.limits.outbound_frames), "frames per socket",
        "How many frames may wait for a slow reader."),
    node_row("limits.handshake_timeout", Field::Duration(|d| &mut d.config.limits.handshake_timeout), "time",
        "From the TCP connection to the end of the request's head; ends slow-loris attacks."),
    node_row("limits.connect_timeout", Field::Duration(|d| &mut d.config.limits.connect_timeout), "time",
        "From the upgrade to the `connect` frame."),
    node_row("limits.ping_interval", Field::Duration(|d| &mut d.config.limits.ping_interval), "time",
        "Below the 30 s after which the least patient middle boxes forget a connection."),
    node_row("limits.pong_timeout", Field::Duration(|d| &mut d.config.limits.pong_timeout), "time",
        "A phone that wakes its radio answers within this."),
    node_row("limits.idle_timeout", Field::MaybeDuration(|d| &mut d.config.limits.idle_timeout), "time",
        "Closes sockets that only answer pings. Off: a page that only listens is a good page."),
    node_row("fanout.max_delay", Field::Delay(|d| &mut d.config.fanout.max_delay, LONGEST_MAX_DELAY), "time",
        "How long a push may wait for others, so that they leave in one write, where the last write was shorter ago than this; after a pause nothing waits. At most 100ms. A worker that hears much rests for as long, but never longer than 1ms, before it looks at what has come, where a read then brings several frames."),
    node_row("fanout.count_rate", Field::Number(|d| &mut d.config.fanout.count_rate), "times per second and room",
        "How often the members of a room are told its counts; in between the latest of each is kept. A number that changes more often can't be read."),
    node_row("presence.rate", Field::Number(|d| &mut d.config.presence.rate), "pushes per second and room",
        "People read a guest count, they don't watch it run."),
    node_row("presence.heartbeat", Field::Duration(|d| &mut d.config.presence.heartbeat), "time",
        "How often a node renews its lease."),
    node_row("presence.lease", Field::Duration(|d| &mut d.config.presence.lease), "time",
        "When the guests of a silent node leave the counts: three heartbeats, so that one lost packet evicts nobody."),
    node_row("breaker.failures", Field::Number(|d| &mut d.config.breaker.failures), "failures in a row",
        "One slow command is chance, five in a row are not."),
    node_row("breaker.open", Field::Duration(|d| &mut d.config.breaker.open), "time",
        "How long a failed Redis is left alone before one probe."),
    node_row("ingest.capacity", Field::Count(|d| &mut d.config.ingest.capacity), "webhooks per source",
        "Webhooks that may wait over all nodes: a burst of some seconds. Beyond, the sender is told 429 and when to come again."),
    node_row("ingest.workers", Field::Count(|d| &mut d.config.ingest.workers), "workers per node",
        "Webhooks that a node publishes at once: a publish takes a millisecond, and no burst takes Redis from the clients."),
    node_row("ingest.attempts", Field::Number(|d| &mut d.config.ingest.attempts), "attempts",
        "How often a webhook is tried before it is given up and kept among the dead: with pauses up to 30 s about four minutes, longer than a failover."),
    node_row("ingest.remember", Field::Duration(|d| &mut d.config.ingest.remember), "time",
        "How long the id of a webhook is known: senders retry for hours, some for a day."),
    node_row("changes.size", Field::Length(|d| &mut d.config.changes), "changes",
        "Durable changes kept for back ends that read /api/v1/changes, about. About 500 bytes each; 0 keeps none."),
    node_row("drain.balancer_delay", Field::Delay(|d| &mut d.config.drain.balancer_delay, LONG_DELAY), "time",
        "From \"not ready\" to the first goaway: two looks of a balancer that checks every 2 s."),
    node_row("drain.spread", Field::Delay(|d| &mut d.config.drain.spread, LONG_DELAY), "time",
        "Over how long the clients' reconnects are spread, so that the other nodes are not stormed."),
    node_row("drain.deadline", Field::Duration(|d| &mut d.config.drain.deadline), "time",
        "When the process ends whatever is left; raise the supervisor's patience with it (Kubernetes kills after 30 s)."),
    node_row("log.format", Field::Format(|d| &mut d.config.log.format), "text or json", "For people, or one JSON object per line for programs."),
    node_row("log.level", Field::Text(|d| &mut d.level, LEVEL), "filter", "What is logged, such as info,roomcast_gateway=debug."),
];

/// The settings of one sender of webhooks, below `ingest.sources.<name>`.
pub(super) static SOURCE: &[Setting<Source>] = &[
    source_row(
        "room",
        Field::Text(|s| &mut s.room, ROOM),
        "room",
        "the body's `room`",
        "Where its webhooks are published. Without it the body names the room, and whoever may send may choose.",
    ),
    source_row(
        "event",
        Field::Text(|s| &mut s.event, EVENT),
        "name",
        "the body's `event`, else the source's name",
        "What the event is called.",
    ),
    source_row(
        "secret",
        Field::Secret(|s| &mut s.secret, SOURCE_SECRET),
        "at least 16 bytes",
        "none: the API's bearer is needed",
        "Signs each body: HMAC-SHA256 in hexadecimal, with or without `sha256=` before it. A signed webhook needs no bearer.",
    ),
    source_row(
        "signature_header",
        Field::Text(|s| &mut s.signature_header, HEADER),
        "header",
        super::DEFAULT_SIGNATURE_HEADER,
        "Where the signature stands.",
    ),
];

/// The settings of one namespace, below `namespaces.<name>`.
pub(super) static RULES: &[Setting<Rules>] = &[
    rule_row(
        "join",
        Field::Role(|r| &mut r.join),
        "lowest role",
        "Who may join, and with it receive, read history and presence.",
    ),
    rule_row("publish", Field::Role(|r| &mut r.publish), "lowest role", "Who may publish and signal."),
    rule_row(
        "count",
        Field::Role(|r| &mut r.count),
        "lowest role",
        "Who may like, count, comment and reserve.",
    ),
    rule_row("moderate", Field::Role(|r| &mut r.moderate), "lowest role", "Who may approve and reject."),
    rule_row(
        "history.size",
        Field::Length(|r| &mut r.history.size),
        "events per room",
        "How many past events are kept for whoever comes back; 0 keeps none. 1,000 events of 200 bytes are about 200 KiB of Redis.",
    ),
    rule_row(
        "history.ttl",
        Field::Duration(|r| &mut r.history.ttl),
        "time",
        "How long after a room's last event they are kept: longer than any tunnel or lift.",
    ),
    rule_row(
        "presence",
        Field::Bool(|r| &mut r.presence),
        "switch",
        "Whether members are counted and listed.",
    ),
    rule_row("moderated", Field::Bool(|r| &mut r.moderated), "switch", "Whether comments wait for approval."),
    rule_row("stock", Field::Bool(|r| &mut r.stock), "switch", "Whether items can be stocked and reserved."),
];
