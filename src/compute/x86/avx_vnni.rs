//! Integer kernels on 256-bit vectors with `vpdpbusd`, for CPUs that have it without AVX-512.

use std::arch::x86_64::*;

use super::{key_offset, load_256, quad, signed_quad};
use crate::compute::cache::{BLOCKS_PER_SUM, Queries, SLOTS_PER_BLOCK, Slots};
use crate::compute::matrix::{Activations, Panel, Panels};

/// Eight 32-bit sums, four times: the rows of a panel.
type PanelSums = [__m256i; 4];

/// One broadcast of four activations meets four columns of 32 rows; two lanes share each load of
/// weights.
#[inline]
#[target_feature(enable = "fma,avx2,avxvnni")]
pub(super) fn matmul(panels: &Panels<'_>, x: &Activations, y: &mut [f32]) {
    let n_out = panels.n_out();
    for panel in panels.iter() {
        for (pair, y) in y.chunks_mut(2 * n_out).enumerate() {
            match y.len() / n_out {
                1 => tile::<1, 2>(&panel, x, 2 * pair, y),
                _ => tile::<2, 1>(&panel, x, 2 * pair, y),
            }
        }
    }
}

/// A panel times `B` lanes from `first` on, each sum in `CHAINS` parts.
#[inline]
#[target_feature(enable = "fma,avx2,avxvnni")]
fn tile<const B: usize, const CHAINS: usize>(
    panel: &Panel<'_>,
    x: &Activations,
    first: usize,
    y: &mut [f32],
) {
    // Not by `from_fn`: a closure is a function without the instructions.
    let mut quads: [&[[u8; 4]]; B] = [&[]; B];
    for (b, quads) in quads.iter_mut().enumerate() {
        *quads = x.bytes(first + b).as_chunks().0;
    }
    let mut sums = [[[_mm256_setzero_si256(); 4]; B]; CHAINS];
    for (at, lines) in panel.lines.iter().enumerate() {
        let [[a, b], [c, d]] = [load_256(&lines[0]), load_256(&lines[1])];
        for (quads, sums) in quads.iter().zip(&mut sums[at % CHAINS]) {
            let x = _mm256_set1_epi32(quad(&quads[at]));
            for (sum, weights) in sums.iter_mut().zip([a, b, c, d]) {
                *sum = _mm256_dpbusd_avx_epi32(*sum, x, weights);
            }
        }
    }
    let n_out = y.len() / B;
    for (b, y) in y.chunks_exact_mut(n_out).enumerate() {
        let mut whole = sums[0][b];
        for chain in &sums[1..] {
            for (sum, part) in whole.iter_mut().zip(chain[b]) {
                *sum = _mm256_add_epi32(*sum, part);
            }
        }
        finish(panel, whole, x.scale(first + b), &mut y[panel.first_row..]);
    }
}

/// The sums of a panel as f32: the zero taken off, scaled, biased.
#[inline]
#[target_feature(enable = "fma,avx2")]
pub(super) fn finish(panel: &Panel<'_>, sums: PanelSums, (scale, zero): (f32, i32), y: &mut [f32]) {
    for (eight, (sum, y)) in sums.into_iter().zip(y.chunks_mut(8)).enumerate() {
        let (rows, from) = (&panel.rows[eight / 2], eight % 2 * 8);
        // SAFETY: eight readable numbers from `from` on; loadu needs no alignment.
        let (row_sums, scales, bias) = unsafe {
            (
                _mm256_loadu_si256(rows.sums[from..].as_ptr().cast()),
                _mm256_loadu_ps(rows.scales[from..].as_ptr()),
                _mm256_loadu_ps(rows.bias[from..].as_ptr()),
            )
        };
        let sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(row_sums, _mm256_set1_epi32(zero)));
        let worth = _mm256_mul_ps(scales, _mm256_set1_ps(scale));
        store_up_to_8(_mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), worth, bias), y);
    }
}

