//! A publisher's task: one event per tick, each acknowledged before the next, so that its numbers have no gap
//! that the server did not make.

use std::{sync::Arc, time::Duration};

use hdrhistogram::Histogram;
use roomcast_protocol::{Data, Op, Publish, RoomName};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::{subscriber::Shared, tally::Stamp};
use crate::{client::Client, report};

/// What one publisher does.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The room's index.
    pub(super) room: usize,
    /// The room's name.
    pub(super) name: RoomName,
    /// Which publisher of the room.
    pub(super) publisher: u32,
    /// Between two events.
    pub(super) period: Duration,
    /// Before the first one: publishers of a run do not tick together.
    pub(super) delay: Duration,
    /// How long it publishes.
    pub(super) duration: Duration,
    /// Bytes of `data`.
    pub(super) payload: usize,
}

/// What a publisher hands back.
#[derive(Debug)]
pub(super) struct Sent {
    /// The room's index.
    pub(super) room: usize,
    /// Which publisher of the room.
    pub(super) publisher: u32,
    /// Events that the server acknowledged.
    pub(super) published: u64,
    /// Times that the server said "not so fast" or "not now".
    pub(super) refused: u64,
    /// From sending to acknowledgement.
    pub(super) latency: Histogram<u64>,
    /// Why it ended early.
    pub(super) failure: Option<String>,
}

/// Publishes until the plan's duration is over.
pub(super) async fn publish(mut client: Client, plan: Plan, shared: Arc<Shared>) -> Sent {
    let mut sent = Sent {
        room: plan.room,
        publisher: plan.publisher,
        published: 0,
        refused: 0,
        latency: report::histogram(),
        failure: None,
    };
    let first = Instant::now() + plan.delay;
    let end = first + plan.duration;
    let mut ticks = interval_at(first, plan.period);
    // Ticks that were missed while an acknowledgement was late are made up for: the rate is what was asked.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while Instant::now() < end {
        let message = tokio::select! {
            _ = ticks.tick() => None,
            // Between two ticks a ping may come, or the end.
            message = client.message() => Some(message),
        };
        match message {
            Some(Ok(_)) => continue,
            Some(Err(error)) => {
                sent.failure = Some(error.to_string());
                return sent;
            }
            None if Instant::now() >= end => break,
            None => {}
        }
        if let Err(error) = publish_one(&mut client, &plan, &shared, &mut sent).await {
            sent.failure = Some(format!("{error:#}"));
            return sent;
        }
    }
    client.close().await;
    sent
}

async fn publish_one(
    client: &mut Client,
    plan: &Plan,
    shared: &Shared,
    sent: &mut Sent,
) -> anyhow::Result<()> {
    loop {
        let started = shared.now();
        let stamp = Stamp { p: plan.publisher, n: sent.published + 1, t: started, x: String::new() };
        let op = Op::Publish(Publish {
            room: plan.name.clone(),
            event: "load".to_owned(),
            data: Data::of(&stamp.filled(plan.payload))?,
            key: None,
        });
        match client.request(op).await {
            Ok(_) => {
                sent.published += 1;
                sent.latency.saturating_record(shared.now().saturating_sub(started));
                return Ok(());
            }
            Err(error) => match error.patience() {
                Some(wait) => {
                    sent.refused += 1;
                    sleep(wait).await;
                }
                None => return Err(error.into()),
            },
        }
    }
}
