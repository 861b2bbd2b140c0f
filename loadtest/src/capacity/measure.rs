//! What one thing costs on the machine at hand: each number is a difference of two measurements, divided by how often
//! it was done. Two nodes over one Redis, so that what is a publisher's and what is a member's cost falls on different
//! processes.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::model::Coefficients;
use crate::{
    compare::{
        contest::Publisher,
        cpu::Cores,
        peer::{Peer, Places, Redis, Running},
        stats::Spread,
        swarm::Swarm,
        wire::{self, Role, Wire},
    },
    report,
};

const WIRE: Wire = Wire::Roomcast;
const DATA: usize = 200;
const PATIENCE: Duration = Duration::from_secs(30);
/// After a burst or a storm: what belongs to it has been done.
const SETTLE: Duration = Duration::from_millis(1500);
/// Idle costs are watched for so long: several looks at quiet rooms.
const WATCH: Duration = Duration::from_secs(8);
const TIDY: Duration = Duration::from_millis(20);
/// The room of many, and one of few.
const MANY_ROOM: usize = 0;
const FEW_ROOM: usize = 1;
const FEW: usize = 10;
const TOGETHER: usize = 16;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Connections of the measurements of memory.
    pub(crate) sockets: usize,
    /// Members of the large room.
    pub(crate) members: usize,
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
}

/// All of them; takes a minute or so.
pub(crate) async fn coefficients(places: &Places, cores: Cores, size: Size) -> anyhow::Result<Coefficients> {
    let bar = report::bar("capacity", 4);
    let memory = memory(places, cores, size.sockets).await?;
    bar.inc(1);
    let cpu = fan_out(places, cores, size).await?;
    bar.inc(1);
    let (inbound_us, come_us, redis_come_us) = comings(places, cores, size).await?;
    bar.inc(1);
    let redis_user_us = presence(places, cores, size).await?;
    bar.finish_and_clear();
    let data = wire::data(DATA, 0);
    // A frame between 126 bytes and 64 KiB has a header of four.
    let envelope = count(wire::ready_made(MANY_ROOM, &data).len() + 4 - data.len());
    Ok(Coefficients {
        publish_us: cpu.publish,
        event_us: cpu.event,
        write_us: cpu.write,
        more_us: cpu.more,
        inbound_us,
        come_us,
        idle_us: memory.idle_us,
        room_us: memory.room_us,
        redis_room_us: memory.redis_room_us,
        redis_publish_us: cpu.redis_publish,
        redis_subscriber_us: cpu.redis_subscriber,
        redis_come_us,
        redis_user_us,
        socket: memory.socket,
        member: memory.member,
        room: memory.room,
        kernel: memory.kernel,
        redis_room: memory.redis_room,
        redis_user: memory.redis_user,
        redis_event: cpu.redis_event,
        envelope,
    })
}

struct Memory {
    socket: f64,
    member: f64,
    room: f64,
    kernel: f64,
    redis_room: f64,
    redis_user: f64,
    idle_us: f64,
    room_us: f64,
    redis_room_us: f64,
}

