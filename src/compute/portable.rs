//! Plain loops, in order, no `unsafe`: the twin that every other backend must equal, and the way
//! on a CPU without any of them.

use super::cache::{BLOCKS_PER_SUM, Queries, SLOTS_PER_BLOCK, Slots};
use super::matrix::{Activations, PANEL, Panel, Panels};
use super::{Line, Ops, Plain, Stage};

/// Always available.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable;

impl Ops for Portable {
    const NAME: &'static str = "portable";
    type F = Plain;

    fn run<S: Stage>(self, stage: S) -> S::Out {
        stage.run()
    }

    fn matmul(self, panels: &Panels<'_>, x: &Activations, y: &mut [f32]) {
        for (b, y) in y.chunks_exact_mut(panels.n_out()).enumerate() {
            let (bytes, (scale, zero)) = (x.bytes(b), x.scale(b));
            for panel in panels.iter() {
                let sums = panel_sums(&panel, bytes, zero);
                for (i, (y, sum)) in y[panel.first_row..].iter_mut().zip(sums).enumerate() {
                    let row = &panel.rows[i / 16];
                    let worth = row.scales[i % 16] * scale;
                    *y = (sum as f32).mul_add(worth, row.bias[i % 16]);
                }
            }
        }
    }

    fn scores(self, slots: &Slots<'_>, q: &Queries, scores: &mut [f32]) {
        let n_slots = slots.n_blocks() * SLOTS_PER_BLOCK;
        for (head, scores) in scores.chunks_exact_mut(n_slots).enumerate() {
            let (bytes, scale) = q.head(head);
            let blocks = slots.runs().flatten();
            for (block, scores) in blocks.zip(scores.chunks_exact_mut(SLOTS_PER_BLOCK)) {
                for (slot, score) in scores.iter_mut().enumerate() {
                    let mut sum = 0;
                    for (dim, q) in bytes.iter().enumerate() {
                        let k = block.keys[dim / 4].0[4 * slot + dim % 4];
                        sum += i32::from(*q) * (i32::from(k) - 128);
                    }
                    *score = sum as f32 * (block.scales.keys[slot] * scale);
                }
            }
        }
    }

    fn mix(self, slots: &Slots<'_>, weights: &[u8], units: &[f32], out: &mut [f32]) {
        let n_slots = slots.n_blocks() * SLOTS_PER_BLOCK;
        let head_size = out.len() / units.len();
        for (head, out) in out.chunks_exact_mut(head_size).enumerate() {
            let weights = &weights[head * n_slots..(head + 1) * n_slots];
            for (dim, out) in out.iter_mut().enumerate() {
                let mut total = 0.0;
                let mut sum = 0i32;
                let blocks = slots.runs().flatten();
                for (i, (block, weights)) in blocks.zip(weights.chunks(16)).enumerate() {
                    for (at, weight) in weights.iter().enumerate() {
                        let line = &block.values[dim / 16 * 4 + at / 4];
                        let value = line.0[dim % 16 * 4 + at % 4] as i8;
                        sum += i32::from(value) * i32::from(*weight);
                    }
                    if (i + 1) % BLOCKS_PER_SUM == 0 {
                        total += std::mem::take(&mut sum) as f32;
                    }
                }
                *out = (total + sum as f32) * units[head];
            }
        }
    }

    fn prefetch(self, _lines: &[Line]) {}
}

/// A panel's rows times one vector: four columns after four.
fn panel_sums(panel: &Panel<'_>, x: &[u8], zero: i32) -> [i32; PANEL] {
    let mut sums = [0; PANEL];
    for (lines, x) in panel.lines.iter().zip(x.as_chunks::<4>().0) {
        let x = x.map(|byte| i32::from(byte) - zero);
        let rows = lines.iter().flat_map(|line| line.0.as_chunks::<4>().0);
        for (sum, weights) in sums.iter_mut().zip(rows) {
            *sum += (0..4)
                .map(|j| x[j] * i32::from(weights[j] as i8))
                .sum::<i32>();
        }
    }
    sums
}
