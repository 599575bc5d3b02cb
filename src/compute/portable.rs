//! Plain loops, in order, no `unsafe`: the twin that every other backend must equal, and the way
//! on a CPU without any of them.

use super::cache::{HeadGroup, Queries, value_place};
use super::matrix::{Activations, LINES_PER_QUAD, Matrix, PANEL};
use super::{Line, Ops, SLOTS_PER_BLOCK};

/// Always available.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable;

/// Slots whose weighted values are summed in 32 bits: 256 · 2 · 32767 · 127 < 2³¹.
pub(super) const BLOCKS_PER_SUM: usize = 512 / SLOTS_PER_BLOCK;

impl Ops for Portable {
    const NAME: &'static str = "portable";

    fn matmul(self, matrix: &Matrix, x: &Activations, y: &mut [f32]) {
        let n_out = matrix.n_out();
        for (b, y) in y.chunks_exact_mut(n_out).enumerate() {
            let (bytes, (scale, zero)) = (x.bytes(b), x.scale(b));
            for ((lines, rows), y) in matrix.panels().zip(y.chunks_mut(PANEL)) {
                let sums = panel_sums(lines, bytes, zero);
                for (i, (y, sum)) in y.iter_mut().zip(sums).enumerate() {
                    let row = &rows[i / 16];
                    *y = sum as f32 * (row.scales[i % 16] * scale) + row.bias[i % 16];
                }
            }
        }
    }

    fn scores(self, keys: &HeadGroup<'_>, q: &Queries, scores: &mut [f32]) {
        let n_slots = keys.n_blocks() * SLOTS_PER_BLOCK;
        for (head, scores) in scores.chunks_exact_mut(n_slots).enumerate() {
            let (bytes, scale) = q.head(head);
            for (block, scores) in keys.blocks().zip(scores.chunks_exact_mut(SLOTS_PER_BLOCK)) {
                for (slot, score) in scores.iter_mut().enumerate() {
                    let mut sum = 0;
                    for (dim, q) in bytes.iter().enumerate() {
                        let k = block.keys[dim / 4].0[4 * slot + dim % 4];
                        sum += i32::from(*q) * (i32::from(k) - 128);
                    }
                    *score = sum as f32 * (block.key_scales[slot] * scale);
                }
            }
        }
    }

    fn mix(self, values: &HeadGroup<'_>, weights: &[i16], unit: &[f32], out: &mut [f32]) {
        let n_slots = values.n_blocks() * SLOTS_PER_BLOCK;
        let head_size = out.len() / unit.len();
        for (head, out) in out.chunks_exact_mut(head_size).enumerate() {
            let weights = &weights[head * n_slots..(head + 1) * n_slots];
            for (dim, out) in out.iter_mut().enumerate() {
                let mut total = 0.0;
                let mut sum = 0i32;
                for (i, block) in values.blocks().enumerate() {
                    for at in 0..SLOTS_PER_BLOCK {
                        let (line, byte) = value_place(dim, at);
                        let value = i32::from(block.values.as_flattened()[line].0[byte] as i8);
                        sum += value * i32::from(weights[i * SLOTS_PER_BLOCK + at]);
                    }
                    if (i + 1) % BLOCKS_PER_SUM == 0 {
                        total += std::mem::take(&mut sum) as f32;
                    }
                }
                *out = (total + sum as f32) * unit[head];
            }
        }
    }
}

/// 64 rows times one vector: four columns after four.
fn panel_sums(panel: &[[Line; LINES_PER_QUAD]], x: &[u8], zero: i32) -> [i32; PANEL] {
    let mut sums = [0; PANEL];
    for (lines, x) in panel.iter().zip(x.as_chunks::<4>().0) {
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
