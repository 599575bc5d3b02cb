//! The model as it is trained: a chain of blocks in candle's autograd.
//!
//! The same function as `forward.rs`, the oracle, to which it is compared, as are its gradients.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Result, Tensor, bail};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::blocks::{AttentionBlock, EmbedBlock, HeadBlock, MlpBlock};
use super::inputs::Inputs;
use super::ops::{Attention, Sight, Tiles};
use super::parameters::{self, Parameter};
use crate::model::pattern::Hasher;
use crate::model::{ModelConfig, Rotary, Weights};

/// A model in training, or being measured.
#[derive(Debug)]
pub struct Network {
    /// Its sizes.
    pub config: ModelConfig,
    parameters: Vec<Parameter>,
    /// `[rope_period, K]`
    angles: Tensor,
    /// By layer: what sorts the keys of each KV head, where they are sorted.
    hashers: Vec<Arc<[Hasher]>>,
    /// By layer and window, once they were needed.
    tiles: Mutex<HashMap<(usize, usize), Arc<Tiles>>>,
}

impl Network {
    /// A network that has learned nothing; the seed says which.
    pub fn new(config: &ModelConfig, device: &Device, seed: u64) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let parameters = parameters::plans(config)
            .into_iter()
            .map(|plan| {
                let values = plan.begin(&mut rng);
                plan.build(values, device)
            })
            .collect::<Result<_>>()?;
        Self::of(config, parameters, device)
    }

    /// A network with these weights.
    pub fn from_weights(config: &ModelConfig, weights: &Weights, device: &Device) -> Result<Self> {
        let named: BTreeMap<_, _> = weights.named().into_iter().collect();
        let parameters = parameters::plans(config)
            .into_iter()
            .map(|plan| {
                let mut values = Vec::new();
                for part in plan.parts() {
                    match named.get(&part.name) {
                        Some(tensor) if tensor.len() == part.range.len() => {
                            values.extend_from_slice(tensor);
                        }
                        _ => bail!("the weights hold no {} of this size", part.name),
                    }
                }
                plan.build(values, device)
            })
            .collect::<Result<_>>()?;
        Self::of(config, parameters, device)
    }

    fn of(config: &ModelConfig, parameters: Vec<Parameter>, device: &Device) -> Result<Self> {
        let hashers = config.layers.iter().map(|layer| {
            let heads = layer.hashed(config.n_kv_heads).unwrap_or_default();
            let heads = heads.into_iter();
            heads
                .map(|of| Hasher::new(of, config.head_size()))
                .collect()
        });
        Ok(Self {
            hashers: hashers.collect(),
            angles: angles(config, device)?,
            config: config.clone(),
            parameters,
            tiles: Mutex::default(),
        })
    }

    /// Embedding, attention and MLP of each layer, head.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The mean of −ln p over windows of targets `[B, T]` u8, given the codes before them, the first
    /// of each window [`crate::mulaw::SILENCE`]: a number that has gradients.
    pub fn loss(&self, inputs: &Inputs, targets: &Tensor) -> Result<Tensor> {
        let x = self.trunk(inputs)?;
        self.head().loss(&x, self.last()?, &targets.flatten_all()?)
    }

    /// −ln p of each target `[B, T]`, without a graph.
    pub fn surprise(&self, inputs: &Inputs, targets: &Tensor) -> Result<Tensor> {
        let x = self.trunk_untracked(inputs)?;
        self.head()
            .surprise(&x, self.last()?, &targets.flatten_all()?)?
            .reshape(targets.shape())
    }

    /// The logits `[B, T, V]` f32, without a graph.
    pub fn logits(&self, inputs: &Inputs) -> Result<Tensor> {
        let (b, t) = inputs.dims()?;
        let x = self.trunk_untracked(inputs)?;
        let logits = self.head().logits(&x, self.last()?)?;
        logits.reshape((b, t, crate::model::V))
    }

    /// The tensors of the contract, taken from flat values: the parameters' own, or their averages.
    pub fn weights(&self, values: &[Tensor]) -> Result<Weights> {
        let mut named = BTreeMap::new();
        for (parameter, values) in self.parameters.iter().zip(values) {
            let values = values.to_vec1::<f32>()?;
            for part in &parameter.parts {
                named.insert(part.name.as_str(), values[part.range.clone()].to_vec());
            }
        }
        Weights::gather(&self.config, |name, _| {
            let taken = named.remove(name);
            taken.ok_or_else(|| candle_core::Error::Msg(format!("no tensor {name}")))
        })
    }

    fn trunk(&self, inputs: &Inputs) -> Result<Tensor> {
        self.chain(inputs, |parameter| parameter.value.as_tensor().clone())
    }

    /// The same with nothing kept for a way back.
    fn trunk_untracked(&self, inputs: &Inputs) -> Result<Tensor> {
        self.chain(inputs, |parameter| parameter.value.as_detached_tensor())
    }

    /// The residual stream `[B·T, D]` before the head.
    fn chain(&self, inputs: &Inputs, value: impl Fn(&Parameter) -> Tensor) -> Result<Tensor> {
        let window = inputs.dims()?.1;
        let [embed, middle @ .., _] = self.parameters.as_slice() else {
            bail!("a network has an embedding and a head");
        };
        let waves = inputs.waves()?;
        let width = waves.as_ref().map_or(Ok(0), |waves| waves.dim(1))?;
        if width != self.config.predictor_width() {
            bail!("what was heard was heard with another predictor");
        }
        let block = EmbedBlock {
            d_model: self.config.d_model,
            codes: inputs.codes()?,
            waves,
        };
        let mut x = block.forward(&value(embed))?;
        for (i, pair) in middle.chunks_exact(2).enumerate() {
            x = self.attention(i, window)?.forward(&x, &value(&pair[0]))?;
            x = self.mlp().forward(&x, &value(&pair[1]))?;
        }
        Ok(x)
    }

    fn last(&self) -> Result<&Tensor> {
        match self.parameters.last() {
            Some(head) => Ok(head.value.as_tensor()),
            None => bail!("a network has an embedding and a head"),
        }
    }

    fn attention(&self, layer: usize, window: usize) -> Result<AttentionBlock> {
        let config = &self.config;
        Ok(AttentionBlock {
            d_model: config.d_model,
            conv_width: config.conv_width,
            eps: config.norm_eps,
            attention: Attention {
                n_heads: config.n_heads,
                n_kv_heads: config.n_kv_heads,
                head_size: config.head_size(),
                window,
                sight: self.sight(layer, window),
            },
            angles: self.angles.clone(),
        })
    }

    /// What a layer sees of a window.
    fn sight(&self, layer: usize, window: usize) -> Sight {
        let patterns = &self.config.layers[layer];
        if let Some(spacing) = patterns.spacing() {
            return Sight::Even(spacing);
        }
        let n_groups = self.config.n_kv_heads;
        match patterns.placed(n_groups) {
            Some(heads) => {
                let mut known = self.tiles.lock().unwrap_or_else(PoisonError::into_inner);
                let tiles = known.entry((layer, window));
                let tiles = tiles.or_insert_with(|| Arc::new(Tiles::new(&heads, window)));
                Sight::Tiled(tiles.clone())
            }
            None => Sight::Hashed(self.hashers[layer].clone()),
        }
    }

    fn mlp(&self) -> MlpBlock {
        MlpBlock {
            d_model: self.config.d_model,
            width: self.config.mlp_width(),
            eps: self.config.norm_eps,
        }
    }

    fn head(&self) -> HeadBlock {
        HeadBlock {
            d_model: self.config.d_model,
            eps: self.config.norm_eps,
        }
    }
}

/// `[rope_period, K]`: K/2 cosines, then K/2 sines of each rotation.
fn angles(config: &ModelConfig, device: &Device) -> Result<Tensor> {
    let (period, size) = (config.rope_period, config.head_size());
    let rotary = Rotary::new(period, &config.rope_harmonics);
    let mut all = vec![0.0; period * size];
    for (p, row) in all.chunks_mut(size).enumerate() {
        let (cos, sin) = row.split_at_mut(size / 2);
        rotary.angles(p as u64, cos, sin);
    }
    Tensor::from_vec(all, (period, size), device)
}
