//! The capacity model: from what one thing costs to what a load needs. Pure arithmetic; `docs/scaling.md` has the same
//! formulae with their reasons.

use serde::{Deserialize, Serialize};

/// The flusher gathers for at most this long when it is busy (`fanout.max_delay`), in seconds.
const GATHERED: f64 = 0.001;
/// Ethernet, IP and TCP around each write that fits into one segment, in bytes.
const HEADERS: f64 = 66.0;
/// Bytes of a segment's payload on an ordinary network.
const SEGMENT: f64 = 1448.0;
/// What a node takes without being told otherwise (`limits.connections_per_node`).
const CONNECTIONS_PER_NODE: f64 = 100_000.0;
/// No cluster that this model is for has more.
const MOST_NODES: f64 = 100_000.0;

/// What one thing costs. CPU in microseconds, memory and wire in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Coefficients {
    /// Node CPU to take a publish and put it to Redis.
    pub(crate) publish_us: f64,
    /// Node CPU to take an event from Redis and make it a frame, whatever the members.
    pub(crate) event_us: f64,
    /// Node CPU to write to one socket.
    pub(crate) write_us: f64,
    /// Node CPU of each further event in the same write.
    pub(crate) more_us: f64,
    /// Node CPU to read a frame and know what it wants.
    pub(crate) inbound_us: f64,
    /// Node CPU of a client that connects, joins and goes.
    pub(crate) come_us: f64,
    /// Node CPU of an idle connection, per second.
    pub(crate) idle_us: f64,
    /// Node CPU of a quiet room that it holds, per second: its place in the log is looked at.
    pub(crate) room_us: f64,
    /// Redis CPU of a quiet room, per second and node that holds it.
    pub(crate) redis_room_us: f64,
    /// Redis CPU of a publish that one node hears.
    pub(crate) redis_publish_us: f64,
    /// Redis CPU of each further node that hears it.
    pub(crate) redis_subscriber_us: f64,
    /// Redis CPU of a client that connects, joins and goes.
    pub(crate) redis_come_us: f64,
    /// Redis CPU per user in a room at each change of its presence, where two nodes or more hold the room.
    pub(crate) redis_user_us: f64,
    /// Node memory of a connected client.
    pub(crate) socket: f64,
    /// Node memory of a membership.
    pub(crate) member: f64,
    /// Node memory of a room.
    pub(crate) room: f64,
    /// Kernel memory of a connection.
    pub(crate) kernel: f64,
    /// Redis memory of a room with presence.
    pub(crate) redis_room: f64,
    /// Redis memory of a user in a room.
    pub(crate) redis_user: f64,
    /// Redis memory of a kept event beyond its data.
    pub(crate) redis_event: f64,
    /// Bytes of a frame beyond its data.
    pub(crate) envelope: f64,
}

/// What is asked of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Load {
    pub(crate) connections: f64,
    pub(crate) rooms: f64,
    /// Events per second in each room.
    pub(crate) events: f64,
    /// Bytes of an event's data.
    pub(crate) data: f64,
    /// Frames per second that each client sends besides publishing.
    pub(crate) inbound: f64,
    /// Clients that come, and others that go, per second.
    pub(crate) come: f64,
    /// Events kept per room.
    pub(crate) history: f64,
    /// Whether rooms tell who is there.
    pub(crate) presence: bool,
    /// Cores of a node.
    pub(crate) cores: f64,
    /// Memory of a node, in bytes.
    pub(crate) memory: f64,
    /// A node's network, in bits per second.
    pub(crate) link: f64,
    /// How much of anything may be in use.
    pub(crate) share: f64,
}

/// What a cluster needs for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Plan {
    pub(crate) nodes: f64,
    /// Of which there is least.
    pub(crate) decided_by: Decider,
    /// Cores in use, over all nodes.
    pub(crate) cores: f64,
    /// Memory in use per node, its sockets in the kernel included, in bytes.
    pub(crate) node_memory: f64,
    /// Bits per second out of each node.
    pub(crate) node_out: f64,
    /// Bits per second out of all nodes.
    pub(crate) all_out: f64,
    /// Redis processes, a core each.
    pub(crate) shards: f64,
    /// Redis cores in use, over all shards.
    pub(crate) redis_cores: f64,
    /// The share of one Redis core that one room needs; a room can't be spread over two.
    pub(crate) room_redis_core: f64,
    /// Redis memory, in bytes.
    pub(crate) redis_memory: f64,
    /// Bits per second out of Redis.
    pub(crate) redis_out: f64,
    /// Milliseconds from a node's first delivery of an event to its last.
    pub(crate) spread_ms: f64,
}

