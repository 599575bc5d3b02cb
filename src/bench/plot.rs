//! Pictures of a record: how step times are spread, what a longer context costs, and what kinds of
//! attention do.

mod patterns;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::combinators::{BindKeyPoints, LogCoord, WithKeyPoints};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::record::{CaseResult, Record};
use crate::files;
use crate::plot::{self, AMBER, Area, BLUE, FONT, GREEN, GREY, GRID, PINK, SKY, VERMILION, VIOLET};

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The directory or a file in it cannot be written.
    #[error("cannot write {path}: {source}; --plot names a directory for pictures")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The drawing library gave up.
    #[error("cannot draw: {0}")]
    Draw(String),
}

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self::Draw(error.to_string())
    }
}

/// Writes what the record has figures for into `dir`, which is made if it is missing: `steps.svg`,
/// `context.svg`, `patterns.svg`. Returns what was written.
pub fn write(record: &Record, dir: &Path) -> Result<Vec<PathBuf>, PlotError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| PlotError::Write { path, source }
    };
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let mut written = Vec::new();
    for (name, picture) in [
        ("steps.svg", steps(record)?),
        ("context.svg", context(record)?),
        ("patterns.svg", patterns::draw(record)?),
    ] {
        if let Some(svg) = picture {
            let path = dir.join(name);
            files::replace(&path, svg.as_bytes()).map_err(failed(&path))?;
            written.push(path);
        }
    }
    Ok(written)
}

const SIZE: (u32, u32) = (1000, 560);
/// The column of the legend.
const LEGEND_WIDTH: u32 = 270;
/// Ends of an axis that are more than this apart have but the powers of ten between them.
const TICKS_MOST: f64 = 1e4;
const DEADLINE: RGBColor = RGBColor(200, 30, 30);
const COLOURS: [RGBColor; 8] = [
    BLUE,
    AMBER,
    GREEN,
    PINK,
    SKY,
    VERMILION,
    VIOLET,
    RGBColor(60, 60, 60),
];

type Axis = WithKeyPoints<LogCoord<f64>>;
type Chart<'a, 'b> = ChartContext<'b, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;
type Drawn = Result<(), PlotError>;

/// A curve of the plot and its line in the legend.
struct Curve {
    name: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
    /// Where the curve is marked.
    marks: Vec<(f64, f64)>,
    /// Microseconds.
    floor: Option<f64>,
}

/// The share of steps that took longer than a time, for every case that was measured here.
fn steps(record: &Record) -> Result<Option<String>, PlotError> {
    let cases = record.results.iter();
    let cases = cases.filter(|result| result.context.is_none() && result.pattern.is_none());
    let cases = cases.filter(|result| !result.tail.is_empty());
    let curves: Vec<Curve> = cases.enumerate().map(|(i, case)| tail(case, i)).collect();
    let Some(deadline) = deadline_us(record) else {
        return Ok(None);
    };
    if curves.is_empty() {
        return Ok(None);
    }
    let x = curves.iter().flat_map(|curve| {
        let ends = [curve.points.first(), curve.points.last()];
        ends.into_iter()
            .flatten()
            .map(|point| point.0)
            .chain(curve.floor)
    });
    let x = around(x.chain([deadline]), 1.2);
    let rarest = curves.iter().flat_map(|curve| curve.points.last());
    let rarest = rarest.map(|point| point.1).fold(1e-3, f64::min);
    let labels = Labels {
        title: "How long a step takes",
        record,
        x: "step time [µs]",
        x_ticks: ticks(&x),
        y: "share of steps that took longer",
    };
    drawn(&labels, (x, rarest * 0.8..1.15), |chart, legend, y| {
        vertical(chart, deadline, y.clone(), (&DEADLINE, 1.0))?;
        for curve in &curves {
            if let Some(floor) = curve.floor {
                vertical(chart, floor, y.start..0.5, (&curve.colour, 0.8))?;
            }
            line(chart, curve)?;
        }
        legend.curves(&curves)?;
        legend.gap();
        legend.line("deadline of real time", &DEADLINE, true)?;
        legend.line("the floor of its colour", &GREY, true)?;
        legend.dot("median, and 99.9 %", &GREY)
    })
    .map(Some)
}

