//! Chance that a seed replays: what is drawn depends on the seed alone. Not for secrets.

use std::time::Duration;

/// A generator of 64-bit numbers (`SplitMix64`).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice of their own for each use, so that what one draws does not move the others.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let mut dice = Self(seed ^ purpose.wrapping_mul(0xa076_1d64_78bd_642f));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 where the bound is.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let turn = self.next().checked_rem(bound as u64).unwrap_or_default();
        usize::try_from(turn).unwrap_or_default()
    }

    /// A time between the two, in milliseconds.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = usize::try_from(most.saturating_sub(least).as_millis()).unwrap_or(usize::MAX);
        least + Duration::from_millis(self.below(span.saturating_add(1)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_again_and_purposes_differ() {
        let draw = |seed, purpose| {
            let mut dice = Dice::new(seed, purpose);
            (0..8).map(|_| dice.below(1_000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, 1), draw(7, 1));
        assert_ne!(draw(7, 1), draw(8, 1));
        assert_ne!(draw(7, 1), draw(7, 2));
        assert!(draw(7, 1).iter().all(|n| *n < 1_000));
        let mut dice = Dice::new(1, 1);
        assert_eq!(dice.below(0), 0);
        let (least, most) = (Duration::from_millis(5), Duration::from_millis(9));
        assert!((0..50).all(|_| (least..=most).contains(&dice.between(least, most))));
    }
}