/// The same number of connections, in no room, in one, and in a room each: the differences are what each adds.
async fn memory(places: &Places, cores: Cores, sockets: usize) -> anyhow::Result<Memory> {
    let mut node = [0.0; 3];
    let mut redis = [0.0; 3];
    let (mut node_us, mut redis_us) = ([0.0; 3], [0.0; 3]);
    let mut kernel = 0.0;
    for place in 0..3 {
        let running = Running::start(Peer::Roomcast, places, cores).await?;
        let of_redis = || used_memory(running.redis.as_ref().context("no Redis")?);
        let (before, redis_before, slab) = (running.memory()?.rss_anon_kib, of_redis()?, slab()?);
        let roles: Vec<Role<'_>> = (0..sockets)
            .map(|index| match place {
                0 => Role::Visitor,
                1 => Role::Member(0),
                _ => Role::Member(index),
            })
            .collect();
        let mut clients = Swarm::open(WIRE, running.address, &roles)?;
        quiet(&mut [&mut clients], SETTLE * 2)?;
        node[place] = (count64(running.memory()?.rss_anon_kib) - count64(before)) * 1024.0 / count(sockets);
        redis[place] = (of_redis()? - redis_before) / count(sockets);
        if place == 0 {
            // Both ends of each connection are on this machine.
            kernel = (self::slab()? - slab) / count(sockets) / 2.0;
        }
        let cpu = (running.cpu()?, running.redis_cpu()?);
        quiet(&mut [&mut clients], WATCH)?;
        node_us[place] = us(running.cpu()? - cpu.0, sockets) / WATCH.as_secs_f64();
        redis_us[place] = us(running.redis_cpu()? - cpu.1, sockets) / WATCH.as_secs_f64();
        ensure!(clients.seen().closed == 0, "a connection ended");
    }
    let least = |value: f64| value.max(0.0);
    Ok(Memory {
        socket: node[0],
        member: least(node[1] - node[0]),
        room: least(node[2] - node[1]),
        kernel: least(kernel),
        redis_room: least(redis[2] - redis[1]),
        redis_user: least(redis[1] - redis[0]),
        idle_us: node_us[0],
        room_us: least(node_us[2] - node_us[1]),
        redis_room_us: least(redis_us[2] - redis_us[1]),
    })
}

struct FanOut {
    publish: f64,
    event: f64,
    write: f64,
    more: f64,
    redis_publish: f64,
    redis_subscriber: f64,
    redis_event: f64,
}

/// What a round cost, per event.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    publisher: f64,
    members: f64,
    redis: f64,
}

/// A publisher on one node, members on the other.
async fn fan_out(places: &Places, cores: Cores, size: Size) -> anyhow::Result<FanOut> {
    let first = Running::start(Peer::Roomcast, places, cores).await?;
    let redis = first.redis.as_ref().context("no Redis")?;
    let second = Running::over(Peer::Roomcast, places, cores.server, &redis.url()).await?;
    let mut roles = vec![Role::Member(MANY_ROOM); size.members];
    roles.extend([Role::Member(FEW_ROOM); FEW]);
    let mut members = Swarm::open(WIRE, second.address, &roles)?;
    let mut publisher = Publisher::connect(&first)?;
    let data = wire::data(DATA, 0);

    let mut single = Vec::new();
    let mut few = Vec::new();
    let mut together = Vec::new();
    for round in 0..=size.rounds {
        let turns =
            [(MANY_ROOM, 1, &mut single), (FEW_ROOM, 1, &mut few), (MANY_ROOM, TOGETHER, &mut together)];
        for (room, queued, costs) in turns {
            let events: Vec<(usize, &str)> = std::iter::repeat_n((room, data.as_str()), queued).collect();
            let each = if room == MANY_ROOM { size.members } else { FEW };
            let before = (first.cpu()?, second.cpu()?, redis.cpu()?);
            let (began, mut done) = (Instant::now(), 0);
            while done == 0 || began.elapsed() < size.round {
                let wanted = members.seen().deliveries + (each * queued) as u64;
                publisher.publish(&events)?;
                members.until(wanted, PATIENCE)?;
                publisher.settle()?;
                done += queued;
            }
            std::thread::sleep(TIDY);
            if round > 0 {
                costs.push(Cost {
                    publisher: us(first.cpu()? - before.0, done),
                    members: us(second.cpu()? - before.1, done),
                    redis: us(redis.cpu()? - before.2, done),
                });
            }
        }
    }
    let (single, few, together) = (medians(&single)?, medians(&few)?, medians(&together)?);

    // A second node that hears the room; the same events, and what Redis takes more.
    let mut here = Swarm::open(WIRE, first.address, &[Role::Member(FEW_ROOM); FEW])?;
    let mut both = Vec::new();
    for round in 0..=size.rounds {
        let before = redis.cpu()?;
        let (began, mut done) = (Instant::now(), 0);
        while done == 0 || began.elapsed() < size.round {
            let wanted = (members.seen().deliveries + FEW as u64, here.seen().deliveries + FEW as u64);
            publisher.publish(&[(FEW_ROOM, &data)])?;
            members.until(wanted.0, PATIENCE)?;
            here.until(wanted.1, PATIENCE)?;
            publisher.settle()?;
            done += 1;
        }
        std::thread::sleep(TIDY);
        if round > 0 {
            both.push(Cost { redis: us(redis.cpu()? - before, done), ..Cost::default() });
        }
    }
    let both = medians(&both)?;

    // What the log keeps: events into a room that nobody is in.
    let kept = 500;
    let before = used_memory(redis)?;
    for _ in 0..kept / TOGETHER {
        publisher.publish(&[(2, data.as_str()); TOGETHER])?;
        publisher.settle()?;
    }
    let kept = count(kept / TOGETHER * TOGETHER);
    let redis_event = ((used_memory(redis)? - before) / kept - count(DATA)).max(0.0);

    let many = count(size.members);
    let write = (single.members - few.members) / (many - count(FEW));
    let event = (few.members - write * count(FEW)).max(0.0);
    // Of so many events together: one write and the rest of them in it, and each event once.
    let block = (together.members - event) * count(TOGETHER) / many;
    Ok(FanOut {
        publish: single.publisher,
        event,
        write,
        more: ((block - write) / count(TOGETHER - 1)).max(0.0),
        redis_publish: few.redis,
        redis_subscriber: (both.redis - few.redis).max(0.0),
        redis_event,
    })
}

