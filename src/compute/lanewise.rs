//! The float stages, written once for every instruction set.
//!
//! Each works on sixteen lanes at a time ([`Sixteen`]) in a fixed order, so the result is the same
//! to the last bit everywhere. Vectors may have any length; where several are named they have the
//! same. All are `inline(always)`: they take on the instruction set of the
//! [`Stage`](super::Stage) that calls them.

use super::sixteen::{BytePart, LANES, Part, Sixteen, for_sixteens};

/// Values that are all smaller are quantised to zero: their inverse would overflow.
const TINY: f32 = 1e-30;

/// Powers of two from minus this to this are what [`exp2`] can write into an exponent.
const MOST_POWER: f32 = 126.0;

/// Adding it to a value within ±2²² leaves the nearest whole number, ties to even, in the low bits
/// of the mantissa; the lowest byte is that number's lowest byte.
const MAGIC: f32 = 12_582_912.0;

/// `out = gain · x / sqrt(mean(x²) + eps)`
#[inline(always)]
pub fn rms_norm<F: Sixteen>(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    normed_by::<F>(x, gain, rms_scale::<F>(x, eps), out);
}

/// `1 / sqrt(mean(x²) + eps)`
#[inline(always)]
pub fn rms_scale<F: Sixteen>(x: &[f32], eps: f32) -> f32 {
    let mut squares = F::splat(0.0);
    for_sixteens!((x) {
        let x: F = x.read();
        squares = x.mul_add(x, squares);
    });
    1.0 / (squares.sum() / x.len() as f32 + eps).sqrt()
}

/// `out = gain · x · scale`
#[inline(always)]
pub fn normed_by<F: Sixteen>(x: &[f32], gain: &[f32], scale: f32, out: &mut [f32]) {
    let scale = F::splat(scale);
    for_sixteens!((x, gain, out) {
        out.write(gain.read::<F>().mul(x.read::<F>().mul(scale)));
    });
}

/// `x = x / sqrt(mean(x²) + eps)`
#[inline(always)]
pub fn norm_in_place<F: Sixteen>(x: &mut [f32], eps: f32) {
    let scale = F::splat(rms_scale::<F>(x, eps));
    for_sixteens!((x) {
        x.write(x.read::<F>().mul(scale));
    });
}

/// The causal depthwise convolution: `out = sum over j of taps[j] · normed(j)`, `taps` [W, D] with
/// the present tap first, `normed(j)` `[D]` what came in j positions ago.
#[inline(always)]
pub fn convolve<'a, F: Sixteen>(
    taps: &[f32],
    out: &mut [f32],
    normed: impl Fn(usize) -> &'a [f32],
) {
    out.fill(0.0);
    for (j, tap) in taps.chunks_exact(out.len()).enumerate() {
        let (normed, out) = (normed(j), &mut out[..]);
        for_sixteens!((tap, normed, out) {
            out.write(tap.read::<F>().mul_add(normed.read(), out.read()));
        });
    }
}

/// `out += x`
#[inline(always)]
pub fn add<F: Sixteen>(x: &[f32], out: &mut [f32]) {
    for_sixteens!((x, out) {
        out.write(out.read::<F>().add(x.read()));
    });
}

/// The tanh approximation of GELU, in place: `0.5·z·(1 + tanh u) = z / (1 + exp(−2u))` with
/// `u = sqrt(2/π) · (z + 0.044715·z³)`.
#[inline(always)]
pub fn gelu<F: Sixteen>(x: &mut [f32]) {
    const LINEAR: f32 = -2.0 * 0.797_884_6 * std::f32::consts::LOG2_E;
    const CUBIC: f32 = LINEAR * 0.044_715;
    let (linear, cubic, one) = (F::splat(LINEAR), F::splat(CUBIC), F::splat(1.0));
    for_sixteens!((x) {
        let z: F = x.read();
        let slope = z.mul(z).mul_add(cubic, linear);
        x.write(z.div(exp2(z.mul(slope)).add(one)));
    });
}

/// Turns pairs (i, i + half) of one head in place, by the angles whose cos and sin are given for
/// each pair.
#[inline(always)]
pub fn rotate<F: Sixteen>(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for_sixteens!((low, high, cos, sin) {
        let (a, b): (F, F) = (low.read(), high.read());
        let (cos, sin): (F, F) = (cos.read(), sin.read());
        let minus_sin = F::splat(0.0).sub(sin);
        low.write(a.mul_add(cos, b.mul(minus_sin)));
        high.write(a.mul_add(sin, b.mul(cos)));
    });
}

