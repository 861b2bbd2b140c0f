//! What can go wrong, how it is made to, and what may be seen of it: how soon it must be noticed and healed, which
//! closed connections it explains, whether it may cost anybody continuity.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use roomcast_protocol::{Epoch, Offset, Position};
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    cluster::Cluster,
    dice::Dice,
    follower::Mark,
    ledger::{Ledger, Sent},
    process::Signal,
    proxy::{Kind, Weather},
    publisher::Load,
    redis::Form,
    watch::Diary,
};

/// Publishing as usual.
pub(super) const CALM: Load = Load { payload: 0, hurry: 1 };
/// Enough to fill the kernel's buffers on the way to somebody who does not read.
const FLOOD: Load = Load { payload: 48 * 1024, hurry: 2 };
/// Larger than the output buffer that Redis is then told to allow.
const BULKY: Load = Load { payload: 40 * 1024, hurry: 1 };

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    RedisCrash,
    RedisEmptied,
    SubscriptionsKilled,
    ConnectionsKilled,
    RedisPaused,
    RedisFrozen,
    SubscriptionFrozen,
    SubscriptionCut,
    SubscriptionDeaf,
    SubscriptionDelayed,
    QuietLoss,
    RepliesSwallowed,
    NetworkDelayed,
    NodeCutOff,
    NodeKilled,
    NodeFrozen,
    NodeDrained,
    RollingRestart,
    SlowReaders,
    ReconnectStorm,
    ScriptsFlushed,
    OutOfMemory,
    OutputOverrun,
    SentinelPlanned,
    SentinelUnplanned,
    MasterLost,
}

/// From when on healing is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Since {
    /// From the fault: it must be healed although its cause may last.
    Start,
    /// From the end of its cause: nothing can be healed before.
    Cleared,
}

/// What is expected of a fault.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nature {
    /// In words, for the table.
    pub(super) what: &'static str,
    /// Somebody who looks at the nodes, or a client, must have noticed by then.
    pub(super) notice: Option<Duration>,
    pub(super) since: Since,
    /// All that was acknowledged has reached all subscribers by then, and new events flow.
    pub(super) heal: Duration,
    /// Whether data may be lost, so that subscribers are told `reset`.
    pub(super) resets: bool,
    /// Close codes it explains on nodes that it touched; none is a connection that just ended.
    pub(super) closes: &'static [Option<u16>],
    /// How long to look on before the next fault.
    pub(super) rest: Duration,
}

/// The room in which nobody publishes, by its index.
pub(super) const SILENT: usize = 2;
/// The publisher of what is lost there: none that there is.
const LOST: u32 = 9_000;
/// A crowd is back by then, or something is wrong.
const STORM_WAIT: Duration = Duration::from_secs(30);

/// How long counting goes on after a fault that is over at once.
const COUNT_ON: Duration = Duration::from_millis(200);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const SHORT: Duration = ms(2_500);
/// Presence is due after eight seconds; then it is looked at.
const LONG: Duration = ms(9_000);

