//! 8-bit mu-law (mu = 255, mid-rise): the codes the model reads and draws.
//!
//! Pure functions, called on any thread. The law is `docs/model.md`, "Codes".

/// What a stream that has not begun sounds like: the code of 0.0, fed at position 0.
pub const SILENCE: u8 = 128;

/// Encodes a sample, clamped to [-1, 1]. `None` if it is not a finite number.
pub fn encode(sample: f32) -> Option<u8> {
    if !sample.is_finite() {
        return None;
    }
    let x = f64::from(sample).clamp(-1.0, 1.0);
    let sign = if x < 0.0 { -1.0 } else { 1.0 };
    let y = sign * (1.0 + 255.0 * x.abs()).ln() / 256f64.ln();
    Some(((y + 1.0) / 2.0 * 255.0 + 0.5).floor() as u8)
}

/// The sample in (-1, 1) that a code stands for; never 0, see `docs/model.md`.
pub fn decode(code: u8) -> f32 {
    let y = f64::from(code) / 255.0 * 2.0 - 1.0;
    (y.signum() * (256f64.powf(y.abs()) - 1.0) / 255.0) as f32
}

/// The same in 16 bits, as in a WAV file: -1 is -32768, and 1 is as near as they come to it.
pub fn decode_s16(code: u8) -> i16 {
    // The conversion saturates.
    (decode(code) * 32_768.0).round() as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_round_trip() {
        for code in 0..=255 {
            assert_eq!(encode(decode(code)), Some(code));
        }
    }

    #[test]
    fn zero_and_its_neighbours_take_the_two_middle_codes() {
        assert_eq!(encode(0.0), Some(SILENCE));
        assert_eq!(encode(-0.0), Some(SILENCE));
        assert_eq!(encode(-1e-6), Some(127));
        assert!((decode(128) - 8.6e-5).abs() < 1e-6 && (decode(127) + 8.6e-5).abs() < 1e-6);
    }

    #[test]
    fn loud_samples_are_clamped_and_non_finite_ones_refused() {
        assert_eq!(encode(3.0), Some(255));
        assert_eq!(encode(-3.0), Some(0));
        assert_eq!(encode(f32::NAN), None);
        assert_eq!(encode(f32::INFINITY), None);
    }
}
