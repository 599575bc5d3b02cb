//! Who sees whom, as a picture: queries downwards, keys to the right, dark where one sees the other.

use plotters::prelude::*;

use crate::model::Head;
use crate::model::pattern::{Hasher, Held};
use crate::plot::{self, Area, BLUE, FONT, GREY, GRID};

/// A pattern and what stands above it.
#[derive(Debug)]
pub struct Panel<'a> {
    /// What it is.
    pub title: String,
    /// What is drawn.
    pub head: &'a Head,
}

/// The drawing library gave up.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw: {0}")]
pub struct PictureError(String);

impl From<plot::PlotError> for PictureError {
    fn from(error: plot::PlotError) -> Self {
        Self(error.to_string())
    }
}

/// Cells of a panel, each way: as many positions, where that is enough.
const CELLS: usize = 96;
/// Panels beside each other.
const COLUMNS: usize = 3;
/// Of a cell, of the room around a panel, and of the title above all, in pixels.
const CELL: u32 = 3;
const MARGIN: u32 = 26;
const HEAD: u32 = 76;
/// How wide the title is at least.
const TITLE: u32 = 540;
/// Queries of a cell that are asked what they see.
const ASKED: u64 = 8;
/// What a panel shows at most: beyond, a cell is so many positions that nothing is seen in it.
const MOST_POSITIONS: u64 = 1 << 17;

/// An SVG with a panel for each pattern, from the start of a stream to where it has been sliding for a
/// while, if it does not reach too far for that.
pub fn draw(title: &str, panels: &[Panel<'_>]) -> Result<String, PictureError> {
    let side = CELL * CELLS as u32 + MARGIN;
    let columns = panels.len().clamp(1, COLUMNS) as u32;
    let rows = panels.len().div_ceil(COLUMNS) as u32;
    let size = (
        (columns * side + MARGIN).max(TITLE),
        HEAD + rows * (side + MARGIN),
    );
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let under = "each row a query, each column a key; the darker, the more of a cell is seen";
        plot::titles(&root, title, under)?;
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (column, row)));
        for (panel, (column, row)) in panels.iter().zip(places) {
            let corner = (MARGIN + column * side, HEAD + row * (side + MARGIN));
            draw_panel(&root, panel, (corner.0 as i32, corner.1 as i32))?;
        }
        root.present()?;
    }
    Ok(svg)
}

fn draw_panel(root: &Area<'_>, panel: &Panel<'_>, (x, y): (i32, i32)) -> Result<(), PictureError> {
    let span = (panel.head.reach() * 2).clamp(CELLS as u64, MOST_POSITIONS);
    let per_cell = span.div_ceil(CELLS as u64);
    let cell = CELL as i32;
    let mut said = format!("{}; {} positions", panel.title, per_cell * CELLS as u64);
    if matches!(panel.head, Head::Hashed(_)) {
        said += " of a made-up melody";
    }
    root.draw(&Text::new(
        said,
        (x, y),
        (FONT, 13).into_font().color(&GREY),
    ))?;
    let top = y + MARGIN as i32 - 6;
    let square =
        |from: (i32, i32), to: (i32, i32)| [(x + from.0, top + from.1), (x + to.0, top + to.1)];
    let all = cell * CELLS as i32;
    root.draw(&Rectangle::new(
        square((0, 0), (all, all)),
        GRID.stroke_width(1),
    ))?;
    for (row, shares) in shares(panel.head, per_cell).iter().enumerate() {
        let down = row as i32 * cell;
        for (first, n, share) in runs(shares) {
            let across = [first as i32 * cell, (first + n) as i32 * cell];
            let place = square((across[0], down), (across[1], down + cell));
            // What is seldom seen is seen all the same.
            let style = BLUE.mix(0.2 + 0.8 * share).filled();
            root.draw(&Rectangle::new(place, style))?;
        }
    }
    Ok(())
}

/// For each cell, which share of its pairs see each other.
fn shares(head: &Head, per_cell: u64) -> Vec<[f64; CELLS]> {
    let mut counts = vec![[0u64; CELLS]; CELLS];
    // Of many queries of a cell some, spread over it.
    let n_asked = per_cell.min(ASKED);
    let is_asked = |query: u64| query % per_cell * n_asked % per_cell < n_asked;
    let mut note = |query: u64, key: u64| {
        if is_asked(query) {
            counts[(query / per_cell) as usize][(key / per_cell) as usize] += 1;
        }
    };
    let queries = 0..per_cell * CELLS as u64;
    match head {
        Head::Placed(pattern) => {
            let mut held = Held::new(pattern.as_ref());
            for query in queries {
                held.write(query);
                if is_asked(query) {
                    held.seen(query, &mut |key| note(query, key));
                }
            }
        }
        Head::Hashed(of) => {
            let (hasher, mut rings) = (Hasher::new(of, MADE_UP), of.rings());
            for query in queries.clone() {
                let buckets = hasher.sort(&made_up(query, queries.end));
                of.advance(&mut rings, query, &buckets, &mut |key| note(query, key));
            }
        }
    }
    let pairs = (n_asked * per_cell) as f64;
    let share = |count| count as f64 / pairs;
    counts.into_iter().map(|row| row.map(share)).collect()
}

/// Numbers of a made-up key.
const MADE_UP: usize = 16;

/// A key of a melody of a few notes that come back, each as long as the others, for patterns that must
/// hear something: what turns while a note lasts, and what tells it from the others.
fn made_up(position: u64, of: u64) -> [f32; MADE_UP] {
    const NOTES: [f32; 12] = [0., 1., 2., 0., 3., 1., 0., 2., 4., 0., 1., 2.];
    let at = position as f32 / of as f32 * NOTES.len() as f32;
    let note = NOTES[(at as usize).min(NOTES.len() - 1)];
    std::array::from_fn(|i| {
        let own = (note * (i * i + 3) as f32).cos();
        own + 0.5 * (position as f32 * (1.0 + note) * 0.1 + i as f32).cos()
    })
}

/// Cells beside each other that look alike and show something: (first, how many, share).
fn runs(shares: &[f64; CELLS]) -> Vec<(usize, usize, f64)> {
    let alike = shares.chunk_by(|a, b| a == b);
    let firsts = alike.clone().scan(0, |at, run| {
        *at += run.len();
        Some(*at - run.len())
    });
    let runs = firsts
        .zip(alike)
        .map(|(first, run)| (first, run.len(), run[0]));
    runs.filter(|(_, _, share)| *share > 0.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layer;
    use crate::model::pattern::Defaults;
    use serde_json::json;

    #[test]
    fn a_panel_has_the_cells_that_are_seen() {
        let reach = Defaults {
            stride: 8,
            context: 48,
        };
        let entry =
            json!({"kind": "global", "anchors": 2, "beside": {"kind": "local", "window": 3}});
        let layer = Layer::parse(&entry, &reach, 1).unwrap();
        let shares = shares(layer.head(0), 1);
        for (query, row) in shares.iter().enumerate() {
            for (key, share) in row.iter().enumerate() {
                let sees = layer.placed(1).unwrap()[0].sees(query as u64, key as u64);
                assert_eq!(*share, f64::from(u8::from(sees)), "{query} {key}");
            }
        }
        assert_eq!(runs(&shares[50]), [(0, 2, 1.0), (48, 3, 1.0)]);
        let title = "anchors".to_owned();
        let head = layer.head(0);
        let svg = draw("one", &[Panel { title, head }]).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let n = document.descendants().filter(|n| n.has_tag_name("rect"));
        // The paper, the frame, and in most rows two pieces.
        assert!((180..200).contains(&n.count()));
    }
}
