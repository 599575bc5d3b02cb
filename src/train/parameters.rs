//! Where each tensor of the model lies in the flat parameters that training keeps.
//!
//! A block of the network has one parameter: all its tensors, one after another, in f32. So a
//! block has one gradient and the optimiser few calls. The names are those of the contract
//! (`docs/model.md`).

use std::ops::Range;

use candle_core::{Device, Result, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::model::{ModelConfig, V};

/// One flat parameter.
#[derive(Debug)]
pub struct Parameter {
    /// Its block's name.
    pub name: String,
    /// All its values `[n]` f32.
    pub value: Var,
    /// 1 where weight decay applies, 0 elsewhere, `[n]` f32.
    pub decayed: Tensor,
    /// What lies where.
    pub parts: Vec<Part>,
}

/// One tensor of the contract within a parameter.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name in `model.safetensors`.
    pub name: String,
    /// Its place in the parameter.
    pub range: Range<usize>,
    start: Start,
}

/// How a tensor begins.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// All the same.
    Fill(f32),
    /// Normal, of this deviation.
    Normal(f64),
    /// A convolution of so many taps that changes nothing.
    Identity(usize),
}

impl Start {
    /// Matrices decay; norms, biases, convolutions and the embedding do not.
    fn values(self, n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        match self {
            Self::Fill(value) => vec![value; n],
            Self::Normal(deviation) => (0..n)
                .map(|_| {
                    let x: f64 = StandardNormal.sample(rng);
                    (x * deviation) as f32
                })
                .collect(),
            Self::Identity(taps) => (0..n)
                .map(|i| if i % taps == taps - 1 { 1.0 } else { 0.0 })
                .collect(),
        }
    }
}

/// A parameter's tensors, being listed.
pub struct Plan {
    name: String,
    parts: Vec<(Part, bool)>,
}

impl Plan {
    fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            parts: Vec::new(),
        }
    }

    fn part(mut self, name: &str, n: usize, start: Start, decays: bool) -> Self {
        let begin = self.parts.last().map_or(0, |(part, _)| part.range.end);
        let part = Part {
            name: name.to_owned(),
            range: begin..begin + n,
            start,
        };
        self.parts.push((part, decays));
        self
    }

    /// Fresh values.
    pub fn begin(&self, rng: &mut ChaCha8Rng) -> Vec<f32> {
        self.parts
            .iter()
            .flat_map(|(part, _)| part.start.values(part.range.len(), rng))
            .collect()
    }

    /// The parts, in order.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().map(|(part, _)| part)
    }

    /// The parameter with these values.
    pub fn build(self, values: Vec<f32>, device: &Device) -> Result<Parameter> {
        let decayed: Vec<f32> = self
            .parts
            .iter()
            .flat_map(|(part, decays)| vec![f32::from(u8::from(*decays)); part.range.len()])
            .collect();
        let n = decayed.len();
        Ok(Parameter {
            name: self.name,
            value: Var::from_vec(values, n, device)?,
            decayed: Tensor::from_vec(decayed, n, device)?,
            parts: self.parts.into_iter().map(|(part, _)| part).collect(),
        })
    }
}

/// The plans of a whole model in the order of the network: embedding, attention and MLP of each
/// layer, head. The start is that of the reference recipe: residual branches scaled down by the
/// number of them, logits that say nothing.
pub fn plans(config: &ModelConfig) -> Vec<Plan> {
    let d = config.d_model;
    let mut all = vec![embed(config)];
    for i in 0..config.n_layers() {
        all.push(attention(config, i));
        all.push(mlp(config, i));
    }
    all.push(
        Plan::new("head")
            .part("norm.weight", d, Start::Fill(1.0), false)
            .part("head.bias", V, Start::Fill(0.0), false)
            .part("head.weight", V * d, Start::Fill(0.0), true),
    );
    all
}

/// The table of codes, and the matrix of what the predictor expects.
fn embed(config: &ModelConfig) -> Plan {
    let d = config.d_model;
    let plan = Plan::new("embed").part("embed.weight", V * d, Start::Normal(0.5), false);
    match config.predictor_width() {
        0 => plan,
        width => {
            let start = Start::Normal(0.5 * (width as f64).powf(-0.5));
            plan.part("predictor.weight", d * width, start, false)
        }
    }
}

/// Norm, convolution, queries, keys and values as one matrix, output.
fn attention(config: &ModelConfig, i: usize) -> Plan {
    let (d, taps) = (config.d_model, config.conv_width);
    let (q, kv) = (config.n_heads * config.head_size(), config.kv_width());
    let name = |tensor: &str| format!("layers.{i}.{tensor}.weight");
    let fan = |n: usize| Start::Normal((n as f64).powf(-0.5));
    let plan = Plan::new(format!("layers.{i}.attention"))
        .part(&name("attn_norm"), d, Start::Fill(1.0), false)
        .part(&name("conv"), d * taps, Start::Identity(taps), false)
        .part(&name("q"), q * d, fan(d), true);
    let plan = match config.layers[i].shares_queries() {
        true => plan,
        false => plan.part(&name("k"), kv * d, fan(d), true),
    };
    plan.part(&name("v"), kv * d, fan(d), true).part(
        &name("o"),
        d * q,
        fan(q * 2 * config.n_layers()),
        true,
    )
}

fn mlp(config: &ModelConfig, i: usize) -> Plan {
    let (d, f) = (config.d_model, config.mlp_width());
    let name = |tensor: &str| format!("layers.{i}.{tensor}");
    let fan = |n: usize| Start::Normal((n as f64).powf(-0.5));
    Plan::new(format!("layers.{i}.mlp"))
        .part(&name("mlp_norm.weight"), d, Start::Fill(1.0), false)
        .part(&name("up.bias"), f, Start::Fill(0.0), false)
        .part(&name("down.bias"), d, Start::Fill(0.0), false)
        .part(&name("up.weight"), f * d, fan(d), true)
        .part(
            &name("down.weight"),
            d * f,
            fan(f * 2 * config.n_layers()),
            true,
        )
}