impl Fault {
    /// Those that one Redis is enough for.
    pub(super) const STANDALONE: &'static [Self] = &[
        Self::RedisCrash,
        Self::RedisEmptied,
        Self::SubscriptionsKilled,
        Self::ConnectionsKilled,
        Self::RedisPaused,
        Self::RedisFrozen,
        Self::SubscriptionFrozen,
        Self::SubscriptionCut,
        Self::SubscriptionDeaf,
        Self::SubscriptionDelayed,
        Self::QuietLoss,
        Self::RepliesSwallowed,
        Self::NetworkDelayed,
        Self::NodeCutOff,
        Self::NodeKilled,
        Self::NodeFrozen,
        Self::NodeDrained,
        Self::RollingRestart,
        Self::SlowReaders,
        Self::ReconnectStorm,
        Self::ScriptsFlushed,
        Self::OutOfMemory,
        Self::OutputOverrun,
    ];

    /// What is expected of it.
    pub(super) const fn nature(self) -> Nature {
        let quick = Nature {
            what: "",
            notice: Some(ms(2_000)),
            since: Since::Start,
            heal: ms(1_000),
            resets: false,
            closes: &[],
            rest: SHORT,
        };
        let outage = Nature { since: Since::Cleared, heal: ms(2_000), ..quick };
        let leaving =
            Nature { notice: None, heal: ms(2_000), closes: &[Some(1012), Some(1001)], rest: LONG, ..outage };
        match self {
            Self::RedisCrash => {
                Nature { what: "Redis killed, restarted with its data", heal: ms(1_000), ..outage }
            }
            Self::RedisEmptied => {
                Nature { what: "Redis killed, restarted empty", heal: ms(2_000), resets: true, ..outage }
            }
            Self::SubscriptionsKilled => Nature {
                what: "subscription connections killed (CLIENT KILL)",
                notice: Some(ms(1_000)),
                ..quick
            },
            Self::ConnectionsKilled => {
                Nature { what: "command connections killed (CLIENT KILL)", notice: Some(ms(1_000)), ..quick }
            }
            Self::RedisPaused => Nature { what: "Redis pauses its clients (CLIENT PAUSE)", ..outage },
            Self::RedisFrozen => Nature { what: "Redis frozen (SIGSTOP), then continued", ..outage },
            Self::SubscriptionFrozen => Nature {
                what: "a node's subscription connection frozen (half-open)",
                heal: ms(2_000),
                rest: ms(4_000),
                ..quick
            },
            Self::SubscriptionCut => {
                Nature { what: "a node's subscription connection cut", notice: Some(ms(1_000)), ..quick }
            }
            Self::SubscriptionDeaf => Nature {
                what: "what Redis says to a node's subscription connection lost",
                heal: ms(2_000),
                rest: ms(4_000),
                ..quick
            },
            Self::SubscriptionDelayed => {
                Nature { what: "150 ms more on a node's subscription connection", notice: None, ..outage }
            }
            Self::QuietLoss => Nature {
                what: "an event of a silent room lost on its way, and none after it",
                notice: None,
                heal: ms(5_000),
                rest: ms(5_500),
                ..quick
            },
            Self::RepliesSwallowed => Nature { what: "Redis' answers lost, then the connection", ..outage },
            Self::NetworkDelayed => {
                Nature { what: "150 ms more on the way to Redis", notice: None, ..outage }
            }
            Self::NodeCutOff => Nature { what: "one node cut off from Redis", ..outage },
            Self::NodeKilled => Nature {
                what: "a node killed (behind HAProxy)",
                heal: ms(2_000),
                closes: &[None],
                rest: LONG,
                ..quick
            },
            Self::NodeFrozen => {
                Nature { what: "a node frozen (SIGSTOP), then continued", rest: LONG, ..outage }
            }
            Self::NodeDrained => Nature { what: "a node drained and restarted", ..leaving },
            Self::RollingRestart => Nature { what: "all nodes restarted, one after the other", ..leaving },
            Self::SlowReaders => Nature {
                what: "readers that stop reading in a flood, then go on",
                notice: None,
                heal: ms(5_000),
                closes: &[Some(4001), None],
                ..outage
            },
            Self::ReconnectStorm => Nature {
                what: "a crowd gone and back at once",
                notice: None,
                heal: ms(10_000),
                rest: SHORT,
                ..quick
            },
            Self::ScriptsFlushed => {
                Nature { what: "scripts forgotten (SCRIPT FLUSH)", notice: None, ..quick }
            }
            Self::OutOfMemory => Nature { what: "Redis out of memory, then not", notice: None, ..outage },
            Self::OutputOverrun => {
                Nature { what: "subscribers' output buffers overrun", notice: Some(ms(2_000)), ..outage }
            }
            Self::SentinelPlanned => Nature {
                what: "planned failover (SENTINEL FAILOVER)",
                // A client that stays with the old master is not disturbed at first, and loses it all later.
                notice: None,
                heal: ms(4_000),
                resets: true,
                rest: ms(13_000),
                ..quick
            },
            Self::SentinelUnplanned => Nature {
                what: "master killed, Sentinel fails over",
                heal: ms(4_000),
                resets: true,
                rest: ms(5_000),
                ..quick
            },
            Self::MasterLost => Nature {
                what: "a master of the Redis Cluster killed",
                heal: ms(6_000),
                resets: true,
                rest: ms(6_000),
                ..quick
            },
        }
    }

    /// The form of Redis that it needs.
    pub(super) const fn form(self) -> Form {
        match self {
            Self::SentinelPlanned | Self::SentinelUnplanned => Form::Sentinel,
            Self::MasterLost => Form::Cluster,
            _ => Form::Standalone,
        }
    }
}

