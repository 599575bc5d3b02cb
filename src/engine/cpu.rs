//! The CPU engine: int8 weights shared by all lanes, int8 caches per lane, one step of a batch of
//! lanes at a time, generic over the instruction set.
//!
//! After construction nothing allocates. A step costs the same at hour 100 as at second 5: every
//! layer reads a bounded run of slots and overwrites one.

mod attention;

use std::sync::Arc;

use attention::{Attention, Place};

use super::{Decoder, Turn, check_turns, draw, noise};
use crate::compute::{Activations, LayerCache, Matrix, Ops};
use crate::model::{Model, ModelConfig, Pattern, Rotary, V};
use crate::mulaw;

/// The engine for instruction set `O`.
#[derive(Debug)]
pub struct CpuDecoder<O> {
    ops: O,
    weights: PackedWeights,
    lanes: Vec<Lane>,
    scratch: Scratch,
}

/// A model packed for [`Ops`]; immutable.
#[derive(Debug)]
struct PackedWeights {
    model: Arc<Model>,
    rotary: Rotary,
    layers: Vec<PackedLayer>,
    head: Matrix,
}

#[derive(Debug)]
struct PackedLayer {
    /// [(H + 2G)·K, D]: queries, keys, values.
    qkv: Matrix,
    o: Matrix,
    up: Matrix,
    down: Matrix,
    /// [W, D], the present tap first.
    taps: Vec<f32>,
}

/// One stream's state.
#[derive(Debug)]
struct Lane {
    position: u64,
    /// The code drawn last: the next input.
    last: u8,
    caches: Vec<LayerCache>,
    /// [L][W, D]: the normed inputs of the last `W` positions, position mod `W`.
    taps: Vec<Vec<f32>>,
}

/// The lanes of one step.
struct Batch<'a> {
    active: &'a [usize],
    lanes: &'a mut [Lane],
}

/// What a step computes on its way, for every lane of the batch in turn.
#[derive(Debug)]
struct Scratch {
    /// [B, D]: the residual stream.
    x: Vec<f32>,
    /// [B, (H + 2G)·K]
    qkv: Vec<f32>,
    /// [B, F]
    hidden: Vec<f32>,
    /// [B, D]: what a matrix gives back to the residual stream.
    delta: Vec<f32>,
    /// [B, V]
    logits: Vec<f32>,
    /// Quantised inputs of the matrices, D or H·K wide.
    narrow: Activations,
    /// Quantised inputs of `down`, F wide.
    wide: Activations,
    /// `[D]`, one lane's at a time.
    normed: Vec<f32>,
    convolved: Vec<f32>,
    attention: Attention,
    /// The lanes of the batch.
    active: Vec<usize>,
}

impl<O: Ops> CpuDecoder<O> {
    /// An engine with `n_lanes` lanes at the start of their streams.
    pub fn new(ops: O, model: Arc<Model>, n_lanes: usize) -> Self {
        let lanes = (0..n_lanes).map(|_| Lane::new(&model.config)).collect();
        let scratch = Scratch::new(&model.config, n_lanes);
        Self {
            ops,
            weights: PackedWeights::new(model),
            lanes,
            scratch,
        }
    }
}

impl<O: Ops> CpuDecoder<O> {
    /// Takes in the last code of every lane in `active`, each at its own position. With `heads`,
    /// leaves the logits over the next code in the scratch, in the order of `active`.
    fn step(&mut self, active: &[usize], heads: bool) {
        let Self {
            ops,
            weights,
            lanes,
            scratch,
        } = self;
        let (model, d) = (&weights.model, weights.model.config.d_model);
        for (b, lane) in active.iter().enumerate() {
            let code = usize::from(lanes[*lane].last);
            let embedding = &model.weights.embed[code * d..(code + 1) * d];
            scratch.x[b * d..(b + 1) * d].copy_from_slice(embedding);
        }
        for layer in 0..weights.layers.len() {
            let mut batch = Batch { active, lanes };
            attend(*ops, weights, layer, &mut batch, scratch);
            mlp(*ops, weights, layer, active.len(), scratch);
        }
        if heads {
            unembed(*ops, weights, active.len(), scratch);
        }
        for lane in active {
            lanes[*lane].position += 1;
        }
    }
}

