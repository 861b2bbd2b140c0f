//! A subscriber's task: joins, then reads until it is told to stop, and hands back what it saw.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use hdrhistogram::Histogram;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::tally::{Glance, Tally};
use crate::{client::Client, report};

/// Histograms are shared by a few subscribers each: one per subscriber would be gigabytes, one for all a bottleneck.
const SHARDS: usize = 8;

/// What all subscribers of a run share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The zero of the stamps.
    pub(super) start: Instant,
    /// Events received by all.
    pub(super) received: AtomicU64,
    /// Tells the subscribers that the run is over.
    pub(super) stop: CancellationToken,
    latencies: Vec<Mutex<Histogram<u64>>>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            received: AtomicU64::new(0),
            stop: CancellationToken::new(),
            latencies: (0..SHARDS).map(|_| Mutex::new(report::histogram())).collect(),
        }
    }

    /// Microseconds since the start of the run.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn delivered(&self, subscriber: usize, sent: u64) {
        let latency = self.now().saturating_sub(sent);
        self.received.fetch_add(1, Ordering::Relaxed);
        let shard = &self.latencies[subscriber % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(latency);
    }

    /// All latencies in one.
    pub(super) fn latency(&self) -> Histogram<u64> {
        let mut all = report::histogram();
        for shard in &self.latencies {
            let _same_bounds = all.add(&*shard.lock().unwrap_or_else(PoisonError::into_inner));
        }
        all
    }
}

/// What a subscriber hands back.
#[derive(Debug)]
pub(super) struct Seen {
    /// The room's index.
    pub(super) room: usize,
    /// The account of its events.
    pub(super) tally: Tally,
    /// `reset`, `kicked` and `goaway` pushes: the server said that something is wrong.
    pub(super) warnings: u64,
    /// Why it ended, where nobody asked it to.
    pub(super) failure: Option<String>,
}

/// Reads until `stop`.
pub(super) async fn read(
    mut client: Client,
    index: usize,
    room: usize,
    tally: Tally,
    shared: Arc<Shared>,
) -> Seen {
    let mut seen = Seen { room, tally, warnings: 0, failure: None };
    loop {
        let message = tokio::select! {
            () = shared.stop.cancelled() => break,
            message = client.message() => message,
        };
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                seen.failure = Some(error.to_string());
                return seen;
            }
        };
        let glance = match &message {
            Message::Text(text) => {
                serde_json::from_str::<Glance<'_>>(text).map_err(|error| error.to_string())
            }
            Message::Binary(bytes) => {
                rmp_serde::from_slice::<Glance<'_>>(bytes).map_err(|error| error.to_string())
            }
            _ => continue,
        };
        match glance {
            Ok(Glance { push: Some(push), offset: Some(offset), data: Some(stamp) }) if push == "event" => {
                shared.delivered(index, stamp.t);
                seen.tally.event(offset, &stamp);
            }
            Ok(glance) => {
                if matches!(glance.push.as_deref(), Some("reset" | "kicked" | "goaway")) {
                    seen.warnings += 1;
                }
            }
            Err(error) => {
                seen.failure = Some(format!("unreadable frame: {error}"));
                break;
            }
        }
    }
    client.close().await;
    seen
}
