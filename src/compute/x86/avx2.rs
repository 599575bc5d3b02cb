//! Integer kernels on 256-bit vectors. There is no exact 8-bit dot product here (`vpmaddubsw`
//! saturates), so bytes are widened to 16 bits and multiplied by `vpmaddwd`, which leaves two
//! halves of each sum to be added in the end.

use std::arch::x86_64::*;

use super::avx_vnni::{finish, finish_scores, store_up_to_8, take};
use super::load_256;
use crate::compute::Line;
use crate::compute::cache::{BLOCKS_PER_SUM, Queries, SLOTS_PER_BLOCK, Slots};
use crate::compute::matrix::{Activations, Panels};

/// Sixteen sums, each in two neighbouring halves.
type Halves = [__m256i; 4];

/// One broadcast of four activations meets four columns of 32 rows.
#[inline]
#[target_feature(enable = "fma,avx2")]
pub(super) fn matmul(panels: &Panels<'_>, x: &Activations, y: &mut [f32]) {
    let n_out = panels.n_out();
    for panel in panels.iter() {
        for (b, y) in y.chunks_exact_mut(n_out).enumerate() {
            let mut halves = [[_mm256_setzero_si256(); 4]; 2];
            for (lines, quad) in panel.lines.iter().zip(x.bytes(b).as_chunks::<4>().0) {
                let x = widen(quad.map(i16::from));
                for (halves, line) in halves.iter_mut().zip(lines) {
                    multiply_add(signed(line), x, halves);
                }
            }
            let [low, high] = halves.map(|halves| add_halves(halves));
            let sums = [low[0], low[1], high[0], high[1]];
            finish(&panel, sums, x.scale(b), &mut y[panel.first_row..]);
        }
    }
}

/// Four products for each sum, two into each half.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply_add(a: Halves, b: __m256i, sums: &mut Halves) {
    for (sum, a) in sums.iter_mut().zip(a) {
        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, b));
    }
}

/// A line's bytes as 16-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn signed(line: &Line) -> [__m256i; 4] {
    quarters(line).map(|bytes| _mm256_cvtepi8_epi16(bytes))
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

/// The sixteen sums in order, eight and eight.
#[inline]
#[target_feature(enable = "avx2")]
fn add_halves([a, b, c, d]: Halves) -> [__m256i; 2] {
    // The horizontal addition takes two vectors by 128-bit halves: their order is mended after it.
    [(a, b), (c, d)]
        .map(|(x, y)| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(x, y)))
}

/// Sixteen keys at a time.
#[inline]
#[target_feature(enable = "fma,avx2")]
pub(super) fn scores(slots: &Slots<'_>, q: &Queries, scores: &mut [f32]) {
    let n_slots = slots.n_blocks() * SLOTS_PER_BLOCK;
    for (head, scores) in scores.chunks_exact_mut(n_slots).enumerate() {
        let (bytes, scale) = q.head(head);
        let blocks = slots.runs().flatten();
        for (block, scores) in blocks.zip(scores.as_chunks_mut::<SLOTS_PER_BLOCK>().0) {
            let mut halves = [_mm256_setzero_si256(); 4];
            for (line, quad) in block.keys.iter().zip(bytes.as_chunks::<4>().0) {
                let keys = quarters(line).map(|bytes| {
                    _mm256_sub_epi16(_mm256_cvtepu8_epi16(bytes), _mm256_set1_epi16(128))
                });
                multiply_add(keys, widen(quad.map(i16::from)), &mut halves);
            }
            finish_scores(add_halves(halves), &block.scales.keys, scale, scores);
        }
    }
}

/// One broadcast of the weights of four slots meets their values in sixteen dims.
#[inline]
#[target_feature(enable = "fma,avx2")]
pub(super) fn mix(slots: &Slots<'_>, weights: &[u8], units: &[f32], out: &mut [f32]) {
    let n_slots = slots.n_blocks() * SLOTS_PER_BLOCK;
    let head_size = out.len() / units.len();
    let heads = out
        .chunks_exact_mut(head_size)
        .zip(weights.chunks_exact(n_slots))
        .zip(units);
    for ((out, weights), unit) in heads {
        for (sixteen, out) in out.chunks_mut(16).enumerate() {
            let totals = mix_16_dims(slots, weights.as_chunks().0, sixteen);
            for (total, out) in totals.into_iter().zip(out.chunks_mut(8)) {
                store_up_to_8(_mm256_mul_ps(total, _mm256_set1_ps(*unit)), out);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix_16_dims(
    slots: &Slots<'_>,
    weights: &[[u8; SLOTS_PER_BLOCK]],
    sixteen: usize,
) -> [__m256; 2] {
    let mut totals = [_mm256_setzero_ps(); 2];
    let mut halves = [_mm256_setzero_si256(); 4];
    for (i, (block, weights)) in slots.runs().flatten().zip(weights).enumerate() {
        let lines = block.values[4 * sixteen..].iter();
        for (line, weights) in lines.zip(weights.as_chunks::<4>().0) {
            multiply_add(signed(line), widen(weights.map(i16::from)), &mut halves);
        }
        if (i + 1) % BLOCKS_PER_SUM == 0 {
            take(&mut add_halves(halves), &mut totals);
            halves = [_mm256_setzero_si256(); 4];
        }
    }
    take(&mut add_halves(halves), &mut totals);
    totals
}
