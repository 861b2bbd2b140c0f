//! Events at a steady rate, whatever the server makes of it: what became of them, and how long each took from the
//! moment it was due. A tool that waits with its clock for a slow server measures a fast one.

use std::time::{Duration, Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;

use super::{contest::Contestant, wire};
use crate::report;

/// What is still under way when the last event was sent has this long.
const GRACE: Duration = Duration::from_secs(3);

/// What became of an offer.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Deliveries that did not come in time, or twice.
    pub(crate) lost: u64,
    /// Connections that ended, and refusals.
    pub(crate) cut_off: u64,
    /// Microseconds from the moment at which an event was due.
    pub(crate) latency: Histogram<u64>,
    /// From the first event until the last delivery.
    pub(crate) took: Duration,
}

impl Outcome {
    pub(crate) fn is_whole(&self) -> bool {
        self.lost + self.cut_off == 0
    }

    /// An error where something was lost or somebody cut off: such a round is no figure.
    pub(crate) fn whole(self) -> anyhow::Result<Self> {
        let Self { lost, cut_off, .. } = self;
        ensure!(
            self.is_whole(),
            "{lost} deliveries lost or doubled, {cut_off} connections cut off or refused"
        );
        Ok(self)
    }

    #[allow(clippy::cast_precision_loss, reason = "microseconds")]
    pub(crate) fn us(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64
    }
}

/// Publishes `rate` events a second for `time` and reads until everything has come, or no more will.
pub(crate) fn offer(
    contestant: &mut Contestant,
    rate: f64,
    time: Duration,
    bytes: usize,
) -> anyhow::Result<Outcome> {
    let before = contestant.members.seen();
    let clients = contestant.members.len() as u64;
    let total = due(rate, time);
    let mut latency = report::histogram();
    let began = Instant::now();
    let mut sent = 0;
    let mut last = began;
    let mut failed = false;
    loop {
        let elapsed = began.elapsed();
        let now_due = due(rate, elapsed).saturating_add(1).min(total);
        while sent < now_due && !failed {
            let stamp = nanoseconds(at(rate, sent));
            failed = contestant.publish_on(&wire::data(bytes, stamp)).is_err();
            sent += 1;
        }
        let seen = contestant.members.seen();
        let got = seen.deliveries - before.deliveries;
        let over = elapsed.saturating_sub(time) > GRACE;
        if (sent == total && got >= total * clients) || over || failed {
            return Ok(Outcome {
                lost: (total * clients).abs_diff(got),
                cut_off: seen.closed - before.closed + seen.failures - before.failures + u64::from(failed),
                latency,
                took: last - began,
            });
        }
        let next = if sent < total { at(rate, sent) } else { elapsed + Duration::from_millis(50) };
        let wait = next.saturating_sub(began.elapsed());
        let turn = contestant.turn(wait, |_, message| {
            last = Instant::now();
            let took = nanoseconds(last - began).saturating_sub(wire::stamp(message).unwrap_or_default());
            latency.saturating_record(took / 1000);
        });
        failed |= turn.is_err();
    }
}

/// When the event of this number is due.
#[allow(clippy::cast_precision_loss, reason = "numbers of some thousands")]
fn at(rate: f64, number: u64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate)
}

/// How many events are due before this moment.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of some thousands")]
fn due(rate: f64, elapsed: Duration) -> u64 {
    (rate * elapsed.as_secs_f64()) as u64
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_or_cut_off_is_no_figure() {
        let outcome =
            |lost, cut_off| Outcome { lost, cut_off, latency: report::histogram(), took: Duration::ZERO };
        assert!(outcome(0, 0).whole().is_ok());
        assert!(outcome(1, 0).whole().is_err() && outcome(0, 1).whole().is_err());
    }

    #[test]
    fn events_are_due_at_a_steady_rate() {
        assert_eq!(due(20.0, Duration::from_millis(999)), 19);
        assert_eq!(due(20.0, Duration::from_secs(1)), 20);
        assert_eq!(at(20.0, 0), Duration::ZERO);
        assert_eq!(at(20.0, 30), Duration::from_millis(1500));
    }
}
