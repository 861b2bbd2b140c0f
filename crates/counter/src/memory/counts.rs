//! One room's counter values in this process: capped, versioned, and published as they change.

use std::collections::{BTreeMap, HashMap};

use super::room::Step;
use crate::{Cap, CounterError, Limits, Seed, Update};

pub(super) const MAX_VALUE: u64 = (1 << 53) - 1;

#[derive(Default)]
pub(super) struct Counts(HashMap<String, BTreeMap<String, Value>>);

#[derive(Clone, Copy, Default)]
pub(super) struct Value {
    pub(super) value: u64,
    pub(super) version: u64,
}

impl Counts {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn value(&self, target: &str, counter: &str) -> Value {
        self.0.get(target).and_then(|counters| counters.get(counter)).copied().unwrap_or_default()
    }

    /// Refuses the first use of a target or counter that would break a cap.
    pub(super) fn has_room_for(
        &self,
        limits: &Limits,
        target: &str,
        counter: &str,
    ) -> Result<(), CounterError> {
        match self.0.get(target) {
            None if self.0.len() >= limits.targets_per_room as usize => {
                Err(CounterError::TooMany(Cap::Targets))
            }
            Some(counters)
                if !counters.contains_key(counter)
                    && counters.len() >= limits.counters_per_target as usize =>
            {
                Err(CounterError::TooMany(Cap::Counters))
            }
            _ => Ok(()),
        }
    }

    /// Sets a value and publishes it. The version follows the clock, but always rises.
    pub(super) fn set(&mut self, step: &Step<'_>, target: &str, counter: &str, value: u64) -> Value {
        let slot = self.0.entry(target.to_owned()).or_default().entry(counter.to_owned()).or_default();
        *slot = Value { value, version: step.now.max(slot.version + 1) };
        let update = Update {
            target: target.to_owned(),
            counter: counter.to_owned(),
            value: slot.value,
            version: slot.version,
        };
        step.sink.count(step.room, &update);
        *slot
    }

    /// Seeds counters where they are absent or lower: all that is asked, or nothing where a cap would break.
    pub(super) fn restore(&mut self, step: &Step<'_>, seeds: &[Seed]) -> Result<u64, CounterError> {
        let mut after: HashMap<&str, usize> = HashMap::new();
        for Seed { target, counter, .. } in seeds {
            let counters = self.0.get(target);
            if counters.is_none_or(|counters| !counters.contains_key(counter)) {
                *after.entry(target).or_insert_with(|| counters.map_or(0, BTreeMap::len)) += 1;
            }
        }
        if after.values().any(|counters| *counters > step.limits.counters_per_target as usize) {
            return Err(CounterError::TooMany(Cap::Counters));
        }
        let new = after.keys().filter(|target| !self.0.contains_key(**target)).count();
        if new > 0 && self.0.len() + new > step.limits.targets_per_room as usize {
            return Err(CounterError::TooMany(Cap::Targets));
        }
        let mut changed = 0;
        for Seed { target, counter, value } in seeds {
            let before = self.value(target, counter);
            if before.version == 0 || before.value < *value {
                let Value { value, version } = self.set(step, target, counter, *value);
                step.sink.change(step.room, "restore", &|| {
                    format!(
                        r#"{{"target":"{target}","counter":"{counter}","value":{value},"version":{version}}}"#
                    )
                });
                changed += 1;
            }
        }
        Ok(changed)
    }

    /// All of these targets, or all.
    pub(super) fn read(&self, targets: Option<&[String]>) -> Vec<Update> {
        let of = |target: &String, counters: &BTreeMap<String, Value>| {
            let update = |(counter, slot): (&String, &Value)| Update {
                target: target.clone(),
                counter: counter.clone(),
                value: slot.value,
                version: slot.version,
            };
            counters.iter().map(update).collect::<Vec<_>>()
        };
        match targets {
            Some(targets) => targets
                .iter()
                .filter_map(|target| self.0.get(target).map(|counters| of(target, counters)))
                .flatten()
                .collect(),
            None => self.0.iter().flat_map(|(target, counters)| of(target, counters)).collect(),
        }
    }
}
