//! Plain loops, in order, no `unsafe`: the twin that every other backend must equal, and the way
//! on a CPU without any of them.

use super::cache::{HeadGroup, Queries, value_place};
use super::matrix::{Activations, Matrix};
use super::{Ops, SLOTS_PER_BLOCK};

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
            for (row, y) in y.iter_mut().enumerate() {
                let mut sum = 0;
                for column in 0..matrix.n_columns() {
                    let x = i32::from(bytes[column]) - zero;
                    sum += x * i32::from(matrix.at(row, column));
                }
                *y = sum as f32 * (matrix.scales[row] * scale) + matrix.bias[row];
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