/// What a number of nodes is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Decider {
    Cpu,
    Memory,
    Network,
    Connections,
}

impl Decider {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Memory => "memory",
            Self::Network => "the network",
            Self::Connections => "limits.connections_per_node",
        }
    }
}

impl Coefficients {
    /// The smallest cluster that bears a load; none where more nodes make it no lighter.
    pub(crate) fn plan(&self, load: &Load) -> Option<Plan> {
        let mut nodes = 1.0;
        loop {
            let plan = self.with(load, nodes);
            let needs = [
                (plan.cores / (load.cores * load.share), Decider::Cpu),
                (plan.node_memory * nodes / (load.memory * load.share), Decider::Memory),
                (plan.all_out / (load.link * load.share), Decider::Network),
                (load.connections / CONNECTIONS_PER_NODE, Decider::Connections),
            ];
            let (most, decided_by) = needs.into_iter().max_by(|left, right| left.0.total_cmp(&right.0))?;
            if most <= nodes {
                return Some(Plan { decided_by, ..plan });
            }
            nodes = most.ceil();
            if nodes > MOST_NODES {
                return None;
            }
        }
    }

    /// How a load spreads over so many nodes.
    fn with(&self, load: &Load, nodes: f64) -> Plan {
        let members = load.connections / load.rooms;
        let events = load.rooms * load.events;
        // How many nodes hold a room, members falling on nodes by chance.
        let holders = nodes * (1.0 - (1.0 - 1.0 / nodes).powf(members));
        // How many events of a room go into one write.
        let gathered = (load.events * GATHERED).max(1.0);
        let deliveries = load.connections * load.events;
        let per_delivery = self.write_us / gathered + self.more_us * (1.0 - 1.0 / gathered);
        let cpu = deliveries * per_delivery
            + events * (self.publish_us + holders * self.event_us)
            + load.connections * load.inbound * self.inbound_us
            + load.come * self.come_us
            + load.connections * self.idle_us
            + load.rooms * holders * self.room_us;

        let memory =
            load.connections * (self.socket + self.member + self.kernel) + load.rooms * holders * self.room;

        let frame = load.data + self.envelope;
        let segments = (frame * gathered / SEGMENT).ceil();
        let out = deliveries * frame + deliveries / gathered * segments * HEADERS;

        let per_event = self.redis_publish_us + (holders - 1.0).max(0.0) * self.redis_subscriber_us;
        // Each change of presence tells the users of the room anew; on one node nothing need be added up.
        let counted = if load.presence && holders >= 1.5 { members * self.redis_user_us } else { 0.0 };
        let come_per_room = load.come / load.rooms;
        // A node tells a room's changes together while one is under way, so none waits for more than one of its own.
        let coming = (come_per_room * (self.redis_come_us + counted)).min(holders * 1e6);
        let room_redis = load.events * per_event + coming + holders * self.redis_room_us;
        let redis_cores = room_redis * load.rooms / 1e6;
        let shards = (redis_cores / load.share).ceil().clamp(1.0, load.rooms.max(1.0));
        let users = if load.presence { load.connections * self.redis_user } else { 0.0 };
        let redis_memory =
            load.rooms * (self.redis_room + load.history * (load.data + self.redis_event)) + users;

        Plan {
            nodes,
            decided_by: Decider::Cpu,
            cores: cpu / 1e6,
            node_memory: memory / nodes,
            node_out: out * 8.0 / nodes,
            all_out: out * 8.0,
            shards,
            redis_cores,
            room_redis_core: room_redis / 1e6,
            redis_memory,
            redis_out: events * holders * (frame + HEADERS) * 8.0,
            spread_ms: members / holders.max(1.0) / load.cores * self.write_us / 1000.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Coefficients = Coefficients {
        publish_us: 40.0,
        event_us: 20.0,
        write_us: 4.0,
        more_us: 0.25,
        inbound_us: 4.0,
        come_us: 200.0,
        idle_us: 0.0,
        room_us: 0.0,
        redis_room_us: 0.0,
        redis_publish_us: 20.0,
        redis_subscriber_us: 1.0,
        redis_come_us: 60.0,
        redis_user_us: 0.5,
        socket: 3000.0,
        member: 200.0,
        room: 500.0,
        kernel: 4000.0,
        redis_room: 600.0,
        redis_user: 100.0,
        redis_event: 100.0,
        envelope: 110.0,
    };

    fn load() -> Load {
        Load {
            connections: 10_000.0,
            rooms: 100.0,
            events: 1.0,
            data: 200.0,
            inbound: 0.0,
            come: 0.0,
            history: 0.0,
            presence: false,
            cores: 4.0,
            memory: 8e9,
            link: 1e9,
            share: 0.5,
        }
    }

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() <= right.abs() * 1e-9 + 1e-12
    }

    #[test]
    fn a_small_load_is_one_node_and_its_sums_are_those_of_its_parts() {
        let plan = COSTS.plan(&load()).unwrap();
        assert!(close(plan.nodes, 1.0) && close(plan.shards, 1.0));
        // 10,000 writes, 100 publishes, 100 events.
        assert!(close(plan.cores, (10_000.0 * 4.0 + 100.0 * 60.0) / 1e6), "{plan:?}");
        assert!(close(plan.node_memory, 10_000.0 * 7200.0 + 100.0 * 500.0));
        assert!(close(plan.node_out, 10_000.0 * (310.0 + 66.0) * 8.0));
        assert!(close(plan.redis_cores, 100.0 * 20.0 / 1e6));
        assert!(close(plan.spread_ms, 100.0 / 4.0 * 4.0 / 1000.0));
    }

    #[test]
    fn whatever_is_scarcest_decides() {
        let plan = |change: fn(&mut Load)| {
            let mut load = load();
            change(&mut load);
            COSTS.plan(&load).unwrap()
        };
        let cpu = plan(|load| load.events = 100.0);
        assert_eq!(cpu.decided_by, Decider::Network, "{cpu:?}");
        let cpu = plan(|load| {
            load.events = 100.0;
            load.link = 1e12;
        });
        assert!(cpu.decided_by == Decider::Cpu && cpu.nodes >= 3.0, "{cpu:?}");
        assert!(cpu.cores <= cpu.nodes * 4.0 * 0.5);
        let memory = plan(|load| load.memory = 60e6);
        assert!(memory.decided_by == Decider::Memory && memory.nodes >= 3.0, "{memory:?}");
        let many = plan(|load| {
            load.connections = 1e6;
            load.events = 0.001;
        });
        assert!(many.decided_by == Decider::Connections && close(many.nodes, 10.0), "{many:?}");
    }

    #[test]
    fn fast_rooms_share_their_writes() {
        let busy = |events| COSTS.with(&Load { events, rooms: 1.0, ..load() }, 1.0).cores / events;
        assert!(busy(3000.0) < busy(1.0) / 2.0);
        assert!(close(busy(1.0), busy(10.0)));
    }

    #[test]
    fn one_room_needs_one_redis_core_however_many_shards_there_are() {
        let one = Load { connections: 1e6, rooms: 1.0, come: 1000.0, presence: true, ..load() };
        let plan = COSTS.with(&one, 20.0);
        // A thousand who come, each counted among a million at half a microsecond: all that twenty nodes can ask for.
        assert!(plan.room_redis_core >= 20.0, "{plan:?}");
        assert!(close(plan.shards, 1.0), "a room is not spread");
        let without = COSTS.with(&Load { presence: false, ..one }, 20.0);
        assert!(without.room_redis_core < 0.1, "{without:?}");
        let alone = COSTS.with(&one, 1.0);
        assert!(alone.room_redis_core < 0.1, "one node adds nothing up");
    }

    #[test]
    fn rooms_of_one_are_heard_by_one_node_each() {
        let plan = COSTS.with(&Load { connections: 1e6, rooms: 1e6, ..load() }, 50.0);
        assert!(close(plan.redis_cores, 1e6 * 20.0 / 1e6), "{plan:?}");
        let shared = COSTS.with(&Load { connections: 1e6, rooms: 1.0, ..load() }, 50.0);
        assert!(close(shared.redis_cores, (20.0 + 49.0) / 1e6));
    }

    #[test]
    fn quiet_rooms_and_connections_cost_as_long_as_they_are_there() {
        let costs = Coefficients { idle_us: 2.0, room_us: 5.0, redis_room_us: 3.0, ..COSTS };
        let plan = costs.with(&Load { events: 0.0, ..load() }, 1.0);
        assert!(close(plan.cores, (10_000.0 * 2.0 + 100.0 * 5.0) / 1e6), "{plan:?}");
        assert!(close(plan.redis_cores, 100.0 * 3.0 / 1e6));
    }

    #[test]
    fn what_no_number_of_nodes_can_bear_is_said() {
        let heavy = Coefficients { event_us: 1e6, ..COSTS };
        assert_eq!(heavy.plan(&Load { connections: 1e9, rooms: 1.0, events: 10.0, ..load() }), None);
    }
}
