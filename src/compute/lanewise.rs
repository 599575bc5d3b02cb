//! The float stages, written once for every instruction set.
//!
//! Each function works on sixteen lanes at a time in a fixed order and never fuses a
//! multiplication with an addition, so the compiler may use vectors of any width and the result is
//! the same to the last bit. All are `inline(always)`: they take on the instruction set of the
//! function they are compiled into (see the macro in `x86.rs`).

use super::LANES;

/// Values that are all smaller are quantised to zero: their inverse would overflow.
const TINY: f32 = 1e-30;

/// `out = gain · x / sqrt(mean(x²) + eps)`, all of one length.
#[inline(always)]
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let squares = reduce(x, 0.0, |x| x * x, |a, b| a + b);
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = gain * (x * scale);
    }
}

/// `out += x · y`, elementwise.
#[inline(always)]
pub fn multiply_add(x: &[f32], y: &[f32], out: &mut [f32]) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out += x * y;
    }
}

/// `out += x`.
#[inline(always)]
pub fn add(x: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

/// The tanh approximation of GELU, in place: `0.5·z·(1 + tanh u) = z / (1 + exp(−2u))`.
#[inline(always)]
pub fn gelu(x: &mut [f32]) {
    for z in x {
        let u = 0.797_884_6 * (*z + 0.044_715 * (*z * *z * *z));
        *z /= 1.0 + exp(-2.0 * u);
    }
}

/// Turns pairs (i, i + half) of one head in place, by the angles whose cos and sin are given for
/// each pair.
#[inline(always)]
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

/// Eight bits per value, symmetric: `x ≈ scale · out`, out in −127..=127. Returns the scale.
#[inline(always)]
pub fn quantize(x: &[f32], out: &mut [i8]) -> f32 {
    let largest = reduce(x, 0.0, f32::abs, larger);
    let inverse = if largest > TINY { 127.0 / largest } else { 0.0 };
    for (out, x) in out.iter_mut().zip(x) {
        *out = round(x * inverse) as i8;
    }
    largest / 127.0
}

/// Eight bits per value over the range that `x` and 0 span: `x ≈ scale · (out − zero)`. Returns
/// the scale and the zero. One-sided values, as after GELU, lose no half of the steps.
#[inline(always)]
pub fn quantize_range(x: &[f32], out: &mut [u8]) -> (f32, i32) {
    let high = reduce(x, 0.0, |x| x, larger);
    let low = reduce(x, 0.0, |x| x, smaller);
    let range = high - low;
    let inverse = if range > TINY { 255.0 / range } else { 0.0 };
    let zero = round(-low * inverse);
    for (out, x) in out.iter_mut().zip(x) {
        // Both ends round: their sum may leave the byte by one.
        let step = round(x * inverse) + zero;
        *out = step.clamp(0, 255) as u8;
    }
    (range / 255.0, zero)
}

/// Turns scores into integer weights for the values, whose scales are not negative:
/// `softmax(scores)[i] · value_scales[i] ≈ unit · weights[i]`, and returns `unit`. `scores` is
/// overwritten; −∞ gets weight 0. All lengths are one multiple of sixteen.
#[inline(always)]
pub fn softmax(scores: &mut [f32], value_scales: &[f32], weights: &mut [i16]) -> f32 {
    let top = reduce(scores, f32::NEG_INFINITY, |score| score, larger);
    let mut sums = [0.0; LANES];
    let mut heaviest = [0.0; LANES];
    let scores = scores.as_chunks_mut::<LANES>().0;
    for (scores, scales) in scores.iter_mut().zip(value_scales.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            let share = exp(scores[i] - top);
            sums[i] += share;
            scores[i] = share * scales[i];
            heaviest[i] = larger(heaviest[i], scores[i]);
        }
    }
    let heaviest = fold(heaviest, larger);
    let inverse = if heaviest > TINY {
        f32::from(i16::MAX) / heaviest
    } else {
        0.0
    };
    for (weight, share) in weights.iter_mut().zip(scores.as_flattened()) {
        *weight = round(share * inverse) as i16;
    }
    heaviest / f32::from(i16::MAX) / fold(sums, |a, b| a + b)
}

/// `x = exp(x − from)`, in place.
#[inline(always)]
pub fn exp_of_difference(x: &mut [f32], from: f32) {
    for x in x {
        *x = exp(*x - from);
    }
}

/// e^x to 2 units in the last place over ±87, held at the ends beyond (Cody-Waite reduction to
/// ±ln 2 / 2, the minimax polynomial of Cephes, the power of two written into the exponent).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 87.0 { 87.0 } else { x };
    let n = round(x * std::f32::consts::LOG2_E);
    let nf = n as f32;
    let r = (x - nf * LN2_HIGH) - nf * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p * r + c;
    }
    (p * (r * r) + r + 1.0) * f32::from_bits(((n + 127) << 23) as u32)
}

