//! What a run says at its end: a table for people, JSON for programs. It judges nothing.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Longest latency that is told apart; a longer one counts as this.
const MAX_LATENCY_US: u64 = 120_000_000;

/// An empty histogram of microseconds with three significant digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_US, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are constants"))
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1000.0;
        write!(
            f,
            "p50 {:.2} ms · p90 {:.2} · p99 {:.2} · p99.9 {:.2} · max {:.2}",
            ms(self.p50),
            ms(self.p90),
            ms(self.p99),
            ms(self.p999),
            ms(self.max)
        )
    }
}

/// Prints rows of name and value under a title.
pub(crate) fn table(title: &str, rows: &[(&str, String)]) {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    println!("\n{title}");
    for (name, value) in rows {
        println!("  {name:<width$}  {value}");
    }
}

/// Writes the JSON result where it was asked for.
pub(crate) fn json<T: Serialize>(path: Option<&Path>, result: &T) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(result).context("writing the result as JSON")?;
    fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

/// A bar on standard error; nothing where that is no terminal.
pub(crate) fn bar(what: &'static str, len: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:12} [{bar:40}] {pos}/{len} {per_sec} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len).with_style(style).with_message(what)
}

/// `n` per second of `elapsed`.
#[allow(clippy::cast_precision_loss, reason = "a rate for people: three digits are plenty")]
pub(crate) fn per_second(n: u64, elapsed: Duration) -> f64 {
    n as f64 / elapsed.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_come_from_the_whole_histogram() {
        let mut histogram = histogram();
        for us in 1..=1000 {
            histogram.saturating_record(us);
        }
        histogram.saturating_record(u64::MAX);
        let latency = Latency::of(&histogram);
        assert_eq!(latency.count, 1001);
        assert_eq!((latency.p50, latency.p90), (501, 901));
        assert!(latency.max >= MAX_LATENCY_US);
    }

    #[test]
    fn the_json_result_is_written_only_where_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        json(None, &1).unwrap();
        json(Some(&path), &Latency::of(&histogram())).unwrap();
        let read: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(read["count"], 0);
        assert!(json(Some(folder.path()), &1).is_err());
    }

    #[test]
    fn rates_are_per_second() {
        assert!((per_second(500, Duration::from_millis(250)) - 2000.0).abs() < 1e-9);
    }
}
