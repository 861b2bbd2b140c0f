//! Going without loss: not ready first, then reconnects spread over time, then the end.

use std::time::Duration;

use crate::random;

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
}