/// The curve of a case.
fn tail(case: &CaseResult, i: usize) -> Curve {
    let us = |ns: f64| ns / 1e3;
    let mut name = format!("{}, {}", case.case, case.isa);
    if case.case == "two-threads" {
        name = format!("3.2 M, threads: {}", case.threads);
    }
    let rarest = case.tail.last().map_or(1.0, |point| point.1);
    let marks = [(case.step_ns_p50, 0.5), (case.step_ns_p999, 1e-3)];
    let marks = marks.into_iter().filter(|mark| mark.1 >= rarest);
    let times = case.tail.iter().map(|(ns, share)| (us(*ns as f64), *share));
    Curve {
        name,
        colour: COLOURS[i % COLOURS.len()],
        points: times.collect(),
        marks: marks.map(|(ns, share)| (us(ns as f64), share)).collect(),
        floor: case.floor.map(|floor| us(floor.ns)),
    }
}

/// Median step time against context.
fn context(record: &Record) -> Result<Option<String>, PlotError> {
    let curve = |dense: bool, name: &str, colour: RGBColor| {
        let of_kind = record.results.iter().filter_map(|result| {
            let context = result.context.filter(|context| context.dense == dense)?;
            Some((context.positions as f64, result.step_ns_p50 as f64 / 1e3))
        });
        let points: Vec<_> = of_kind.collect();
        Curve {
            name: name.into(),
            colour,
            marks: points.clone(),
            points,
            floor: None,
        }
    };
    let curves = [
        curve(false, "sparse, as the model is", COLOURS[0]),
        curve(true, "dense: every layer sees all", COLOURS[5]),
    ];
    let all = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let (Some(deadline), Some(_)) = (deadline_us(record), all().next()) else {
        return Ok(None);
    };
    let mut positions: Vec<f64> = all().map(|point| point.0).collect();
    positions.sort_unstable_by(f64::total_cmp);
    positions.dedup();
    let x = around(positions.iter().copied(), 2.0);
    let y = around(all().map(|point| point.1).chain([deadline]), 1.5);
    let labels = Labels {
        title: "What a longer context costs",
        record,
        x: "context [samples]",
        x_ticks: positions,
        y: "median step [µs]",
    };
    drawn(&labels, (x.clone(), y), |chart, legend, _| {
        let ends = [(x.start, deadline), (x.end, deadline)];
        chart.draw_series(DashedLineSeries::new(ends, 6, 4, DEADLINE.stroke_width(2)))?;
        for curve in &curves {
            line(chart, curve)?;
            let above = Pos::new(HPos::Right, VPos::Bottom);
            let style = (FONT, 13).into_font().color(&curve.colour).pos(above);
            let told = |(x, y): &(f64, f64)| {
                let text = format!("{} µs", number(*y));
                EmptyElement::at((*x, *y)) + Text::new(text, (-6, -5), style.clone())
            };
            chart.draw_series(curve.marks.iter().map(told))?;
        }
        legend.curves(&curves)?;
        legend.gap();
        legend.line("deadline of real time", &DEADLINE, true)
    })
    .map(Some)
}

/// Microseconds that a code of the record's model plays.
fn deadline_us(record: &Record) -> Option<f64> {
    let of_model = |result: &&CaseResult| result.model.is_none() && result.x_realtime > 0.0;
    let result = record.results.iter().find(of_model)?;
    Some(1e6 * result.x_realtime / result.steps_per_s)
}

/// From the least to the largest, and `factor` beyond.
fn around(numbers: impl Iterator<Item = f64>, factor: f64) -> Range<f64> {
    let (low, high) = numbers.fold((f64::INFINITY, 0.0f64), |(low, high), number| {
        (low.min(number), high.max(number))
    });
    low / factor..high * factor
}