/// `x += o · attention(norm(x))` for every lane.
fn attend<O: Ops>(
    ops: O,
    weights: &PackedWeights,
    layer: usize,
    batch: &mut Batch<'_>,
    scratch: &mut Scratch,
) {
    let (config, packed) = (&weights.model.config, &weights.layers[layer]);
    let (d, n) = (config.d_model, batch.active.len());
    let gain = &weights.model.weights.layers[layer].attn_norm;
    for (b, lane) in batch.active.iter().enumerate() {
        let x = &scratch.x[b * d..(b + 1) * d];
        ops.rms_norm(x, gain, config.norm_eps, &mut scratch.normed);
        let lane = &mut batch.lanes[*lane];
        convolve(
            ops,
            &mut lane.taps[layer],
            lane.position,
            &packed.taps,
            scratch,
        );
        let (bytes, scale) = scratch.narrow.row_mut(b);
        *scale = ops.quantize_range(&scratch.convolved, bytes);
    }
    let qkv = &mut scratch.qkv[..n * packed.qkv.n_out()];
    ops.matmul(&packed.qkv, &scratch.narrow, qkv);
    for (b, qkv) in qkv.chunks_exact_mut(packed.qkv.n_out()).enumerate() {
        let lane = &mut batch.lanes[batch.active[b]];
        let place = Place {
            config,
            pattern: config.layers[layer].as_ref(),
            rotary: &weights.rotary,
            position: lane.position,
        };
        scratch
            .attention
            .run(ops, &place, &mut lane.caches[layer], qkv);
        let (bytes, scale) = scratch.narrow.row_mut(b);
        *scale = ops.quantize_range(&qkv[..d], bytes);
    }
    ops.matmul(&packed.o, &scratch.narrow, &mut scratch.delta[..n * d]);
    ops.add(&scratch.delta[..n * d], &mut scratch.x[..n * d]);
}

/// Keeps `normed` [D] among the last `W` and writes the causal depthwise convolution ending there.
fn convolve<O: Ops>(ops: O, kept: &mut [f32], position: u64, taps: &[f32], scratch: &mut Scratch) {
    let Scratch {
        normed, convolved, ..
    } = scratch;
    let (d, w) = (normed.len(), taps.len() / normed.len());
    let now = (position % w as u64) as usize;
    kept[now * d..(now + 1) * d].copy_from_slice(normed);
    convolved.fill(0.0);
    for (j, tap) in taps.chunks_exact(d).enumerate() {
        let then = (now + w - j) % w;
        ops.multiply_add(tap, &kept[then * d..(then + 1) * d], convolved);
    }
}

/// `x += down · gelu(up · norm(x))` for every lane.
fn mlp<O: Ops>(ops: O, weights: &PackedWeights, layer: usize, n: usize, scratch: &mut Scratch) {
    let (config, packed) = (&weights.model.config, &weights.layers[layer]);
    let (d, f) = (config.d_model, config.mlp_width());
    scratch.norm(
        ops,
        &weights.model.weights.layers[layer].mlp_norm,
        config,
        n,
    );
    ops.matmul(&packed.up, &scratch.narrow, &mut scratch.hidden[..n * f]);
    for (b, hidden) in scratch.hidden[..n * f].chunks_exact_mut(f).enumerate() {
        ops.gelu(hidden);
        let (bytes, scale) = scratch.wide.row_mut(b);
        *scale = ops.quantize_range(hidden, bytes);
    }
    ops.matmul(&packed.down, &scratch.wide, &mut scratch.delta[..n * d]);
    ops.add(&scratch.delta[..n * d], &mut scratch.x[..n * d]);
}

/// The logits of every lane.
fn unembed<O: Ops>(ops: O, weights: &PackedWeights, n: usize, scratch: &mut Scratch) {
    scratch.norm(ops, &weights.model.weights.norm, &weights.model.config, n);
    ops.matmul(&weights.head, &scratch.narrow, &mut scratch.logits[..n * V]);
}

impl Scratch {
    fn new(config: &ModelConfig, n_lanes: usize) -> Self {
        let d = config.d_model;
        let qkv_width = d + 2 * config.kv_width();
        Self {
            x: vec![0.0; n_lanes * d],
            qkv: vec![0.0; n_lanes * qkv_width],
            hidden: vec![0.0; n_lanes * config.mlp_width()],
            delta: vec![0.0; n_lanes * d],
            logits: vec![0.0; n_lanes * V],
            narrow: Activations::new(n_lanes, d),
            wide: Activations::new(n_lanes, config.mlp_width()),
            normed: vec![0.0; d],
            convolved: vec![0.0; d],
            attention: Attention::new(config),
            active: Vec::with_capacity(n_lanes),
        }
    }

