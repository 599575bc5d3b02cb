//! The curves of a training as a picture: bits per sample above, learning rate and gradient below.

use std::ops::Range;

use plotters::prelude::*;

use super::metrics::Metric;
use crate::plot::{self, Area, BLUE, FONT, GREEN, VERMILION};

const SIZE: (u32, u32) = (1000, 680);
/// The part that bits per sample get.
const UPPER: u32 = 460;
/// Ends of an axis that are more than this apart have but the powers of ten between them.
const TICKS_MOST: f64 = 300.0;
/// Points of a curve: more cannot be seen.
const POINTS_MAX: usize = 500;
/// The height of the picture: what a training begins with is of little interest.
const BITS_SHOWN: f64 = 3.0;
/// Right of the curves, where the lower ones have an axis.
const RIGHT: u32 = 64;

type Drawn = Result<(), String>;
type Points = Vec<(f64, f64)>;

/// The picture, or `None` while there is nothing to draw; the error is the library's words.
pub fn draw(lines: &[Metric], title: &str) -> Result<Option<String>, String> {
    let of = |value: fn(&Metric) -> Option<f64>| points(lines, value);
    let (train, valid) = (of(|m| m.bits), of(|m| m.valid_bits));
    let (Some(first), Some(last)) = (train.first(), train.last()) else {
        return Ok(None);
    };
    // A logarithmic axis needs some length.
    let x = first.0..last.0.max(first.0 * 1.1);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(words)?;
        write_titles(&root, title, lines)?;
        let (upper, lower) = root.margin(76, 12, 12, 24).split_vertically(UPPER);
        bits(&upper, &x, &train, &valid)?;
        steps(&lower, &x, &of(|m| m.lr), &of(|m| m.gradient))?;
        root.present().map_err(words)?;
    }
    Ok(Some(svg))
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Samples heard and the value, averaged where lines are too many to be told apart on a
/// logarithmic axis.
fn points(lines: &[Metric], value: fn(&Metric) -> Option<f64>) -> Points {
    let measured = lines
        .iter()
        .filter_map(|line| Some((line.samples as f64, value(line)?)));
    let measured: Points = measured
        .filter(|(x, y)| *x > 0.0 && y.is_finite())
        .collect();
    let (Some(first), Some(last)) = (measured.first(), measured.last()) else {
        return Points::new();
    };
    let octaves = (last.0 / first.0).ln().max(f64::MIN_POSITIVE);
    let bucket = |x: f64| ((x / first.0).ln() / octaves * POINTS_MAX as f64) as usize;
    let same = |a: &(f64, f64), b: &(f64, f64)| bucket(a.0) == bucket(b.0);
    let mean = |points: &[(f64, f64)]| {
        let n = points.len() as f64;
        let sum = points
            .iter()
            .fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
        (sum.0 / n, sum.1 / n)
    };
    measured.chunk_by(same).map(mean).collect()
}

fn write_titles(root: &Area<'_>, title: &str, lines: &[Metric]) -> Drawn {
    let last = |value: fn(&Metric) -> Option<f64>| lines.iter().rev().find_map(value);
    let mut under = lines.last().map_or(String::new(), |line| {
        format!(
            "{} iterations, {:.1} M samples, {:.1} min",
            line.iteration,
            line.samples as f64 / 1e6,
            line.seconds / 60.0
        )
    });
    for (name, bits) in [
        ("training", last(|m| m.bits)),
        ("validation", last(|m| m.valid_bits)),
    ] {
        if let Some(bits) = bits {
            under += &format!("; {name} {bits:.3} bits");
        }
    }
    plot::titles(root, title, &under).map_err(words)
}

/// Bits per sample of training and of validation.
fn bits(area: &Area<'_>, x: &Range<f64>, train: &Points, valid: &Points) -> Drawn {
    let all = || train.iter().chain(valid).map(|point| point.1);
    let least = all().fold(f64::INFINITY, f64::min);
    let most = all().fold(least, f64::max).min(least + BITS_SHOWN);
    let inside = |points: &Points| -> Points {
        let points = points.iter();
        points.map(|point| (point.0, point.1.min(most))).collect()
    };
    let (train, valid) = (inside(train), inside(valid));
    let y = least - 0.1..most + 0.1;
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(28)
        .y_label_area_size(76)
        .margin_right(RIGHT)
        .build_cartesian_2d(x.clone().log_scale().with_key_points(ticks(x)), y)
        .map_err(words)?;
    chart
        .configure_mesh()
        .y_desc("bits per sample")
        .axis_desc_style((FONT, 17))
        .label_style((FONT, 14))
        .x_label_formatter(&|x| millions(*x))
        .y_label_formatter(&|y| format!("{y:.2}"))
        .light_line_style(TRANSPARENT)
        .draw()
        .map_err(words)?;
    let curve = LineSeries::new(train.iter().copied(), BLUE.stroke_width(2));
    chart
        .draw_series(curve)
        .map_err(words)?
        .label("training")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 20, y)], BLUE.stroke_width(2)));
    if !valid.is_empty() {
        let dot = |point: &(f64, f64)| Circle::new(*point, 4, VERMILION.filled());
        chart
            .draw_series(valid.iter().map(dot))
            .map_err(words)?
            .label("validation, averaged weights")
            .legend(|(x, y)| Circle::new((x + 10, y), 4, VERMILION.filled()));
    }
    chart
        .configure_series_labels()
        .label_font((FONT, 15))
        .background_style(WHITE)
        .position(SeriesLabelPosition::UpperRight)
        .draw()
        .map_err(words)
}

