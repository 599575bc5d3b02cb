//! `model.safetensors`: every tensor named, shaped and finite, or the file is refused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::safetensors::Load;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sha2::{Digest, Sha256};

use super::{ModelConfig, ModelError, V};
use crate::files;

/// All tensors of a model in f32, row-major, matrices as [out, in].
#[derive(Clone, Debug)]
pub struct Weights {
    /// `[V, D]`
    pub embed: Vec<f32>,
    /// `[D, predictor_width]`; empty without a predictor.
    pub predictor: Vec<f32>,
    /// `L` of them.
    pub layers: Vec<LayerWeights>,
    /// `[D]`
    pub norm: Vec<f32>,
    /// `[V, D]`
    pub head: Vec<f32>,
    /// `[V]`
    pub head_bias: Vec<f32>,
}

/// The tensors of one layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// `[D]`
    pub attn_norm: Vec<f32>,
    /// `[D, W]`, the tap of the present position last.
    pub conv: Vec<f32>,
    /// `[H·K, D]`
    pub q: Vec<f32>,
    /// `[G·K, D]`; empty where [queries are shared](super::Layer::shares_queries).
    pub k: Vec<f32>,
    /// `[G·K, D]`
    pub v: Vec<f32>,
    /// `[D, H·K]`
    pub o: Vec<f32>,
    /// `[D]`
    pub mlp_norm: Vec<f32>,
    /// `[F, D]`
    pub up: Vec<f32>,
    /// `[F]`
    pub up_bias: Vec<f32>,
    /// `[D, F]`
    pub down: Vec<f32>,
    /// `[D]`
    pub down_bias: Vec<f32>,
}

/// No model of this kind is larger; a file that claims to be is not read into memory.
const MAX_BYTES: u64 = 4 << 30;

/// Reads the weights and the SHA-256 of their file.
pub(super) fn load(path: &Path, config: &ModelConfig) -> Result<(Weights, String), ModelError> {
    let read = |source| ModelError::Read {
        path: path.into(),
        source,
    };
    let refuse = |reason| ModelError::Weights {
        path: path.into(),
        reason,
    };
    let bytes = read_up_to(path, MAX_BYTES).map_err(read)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(refuse(format!(
            "more than {MAX_BYTES} bytes; no model of this kind is so large"
        )));
    }
    let weights = parse(&bytes, config).map_err(refuse)?;
    let sha256 = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok((weights, sha256))
}

/// The file, or a byte more than `most` of it: what is no file may have no end.
pub(super) fn read_up_to(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads the bytes of a safetensors file; the error says what is wrong with them.
fn parse(bytes: &[u8], config: &ModelConfig) -> Result<Weights, String> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| format!("not a whole safetensors file ({error})"))?;
    let mut tensors = Tensors(file.tensors().into_iter().collect());
    let weights = Weights::gather(config, |name, shape| tensors.take(name, shape))?;
    match tensors.0.keys().next() {
        Some(name) => Err(format!(
            "tensor \"{name}\" belongs to no model this version knows"
        )),
        None => Ok(weights),
    }
}

impl Weights {
    /// Asks `take` for every tensor of such a model by name and shape.
    pub fn gather<E>(
        config: &ModelConfig,
        mut take: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let (d, f, w) = (config.d_model, config.mlp_width(), config.conv_width);
        let (q, kv) = (config.n_heads * config.head_size(), config.kv_width());
        let mut layers = Vec::with_capacity(config.n_layers());
        for i in 0..config.n_layers() {
            let mut take = |name: &str, shape: &[usize]| take(&format!("layers.{i}.{name}"), shape);
            layers.push(LayerWeights {
                attn_norm: take("attn_norm.weight", &[d])?,
                conv: take("conv.weight", &[d, w])?,
                q: take("q.weight", &[q, d])?,
                k: match config.layers[i].shares_queries() {
                    true => Vec::new(),
                    false => take("k.weight", &[kv, d])?,
                },
                v: take("v.weight", &[kv, d])?,
                o: take("o.weight", &[d, q])?,
                mlp_norm: take("mlp_norm.weight", &[d])?,
                up: take("up.weight", &[f, d])?,
                up_bias: take("up.bias", &[f])?,
                down: take("down.weight", &[d, f])?,
                down_bias: take("down.bias", &[d])?,
            });
        }
        Ok(Self {
            embed: take("embed.weight", &[V, d])?,
            predictor: match config.predictor_width() {
                0 => Vec::new(),
                width => take("predictor.weight", &[d, width])?,
            },
            layers,
            norm: take("norm.weight", &[d])?,
            head: take("head.weight", &[V, d])?,
            head_bias: take("head.bias", &[V])?,
        })
    }