struct Labels<'a> {
    title: &'a str,
    record: &'a Record,
    x: &'a str,
    x_ticks: Vec<f64>,
    y: &'a str,
}

/// An SVG with both axes logarithmic, a title, and a legend beside it.
fn drawn(
    labels: &Labels<'_>,
    (x, y): (Range<f64>, Range<f64>),
    draw: impl FnOnce(&mut Chart<'_, '_>, &mut Legend<'_>, Range<f64>) -> Drawn,
) -> Result<String, PlotError> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        write_titles(&root, labels)?;
        let axis = |range: &Range<f64>, ticks| range.clone().log_scale().with_key_points(ticks);
        let (x_axis, y_axis) = (axis(&x, labels.x_ticks.clone()), axis(&y, ticks(&y)));
        let (plot, side) = root
            .margin(76, 12, 12, 12)
            .split_horizontally(SIZE.0 - LEGEND_WIDTH);
        let mut chart = ChartBuilder::on(&plot)
            .x_label_area_size(52)
            .y_label_area_size(76)
            .build_cartesian_2d(x_axis, y_axis)?;
        chart
            .configure_mesh()
            .x_desc(labels.x)
            .y_desc(labels.y)
            .axis_desc_style((FONT, 17))
            .label_style((FONT, 14))
            .x_label_formatter(&|x| number(*x))
            .y_label_formatter(&|y| number(*y))
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .draw()?;
        let mut legend = Legend { area: side, y: 8 };
        draw(&mut chart, &mut legend, y)?;
        root.present()?;
    }
    Ok(svg)
}

fn write_titles(root: &Area<'_>, labels: &Labels<'_>) -> Drawn {
    let record = labels.record;
    let date = record.date.as_deref().unwrap_or("");
    let under = format!("{} on {}, {date}", record.model, record.machine.cpu);
    Ok(plot::titles(root, labels.title, &under)?)
}

fn ticks(range: &Range<f64>) -> Vec<f64> {
    plot::ticks(range, TICKS_MOST)
}

/// As a person writes it: digits in groups of three, shares as decimals.
fn number(x: f64) -> String {
    if x < 1.0 {
        let digits = format!("{x:.6}");
        return digits.trim_end_matches('0').to_owned();
    }
    let digits = format!("{x:.0}");
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn line(chart: &mut Chart<'_, '_>, curve: &Curve) -> Drawn {
    let style = curve.colour.stroke_width(2);
    chart.draw_series(LineSeries::new(curve.points.iter().copied(), style))?;
    let mark = |point: &(f64, f64)| Circle::new(*point, 4, curve.colour.filled());
    chart.draw_series(curve.marks.iter().map(mark))?;
    Ok(())
}

fn vertical(
    chart: &mut Chart<'_, '_>,
    x: f64,
    y: Range<f64>,
    (colour, opacity): (&RGBColor, f64),
) -> Drawn {
    let style = colour.mix(opacity).stroke_width(2);
    chart.draw_series(DashedLineSeries::new(
        [(x, y.start), (x, y.end)],
        6,
        4,
        style,
    ))?;
    Ok(())
}

/// The legend, filled from above.
struct Legend<'a> {
    area: Area<'a>,
    y: i32,
}

