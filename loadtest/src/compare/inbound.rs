//! Frames that come in: what it costs to read one, to know what it wants, and to do nothing about it.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{
    Bench,
    frames::{self, opcode},
    handshake::each,
    peer::{Peer, Running},
    result::Case,
    swarm::{MASK, Swarm},
    wire::Role,
};
use crate::report;

const UNIT: &str = "µs of server CPU per frame";
/// Connections that send in turn.
const CLIENTS: usize = 50;
/// Frames of each, between two looks at the clock.
const FRAMES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    running: Running,
    clients: Swarm,
    turns: usize,
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Vec<Case>> {
    let mut servers = Vec::new();
    for &peer in &bench.peers {
        // The bare loop and `ws` have nobody who listens to what a member says.
        if matches!(peer, Peer::Limit | Peer::Ws | Peer::Centrifugo) {
            continue;
        }
        let running = Running::start(peer, &bench.places, bench.cores).await?;
        let clients = Swarm::open(peer.wire(), running.address, &[Role::Visitor; CLIENTS])?;
        servers.push(Server { running, clients, turns: 0 });
    }
    let mut cases = Vec::new();
    for bytes in [200, 2048, 16_384] {
        let mut case = Case::new(format!("{bytes} B"), UNIT);
        if !bench.wants(&case.name) {
            continue;
        }
        let bar = report::bar("inbound", (servers.len() * (bench.rounds + 1)) as u64);
        for round in 0..=bench.rounds {
            for place in 0..servers.len() {
                let index = (place + round) % servers.len();
                for waiting in &mut servers {
                    // Who waits still answers the pings of its server.
                    waiting.clients.turn(Duration::ZERO, |_, _| {})?;
                }
                let server = &mut servers[index];
                match server.round(bench, bytes) {
                    Ok(spent) => {
                        if let Some(round) = round.checked_sub(1) {
                            case.set(server.running.peer.name(), round, spent);
                        }
                    }
                    // A peer that does not bear it is left out from here on, and roomcast may not be one.
                    Err(error) if server.running.peer != Peer::Roomcast => {
                        let name = server.running.peer.name();
                        bar.suspend(|| eprintln!("{name}, {bytes} B: left out: {error:#}"));
                        case.leave_out(name, &format!("{error:#}"));
                        servers.remove(index);
                        break;
                    }
                    Err(error) => return Err(error.context(format!("roomcast, {bytes} B"))),
                }
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        cases.push(case);
    }
    Ok(cases)
}

impl Server {
    /// Turns for about a round's time: microseconds of CPU per frame.
    fn round(&mut self, bench: &Bench, bytes: usize) -> anyhow::Result<f64> {
        let before = self.running.cpu()?;
        let began = Instant::now();
        let mut count = 0;
        while count == 0 || began.elapsed() < bench.round_time {
            count += self.turn(bytes)?;
        }
        std::thread::sleep(Duration::from_millis(3));
        Ok(each(self.running.cpu()? - before, count))
    }

    /// Some frames of each client, one after the other as they would come in life; the last asks for an answer, so
    /// that all have been read when it comes.
    fn turn(&mut self, bytes: usize) -> anyhow::Result<usize> {
        self.turns += 1;
        let wire = self.running.peer.wire();
        let mut frame = Vec::new();
        frames::push_client(&mut frame, opcode::TEXT, wire.note(bytes).as_bytes(), MASK);
        let mut last = Vec::new();
        frames::push_client(&mut last, opcode::TEXT, wire.question(self.turns + 1).as_bytes(), MASK);
        let answers = |clients: &Swarm| clients.seen().others + clients.seen().deliveries;
        let wanted = answers(&self.clients) + CLIENTS as u64;
        for _ in 0..FRAMES {
            for client in 0..CLIENTS {
                self.clients.send(client, &frame)?;
            }
        }
        for client in 0..CLIENTS {
            self.clients.send(client, &last)?;
        }
        let deadline = Instant::now() + PATIENCE;
        while answers(&self.clients) < wanted {
            ensure!(Instant::now() < deadline, "no answer");
            self.clients.turn(Duration::from_millis(100), |_, _| {})?;
            let seen = self.clients.seen();
            ensure!(
                seen.closed == 0 && seen.failures == 0,
                "{}",
                self.clients.trouble().unwrap_or("a connection ended")
            );
        }
        Ok((FRAMES + 1) * CLIENTS)
    }
}