/// Frames that come in, and clients that come and go.
async fn comings(places: &Places, cores: Cores, size: Size) -> anyhow::Result<(f64, f64, f64)> {
    const CLIENTS: usize = 20;
    const FRAMES: usize = 50;
    const ABREAST: usize = 32;
    let running = Running::start(Peer::Roomcast, places, cores).await?;
    let mut clients = Swarm::open(WIRE, running.address, &[Role::Visitor; CLIENTS])?;
    let (mut inbound, mut come, mut redis_come) = (Vec::new(), Vec::new(), Vec::new());
    let mut id = 1;
    for round in 0..=size.rounds {
        let before = running.cpu()?;
        let (began, mut done) = (Instant::now(), 0);
        while done == 0 || began.elapsed() < size.round {
            id += 1;
            let wanted = clients.seen().others + CLIENTS as u64;
            for _ in 0..FRAMES {
                for client in 0..CLIENTS {
                    clients.say(client, [WIRE.note(DATA).as_bytes()])?;
                }
            }
            for client in 0..CLIENTS {
                clients.say(client, [WIRE.question(id).as_bytes()])?;
            }
            let deadline = Instant::now() + PATIENCE;
            while clients.seen().others < wanted {
                ensure!(Instant::now() < deadline, "a frame was not answered");
                clients.turn(Duration::from_millis(100), |_, _| {})?;
            }
            done += CLIENTS * (FRAMES + 1);
        }
        std::thread::sleep(TIDY);
        let spent = us(running.cpu()? - before, done);

        let before = (running.cpu()?, running.redis_cpu()?);
        let (began, mut came) = (Instant::now(), 0);
        while came == 0 || began.elapsed() < size.round {
            // Each in a room of its own: what it costs to be counted among many is another number.
            let roles: Vec<Role<'_>> = (0..ABREAST).map(|index| Role::Member(came + index)).collect();
            drop(Swarm::open(WIRE, running.address, &roles)?);
            came += ABREAST;
        }
        std::thread::sleep(TIDY * 10);
        if round > 0 {
            inbound.push(Some(spent));
            come.push(Some(us(running.cpu()? - before.0, came)));
            redis_come.push(Some(us(running.redis_cpu()? - before.1, came)));
        }
    }
    Ok((median(&inbound)?, median(&come)?, median(&redis_come)?))
}

