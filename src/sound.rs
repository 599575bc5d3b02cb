//! Sound in numbers: its level, short-time power spectra, and what follows from them.
//!
//! Pure arithmetic that the audit does at leisure and the watch of the pump while it plays: what is
//! given buffers allocates nothing.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use realfft::num_complex::Complex32;
use realfft::{RealFftPlanner, RealToComplex};

/// A frame is the power of two nearest above this; 1,024 samples at 16 kHz.
const FRAME_S: f64 = 0.06;

/// Below a bin of a frame in which the two quietest codes alternate at random (1.4e-11), far
/// above rounding: what a logarithm of nothing is taken of.
const POWER_MIN: f32 = 1e-14;

/// Frequencies below this are no part of flatness: a direct current is no tone.
const BASS_HZ: f32 = 50.0;

/// The transform of frames at one rate; shared by threads.
pub struct Spectrum {
    fft: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    /// Makes the bins of a frame add up to its mean square.
    scale: f32,
    rate_hz: u32,
}

impl fmt::Debug for Spectrum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spectrum")
            .field("frame_len", &self.frame_len())
            .finish_non_exhaustive()
    }
}

/// Where frames are transformed.
#[derive(Debug)]
pub struct Scratch {
    input: Vec<f32>,
    output: Vec<Complex32>,
    scratch: Vec<Complex32>,
}

/// The frames of a second: `[n_frames, n_bins]` powers.
#[derive(Clone, Debug)]
pub struct Frames {
    powers: Vec<f32>,
    n_bins: usize,
}

impl Frames {
    /// Frame by frame.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.powers.chunks_exact(self.n_bins)
    }

    /// See [`median`].
    pub fn median(&self) -> Vec<f32> {
        let mut column = vec![0.0; self.powers.len() / self.n_bins];
        let mut out = vec![0.0; self.n_bins];
        median(&self.powers, &mut column, &mut out);
        out
    }
}

/// The median of every bin over the frames of `powers`, `[n_frames, n_bins]`: what sounds for most
/// of their time. A mean would be white as soon as one of them holds a click. `column` has room for
/// a number of each frame, `out` for one of each bin.
pub fn median(powers: &[f32], column: &mut [f32], out: &mut [f32]) {
    let (n_bins, middle) = (out.len(), column.len() / 2);
    for (bin, out) in out.iter_mut().enumerate() {
        for (place, frame) in column.iter_mut().zip(powers.chunks_exact(n_bins)) {
            *place = frame[bin];
        }
        *out = *column.select_nth_unstable_by(middle, f32::total_cmp).1;
    }
}

/// Shannon's entropy in bits of what occurred so many times each, `n` times in all.
pub fn entropy_bits(counts: &[u32], n: u32) -> f32 {
    let occurred = counts.iter().filter(|count| **count > 0);
    let shares = occurred.map(|count| *count as f32 / n as f32);
    shares.map(|p| -p * p.log2()).sum::<f32>().max(0.0)
}

/// The step from one code to the next as an index below [`N_STEPS`].
pub fn step(from: u8, to: u8) -> usize {
    255 + usize::from(to) - usize::from(from)
}

/// Steps there are.
pub const N_STEPS: usize = 511;

impl Spectrum {
    /// For sound at `rate_hz`.
    pub fn new(rate_hz: u32) -> Self {
        let len = ((f64::from(rate_hz) * FRAME_S) as usize).next_power_of_two();
        let turn = std::f32::consts::TAU / len as f32;
        let window: Vec<f32> = (0..len)
            .map(|i| 0.5 - 0.5 * (turn * i as f32).cos())
            .collect();
        let energy: f32 = window.iter().map(|w| w * w).sum();
        Self {
            fft: RealFftPlanner::new().plan_fft_forward(len),
            window,
            // Twice, for the negative frequencies; the ends, which have none, carry no sound.
            scale: 2.0 / (energy * len as f32),
            rate_hz,
        }
    }

    /// Samples in a frame.
    pub fn frame_len(&self) -> usize {
        self.window.len()
    }

    /// From 0 to half the rate.
    pub fn n_bins(&self) -> usize {
        self.frame_len() / 2 + 1
    }

    /// The frequency of the first bin above 0.
    pub fn bin_hz(&self) -> f32 {
        self.rate_hz as f32 / self.frame_len() as f32
    }

    /// Frames in a second: half overlapped, as far as whole frames go.
    pub fn frames_per_second(&self) -> usize {
        self.rate_hz as usize * 2 / self.frame_len() + 1
    }

    /// Frames spread evenly over a second, whose samples are `samples`.
    pub fn frames(&self, samples: &[f32]) -> Frames {
        let (n, n_bins) = (self.frames_per_second(), self.n_bins());
        let mut powers = Vec::with_capacity(n * n_bins);
        let mut scratch = self.scratch();
        for i in 0..n {
            let start = i * (samples.len() - self.frame_len()) / (n - 1);
            powers.extend(self.powers(&samples[start..], &mut scratch));
        }
        Frames { powers, n_bins }
    }

    /// What [`powers`](Self::powers) works with.
    pub fn scratch(&self) -> Scratch {
        Scratch {
            input: self.fft.make_input_vec(),
            output: self.fft.make_output_vec(),
            scratch: self.fft.make_scratch_vec(),
        }
    }

    /// The powers of a frame, the first `frame_len` of `samples`; allocates nothing.
    pub fn powers<'a>(
        &'a self,
        samples: &[f32],
        scratch: &'a mut Scratch,
    ) -> impl Iterator<Item = f32> + 'a {
        let Scratch {
            input,
            output,
            scratch,
        } = scratch;
        for ((place, sample), w) in input.iter_mut().zip(samples).zip(&self.window) {
            *place = sample * w;
        }
        self.fft
            .process_with_scratch(input, output, scratch)
            .expect("the buffers are the transform's own");
        output.iter().map(|bin| bin.norm_sqr() * self.scale)
    }

    /// Spectral flatness in dB: the geometric over the arithmetic mean of the powers
    /// (Gray & Markel 1974). 0 is white, a tone lies far below.
    pub fn flatness_db(&self, powers: &[f32]) -> f32 {
        let powers = &powers[self.bins(BASS_HZ, f32::INFINITY)];
        let n = powers.len() as f32;
        let mean = powers.iter().sum::<f32>() / n + POWER_MIN;
        let log_mean = powers.iter().map(|p| db(p + POWER_MIN)).sum::<f32>() / n;
        log_mean - db(mean)
    }

    /// The level of what lies above a quarter of the rate, the upper half of the spectrum.
    pub fn treble_dbfs(&self, powers: &[f32]) -> f32 {
        let treble = &powers[self.bins(self.rate_hz as f32 / 4.0, f32::INFINITY)];
        db(treble.iter().sum::<f32>() + POWER_MIN)
    }

    /// The bins from one frequency to another.
    pub fn bins(&self, from_hz: f32, to_hz: f32) -> Range<usize> {
        let bin = |hz: f32| ((hz / self.bin_hz()).ceil() as usize).min(self.n_bins());
        bin(from_hz)..bin(to_hz)
    }
}

/// Of a power.
pub fn db(power: f32) -> f32 {
    10.0 * power.max(POWER_MIN).log10()
}