impl Legend<'_> {
    const ROW: i32 = 24;

    fn curves(&mut self, curves: &[Curve]) -> Drawn {
        let drawn = curves.iter().filter(|curve| !curve.points.is_empty());
        for curve in drawn {
            self.line(&curve.name, &curve.colour, false)?;
        }
        Ok(())
    }

    fn gap(&mut self) {
        self.y += Self::ROW / 2;
    }

    fn line(&mut self, name: &str, colour: &RGBColor, is_dashed: bool) -> Drawn {
        let style = colour.stroke_width(2);
        let dashes = if is_dashed {
            vec![(20, 28), (32, 40), (44, 48)]
        } else {
            vec![(20, 48)]
        };
        for (from, to) in dashes {
            let ends = vec![(from, self.y), (to, self.y)];
            self.area.draw(&PathElement::new(ends, style))?;
        }
        self.text(name)
    }

    fn dot(&mut self, name: &str, colour: &RGBColor) -> Drawn {
        self.area
            .draw(&Circle::new((34, self.y), 4, colour.filled()))?;
        self.text(name)
    }

    fn text(&mut self, name: &str) -> Drawn {
        let middle = Pos::new(HPos::Left, VPos::Center);
        let style = (FONT, 15).into_font().color(&BLACK).pos(middle);
        self.area
            .draw(&Text::new(name.to_owned(), (56, self.y), style))?;
        self.y += Self::ROW;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::bench::record::Context;
    use crate::bench::{Times, floor};
    use crate::model::Model;

    /// A record as piano-16k might make it, without measuring.
    fn record() -> Record {
        let mut record = Record::new(&Model::load(Path::new("models/tiny")).unwrap());
        let mut add = |case: &str, isa: &str, us: u64, context: Option<Context>| {
            let ns = (0..20_000).map(|i| us * 1000 + us * 2_000_000 / (i + 1));
            let mut result = CaseResult::new(case, isa, &Times::new(ns.collect()));
            result.x_realtime = result.steps_per_s / 16_000.0;
            result.context = context;
            let work = floor::Work {
                bytes: 1000 * us as usize,
                macs: 1,
                threads: 1,
            };
            result.floor = Some(floor::Floor::new(&work, 1.3, 1.0));
            record.results.push(result);
        };
        add("one-lane", "avx512-vnni", 31, None);
        add("one-lane", "avx2", 73, None);
        add("one-lane", "portable", 880, None);
        add("eight-lanes", "avx512-vnni", 160, None);
        for (i, times) in [1, 4, 16].into_iter().enumerate() {
            let context = Context {
                positions: 65_536 * times,
                dense: false,
            };
            add("context", "avx512-vnni", 31 + 8 * i as u64, Some(context));
        }
        for (window, us) in [(1024, 90), (4096, 400), (16_384, 1800), (65_536, 7400)] {
            let context = Context {
                positions: window,
                dense: true,
            };
            add("dense", "avx512-vnni", us, Some(context));
        }
        record
    }

    /// Colours that a line of many points is drawn in.
    fn curves(svg: &str, n_points: usize) -> BTreeSet<String> {
        let document = roxmltree::Document::parse(svg).unwrap();
        let lines = document
            .descendants()
            .filter(|n| n.has_tag_name("polyline"));
        let long = lines.filter(|line| {
            let points = line.attribute("points").unwrap();
            points.split_whitespace().count() >= n_points
        });
        let colours = long.map(|line| line.attribute("stroke").unwrap().to_owned());
        colours.collect()
    }

    #[test]
    fn the_pictures_hold_a_curve_for_each_case() {
        let record = record();
        let svg = steps(&record).unwrap().unwrap();
        assert_eq!(curves(&svg, 20).len(), 4);
        let named = [
            "one-lane, avx2",
            "eight-lanes, avx512-vnni",
            "step time [µs]",
        ];
        assert!(named.iter().all(|name| svg.contains(name)));
        let svg = context(&record).unwrap().unwrap();
        let colours = curves(&svg, 3);
        let expected = ["#0072B2", "#D55E00"].map(str::to_owned);
        assert!(
            expected.iter().all(|colour| colours.contains(colour)),
            "{colours:?}"
        );
        assert!(svg.contains("context [samples]"));
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let mut record = record();
        record.results.retain(|result| result.context.is_none());
        assert!(context(&record).unwrap().is_none());
        let dir = tempfile::tempdir().unwrap();
        let written = write(&record, &dir.path().join("new")).unwrap();
        assert_eq!(written, [dir.path().join("new/steps.svg")]);
        record.results.clear();
        assert!(steps(&record).unwrap().is_none());
    }

    #[test]
    fn numbers_are_written_as_people_do() {
        let written = [0.001, 0.5, 1.0, 62.5, 1_048_576.0].map(number);
        assert_eq!(written, ["0.001", "0.5", "1", "62", "1,048,576"]);
    }
}
