//! A subscriber: joins all rooms, writes down what it is given, and comes back with `since` whenever it must.

use std::{net::Ipv4Addr, time::Duration};

use roomcast_protocol::{Codec, Incoming, Position, Since};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{dice::Dice, ledger::Ledger};
use crate::{
    client::{Client, ClientError},
    target::{Identity, Target},
};

/// How long a connection and its joins may take before it is tried anew.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before coming back; a client that comes back at once is the server's own stampede.
const LEAST_PAUSE: Duration = Duration::from_millis(20);
const MOST_PAUSE: Duration = Duration::from_millis(200);
/// And where the nodes take no more just now, as their `Retry-After` asks.
const LONGER_PAUSE: Duration = Duration::from_millis(1_500);

/// Who it is.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) index: usize,
    /// Which rooms, by their index.
    pub(super) rooms: &'static [usize],
    pub(super) codec: Codec,
    pub(super) source: Ipv4Addr,
    pub(super) target: Target,
    pub(super) seed: u64,
}

/// What the faults ask of it.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    /// While true, a slow reader reads nothing.
    pub(super) stalled: watch::Receiver<bool>,
    /// With each change it drops its connection and comes back at once.
    pub(super) storm: watch::Receiver<u64>,
    pub(super) stop: CancellationToken,
}

enum Outcome {
    /// Told to.
    Stopped,
    /// By its own will.
    Dropped,
    Ended(ClientError),
}

