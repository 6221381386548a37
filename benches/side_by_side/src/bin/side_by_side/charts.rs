//! The charts: a point for each pair, how many times Strand's figure the peer's is, with its
//! interval.

use std::path::Path;

use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;

use crate::pairs::Compared;
use crate::report::{CHARTS, Chart, Results};
use crate::workloads::Figure;

const WIDTH: u32 = 860;
const ROW: u32 = 20;
/// Title, captions, and the axis.
const AROUND: u32 = 150;
const LABELS: u32 = 190;
/// Where the axis is marked.
const MARKS: [f64; 14] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0];

/// A row of a chart: a peer in a workload.
struct Row {
    label: String,
    /// The first of its workload.
    first: bool,
    color: RGBColor,
    /// The peer's figure divided by Strand's, and the ends of the interval.
    times: f64,
    low: f64,
    high: f64,
}

/// Draws every chart of which something was measured; the names of the files.
pub(crate) fn draw(results: &Results, folder: &Path) -> anyhow::Result<Vec<&'static str>> {
    std::fs::create_dir_all(folder)?;
    let mut drawn = Vec::new();
    for chart in &CHARTS {
        let rows = rows(results, chart);
        if !rows.is_empty() {
            let Results { machine, date, commit, .. } = results;
            let mut below = format!("{machine}; {date}; commit {commit}");
            if let Some(doubt) = results.doubt() {
                below = format!("Proves little: {doubt}. {below}");
            }
            draw_one(&folder.join(chart.file), chart.title, &below, &rows)?;
            drawn.push(chart.file);
        }
    }
    Ok(drawn)
}

fn rows(results: &Results, chart: &Chart) -> Vec<Row> {
    let mut rows = Vec::new();
    for (workload, figure) in chart.shows {
        let mut pairs: Vec<(&str, &Compared)> = results
            .pairs
            .iter()
            .filter(|pair| pair.workload == *workload)
            .filter_map(|pair| {
                let compared = pair.figures.iter().find(|it| it.figure == *figure)?;
                Some((pair.peer.as_str(), compared))
            })
            .collect();
        pairs.sort_by(|(_, one), (_, other)| one.ratio.total_cmp(&other.ratio));
        let of_what = match figure {
            Figure::P99 => " (p99)".to_owned(),
            Figure::P50 => " (median)".to_owned(),
            Figure::Cost | Figure::Memory => String::new(),
            operation => format!(" ({})", operation.title()),
        };
        rows.extend(pairs.into_iter().enumerate().map(|(nth, (peer, compared))| Row {
            label: format!("{workload}{of_what}, {peer}"),
            first: nth == 0,
            color: color(peer),
            times: 1.0 / compared.ratio,
            low: 1.0 / compared.high,
            high: 1.0 / compared.low,
        }));
    }
    rows
}

fn color(peer: &str) -> RGBColor {
    match peer.split('-').next() {
        Some("raw") => RGBColor(110, 110, 110),
        Some("uv" | "libuv") => RGBColor(31, 119, 180),
        Some("tokio") => RGBColor(214, 98, 22),
        Some("mio") => RGBColor(44, 140, 70),
        _ => RGBColor(130, 80, 170),
    }
}

fn draw_one(file: &Path, title: &str, below: &str, rows: &[Row]) -> anyhow::Result<()> {
    let height = AROUND + ROW * rows.len() as u32;
    let root = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (root, captions) = root.split_vertically(height - 46);
    for (line, text) in [WHAT_IT_IS, below].iter().enumerate() {
        let style = ("sans-serif", 12).into_font().color(&RGBColor(80, 80, 80));
        captions.draw(&Text::new((*text).to_owned(), (12, 6 + 18 * line as i32), style))?;
    }
    let least = rows.iter().map(|row| row.low).fold(0.8, f64::min);
    let most = rows.iter().map(|row| row.high).fold(1.6, f64::max);
    // The first row is at the top.
    let last = rows.len() - 1;
    let place = |row: usize| SegmentValue::CenterOf(last - row);
    let (left, right) = (least * 0.9, most * 1.1);
    let marks = MARKS.into_iter().filter(|mark| (left..right).contains(mark)).collect();
    let times = (left..right).log_scale().with_key_points(marks);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(LABELS)
        .build_cartesian_2d(times, (0..last).into_segmented())?;
    let label = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(at) if *at <= last => rows[last - *at].label.clone(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(MARKS.len())
        .x_desc("times Strand's (logarithmic)")
        .x_label_formatter(&|times| format!("{times}"))
        .y_labels(rows.len() + 1)
        .y_label_formatter(&label)
        .label_style(("sans-serif", 12))
        .draw()?;
    let across =
        |from, to, at| vec![(from, SegmentValue::Exact(at)), (to, SegmentValue::Exact(at))];
    for (at, _) in rows.iter().enumerate().filter(|(at, row)| row.first && *at > 0) {
        let line = across(left, right, rows.len() - at);
        chart.draw_series([PathElement::new(line, RGBColor(200, 200, 200).stroke_width(1))])?;
    }
    let equal = vec![(1.0, SegmentValue::Exact(0)), (1.0, SegmentValue::Exact(rows.len()))];
    chart.draw_series([PathElement::new(equal, BLACK.stroke_width(1))])?;
    for (at, row) in rows.iter().enumerate() {
        let interval = vec![(row.low, place(at)), (row.high, place(at))];
        chart.draw_series([PathElement::new(interval, row.color.stroke_width(2))])?;
        chart.draw_series([Circle::new((row.times, place(at)), 4, row.color.filled())])?;
    }
    root.present()?;
    Ok(())
}

const WHAT_IT_IS: &str = "Right of the line the peer takes more than Strand. Loopback, one core \
                          for each server: no network card, no TLS, no work in the callbacks.";
