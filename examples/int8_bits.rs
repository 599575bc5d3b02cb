//! What integers cost a model in bits per sample: the engine that plays, and the naive one in f32, on the
//! same windows of a corpus, each from a cold start.
//!
//! ```sh
//! cargo run --release --example int8_bits -- MODEL CORPUS test 12
//! ```
//!
//! The last number says on how many windows of the protocol (`docs/training.md`).

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use longwave::engine::{self, Decoder, NaiveDecoder, Settings};
use longwave::eval::WINDOW;
use longwave::model::Model;
use longwave::train::{codes, spread};
use rayon::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, corpus, split, n_windows] = &args[..] else {
        return Err("give a model, a corpus, a split and a number of windows".into());
    };
    let model = Arc::new(Model::load(&PathBuf::from(model))?);
    let rate_hz = model.config.sample_rate_hz;
    let silence = codes::Gap::Silence;
    let codes = codes::read(
        &PathBuf::from(corpus),
        split.parse()?,
        rate_hz,
        silence,
        &mut |_| ControlFlow::Continue(()),
    )?;
    let last = codes.len().checked_sub(WINDOW + 2).ok_or("too short")?;
    let starts: Vec<usize> = spread(last, n_windows.parse()?).collect();
    let both: Vec<[f64; 2]> = starts
        .par_iter()
        .map(|&start| bits_of_both(&model, &codes[start..][..WINDOW]))
        .collect();
    let costs: Vec<f64> = both.iter().map(|[f32, int8]| int8 - f32).collect();
    println!(
        "{:.4} bits in f32, {:.4} in int8: {:+.4} (windows from {:+.4} to {:+.4})",
        mean(both.iter().map(|[f32, _]| *f32)),
        mean(both.iter().map(|[_, int8]| *int8)),
        mean(costs.iter().copied()),
        costs.iter().copied().fold(f64::INFINITY, f64::min),
        costs.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    );
    Ok(())
}

/// The mean of −log2 p over a window, in f32 and in int8.
fn bits_of_both(model: &Arc<Model>, codes: &[u8]) -> [f64; 2] {
    let mut naive = NaiveDecoder::new(model.clone(), 1);
    let int8 = engine::open(model, &Settings::default(), 1);
    let mut int8 = int8.expect("the best of this CPU");
    [bits_of(&mut naive, codes), bits_of(int8.as_mut(), codes)]
}

fn bits_of(engine: &mut dyn Decoder, codes: &[u8]) -> f64 {
    let mut bits = 0.0;
    engine.score(0, codes, &mut |at, logits| {
        bits += surprise(logits, codes[at])
    });
    bits / codes.len() as f64
}

/// −log2 p of a code.
fn surprise(logits: &[f32], code: u8) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - top).exp())
        .sum();
    (sum.ln() - f64::from(logits[usize::from(code)] - top)) / std::f64::consts::LN_2
}

fn mean(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = numbers.len() as f64;
    numbers.sum::<f64>() / n
}