/// Follows until it is told to stop. `place` is its place in the ledger.
pub(super) async fn follow(place: usize, plan: Plan, mut orders: Orders, ledger: Ledger) {
    let mut dice = Dice::new(plan.seed, 1_000 + plan.index as u64);
    let mut end: Option<usize> = None;
    loop {
        let coming = async {
            let (mut client, node) = come_in(&plan, place, &ledger).await?;
            join_all(&mut client, plan.rooms, place, &ledger).await?;
            Ok::<_, ClientError>((client, node))
        };
        let mut pause = dice.between(LEAST_PAUSE, MOST_PAUSE);
        let arrived = tokio::select! {
            () = orders.stop.cancelled() => return,
            arrived = timeout(PATIENCE, coming) => arrived,
        };
        match arrived {
            Ok(Ok((client, node))) => {
                {
                    let now = ledger.now();
                    let mut pages = ledger.open();
                    if let Some(end) = end.take().and_then(|end| pages.ends.get_mut(end)) {
                        end.back = Some(now);
                    }
                    if let Some(record) = pages.records.get_mut(place) {
                        record.node = Some(node.clone());
                    }
                }
                let outcome = read(client, place, &mut orders, &ledger).await;
                let at = ledger.now();
                let mut pages = ledger.open();
                if let Some(record) = pages.records.get_mut(place) {
                    record.node = None;
                }
                match outcome {
                    Outcome::Stopped => return,
                    Outcome::Dropped => {}
                    Outcome::Ended(ClientError::Closed(closed)) => {
                        let who =
                            pages.records.get(place).map(|record| record.name.clone()).unwrap_or_default();
                        pages.ends.push(super::ledger::End { who, node, at, back: None, closed });
                        end = Some(pages.ends.len() - 1);
                    }
                    Outcome::Ended(error) => {
                        pages.faults.push(format!("subscriber {place}: {}", chain(&error)));
                    }
                }
            }
            Ok(Err(error)) => {
                if matches!(error, ClientError::Refused { status: 429 | 503 }) {
                    pause = dice.between(MOST_PAUSE, LONGER_PAUSE);
                }
                ledger.refused(format!("join: {}", chain(&error)));
            }
            Err(_) => ledger.refused(format!("join: no answer within {PATIENCE:?}")),
        }
        tokio::select! {
            () = orders.stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

async fn come_in(plan: &Plan, place: usize, ledger: &Ledger) -> Result<(Client, String), ClientError> {
    let who = Identity::guest();
    let (client, welcome) = Client::connect(&plan.target, plan.codec, Some(plan.source), who).await?;
    if welcome.node.is_empty() {
        ledger.fault(&format!("subscriber {place}: connect named no node"));
    }
    Ok((client, welcome.node))
}

async fn join_all(
    client: &mut Client,
    rooms: &[usize],
    place: usize,
    ledger: &Ledger,
) -> Result<(), ClientError> {
    for &index in rooms {
        let Some(room) = ledger.rooms.get(index) else { continue };
        let since = {
            let pages = ledger.open();
            let follower = pages.records.get(place).and_then(|record| record.rooms.get(&index));
            follower.and_then(|follower| follower.position().cloned())
        };
        let since = since.map(|Position { epoch, offset }| Since { epoch, offset });
        let joined = client.join(room, since).await?;
        let at = ledger.now();
        {
            let mut pages = ledger.open();
            let Some(record) = pages.records.get_mut(place) else { continue };
            if index == 0 {
                record.presence = joined.presence.map(|count| (count.connections, count.users));
                // All that is counted in this room is one counter.
                record.count = joined.counts.first().map(|count| (count.value, count.version));
            }
            if let Some(follower) = record.rooms.get_mut(&index) {
                follower.joined(at, &joined);
            }
        }
        for push in client.take_pending() {
            take(&push, place, ledger);
        }
    }
    Ok(())
}

async fn read(mut client: Client, place: usize, orders: &mut Orders, ledger: &Ledger) -> Outcome {
    orders.storm.mark_unchanged();
    loop {
        let stalled = *orders.stalled.borrow_and_update();
        tokio::select! {
            () = orders.stop.cancelled() => {
                client.close().await;
                return Outcome::Stopped;
            }
            changed = orders.storm.changed() => {
                if changed.is_ok() {
                    return Outcome::Dropped;
                }
            }
            _ = orders.stalled.changed() => {}
            frame = client.read(), if !stalled => match frame {
                Ok(frame) => take(&frame, place, ledger),
                Err(error) => return Outcome::Ended(error),
            },
        }
    }
}

/// Writes down a push.
fn take(frame: &Incoming, place: usize, ledger: &Ledger) {
    let Some(push) = frame.push.as_deref() else { return };
    let at = ledger.now();
    let index = ledger.rooms.iter().position(|room| frame.room.as_deref() == Some(room.as_str()));
    let mut pages = ledger.open();
    let Some(record) = pages.records.get_mut(place) else { return };
    let mut broken = None;
    match (push, index) {
        ("event", Some(index)) => {
            let mark = frame.data.as_ref().and_then(|data| data.to().ok());
            match (record.rooms.get_mut(&index), frame.offset, mark) {
                (Some(follower), Some(offset), Some(mark)) => follower.event(at, offset, mark),
                _ => broken = Some("an event without offset or with foreign data".to_owned()),
            }
        }
        ("reset", Some(index)) => match (record.rooms.get_mut(&index), &frame.epoch, frame.offset) {
            (Some(follower), Some(epoch), Some(offset)) => {
                if index == 0 {
                    // What was told before the reset is nothing to build on; the server tells it again.
                    record.count = None;
                }
                let reason = frame.reason.as_deref().unwrap_or_default();
                follower.reset(at, Position { epoch: epoch.clone(), offset }, reason);
            }
            _ => broken = Some("a reset without position".to_owned()),
        },
        ("presence", Some(0)) => {
            record.presence = Some((frame.connections.unwrap_or_default(), frame.users.unwrap_or_default()));
        }
        ("count", Some(0)) => {
            let (value, version) = (frame.value.unwrap_or_default(), frame.version.unwrap_or_default());
            if record.count.is_some_and(|(_, last)| version < last) {
                broken = Some(format!("counter version {version} came after {:?}", record.count));
            }
            record.count = Some((value, version));
        }
        ("presence" | "count", Some(_)) | ("goaway" | "expiring", _) => {}
        (other, _) => broken = Some(format!("an unasked push {other}: {:?}", frame.reason)),
    }
    if let Some(broken) = broken {
        pages.faults.push(format!("subscriber {place}: {broken}, at {at:.3?}"));
    }
}

/// An error with its causes.
pub(super) fn chain(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