    /// `narrow = quantised(norm(x))` for the first `n` lanes of the batch.
    fn norm<O: Ops>(&mut self, ops: O, gain: &[f32], config: &ModelConfig, n: usize) {
        for (b, x) in self.x.chunks_exact(config.d_model).take(n).enumerate() {
            ops.rms_norm(x, gain, config.norm_eps, &mut self.normed);
            let (bytes, scale) = self.narrow.row_mut(b);
            *scale = ops.quantize_range(&self.normed, bytes);
        }
    }
}

impl PackedWeights {
    fn new(model: Arc<Model>) -> Self {
        let (config, weights) = (&model.config, &model.weights);
        let (d, f, w) = (config.d_model, config.mlp_width(), config.conv_width);
        let layers = weights.layers.iter().map(|layer| PackedLayer {
            qkv: Matrix::pack(&[&layer.q[..], &layer.k, &layer.v].concat(), d, &[]),
            o: Matrix::pack(&layer.o, d, &[]),
            up: Matrix::pack(&layer.up, d, &layer.up_bias),
            down: Matrix::pack(&layer.down, f, &layer.down_bias),
            taps: (0..w * d)
                .map(|i| layer.conv[i % d * w + (w - 1 - i / d)])
                .collect(),
        });
        let rotary = Rotary::new(config.rope_period, &config.rope_harmonics);
        let head = Matrix::pack(&weights.head, d, &weights.head_bias);
        Self {
            layers: layers.collect(),
            rotary,
            head,
            model,
        }
    }
}

impl Lane {
    fn new(config: &ModelConfig) -> Self {
        let cache = |pattern: &Arc<dyn Pattern>| {
            LayerCache::new(pattern.n_slots(), config.n_kv_heads, config.head_size())
        };
        Self {
            position: 0,
            last: mulaw::SILENCE,
            caches: config.layers.iter().map(cache).collect(),
            taps: vec![vec![0.0; config.conv_width * config.d_model]; config.n_layers()],
        }
    }
}

impl<O: Ops> Decoder for CpuDecoder<O> {
    fn n_lanes(&self) -> usize {
        self.lanes.len()
    }

    fn open(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane];
        (lane.position, lane.last) = (0, mulaw::SILENCE);
        // Old keys and values stay: no run shows a slot before it is written again.
        lane.taps.iter_mut().for_each(|taps| taps.fill(0.0));
    }

    fn position(&self, lane: usize) -> u64 {
        self.lanes[lane].position
    }

    fn prime(&mut self, lane: usize, codes: &[u8]) {
        for code in codes {
            self.step(&[lane], false);
            self.lanes[lane].last = *code;
        }
    }

    fn score(&mut self, lane: usize, codes: &[u8], see: &mut dyn FnMut(usize, &[f32])) {
        for (i, code) in codes.iter().enumerate() {
            self.step(&[lane], true);
            see(i, &self.scratch.logits[..V]);
            self.lanes[lane].last = *code;
        }
    }

    fn generate(&mut self, turns: &mut [Turn<'_>]) {
        let n = check_turns(turns);
        let mut active = std::mem::take(&mut self.scratch.active);
        active.clear();
        active.extend(turns.iter().map(|turn| turn.lane));
        for at in 0..n {
            self.step(&active, true);
            for (turn, logits) in turns.iter_mut().zip(self.scratch.logits.chunks_exact(V)) {
                let code = draw(logits, &turn.draw, turn.uniforms[at]);
                turn.codes[at] = code;
                self.lanes[turn.lane].last = code;
            }
        }
        self.scratch.active = active;
    }

    fn age(&mut self, lane: usize, position: u64) {
        let (config, lane) = (&self.weights.model.config, &mut self.lanes[lane]);
        lane.position = position;
        let k = config.head_size();
        let (mut bytes, mut noise) = (vec![0; k], noise());
        let mut draw = vec![0.0; k];
        for (cache, pattern) in lane.caches.iter_mut().zip(&config.layers) {
            for (slot, group) in
                (0..pattern.n_slots()).flat_map(|s| (0..config.n_kv_heads).map(move |g| (s, g)))
            {
                draw.iter_mut()
                    .zip(&mut noise)
                    .for_each(|(x, noise)| *x = noise);
                let scale = self.ops.quantize(&draw, &mut bytes);
                cache.write(slot, group, (&bytes, scale), (&bytes, scale));
            }
        }
    }

    fn isa(&self) -> &'static str {
        O::NAME
    }
}
