//! How long a flusher lets pushes gather before it writes them: after a pause not at all, under load so long that what
//! comes close together leaves in one write, and never longer than it may.

use std::time::{Duration, Instant};

/// When a flusher may begin.
#[derive(Debug, Clone)]
pub struct Gather {
    most: Duration,
    /// When it last began.
    begun: Option<Instant>,
}

impl Gather {
    /// Nothing waits for longer than `most`.
    pub fn new(most: Duration) -> Self {
        Self { most, begun: None }
    }

    /// How long what is there now has to wait. Where the last flush began that long ago, or took that long, nothing.
    pub fn wait(&self, now: Instant) -> Duration {
        self.begun.map_or(Duration::ZERO, |begun| (begun + self.most).saturating_duration_since(now))
    }

    /// A flush begins.
    pub fn begin(&mut self, now: Instant) {
        self.begun = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: Duration = Duration::from_millis(1);

    #[test]
    fn what_comes_after_a_pause_leaves_at_once_and_what_comes_close_behind_it_together() {
        let (start, mut gather) = (Instant::now(), Gather::new(MOST));
        assert_eq!(gather.wait(start), Duration::ZERO);
        gather.begin(start);
        assert_eq!(gather.wait(start + MOST / 4), MOST * 3 / 4);
        assert_eq!(gather.wait(start + MOST), Duration::ZERO);
        // A flush that took longer is followed by the next at once.
        assert_eq!(gather.wait(start + MOST * 5), Duration::ZERO);
    }

    #[test]
    fn without_a_delay_nothing_ever_waits() {
        let (start, mut gather) = (Instant::now(), Gather::new(Duration::ZERO));
        gather.begin(start);
        assert_eq!(gather.wait(start), Duration::ZERO);
    }

    proptest! {
        /// Whenever pushes come, none waits for longer than it may, and flushes begin no closer together than that.
        #[test]
        fn nothing_waits_for_too_long_and_flushes_keep_their_distance(gaps in prop::collection::vec(0..3_000_u64, 1..100)) {
            let (mut now, mut gather) = (Instant::now(), Gather::new(MOST));
            let mut last: Option<Instant> = None;
            for gap in gaps {
                now += Duration::from_micros(gap);
                let wait = gather.wait(now);
                prop_assert!(wait <= MOST);
                let begins = now + wait;
                prop_assert!(last.is_none_or(|last| begins - last >= MOST));
                gather.begin(begins);
                (now, last) = (begins, Some(begins));
            }
        }
    }
}
