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
    let mut sums = [0.0; LANES];
    for chunk in x.chunks(LANES) {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    let scale = 1.0 / (fold(sums, |a, b| a + b) / x.len() as f32 + eps).sqrt();
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
        let u = 0.797_884_56 * (*z + 0.044_715 * (*z * *z * *z));
        *z /= 1.0 + exp(-2.0 * u);
    }
}

/// Eight bits per value, symmetric: `x ≈ scale · (out − 128)`, out in 1..=255. Returns the scale.
///
/// The offset of 128 makes the bytes unsigned, as the dot products of the CPU want one side.
#[inline(always)]
pub fn quantize(x: &[f32], out: &mut [u8]) -> f32 {
    let largest = largest(x, f32::abs);
    let inverse = if largest > TINY { 127.0 / largest } else { 0.0 };
    for (out, x) in out.iter_mut().zip(x) {
        *out = (round(x * inverse) + 128) as u8;
    }
    largest / 127.0
}

/// Eight bits per value over the range that `x` and 0 span: `x ≈ scale · (out − zero)`. Returns
/// the scale and the zero. One-sided values, as after GELU, lose no half of the steps.
#[inline(always)]
pub fn quantize_range(x: &[f32], out: &mut [u8]) -> (f32, i32) {
    let high = largest(x, |x| if x > 0.0 { x } else { 0.0 });
    let low = -largest(x, |x| if x < 0.0 { -x } else { 0.0 });
    let range = high - low;
    let inverse = if range > TINY { 255.0 / range } else { 0.0 };
    let zero = round(-low * inverse);
    // One rounding for both: |x − scale · (out − zero)| may be a whole step at the ends, where
    // the sum would leave the byte by rounding alone.
    for (out, x) in out.iter_mut().zip(x) {
        let step = round(x * inverse) + zero;
        let step = if step > 255 { 255 } else { step };
        *out = if step < 0 { 0 } else { step as u8 };
    }
    (range / 255.0, zero)
}

/// Turns scores into integer weights for the values, whose scales are not negative: `softmax(scores)[i] · value_scales[i] ≈
/// unit · weights[i]`, and returns `unit`. `scores` is overwritten; −∞ gets weight 0.
#[inline(always)]
pub fn softmax(scores: &mut [f32], value_scales: &[f32], weights: &mut [i16]) -> f32 {
    let top = largest(scores, |score| score);
    let mut sums = [0.0; LANES];
    for (scores, scales) in scores.chunks_mut(LANES).zip(value_scales.chunks(LANES)) {
        for ((score, scale), sum) in scores.iter_mut().zip(scales).zip(&mut sums) {
            let share = exp(*score - top);
            *sum += share;
            *score = share * scale;
        }
    }
    let heaviest = largest(scores, |weight| weight);
    let inverse = if heaviest > 0.0 {
        f32::from(i16::MAX) / heaviest
    } else {
        0.0
    };
    for (weight, share) in weights.iter_mut().zip(&*scores) {
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

/// The largest `key(x)`, or −∞ of nothing.
#[inline(always)]
fn largest(x: &[f32], key: impl Fn(f32) -> f32) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut tops = [f32::NEG_INFINITY; LANES];
    for chunk in x.chunks(LANES) {
        for (top, x) in tops.iter_mut().zip(chunk) {
            *top = larger(key(*x), *top);
        }
    }
    fold(tops, larger)
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
            assert!((x - scale * (f32::from(*byte) - 128.0)).abs() <= scale * 0.5001);
        }
        assert!(bytes.iter().any(|&b| b == 1 || b == 255));
        assert_eq!(quantize(&[0.0; 5], &mut bytes[..5]), 0.0);
        assert_eq!(bytes[..5], [128; 5]);
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
        let mut scores: Vec<f32> = (0..100).map(|i| (i as f32 * 1.3).sin() * 6.0).collect();
        scores[17] = f32::NEG_INFINITY;
        let scales: Vec<f32> = (0..100).map(|i| 0.5 + (i % 7) as f32).collect();
        let sum: f64 = scores.iter().map(|s| f64::from(*s).exp()).sum();
        let exact: Vec<f64> = scores
            .iter()
            .zip(&scales)
            .map(|(s, scale)| f64::from(*s).exp() / sum * f64::from(*scale))
            .collect();
        let mut weights = vec![0; 100];
        let unit = softmax(&mut scores, &scales, &mut weights);
        for (weight, exact) in weights.iter().zip(&exact) {
            assert!((f64::from(*weight) * f64::from(unit) - exact).abs() < f64::from(unit) * 0.51);
        }
        assert_eq!(weights[17], 0);
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
