//! The network computes what the oracle computes, and so do its gradients.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use serde_json::{Value, json};

use super::forward::{self, Named};
use super::inputs::{Heard, Inputs};
use super::network::Network;
use crate::model::{ModelConfig, Weights};

/// The tiny model, and one for every kind of layer that it has not, beside a local one; all with
/// weights that matter.
fn models() -> Vec<(ModelConfig, Weights)> {
    let tiny: Value = serde_json::from_str(include_str!("../../models/tiny/config.json")).unwrap();
    let of = |entry: Value| {
        let mut config = tiny.clone();
        config["n_kv_heads"] = json!(2);
        config["n_layers"] = json!(2);
        config["pattern"] = json!([entry, "local"]);
        with_weights(&config)
    };
    let kinds = [
        json!({"kind": "fixed", "block": 8, "blocks": 4, "summary": 3}),
        json!(["dilated", {"kind": "dilated", "window": 5, "dilation": 3}]),
        json!({"kind": "global", "anchors": 5, "beside": {"kind": "memory", "segment": 9}}),
        json!({"kind": "random", "block": 5, "blocks": 6, "r": 2, "seed": 4}),
        json!({"kind": "block_sparse", "block": 4, "layout": [[0, 1], [0, 2, 7]]}),
        json!({"kind": "memory", "segment": 16}),
        json!("latent"),
        json!({"kind": "hashed", "window": 30, "rounds": 2, "buckets": 4, "keys": 3, "seed": 1}),
        json!([{"kind": "hashed", "window": 32, "rounds": 1, "buckets": 6, "keys": 5, "seed": 2},
            {"kind": "hashed", "window": 9, "rounds": 3, "buckets": 2, "keys": 2, "seed": 3}]),
        json!(["strided", {"kind": "fixed", "block": 6, "blocks": 5, "summary": 1, "sub_block": 1}]),
    ];
    std::iter::once(with_weights(&tiny))
        .chain(kinds.map(of))
        .collect()
}

fn with_weights(config: &Value) -> (ModelConfig, Weights) {
    let config = ModelConfig::parse(&config.to_string()).unwrap();
    let mut state = 7u64;
    let weights = Weights::gather(&config, |name, shape| {
        let n: usize = shape.iter().product();
        let values = (0..n).map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            let x = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
            match name.contains("norm") {
                true => 1.0 + x,
                false => x * 0.8,
            }
        });
        Ok::<_, ()>(values.collect())
    });
    (config, weights.unwrap())
}

fn codes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * i * 7 + i * 31) as u8).collect()
}

fn shifted(codes: &[u8]) -> Vec<u8> {
    let mut inputs = vec![crate::mulaw::SILENCE];
    inputs.extend(&codes[..codes.len() - 1]);
    inputs
}

/// Windows on the CPU.
fn heard(config: &ModelConfig, codes: Vec<u8>, window: usize) -> Inputs {
    let heard = Heard::new(&config.predictor, codes, window);
    heard.on(&Device::Cpu).unwrap()
}

/// ‖a − b‖ / ‖b‖.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let norm = |it: &mut dyn Iterator<Item = f32>| it.map(|x| x * x).sum::<f32>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(1e-12)
}

#[test]
fn the_network_computes_the_oracles_logits_in_every_window() {
    for (config, weights) in models() {
        assert_logits_are_the_oracles(&config, &weights);
    }
}

fn assert_logits_are_the_oracles(config: &ModelConfig, weights: &Weights) {
    let network = Network::from_weights(config, weights, &Device::Cpu).unwrap();
    let tensors = forward::named(config, weights).unwrap();
    // Not a multiple of any stride; the second window must not see the first.
    let (first, second) = (codes(75), codes(150)[75..].to_vec());
    let inputs = [shifted(&first), shifted(&second)].concat();
    let inputs = heard(config, inputs, 75);
    let logits = network.logits(&inputs).unwrap();
    for (i, codes) in [first, second].iter().enumerate() {
        let expected = forward::logits_of(config, &tensors, codes).unwrap();
        let got = logits.get(i).unwrap().flatten_all().unwrap();
        let distance = distance(
            &got.to_vec1().unwrap(),
            &expected.flatten_all().unwrap().to_vec1().unwrap(),
        );
        assert!(
            distance < 1e-5,
            "{:?}, window {i}: {distance}",
            config.layers
        );
    }
}

