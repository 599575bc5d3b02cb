//! The whole model over a whole excerpt at once, naively, in f32: the oracle.
//!
//! It shares with the engines only the weights, the rule of who sees whom (`Placed::sees`, `Hashed::seen`, and what
//! sorts keys into buckets) and the rotary table;
//! nothing is cached, nothing rolls. Attention is dense with the mask applied in blocks of
//! queries, so memory grows with block · T and time with T².

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, Device, Result, Tensor};

use crate::model::pattern::{Buckets, Hashed, Hasher};
use crate::model::{Head, Layer, Model, ModelConfig, Placed, Rotary, Weights};
use crate::mulaw;
use crate::predictor;

/// Queries that are masked and multiplied at once.
const QUERY_BLOCK: usize = 256;

/// The model's tensors by their names in the contract.
pub type Named = BTreeMap<String, Tensor>;

/// The tensors of `weights`, in the contract's shapes.
pub fn named(config: &ModelConfig, weights: &Weights) -> Result<Named> {
    let values: BTreeMap<_, _> = weights.named().into_iter().collect();
    let mut all = Named::new();
    Weights::gather(config, |name, shape| {
        let values = values.get(name).copied().unwrap_or_default();
        all.insert(name.to_owned(), tensor(values, shape)?);
        Ok::<_, candle_core::Error>(Vec::new())
    })?;
    Ok(all)
}

/// The logits `[T, V]` for every place of `codes` `[T]`, teacher-forced from a cold start.
pub fn logits(model: &Model, codes: &[u8]) -> Result<Tensor> {
    logits_of(&model.config, &named(&model.config, &model.weights)?, codes)
}

/// The same of tensors, which may be variables that want gradients.
pub fn logits_of(config: &ModelConfig, weights: &Named, codes: &[u8]) -> Result<Tensor> {
    let rotary = Rotary::new(config.rope_period, &config.rope_harmonics);
    let inputs: Vec<u8> = std::iter::once(mulaw::SILENCE)
        .chain(codes.iter().copied())
        .take(codes.len())
        .collect();
    let mut x = embed(config, weights, &inputs)?;
    for (i, patterns) in config.layers.iter().enumerate() {
        let layer = |name: &str| &weights[&format!("layers.{i}.{name}")];
        let attended = attention(config, &layer, patterns, &rotary, &x)?;
        x = (x + attended)?;
        x = (&x + mlp(config, &layer, &x)?)?;
    }
    let x = rms_norm(&x, &weights["norm.weight"], config.norm_eps)?;
    linear(&x, &weights["head.weight"])?.broadcast_add(&weights["head.bias"])
}

/// The rows of the codes, with what the predictor expects after each.
fn embed(config: &ModelConfig, weights: &Named, inputs: &[u8]) -> Result<Tensor> {
    let index: Vec<u32> = inputs.iter().copied().map(u32::from).collect();
    let index = Tensor::new(index, &Device::Cpu)?;
    let x = weights["embed.weight"].index_select(&index, 0)?;
    if config.predictor.is_empty() {
        return Ok(x);
    }
    let places = predictor::places(&config.predictor, inputs);
    let waves = predictor::naive_waves(&places);
    let waves = tensor(&waves, &[inputs.len(), config.predictor_width()])?;
    x + linear(&waves, &weights["predictor.weight"])?
}

fn attention<'a>(
    config: &ModelConfig,
    layer: &impl Fn(&str) -> &'a Tensor,
    patterns: &Layer,
    rotary: &Rotary,
    x: &Tensor,
) -> Result<Tensor> {
    let (n_heads, n_kv_heads) = (config.n_heads, config.n_kv_heads);
    let h = rms_norm(x, layer("attn_norm.weight"), config.norm_eps)?;
    let c = convolution(&h, layer("conv.weight"))?;
    let q = heads(&linear(&c, layer("q.weight"))?, n_heads)?;
    let v = heads(&linear(&c, layer("v.weight"))?, n_kv_heads)?;
    let per_group = n_heads / n_kv_heads;
    let mut all = Vec::with_capacity(n_heads);
    for group in 0..n_kv_heads {
        let head = patterns.head(group);
        let own = q.narrow(0, group * per_group, per_group)?;
        let (k, mask) = match head {
            Head::Placed(pattern) => {
                let k = heads(&linear(&c, layer("k.weight"))?, n_kv_heads)?.get(group)?;
                (k, Mask::Placed(pattern.as_ref()))
            }
            Head::Hashed(of) => {
                let k = own.mean(0)?;
                let mask = Mask::Hashed(of, sorted(of, &k)?);
                (norm(&k, config.norm_eps)?, mask)
            }
        };
        let (cos, sin) = angles(head, rotary, config.head_size() / 2, x.dim(0)?)?;
        let k = rotate(&k, &cos, &sin)?;
        for i in 0..per_group {
            let q = rotate(&own.get(i)?, &cos, &sin)?;
            all.push(attend(&mask, &q, &k, &v.get(group)?)?);
        }
    }
    linear(&Tensor::cat(&all, 1)?.contiguous()?, layer("o.weight"))
}

/// The buckets of keys [T, K].
fn sorted(of: &Arc<Hashed>, k: &Tensor) -> Result<Vec<Buckets>> {
    let hasher = Hasher::new(of, k.dim(1)?);
    let keys = k.detach().to_vec2::<f32>()?;
    Ok(keys.iter().map(|key| hasher.sort(key)).collect())
}

