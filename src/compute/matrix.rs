//! int8 matrices, packed so that one broadcast of four activations feeds 32 rows.

use std::ops::Range;

use super::{Line, Plain, lanewise};

/// Rows that are computed together: two lines of sixteen.
pub(super) const PANEL: usize = 32;
/// Lines that hold the same four columns of a panel.
pub(super) const LINES_PER_QUAD: usize = PANEL / 16;

/// Lines that a product has read by the time that the CPU fetches ahead of it: 4 KiB.
const FORESEEN: usize = 64;

/// An int8 matrix [out, in] with a scale per row, and a bias.
///
/// Packed as `[out / 32][in / 4][2 lines][16 rows][4 columns]`: a product reads it front to back.
/// Rows are filled up to whole panels and columns to whole fours with zeros.
#[derive(Debug)]
pub struct Matrix {
    n_out: usize,
    n_quads: usize,
    lines: Vec<Line>,
    rows: Vec<Rows>,
}

/// Some of a matrix's panels, one after another: what one product computes.
#[derive(Clone, Debug)]
pub struct Panels<'a> {
    matrix: &'a Matrix,
    range: Range<usize>,
}

/// 32 rows, or fewer at the end of a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel<'a> {
    /// Its place in the matrix.
    pub first_row: usize,
    /// [in / 4][2]
    pub lines: &'a [[Line; LINES_PER_QUAD]],
    pub rows: &'a [Rows; LINES_PER_QUAD],
}

/// What turns sixteen integer sums into sixteen numbers.
#[derive(Clone, Debug, Default)]
#[repr(align(64))]
pub(super) struct Rows {
    /// What one step of a row's bytes is worth.
    pub scales: [f32; 16],
    /// The sum of a row's bytes: what the zero of the activations counts.
    pub sums: [i32; 16],
    pub bias: [f32; 16],
}

impl Matrix {
    /// Quantises `weights` [n_out, n_in], each row by its own largest value. `bias` may be empty.
    pub fn pack(weights: &[f32], n_in: usize, bias: &[f32]) -> Self {
        let n_out = weights.len() / n_in;
        let n_rows = n_out.next_multiple_of(PANEL);
        let n_quads = n_in.div_ceil(4);
        let mut packed = Self {
            n_out,
            n_quads,
            lines: vec![Line([0; 64]); n_rows / 16 * n_quads],
            rows: vec![Rows::default(); n_rows / 16],
        };
        for (row, bias) in bias.iter().enumerate() {
            packed.rows[row / 16].bias[row % 16] = *bias;
        }
        let mut bytes = vec![0; n_in];
        for (row, weights) in weights.chunks_exact(n_in).enumerate() {
            let scale = lanewise::quantize::<Plain>(weights, &mut bytes);
            packed.rows[row / 16].scales[row % 16] = scale;
            for (column, byte) in bytes.iter().enumerate() {
                packed.rows[row / 16].sums[row % 16] += i32::from(*byte);
                let (line, at) = packed.place(row, column);
                packed.lines[line].0[at] = *byte as u8;
            }
        }
        packed
    }

    /// Rows without the filling.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// All panels.
    pub fn panels(&self) -> Panels<'_> {
        self.share(0, 1)
    }

    /// The panels that fall to worker `rank` of `n_ranks`: together they are all of them.
    pub fn share(&self, rank: usize, n_ranks: usize) -> Panels<'_> {
        let n = self.rows.len() / LINES_PER_QUAD;
        Panels {
            matrix: self,
            range: rank * n / n_ranks..(rank + 1) * n / n_ranks,
        }
    }

    fn place(&self, row: usize, column: usize) -> (usize, usize) {
        let quad = row / PANEL * self.n_quads + column / 4;
        (
            quad * LINES_PER_QUAD + row % PANEL / 16,
            row % 16 * 4 + column % 4,
        )
    }
}

impl<'a> Panels<'a> {
    /// Rows of the whole matrix: the pitch of a product's output.
    pub fn n_out(&self) -> usize {
        self.matrix.n_out
    }

    /// The rows that these panels compute.
    pub fn rows(&self) -> Range<usize> {
        let end = |panel: usize| (panel * PANEL).min(self.matrix.n_out);
        end(self.range.start)..end(self.range.end)
    }

    /// Their lines, in the order in which a product reads them: for fetching them beforehand.
    pub fn lines(&self) -> &'a [Line] {
        let n = self.matrix.n_quads * LINES_PER_QUAD;
        &self.matrix.lines[self.range.start * n..self.range.end * n]
    }

    /// Where such a product begins: what the CPU cannot foresee, as it does the lines that follow.
    pub fn start(&self) -> &'a [Line] {
        let lines = self.lines();
        &lines[..lines.len().min(FORESEEN)]
    }

    #[inline(always)]
    pub(super) fn iter(&self) -> impl Iterator<Item = Panel<'a>> + use<'a> {
        let lines = self.lines().as_chunks().0;
        let rows = self.matrix.rows.as_chunks().0;
        lines
            .chunks_exact(self.matrix.n_quads)
            .zip(&rows[self.range.clone()])
            .zip(self.range.clone())
            .map(|((lines, rows), index)| Panel {
                first_row: index * PANEL,
                lines,
                rows,
            })
    }
}

/// Quantised vectors of a batch, each with its scale and zero: what a matrix product takes in.
#[derive(Debug)]
pub struct Activations {
    n_columns: usize,
    len: usize,
    bytes: Vec<u8>,
    scales: Vec<(f32, i32)>,
}

impl Activations {
    /// Room for `n_rows` vectors of `len`. No vector is held until it is written.
    pub fn new(n_rows: usize, len: usize) -> Self {
        // Whole fours are read; the weights that the filling meets are zero.
        let n_columns = len.next_multiple_of(4);
        Self {
            n_columns,
            len,
            bytes: vec![0; n_rows * n_columns],
            scales: vec![(0.0, 0); n_rows],
        }
    }

    /// Where to write vector `row`, and its scale and zero: a byte stands for
    /// `scale · (byte − zero)`.
    #[inline(always)]
    pub fn row_mut(&mut self, row: usize) -> (&mut [u8], &mut (f32, i32)) {
        let start = row * self.n_columns;
        (
            &mut self.bytes[start..start + self.len],
            &mut self.scales[row],
        )
    }

    /// The bytes of vector `row`, filled up to whole fours.
    #[inline(always)]
    pub(super) fn bytes(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.n_columns..(row + 1) * self.n_columns]
    }

    /// What one step of vector `row`'s bytes is worth, and the byte of 0.0.
    #[inline(always)]
    pub(super) fn scale(&self, row: usize) -> (f32, i32) {
        self.scales[row]
    }
}
