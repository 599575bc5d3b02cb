//! What a step of the CPU engine must read and multiply, counted from the model alone: the other
//! side of the floor that `longwave bench` measures.

use crate::compute::HeadCache;
use crate::model::pattern::Rings;
use crate::model::{Head, ModelConfig, V};

/// Bytes and multiplications of the int8 engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Weights that a step reads once, however many lanes share it.
    pub weight_bytes: usize,
    /// Keys and values that a step reads for each lane, once its caches are full.
    pub kv_bytes: usize,
    /// Taps of its predictor, and what they see, that a step reads for each lane.
    pub predictor_bytes: usize,
    /// State that each lane keeps.
    pub lane_bytes: usize,
    /// Multiplications of weights for each lane.
    pub weight_macs: usize,
    /// Multiplications of keys and values for each lane, its caches full.
    pub kv_macs: usize,
}

impl Footprint {
    /// Of a model in int8.
    pub fn of(config: &ModelConfig) -> Self {
        let (d, f, width) = (config.d_model, config.mlp_width(), config.kv_width());
        let layer = [(d + 2 * width, d), (d, d), (f, d), (d, f)];
        let matrices = std::iter::repeat_n(layer, config.n_layers()).flatten();
        let expected = Some((d, config.predictor_width())).filter(|(_, columns)| *columns > 0);
        let matrices = || matrices.clone().chain([(V, d)]).chain(expected);
        let weight_macs = matrices().map(|(rows, columns)| rows * columns).sum();
        // A row's scale, sum and bias; a layer's norms and taps.
        let rows: usize = matrices().map(|(rows, _)| 12 * rows).sum();
        let floats = 4 * d * (2 + config.conv_width);
        let taps: usize = config.predictor.iter().map(|filter| filter.taps).sum();
        let f32s = size_of::<f32>();
        let cache = |slots| HeadCache::bytes_for(slots, config.head_size());
        let over_heads = |of: &dyn Fn(&Head) -> usize| {
            let layers = config.layers.iter();
            let heads = layers.flat_map(|layer| layer.heads(config.n_kv_heads));
            heads.map(of).sum::<usize>()
        };
        let signs = |head: &Head| match head {
            Head::Placed(_) => 0,
            Head::Hashed(of) => of.n_signs(config.head_size()),
        };
        Self {
            weight_bytes: weight_macs + rows + config.n_layers() * floats + over_heads(&signs),
            kv_bytes: over_heads(&|head| cache(head.max_visible())),
            predictor_bytes: 2 * taps * f32s,
            lane_bytes: over_heads(&|head| cache(head.n_slots()) + Rings::bytes_for(head))
                + config.n_layers() * config.conv_width * d * f32s
                + 3 * taps * f32s,
            weight_macs,
            kv_macs: over_heads(&|head| 2 * head.max_visible() * d / config.n_kv_heads),
        }
    }
}
