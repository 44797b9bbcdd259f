//! Throughput and latency percentiles over time, as an SVG. Text stays text, so that no font is needed to draw.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::report::{EndpointReport, Interval, Latency, Report};

const WIDTH: u32 = 960;
const PANEL_HEIGHT: u32 = 300;
/// One per line in a panel; the first endpoint's lines begin at the first, the second's in the middle.
const COLOURS: [RGBColor; 12] = [
    RGBColor(0x1f, 0x4e, 0x79),
    RGBColor(0x2e, 0x86, 0xc1),
    RGBColor(0x5d, 0xad, 0xe2),
    RGBColor(0x11, 0x7a, 0x65),
    RGBColor(0x1a, 0xbc, 0x9c),
    RGBColor(0x76, 0xd7, 0xc4),
    RGBColor(0x92, 0x2b, 0x21),
    RGBColor(0xe7, 0x4c, 0x3c),
    RGBColor(0xf1, 0x94, 0x8a),
    RGBColor(0x9a, 0x7d, 0x0a),
    RGBColor(0xd4, 0xac, 0x0d),
    RGBColor(0xf4, 0xd0, 0x3f),
];

/// A line of a panel. Zero is left out: nothing happened, or a logarithm has no place for it.
struct Line {
    name: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// One panel for throughput and one for each kind of latency that there is. The rounds of an endpoint follow one
/// another on the axis.
pub fn draw(report: &Report) -> Result<String> {
    let throughput = lines(
        &report.endpoints,
        &[
            ("append", |i| i.append_mib_s),
            ("tail", |i| i.tail_mib_s),
            ("catch-up", |i| i.catch_up_mib_s),
        ],
    );
    let acks = latency_lines(&report.endpoints, |i| i.append_latency);
    let ends = latency_lines(&report.endpoints, |i| i.tail_latency);
    let panels: Vec<_> = [
        ("MiB/s", throughput, false),
        ("acknowledgement, ms", acks, true),
        ("end to end, ms", ends, true),
    ]
    .into_iter()
    .filter(|(_, lines, _)| !lines.is_empty())
    .collect();
    let mut svg = String::new();
    {
        let height = PANEL_HEIGHT * panels.len().max(1) as u32;
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        for (area, (title, lines, logarithmic)) in
            root.split_evenly((panels.len().max(1), 1)).iter().zip(&panels)
        {
            panel(area, title, lines, *logarithmic)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

type Read = fn(&Interval) -> f64;

fn lines(endpoints: &[EndpointReport], kinds: &[(&str, Read)]) -> Vec<Line> {
    let mut lines = Vec::new();
    for (n, endpoint) in endpoints.iter().enumerate() {
        for (kind, (name, read)) in kinds.iter().enumerate() {
            let points = points(endpoint, read);
            if !points.is_empty() {
                lines.push(Line {
                    name: format!("{} {name}", endpoint.label),
                    colour: COLOURS[(n * COLOURS.len() / 2 + kind) % COLOURS.len()],
                    points,
                });
            }
        }
    }
    lines
}

fn latency_lines(endpoints: &[EndpointReport], of: fn(&Interval) -> Latency) -> Vec<Line> {
    let mut all = Vec::new();
    for (kind, (name, read)) in [
        ("p50", (|l: &Latency| l.p50_ms) as fn(&Latency) -> f64),
        ("p99", |l| l.p99_ms),
        ("p99.9", |l| l.p999_ms),
    ]
    .into_iter()
    .enumerate()
    {
        for (n, endpoint) in endpoints.iter().enumerate() {
            let points = points(endpoint, &|interval: &Interval| read(&of(interval)));
            if !points.is_empty() {
                all.push(Line {
                    name: format!("{} {name}", endpoint.label),
                    colour: COLOURS[(n * COLOURS.len() / 2 + kind) % COLOURS.len()],
                    points,
                });
            }
        }
    }
    all
}

fn points(endpoint: &EndpointReport, read: &dyn Fn(&Interval) -> f64) -> Vec<(f64, f64)> {
    let mut began = 0.0;
    let mut points = Vec::new();
    for round in &endpoint.rounds {
        let of_round = round
            .intervals
            .iter()
            .map(|interval| (began + interval.at_s, read(interval)));
        points.extend(of_round.filter(|(_, value)| *value > 0.0));
        began += round.measured_s;
    }
    points
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    lines: &[Line],
    logarithmic: bool,
) -> Result<()> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let right = all().map(|point| point.0).fold(0.0, f64::max).max(1e-3);
    let top = all().map(|point| point.1).fold(0.0, f64::max) * 1.1;
    let bottom = all().map(|point| point.1).fold(top, f64::min) / 1.2;
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(60);
    // The two kinds of axis are of different types, so that what is drawn on them is said twice.
    macro_rules! draw_on {
        ($chart:expr) => {{
            let mut chart = $chart;
            chart.configure_mesh().x_desc("s").draw().map_err(failed)?;
            for line in lines {
                let colour = line.colour;
                chart
                    .draw_series(LineSeries::new(
                        line.points.iter().copied(),
                        colour.stroke_width(2),
                    ))
                    .map_err(failed)?
                    .label(&line.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .draw()
                .map_err(failed)?;
        }};
    }
    match logarithmic {
        true => draw_on!(
            builder
                .build_cartesian_2d(0.0..right, (bottom..top).log_scale())
                .map_err(failed)?
        ),
        false => draw_on!(builder.build_cartesian_2d(0.0..right, 0.0..top).map_err(failed)?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::report::samples;
    use super::*;

    #[test]
    fn an_append_load_has_two_panels_and_a_line_per_endpoint_and_percentile() {
        let svg = draw(&samples::report(&[&[30.0, 31.0], &[15.0, 16.0]])).unwrap();
        assert!(svg.starts_with("<svg"), "{}", &svg[..60]);
        assert!(svg.trim_end().ends_with("</svg>"));
        for text in [
            "MiB/s",
            "acknowledgement, ms",
            "A append",
            "B append",
            "A p50",
            "B p99.9",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("end to end"));
        assert!(svg.contains("height=\"600\""));
    }

    #[test]
    fn rounds_follow_one_another() {
        let report = samples::report(&[&[30.0, 31.0]]);
        let points = points(&report.endpoints[0], &|i: &Interval| i.append_mib_s);
        let times: Vec<_> = points.iter().map(|point| point.0).collect();
        assert_eq!(times, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(points[3].1, 31.0);
    }

    #[test]
    fn nothing_to_draw_is_an_empty_picture() {
        assert!(draw(&samples::report(&[&[]])).unwrap().starts_with("<svg"));
    }
}
