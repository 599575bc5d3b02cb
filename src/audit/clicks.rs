//! Single samples that do not belong: clicks.
//!
//! Music as dark as a piano's is nearly a cubic within five samples, so a sample is compared with
//! the cubic through its four neighbours (interpolation error, as in Godsill & Rayner, *Digital
//! Audio Restoration*, 1998, ch. 5, with a fixed interpolator in place of a fitted one). What is
//! left of a clean sample is the codes' own rounding and the sound's own noise; a click stands out
//! of both, alone, and in the shape that the interpolator gives a single impulse.

/// Samples on either side that a judgement looks at.
pub(super) const MARGIN: usize = 40;

/// The error of the samples just beside a click is the click's.
const NEAR: usize = 5;

/// What the interpolator makes of an impulse of height 1.
const SHAPE: [f32; 5] = [1.0 / 6.0, -4.0 / 6.0, 1.0, -4.0 / 6.0, 1.0 / 6.0];

/// How much of the error around a click must have that shape (the square of a correlation): an
/// onset's noise has it by chance only.
const LIKENESS_MIN: f32 = 0.5;

/// The loudest click of a stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Click {
    /// How far the sample is from where its neighbours put it, as a multiple of the mean distance
    /// around it and half the codes' step there.
    pub(super) ratio: f32,
    /// Index of the sample.
    pub(super) at: usize,
}

/// Looks at `samples[MARGIN..len - MARGIN]`; indices count from the first of these.
pub(super) fn loudest(samples: &[f32]) -> Click {
    let error = errors(samples);
    let sums = prefix_sums(&error);
    let mean_around = |at: usize| {
        let far = sums[at + MARGIN + 1] - sums[at - MARGIN];
        let near = sums[at + NEAR + 1] - sums[at - NEAR];
        ((far - near) / (2 * (MARGIN - NEAR)) as f64) as f32
    };
    // The samples beside a click are off, too, but less.
    let is_peak = |at: usize| {
        let beside = error[at - 1].abs().max(error[at + 1].abs());
        error[at].abs() > beside
    };
    let mut loudest = Click::default();
    for at in (MARGIN..samples.len() - MARGIN).filter(|at| is_peak(*at)) {
        let step = step(samples[at] - error[at]);
        let ratio = error[at].abs() / (mean_around(at) + 0.5 * step);
        if ratio > loudest.ratio && likeness(&error[at - 4..=at + 4]) > LIKENESS_MIN {
            loudest = Click {
                ratio,
                at: at - MARGIN,
            };
        }
    }
    loudest
}

/// The distance of every sample from the cubic through its neighbours.
fn errors(samples: &[f32]) -> Vec<f32> {
    let mut errors = vec![0.0; samples.len()];
    for (error, x) in errors[2..].iter_mut().zip(samples.windows(5)) {
        *error = x[2] - (4.0 * (x[1] + x[3]) - (x[0] + x[4])) / 6.0;
    }
    errors
}

fn prefix_sums(error: &[f32]) -> Vec<f64> {
    let mut sum = 0.0;
    let sums = error.iter().map(|e| {
        sum += f64::from(e.abs());
        sum
    });
    std::iter::once(0.0).chain(sums).collect()
}

/// The distance of neighbouring codes near a sample: the slope of mu-law.
fn step(sample: f32) -> f32 {
    (sample.abs().min(1.0) + 1.0 / 255.0) * 256f32.ln() / 127.5
}

/// Which share of nine errors' energy is that of an impulse in their middle.
fn likeness(error: &[f32]) -> f32 {
    let energy: f32 = error.iter().map(|e| e * e).sum();
    let along: f32 = error[2..7].iter().zip(SHAPE).map(|(e, s)| e * s).sum();
    let of_shape: f32 = SHAPE.iter().map(|s| s * s).sum();
    along * along / (of_shape * energy).max(f32::MIN_POSITIVE)
}
