//! A word in the log about what anybody can cause as often as they like: it comes now and then, and not each time.

use std::time::{Duration, Instant};

/// When such a word was last said.
#[derive(Debug)]
pub struct Rarely {
    every: Duration,
    last: Option<Instant>,
}

impl Rarely {
    /// At most once in this time.
    pub const fn once_in(every: Duration) -> Self {
        Self { every, last: None }
    }

    /// Whether to say it now. Where it is, the time begins anew.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.every);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_at_once_and_then_once_in_a_while() {
        let (start, every) = (Instant::now(), Duration::from_secs(10));
        let mut rarely = Rarely::once_in(every);
        let said: Vec<u64> =
            (0..35).filter(|second| rarely.is_due(start + Duration::from_secs(*second))).collect();
        assert_eq!(said, [0, 10, 20, 30]);
    }
}
