//! NEON with the 8-bit dot products, which most 64-bit ARM processors have ("dotprod", Armv8.2).
//!
//! The type is the proof that its instructions are there: only `detect` builds one. The rest of
//! NEON belongs to every 64-bit ARM: the float stages need no proof, and no compiling of their own.
//!
//! `sdot` takes signed bytes only. Where one factor is unsigned, its top bit is flipped, which
//! takes 128 off, and what that changed is put back once for the whole sum.
#![allow(unsafe_code)] // The intrinsics: see the SAFETY line at each use.

mod sixteen;

use std::arch::aarch64::*;
use std::arch::asm;

use super::cache::{BLOCKS_PER_SUM, Queries, SLOTS_PER_BLOCK, Slots};
use super::matrix::{Activations, LINES_PER_QUAD, Panel, Panels};
use super::{Line, Ops, Stage};

/// Sixteen 32-bit sums.
type Sums = [int32x4_t; 4];

/// Proof that NEON's dot products were detected.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// The proof, if this CPU has the instructions.
    pub fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(Self(()))
    }
}

impl Ops for Neon {
    const NAME: &'static str = "neon-dot";
    type F = sixteen::Quarters;

    #[inline(always)]
    fn run<S: Stage>(self, stage: S) -> S::Out {
        stage.run()
    }

    #[inline(always)]
    fn matmul(self, panels: &Panels<'_>, x: &Activations, y: &mut [f32]) {
        // SAFETY: `self` can only be built by `detect`, which saw the feature.
        unsafe { matmul(panels, x, y) }
    }

    #[inline(always)]
    fn scores(self, slots: &Slots<'_>, q: &Queries, out: &mut [f32]) {
        // SAFETY: as in `matmul`.
        unsafe { scores(slots, q, out) }
    }

    #[inline(always)]
    fn mix(self, slots: &Slots<'_>, weights: &[u8], units: &[f32], out: &mut [f32]) {
        // SAFETY: as in `matmul`.
        unsafe { mix(slots, weights, units, out) }
    }

    #[inline(always)]
    fn prefetch(self, lines: &[Line]) {
        for line in lines {
            // SAFETY: a prefetch of any address has no effect but on the caches.
            unsafe { asm!("prfm pldl2keep, [{}]", in(reg) line, options(nostack, preserves_flags)) }
        }
    }
}

/// One broadcast of four activations meets four columns of 32 rows; two lanes share each load of
/// weights.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn matmul(panels: &Panels<'_>, x: &Activations, y: &mut [f32]) {
    let n_out = panels.n_out();
    for panel in panels.iter() {
        for (pair, y) in y.chunks_mut(2 * n_out).enumerate() {
            match y.len() / n_out {
                1 => tile::<1>(&panel, x, 2 * pair, y),
                _ => tile::<2>(&panel, x, 2 * pair, y),
            }
        }
    }
}

/// A panel times `B` lanes from `first` on.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn tile<const B: usize>(panel: &Panel<'_>, x: &Activations, first: usize, y: &mut [f32]) {
    let quads: [&[[u8; 4]]; B] = std::array::from_fn(|b| x.bytes(first + b).as_chunks().0);
    let mut sums = [[[vdupq_n_s32(0); 4]; LINES_PER_QUAD]; B];
    for (at, lines) in panel.lines.iter().enumerate() {
        let lines: [_; LINES_PER_QUAD] = std::array::from_fn(|r| load(&lines[r]));
        for (quads, sums) in quads.iter().zip(&mut sums) {
            let x = broadcast(flip(quads[at]));
            for (sums, weights) in sums.iter_mut().zip(lines) {
                add_products(sums, weights, x);
            }
        }
    }
    let n_out = y.len() / B;
    for ((b, y), sums) in y.chunks_exact_mut(n_out).enumerate().zip(sums) {
        let (scale, zero) = x.scale(first + b);
        let y = y[panel.first_row..].chunks_mut(16);
        for ((rows, sums), y) in panel.rows.iter().zip(sums).zip(y) {
            for (i, (y, sum)) in y.iter_mut().zip(store(sums)).enumerate() {
                let sum = sum + (128 - zero) * rows.sums[i];
                *y = (sum as f32).mul_add(rows.scales[i] * scale, rows.bias[i]);
            }
        }
    }
}

/// One broadcast of four query dims meets the same four dims of sixteen keys. Heads are taken two
/// at a time, so that each line of keys is loaded once for both.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn scores(slots: &Slots<'_>, q: &Queries, scores: &mut [f32]) {
    let n_slots = slots.n_blocks() * SLOTS_PER_BLOCK;
    for (pair, scores) in scores.chunks_mut(2 * n_slots).enumerate() {
        match scores.len() / n_slots {
            1 => score_heads::<1>(slots, q, 2 * pair, scores),
            _ => score_heads::<2>(slots, q, 2 * pair, scores),
        }
    }
}

/// The scores of `N` heads from `first` on.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn score_heads<const N: usize>(slots: &Slots<'_>, q: &Queries, first: usize, scores: &mut [f32]) {
    let heads: [_; N] = std::array::from_fn(|h| q.head(first + h));
    let quads: [&[[i8; 4]]; N] = heads.map(|(bytes, _)| bytes.as_chunks().0);
    let scores = scores.as_chunks_mut::<SLOTS_PER_BLOCK>().0;
    let n_blocks = scores.len() / N;
    for (i, block) in slots.runs().flatten().enumerate() {
        let mut sums = [[vdupq_n_s32(0); 4]; N];
        for (at, line) in block.keys.iter().enumerate().take(quads[0].len()) {
            let keys = load(line).map(|keys| veorq_s8(keys, vdupq_n_s8(i8::MIN)));
            for (sums, quads) in sums.iter_mut().zip(quads) {
                add_products(sums, keys, broadcast(quads[at]));
            }
        }
        for ((h, sums), (_, scale)) in sums.into_iter().enumerate().zip(heads) {
            let scores = &mut scores[h * n_blocks + i];
            for ((score, sum), worth) in scores.iter_mut().zip(store(sums)).zip(block.scales.keys) {
                *score = sum as f32 * (worth * scale);
            }
        }
    }
}