#[test]
fn gradients_are_those_of_candles_dense_autograd() {
    for (config, weights) in models() {
        assert_gradients_are_the_oracles(&config, &weights);
    }
}

fn assert_gradients_are_the_oracles(config: &ModelConfig, weights: &Weights) {
    let network = Network::from_weights(config, weights, &Device::Cpu).unwrap();
    let targets = codes(75);
    let batch = |codes| Tensor::from_vec(codes, (1, 75), &Device::Cpu).unwrap();
    let loss = network
        .loss(
            &heard(config, shifted(&targets), 75),
            &batch(targets.clone()),
        )
        .unwrap();
    let gradients = loss.backward().unwrap();
    let flat: Vec<_> = network
        .parameters()
        .iter()
        .map(|p| gradients.get(&p.value).unwrap().clone())
        .collect();
    let own = network.weights(&flat).unwrap();

    let variables: BTreeMap<String, Var> = forward::named(config, weights)
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| (name, Var::from_tensor(&tensor).unwrap()))
        .collect();
    let tensors: Named = variables
        .iter()
        .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
        .collect();
    let logits = forward::logits_of(config, &tensors, &targets).unwrap();
    let dense = cross_entropy(&logits, &targets);
    let (a, b) = (
        loss.to_scalar::<f32>().unwrap(),
        dense.to_scalar::<f32>().unwrap(),
    );
    assert!((a - b).abs() < 1e-5, "{a} {b}");
    let gradients = dense.backward().unwrap();
    for (name, own) in own.named() {
        let expected = gradients.get(&variables[&name]).unwrap();
        let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
        let distance = distance(own, &expected);
        assert!(distance < 1e-4, "{:?}, {name}: {distance}", config.layers);
    }
}

/// The mean of −ln p, by operations that candle differentiates itself.
fn cross_entropy(logits: &Tensor, targets: &[u8]) -> Tensor {
    let most = logits.max_keepdim(1).unwrap().detach();
    let shifted = logits.broadcast_sub(&most).unwrap();
    let sum = shifted.exp().unwrap().sum_keepdim(1).unwrap();
    let log_p = shifted.broadcast_sub(&sum.log().unwrap()).unwrap();
    let index: Vec<u32> = targets.iter().map(|t| u32::from(*t)).collect();
    let index = Tensor::from_vec(index, (targets.len(), 1), logits.device()).unwrap();
    log_p
        .gather(&index, 1)
        .unwrap()
        .mean_all()
        .unwrap()
        .neg()
        .unwrap()
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let (config, weights) = models().swap_remove(0);
    let network = Network::from_weights(&config, &weights, &Device::Cpu).unwrap();
    let targets = codes(40);
    let batch = |codes| Tensor::from_vec(codes, (1, 40), &Device::Cpu).unwrap();
    let (inputs, targets) = (heard(&config, shifted(&targets), 40), batch(targets));
    let loss = || network.loss(&inputs, &targets).unwrap();
    let gradients = loss().backward().unwrap();
    for parameter in network.parameters() {
        let before: Vec<f32> = parameter.value.to_vec1().unwrap();
        let gradient = gradients.get(&parameter.value).unwrap();
        let gradient: Vec<f32> = gradient.to_vec1().unwrap();
        let length = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
        // Along the gradient itself the loss climbs fastest, by its length.
        let at = |step: f32| {
            let moved = before.iter().zip(&gradient);
            let moved: Vec<f32> = moved.map(|(x, g)| x + step * g / length).collect();
            let moved = Tensor::from_vec(moved, before.len(), &Device::Cpu).unwrap();
            parameter.value.set(&moved).unwrap();
            loss().to_scalar::<f32>().unwrap()
        };
        let slope = (at(0.01) - at(-0.01)) / 0.02;
        at(0.0);
        let off = (slope / length - 1.0).abs();
        assert!(off < 0.02, "{}: {slope} {length}", parameter.name);
    }
}

#[test]
fn weights_survive_the_way_into_the_network_and_back() {
    let (config, weights) = models().swap_remove(0);
    let network = Network::from_weights(&config, &weights, &Device::Cpu).unwrap();
    let values: Vec<_> = network
        .parameters()
        .iter()
        .map(|p| p.value.as_tensor().clone())
        .collect();
    let back = network.weights(&values).unwrap();
    assert_eq!(back.named(), weights.named());
}
