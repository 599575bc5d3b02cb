//! Integer kernels on 512-bit vectors with `vpdpbusd` and `vpdpwssd`.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{key_offset, load_256, load_512, pair, quad, signed_quad};
use crate::compute::Line;
use crate::compute::SLOTS_PER_BLOCK;
use crate::compute::cache::{HeadGroup, Queries};
use crate::compute::matrix::{Activations, LINES_PER_QUAD, Matrix, PANEL, Panel, Rows};
use crate::compute::portable::BLOCKS_PER_SUM;

/// One broadcast of four activations meets four columns of sixteen rows. Lanes are taken four at a
/// time, so that each line of weights is loaded once for four lanes, from the nearest cache after
/// the first time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn matmul(matrix: &Matrix, x: &Activations, y: &mut [f32]) {
    let n_lanes = y.len() / matrix.n_out();
    let n_out = matrix.n_out();
    for (i, panel) in matrix.panels().enumerate() {
        let mut lane = 0;
        while lane < n_lanes {
            let y = &mut y[lane * n_out..];
            lane += match n_lanes - lane {
                1 => tile::<1, 2>(panel, x, lane, y, i * PANEL..n_out),
                2 | 3 => tile::<2, 1>(panel, x, lane, y, i * PANEL..n_out),
                _ => tile::<4, 1>(panel, x, lane, y, i * PANEL..n_out),
            };
        }
    }
}

/// 64 rows times `B` lanes from `first` on, the sum of each split into `CHAINS` that do not wait
/// for each other. `rows` begins at the panel's first row and ends where a lane of `y` does.
/// Returns `B`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile<const B: usize, const CHAINS: usize>(
    (lines, finish): Panel<'_>,
    x: &Activations,
    first: usize,
    y: &mut [f32],
    rows: Range<usize>,
) -> usize {
    let quads: [&[[u8; 4]]; B] = std::array::from_fn(|b| x.bytes(first + b).as_chunks().0);
    let mut sums = [[[_mm512_setzero_si512(); LINES_PER_QUAD]; B]; CHAINS];
    let whole = lines.len() / CHAINS * CHAINS;
    for at in (0..whole).step_by(CHAINS) {
        for (chain, sums) in sums.iter_mut().enumerate() {
            accumulate(&lines[at + chain], &quads, at + chain, sums);
        }
    }
    for (at, lines) in lines.iter().enumerate().skip(whole) {
        accumulate(lines, &quads, at, &mut sums[0]);
    }
    for b in 0..B {
        let lane = &mut y[b * rows.end..(b + 1) * rows.end][rows.start..];
        for ((r, finish), y) in finish.iter().enumerate().zip(lane.chunks_mut(16)) {
            let mut sum = sums[0][b][r];
            for chain in &sums[1..] {
                sum = _mm512_add_epi32(sum, chain[b][r]);
            }
            let result = finish_16(finish, sum, x.scale(first + b));
            match y.first_chunk_mut() {
                Some(y) => store(result, y),
                None => {
                    let mut whole = [0.0; 16];
                    store(result, &mut whole);
                    y.copy_from_slice(&whole[..y.len()]);
                }
            }
        }
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

/// Sixteen sums as f32: the zero taken off, scaled, biased.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn finish_16(rows: &Rows, sum: __m512i, (scale, zero): (f32, i32)) -> __m512 {
    // SAFETY: each array is 64 readable bytes; loadu needs no alignment.
    let (sums, scales, bias) = unsafe {
        (
            _mm512_loadu_si512(rows.sums.as_ptr().cast()),
            _mm512_loadu_ps(rows.scales.as_ptr()),
            _mm512_loadu_ps(rows.bias.as_ptr()),
        )
    };
    let sum = _mm512_sub_epi32(sum, _mm512_mullo_epi32(sums, _mm512_set1_epi32(zero)));
    let scales = _mm512_mul_ps(scales, _mm512_set1_ps(scale));
    _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scales), bias)
}

/// One broadcast of four query dims meets the same four dims of sixteen keys. Heads are taken two
/// at a time, so that each line of keys is loaded once for both.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn scores(keys: &HeadGroup<'_>, q: &Queries, scores: &mut [f32]) {
    let n_slots = keys.n_blocks() * SLOTS_PER_BLOCK;
    let mut head = 0;
    while head < q.n_heads() {
        head += match q.n_heads() - head {
            1 => score_heads::<1>(keys, q, head, &mut scores[head * n_slots..]),
            _ => score_heads::<2>(keys, q, head, &mut scores[head * n_slots..]),
        };
    }
}

