//! The two kinds of readers: those that keep up and measure, and those that take a frame now and then, are closed
//! for it, and come back for what they missed.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use roomcast_protocol::{Codec, Offset, RoomName, Since};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Client, ClientError, Joined},
    fanout::tally::{Glance, Tally},
    report,
    target::{Identity, Target},
};

/// The close code of a slow consumer.
const SLOW_CONSUMER: u16 = 4001;
/// Who does not stand where the room stood so long after the round's end has not caught up.
const CATCH_UP: Duration = Duration::from_secs(30);
/// Before somebody who was closed comes back.
const COME_BACK: Duration = Duration::from_secs(1);

/// What the measured latencies belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is measured.
    Between,
    /// A round without slow readers.
    Without,
    /// A round with them.
    With,
}

/// What all share.
#[derive(Debug)]
pub(super) struct Shared {
    start: Instant,
    phase: AtomicU8,
    latencies: [Mutex<Histogram<u64>>; 3],
    /// The room's last offset, as its publisher was told.
    tail: AtomicU64,
    /// Tells the readers that keep up that the run is over.
    pub(super) stop: CancellationToken,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            phase: AtomicU8::new(Phase::Between as u8),
            latencies: std::array::from_fn(|_| Mutex::new(report::histogram())),
            tail: AtomicU64::new(0),
            stop: CancellationToken::new(),
        }
    }

    /// Microseconds since the start of the run.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn published(&self, offset: u64) {
        self.tail.fetch_max(offset, Ordering::Relaxed);
    }

    pub(super) fn latency(&self, phase: Phase) -> Histogram<u64> {
        self.latencies[phase as usize].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn delivered(&self, sent: u64) {
        let latency = self.now().saturating_sub(sent);
        let phase = usize::from(self.phase.load(Ordering::Relaxed));
        self.latencies[phase].lock().unwrap_or_else(PoisonError::into_inner).saturating_record(latency);
    }
}

/// What a reader that keeps up hands back.
#[derive(Debug)]
pub(super) struct Fast {
    pub(super) tally: Tally,
    pub(super) failure: Option<String>,
}

/// Reads everything until the run is over.
pub(super) async fn fast(mut client: Client, offset: u64, shared: Arc<Shared>) -> Fast {
    let mut fast = Fast { tally: Tally::new(1, offset), failure: None };
    loop {
        let message = tokio::select! {
            () = shared.stop.cancelled() => break,
            message = client.message() => message,
        };
        let seen = message.map_err(|error| error.to_string()).and_then(|message| {
            glance(&message, |offset, stamp| {
                shared.delivered(stamp.t);
                fast.tally.event(offset, stamp);
            })
        });
        if let Err(failure) = seen {
            fast.failure = Some(failure);
            return fast;
        }
    }
    client.close().await;
    fast
}

fn glance(message: &Message, event: impl FnOnce(u64, &crate::fanout::tally::Stamp)) -> Result<(), String> {
    match push(message, event)? {
        Some(_reset) => Err("the room was reset".to_owned()),
        None => Ok(()),
    }
}

/// Reads a push; answers where a reset says that the room stands.
fn push(
    message: &Message,
    event: impl FnOnce(u64, &crate::fanout::tally::Stamp),
) -> Result<Option<u64>, String> {
    let glance: Glance<'_> = match message {
        Message::Text(text) => serde_json::from_str(text).map_err(|error| error.to_string())?,
        Message::Binary(bytes) => rmp_serde::from_slice(bytes).map_err(|error| error.to_string())?,
        _ => return Ok(None),
    };
    match glance {
        Glance { push: Some(push), offset: Some(offset), data: Some(stamp) } if push == "event" => {
            event(offset, &stamp);
            Ok(None)
        }
        Glance { push: Some(push), offset, .. } if push == "reset" => Ok(offset),
        _ => Ok(None),
    }
}

/// Who a slow reader is.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) codec: Codec,
    pub(super) source: Option<Ipv4Addr>,
    pub(super) room: RoomName,
    pub(super) read_every: Duration,
}

