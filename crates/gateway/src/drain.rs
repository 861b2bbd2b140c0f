//! Going without loss: not ready first, then reconnects spread over time, then the end. And moving a share of the
//! connections to other nodes, without going.

use std::{
    rc::Weak,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use roomcast_protocol::CloseCode;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    conn::{Conn, Order},
    metrics, random,
};

/// Clients told in one go before everything else gets its turn.
const TOLD_AT_ONCE: usize = 256;

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not stopping.
    Serving,
    /// Not ready any more, but still serving: the balancer is given time to notice.
    Leaving,
    /// New connections are refused, and the others are sent elsewhere.
    Draining,
}

/// Whether a node is going, and what sets it going.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    asked: Notify,
    shedding: Arc<Semaphore>,
}

impl Default for Drain {
    fn default() -> Self {
        let (phase, _) = watch::channel(Phase::Serving);
        Self { phase, asked: Notify::new(), shedding: Arc::new(Semaphore::new(1)) }
    }
}

impl Drain {
    /// How far it has come.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until the node drains.
    pub async fn begun(&self) {
        // The sender is `self`: it can't be gone.
        let mut phase = self.phase.subscribe();
        let _draining = phase.wait_for(|phase| *phase == Phase::Draining).await;
    }

    /// Asks the node to drain as at its end, and to stay.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Not ready from now on, draining after the delay. Whoever comes second waits with the first.
    pub async fn leave(&self, balancer_delay: Duration) {
        let first = self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Serving;
            if first {
                *phase = Phase::Leaving;
            }
            first
        });
        if first {
            metrics::draining();
            sleep(balancer_delay).await;
            self.drain_now();
        } else {
            self.begun().await;
        }
    }

    /// Drains, however long the balancer would still need.
    pub fn drain_now(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Whether connections are being shed just now.
    pub fn sheds(&self) -> bool {
        self.shedding.available_permits() == 0
    }

    /// The right to shed connections, which only one may have at a time.
    pub fn shed(&self) -> Option<OwnedSemaphorePermit> {
        self.shedding.clone().try_acquire_owned().ok()
    }
}

/// A share of a node's connections is to go to other nodes.
#[derive(Debug)]
pub struct Shed {
    /// Which part of each worker's connections, up to 1.
    pub share: f64,
    /// How many may still be chosen, over all workers.
    pub left: AtomicU64,
    /// Over how long.
    pub spread: Duration,
    /// Each worker tells how many it chose.
    pub chosen: mpsc::UnboundedSender<usize>,
    /// Given back when the last worker is done.
    pub only: OwnedSemaphorePermit,
}

impl Shed {
    /// Chooses this worker's part of its connections, at random.
    pub fn choose<T>(&self, mut all: Vec<T>) -> Vec<T> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a share of a number of sockets"
        )]
        let wanted = ((all.len() as f64 * self.share).ceil() as usize).min(all.len());
        let taken = self.left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(wanted as u64)));
        let granted = taken.unwrap_or_default().min(wanted as u64);
        let granted = usize::try_from(granted).unwrap_or(usize::MAX);
        shuffle(&mut all, granted);
        all.truncate(granted);
        all
    }
}

/// Puts a random choice of so many in front.
fn shuffle<T>(all: &mut [T], first: usize) {
    for at in 0..first.min(all.len()) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "an index below the length"
        )]
        let ahead = (random::fraction() * (all.len() - at) as f64) as usize;
        all.swap(at, (at + ahead).min(all.len() - 1));
    }
}

/// Tells each when to come back elsewhere, and closes each at that time.
pub async fn send_away(conns: Vec<Weak<Conn>>, over: Duration, reason: &'static str, code: CloseCode) {
    let start = Instant::now();
    let order = |conn: &Weak<Conn>, order| {
        if let Some(conn) = conn.upgrade() {
            conn.order(order);
        }
    };
    let mut schedule = spread(over, conns);
    for some in schedule.chunks(TOLD_AT_ONCE) {
        for (after, conn) in some {
            let retry_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            order(conn, Order::GoAway { retry_ms, reason });
        }
        yield_now().await;
    }
    schedule.sort_by_key(|(after, _)| *after);
    for (after, conn) in schedule {
        sleep_until(start + after).await;
        order(&conn, Order::Close(code));
    }
}

/// A time for each, evenly over `spread` with some jitter, so that they do not come back as a storm.
pub fn spread<T>(spread: Duration, items: Vec<T>) -> Vec<(Duration, T)> {
    let count = u32::try_from(items.len()).unwrap_or(u32::MAX).max(1);
    let step = spread / count;
    items
        .into_iter()
        .enumerate()
        .map(|(at, item)| {
            let slot = step * u32::try_from(at).unwrap_or(u32::MAX);
            (slot + step.mul_f64(random::fraction()), item)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnects_are_spread_evenly() {
        let times = spread(Duration::from_secs(10), (0..1_000).collect());
        for second in 0..10 {
            let within = Duration::from_secs(second)..Duration::from_secs(second + 1);
            let n = times.iter().filter(|(at, _)| within.contains(at)).count();
            assert!((90..=110).contains(&n), "{n} of 1,000 in second {second}");
        }
    }

    fn order(share: f64, left: u64) -> Shed {
        let (chosen, _) = mpsc::unbounded_channel();
        let only = Drain::default().shed().expect("nobody sheds yet");
        Shed { share, left: AtomicU64::new(left), spread: Duration::ZERO, chosen, only }
    }

    #[test]
    fn workers_together_choose_no_more_than_was_asked() {
        let shed = order(0.25, 26);
        let counts = [40, 30, 1, 33].map(|n| shed.choose((0..n).collect::<Vec<_>>()).len());
        assert_eq!((counts, counts.iter().sum::<usize>()), ([10, 8, 1, 7], 26));
        assert!(shed.choose(vec![1, 2, 3]).is_empty());
    }

    #[test]
    fn the_choice_is_random_and_names_nobody_twice() {
        let mut often = vec![0; 100];
        for _ in 0..200 {
            let chosen = order(0.5, 50).choose((0..100).collect());
            let distinct: std::collections::HashSet<usize> = chosen.iter().copied().collect();
            assert_eq!(distinct.len(), 50);
            for one in chosen {
                often[one] += 1;
            }
        }
        assert!(often.iter().all(|n| (50..150).contains(n)), "{often:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_not_ready_before_it_drains_and_the_second_to_ask_waits_with_the_first() {
        let drain = Drain::default();
        let start = Instant::now();
        let delay = Duration::from_secs(5);
        tokio::join!(drain.leave(delay), drain.leave(Duration::from_secs(60)), async {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(drain.phase(), Phase::Leaving);
        });
        assert_eq!((drain.phase(), start.elapsed()), (Phase::Draining, delay));
        drain.leave(delay).await;
        assert_eq!(start.elapsed(), delay, "what drains already has nothing to wait for");
    }
}
