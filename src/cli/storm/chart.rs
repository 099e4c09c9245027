//! The report as a picture: latency over time above, what came of the invocations below.

use std::error::Error;

use plotters::prelude::*;

use super::report::{Point, Report};

const SIZE: (u32, u32) = (1000, 640);
/// Latencies are shown from a tenth of a millisecond on.
const LEAST_MS: f64 = 0.1;
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(23, 190, 207),
];

/// Draws the report as SVG.
///
/// # Errors
/// What the drawing itself fails with.
pub(super) fn svg(report: &Report) -> Result<String, Box<dyn Error + '_>> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (upper, lower) = root.split_vertically(SIZE.1 * 6 / 10);
        latencies(report, &upper).map_err(|error| error.to_string())?;
        numbers(report, &lower).map_err(|error| error.to_string())?;
        root.present()?;
    }
    Ok(text)
}

/// What is counted of an interval.
type Count = fn(&Point) -> u64;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn latencies(report: &Report, area: &Area<'_>) -> Result<(), Box<dyn Error>> {
    let points = || report.tenants.iter().flat_map(|tenant| &tenant.series);
    let highest = points().filter_map(|point| point.latency.max).fold(1.0, f64::max);
    let lowest = points().filter_map(|point| point.latency.p50).fold(highest, f64::min).max(LEAST_MS);
    let mut chart = ChartBuilder::on(area)
        .caption("Latency from arrival to answer, by the moment of arrival (ms)", ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(20)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end(report), (lowest / 1.5..highest * 1.5).log_scale())?;
    chart.configure_mesh().light_line_style(WHITE).y_label_formatter(&|ms| number(*ms)).x_label_formatter(&|s| format!("{s} s")).draw()?;
    for (tenant, colour) in report.tenants.iter().zip(COLOURS.iter().cycle()) {
        let line =
            |of: fn(&Point) -> Option<f64>| tenant.series.iter().filter_map(move |point| Some((point.at_s, of(point)?.max(LEAST_MS))));
        chart
            .draw_series(LineSeries::new(line(|point| point.latency.p50), colour.stroke_width(2)))?
            .label(format!("{} p50", tenant.name))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
        let pale = colour.mix(0.45);
        chart
            .draw_series(LineSeries::new(line(|point| point.latency.p99), pale.stroke_width(2)))?
            .label(format!("{} p99", tenant.name))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], pale.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
    Ok(())
}

fn numbers(report: &Report, area: &Area<'_>) -> Result<(), Box<dyn Error>> {
    let kinds: [(&str, RGBColor, Count); 4] = [
        ("came", RGBColor(150, 150, 150), |point| point.came),
        ("answered", COLOURS[2], |point| point.answered),
        ("refused or throttled", COLOURS[4], |point| point.refused + point.throttled),
        ("timed out, killed or lost", COLOURS[1], |point| point.failed),
    ];
    let lines = kinds.map(|(label, colour, of)| (label, colour, per_second(report, of)));
    let highest = lines.iter().flat_map(|(.., line)| line).map(|(_, rate)| *rate).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("Invocations a second, all tenants", ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(20)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end(report), 0.0..highest * 1.1)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .y_label_formatter(&|rate| number(*rate))
        .x_label_formatter(&|s| format!("{s} s"))
        .draw()?;
    for (label, colour, line) in lines {
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
    Ok(())
}

/// Where the pictures end: with the last interval, or the last arrival.
fn end(report: &Report) -> f64 {
    let last = report.tenants.iter().filter_map(|tenant| tenant.series.last()).map(|point| point.at_s);
    last.fold(report.duration_s, f64::max)
}

/// All tenants' numbers of each interval, a second.
#[expect(clippy::cast_precision_loss, reason = "counts of a picture")]
fn per_second(report: &Report, of: Count) -> Vec<(f64, f64)> {
    let longest = report.tenants.iter().map(|tenant| &tenant.series).max_by_key(|series| series.len());
    let sum = |index: usize| report.tenants.iter().filter_map(|tenant| tenant.series.get(index)).map(of).sum::<u64>();
    longest.into_iter().flatten().enumerate().map(|(index, point)| (point.at_s, sum(index) as f64 / report.interval_s)).collect()
}

fn number(value: f64) -> String {
    if value >= 10.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::storm::report::TenantReport;
    use crate::cli::storm::scenario::Wishes;
    use crate::cli::storm::tally::Tally;

    fn report(latencies: &[u64]) -> Report {
        let interval = Duration::from_millis(500);
        let mut tally = Tally::new(interval);
        for (arrival, latency) in (0..).map(|n| interval * n).zip(latencies) {
            tally.came(arrival);
            tally.answered(arrival, arrival + Duration::from_millis(*latency));
        }
        let tenant = |name| TenantReport::from_tally(name, &Wishes::default().behaviour(), &tally, interval);
        let tenants = vec![tenant("quiet"), tenant("<greedy>")];
        Report { version: "test", seed: 1, duration_s: 2.0, drained_s: 0.0, interval_s: 0.5, tenants }
    }

    #[test]
    fn a_picture_has_a_line_for_each_tenants_median_and_tail() {
        let report = report(&[2, 30, 400, 5]);
        let picture = svg(&report).unwrap();
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
        for label in ["quiet p50", "quiet p99", "&lt;greedy&gt; p99", "answered", "refused or throttled"] {
            assert!(picture.contains(label), "no {label:?}");
        }
    }

    #[test]
    fn a_storm_without_an_answer_can_be_drawn() {
        assert!(svg(&report(&[])).unwrap().contains("quiet p50"));
    }
}
