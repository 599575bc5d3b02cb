//! The pictures of the report.

use eyre::{Result, eyre};
use longwave::plot::{self, AMBER, Area, BLUE, FONT, GREEN, GREY, GRID, VERMILION};
use plotters::prelude::*;

use crate::faults::{Fault, Kind};
use crate::record::{Record, Sample};
use crate::verdict::HEALING_MAX_S;

const SIZE: (u32, u32) = (1000, 420);

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// What is drawn over the minutes of the soak.
struct Chart<'a> {
    title: &'static str,
    unit: &'static str,
    curves: &'a [Curve],
    /// Begins at nothing; else just below what there is, so that what moves little is seen to move.
    begins_at_0: bool,
}

/// A curve over the minutes of the soak.
struct Curve {
    name: &'static str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// File names and what belongs in them.
pub fn all(record: &Record) -> Result<Vec<(&'static str, String)>> {
    let over_time = |name, colour, of: fn(&Sample) -> f64| Curve {
        name,
        colour,
        points: record
            .samples
            .iter()
            .map(|s| (s.at_s / 60.0, of(s)))
            .collect(),
    };
    let memory = Chart {
        title: "Memory",
        unit: "MiB",
        curves: &[over_time("resident", BLUE, |s| s.rss_kib as f64 / 1024.0)],
        begins_at_0: false,
    };
    let descriptors = Chart {
        title: "Descriptors and threads",
        unit: "number",
        curves: &[
            over_time("descriptors", BLUE, |s| s.n_descriptors as f64),
            over_time("listeners", AMBER, |s| s.figures.listeners as f64),
            over_time("threads", GREEN, |s| s.n_threads as f64),
        ],
        begins_at_0: true,
    };
    let losses = Chart {
        title: "Counted at the card",
        unit: "sum since the start",
        curves: &[
            over_time("underruns", BLUE, |s| s.figures.underruns as f64),
            over_time("xruns", VERMILION, |s| s.figures.xruns as f64),
            over_time("opened anew", GREEN, |s| s.figures.rebuilds as f64),
        ],
        begins_at_0: true,
    };
    Ok(vec![
        ("memory.svg", svg(|root| memory.draw(root, record))?),
        (
            "descriptors.svg",
            svg(|root| descriptors.draw(root, record))?,
        ),
        ("underruns.svg", svg(|root| losses.draw(root, record))?),
        ("healing.svg", svg(|root| healing(root, record))?),
    ])
}

fn svg(draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let drawn = root.fill(&WHITE).map_err(Into::into);
        let drawn = drawn.and_then(|()| draw(&root));
        let drawn = drawn.and_then(|()| Ok(root.present()?));
        drawn.map_err(|error| eyre!("cannot draw: {error}"))?;
    }
    Ok(svg)
}

impl Chart<'_> {
    /// Faults are grey bars behind the curves.
    fn draw(&self, root: &Area<'_>, record: &Record) -> Drawn {
        plot::titles(root, self.title, "grey: a fault, until it had healed")?;
        let values = || {
            self.curves
                .iter()
                .flat_map(|curve| &curve.points)
                .map(|point| point.1)
        };
        // Room for the legend above.
        let (bottom, top) = match self.begins_at_0 {
            true => (0.0, 1.4 * values().fold(1.0, f64::max)),
            false => (
                0.95 * values().fold(f64::INFINITY, f64::min),
                1.05 * values().fold(1.0, f64::max),
            ),
        };
        let mut chart = ChartBuilder::on(&root.margin(76, 12, 12, 24))
            .x_label_area_size(52)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..record.seconds / 60.0, bottom..top)?;
        chart
            .configure_mesh()
            .x_desc("minutes")
            .y_desc(self.unit)
            .axis_desc_style((FONT, 17))
            .label_style((FONT, 14))
            .y_label_formatter(&|y| format!("{}", (y * 10.0).round() / 10.0))
            .x_label_formatter(&|x| format!("{x:.0}"))
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .draw()?;
        let bar = |fault: &Fault| {
            let healed_s = fault.end_s + fault.healing_s.unwrap_or(0.0);
            let corners = [(fault.begin_s / 60.0, bottom), (healed_s / 60.0, top)];
            Rectangle::new(corners, GREY.mix(0.25).filled())
        };
        chart.draw_series(record.faults.iter().map(bar))?;
        for curve in self.curves {
            let style = curve.colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), style))?
                .label(curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
        }
        chart
            .configure_series_labels()
            .label_font((FONT, 15))
            .background_style(WHITE)
            .position(SeriesLabelPosition::UpperRight)
            .draw()?;
        Ok(())
    }
}

/// A dot for each fault, in a column for its kind.
fn healing(root: &Area<'_>, record: &Record) -> Drawn {
    let under = "a dot: from a fault's end until the card played again; the line: what is allowed";
    plot::titles(root, "Healing", under)?;
    let healed = || record.faults.iter().filter_map(|fault| fault.healing_s);
    let top = 1.1 * healed().fold(HEALING_MAX_S, f64::max);
    let n_kinds = Kind::ALL.len();
    let mut chart = ChartBuilder::on(&root.margin(76, 12, 12, 24))
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.5..n_kinds as f64 - 0.5, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_desc("seconds")
        .axis_desc_style((FONT, 17))
        .label_style((FONT, 14))
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .draw()?;
    let limit = [(-0.5, HEALING_MAX_S), (n_kinds as f64 - 0.5, HEALING_MAX_S)];
    chart.draw_series([PathElement::new(limit, VERMILION.stroke_width(2))])?;
    for (column, kind) in Kind::ALL.into_iter().enumerate() {
        let faults: Vec<_> = record.faults.iter().filter(|f| f.kind == kind).collect();
        // Beside each other, in the order they came, or dots would hide dots.
        let step = 0.7 / faults.len().max(1) as f64;
        let place = |at: usize| column as f64 - 0.35 + step * (at as f64 + 0.5);
        let dots = faults.iter().enumerate().filter_map(|(at, fault)| {
            let seconds = fault.healing_s?;
            Some(Circle::new((place(at), seconds), 4, BLUE.filled()))
        });
        chart.draw_series(dots)?;
        let (x, y) = chart.backend_coord(&(column as f64, 0.0));
        let style = (FONT, 15).into_font().into_text_style(root);
        let style = style.pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Center,
            plotters::style::text_anchor::VPos::Top,
        ));
        root.draw(&Text::new(kind.name(), (x, y + 10), style))?;
    }
    Ok(())
}
