//! The table of how soon each fault is noticed and healed, made of runs and put between two marks of a document.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, ensure};

use super::{
    faults::{Fault, Since},
    judge::Measure,
};

const BEGIN: &str = "<!-- chaos:begin -->";
const END: &str = "<!-- chaos:end -->";

/// Replaces what stands between the marks.
pub(super) fn merge(file: &Path, measures: &[Measure]) -> anyhow::Result<()> {
    ensure!(!measures.is_empty(), "no fault was measured");
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let merged = between(&text, &rows(measures))
        .with_context(|| format!("{} lacks the lines {BEGIN} and {END}", file.display()))?;
    fs::write(file, merged).with_context(|| format!("writing {}", file.display()))
}

fn between(text: &str, rows: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{rows}{END}{after}"))
}

fn rows(measures: &[Measure]) -> String {
    let mut by_fault: BTreeMap<Fault, Vec<&Measure>> = BTreeMap::new();
    for measure in measures {
        by_fault.entry(measure.fault).or_default().push(measure);
    }
    let mut text =
        "| fault | times | noticed after, at most | healed after, at most | promised | counted from | presence true after, at most |\n\
                    |---|---|---|---|---|---|---|\n"
            .to_owned();
    for (fault, measures) in by_fault {
        let worst = |of: fn(&Measure) -> Option<u64>| measures.iter().filter_map(|measure| of(measure)).max();
        let noticed = worst(|measure| measure.notice_ms).map_or("unnoticed".to_owned(), seconds);
        let healed = worst(|measure| Some(measure.heal_ms)).map_or(String::new(), |ms| match ms {
            0 => "not felt".to_owned(),
            ms => seconds(ms),
        });
        let nature = fault.nature();
        let since = match nature.since {
            Since::Start => "the fault",
            Since::Cleared => "the end of its cause",
        };
        let promised = format!("{} s", nature.heal.as_secs_f64());
        let presence = match worst(|measure| Some(measure.presence_ms)) {
            None | Some(0) => "always".to_owned(),
            Some(ms) => seconds(ms),
        };
        let times = measures.len().to_string();
        text.extend([
            "| ",
            nature.what,
            " | ",
            &times,
            " | ",
            &noticed,
            " | ",
            &healed,
            " | ",
            &promised,
            " | ",
            since,
            " | ",
            &presence,
            " |\n",
        ]);
    }
    text
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
        let rows = rows(&[measure(400, Some(70)), measure(740, None)]);
        assert!(rows.contains("| 2 | 0.1 s | 0.7 s | 1 s | the end of its cause | always |"), "{rows}");
    }

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(between(&text, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(between("no marks", "new"), None);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.md");
        fs::write(&file, &text).unwrap();
        merge(&file, &[measure(0, Some(1))]).unwrap();
        assert!(fs::read_to_string(&file).unwrap().contains("not felt"));
        assert!(merge(&file, &[]).is_err());
    }
}
