//! A model's weights as `kernels/decode.cu` and `kernels/prefill.cu` take them in: all norms and taps, then every matrix,
//! quantised as by the CPU engine, in the order of a step.

use super::plan::TILE_ROWS;
use crate::compute::{Plain, lanewise};
use crate::model::{LayerWeights, Model};

/// The bytes of `Plan::image`.
pub fn of(model: &Model) -> Vec<u8> {
    let d = model.config.d_model;
    let mut image = Vec::new();
    for layer in &model.weights.layers {
        put_floats(&layer.attn_norm, &mut image);
        put_floats(&layer.mlp_norm, &mut image);
        put_floats(&taps(layer, d), &mut image);
    }
    put_floats(&model.weights.norm, &mut image);
    matrices(model).iter().for_each(|m| m.put(&mut image));
    image
}

/// All matrices, in the order in which a step wants them.
fn matrices(model: &Model) -> Vec<Matrix> {
    let (config, weights) = (&model.config, &model.weights);
    let (d, f) = (config.d_model, config.mlp_width());
    let mut matrices = Vec::new();
    if config.predictor_width() > 0 {
        matrices.push(Matrix::new(
            &weights.predictor,
            config.predictor_width(),
            &[],
        ));
    }
    for layer in &weights.layers {
        let qkv = [&layer.q[..], &layer.k, &layer.v].concat();
        matrices.extend([
            Matrix::new(&qkv, d, &[]),
            Matrix::new(&layer.o, d, &[]),
            Matrix::new(&layer.up, d, &layer.up_bias),
            Matrix::new(&layer.down, f, &layer.down_bias),
        ]);
    }
    matrices.push(Matrix::new(&weights.head, d, &weights.head_bias));
    matrices
}

/// [W, D], the present tap first.
fn taps(layer: &LayerWeights, d: usize) -> Vec<f32> {
    let w = layer.conv.len() / d;
    let tap = |i: usize| layer.conv[i % d * w + (w - 1 - i / d)];
    (0..w * d).map(tap).collect()
}

/// The bytes of some floats.
pub fn put_floats(floats: &[f32], out: &mut Vec<u8>) {
    out.extend(floats.iter().flat_map(|x| x.to_le_bytes()));
}

/// An int8 matrix with a scale per row, and a bias.
struct Matrix {
    n_in: usize,
    bytes: Vec<i8>,
    scales: Vec<f32>,
    bias: Vec<f32>,
}

impl Matrix {
    fn new(weights: &[f32], n_in: usize, bias: &[f32]) -> Self {
        let mut bytes = vec![0; weights.len()];
        let rows = weights.chunks_exact(n_in).zip(bytes.chunks_exact_mut(n_in));
        let scales: Vec<f32> = rows
            .map(|(row, bytes)| lanewise::quantize::<Plain>(row, bytes))
            .collect();
        let mut bias = bias.to_vec();
        bias.resize(scales.len(), 0.0);
        Self {
            n_in,
            bytes,
            scales,
            bias,
        }
    }

    /// Its tiles, each with what belongs to its rows.
    fn put(&self, image: &mut Vec<u8>) {
        for first in (0..self.scales.len()).step_by(TILE_ROWS) {
            for column in (0..self.n_in).step_by(32) {
                (0..32).for_each(|thread| self.put_share(first, column, thread, image));
            }
            let rows = first..first + TILE_ROWS;
            let scales = self.scales[rows.clone()].iter().map(|x| x.to_le_bytes());
            let sums = rows.clone().map(|row| self.sum(row).to_le_bytes());
            let biases = self.bias[rows].iter().map(|x| x.to_le_bytes());
            image.extend(scales.chain(sums).chain(biases).flatten());
        }
    }

    /// What a thread of a warp multiplies of 32 columns of a tile. Thread 4g + t has eight columns of
    /// the rows 2g and 2g + 1, four of either in turn.
    fn put_share(&self, first: usize, column: usize, thread: usize, image: &mut Vec<u8>) {
        let (g, t) = (thread / 4, thread % 4);
        for half in 0..2 {
            for row in [first + 2 * g, first + 2 * g + 1] {
                let start = row * self.n_in + column + 8 * t + 4 * half;
                let bytes = self.bytes[start..start + 4].iter();
                image.extend(bytes.map(|byte| *byte as u8));
            }
        }
    }

    /// The sum of a row's bytes: what the zero of the activations counts.
    fn sum(&self, row: usize) -> i32 {
        let row = &self.bytes[row * self.n_in..(row + 1) * self.n_in];
        row.iter().map(|byte| i32::from(*byte)).sum()
    }
}
