//! What was measured, as data: cases with a unit, servers with a value per round. It is written as JSON and read again,
//! so that a comparison can be made in pieces.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::stats::Spread;

/// The server that ratios are told over.
pub(crate) const REFERENCE: &str = "limit";

/// One comparison, by workloads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) workloads: BTreeMap<String, Run>,
}

/// One workload, in one run or put together from several.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) cases: Vec<Case>,
}

/// Where figures come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Source {
    pub(crate) machine: String,
    /// What was measured, as git names it.
    pub(crate) commit: String,
    pub(crate) command: String,
}

/// One thing that was measured on several servers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) source: Source,
    /// Servers that could not take part, or did not hold out, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) missing: BTreeMap<String, String>,
    pub(crate) series: BTreeMap<String, Series>,
}

/// One server's values, a round each; none for a round in which it had no turn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) values: Vec<Option<f64>>,
    /// What its Redis took beside that, in the same unit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) redis: Vec<Option<f64>>,
}

impl Case {
    /// Whether a ratio to the bare loop says something: it keeps nothing, so memory over its memory does not.
    pub(crate) fn has_limit(&self) -> bool {
        self.unit.starts_with("µs") && self.series.contains_key(REFERENCE)
    }

    pub(crate) fn new(name: impl Into<String>, unit: &str) -> Self {
        Self { name: name.into(), unit: unit.to_owned(), ..Self::default() }
    }

    /// A server that did not hold out: what was measured of it before is no figure either.
    pub(crate) fn leave_out(&mut self, server: &str, why: &str) {
        self.series.remove(server);
        self.missing.insert(server.to_owned(), format!("left out: {why}"));
    }

    /// What a server took in a round.
    pub(crate) fn set(&mut self, server: &str, turn: usize, value: f64) {
        put(&mut self.series.entry(server.to_owned()).or_default().values, turn, value);
    }

    /// What a server's Redis took in a round.
    pub(crate) fn set_redis(&mut self, server: &str, turn: usize, value: f64) {
        put(&mut self.series.entry(server.to_owned()).or_default().redis, turn, value);
    }

    pub(crate) fn spread(&self, server: &str) -> Option<Spread> {
        Spread::of(&self.series.get(server)?.values)
    }

    /// One server over another, round by round.
    pub(crate) fn ratio(&self, of: &str, over: &str) -> Option<Spread> {
        Spread::of_ratio(&self.series.get(of)?.values, &self.series.get(over)?.values)
    }
}

impl Results {
    /// What stands in a file; nothing where there is none.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("reading {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    pub(crate) fn case(&self, workload: &str, name: &str) -> Option<&Case> {
        self.workloads.get(workload)?.cases.iter().find(|case| case.name == name)
    }

    /// Takes a run in: a case that was measured again replaces the old one, the others stay.
    pub(crate) fn merge(&mut self, workload: &str, run: Run) {
        let Some(old) = self.workloads.get_mut(workload) else {
            self.workloads.insert(workload.to_owned(), run);
            return;
        };
        for case in run.cases {
            match old.cases.iter_mut().find(|old| old.name == case.name) {
                Some(old) => *old = case,
                None => old.cases.push(case),
            }
        }
    }
}

fn put(values: &mut Vec<Option<f64>>, turn: usize, value: f64) {
    if values.len() <= turn {
        values.resize(turn + 1, None);
    }
    // Six digits are more than was measured.
    values[turn] = format!("{value:.5e}").parse().ok().filter(|value: &f64| value.is_finite());
}

/// What a reader must know of the machine, and nothing that names it.
pub(crate) fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned()))
        .unwrap_or_else(|| "unknown CPU".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or_default()
        .div_ceil(1 << 20);
    // The version; what its builder adds to that says nothing to others.
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    format!("{cpu}, {cores} cores, {memory} GiB, Linux {kernel}")
}

/// The commit that stands in this folder; with a `+` where it was changed since.
pub(crate) fn commit() -> String {
    Command::new("git")
        .args(["describe", "--always", "--dirty=+", "--exclude=*"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map_or_else(
            || "unknown".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(cases: Vec<Case>) -> Run {
        Run { cases }
    }

    #[test]
    fn what_was_published_can_be_added_to() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance/compare.json");
        let results = Results::load(&path).unwrap();
        assert!(results.workloads.len() > 5, "{:?}", results.workloads.keys());
        let commit = |case: &Case| !case.source.commit.is_empty() && !case.series.is_empty();
        assert!(results.workloads.values().flat_map(|run| &run.cases).all(commit));
    }

    #[test]
    fn pieces_add_up_and_what_is_measured_again_replaces_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compare.json");
        let mut results = Results::load(&path).unwrap();
        let case = |name: &str, value| {
            let mut case = Case::new(name, "µs");
            case.set("limit", 0, value);
            case
        };
        results.merge("fanout", run(vec![case("a", 1.0), case("b", 2.0)]));
        results.merge("fanout", run(vec![case("b", 3.0), case("c", 4.0)]));
        fs::write(&path, serde_json::to_string(&results).unwrap()).unwrap();
        let read = Results::load(&path).unwrap();
        assert_eq!(read, results);
        let names: Vec<&str> = read.workloads["fanout"].cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(read.case("fanout", "b").unwrap().series["limit"].values, [Some(3.0)]);
        fs::write(&path, "{").unwrap();
        assert!(Results::load(&path).is_err());
    }

    #[test]
    fn a_ratio_needs_both_servers() {
        let mut case = Case::new("x", "µs");
        case.set("limit", 0, 2.0);
        case.set("roomcast", 0, 3.0);
        case.set_redis("roomcast", 0, 0.5);
        assert!((case.ratio("roomcast", REFERENCE).unwrap().median - 1.5).abs() < 1e-9);
        assert_eq!(case.ratio("ws", REFERENCE), None);
        assert_eq!(case.series["roomcast"].redis, [Some(0.5)]);
    }
}
