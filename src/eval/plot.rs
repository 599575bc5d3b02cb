//! Bits per sample against context, as a picture.

use std::fs;
use std::path::{Path, PathBuf};

use plotters::prelude::*;

use super::context::Context;
use crate::files;
use crate::plot::{self, BLUE, FONT, GREEN, VERMILION};

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The directory or the file cannot be written.
    #[error("cannot write {}: {source}; --plot names a directory for a picture", path.display())]
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

const SIZE: (u32, u32) = (1000, 560);
const COLOURS: [RGBColor; 3] = [BLUE, VERMILION, GREEN];

/// Writes `context.svg` into `dir`, which is made if it is missing, and returns its path.
pub fn write(curves: &[Context], model: &str, dir: &Path) -> Result<PathBuf, PlotError> {
    let path = dir.join("context.svg");
    let failed = |source| PlotError::Write {
        path: path.clone(),
        source,
    };
    let svg = draw(curves, model).map_err(|error| PlotError::Draw(error.to_string()))?;
    fs::create_dir_all(dir).map_err(failed)?;
    files::replace(&path, svg.as_bytes()).map_err(failed)?;
    Ok(path)
}

fn draw(curves: &[Context], model: &str) -> Result<String, Box<dyn std::error::Error>> {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let contexts: Vec<f64> = all().map(|point| point.context as f64).collect();
    let ends = |numbers: &mut dyn Iterator<Item = f64>| {
        numbers.fold((f64::INFINITY, 0.0f64), |(low, high), x| {
            (low.min(x), high.max(x))
        })
    };
    let x = ends(&mut contexts.iter().copied());
    let y = ends(&mut all().map(|point| point.bits_per_sample));
    let margin = 0.1 * (y.1 - y.0) + 0.01;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let under = format!("{model}; bars: standard error of the difference to the longest");
        plot::titles(&root, "What context is worth", &under)?;
        let axis = (x.0 / 1.3..x.1 * 1.3).log_scale().with_key_points(contexts);
        let mut chart = ChartBuilder::on(&root.margin(76, 12, 12, 24))
            .x_label_area_size(52)
            .y_label_area_size(76)
            .build_cartesian_2d(axis, y.0 - margin..y.1 + margin)?;
        chart
            .configure_mesh()
            .x_desc("context [samples]")
            .y_desc("bits per sample")
            .axis_desc_style((FONT, 17))
            .label_style((FONT, 14))
            .y_label_formatter(&|y| format!("{y:.3}"))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
            let place = |p: &super::ContextPoint| (p.context as f64, p.bits_per_sample);
            let line = curve.points.iter().map(place);
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(line, style))?
                .label(curve.split.name())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
            let bar = |p: &super::ContextPoint| {
                let ((x, y), e) = (place(p), p.lacking_error);
                PathElement::new([(x, y - e), (x, y + e)], style)
            };
            chart.draw_series(curve.points.iter().map(bar))?;
            let dot = |p: &super::ContextPoint| Circle::new(place(p), 4, colour.filled());
            chart.draw_series(curve.points.iter().map(dot))?;
        }
        chart
            .configure_series_labels()
            .label_font((FONT, 15))
            .background_style(WHITE)
            .position(SeriesLabelPosition::UpperRight)
            .draw()?;
        root.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Split;
    use crate::eval::ContextPoint;

    #[test]
    fn the_picture_holds_a_curve_for_each_split() {
        let point = |context, bits_per_sample| ContextPoint {
            context,
            seconds: 0.0,
            bits_per_sample,
            gain: 0.0,
            gain_error: 0.01,
            lacking: 0.0,
            lacking_error: 0.02,
        };
        let curve = |split, bits| Context {
            split,
            targets: 8,
            block: 256,
            points: vec![point(256, bits + 0.5), point(1_024, bits)],
        };
        let curves = [curve(Split::Valid, 2.0), curve(Split::Test, 2.1)];
        let dir = tempfile::tempdir().unwrap();
        let path = write(&curves, "tiny", &dir.path().join("new")).unwrap();
        let svg = fs::read_to_string(path).unwrap();
        roxmltree::Document::parse(&svg).unwrap();
        for word in ["valid", "test", "context [samples]", "#0072B2", "#D55E00"] {
            assert!(svg.contains(word), "{word}");
        }
    }
}
