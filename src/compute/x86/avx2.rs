//! Integer kernels on 256-bit vectors without dot products. What there is, `vpmaddubsw`, adds two
//! products of an unsigned and a signed byte in 16 bits, which 255 · 127 overflows: so the bytes that
//! are broadcast are taken apart into halves of four bits. Their products leave room for some sums, and
//! are put together in 32 bits.

use std::arch::x86_64::*;

use super::avx_vnni::{finish, finish_scores, store_up_to_8, take};
use super::{key_offset, load_256, quad};
use crate::compute::Line;
use crate::compute::cache::{BLOCKS_PER_SUM, Queries, SLOTS_PER_BLOCK, Slots};
use crate::compute::matrix::{Activations, LINES_PER_QUAD, Panel, Panels};

/// Lines whose products with halves of unsigned bytes add up in 16 bits.
const UNSIGNED_AT_ONCE: usize = 8;
/// The same of keys and the halves of queries.
const SIGNED_AT_ONCE: usize = 4;
const _: () = {
    assert!(UNSIGNED_AT_ONCE * 2 * 15 * 127 < 1 << 15);
    assert!(SIGNED_AT_ONCE * 2 * 255 * 15 < 1 << 15);
    // The values of a block are added up at once.
    assert!(SLOTS_PER_BLOCK / 4 <= UNSIGNED_AT_ONCE);
};

/// Numbers, or sums of products with them: of the low four bits and of the high ones.
#[derive(Clone, Copy)]
struct Halves {
    low: __m256i,
    high: __m256i,
}

impl Halves {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn zero() -> Self {
        let zero = _mm256_setzero_si256();
        Self {
            low: zero,
            high: zero,
        }
    }

    /// Four unsigned bytes, repeated.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn of_unsigned(bytes: &[u8; 4]) -> Self {
        let (bytes, mask) = (_mm256_set1_epi32(quad(bytes)), _mm256_set1_epi8(15));
        Self {
            low: _mm256_and_si256(bytes, mask),
            high: _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
        }
    }

    /// Four signed bytes, repeated: the high half has the sign.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn of_signed(bytes: &[i8; 4]) -> Self {
        let Self { low, high } = Self::of_unsigned(&bytes.map(|byte| byte as u8));
        let sign = _mm256_set1_epi8(8);
        let high = _mm256_sub_epi8(_mm256_xor_si256(high, sign), sign);
        Self { low, high }
    }

    /// Adds two neighbouring products, each of unsigned and signed bytes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(&mut self, low: __m256i, high: __m256i) {
        self.low = _mm256_add_epi16(self.low, low);
        self.high = _mm256_add_epi16(self.high, high);
    }

    /// Eight sums in 32 bits.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn whole(self) -> __m256i {
        let low = _mm256_madd_epi16(self.low, _mm256_set1_epi16(1));
        _mm256_add_epi32(low, _mm256_madd_epi16(self.high, _mm256_set1_epi16(16)))
    }
}

/// `sums += products`, of as many vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn put_together<const N: usize>(products: [Halves; N], sums: &mut [__m256i; N]) {
    for (sum, products) in sums.iter_mut().zip(products) {
        *sum = _mm256_add_epi32(*sum, products.whole());
    }
}

