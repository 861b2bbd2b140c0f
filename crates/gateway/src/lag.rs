//! How long deliveries took: a histogram of a few counts that can be added up over workers, seconds and nodes, so that a
//! percentile of the cluster is one of all deliveries and no mean of percentiles.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds in milliseconds; the last count is for everything beyond.
const BOUNDS: [u64; 19] =
    [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 300, 500, 1_000, 2_000, 5_000, 10_000];
const BUCKETS: usize = BOUNDS.len() + 1;

/// A count per bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LagCounts<T>([T; BUCKETS]);

impl<T> LagCounts<T> {
    /// The count that a delivery of this duration belongs to.
    pub fn of(&self, lag: Duration) -> &T {
        let ms = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
        &self.0[BOUNDS.partition_point(|bound| *bound < ms)]
    }
}

impl LagCounts<AtomicU64> {
    /// The counts of now.
    pub fn read(&self) -> LagCounts<u64> {
        LagCounts(std::array::from_fn(|at| self.0[at].load(Relaxed)))
    }
}

impl LagCounts<u64> {
    /// What these have more than those of before.
    pub fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].saturating_sub(before.0[at])))
    }

    /// Both together.
    pub fn plus(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].saturating_add(other.0[at])))
    }

    /// The duration in milliseconds that this part of all deliveries stayed within; none without a delivery. Between
    /// two bounds it is measured out by the line; beyond the last it is the last.
    #[allow(clippy::cast_precision_loss, reason = "counts and milliseconds stay far below 2^53")]
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let all: u64 = self.0.iter().sum();
        let wanted = all as f64 * part;
        let mut below = 0;
        for (at, &count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            if (below + count) as f64 >= wanted {
                let low = if at == 0 { 0 } else { BOUNDS[at - 1] };
                let high = BOUNDS.get(at).copied().unwrap_or(low);
                let within = (wanted - below as f64).max(0.0) / count as f64;
                return Some((high - low) as f64 * within + low as f64);
            }
            below += count;
        }
        None
    }

    /// As a list, for a report; the zeros at its end left out.
    pub fn list(&self) -> &[u64] {
        let end = self.0.iter().rposition(|count| *count > 0).map_or(0, |at| at + 1);
        &self.0[..end]
    }

    /// From such a list; what is beyond the last bucket belongs to the last.
    pub fn from_list(list: impl IntoIterator<Item = u64>) -> Self {
        let mut counts = [0_u64; BUCKETS];
        for (at, count) in list.into_iter().enumerate() {
            let place = &mut counts[at.min(BUCKETS - 1)];
            *place = place.saturating_add(count);
        }
        Self(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(lags: &[u64]) -> LagCounts<u64> {
        let counts = LagCounts::<AtomicU64>::default();
        for &ms in lags {
            counts.of(Duration::from_millis(ms)).fetch_add(1, Relaxed);
        }
        counts.read()
    }

    #[test]
    fn a_percentile_is_one_of_all_deliveries_together() {
        let quick = counted(&[1; 990]);
        let slow = counted(&[400; 10]);
        let all = quick.plus(&slow);
        assert_eq!(quick.quantile(0.99), Some(0.99));
        assert!(all.quantile(0.99).is_some_and(|ms| ms <= 1.0), "{:?}", all.quantile(0.99));
        assert!(all.quantile(0.995).is_some_and(|ms| (300.0..=500.0).contains(&ms)));
        assert_eq!(LagCounts::<u64>::default().quantile(0.99), None);
    }

    #[test]
    fn what_is_beyond_every_bound_is_told_as_the_last() {
        assert_eq!(counted(&[u64::MAX]).quantile(0.5), Some(10_000.0));
    }

    #[test]
    fn a_report_holds_no_more_than_it_must_and_comes_back_the_same() {
        let counts = counted(&[0, 1, 2, 40]);
        assert_eq!(counts.list(), [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(LagCounts::from_list(counts.list().iter().copied()), counts);
        assert_eq!(LagCounts::from_list([1; 40]).list().len(), BUCKETS);
        assert_eq!(counts.since(&counted(&[0])).list(), [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
