//! The scenarios by name: which faults, over which Redis, with or without a crowd.

use super::{cluster::Plan, dice::Dice, faults::Fault, redis::Form};

/// One scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// In their order; repeated until the time is over.
    pub(super) faults: Vec<Fault>,
    /// Whether a crowd waits in a room of its own.
    pub(super) crowded: bool,
}

/// Name and fault of the scenarios that repeat one fault.
const SINGLE: &[(&str, Fault)] = &[
    ("redis-crash", Fault::RedisCrash),
    ("redis-emptied", Fault::RedisEmptied),
    ("subscriptions-killed", Fault::SubscriptionsKilled),
    ("connections-killed", Fault::ConnectionsKilled),
    ("redis-paused", Fault::RedisPaused),
    ("redis-frozen", Fault::RedisFrozen),
    ("subscription-frozen", Fault::SubscriptionFrozen),
    ("subscription-cut", Fault::SubscriptionCut),
    ("subscription-deaf", Fault::SubscriptionDeaf),
    ("subscription-delayed", Fault::SubscriptionDelayed),
    ("quiet-loss", Fault::QuietLoss),
    ("replies-swallowed", Fault::RepliesSwallowed),
    ("network-delayed", Fault::NetworkDelayed),
    ("node-cut-off", Fault::NodeCutOff),
    ("node-killed", Fault::NodeKilled),
    ("node-frozen", Fault::NodeFrozen),
    ("node-drained", Fault::NodeDrained),
    ("rolling-restart", Fault::RollingRestart),
    ("slow-readers", Fault::SlowReaders),
    ("reconnect-storm", Fault::ReconnectStorm),
    ("scripts-flushed", Fault::ScriptsFlushed),
    ("out-of-memory", Fault::OutOfMemory),
    ("output-overrun", Fault::OutputOverrun),
    ("sentinel-planned", Fault::SentinelPlanned),
    ("sentinel-unplanned", Fault::SentinelUnplanned),
    ("cluster-master-lost", Fault::MasterLost),
];
/// The scenario that is made of the seed.
pub(super) const RANDOM: &str = "random";

/// All names, in the order in which they run.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SINGLE.iter().map(|(name, _)| *name).chain([RANDOM])
}

/// All faults, in the same order.
pub(super) fn faults() -> impl Iterator<Item = Fault> {
    SINGLE.iter().map(|(_, fault)| *fault)
}

/// What a scenario's name says of it.
pub(super) fn describe(name: &str) -> &'static str {
    match SINGLE.iter().find(|(of, _)| *of == name) {
        Some((_, fault)) => fault.nature().what,
        None => "five faults, drawn by the seed",
    }
}

/// The scenario of that name.
pub(super) fn find(name: &str, seed: u64) -> Option<Scenario> {
    if name == RANDOM {
        let mut dice = Dice::new(seed, 3);
        let mut left = Fault::STANDALONE.to_vec();
        let faults = (0..5).map(|_| left.swap_remove(dice.below(left.len()))).collect();
        return Some(Scenario::of(RANDOM, faults));
    }
    let (name, fault) = SINGLE.iter().find(|(of, _)| *of == name)?;
    Some(Scenario::of(name, vec![*fault]))
}

impl Scenario {
    fn of(name: &'static str, faults: Vec<Fault>) -> Self {
        let crowded = faults.contains(&Fault::ReconnectStorm);
        Self { name, faults, crowded }
    }

    /// The form of Redis that all its faults need.
    pub(super) fn form(&self) -> Form {
        self.faults.first().map_or(Form::Standalone, |fault| fault.form())
    }

    /// What it runs on.
    pub(super) fn plan(&self, bin: &std::path::Path, settings: &[(String, String)]) -> Plan {
        Plan { bin: bin.to_owned(), form: self.form(), settings: settings.to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_scenario_and_every_name_is_found() {
        assert!(Fault::STANDALONE.iter().all(|fault| SINGLE.iter().any(|(_, of)| of == fault)));
        for name in names() {
            let scenario = find(name, 1).unwrap();
            assert_eq!(scenario.name, name);
            assert!(!scenario.faults.is_empty() && !describe(name).is_empty());
            assert!(scenario.faults.iter().all(|fault| fault.form() == scenario.form()));
        }
        assert_eq!(find("no-such", 1), None);
    }

    #[test]
    fn a_seed_draws_the_same_faults_again() {
        assert_eq!(find(RANDOM, 5), find(RANDOM, 5));
        let different = (0..20).filter(|seed| find(RANDOM, *seed) != find(RANDOM, 5)).count();
        assert!(different > 15);
    }
}
