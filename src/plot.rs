//! How pictures look: one font, one grey, colours and ticks for all that draw. Knows nothing of
//! what they show.

use std::io;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;

/// Whatever the reader's machine has.
pub const FONT: &str = "sans-serif";
/// Of what is said beside.
pub const GREY: RGBColor = RGBColor(110, 110, 110);
/// Of lines behind curves.
pub const GRID: RGBColor = RGBColor(225, 225, 225);

// Told apart by those who see fewer colours, too.
/// The first to be used.
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
/// The second, where there are few.
pub const VERMILION: RGBColor = RGBColor(213, 94, 0);
/// The third.
pub const GREEN: RGBColor = RGBColor(0, 158, 115);
/// Light enough to be told from [`VERMILION`].
pub const AMBER: RGBColor = RGBColor(230, 159, 0);
/// For many.
pub const PINK: RGBColor = RGBColor(204, 121, 167);
/// For many.
pub const SKY: RGBColor = RGBColor(86, 180, 233);
/// For many.
pub const VIOLET: RGBColor = RGBColor(120, 94, 240);

/// A picture, or a part of one.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What the library says.
pub type PlotError = DrawingAreaErrorKind<io::Error>;

/// A title and the lines under it, in the upper left corner; with one of those it takes 70 rows, and
/// each further line takes 20 more.
pub fn titles(root: &Area<'_>, title: &str, under: &str) -> Result<(), PlotError> {
    let small = (FONT, 15).into_font().color(&GREY);
    root.draw(&Text::new(title, (24, 18), (FONT, 24).into_font()))?;
    let mut lines = (48..).step_by(20).zip(under.lines());
    lines.try_for_each(|(y, line)| root.draw(&Text::new(line, (24, y), small.clone())))
}

/// Of a logarithmic axis: 1, 2 and 5 times each power of ten, or, where the range's ends are more
/// than `longest` times apart and these would touch, the powers alone.
pub fn ticks(range: &Range<f64>, longest: f64) -> Vec<f64> {
    let is_long = range.end / range.start > longest;
    let told: &[f64] = if is_long { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let decades = range.start.log10().floor() as i32..=range.end.log10().ceil() as i32;
    // Divided, a tenth is 0.1; multiplied, it is not.
    let power = |decade: i32, n: f64| match decade {
        decade if decade < 0 => n / 10f64.powi(-decade),
        decade => n * 10f64.powi(decade),
    };
    let ticks = decades.flat_map(|decade| told.iter().map(move |n| power(decade, *n)));
    ticks.filter(|tick| range.contains(tick)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_stand_where_people_look_for_them() {
        assert_eq!(ticks(&(15.0..120.0), 100.0), [20.0, 50.0, 100.0]);
        assert_eq!(ticks(&(0.09..0.3), 100.0), [0.1, 0.2]);
        let powers = [1.0, 10.0, 100.0, 1000.0, 10_000.0];
        assert_eq!(ticks(&(0.9..20_000.0), 1e4), powers);
    }
}