/// A fault that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Occurrence {
    pub(super) fault: Fault,
    pub(super) start: Duration,
    /// When its cause was over.
    pub(super) cleared: Duration,
    /// Names of the nodes it touched.
    pub(super) nodes: Vec<String>,
    /// Whether it had the effect without which it proves nothing.
    pub(super) felt: bool,
}

/// What moves the clients.
#[derive(Debug)]
pub(super) struct Levers {
    pub(super) load: watch::Sender<Load>,
    pub(super) stalled: watch::Sender<bool>,
    pub(super) storm: watch::Sender<u64>,
    /// While true, somebody counts: only during faults, so that no later value hides one that was lost.
    pub(super) counting: watch::Sender<bool>,
}

/// Everything a fault may take hold of.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) cluster: &'a mut Cluster,
    pub(super) ledger: &'a Ledger,
    pub(super) diary: &'a Diary,
    pub(super) levers: &'a Levers,
    pub(super) dice: &'a mut Dice,
}

impl Stage<'_> {
    /// Lets a fault happen, and returns when its cause is over.
    pub(super) async fn inject(&mut self, fault: Fault) -> anyhow::Result<Occurrence> {
        self.levers.counting.send_replace(true);
        let occurrence = self.make(fault).await;
        sleep(COUNT_ON).await;
        self.levers.counting.send_replace(false);
        occurrence
    }

    async fn make(&mut self, fault: Fault) -> anyhow::Result<Occurrence> {
        let mut nodes: Vec<String> = self.cluster.nodes.iter().map(super::cluster::Node::name).collect();
        let start = self.ledger.now();
        let (mut cleared, mut felt) = (None, true);
        match fault {
            Fault::RedisCrash | Fault::RedisEmptied => self.crash_redis(fault == Fault::RedisEmptied).await?,
            Fault::SubscriptionsKilled => {
                let killed = self.cluster.redis.first()?.must(&["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
                ensure!(
                    killed.parse().is_ok_and(|killed: u32| killed > 0),
                    "no subscription to kill: {killed}"
                );
            }
            Fault::RedisPaused => {
                let pause = self.dice.between(ms(1_500), ms(3_000));
                let text = pause.as_millis().to_string();
                self.cluster.redis.first()?.must(&["CLIENT", "PAUSE", &text, "ALL"]).await?;
                sleep(pause).await;
            }
            Fault::RedisFrozen => {
                self.cluster.redis.first()?.signal(Signal::Stop).await?;
                sleep(self.dice.between(ms(2_500), ms(4_000))).await;
                self.cluster.redis.first()?.signal(Signal::Continue).await?;
            }
            Fault::ConnectionsKilled => {
                let killed = self.cluster.redis.first()?.must(&["CLIENT", "KILL", "TYPE", "normal"]).await?;
                ensure!(
                    killed.parse().is_ok_and(|killed: u32| killed > 0),
                    "no connection to kill: {killed}"
                );
            }
            Fault::QuietLoss => self.lose_one().await?,
            Fault::SubscriptionFrozen
            | Fault::SubscriptionCut
            | Fault::SubscriptionDeaf
            | Fault::SubscriptionDelayed
            | Fault::NodeCutOff => {
                nodes = vec![self.disturb_one(fault).await?];
            }
            Fault::RepliesSwallowed => self.disturb_all(Kind::Commands, Weather::Deaf, ms(2_000)).await?,
            Fault::NetworkDelayed => {
                self.disturb_all(Kind::Link, Weather::Late(ms(150)), ms(3_000)).await?;
            }
            Fault::NodeKilled => {
                let index = self.dice.below(self.cluster.nodes.len());
                let name = nodes.swap_remove(index);
                self.diary.node_gone(name.clone());
                self.cluster.nodes[index].kill().await?;
                cleared = Some(self.ledger.now());
                sleep(ms(3_000)).await;
                self.cluster.restart(index).await?;
                nodes = vec![name];
            }
            Fault::NodeFrozen => {
                let index = self.dice.below(self.cluster.nodes.len());
                let name = nodes.swap_remove(index);
                self.cluster.nodes[index].signal(Signal::Stop).await?;
                self.diary.node_gone(name.clone());
                sleep(ms(9_500)).await;
                self.diary.node_back(&name);
                self.cluster.nodes[index].signal(Signal::Continue).await?;
                nodes = vec![name];
            }
            Fault::NodeDrained => {
                let index = self.dice.below(self.cluster.nodes.len());
                nodes = vec![nodes.swap_remove(index)];
                self.drain(index).await?;
            }
            Fault::RollingRestart => {
                for index in 0..self.cluster.nodes.len() {
                    // The balancer finds a node that came back before the next one goes.
                    self.drain(index).await?;
                    sleep(ms(1_000)).await;
                }
                nodes.extend(self.cluster.nodes.iter().map(super::cluster::Node::name));
            }
            Fault::SlowReaders => {
                self.levers.stalled.send_replace(true);
                self.levers.load.send_replace(FLOOD);
                felt = false;
                for _ in 0..150 {
                    sleep(ms(100)).await;
                    if self.slow_consumers().await > 0 {
                        felt = true;
                        break;
                    }
                }
                self.levers.load.send_replace(CALM);
                self.levers.stalled.send_replace(false);
            }
            Fault::ReconnectStorm => {
                self.levers.storm.send_modify(|storm| *storm += 1);
                sleep(ms(200)).await;
                let all = self.ledger.open().records.len();
                let deadline = Instant::now() + STORM_WAIT;
                while self.ledger.open().arrived() < all && Instant::now() < deadline {
                    sleep(ms(20)).await;
                }
                let back = self.ledger.open().arrived();
                if back < all {
                    self.ledger
                        .fault(&format!("only {back} of {all} are back {STORM_WAIT:?} after the storm"));
                }
            }
            Fault::ScriptsFlushed => {
                self.cluster.redis.first()?.must(&["SCRIPT", "FLUSH", "SYNC"]).await?;
            }
            Fault::OutOfMemory => {
                let redis = self.cluster.redis.first()?;
                redis.must(&["CONFIG", "SET", "maxmemory", "1mb"]).await?;
                sleep(ms(2_000)).await;
                redis.must(&["CONFIG", "SET", "maxmemory", "0"]).await?;
            }
            Fault::OutputOverrun => {
                let limit = "client-output-buffer-limit";
                self.cluster.redis.first()?.must(&["CONFIG", "SET", limit, "pubsub 16kb 0 0"]).await?;
                self.levers.load.send_replace(BULKY);
                sleep(ms(1_000)).await;
                self.levers.load.send_replace(CALM);
                sleep(ms(200)).await;
                self.cluster.redis.first()?.must(&["CONFIG", "SET", limit, "pubsub 32mb 8mb 60"]).await?;
            }
            Fault::SentinelPlanned => self.cluster.redis.fail_over().await?,
            Fault::SentinelUnplanned | Fault::MasterLost => {
                let room = self.ledger.rooms.first().map(|room| format!("{{{room}}}")).unwrap_or_default();
                let master = self.cluster.redis.master(&room).await?;
                let server = self.cluster.redis.servers.get_mut(master).context("no such server")?;
                server.kill().await?;
                self.cluster.redis.wait_for_another(master, &room).await?;
                cleared = Some(self.ledger.now());
                sleep(ms(3_000)).await;
                self.cluster.redis.servers.get_mut(master).context("no such server")?.run().await?;
            }
        }
        let cleared = cleared.unwrap_or_else(|| self.ledger.now());
        Ok(Occurrence { fault, start, cleared, nodes, felt })
    }

    /// Puts an event into the log of the silent room as if its message had been lost: nobody is told of it. Of all that
    /// is written here only this needs to know how roomcast's keys look; no network drops one message alone.
    async fn lose_one(&mut self) -> anyhow::Result<()> {
        let room = self.ledger.rooms.get(SILENT).context("no silent room")?.clone();
        let lost = 1 + self.ledger.open().sent.keys().filter(|mark| mark.p == LOST).count() as u64;
        let mark = Mark { p: LOST, n: lost };
        let body = format!(r#"{{"event":"chaos","from":"chaos","data":{{"p":{LOST},"n":{lost},"x":""}}}}"#);
        let script = "if redis.call('HEXISTS', KEYS[1], 'epoch') == 0 then return false end \
                      local offset = redis.call('HINCRBY', KEYS[1], 'offset', 1) \
                      redis.call('XADD', KEYS[2], string.format('%d-0', offset), 'b', ARGV[1], 'a', ARGV[2]) \
                      return { redis.call('HGET', KEYS[1], 'epoch'), tostring(offset) }";
        let (meta, log) = (format!("rc:{{{room}}}:meta"), format!("rc:{{{room}}}:log"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = now.as_millis().to_string();
        let mut first = self.ledger.now();
        let mut answer = String::new();
        // After a fault that took the log with it the nodes begin another one soon.
        for _ in 0..50 {
            first = self.ledger.now();
            let redis = self.cluster.redis.first()?;
            answer = redis.must(&["EVAL", script, "2", &meta, &log, &body, &now]).await?;
            if !answer.is_empty() {
                break;
            }
            sleep(ms(100)).await;
        }
        let (epoch, offset) = answer.split_once('\n').context("the silent room has no log")?;
        let position = Position { epoch: Epoch::new(epoch), offset: Offset(offset.trim().parse()?) };
        let sent = Sent { room: SILENT, first, acked: Some((self.ledger.now(), position)), tries: 1 };
        self.ledger.open().sent.insert(mark, sent);
        Ok(())
    }

    async fn crash_redis(&mut self, empty: bool) -> anyhow::Result<()> {
        let down = self.dice.between(ms(300), ms(1_500));
        let redis = self.cluster.redis.first()?;
        redis.kill().await?;
        if empty {
            redis.wipe()?;
        }
        sleep(down).await;
        redis.run().await
    }

    async fn disturb_one(&mut self, fault: Fault) -> anyhow::Result<String> {
        let index = self.dice.below(self.cluster.nodes.len());
        let node = &self.cluster.nodes[index];
        let proxy = node.proxy.as_ref().context("this form of Redis has no proxies")?;
        let (kind, weather, lasts) = match fault {
            Fault::SubscriptionFrozen => (Kind::Subscriptions, Weather::Frozen, ms(0)),
            Fault::SubscriptionDeaf => (Kind::Subscriptions, Weather::Deaf, ms(0)),
            Fault::SubscriptionDelayed => (Kind::Subscriptions, Weather::Late(ms(150)), ms(3_000)),
            Fault::NodeCutOff => (Kind::Link, Weather::Frozen, ms(4_000)),
            _ => (Kind::Subscriptions, Weather::Cut, ms(0)),
        };
        ensure!(proxy.set(kind, weather) > 0, "{} has no connection to break", node.name());
        sleep(lasts).await;
        if lasts > Duration::ZERO {
            proxy.calm();
        }
        Ok(node.name())
    }

    async fn disturb_all(&mut self, kind: Kind, weather: Weather, lasts: Duration) -> anyhow::Result<()> {
        for proxy in self.cluster.nodes.iter().filter_map(|node| node.proxy.as_ref()) {
            ensure!(proxy.set(kind, weather) > 0, "no connection to break");
        }
        sleep(lasts).await;
        self.cluster.nodes.iter().filter_map(|node| node.proxy.as_ref()).for_each(super::proxy::Proxy::calm);
        Ok(())
    }

    async fn drain(&mut self, index: usize) -> anyhow::Result<()> {
        self.cluster.nodes.get_mut(index).context("no such node")?.drain().await?;
        self.cluster.restart(index).await
    }

    async fn slow_consumers(&self) -> u64 {
        let mut closed = 0;
        for node in &self.cluster.nodes {
            if let Ok(answer) = super::http::get(node.internal, "/metrics", None).await {
                let line =
                    answer.body.lines().find(|line| line.starts_with("roomcast_slow_consumers_total "));
                closed +=
                    line.and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or_default();
            }
        }
        closed
    }
}