    /// Every tensor with its name.
    pub fn named(&self) -> Vec<(String, &[f32])> {
        let mut all: Vec<(String, &[f32])> = vec![
            ("embed.weight".into(), &self.embed),
            ("norm.weight".into(), &self.norm),
            ("head.weight".into(), &self.head),
            ("head.bias".into(), &self.head_bias),
        ];
        if !self.predictor.is_empty() {
            all.push(("predictor.weight".into(), &self.predictor));
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let own: [(&str, &[f32]); 11] = [
                ("attn_norm.weight", &layer.attn_norm),
                ("conv.weight", &layer.conv),
                ("q.weight", &layer.q),
                ("k.weight", &layer.k),
                ("v.weight", &layer.v),
                ("o.weight", &layer.o),
                ("mlp_norm.weight", &layer.mlp_norm),
                ("up.weight", &layer.up),
                ("up.bias", &layer.up_bias),
                ("down.weight", &layer.down),
                ("down.bias", &layer.down_bias),
            ];
            let own = own.into_iter().filter(|(_, values)| !values.is_empty());
            all.extend(own.map(|(name, values)| (format!("layers.{i}.{name}"), values)));
        }
        all
    }
}

impl LayerWeights {
    /// What makes keys `[G·K, D]`: where the layer has no weights for them, the mean of what makes the
    /// queries that share each.
    pub fn keys(&self, config: &ModelConfig) -> Cow<'_, [f32]> {
        if !self.k.is_empty() {
            return Cow::Borrowed(&self.k);
        }
        let size = config.head_size() * config.d_model;
        let groups = self.q.chunks_exact(self.q.len() / config.n_kv_heads);
        let mean = |heads: &[f32]| {
            let n = heads.len() / size;
            let sum = |i| heads.iter().skip(i).step_by(size).sum::<f32>();
            (0..size).map(|i| sum(i) / n as f32).collect::<Vec<_>>()
        };
        Cow::Owned(groups.flat_map(mean).collect())
    }
}

/// Writes a model's directory, made if it is missing: `config.json` as given, `model.safetensors`
/// in f32. Each file is whole or not there.
pub fn save(dir: &Path, config_json: &str, weights: &Weights) -> Result<(), ModelError> {
    let config = ModelConfig::parse(config_json).map_err(|reason| ModelError::Config {
        path: dir.join("config.json"),
        reason,
    })?;
    let path = dir.join("model.safetensors");
    let bytes = serialise(&config, weights).map_err(|reason| ModelError::Weights {
        path: path.clone(),
        reason,
    })?;
    let failed = |path: &Path| {
        let path = path.into();
        move |source| ModelError::Write { path, source }
    };
    std::fs::create_dir_all(dir).map_err(failed(dir))?;
    files::replace(&path, &bytes).map_err(failed(&path))?;
    let path = dir.join("config.json");
    files::replace(&path, config_json.as_bytes()).map_err(failed(&path))
}

fn serialise(config: &ModelConfig, weights: &Weights) -> Result<Vec<u8>, String> {
    let values: BTreeMap<_, _> = weights.named().into_iter().collect();
    let mut views = Vec::new();
    Weights::gather(config, |name, shape| {
        let values = values.get(name).copied().unwrap_or_default();
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(values))
            .map_err(|error| format!("tensor \"{name}\": {error}"))?;
        views.push((name.to_owned(), view));
        Ok::<_, String>(Vec::new())
    })?;
    safetensors::serialize(views, None).map_err(|error| error.to_string())
}

/// The tensors of a file that have not been taken yet.
struct Tensors<'a>(BTreeMap<String, TensorView<'a>>);

impl Tensors<'_> {
    /// Takes one tensor out as f32, refusing a wrong shape, type or value.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let tensor = self
            .0
            .remove(name)
            .ok_or_else(|| format!("tensor \"{name}\" is missing"))?;
        if tensor.shape() != shape {
            let got = tensor.shape();
            return Err(format!(
                "tensor \"{name}\" is {got:?}, config.json asks for {shape:?}"
            ));
        }
        let values = match tensor.dtype() {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => as_f32(&tensor).map_err(|e| e.to_string())?,
            other => {
                return Err(format!(
                    "tensor \"{name}\" is {other:?}, not F32, F16 or BF16"
                ));
            }
        };
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(format!("tensor \"{name}\" holds {value}")),
            None => Ok(values),
        }
    }
}

fn as_f32(tensor: &TensorView<'_>) -> candle_core::Result<Vec<f32>> {
    tensor
        .load(&candle_core::Device::Cpu)?
        .to_dtype(candle_core::DType::F32)?
        .flatten_all()?
        .to_vec1()
}
