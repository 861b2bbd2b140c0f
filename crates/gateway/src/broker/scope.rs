//! Which rooms an interruption concerns: all, or those of one server of a cluster. Rooms are told apart by their slots,
//! so that a scope is small however many rooms there are, and two of them make one.

use std::fmt;

/// Slots of Redis Cluster, in words of 64.
const WORDS: usize = 16_384 / 64;

/// Whose subscriptions were interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Any room's.
    All,
    /// Those of rooms in these slots.
    Slots(Slots),
}

impl Scope {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Slots(mut slots), Self::Slots(more)) => {
                slots.0.iter_mut().zip(more.0.iter()).for_each(|(word, more)| *word |= more);
                Self::Slots(slots)
            }
            _ => Self::All,
        }
    }
}

/// A set of slots.
#[derive(Clone, PartialEq, Eq)]
pub struct Slots(Box<[u64; WORDS]>);

impl Slots {
    /// Whether the slot is one of them.
    pub fn contains(&self, slot: u16) -> bool {
        let (word, bit) = place(slot);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

impl FromIterator<u16> for Slots {
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> Self {
        let mut words = Box::new([0; WORDS]);
        for slot in slots {
            let (word, bit) = place(slot);
            if let Some(word) = words.get_mut(word) {
                *word |= bit;
            }
        }
        Self(words)
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots", self.0.iter().map(|word| word.count_ones()).sum::<u32>())
    }
}

fn place(slot: u16) -> (usize, u64) {
    (usize::from(slot / 64), 1 << (slot % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_held_and_added_up() {
        let some: Slots = [0, 63, 64, 16_383].into_iter().collect();
        let held: Vec<u16> = (0..=u16::MAX).filter(|slot| some.contains(*slot)).collect();
        assert_eq!(held, [0, 63, 64, 16_383]);
        let more: Slots = [7].into_iter().collect();
        let all: Slots = [0, 7, 63, 64, 16_383].into_iter().collect();
        assert_eq!(Scope::Slots(some.clone()).and(Scope::Slots(more)), Scope::Slots(all));
        assert_eq!(Scope::Slots(some).and(Scope::All), Scope::All);
    }
}