/// Eight bits per value, symmetric: `x ≈ scale · out`, out in −127..=127. Returns the scale.
#[inline(always)]
pub fn quantize<F: Sixteen>(x: &[f32], out: &mut [i8]) -> f32 {
    let mut largest = F::splat(0.0);
    for_sixteens!((x) {
        largest = x.read::<F>().abs().max(largest);
    });
    let largest = largest.largest();
    let inverse = F::splat(if largest > TINY { 127.0 / largest } else { 0.0 });
    let out: &mut [u8] = bytemuck::cast_slice_mut(out);
    for_sixteens!((x, out) {
        out.write_bytes(x.read::<F>().mul_add(inverse, F::splat(MAGIC)).low_bytes());
    });
    largest / 127.0
}

/// Eight bits per value over the range that `x` and 0 span: `x ≈ scale · (out − zero)`. Returns
/// the scale and the zero. One-sided values, as after GELU, lose no half of the steps.
#[inline(always)]
pub fn quantize_range<F: Sixteen>(x: &[f32], out: &mut [u8]) -> (f32, i32) {
    quantize_within::<F>(x, range_of::<F>(x), out)
}

/// The lowest and the highest of `x` and 0.
#[inline(always)]
pub fn range_of<F: Sixteen>(x: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = (F::splat(0.0), F::splat(0.0));
    for_sixteens!((x) {
        let x: F = x.read();
        (low, high) = (x.min(low), x.max(high));
    });
    (low.smallest(), high.largest())
}

/// [`quantize_range`] where the range is known.
#[inline(always)]
pub fn quantize_within<F: Sixteen>(
    x: &[f32],
    (low, high): (f32, f32),
    out: &mut [u8],
) -> (f32, i32) {
    let range = high - low;
    let inverse = if range > TINY { 255.0 / range } else { 0.0 };
    let zero = (-low).mul_add(inverse, MAGIC);
    // Both ends round: their sum may leave the byte by one.
    let (least, most) = (F::splat(MAGIC), F::splat(MAGIC + 255.0));
    let (inverse, shift) = (F::splat(inverse), F::splat(zero));
    for_sixteens!((x, out) {
        let rounded = x.read::<F>().mul_add(inverse, shift);
        out.write_bytes(rounded.max(least).min(most).low_bytes());
    });
    (range / 255.0, (zero - MAGIC) as i32)
}

/// What a softmax knows of one head before it can say what a weight is worth.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    /// The highest score; then the sum of what all scores are to it.
    sum: f32,
    /// The heaviest value.
    heaviest: f32,
}

/// Turns the scores of some heads [heads, slots], as powers of two, into integer weights for the
/// values, whose scales `[slots]` are not negative:
/// `2^scores[i] / sum of 2^scores · value_scales[i] ≈ unit · weights[i]`, with a unit for each head.
/// `scores` is overwritten; −∞ gets weight 0. There are sixteen slots or a multiple.
///
/// All heads go through one stage before any goes through the next, as each waits for what the
/// last has found in the whole of its head.
#[inline(always)]
pub fn softmax<F: Sixteen>(
    scores: &mut [f32],
    value_scales: &[f32],
    weights: &mut [u8],
    peaks: &mut [Peak],
    units: &mut [f32],
) {
    let scales = value_scales.as_chunks::<LANES>().0;
    let scores = scores.as_chunks_mut::<LANES>().0;
    let weights = weights.as_chunks_mut::<LANES>().0;
    for (scores, peak) in scores.chunks_exact(scales.len()).zip(&mut *peaks) {
        let mut top = F::splat(f32::NEG_INFINITY);
        for scores in scores {
            top = F::load(scores).max(top);
        }
        peak.sum = top.largest();
    }
    for (scores, peak) in scores.chunks_exact_mut(scales.len()).zip(&mut *peaks) {
        let top = F::splat(peak.sum);
        let (mut sum, mut heaviest) = (F::splat(0.0), F::splat(0.0));
        for (scores, scales) in scores.iter_mut().zip(scales) {
            // No score is above the top.
            let share = exp2_within(F::load(scores).sub(top).max(F::splat(-MOST_POWER)));
            let weighted = share.mul(F::load(scales));
            (sum, heaviest) = (sum.add(share), weighted.max(heaviest));
            weighted.store(scores);
        }
        (peak.sum, peak.heaviest) = (sum.sum(), heaviest.largest());
    }
    let heads = scores
        .chunks_exact(scales.len())
        .zip(weights.chunks_exact_mut(scales.len()));
    for ((scores, weights), (peak, unit)) in heads.zip(peaks.iter().zip(units)) {
        let Peak { sum, heaviest } = *peak;
        let inverse = if heaviest > TINY {
            255.0 / heaviest
        } else {
            0.0
        };
        let inverse = F::splat(inverse);
        for (weights, scores) in weights.iter_mut().zip(scores) {
            *weights = F::load(scores)
                .mul_add(inverse, F::splat(MAGIC))
                .low_bytes();
        }
        *unit = heaviest / 255.0 / sum;
    }
}