/// One broadcast of four activations meets four columns of 32 rows.
#[inline]
#[target_feature(enable = "fma,avx2")]
pub(super) fn matmul(panels: &Panels<'_>, x: &Activations, y: &mut [f32]) {
    let n_out = panels.n_out();
    for panel in panels.iter() {
        for (b, y) in y.chunks_exact_mut(n_out).enumerate() {
            let sums = panel_sums(&panel, x.bytes(b).as_chunks().0);
            finish(&panel, sums, x.scale(b), &mut y[panel.first_row..]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn panel_sums(panel: &Panel<'_>, quads: &[[u8; 4]]) -> [__m256i; 4] {
    let mut sums = [_mm256_setzero_si256(); 4];
    let (lines, lines_left) = panel.lines.as_chunks::<UNSIGNED_AT_ONCE>();
    let (quads, quads_left) = quads.as_chunks::<UNSIGNED_AT_ONCE>();
    for (lines, quads) in lines.iter().zip(quads) {
        add_columns(lines, quads, &mut sums);
    }
    add_columns(lines_left, quads_left, &mut sums);
    sums
}

/// Adds the products of at most [`UNSIGNED_AT_ONCE`] times four columns.
#[inline]
#[target_feature(enable = "avx2")]
fn add_columns(lines: &[[Line; LINES_PER_QUAD]], quads: &[[u8; 4]], sums: &mut [__m256i; 4]) {
    let mut products = [Halves::zero(); 4];
    for (lines, quad) in lines.iter().zip(quads) {
        let x = Halves::of_unsigned(quad);
        let [[a, b], [c, d]] = [load_256(&lines[0]), load_256(&lines[1])];
        for (products, weights) in products.iter_mut().zip([a, b, c, d]) {
            let low = _mm256_maddubs_epi16(x.low, weights);
            products.add(low, _mm256_maddubs_epi16(x.high, weights));
        }
    }
    put_together(products, sums);
}

/// Quads of a query that are taken apart once for all keys.
const QUADS: usize = 8;

/// Sixteen keys at a time.
#[inline]
#[target_feature(enable = "fma,avx2")]
pub(super) fn scores(slots: &Slots<'_>, q: &Queries, scores: &mut [f32]) {
    let n_slots = slots.n_blocks() * SLOTS_PER_BLOCK;
    for (head, scores) in scores.chunks_exact_mut(n_slots).enumerate() {
        let (bytes, scale) = q.head(head);
        let quads: &[[i8; 4]] = bytes.as_chunks().0;
        let mut near = [Halves::zero(); QUADS];
        for (near, quad) in near.iter_mut().zip(quads) {
            *near = Halves::of_signed(quad);
        }
        let near = &near[..quads.len().min(QUADS)];
        let (fours, rest) = near.as_chunks::<SIGNED_AT_ONCE>();
        let offset = _mm256_set1_epi32(-key_offset(bytes));
        let mut scores = scores.as_chunks_mut::<SLOTS_PER_BLOCK>().0.iter_mut();
        for run in slots.runs() {
            for (block, scores) in run.zip(&mut scores) {
                let mut sums = [offset; 2];
                let (lines, lines_left) = block.keys[..near.len()].as_chunks::<SIGNED_AT_ONCE>();
                for (lines, quads) in lines.iter().zip(fours) {
                    add_keys(lines, quads, &mut sums);
                }
                // Heads of 16 and 32 dims leave none.
                if !rest.is_empty() {
                    add_keys(lines_left, rest, &mut sums);
                }
                // Not by `skip`, a function without the instructions: calling it empties the registers.
                if let (Some(lines), Some(quads)) = (block.keys.get(QUADS..), quads.get(QUADS..)) {
                    for (line, quad) in lines.iter().zip(quads) {
                        let quad = Halves::of_signed(quad);
                        add_keys(std::slice::from_ref(line), &[quad], &mut sums);
                    }
                }
                finish_scores(sums, &block.scales.keys, scale, scores);
            }
        }
    }
}

/// Adds the products of at most [`SIGNED_AT_ONCE`] times four dims.
#[inline]
#[target_feature(enable = "avx2")]
fn add_keys(lines: &[Line], quads: &[Halves], sums: &mut [__m256i; 2]) {
    let mut products = [Halves::zero(); 2];
    for (line, q) in lines.iter().zip(quads) {
        for (products, keys) in products.iter_mut().zip(load_256(line)) {
            let low = _mm256_maddubs_epi16(keys, q.low);
            products.add(low, _mm256_maddubs_epi16(keys, q.high));
        }
    }
    put_together(products, sums);
}

/// One broadcast of the weights of four slots meets their values in 32 dims.
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
        let weights = weights.as_chunks().0;
        for (pair, out) in out.chunks_mut(32).enumerate() {
            match out.len() > 16 {
                true => mix_dims::<4>(slots, weights, 2 * pair, *unit, out),
                false => mix_dims::<2>(slots, weights, 2 * pair, *unit, out),
            }
        }
    }
}

/// `E` eights of dims, an even number, from a sixteen on.
#[inline]
#[target_feature(enable = "avx2")]
fn mix_dims<const E: usize>(
    slots: &Slots<'_>,
    weights: &[[u8; SLOTS_PER_BLOCK]],
    sixteen: usize,
    unit: f32,
    out: &mut [f32],
) {
    let mut totals = [_mm256_setzero_ps(); E];
    let mut sums = [_mm256_setzero_si256(); E];
    let mut weights = weights.iter().zip(1..);
    for run in slots.runs() {
        for (block, (weights, n_taken)) in run.zip(&mut weights) {
            let mut products = [Halves::zero(); E];
            // By fours, a number that is known, or the loop would not be unrolled; so above.
            let lines = &block.values.as_chunks::<4>().0[sixteen..sixteen + E / 2];
            for (at, weights) in weights.as_chunks::<4>().0.iter().enumerate() {
                let weights = Halves::of_unsigned(weights);
                for (products, lines) in products.as_chunks_mut::<2>().0.iter_mut().zip(lines) {
                    for (products, values) in products.iter_mut().zip(load_256(&lines[at])) {
                        let low = _mm256_maddubs_epi16(weights.low, values);
                        products.add(low, _mm256_maddubs_epi16(weights.high, values));
                    }
                }
            }
            put_together(products, &mut sums);
            if n_taken % BLOCKS_PER_SUM == 0 {
                take(&mut sums, &mut totals);
            }
        }
    }
    take(&mut sums, &mut totals);
    for (total, out) in totals.into_iter().zip(out.chunks_mut(8)) {
        store_up_to_8(_mm256_mul_ps(total, _mm256_set1_ps(unit)), out);
    }
}