/// What a slow reader hands back.
#[derive(Debug, Default)]
pub(super) struct Slow {
    /// Closed for being slow, and told so.
    pub(super) closed: u64,
    /// Ended without a word.
    pub(super) ended_untold: u64,
    pub(super) closed_otherwise: u64,
    pub(super) recovered: u64,
    pub(super) beyond_history: u64,
    /// Offsets that did not follow the one before.
    pub(super) broken: u64,
    /// Stood, after the round, where the room stood at its end.
    pub(super) caught_up: u64,
    pub(super) failure: Option<String>,
}

impl Plan {
    async fn open(&self) -> Result<Client, ClientError> {
        let connected = Client::connect(&self.target, self.codec, self.source, Identity::guest()).await;
        connected.map(|(client, _)| client)
    }
}

/// Joins, reads too slowly, is closed, comes back for what it missed, until the round is over and it has everything.
pub(super) async fn slow(plan: Plan, shared: Arc<Shared>, over: CancellationToken) -> Slow {
    let mut seen = Slow::default();
    if let Err(error) = live(&plan, &shared, &over, &mut seen).await {
        seen.failure = Some(error.to_string());
    }
    seen
}

async fn live(
    plan: &Plan,
    shared: &Shared,
    over: &CancellationToken,
    seen: &mut Slow,
) -> Result<(), ClientError> {
    let mut client = plan.open().await?;
    let mut joined = client.join(&plan.room, None).await?;
    let mut epoch = joined.epoch.clone();
    let mut last = joined.offset.0;
    let mut goal = None;
    loop {
        let closed = loop {
            // After its round it reads as fast as it can, until it has what was published up to then.
            let message = if over.is_cancelled() {
                let (until, tail) = *goal
                    .get_or_insert_with(|| (Instant::now() + CATCH_UP, shared.tail.load(Ordering::Relaxed)));
                if last >= tail {
                    seen.caught_up += 1;
                    client.close().await;
                    return Ok(());
                }
                let left = until.saturating_duration_since(Instant::now());
                timeout(left, client.message()).await.map_err(|_| ClientError::Timeout(CATCH_UP))?
            } else {
                client.message().await
            };
            match message {
                // A frame that can't be read is found by those who keep up.
                Ok(message) => {
                    let reset = push(&message, |offset, _| {
                        seen.broken += u64::from(offset != last + 1);
                        last = offset;
                    });
                    if let Ok(Some(tail)) = reset {
                        seen.beyond_history += 1;
                        last = tail;
                    }
                }
                Err(ClientError::Closed(closed)) => break closed.code,
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = over.cancelled() => {}
                () = sleep(plan.read_every) => {}
            }
        };
        match closed {
            Some(SLOW_CONSUMER) => seen.closed += 1,
            None => seen.ended_untold += 1,
            Some(_) => seen.closed_otherwise += 1,
        }
        sleep(COME_BACK).await;
        client = plan.open().await?;
        joined = client.join(&plan.room, Some(Since { epoch, offset: Offset(last) })).await?;
        epoch = joined.epoch.clone();
        last = take_past(&joined, last, seen);
    }
}

/// What a `join` brought; answers where the reader stands now.
fn take_past(joined: &Joined, mut last: u64, seen: &mut Slow) -> u64 {
    if !joined.recovered {
        seen.beyond_history += 1;
        return joined.offset.0;
    }
    seen.recovered += 1;
    for event in &joined.events {
        seen.broken += u64::from(event.offset.0 != last + 1);
        last = event.offset.0;
    }
    seen.broken += u64::from(last != joined.offset.0);
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(recovered: bool, offsets: &[u64], tail: u64) -> Joined {
        let events: Vec<_> =
            offsets.iter().map(|offset| serde_json::json!({ "offset": offset, "data": null })).collect();
        serde_json::from_value(
            serde_json::json!({ "epoch": "0", "offset": tail, "recovered": recovered, "events": events }),
        )
        .unwrap()
    }

    #[test]
    fn what_came_back_is_checked_to_its_end() {
        for (answer, broken, last) in [
            (joined(true, &[8, 9, 10], 10), 0, 10),
            (joined(true, &[9, 10], 10), 1, 10),
            (joined(true, &[8, 9], 10), 1, 9),
            (joined(false, &[], 40), 0, 40),
        ] {
            let mut seen = Slow::default();
            assert_eq!((take_past(&answer, 7, &mut seen), seen.broken), (last, broken));
        }
    }
}