/// `out = exp(x · scale)`
#[inline(always)]
pub fn exp<F: Sixteen>(x: &[f32], scale: f32, out: &mut [f32]) {
    let unit = F::splat(scale * std::f32::consts::LOG2_E);
    for_sixteens!((x, out) {
        out.write(exp2(x.read::<F>().mul(unit)));
    });
}

/// The sum of `x` and the sum of `x · y`.
#[inline(always)]
pub fn sum_and_product<F: Sixteen>(x: &[f32], y: &[f32]) -> (f32, f32) {
    let (mut sum, mut product) = (F::splat(0.0), F::splat(0.0));
    for_sixteens!((x, y) {
        let x: F = x.read();
        (sum, product) = (sum.add(x), x.mul_add(y.read(), product));
    });
    (sum.sum(), product.sum())
}

/// [`exp2`] of one number.
#[inline(always)]
pub fn exp2_of<F: Sixteen>(x: f32) -> f32 {
    let mut out = [0.0; LANES];
    exp2(F::splat(x)).store(&mut out);
    out[0]
}

/// 2^x to 3 units in the last place over ±126, held at the ends beyond.
#[inline(always)]
pub fn exp2<F: Sixteen>(x: F) -> F {
    exp2_within(x.max(F::splat(-MOST_POWER)).min(F::splat(MOST_POWER)))
}

/// The same of powers within ±126: the whole part is written into the exponent of a minimax polynomial
/// of the rest, which lies within ±½.
#[inline(always)]
fn exp2_within<F: Sixteen>(x: F) -> F {
    let shifted = x.add(F::splat(MAGIC));
    let rest = x.sub(shifted.sub(F::splat(MAGIC)));
    let mut p = F::splat(1.330_060_5e-3);
    for c in [
        9.669_691e-3,
        5.550_558_5e-2,
        2.402_228_3e-1,
        std::f32::consts::LN_2,
        1.0,
    ] {
        p = p.mul_add(rest, F::splat(c));
    }
    // Shifted out to the left, all of MAGIC's bits are gone.
    p.scale_by_low_bits(shifted)
}

