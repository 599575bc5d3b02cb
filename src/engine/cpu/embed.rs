//! How a code enters the residual stream: its row of the table, and what the predictor expects
//! after it.

use super::weights::PackedWeights;
use crate::compute::{Activations, Ops, lanewise};
use crate::predictor::{Predictor, WAVES, waves};

/// Room for what the matrix of expectations takes in and gives out.
#[derive(Debug)]
pub(super) struct Expected {
    /// `[predictor_width]`
    waves: Vec<f32>,
    quantised: Activations,
    /// [rows, D]
    out: Vec<f32>,
}

impl Expected {
    /// Room for `n_rows` positions.
    pub fn new(weights: &PackedWeights, n_rows: usize) -> Self {
        let config = &weights.model.config;
        let width = config.predictor_width();
        let n_out = if width > 0 {
            n_rows * config.d_model
        } else {
            0
        };
        Self {
            waves: vec![0.0; width],
            quantised: Activations::new(n_rows, width),
            out: vec![0.0; n_out],
        }
    }

    /// A lane's predictor takes in a code; what it expects afterwards goes to row `row`.
    #[inline(always)]
    pub fn hear<O: Ops>(&mut self, row: usize, predictor: &mut Predictor, code: u8) {
        predictor.hear::<O::F>(code);
        let rows = self.waves.as_chunks_mut::<WAVES>().0;
        for (out, place) in rows.iter_mut().zip(predictor.places()) {
            waves::<O::F>(*place, out);
        }
        let (bytes, scale) = self.quantised.row_mut(row);
        *scale = lanewise::quantize_range::<O::F>(&self.waves, bytes);
    }

    /// `x += predictor · waves` for as many rows as `x` [rows, D] has.
    #[inline(always)]
    pub fn add_to<O: Ops>(&mut self, ops: O, weights: &PackedWeights, x: &mut [f32]) {
        if let Some(matrix) = &weights.predictor {
            let out = &mut self.out[..x.len()];
            ops.matmul(&matrix.panels(), &self.quantised, out);
            lanewise::add::<O::F>(out, x);
        }
    }
}

/// The code's row of the table.
#[inline(always)]
pub(super) fn row(weights: &PackedWeights, code: u8) -> &[f32] {
    let d = weights.model.config.d_model;
    let code = usize::from(code);
    &weights.model.weights.embed[code * d..(code + 1) * d]
}
