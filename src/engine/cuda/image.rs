//! A model's weights as `kernels/decode.cu` holds them: for each block of a cluster its rows of
//! every matrix, quantised as by the CPU engine, and all norms and taps.

use super::plan::{BLOCKS, tiles};
use crate::compute::{Plain, lanewise};
use crate::model::{LayerWeights, Model};

/// `[BLOCKS][image_bytes]`
pub fn of(model: &Model) -> Vec<u8> {
    let (config, weights) = (&model.config, &model.weights);
    let (d, f) = (config.d_model, config.mlp_width());
    let layers = weights.layers.iter().map(|layer| {
        let qkv = [&layer.q[..], &layer.k, &layer.v].concat();
        [
            Matrix::new(&qkv, d, &[]),
            Matrix::new(&layer.o, d, &[]),
            Matrix::new(&layer.up, d, &layer.up_bias),
            Matrix::new(&layer.down, f, &layer.down_bias),
        ]
    });
    let layers: Vec<_> = layers.collect();
    let head = Matrix::new(&weights.head, d, &weights.head_bias);
    let expected = match config.predictor_width() {
        0 => None,
        width => Some(Matrix::new(&weights.predictor, width, &[])),
    };
    let mut image = Vec::new();
    for rank in 0..BLOCKS {
        for (matrices, layer) in layers.iter().zip(&weights.layers) {
            matrices.iter().for_each(|m| m.put(rank, &mut image));
            put_floats(&layer.attn_norm, &mut image);
            put_floats(&layer.mlp_norm, &mut image);
            put_floats(&taps(layer, d), &mut image);
        }
        head.put(rank, &mut image);
        put_floats(&weights.norm, &mut image);
        if let Some(expected) = &expected {
            expected.put(rank, &mut image);
        }
    }
    image
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

    /// The tiles of eight rows that fall to a block, then what belongs to their rows; zeros where
    /// there are no rows.
    fn put(&self, rank: usize, image: &mut Vec<u8>) {
        let most = tiles(self.scales.len());
        let rows = |tile: usize| (8 * (rank * most + tile)..).take(8);
        for tile in 0..most {
            for column in (0..self.n_in).step_by(32) {
                for row in rows(tile) {
                    let start = row * self.n_in + column;
                    match self.bytes.get(start..start + 32) {
                        Some(bytes) => image.extend(bytes.iter().map(|byte| *byte as u8)),
                        None => image.extend([0; 32]),
                    }
                }
            }
        }
        for tile in 0..most {
            let of = |from: &[f32], row: usize| from.get(row).copied().unwrap_or(0.0);
            rows(tile).for_each(|row| image.extend(of(&self.scales, row).to_le_bytes()));
            rows(tile).for_each(|row| image.extend(self.sum(row).to_le_bytes()));
            rows(tile).for_each(|row| image.extend(of(&self.bias, row).to_le_bytes()));
        }
    }

    /// The sum of a row's bytes: what the zero of the activations counts.
    fn sum(&self, row: usize) -> i32 {
        let row = self.bytes.get(row * self.n_in..(row + 1) * self.n_in);
        row.map_or(0, |row| row.iter().map(|byte| i32::from(*byte)).sum())
    }
}
