//! How much a second repeats what was heard shortly before.
//!
//! The last second is compared with every second that began 0.25 s to 8 s before it. Cross
//! correlation by FFT on a copy at a quarter of the rate finds the best lags, the samples
//! themselves decide. The likeness is 2·x·y / (x·x + y·y), which is 1 for two equal stretches and
//! less where one is louder than the other, so a note that decays is not like itself.

use std::fmt;
use std::sync::Arc;

use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

/// Seconds of sound before the one that is judged.
pub(super) const REACH_S: usize = 8;

/// A shorter lag is a tone's own period, and every note is like itself a moment ago.
const LAG_MIN_S: f64 = 0.25;

/// The copy has one sample for so many.
const DECIMATION: usize = 4;

/// Lags that are looked at closely.
const N_CANDIDATES: usize = 3;

/// Quieter than this, mean square, there is nothing to repeat: -60 dBFS.
const POWER_MIN: f64 = 1e-6;

/// The transforms for one rate; shared by threads.
pub(super) struct Repeat {
    forward: Arc<dyn RealToComplex<f32>>,
    inverse: Arc<dyn ComplexToReal<f32>>,
    rate_hz: usize,
}

impl fmt::Debug for Repeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repeat").finish_non_exhaustive()
    }
}

/// The best match found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Match {
    /// From below 0 to 1, which is equality.
    pub(super) likeness: f32,
    /// How long ago, in samples.
    pub(super) lag: usize,
}

impl Repeat {
    pub(super) fn new(rate_hz: u32) -> Self {
        let rate_hz = rate_hz as usize;
        let len = ((REACH_S + 1) * rate_hz / DECIMATION).next_power_of_two();
        let mut planner = RealFftPlanner::new();
        Self {
            forward: planner.plan_fft_forward(len),
            inverse: planner.plan_fft_inverse(len),
            rate_hz,
        }
    }

    /// Compares the last second of `samples` with what stands before it, at most
    /// [`REACH_S`] seconds.
    pub(super) fn best(&self, samples: &[f32]) -> Match {
        let n = self.rate_hz;
        let lag_min = (LAG_MIN_S * n as f64) as usize;
        let last = &samples[samples.len() - n..];
        if samples.len() < n + lag_min || dot(last, last) < POWER_MIN * n as f64 {
            return Match::default();
        }
        let mut best = Match::default();
        for coarse in self.candidates(samples, lag_min) {
            let from = coarse.saturating_sub(DECIMATION).max(lag_min);
            let to = (coarse + DECIMATION).min(samples.len() - n);
            for lag in from..=to {
                let start = samples.len() - n - lag;
                let likeness = likeness(last, &samples[start..start + n]);
                if likeness > best.likeness {
                    best = Match { likeness, lag };
                }
            }
        }
        best
    }

    /// The lags at which the decimated copy is most like its last second.
    fn candidates(&self, samples: &[f32], lag_min: usize) -> Vec<usize> {
        let coarse = decimated(samples);
        let n = self.rate_hz / DECIMATION;
        let start = coarse.len() - n;
        let products = self.correlate(&coarse, n);
        let energy = prefix_energy(&coarse);
        let own = energy[start + n] - energy[start];
        let lags = lag_min / DECIMATION..=start;
        let found: Vec<(f32, usize)> = lags
            .map(|lag| {
                let at = start - lag;
                let other = energy[at + n] - energy[at];
                let product = 2.0 * f64::from(products[at]);
                ((product / (own + other).max(1e-12)) as f32, lag)
            })
            .collect();
        let is_peak = |i: usize| {
            let before = i.checked_sub(1).is_none_or(|j| found[j].0 <= found[i].0);
            before && found.get(i + 1).is_none_or(|next| next.0 <= found[i].0)
        };
        let mut peaks: Vec<(f32, usize)> = (0..found.len())
            .filter(|i| is_peak(*i))
            .map(|i| found[i])
            .collect();
        peaks.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let best = peaks.iter().take(N_CANDIDATES);
        best.map(|peak| peak.1 * DECIMATION).collect()
    }

    /// Products of the last `n` samples with as many from every place.
    fn correlate(&self, coarse: &[f32], n: usize) -> Vec<f32> {
        let transform = |samples: &[f32]| {
            let mut input = self.forward.make_input_vec();
            input[..samples.len()].copy_from_slice(samples);
            let mut output = self.forward.make_output_vec();
            let done = self.forward.process(&mut input, &mut output);
            done.expect("the buffers are the transform's own");
            output
        };
        let mut all = transform(coarse);
        let last = transform(&coarse[coarse.len() - n..]);
        for (a, b) in all.iter_mut().zip(&last) {
            *a *= b.conj();
        }
        // Products of reals: only rounding makes these two anything but real.
        let ends = [0, all.len() - 1];
        ends.into_iter().for_each(|end| all[end].im = 0.0);
        let mut products = self.inverse.make_output_vec();
        let done = self.inverse.process(&mut all, &mut products);
        done.expect("the buffers are the transform's own");
        let scale = 1.0 / products.len() as f32;
        products.iter_mut().for_each(|product| *product *= scale);
        products
    }
}

/// Means of neighbours: the ear's octaves up to 1 kHz, where a piano's power is, pass.
fn decimated(samples: &[f32]) -> Vec<f32> {
    let skip = samples.len() % DECIMATION;
    let groups = samples[skip..].chunks_exact(DECIMATION);
    groups
        .map(|group| group.iter().sum::<f32>() / DECIMATION as f32)
        .collect()
}

fn prefix_energy(samples: &[f32]) -> Vec<f64> {
    let mut sum = 0.0;
    let sums = samples.iter().map(|x| {
        sum += f64::from(x * x);
        sum
    });
    std::iter::once(0.0).chain(sums).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    // In eights, which the compiler makes vectors of; the rest is added at the end.
    let mut sums = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a8.remainder().iter().zip(b8.remainder());
    let rest: f32 = rest.map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum += x * y;
        }
    }
    f64::from(sums.iter().sum::<f32>() + rest)
}

fn likeness(x: &[f32], y: &[f32]) -> f32 {
    let energy = dot(x, x) + dot(y, y);
    (2.0 * dot(x, y) / energy.max(1e-12)) as f32
}