/// One broadcast of the weights of four slots meets their values in sixteen dims. Heads are taken
/// two at a time, so that each line of values is loaded once for both.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn mix(slots: &Slots<'_>, weights: &[u8], units: &[f32], out: &mut [f32]) {
    let n_slots = slots.n_blocks() * SLOTS_PER_BLOCK;
    let head_size = out.len() / units.len();
    let pairs = out
        .chunks_mut(2 * head_size)
        .zip(weights.chunks(2 * n_slots))
        .zip(units.chunks(2));
    for ((out, weights), units) in pairs {
        for sixteen in 0..head_size.div_ceil(16) {
            let weights = weights.as_chunks().0;
            match units.len() {
                1 => mix_16_dims::<1>(slots, weights, units, sixteen, out),
                _ => mix_16_dims::<2>(slots, weights, units, sixteen, out),
            }
        }
    }
}

/// Sixteen dims of the mixed values of `N` heads.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn mix_16_dims<const N: usize>(
    slots: &Slots<'_>,
    weights: &[[u8; SLOTS_PER_BLOCK]],
    units: &[f32],
    sixteen: usize,
    out: &mut [f32],
) {
    let n_blocks = weights.len() / N;
    let mut totals = [[0.0; 16]; N];
    let mut sums = [[vdupq_n_s32(0); 4]; N];
    // Sums of the values alone: 128 of them is what the flipped bits of the weights take off.
    let mut taken_off = [vdupq_n_s32(0); 4];
    for (i, block) in slots.runs().flatten().enumerate() {
        let weights: [&[[u8; 4]]; N] =
            std::array::from_fn(|h| weights[h * n_blocks + i].as_chunks().0);
        for (quad, line) in block.values[4 * sixteen..][..4].iter().enumerate() {
            let values = load(line);
            add_products(&mut taken_off, values, vdupq_n_s8(1));
            for (sums, weights) in sums.iter_mut().zip(weights) {
                add_products(sums, values, broadcast(flip(weights[quad])));
            }
        }
        if (i + 1) % BLOCKS_PER_SUM == 0 {
            take(&mut sums, &mut taken_off, &mut totals);
        }
    }
    take(&mut sums, &mut taken_off, &mut totals);
    let head_size = out.len() / N;
    for ((out, totals), unit) in out.chunks_exact_mut(head_size).zip(totals).zip(units) {
        for (out, total) in out[16 * sixteen..].iter_mut().zip(totals) {
            *out = total * unit;
        }
    }
}

/// Adds the sums to the totals, leaving zeros.
#[inline]
#[target_feature(enable = "neon")]
fn take<const N: usize>(sums: &mut [Sums; N], taken_off: &mut Sums, totals: &mut [[f32; 16]; N]) {
    let values = store(std::mem::replace(taken_off, [vdupq_n_s32(0); 4]));
    for (sums, totals) in sums.iter_mut().zip(totals) {
        let sums = store(std::mem::replace(sums, [vdupq_n_s32(0); 4]));
        for ((total, sum), value) in totals.iter_mut().zip(sums).zip(values) {
            *total += (sum + 128 * value) as f32;
        }
    }
}

/// Adds to each of sixteen sums four products of signed bytes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_products(sums: &mut Sums, a: [int8x16_t; 4], b: int8x16_t) {
    for (sum, a) in sums.iter_mut().zip(a) {
        *sum = dot(*sum, a, b);
    }
}

/// `vdotq_s32`, which is not stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction, enabled here, touches these three registers and nothing else.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums,
            in(vreg) a,
            in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Unsigned bytes as signed ones, each 128 below.
#[inline(always)]
fn flip(quad: [u8; 4]) -> [i8; 4] {
    quad.map(|byte| (byte ^ 128) as i8)
}

/// Four bytes, four times.
#[inline]
#[target_feature(enable = "neon")]
fn broadcast(quad: [i8; 4]) -> int8x16_t {
    let quad = i32::from_le_bytes(quad.map(|byte| byte as u8));
    vreinterpretq_s8_s32(vdupq_n_s32(quad))
}

/// Loads the four quarters of a line.
#[inline]
#[target_feature(enable = "neon")]
fn load(line: &Line) -> [int8x16_t; 4] {
    let bytes: *const i8 = std::ptr::from_ref(line).cast();
    // SAFETY: a `Line` is 64 readable bytes: four times sixteen.
    std::array::from_fn(|i| unsafe { vld1q_s8(bytes.add(16 * i)) })
}

/// Four vectors as sixteen numbers.
#[inline]
#[target_feature(enable = "neon")]
fn store(sums: Sums) -> [i32; 16] {
    let mut all = [0; 16];
    for (sum, out) in sums.into_iter().zip(all.as_chunks_mut::<4>().0) {
        // SAFETY: `out` is four writable i32.
        unsafe { vst1q_s32(out.as_mut_ptr(), sum) };
    }
    all
}
