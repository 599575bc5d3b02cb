//! Integer kernels on 512-bit vectors with `vpdpbusd`.
//!
//! Arrays are filled by loops: `array::from_fn` and `map` are functions without the instructions,
//! into which nothing that has them is inlined.

use std::arch::x86_64::*;

use super::{key_offset, load_512, quad, signed_quad};
use crate::compute::Line;
use crate::compute::cache::{BLOCKS_PER_SUM, Queries, SLOTS_PER_BLOCK, Slots};
use crate::compute::matrix::{Activations, LINES_PER_QUAD, Panel, Panels, Rows};

/// One broadcast of four activations meets four columns of 32 rows. Lanes are taken up to eight at
/// a time, so that each line of weights is loaded once for all of them. A lane alone takes two
/// panels at a time, so that each broadcast is loaded once for both.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn matmul(panels: &Panels<'_>, x: &Activations, y: &mut [f32]) {
    let n_out = panels.n_out();
    let n_lanes = y.len() / n_out;
    let mut panels = panels.iter();
    if n_lanes == 1 {
        while let Some(panel) = panels.next() {
            match panels.next() {
                Some(second) => tile::<2, 1, 2>([panel, second], x, 0, y),
                None => tile::<1, 1, 4>([panel], x, 0, y),
            };
        }
        return;
    }
    for panel in panels {
        let mut lane = 0;
        while lane < n_lanes {
            let y = &mut y[lane * n_out..];
            lane += match n_lanes - lane {
                1 => tile::<1, 1, 4>([panel], x, lane, &mut y[..n_out]),
                2 | 3 => tile::<1, 2, 2>([panel], x, lane, &mut y[..2 * n_out]),
                4..8 => tile::<1, 4, 1>([panel], x, lane, &mut y[..4 * n_out]),
                _ => tile::<1, 8, 1>([panel], x, lane, &mut y[..8 * n_out]),
            };
        }
    }
}

/// The sums of `P` panels: for each sixteen rows.
type Sums<const P: usize> = [[__m512i; LINES_PER_QUAD]; P];

/// `P` panels times `B` lanes from `first` on, each sum in `CHAINS` parts that do not wait for each
/// other. Returns `B`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tile<const P: usize, const B: usize, const CHAINS: usize>(
    panels: [Panel<'_>; P],
    x: &Activations,
    first: usize,
    y: &mut [f32],
) -> usize {
    let n_quads = panels[0].lines.len();
    let mut quads: [&[[u8; 4]]; B] = [&[]; B];
    for (b, quads) in quads.iter_mut().enumerate() {
        *quads = &x.bytes(first + b).as_chunks().0[..n_quads];
    }
    let mut lines: [&[[Line; LINES_PER_QUAD]]; P] = [&[]; P];
    for (lines, panel) in lines.iter_mut().zip(&panels) {
        *lines = &panel.lines[..n_quads];
    }
    let mut sums = [[[[_mm512_setzero_si512(); LINES_PER_QUAD]; P]; B]; CHAINS];
    let whole = n_quads / CHAINS * CHAINS;
    for at in (0..whole).step_by(CHAINS) {
        for (chain, sums) in sums.iter_mut().enumerate() {
            accumulate(&lines, &quads, at + chain, sums);
        }
    }
    for at in whole..n_quads {
        accumulate(&lines, &quads, at, &mut sums[0]);
    }
    let n_out = y.len() / B;
    for (b, y) in y.chunks_exact_mut(n_out).enumerate() {
        let scale = x.scale(first + b);
        for (p, panel) in panels.iter().enumerate() {
            let y = y[panel.first_row..].chunks_mut(16);
            for ((r, rows), y) in panel.rows.iter().enumerate().zip(y) {
                let mut sum = sums[0][b][p][r];
                for chain in &sums[1..] {
                    sum = _mm512_add_epi32(sum, chain[b][p][r]);
                }
                store_up_to_16(finish_16(rows, sum, scale), y);
            }
        }
    }
    B
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn accumulate<const P: usize, const B: usize>(
    lines: &[&[[Line; LINES_PER_QUAD]]; P],
    quads: &[&[[u8; 4]]; B],
    at: usize,
    sums: &mut [Sums<P>; B],
) {
    let mut x = [_mm512_setzero_si512(); B];
    for (x, quads) in x.iter_mut().zip(quads) {
        *x = _mm512_set1_epi32(quad(&quads[at]));
    }
    for (p, lines) in lines.iter().enumerate() {
        for (r, line) in lines[at].iter().enumerate() {
            let weights = load_512(line);
            for (sums, x) in sums.iter_mut().zip(x) {
                sums[p][r] = _mm512_dpbusd_epi32(sums[p][r], x, weights);
            }
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
    let mut quads: [&[[i8; 4]]; N] = [&[]; N];
    let mut near = [[_mm512_setzero_si512(); QUADS]; N];
    let mut offsets = [_mm512_setzero_si512(); N];
    let mut scales = [_mm512_setzero_ps(); N];
    for h in 0..N {
        let (bytes, scale) = q.head(first + h);
        quads[h] = bytes.as_chunks().0;
        for (near, quad) in near[h].iter_mut().zip(quads[h]) {
            *near = _mm512_set1_epi32(signed_quad(quad));
        }
        offsets[h] = _mm512_set1_epi32(key_offset(bytes));
        scales[h] = _mm512_set1_ps(scale);
    }
    let n_near = quads[0].len().min(QUADS);
    let n_far = quads[0].len() - n_near;
    let n_blocks = slots.n_blocks();
    let (scores, _) = scores.as_chunks_mut::<SLOTS_PER_BLOCK>();
    let mut i = 0;
    for run in slots.runs() {
        for block in run {
            let mut sums = [_mm512_setzero_si512(); N];
            match block.keys.first_chunk::<QUADS>() {
                Some(keys) => score_quads(keys, &near, &mut sums),
                None => score_quads(&block.keys[..n_near], &near, &mut sums),
            }
            for (at, line) in block.keys.iter().enumerate().skip(QUADS).take(n_far) {
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
                let sum = _mm512_sub_epi32(sums[h], offsets[h]);
                let score = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), worth);
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
    let mut weights_of: [&[[u8; SLOTS_PER_BLOCK]]; N] = [&[]; N];
    for (of_head, weights) in weights_of.iter_mut().zip(weights.chunks_exact(n_slots)) {
        *of_head = weights.as_chunks().0;
    }
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
                    let quads: &[[u8; 4]] = weights_of[h][i].as_chunks().0;
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
