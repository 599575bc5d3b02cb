//! The picture of all frequencies over all time, as a PNG.
//!
//! Rows rise by equal steps of the logarithm from 40 Hz to half the rate, columns are the mean of
//! as many frames as make the picture narrow enough. Above it a strip shows the verdicts in the
//! colours of the timeline; faint lines lie at 100 Hz, 1 kHz and 10 kHz.

use std::io;

use plotters::style::RGBColor;
use png::{BitDepth, ColorType, Encoder};

use super::plot::colour_of;
use super::verdict::Verdict;
use crate::sound::{Frames, Spectrum, db};

/// A picture is no wider, however long the sound.
const WIDTH_MAX: u64 = 1_600;
/// A shorter sound's columns are drawn several times over, up to this width.
const WIDTH_MIN: usize = 800;
const HEIGHT: usize = 400;
/// The strip of verdicts, and the line under it.
const STRIP: usize = 12;
const BOTTOM_HZ: f32 = 40.0;
const LINES_HZ: [f32; 3] = [100.0, 1e3, 1e4];
/// Black and white; a bin of the codes' own rounding under loud music has about -87 dBFS.
const RANGE_DBFS: (f32, f32) = (-100.0, -25.0);
/// From quiet to loud: dark to light everywhere, for those who see fewer colours, too.
const STOPS: [[f32; 3]; 5] = [
    [0.0, 0.0, 4.0],
    [65.0, 15.0, 110.0],
    [165.0, 45.0, 95.0],
    [240.0, 130.0, 30.0],
    [252.0, 255.0, 190.0],
];

/// Grows by frames, column by column.
#[derive(Debug)]
pub struct Spectrogram {
    bin_hz: f32,
    frames_per_column: usize,
    frames_per_second: usize,
    n_frames: usize,
    /// The column that is not whole yet.
    sum: Vec<f32>,
    /// Powers in dB, `[n_columns, HEIGHT]`, the lowest frequency first.
    columns: Vec<Vec<f32>>,
    is_wanted: bool,
}

impl Spectrogram {
    /// For a sound of about `n_seconds` seconds; of none if 0.
    pub(super) fn new(spectrum: &Spectrum, n_seconds: u64) -> Self {
        let n_frames = n_seconds * spectrum.frames_per_second() as u64;
        Self {
            bin_hz: spectrum.bin_hz(),
            frames_per_column: n_frames.div_ceil(WIDTH_MAX).max(1) as usize,
            frames_per_second: spectrum.frames_per_second(),
            n_frames: 0,
            sum: vec![0.0; spectrum.n_bins()],
            columns: Vec::new(),
            is_wanted: n_seconds > 0,
        }
    }

    /// Takes in a second.
    pub(super) fn push(&mut self, frames: &Frames) {
        if !self.is_wanted {
            return;
        }
        for frame in frames.iter() {
            for (sum, power) in self.sum.iter_mut().zip(frame) {
                *sum += power;
            }
            self.n_frames += 1;
            if self.n_frames.is_multiple_of(self.frames_per_column) {
                let column = self.column();
                self.columns.push(column);
                self.sum.fill(0.0);
            }
        }
    }

    /// Rows of the frames summed up: the loudest bin of each, the nearest where it has none.
    fn column(&self) -> Vec<f32> {
        let share = 1.0 / self.frames_per_column as f32;
        let top = self.sum.len() - 1;
        let bin = |row: usize| self.row_hz(row as f32) / self.bin_hz;
        let of_row = |row| {
            let (from, to) = (bin(row), bin(row + 1));
            let from = (from.round() as usize).min(top);
            let to = (to.round() as usize).clamp(from + 1, top + 1);
            let loudest = self.sum[from..to].iter().copied().fold(0.0, f32::max);
            db(loudest * share)
        };
        (0..HEIGHT).map(of_row).collect()
    }

    /// The frequency at a height.
    fn row_hz(&self, row: f32) -> f32 {
        let top_hz = self.bin_hz * (self.sum.len() - 1) as f32;
        BOTTOM_HZ * (top_hz / BOTTOM_HZ).powf(row / HEIGHT as f32)
    }

    /// The picture, with the verdicts on its seconds.
    pub fn png(&self, verdicts: &[Vec<Verdict>]) -> io::Result<Vec<u8>> {
        let repeat = (WIDTH_MIN / self.columns.len().max(1)).max(1);
        let width = self.columns.len() * repeat;
        let mut pixels = Vec::with_capacity(3 * width * (HEIGHT + STRIP));
        for row in 0..STRIP {
            for x in 0..width {
                pixels.extend(match row {
                    0..10 => self.strip_colour(x / repeat, verdicts),
                    _ => [255; 3],
                });
            }
        }
        let is_line = |row: usize| {
            let (low, high) = (self.row_hz(row as f32), self.row_hz(row as f32 + 1.0));
            LINES_HZ.iter().any(|hz| (low..high).contains(hz))
        };
        for row in (0..HEIGHT).rev() {
            let veil = if is_line(row) { 0.25 } else { 0.0 };
            for column in &self.columns {
                let colour = colour(column[row], veil);
                pixels.extend(std::iter::repeat_n(colour, repeat).flatten());
            }
        }
        encoded(&pixels, width, HEIGHT + STRIP)
    }

    /// The first verdict of the seconds under a column.
    fn strip_colour(&self, column: usize, verdicts: &[Vec<Verdict>]) -> [u8; 3] {
        let second = |column: usize| column * self.frames_per_column / self.frames_per_second;
        let (from, to) = (second(column), second(column + 1));
        let seconds = verdicts.iter().take(to.max(from + 1)).skip(from);
        let worst = seconds.flatten().min();
        worst.map_or([235; 3], |verdict| {
            let RGBColor(r, g, b) = colour_of(*verdict);
            [r, g, b]
        })
    }
}

fn colour(dbfs: f32, veil: f32) -> [u8; 3] {
    let (low, high) = RANGE_DBFS;
    let at = ((dbfs - low) / (high - low)).clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let i = (at as usize).min(STOPS.len() - 2);
    let part = at - i as f32;
    std::array::from_fn(|c| {
        let plain = STOPS[i][c] * (1.0 - part) + STOPS[i + 1][c] * part;
        (plain + veil * (255.0 - plain)) as u8
    })
}

fn encoded(pixels: &[u8], width: usize, height: usize) -> io::Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(file)
}
