//! The timeline: level, flatness and entropy over time, with what was found behind them.

use std::ops::Range;

use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::AuditError;
use super::features::{Feature, Second};
use super::hear::Source;
use super::report::Report;
use super::verdict::Verdict;
use crate::plot::{self, AMBER, Area, BLUE, FONT, GRID, PINK, VERMILION};

const WIDTH: u32 = 1200;
const PANEL_HEIGHT: u32 = 190;
const TITLE_HEIGHT: u32 = 130;
/// Where the reference's middle 98 % lie.
const USUAL: RGBColor = RGBColor(228, 228, 228);
const CURVE: RGBColor = RGBColor(30, 30, 30);
/// A longer sound has its extremes drawn, two points for each part of it.
const PARTS_MAX: usize = 1_000;

type Chart<'a, 'b> = ChartContext<'b, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), AuditError>;

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for AuditError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self::Draw(error.to_string())
    }
}

/// The colour of a verdict.
pub(super) fn colour_of(verdict: Verdict) -> RGBColor {
    match verdict {
        Verdict::Noise => VERMILION,
        Verdict::Dead => BLUE,
        Verdict::Stuck => PINK,
        Verdict::Clicks => AMBER,
    }
}

/// One picture of the panels: what each shows, and its curves.
struct Panel {
    title: &'static str,
    features: &'static [(Feature, RGBColor)],
    y: Range<f64>,
}

const PANELS: [Panel; 3] = [
    Panel {
        title: "level [dBFS]",
        features: &[(Feature::LevelDbfs, CURVE)],
        y: -90.0..0.0,
    },
    Panel {
        title: "flatness [dB]",
        features: &[(Feature::FlatnessDb, CURVE)],
        y: -40.0..0.0,
    },
    Panel {
        title: "entropy [bits]",
        features: &[
            (Feature::StepEntropyBits, CURVE),
            (Feature::DrawEntropyBits, BLUE),
        ],
        y: 0.0..8.0,
    },
];

/// An SVG, whose size does not grow with the sound's length.
pub(super) fn timeline(report: &Report) -> Result<String, AuditError> {
    let mut svg = String::new();
    {
        let size = (WIDTH, TITLE_HEIGHT + PANELS.len() as u32 * PANEL_HEIGHT);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        write_titles(&root, report)?;
        let panels = root.margin(TITLE_HEIGHT, 0, 0, 24);
        let panels = panels.split_evenly((PANELS.len(), 1));
        for (area, panel) in panels.iter().zip(&PANELS) {
            draw_panel(area, panel, report)?;
        }
        root.present()?;
    }
    Ok(svg)
}

fn write_titles(root: &Area<'_>, report: &Report) -> Drawn {
    let (title, drawn) = match &report.source {
        Source::File { path } => {
            let name = path.rsplit('/').next().unwrap_or(path);
            (name.to_owned(), String::new())
        }
        Source::Model {
            name, seed, draw, ..
        } => (format!("{name}, seed {seed}"), format!("{draw}\n")),
    };
    let origin = &report.reference.origin;
    let under = format!("{drawn}beside {origin}: the grey band holds 98 % of its seconds");
    plot::titles(root, &title, &under)?;
    let mut x = 24;
    for (verdict, n) in &report.summary.n_of {
        let place = [(x, 96), (x + 16, 112)];
        root.draw(&Rectangle::new(place, colour_of(*verdict).filled()))?;
        let text = format!("{verdict}: {n} s");
        let middle = Pos::new(HPos::Left, VPos::Center);
        let style = (FONT, 15).into_font().color(&BLACK).pos(middle);
        x += 34 + 9 * text.len() as i32;
        root.draw(&Text::new(text, (place[1].0 + 6, 104), style))?;
    }
    Ok(())
}

fn draw_panel(area: &Area<'_>, panel: &Panel, report: &Report) -> Drawn {
    let end = report.seconds.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .margin_top(8)
        .margin_left(16)
        .x_label_area_size(34)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..end, panel.y.clone())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(12)
        .y_labels(5)
        .y_desc(panel.title)
        .x_label_formatter(&|s| clock(*s))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .axis_desc_style((FONT, 16))
        .label_style((FONT, 13))
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;
    draw_usual(&mut chart, panel, report)?;
    draw_stretches(&mut chart, panel, report)?;
    for (feature, colour) in panel.features {
        let seconds = report.seconds.iter().map(|judged| &judged.second);
        for run in curve(*feature, seconds) {
            let y = |y: f64| y.clamp(panel.y.start, panel.y.end);
            let points = run.into_iter().map(|point| (point.0, y(point.1)));
            chart.draw_series(LineSeries::new(points, colour.stroke_width(1)))?;
        }
    }
    Ok(())
}

/// The reference's band, of the panel's first feature.
fn draw_usual(chart: &mut Chart<'_, '_>, panel: &Panel, report: &Report) -> Drawn {
    let mut all = report.distributions.iter();
    let of_panel = all.find(|beside| beside.feature == panel.features[0].0);
    let Some(quantiles) = of_panel.and_then(|beside| beside.reference) else {
        return Ok(());
    };
    let y = |at: usize| f64::from(quantiles[at]).clamp(panel.y.start, panel.y.end);
    let corners = [(0.0, y(1)), (report.seconds.len() as f64, y(7))];
    chart.draw_series([Rectangle::new(corners, USUAL.filled())])?;
    Ok(())
}

fn draw_stretches(chart: &mut Chart<'_, '_>, panel: &Panel, report: &Report) -> Drawn {
    let least = report.seconds.len() as f64 / f64::from(WIDTH);
    let mut painted = [f64::NEG_INFINITY; Verdict::ALL.len()];
    for stretch in &report.stretches {
        let (from, to) = (stretch.from_s as f64, stretch.to_s as f64);
        let painted = &mut painted[stretch.verdict as usize];
        // Of those that share a pixel, one is enough.
        if to <= *painted {
            continue;
        }
        *painted = to.max(from + least);
        let corners = [(from, panel.y.start), (*painted, panel.y.end)];
        let style = colour_of(stretch.verdict).mix(0.5).filled();
        chart.draw_series([Rectangle::new(corners, style)])?;
    }
    Ok(())
}

/// The feature over time, in runs of seconds that have it; of a long sound the least and the
/// greatest of each part.
fn curve<'a>(
    feature: Feature,
    seconds: impl ExactSizeIterator<Item = &'a Second>,
) -> Vec<Vec<(f64, f64)>> {
    let part = seconds.len().div_ceil(PARTS_MAX).max(1);
    let values: Vec<Option<f32>> = seconds.map(|second| feature.of(second)).collect();
    let mut runs = vec![Vec::new()];
    for (i, values) in values.chunks(part).enumerate() {
        let middle = (i * part) as f64 + values.len() as f64 / 2.0;
        let present = || values.iter().flatten().copied();
        let (low, high) = (present().reduce(f32::min), present().reduce(f32::max));
        match (low, high, runs.last_mut()) {
            (Some(low), Some(high), Some(run)) => {
                run.push((middle, f64::from(low)));
                if part > 1 {
                    run.push((middle, f64::from(high)));
                }
            }
            _ => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// Seconds as a clock shows them.
fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s / 3600 {
        0 => format!("{}:{:02}", s / 60, s % 60),
        hours => format!("{hours}:{:02}:{:02}", s / 60 % 60, s % 60),
    }
}