/// Who sees whom in one head.
enum Mask<'a> {
    Placed(&'a dyn Placed),
    /// The buckets of every position: no gradient passes through the choice.
    Hashed(&'a Hashed, Vec<Buckets>),
}

impl Mask<'_> {
    /// How often a query sees each of `n` keys.
    fn seen(&self, query: usize, n: usize) -> Vec<f32> {
        match self {
            Self::Placed(of) => of_keys(n, |key| of.sees(query as u64, key)),
            Self::Hashed(of, buckets) => {
                let mut times = vec![0.0; n];
                of.seen(&buckets[..=query], &mut |key| times[key] += 1.0);
                times
            }
        }
    }

    /// To which of `n` keys the gradient of a query passes: 1, or 0.
    fn carried(&self, query: usize, n: usize) -> Vec<f32> {
        match self {
            Self::Placed(of) => of_keys(n, |key| of.carries_gradient(query as u64, key)),
            Self::Hashed(..) => vec![1.0; n],
        }
    }
}

/// 1 for the keys of which it is so, 0 for the others.
fn of_keys(n: usize, is_so: impl Fn(u64) -> bool) -> Vec<f32> {
    (0..n as u64)
        .map(|key| f32::from(u8::from(is_so(key))))
        .collect()
}

/// One head [T, K], dense, the mask asked for each query. Where a gradient shall not pass, keys and
/// values are others of the same value.
fn attend(mask: &Mask<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (n, head_size) = q.dims2()?;
    let mut blocks = Vec::new();
    for first in (0..n).step_by(QUERY_BLOCK) {
        let len = QUERY_BLOCK.min(n - first);
        let rows = |of: &dyn Fn(usize) -> Vec<f32>| {
            tensor(
                &(first..first + len).flat_map(of).collect::<Vec<_>>(),
                &[len, n],
            )
        };
        // What is seen several times has as many shares: its logarithm more.
        let sees = rows(&|query| mask.seen(query, n))?.log()?;
        let carries = rows(&|query| mask.carried(query, n))?;
        let q = (q.narrow(0, first, len)? / (head_size as f64).sqrt())?;
        let scores = both(&carries, &q.matmul(&k.t()?)?, &q.matmul(&k.detach().t()?)?)?;
        let scores = (scores + sees)?;
        let weights = scores
            .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
            .exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        let carried = (&weights * &carries)?;
        let rest = (&weights - &carried)?;
        blocks.push((carried.matmul(v)? + rest.matmul(&v.detach())?)?);
    }
    Tensor::cat(&blocks, 0)
}

/// `a` where `mask` is 1, `b` where it is 0.
fn both(mask: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    (a - b)? * mask + b
}

fn mlp<'a>(
    config: &ModelConfig,
    layer: &impl Fn(&str) -> &'a Tensor,
    x: &Tensor,
) -> Result<Tensor> {
    let m = rms_norm(x, layer("mlp_norm.weight"), config.norm_eps)?;
    let up = linear(&m, layer("up.weight"))?.broadcast_add(layer("up.bias"))?;
    linear(&up.gelu()?, layer("down.weight"))?.broadcast_add(layer("down.bias"))
}

/// Causal and depthwise: tap `W − 1 − j` of `weight` `[D, W]` weighs the position `j` before the
/// present one.
fn convolution(h: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (n, taps) = (h.dim(0)?, weight.dim(1)?);
    let padded = h.pad_with_zeros(0, taps - 1, 0)?;
    let mut c = h.zeros_like()?;
    for tap in 0..taps {
        c = (c + padded
            .narrow(0, tap, n)?
            .broadcast_mul(&weight.narrow(1, tap, 1)?.t()?)?)?;
    }
    Ok(c)
}

fn rms_norm(x: &Tensor, gain: &Tensor, eps: f32) -> Result<Tensor> {
    norm(x, eps)?.broadcast_mul(gain)
}

fn norm(x: &Tensor, eps: f32) -> Result<Tensor> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?;
    x.broadcast_div(&scale)
}

fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}

/// [T, n·K] to [n, T, K].
fn heads(x: &Tensor, n: usize) -> Result<Tensor> {
    let (t, width) = x.dims2()?;
    x.reshape((t, n, width / n))?.transpose(0, 1)?.contiguous()
}

/// cos and sin [T, K/2] of every position's rotation.
fn angles(head: &Head, rotary: &Rotary, half: usize, n: usize) -> Result<(Tensor, Tensor)> {
    let (mut cos, mut sin) = (vec![0.0; n * half], vec![0.0; n * half]);
    for (t, (cos, sin)) in cos.chunks_mut(half).zip(sin.chunks_mut(half)).enumerate() {
        rotary.angles(head.rotation(t as u64), cos, sin);
    }
    Ok((tensor(&cos, &[n, half])?, tensor(&sin, &[n, half])?))
}

/// One head [T, K].
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(1)? / 2;
    let (low, high) = (x.narrow(1, 0, half)?, x.narrow(1, half, half)?);
    let turned_low = ((&low * cos)? - (&high * sin)?)?;
    let turned_high = ((&low * sin)? + (&high * cos)?)?;
    Tensor::cat(&[turned_low, turned_high], 1)?.contiguous()
}

fn tensor(values: &[f32], shape: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(values, shape, &Device::Cpu)
}
