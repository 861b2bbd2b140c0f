//! A comparison as pictures: for each workload and unit one SVG, the cases along one axis, the median of each server
//! with its quartiles along the other. The scale is logarithmic: what is compared differs by powers of ten.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;
use plotters::prelude::*;

use super::{
    result::{Case, REFERENCE, Results},
    stats::Spread,
    table::digits,
};

const CASE_WIDTH: u32 = 150;
const HEIGHT: u32 = 520;
/// Told apart also by those who see few colours, and on both light and dark paper.
const COLOURS: [RGBColor; 8] = [
    RGBColor(110, 110, 110),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(130, 80, 40),
];

/// The pictures, by file name.
pub(crate) fn pictures(results: &Results) -> anyhow::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for (workload, run) in &results.workloads {
        let mut by_unit: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
        for case in &run.cases {
            by_unit.entry(&case.unit).or_default().push(case);
        }
        for (place, (unit, cases)) in by_unit.into_iter().enumerate() {
            let number = if place == 0 { String::new() } else { format!("-{}", place + 1) };
            if let Some(picture) = picture(workload, unit, &cases)? {
                all.push((format!("{workload}{number}.svg"), picture));
            }
        }
    }
    Ok(all)
}

/// One server's point in one case.
struct Point<'a> {
    server: &'a str,
    case: usize,
    spread: Spread,
}

fn picture(workload: &str, unit: &str, cases: &[&Case]) -> anyhow::Result<Option<String>> {
    let servers: BTreeSet<&str> =
        cases.iter().flat_map(|case| case.series.keys().map(String::as_str)).collect();
    let mut servers: Vec<&str> = servers.into_iter().collect();
    servers.sort_by_key(|server| (*server != REFERENCE, *server != "roomcast", *server));
    // Where the bare loop took part, ratios of neighbours say more than microseconds of a machine.
    let over_limit = cases.iter().all(|case| case.has_limit());
    let mut points = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        for &server in &servers {
            let spread = if over_limit { case.ratio(server, REFERENCE) } else { case.spread(server) };
            // A logarithm has no place for nothing and less.
            if let Some(spread) = spread.filter(|spread| spread.q1 > 0.0) {
                points.push(Point { server, case: index, spread });
            }
        }
    }
    let Some((low, high)) = reach(&points) else { return Ok(None) };
    let axis = if over_limit { format!("{unit}, over the bare loop") } else { unit.to_owned() };
    let mut svg = String::new();
    draw(&mut svg, &format!("{workload}: {axis}"), &axis, cases, &servers, &points, (low, high))
        .map_err(|error| anyhow!("drawing {workload}: {error}"))?;
    Ok(Some(svg))
}

/// From below the lowest quartile to above the highest.
fn reach(points: &[Point<'_>]) -> Option<(f64, f64)> {
    let low = points.iter().map(|point| point.spread.q1).min_by(f64::total_cmp)?;
    let high = points.iter().map(|point| point.spread.q3).max_by(f64::total_cmp)?;
    Some((low / 1.3, high * 1.3))
}

#[allow(clippy::cast_precision_loss, reason = "places of a few cases")]
fn draw<'a>(
    svg: &'a mut String,
    title: &str,
    axis: &str,
    cases: &[&Case],
    servers: &[&str],
    points: &[Point<'_>],
    (low, high): (f64, f64),
) -> Result<(), Box<dyn std::error::Error + 'a>> {
    let count = u32::try_from(cases.len())?;
    let size = (230 + CASE_WIDTH * count.max(3), HEIGHT);
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .right_y_label_area_size(120)
        .build_cartesian_2d(0.0..cases.len() as f64, (low..high).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc(axis)
        .y_label_formatter(&|value| digits(*value))
        .light_line_style(WHITE.mix(0.0))
        .label_style(("sans-serif", 12))
        .axis_desc_style(("sans-serif", 12))
        .draw()?;
    let colour = |server: &str| {
        let place = servers.iter().position(|one| *one == server).unwrap_or_default();
        COLOURS[place % COLOURS.len()]
    };
    let share = 1.0 / (servers.len() as f64 + 2.0);
    for &server in servers {
        let place = servers.iter().position(|one| *one == server).unwrap_or_default();
        let ink = colour(server);
        let x = |case: usize| case as f64 + share * (place as f64 + 1.5);
        let own = || points.iter().filter(move |point| point.server == server);
        chart
            .draw_series(own().map(|point| {
                let x = x(point.case);
                PathElement::new(vec![(x, point.spread.q1), (x, point.spread.q3)], ink.stroke_width(3))
            }))?
            .label(server)
            .legend(move |(x, y)| Circle::new((x + 8, y), 5, ink.filled()));
        chart.draw_series(
            own().map(|point| Circle::new((x(point.case), point.spread.median), 5, ink.filled())),
        )?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::Coordinate(i32::try_from(CASE_WIDTH * count.max(3))? + 30, 10))
        .label_font(("sans-serif", 13))
        .draw()?;
    // The names of the cases, wrapped: they are phrases, not numbers.
    for (index, case) in cases.iter().enumerate() {
        let left = chart.backend_coord(&(index as f64, low));
        for (line, words) in wrapped(&case.name, 24).iter().enumerate() {
            let y = left.1 + 6 + 14 * i32::try_from(line)?;
            root.draw_text(words, &("sans-serif", 11).into_text_style(&root), (left.0 + 4, y))?;
        }
    }
    root.present()?;
    Ok(())
}

/// A name in lines of about so many characters.
fn wrapped(name: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in name.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::result::Run;

    #[test]
    fn each_unit_gets_a_picture_with_its_axis_servers_and_cases() {
        let mut fast = Case::new("1000 subscribers, 200 B, 1 queued", "µs of server CPU per delivery");
        let mut slow = Case::new("p99", "µs from publish to delivery");
        for turn in 0..3_u8 {
            let value = 1.0 + f64::from(turn) / 10.0;
            for (server, times) in [("limit", 1.0), ("roomcast", 1.1), ("ws", 20.0)] {
                fast.set(server, turn.into(), value * times);
                slow.set(server, turn.into(), 900.0 * value * times);
            }
        }
        let mut results = Results::default();
        let run = Run { cases: vec![fast, slow] };
        results.merge("fanout", run);
        let pictures = pictures(&results).unwrap();
        let names: Vec<&str> = pictures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["fanout.svg", "fanout-2.svg"]);
        let all: String = pictures.iter().map(|(_, svg)| svg.as_str()).collect();
        for part in ["over the bare loop", "from publish to delivery", "roomcast", "1000 subscribers,"] {
            assert!(all.contains(part), "{part}");
        }
    }

    #[test]
    fn what_was_not_measured_makes_no_picture() {
        assert!(picture("x", "µs", &[&Case::new("a", "µs")]).unwrap().is_none());
    }

    #[test]
    fn names_are_wrapped_between_words() {
        assert_eq!(
            wrapped("1000 subscribers, 200 B, 1 queued", 24),
            ["1000 subscribers, 200 B,", "1 queued"]
        );
    }
}
