//! Integer kernels on 256-bit vectors. There is no exact 8-bit dot product here (`vpmaddubsw`
//! saturates), so bytes are widened to 16 bits and multiplied by `vpmaddwd`.

use std::arch::x86_64::*;

use super::{load_256, pair};
use crate::compute::Line;
use crate::compute::SLOTS_PER_BLOCK;
use crate::compute::cache::{HeadGroup, Queries};
use crate::compute::matrix::{Activations, LINES_PER_QUAD, Matrix, PANEL};
use crate::compute::portable::BLOCKS_PER_SUM;

/// Sixteen rows at a time: four vectors of four rows, each row as two partial sums.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn matmul(matrix: &Matrix, x: &Activations, y: &mut [f32]) {
    let n_out = matrix.n_out();
    for (i, (lines, rows)) in matrix.panels().enumerate() {
        for (b, y) in y.chunks_exact_mut(n_out).enumerate() {
            let (scale, zero) = x.scale(b);
            for ((r, rows), y) in rows.iter().enumerate().zip(y[i * PANEL..].chunks_mut(16)) {
                let sums = sixteen_rows(lines, r, x.bytes(b));
                for (at, (y, sum)) in y.iter_mut().zip(sums).enumerate() {
                    let sum = sum - zero * rows.sums[at];
                    *y = sum as f32 * (rows.scales[at] * scale) + rows.bias[at];
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn sixteen_rows(panel: &[[Line; LINES_PER_QUAD]], r: usize, x: &[u8]) -> [i32; 16] {
    let mut sums = [_mm256_setzero_si256(); 4];
    for (lines, quad) in panel.iter().zip(x.as_chunks::<4>().0) {
        let x = widen(quad.map(i16::from));
        for (sum, bytes) in sums.iter_mut().zip(quarters(&lines[r])) {
            let products = _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), x);
            *sum = _mm256_add_epi32(*sum, products);
        }
    }
    add_pairs(sums)
}

/// The 16-byte pieces of a line.
#[inline]
#[target_feature(enable = "avx2")]
fn quarters(line: &Line) -> [__m128i; 4] {
    let [low, high] = load_256(line);
    [
        _mm256_castsi256_si128(low),
        _mm256_extracti128_si256::<1>(low),
        _mm256_castsi256_si128(high),
        _mm256_extracti128_si256::<1>(high),
    ]
}

/// Four numbers, repeated.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(quad: [i16; 4]) -> __m256i {
    let [a, b, c, d] = quad.map(|number| u64::from(number as u16));
    _mm256_set1_epi64x((a | b << 16 | c << 32 | d << 48) as i64)
}

/// Neighbouring 32-bit sums added: four vectors of 2 x 4 become sixteen numbers in order.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pairs(sums: [__m256i; 4]) -> [i32; 16] {
    let mut all = [0i32; 32];
    for (sum, out) in sums.iter().zip(all.as_chunks_mut::<8>().0) {
        store(*sum, out);
    }
    std::array::from_fn(|i| all[2 * i] + all[2 * i + 1])
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(vector: __m256i, out: &mut [i32; 8]) {
    // SAFETY: `out` is 32 writable bytes; storeu needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), vector) };
}

/// Sixteen keys at a time, as in [`sixteen_rows`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn scores(keys: &HeadGroup<'_>, q: &Queries, scores: &mut [f32]) {
    let n_slots = keys.n_blocks() * SLOTS_PER_BLOCK;
    for (head, scores) in scores.chunks_exact_mut(n_slots).enumerate() {
        let (bytes, scale) = q.head(head);
        for (block, scores) in keys.blocks().zip(scores.as_chunks_mut::<16>().0) {
            let mut sums = [_mm256_setzero_si256(); 4];
            for (line, quad) in block.keys.iter().zip(bytes.as_chunks::<4>().0) {
                let q = widen(quad.map(i16::from));
                for (sum, bytes) in sums.iter_mut().zip(quarters(line)) {
                    let key = _mm256_sub_epi16(_mm256_cvtepu8_epi16(bytes), _mm256_set1_epi16(128));
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(key, q));
                }
            }
            let sums = add_pairs(sums);
            for ((score, sum), worth) in scores.iter_mut().zip(sums).zip(block.key_scales) {
                *score = sum as f32 * (worth * scale);
            }
        }
    }
}

/// One broadcast of the weights of two slots meets their values in eight dims.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn mix(values: &HeadGroup<'_>, weights: &[i16], unit: &[f32], out: &mut [f32]) {
    let n_slots = values.n_blocks() * SLOTS_PER_BLOCK;
    let head_size = out.len() / unit.len();
    let heads = out
        .chunks_exact_mut(head_size)
        .zip(weights.chunks_exact(n_slots))
        .zip(unit);
    for ((out, weights), unit) in heads {
        for (sixteen, out) in out.chunks_mut(16).enumerate() {
            let mixed = mix_16_dims(values, weights, sixteen);
            for (out, mixed) in out.iter_mut().zip(mixed) {
                *out = mixed * unit;
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix_16_dims(values: &HeadGroup<'_>, weights: &[i16], sixteen: usize) -> [f32; 16] {
    let mut totals = [0.0; 16];
    let mut sums = [_mm256_setzero_si256(); 2];
    for (i, (block, weights)) in values.blocks().zip(weights.as_chunks::<16>().0).enumerate() {
        for (line, weights) in block.values[sixteen].iter().zip(weights.as_chunks::<4>().0) {
            let [a, b, c, d] = quarters(line);
            for (p, eights) in [[a, b], [c, d]].iter().enumerate() {
                let weight = _mm256_set1_epi32(pair([weights[2 * p], weights[2 * p + 1]]));
                for (sum, bytes) in sums.iter_mut().zip(eights) {
                    let products = _mm256_madd_epi16(_mm256_cvtepi8_epi16(*bytes), weight);
                    *sum = _mm256_add_epi32(*sum, products);
                }
            }
        }
        if (i + 1) % BLOCKS_PER_SUM == 0 {
            take(&mut sums, &mut totals);
        }
    }
    take(&mut sums, &mut totals);
    totals
}

/// Adds the sums to the totals, leaving zeros.
#[inline]
#[target_feature(enable = "avx2")]
fn take(sums: &mut [__m256i; 2], totals: &mut [f32; 16]) {
    for (sum, totals) in sums.iter_mut().zip(totals.as_chunks_mut::<8>().0) {
        let mut whole = [0; 8];
        store(std::mem::replace(sum, _mm256_setzero_si256()), &mut whole);
        for (total, sum) in totals.iter_mut().zip(whole) {
            *total += sum as f32;
        }
    }
}
