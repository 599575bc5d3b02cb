//! Integer kernels on 512-bit vectors with `vpdpbusd`.

use std::arch::x86_64::*;

use super::{key_offset, load_512, quad, signed_quad};
use crate::compute::Line;
use crate::compute::cache::{BLOCKS_PER_SUM, Queries, SLOTS_PER_BLOCK, Slots};
use crate::compute::matrix::{Activations, LINES_PER_QUAD, Panel, Panels, Rows};

/// One broadcast of four activations meets four columns of 32 rows. Lanes are taken up to eight at
/// a time, so that each line of weights is loaded once for all of them; a lane alone has its sums
/// split into chains that do not wait for each other.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn matmul(panels: &Panels<'_>, x: &Activations, y: &mut [f32]) {
    let n_out = panels.n_out();
    let n_lanes = y.len() / n_out;
    for panel in panels.iter() {
        let mut lane = 0;
        while lane < n_lanes {
            let y = &mut y[lane * n_out..];
            lane += match n_lanes - lane {
                1 => tile::<1, 4>(&panel, x, lane, y, n_out),
                2 | 3 => tile::<2, 2>(&panel, x, lane, y, n_out),
                4..8 => tile::<4, 1>(&panel, x, lane, y, n_out),
                _ => tile::<8, 1>(&panel, x, lane, y, n_out),
            };
        }
    }
}

/// A panel times `B` lanes from `first` on, each sum in `CHAINS` parts. Returns `B`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile<const B: usize, const CHAINS: usize>(
    panel: &Panel<'_>,
    x: &Activations,
    first: usize,
    y: &mut [f32],
    n_out: usize,
) -> usize {
    let quads: [&[[u8; 4]]; B] = std::array::from_fn(|b| {
        let quads = x.bytes(first + b).as_chunks().0;
        &quads[..panel.lines.len()]
    });
    let mut sums = [[[_mm512_setzero_si512(); LINES_PER_QUAD]; B]; CHAINS];
    let (groups, rest) = panel.lines.as_chunks::<CHAINS>();
    for (i, group) in groups.iter().enumerate() {
        for (chain, (lines, sums)) in group.iter().zip(&mut sums).enumerate() {
            accumulate(lines, &quads, i * CHAINS + chain, sums);
        }
    }
    for (i, lines) in rest.iter().enumerate() {
        accumulate(lines, &quads, groups.len() * CHAINS + i, &mut sums[0]);
    }
    for b in 0..B {
        let scale = x.scale(first + b);
        let y = &mut y[b * n_out..(b + 1) * n_out][panel.first_row..];
        for ((r, rows), y) in panel.rows.iter().enumerate().zip(y.chunks_mut(16)) {
            let sum = sums[1..].iter().fold(sums[0][b][r], |sum, chain| {
                _mm512_add_epi32(sum, chain[b][r])
            });
            store_up_to_16(finish_16(rows, sum, scale), y);
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
    let worth = _mm512_mul_ps(scales, _mm512_set1_ps(scale));
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), worth, bias)
}

/// The query dims that one pass over the keys holds in registers.
const QUADS: usize = 8;

/// One broadcast of four query dims meets the same four dims of sixteen keys. Heads are taken two
/// at a time, so that each line of keys is loaded once for both.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn scores(slots: &Slots<'_>, q: &Queries, scores: &mut [f32]) {
    let n_slots = slots.n_blocks() * SLOTS_PER_BLOCK;
    let mut head = 0;
    while head < q.n_heads() {
        head += match q.n_heads() - head {
            1 => score_heads::<1>(slots, q, head, &mut scores[head * n_slots..]),
            _ => score_heads::<2>(slots, q, head, &mut scores[head * n_slots..]),
        };
    }
}

/// The scores of `N` heads from `first` on. Returns `N`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn score_heads<const N: usize>(
    slots: &Slots<'_>,
    q: &Queries,
    first: usize,
    scores: &mut [f32],
) -> usize {
    let heads: [_; N] = std::array::from_fn(|h| q.head(first + h));
    let quads: [&[[i8; 4]]; N] = heads.map(|(bytes, _)| bytes.as_chunks().0);
    let (start, rest) = quads[0].split_at(quads[0].len().min(QUADS));
    let near: [[__m512i; QUADS]; N] = std::array::from_fn(|h| {
        std::array::from_fn(|at| match at < start.len() {
            true => _mm512_set1_epi32(signed_quad(&quads[h][at])),
            false => _mm512_setzero_si512(),
        })
    });
    let offsets = heads.map(|(bytes, _)| _mm512_set1_epi32(-key_offset(bytes)));
    let scales = heads.map(|(_, scale)| _mm512_set1_ps(scale));
    let n_blocks = slots.n_blocks();
    let (scores, _) = scores.as_chunks_mut::<SLOTS_PER_BLOCK>();
    let mut i = 0;
    for run in slots.runs() {
        for block in run {
            let mut sums = offsets;
            match block.keys.first_chunk::<QUADS>() {
                Some(keys) => score_quads(keys, &near, &mut sums),
                None => score_quads(&block.keys[..start.len()], &near, &mut sums),
            }
            for (at, line) in block.keys.iter().enumerate().skip(QUADS).take(rest.len()) {
                let line = load_512(line);
                for (sum, quads) in sums.iter_mut().zip(quads) {
                    let q = _mm512_set1_epi32(signed_quad(&quads[at]));
                    *sum = _mm512_dpbusd_epi32(*sum, line, q);
                }
            }
            // SAFETY: sixteen readable f32; loadu needs no alignment.
            let worth = unsafe { _mm512_loadu_ps(block.scales.keys.as_ptr()) };
            for h in 0..N {
                let worth = _mm512_mul_ps(worth, scales[h]);
                let score = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[h]), worth);
                store(score, &mut scores[h * n_blocks + i]);
            }
            i += 1;
        }
    }
    N
}