/// One who comes into a room on two nodes, among few and among many: what each user that is there adds to it.
async fn presence(places: &Places, cores: Cores, size: Size) -> anyhow::Result<f64> {
    let first = Running::start(Peer::Roomcast, places, cores).await?;
    let redis = first.redis.as_ref().context("no Redis")?;
    let second = Running::over(Peer::Roomcast, places, cores.server, &redis.url()).await?;
    let mut costs = [0.0; 2];
    for (place, users) in [size.members / 10, size.members].into_iter().enumerate() {
        let room = Role::Member(place);
        let mut here = Swarm::open(WIRE, first.address, &vec![room; users / 2])?;
        let mut there = Swarm::open(WIRE, second.address, &vec![room; users / 2])?;
        quiet(&mut [&mut here, &mut there], SETTLE)?;
        let mut each = Vec::new();
        for _ in 0..size.rounds {
            let before = redis.cpu()?;
            let came = 20;
            for _ in 0..came {
                // One at a time, because those who come together are told together.
                drop(Swarm::open(WIRE, first.address, &[room])?);
                quiet(&mut [&mut here, &mut there], TIDY)?;
            }
            each.push(Some(us(redis.cpu()? - before, came)));
        }
        costs[place] = median(&each)?;
    }
    // Coming and going are two changes.
    Ok(((costs[1] - costs[0]) / count(size.members - size.members / 10) / 2.0).max(0.0))
}

/// Lets time pass in which clients answer pings.
fn quiet(swarms: &mut [&mut Swarm], time: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        for swarm in swarms.iter_mut() {
            swarm.turn(Duration::from_millis(5), |_, _| {})?;
        }
    }
    Ok(())
}

fn medians(costs: &[Cost]) -> anyhow::Result<Cost> {
    let of = |part: fn(&Cost) -> f64| median(&costs.iter().map(|cost| Some(part(cost))).collect::<Vec<_>>());
    Ok(Cost {
        publisher: of(|cost| cost.publisher)?,
        members: of(|cost| cost.members)?,
        redis: of(|cost| cost.redis)?,
    })
}

fn median(values: &[Option<f64>]) -> anyhow::Result<f64> {
    Ok(Spread::of(values).context("nothing was measured")?.median)
}

/// Microseconds of each.
fn us(nanoseconds: u64, times: usize) -> f64 {
    count64(nanoseconds) / 1000.0 / count(times)
}

#[allow(clippy::cast_precision_loss, reason = "numbers to three digits")]
fn count(number: usize) -> f64 {
    number as f64
}

#[allow(clippy::cast_precision_loss, reason = "numbers to three digits")]
fn count64(number: u64) -> f64 {
    number as f64
}

/// The kernel's own memory, in bytes: sockets and what belongs to them.
fn slab() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("Slab:")).context("no Slab in /proc/meminfo")?;
    let kib: u64 = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).context("Slab")?;
    Ok(count64(kib) * 1024.0)
}

/// What Redis says it uses, in bytes.
fn used_memory(redis: &Redis) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port)).context("connecting to Redis")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"INFO memory\r\nQUIT\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("asking Redis for its memory")?;
    used(&text).context("Redis does not tell its memory")
}

fn used(info: &str) -> Option<f64> {
    info.lines().find_map(|line| line.strip_prefix("used_memory:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_tells_its_memory_among_other_things() {
        let info = "$100\r\n# Memory\r\nused_memory_human:1M\r\nused_memory:1048576\r\nused_memory_rss:2\r\n";
        assert_eq!(used(info), Some(1_048_576.0));
        assert_eq!(used("-ERR"), None);
        assert!(slab().unwrap() > 0.0);
    }

    #[test]
    fn costs_are_microseconds_of_each_and_medians_of_rounds() {
        assert!((us(3_000_000, 100) - 30.0).abs() < 1e-9);
        let costs = [1.0, 9.0, 2.0].map(|members| Cost { members, ..Cost::default() });
        assert!((medians(&costs).unwrap().members - 2.0).abs() < 1e-9);
        assert!(medians(&[]).is_err());
    }
}
