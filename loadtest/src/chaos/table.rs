//! The table of how soon each fault is noticed and healed, made of runs and put between two marks of a document.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, ensure};

use super::{
    faults::{Fault, Since},
    judge::Measure,
    scenarios,
};

const BEGIN: &str = "<!-- chaos:begin -->";
const END: &str = "<!-- chaos:end -->";

const HEAD: &str =
    "| fault | times | noticed after, at most | healed after, at most | promised | counted from | presence true after, at most |
|---|---|---|---|---|---|---|
";

/// Puts the rows of these measures between the marks; those of other faults stay.
pub(super) fn merge(file: &Path, measures: &[Measure]) -> anyhow::Result<()> {
    ensure!(!measures.is_empty(), "no fault was measured");
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let merged = between(&text, measures)
        .with_context(|| format!("{} lacks the lines {BEGIN} and {END}", file.display()))?;
    fs::write(file, merged).with_context(|| format!("writing {}", file.display()))
}

fn between(text: &str, measures: &[Measure]) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (old, after) = rest.split_once(END)?;
    let mut rows = HEAD.to_owned();
    for fault in scenarios::faults() {
        let of: Vec<_> = measures.iter().filter(|measure| measure.fault == fault).collect();
        if of.is_empty() {
            let begin = format!("| {} |", fault.nature().what);
            rows.extend(old.lines().filter(|line| line.starts_with(&begin)).map(|line| format!("{line}\n")));
        } else {
            rows.push_str(&row(fault, &of));
        }
    }
    Some(format!("{before}{BEGIN}\n{rows}{END}{after}"))
}

fn row(fault: Fault, measures: &[&Measure]) -> String {
    let worst = |of: fn(&Measure) -> Option<u64>| measures.iter().filter_map(|measure| of(measure)).max();
    let felt = |ms: Option<u64>, nothing: &str| match ms {
        None | Some(0) => nothing.to_owned(),
        Some(ms) => seconds(ms),
    };
    let nature = fault.nature();
    let cells = [
        nature.what.to_owned(),
        measures.len().to_string(),
        worst(|measure| measure.notice_ms).map_or("unnoticed".to_owned(), seconds),
        felt(worst(|measure| Some(measure.heal_ms)), "not felt"),
        format!("{} s", nature.heal.as_secs_f64()),
        match nature.since {
            Since::Start => "the fault",
            Since::Cleared => "the end of its cause",
        }
        .to_owned(),
        felt(worst(|measure| Some(measure.presence_ms)), "always"),
    ];
    format!("| {} |\n", cells.join(" | "))
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", Duration::from_millis(ms).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(heal_ms: u64, notice_ms: Option<u64>) -> Measure {
        Measure {
            fault: Fault::RedisCrash,
            since: Since::Cleared,
            start_ms: 0,
            notice_ms,
            notice_bound_ms: None,
            heal_ms,
            heal_bound_ms: 1_000,
            presence_ms: 0,
        }
    }

    #[test]
    fn the_worst_of_each_fault_is_told() {
        let row = row(Fault::RedisCrash, &[&measure(400, Some(70)), &measure(740, None)]);
        assert!(row.contains("| 2 | 0.1 s | 0.7 s | 1 s | the end of its cause | always |"), "{row}");
    }

    #[test]
    fn only_the_rows_of_what_was_measured_are_replaced() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(between("no marks", &[measure(0, None)]), None);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.md");
        fs::write(&file, &text).unwrap();
        let other = Measure { fault: Fault::RedisEmptied, ..measure(2_300, Some(5)) };
        merge(&file, &[other, measure(900, Some(1))]).unwrap();
        merge(&file, &[measure(0, Some(1))]).unwrap();
        let merged = fs::read_to_string(&file).unwrap();
        assert!(
            merged.starts_with("a\n") && merged.ends_with("\nb\n") && !merged.contains("old"),
            "{merged}"
        );
        assert!(
            merged.contains("not felt") && merged.contains("2.3 s") && !merged.contains("0.9 s"),
            "{merged}"
        );
        assert!(merge(&file, &[]).is_err());
    }
}
