//! Every engine against golden outputs of an independent implementation, and the model that is
//! shipped against itself: as it was trained, as it is decoded, in f32 and in int8.
//!
//! The first 4,096 positions by default; `LONGWAVE_GOLDEN_POSITIONS=65536` for all of them, best in
//! release.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use longwave::engine::{self, Decoder, NaiveDecoder, Settings};
use longwave::model::{Model, V};
use longwave::train::{Heard, Network, forward};
use safetensors::SafeTensors;

/// Mean bits per code over the whole excerpt.
const MEAN_BITS: f64 = 1.8271;

struct Golden {
    codes: Vec<u8>,
    /// Positions and logits [V] there.
    logits: Vec<(usize, Vec<f32>)>,
    nll_bits: Vec<f32>,
}

impl Golden {
    fn load() -> Self {
        let bytes = std::fs::read("tests/golden/outputs.safetensors").unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| -> Vec<[u8; 4]> {
            file.tensor(name).unwrap().data().as_chunks().0.to_vec()
        };
        let floats = |name| {
            words(name)
                .into_iter()
                .map(f32::from_le_bytes)
                .collect::<Vec<_>>()
        };
        let index = words("index")
            .into_iter()
            .map(|word| i32::from_le_bytes(word) as usize);
        let logits = floats("logits");
        Self {
            codes: file.tensor("codes").unwrap().data().to_vec(),
            logits: index
                .zip(logits.chunks_exact(V).map(<[f32]>::to_vec))
                .collect(),
            nll_bits: floats("nll_bits"),
        }
    }
}

fn positions() -> usize {
    std::env::var("LONGWAVE_GOLDEN_POSITIONS").map_or(4096, |n| n.parse().unwrap())
}

fn reference() -> Arc<Model> {
    Arc::new(Model::load(Path::new("tests/golden/reference")).unwrap())
}

fn shipped() -> Arc<Model> {
    Arc::new(Model::load(Path::new("models/piano-16k")).unwrap())
}

fn bits(logits: &[f32], code: u8) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - top).exp())
        .sum();
    (sum.ln() - f64::from(logits[usize::from(code)] - top)) / std::f64::consts::LN_2
}

/// What an engine said about the first `n` codes of the excerpt.
struct Verdict {
    mean_bits: f64,
    /// The largest difference to a golden logit, and to a golden bit count.
    worst_logit: f32,
    worst_bits: f64,
    n_compared: usize,
}

fn judge(
    golden: &Golden,
    n: usize,
    mut logits_at: impl FnMut(&mut dyn FnMut(usize, &[f32])),
) -> Verdict {
    let mut verdict = Verdict {
        mean_bits: 0.0,
        worst_logit: 0.0,
        worst_bits: 0.0,
        n_compared: 0,
    };
    logits_at(&mut |at, logits| {
        let own = bits(logits, golden.codes[at]);
        verdict.mean_bits += own / n as f64;
        verdict.worst_bits = verdict
            .worst_bits
            .max((own - f64::from(golden.nll_bits[at])).abs());
        for (_, expected) in golden.logits.iter().filter(|(index, _)| *index == at) {
            verdict.n_compared += 1;
            for (own, expected) in logits.iter().zip(expected) {
                verdict.worst_logit = verdict.worst_logit.max((own - expected).abs());
            }
        }
    });
    verdict
}

fn expect_exact(verdict: &Verdict) {
    assert!(verdict.n_compared > 0);
    assert!(
        verdict.worst_logit < 1e-3,
        "logits differ by {}",
        verdict.worst_logit
    );
    assert!(
        verdict.worst_bits < 2e-3,
        "bits differ by {}",
        verdict.worst_bits
    );
}

#[test]
fn the_candle_oracle_gives_the_golden_logits() {
    let golden = Golden::load();
    let n = 4096;
    let logits = forward::logits(&reference(), &golden.codes[..n])
        .unwrap()
        .to_vec2()
        .unwrap();
    expect_exact(&judge(&golden, n, |see| {
        logits
            .iter()
            .enumerate()
            .for_each(|(at, logits): (_, &Vec<f32>)| see(at, logits));
    }));
}

#[test]
fn the_naive_engine_gives_the_golden_logits_and_bits() {
    let golden = Golden::load();
    let n = positions();
    let mut engine = NaiveDecoder::new(reference(), 1);
    let verdict = judge(&golden, n, |see| engine.score(0, &golden.codes[..n], see));
    expect_exact(&verdict);
    if n == golden.codes.len() {
        assert!(
            (verdict.mean_bits - MEAN_BITS).abs() < 1e-3,
            "{} bits",
            verdict.mean_bits
        );
    }
}

#[test]
fn int8_costs_at_most_a_hundredth_of_a_bit() {
    let golden = Golden::load();
    let n = positions();
    let expected = golden.nll_bits[..n]
        .iter()
        .map(|b| f64::from(*b))
        .sum::<f64>()
        / n as f64;
    let mut engine = engine::open(&reference(), &Settings::default(), 1).unwrap();
    let verdict = judge(&golden, n, |see| engine.score(0, &golden.codes[..n], see));
    let cost = verdict.mean_bits - expected;
    println!(
        "int8 on {}: {:.4} bits, {cost:+.4} against f32",
        engine.isa(),
        verdict.mean_bits
    );
    assert!(cost.abs() < 0.01, "int8 costs {cost} bits per sample");
}

/// −log2 p of each of `codes` by an engine that steps.
fn bits_of(engine: &mut dyn Decoder, codes: &[u8]) -> Vec<f64> {
    let mut all = Vec::with_capacity(codes.len());
    engine.score(0, codes, &mut |at, logits| {
        all.push(bits(logits, codes[at]));
    });
    all
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn the_shipped_model_decodes_as_it_was_trained() {
    let (model, golden) = (shipped(), Golden::load());
    let codes = &golden.codes[..positions()];
    let mut inputs = vec![longwave::mulaw::SILENCE];
    inputs.extend(&codes[..codes.len() - 1]);
    let batch = |codes: &[u8]| Tensor::from_slice(codes, (1, codes.len()), &Device::Cpu).unwrap();
    let network = Network::from_weights(&model.config, &model.weights, &Device::Cpu).unwrap();
    let inputs = Heard::new(&model.config.predictor, inputs, codes.len());
    let inputs = inputs.on(&Device::Cpu).unwrap();
    let trained = network.surprise(&inputs, &batch(codes)).unwrap();
    let trained: Vec<f32> = trained.flatten_all().unwrap().to_vec1().unwrap();
    let decoded = bits_of(&mut NaiveDecoder::new(model.clone(), 1), codes);
    for (at, (nats, bits)) in trained.iter().zip(&decoded).enumerate() {
        let off = (f64::from(*nats) / std::f64::consts::LN_2 - bits).abs();
        assert!(off < 2e-3, "position {at}: {off} bits");
    }
    let mut engine = engine::open(&model, &Settings::default(), 1).unwrap();
    let cost = mean(&bits_of(engine.as_mut(), codes)) - mean(&decoded);
    println!("int8 costs the shipped model {cost:+.4} bits");
    assert!(cost.abs() < 0.02, "int8 costs {cost} bits per sample");
}
