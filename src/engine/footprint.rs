//! What a step of the CPU engine must read and multiply, counted from the model alone: the other
//! side of the floor that `longwave bench` measures.

use crate::compute::HeadCache;
use crate::model::{ModelConfig, V};

/// Bytes and multiplications of the int8 engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Weights that a step reads once, however many lanes share it.
    pub weight_bytes: usize,
    /// Keys and values that a step reads for each lane, once its caches are full; and the taps of its
    /// predictor with what they see.
    pub kv_bytes: usize,
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
        let matrices = [(d + 2 * width, d), (d, d), (f, d), (d, f)];
        let weights: usize = matrices.iter().map(|(rows, columns)| rows * columns).sum();
        // A row's scale, sum and bias; a layer's norms and taps.
        let rows: usize = matrices.iter().map(|(rows, _)| 12 * rows).sum();
        let floats = 4 * d * (2 + config.conv_width);
        let (n_layers, head) = (config.n_layers(), V * d);
        let expected = d * config.predictor_width();
        let taps: usize = config.predictor.iter().map(|filter| filter.taps).sum();
        let f32s = size_of::<f32>();
        let cache = |slots| config.n_kv_heads * HeadCache::bytes_for(slots, config.head_size());
        let over_layers = |of: &dyn Fn(usize, usize) -> usize| {
            let layers = config.layers.iter();
            layers
                .map(|p| of(p.n_slots(), p.max_visible()))
                .sum::<usize>()
        };
        Self {
            weight_bytes: n_layers * (weights + rows + floats)
                + head
                + 12 * V
                + expected
                + 12 * d.min(expected),
            kv_bytes: over_layers(&|_, visible| cache(visible)) + 2 * taps * f32s,
            lane_bytes: over_layers(&|slots, _| cache(slots) + config.conv_width * d * f32s)
                + 3 * taps * f32s,
            weight_macs: n_layers * weights + head + expected,
            kv_macs: over_layers(&|_, visible| 2 * visible * d),
        }
    }
}
