//! Conversion by a ratio that is steered while it plays: for a second clock that is nearly the first.

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{
    Adjustable as _, Async, FixedAsync, Resampler as _, SincInterpolationParameters, WindowFunction,
};

use super::ResampleError;

/// How far the ratio may be steered either way; no crystal is off by so much.
pub const STEER_MAX: f64 = 0.005;

/// Taps of the filter, at the input's rate. With this window that keeps 94 % of the band.
const N_TAPS: usize = 192;

#[derive(Debug)]
pub(super) struct Steered {
    sinc: Async<f32>,
    chunk_len: usize,
    out: Vec<f32>,
}

impl Steered {
    pub fn new(from_hz: u32, to_hz: u32, chunk_len: usize) -> Result<Self, ResampleError> {
        let sinc = Async::new_sinc(
            f64::from(to_hz) / f64::from(from_hz),
            1.0 + STEER_MAX,
            &SincInterpolationParameters::new(N_TAPS, WindowFunction::BlackmanHarris2),
            chunk_len,
            1,
            FixedAsync::Input,
        )
        .map_err(|error| ResampleError::Refused {
            from_hz,
            to_hz,
            reason: error.to_string(),
        })?;
        Ok(Self {
            out: vec![0.0; sinc.output_frames_max()],
            sinc,
            chunk_len,
        })
    }

    /// The most frames a chunk can become.
    pub fn output_len_max(&self) -> usize {
        self.out.len()
    }

    /// From the next chunk on, over which the ratio glides there.
    pub fn steer(&mut self, ratio: f64) {
        let most = 1.0 + STEER_MAX;
        let ratio = ratio.clamp(1.0 / most, most);
        self.sinc
            .set_resample_ratio_relative(ratio, true)
            .expect("the ratio lies within the bounds that were named");
    }

    /// # Panics
    /// If the chunk is shorter or longer than was said.
    pub fn feed(&mut self, chunk: &[f32], output: &mut Vec<f32>) {
        assert_eq!(chunk.len(), self.chunk_len, "chunk length");
        let input = SequentialSlice::new(chunk, 1, chunk.len()).expect("one channel fills it");
        let room = self.out.len();
        let mut out =
            SequentialSlice::new_mut(&mut self.out, 1, room).expect("one channel fills it");
        let (_, n_out) = self
            .sinc
            .process_into_buffer(&input, &mut out, None)
            .expect("the chunk has the size that rubato was told, and there is room for the most");
        output.extend_from_slice(&self.out[..n_out]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resample::Resampler;
    use assert_no_alloc::assert_no_alloc;
    use std::f64::consts::TAU;

    /// A sine of the input's rate, converted with a ratio that is steered.
    fn converted(hz: f64, (from, to): (u32, u32), ratio: f64, n_chunks: usize) -> Vec<f32> {
        let mut resampler = Resampler::steered(from, to, 320).unwrap();
        let step = TAU * hz / f64::from(from);
        let mut output = Vec::new();
        for chunk in 0..n_chunks {
            let at = |i: usize| step * (chunk * 320 + i) as f64;
            let chunk: Vec<f32> = (0..320).map(|i| 0.8 * at(i).sin() as f32).collect();
            resampler.steer(ratio);
            output.extend_from_slice(resampler.process(&chunk));
        }
        output
    }

    /// The sine of `step` radians a frame that fits `sound` best, against what is left without it, in dB.
    fn purity_db(sound: &[f32], step: f64) -> f64 {
        let frames = || {
            let waves = (0..sound.len()).map(|at| (step * at as f64).sin_cos());
            waves.zip(sound.iter().map(|&sample| f64::from(sample)))
        };
        // No whole number of cycles: the two waves are not quite orthogonal, and that would drown the rest.
        let sum = |of: fn(f64, f64, f64) -> f64| -> f64 {
            frames().map(|((s, c), sample)| of(s, c, sample)).sum()
        };
        let (ss, cc, sc) = (
            sum(|s, _, _| s * s),
            sum(|_, c, _| c * c),
            sum(|s, c, _| s * c),
        );
        let (s_in, c_in) = (sum(|s, _, x| s * x), sum(|_, c, x| c * x));
        let det = ss * cc - sc * sc;
        let (a, b) = ((s_in * cc - c_in * sc) / det, (c_in * ss - s_in * sc) / det);
        let (mut fitted, mut rest) = (0.0, 0.0);
        for ((s, c), sample) in frames() {
            let wave = a * s + b * c;
            fitted += wave * wave;
            rest += (sample - wave).powi(2);
        }
        10.0 * (fitted / rest).log10()
    }

    #[test]
    fn a_sine_is_the_same_sine_a_little_slower_or_faster() {
        for (from, to) in [(16_000, 48_000), (16_000, 44_100), (24_000, 16_000)] {
            for ratio in [1.0, 1.0005, 0.9995, 1.0 + STEER_MAX] {
                let hz = 1_000.0;
                let got = converted(hz, (from, to), ratio, 200);
                let n = (200.0 * 320.0 * f64::from(to) / f64::from(from) * ratio) as usize;
                assert!(got.len().abs_diff(n) < 700, "{} frames, not {n}", got.len());
                let step = TAU * hz / f64::from(to) / ratio;
                let middle = &got[2_000..got.len() - 1_000];
                let purity = purity_db(middle, step);
                assert!(purity > 80.0, "{from} to {to} by {ratio}: {purity:.1} dB");
            }
        }
    }

    #[test]
    fn nothing_is_allocated_however_it_is_steered() {
        let mut resampler = Resampler::steered(16_000, 48_000, 320).unwrap();
        let chunk = [0.5; 320];
        assert_no_alloc(|| {
            for at in 0..400 {
                resampler.steer(1.0 + f64::from(at % 40 - 20) * 5e-4);
                resampler.process(&chunk);
            }
        });
    }
}