/// The nearest whole number of a value within ±2²², ties to even. Adding 1.5 · 2²³ leaves it in
/// the low bits of the mantissa: unlike a cast, this needs no care for NaN and is one instruction.
#[inline(always)]
fn round(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32
}

/// Combines `key(x)` of all, sixteen lanes at a time.
#[inline(always)]
fn reduce(
    x: &[f32],
    start: f32,
    key: impl Fn(f32) -> f32,
    combine: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = combine(*lane, key(*x));
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = combine(*lane, key(*x));
    }
    fold(lanes, combine)
}

/// Unlike `f32::max`, one instruction: NaN does not occur.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Combines sixteen lanes in a fixed tree.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in -870_000..=870_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(1e9).is_finite());
    }

    #[test]
    fn round_goes_to_the_nearest_and_ties_to_even() {
        for (x, n) in [
            (0.5, 0),
            (1.5, 2),
            (-0.5, 0),
            (-1.5, -2),
            (126.7, 127),
            (-127.2, -127),
        ] {
            assert_eq!(round(x), n);
        }
    }

    #[test]
    fn quantize_keeps_the_largest_and_errs_by_half_a_step() {
        let x: Vec<f32> = (0..129).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let mut bytes = vec![0; x.len()];
        let scale = quantize(&x, &mut bytes);
        for (x, byte) in x.iter().zip(&bytes) {
            assert!((x - scale * f32::from(*byte)).abs() <= scale * 0.5001);
        }
        assert!(bytes.iter().any(|&b| b == -127 || b == 127));
        assert_eq!(quantize(&[0.0; 5], &mut bytes[..5]), 0.0);
        assert_eq!(bytes[..5], [0; 5]);
    }

    #[test]
    fn quantize_range_errs_by_a_step_at_most_and_keeps_zero_exact() {
        let x: Vec<f32> = (0..129)
            .map(|i| (i as f32 * 0.7).sin() * 3.0 + 2.8)
            .collect();
        let mut bytes = vec![0; x.len()];
        let (scale, zero) = quantize_range(&x, &mut bytes);
        for (x, byte) in x.iter().zip(&bytes) {
            assert!((x - scale * (i32::from(*byte) - zero) as f32).abs() <= scale * 1.0001);
        }
        assert!((0..=255).contains(&zero) && scale < 6.1 / 255.0);
        assert_eq!(quantize_range(&[0.0; 3], &mut bytes[..3]), (0.0, 0));
        assert_eq!(bytes[..3], [0; 3]);
    }

    #[test]
    fn softmax_weights_are_the_scaled_probabilities() {
        let mut scores: Vec<f32> = (0..96).map(|i| (i as f32 * 1.3).sin() * 6.0).collect();
        scores[17] = f32::NEG_INFINITY;
        let scales: Vec<f32> = (0..96).map(|i| 0.5 + (i % 7) as f32).collect();
        let sum: f64 = scores.iter().map(|s| f64::from(*s).exp()).sum();
        let exact: Vec<f64> = scores
            .iter()
            .zip(&scales)
            .map(|(s, scale)| f64::from(*s).exp() / sum * f64::from(*scale))
            .collect();
        let mut weights = vec![0; 96];
        let unit = softmax(&mut scores, &scales, &mut weights);
        for (weight, exact) in weights.iter().zip(&exact) {
            assert!((f64::from(*weight) * f64::from(unit) - exact).abs() < f64::from(unit) * 0.51);
        }
        assert_eq!(weights[17], 0);
    }

    #[test]
    fn a_rotation_turns_each_pair_by_its_angle() {
        let mut head = [1.0, 0.0, 0.0, 2.0];
        rotate(&mut head, &[0.0, 1.0], &[1.0, 0.0]);
        assert_eq!(head, [0.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn gelu_and_norm_are_those_of_the_contract() {
        let z: Vec<f32> = (-60..60).map(|i| i as f32 * 0.1).collect();
        let mut fast = z.clone();
        gelu(&mut fast);
        for (z, fast) in z.iter().zip(&fast) {
            let z = f64::from(*z);
            let exact = 0.5 * z * (1.0 + (0.797_884_560_8 * (z + 0.044_715 * z * z * z)).tanh());
            assert!((f64::from(*fast) - exact).abs() < 1e-6);
        }
        let (mut out, gain) = ([0.0; 3], [1.0, 2.0, 3.0]);
        rms_norm(&[3.0, -3.0, 3.0], &gain, 0.0, &mut out);
        assert_eq!(out, [1.0, -2.0, 3.0]);
    }
}