/// One broadcast of four query dims meets the same four dims of sixteen keys.
#[inline]
#[target_feature(enable = "fma,avx2,avxvnni")]
pub(super) fn scores(slots: &Slots<'_>, q: &Queries, scores: &mut [f32]) {
    let n_slots = slots.n_blocks() * SLOTS_PER_BLOCK;
    for (head, scores) in scores.chunks_exact_mut(n_slots).enumerate() {
        let (bytes, scale) = q.head(head);
        let quads: &[[i8; 4]] = bytes.as_chunks().0;
        let offset = _mm256_set1_epi32(-key_offset(bytes));
        let blocks = slots.runs().flatten();
        for (block, scores) in blocks.zip(scores.as_chunks_mut::<SLOTS_PER_BLOCK>().0) {
            let mut sums = [offset; 2];
            for (line, quad) in block.keys.iter().zip(quads) {
                let q = _mm256_set1_epi32(signed_quad(quad));
                for (sum, keys) in sums.iter_mut().zip(load_256(line)) {
                    *sum = _mm256_dpbusd_avx_epi32(*sum, keys, q);
                }
            }
            finish_scores(sums, &block.scales.keys, scale, scores);
        }
    }
}

/// Sixteen sums as scores.
#[inline]
#[target_feature(enable = "fma,avx2")]
pub(super) fn finish_scores(
    sums: [__m256i; 2],
    worth: &[f32; SLOTS_PER_BLOCK],
    scale: f32,
    scores: &mut [f32; SLOTS_PER_BLOCK],
) {
    let halves = worth
        .as_chunks::<8>()
        .0
        .iter()
        .zip(scores.as_chunks_mut::<8>().0);
    for (sum, (worth, scores)) in sums.into_iter().zip(halves) {
        // SAFETY: eight readable f32; loadu needs no alignment.
        let worth = unsafe { _mm256_loadu_ps(worth.as_ptr()) };
        let worth = _mm256_mul_ps(worth, _mm256_set1_ps(scale));
        store(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), worth), scores);
    }
}

/// One broadcast of the weights of four slots meets their values in sixteen dims.
#[inline]
#[target_feature(enable = "fma,avx2,avxvnni")]
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
#[target_feature(enable = "fma,avx2,avxvnni")]
fn mix_16_dims(
    slots: &Slots<'_>,
    weights: &[[u8; SLOTS_PER_BLOCK]],
    sixteen: usize,
) -> [__m256; 2] {
    let mut totals = [_mm256_setzero_ps(); 2];
    let mut sums = [_mm256_setzero_si256(); 2];
    for (i, (block, weights)) in slots.runs().flatten().zip(weights).enumerate() {
        let lines = block.values[4 * sixteen..].iter();
        for (line, weights) in lines.zip(weights.as_chunks::<4>().0) {
            let weight = _mm256_set1_epi32(quad(weights));
            for (sum, values) in sums.iter_mut().zip(load_256(line)) {
                *sum = _mm256_dpbusd_avx_epi32(*sum, weight, values);
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
pub(super) fn take<const N: usize>(sums: &mut [__m256i; N], totals: &mut [__m256; N]) {
    for (sum, total) in sums.iter_mut().zip(totals) {
        let sum = std::mem::replace(sum, _mm256_setzero_si256());
        *total = _mm256_add_ps(*total, _mm256_cvtepi32_ps(sum));
    }
}

/// Stores as many numbers as `out` holds, eight at most.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store_up_to_8(vector: __m256, out: &mut [f32]) {
    match out.first_chunk_mut() {
        Some(out) => store(vector, out),
        None => {
            let mut whole = [0.0; 8];
            store(vector, &mut whole);
            out.copy_from_slice(&whole[..out.len()]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(vector: __m256, out: &mut [f32; 8]) {
    // SAFETY: `out` is eight writable f32; storeu needs no alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), vector) };
}
