//! Medians and their spread. Everything that is compared is a ratio of two values of the same round, so that what else
//! the machine did falls on both.

use serde::{Deserialize, Serialize};

/// The middle of some values and the quarters around it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) q1: f64,
    pub(crate) median: f64,
    pub(crate) q3: f64,
}

impl Spread {
    /// Of what is there and finite in `values`; none where nothing is.
    pub(crate) fn of(values: &[Option<f64>]) -> Option<Self> {
        let mut sorted: Vec<f64> =
            values.iter().flatten().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share| quantile(&sorted, share);
        Some(Self { q1: at(0.25)?, median: at(0.5)?, q3: at(0.75)? })
    }

    /// Of `these` over `those`, round by round; a round that one of them had no turn in does not count.
    pub(crate) fn of_ratio(these: &[Option<f64>], those: &[Option<f64>]) -> Option<Self> {
        let ratio = |(this, that): (&Option<f64>, &Option<f64>)| Some((*this)? / (*that)?);
        let ratios: Vec<Option<f64>> = these.iter().zip(those).map(ratio).collect();
        Self::of(&ratios)
    }
}

/// Between the neighbours where the place falls between two values.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places in a list of some rounds"
)]
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share * last as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    Some(sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    fn spread(values: &[f64]) -> Spread {
        Spread::of(&values.iter().copied().map(Some).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_median_is_the_middle_and_the_quarters_lie_around_it() {
        let odd = spread(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert!(close(odd.q1, 2.0) && close(odd.median, 3.0) && close(odd.q3, 4.0), "{odd:?}");
        let even = spread(&[4.0, 1.0, 2.0, 3.0]);
        assert!(close(even.median, 2.5) && close(even.q1, 1.75) && close(even.q3, 3.25), "{even:?}");
        let one = spread(&[7.0]);
        assert!(close(one.q1, 7.0) && close(one.q3, 7.0));
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[None, Some(f64::NAN)]), None);
    }

    #[test]
    fn one_wild_round_moves_no_median() {
        let wild = spread(&[1.0, 1.1, 0.9, 1.0, 1000.0]);
        assert!(close(wild.median, 1.0) && wild.q3 < 1.2, "{wild:?}");
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        // The machine was twice as slow in the second round; neither ratio shows it.
        let these = [Some(2.0), Some(4.0), Some(2.2)];
        let spread = Spread::of_ratio(&these, &[Some(1.0), Some(2.0), Some(1.0)]).unwrap();
        assert!(close(spread.median, 2.0) && spread.q3 < 2.2, "{spread:?}");
    }

    #[test]
    fn a_round_that_one_had_no_turn_in_is_left_out() {
        let spread = Spread::of_ratio(&[Some(1.0), Some(3.0), Some(9.0)], &[None, Some(2.0)]).unwrap();
        assert!(close(spread.median, 1.5) && close(spread.q3, 1.5));
        assert_eq!(Spread::of_ratio(&[Some(1.0), None], &[None, Some(1.0)]), None);
        assert_eq!(Spread::of_ratio(&[Some(1.0)], &[Some(0.0)]), None);
    }
}
