//! A cluster of three masters with a replica each, all real.

use std::{
    collections::HashSet,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use roomcast_core::breaker::BreakerState;
use roomcast_gateway::{
    backend::{Backend, Repeat, Stores},
    broker::{Broker, BrokerError, Claim, Feed},
    config,
};
use roomcast_protocol::{ErrorCode, RoomName};

use crate::{
    contract,
    server::RedisServer,
    world::{Node, World, connect, numbered, report, room, settings},
};

pub(crate) struct Cluster {
    pub(crate) servers: Vec<RedisServer>,
}

impl Cluster {
    pub(crate) async fn start(replicas: usize) -> Self {
        let servers: Vec<_> = (0..3 * (1 + replicas)).map(|_| server()).collect();
        let cluster = Self { servers };
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(cluster.servers.iter().map(|server| format!("127.0.0.1:{}", server.port)));
        create.args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"]);
        let made = create.output().unwrap_or_else(|error| {
            panic!("redis-cli: {error}; install it with: apt-get install redis-tools")
        });
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        let ready = async {
            while !cluster.servers.iter().all(|server| {
                server.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && !server.command(&["INFO", "replication"]).contains("master_link_status:down")
            }) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ready).await.expect("the cluster stands");
        cluster
    }

    pub(crate) fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}?node=127.0.0.1:{}", self.servers[0].port, self.servers[1].port)
    }

    async fn node(&self, name: &str) -> Node {
        let broker = Broker::Redis(connect(&self.url(), name).await.unwrap());
        broker.heartbeat(&report(name)).await.unwrap();
        let feed = broker.take_feed().unwrap();
        Node { name: name.to_owned(), broker, feed }
    }

    /// The number of the server that owns the room's slot, as the servers say.
    pub(crate) fn owner(&self, room: &RoomName) -> usize {
        self.owner_of(room)
    }

    /// Where the keys with this hash tag are.
    fn owner_of(&self, tag: impl std::fmt::Display) -> usize {
        let key = format!("rc:{{{tag}}}:meta");
        let owns = |server: &RedisServer| {
            let answer = server.command(&["EXISTS", &key]);
            let role = server.command(&["ROLE"]);
            answer.starts_with(':') && role.contains("master")
        };
        self.servers.iter().position(owns).expect("somebody owns it")
    }
}

fn server() -> RedisServer {
    for _ in 0..10 {
        let bus = crate::server::free_port().to_string();
        let args = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "1500"];
        let more = ["--repl-diskless-sync-delay", "0", "--cluster-require-full-coverage", "no"];
        let server = RedisServer::start(&[&args[..], &more[..]].concat());
        if server.command(&["CLUSTER", "INFO"]).contains("cluster_state") {
            return server;
        }
    }
    panic!("no server of a cluster starts");
}

#[tokio::test]
async fn every_promise_is_kept_over_a_cluster() {
    let cluster = Arc::new(Cluster::start(0).await);
    contract::all(|promise| {
        let prefix: String = promise.chars().filter(char::is_ascii_alphanumeric).collect();
        let settings = config::Redis { prefix, ..settings(&cluster.url()) };
        let cluster = cluster.clone();
        let forget = move || {
            for server in &cluster.servers {
                assert_eq!(server.command(&["FLUSHALL"]), "+OK\r\n");
            }
        };
        World::Elsewhere(settings, Box::new(forget))
    })
    .await;
}

#[tokio::test]
async fn messages_stay_with_the_server_that_owns_their_room() {
    let cluster = Cluster::start(0).await;
    let mut node = cluster.node("a").await;
    let rooms: Vec<_> = (0..60).map(|number| room(&format!("event:{number}"))).collect();
    for room in &rooms {
        node.broker.subscribe(room).await.unwrap();
    }
    let owners: HashSet<_> = rooms.iter().map(|room| cluster.owner(room)).collect();
    assert_eq!(owners.len(), 3, "the rooms are spread");
    for room in &rooms {
        node.publish(room, 1).await;
        node.event().await;
        let channel = format!("rc:{{{room}}}:ch");
        for (number, server) in cluster.servers.iter().enumerate() {
            let here = server.command(&["PUBSUB", "SHARDCHANNELS", &channel]).contains(&channel);
            assert_eq!(here, number == cluster.owner(room), "{room} on {number}");
        }
    }
}