/// The cosine of so many whole turns, to 1e-6 while they are fewer than 1,000: a Taylor polynomial of
/// the sine of what is missing to a quarter.
#[inline(always)]
pub fn cos_of_turns<F: Sixteen>(turns: F) -> F {
    let whole = turns.add(F::splat(MAGIC)).sub(F::splat(MAGIC));
    let x = F::splat(0.25).sub(turns.sub(whole).abs());
    let square = x.mul(x);
    let mut p = F::splat(-15.094_643);
    for c in [
        42.058_693,
        -76.705_86,
        81.605_25,
        -41.341_7,
        std::f32::consts::TAU,
    ] {
        p = p.mul_add(square, F::splat(c));
    }
    p.mul(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::Plain;

    fn exp2(x: f32) -> f32 {
        exp2_of::<Plain>(x)
    }

    #[test]
    fn exp2_is_within_three_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in -1_260_000..=1_260_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp2();
            worst = worst.max((f64::from(exp2(x)) / exact - 1.0).abs());
        }
        assert!(worst < 3.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert!(exp2(f32::NEG_INFINITY) < 2e-38 && exp2(1e9).is_finite());
        assert_eq!([-3.0, 0.0, 7.0].map(exp2), [0.125, 1.0, 128.0]);
    }

    #[test]
    fn cosines_of_turns_are_within_a_millionth() {
        let mut worst = 0.0f64;
        for i in -400_000..=400_000 {
            let turns = i as f32 * 1e-3;
            let mut out = [0.0; LANES];
            cos_of_turns(Plain::splat(turns)).store(&mut out);
            let exact = (std::f64::consts::TAU * f64::from(turns)).cos();
            worst = worst.max((f64::from(out[0]) - exact).abs());
        }
        assert!(worst < 1e-6, "{worst:e}");
    }

    #[test]
    fn quantize_keeps_the_largest_and_errs_by_half_a_step() {
        let x: Vec<f32> = (0..129).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let mut bytes = vec![0; x.len()];
        let scale = quantize::<Plain>(&x, &mut bytes);
        for (x, byte) in x.iter().zip(&bytes) {
            assert!((x - scale * f32::from(*byte)).abs() <= scale * 0.5001);
        }
        assert!(bytes.iter().any(|&b| b == -127 || b == 127));
        assert_eq!(quantize::<Plain>(&[0.0; 5], &mut bytes[..5]), 0.0);
        assert_eq!(bytes[..5], [0; 5]);
    }

    #[test]
    fn quantize_range_errs_by_a_step_at_most_and_keeps_zero_exact() {
        let x: Vec<f32> = (0..129)
            .map(|i| (i as f32 * 0.7).sin() * 3.0 + 2.8)
            .collect();
        let mut bytes = vec![0; x.len()];
        let (scale, zero) = quantize_range::<Plain>(&x, &mut bytes);
        for (x, byte) in x.iter().zip(&bytes) {
            assert!((x - scale * (i32::from(*byte) - zero) as f32).abs() <= scale * 1.0001);
        }
        assert!((0..=255).contains(&zero) && scale < 6.1 / 255.0);
        assert_eq!(
            quantize_range::<Plain>(&[0.0; 3], &mut bytes[..3]),
            (0.0, 0)
        );
        assert_eq!(bytes[..3], [0; 3]);
    }

    #[test]
    fn softmax_weights_are_the_scaled_probabilities() {
        let mut scores: Vec<f32> = (0..96).map(|i| (i as f32 * 1.3).sin() * 6.0).collect();
        scores[17] = f32::NEG_INFINITY;
        let scales: Vec<f32> = (0..96).map(|i| 0.5 + (i % 7) as f32).collect();
        let sum: f64 = scores.iter().map(|s| f64::from(*s).exp2()).sum();
        let exact: Vec<f64> = scores
            .iter()
            .zip(&scales)
            .map(|(s, scale)| f64::from(*s).exp2() / sum * f64::from(*scale))
            .collect();
        let (mut weights, mut unit) = (vec![0u8; 96], [0.0]);
        let mut peak = [Peak::default()];
        softmax::<Plain>(&mut scores, &scales, &mut weights, &mut peak, &mut unit);
        let unit = unit[0];
        for (weight, exact) in weights.iter().zip(&exact) {
            assert!((f64::from(*weight) * f64::from(unit) - exact).abs() < f64::from(unit) * 0.51);
        }
        assert_eq!(weights[17], 0);
    }

    #[test]
    fn a_rotation_turns_each_pair_by_its_angle() {
        let mut head = [1.0, 0.0, 0.0, 2.0];
        rotate::<Plain>(&mut head, &[0.0, 1.0], &[1.0, 0.0]);
        assert_eq!(head, [0.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn gelu_and_norm_are_those_of_the_contract() {
        let z: Vec<f32> = (-60..60).map(|i| i as f32 * 0.1).collect();
        let mut fast = z.clone();
        gelu::<Plain>(&mut fast);
        for (z, fast) in z.iter().zip(&fast) {
            let z = f64::from(*z);
            let exact = 0.5 * z * (1.0 + (0.797_884_560_8 * (z + 0.044_715 * z * z * z)).tanh());
            assert!((f64::from(*fast) - exact).abs() < 1e-6);
        }
        let (mut out, gain) = ([0.0; 3], [1.0, 2.0, 3.0]);
        rms_norm::<Plain>(&[3.0, -3.0, 3.0], &gain, 0.0, &mut out);
        assert_eq!(out, [1.0, -2.0, 3.0]);
        let mut x = [3.0, -3.0, 3.0];
        norm_in_place::<Plain>(&mut x, 0.0);
        assert_eq!(x, [1.0, -1.0, 1.0]);
    }
}
