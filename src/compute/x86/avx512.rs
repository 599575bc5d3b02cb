//! Integer kernels on 512-bit vectors with `vpdpbusd` and `vpdpwssd`.

use std::arch::x86_64::*;

use super::{key_offset, load_512, pair, quad};
use crate::compute::Line;
use crate::compute::SLOTS_PER_BLOCK;
use crate::compute::cache::HeadGroup;
use crate::compute::matrix::{Activations, LINES_PER_QUAD, Matrix, PANEL};
use crate::compute::portable::BLOCKS_PER_SUM;

/// One broadcast of four activations meets four columns of sixteen rows. Lanes are taken four at a
/// time, so that each line of weights is loaded once for four lanes, from the nearest cache after
/// the first time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn matmul(matrix: &Matrix, x: &Activations, y: &mut [f32]) {
    let n_lanes = y.len() / matrix.n_out();
    for (i, panel) in matrix.panels().enumerate() {
        let mut lane = 0;
        while lane < n_lanes {
            lane += match n_lanes - lane {
                1 => tile::<1, 2>(matrix, i, panel, x, lane, y),
                2 | 3 => tile::<2, 1>(matrix, i, panel, x, lane, y),
                _ => tile::<4, 1>(matrix, i, panel, x, lane, y),
            };
        }
    }
}

/// 64 rows times `B` lanes, the sum of each split into `CHAINS` that do not wait for each other.
/// Returns `B`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile<const B: usize, const CHAINS: usize>(
    matrix: &Matrix,
    i: usize,
    panel: &[[Line; LINES_PER_QUAD]],
    x: &Activations,
    first: usize,
    y: &mut [f32],
) -> usize {
    let quads: [&[[u8; 4]]; B] = std::array::from_fn(|b| x.bytes(first + b).as_chunks().0);
    let mut sums = [[[_mm512_setzero_si512(); LINES_PER_QUAD]; B]; CHAINS];
    let whole = panel.len() / CHAINS * CHAINS;
    for at in (0..whole).step_by(CHAINS) {
        for (chain, sums) in sums.iter_mut().enumerate() {
            accumulate(&panel[at + chain], &quads, at + chain, sums);
        }
    }
    for at in whole..panel.len() {
        accumulate(&panel[at], &quads, at, &mut sums[0]);
    }
    let n_out = matrix.n_out();
    let rows = i * PANEL..n_out.min((i + 1) * PANEL);
    for b in 0..B {
        let start = (first + b) * n_out;
        let mut results = [0.0; PANEL];
        for (r, results) in results.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let mut sum = sums[0][b][r];
            for chain in &sums[1..] {
                sum = _mm512_add_epi32(sum, chain[b][r]);
            }
            finish(matrix, i * PANEL + 16 * r, sum, x.scale(first + b), results);
        }
        y[start + rows.start..start + rows.end].copy_from_slice(&results[..rows.len()]);
    }
    B
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn accumulate<const B: usize>(
    lines: &[Line; LINES_PER_QUAD],
    quads: &[&[[u8; 4]]; B],
    at: usize,
    sums: &mut [[__m512i; LINES_PER_QUAD]; B],
) {
    let weights: [__m512i; LINES_PER_QUAD] = std::array::from_fn(|r| load_512(&lines[r]));
    for (quads, sums) in quads.iter().zip(sums) {
        let x = _mm512_set1_epi32(quad(&quads[at]));
        for (sum, weights) in sums.iter_mut().zip(weights) {
            *sum = _mm512_dpbusd_epi32(*sum, x, weights);
        }
    }
}

/// Sixteen sums from row `row` on, as f32: the zero taken off, scaled, biased.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn finish(
    matrix: &Matrix,
    row: usize,
    sum: __m512i,
    (scale, zero): (f32, i32),
    out: &mut [f32; 16],
) {
    let mut whole = [0; 16];
    // SAFETY: `whole` is 64 writable bytes; storeu needs no alignment.
    unsafe { _mm512_storeu_si512(whole.as_mut_ptr().cast(), sum) };
    for (i, out) in out.iter_mut().enumerate() {
        let sum = whole[i] - zero * matrix.sums[row + i];
        *out = sum as f32 * (matrix.scales[row + i] * scale) + matrix.bias[row + i];
    }
}