/// Adds the products of some keys' lines with the same dims of the queries.
#[inline(always)]
fn score_quads<const N: usize>(
    keys: &[Line],
    quads: &[[__m512i; QUADS]; N],
    sums: &mut [__m512i; N],
) {
    for (at, line) in keys.iter().enumerate() {
        // SAFETY: inlined into `score_heads`, whose caller has the proof.
        unsafe {
            let line = load_512(line);
            for (sum, quads) in sums.iter_mut().zip(quads) {
                *sum = _mm512_dpbusd_epi32(*sum, line, quads[at]);
            }
        }
    }
}

/// One broadcast of the weights of four slots meets their values in sixteen dims. Heads and
/// sixteens of dims are taken two at a time, so that each value and each weight is loaded once for
/// both.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn mix(slots: &Slots<'_>, weights: &[u8], units: &[f32], out: &mut [f32]) {
    let n_slots = slots.n_blocks() * SLOTS_PER_BLOCK;
    let head_size = out.len() / units.len();
    let pairs = out.chunks_mut(2 * head_size).zip(units.chunks(2));
    for ((out, units), weights) in pairs.zip(weights.chunks(2 * n_slots)) {
        for dim in (0..head_size).step_by(32) {
            match (units.len(), head_size - dim) {
                (1, 17..) => mix_dims::<1, 2>(slots, weights, dim, units, out),
                (1, _) => mix_dims::<1, 1>(slots, weights, dim, units, out),
                (_, 17..) => mix_dims::<2, 2>(slots, weights, dim, units, out),
                (_, _) => mix_dims::<2, 1>(slots, weights, dim, units, out),
            }
        }
    }
}

/// Up to `S` sixteens of dims, from `dim` on, of the mixed values of `N` heads.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn mix_dims<const N: usize, const S: usize>(
    slots: &Slots<'_>,
    weights: &[u8],
    dim: usize,
    units: &[f32],
    out: &mut [f32],
) {
    let n_slots = weights.len() / N;
    let weights: [&[[u8; SLOTS_PER_BLOCK]]; N] =
        std::array::from_fn(|h| weights[h * n_slots..(h + 1) * n_slots].as_chunks().0);
    let mut totals = [[_mm512_setzero_ps(); S]; N];
    // Two chains, so that neighbouring quads of slots do not wait for each other.
    let mut sums = [[[_mm512_setzero_si512(); S]; N]; 2];
    let mut i = 0;
    for run in slots.runs() {
        for block in run {
            let values = &block.values[dim / 4..dim / 4 + 4 * S];
            for quad_of_slots in 0..4 {
                let sums = &mut sums[quad_of_slots % 2];
                for h in 0..N {
                    let quads: &[[u8; 4]] = weights[h][i].as_chunks().0;
                    let weight = _mm512_set1_epi32(quad(&quads[quad_of_slots]));
                    for s in 0..S {
                        let value = load_512(&values[4 * s + quad_of_slots]);
                        sums[h][s] = _mm512_dpbusd_epi32(sums[h][s], weight, value);
                    }
                }
            }
            i += 1;
            if i % BLOCKS_PER_SUM == 0 {
                take(&mut sums, &mut totals);
            }
        }
    }
    take(&mut sums, &mut totals);
    let head_size = out.len() / N;
    for (h, out) in out.chunks_mut(head_size).enumerate() {
        let unit = _mm512_set1_ps(units[h]);
        for (s, out) in out[dim..].chunks_mut(16).take(S).enumerate() {
            store_up_to_16(_mm512_mul_ps(totals[h][s], unit), out);
        }
    }
}

/// Adds both chains of sums to the totals, leaving zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn take<const N: usize, const S: usize>(
    sums: &mut [[[__m512i; S]; N]; 2],
    totals: &mut [[__m512; S]; N],
) {
    for h in 0..N {
        for s in 0..S {
            let sum = _mm512_add_epi32(sums[0][h][s], sums[1][h][s]);
            totals[h][s] = _mm512_add_ps(totals[h][s], _mm512_cvtepi32_ps(sum));
        }
    }
    *sums = [[[_mm512_setzero_si512(); S]; N]; 2];
}

/// Stores as many numbers as `out` holds, sixteen at most.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store_up_to_16(vector: __m512, out: &mut [f32]) {
    match out.first_chunk_mut() {
        Some(out) => store(vector, out),
        None => {
            let mut whole = [0.0; 16];
            store(vector, &mut whole);
            out.copy_from_slice(&whole[..out.len()]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(vector: __m512, out: &mut [f32; 16]) {
    // SAFETY: `out` is sixteen writable f32; storeu needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), vector) };
}