/// The scores of `N` heads from `first` on. Returns `N`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn score_heads<const N: usize>(
    keys: &HeadGroup<'_>,
    q: &Queries,
    first: usize,
    scores: &mut [f32],
) -> usize {
    let heads: [_; N] = std::array::from_fn(|h| q.head(first + h));
    let quads: [&[[i8; 4]]; N] = heads.map(|(bytes, _)| bytes.as_chunks().0);
    let offsets = heads.map(|(bytes, _)| _mm512_set1_epi32(-key_offset(bytes)));
    let scales = heads.map(|(_, scale)| _mm512_set1_ps(scale));
    let n_blocks = keys.n_blocks();
    let scores = scores.as_chunks_mut::<SLOTS_PER_BLOCK>().0;
    for (i, block) in keys.blocks().enumerate() {
        let mut sums = offsets;
        for (at, line) in block.keys.iter().enumerate().take(quads[0].len()) {
            let line = load_512(line);
            for (sum, quads) in sums.iter_mut().zip(quads) {
                let q = _mm512_set1_epi32(signed_quad(&quads[at]));
                *sum = _mm512_dpbusd_epi32(*sum, line, q);
            }
        }
        // SAFETY: `key_scales` is sixteen readable f32; loadu needs no alignment.
        let worth = unsafe { _mm512_loadu_ps(block.key_scales.as_ptr()) };
        for h in 0..N {
            let score = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[h]), _mm512_mul_ps(worth, scales[h]));
            store(score, &mut scores[h * n_blocks + i]);
        }
    }
    N
}

/// One broadcast of the weights of two slots meets their values in sixteen dims. Heads are taken
/// two at a time, so that each value is widened once for both.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn mix(values: &HeadGroup<'_>, weights: &[i16], unit: &[f32], out: &mut [f32]) {
    let n_slots = values.n_blocks() * SLOTS_PER_BLOCK;
    let head_size = out.len() / unit.len();
    let mut head = 0;
    while head < unit.len() {
        let (weights, unit) = (&weights[head * n_slots..], &unit[head..]);
        let out = &mut out[head * head_size..];
        for sixteen in 0..head_size.div_ceil(16) {
            let dims = 16 * sixteen..head_size.min(16 * (sixteen + 1));
            let n_heads = unit.len().min(2);
            let mut mixed = [[0.0; 16]; 2];
            match n_heads {
                1 => mix_16_dims::<1>(values, weights, sixteen, &mut mixed),
                _ => mix_16_dims::<2>(values, weights, sixteen, &mut mixed),
            }
            for (h, mixed) in mixed.iter().enumerate().take(n_heads) {
                let out = &mut out[h * head_size..][dims.clone()];
                for (out, mixed) in out.iter_mut().zip(mixed) {
                    *out = mixed * unit[h];
                }
            }
        }
        head += 2;
    }
}

/// Sixteen dims of the mixed values of `N` heads.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn mix_16_dims<const N: usize>(
    values: &HeadGroup<'_>,
    weights: &[i16],
    sixteen: usize,
    out: &mut [[f32; 16]; 2],
) {
    let n_blocks = values.n_blocks();
    let weights = weights.as_chunks::<SLOTS_PER_BLOCK>().0;
    let mut totals = [_mm512_setzero_ps(); N];
    let mut sums = [[_mm512_setzero_si512(); 2]; N];
    for (i, block) in values.blocks().enumerate() {
        let weights: [&[i16; SLOTS_PER_BLOCK]; N] =
            std::array::from_fn(|h| &weights[h * n_blocks + i]);
        for (quad, line) in block.values[sixteen].iter().enumerate() {
            let pairs_of_slots = load_256(line).map(|half| _mm512_cvtepi8_epi16(half));
            for (weights, sums) in weights.iter().zip(&mut sums) {
                for (p, value) in pairs_of_slots.iter().enumerate() {
                    let weight = pair([weights[4 * quad + 2 * p], weights[4 * quad + 2 * p + 1]]);
                    sums[p] = _mm512_dpwssd_epi32(sums[p], *value, _mm512_set1_epi32(weight));
                }
            }
        }
        if (i + 1) % BLOCKS_PER_SUM == 0 {
            for (total, sums) in totals.iter_mut().zip(&mut sums) {
                *total = _mm512_add_ps(*total, take(sums));
            }
        }
    }
    for ((total, sums), out) in totals.iter().zip(&mut sums).zip(out) {
        store(_mm512_add_ps(*total, take(sums)), out);
    }
}

/// The two sums as one, leaving zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn take(sums: &mut [__m512i; 2]) -> __m512 {
    let [a, b] = std::mem::replace(sums, [_mm512_setzero_si512(); 2]);
    _mm512_cvtepi32_ps(_mm512_add_epi32(a, b))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(vector: __m512, out: &mut [f32; 16]) {
    // SAFETY: `out` is sixteen writable f32; storeu needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), vector) };
}
