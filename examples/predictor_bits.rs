//! What adaptive filters alone know of a corpus, without any network: bits per sample on the windows
//! of the protocol (`docs/training.md`).
//!
//! ```sh
//! cargo run --release --example predictor_bits -- CORPUS test 1024:0.05 1024:0.05 512:0.1 128:0.1 16:0.05
//! ```
//!
//! Each sum of filters offers logistic distributions around its place, of widths that are multiples of
//! how far it has been off lately; they are mixed by how well each has done. Told as well is how often a
//! recording goes where a stream would not be let go: beyond the reach of `docs/model.md`, *Drawing*.

use std::ops::ControlFlow;
use std::path::PathBuf;

use longwave::compute::Plain;
use longwave::corpus::Split;
use longwave::eval::WINDOW;
use longwave::predictor::{self, FilterPlan, Predictor};
use longwave::train::{codes, spread};
use rayon::prelude::*;

const WIDTHS: [f32; 9] = [0.15, 0.22, 0.32, 0.45, 0.65, 0.9, 1.3, 1.9, 3.0];
const WINDOWS: usize = 48;
/// Codes of a window after which the filters have found the sound.
const COLD: usize = 8_192;
/// What a mixture keeps of what it has learned, at each code.
const KEPT: f32 = 0.995;
/// How fast the mean distance of samples from what was expected forgets.
const RATE: f32 = 0.08;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "give a corpus, a split and filters as TAPS:RATE or TAPS:RATE:LEAK";
    let corpus = PathBuf::from(args.next().ok_or(usage)?);
    let split: Split = args.next().ok_or(usage)?.parse()?;
    let plan: Vec<FilterPlan> = args
        .map(|arg| filter(&arg).ok_or(usage))
        .collect::<Result<_, _>>()?;
    predictor::check(&plan)?;
    if plan.is_empty() {
        return Err(usage.into());
    }
    let silence = codes::Gap::Silence;
    let codes = codes::read(&corpus, split, 16_000, silence, &mut |_| {
        ControlFlow::Continue(())
    })?;
    let last = codes.len().checked_sub(WINDOW + 2).ok_or("too short")?;
    let starts: Vec<usize> = spread(last, WINDOWS).collect();
    let bits: f64 = starts
        .par_iter()
        .map(|&start| bits_of(&plan, &codes[start..][..WINDOW]))
        .sum();
    println!("{:.3} bits per sample", bits / WINDOWS as f64);
    for (may_leap, max_click, what) in [
        (true, None, "reach"),
        (false, None, "that of a stream that may not leap"),
        (false, Some(3.5), "it, or where clicks are held to 3.5"),
    ] {
        let beyond: usize = starts
            .par_iter()
            .map(|&start| n_beyond(&plan, &codes[start..][..WINDOW], may_leap, max_click))
            .sum();
        println!(
            "1 code of {:.0} beyond {what}",
            n_heard(starts.len()) / beyond as f64
        );
    }
    Ok(())
}

/// Codes of so many windows whose filters are no longer cold.
fn n_heard(n_windows: usize) -> f64 {
    (n_windows * (WINDOW - COLD)) as f64
}

/// How many of them lie beyond reach.
fn n_beyond(plan: &[FilterPlan], codes: &[u8], may_leap: bool, max_click: Option<f32>) -> usize {
    let mut predictor = Predictor::of(plan).expect("a cascade that has filters");
    let mut is_beyond = |code: &u8| {
        let is_beyond = !predictor
            .within_reach::<Plain>(may_leap, max_click)
            .contains(code);
        predictor.hear::<Plain>(*code);
        is_beyond
    };
    codes
        .iter()
        .enumerate()
        .filter(|(at, code)| is_beyond(code) && *at >= COLD)
        .count()
}

fn filter(text: &str) -> Option<FilterPlan> {
    let mut parts = text.split(':');
    let (taps, rate, leak) = (parts.next()?, parts.next()?, parts.next());
    Some(FilterPlan {
        taps: taps.parse().ok()?,
        rate: rate.parse().ok()?,
        leak: leak.unwrap_or("0").parse().ok()?,
    })
}

/// The mean of −log2 p over a window that starts cold.
fn bits_of(plan: &[FilterPlan], codes: &[u8]) -> f64 {
    let n_sums = plan.len();
    let inputs = [&[longwave::mulaw::SILENCE], &codes[..codes.len() - 1]].concat();
    let places = predictor::places(plan, &inputs);
    let mut off = vec![0.01f32; n_sums];
    let mut weights = vec![1.0 / (n_sums * WIDTHS.len()) as f32; n_sums * WIDTHS.len()];
    let mut bits = 0.0;
    for (code, places) in codes.iter().zip(places.chunks_exact(n_sums + 1)) {
        let expected = |i: usize| sample(places[i] * 256.0);
        let p: Vec<f32> = (0..n_sums)
            .flat_map(|i| WIDTHS.map(|width| share(*code, expected(i), off[i] * width)))
            .collect();
        let mixed: f32 = weights.iter().zip(&p).map(|(w, p)| w * p).sum();
        bits -= f64::from(mixed).log2();
        for (weight, p) in weights.iter_mut().zip(&p) {
            *weight = (*weight * p / mixed).powf(KEPT) + 1e-6;
        }
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
        for (i, off) in off.iter_mut().enumerate() {
            *off += RATE * ((expected(i) - sample(f32::from(*code))).abs() - *off);
        }
    }
    bits / codes.len() as f64
}

/// The sample that stands at a place between codes.
fn sample(code: f32) -> f32 {
    let y = code / 255.0 * 2.0 - 1.0;
    y.signum() * (256f32.powf(y.abs()) - 1.0) / 255.0
}

/// The share of a logistic distribution of samples that falls to a code, with a little for every other.
fn share(code: u8, middle: f32, width: f32) -> f32 {
    let below = |edge: f32| 1.0 / (1.0 + (-(sample(edge) - middle) / (width + 2e-6)).exp());
    let code = f32::from(code);
    let low = if code == 0.0 { 0.0 } else { below(code - 0.5) };
    let high = if code == 255.0 {
        1.0
    } else {
        below(code + 0.5)
    };
    (high - low).max(0.0) * 0.999 + 0.001 / 256.0
}
