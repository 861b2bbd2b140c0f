//! What the project wants to reach, kept as data in `bars.toml`, and whether a comparison reached it.

use anyhow::Context as _;
use serde::Deserialize;

use super::result::Results;

const BARS: &str = include_str!("bars.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    bar: Vec<Bar>,
}

/// One bar: a server's median, or its median ratio over another's, and how far it may go.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bar {
    pub(crate) workload: String,
    pub(crate) case: String,
    #[serde(default = "roomcast")]
    pub(crate) of: String,
    pub(crate) over: Option<String>,
    pub(crate) at_most: Option<f64>,
    pub(crate) at_least: Option<f64>,
}

fn roomcast() -> String {
    "roomcast".to_owned()
}

/// What became of a bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Outcome {
    /// Reached, with this value.
    Held(f64),
    /// Missed, with this value.
    Missed(f64),
    /// Not measured.
    Open,
}

impl Bar {
    /// All of them.
    pub(crate) fn all() -> anyhow::Result<Vec<Self>> {
        let file: File = toml::from_str(BARS).context("bars.toml")?;
        Ok(file.bar)
    }

    pub(crate) fn judge(&self, results: &Results) -> Outcome {
        let measured = results.case(&self.workload, &self.case).and_then(|case| match &self.over {
            Some(over) => case.ratio(&self.of, over),
            None => case.spread(&self.of),
        });
        let Some(measured) = measured else { return Outcome::Open };
        let value = measured.median;
        let held =
            self.at_most.is_none_or(|most| value <= most) && self.at_least.is_none_or(|least| value >= least);
        if held { Outcome::Held(value) } else { Outcome::Missed(value) }
    }

    /// The bar itself, for people.
    pub(crate) fn wanted(&self) -> String {
        let most = self.at_most.map(|most| format!("≤ {most}"));
        let least = self.at_least.map(|least| format!("≥ {least}"));
        [most, least].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::result::{Case, Run};

    fn results(roomcast: f64, limit: f64) -> Results {
        let mut case = Case::new("a", "µs");
        case.set("roomcast", 0, roomcast);
        case.set("limit", 0, limit);
        let mut results = Results::default();
        let run = Run { cases: vec![case] };
        results.merge("fanout", run);
        results
    }

    fn bar(over: Option<&str>, at_most: Option<f64>, at_least: Option<f64>) -> Bar {
        let over = over.map(str::to_owned);
        Bar { workload: "fanout".into(), case: "a".into(), of: roomcast(), over, at_most, at_least }
    }

    #[test]
    fn a_bar_is_held_up_to_its_value_and_not_beyond() {
        assert_eq!(bar(Some("limit"), Some(1.15), None).judge(&results(1.15, 1.0)), Outcome::Held(1.15));
        assert_eq!(
            bar(Some("limit"), Some(1.15), None).judge(&results(1.1501, 1.0)),
            Outcome::Missed(1.1501)
        );
        assert_eq!(bar(None, Some(3.0), None).judge(&results(2.5, 1.0)), Outcome::Held(2.5));
        assert_eq!(bar(None, None, Some(3.0)).judge(&results(2.5, 1.0)), Outcome::Missed(2.5));
    }

    #[test]
    fn what_was_not_measured_is_neither_held_nor_missed() {
        assert_eq!(bar(Some("socketio"), Some(1.0), None).judge(&results(1.0, 1.0)), Outcome::Open);
        assert_eq!(bar(None, Some(1.0), None).judge(&Results::default()), Outcome::Open);
    }

    #[test]
    fn every_bar_names_a_workload_and_a_limit() {
        let bars = Bar::all().unwrap();
        assert!(bars.len() >= 20);
        for bar in bars {
            assert!(bar.at_most.is_some() || bar.at_least.is_some(), "{bar:?}");
            let workload = <crate::compare::Workload as clap::ValueEnum>::from_str(&bar.workload, false);
            assert!(workload.is_ok(), "{bar:?}");
        }
        assert!(toml::from_str::<File>("[[bar]]\nworkload='x'\ncase='y'\nat_mots=1.0").is_err());
    }
}
