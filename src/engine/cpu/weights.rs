//! A model packed for the CPU's instruction sets; immutable, shared by all threads.

use std::sync::Arc;

use crate::compute::Matrix;
use crate::model::pattern::Hasher;
use crate::model::{Head, LayerWeights, Model, Placed, Rotary};

/// Everything that a step reads and no lane owns.
#[derive(Debug)]
pub(super) struct PackedWeights {
    pub model: Arc<Model>,
    pub rotary: Rotary,
    /// [D, predictor_width]
    pub predictor: Option<Matrix>,
    pub layers: Vec<PackedLayer>,
    pub head: Matrix,
}

/// Who sees whom in one KV head, ready to be asked.
#[derive(Debug)]
pub(super) enum Sight {
    Placed(Arc<dyn Placed>),
    Hashed(Hasher),
}

#[derive(Debug)]
pub(super) struct PackedLayer {
    /// `[G]`
    pub sights: Vec<Sight>,
    /// For each KV head, [(H/G + 2)·K, D]: the queries that share it, its key, its value.
    pub qkv: Vec<Matrix>,
    pub o: Matrix,
    pub up: Matrix,
    pub down: Matrix,
    /// [W, D], the present tap first.
    pub taps: Vec<f32>,
}

impl PackedWeights {
    pub fn new(model: Arc<Model>) -> Self {
        let (config, weights) = (&model.config, &model.weights);
        let (d, f, w) = (config.d_model, config.mlp_width(), config.conv_width);
        let layers = weights.layers.iter().zip(&config.layers);
        let layers = layers.map(|(layer, patterns)| PackedLayer {
            sights: patterns
                .heads(config.n_kv_heads)
                .map(|head| Sight::of(head, config.head_size()))
                .collect(),
            qkv: (0..config.n_kv_heads)
                .map(|group| Matrix::pack(&rows_of_group(layer, group, &model), d, &[]))
                .collect(),
            o: Matrix::pack(&layer.o, d, &[]),
            up: Matrix::pack(&layer.up, d, &layer.up_bias),
            down: Matrix::pack(&layer.down, f, &layer.down_bias),
            taps: (0..w * d)
                .map(|i| layer.conv[i % d * w + (w - 1 - i / d)])
                .collect(),
        });
        Self {
            predictor: match config.predictor_width() {
                0 => None,
                width => Some(Matrix::pack(&weights.predictor, width, &[])),
            },
            layers: layers.collect(),
            rotary: Rotary::new(config.rope_period, &config.rope_harmonics),
            head: Matrix::pack(&weights.head, d, &weights.head_bias),
            model,
        }
    }
}

impl Sight {
    fn of(head: &Head, head_size: usize) -> Self {
        match head {
            Head::Placed(pattern) => Self::Placed(pattern.clone()),
            Head::Hashed(of) => Self::Hashed(Hasher::new(of, head_size)),
        }
    }
}

/// The rows of one KV head: its queries, its key, its value.
fn rows_of_group(layer: &LayerWeights, group: usize, model: &Model) -> Vec<f32> {
    let d = model.config.d_model;
    let part = |matrix: &[f32]| {
        let n = matrix.len() / model.config.n_kv_heads;
        matrix[group * n..(group + 1) * n].to_vec()
    };
    debug_assert_eq!(layer.q.len(), d * d);
    let keys = layer.keys(&model.config);
    [part(&layer.q), part(&keys), part(&layer.v)].concat()
}