/// The learning rate, and the gradient's length by an axis of its own.
fn steps(area: &Area<'_>, x: &Range<f64>, rates: &Points, gradients: &Points) -> Drawn {
    let most = |points: &Points| points.iter().map(|p| p.1).fold(1e-9, f64::max);
    let least = gradients
        .iter()
        .map(|p| p.1)
        .fold(most(gradients), f64::min);
    let lengths = least.max(1e-6) / 1.5..most(gradients).max(2e-6) * 1.5;
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(52)
        .y_label_area_size(76)
        .right_y_label_area_size(RIGHT)
        .build_cartesian_2d(
            x.clone().log_scale().with_key_points(ticks(x)),
            0.0..1.1 * most(rates),
        )
        .map_err(words)?
        .set_secondary_coord(
            x.clone().log_scale(),
            lengths.clone().log_scale().with_key_points(ticks(&lengths)),
        );
    chart
        .configure_mesh()
        .x_desc("samples heard")
        .y_desc("learning rate")
        .axis_desc_style((FONT, 17))
        .label_style((FONT, 14))
        .x_label_formatter(&|x| millions(*x))
        .y_label_formatter(&|y| format!("{y:.4}"))
        .y_labels(4)
        .light_line_style(TRANSPARENT)
        .draw()
        .map_err(words)?;
    chart
        .configure_secondary_axes()
        .y_desc("gradient")
        .axis_desc_style((FONT, 17).into_font().color(&GREEN))
        .label_style((FONT, 14))
        .y_label_formatter(&|y| format!("{y}"))
        .draw()
        .map_err(words)?;
    let thin = LineSeries::new(gradients.iter().copied(), GREEN.stroke_width(1));
    chart.draw_secondary_series(thin).map_err(words)?;
    let thick = LineSeries::new(rates.iter().copied(), BLUE.stroke_width(2));
    chart.draw_series(thick).map_err(words)?;
    Ok(())
}

fn ticks(range: &Range<f64>) -> Vec<f64> {
    plot::ticks(range, TICKS_MOST)
}

/// As a person says it: 65 k, 3.3 M, 12 G.
fn millions(x: f64) -> String {
    let (x, unit) = match x {
        x if x >= 1e9 => (x / 1e9, " G"),
        x if x >= 1e6 => (x / 1e6, " M"),
        x if x >= 1e3 => (x / 1e3, " k"),
        x => (x, ""),
    };
    let digits = format!("{x:.1}");
    format!("{}{unit}", digits.trim_end_matches(".0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(n: u64) -> Vec<Metric> {
        (1..=n)
            .map(|i| Metric {
                iteration: 20 * i,
                samples: 1_000_000 * i,
                seconds: i as f64,
                bits: Some(2.0 + 4.0 / i as f64),
                lr: Some(3e-3),
                gradient: Some(0.7),
                valid_bits: (i % 50 == 0).then_some(2.5),
                ..Metric::default()
            })
            .collect()
    }

    #[test]
    fn a_picture_has_its_curves_and_stays_small() {
        let svg = draw(&lines(100_000), "tiny").unwrap().unwrap();
        roxmltree::Document::parse(&svg).unwrap();
        for word in ["bits per sample", "validation", "learning rate", "2000000"] {
            assert!(svg.contains(word), "{word}");
        }
        assert!(svg.len() < 300_000, "{}", svg.len());
    }

    #[test]
    fn one_line_is_enough_and_none_is_no_picture() {
        assert!(draw(&[], "tiny").unwrap().is_none());
        let svg = draw(&lines(1), "tiny").unwrap().unwrap();
        roxmltree::Document::parse(&svg).unwrap();
        let mut odd = lines(2);
        odd[1].gradient = Some(f64::INFINITY);
        odd[0].lr = None;
        assert!(draw(&odd, "tiny").unwrap().is_some());
    }

    #[test]
    fn amounts_are_said_as_people_do() {
        let said = [500.0, 65_536.0, 3.3e6, 1.2e10].map(millions);
        assert_eq!(said, ["500", "65.5 k", "3.3 M", "12 G"]);
    }
}