/// The server forgets who listens there, and the owner is the same before and after.
#[tokio::test]
async fn a_slot_that_goes_and_comes_back_is_heard_again() {
    let cluster = Cluster::start(0).await;
    let mut node = cluster.node("a").await;
    let (wall, other) = (room("event:wall"), room("event:other"));
    node.broker.subscribe(&wall).await.unwrap();
    node.broker.subscribe(&other).await.unwrap();
    let owner = &cluster.servers[cluster.owner(&wall)];
    let answer = owner.command(&["CLUSTER", "KEYSLOT", "{event:wall}"]);
    let slot = answer.trim_start_matches(':').trim_end();
    let channel = "rc:{event:wall}:ch";
    assert_eq!(owner.command(&["CLUSTER", "DELSLOTS", slot]), "+OK\r\n");
    assert!(!owner.command(&["PUBSUB", "SHARDCHANNELS", channel]).contains(channel), "nobody listens");
    assert_eq!(owner.command(&["CLUSTER", "ADDSLOTS", slot]), "+OK\r\n");
    let Feed::Interrupted(scope) = node.until(|item| matches!(item, Feed::Interrupted(_))).await else {
        panic!("no interruption")
    };
    assert!(node.broker.concerns(&scope, &wall) && !node.broker.concerns(&scope, &other), "{scope:?}");
    node.publish(&wall, 7).await;
    assert_eq!(node.event().await.0, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_master_costs_the_other_rooms_nothing_and_its_own_come_back() {
    let mut cluster = Cluster::start(1).await;
    let (mut a, b) = (cluster.node("a").await, cluster.node("b").await);
    let all: Vec<_> = (0..60).map(|number| room(&format!("event:{number}"))).collect();
    // Not the one that the nodes themselves meet on: it has its own rooms like any other, but also the leases.
    let home = cluster.owner(&room("nodes"));
    let victim = all.iter().map(|room| cluster.owner(room)).find(|owner| *owner != home).unwrap();
    let (lost, healthy): (Vec<_>, Vec<_>) = all.iter().partition(|room| cluster.owner(room) == victim);
    for room in &all {
        a.broker.subscribe(room).await.unwrap();
    }
    cluster.servers[victim].kill();
    let killed = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut back = None;
    while back.is_none() && killed.elapsed() < Duration::from_secs(20) {
        for room in healthy.iter().take(5) {
            let begun = Instant::now();
            b.publish(room, 1).await;
            slowest = slowest.max(begun.elapsed());
        }
        let begun = Instant::now();
        match b.broker.publish(&numbered(lost[0], 1)).await {
            Ok(_) => back = Some(killed.elapsed()),
            Err(BrokerError::Unavailable { .. }) => slowest = slowest.max(begun.elapsed()),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let back = back.expect("the replica takes over");
    assert!(slowest < Duration::from_millis(400), "a command waited {slowest:?}");
    let Feed::Interrupted(scope) = a.until(|item| matches!(item, Feed::Interrupted(_))).await else {
        panic!("no interruption")
    };
    for room in &all {
        assert_eq!(a.broker.concerns(&scope, room), lost.contains(&room), "{room} in {scope:?}");
    }
    for room in &lost {
        let offset = loop {
            match b.broker.publish(&numbered(room, 7)).await {
                Ok(published) => break published.position.offset,
                Err(BrokerError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        };
        a.until(|item| {
            matches!(item, Feed::Delivery(name, roomcast_gateway::broker::Delivery::Event(_, event))
                if name == *room && event.offset == offset)
        })
        .await;
    }
    assert!(a.broker.health().usable);
    eprintln!(
        "the lost master's rooms were back after {back:?}; the slowest answer meanwhile took {slowest:?}"
    );
}

/// Claims of addresses that it owns wait for it, one behind the other; those of others do not wait behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_master_holds_up_no_claims_of_the_others() {
    let cluster = Cluster::start(0).await;
    let node = cluster.node("a").await;
    let all: Vec<Arc<str>> = (0..40).map(|number| format!("ip/10.0.0.{number}").into()).collect();
    let home = cluster.owner(&room("nodes"));
    let owner = |key: &Arc<str>| cluster.owner_of(format!("@{key}"));
    let victim = all.iter().map(owner).find(|owner| *owner != home).unwrap();
    let (lost, healthy): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|key| owner(key) == victim);
    let broker = &node.broker;
    let claim = |key: &Arc<str>| {
        let key = key.clone();
        async move {
            broker.hold_address(&key);
            broker.claim_address(&key, 1_000).await
        }
    };
    assert_eq!(claim(&healthy[0]).await.unwrap(), Claim::Admitted);
    cluster.servers[victim].signal("STOP");
    let begun = Instant::now();
    // The second comes while the first is being written, and has to wait for that.
    let stuck = futures_util::future::join_all([0, 10].map(|pause| {
        let claimed = claim(&lost[0]);
        async move {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            claimed.await
        }
    }));
    let others = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut longest = Duration::ZERO;
        for key in &healthy {
            let begun = Instant::now();
            assert_eq!(claim(key).await.unwrap(), Claim::Admitted);
            longest = longest.max(begun.elapsed());
        }
        longest
    };
    let (stuck, longest) = tokio::join!(stuck, others);
    assert!(stuck.iter().any(Result::is_err), "{stuck:?}");
    let waited = begun.elapsed();
    assert!(longest < waited / 4, "one of the others took {longest:?}, and the silent one {waited:?}");
    cluster.servers[victim].signal("CONT");
}

/// Silent, not gone: its connections stand, so only the calls that time out tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_master_is_refused_at_once_and_the_other_rooms_notice_nothing() {
    let cluster = Cluster::start(0).await;
    let node = cluster.node("a").await;
    let Broker::Redis(redis) = &node.broker else { panic!("Redis it is") };
    let limits = roomcast_counter::Limits::default();
    let counter = roomcast_counter::Redis::with(redis.servers(), "rc", limits, redis.publish_mode());
    let rules = roomcast_counter::IngestRules::default();
    let stores = Stores {
        broker: node.broker.clone(),
        counter: roomcast_counter::Counter::Redis(counter),
        ingest: roomcast_counter::Ingest::Redis(roomcast_counter::RedisIngest::new(
            redis.servers(),
            "rc",
            rules,
        )),
        changes: roomcast_counter::Changes::Redis(roomcast_counter::RedisChanges::new(
            redis.servers(),
            "rc",
            redis.changes(),
        )),
    };
    let open = Duration::from_secs(5);
    let backend = Backend::new(stores, config::Breaker { failures: 3, open });
    let all: Vec<_> = (0..60).map(|number| room(&format!("event:{number}"))).collect();
    let home = cluster.owner(&room("nodes"));
    let victim = all.iter().map(|room| cluster.owner(room)).find(|owner| *owner != home).unwrap();
    let (lost, healthy): (Vec<_>, Vec<_>) = all.iter().partition(|room| cluster.owner(room) == victim);
    let publish = async |room: &RoomName| {
        let publication = numbered(room, 1);
        backend.at(room.as_str()).call(Repeat::Harmless, backend.broker.publish(&publication)).await
    };
    publish(lost[0]).await.unwrap();
    cluster.servers[victim].signal("STOP");
    for outcome in futures_util::future::join_all((0..3).map(|_| publish(lost[0]))).await {
        assert_eq!(outcome.unwrap_err().code, ErrorCode::Unavailable);
    }
    let begun = Instant::now();
    for room in lost.iter().take(10) {
        let refused = publish(room).await.unwrap_err();
        assert!(
            refused.code == ErrorCode::Unavailable && refused.retry_ms.is_some_and(|ms| ms > 0),
            "{refused:?}"
        );
    }
    let refusals = begun.elapsed() / 10;
    assert!(refusals < Duration::from_millis(50), "a refusal took {refusals:?}");
    for room in healthy {
        publish(room).await.unwrap_or_else(|refused| panic!("{room}: {refused:?}"));
    }
    assert_eq!(backend.state(), BreakerState::Open);
    assert_eq!(backend.state_at("nodes"), BreakerState::Closed);
    cluster.servers[victim].signal("CONT");
    let woken = Instant::now();
    // Sooner than the breaker by itself would ask again: the probe over the real path has found it well.
    while publish(lost[0]).await.is_err() {
        assert!(woken.elapsed() < open, "its rooms stay refused");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("a refusal took {refusals:?}, and its rooms were back {:?} after it woke", woken.elapsed());
}

#[tokio::test]
async fn a_slot_that_moves_takes_its_rooms_along() {
    let cluster = Cluster::start(0).await;
    let (mut a, b) = (cluster.node("a").await, cluster.node("b").await);
    let wall = room("event:wall");
    a.broker.subscribe(&wall).await.unwrap();
    assert_eq!(b.publish(&wall, 1).await, 1);
    let from = cluster.owner(&wall);
    let to = (from + 1) % 3;
    let id = |number: usize| {
        let answer = cluster.servers[number].command(&["CLUSTER", "MYID"]);
        answer.lines().nth(1).unwrap().to_owned()
    };
    let slot = cluster.servers[0].command(&["CLUSTER", "KEYSLOT", "rc:{event:wall}:ch"]);
    let slot = slot.trim().trim_start_matches(':').to_owned();
    let (source, target) = (id(from), id(to));
    assert_eq!(cluster.servers[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]), "+OK\r\n");
    assert_eq!(
        cluster.servers[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]),
        "+OK\r\n"
    );
    let port = cluster.servers[to].port.to_string();
    let keys = ["rc:{event:wall}:meta", "rc:{event:wall}:log"];
    let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS", keys[0], keys[1]];
    assert_eq!(cluster.servers[from].command(&migrate), "+OK\r\n");
    // Its keys are there, the slot is not yet: the server asks to ask.
    let during =
        b.broker.history(&wall, &roomcast_gateway::broker::Range::Recent(5), crate::world::HISTORY).await;
    assert_eq!(during.unwrap().tail.offset.0, 1);
    for number in [to, from, 3 - from - to] {
        assert_eq!(
            cluster.servers[number].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]),
            "+OK\r\n"
        );
    }
    a.until(|item| matches!(item, Feed::Interrupted(_))).await;
    assert_eq!(b.publish(&wall, 2).await, 2);
    assert_eq!(a.event().await.1, 2, "heard where the room is now");
}