/// One broadcast of four query dims meets the same four dims of sixteen keys.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn scores(keys: &HeadGroup<'_>, q: &Activations, scores: &mut [f32]) {
    let n_slots = keys.n_blocks() * SLOTS_PER_BLOCK;
    for (head, scores) in scores.chunks_exact_mut(n_slots).enumerate() {
        let (bytes, (scale, _)) = (q.bytes(head), q.scale(head));
        let quads: &[[u8; 4]] = bytes.as_chunks().0;
        let sign = _mm512_set1_epi8(i8::MIN);
        let offset = _mm512_set1_epi32(-key_offset(bytes));
        for (block, scores) in keys.blocks().zip(scores.as_chunks_mut::<16>().0) {
            let mut sums = [offset, _mm512_setzero_si512()];
            for (i, (line, q)) in block.keys.iter().zip(quads).enumerate() {
                let q = _mm512_xor_si512(_mm512_set1_epi32(quad(q)), sign);
                sums[i % 2] = _mm512_dpbusd_epi32(sums[i % 2], load_512(line), q);
            }
            let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sums[0], sums[1]));
            // SAFETY: `key_scales` is sixteen readable f32, `scores` sixteen writable ones.
            unsafe {
                let worth = _mm512_loadu_ps(block.key_scales.as_ptr());
                let worth = _mm512_mul_ps(worth, _mm512_set1_ps(scale));
                _mm512_storeu_ps(scores.as_mut_ptr(), _mm512_mul_ps(sum, worth));
            }
        }
    }
}

/// One broadcast of the weights of two slots meets their values in sixteen dims.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn mix(values: &HeadGroup<'_>, weights: &[i16], unit: &[f32], out: &mut [f32]) {
    let n_slots = values.n_blocks() * SLOTS_PER_BLOCK;
    let head_size = out.len() / unit.len();
    let heads = out
        .chunks_exact_mut(head_size)
        .zip(weights.chunks_exact(n_slots))
        .zip(unit);
    for ((out, weights), unit) in heads {
        for (sixteen, out) in out.chunks_mut(16).enumerate() {
            let mut mixed = [0.0; 16];
            mix_16_dims(values, weights, sixteen, *unit, &mut mixed);
            out.copy_from_slice(&mixed[..out.len()]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn mix_16_dims(
    values: &HeadGroup<'_>,
    weights: &[i16],
    sixteen: usize,
    unit: f32,
    out: &mut [f32; 16],
) {
    let sixteens_per_pair = values.head_width() / 16;
    let mut total = _mm512_setzero_ps();
    let mut sums = [_mm512_setzero_si512(); 4];
    for (i, (block, weights)) in values.blocks().zip(weights.as_chunks::<16>().0).enumerate() {
        for (p, weights) in weights.as_chunks::<2>().0.iter().enumerate() {
            // 32 bytes: two slots of sixteen dims.
            let half = p * sixteens_per_pair + sixteen;
            let bytes = super::load_256(&block.values[half / 2])[half % 2];
            let value = _mm512_cvtepi8_epi16(bytes);
            let weight = _mm512_set1_epi32(pair(weights));
            sums[p % 4] = _mm512_dpwssd_epi32(sums[p % 4], value, weight);
        }
        if (i + 1) % BLOCKS_PER_SUM == 0 {
            total = _mm512_add_ps(total, take(&mut sums));
        }
    }
    total = _mm512_mul_ps(_mm512_add_ps(total, take(&mut sums)), _mm512_set1_ps(unit));
    // SAFETY: `out` is sixteen writable f32; storeu needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), total) };
}

/// The four sums as one, leaving zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn take(sums: &mut [__m512i; 4]) -> __m512 {
    let [a, b, c, d] = std::mem::replace(sums, [_mm512_setzero_si512(); 4]);
    _mm512_cvtepi32_ps(_mm512_add_epi32(
        _mm512_add_epi32(a, b),
        _mm512_add_epi32(c, d),
    ))
}
