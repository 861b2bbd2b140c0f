//! A comparison as Markdown: a table per workload, ratios over the bare loop where it took part, and the bars.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    bars::{Bar, Outcome},
    result::{Case, REFERENCE, Results, Source},
    stats::Spread,
};

/// Everything that was measured.
pub(crate) fn markdown(results: &Results, bars: &[Bar]) -> String {
    let mut out = String::new();
    for (workload, run) in &results.workloads {
        let _ = writeln!(out, "## {workload}\n");
        let mut by_unit: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
        for case in &run.cases {
            by_unit.entry(&case.unit).or_default().push(case);
        }
        for (unit, cases) in by_unit {
            unit_table(&mut out, unit, &cases);
        }
        sources(&mut out, &run.cases);
        missing(&mut out, &run.cases);
    }
    bars_table(&mut out, results, bars);
    out
}

/// Where the figures come from; where not all come from one run, of which cases each is the source.
fn sources(out: &mut String, cases: &[Case]) {
    let mut named: BTreeMap<&Source, Vec<&str>> = BTreeMap::new();
    for case in cases {
        named.entry(&case.source).or_default().push(&case.name);
    }
    let several = named.len() > 1;
    for (Source { machine, commit, command }, cases) in named {
        let of = if several { format!("{}: ", cases.join("; ")) } else { String::new() };
        let _ = writeln!(out, "{of}{machine} · commit {commit} · `{command}`\n");
    }
}

/// Who is not in the table, or not in all of its rows, and why.
fn missing(out: &mut String, cases: &[Case]) {
    let mut named: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for case in cases {
        for (peer, why) in &case.missing {
            named.entry((peer, why)).or_default().push(&case.name);
        }
    }
    for ((peer, why), of) in named {
        let of = if of.len() < cases.len() { format!(" ({})", of.join("; ")) } else { String::new() };
        let _ = writeln!(out, "Not measured: {peer}{of}: {why}\n");
    }
}

fn unit_table(out: &mut String, unit: &str, cases: &[&Case]) {
    let servers: BTreeSet<&str> =
        cases.iter().flat_map(|case| case.series.keys().map(String::as_str)).collect();
    let mut servers: Vec<&str> = servers.into_iter().collect();
    // The reference first, then the project, then the others by name.
    servers.sort_by_key(|server| (*server != REFERENCE, *server != "roomcast", *server));
    let redis = cases.iter().any(|case| case.series.values().any(|series| !series.redis.is_empty()));
    let note = if servers.len() > 1 && cases.iter().any(|case| case.has_limit()) {
        "; in bold the median of the ratio to the bare loop in the same round, with its quartiles"
    } else {
        ""
    };
    let _ = writeln!(out, "{unit}: median (quartiles){note}.\n");
    let mut head = format!("| case | {} |", servers.join(" | "));
    let mut rule = format!("|---|{}", "---|".repeat(servers.len()));
    if redis {
        head.push_str(" Redis of its own, the same unit |");
        rule.push_str("---|");
    }
    let _ = writeln!(out, "{head}\n{rule}");
    for case in cases {
        let mut row = format!("| {} |", case.name);
        for &server in &servers {
            let _ = write!(row, " {} |", cell(case, server));
        }
        if redis {
            let told: Vec<String> = case
                .series
                .iter()
                .filter_map(|(server, series)| {
                    Some(format!("{server} {}", digits(Spread::of(&series.redis)?.median)))
                })
                .collect();
            let _ = write!(row, " {} |", told.join(", "));
        }
        let _ = writeln!(out, "{row}");
    }
    out.push('\n');
}

fn cell(case: &Case, server: &str) -> String {
    let Some(value) = case.spread(server) else { return "–".to_owned() };
    let own = format!("{} ({}–{})", digits(value.median), digits(value.q1), digits(value.q3));
    match case.ratio(server, REFERENCE) {
        Some(ratio) if server != REFERENCE && case.has_limit() => {
            format!("**{:.2}** ({:.2}–{:.2}) · {own}", ratio.median, ratio.q1, ratio.q3)
        }
        _ => own,
    }
}

/// Three digits, whatever the size.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 1.0 => format!("{value:.3}"),
        small if small < 10.0 => format!("{value:.2}"),
        small if small < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn bars_table(out: &mut String, results: &Results, bars: &[Bar]) {
    let _ = writeln!(
        out,
        "## The bars\n\n| workload | case | of | bar | measured | |\n|---|---|---|---|---|---|"
    );
    for bar in bars {
        let of = match &bar.over {
            Some(over) => format!("{} over {over}", bar.of),
            None => bar.of.clone(),
        };
        let (measured, word) = match bar.judge(results) {
            Outcome::Held(value) => (digits(value), "holds"),
            Outcome::Missed(value) => (digits(value), "**missed**"),
            Outcome::Open => ("–".to_owned(), "not measured"),
        };
        let _ = writeln!(
            out,
            "| {} | {} | {of} | {} | {measured} | {word} |",
            bar.workload,
            bar.case,
            bar.wanted()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::result::Run;

    #[test]
    fn the_table_tells_ratios_spread_redis_and_what_is_missing() {
        let mut case = Case::new("a", "µs");
        for (turn, value) in [1.0, 1.2, 1.1].into_iter().enumerate() {
            case.set("limit", turn, value);
            case.set("roomcast", turn, value * 1.5);
            case.set_redis("roomcast", turn, 0.25);
        }
        let mut results = Results::default();
        let source = |commit: &str| Source {
            machine: "two cores".into(),
            commit: commit.into(),
            command: "compare".into(),
        };
        case.source = source("abc");
        case.missing.insert("ws".to_owned(), "no node".to_owned());
        results.merge("fanout", Run { cases: vec![case] });
        let bar = |at_most| Bar {
            workload: "fanout".into(),
            case: "a".into(),
            of: "roomcast".into(),
            over: Some("limit".into()),
            at_most: Some(at_most),
            at_least: None,
        };
        let text = markdown(&results, &[bar(1.6), bar(1.4)]);
        for part in [
            "| case | limit | roomcast |",
            "**1.50** (1.50–1.50) · 1.65 (1.57–1.73)",
            "roomcast 0.250",
            "two cores · commit abc",
            "Not measured: ws: no node",
            "| ≤ 1.6 | 1.50 | holds |",
            "| ≤ 1.4 | 1.50 | **missed** |",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let mut later = Case::new("b", "µs");
        later.source = source("def");
        later.set("ws", 0, 1.0);
        later.leave_out("ws", "2 deliveries lost");
        results.merge("fanout", Run { cases: vec![later] });
        let text = markdown(&results, &[]);
        for part in [
            "\nNot measured: ws (a): no node\n",
            "\nNot measured: ws (b): left out: 2 deliveries lost\n",
            "\na: two cores · commit abc · `compare`\n",
            "\nb: two cores · commit def · `compare`\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        let told: Vec<String> = [0.0, 0.1234, 1.234, 12.34, 1234.5].map(digits).into();
        assert_eq!(told, ["0", "0.123", "1.23", "12.3", "1234"]);
    }
}