#[tokio::test]
async fn counters_publish_where_the_room_is_heard() {
    let cluster = Cluster::start(0).await;
    let redis = connect(&cluster.url(), "b").await.unwrap();
    let counter = roomcast_counter::Redis::with(
        redis.servers(),
        "rc",
        roomcast_counter::Limits::default(),
        redis.publish_mode(),
    );
    let counter = roomcast_counter::Counter::Redis(counter);
    let mut node = cluster.node("a").await;
    for number in 0..20 {
        let wall = room(&format!("event:{number}"));
        node.broker.subscribe(&wall).await.unwrap();
        let op = roomcast_counter::Op::Like { target: "photo".to_owned(), on: true };
        let history = roomcast_counter::History { size: 10, ttl: Duration::from_secs(60) };
        let command = roomcast_counter::Command {
            room: wall.to_string(),
            user: "ann".to_owned(),
            history,
            epoch_candidate: "0123456789abcdef".to_owned(),
            op,
        };
        counter.apply(command).await.unwrap();
        let (heard, delivery) = node.delivery().await;
        assert_eq!(heard, wall);
        assert!(
            matches!(&delivery, roomcast_gateway::broker::Delivery::Count(value) if value.value == 1),
            "{delivery:?}"
        );
    }
    counter.keep_ticket("ticket", "{}", Duration::from_secs(5)).await.unwrap();
    assert!(counter.redeem_ticket("ticket").await.unwrap().is_some());
}
